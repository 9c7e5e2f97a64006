"""What leaks: the values that two splits share."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

import kinoml_data as kd
from kinoml_data.dataset.split_check import SharedValues
from kinoml_data.errors import SpecError
from kinoml_data.factory import open_to_copy


def dataset() -> kd.XyDataset:
    splits = {"labels": {"train": {"range": [0, 4]}, "test": {"range": [4, 6]}}}
    data = {
        "X": [np.arange(n, dtype=np.float32) for n in (1, 2, 2, 3, 2, 4, 1)],
        "smiles": ["C", "CC", "CC", "CN", "CC", "CN", "C"],
        "id": list("abcdefg"),
        "year": [0.0, -0.0, 1, 2, 3, 4, 5],
    }
    spec = {"X": "X", "meta": ["smiles", "id", "year"], "splits": splits, "storage": {"backend": "in-memory"}}
    return kd.load_dataset(spec, data=data)


def test_shared_values_are_counted_with_their_rows() -> None:
    check = dataset().check_splits(["smiles", "X"])
    assert check.shared == (
        SharedValues("smiles", ("train", "test"), 2, (3, 2), (4, 2)),
        SharedValues("X", ("train", "test"), 1, (2, 1), (4, 2)),
    )
    assert check.sizes == {"train": 4, "test": 2} and check.in_no_split == 1


def test_what_is_printed() -> None:
    assert str(dataset().check_splits()) == (
        "splits: train 4, test 2; 1 row in none\n"
        "smiles: train and test share 2 values (75.0 % of train and 100.0 % of test)\n"
        "id: no two splits share a value"
    )


def test_a_view_is_checked_for_its_own_rows() -> None:
    assert dataset().select([0, 4, 5]).check_splits("smiles").shared == ()


def test_a_dataset_without_splits_shares_nothing() -> None:
    check = kd.from_arrays(np.arange(3.0)).check_splits(["X"])
    assert check.shared == () and str(check) == "splits: none; 3 rows in none"


def test_an_unknown_column_is_an_error() -> None:
    with pytest.raises(SpecError, match="did you mean 'smiles'"):
        dataset().check_splits(["smile"])


def test_there_are_no_inputs_to_compare_without_roles(tmp_path: Path) -> None:
    (tmp_path / "t.csv").write_text("a,b\n1,2\n")
    with open_to_copy(tmp_path / "t.csv") as without_roles, pytest.raises(SpecError, match="unknown column 'X'"):
        without_roles.check_splits(["X"])


def test_a_check_is_shown_as_tables() -> None:
    check = dataset().check_splits()
    html = check._repr_html_()
    for text in ("train 4", "test 2", "in no split 1", "train 3 of 4 (75.0 %)", "test 2 of 2 (100.0 %)"):
        assert text in html, text
    assert "smiles: 1 pair of splits shares values, up to 100.0 % of test" in html
    assert "No two splits share a value of <code>id</code>." in html
    assert "train 3 of 4 (75.0 %)" in check.shared[0]._repr_html_()


def test_a_check_without_splits_or_without_columns_is_shown() -> None:
    assert "no splits" in kd.from_arrays(np.arange(3.0)).check_splits(["X"])._repr_html_()
    apart = kd.from_arrays(np.arange(3.0), splits={"train": [0], "test": []}).check_splits([])._repr_html_()
    assert "0 columns compared" in apart and "test 0" in apart
