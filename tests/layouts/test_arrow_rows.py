"""Rows that are written as Arrow tables, here in a Parquet file."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest

from kinoml_data.backends.parquet.backend import ParquetAwkward
from kinoml_data.columns import Column, Columns, Ragged
from kinoml_data.errors import SpecError, UnsupportedStoreError
from kinoml_data.layouts.arrow_rows import ArrowLayout
from kinoml_data.spec.array import Array
from tests.backends.parquet.tables import content, read_all, write


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "own.parquet"


def test_strings_come_back_whatever_characters_they_contain(path: Path) -> None:
    texts = ["", "CCO", "\N{GRINNING FACE}", "e\u0301", "é", "\0", "line\nline", "x" * 100_000, ""]
    write(path, {"id": Array("str")}, [{"id": Ragged.from_strings(texts)}])
    assert read_all(path)["id"].strings() == texts


def test_arrays_and_the_spec_of_an_arrow_table_come_back(path: Path) -> None:
    arrays = {
        "idx_train": np.array([5, 0, 3]),
        "idx_test": np.array([], np.int32),
        "mask": np.array([True, False]),
        "weights": np.arange(6, dtype=">f4").reshape(2, 3).T,
    }
    write(path, {"y": Array("float32")}, [{"y": np.arange(6, dtype="f4")}], arrays=arrays, spec='{"name": "é"}')

    storage = ParquetAwkward(path=path).open(None)

    assert storage.spec == '{"name": "é"}'
    assert set(storage.arrays) == set(arrays)
    for name, array in arrays.items():
        found = storage.arrays[name]
        assert found.dtype == array.dtype.newbyteorder("=") and np.array_equal(found, array)


def test_big_endian_and_strided_batches_are_written_as_their_values(path: Path) -> None:
    values = np.arange(12, dtype=">f8").reshape(3, 4)
    write(path, {"x": Array("float64", (3,))}, [{"x": values.T}])
    assert content(read_all(path)["x"]) == content(np.ascontiguousarray(values.T, "f8"))


def test_a_bool_of_another_byte_is_written_as_true(path: Path) -> None:
    write(path, {"x": Array("bool")}, [{"x": np.array([0, 1, 2, 255], "u1").view(bool)}])
    assert read_all(path)["x"].tobytes() == b"\0\1\1\1"


def test_rows_of_more_values_than_a_list_has_room_for_are_refused() -> None:
    ArrowLayout({"x": Array("uint8", (2**31 - 1,)), "y": Array("uint8", (None, 2**31))}, {}, None).schema()
    for shape in ((2**31,), (2**20, 2**12)):
        with pytest.raises(UnsupportedStoreError, match=r"'x': a row of .* values cannot be stored.*2,147,483,647"):
            ArrowLayout({"x": Array("uint8", shape)}, {}, None).schema()


@pytest.mark.parametrize("dtype", ["complex64", "complex128"])
def test_a_dtype_that_parquet_cannot_hold_is_refused_before_anything_is_written(path: Path, dtype: str) -> None:
    def batches() -> Iterator[Columns]:
        raise AssertionError("a row was asked for")
        yield {}

    with pytest.raises(UnsupportedStoreError, match=f"'x': {dtype} cannot be stored in an Arrow table; use npz-lazy"):
        ParquetAwkward(path=path).write({"x": Array(dtype)}, batches())
    with pytest.raises(UnsupportedStoreError, match=f"array 'a': {dtype} cannot be stored"):
        ParquetAwkward(path=path).write({"x": Array()}, batches(), arrays={"a": np.zeros(3, dtype)})
    assert not list(path.parent.iterdir())


@pytest.mark.parametrize(
    ("array", "column"),
    [
        (Array("float32"), np.zeros(3)),
        (Array("float32", (2,)), np.zeros((3, 3), "f4")),
        (Array("float32", ("*",)), np.zeros((3, 3), "f4")),
        (Array("float32", (2,)), Ragged(np.zeros(6, "f4"), np.full((3, 1), 2))),
        (Array("float32", (2, "*")), Ragged(np.zeros(6, "f4"), np.full((2, 2), [3, 1]))),
        (Array("float32", ("*",)), Ragged(np.zeros(5, "f4"), np.full((3, 1), 2))),
        (Array("float32", ("*",)), Ragged(np.zeros(2, "f4"), np.array([[4], [-2]]))),
        (Array("str"), Ragged(np.array([0xFF, 0xFE], "u1"), np.array([[1], [1]]))),
        (Array("str"), np.zeros(3, "u1")),
    ],
)
def test_rows_that_are_not_as_announced_are_refused(path: Path, array: Array, column: Column) -> None:
    with pytest.raises(SpecError):
        write(path, {"x": array}, [{"x": column}])
    assert not list(path.parent.iterdir())


def test_columns_of_different_length_or_with_odd_names_are_refused(path: Path) -> None:
    with pytest.raises(SpecError, match="number of rows"):
        write(path, {"x": Array(), "y": Array()}, [{"x": np.zeros(2, "f4"), "y": np.zeros(3, "f4")}])
    with pytest.raises(SpecError, match="column name"):
        write(path, {"x.crc32": Array()}, [])
    with pytest.raises(SpecError, match="no column"):
        write(path, {}, [])
    assert not list(path.parent.iterdir())
