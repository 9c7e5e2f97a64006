"""The checksum of a row, compared with a second implementation that is written from its description."""

from __future__ import annotations

import struct
import zlib

import numpy as np
import pytest

from kinoml_data.columns import Ragged
from kinoml_data.layouts.checksums import SMALL_ROW, part_checksums, row_checksums, table_digest
from kinoml_data.spec.array import DTYPES


def by_description(dtype: str, row_number: int, row: np.ndarray) -> int:
    head = dtype.encode() + struct.pack(f"<{1 + row.ndim}q", row_number, *row.shape)
    return zlib.crc32(head + row.astype(row.dtype.newbyteorder("<")).tobytes(order="C"))


def rows_of(dtype: str, *shapes: tuple[int, ...]) -> list[np.ndarray]:
    rng = np.random.default_rng(3)
    return [rng.integers(0, 2 if dtype == "bool" else 100, shape).astype(dtype) for shape in shapes]


@pytest.mark.parametrize("dtype", [dtype for dtype in DTYPES if dtype != "str"])
@pytest.mark.parametrize("shape", [(), (0,), (3,), (2, 3), (SMALL_ROW + 1,)])
def test_fixed_rows_have_the_described_checksum_in_either_byte_order(dtype, shape):
    rows = rows_of(dtype, shape, shape, shape)
    numbers = np.array([4, 0, 1 << 40])
    expected = [
        by_description(np.dtype(dtype).newbyteorder("<").str, int(n), row) for n, row in zip(numbers, rows, strict=True)
    ]
    stacked = np.stack(rows)
    for column in (stacked, stacked.astype(stacked.dtype.newbyteorder(">")), np.asfortranarray(stacked)):
        assert row_checksums(column, numbers).tolist() == expected
        assert row_checksums(column, numbers).dtype == np.uint32


def test_ragged_rows_have_the_described_checksum():
    rows = rows_of("float32", (2, 3), (0, 3), (SMALL_ROW, 3))
    column = Ragged.from_rows(rows, np.float32, 2)
    expected = [by_description("<f4", n, row) for n, row in enumerate(rows, 5)]
    assert row_checksums(column, np.arange(5, 8)).tolist() == expected


def test_a_column_that_is_declared_as_ragged_has_the_checksums_of_a_fixed_one():
    rows = rows_of("int16", (2, 3), (2, 3))
    fixed, ragged = np.stack(rows), Ragged.from_rows(rows, np.int16, 2)
    assert row_checksums(fixed, np.arange(2)).tolist() == row_checksums(ragged, np.arange(2)).tolist()


def test_strings_have_the_described_checksum_which_their_bytes_alone_do_not_have():
    texts = ["CCO", "", "é" * SMALL_ROW]
    column = Ragged.from_strings(texts)
    expected = [by_description("str", n, np.frombuffer(text.encode(), np.uint8)) for n, text in enumerate(texts)]
    assert row_checksums(column, np.arange(3), is_string=True).tolist() == expected
    assert row_checksums(column, np.arange(3)).tolist() != expected


@pytest.mark.parametrize("column", [np.empty((0, 3), "f4"), Ragged.from_rows([], np.float32, 2)])
def test_no_rows_have_no_checksums(column):
    assert row_checksums(column, np.arange(0)).shape == (0,)


def test_parts_of_a_buffer_have_the_checksum_of_what_precedes_and_of_their_bytes():
    data = np.arange(100, dtype=np.uint8)
    starts, stops = np.array([40, 0, 10, 10]), np.array([100, 0, 11, 90])
    befores = [b"", b"", b"a", b"before"]
    expected = [zlib.crc32(before + bytes(range(a, b))) for before, a, b in zip(befores, starts, stops, strict=True)]
    assert part_checksums(data, starts, stops, map(zlib.crc32, befores)).tolist() == expected


def test_the_digest_of_a_table_depends_on_its_rows_and_names_only():
    numbers, texts = np.arange(5, dtype=np.int16), Ragged.from_strings(["a", "", "é", "ab", "c"])
    columns = {"n": False, "text": True}
    digest = table_digest([{"n": numbers, "text": texts}], columns)
    parts = [{"text": texts[start : start + 2], "n": numbers[start : start + 2]} for start in (0, 2, 4)]
    assert table_digest(parts, {"text": True, "n": False}) == digest and len(digest) == 16
    changed = [
        {"n": numbers[::-1].copy(), "text": texts},
        {"n": numbers.astype(np.int32), "text": texts},
        {"n": numbers, "text": Ragged.from_strings(["a", "", "é", "abc", ""])},
        {"n": numbers[:4], "text": texts[:4]},
    ]
    digests = {digest, *(table_digest([batch], columns) for batch in changed)}
    digests |= {
        table_digest([{"m": numbers, "text": texts}], {"m": False, "text": True}),
        table_digest([{"n": numbers}], {"n": False}),
    }
    assert len(digests) == 7
