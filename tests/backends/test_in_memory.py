"""`InMemory`: Python values as columns, and the values that are no column."""

import copy
import pickle

import awkward as ak
import numpy as np
import pytest
import torch

import kinoml_data as kd
from kinoml_data import Array, ArrayStorage
from kinoml_data.backends.in_memory import InMemory
from kinoml_data.errors import CorruptStoreError, SampleIndexError, SpecError, UnsupportedStoreError
from tests.builders import equal_tensors
from tests.graphs import DATA, SPEC, store_graphs


@pytest.fixture
def stored(tmp_path):
    return store_graphs(tmp_path)


@pytest.mark.parametrize("device", ["gpu", "cuda:99", "meta:x", "", "cpu:x"])
def test_a_device_that_cannot_be_used_is_refused(device):
    with pytest.raises(SpecError, match="device"):
        kd.load_dataset(SPEC, data=DATA, device=device)


def test_data_is_taken_by_those_backends_that_hold_python_values(stored):
    with pytest.raises(SpecError, match="backend 'npz-lazy' does not take data=; use backend='in-memory'"):
        kd.load_dataset(stored / "x.npz", data=DATA)
    with pytest.raises(SpecError, match="backend 'npz-lazy' does not take data="):
        kd.load_dataset(stored / "x.npz", backend="in-memory", data=DATA)
    with pytest.raises(SpecError, match="needs a source, or data="):
        kd.load_dataset(SPEC)
    with pytest.raises(SpecError, match="featurizer= needs the backend 'featurize-on-access'"):
        kd.load_dataset(SPEC, data=DATA, featurizer=len)


@pytest.mark.parametrize("data", [[1, 2], 5, np.zeros(3), "x"], ids=repr)
def test_data_is_a_mapping_of_columns(data):
    with pytest.raises(SpecError, match="data"):
        kd.load_dataset({"X": "x", "storage": {"backend": "in-memory"}}, data=data)


VALUES = {
    "array": (np.arange(6.0).reshape(3, 2), Array("float64", (2,))),
    "one value per row": (np.arange(3), Array("int64")),
    "list of numbers": ([1.5, 2.5, 3.5], Array("float64")),
    "list of bools": ([True, False, True], Array("bool")),
    "range": (range(3), Array("int64")),
    "tensor": (torch.arange(6, dtype=torch.float32).reshape(3, 2), Array("float32", (2,))),
    "tensor with a gradient": (torch.ones(3, 2, requires_grad=True), Array("float32", (2,))),
    "list of tensors": ([torch.ones(n) for n in (2, 0, 3)], Array("float32", (None,))),
    "list of arrays": ([np.ones((2, n), np.int8) for n in (2, 0, 3)], Array("int8", (2, None))),
    "list of equal arrays": ([np.full(4, i, np.uint16) for i in range(3)], Array("uint16", (4,))),
    "list of lists": ([[1, 2], [], [3]], None),
    "tuple of arrays": (tuple(np.ones(n) for n in (1, 2, 3)), Array("float64", (None,))),
    "awkward": (ak.Array([[1, 2], [], [3]]), Array("int64", (None,))),
    "awkward, regular": (ak.Array(np.ones((3, 2), np.float32)), Array("float32", (2,))),
    "awkward, two deep": (
        ak.Array([[[1.0, 2.0]], [[3.0, 4.0], [5.0, 6.0]], [[7.0, 8.0]]]),
        Array("float64", (None, 2)),
    ),
    "object array of arrays": (
        np.array([np.ones(2), np.ones(0), np.ones(3)], dtype=object),
        Array("float64", (None,)),
    ),
    "big-endian": (np.arange(3, dtype=">f4"), Array("float32")),
    "Fortran order": (np.asfortranarray(np.arange(6.0).reshape(3, 2)), Array("float64", (2,))),
    "negative strides": (np.arange(6.0).reshape(3, 2)[::-1, ::-1], Array("float64", (2,))),
    "broadcast": (np.broadcast_to(np.float32(1), (3, 4)), Array("float32", (4,))),
    "one column of a table": (np.arange(6.0).reshape(3, 2)[:, 1], Array("float64")),
    "generator": ((np.full(i, i) for i in range(3)), Array("int64", (None,))),
    "two dtypes that fit one": ([np.ones(1, np.float32), np.ones(2), np.ones(1)], Array("float64", (None,))),
    "no columns in a row": (np.zeros((3, 0)), Array("float64", (0,))),
}


@pytest.mark.parametrize(("values", "array"), VALUES.values(), ids=VALUES)
def test_python_values_become_a_column(values, array):
    kept = list(values) if not hasattr(values, "__len__") else values
    rows = [row.detach().numpy() if isinstance(row, torch.Tensor) else np.array(row) for row in kept]
    dataset = kd.from_arrays(kept, np.arange(3.0))
    if array is not None:
        assert dataset.spec.columns["X"] == array
        rows = [row.astype(array.dtype) for row in rows]
        assert all(sample.numpy().tobytes() == row.tobytes() for (sample, _), row in zip(dataset, rows, strict=True))
        assert all(sample.shape == row.shape for (sample, _), row in zip(dataset, rows, strict=True))
        assert all(not sample.requires_grad and sample.is_contiguous() for sample, _ in dataset)
    else:
        assert [sample.tolist() for sample, _ in dataset] == [row.tolist() for row in rows]


def test_a_generator_is_read_once():
    assert [x.tolist() for x, _ in kd.from_arrays(np.full(i, i) for i in range(3))] == [[], [1], [2, 2]]


def test_the_callers_arrays_and_the_dataset_do_not_share_memory():
    X, rows, y = np.zeros((3, 2)), [np.zeros(2), np.zeros(3), np.zeros(1)], torch.zeros(3)
    dataset = kd.from_arrays({"X": X, "rows": rows}, y)
    X[:], y[:] = 7, 7
    for row in rows:
        row[:] = 7
    dataset[:][0]["X"].fill_(9)
    found, target = dataset[:]
    assert not found["X"].any() and not target.any() and not any(row.any() for row in found["rows"])
    assert (X == 7).all()


@pytest.mark.parametrize(
    ("rows", "array"),
    [
        (np.zeros((0, 3), np.float32), Array("float32", (3,))),
        (np.zeros(0, np.int64), Array("int64")),
        (torch.zeros(0, 2, 3), Array("float32", (2, 3))),
    ],
)
def test_arrays_without_rows_keep_their_dtype_and_shape(rows, array):
    dataset = kd.from_arrays(rows, np.zeros(0, np.float32))
    assert len(dataset) == 0 and dataset.spec.columns["X"] == array
    assert dataset[:][0].shape == (0, *array.shape)
    assert list(dataset) == [] and list(dataset.as_dataloader()) == []
    with pytest.raises(SampleIndexError, match="out of range for 0 rows"):
        dataset[0]


NOT_COLUMNS = {
    "no rows and no type": ([], "has no rows; specify its dtype and shape"),
    "text": (["C", "CC"], "strings, which no tensor can have"),
    "array of text": (np.array(["C", "CC"]), "strings, which no tensor can have"),
    "one text": ("CCO", "X"),
    "bytes": (np.array([b"C", b"CC"]), "dtype"),
    "objects": (np.array([{}, []], dtype=object), "dtype object, with a value of type dict"),
    "None among numbers": ([1.0, None], "column 'X', row 1: a value is missing"),
    "object array with None": (np.array([1.0, None], object), "row 1: a value is missing"),
    "two-dimensional objects": (np.array([[1, None], [2, 3]], object), "dtype object"),
    "numbers and text": (["a", 1], r"row 1 has 1; convert it with `str\(\)`"),
    "dates": (np.array(["2000-01-01"], "M8[D]"), "datetime64"),
    "records": ({"X": np.zeros(2, [("a", "f4")])}, "give each of its fields as a column"),
    "long doubles": (np.zeros(2, np.longdouble), "which no tensor can have"),
    "masked": (np.ma.array([1.0, 2.0], mask=[0, 1]), "masked array; fill in its missing values first"),
    "masked rows": ([np.ma.array([1.0, 2.0], mask=[0, 1]), np.ones(1)], "masked array"),
    "rows of different rank": ([np.zeros(2), np.zeros((2, 2))], "row 1 has 2 axes, but row 0 has 1"),
    "rows of no shape": ([[[1, 2], [3]], [[3]]], "is not an array"),
    "rows of dtypes that fit no one": ([np.zeros(1, np.int64), np.zeros(2, np.uint64)], "different dtypes"),
    "one number": (3, "X"),
    "one numpy number": (np.float64(3), "X"),
    "an array without axes": (np.array(3.0), "is a single value, not a sequence of rows"),
    "a set": ({1.0, 2.0}, "X"),
    "bfloat16": (torch.zeros(2, dtype=torch.bfloat16), "bfloat16"),
    "a list of bfloat16": ([torch.zeros(2, dtype=torch.bfloat16), torch.zeros(3)], "bfloat16"),
    "sparse": (torch.eye(2).to_sparse(), "X"),
    "nothing": (None, "column"),
    "awkward with None": (ak.Array([[1, None], [3]]), "column 'X'"),
    "awkward without a type": (ak.Array([[], []]), "column 'X'"),
    "awkward records": ({"X": ak.Array([{"a": 1}])}, "column 'X' contains records; give each of their fields"),
    "awkward of uneven rows": (ak.Array([[[1, 2], [3]], [[3]]]), "column 'X'"),
}


@pytest.mark.parametrize(("values", "said"), NOT_COLUMNS.values(), ids=NOT_COLUMNS)
def test_values_that_are_no_column_are_refused_and_the_column_named(values, said):
    with pytest.raises((SpecError, CorruptStoreError, UnsupportedStoreError), match=said):
        kd.from_arrays(values)


@pytest.mark.parametrize(
    "again", [copy.deepcopy, lambda ds: pickle.loads(pickle.dumps(ds))], ids=["deepcopy", "pickle"]
)
def test_a_dataset_owns_its_rows_whatever_happens_to_the_objects_later(again):
    rows = [np.full(1, float(i)) for i in range(5)]
    y, flat = np.arange(5.0), kd.Ragged(np.arange(5.0), np.ones((5, 1), np.int64))
    data = {"rows": rows, "y": y, "flat": flat, "once": iter([np.ones(i % 2) for i in range(5)])}
    splits = {"test": {"rows": [3, 4]}}
    spec = {"X": ["rows", "flat", "once"], "y": "y", "splits": splits, "storage": {"backend": "in-memory"}}
    dataset = kd.load_dataset(spec, data=data)
    expected = dataset[:]
    rows.sort(key=lambda row: -row[0])
    rows[0] += 100
    y -= y.mean()
    flat.values[:] = 7
    for found in (dataset, again(dataset), again(again(dataset))):
        assert equal_tensors(found[:], expected)
    assert equal_tensors(again(dataset.split("test"))[:], dataset.split("test")[:])
    assert dataset.split("test")[:][0]["rows"].tolist() == [[3], [4]]


def test_a_text_that_utf8_cannot_have_is_an_error_with_its_row():
    spec = {"X": "x", "meta": ["s"], "storage": {"backend": "in-memory"}}
    with pytest.raises(SpecError, match=r"column 's', row 1: .* contains half of a character"):
        kd.load_dataset(spec, data={"x": [1.0, 2.0], "s": ["a", "\ud800"]})


@pytest.mark.parametrize("lengths", [(2, 2), (2, 3)])
def test_rows_in_the_other_byte_order_have_their_values(lengths):
    dataset = kd.from_arrays([np.arange(n, dtype=">f8") for n in lengths])
    assert [x.tolist() for x, _ in dataset] == [list(range(n)) for n in lengths]


@pytest.mark.parametrize("progress", [False, True])
def test_of_rows_that_share_a_key_one_is_read_and_kept(progress):
    keys, reads = np.array([7, 2, 7, 7, 0, 2]), []

    class Keyed(ArrayStorage):
        def keys(self, column):
            return keys if column in ("a", "b") else None

        def read(self, rows, columns):
            reads.append((rows.tolist(), list(columns)))
            return super().read(rows, columns)

    class Source(kd.Backend):
        name = "keyed"

        def open(self, columns):
            return Keyed({"a": np.arange(12).reshape(6, 2)[[0, 1, 0, 0, 4, 1]], "b": keys * 1.5, "y": np.arange(6)})

    with InMemory(source=Source(), progress=progress).open(None) as opened:
        assert opened.keys("a") is keys and opened.keys("y") is None
        storage = opened.loaded(["a", "b", "y"])
    assert sorted(reads) == [([0, 1, 2, 3, 4, 5], ["y"]), ([0, 1, 4], ["a", "b"])]
    assert storage.keys("a").tolist() == [0, 1, 0, 0, 2, 1] and storage.keys("a") is storage.keys("b")
    assert storage.keys("y") is None
    read = storage.read(np.arange(6), ["a", "b", "y"])
    assert read["a"][:, 0].tolist() == [0, 2, 0, 0, 8, 2] and read["b"].tolist() == (keys * 1.5).tolist()
    assert read["y"].tolist() == list(range(6))
