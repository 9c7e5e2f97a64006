"""The checksum of one row, the same in NPZ, Parquet, Zarr, HDF5 and Lance.

It is the CRC-32 (ISO 3309, as in zip and gzip) of these bytes, one after another:

1. the dtype as ASCII text: numpy's string for it in little-endian order, such as `<f4` or `|u1`, or `str` for strings
2. little-endian int64: the row number in the store, then the shape of the row, for a string its number of bytes
3. the values of the row in C order, in little-endian byte order; for a string its UTF-8 bytes

So damaged values, a wrong shape or dtype, and a row that is stored instead of another row are all noticed. Whether
the column is declared as fixed or as ragged makes no difference. If a column has keys, its distinct rows have
checksums, and the key of a distinct row is its row number.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Mapping
from itertools import repeat
from typing import Any

import numpy as np
from numpy.typing import NDArray
from zlib_ng import zlib_ng

from kinoml_data.columns import Column, Columns, Ragged

zlib: Any = zlib_ng
"""The functions of Python's `zlib`, up to five times as fast. Every CRC-32 in this library is computed by them."""

SMALL_ROW = 1024  # bytes; copying a fixed row of up to this size behind its number and shape is faster than two calls


def row_difference(
    column: Column, rows: NDArray[np.int64], stored: NDArray[np.uint32], *, is_string: bool, what: str = "row"
) -> str | None:
    """A description of the first row whose checksum differs from the stored one, with both; None if all are equal.

    `what` is what the numbers in `rows` count.
    """
    checksums = row_checksums(column, rows, is_string=is_string)
    if not (wrong := checksums != stored).any():
        return None
    i = int(wrong.argmax())
    return f"{what} {rows[i]}: its CRC-32 is {checksums[i]:#010x}, but {stored[i]:#010x} is stored"


def row_checksums(column: Column, rows: NDArray[np.int64], *, is_string: bool = False) -> NDArray[np.uint32]:
    """The checksum of each row, as the module describes it.

    Args:
        column: n rows.
        rows: int64 `(n,)`, the row number of each in the store.
        is_string: True if the column contains UTF-8 strings, False if it contains numbers.

    Returns:
        uint32 `(n,)`.
    """
    values, shapes = (column.values, column.shapes) if isinstance(column, Ragged) else (column, None)
    values = np.ascontiguousarray(values, values.dtype.newbyteorder("<"))
    heads = np.empty((len(column), 1 + (values.ndim - 1 if shapes is None else shapes.shape[1])), "<i8")
    heads[:, 0] = rows
    heads[:, 1:] = values.shape[1:] if shapes is None else shapes
    content, row_bytes = values.reshape(-1).view(np.uint8), values[:1].nbytes
    seed = repeat(zlib.crc32(b"str" if is_string else values.dtype.str.encode()))
    if shapes is None and row_bytes <= SMALL_ROW:
        joined = np.concatenate([heads.view(np.uint8), content.reshape(len(column), row_bytes)], axis=1)
        return np.fromiter(map(zlib.crc32, _lines(joined), seed), np.uint32, len(column))
    ends = column.offsets * values.itemsize if isinstance(column, Ragged) else np.arange(len(column) + 1) * row_bytes
    return part_checksums(content, ends[:-1], ends[1:], map(zlib.crc32, _lines(heads), seed))


def table_digest(batches: Iterable[Columns], columns: Mapping[str, bool]) -> str:
    """16 hexadecimal digits that differ between tables, except by chance.

    They depend on the names of the columns and on the checksums of their rows, and so on the order of the rows. They do
    not depend on the order of the columns, the size of the batches or the backend that stores the table.

    Args:
        batches: all rows in order.
        columns: the columns of the table, each with True if it contains strings.
    """
    hashes = {name: hashlib.blake2b(digest_size=16) for name in sorted(columns)}
    start = 0
    for batch in batches:
        for name, digest in hashes.items():
            rows = np.arange(start, start + len(batch[name]))
            digest.update(row_checksums(batch[name], rows, is_string=columns[name]).astype("<u4").tobytes())
        start += len(batch[next(iter(hashes))])
    named = b"".join(name.encode() + b"\0" + digest.digest() for name, digest in hashes.items())
    return hashlib.blake2b(named, digest_size=8).hexdigest()


def part_checksums(
    data: NDArray[np.uint8], starts: NDArray[np.int64], stops: NDArray[np.int64], seeds: Iterable[int]
) -> NDArray[np.uint32]:
    """The CRC-32 of some parts of a buffer.

    Args:
        data: uint8, 1-D and contiguous.
        starts, stops: int64 `(n,)`, in bytes.
        seeds: n numbers, the CRC-32 of the bytes that precede each part; 0 if there are none.

    Returns:
        uint32 `(n,)`.
    """
    parts = map(data.data.__getitem__, map(slice, starts.tolist(), stops.tolist()))
    return np.fromiter(map(zlib.crc32, parts, seeds), np.uint32, len(starts))


def _lines(table: NDArray[Any]) -> list[bytes]:
    """The bytes of each line of a contiguous table with at least one column."""
    lines: list[bytes] = table.view(f"V{table.shape[1] * table.itemsize}").reshape(-1).tolist()
    return lines
