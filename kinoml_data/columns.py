"""How rows travel inside the library: as numpy arrays, one entry per column."""

from __future__ import annotations

import copy
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property, reduce
from hashlib import blake2b
from itertools import pairwise
from typing import Any, overload

import numpy as np
from numpy.typing import NDArray

LONG = 64  # bytes from which on a value is remembered as a digest, which has this length; shorter ones are kept


@dataclass(frozen=True, eq=False)
class Ragged:
    """Rows of different shapes, laid end to end in one flat array.

    It represents rows of shape `(53, L)`, `(2, E)`, `(N, F)` and `(L, L)` alike. Strings are a `Ragged` of their
    UTF-8 bytes, with one axis.

    Attributes:
        values: 1-D, every element of every row in C order. A tensor if the column is kept on a device.
        shapes: int64 `(rows, ndim)`, the shape of each row.
    """

    values: NDArray[Any]
    shapes: NDArray[np.int64]

    @cached_property
    def offsets(self) -> NDArray[np.int64]:
        """Where each row begins in `values`, and where the last one ends, as int64 `(rows + 1,)`.

        They are computed from the shapes on first use and then remembered.
        """
        return offsets_of(self.shapes)

    def with_values(self, values: Any) -> Ragged:
        """Rows of the same shapes with other values. The offsets are shared, not computed again."""
        other = Ragged(values, self.shapes)
        other.__dict__["offsets"] = self.offsets
        return other

    def __len__(self) -> int:
        return len(self.shapes)

    @property
    def nbytes(self) -> int:
        """The number of bytes of the values and the shapes."""
        return self.values.nbytes + self.shapes.nbytes

    @overload
    def __getitem__(self, row: int) -> NDArray[Any]: ...

    @overload
    def __getitem__(self, row: slice) -> Ragged: ...

    def __getitem__(self, row: int | slice) -> NDArray[Any] | Ragged:
        """One row in its own shape, or a slice of neighbouring rows. Both are views of `values`."""
        if isinstance(row, slice):
            start, stop, _ = row.indices(len(self))
            return Ragged(self.values[self.offsets[start] : self.offsets[max(start, stop)]], self.shapes[start:stop])
        row = range(len(self))[row]  # a negative number counts from the end; raises IndexError if it is out of range
        start, stop = self.offsets[row], self.offsets[row + 1]
        return self.values[start:stop].reshape(self.shapes[row].tolist())  # a list: the values may be a tensor

    def take(self, rows: NDArray[np.int64]) -> Ragged:
        """The given rows in the given order, as new arrays."""
        starts, stops = self.offsets.take(rows), self.offsets.take(rows + 1)
        return Ragged(gather(self.values, starts, stops), self.shapes.take(rows, axis=0))

    def strings(self) -> list[str]:
        """The rows decoded as UTF-8.

        Raises:
            UnicodeDecodeError: a row is not valid UTF-8.
        """
        data, ends = self.values.tobytes(), self.offsets.tolist()
        return [data[a:b].decode() for a, b in pairwise(ends)]

    @classmethod
    def from_strings(cls, strings: Iterable[str]) -> Ragged:
        """A `Ragged` of the UTF-8 bytes of each string."""
        encoded = [text.encode() for text in strings]
        shapes = np.fromiter(map(len, encoded), np.int64, len(encoded)).reshape(-1, 1)
        return cls(np.frombuffer(bytearray(b"".join(encoded)), np.uint8), shapes)

    @classmethod
    def from_rows(cls, rows: Sequence[NDArray[Any]], dtype: Any, ndim: int) -> Ragged:
        """Join arrays that have `ndim` axes each. `dtype` and `ndim` are needed because `rows` may be empty."""
        shapes = np.array([row.shape for row in rows], np.int64).reshape(len(rows), ndim)
        parts = [np.ravel(row) for row in rows]
        return cls(np.concatenate(parts, dtype=dtype) if parts else np.empty(0, dtype), shapes)


Column = NDArray[Any] | Ragged


@dataclass(frozen=True, eq=False)
class Indexed:
    """Rows that share values: the distinct values, and for each row the number of its value.

    Attributes:
        values: the distinct values, one per row of this column. A tensor if the column is kept on a device.
        index: int64 `(rows,)`, the number of each row's value in `values`.
    """

    values: Column
    index: NDArray[np.int64]

    def __len__(self) -> int:
        return len(self.index)

    def __getitem__(self, row: int) -> NDArray[Any]:
        """One row in its own shape, a view of its value."""
        return self.values[int(self.index[row])]

    @property
    def expanded(self) -> Column:
        """The rows one by one, as new arrays in which nothing is shared."""
        return self.values.take(self.index) if isinstance(self.values, Ragged) else self.values.take(self.index, axis=0)


Columns = Mapping[str, Column]


def owned(data: Mapping[str, Any]) -> dict[str, Any]:
    """The caller's values by column, copied, so that changing them later does not change a dataset.

    Arrays, tensors, lists and columns of pandas and awkward are copied, both as columns and as rows. Objects of other
    classes, such as a sequence that reads its rows from a file, are kept as they are.
    """
    return {name: _owned(values) for name, values in data.items()}


def _owned(values: Any) -> Any:
    if isinstance(values, (list, tuple, Iterator)):
        return [_owned_row(row) for row in values]
    return _owned_row(values)


def _owned_row(value: Any) -> Any:
    """A copy of one row, or of a column that is a single object."""
    if isinstance(value, np.ndarray):
        return copy.deepcopy(value) if value.dtype == object else value.copy()
    if hasattr(value, "clone"):  # a tensor; polars has a method of this name, too
        return value.clone()
    if isinstance(value, (list, tuple)):
        return type(value)(map(_owned_row, value)) if type(value) in (list, tuple) else value
    is_column = isinstance(value, Ragged) or type(value).__module__.partition(".")[0] in ("pandas", "awkward")
    return copy.deepcopy(value) if is_column else value


def offsets_of(shapes: NDArray[np.int64]) -> NDArray[np.int64]:
    """Where each row begins if rows of these shapes are laid end to end, and where the last one ends.

    Args:
        shapes: int64 `(rows, ndim)`.

    Returns:
        int64 `(rows + 1,)`.
    """
    return running_total(sizes_of(shapes))


def running_total(lengths: NDArray[np.int64]) -> NDArray[np.int64]:
    """The cumulative sums of the lengths, starting with 0: int64 `(rows + 1,)`."""
    total = np.zeros(len(lengths) + 1, np.int64)
    np.cumsum(lengths, out=total[1:])
    return total


def sizes_of(shapes: NDArray[np.int64]) -> NDArray[np.int64]:
    """The number of values in each row: int64 `(rows,)` from shapes `(rows, ndim)`. It may be a view of `shapes`."""
    # This takes a tenth of the time of `shapes.prod(axis=1)`.
    return reduce(np.multiply, shapes.T) if shapes.shape[1] else np.ones(len(shapes), np.int64)


def distinct_keys(keys: NDArray[Any], count: int | None = None) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """Where each distinct key occurs first, and which of these each key is.

    Args:
        keys: integers `(rows,)` of at least 0.
        count: a number that is larger than all keys; if it is not given, the keys are searched for the largest.

    Returns:
        int64 `(distinct,)`: the positions of the first occurrences, in ascending order; and int64 `(rows,)`: for each
        position, the number of its first occurrence.
    """
    positions = np.arange(len(keys))
    count = int(keys.max(initial=0)) + 1 if count is None else count
    first_of = np.empty(count, np.int64)  # memory is touched only where there is a key
    first_of[keys[::-1]] = positions[::-1]  # of several values for one entry, numpy keeps the last
    first_of_row = first_of[keys]
    first = np.flatnonzero(first_of_row == positions)
    number = np.empty(len(keys), np.int64)
    number[first] = np.arange(len(first))
    return first, number[first_of_row]


def keys_by_content(column: Column, numbers: dict[Any, int] | None = None) -> NDArray[np.int64]:
    """The number of each row's distinct value, in the order in which the values occur first: int64 `(rows,)`.

    Rows are compared bit for bit, together with their shapes.

    Args:
        column: the rows.
        numbers: the numbers of the values in earlier batches of a column, to which those of this batch are added. It
            keeps a digest of a long value in place of the value.
    """
    if isinstance(column, Ragged):
        values, ends, shapes = column.values, column.offsets * column.values.itemsize, column.shapes
    else:
        size = column[:1].nbytes
        values, ends, shapes = column, np.arange(len(column) + 1) * size, np.empty((len(column), 0), np.int64)
    data, bounds = np.ascontiguousarray(values).reshape(-1).view(np.uint8).data, ends.tolist()
    several_axes = shapes.shape[1] > 1  # with one axis, the number of bytes shows the shape
    rows: Iterable[bytes] = (bytes(data[start:stop]) for start, stop in pairwise(bounds))
    if numbers is None:
        numbers = {}
    else:
        rows = (row if len(row) < LONG else blake2b(row, digest_size=LONG).digest() for row in rows)
    contents: Iterable[Any] = zip(rows, map(tuple, shapes.tolist()), strict=True) if several_axes else rows
    return np.fromiter((numbers.setdefault(row, len(numbers)) for row in contents), np.int64, len(column))


def gather(values: NDArray[Any], starts: NDArray[np.int64], stops: NDArray[np.int64]) -> NDArray[Any]:
    """`values[start:stop]` for every pair of a start and a stop, end to end in a new array."""
    if len(starts) == 0:
        return np.empty(0, values.dtype)
    if np.count_nonzero(starts[1:] != stops[:-1]) == 0:
        return values[starts[0] : stops[-1]].copy()
    # Joining slices of a memoryview is as fast as a loop in C over rows of some kilobytes. `np.take` is faster only if
    # rows have less than 20 values.
    data = np.ascontiguousarray(values).data
    parts = [data[a:b] for a, b in zip(starts.tolist(), stops.tolist(), strict=True)]
    return np.frombuffer(bytearray().join(parts), values.dtype)


def cast(values: NDArray[Any], dtype: np.dtype[Any], *, exact: bool = False) -> tuple[NDArray[Any], int | None]:
    """Convert numbers to another dtype.

    Integers fit if their conversion is exact. Floating-point numbers are rounded to a floating-point dtype, in which a
    finite number must not become infinite; they fit an integer dtype if they are whole and in its range. Only 0 and 1
    fit bool. Complex numbers fit only complex dtypes.

    Args:
        values: numbers or bools.
        dtype: the dtype to convert to.
        exact: True if no value may be rounded either.

    Returns:
        The converted values, and the flat position of the first value that does not fit; None if all fit.
    """
    source, target = values.dtype.kind, dtype.kind
    with np.errstate(all="ignore"):
        result = values.astype(dtype)
        if (source == target and np.can_cast(values.dtype, dtype, "safe")) or source == "b":
            return result, None
        if target == "b":
            lost = (values != 0) & (values != 1)
        elif target in "iu":
            lost = _outside(values, dtype) if source in "iu" else _not_whole(values, result)
        elif source in "iu":
            lost = _inexact(values, result)
        else:
            lost = np.isinf(result) & ~np.isinf(values)
            if exact:
                back = result if source == "c" else result.real
                lost |= (back.astype(values.dtype) != values) & ~np.isnan(values)
    return result, None if lost is None or not lost.any() else int(lost.argmax())


def _outside(values: NDArray[Any], dtype: np.dtype[Any]) -> NDArray[np.bool_] | None:
    """A mask of the integers outside the range of another integer dtype; None if its range contains all of theirs."""
    low, high = np.iinfo(dtype).min, np.iinfo(dtype).max
    return None if np.can_cast(values.dtype, dtype, "safe") else (values < low) | (values > high)


def _not_whole(values: NDArray[Any], result: NDArray[Any]) -> NDArray[np.bool_]:
    """A mask of the floating-point numbers that are not whole numbers of the integer dtype of `result`."""
    bits = 8 * result.itemsize - (result.dtype.kind == "i")
    # Converting a number outside of the integers' range is undefined behaviour. Both bounds are exact as float64.
    wide = values.astype(np.float64)
    inside = (wide >= (-(2.0**bits) if result.dtype.kind == "i" else 0)) & (wide < 2.0**bits)
    lost: NDArray[np.bool_] = ~inside | (wide != np.trunc(wide))
    return lost


def _inexact(values: NDArray[Any], result: NDArray[Any]) -> NDArray[np.bool_] | None:
    """A mask of the integers that were not converted exactly to floating point; None if the dtypes rule that out.

    `np.can_cast` cannot tell: it calls int64 to float64 safe, which loses integers beyond 2**53.
    """
    bits = 8 * values.dtype.itemsize - (values.dtype.kind == "i")
    real = result.real
    if bits <= np.finfo(real.dtype).nmant + 1:
        return None
    # Casting a value outside of the integers' range back is undefined behaviour. The least integer may become -inf.
    outside = np.isinf(real) | (real >= 2.0**bits)
    lost: NDArray[np.bool_] = outside | (np.where(outside, 0, real).astype(values.dtype) != values)
    return lost


def concatenate(parts: Sequence[Column]) -> Column:
    """The rows of several columns of the same kind, end to end. A part that contains all rows is not copied."""
    parts = [part for part in parts if len(part)] or parts[:1]
    if len(parts) == 1:
        return parts[0]
    if isinstance(parts[0], Ragged):
        ragged = [p for p in parts if isinstance(p, Ragged)]
        return Ragged(np.concatenate([p.values for p in ragged]), np.concatenate([p.shapes for p in ragged]))
    return np.concatenate([p for p in parts if not isinstance(p, Ragged)])
