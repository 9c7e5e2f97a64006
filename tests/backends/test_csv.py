from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from kinoml_data.backends.csv import Csv
from kinoml_data.backends.parquet.backend import ParquetAwkward
from kinoml_data.columns import Column, Ragged
from kinoml_data.errors import CorruptStoreError, SpecError, StoreNotFoundError
from kinoml_data.factory import load_dataset
from kinoml_data.spec.array import Array
from kinoml_data.spec.dataset_spec import DatasetSpec


def read_all(path: Path, text: str | bytes, columns: dict[str, Array] | None = None, **options: Any) -> dict[str, Any]:
    """The columns of a file with this text: arrays, and lists of strings."""
    path = path / "t.csv"
    path.write_bytes(text if isinstance(text, bytes) else text.encode())
    storage = Csv(path=path, **options).open(columns)
    found: dict[str, Column] = dict(storage.read(np.arange(len(storage)), list(storage.columns)))
    return {name: column.strings() if isinstance(column, Ragged) else column for name, column in found.items()}


def assert_same(found: np.ndarray, expected: np.ndarray) -> None:
    assert (found.dtype, found.shape, found.tobytes()) == (expected.dtype, expected.shape, expected.tobytes())


def test_a_table_gives_integers_floats_and_strings(tmp_path: Path) -> None:
    found = read_all(tmp_path, "id,smiles,count,pIC50\nCHEMBL1,CCO,3,6.5\nCHEMBL2,c1ccccc1,-4,7\n")
    assert list(found) == ["id", "smiles", "count", "pIC50"]
    assert found["id"] == ["CHEMBL1", "CHEMBL2"]
    assert found["smiles"] == ["CCO", "c1ccccc1"]
    assert_same(found["count"], np.array([3, -4]))
    assert_same(found["pIC50"], np.array([6.5, 7.0]))


@pytest.mark.parametrize(
    "text", ["0.1", "1e-310", "-0", "-0.0", "+2.5", "1.7976931348623157e308", ".5", "5.", "1E5", "inf"]
)
def test_a_float_is_the_nearest_one_to_its_text(tmp_path: Path, text: str) -> None:
    found = read_all(tmp_path, f"x\n0.25\n{text}\n")["x"]
    assert_same(found, np.array([0.25, float(text)]))


@pytest.mark.parametrize("dtype", ["float16", "float32", "float64"])
def test_a_dtype_of_the_spec_is_read_from_the_text_itself(tmp_path: Path, dtype: str) -> None:
    texts = ["0.1", "-0", "2049" if dtype == "float16" else "16777217", "nan", "-inf", "5.960464477539063e-08"]
    found = read_all(tmp_path, "\n".join(["x", *texts]), {"x": Array(dtype)})["x"]
    assert found.dtype == dtype
    expected = np.array([float(text) for text in texts]).astype(dtype)
    np.testing.assert_array_equal(found, expected)
    assert np.signbit(found[1])


@pytest.mark.parametrize("dtype", ["int8", "int16", "int32", "int64", "uint8", "uint16", "uint32", "uint64"])
def test_every_integer_of_a_dtype_is_read(tmp_path: Path, dtype: str) -> None:
    values = np.array([np.iinfo(dtype).min, np.iinfo(dtype).max, 7], dtype)
    found = read_all(tmp_path, "\n".join(["x", *map(str, values)]), {"x": Array(dtype)})["x"]
    assert_same(found, values)


def test_bools_are_read_where_the_spec_says_so(tmp_path: Path) -> None:
    text = "x\ntrue\nFalse\n1\n0\n"
    assert_same(read_all(tmp_path, text, {"x": Array("bool")})["x"], np.array([True, False, True, False]))
    assert read_all(tmp_path, text)["x"] == ["true", "False", "1", "0"]


def test_digits_stay_text_where_the_spec_says_so(tmp_path: Path) -> None:
    found = read_all(tmp_path, "id,y\n1,2\n007,3\n", {"id": Array("str"), "y": Array("float32")})
    assert found["id"] == ["1", "007"]
    assert_same(found["y"], np.array([2, 3], "f4"))


@pytest.mark.parametrize("texts", [["007", "008"], ["0x1f", "0x20"], ["2020-01-01", "2020-01-02"], ["12:30", "12:31"]])
def test_text_that_only_looks_like_a_number_stays_text(tmp_path: Path, texts: list[str]) -> None:
    assert read_all(tmp_path, "\n".join(["x", *texts]))["x"] == texts


def test_integers_that_fit_no_int64_are_not_rounded(tmp_path: Path) -> None:
    text = "x\n1\n18446744073709551615\n"
    with pytest.raises(SpecError, match="column 'x', row 1: '18446744073709551615' is not a valid int64"):
        read_all(tmp_path, text)
    assert_same(read_all(tmp_path, text, {"x": Array("uint64")})["x"], np.array([1, 2**64 - 1], "u8"))


def test_na_is_text_among_text_and_nan_is_nan_among_numbers(tmp_path: Path) -> None:
    found = read_all(tmp_path, "a,b\nNA,nan\nnan,1\nCCO,NaN\n")
    assert found["a"] == ["NA", "nan", "CCO"]
    np.testing.assert_array_equal(found["b"], [np.nan, 1, np.nan])


@pytest.mark.parametrize("missing", ["NA", "N/A", "null", "None", '""', '" "'])
def test_a_missing_value_among_numbers_is_named(tmp_path: Path, missing: str) -> None:
    text = f"a,x\np,1\nq,2.5\nr,{missing}\n"
    with pytest.raises(CorruptStoreError, match=r"t\.csv: column 'x', row 2: a value is missing"):
        read_all(tmp_path, text)
    assert len(read_all(tmp_path, text, {"x": Array("str")})["x"]) == 3


@pytest.mark.parametrize("columns", [None, {"a": Array("str"), "x": Array("float32")}])
def test_an_empty_cell_is_a_missing_value(tmp_path: Path, columns: dict[str, Array] | None) -> None:
    with pytest.raises(CorruptStoreError, match="column 'x', row 1: a value is missing"):
        read_all(tmp_path, "a,x\np,1\nq,\n", columns)
    with pytest.raises(CorruptStoreError, match="column 'a', row 1: a value is missing"):
        read_all(tmp_path, "a,x\np,1\n,2\n", columns)


def test_a_quoted_empty_string_is_a_string(tmp_path: Path) -> None:
    assert read_all(tmp_path, 'a,x\n"",1\n"b",2\n')["a"] == ["", "b"]


def test_an_empty_line_in_one_column_is_a_missing_value_and_no_row_is_lost(tmp_path: Path) -> None:
    with pytest.raises(CorruptStoreError, match="row 1: a value is missing"):
        read_all(tmp_path, "x\n1\n\n3\n")
    assert len(read_all(tmp_path, "x,y\n1,2\n\n3,4\n")["x"]) == 2


def test_quotes_delimiters_and_line_ends_inside_quotes_are_text(tmp_path: Path) -> None:
    found = read_all(tmp_path, 'a,b\r\n"x,y",1\r\n"two\nlines",2\r\n"say ""hi""",3\r\n')
    assert found["a"] == ["x,y", "two\nlines", 'say "hi"']
    assert found["b"].tolist() == [1, 2, 3]


def test_a_smi_file_is_read_with_names(tmp_path: Path) -> None:
    text = "CC(=O)Nc1ccc(O)cc1 paracetamol\nC/C=C\\C but-2-ene\n"
    found = read_all(tmp_path, text, delimiter=" ", header=False, names=("smiles", "id"))
    assert found == {"smiles": ["CC(=O)Nc1ccc(O)cc1", "C/C=C\\C"], "id": ["paracetamol", "but-2-ene"]}


def test_columns_without_a_header_are_numbered(tmp_path: Path) -> None:
    found = read_all(tmp_path, "CCO\t1\nN\t2\n", delimiter="\t", header=False)
    assert found["0"] == ["CCO", "N"] and found["1"].tolist() == [1, 2]


def test_names_replace_those_of_the_header(tmp_path: Path) -> None:
    assert list(read_all(tmp_path, "IC50 (nM),a,a\n1,2,3\n", names=("y", "p", "q"))) == ["y", "p", "q"]
    with pytest.raises(SpecError, match="has 3 columns, but `names` has 2"):
        read_all(tmp_path, "a,b,c\n1,2,3\n", names=("y", "p"))


def test_two_columns_of_one_name_are_refused(tmp_path: Path) -> None:
    with pytest.raises(CorruptStoreError, match="same name"):
        read_all(tmp_path, "a,a\n1,2\n")


def test_only_the_columns_asked_for_are_checked_and_read(tmp_path: Path) -> None:
    assert list(read_all(tmp_path, "a,b\n1,\n2,3\n", {"a": Array("int64")})) == ["a"]
    with pytest.raises(SpecError, match="unknown stored column 'c'; known: a, b"):
        read_all(tmp_path, "a,b\n1,2\n", {"c": Array()})


@pytest.mark.parametrize(
    ("dtype", "text"),
    [("int64", "1.5"), ("int64", "0x1f"), ("uint8", "256"), ("uint8", "-1"), ("float32", "1,5"), ("bool", "2")],
)
def test_text_that_is_not_of_the_dtype_asked_for_is_named(tmp_path: Path, dtype: str, text: str) -> None:
    rows = ["1"] * 700 + [text] + ["1"] * 100 + [text]
    with pytest.raises(SpecError, match=f"column 'x', row 700: '{text}' is not a valid {dtype}"):
        read_all(tmp_path, "\n".join(["x", *(f'"{row}"' for row in rows)]), {"x": Array(dtype)})


def test_a_file_of_no_rows_needs_a_spec(tmp_path: Path) -> None:
    for text in ("a,b\n", "a,b"):
        with pytest.raises(SpecError, match="specify its dtype"):
            read_all(tmp_path, text)
        found = read_all(tmp_path, text, {"a": Array("str"), "b": Array("float32")})
        assert found["a"] == []
        assert_same(found["b"], np.empty(0, "f4"))


@pytest.mark.parametrize("text", [b"", b"\n", b"a,b\n1,2,3\n", b"a,b\n1\n", b"a,b\nx\xff,1\n", b'a,b\n"never ends,1\n'])
def test_a_file_that_is_no_table_is_corrupt(tmp_path: Path, text: bytes) -> None:
    with pytest.raises(CorruptStoreError, match=r"t\.csv"):
        read_all(tmp_path, text)


def test_a_byte_order_mark_is_not_part_of_the_name(tmp_path: Path) -> None:
    assert list(read_all(tmp_path, "\ufeffa,b\n1,2\n")) == ["a", "b"]


def test_a_file_of_many_blocks_keeps_its_rows_in_order(tmp_path: Path) -> None:
    values = np.random.default_rng(0).normal(size=150_000)
    text = "".join(["i,id,x\n", *(f"{i},é{i},{value!r}\n" for i, value in enumerate(values.tolist()))])
    found = read_all(tmp_path, text)
    assert_same(found["i"], np.arange(150_000))
    assert_same(found["x"], values)
    assert found["id"] == [f"é{i}" for i in range(150_000)]


def test_the_identity_changes_with_any_byte(tmp_path: Path) -> None:
    (tmp_path / "a.csv").write_text("x\n1\n2\n")
    (tmp_path / "b.csv").write_text("x\n1\n3\n")
    first, again, other = (Csv(path=tmp_path / name).open(None).identity for name in ("a.csv", "a.csv", "b.csv"))
    assert first == again != other


def test_a_file_that_is_not_there_or_no_file_is_not_found(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "pipe.csv")
    for path in (tmp_path / "none.csv", tmp_path, tmp_path / "pipe.csv"):
        with pytest.raises(StoreNotFoundError):
            Csv(path=path).open(None)


@pytest.mark.parametrize("delimiter", ["", ";;", "\n", '"'])
def test_a_delimiter_that_can_be_none_is_refused(delimiter: str) -> None:
    with pytest.raises(ValueError, match="delimiter"):
        Csv(path=Path("t.csv"), delimiter=delimiter)


def test_a_table_is_written_as_parquet_and_stays_the_same(tmp_path: Path) -> None:
    (tmp_path / "t.csv").write_text("id,x\nCCO,1.5\nN,2.5\n")
    source = Csv(path=tmp_path / "t.csv").open(None)
    rows = source.read(np.arange(2), list(source.columns))
    ParquetAwkward(path=tmp_path / "t.parquet").write(source.columns, [rows])
    target = ParquetAwkward(path=tmp_path / "t.parquet").open(None)
    assert dict(target.columns) == dict(source.columns) == {"id": Array("str"), "x": Array("float64")}
    assert_same(target.read(np.arange(2), ["x"])["x"], np.array([1.5, 2.5]))


def test_a_spec_names_the_options_of_the_backend(tmp_path: Path) -> None:
    load_dataset = pytest.importorskip("kinoml_data.factory").load_dataset
    (tmp_path / "m.smi").write_text("CCO ethanol 1.5\nN ammonia 2.5\n")
    storage = {"backend": "csv", "path": "m.smi", "delimiter": " ", "header": False, "names": ["smiles", "id", "y"]}
    columns = {"smiles": {"dtype": "str"}, "y": {"dtype": "float32"}}
    spec = DatasetSpec.parse({"columns": columns, "X": "y", "meta": ["smiles"], "storage": storage}, tmp_path)
    with load_dataset(spec) as dataset:
        assert len(dataset) == 2


@pytest.mark.parametrize(("dtype", "cell"), [(None, "1e400"), ("float32", "-1e39"), ("float16", "70000")])
def test_a_finite_number_too_large_for_its_dtype_is_refused_and_infinity_is_kept(tmp_path, dtype, cell):
    path = tmp_path / "data.csv"
    spec = {"X": "a", "storage": {"backend": "csv", "path": str(path)}}
    if dtype is not None:
        spec["columns"] = {"a": {"dtype": dtype}}
    path.write_text(f"a\n1.5\n-inf\n{cell}\n")
    with pytest.raises(SpecError, match=rf"row 2: '{cell}' does not fit {dtype or 'float64'}"):
        load_dataset(spec)
    path.write_text("a\n1.5\n-inf\n")
    with load_dataset(spec) as dataset:
        assert dataset[:][0].tolist() == [1.5, float("-inf")]
