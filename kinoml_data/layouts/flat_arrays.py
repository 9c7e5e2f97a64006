"""Columns as flat arrays, by name: the layout that NPZ, memory, Zarr and HDF5 share.

| column | arrays |
| --- | --- |
| fixed | `<column>`: `(rows, *shape)` |
| ragged | `<column>.values`: 1-D, the rows end to end, and `<column>.shapes`: integers `(rows, ndim)` |
| strings | `<column>.utf8`: uint8, 1-D, and `<column>.shapes`: integers `(rows, 1)` |
| the checksums of a column's rows | `<column>.crc32`: uint32 `(rows,)`, see `checksums` |
| the keys of rows that share values | `<column>.keys`: integers `(rows,)` |
| not per row | `<name>.index` |
| the spec | `_spec`: uint8, JSON |

The arrays of a column with keys contain its distinct rows; its row i is distinct row `keys[i]`.
"""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from kinoml_data.columns import Column, Columns, Indexed, Ragged, gather, offsets_of
from kinoml_data.contracts.backend import Storage
from kinoml_data.errors import CorruptStoreError, one_line, quoted
from kinoml_data.layouts.keys import checked_keys, smallest, with_equal_shared
from kinoml_data.spec.array import DTYPES, STRING, Array

MAX_VALUES = 1 << 58  # values of a column; their number of bytes then fits into int64

VALUES, UTF8, SHAPES, KEYS, INDEX, CRC = ".values", ".utf8", ".shapes", ".keys", ".index", ".crc32"
SPEC_KEY = "_spec"


def values_key(name: str, array: Array) -> str:
    """The name of the array that contains a column's values."""
    return name + (UTF8 if array.is_string else VALUES if array.ragged else "")


def is_reserved(name: str) -> bool:
    """True if no column can have this name, because the layout uses it for its own arrays."""
    return name == SPEC_KEY or name.endswith((VALUES, UTF8, SHAPES, KEYS, INDEX, CRC))


def flatten(columns: Mapping[str, Array], data: Mapping[str, Column | Indexed]) -> dict[str, NDArray[Any]]:
    """The flat arrays of some rows, without checksums."""
    flat: dict[str, NDArray[Any]] = {}
    for name, array in columns.items():
        column = data[name]
        if isinstance(column, Indexed):
            flat[name + KEYS], column = smallest(column.index, len(column.values)), column.values
        if isinstance(column, Ragged):
            flat[values_key(name, array)], flat[name + SHAPES] = column.values, column.shapes
        else:
            flat[name] = column
    return flat


def mismatch(array: Array, column: Column) -> str | None:
    """How some rows differ from `array`, such as "float64 instead of float32 (3,)"; None if they do not."""
    axes, differ = array.axes, array.rows_differ  # this is done for every batch, and properties take time
    if isinstance(column, Ragged) != differ:
        return f"rows of {'one shape' if differ else 'different shapes'} instead of {array}"
    values = column.values if isinstance(column, Ragged) else column
    if values.dtype != array.numpy:
        return f"{values.dtype} instead of {array}"
    if not isinstance(column, Ragged):
        return None if values.shape[1:] == axes else f"rows of shape {values.shape[1:]} instead of {array}"
    shapes = column.shapes
    if shapes.ndim != 2 or shapes.shape[1] != len(axes):
        return f"shapes {shapes.shape} instead of those of {array}"
    for axis, length in enumerate(axes):
        if length is not None and np.count_nonzero(wrong := shapes[:, axis] != length):
            return f"a row of shape {tuple(shapes[wrong][0].tolist())} instead of {array}"
    total = int(column.offsets[-1])
    if values.ndim != 1 or total != len(values) or np.count_nonzero(shapes < 0):
        return f"{values.shape} values, but its shapes add up to {total}"
    return None


class DecodedColumn(ABC):
    """A column that `ArrayStorage` does not read by slices: in place of an array, it reads rows itself.

    Attributes:
        array: its dtype and the shape of its rows.
    """

    array: Array

    @abstractmethod
    def __len__(self) -> int:
        """The number of rows."""

    @abstractmethod
    def read(self, rows: NDArray[np.int64]) -> Column:
        """These rows as new arrays; raises the errors of `Storage.read`."""


class ArrayStorage(Storage):
    """A storage over any container of flat arrays that can be sliced: a dict of numpy arrays, a Zarr or HDF5 group.

    Shapes are read at once and stay in memory as numpy arrays; values are read when rows are read.

    Args:
        arrays: the arrays by the names of the flat layout. Numpy arrays are indexed; of any other array `dtype`,
            `shape` and slices along the first axis are used. A `DecodedColumn` has the name of its column.
        spec: the embedded spec, if it is not in `_spec`.
        identity: see `Storage`.
        close: called when the storage is closed, to close the file behind the arrays.

    Raises:
        CorruptStoreError: the arrays do not fit together.
    """

    def __init__(
        self,
        arrays: Mapping[str, Any],
        *,
        spec: str | None = None,
        identity: str | None = None,
        close: Callable[[], Any] | None = None,
    ) -> None:
        self.identity, self._close = identity, close
        self.spec = spec
        if spec is None and SPEC_KEY in arrays:
            self.spec = np.asarray(arrays[SPEC_KEY][:]).tobytes().decode("utf-8", "replace")
        self.arrays = {n.removesuffix(INDEX): np.asarray(a[:]) for n, a in arrays.items() if n.endswith(INDEX)}
        self._values: dict[str, Any] = {}
        self._shapes: dict[str, NDArray[np.int64]] = {}
        self._offsets: dict[str, NDArray[np.int64]] = {}
        columns: dict[str, Array] = {}
        unreadable: dict[str, str] = {}
        rows: dict[str, int] = {}
        for key, values in arrays.items():
            if key.endswith((INDEX, SHAPES, KEYS, CRC)) or key == SPEC_KEY:
                continue
            if isinstance(values, DecodedColumn):
                self._values[key], columns[key], rows[key] = values, values.array, len(values)
                continue
            name = key.removesuffix(VALUES).removesuffix(UTF8)
            if values.dtype.name not in DTYPES:
                unreadable[name] = f"column {quoted(name)} has dtype {values.dtype}, which is not supported; convert it"
                continue
            self._values[name] = values
            if key == name:
                columns[name] = Array(values.dtype, tuple(values.shape[1:]))
                rows[name] = values.shape[0]
                continue
            if name + SHAPES not in arrays:
                raise CorruptStoreError(f"{quoted(key)} is stored without {quoted(name + SHAPES)}")
            shapes = np.asarray(arrays[name + SHAPES][:])
            columns[name], self._shapes[name], self._offsets[name] = ragged_layout(
                name, values, shapes, is_string=key.endswith(UTF8)
            )
            rows[name] = len(shapes)
        self.columns, self.unreadable = columns, unreadable
        keys = {name: np.asarray(arrays[name + KEYS][:]) for name in rows if name + KEYS in arrays}
        self._keys = with_equal_shared({name: checked_keys(name, own, rows[name]) for name, own in keys.items()})
        self._length = common_length(rows | {name: len(own) for name, own in keys.items()})

    def __len__(self) -> int:
        return self._length

    def read(self, rows: NDArray[np.int64], columns: Sequence[str]) -> Columns:
        return {name: self._column(name, rows) for name in columns}

    def shapes(self, column: str) -> NDArray[np.int64] | None:
        shapes = self._shapes.get(column)
        return shapes if shapes is None or column not in self._keys else shapes.take(self._keys[column], axis=0)

    def keys(self, column: str) -> NDArray[Any] | None:
        return self._keys.get(column)

    def row_arrays(self) -> Mapping[str, NDArray[Any]]:
        shapes = {name + SHAPES: array for name, array in self._shapes.items()}
        return shapes | self._offsets | {name + KEYS: array for name, array in self._keys.items()}

    def share_row_arrays(self, arrays: Mapping[str, NDArray[Any]]) -> None:
        self._shapes = {name: arrays[name + SHAPES] for name in self._shapes}
        self._offsets = {name: arrays[name] for name in self._offsets}
        self._keys = {name: arrays[name + KEYS] for name in self._keys}

    def close(self) -> None:
        if self._close is not None:
            self._close()

    def _distinct(self, column: str, rows: NDArray[np.int64]) -> NDArray[np.int64]:
        """int64 `(n,)`: the number of each row's distinct row; the row itself if the column does not have keys."""
        return rows if column not in self._keys else self._keys[column].take(rows).astype(np.int64)

    def _column(self, name: str, rows: NDArray[np.int64]) -> Column:
        values, rows = self._values[name], self._distinct(name, rows)
        if isinstance(values, DecodedColumn):
            return values.read(rows)
        if name not in self._shapes:
            if isinstance(values, np.ndarray):
                return to_native_order(np.asarray(values).take(rows, axis=0))
            return self.slices(values, rows, rows + 1)
        shapes, offsets, array = self._shapes[name].take(rows, axis=0), self._offsets[name], self.columns[name]
        starts, stops = offsets.take(rows), offsets.take(rows + 1)
        read = gather if isinstance(values, np.ndarray) else self.slices
        taken = to_native_order(read(values, starts, stops))
        if array.rows_differ:
            return Ragged(taken, shapes)
        return taken.reshape(len(rows), *array.row_shape)  # stored as ragged, but all rows have one shape

    @staticmethod
    def slices(values: Any, starts: NDArray[np.int64], stops: NDArray[np.int64]) -> NDArray[Any]:
        """`values[a:b]` of every pair of starts and stops, end to end; adjacent extents are read in one slice.

        Override this if a container has a better way to read many slices at once.
        """
        if len(starts) == 0:
            return to_native_order(np.empty((0, *values.shape[1:]), values.dtype))
        first = np.flatnonzero(np.r_[True, starts[1:] != stops[:-1]])
        last = np.r_[first[1:] - 1, len(starts) - 1]
        pairs = zip(starts[first].tolist(), stops[last].tolist(), strict=True)
        return to_native_order(np.concatenate([np.asarray(values[a:b]) for a, b in pairs]))


def ragged_layout(
    name: str, values: Any, shapes: NDArray[Any], *, is_string: bool
) -> tuple[Array, NDArray[np.int64], NDArray[np.int64]]:
    """The `Array` of a stored column with these shapes, the shapes as int64, and where each row begins in `values`.

    Raises:
        CorruptStoreError: the values and the shapes do not fit together; see `ragged_array`.
    """
    if shapes.dtype.kind not in "iu":
        raise CorruptStoreError(f"column {quoted(name)}: its shapes have dtype {shapes.dtype}, not integers")
    shapes = shapes.astype(np.int64, copy=False)
    array, offsets = ragged_array(name, values.dtype, shapes, is_string=is_string), offsets_of(shapes)
    if tuple(values.shape) != (total := int(offsets[-1]),):
        size = " x ".join(map(str, values.shape))
        raise CorruptStoreError(f"column {quoted(name)} has {size} values, but its shapes add up to {total}")
    return array, shapes, offsets


def ragged_array(name: str, dtype: Any, shapes: NDArray[np.int64], *, is_string: bool = False) -> Array:
    """The `Array` of a column with these shapes: an axis is fixed if all rows agree; without rows every axis is ragged.

    Raises:
        CorruptStoreError: the shapes are not `(rows, ndim)`, are negative, or add up to more than any store contains.
    """
    if shapes.ndim != 2:
        raise CorruptStoreError(f"column {quoted(name)}: its shapes have {shapes.ndim} axes instead of 2")
    if len(shapes) == 0:
        return Array(STRING) if is_string else Array(dtype, (None,) * shapes.shape[1])
    low, high = shapes.min(axis=0).tolist(), shapes.max(axis=0).tolist()
    if min(low, default=0) < 0:
        raise CorruptStoreError(f"column {quoted(name)}: a row has a negative length")
    # The product of made-up lengths wraps around in int64, not in floating point; numpy counts an empty axis as 1.
    bound = len(shapes) * math.prod(max(1, axis) for axis in high)
    if bound >= MAX_VALUES and np.maximum(shapes, 1).prod(axis=1, dtype=np.float64).sum() >= MAX_VALUES:
        raise CorruptStoreError(f"column {quoted(name)}: its shapes add up to more values than any store contains")
    if is_string:
        return Array(STRING)
    return Array(dtype, tuple(a if a == b else None for a, b in zip(low, high, strict=True)))


def stored_splits(arrays: Mapping[str, NDArray[Any]]) -> dict[str, str]:
    """The splits that the arrays of a store can define, each with the name of its array: `{"train": "idx_train"}`.

    An array called `idx_...` is always one: if it does not contain row numbers, that is an error. Others may have any
    content.
    """
    return {
        name.removeprefix("idx_"): name
        for name, array in arrays.items()
        if name.startswith("idx_") or (array.ndim == 1 and array.dtype.kind in "iub")
    }


def common_length(rows: Mapping[str, int]) -> int:
    """The number of rows that all columns have.

    Raises:
        CorruptStoreError: the columns have different numbers of rows, or there is no column.
    """
    if not rows:
        raise CorruptStoreError("the store contains no column")
    if len(set(rows.values())) > 1:
        counts = ", ".join(f"{name} has {count}" for name, count in list(rows.items())[:8])
        raise CorruptStoreError(f"the columns differ in their number of rows: {one_line(counts)}")
    return next(iter(rows.values()))


def to_native_order(array: NDArray[Any]) -> NDArray[Any]:
    """`array` in the byte order of this machine."""
    return array if array.dtype.isnative else array.astype(array.dtype.newbyteorder("="))
