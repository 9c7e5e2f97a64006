"""The library's own layout of a Parquet file: what is written comes back, and damage is noticed."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from kinoml_data.columns import Ragged
from kinoml_data.errors import CorruptStoreError, KinomlDataError, UnsupportedStoreError
from kinoml_data.layouts import arrow_rows
from kinoml_data.spec.array import Array
from tests.backends.parquet.tables import (
    AXES,
    NUMBERS,
    assert_rows,
    column_of,
    content,
    joined,
    opened,
    read_all,
    rewritten,
    write,
)


@pytest.mark.parametrize("axes", AXES, ids=str)
@pytest.mark.parametrize("dtype", NUMBERS)
def test_every_dtype_and_shape_survives_bit_for_bit(path: Path, dtype: str, axes: tuple[int | None, ...]) -> None:
    rng = np.random.default_rng(len(axes))
    array = Array(dtype, axes)
    batches = [{"x": column_of(array, rows, rng)} for rows in (5, 0, 1, 8)]
    write(path, {"x": array}, batches)

    expected = joined([batch["x"] for batch in batches])
    found = read_all(path)["x"]

    assert len(found) == 14
    assert_rows(found, [expected[i] for i in range(14)])


@pytest.mark.parametrize("axes", AXES, ids=str)
@pytest.mark.parametrize("batches", [0, 1])
def test_no_rows_come_back_with_dtype_and_rank(path: Path, axes: tuple[int | None, ...], batches: int) -> None:
    array = Array("float32", axes)
    empty = column_of(array, 0, np.random.default_rng(0))
    write(path, {"x": array, "id": Array("str")}, [{"x": empty, "id": Ragged.from_strings([])}] * batches)
    storage = opened(path, None)
    assert len(storage) == 0
    assert len(storage.columns["x"].shape) == len(axes)
    assert content(storage.read(np.arange(0), ["x"])["x"])[0] == np.float32


def test_columns_of_several_row_groups_come_back_in_order(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(arrow_rows, "TABLE_BYTES", 1000)
    rng = np.random.default_rng(5)
    columns = {"a": Array("float32", (2, None)), "id": Array("str"), "y": Array("float64"), "z": Array("bool", (3,))}
    batches = [{name: column_of(array, n, rng) for name, array in columns.items()} for n in (1, 300, 0, 2, 2, 90)]
    write(path, columns, batches)

    with pq.ParquetFile(path) as file:
        sizes = [file.metadata.row_group(i).num_rows for i in range(file.num_row_groups)]
    assert len(sizes) > 5 and max(sizes) < 100 and sum(sizes) == 395
    assert list(read_all(path, {"y": Array("float64")})) == ["y"]
    for name, column in read_all(path).items():
        expected = joined([batch[name] for batch in batches])
        assert_rows(column, [expected[i] for i in range(395)])


def test_other_programs_read_the_file(path: Path) -> None:
    pd = pytest.importorskip("pandas")
    columns = {"x": Array("float32", (2, None)), "f": Array("int8", (2, 2)), "id": Array("str"), "y": Array("float64")}
    rng = np.random.default_rng(0)
    data = {name: column_of(array, 7, rng) for name, array in columns.items()}
    write(path, columns, [data])

    frame = pd.read_parquet(path)

    assert frame["id"].tolist() == data["id"].strings()
    for i in range(7):
        row = np.asarray(frame["x"][i], "f4").reshape(frame["x:shape"][i])
        assert (row.shape, row.tobytes()) == (data["x"][i].shape, data["x"][i].tobytes())
        assert np.asarray(frame["f"][i]).tolist() == data["f"][i].reshape(-1).tolist()


@pytest.fixture
def own(path: Path) -> Path:
    rng = np.random.default_rng(11)
    columns = {
        "a": Array("float32", (2, None)),
        "f": Array("float16", (2, 2)),
        "b": Array("bool", (None,)),
        "id": Array("str"),
        "none": Array("int8", (0, 3)),
        "y": Array("float64"),
    }
    data = {name: column_of(array, 20, rng) for name, array in columns.items()}
    write(path, columns, [data], arrays={"idx_train": np.arange(9)}, spec='{"format": 1}')
    return path


def everything(path: Path) -> tuple[Any, ...]:
    storage = opened(path, None)
    found = storage.read(np.arange(len(storage)), list(storage.columns))
    arrays = {name: content(array) for name, array in storage.arrays.items()}
    return {name: content(column) for name, column in found.items()}, arrays, storage.spec, dict(storage.columns)


def assert_noticed(path: Path, raw: bytes, expected: tuple[Any, ...]) -> bool:
    """Opening `raw` raises one of our errors, or gives what it gave before."""
    path.write_bytes(raw)
    try:
        found = everything(path)
    except KinomlDataError as error:
        assert len(str(error)) < 800 and str(error).isprintable()
        return True
    assert found == expected
    return False


def test_a_flipped_bit_is_noticed_or_does_no_harm(own: Path) -> None:
    raw, expected = bytearray(own.read_bytes()), everything(own)
    noticed = 0
    for bit in np.random.default_rng(42).integers(0, 8 * len(raw), 300).tolist():
        raw[bit >> 3] ^= 1 << (bit & 7)
        noticed += assert_noticed(own, raw, expected)
        raw[bit >> 3] ^= 1 << (bit & 7)
    assert noticed > 200


def test_a_truncated_padded_or_overwritten_file_is_noticed_or_does_no_harm(own: Path) -> None:
    raw, expected = own.read_bytes(), everything(own)
    rng = np.random.default_rng(43)
    for end in rng.integers(0, len(raw), 60).tolist():
        assert assert_noticed(own, raw[:end], expected)
    assert assert_noticed(own, raw + b"\0", expected)
    assert assert_noticed(own, b"\0" + raw, expected)
    for start in rng.integers(0, len(raw) - 64, 60).tolist():
        assert_noticed(own, raw[:start] + bytes(64) + raw[start + 64 :], expected)


def test_a_row_that_is_not_what_was_written_is_named_with_both_checksums(own: Path) -> None:
    def change(table: Any) -> Any:
        y = table["y"].to_numpy().copy()
        y[13] += 1
        return table.set_column(table.schema.get_field_index("y"), "y", pa.array(y))

    rewritten(own, change)
    with pytest.raises(
        CorruptStoreError,
        match=r"own\.parquet: column 'y', row 13: its CRC-32 is 0x[0-9a-f]{8}, but 0x[0-9a-f]{8} is stored",
    ):
        opened(own, None)
    assert "id" in read_all(own, {"id": Array("str")})


def test_a_shape_that_is_not_what_was_written_is_named(own: Path) -> None:
    def change(table: Any) -> Any:
        shapes = [[2, 7] if i == 4 else shape for i, shape in enumerate(table["a:shape"].to_pylist())]
        index = table.schema.get_field_index("a:shape")
        return table.set_column(index, "a:shape", pa.array(shapes, pa.list_(pa.int64(), 2)))

    rewritten(own, change)
    with pytest.raises(CorruptStoreError, match=r"column 'a', row 4: its shape \(2, 7\) does not fit"):
        opened(own, None)


@pytest.mark.parametrize("column", ["a", "a:shape", "y:crc32"])
def test_a_column_that_is_gone_is_named(own: Path, column: str) -> None:
    rewritten(own, lambda table: table.drop_columns([column]))
    with pytest.raises(CorruptStoreError, match=f"column '{column}' is missing"):
        opened(own, None)


def test_a_row_in_the_place_of_another_is_named(own: Path) -> None:
    def change(table: Any) -> Any:
        return table.take([0, 2, 1, *range(3, 20)])

    rewritten(own, change)
    with pytest.raises(CorruptStoreError, match=r"column '\w+', row 1: its CRC-32"):
        opened(own, None)


def test_rows_with_checksums_of_their_own_are_not_taken_for_those_that_were_written(own: Path, tmp_path: Path) -> None:
    other = tmp_path / "other.parquet"
    write(other, {"y": Array("float64")}, [{"y": np.arange(20.0)}])

    def change(table: Any) -> Any:
        for name in ("y", "y:crc32"):
            table = table.set_column(table.schema.get_field_index(name), name, pq.read_table(other)[name])
        return table

    rewritten(own, change)
    with pytest.raises(CorruptStoreError, match="column 'y', rows 0 to 19 do not match their checksums"):
        opened(own, None)


def test_a_file_that_lost_its_metadata_is_not_taken_for_another_one(own: Path) -> None:
    rewritten(own, lambda table: table, metadata=False)
    with pytest.raises(CorruptStoreError, match="its metadata differs from what was written"):
        opened(own, None)


def test_a_file_that_another_program_rewrote_is_not_taken_for_ours(own: Path) -> None:
    with pq.ParquetFile(own) as file:
        table = file.read()
    assert b"kinoml_data.format" in table.schema.metadata
    for again in (table, table.slice(3), table.replace_schema_metadata(None)):
        pq.write_table(again, own)
        with pytest.raises(CorruptStoreError, match=r"another program (rewrote|changed) it"):
            opened(own, None)


def test_a_later_version_of_the_layout_is_not_supported(own: Path) -> None:
    raw = own.read_bytes()
    at = raw.index(b"kinoml_data.format") + len(b"kinoml_data.format")
    at = raw.index(b"1", at)
    own.write_bytes(raw[:at] + b"2" + raw[at + 1 :])
    with pytest.raises(UnsupportedStoreError, match="has version '2' of the layout"):
        opened(own, None)
