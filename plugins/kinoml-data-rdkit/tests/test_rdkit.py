from __future__ import annotations

import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from kinoml_data import Featurizer, errors, load_dataset, registry
from kinoml_data.testing import FeaturizerTests
from pydantic import ValidationError
from rdkit import Chem, RDConfig, rdBase

import kinoml_data_rdkit
from kinoml_data_rdkit import (
    ATOM_FEATURES,
    BOND_FEATURES,
    KINOML_ALPHABET,
    N_ATOM_FEATURES,
    SMILES_ALPHABET,
    InchiKey,
    MolecularGraph,
    MorganFingerprint,
    MurckoScaffold,
    OneHotSmiles,
    RdkitDescriptors,
    chembl_demo,
    smiles_symbols,
)

ALL = (MorganFingerprint(), OneHotSmiles(), MolecularGraph(), RdkitDescriptors(names=("MolWt", "MolLogP")))
VARIANTS = (
    *ALL,
    MorganFingerprint(radius=3, nbits=100),
    MorganFingerprint(nbits=1021, packbits=True),
    OneHotSmiles(canonical=True),
    MolecularGraph(hydrogens=True),
    MolecularGraph(bonds=True),
    OneHotSmiles(alphabet="kinoml"),
)


def described(atoms: np.ndarray[Any, Any]) -> list[str]:
    """The names of the features of each atom."""
    return [" ".join(name for name, bit in zip(ATOM_FEATURES, row, strict=True) if bit) for row in atoms]


def decoded(one_hot: np.ndarray[Any, Any]) -> list[str]:
    return [SMILES_ALPHABET[row] for row in one_hot.argmax(axis=0)]


@pytest.fixture(scope="module")
def demo() -> dict[str, list[Any]]:
    return chembl_demo()


# Morgan fingerprints


def test_fingerprint_of_benzene_has_one_bit_per_kind_of_neighbourhood() -> None:
    (bits,) = MorganFingerprint().featurize("c1ccccc1")
    assert bits.dtype == np.uint8 and bits.shape == (1024,)
    assert set(bits) == {0, 1} and bits.sum() == 3  # all six atoms look alike, at radius 0, 1 and 2
    assert MorganFingerprint(radius=0).featurize("c1ccccc1")[0].sum() == 1


def test_fingerprint_is_of_the_molecule_not_of_its_spelling() -> None:
    (one,), (other,) = (MorganFingerprint().featurize(smiles) for smiles in ("OCC", "C(C)O"))
    assert (one == other).all()


@pytest.mark.parametrize("nbits", [1, 7, 8, 1021, 2048])
def test_a_packed_fingerprint_unpacks_to_the_bits(nbits: int) -> None:
    for smiles in ("CCO", "Clc1cc(ccc1Oc2ccc(cc2)c3ccccc3)S(=O)(=O)Nc4ncns4"):
        (bits,) = MorganFingerprint(nbits=nbits).featurize(smiles)
        featurizer = MorganFingerprint(nbits=nbits, packbits=True)
        (packed,) = featurizer.featurize(smiles)
        assert packed.dtype == np.uint8 and packed.shape == featurizer.outputs["fingerprint"].shape
        assert (np.unpackbits(packed, count=nbits) == bits).all()


def test_fingerprints_share_a_generator_but_no_memory() -> None:
    featurizer = MorganFingerprint()
    (first,), (second,) = featurizer.featurize("CCO"), featurizer.featurize("CCO")
    first[:] = 7
    assert second.max() == 1


# one-hot SMILES


def test_the_alphabet_has_53_different_symbols() -> None:
    assert len(SMILES_ALPHABET) == len(set(SMILES_ALPHABET)) == 53


@pytest.mark.parametrize(
    ("smiles", "symbols"),
    [
        ("CCO", ["C", "C", "O"]),
        ("ClCBr", ["Cl", "C", "Br"]),
        ("[Na+].[Cl-]", ["[", "Na", "+", "]", ".", "[", "Cl", "-", "]"]),
        ("C[C@@H](N)O", ["C", "[", "C", "@@", "H", "]", "(", "N", ")", "O"]),
        ("C[C@H](N)O", ["C", "[", "C", "@", "H", "]", "(", "N", ")", "O"]),
        ("c1cc[se]c1", ["c", "1", "c", "c", "[", "se", "]", "c", "1"]),
        ("CSc1ccccc1", ["C", "S", "c", "1", "c", "c", "c", "c", "c", "1"]),  # no scandium
        ("c1cc[nH]c1", ["c", "1", "c", "c", "[", "n", "H", "]", "c", "1"]),
        ("F/C=C\\F", ["F", "/", "C", "=", "C", "\\", "F"]),
    ],
)
def test_one_hot_of_known_smiles(smiles: str, symbols: list[str]) -> None:
    (one_hot,) = OneHotSmiles().featurize(smiles)
    assert one_hot.dtype == np.uint8 and one_hot.shape == (53, len(symbols))
    assert (one_hot.sum(axis=0) == 1).all() and one_hot.max() == 1
    assert decoded(one_hot) == symbols == smiles_symbols(smiles)


def test_the_option_canonical_encodes_every_spelling_alike() -> None:
    (one,), (other,) = (OneHotSmiles(canonical=True).featurize(smiles) for smiles in ("OCC", "C(C)O"))
    assert "".join(decoded(one)) == "".join(decoded(other)) == "CCO"


@pytest.mark.parametrize(
    ("smiles", "symbol", "position"), [("CC[Sc]", "Sc", 3), ("[Na+].[Hg+2]", "Hg", 7), ("C$C", "$", 1)]
)
def test_a_symbol_outside_the_alphabet_is_named(smiles: str, symbol: str, position: int) -> None:
    with pytest.raises(ValueError) as caught:
        OneHotSmiles().featurize(smiles)
    assert str(caught.value) == f"{symbol!r} at position {position} of {smiles!r} is not in the alphabet"


def test_the_alphabet_of_kinoml_has_its_order() -> None:
    assert len(KINOML_ALPHABET) == len(set(KINOML_ALPHABET)) == 53
    featurizer = OneHotSmiles(alphabet="kinoml")
    (one_hot,) = featurizer.featurize("ClC[C@@H](Br)c1ccccc1")
    rows = one_hot.argmax(axis=0).tolist()
    # KinoML replaces Cl, Br and @@ by L, R and $, the last three symbols of its alphabet.
    kinoml = "BCFHIKNOPSUVWYacegilnosru-=#1234567890.*()/+@:[]%\\LR$"
    assert "".join(kinoml[row] for row in rows) == "LC[C$H](R)c1ccccc1"
    assert featurizer.outputs["one_hot"].shape == (53, None) and one_hot.shape == (53, 18)
    (salt,) = featurizer.featurize("[Na+]")  # an element of two letters is two symbols there
    assert "".join(kinoml[row] for row in salt.argmax(axis=0)) == "[Na+]"


def test_an_alphabet_may_be_any_list_of_symbols() -> None:
    featurizer = OneHotSmiles(alphabet=("C", "Cl", "O", "=", "(=O)"))
    (one_hot,) = featurizer.featurize("CC(=O)Cl")
    assert one_hot.argmax(axis=0).tolist() == [0, 0, 4, 1] and one_hot.shape == (5, 4)
    with pytest.raises(ValueError, match="'N' at position 1 of 'CN' is not in the alphabet"):
        featurizer.featurize("CN")
    for wrong in ((), ("C", "C"), ("C", "")):
        with pytest.raises(ValidationError):
            OneHotSmiles(alphabet=wrong)


# descriptors


def test_descriptors_are_those_of_rdkit_in_their_order() -> None:
    from rdkit.Chem import Descriptors

    molecule = Chem.MolFromSmiles("CC(=O)Oc1ccccc1C(=O)O")
    (values,) = RdkitDescriptors(names=("MolLogP", "MolWt", "TPSA")).featurize("CC(=O)Oc1ccccc1C(=O)O")
    expected = [Descriptors.MolLogP(molecule), Descriptors.MolWt(molecule), Descriptors.TPSA(molecule)]
    assert values.tolist() == expected and values.dtype == np.float64
    assert round(values[1], 2) == 180.16


def test_all_descriptors_are_computed_by_default() -> None:
    featurizer = RdkitDescriptors()
    names = featurizer.descriptor_names
    assert len(names) > 200 and not {"Ipc", "AvgIpc"} & set(names)
    (values,) = featurizer.featurize("CCO")
    assert values.shape == featurizer.outputs["descriptors"].shape == (len(names),)
    assert values[names.index("MolWt")] == pytest.approx(46.07, abs=0.01)


def test_a_descriptor_that_is_no_number_is_an_error_or_nan() -> None:
    featurizer = RdkitDescriptors(missing="nan")
    (values,) = featurizer.featurize("[Pt]")
    undefined = [name for name, value in zip(featurizer.descriptor_names, values, strict=True) if np.isnan(value)]
    assert undefined, "RDKit defines every descriptor of platinum now; take another molecule"
    with pytest.raises(ValueError, match=rf"the descriptor {undefined[0]} of '\[Pt\]' is .*`missing: nan`"):
        RdkitDescriptors(names=(undefined[0],)).featurize("[Pt]")


def test_an_unknown_descriptor_is_refused_with_the_nearest() -> None:
    with pytest.raises(ValidationError, match="did you mean 'MolWt'"):
        RdkitDescriptors(names=("MolWT",))


def test_the_symbols_of_a_smiles_joined_are_the_smiles() -> None:
    for text in ("", "C[", "[Na", "a\nb", "]C[Cl]["):
        assert "".join(smiles_symbols(text)) == text


# molecular graphs


def test_bonds_have_the_same_features_in_both_directions() -> None:
    edge_index, _, bonds = MolecularGraph(bonds=True).featurize("F/C=C/C(=O)Nc1ccccc1")
    assert bonds.dtype == np.uint8 and bonds.shape == (edge_index.shape[1], len(BOND_FEATURES))
    assert (bonds[0::2] == bonds[1::2]).all() and (edge_index[:, 0::2] == edge_index[::-1, 1::2]).all()
    named = {
        tuple(edge): {name for name, bit in zip(BOND_FEATURES, row, strict=True) if bit}
        for edge, row in zip(edge_index.T.tolist(), bonds, strict=True)
    }
    assert named[1, 2] == named[2, 1] == {"type=DOUBLE", "stereo=E", "conjugated=True"}
    assert named[0, 1] == {"type=SINGLE", "stereo=NONE"}
    assert named[6, 7] == {"type=AROMATIC", "stereo=NONE", "conjugated=True", "ring=True"}
    groups = [[i for i, name in enumerate(BOND_FEATURES) if name.startswith(group)] for group in ("type=", "stereo=")]
    assert all((bonds[:, columns].sum(axis=1) == 1).all() for columns in groups)


def test_a_molecule_without_bonds_has_no_features_of_bonds() -> None:
    *_, bonds = MolecularGraph(bonds=True).featurize("[Na+]")
    assert bonds.shape == (0, len(BOND_FEATURES))


def test_graph_of_benzene() -> None:
    edge_index, atoms = MolecularGraph().featurize("c1ccccc1")
    assert edge_index.dtype == np.int64 and edge_index.shape == (2, 12)
    assert (edge_index[:, 0::2] == edge_index[::-1, 1::2]).all()  # there and back
    assert (np.bincount(edge_index[0]) == 2).all()
    assert atoms.dtype == np.uint8 and atoms.shape == (6, N_ATOM_FEATURES)
    carbon = "element=C degree=2 charge=0 hydrogens=1 hybridization=SP2 aromatic=True ring=True"
    assert described(atoms) == [carbon] * 6


def test_graph_of_ethanol() -> None:
    edge_index, atoms = MolecularGraph().featurize("CCO")
    assert edge_index.tolist() == [[0, 1, 1, 2], [1, 0, 2, 1]]
    assert described(atoms) == [
        "element=C degree=1 charge=0 hydrogens=3 hybridization=SP3",
        "element=C degree=2 charge=0 hydrogens=2 hybridization=SP3",
        "element=O degree=1 charge=0 hydrogens=1 hybridization=SP3",
    ]


def test_hydrogens_become_atoms_and_the_others_keep_their_features_but_the_degree() -> None:
    edge_index, atoms = MolecularGraph(hydrogens=True).featurize("CCO")
    assert edge_index.shape == (2, 16) and atoms.shape == (9, N_ATOM_FEATURES)
    assert described(atoms)[0] == "element=C degree=4 charge=0 hydrogens=3 hybridization=SP3"
    assert all(text.startswith("element=H degree=1 charge=0 hydrogens=0") for text in described(atoms)[3:])


def test_an_atom_alone_has_no_edges() -> None:
    edge_index, atoms = MolecularGraph().featurize("[Na+]")
    assert edge_index.dtype == np.int64 and edge_index.shape == (2, 0)
    assert described(atoms)[0].startswith("element=other degree=0 charge=1 hydrogens=0")


@pytest.mark.parametrize("smiles", ["[Al+3]", "F[U](F)(F)(F)(F)(F)(F)F", "*C", "[PH5]", "FS(F)(F)(F)(F)F", "[2H]C"])
def test_every_group_of_atom_features_has_a_place_for_rare_values(smiles: str) -> None:
    _, atoms = MolecularGraph().featurize(smiles)
    for group in ("element", "degree", "charge", "hydrogens", "hybridization"):
        columns = [i for i, name in enumerate(ATOM_FEATURES) if name.startswith(f"{group}=")]
        assert (atoms[:, columns].sum(axis=1) == 1).all()


def test_the_documentation_says_how_many_atom_features_there_are() -> None:
    assert N_ATOM_FEATURES == len(set(ATOM_FEATURES)) == 42
    assert "(N, 42)" in str(MolecularGraph.__doc__)


# all of them


# Large enough for products of matrices in several threads.
PEPTIDE = "NCC(=O)N[C@@H](Cc1c[nH]c2ccccc12)C(=O)" + "N[C@@H](CCCNC(=N)N)C(=O)N[C@@H](CS)C(=O)" * 14 + "O"


class TestFeaturizers(FeaturizerTests):
    featurizers = (
        *VARIANTS,
        RdkitDescriptors(missing="nan"),
        InchiKey(),
        InchiKey(connectivity=True),
        MurckoScaffold(),
        MurckoScaffold(generic=True),
    )
    data = {"smiles": ["CC(=O)Oc1ccccc1C(=O)O", "C[C@H](N)C(=O)O", "F/C=C/Br", "[Na+].[Cl-]", PEPTIDE]}


@pytest.mark.parametrize("featurizer", VARIANTS, ids=repr)
def test_every_demo_molecule_comes_out_as_declared(featurizer: Featurizer, demo: dict[str, list[Any]]) -> None:
    declared = list(featurizer.outputs.values())
    for smiles in demo["smiles"]:
        arrays = featurizer.featurize(smiles)
        for array, column in zip(arrays, declared, strict=True):
            assert array.dtype == column.numpy and array.ndim == len(column.shape), smiles
            assert all(axis in (None, length) for axis, length in zip(column.shape, array.shape, strict=True)), smiles
            assert array.flags.c_contiguous and array.flags.writeable, smiles


def test_every_demo_molecule_round_trips_and_counts_as_rdkit_counts(demo: dict[str, list[Any]]) -> None:
    for smiles in demo["smiles"]:
        (one_hot,) = OneHotSmiles().featurize(smiles)
        assert (one_hot.sum(axis=0) == 1).all()
        assert "".join(decoded(one_hot)) == smiles
        assert one_hot.shape[1] == len(smiles) - sum(map(smiles.count, ("Cl", "Br", "@@")))
        edge_index, atoms = MolecularGraph().featurize(smiles)
        molecule = Chem.MolFromSmiles(smiles)
        assert atoms.shape[0] == molecule.GetNumAtoms()
        assert edge_index.shape[1] == 2 * molecule.GetNumBonds()
        assert edge_index.min() == 0 and edge_index.max() == len(atoms) - 1


@pytest.mark.parametrize("featurizer", ALL, ids=lambda f: f.name)
@pytest.mark.parametrize(
    ("smiles", "reason"),
    [
        ("", "is empty"),
        (" ", "blanks"),
        ("CCO ethanol", "blanks"),
        ("CCO\n", "blanks"),
        ("CC\u00d6", "ASCII"),  # RDKit reads this as CC
        ("C1CC", "syntax"),
        ("C[N](C)(C)(C)C", "valence"),
        ("c1cccc1", "kekulize"),
    ],
)
def test_an_invalid_smiles_is_an_error_with_its_text_and_without_a_log(
    featurizer: Featurizer, smiles: str, reason: str, capfd: pytest.CaptureFixture[str]
) -> None:
    before = rdBase.LogStatus()
    with pytest.raises(ValueError, match=reason) as caught:
        featurizer.featurize(smiles)
    assert repr(smiles) in str(caught.value)
    assert rdBase.LogStatus() == before
    assert capfd.readouterr().err == ""


@pytest.mark.parametrize("featurizer", ALL, ids=lambda f: f.name)
@pytest.mark.parametrize("value", [None, 7, b"CCO", ["CCO"]])
def test_a_smiles_that_is_not_text_is_a_type_error(featurizer: Featurizer, value: Any) -> None:
    with pytest.raises(TypeError):
        featurizer.featurize(value)


def test_rdkit_logs_as_before_once_a_molecule_is_refused(capfd: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(ValueError):
        MorganFingerprint().featurize("C1CC")
    assert Chem.MolFromSmiles("C1CC") is None
    assert "unclosed ring" in capfd.readouterr().err


@pytest.mark.parametrize(
    ("cls", "options"),
    [
        (MorganFingerprint, {"bits": 1024}),
        (MorganFingerprint, {"nbits": 0}),
        (MorganFingerprint, {"nbits": "1024"}),
        (MorganFingerprint, {"nbits": True}),
        (MorganFingerprint, {"radius": -1}),
        (MorganFingerprint, {"packbits": 1}),
        (OneHotSmiles, {"canonical": "yes"}),
        (OneHotSmiles, {"length": 100}),
        (MolecularGraph, {"hydrogen": True}),
    ],
)
def test_wrong_options_of_a_featurizer_are_errors(cls: Callable[..., Featurizer], options: dict[str, Any]) -> None:
    with pytest.raises(ValidationError):
        cls(**options)


# the plugin


def test_importing_the_module_does_not_import_rdkit() -> None:
    code = (
        "import sys, kinoml_data_rdkit as plugin\n"
        "[cls().outputs for cls in plugin.register_featurizers() if cls is not plugin.RdkitDescriptors]\n"
        "sys.exit('rdkit' in sys.modules)"
    )
    folder = Path(kinoml_data_rdkit.__file__).parent
    assert subprocess.run([sys.executable, "-c", code], cwd=folder, check=False).returncode == 0


@pytest.mark.parametrize("featurizer", ALL, ids=lambda f: f.name)
def test_the_registry_finds_the_installed_plugin(featurizer: Featurizer) -> None:
    assert registry.featurizer(featurizer.name) is type(featurizer)


def read(name: str, columns: dict[str, Any], data: dict[str, Any], **options: Any) -> Any:
    """The dataset of a spec that names a featurizer; all columns are X."""
    storage = {"backend": "featurize-on-access", "featurizer": {"name": name, **options}}
    return load_dataset({"columns": columns, "X": list(columns), "storage": storage}, data=data)


def test_a_spec_unpacks_packed_fingerprints(demo: dict[str, list[Any]]) -> None:
    data = {"smiles": demo["smiles"][:50]}
    column = {"dtype": "float32", "shape": [1021]}
    plain, _ = read("morgan-fingerprint", {"fingerprint": column}, data, nbits=1021)[:]
    columns = {"fingerprint": {**column, "packbits": True}}
    packed, _ = read("morgan-fingerprint", columns, data, nbits=1021, packbits=True)[:]
    assert plain["fingerprint"].shape == (50, 1021) and plain["fingerprint"].sum() > 0
    assert plain["fingerprint"].equal(packed["fingerprint"])


def test_a_spec_reads_graphs(demo: dict[str, list[Any]]) -> None:
    columns = {
        "edge_index": {"dtype": "int64", "shape": [2, "*"]},
        "atoms": {"dtype": "float32", "shape": ["*", N_ATOM_FEATURES]},
    }
    X, _ = read("molecular-graph", columns, {"smiles": demo["smiles"]})[[0, -1]]
    for i, smiles in enumerate((demo["smiles"][0], demo["smiles"][-1])):
        edge_index, atoms = MolecularGraph().featurize(smiles)
        assert (X["edge_index"][i].numpy() == edge_index).all() and (X["atoms"][i].numpy() == atoms).all()


def test_a_bad_row_is_reported_with_its_number_and_smiles() -> None:
    columns = {"one_hot": {"dtype": "uint8", "shape": [53, "*"]}}
    dataset = read("one-hot-smiles", columns, {"smiles": ["CCO", "C1CC"]})
    with pytest.raises(errors.FeaturizationError, match=r"row 1: ValueError: .*'C1CC'"):
        dataset[1]


# the demo's data


def test_the_demo_has_1017_molecules_in_the_order_of_the_file(demo: dict[str, list[Any]]) -> None:
    assert list(demo) == ["id", "smiles", "activity"]
    assert {len(values) for values in demo.values()} == {1017} and len(set(demo["id"])) == 1017
    assert demo["id"][0] == "1520012" and demo["activity"][0] == 5.48
    assert demo["smiles"][0] == "O=S(=O)(Nc1cccs1)c2ccc(Oc3ccccc3c4ccccc4)c(c2)C#N"
    assert min(demo["activity"]) == 4.27 and max(demo["activity"]) == 9.22
    assert np.mean(demo["activity"]) == pytest.approx(6.55, abs=0.005)
    assert (np.diff(demo["activity"]) < 0).sum() == 1  # sorted but for one step, as its docstring says


@pytest.fixture
def contrib(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """A Contrib folder with two molecules, to be spoiled."""
    monkeypatch.setattr(RDConfig, "RDContribDir", str(tmp_path))
    folder = tmp_path / "FreeWilson" / "data"
    folder.mkdir(parents=True)
    (folder / "CHEMBL2321810.smi").write_text("CCO 1\nCC 2\n")
    (folder / "CHEMBL2321810_act.csv").write_text("Name,Act\n2,6.5\n1,5.0\n")
    yield folder


def test_the_files_of_the_demo_are_joined_by_id(contrib: Path) -> None:
    assert chembl_demo() == {"id": ["1", "2"], "smiles": ["CCO", "CC"], "activity": [5.0, 6.5]}


@pytest.mark.parametrize(
    ("suffix", "text", "message"),
    [
        (".smi", "CCO 1\n", "1 ids are missing, such as '2'"),
        (".smi", "CCO 1\nCC 2\nC 3\n", "_act.csv: 1 ids are missing, such as '3'"),
        (".smi", "CCO 1\nCC 1\n", "line 2: duplicate id '1'"),
        (".smi", "CCO 1\nCC\n", "line 2: expected 2 fields, got 1"),
        ("_act.csv", "Name,Act\n1,5.0\n2,high\n", "the activity of '2' is 'high', which is not a finite number"),
        ("_act.csv", "Name,Act\n1,5.0\n2,nan\n", "the activity of '2' is 'nan', which is not a finite number"),
        ("_act.csv", "Name,IC50\n1,5.0\n2,6.5\n", "the header must be Name,Act"),
        ("_act.csv", "", "the header must be Name,Act"),
    ],
)
def test_files_of_the_demo_that_do_not_fit_are_an_error(contrib: Path, suffix: str, text: str, message: str) -> None:
    (contrib / f"CHEMBL2321810{suffix}").write_text(text)
    with pytest.raises(ValueError) as caught:
        chembl_demo()
    assert message in str(caught.value) and str(contrib) in str(caught.value)


@pytest.mark.parametrize("suffix", [".smi", "_act.csv"])
def test_a_build_of_rdkit_without_the_demo_files_is_an_error(contrib: Path, suffix: str) -> None:
    (contrib / f"CHEMBL2321810{suffix}").unlink()
    with pytest.raises(FileNotFoundError, match="other builds may not"):
        chembl_demo()
