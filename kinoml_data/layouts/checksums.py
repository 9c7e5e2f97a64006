"""The checksum of one row, the same in NPZ, Parquet, Zarr, HDF5 and Lance.

It is the CRC-32 (ISO 3309, as in zip and gzip) of these bytes, one after another:

1. the dtype as ASCII text: numpy's string for it in little-endian order, such as `<f4` or `|u1`, or `str` for strings
2. little-endian int64: the row number in the store, then the shape of the row, for a string its number of bytes
3. the values of the row in C order, in little-endian byte order; for a string its UTF-8 bytes

So damaged values, a wrong shape or dtype, and a row that is stored instead of another row are all noticed. Whether
the column is declared as fixed or as ragged makes no difference.
"""

from __future__ import annotations

from importlib import import_module
from itertools import pairwise
from typing import Any

import numpy as np
from numpy.typing import NDArray

from kinoml_data.columns import Column, Ragged


def _zlib() -> Any:
    try:  # the same functions, about three times as fast; the extra `fast` installs it
        return import_module("zlib_ng.zlib_ng")
    except ImportError:
        return import_module("zlib")


zlib = _zlib()
"""Python's `zlib`, or zlib-ng if it is installed. Every CRC-32 in this library is computed by it."""

SMALL_ROW = 1024  # bytes; copying a fixed row of up to this size behind its number and shape is faster than two calls


def row_difference(
    column: Column, rows: NDArray[np.int64], stored: NDArray[np.uint32], *, is_string: bool
) -> str | None:
    """A description of the first row whose checksum differs from the stored one, with both; None if all are equal."""
    checksums = row_checksums(column, rows, is_string=is_string)
    if not (wrong := checksums != stored).any():
        return None
    i = int(wrong.argmax())
    return f"row {rows[i]}: its CRC-32 is {checksums[i]:#010x}, but {stored[i]:#010x} is stored"


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
    content, width = values.reshape(-1).view(np.uint8), 8 * heads.shape[1]
    row_bytes = values[:1].nbytes
    crc32 = zlib.crc32
    seed = crc32(b"str" if is_string else values.dtype.str.encode())
    if shapes is None and row_bytes <= SMALL_ROW:
        joined = np.concatenate([heads.view(np.uint8), content.reshape(len(column), row_bytes)], axis=1).tobytes()
        step = width + row_bytes
        return np.array([crc32(joined[a : a + step], seed) for a in range(0, len(joined), step)], np.uint32)
    ends = column.offsets * values.itemsize if isinstance(column, Ragged) else np.arange(len(column) + 1) * row_bytes
    head, data = heads.tobytes(), content.data
    extents = zip(range(0, len(head), width), pairwise(ends.tolist()), strict=True)
    return np.array([crc32(data[a:b], crc32(head[i : i + width], seed)) for i, (a, b) in extents], np.uint32)
