"""Arrow columns as the flat arrays of `arrays.py`: through offsets, with no Python object per row."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from kinoml_data.columns import Column, Ragged
from kinoml_data.errors import (
    CorruptStoreError,
    KinomlDataError,
    SpecError,
    UnsafeStoreError,
    UnsupportedStoreError,
    one_line,
    unknown,
)
from kinoml_data.layouts.flat_arrays import CRC, INDEX, SHAPES, SPEC, UTF8, VALUES, flatten
from kinoml_data.spec.array import DTYPES, STRING, Array

NULL = "null"
DTYPE_OF = {str(pa.from_numpy_dtype(name)): name for name in DTYPES if name != STRING and name[:7] != "complex"}
DTYPE_OF |= {"string": STRING, "large_string": STRING, "null": NULL}
NOT_SHOWN = -1


@contextmanager
def arrow_errors(path: Path) -> Iterator[None]:
    """Arrow's errors as the library's, on one line and naming the file."""
    try:
        yield
    except KinomlDataError:
        raise
    except pa.ArrowNotImplementedError as error:
        raise UnsupportedStoreError(f"{path}: {one_line(error)}") from None
    except pa.ArrowMemoryError as error:
        raise UnsafeStoreError(f"{path} asks for more memory than there is: {one_line(error)}") from None
    except (pa.ArrowException, OSError, ValueError, LookupError, OverflowError) as error:
        raise CorruptStoreError(f"{path}: {one_line(error)}") from None


def select_columns(path: Path, held: Sequence[str], columns: Mapping[str, Array] | None) -> list[str]:
    """The columns to decode: those of `held` that are asked for, or all.

    Raises:
        SpecError: none of them is asked for.
    """
    names = [name for name in held if columns is None or name in columns]
    if not names and columns:
        raise SpecError(f"{path}: {unknown(next(iter(columns)), held, 'stored column')}")
    return names


def dtype_of(type_: Any, where: str) -> tuple[int, str]:
    """How deep an Arrow type nests lists, and the dtype inside: one of `spec.DTYPES`, or `NULL` for none.

    Raises:
        UnsupportedStoreError: it is no type that a tensor or a string can have; `where` begins the text.
    """
    depth, leaf = 0, type_
    while _is_list(leaf):
        depth, leaf = depth + 1, leaf.value_type
    dtype = DTYPE_OF.get(str(leaf))
    if dtype is None or (dtype == STRING and depth):
        raise UnsupportedStoreError(
            f"{where} has the type {one_line(type_, 120)}, which is not read; list the others in a spec's `columns`"
        )
    return depth, dtype


def _is_list(type_: Any) -> bool:
    return bool(pa.types.is_list(type_) or pa.types.is_large_list(type_) or pa.types.is_fixed_size_list(type_))


@dataclass(frozen=True)
class ArrowRows:
    """Some rows of one column.

    Attributes:
        values: 1-D, every element of every row in C order; the UTF-8 bytes of strings.
        shapes: int64 `(rows, ndim)`; `NOT_SHOWN` where a row ends before it gets to an axis.
    """

    values: NDArray[Any]
    shapes: NDArray[np.int64]


def rows_of(array: Any, where: str, first: int = 0) -> ArrowRows:
    """The rows of an Arrow array of numbers, of strings, or of lists of any depth of numbers.

    Args:
        array: a `pyarrow.Array`, sliced or not; the values are a view of it where they can be.
        where: the file and the column, for errors.
        first: the number of the array's first row, for errors.

    Raises:
        CorruptStoreError: a null, or a row that is not rectangular.
        UnsupportedStoreError: as `dtype_of`.
    """
    depth, dtype = dtype_of(array.type, where)
    count = len(array)
    shapes = np.empty((count, depth), np.int64)
    bounds = np.arange(count + 1)  # where each row's items begin and end, at the depth reached
    for axis in range(depth):
        _refuse_nulls(array, bounds, where, first)
        offsets, array = _items(array)
        lengths, items = np.diff(offsets), np.diff(bounds)
        shapes[:, axis] = NOT_SHOWN
        shapes[items > 0, axis] = lengths[bounds[:-1][items > 0]]
        if axis and (uneven := lengths != np.repeat(shapes[:, axis], items)).any():
            row = first + _row_of(uneven, bounds)
            raise CorruptStoreError(f"{where}, row {row}: its lists on axis {axis} differ in length")
        bounds = offsets[bounds]
    _refuse_nulls(array, bounds, where, first)
    if dtype == STRING:
        return _strings(array)
    if dtype == NULL:
        return ArrowRows(np.empty(0, np.uint8), shapes)
    return ArrowRows(array.to_numpy(zero_copy_only=False), shapes)


def _items(array: Any) -> tuple[NDArray[np.int64], Any]:
    """Where the lists of `array` begin and end in their items, from 0, and these items."""
    if pa.types.is_fixed_size_list(array.type):
        size = array.type.list_size
        return np.arange(len(array) + 1) * size, array.values.slice(array.offset * size, len(array) * size)
    offsets = array.offsets.to_numpy().astype(np.int64, copy=False)
    return offsets - offsets[0], array.values.slice(offsets[0], offsets[-1] - offsets[0])


def _refuse_nulls(array: Any, bounds: NDArray[np.int64], where: str, first: int) -> None:
    if array.null_count:
        row = first + _row_of(array.is_null().to_numpy(zero_copy_only=False), bounds)
        raise CorruptStoreError(f"{where}, row {row}: a value is missing (null)")


def _row_of(found: NDArray[np.bool_], bounds: NDArray[np.int64]) -> int:
    """The row that the first item marked in `found` belongs to."""
    return int(np.searchsorted(bounds, np.argmax(found), side="right")) - 1


def _strings(array: Any) -> ArrowRows:
    if len(array) == 0:
        return ArrowRows(np.empty(0, np.uint8), np.empty((0, 1), np.int64))
    array = array.cast(pa.large_string())
    _, offsets, data = array.buffers()
    bounds = np.frombuffer(offsets, np.int64, len(array) + 1, array.offset * 8)
    held = np.frombuffer(data, np.uint8) if data is not None else np.empty(0, np.uint8)
    return ArrowRows(held[bounds[0] : bounds[-1]], np.diff(bounds).reshape(-1, 1))


def infer_array(
    name: str, type_: Any, parts: Sequence[ArrowRows], where: str, wanted: Array | None = None
) -> tuple[Array, NDArray[np.int64]]:
    """What a column holds, and the shapes of all its rows, int64 `(rows, ndim)`.

    An axis is fixed where all rows that show it agree. A row that does not show it has that length, or 0 where
    the axis is ragged; one that no row shows has the length `wanted` says, or 0.

    Args:
        name: of the column.
        type_: its Arrow type.
        parts: its rows, in order; their values are not looked at.
        where: the file and the column, for errors.
        wanted: what the spec says of it, for what the rows do not show.

    Raises:
        SpecError: the values have no type, and `wanted` is not given.
        UnsupportedStoreError: as `dtype_of`; or the name ends as one of the layout's.
    """
    if name.endswith((VALUES, UTF8, SHAPES, INDEX, CRC)) or name == SPEC:
        raise UnsupportedStoreError(f"{where}: names that end so have a meaning of their own; rename the column")
    depth, dtype = dtype_of(type_, where)
    axes: tuple[int | None, ...] = (None,) * depth
    if wanted is not None and (dtype == NULL or len(wanted.shape) == depth):
        axes = wanted.shape
        if wanted.packbits and axes[-1] is not None:
            axes = (*axes[:-1], -(-axes[-1] // 8))
    if dtype == NULL:
        if wanted is None or len(wanted.shape) < depth:
            raise SpecError(f"{where}: no row shows its type; say its dtype and shape in `columns`")
        dtype = "uint8" if wanted.packbits else wanted.dtype
    if dtype == STRING:
        return Array(STRING), np.concatenate([np.empty((0, 1), np.int64), *(part.shapes for part in parts)])
    shapes = np.full((sum(len(part.shapes) for part in parts), max(depth, len(axes))), NOT_SHOWN, np.int64)
    shapes[:, :depth] = np.concatenate([np.empty((0, depth), np.int64), *(part.shapes for part in parts)])
    row: list[int | None] = []
    for axis, asked in enumerate(axes):
        lengths = shapes[:, axis]
        shown = np.unique(lengths[lengths != NOT_SHOWN])
        length = int(shown[0]) if len(shown) == 1 else None if len(shown) or not len(shapes) else asked or 0
        row.append(asked if not len(shapes) else length)
        lengths[lengths == NOT_SHOWN] = length or 0
    return Array(dtype, tuple(row)), shapes


def column_of(array: Array, parts: Sequence[ArrowRows]) -> Column:
    """Some rows of a column that was `described` as `array`; the values of a single part are not copied."""
    filled = [part.values for part in parts if len(part.values)]
    one = len(filled) == 1 and filled[0].dtype == array.numpy
    values = filled[0] if one else np.concatenate([np.empty(0, array.numpy), *filled], dtype=array.numpy)
    depth = max(1, len(array.shape)) if array.is_string or array.shape else 0
    shapes = np.full((sum(len(part.shapes) for part in parts), depth), NOT_SHOWN, np.int64)
    held = [part.shapes for part in parts]
    if held:
        shapes[:, : held[0].shape[1]] = np.concatenate(held)
    for axis, length in enumerate(array.shape):
        shapes[shapes[:, axis] == NOT_SHOWN, axis] = length or 0
    if array.ragged or array.is_string:
        return Ragged(values, shapes)
    return values.reshape(len(shapes), *(axis or 0 for axis in array.shape))


def flat_column(
    name: str, type_: Any, parts: Sequence[ArrowRows], where: str, wanted: Array | None = None
) -> dict[str, NDArray[Any]]:
    """One column as flat arrays, by the names of the layout in `arrays.py`; arguments and errors as `described`.

    They may be views of `parts`, and not writable.
    """
    array, _ = infer_array(name, type_, parts, where, wanted)
    return flatten({name: array}, {name: column_of(array, parts)})
