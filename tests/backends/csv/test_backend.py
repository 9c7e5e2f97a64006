from __future__ import annotations

import gzip
import os
import re
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from kinoml_data.backends.csv.backend import Csv
from kinoml_data.backends.parquet.backend import ParquetAwkward
from kinoml_data.columns import Column, Ragged
from kinoml_data.dataset.binding import Binding
from kinoml_data.errors import CorruptStoreError, SpecError, StoreNotFoundError, UnsafeStoreError, UnsupportedStoreError
from kinoml_data.factory import load_dataset
from kinoml_data.inference import complete
from kinoml_data.spec.array import Array
from kinoml_data.spec.dataset_spec import DatasetSpec


def read_all(path: Path, text: str | bytes, columns: dict[str, Array] | None = None, **options: Any) -> dict[str, Any]:
    """The columns of a file with this text: arrays, and lists of strings; those of `columns` as a spec gets them."""
    path = path / "t.csv"
    path.write_bytes(text if isinstance(text, bytes) else text.encode())
    storage = Csv(path=path, **options).open(columns)
    rows = np.arange(len(storage))
    if columns is None:
        if not storage.columns:
            return {}
        found = dict(storage.loaded(list(storage.columns)).read(rows, list(storage.columns)))
        again: dict[str, Column] = dict(storage.read(rows, list(storage.columns)))
        assert all(type(found[name]) is type(again[name]) for name in found)
    else:
        declared = {name: array.model_dump(mode="json", exclude_defaults=True) for name, array in columns.items()}
        spec = complete(DatasetSpec.parse({"columns": declared, "storage": {"backend": "csv"}}), storage, needs_X=False)
        found = Binding(spec, storage.loaded(spec.stored_names)).read(rows, list(columns))
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
    assert_same(read_all(tmp_path, "x\nTrue\nfalse\n")["x"], np.array([True, False]))


def test_digits_stay_text_where_the_spec_says_so(tmp_path: Path) -> None:
    found = read_all(tmp_path, "id,y\n1,2\n007,3\n", {"id": Array("str"), "y": Array("float32")})
    assert found["id"] == ["1", "007"]
    assert_same(found["y"], np.array([2, 3], "f4"))


@pytest.mark.parametrize("texts", [["007", "008"], ["0x1f", "0x20"], ["2020-01-01", "2020-01-02"], ["12:30", "12:31"]])
def test_text_that_only_looks_like_a_number_stays_text(tmp_path: Path, texts: list[str]) -> None:
    assert read_all(tmp_path, "\n".join(["x", *texts]))["x"] == texts


def test_integers_that_fit_no_int64_are_not_rounded(tmp_path: Path) -> None:
    text = "x\n1\n18446744073709551615\n"
    for columns in (None, {"x": Array("uint64")}):
        assert_same(read_all(tmp_path, text, columns)["x"], np.array([1, 2**64 - 1], "u8"))
    for text in ("x\n-1\n18446744073709551615\n", "x\n1\n28446744073709551615\n"):
        with pytest.raises(
            SpecError, match=r"column 'x', row 1 \(line 3\): '[12]8446744073709551615' does not fit u?int64"
        ):
            read_all(tmp_path, text)


def test_integers_are_exact_as_floating_point_numbers_or_an_error(tmp_path: Path) -> None:
    for text in ("x\n1\n16777217\n", "x,a\n,1\n16777217,1\n"):
        with pytest.raises(SpecError, match=r"row 1.*16777217'? does not fit float32"):
            read_all(tmp_path, text, {"x": Array("float32", missing="nan")})
    found = read_all(tmp_path, "x,a\n,1\n16777216,1\n", {"x": Array("float32", missing="nan")})["x"]
    assert_same(found, np.array([np.nan, 16777216], "f4"))


def test_a_whole_number_with_a_fraction_is_an_integer_if_the_spec_says_so(tmp_path: Path) -> None:
    assert_same(read_all(tmp_path, "x\n3.0\n-4\n1e3\n", {"x": Array("int32")})["x"], np.array([3, -4, 1000], "i4"))
    for text in ("3.5", "nan", "9007199254740993.0", "1e300"):
        with pytest.raises(SpecError, match=f"row 1 .line 3.: '{text}' is not a valid int64"):
            read_all(tmp_path, f"x\n3.0\n{text}\n", {"x": Array("int64")})


def test_na_is_text_among_text_and_nan_is_nan_among_numbers(tmp_path: Path) -> None:
    found = read_all(tmp_path, "a,b\nNA,nan\nnan,1\nCCO,NaN\n")
    assert found["a"] == ["NA", "nan", "CCO"]
    np.testing.assert_array_equal(found["b"], [np.nan, 1, np.nan])


@pytest.mark.parametrize("missing", ["NA", "N/A", "null", "None", '""', '" "'])
def test_a_missing_value_among_numbers_is_named(tmp_path: Path, missing: str) -> None:
    text = f"a,x\np,1\nq,2.5\nr,{missing}\n"
    with pytest.raises(SpecError, match=r"t\.csv: column 'x', row 2 \(line 4\): a value is missing.*`missing: nan`"):
        read_all(tmp_path, text)
    assert len(read_all(tmp_path, text, {"x": Array("str")})["x"]) == 3
    found = read_all(tmp_path, text, {"x": Array("float32", missing="nan")})["x"]
    assert_same(found, np.array([1, 2.5, np.nan], "f4"))


@pytest.mark.parametrize("columns", [None, {"a": Array("str"), "x": Array("float32")}])
def test_an_empty_cell_is_a_missing_value(tmp_path: Path, columns: dict[str, Array] | None) -> None:
    with pytest.raises(SpecError, match=r"column 'x', row 1 \(line 3\): a value is missing"):
        read_all(tmp_path, "a,x\np,1\nq,\n", columns)
    with pytest.raises(SpecError, match=r"column 'a', row 1 \(line 3\): a text is missing"):
        read_all(tmp_path, "a,x\np,1\n,2\n", columns)


def test_a_missing_text_becomes_the_text_that_the_spec_names(tmp_path: Path) -> None:
    text = 'a,r\np,<\n,\n"",>\n-,-\n'
    columns = {"a": Array("str", missing="?"), "r": Array("int8", values=["=", "<", ">"], missing="=")}
    found = read_all(tmp_path, text, columns, missing=("-",))
    assert found["a"] == ["p", "?", "", "?"] and found["r"].tolist() == [1, 0, 2, 0]


def test_the_words_of_an_option_are_missing_values_in_every_column(tmp_path: Path) -> None:
    text = "a,x\np,-\nND,2\nq,3\n"
    found = read_all(tmp_path, text, {"x": Array("float64", missing="nan")}, missing=("-", "ND"))
    assert_same(found["x"], np.array([np.nan, 2, 3]))
    with pytest.raises(SpecError, match=r"column 'a', row 1 \(line 3\): a text is missing"):
        read_all(tmp_path, text, {"a": Array("str")}, missing=("-", "ND"))
    with pytest.raises(SpecError, match=r"column 'x', row 0 \(line 2\): '-' is not a valid float64"):
        read_all(tmp_path, text, {"x": Array("float64", missing="nan")})


def test_the_line_of_an_error_is_that_of_an_editor(tmp_path: Path) -> None:
    text = 'ChEMBL, 2024\n\na,x\n"two\nlines",1\n\nunits,nM\n"p",2\nq,>5\n'
    with pytest.raises(SpecError, match=r"row 1 \(line 9\): '>5' is not a valid float32"):
        read_all(tmp_path, text, {"x": Array("float32")}, skip_lines=2, skip_rows=2)


def test_a_quoted_empty_string_is_a_string(tmp_path: Path) -> None:
    assert read_all(tmp_path, 'a,x\n"",1\n"b",2\n')["a"] == ["", "b"]


def test_an_empty_line_in_one_column_is_a_missing_value_and_no_row_is_lost(tmp_path: Path) -> None:
    with pytest.raises(SpecError, match=r"row 1 \(line 3\): a value is missing"):
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
    text = "a,a,b\n1,2,3\n"
    assert list(read_all(tmp_path, text)) == ["b"]
    assert (
        "2 columns are called 'a'; give unique names in `names`"
        in Csv(path=tmp_path / "t.csv").open(None).unreadable["a"]
    )
    with pytest.raises(UnsupportedStoreError, match="2 columns are called 'a'"):
        read_all(tmp_path, text, {"a": Array()})


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
    with pytest.raises(SpecError, match=f"column 'x', row 700.*'?{text}'? (is not a valid|does not fit) {dtype}"):
        read_all(tmp_path, "\n".join(["x", *(f'"{row}"' for row in rows)]), {"x": Array(dtype)})


def test_a_file_of_no_rows_needs_a_spec(tmp_path: Path) -> None:
    for text in ("a,b\n", "a,b"):
        assert read_all(tmp_path, text) == {}
        assert "specify its dtype in `columns`" in Csv(path=tmp_path / "t.csv").open(None).unreadable["a"]
        with pytest.raises(SpecError, match="specify its dtype"):
            Csv(path=tmp_path / "t.csv").open({"a": None})
        found = read_all(tmp_path, text, {"a": Array("str"), "b": Array("float32")})
        assert found["a"] == []
        assert_same(found["b"], np.empty(0, "f4"))


@pytest.mark.parametrize(
    ("text", "message"),
    [
        (b"", "is empty"),
        (b"\n", "is empty"),
        (b"a,b\n1,2\n3", "line 3: 1 values, but there are 2 columns; the file ends there"),
        (b'a,b\n1,"never ends\n', "ends within quotes"),
        (b'a,b\n1,"never ""ends"" ', "ends within quotes"),
        (gzip.compress(b"a,b\n1,2\n", mtime=0)[:-9], "ends too early"),
        (gzip.compress(b"a,b\n1,2\n", mtime=0)[:-5] + b"\xff" * 5, "its compressed data is damaged"),
    ],
)
def test_a_file_that_is_cut_off_is_damaged(tmp_path: Path, text: bytes, message: str) -> None:
    with pytest.raises(CorruptStoreError, match=message) as info:
        read_all(tmp_path, text)
    assert "t.csv" in str(info.value)


@pytest.mark.parametrize(
    ("text", "error", "message"),
    [
        (b"a,b\n1,2\n1,2,3\n", UnsupportedStoreError, "line 3: 3 values, but there are 2 columns; write values that"),
        (b"a,b\n1\n3,4\n", UnsupportedStoreError, "line 2: 1 values, but there are 2 columns"),
        (b'"a\nb",c\n1,2\n1,2,3\n', UnsupportedStoreError, "line 4: 3 values, but there are 2 columns"),
        (b"a;b\n1,5;2,5\n", UnsupportedStoreError, "write `delimiter: ';'`"),
        (
            b"a,b\nx\xff,1\n",
            SpecError,
            "line 2: the text is not utf-8; write its encoding, such as `encoding: latin-1`",
        ),
        ("\ufeffa,b\nx,1\n".encode("utf-16-le"), SpecError, "such as `encoding: utf-16`"),
    ],
)
def test_a_file_that_is_described_wrongly_says_the_way_out(
    tmp_path: Path, text: bytes, error: type[Exception], message: str
) -> None:
    with pytest.raises(error, match=message):
        read_all(tmp_path, text)


@pytest.mark.parametrize("delimiter", [";", "\t", "|"])
def test_another_delimiter_is_noticed(tmp_path: Path, delimiter: str) -> None:
    text = f"a{delimiter}b\n1{delimiter}2\n"
    assert read_all(tmp_path, text) == {}
    with pytest.raises(SpecError, match=r"write `delimiter: '") as info:
        load_dataset(tmp_path / "t.csv", X="a", y="b")
    assert repr(delimiter) in str(info.value)
    with pytest.raises(SpecError, match=r"write `delimiter: '"):
        load_dataset(tmp_path / "t.csv")
    assert list(read_all(tmp_path, text, delimiter=delimiter)) == ["a", "b"]


def test_a_table_of_a_spreadsheet_in_another_language(tmp_path: Path) -> None:
    text = "Größe;y;z\n1,5;2,25e3;1.000\n-,5;3;x\n".encode("cp1252")
    found = read_all(tmp_path, text, delimiter=";", decimal=",", encoding="cp1252")
    assert_same(found["Größe"], np.array([1.5, -0.5]))
    assert_same(found["y"], np.array([2250.0, 3]))
    assert found["z"] == ["1.000", "x"]  # a point is not part of a number


def test_compressed_and_tab_separated_files_are_opened_by_their_names(tmp_path: Path) -> None:
    for name, separator in (("a.csv.gz", ","), ("a.tsv", "\t"), ("a.TSV", "\t"), ("a.tab", "\t"), ("a.tsv.gz", "\t")):
        text = f"x{separator}y\n1{separator}2\n".encode()
        (tmp_path / name).write_bytes(gzip.compress(text[:3]) + gzip.compress(text[3:]) if "gz" in name else text)
        with load_dataset(tmp_path / name, X="x", y="y") as dataset:
            assert dataset[0] == (1, 2)


def test_a_file_that_grows_without_bounds_is_not_decompressed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("kinoml_data.backends.csv.text.MAX_BYTES", 1000)
    with pytest.raises(UnsafeStoreError, match="decompress it first"):
        read_all(tmp_path, gzip.compress(b"x\n" + b"1\n" * 10_000))


def test_a_column_without_a_name_gets_one(tmp_path: Path) -> None:
    assert list(read_all(tmp_path, ",x\n0,1.5\n1,2.5\n")) == ["Unnamed: 0", "x"]


@pytest.mark.parametrize("encoding", ["no-such", "hex", "rot13"])
def test_an_encoding_that_is_none_is_refused(encoding: str) -> None:
    with pytest.raises(ValueError, match="is not an encoding of text"):
        Csv(path=Path("t.csv"), encoding=encoding)


def test_what_is_not_asked_for_is_not_converted(tmp_path: Path) -> None:
    (tmp_path / "t.csv").write_text("a,b,c\n1,,x\n2,>5,NA\n")
    with load_dataset(tmp_path / "t.csv", X="a") as dataset:
        assert dataset[:][0].tolist() == [1, 2]


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
    with pytest.raises(SpecError, match=rf"row 2.*{re.escape(cell[:3])}.* does not fit {dtype or 'float64'}"):
        load_dataset(spec)[:]
    path.write_text("a\n1.5\n-inf\n")
    with load_dataset(spec) as dataset:
        assert dataset[:][0].tolist() == [1.5, float("-inf")]
