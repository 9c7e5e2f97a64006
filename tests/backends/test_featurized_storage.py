"""Which rows have equal inputs, what is read to find out, and how often features are computed."""

import threading
from fractions import Fraction

import numpy as np
import pytest
import torch

from kinoml_data import Array
from kinoml_data.backends.featurized_storage import ROWS_PER_READ, ComputedColumns, FeaturizedStorage
from kinoml_data.backends.featurizer_call import FeaturizerCall
from kinoml_data.columns import LONG, Ragged
from kinoml_data.contracts.backend import Storage
from kinoml_data.errors import FeaturizationError, StoreReadError

SMILES = ["CCO", "C", "CCO", "N", "C", "CCO", "C"]
OF_SMILES = [0, 1, 0, 2, 1, 0, 1]


class Source(Storage):
    """Columns in memory with keys, which records what is read."""

    def __init__(self, columns, keys=None, identity=None):
        self.values = {n: Ragged.from_strings(v) if isinstance(v[0], str) else np.array(v) for n, v in columns.items()}
        self.columns = {n: Array("str" if isinstance(v, Ragged) else v.dtype) for n, v in self.values.items()}
        self.stored_keys, self.identity, self.reads = keys or {}, identity, []

    def __len__(self):
        return len(next(iter(self.values.values())))

    def read(self, rows, columns):
        self.reads.append((rows.tolist(), list(columns)))
        return {n: v.take(rows) if isinstance(v, Ragged) else v.take(rows, axis=0) for n, v in self.shown(columns)}

    def shown(self, columns):
        return [(name, self.values[name]) for name in columns]

    def keys(self, column):
        return self.stored_keys.get(column)

    def shapes(self, column):
        return self.values[column].shapes

    def row_arrays(self):
        return {"offsets": np.arange(3)}


def count_of(function, inputs, objects=None, outputs=None):
    """Columns that a function computes, and the list of its calls."""
    calls = []

    def count(*raw):
        calls.append(raw[0] if len(raw) == 1 else raw)
        return function(*raw)

    outputs = {"n": Array("int64")} if outputs is None else outputs
    return ComputedColumns(FeaturizerCall(count, outputs, "count"), list(outputs), inputs, objects or {}), calls


def stored(source, inputs=("smiles",), function=len, budget=1 << 20):
    computed, calls = count_of(function, inputs)
    return FeaturizedStorage([computed], source, budget), calls


def all_rows(storage, *columns):
    return storage.read(np.arange(len(storage)), columns)


# -- keys


def test_rows_with_equal_text_share_a_key_in_the_smallest_type():
    storage, calls = stored(Source({"smiles": SMILES, "y": range(7)}))
    keys = storage.keys("n")
    assert keys.tolist() == OF_SMILES and keys.dtype == np.uint8 and storage.keys("y") is None and calls == []
    assert storage.keys("n") is keys
    assert all_rows(storage, "n", "y")["n"].tolist() == [len(smiles) for smiles in SMILES]
    assert calls == ["CCO", "C", "N"]


def test_all_outputs_of_a_featurizer_have_the_same_keys_and_those_of_another_one_have_others():
    source = Source({"smiles": SMILES, "kinase": ["A", "B", "B", "B", "B", "A", "A"]})
    two, calls = count_of(lambda s: (len(s), 1.0), ["smiles"], outputs={"n": Array("int64"), "m": Array("float32")})
    other, others = count_of(len, ["kinase"], outputs={"k": Array("int64")})
    storage = FeaturizedStorage([two, other], source, 1 << 20)
    assert storage.keys("n") is storage.keys("m") and storage.keys("k").tolist() == [0, 1, 1, 1, 1, 0, 0]
    batch = all_rows(storage, "k", "n", "m")
    assert batch["n"].tolist() == [3, 1, 3, 1, 1, 3, 1] and batch["k"].tolist() == [1] * 7
    all_rows(storage, "n")
    assert calls == ["CCO", "C", "N"] and others == ["A", "B"]


def test_rows_share_a_key_only_if_all_inputs_are_equal():
    source = Source({"smiles": SMILES, "pH": [7.0, 7.0, 7.0, 7.0, 6.0, 5.0, 7.0]})
    storage, calls = stored(source, ("smiles", "pH"), lambda smiles, ph: int(ph) * 100 + len(smiles))
    assert storage.keys("n").tolist() == [0, 1, 0, 2, 3, 4, 1]
    assert all_rows(storage, "n")["n"].tolist() == [703, 701, 703, 701, 601, 503, 701]
    assert [(smiles, float(ph)) for smiles, ph in calls] == [("CCO", 7), ("C", 7), ("N", 7), ("C", 6), ("CCO", 5)]


def test_rows_that_all_differ_have_no_keys():
    source = Source({"smiles": ["C", "CC", "CCC"]})
    storage, calls = stored(source)
    assert storage.keys("n") is None
    assert all_rows(storage, "n")["n"].tolist() == [1, 2, 3] and len(calls) == 3
    storage, _ = stored(Source({"smiles": ["C"]}))
    assert storage.keys("n") is None and all_rows(storage, "n")["n"].tolist() == [1]


def test_numbers_are_compared_bit_for_bit():
    zeros = Source({"x": np.array([0.0, -0.0, 0.0, np.nan, np.nan])})
    storage, calls = stored(zeros, ("x",), lambda x: int(np.signbit(x)))
    assert storage.keys("n").tolist() == [0, 1, 0, 2, 2]
    assert all_rows(storage, "n")["n"].tolist()[:3] == [0, 1, 0] and len(calls) == 3


def test_values_are_compared_across_the_batches_in_which_they_are_read():
    length = 2 * ROWS_PER_READ + 5
    long = ["A" * LONG, "B" * (LONG + 1), "A" * (LONG - 1), "C"]
    smiles = [long[row % 3] for row in range(length - 1)] + [long[3]]
    source = Source({"smiles": smiles})
    storage, calls = stored(source)
    assert storage.keys("n").tolist() == [row % 3 for row in range(length - 1)] + [3]
    assert [len(rows) for rows, _ in source.reads] == [ROWS_PER_READ, ROWS_PER_READ, 5]
    assert all_rows(storage, "n")["n"].tolist() == list(map(len, smiles)) and len(calls) == 4


def test_many_distinct_inputs_have_keys_of_a_wider_type():
    texts = [str(row) for row in range(300)]
    keys = stored(Source({"smiles": texts * 2}))[0].keys("n")
    assert keys.dtype == np.uint16 and keys.tolist() == [*range(300)] * 2


# -- what is read


def test_nothing_is_read_before_keys_or_rows_are_asked_for_and_inputs_are_compared_once():
    source = Source({"smiles": SMILES, "y": range(7)})
    storage, _ = stored(source)
    len(storage), storage.columns, storage.row_arrays(), storage.shapes("n"), all_rows(storage, "y")
    assert [columns for _, columns in source.reads] == [["y"]]
    for _ in range(2):
        storage.keys("n")
        all_rows(storage, "n")
    assert source.reads[1:] == [(list(range(7)), ["smiles"]), ([0, 1, 3], ["smiles"])]


def test_of_an_input_with_keys_one_row_of_each_key_is_read():
    keys = np.array([4, 0, 4, 2, 1, 4, 0], np.uint8)  # C has two of them
    source = Source({"smiles": SMILES}, {"smiles": keys})
    storage, calls = stored(source)
    assert storage.keys("n").tolist() == OF_SMILES
    assert source.reads == [([0, 1, 3, 4], ["smiles"])]
    assert all_rows(storage, "n")["n"].tolist() == [len(smiles) for smiles in SMILES] and len(calls) == 3


def test_columns_of_the_source_have_the_keys_and_shapes_of_the_source():
    source = Source({"smiles": SMILES}, {"smiles": np.array(OF_SMILES)})
    storage, _ = stored(source)
    assert storage.keys("smiles") is source.stored_keys["smiles"]
    assert storage.shapes("smiles") is source.values["smiles"].shapes and storage.shapes("n") is None


@pytest.mark.parametrize("keys", [np.arange(6), np.array([0, 1, 0, 2, 1, 0, -1])], ids=["too few", "negative"])
def test_keys_of_the_source_that_are_not_those_of_its_rows_are_an_error(keys):
    storage, _ = stored(Source({"smiles": SMILES}, {"smiles": keys}))
    with pytest.raises(StoreReadError, match="Source is wrong: the keys of column 'smiles'"):
        all_rows(storage, "n")


def test_threads_compare_the_inputs_once():
    source = Source({"smiles": SMILES})
    storage, _ = stored(source)
    barrier, found = threading.Barrier(4), []

    def ask():
        barrier.wait()
        found.append(storage.keys("n"))

    threads = [threading.Thread(target=ask) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(source.reads) == 1 and len({id(keys) for keys in found}) == 1 and len(found) == 4


# -- Python objects


class Lazy:
    def __init__(self, values):
        self.values = values

    def __len__(self):
        return len(self.values)

    def __getitem__(self, row):
        return self.values[row]


OBJECTS = {
    "text": (["a", "b", "a"], [0, 1, 0]),
    "bytes and text": (["a", b"a", "a"], [0, 1, 0]),
    "one, true and 1.0": ([1, True, 1.0, 1, True, 1.0], [0, 1, 2, 0, 1, 2]),
    "zeros": ([0.0, -0.0, 0.0], [0, 1, 0]),
    "not a number": ([float("nan"), float("nan"), 1.0], [0, 0, 1]),
    "numpy scalars": ([np.float32(1), np.float64(1), 1.0, np.float32(1), np.str_("1"), "1"], [0, 1, 2, 0, 3, 4]),
    "a tuple": (("a", "a"), [0, 0]),
    "an array": (np.array([[1, 2], [3, 4], [1, 2]]), [0, 1, 0]),
    "an array of text": (np.array(["a", "bb", "a"]), [0, 1, 0]),
    "an array of objects": (np.array(["a", 5, "a"], object), [0, 1, 0]),
    "ragged": (Ragged.from_rows([np.ones((1, 2)), np.ones((2, 1)), np.ones((1, 2))], "f8", 2), [0, 1, 0]),
    "fractions": ([Fraction(1), Fraction(1)], None),
    "None": (["a", None, "a"], None),
    "arrays in a list": ([np.ones(2), np.ones(2)], None),
    "lists in an array": (np.array([[1], None, None], object)[1:], None),
    "a sequence of its own": (Lazy(["a", "a"]), None),
    "a tensor": (torch.ones(3), None),
    "a masked array": (np.ma.masked_equal([1, 2, 1], 2), None),
}


@pytest.mark.parametrize(("values", "keys"), OBJECTS.values(), ids=OBJECTS)
def test_python_objects_share_a_key_only_if_they_are_plain_and_equal(values, keys):
    computed, _ = count_of(lambda value: 0, ["raw"], {"raw": values})
    found = FeaturizedStorage([computed], None, 0).keys("n")
    assert (found is None and keys is None) or found.tolist() == keys


def test_objects_of_the_caller_and_columns_of_the_source_may_both_be_inputs():
    computed, calls = count_of(lambda n, smiles: n * len(smiles), ["n", "smiles"], {"n": [2, 2, 2, 2, 2, 3, 2]})
    storage = FeaturizedStorage([computed], Source({"smiles": SMILES}), 1 << 20)
    assert storage.keys("n").tolist() == [0, 1, 0, 2, 1, 3, 1]
    assert all_rows(storage, "n")["n"].tolist() == [6, 2, 6, 2, 2, 9, 2] and len(calls) == 4


# -- memory


def test_features_are_remembered_by_content_and_not_by_row():
    storage, calls = stored(Source({"smiles": SMILES}))
    assert storage.read(np.array([0]), ["n"])["n"].tolist() == [3] and calls == ["CCO"]
    assert storage.read(np.array([5, 2, 3]), ["n"])["n"].tolist() == [3, 3, 1] and calls == ["CCO", "N"]


def test_without_a_budget_a_batch_computes_each_of_its_distinct_inputs_once():
    storage, calls = stored(Source({"smiles": SMILES}), budget=0)
    for _ in range(2):
        assert all_rows(storage, "n")["n"].tolist() == [len(smiles) for smiles in SMILES]
    assert calls == ["CCO", "C", "N"] * 2


def test_an_error_names_the_first_row_of_the_batch_that_has_the_input():
    def picky(smiles):
        return 1 // (len(smiles) - 3)

    storage, calls = stored(Source({"smiles": SMILES}), function=picky)
    with pytest.raises(FeaturizationError, match="'count' failed for row 5: ZeroDivisionError"):
        storage.read(np.array([4, 5, 2]), ["n"])
    assert storage.read(np.array([1, 4]), ["n"])["n"].tolist() == [-1, -1] and calls == ["C", "CCO"]


def test_text_that_a_featurizer_computes_is_a_column_of_text():
    computed, _ = count_of(str.lower, ["smiles"], outputs={"lower": Array("str")})
    storage = FeaturizedStorage([computed], Source({"smiles": SMILES}), 1 << 20)
    assert all_rows(storage, "lower")["lower"].strings() == [smiles.lower() for smiles in SMILES]
    assert storage.read(np.arange(0), ["lower"])["lower"].strings() == []


# -- other processes


def test_another_process_does_not_compare_the_inputs_again():
    storage, _ = stored(Source({"smiles": SMILES}, identity="1"))
    assert set(storage.row_arrays()) == {"source.offsets"}
    keys = storage.keys("n")
    shared = dict(storage.row_arrays())
    assert shared["keys.0"] is keys
    again = Source({"smiles": SMILES}, identity="1")
    other, _ = stored(again)
    other.share_row_arrays(shared)
    assert other.keys("n") is keys and again.reads == []


def test_keys_of_another_process_are_not_trusted_if_a_change_of_the_source_goes_unnoticed():
    storage, _ = stored(Source({"smiles": SMILES}))
    storage.keys("n")
    other, _ = stored(Source({"smiles": SMILES[::-1]}))
    other.share_row_arrays(storage.row_arrays())
    assert all_rows(other, "n")["n"].tolist() == [len(smiles) for smiles in SMILES[::-1]]


def test_keys_of_python_objects_are_those_of_another_process():
    (first, _), (second, _) = (count_of(len, ["raw"], {"raw": list(SMILES)}) for _ in range(2))
    keys = FeaturizedStorage([first], None, 0).keys("n")
    other = FeaturizedStorage([second], None, 0)
    other.share_row_arrays({"keys.0": keys})
    assert other.keys("n") is keys
