"""The contract of a featurizer, and what this one computes."""

from __future__ import annotations

from typing import ClassVar

import pytest
from kinoml_data.testing import FeaturizerTests

from kinoml_data_letter_counts import LetterCounts


class TestLetterCounts(FeaturizerTests):
    """Every rule of the contract."""

    featurizers = (LetterCounts(), LetterCounts(letters="CO"))
    data: ClassVar = {"smiles": ["CCO", "c1ccccc1", "CC(=O)Nc1ccc(O)cc1"]}


def test_letters_are_counted_in_their_order() -> None:
    (counts,) = LetterCounts(letters="OC").featurize("CCO")
    assert counts.tolist() == [1, 2]


def test_an_empty_smiles_is_an_error() -> None:
    with pytest.raises(ValueError, match="is empty"):
        LetterCounts().featurize("")
