"""The flat layout that memory, NPZ and the containers of other backends share."""

from __future__ import annotations

import numpy as np
import pytest

from kinoml_data import ArrayStorage, Ragged
from kinoml_data.columns import Indexed
from kinoml_data.errors import CorruptStoreError
from kinoml_data.layouts.flat_arrays import flatten, is_reserved, ragged_array
from kinoml_data.layouts.memory_storage import MemoryStorage
from tests.builders import ATOMS, FIXED, NAMES

SAME = Ragged.from_rows([np.arange(4.0).reshape(2, 2) + i for i in range(4)], "float64", 2)
FLAT = {
    **{"atoms.values": ATOMS.values, "atoms.shapes": ATOMS.shapes, "same.values": SAME.values},
    **{"same.shapes": SAME.shapes, "names.utf8": NAMES.values, "names.shapes": NAMES.shapes, "fixed": FIXED},
    **{"train.index": np.array([3, 1]), "_spec": np.frombuffer(bytearray(b'{"X": "fixed"}'), np.uint8)},
}


class Slices:
    """What a Zarr or HDF5 array offers: dtype, shape and slices."""

    def __init__(self, array):
        self._array, self.dtype, self.shape = array, array.dtype, array.shape
        self.asked = []

    def __getitem__(self, chosen):
        assert isinstance(chosen, slice)
        self.asked.append((chosen.start, chosen.stop))
        return self._array[chosen]


@pytest.fixture(params=["numpy", "slices", "memory"])
def storage(request):
    if request.param == "memory":
        index = {"train": FLAT["train.index"]}
        return MemoryStorage({n: a for n, a in FLAT.items() if n != "train.index"}, arrays=index)
    return ArrayStorage({n: Slices(a) if request.param == "slices" else a for n, a in FLAT.items()})


@pytest.mark.parametrize("rows", [[], [2], [0, 1, 2, 3], [3, 3, 0], [1], [2, 3, 0]], ids=str)
def test_rows_are_those_of_the_container(storage, rows):
    assert len(storage) == 4 and storage.spec == '{"X": "fixed"}' and storage.arrays["train"].tolist() == [3, 1]
    found = storage.read(np.array(rows, np.int64), ["atoms", "same", "names", "fixed"])
    for name, source in (("atoms", ATOMS), ("names", NAMES)):
        expected = source.take(np.array(rows, np.int64))
        assert found[name].values.tobytes() == expected.values.tobytes()
        assert found[name].shapes.tolist() == expected.shapes.tolist()
    assert found["same"].tolist() == [[[i, i + 1], [i + 2, i + 3]] for i in rows]  # no axis of it differs
    assert found["fixed"].tolist() == FIXED[rows].tolist() and found["fixed"].dtype == np.dtype("=i4")
    assert storage.shapes("atoms").tolist() == ATOMS.shapes.tolist() and storage.shapes("fixed") is None


def test_neighbouring_rows_are_one_slice():
    held = Slices(FIXED)
    ArrayStorage({"fixed": held}).read(np.array([1, 2, 3, 0, 1]), ["fixed"])
    assert held.asked == [(1, 4), (0, 2)]


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"atoms.shapes": None}, "'atoms.values' is stored without 'atoms.shapes'"),
        ({"atoms.values": ATOMS.values[1:]}, "'atoms' has 20 values, but its shapes add up to 21"),
        ({"atoms.shapes": ATOMS.shapes - [[3, 0]] * 4}, "a row has a negative length"),
        ({"atoms.shapes": np.array([[2**32, 2**32]])}, "more values than any store contains"),
        ({"atoms.shapes": ATOMS.shapes[:, 0]}, "its shapes have 1 axes instead of 2"),
        ({"atoms.shapes": ATOMS.shapes + 0.5}, "'atoms': its shapes have dtype float64, not integers"),
        ({"fixed": FIXED[1:]}, "differ in their number of rows"),
        (dict.fromkeys(FLAT), "contains no column"),
    ],
)
def test_arrays_that_do_not_fit_together_are_damage(changes, said):
    held = {name: array for name, array in (FLAT | changes).items() if array is not None}
    with pytest.raises(CorruptStoreError, match=said):
        ArrayStorage(held)


def test_one_long_row_does_not_make_all_of_them_too_large():
    # As many rows of the longest would be more than any store holds; the rows are not.
    shapes = np.ones((3000, 4), np.int64)
    shapes[0], shapes[1:, 0] = (1 << 13, 1 << 13, 1 << 13, 1 << 13), 0
    assert ragged_array("x", "float32", shapes).shape == (None, None, None, None)
    shapes[0] = 1 << 15
    with pytest.raises(CorruptStoreError, match="more values than any store contains"):
        ragged_array("x", "float32", shapes)


def test_what_is_behind_the_arrays_is_closed_with_the_storage():
    closed = []
    storage = ArrayStorage({"X": np.arange(3)}, close=lambda: closed.append(True))
    assert not closed
    storage.close()
    assert closed == [True]
    ArrayStorage({"X": np.arange(3)}).close()


KEYS = np.array([3, 0, 0, 2, 3, 1], np.uint8)
KEYED = ("atoms", "same", "names", "fixed")


@pytest.fixture(params=["numpy", "slices", "memory"])
def keyed(request):
    """Six rows, which are rows 0 to 3 of `storage` by their keys."""
    flat = {n: a for n, a in FLAT.items() if n != "train.index"} | {"y": np.arange(6.0)}
    flat |= {f"{name}.keys": KEYS.astype(dtype) for name, dtype in zip(KEYED, ("u1", "<i8", ">u2", "u8"), strict=True)}
    flat["names.keys"] = KEYS[::-1].copy()
    if request.param == "memory":
        return MemoryStorage(flat)
    return ArrayStorage({n: Slices(a) if request.param == "slices" else a for n, a in flat.items()})


def test_a_row_of_a_column_with_keys_is_its_distinct_row(keyed, storage):
    assert len(keyed) == 6 and keyed.keys("y") is None
    rows = np.array([5, 0, 3, 0])
    read, expected = keyed.read(rows, [*KEYED, "y"]), storage.read(KEYS[rows].astype(int), list(KEYED))
    expected |= storage.read(KEYS[::-1][rows].astype(int), ["names"])
    for name in ("atoms", "names"):
        assert read[name].values.tobytes() == expected[name].values.tobytes()
        assert read[name].shapes.tolist() == expected[name].shapes.tolist()
    assert read["same"].tolist() == expected["same"].tolist() and read["fixed"].tolist() == expected["fixed"].tolist()
    assert read["y"].tolist() == rows.tolist()
    assert keyed.shapes("atoms").tolist() == ATOMS.shapes[KEYS].tolist() and keyed.shapes("fixed") is None
    for name, array in keyed.read_row(5, [*KEYED, "y"]).items():
        assert array.tolist() == (read[name][0]).tolist()


def test_columns_with_equal_keys_share_one_small_array(keyed):
    shared = keyed.keys("atoms")
    assert shared.dtype == np.uint8 and shared.tolist() == KEYS.tolist()
    assert keyed.keys("same") is shared and keyed.keys("fixed") is shared and keyed.keys("names") is not shared


def test_more_than_256_distinct_rows_are_found():
    keys = np.arange(600)[::-1].astype(np.uint16)
    flat = {
        "x": np.arange(600),
        "x.keys": keys,
        "s.utf8": np.full(600, 97, np.uint8),
        "s.shapes": np.ones((600, 1), int),
    }
    storage = ArrayStorage(flat | {"s.keys": (keys % 256).astype(np.uint8)})
    read = storage.read(np.arange(600), ["x", "s"])
    assert read["x"].tolist() == keys.tolist() and read["s"].values.tobytes() == b"a" * 600


@pytest.mark.parametrize(
    ("keys", "said"),
    [
        ([0, 4, 0, 1], "'fixed', row 1: its key is 4, but the number of distinct rows is 4"),
        ([0, 1, -1, 1], "'fixed', row 2: its key is -1, but"),
        (np.array([1.0] * 4), r"'fixed': its keys are float64 \(4,\), not integers \(rows,\)"),
        (np.array([True] * 4), r"'fixed': its keys are bool \(4,\), not integers"),
        ([[0], [1], [2], [3]], r"'fixed': its keys are int64 \(4, 1\), not integers"),
        ([0, 1, 2], "differ in their number of rows: .*fixed has 3"),
    ],
)
def test_keys_that_do_not_fit_their_column_are_damage(keys, said):
    with pytest.raises(CorruptStoreError, match=said):
        ArrayStorage(FLAT | {"fixed.keys": np.array(keys)})


def test_keys_are_shared_with_workers(keyed):
    arrays = {name: np.array(array) for name, array in keyed.row_arrays().items()}
    keyed.share_row_arrays(arrays)
    assert all(array is arrays[name] for name, array in keyed.row_arrays().items())
    assert keyed.read(np.array([0]), ["fixed"])["fixed"].tolist() == FIXED[[3]].tolist()
    assert isinstance(keyed, MemoryStorage) or keyed.keys("atoms") is arrays["atoms.keys"]


def test_shared_rows_become_distinct_rows_and_keys():
    storage = ArrayStorage(FLAT)
    flat = flatten({"fixed": storage.columns["fixed"]}, {"fixed": Indexed(FIXED.astype("=i4"), KEYS.astype(np.int64))})
    assert flat["fixed.keys"].dtype == np.uint8 and flat["fixed.keys"].tolist() == KEYS.tolist()
    assert ArrayStorage(flat).read(np.arange(6), ["fixed"])["fixed"].tolist() == FIXED[KEYS].tolist()
    assert is_reserved("fixed.keys")
