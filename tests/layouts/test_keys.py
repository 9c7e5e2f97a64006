"""The keys of rows that share values."""

from __future__ import annotations

import numpy as np
import pytest

from kinoml_data import ArrayStorage
from kinoml_data.columns import Indexed
from kinoml_data.errors import StoreReadError
from kinoml_data.layouts.keys import CollectedKeys, keys_of, smallest, with_equal_shared


@pytest.mark.parametrize(
    ("count", "dtype"),
    [
        (0, "u1"),
        (1, "u1"),
        (256, "u1"),
        (257, "u2"),
        (65536, "u2"),
        (65537, "u4"),
        (1 << 32, "u4"),
        (1 + (1 << 32), "i8"),
    ],
)
def test_keys_take_the_fewest_bytes_that_represent_all_of_them(count, dtype):
    keys = np.arange(max(0, count - 2), count)
    assert smallest(keys, count).dtype == np.dtype(dtype) and smallest(keys, count).tolist() == keys.tolist()


def test_the_dtype_of_keys_grows_with_the_values_of_a_stream():
    collected = CollectedKeys("x")
    assert collected.keys().dtype == np.uint8 and len(collected.keys()) == 0
    collected.add(Indexed(np.arange(256), np.arange(256)))
    assert collected.keys().dtype == np.uint8
    collected.add(Indexed(np.arange(1), np.array([256, 3], np.uint64)))
    assert collected.keys().dtype == np.uint16 and collected.keys().tolist() == [*range(257), 3]


def test_equal_keys_are_one_object():
    keys = {
        name: np.array(row, np.uint8) for name, row in {"a": [0, 1], "b": [1, 0], "c": [0, 1], "d": [0, 1, 1]}.items()
    }
    shared = with_equal_shared(keys)
    assert shared["a"] is shared["c"] is keys["a"] and shared["b"] is keys["b"] and shared["d"] is keys["d"]


@pytest.mark.parametrize("keys", [np.array([0, 1]), np.array([0, 0, -1]), np.array([0.0, 1, 2]), np.zeros((3, 1), int)])
def test_a_storage_whose_keys_are_not_those_of_its_rows_is_wrong(keys):
    class Keyed(ArrayStorage):
        def keys(self, column):
            return keys if column == "x" else None

    storage = Keyed({"x": np.arange(3), "y": np.arange(3)})
    assert keys_of(storage, "y") is None
    with pytest.raises(StoreReadError, match="Keyed is wrong: the keys of column 'x' are"):
        keys_of(storage, "x")
