"""`MemoryStorage`: columns in memory, which cross to other processes as shared memory."""

from __future__ import annotations

import pickle
from multiprocessing.reduction import ForkingPickler

import numpy as np
import pytest

from kinoml_data.errors import StoreReadError
from kinoml_data.layouts.memory_storage import MemoryStorage
from tests.builders import ATOMS, FIXED, NAMES, ROWS

FLAT = {
    **{"atoms.values": ATOMS.values, "atoms.shapes": ATOMS.shapes, "fixed": FIXED},
    **{"names.utf8": NAMES.values, "names.shapes": NAMES.shapes},
}


@pytest.fixture
def storage():
    return MemoryStorage(FLAT, arrays={"train": np.array([3, 1])}, spec='{"X": "fixed"}', identity="one")


def test_shared_memory_is_the_same_rows_for_both_sides(storage):
    other = pickle.loads(ForkingPickler.dumps(storage))
    assert other.identity == "one" and other.spec == storage.spec and other.columns == storage.columns
    assert other.arrays["train"].tolist() == [3, 1]
    for side in (storage, other):
        for row in range(4):
            found = side.read_row(row, ["atoms", "names", "fixed"])
            assert found["atoms"].tolist() == ROWS[row].tolist() and found["fixed"].tolist() == FIXED[row].tolist()
            assert found["names"].tobytes() == NAMES[row].tobytes()


def test_equal_keys_are_one_array_on_both_sides_of_shared_memory():
    keys = np.arange(100_000) % 3
    storage = MemoryStorage({"a": np.arange(3), "a.keys": keys, "b": np.arange(3.0), "b.keys": keys.copy()})
    other = pickle.loads(ForkingPickler.dumps(storage))
    for side in (storage, other, pickle.loads(pickle.dumps(storage))):
        assert side.keys("a") is side.keys("b") and side.keys("a").dtype == np.uint8
        assert side.read_row(99_998, ["a", "b"]) == {"a": 2, "b": 2.0}
    storage.keys("a")[0] = 2  # both processes would see it
    assert other.keys("b")[0] == 2


def test_a_row_is_a_copy_that_may_be_changed(storage):
    for name in ("atoms", "fixed"):
        storage.read_row(2, [name])[name][:] = 7
    assert storage.read_row(2, ["atoms"])["atoms"].tolist() == ROWS[2].tolist()
    assert storage.read_row(2, ["fixed"])["fixed"].tolist() == FIXED[2].tolist() == [4, 5]


def test_too_little_shared_memory_names_the_way_out(monkeypatch):
    import torch

    def fails(self):
        raise RuntimeError("unable to allocate shared memory(shm): No space left on device (28)")

    monkeypatch.setattr(torch.Tensor, "share_memory_", fails)
    storage = MemoryStorage({"a": np.zeros(10_000)})
    with pytest.raises(StoreReadError, match=r"80,000 bytes of a column do not fit into shared memory.*--shm-size"):
        storage.shared()
