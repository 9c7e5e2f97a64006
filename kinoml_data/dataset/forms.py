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

from kinoml_data.columns import Ragged, offsets_of, running_total
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


class PadMask(NamedTuple):
    """A padded ragged column and its mask.

    Attributes:
        values: `(rows, *longest)`.
        mask: bool, of the same shape as `values`; True for the values of a row, False for padding.
    """

    values: Tensor
    mask: Tensor


FEW_RUNS = 4  # with more, copying rows one by one is faster than joining their runs
SIGNED = {torch.uint16: torch.int16, torch.uint32: torch.int32, torch.uint64: torch.int64}
Form: TypeAlias = Tensor | list[Tensor] | Packed | PadMask


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


def formed(form: CollateForm, column: Ragged, array: Array) -> Form:
    """The tensors of a ragged column in a collate form."""
    values = as_tensor(column.values)
    column = column.with_values(values)
    match form.form:
        case "packed":
            return _unpickled(column.values, column.offsets, column.shapes)
        case "nested":
            return _nested(column, array)
        case "list":
            return built_list(_rows, column)
    padded = _padded(column, array, 0 if form.value is None else form.value)
    if form.form == "pad":
        return padded
    ones = torch.ones_like(values, dtype=torch.bool)
    return PadMask(padded, _padded(column.with_values(ones), array, False))


def as_tensor(values: Any) -> Tensor:
    """An array as a tensor over the same memory. A tensor, from a column on a device, is returned as it is."""
    return torch.from_numpy(values) if type(values) is np.ndarray else torch.as_tensor(values)


def torch_dtype(array: Array) -> torch.dtype:
    """The dtype of the tensor that a column becomes."""
    return torch.from_numpy(np.empty(0, array.numpy)).dtype


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


def _padded(column: Ragged, array: Array, value: float) -> Tensor:
    values: Any = column.values
    shapes = column.shapes
    longest = shapes.max(axis=0).tolist() if len(shapes) else array.row_shape
    if values.is_floating_point() or values.is_complex():
        value = float(value)  # torch does not accept ints beyond int64
    if values.device.type != "cpu":
        return scattered(values, shapes, longest, value)
    source = values.numpy()
    axis = array.shape.index(None)
    runs = math.prod(length or 1 for length in array.shape[:axis])  # a row consists of so many runs, each padded alone
    if runs <= FEW_RUNS and array.shape.count(None) == 1:
        sizes = np.repeat(np.diff(column.offsets) // runs, runs)
        ends = np.cumsum(sizes).tolist()
        data, padding = source.data, np.full(math.prod(longest) // runs, value, source.dtype).data
        parts = [
            part
            for end, size in zip(ends, sizes.tolist(), strict=True)
            for part in (data[end - size : end], padding[size:])
        ]
        return torch.from_numpy(np.frombuffer(bytearray().join(parts), source.dtype).reshape(len(shapes), *longest))
    # numpy's indexing takes a third of the time of torch's, and starts no threads that wait for each other.
    target: Any = np.full((len(shapes), *longest), value, source.dtype)
    for row, (start, stop, shape) in enumerate(_slices(column)):
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
