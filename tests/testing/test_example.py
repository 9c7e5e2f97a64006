"""`Example`: rows in memory, as a writer takes them and as a store gives them back."""

from __future__ import annotations

import json

import numpy as np
import pytest

from kinoml_data import Array, Ragged
from kinoml_data.testing.example import Example, bits, column_of

COLUMNS = {"atoms": Array("float32", (None, 3)), "y": Array("int64"), "id": Array("str")}
ROWS = {
    "atoms": [np.full((n, 3), n, np.float32) for n in (2, 0, 1)],
    "y": [np.array(n) for n in (5, 6, 7)],
    "id": ["", "é", "CCO"],
}
EXAMPLE = Example("small", COLUMNS, ROWS, {"idx_train": np.array([2, 0]), "weights": np.ones(4)})


@pytest.mark.parametrize("size", [None, 1, 2, 3, 100])
def test_batches_have_all_rows_in_order(size):
    batches = list(EXAMPLE.batches(size))
    assert [int(y) for batch in batches for y in batch["y"]] == [5, 6, 7]
    assert [text for batch in batches for text in batch["id"].strings()] == ROWS["id"]
    assert [row.shape for batch in batches for row in batch["atoms"]] == [(2, 3), (0, 3), (1, 3)]
    assert len(batches) > 1 or size in (3, 100)


def test_batches_are_read_only():
    for batch in EXAMPLE.batches():
        for array in (batch["atoms"].values, batch["atoms"].shapes, batch["y"], batch["id"].values):
            assert not array.flags.writeable


@pytest.mark.parametrize("array", [Array("int8", (None, 2)), Array("str"), Array("float64", (0, 3))], ids=str)
def test_a_column_of_no_rows_keeps_its_dtype_and_rank(array):
    column, empty = column_of([], array), array.empty()
    if isinstance(column, Ragged):
        assert column.values.dtype == empty.values.dtype and column.shapes.shape == empty.shapes.shape
    else:
        assert column.dtype == empty.dtype and column.shape == empty.shape


def test_some_columns_have_the_same_rows():
    part = EXAMPLE.only(["id", "y"])
    assert list(part.columns) == ["id", "y"] and len(part) == 3
    assert part.numeric == ["y"] and part.strings == ["id"]
    assert part.taken([2, 2, 0], "id") == ["CCO", "CCO", ""]


def test_the_embedded_spec_names_columns_roles_and_splits():
    spec = json.loads(EXAMPLE.spec)
    assert spec["X"] == ["atoms", "y"] and spec["meta"] == ["id"]
    assert spec["splits"] == {"train": "idx_train"}
    assert spec["columns"]["atoms"]["shape"] == ["*", 3]


def test_random_bits_depend_on_the_seed_alone():
    assert bits("float32", (4, 5), 1).tobytes() == bits("float32", (4, 5), 1).tobytes()
    assert bits("float32", (4, 5), 1).tobytes() != bits("float32", (4, 5), 2).tobytes()
    assert set(bits("bool", (100,), 0).view(np.uint8)) == {0, 1}
