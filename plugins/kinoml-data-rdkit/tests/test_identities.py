"""Scaffolds and InChIKeys, and splits by them."""

from __future__ import annotations

from pathlib import Path

import kinoml_data as kd
import pytest
from kinoml_data.errors import FeaturizationError

from kinoml_data_rdkit import InchiKey, MurckoScaffold, chembl_demo


@pytest.mark.parametrize(
    ("smiles", "scaffold", "generic"),
    [
        ("CCO", "", ""),
        ("Cc1ccccc1", "c1ccccc1", "C1CCCCC1"),
        ("O=C1CCCCC1C", "O=C1CCCCC1", "C1CCCCC1"),
        ("c1ccncc1CCC1CC1C", "c1cncc(CCC2CC2)c1", "C1CCC(CCC2CC2)CC1"),
        ("C[C@H]1CC[C@@H](C)N1C(=O)c1ccco1", "O=C(c1ccco1)N1CCCC1", "C1CCC(CC2CCCC2)C1"),
    ],
)
def test_scaffolds_are_those_of_bemis_and_murcko(smiles: str, scaffold: str, generic: str) -> None:
    assert MurckoScaffold().featurize(smiles) == (scaffold,)
    assert MurckoScaffold(generic=True).featurize(smiles) == (generic,)


def test_inchikeys_are_the_same_for_every_smiles_of_a_molecule() -> None:
    assert InchiKey().featurize("CCO") == InchiKey().featurize("OCC") == ("LFQSCWFLJHTTHZ-UHFFFAOYSA-N",)
    one, other = InchiKey(connectivity=True).featurize("C[C@H](N)C(=O)O"), InchiKey().featurize("C[C@@H](N)C(=O)O")
    assert one == ("QNAYBMKLOCPYGJ",) and other[0].startswith(one[0])


def test_a_split_by_scaffold_of_real_molecules_shares_none(tmp_path: Path) -> None:
    data = chembl_demo()
    spec = {
        "X": "fingerprint",
        "y": "activity",
        "meta": ["id"],
        "storage": {"backend": "featurize-on-access", "featurizer": ["morgan-fingerprint", "murcko-scaffold"]},
        "splits": {"folds": 3, "ratios": {"test": 0.2}, "by": "scaffold", "seed": 0},
    }
    dataset = kd.load_dataset(spec, data=data)
    assert dataset.check_splits().shared == () and dataset.spec.meta == ("id", "scaffold")
    assert sum(map(len, dataset.indices.values())) == 1017
    kd.save_dataset(dataset, tmp_path / "copy.npz")
    copy = kd.load_dataset(tmp_path / "copy.npz")
    assert copy.fingerprint() == dataset.fingerprint()
    assert copy.column("scaffold")[:2] == [MurckoScaffold().featurize(s)[0] for s in data["smiles"][:2]]


def test_a_smiles_that_cannot_be_read_names_its_row() -> None:
    storage = {"backend": "featurize-on-access", "featurizer": ["morgan-fingerprint", "inchikey"]}
    spec = {"X": "fingerprint", "meta": ["inchikey"], "storage": storage}
    with pytest.raises(FeaturizationError, match="row 1"):
        kd.load_dataset(spec, data={"smiles": ["CC", "C("]}).column("inchikey")
