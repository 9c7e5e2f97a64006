"""Arrow arrays as columns: lists of any depth become flat values and shapes, without a Python object per row."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from kinoml_data.columns import Column, Ragged, cast
from kinoml_data.errors import (
    CorruptStoreError,
    KinomlDataError,
    SpecError,
    StoreReadError,
    UnsupportedStoreError,
    missing_value,
    one_line,
    unknown,
)
from kinoml_data.layouts.flat_arrays import is_reserved
from kinoml_data.spec.array import DTYPES, STRING, Array

NULL = "null"
DTYPE_OF = {str(pa.from_numpy_dtype(name)): name for name in DTYPES if name != STRING and name[:7] != "complex"}
DTYPE_OF |= {"string": STRING, "large_string": STRING, "null": NULL}
NOT_SHOWN = -1


@contextmanager
def arrow_errors(path: Path | str) -> Iterator[None]:
    """Turn the errors of Arrow into errors of this library, on one line and with the name of the file."""
    try:
        yield
    except KinomlDataError:
        raise
    except pa.ArrowNotImplementedError as error:
        raise UnsupportedStoreError(f"{path}: {one_line(error)}") from None
    except (pa.ArrowMemoryError, MemoryError) as error:
        raise StoreReadError(f"{path} needs more memory than is available: {one_line(error)}") from None
    except (pa.ArrowException, OSError, ValueError, LookupError, OverflowError) as error:
        raise CorruptStoreError(f"{path}: {one_line(error)}") from None


def select_columns(path: Path | str, stored: Sequence[str], requested: Mapping[str, Array | None] | None) -> list[str]:
    """The stored columns that are requested; all of them if `requested` is None.

    Raises:
        SpecError: columns are requested, and none of them is stored.
    """
    names = [name for name in stored if requested is None or name in requested]
    if not names and requested:
        raise SpecError(f"{path}: {unknown(next(iter(requested)), stored, 'stored column')}")
    return names


def dtype_of(type_: Any, where: str) -> tuple[int, str]:
    """The depth of the lists in an Arrow type, and the dtype of their values: one of `DTYPES`, or `NULL`.

    Args:
        type_: a `pyarrow.DataType`.
        where: the file and the column, for the error.

    Raises:
        UnsupportedStoreError: the Arrow type is not supported.
    """
    depth, value_type = 0, type_
    while is_list(value_type):
        depth, value_type = depth + 1, value_type.value_type
    if pa.types.is_dictionary(value_type):
        value_type = value_type.value_type
    dtype = "float64" if pa.types.is_decimal(value_type) else DTYPE_OF.get(str(value_type))
    if dtype is None or (dtype == STRING and depth):
        raise UnsupportedStoreError(
            f"{where} has the type {one_line(type_, 120)}, which is not supported; {_way(type_)}"
        )
    return depth, dtype


def _way(type_: Any) -> str:
    """What to do about a column of a type that is not supported."""
    while is_list(type_):
        type_ = type_.value_type
    if pa.types.is_struct(type_):
        return "write each of its fields as a column of its own, with awkward by `ak.unzip`"
    if pa.types.is_temporal(type_):
        return "leave it out, or write it as a number, such as the days since a date"
    return "leave it out, or write it as numbers or strings"


def is_list(type_: Any) -> bool:
    """True for a list, a large list and a fixed-size list."""
    return bool(pa.types.is_list(type_) or pa.types.is_large_list(type_) or pa.types.is_fixed_size_list(type_))


@dataclass(frozen=True)
class ArrowRows:
    """Some rows of one column.

    Attributes:
        values: 1-D, every element of every row in C order; for strings their UTF-8 bytes.
        shapes: int64 `(rows, ndim)`; `NOT_SHOWN` for an axis that a row does not show because an outer list is empty.
    """

    values: NDArray[Any]
    shapes: NDArray[np.int64]


def rows_of(array: Any, where: str, first: int = 0, declared: Array | None = None) -> ArrowRows:
    """The rows of an Arrow array of numbers, of strings, or of lists of numbers of any depth.

    Decimals become the nearest float64. If `declared` has `missing: nan`, numbers become float64 unless they are
    floating-point numbers of another dtype, and a null is NaN. With `missing` for text, a null is that text.

    Args:
        array: a `pyarrow.Array`, sliced or not. The values are a view of it if possible.
        where: the file and the column, for errors.
        first: the number of the array's first row, for errors.
        declared: the column as the spec declares it.

    Raises:
        SpecError: a value is null, and `declared` does not have `missing`; or a whole list is null.
        UnsupportedStoreError: the Arrow type is not supported, or the lists of a row do not form a rectangular array.
    """
    depth, dtype = dtype_of(array.type, where)
    count = len(array)
    shapes = np.empty((count, depth), np.int64)
    bounds = np.arange(count + 1)  # where the items of each row begin and end, at the depth that was reached
    for axis in range(depth):
        _refuse_nulls(array, bounds, where, first)
        offsets, array = _list_items(array)
        lengths, items = np.diff(offsets), np.diff(bounds)
        shapes[:, axis] = NOT_SHOWN
        shapes[items > 0, axis] = lengths[bounds[:-1][items > 0]]
        if axis and (uneven := lengths != np.repeat(shapes[:, axis], items)).any():
            row = first + _row_of_item(uneven, bounds)
            raise UnsupportedStoreError(
                f"{where}, row {row}: its lists on axis {axis} differ in length, but a row has to be a rectangular "
                "array; write the values as one list per row, and the lengths as another column"
            )
        bounds = offsets[bounds]
    fills = declared is not None and declared.fills_numbers and dtype != STRING
    text = declared.missing_text if declared is not None and not depth and dtype in (STRING, NULL) else None
    if not fills and text is None:
        _refuse_nulls(array, bounds, where, first, kind="text" if dtype == STRING else "number")
    if pa.types.is_dictionary(array.type):
        array = array.dictionary_decode()
    if text is not None:
        return _strings(array.cast(pa.large_string()).fill_null(text))
    if dtype == STRING:
        return _strings(array)
    if pa.types.is_decimal(array.type):  # by way of text: Arrow's own conversion is not always the nearest
        array = array.cast(pa.string()).cast(pa.float64())
    if fills:
        return ArrowRows(_filled(array, bounds, where, first, declared), shapes)
    if dtype == NULL:
        return ArrowRows(np.empty(0, np.uint8), shapes)
    return ArrowRows(array.to_numpy(zero_copy_only=False), shapes)


def _filled(
    array: Any, bounds: NDArray[np.int64], where: str, first: int, declared: Array | None
) -> NDArray[np.floating[Any]]:
    """Numbers with NaN for nulls, as floating-point numbers.

    Raises:
        SpecError: an integer is not exact in the dtype that the spec declares.
    """
    if pa.types.is_floating(array.type):  # a view of Arrow's memory, unless there are nulls
        numbers: NDArray[np.floating[Any]] = array.to_numpy(zero_copy_only=False)
        return numbers
    absent = array.is_null().to_numpy(zero_copy_only=False)
    if pa.types.is_null(array.type):
        return np.full(len(array), np.nan)
    values = array.fill_null(False if pa.types.is_boolean(array.type) else 0).to_numpy(zero_copy_only=False)
    lost = None if declared is None else cast(values, declared.numpy)[1]
    if lost is not None:
        row = first + int(np.searchsorted(bounds, lost, side="right")) - 1
        raise SpecError(f"{where}, row {row}: {values[lost]} does not fit {declared and declared.dtype}")
    return np.where(absent, np.nan, values)


def rows_of_chunks(chunks: Sequence[Any], where: str, first: int = 0, declared: Array | None = None) -> list[ArrowRows]:
    """The rows of several chunks of one column; see `rows_of`, whose errors it raises."""
    parts = []
    for chunk in chunks:
        parts.append(rows_of(chunk, where, first, declared))
        first += len(chunk)
    return parts


def _list_items(array: Any) -> tuple[NDArray[np.int64], Any]:
    """Where each list of `array` begins and ends among the items, counted from 0, and the items."""
    if pa.types.is_fixed_size_list(array.type):
        size = array.type.list_size
        return np.arange(len(array) + 1) * size, array.values.slice(array.offset * size, len(array) * size)
    offsets = array.offsets.to_numpy().astype(np.int64, copy=False)
    return offsets - offsets[0], array.values.slice(offsets[0], offsets[-1] - offsets[0])


def _refuse_nulls(array: Any, bounds: NDArray[np.int64], where: str, first: int, kind: str = "list") -> None:
    """Raise if a value of this kind is null; see `missing_value`.

    Raises:
        SpecError: a value is null.
    """
    absent = array.is_null()
    if absent.true_count:
        row = first + _row_of_item(absent.to_numpy(zero_copy_only=False), bounds)
        raise missing_value(where, row, kind=kind)


def _row_of_item(marked: NDArray[np.bool_], bounds: NDArray[np.int64]) -> int:
    """The row that contains the first marked item."""
    return int(np.searchsorted(bounds, np.argmax(marked), side="right")) - 1


def _strings(array: Any) -> ArrowRows:
    if len(array) == 0:
        return ArrowRows(np.empty(0, np.uint8), np.empty((0, 1), np.int64))
    array = array.cast(pa.large_string())
    _, offsets, data = array.buffers()
    bounds = np.frombuffer(offsets, np.int64, len(array) + 1, array.offset * 8)
    text = np.frombuffer(data, np.uint8) if data is not None else np.empty(0, np.uint8)
    return ArrowRows(text[bounds[0] : bounds[-1]], np.diff(bounds).reshape(-1, 1))


def infer_array(
    name: str, type_: Any, shapes: Sequence[NDArray[np.int64]], where: str, declared: Array | None = None
) -> Array:
    """The `Array` of a column that another program wrote.

    An axis is fixed if all rows that show it agree. An axis that no row shows has the length that `declared`
    specifies, or 0.

    Args:
        name: the name of the column.
        type_: its Arrow type.
        shapes: the shapes of all its rows, in parts.
        where: the file and the column, for errors.
        declared: the column as the spec declares it; it provides the dtype and the axes that the rows do not show.

    Raises:
        SpecError: the rows do not show the type of the values, and `declared` does not specify it.
        UnsupportedStoreError: the Arrow type is not supported, or the name is reserved.
    """
    if is_reserved(name):
        raise UnsupportedStoreError(f"{where}: this name is reserved for the library's own layout; rename the column")
    depth, dtype = dtype_of(type_, where)
    axes: tuple[int | None, ...] = (None,) * depth
    if declared is not None and (dtype == NULL or len(declared.shape) == depth):
        axes = declared.as_stored.shape
    dtype = _with_gaps(dtype, declared)
    if dtype == NULL:
        if declared is None or len(declared.shape) < depth:
            raise SpecError(f"{where}: no row shows its type; specify its dtype and shape in `columns`")
        dtype = declared.as_stored.dtype
    if dtype == STRING:
        return Array(STRING)
    lengths = np.concatenate([np.empty((0, depth), np.int64), *shapes])
    if len(lengths):
        axes = tuple(_axis(lengths[:, i] if i < depth else lengths[:0], axis) for i, axis in enumerate(axes))
    return Array(dtype, axes)


def _with_gaps(dtype: str, declared: Array | None) -> str:
    """The dtype of a column if `declared` has `missing`: with NaN for nulls, integers and bools are float64."""
    if declared is not None and declared.missing_text is not None and dtype == NULL:
        return STRING
    fills = declared is not None and declared.fills_numbers
    return "float64" if fills and (dtype == NULL or np.dtype(dtype).kind in "iub") else dtype


def _axis(lengths: NDArray[np.int64], declared: int | None) -> int | None:
    """The length of an axis: None if rows differ, and `declared` or 0 if no row shows it."""
    shown = np.unique(lengths[lengths != NOT_SHOWN])
    if len(shown) == 0:
        return declared or 0
    return int(shown[0]) if len(shown) == 1 else None


def column_of(array: Array, parts: Sequence[ArrowRows], declared: Array | None = None) -> Column:
    """The rows of a column in one piece. If only one part has values, they are not copied and may not be writable.

    An axis that a row does not show has the length that `declared` specifies, or by default `array`; 0 if it is ragged.
    """
    filled = [part.values for part in parts if len(part.values)]
    if len(filled) == 1 and filled[0].dtype == array.numpy:
        values = filled[0]
    else:
        values = np.concatenate([np.empty(0, array.numpy), *filled], dtype=array.numpy)
    shapes = np.full((sum(len(part.shapes) for part in parts), len(array.axes)), NOT_SHOWN, np.int64)
    if parts:
        shapes[:, : parts[0].shapes.shape[1]] = np.concatenate([part.shapes for part in parts])
    for axis, length in enumerate((declared or array).axes):
        shapes[shapes[:, axis] == NOT_SHOWN, axis] = length or 0
    return Ragged(values, shapes) if array.rows_differ else values.reshape(len(shapes), *array.row_shape)


def column_from_arrow(
    name: str, type_: Any, chunks: Sequence[Any], where: str, declared: Array | None = None
) -> tuple[Array, Column]:
    """A whole column that another program wrote, and its `Array`. The values may be a view of Arrow's memory.

    Args:
        chunks: all rows, as arrays of pyarrow in order.
        name, type_, where, declared: as for `infer_array`.

    Raises:
        SpecError: a value is missing, or the rows do not show the type of the values, and `declared` does not specify
            it.
        UnsupportedStoreError: the Arrow type is not supported, the name is reserved, or the lists of a row do not form
            a rectangular array.
    """
    parts = rows_of_chunks(chunks, where, declared=declared)
    array = infer_array(name, type_, [part.shapes for part in parts], where, declared)
    return array, column_of(array, parts)


def arrow_array(type_: Any, where: str, declared: Array | None = None) -> Array:
    """The `Array` of an Arrow type: a fixed-size list is a fixed axis, any other list a ragged one.

    Args:
        type_: a `pyarrow.DataType`.
        where: the file and the column, for the error.
        declared: the column as the spec declares it; with `missing: nan`, integers and bools become float64.

    Raises:
        UnsupportedStoreError: the Arrow type is not supported; the message begins with `where`.
    """
    _, dtype = dtype_of(type_, where)
    dtype = _with_gaps(dtype, declared)
    if dtype == NULL:
        raise UnsupportedStoreError(f"{where} contains only nulls; leave it out, or declare it with `missing: nan`")
    return Array(dtype, type_axes(type_))


def type_axes(type_: Any) -> tuple[int | None, ...]:
    """The axes of a row as its Arrow type describes them: the length of a fixed-size list, None for any other list."""
    axes: list[int | None] = []
    while is_list(type_):
        axes.append(type_.list_size if pa.types.is_fixed_size_list(type_) else None)
        type_ = type_.value_type
    return tuple(axes)


def arrow_column(
    array: Array, chunks: Sequence[Any], where: str, first: int = 0, declared: Array | None = None
) -> Column:
    """Some rows of a column that `arrow_array` describes. The values may be a view of Arrow's memory.

    Args:
        array: the `Array` that `arrow_array` returned.
        chunks: the rows, as arrays of pyarrow in order.
        where: the file and the column, for errors.
        first: the number of the first row, for errors.
        declared: the column as the spec declares it; it provides the length of an axis that a row does not show.

    Raises:
        SpecError: a value is missing.
        UnsupportedStoreError: the lists of a row do not form a rectangular array.
    """
    shown = declared if declared is not None and len(declared.axes) == len(array.axes) else None
    return column_of(array, rows_of_chunks(chunks, where, first, declared), shown)
