"""The CRC-32 of each row."""

from __future__ import annotations

import zlib
from itertools import pairwise
from typing import Any

import numpy as np
from numpy.typing import NDArray

from kinoml_data.columns import Column, Ragged


def row_seed(dtype: np.dtype[Any], shape: tuple[int, ...]) -> int:
    """Where the CRC-32 of each row begins: at that of the type, such as `<f4(3,)`, which the npy header alone says.

    Args:
        dtype, shape: of one row as stored; no shape for ragged rows, which have theirs in a member of its own.
    """
    return zlib.crc32(f"{dtype.str}{shape}".encode())


def row_checks(column: Column) -> NDArray[np.uint32]:
    """uint32 `(rows,)`: the CRC-32 over what `row_seed` begins with and each row's bytes in C order."""
    if isinstance(column, Ragged):
        values, ends = column.values, column.offsets * column.values.itemsize
        seed = row_seed(values.dtype, ())
    else:
        values, seed = column, row_seed(column.dtype, column.shape[1:])
        ends = np.arange(len(column) + 1, dtype=np.int64) * (column[:1].nbytes if len(column) else 0)
    view = np.ascontiguousarray(values).reshape(-1).view(np.uint8).data
    stops = ends.tolist()
    checks = (zlib.crc32(view[a:b], seed) for a, b in pairwise(stops))
    return np.fromiter(checks, np.uint32, len(stops) - 1)
