"""The library's own Parquet layout, version 1: the values of a row, beside them its shape and its checksum.

| column | in the file | `<column>.crc32`: uint32, the CRC-32 over |
| --- | --- | --- |
| scalar | `<column>`: the value | the value's bytes |
| fixed | `<column>`: fixed-size list of the row's values in C order | the values' bytes |
| fixed, of no elements | `<column>`: large list, always empty | nothing |
| ragged | `<column>`: large list; `<column>.shape`: fixed-size list of int64 | the values', then the shape's bytes |
| strings | `<column>`: large string | the UTF-8 bytes |

Bytes are little-endian, a bool is one byte, nothing is null. The file's key-value metadata holds:

| key | value |
| --- | --- |
| `kinoml_data.format` | `1` |
| `kinoml_data.columns` | JSON: `{column: {"dtype": "float32", "shape": [2, "*"]}}` |
| `kinoml_data.arrays` | JSON: `{array: {"dtype": "<i8", "shape": [800], "data": base64 of the bytes in C order}}` |
| `kinoml_data.spec` | the embedded spec, where there is one |
| `kinoml_data.content` | hex: BLAKE2b, 16 bytes, over the checksums by row group, column and row, as bytes |
| `kinoml_data.digest` | hex: BLAKE2b, 16 bytes, over the file's footer with this value cut out of it |

The page checksums of Parquet are written too. The digest covers what they leave open.
"""

from __future__ import annotations

import base64
import json
import math
import sys
import zlib
from collections.abc import Iterable, Sequence
from itertools import pairwise
from typing import Any

import numpy as np
from numpy.typing import NDArray

from kinoml_data.backends.parquet.container import ParquetContainer, digest
from kinoml_data.columns import Column, Ragged, sizes_of
from kinoml_data.errors import CorruptStoreError, UnsupportedStoreError, one_line, quoted
from kinoml_data.layouts.arrow import ArrowRows, dtype_of, rows_of
from kinoml_data.layouts.flat_arrays import CRC
from kinoml_data.spec.array import Array

VERSION, SHAPE, PREFIX = "1", ".shape", "kinoml_data."
FORMAT, COLUMNS, ARRAYS, SPEC = PREFIX + "format", PREFIX + "columns", PREFIX + "arrays", PREFIX + "spec"
CONTENT, DIGEST = PREFIX + "content", PREFIX + "digest"


def parts_of(name: str, array: Array) -> list[str]:
    """The names in the file of one column's values, shape and checksums."""
    return [name, *([name + SHAPE] if array.ragged else []), name + CRC]


class Layout:
    """What a file of this layout says of itself.

    Attributes:
        columns: by name, in order.
        arrays: those that are not per row.
        spec: the embedded spec, as JSON.

    Raises:
        CorruptStoreError: the footer is not as it was written.
        UnsupportedStoreError: a later version wrote the file.
    """

    def __init__(self, file: ParquetContainer) -> None:
        self._file = file
        said = {
            key.decode("utf-8", "replace"): value.decode("utf-8", "replace") for key, value in file.metadata.items()
        }
        if FORMAT not in said:
            what = "columns with checksums, but not the metadata that goes with them"
            raise CorruptStoreError(f"{file.path} holds {what}; it is damaged, or another program rewrote it")
        if said[FORMAT] != VERSION:
            raise UnsupportedStoreError(
                f"{file.path} has the layout {quoted(said[FORMAT])}; this version reads {VERSION!r}"
            )
        if digest(file.footer, said.get(DIGEST, "")) != said.get(DIGEST):
            raise CorruptStoreError(
                f"{file.path}: its footer is not as it was written; it is damaged, or another program rewrote it"
            )
        try:
            self.columns = {name: Array(a["dtype"], a["shape"]) for name, a in json.loads(said[COLUMNS]).items()}
            self.arrays = {name: stored_array(held) for name, held in json.loads(said[ARRAYS]).items()}
        except (ValueError, TypeError, LookupError, AttributeError, RecursionError) as error:
            raise CorruptStoreError(f"{file.path}: its metadata cannot be read: {one_line(error)}") from None
        self.spec = said.get(SPEC)
        for name, array in self.columns.items():
            if missing := [part for part in parts_of(name, array) if part not in file.types]:
                raise CorruptStoreError(f"{file.path}: column {quoted(missing[0])} is missing")

    @staticmethod
    def claims(file: ParquetContainer) -> bool:
        """True if a file is of this layout, or was before it was damaged."""
        marked = any(key.startswith(PREFIX.encode()) for key in file.metadata)
        return marked or any(name + CRC in file.types for name in file.types)

    def empty(self, name: str) -> Column:
        """No rows of a column."""
        array = self.columns[name]
        if array.ragged or array.is_string:
            return Ragged(np.empty(0, array.numpy), np.empty((0, max(1, len(array.shape))), np.int64))
        return np.empty((0, *(axis or 0 for axis in array.shape)), array.numpy)

    def read(self, group: int, columns: Iterable[str]) -> dict[str, Column]:
        """Columns of one row group, every row checked.

        Raises:
            CorruptStoreError: naming the file, the column and the row that is not what was written.
        """
        wanted = {name: self.columns[name] for name in columns}
        first = sum(self._file.groups[:group])
        chunks = self._file.read(group, [part for name, array in wanted.items() for part in parts_of(name, array)])
        return {name: self._column(name, array, chunks, first) for name, array in wanted.items()}

    def _column(self, name: str, array: Array, chunks: dict[str, list[Any]], first: int) -> Column:
        where = f"{self._file.path}: column {quoted(name)}"
        for part in parts_of(name, array):
            expected = (1, "int64") if part == name + SHAPE else (0, "uint32")
            expected = (int(bool(array.shape)), array.dtype) if part == name else expected
            if any(dtype_of(chunk.type, where) not in (expected, (1, "int32")) for chunk in chunks[part]):
                raise CorruptStoreError(f"{where}: {quoted(part)} has another type than was written")
        rows, stored = _joined(chunks[name], where, first), _joined(chunks[name + CRC], where, first).values
        lengths = sizes_of(rows.shapes)
        column: Column
        if array.is_string:
            column = Ragged(rows.values, rows.shapes)
        elif array.ragged:
            shape = _joined(chunks[name + SHAPE], where, first)
            if (shape.shapes != len(array.shape)).any():
                raise CorruptStoreError(f"{where}: its shapes have another rank than {len(array.shape)}")
            column = Ragged(rows.values, shape.values.astype(np.int64).reshape(len(lengths), -1))
            _check_shapes(column.shapes, lengths, array, where, first)
        else:
            axes = [axis or 0 for axis in array.shape]
            if (wrong := lengths != math.prod(axes)).any():
                raise CorruptStoreError(
                    f"{where}, row {first + int(np.argmax(wrong))}: its values do not fill its shape"
                )
            column = rows.values.reshape(len(lengths), *axes)
        found = checksums(column, is_string=array.is_string)
        if (wrong := found != stored).any():
            row = int(np.argmax(wrong))
            said = f"its CRC-32 is {found[row]:#010x}, stored {stored[row]:#010x}; the file is damaged"
            raise CorruptStoreError(f"{where}, row {first + row}: {said}")
        return column


def _joined(chunks: Sequence[Any], where: str, first: int) -> ArrowRows:
    parts = []
    for chunk in chunks:
        parts.append(rows_of(chunk, where, first))
        first += len(chunk)
    if len(parts) == 1:
        return parts[0]
    return ArrowRows(np.concatenate([p.values for p in parts]), np.concatenate([p.shapes for p in parts]))


def _check_shapes(shapes: NDArray[np.int64], lengths: NDArray[np.int64], array: Array, where: str, first: int) -> None:
    # In floating point the product of made-up lengths does not wrap around.
    wrong = (shapes < 0).any(axis=1) | (shapes.prod(axis=1, dtype=np.float64) != lengths)
    for axis, length in enumerate(array.shape):
        if length is not None:
            wrong |= shapes[:, axis] != length
    if wrong.any():
        row = int(np.argmax(wrong))
        said = quoted(tuple(shapes[row].tolist()))
        raise CorruptStoreError(f"{where}, row {first + row}: its shape {said} does not fit its {lengths[row]} values")


def checksums(column: Column, *, is_string: bool = False) -> NDArray[np.uint32]:
    """uint32 `(rows,)`: the CRC-32 over each row, as the layout says."""
    values = column.values if isinstance(column, Ragged) else column
    view = _bytes(values)
    if isinstance(column, Ragged):
        ends = (column.offsets * values.itemsize).tolist()
    else:
        size = values.itemsize * math.prod(values.shape[1:])
        ends = [size * row for row in range(len(column) + 1)]
    found = [zlib.crc32(view[a:b]) for a, b in pairwise(ends)]
    if isinstance(column, Ragged) and not is_string:
        shapes, step = _bytes(column.shapes), 8 * column.shapes.shape[1]
        found = [zlib.crc32(shapes[step * row : step * (row + 1)], crc) for row, crc in enumerate(found)]
    return np.array(found, np.uint32)


def _bytes(array: NDArray[Any]) -> memoryview:
    if sys.byteorder == "big":
        array = array.astype(array.dtype.newbyteorder("<"))
    return np.ascontiguousarray(array).reshape(-1).view(np.uint8).data


def stored_array(held: dict[str, Any]) -> NDArray[Any]:
    """An array that is not per row, from the metadata."""
    dtype = np.dtype(held["dtype"])
    array = np.frombuffer(base64.b64decode(held["data"], validate=True), dtype).reshape(held["shape"])
    return array.astype(dtype.newbyteorder("="))
