"""Batches that become the arrays of the flat layout."""

from __future__ import annotations

import numpy as np
import pytest

from kinoml_data import Array, ArrayStorage, Ragged
from kinoml_data.columns import Indexed
from kinoml_data.errors import SpecError, UnsupportedStoreError
from kinoml_data.layouts.checksums import row_checksums
from kinoml_data.layouts.flat_arrays import mismatch
from kinoml_data.layouts.flat_writing import FlatBatches, flat_arrays
from tests.builders import ATOMS, FIXED, NAMES, keyed_batches

WRONG = {
    "a fixed column": (Array("float64", (None, 3)), FIXED, r"rows of one shape instead of float64 \(\*, 3\)"),
    "a ragged column": (Array("float64", (3,)), ATOMS, r"rows of different shapes instead of float64 \(3,\)"),
    "another dtype": (Array("float32", (None, 3)), ATOMS, r"float64 instead of float32 \(\*, 3\)"),
    "another row shape": (Array("int32", (3,)), FIXED.astype("i4"), r"rows of shape \(2,\) instead of int32 \(3,\)"),
    "another rank": (Array("float64", (None,)), ATOMS, r"shapes \(4, 2\) instead of those of float64 \(\*,\)"),
    "another axis": (Array("float64", (None, 4)), ATOMS, r"a row of shape \(2, 3\) instead of float64 \(\*, 4\)"),
    "fewer values": (
        Array("float64", (None, 3)),
        Ragged(ATOMS.values[1:], ATOMS.shapes),
        "but its shapes add up to 21",
    ),
}


@pytest.mark.parametrize("case", WRONG)
def test_a_batch_that_is_not_what_was_announced_is_not_written(case):
    array, column, said = WRONG[case]
    with pytest.raises(SpecError, match=f"column 'x': a batch contains .*{said}"):
        flat_arrays({"x": array}, [{"x": column}])


def test_batches_become_the_arrays_of_the_layout():
    columns = {"atoms": Array("float64", (None, 3)), "names": Array("str"), "fixed": Array("int32", (2,))}
    data = {"atoms": ATOMS, "names": NAMES, "fixed": FIXED.astype("=i4")}
    for array, column in zip(columns.values(), data.values(), strict=True):
        assert mismatch(array, column) is None
    flat = flat_arrays(columns, [data, data], arrays={"train": np.array([3, 1])}, spec="{}")
    storage = ArrayStorage(flat)
    assert len(storage) == 8 and storage.columns == columns and storage.spec == "{}"
    assert storage.arrays["train"].tolist() == [3, 1]
    assert storage.read(np.arange(8), ["atoms"])["atoms"].values.tobytes() == ATOMS.values.tobytes() * 2
    assert len(ArrayStorage(flat_arrays(columns, []))) == 0


def test_a_batch_whose_columns_differ_in_their_number_of_rows_is_refused_even_if_the_next_one_makes_up_for_it():
    columns = {"X": Array("float64"), "y": Array("float64")}
    batches = [{"X": np.arange(3.0), "y": np.arange(2.0)}, {"X": np.arange(2.0), "y": np.arange(3.0)}]
    with pytest.raises(SpecError, match=r"the columns of a batch differ in their number of rows: \[2, 3\]"):
        flat_arrays(columns, batches)


COLUMNS = {"atoms": Array("float64", (None, 3)), "name": Array("str"), "fixed": Array("int32", (2,))}
KEYS = np.array([0, 1, 0, 2, 1, 3, 3, 0])
SHARED = {"atoms": ATOMS.take(KEYS), "name": NAMES.take(KEYS), "fixed": FIXED.astype("=i4")[KEYS]}


@pytest.mark.parametrize("size", [1, 3, 100])
def test_shared_rows_are_written_once_with_their_keys(size):
    flat = flat_arrays({**COLUMNS, "y": Array("int64")}, keyed_batches({**SHARED, "y": KEYS}, list(COLUMNS), size))
    assert flat["fixed"].tolist() == FIXED.tolist() and flat["name.utf8"].tobytes() == "abcé".encode()
    assert flat["atoms.values"].tobytes() == ATOMS.values.tobytes() and flat["y"].tolist() == KEYS.tolist()
    for name in COLUMNS:
        assert flat[f"{name}.keys"].dtype == np.uint8 and flat[f"{name}.keys"].tolist() == KEYS.tolist()
    assert "y.keys" not in flat and len(ArrayStorage(flat)) == len(KEYS)


def test_the_checksums_of_a_column_with_keys_are_those_of_its_distinct_rows():
    batches = FlatBatches(COLUMNS, keyed_batches(SHARED, ["name"]))
    parts = list(batches)
    assert batches.layout.keys() == parts[0].keys() and batches.keys().keys() == {"name.keys"}
    crc = {name: np.concatenate([part[f"{name}.crc32"] for part in parts]).tolist() for name in ("name", "fixed")}
    assert crc["name"] == row_checksums(NAMES, np.arange(4), is_string=True).tolist()
    assert crc["fixed"] == row_checksums(SHARED["fixed"], np.arange(8)).tolist()


def of(index, values):
    return {"x": Indexed(np.array(values, np.int64), np.array(index))}


@pytest.mark.parametrize(
    ("batches", "said"),
    [
        ([of([0, 1], [5, 6]), {"x": np.array([5, 6])}], "either every batch or none must be `Indexed`"),
        ([{"x": np.array([5, 6])}, of([0, 1], [5, 6])], "either every batch or none must be `Indexed`"),
        ([of([0, 1], [5, 6]), of([2, 3], [7])], "refers to value 3, but there are only 3 values so far"),
        ([of([0, -1], [5])], "refers to value -1"),
        ([of([0], [5]), of([0, 0], [7])], "contains value 1, which none of its rows uses"),
        ([of([0.0], [5])], r"an index of float64 \(1,\), not of integers \(rows,\)"),
        ([of([[0]], [5])], r"an index of int64 \(1, 1\)"),
        ([of([0], [5]), {"x": Indexed(np.array([1.5]), np.array([1]))}], "a batch contains float64 instead of int64"),
    ],
)
def test_shared_rows_that_contradict_their_index_are_not_written(batches, said):
    with pytest.raises(SpecError, match=f"column 'x': .*{said}"):
        flat_arrays({"x": Array("int64")}, batches)


def test_the_lengths_of_shared_rows_are_those_of_their_index():
    columns = {"x": Array("int64"), "y": Array("int64")}
    assert len(ArrayStorage(flat_arrays(columns, [of([0, 0, 0], [5]) | {"y": np.arange(3)}]))) == 3
    with pytest.raises(SpecError, match=r"differ in their number of rows: \[1, 3\]"):
        flat_arrays(columns, [of([0, 0, 0], [5]) | {"y": np.arange(1)}])


@pytest.mark.parametrize("name", ["x.values", "z.keys", "z.crc32"])
def test_two_arrays_of_one_name_are_refused(name):
    columns = {"x": Array("int64", (None,)), "z": Array("int64"), name: Array("int64")}
    batch = {"x": Ragged.from_rows([np.arange(2)], "int64", 1), "z": of([0], [5])["x"], name: np.array([1])}
    with pytest.raises(UnsupportedStoreError, match=f"two arrays would have the name '{name}'; rename a column"):
        FlatBatches(columns, [batch])
