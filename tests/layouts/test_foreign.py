"""Containers of pandas, polars, Arrow and others are read by row, or refused with what to write instead."""

from __future__ import annotations

import array
import io
from collections import deque
from datetime import date
from decimal import Decimal

import awkward as ak
import numpy as np
import pandas as pd
import pyarrow as pa
import pytest
import torch

import kinoml_data as kd
from kinoml_data.errors import SpecError, quoted
from kinoml_data.layouts.foreign import is_missing, refusal, rows_of, table_of

h5py, ml_dtypes = pytest.importorskip("h5py"), pytest.importorskip("ml_dtypes")
pl, sparse = pytest.importorskip("polars"), pytest.importorskip("scipy.sparse")
SHUFFLED = pd.Series([1.5, 2.5, 3.5], index=[2, 0, 1])
BY_ROW = {
    "a Series with another index": (SHUFFLED, "float64", [1.5, 2.5, 3.5]),
    "a Series with text as its index": (pd.Series([1, 2], index=["b", "a"]), "int64", [1, 2]),
    "a Series with a repeated index": (pd.Series([1, 2], index=[0, 0]), "int64", [1, 2]),
    "a Series of rows": (pd.Series([np.ones(2), np.zeros(2)], index=[7, 3]), "float64", [[1, 1], [0, 0]]),
    "a pandas index": (pd.Index([3, 1]), "int64", [3, 1]),
    "nullable integers": (pd.Series([1, 2], dtype="Int64"), "int64", [1, 2]),
    "nullable bools": (pd.Series([True, False], dtype="boolean"), "bool", [True, False]),
    "nullable floats": (pd.array([0.5, 1.5], dtype="Float32"), "float32", [0.5, 1.5]),
    "Arrow in pandas": (pd.Series([1, 2], dtype="int32[pyarrow]"), "int32", [1, 2]),
    "a categorical of numbers": (pd.Series([5, 6, 5], dtype="category"), "int64", [5, 6, 5]),
    "a polars Series": (pl.Series([1.0, 2.0]), "float64", [1, 2]),
    "polars lists": (pl.Series([[1, 2], [3, 4]]), "int64", [[1, 2], [3, 4]]),
    "an Arrow array": (pa.array([1.0, 2.0], pa.float32()), "float32", [1, 2]),
    "a slice of an Arrow array": (pa.array([1, 2, 3])[1:], "int64", [2, 3]),
    "a chunked Arrow array": (pa.chunked_array([[1], [2, 3]]), "int64", [1, 2, 3]),
    "Arrow tensors": (
        pa.FixedShapeTensorArray.from_numpy_ndarray(np.arange(8.0).reshape(2, 2, 2)),
        "float64",
        [[[0, 1], [2, 3]], [[4, 5], [6, 7]]],
    ),
    "an Arrow dictionary": (pa.array([4, 5, 4]).dictionary_encode(), "int64", [4, 5, 4]),
    "a matrix": (np.ones((2, 2), np.int64).view(np.matrix), "int64", [[1, 1], [1, 1]]),
    "a masked array without gaps": (np.ma.array([1.0, 2.0]), "float64", [1, 2]),
    "a memoryview": (memoryview(np.array([[1, 2], [3, 4]], np.int32)), "int32", [[1, 2], [3, 4]]),
    "an array.array": (array.array("f", [1, 2]), "float32", [1, 2]),
    "a deque": (deque([1, 2]), "int64", [1, 2]),
    "the values of a dict": ({"a": 1.0, "b": 2.0}.values(), "float64", [1, 2]),
    "zip": (zip([1, 2], [3, 4], strict=True), "int64", [[1, 3], [2, 4]]),
    "a generator": ((i * 0.5 for i in range(2)), "float64", [0, 0.5]),
    "a conjugate": (torch.ones(2, dtype=torch.complex64).conj(), "complex64", [1, 1]),
    "a sparse Series": (pd.Series(pd.arrays.SparseArray([0.0, 1.0])), "float64", [0, 1]),
    "a polars array": (pl.Series([[1.0, 2.0]], dtype=pl.Array(pl.Float64, 2)), "float64", [[1, 2]]),
    "a parameter": (torch.nn.Parameter(torch.ones(2)), "float32", [1, 1]),
    "a nested tensor of equal rows": (torch.nested.nested_tensor([torch.ones(2), torch.zeros(2)]), "float32", None),
}


@pytest.mark.parametrize(("values", "dtype", "rows"), BY_ROW.values(), ids=BY_ROW)
def test_containers_are_read_by_row(values, dtype, rows):
    dataset = kd.from_arrays(values)
    assert dataset.spec.columns["X"].dtype == dtype
    assert dataset[:][0].tolist() == (rows or [[1, 1], [0, 0]])


def test_rows_of_different_lengths_come_from_arrow_polars_and_nested_tensors():
    rows = [[1.0], [], [2.0, 3.0]]
    nested = torch.nested.nested_tensor([torch.tensor(row) for row in rows])
    for values in (pa.array(rows), pl.Series(rows), pd.Series(rows, index=[5, 5, 1]), nested, ak.Array(rows)):
        assert [x.tolist() for x, _ in kd.from_arrays(values)] == rows


def test_a_dataset_of_hdf5_is_read_by_row(tmp_path):
    with h5py.File(tmp_path / "x.h5", "w") as file:
        assert kd.from_arrays(file.create_dataset("X", data=[[1, 2], [3, 4]]))[1][0].tolist() == [3, 4]


TEXTS = {
    "pandas": pd.Series(["C", "CC"], index=[1, 0]),
    "pandas string": pd.Series(["C", "CC"], dtype="string"),
    "pandas categorical": pd.Series(["C", "CC"], dtype="category"),
    "pandas Arrow": pd.Series(["C", "CC"], dtype="string[pyarrow]"),
    "polars": pl.Series(["C", "CC"]),
    "polars categorical": pl.Series(["C", "CC"], dtype=pl.Categorical),
    "Arrow": pa.array(["C", "CC"]),
    "Arrow view": pa.array(["C", "CC"], pa.string_view()),
    "numpy": np.array(["C", "CC"]),
    "numpy strings": np.array(["C", "CC"], dtype=np.dtypes.StringDType()),
}


@pytest.mark.parametrize("texts", TEXTS.values(), ids=TEXTS)
def test_text_is_a_column_for_meta(texts):
    spec = {"X": "x", "meta": ["s"], "storage": {"backend": "in-memory"}}
    dataset = kd.load_dataset(spec, data={"x": [1.0, 2.0], "s": texts})
    assert list(dataset.column("s")) == ["C", "CC"]


REFUSED = {
    "a DataFrame as one column": ({"a": pd.DataFrame({"x": [1]})}, r"is a DataFrame of pandas; write `.to_numpy\(\)`"),
    "an Arrow table as one column": ({"a": pa.table({"x": [1]})}, "is a Table of pyarrow"),
    "a lazy frame": (pl.LazyFrame({"x": [1]}), "is a LazyFrame of polars"),
    "a sparse array": (sparse.csr_array(np.eye(2)), r"write `.toarray\(\)`"),
    "a sparse matrix": (sparse.csr_matrix(np.eye(2)), r"write `.toarray\(\)`"),
    "a sparse tensor": (torch.eye(2).to_sparse(), r"write `.to_dense\(\)`"),
    "bfloat16 of torch": (torch.zeros(2, dtype=torch.bfloat16), r"write `.float\(\)`"),
    "bfloat16 of numpy": (np.zeros(2, ml_dtypes.bfloat16), r'write `.astype\("float32"\)`'),
    "float8 of numpy": (np.zeros(2, ml_dtypes.float8_e4m3fn), r'write `.astype\("float32"\)`'),
    "bytes": (np.array([b"C"]), r"decode it to text"),
    "a list of bytes": ([b"C"], r"decode it to text"),
    "decimals": ([Decimal("1.5")], r"row 0 has dtype object, with a value of type Decimal.*`float\(\)`"),
    "decimals of Arrow": (pa.array([Decimal("1.5")]), r'write `.cast\("float64"\)`'),
    "dates": ([date(2000, 1, 1)], r"such as with `.toordinal\(\)`"),
    "dates of numpy": (np.array(["2000-01-01"], "M8[D]"), r'write `.astype\("int64"\)`'),
    "differences of times": (pd.Series(pd.to_timedelta([1, 2])), r'write `.astype\("int64"\)`'),
    "a missing date": (pd.Series(pd.to_datetime(["2000-01-01", None])), r'write `.astype\("int64"\)`'),
    "times in a zone": (pd.Series(pd.to_datetime(["2000-01-01"], utc=True)), r'write `.astype\("int64"\)`'),
    "dates of Arrow": (pa.array([1], pa.date32()), r'write `.cast\("int32"\)`'),
    "hours of Arrow": (pa.array([1], pa.time64("us")), r'write `.cast\("int64"\)`'),
    "records of Arrow": (pa.array([{"a": 1}]), r"such as `.field\(name\)`"),
    "nulls of Arrow": (pa.nulls(2), "row 0: a value is missing"),
    "rows as dicts": ([{"a": 1}, {"a": 2}], r"such as with `pandas.DataFrame\(rows\)`"),
    "a missing category of numbers": (pd.Series([1, None], dtype="category"), "row 1: a value is missing"),
    "a loader": (torch.utils.data.DataLoader([1, 2]), r"is a DataLoader, .*`torch.stack"),
    "a dataset of tensors": (torch.utils.data.TensorDataset(torch.ones(2)), "is a TensorDataset"),
    "numbered values": (enumerate([1.0]), "is not a sequence of rows"),
    "an open file": (io.StringIO("1\n2\n"), "give the path of a file to load_dataset"),
    "groups": (pd.DataFrame({"a": [1]}).groupby("a"), "column 'X'"),
    "a tensor without values": (torch.ones(2, device="meta"), "on the device meta has no values"),
    "dates of pandas": (pd.Series(pd.to_datetime(["2000-01-01"])), r'write `.astype\("int64"\)`'),
    "times of Arrow": (pa.array([1], pa.timestamp("s")), r'write `.cast\("int64"\)`'),
    "long doubles": (np.zeros(2, np.longdouble), r'write `.astype\("float64"\)`'),
    "a set": ({1, 2}, "give a list or an array"),
    "the keys of a dict": ({"a": 1}.keys(), "give a list or an array"),
    "a bytearray": (bytearray(b"ab"), "give a list or an array"),
    "a null of pandas": (pd.Series([1, None], dtype="Int64"), "column 'X', row 1: a value is missing"),
    "a null of polars": (pl.Series([1.0, None]), "row 1: a value is missing"),
    "a null of Arrow": (pa.chunked_array([[1.0], [2.0, None]]), "row 2: a value is missing"),
    "a missing text of pandas": (pd.Series(["C", None]), "row 1: a text is missing"),
    "a NaN among text": (pd.Series(["C", np.nan]), "row 1: a text is missing"),
    "a missing text of pandas string": (pd.Series(["C", None], dtype="string"), "row 1: a text is missing"),
    "a missing text of Arrow": (pa.array(["C", None]), "row 1: a text is missing"),
    "a missing category": (pd.Series(["C", None], dtype="category"), "row 1: a text is missing"),
    "a number among text": (pd.Series(["C", 5]), "contains text, but row 1 has 5"),
    "names that are numbers": (pd.DataFrame(np.ones((2, 2))), "the column name 0 is not text; rename it"),
    "names that repeat": (pd.DataFrame([[1, 2]], columns=["a", "a"]), "two columns have the name 'a'"),
}


@pytest.mark.parametrize(("values", "said"), REFUSED.values(), ids=REFUSED)
def test_other_containers_are_refused_with_what_to_write(values, said):
    with pytest.raises(SpecError, match=said):
        kd.from_arrays(values)


def test_a_dataset_of_datasets_is_refused_with_the_way_to_a_table():
    class Dataset(list):
        def to_pandas(self):
            return pd.DataFrame({"a": self})

    Dataset.__module__ = "datasets.arrow_dataset"
    with pytest.raises(SpecError, match=r"is a Dataset of datasets; write `.to_pandas\(\)`"):
        kd.from_arrays(Dataset([1.0]))


def test_a_torch_dataset_is_refused_with_how_to_list_its_rows():
    class Rows(torch.utils.data.Dataset):
        def __getitem__(self, index):
            return index

    with pytest.raises(SpecError, match=r"write `\[dataset\[i\] for i in range\(len\(dataset\)\)\]`"):
        kd.from_arrays(Rows())


TABLES = {
    "pandas": pd.DataFrame({"a": [1.0, 2.0], "b": [3.0, 4.0], "y": [5.0, 6.0]}, index=[9, 3]),
    "polars": pl.DataFrame({"a": [1.0, 2.0], "b": [3.0, 4.0], "y": [5.0, 6.0]}),
    "Arrow": pa.table({"a": [1.0, 2.0], "b": [3.0, 4.0], "y": [5.0, 6.0]}),
    "Arrow batch": pa.record_batch({"a": [1.0, 2.0], "b": [3.0, 4.0], "y": [5.0, 6.0]}),
    "awkward": ak.Array([{"a": 1.0, "b": 3.0, "y": 5.0}, {"a": 2.0, "b": 4.0, "y": 6.0}]),
    "structured": np.array([(1.0, 3.0, 5.0), (2.0, 4.0, 6.0)], [("a", "f8"), ("b", "f8"), ("y", "f8")]),
}


@pytest.mark.parametrize("table", TABLES.values(), ids=TABLES)
def test_a_table_is_columns_by_name(table):
    dataset = kd.load_dataset({"X": ["a", "b"], "y": "y", "storage": {"backend": "in-memory"}}, data=table)
    X, y = dataset[1]
    assert (X["a"], X["b"], y) == (2, 4, 6) and len(dataset) == 2
    assert kd.from_arrays(table)[0][0]["b"] == 3


def test_X_may_be_a_DataFrame_and_y_a_Series():
    df = TABLES["pandas"]
    (X, y) = kd.from_arrays(X=df[["a", "b"]], y=df["y"])[:]
    assert X["a"].tolist() == [1, 2] and X["b"].tolist() == [3, 4] and y.tolist() == [5, 6]


@pytest.mark.parametrize("data", [[{"a": 1}], 5, np.ones(3), pd.Series([1.0])], ids=lambda v: type(v).__name__)
def test_what_is_not_a_table_is_refused_by_its_type(data):
    assert table_of(data) is None
    with pytest.raises(SpecError, match=r"a value of type .* is not a mapping of columns to values; give"):
        kd.load_dataset({"X": "a", "storage": {"backend": "in-memory"}}, data=data)


GAPS = {
    "pandas": pd.Series([1, None], dtype="Int64"),
    "polars": pl.Series([1, None]),
    "Arrow": pa.array([1.0, None]),
    "list": [1.0, None],
    "masked": np.ma.array([1.0, 2.0], mask=[False, True]),
    "NA among objects": pd.Series([1.0, pd.NA], dtype=object),
}


@pytest.mark.parametrize("values", GAPS.values(), ids=GAPS)
def test_a_gap_becomes_NaN_if_the_spec_says_so(values):
    columns = {"a": {"dtype": "float64", "missing": "nan"}}
    dataset = kd.load_dataset({"columns": columns, "X": "a", "storage": {"backend": "in-memory"}}, data={"a": values})
    assert dataset[0][0] == 1 and torch.isnan(dataset[1][0])


INEXACT = {  # the second row is an integer that neither float32 nor float64 contains
    "pandas": pd.Series([1, 2**53 + 1, None], dtype="Int64"),
    "pandas category": pd.Series(pd.array([1, 2**53 + 1, None], dtype="Int64"), dtype="category"),
    "pandas Arrow": pd.Series([1, 2**53 + 1, None], dtype="int64[pyarrow]"),
    "polars": pl.Series([1, 2**53 + 1, None]),
    "Arrow": pa.array([1, 2**53 + 1, None]),
    "list": [1, 2**53 + 1, None],
    "masked": np.ma.array([1, 2**53 + 1, 0], mask=[0, 0, 1]),
    "NA among objects": pd.Series([1, 2**53 + 1, pd.NA], dtype=object),
}


@pytest.mark.parametrize("dtype", ["float32", "float64"])
@pytest.mark.parametrize("values", INEXACT.values(), ids=INEXACT)
def test_an_integer_among_gaps_is_never_rounded(values, dtype):
    spec = {"columns": {"a": {"dtype": dtype, "missing": "nan"}}, "X": "a", "storage": {"backend": "in-memory"}}
    with pytest.raises(SpecError, match=rf"column 'a', row 1: 9007199254740993 does not fit {dtype}"):
        kd.load_dataset(spec, data={"a": values})


def test_gaps_of_a_masked_array_with_axes():
    for dtype in ("int64", "bool", "float32"):
        values = np.ma.array(np.ones((2, 2, 3), dtype), mask=np.arange(12).reshape(2, 2, 3) == 7)
        columns = {"a": {"dtype": "float32", "shape": [2, 3], "missing": "nan"}}
        spec = {"columns": columns, "X": "a", "storage": {"backend": "in-memory"}}
        X, _ = kd.load_dataset(spec, data={"a": values})[:]
        assert torch.isnan(X).nonzero().tolist() == [[1, 0, 1]] and X.nansum() == 11
    with pytest.raises(SpecError, match="is a masked array; fill in its missing values first"):
        kd.load_dataset(spec, data={"a": np.ma.array([1j, 2j], mask=[0, 1])})


def test_a_message_names_the_type_of_a_table_and_does_not_show_it():
    assert quoted(TABLES["pandas"]) == "a value of type DataFrame"
    assert quoted(np.ones((3, 3))) == "a value of type ndarray"


@pytest.mark.parametrize("name", [name for name in REFUSED if "text" in name or name == "a missing category"])
def test_a_missing_text_becomes_the_text_that_the_spec_names(name):
    values = REFUSED[name][0]
    columns = {"X": {"dtype": "float32"}, "t": {"dtype": "str", "missing": "?"}}
    spec = {"storage": {"backend": "in-memory"}, "columns": columns, "X": "X", "meta": ["t"]}
    if "number" in name:
        with pytest.raises(SpecError, match=REFUSED[name][1]):
            kd.load_dataset(spec, data={"X": [1, 2], "t": values})
    else:
        assert kd.load_dataset(spec, data={"X": [1, 2], "t": values}).column("t") == ["C", "?"]


@pytest.mark.parametrize("values", [[None, None], pa.nulls(2), pd.Series([None, None], dtype="string")], ids=type)
def test_a_column_without_any_text_is_that_text(values):
    columns = {"X": {"dtype": "float32"}, "t": {"dtype": "str", "missing": ""}}
    spec = {"storage": {"backend": "in-memory"}, "columns": columns, "X": "X", "meta": ["t"]}
    assert kd.load_dataset(spec, data={"X": [1, 2], "t": values}).column("t") == ["", ""]


def test_missing_values():
    assert all(map(is_missing, [None, float("nan"), np.float32("nan"), pd.NA, pd.NaT]))
    assert not any(map(is_missing, [0, "", "nan", False]))
    assert "no tensor" in str(refusal("column 'a'", np.array([{}])))
    assert rows_of("column 'a'", range(3), None) == [0, 1, 2]
