"""The drawing of molecules: which columns it draws, and what it draws."""

from __future__ import annotations

import xml.etree.ElementTree as ElementTree

import pytest

from kinoml_data_rdkit import Molecule, chembl_demo

ASPIRIN = "CC(=O)Oc1ccccc1C(=O)O"


def test_columns_of_smiles_are_drawn() -> None:
    assert Molecule().draws([ASPIRIN, "c1ccncc1"]) and Molecule().draws(chembl_demo()["smiles"][:50])


def test_a_column_with_few_texts_that_are_not_smiles_is_drawn() -> None:
    assert Molecule().draws([ASPIRIN] * 19 + ["unknown"]) and not Molecule().draws([ASPIRIN, "unknown"])


@pytest.mark.parametrize("texts", [["CN", "NO"], ["CHEMBL25", "CHEMBL1"], ["C1", "C2"], ["EGFR"], ["MKTAYIAKQR"], [""]])
def test_names_ids_and_sequences_are_not_drawn(texts: list[str]) -> None:
    assert not Molecule().draws(texts)


def test_a_molecule_is_a_small_picture_without_background() -> None:
    svg = Molecule().svg(ASPIRIN)
    root = ElementTree.fromstring(svg)
    assert root.tag.endswith("svg") and (root.get("width"), root.get("height")) == ("240px", "160px")
    assert "<rect" not in svg and svg.count("<path") > 10


def test_an_unreadable_smiles_is_an_error(capfd: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(ValueError, match="cannot read 'C1CC'"):
        Molecule().svg("C1CC")
    assert capfd.readouterr().err == ""
