"""The collate forms of a ragged column: from rows laid end to end to tensors."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Sequence
from typing import Any, NamedTuple, TypeAlias

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.utils.data import get_worker_info

from kinoml_data.columns import Indexed, Ragged, distinct_keys, keys_by_content, offsets_of, running_total
from kinoml_data.dataset.form_html import form_html, form_repr
from kinoml_data.spec.array import Array
from kinoml_data.spec.parts import CollateForm


class Packed(NamedTuple):
    """The rows of a ragged column, laid end to end.

    Attributes:
        values: 1-D, every element of every row in C order.
        offsets: int64 `(rows + 1,)`, where each row begins and where the last one ends.
        shapes: int64 `(rows, ndim)`, the shape of each row.
    """

    values: Tensor
    offsets: Tensor
    shapes: Tensor

    def __reduce__(self) -> tuple[Any, ...]:
        # Sending a tensor to another process costs a file descriptor and 0.4 ms; a small array costs next to nothing.
        return _unpickled, (self.values, self.offsets.cpu().numpy(), self.shapes.cpu().numpy())

    def __repr__(self) -> str:
        return form_repr(self)

    def _repr_html_(self) -> str:
        return form_html(self)


class PadMask(NamedTuple):
    """A padded ragged column and its mask.

    Attributes:
        values: `(rows, *longest)`.
        mask: bool, of the same shape as `values`; True for the values of a row, False for padding.
    """

    values: Tensor
    mask: Tensor

    def __repr__(self) -> str:
        return form_repr(self)

    def _repr_html_(self) -> str:
        return form_html(self)


class Unique(NamedTuple):
    """The distinct rows of a column in a batch, in any other form, and which of them each row of the batch is.

    Attributes:
        values: the distinct rows in the form that `of` names, in the order in which they occur first in the batch. A
            tensor `(distinct, *shape)` if the column is fixed.
        index: int64 `(rows,)`, for each row of the batch the number of its value in `values`.
    """

    values: Any
    index: Tensor  # type: ignore[assignment]  # it hides the method of tuples

    def __reduce__(self) -> tuple[Any, ...]:
        return _unpickled_unique, (self.values, self.index.cpu().numpy())  # as in `Packed`

    def __repr__(self) -> str:
        return form_repr(self)

    def _repr_html_(self) -> str:
        return form_html(self)


FEW_RUNS = 4  # with more, copying rows one by one is faster than joining their runs
SIGNED = {torch.uint16: torch.int16, torch.uint32: torch.int32, torch.uint64: torch.int64}
Form: TypeAlias = Tensor | list[Tensor] | Packed | PadMask | Unique


class RebuiltList(list[Any]):
    """A list of tensors, or of lists of tensors, that is pickled as the source from which it was built.

    The source has few tensors, and each one costs a file descriptor on its way to another process. If items have been
    replaced since then, the list is pickled as it is.
    """

    def __init__(self, build: Callable[[Any], list[Any]], source: Any) -> None:
        super().__init__(build(source))
        self._origin = build, source, _copied(self)

    def __reduce__(self) -> tuple[Any, ...]:
        build, source, built = self._origin
        return (build, (source,)) if _identical(self, built) else (list, (list(self),))


def built_list(build: Callable[[Any], list[Any]], source: Any) -> list[Any]:
    """The list `build(source)`; in a worker process, it is a `RebuiltList`."""
    return build(source) if get_worker_info() is None else RebuiltList(build, source)


def formed(form: CollateForm, column: Any, array: Array) -> Form:
    """The tensors of a column in a collate form.

    Args:
        form: the form. A fixed column is stacked, unless its form is unique.
        column: rows of numpy arrays, or of tensors on a device.
        array: the dtype and shape of the column.
    """
    if form.form == "unique":
        if not isinstance(column, Indexed):
            column = _indexed(column)
        # Columns that share values in the same way have one index here, but not in a batch, which may be changed.
        return _unpickled_unique(formed(of_distinct(form), column.values, array), column.index.copy())
    rows = None
    if isinstance(column, Indexed) and isinstance(column.values, Ragged) and form.form in ("pad", "pad-mask"):
        column, rows = column.values, column.index  # each row is copied once, to its place in the padded tensor
    column = expanded(column)
    if not isinstance(column, Ragged):
        return as_tensor(column)
    values = as_tensor(column.values)
    column = column.with_values(values)
    match form.form:
        case "packed":
            return _unpickled(column.values, column.offsets, column.shapes)
        case "nested":
            return _nested(column, array)
        case "list":
            return built_list(_rows, column)
    padded = _padded(column, array, 0 if form.value is None else form.value, rows)
    if form.form == "pad":
        return padded
    ones = torch.ones_like(values, dtype=torch.bool)
    return PadMask(padded, _padded(column.with_values(ones), array, False, rows))


def of_distinct(form: CollateForm) -> CollateForm:
    """The form of the distinct rows if the form is unique, and otherwise the form itself."""
    return CollateForm(form=form.of or "list", value=form.value) if form.form == "unique" else form


def _indexed(column: Any) -> Indexed:
    """Rows as an `Indexed` of those that differ bit for bit."""
    first, index = distinct_keys(keys_by_content(as_arrays(column)), len(column))
    return Indexed(taken(column, first), index)


def as_arrays(column: Any) -> Any:
    """The same rows with numpy arrays in place of tensors."""
    return column.with_values(_as_array(column.values)) if isinstance(column, Ragged) else _as_array(column)


def expanded(column: Any) -> Any:
    """The rows of an `Indexed` one by one, in new memory; any other column as it is."""
    return taken(column.values, column.index) if isinstance(column, Indexed) else column


def copied(value: Any) -> Any:
    """A copy of a numpy array, or of a tensor on a device."""
    return value.clone() if isinstance(value, Tensor) else np.array(value)


def taken(column: Any, rows: NDArray[np.int64], unit: int | None = None) -> Any:
    """The given rows of a column in the given order, in new memory.

    Args:
        column: a `Ragged` or an array, with numpy's values or with tensors.
        rows: row numbers.
        unit: a number of values of which every row of a `Ragged` of tensors contains a multiple, if it is known.
    """
    values = column.values if isinstance(column, Ragged) else column
    if not isinstance(values, Tensor) or values.device.type == "cpu":
        array = _as_array(values)
        return column.with_values(array).take(rows) if isinstance(column, Ragged) else array.take(rows, axis=0)
    if not isinstance(column, Ragged):
        return _indexed_rows(values, torch.from_numpy(rows).to(values.device))
    result = Ragged(column.values, column.shapes.take(rows, axis=0))  # its values are still those of all rows
    # Rows are taken by units, several values at once. The distance from each unit's place in the result to its place
    # in the column is the same within a row.
    unit, starts = unit or unit_of(column.shapes), result.offsets[:-1]
    parts = np.stack([column.offsets.take(rows) - starts, np.diff(result.offsets)]) // unit
    distances, sizes = torch.from_numpy(parts).to(values.device)
    total = int(result.offsets[-1]) // unit
    index = torch.repeat_interleave(distances, sizes, output_size=total) + torch.arange(total, device=values.device)
    return result.with_values(_indexed_rows(values.view(-1, unit), index).view(-1))


def unit_of(shapes: NDArray[np.int64]) -> int:
    """A number of values of which every row contains a multiple: the product of the axes that all rows share."""
    shared = shapes[0, (shapes == shapes[0]).all(axis=0)] if len(shapes) else shapes[:0]
    return max(1, int(shared.prod()))


def _indexed_rows(values: Tensor, index: Tensor) -> Tensor:
    return as_signed(values)[index].view(values.dtype)


def _as_array(values: Any) -> NDArray[Any]:
    """An array, or a tensor as an array: over the same memory if it is on the CPU."""
    return values.cpu().numpy() if isinstance(values, Tensor) else values


def as_tensor(values: Any) -> Tensor:
    """An array as a tensor over the same memory. A tensor, from a column on a device, is returned as it is."""
    return torch.from_numpy(values) if type(values) is np.ndarray else torch.as_tensor(values)


def torch_dtype(array: Array) -> torch.dtype:
    """The dtype of the tensor that a column becomes."""
    return torch.from_numpy(np.empty(0, array.numpy)).dtype


def _unpickled_unique(values: Any, index: NDArray[np.int64]) -> Unique:
    first = values[0] if isinstance(values, (list, tuple)) and len(values) else values
    return Unique(values, torch.from_numpy(index).to(getattr(first, "device", "cpu")))


def _unpickled(values: Any, *arrays: Any) -> Packed:
    offsets, shapes = (torch.from_numpy(array).to(values.device) for array in arrays)
    return Packed(values, offsets, shapes)


def _rows(column: Ragged) -> list[Tensor]:
    values: Any = column.values
    if values.device.type != "cpu":
        return [values[start:stop].reshape(shape) for start, stop, shape in _slices(column)]
    array = values.numpy()  # slicing in numpy is twice as fast as in torch
    return [torch.from_numpy(array[start:stop].reshape(shape)) for start, stop, shape in _slices(column)]


def _slices(column: Ragged) -> Iterator[tuple[int, int, list[int]]]:
    """Where the values of each row begin and end, and its shape."""
    ends = column.offsets.tolist()
    return zip(ends[:-1], ends[1:], column.shapes.tolist(), strict=True)


def _padded(column: Ragged, array: Array, value: float, rows: NDArray[np.int64] | None = None) -> Tensor:
    """The rows of a column, or those whose numbers are in `rows`, padded to the longest row of the column."""
    values: Any = column.values
    shapes = column.shapes
    longest = shapes.max(axis=0).tolist() if len(shapes) else array.row_shape
    if values.is_floating_point() or values.is_complex():
        value = float(value)  # torch does not accept ints beyond int64
    if values.device.type != "cpu":
        padded = scattered(values, shapes, longest, value)
        return padded if rows is None else as_tensor(taken(padded, rows))
    source, count = values.numpy(), len(column) if rows is None else len(rows)
    axis = array.shape.index(None)
    runs = math.prod(length or 1 for length in array.shape[:axis])  # a row consists of so many runs, each padded alone
    if runs <= FEW_RUNS and array.shape.count(None) == 1:
        starts, sizes = column.offsets[:-1], np.diff(column.offsets) // runs
        if rows is not None:
            starts, sizes = starts.take(rows), sizes.take(rows)
        ends = (starts[:, None] + sizes[:, None] * np.arange(1, runs + 1)).reshape(-1).tolist()
        data, padding = source.data, np.full(math.prod(longest) // runs, value, source.dtype).data
        parts = [
            part
            for end, size in zip(ends, np.repeat(sizes, runs).tolist(), strict=True)
            for part in (data[end - size : end], padding[size:])
        ]
        return torch.from_numpy(np.frombuffer(bytearray().join(parts), source.dtype).reshape(count, *longest))
    # numpy's indexing takes a third of the time of torch's, and starts no threads that wait for each other.
    target: Any = np.full((count, *longest), value, source.dtype)
    slices = list(_slices(column))
    for row, (start, stop, shape) in enumerate(slices if rows is None else map(slices.__getitem__, rows.tolist())):
        target[(row, *map(slice, shape))] = source[start:stop].reshape(shape)
    return torch.from_numpy(target)


def scattered(values: Tensor, shapes: NDArray[np.int64], longest: Sequence[int], value: float) -> Tensor:
    """Padded rows, made in a few steps on the device of the values rather than row by row.

    Args:
        values: 1-D, every element of every row in C order.
        shapes: int64 `(rows, ndim)`, the shape of each row.
        longest: the length of each axis of the result, after the rows.
        value: what the rows are padded with.
    """
    axes = len(longest)  # those that differ between rows, and what is before them; the rest is copied as one unit
    while axes and (shapes[:, axes - 1] == longest[axes - 1]).all():
        axes -= 1
    unit = max(1, math.prod(longest[axes:]))
    device, offsets = values.device, torch.from_numpy(offsets_of(shapes) // unit).to(values.device)
    total, lengths = len(values) // unit, torch.from_numpy(shapes).to(device)
    row = torch.repeat_interleave(torch.arange(len(shapes), device=device), offsets.diff(), output_size=total)
    place = torch.arange(total, device=device) - offsets[row]  # within the row
    target, stride = row * math.prod(longest[:axes]), 1
    for axis in reversed(range(axes)):
        length = lengths[row, axis]
        target += place % length * stride
        place //= length
        stride *= longest[axis]
    kept = as_signed(values)
    filling = as_signed(torch.tensor([value], dtype=values.dtype)).item()
    padded = torch.full((len(shapes), *longest), filling, dtype=kept.dtype, device=device)
    padded.view(-1, unit)[target] = kept.view(-1, unit)
    return padded.view(values.dtype)


def as_signed(values: Tensor) -> Tensor:
    """The same memory as signed integers, if torch cannot index the dtype on every device."""
    signed = SIGNED.get(values.dtype)
    return values if signed is None else values.view(signed)


def _nested(column: Ragged, array: Array) -> Tensor:
    values: Any = column.values
    axis = array.shape.index(None)
    lengths = column.shapes[:, axis]
    offsets = running_total(lengths)
    joined_shape = [int(offsets[-1]) if length is None else length for length in array.shape]
    # Rows that are ragged along their first axis need only be laid end to end, and so do rows without values.
    joined = values.reshape(joined_shape) if axis == 0 or not len(values) else torch.cat(_rows(column), dim=axis)
    jagged: Tensor = torch.nested.nested_tensor_from_jagged(
        joined,
        torch.from_numpy(offsets).to(values.device),
        jagged_dim=axis + 1,
        min_seqlen=int(lengths.min()) if len(lengths) else 0,
        max_seqlen=int(lengths.max(initial=0)),
    )
    return jagged


def _copied(items: list[Any]) -> list[Any]:
    return [_copied(item) if isinstance(item, list) else item for item in items]


def _identical(items: Any, others: Any) -> bool:
    """True if nested lists contain the same objects."""
    if not isinstance(others, list):
        return items is others
    return isinstance(items, list) and len(items) == len(others) and all(map(_identical, items, others))
