"""The flat layout that memory, NPZ and the containers of other backends share."""

from __future__ import annotations

import numpy as np
import pytest

from kinoml_data import Array, ArrayStorage, Ragged
from kinoml_data.errors import CorruptStoreError, SpecError
from kinoml_data.layouts.flat_writing import flat_arrays, mismatch, ragged_array
from kinoml_data.layouts.memory_storage import MemoryStorage

ROWS = [np.arange(n * 3.0).reshape(n, 3) for n in (2, 0, 4, 1)]
ATOMS = Ragged.from_rows(ROWS, "float64", 2)
SAME = Ragged.from_rows([np.arange(4.0).reshape(2, 2) + i for i in range(4)], "float64", 2)
NAMES = Ragged.from_strings(["a", "", "bc", "é"])
FIXED = np.arange(8, dtype=">i4").reshape(4, 2)
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


def test_a_batch_whose_columns_differ_in_their_number_of_rows_is_refused_even_if_the_next_one_makes_up_for_it():
    columns = {"X": Array("float64"), "y": Array("float64")}
    batches = [{"X": np.arange(3.0), "y": np.arange(2.0)}, {"X": np.arange(2.0), "y": np.arange(3.0)}]
    with pytest.raises(SpecError, match=r"the columns of a batch differ in their number of rows: \[2, 3\]"):
        flat_arrays(columns, batches)
