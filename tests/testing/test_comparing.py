"""The comparisons of the conformance suite accept equal rows and refuse every difference."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from kinoml_data import Array, ArrayStorage, Ragged
from kinoml_data.layouts.flat_writing import flat_arrays
from kinoml_data.testing.comparing import contents, same_array, same_column, same_list, same_rows
from kinoml_data.testing.example import column_of
from kinoml_data.testing.examples import mixed

RAGGED, FIXED, TEXT = Array("float32", (None,)), Array("int64", (2,)), Array("str")
ROWS = {
    "ragged": [np.arange(n, dtype=np.float32) for n in (2, 0, 1)],
    "fixed": [np.array([i, -i]) for i in range(3)],
    "text": ["a", "", "é"],
}


def test_equal_columns_pass() -> None:
    for array, rows in zip((RAGGED, FIXED, TEXT), ROWS.values(), strict=True):
        same_column(column_of(rows, array), array, rows)


RAGGED_COLUMN = column_of(ROWS["ragged"], RAGGED)
assert isinstance(RAGGED_COLUMN, Ragged)
DIFFERENT = {
    "another value": (RAGGED, Ragged(RAGGED_COLUMN.values + 1, RAGGED_COLUMN.shapes)),
    "a row too few": (RAGGED, RAGGED_COLUMN[:2]),
    "a value too many": (RAGGED, Ragged(np.append(RAGGED_COLUMN.values, np.float32(0)), RAGGED_COLUMN.shapes)),
    "another ragged dtype": (RAGGED, Ragged(RAGGED_COLUMN.values.astype("f8"), RAGGED_COLUMN.shapes)),
    "another byte order": (RAGGED, Ragged(RAGGED_COLUMN.values.astype(">f4"), RAGGED_COLUMN.shapes)),
    "shapes of another dtype": (RAGGED, Ragged(RAGGED_COLUMN.values, RAGGED_COLUMN.shapes.astype(np.int32))),
    "an array for ragged rows": (RAGGED, np.zeros((3, 1), np.float32)),
    "a ragged column for fixed rows": (FIXED, Ragged.from_rows(ROWS["fixed"], np.int64, 1)),
    "another row shape": (FIXED, np.zeros((3, 3), np.int64)),
    "rows in another order": (FIXED, np.array(ROWS["fixed"])[[1, 0, 2]]),
    "another text": (TEXT, Ragged.from_strings(["a", "", "e"])),
}


@pytest.mark.parametrize(("array", "column"), DIFFERENT.values(), ids=DIFFERENT)
def test_a_column_that_differs_fails(array: Array, column: Ragged) -> None:
    rows = ROWS["text" if array.is_string else "ragged" if array.ragged else "fixed"]
    with pytest.raises(AssertionError):
        same_column(column, array, rows, "x")


@pytest.mark.parametrize(
    ("one", "other"),
    [
        (np.float32("nan"), np.array(0x7FC00001, "u4").view("f4")[()]),
        (np.float64(0.0), np.float64(-0.0)),
        (np.zeros(3), np.zeros((3, 1))),
        (np.zeros(3), np.zeros(3, np.float32)),
    ],
)
def test_arrays_that_differ_in_a_bit_a_shape_or_a_dtype_fail(one: np.ndarray, other: np.ndarray) -> None:
    same_array(np.asarray(one), np.asarray(one))
    with pytest.raises(AssertionError):
        same_array(np.asarray(one), np.asarray(other))


def test_rows_of_a_storage_are_compared_with_those_of_the_example() -> None:
    example = mixed()
    storage = ArrayStorage(flat_arrays(example.columns, example.batches()))
    same_rows(storage, example, [6, 0, 3, 3])
    shuffled = replace(example, rows={name: rows[::-1] for name, rows in example.rows.items()})
    with pytest.raises(AssertionError):
        same_rows(storage, shuffled, [6, 0])


def test_the_first_entry_that_differs_is_named() -> None:
    same_list([1, 2], [1, 2])
    with pytest.raises(AssertionError, match="x, entry 1"):
        same_list([1, 2, 3], [1, 5, 6], "x")
    with pytest.raises(AssertionError):
        same_list([1], [1, 2])


def test_contents_of_a_folder_change_with_any_byte(tmp_path: Path) -> None:
    (tmp_path / "a" / "b").mkdir(parents=True)
    (tmp_path / "a" / "file").write_bytes(b"one")
    before = contents(tmp_path)
    assert before.keys() == {"a", "a/b", "a/file"}
    (tmp_path / "a" / "file").write_bytes(b"two")
    assert {name for name, digest in contents(tmp_path).items() if digest != before[name]} == {"a/file"}
