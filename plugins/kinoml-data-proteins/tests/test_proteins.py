"""Features of sequences of amino acids."""

from __future__ import annotations

import doctest
from pathlib import Path
from typing import Any

import kinoml_data as kd
import numpy as np
import pytest
from kinoml_data import errors, registry
from kinoml_data.testing import FeaturizerTests
from pydantic import ValidationError

from kinoml_data_proteins import AMINO_ACIDS, AminoAcidComposition, OneHotSequence

UBIQUITIN = "MQIFVKTLTGKTITLEVEPSDTIENVKAKIQDKEGIPPDQQRLIFAGKQLEDGRTLSDYNIQKESTLHLVLRLRGG"
INSULIN_A = "GIVEQCCTSICSLYQLENYCN"


def letters(one_hot: np.ndarray[Any, Any], alphabet: str = AMINO_ACIDS) -> str:
    return "".join(alphabet[row] for row in one_hot.argmax(axis=0))


def test_the_alphabet_is_the_20_amino_acids_in_alphabetical_order() -> None:
    assert len(AMINO_ACIDS) == 20 and sorted(set(AMINO_ACIDS)) == list(AMINO_ACIDS)
    assert not set("BJOUXZ") & set(AMINO_ACIDS)


@pytest.mark.parametrize("sequence", [UBIQUITIN, INSULIN_A, "W"])
def test_a_sequence_comes_back_from_its_one_hot_matrix(sequence: str) -> None:
    featurizer = OneHotSequence()
    (one_hot,) = featurizer.featurize(sequence)
    assert one_hot.dtype == np.uint8 and one_hot.shape == (20, len(sequence))
    assert featurizer.outputs["one_hot"] == kd.Array("uint8", (20, None))
    assert (one_hot.sum(axis=0) == 1).all() and letters(one_hot) == sequence


def test_the_composition_is_the_share_of_each_letter() -> None:
    (shares,) = AminoAcidComposition().featurize(INSULIN_A)
    (counts,) = AminoAcidComposition(counts=True).featurize(INSULIN_A)
    assert counts.dtype == shares.dtype == np.float32 and counts.shape == shares.shape == (20,)
    assert counts.tolist() == [INSULIN_A.count(letter) for letter in AMINO_ACIDS]
    np.testing.assert_allclose(shares, counts / len(INSULIN_A), rtol=1e-6)
    assert shares.sum() == pytest.approx(1)


def test_another_alphabet_has_a_row_for_each_of_its_letters() -> None:
    alphabet = AMINO_ACIDS + "-"
    (one_hot,) = OneHotSequence(alphabet=alphabet).featurize("AC--W")
    assert one_hot.shape == (21, 5) and letters(one_hot, alphabet) == "AC--W"
    (composition,) = AminoAcidComposition(alphabet="WAC").featurize("AACW")
    assert composition.tolist() == [0.25, 0.5, 0.25]


@pytest.mark.parametrize("featurizer", [OneHotSequence(), AminoAcidComposition()])
@pytest.mark.parametrize(
    ("sequence", "letter", "position"),
    [("ACX", "X", 3), ("acd", "a", 1), ("AC D", " ", 3), ("AC-", "-", 3), ("MUK", "U", 2)],
)
def test_a_letter_outside_the_alphabet_is_named_with_its_position(
    featurizer: OneHotSequence, sequence: str, letter: str, position: int
) -> None:
    message = rf"^'{letter}' at position {position} of a sequence of {len(sequence)} letters"
    with pytest.raises(ValueError, match=message):
        featurizer.featurize(sequence)


def test_letters_outside_the_alphabet_may_be_ignored() -> None:
    (one_hot,) = OneHotSequence(unknown="ignore").featurize("AXC")
    assert one_hot.sum(axis=0).tolist() == [1, 0, 1]
    (shares,) = AminoAcidComposition(unknown="ignore").featurize("AXCC")
    assert shares[[0, 1]].tolist() == pytest.approx([1 / 3, 2 / 3])
    with pytest.raises(ValueError, match="no letter of the sequence is in the alphabet"):
        AminoAcidComposition(unknown="ignore").featurize("XX")


@pytest.mark.parametrize("sequence", ["", None, 5, b"ACD"])
def test_what_is_not_a_sequence_is_refused(sequence: Any) -> None:
    for featurizer in (OneHotSequence(unknown="ignore"), AminoAcidComposition(unknown="ignore")):
        with pytest.raises(ValueError, match="is not a sequence"):
            featurizer.featurize(sequence)


@pytest.mark.parametrize("options", [{"alphabet": ""}, {"alphabet": "AA"}, {"unknown": "guess"}])
def test_options_that_are_not_valid_are_refused(options: dict[str, Any]) -> None:
    with pytest.raises(ValidationError):
        OneHotSequence(**options)


class TestFeaturizers(FeaturizerTests):
    featurizers = (
        OneHotSequence(),
        OneHotSequence(alphabet=AMINO_ACIDS + "-", unknown="ignore"),
        AminoAcidComposition(),
        AminoAcidComposition(counts=True, unknown="ignore"),
    )
    data = {"sequence": [UBIQUITIN, INSULIN_A, "W"]}


@pytest.mark.parametrize("cls", [OneHotSequence, AminoAcidComposition])
def test_the_registry_finds_the_installed_plugin(cls: type[kd.Featurizer]) -> None:
    assert registry.featurizer(cls.name) is cls


def test_a_spec_computes_padded_batches_from_a_table(tmp_path: Path) -> None:
    (tmp_path / "kinases.csv").write_text(f"sequence,pKi\n{UBIQUITIN},6.5\n{INSULIN_A},7.25\n")
    residues = {"dtype": "float32", "shape": [20, "*"], "stored_as": "one_hot"}
    spec = {
        "columns": {"residues": residues, "pKi": {"dtype": "float32"}},
        "X": "residues",
        "y": "pKi",
        "storage": {
            "backend": "featurize-on-access",
            "source": {"backend": "csv", "path": str(tmp_path / "kinases.csv")},
            "featurizer": "one-hot-sequence",
        },
        "collate": {"residues": {"form": "pad", "value": 0}},
    }
    with kd.load_dataset(spec) as dataset:
        X, y = dataset[:]
        assert X.shape == (2, 20, len(UBIQUITIN)) and y.tolist() == [6.5, 7.25]
        assert letters(X[1, :, : len(INSULIN_A)].numpy()) == INSULIN_A and X[1, :, len(INSULIN_A) :].sum() == 0
    (tmp_path / "kinases.csv").write_text(f"sequence,pKi\n{UBIQUITIN},6.5\nACX,7.25\n")
    with kd.load_dataset(spec) as dataset, pytest.raises(errors.FeaturizationError, match=r"row 1.*'X' at position 3"):
        dataset[:]


def test_the_examples_of_the_readme_run() -> None:
    result = doctest.testfile(str(Path(__file__).parents[1] / "README.md"), module_relative=False)
    assert result.attempted >= 4 and result.failed == 0
