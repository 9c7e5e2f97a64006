"""Columns as flat arrays, by name: the layout that packed NPZ, memory and array containers share.

| column | arrays |
| --- | --- |
| fixed | `<column>`: `(rows, *shape)` |
| ragged | `<column>.values`: 1-D, and `<column>.shapes`: `(rows, ndim)` integers |
| strings | `<column>.utf8`: uint8, 1-D, and `<column>.shapes`: `(rows, 1)` |
| not per row | `<name>.index` |
| the spec | `_spec`: uint8, JSON |
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from kinoml_data.columns import Column, Columns, Ragged, concatenate, gather, offsets_of
from kinoml_data.contracts.backend import Storage
from kinoml_data.errors import CorruptStoreError, SpecError, one_line, quoted
from kinoml_data.spec.array import STRING, Array

MAX_VALUES = 1 << 58  # of a column; their bytes fit int64


VALUES, UTF8, SHAPES, INDEX, CRC, SPEC = ".values", ".utf8", ".shapes", ".index", ".crc32", "_spec"


def flatten(columns: Mapping[str, Array], data: Columns) -> dict[str, NDArray[Any]]:
    """The flat arrays of some rows, by the names of the layout."""
    flat: dict[str, NDArray[Any]] = {}
    for name, array in columns.items():
        column = data[name]
        if isinstance(column, Ragged):
            flat[name + (UTF8 if array.is_string else VALUES)] = column.values
            flat[name + SHAPES] = column.shapes
        else:
            flat[name] = column
    return flat


def mismatch(array: Array, column: Column) -> str | None:
    """What a column of a batch is where it is not what `array` announced; None where it is."""
    said = "(*,)" if array.is_string else str(array.shape)
    ragged = array.ragged or array.is_string
    axes: tuple[int | None, ...] = (None,) if array.is_string else array.shape
    if isinstance(column, Ragged) != ragged:
        return f"{'rows of different' if not ragged else 'rows of one'} shape, announced was {said}"
    values = column.values if isinstance(column, Ragged) else column
    if values.dtype != array.numpy:
        return f"{values.dtype}, announced was {array.dtype}"
    if not isinstance(column, Ragged):
        return None if values.shape[1:] == axes else f"rows of shape {values.shape[1:]}, announced was {said}"
    shapes = column.shapes
    if shapes.ndim != 2 or shapes.shape[1] != len(axes):
        return f"shapes {shapes.shape}, announced was {said}"
    for axis, length in enumerate(axes):
        if length is not None and (wrong := shapes[:, axis] != length).any():
            return f"a row of shape {tuple(shapes[wrong][0].tolist())}, announced was {said}"
    total = int(column.offsets[-1])
    if values.ndim != 1 or shapes.min(initial=0) < 0 or total != len(values):
        return f"{values.shape} values, its shapes add up to {total}"
    return None


def flat_arrays(
    columns: Mapping[str, Array],
    batches: Iterable[Columns],
    *,
    arrays: Mapping[str, NDArray[Any]] | None = None,
    spec: str | None = None,
) -> dict[str, NDArray[Any]]:
    """The flat arrays of a whole dataset, for a `Backend.write` that may hold all rows in memory.

    Raises:
        SpecError: a batch holds something else than `columns` announces.
    """
    parts: dict[str, list[Column]] = {name: [_no_rows(array)] for name, array in columns.items()}
    for batch in batches:
        for name, array in columns.items():
            if problem := mismatch(array, batch[name]):
                raise SpecError(f"column {quoted(name)}: a batch holds {problem}")
            parts[name].append(batch[name])
    flat = flatten(columns, {name: concatenate(held) for name, held in parts.items()})
    flat |= {name + INDEX: array for name, array in (arrays or {}).items()}
    return flat if spec is None else {**flat, SPEC: np.frombuffer(spec.encode(), np.uint8)}


def _no_rows(array: Array) -> Column:
    if array.ragged or array.is_string:
        return Ragged.from_rows([], array.numpy, max(1, len(array.shape)))
    return np.empty((0, *(axis or 0 for axis in array.shape)), array.numpy)


class ArrayStorage(Storage):
    """Serves any container of sliceable flat arrays: a dict of numpy arrays, a Zarr or HDF5 group.

    Shapes are read when it is made and kept as numpy; values are read when rows are.

    Args:
        arrays: the arrays by the names of the layout above. Numpy arrays are indexed; of anything else
            `dtype`, `shape` and slices along the first axis are used.
        spec: the embedded spec, where it is not in `_spec`.
        identity: see `Storage`.
        close: called once when the storage is closed, to let go of what is behind the arrays.

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
        held = np.asarray(arrays[SPEC][:]).tobytes() if SPEC in arrays else None
        self.spec = held.decode("utf-8", "replace") if spec is None and held is not None else spec
        self.arrays = {n.removesuffix(INDEX): np.asarray(a[:]) for n, a in arrays.items() if n.endswith(INDEX)}
        self._values: dict[str, Any] = {}
        self._shapes: dict[str, NDArray[np.int64]] = {}
        self._offsets: dict[str, NDArray[np.int64]] = {}
        columns: dict[str, Array] = {}
        rows: dict[str, int] = {}
        for key, values in arrays.items():
            if key.endswith((INDEX, SHAPES, CRC)) or key == SPEC:
                continue
            name = key.removesuffix(VALUES).removesuffix(UTF8)
            self._values[name] = values
            if key == name:
                columns[name] = Array(values.dtype, tuple(values.shape[1:]))
                rows[name] = values.shape[0]
                continue
            if name + SHAPES not in arrays:
                raise CorruptStoreError(f"{quoted(key)} has no {quoted(name + SHAPES)} beside it")
            shapes = np.asarray(arrays[name + SHAPES][:])
            if shapes.dtype.kind not in "iu":
                raise CorruptStoreError(f"column {quoted(name)}: its shapes are {shapes.dtype}, not integers")
            self._shapes[name] = shapes = shapes.astype(np.int64, copy=False)
            columns[name] = ragged_array(name, values.dtype, shapes, is_string=key.endswith(UTF8))
            self._offsets[name] = offsets_of(shapes)
            rows[name] = len(shapes)
            if self._offsets[name][-1] != values.shape[0]:
                held, said = values.shape[0], int(self._offsets[name][-1])
                raise CorruptStoreError(f"column {quoted(name)} holds {held} values, its shapes add up to {said}")
        self.columns = columns
        self._length = common_length(rows)

    def __len__(self) -> int:
        return self._length

    def read(self, rows: NDArray[np.int64], columns: Sequence[str]) -> Columns:
        return {name: self._column(name, rows) for name in columns}

    def shapes(self, column: str) -> NDArray[np.int64] | None:
        return self._shapes.get(column)

    def close(self) -> None:
        if self._close is not None:
            self._close()

    def _column(self, name: str, rows: NDArray[np.int64]) -> Column:
        values = self._values[name]
        if name not in self._shapes:
            if isinstance(values, np.ndarray):
                return to_native_order(values[rows])
            return self.slices(values, rows, rows + 1)
        shapes = self._shapes[name][rows]
        offsets = self._offsets[name]
        read = gather if isinstance(values, np.ndarray) else self.slices
        taken = to_native_order(read(values, offsets[rows], offsets[rows + 1]))
        array = self.columns[name]
        if array.ragged or array.is_string:
            return Ragged(taken, shapes)
        return taken.reshape(len(rows), *array.shape)  # stored as ragged, but all rows agree

    @staticmethod
    def slices(values: Any, starts: NDArray[np.int64], stops: NDArray[np.int64]) -> NDArray[Any]:
        """`values[a:b]` of every pair, end to end, neighbours in one slice.

        Override it where a container has a better way to read many slices at once.
        """
        if len(starts) == 0:
            return to_native_order(np.empty((0, *values.shape[1:]), values.dtype))
        first = np.flatnonzero(np.r_[True, starts[1:] != stops[:-1]])
        last = np.r_[first[1:] - 1, len(starts) - 1]
        pairs = zip(starts[first].tolist(), stops[last].tolist(), strict=True)
        return to_native_order(np.concatenate([np.asarray(values[a:b]) for a, b in pairs]))


def ragged_array(name: str, dtype: Any, shapes: NDArray[np.int64], *, is_string: bool = False) -> Array:
    """The `Array` of a column of these shapes: an axis is fixed where all rows agree; with no rows all are ragged.

    Raises:
        CorruptStoreError: the shapes are not `(rows, ndim)`, negative, or of more values than any store holds.
    """
    if shapes.ndim != 2:
        raise CorruptStoreError(f"column {quoted(name)}: its shapes are not one row of lengths each")
    if len(shapes) == 0:
        return Array(STRING) if is_string else Array(dtype, (None,) * shapes.shape[1])
    low, high = shapes.min(axis=0).tolist(), shapes.max(axis=0).tolist()
    if min(low, default=0) < 0:
        raise CorruptStoreError(f"column {quoted(name)}: its shapes are not one row of lengths each")
    # The product of made-up lengths wraps around in int64, not in floating point; numpy counts an empty axis as 1.
    bound = len(shapes) * math.prod(max(1, axis) for axis in high)
    if bound >= MAX_VALUES and np.maximum(shapes, 1).prod(axis=1, dtype=np.float64).sum() >= MAX_VALUES:
        raise CorruptStoreError(f"column {quoted(name)}: its shapes are larger than any store")
    if is_string:
        return Array(STRING)
    return Array(dtype, tuple(a if a == b else None for a, b in zip(low, high, strict=True)))


def stored_splits(arrays: Mapping[str, NDArray[Any]]) -> dict[str, str]:
    """The splits that arrays of a store can be, each with the array's name: `{"train": "idx_train"}`."""
    return {
        name.removeprefix("idx_"): name
        for name, array in arrays.items()
        if array.ndim == 1 and array.dtype.kind in "iub"
    }


def common_length(rows: Mapping[str, int]) -> int:
    """The number of rows that all columns have.

    Raises:
        CorruptStoreError: they differ, or there is no column.
    """
    if not rows:
        raise CorruptStoreError("the store holds no column")
    if len(set(rows.values())) > 1:
        said = ", ".join(f"{name} has {count}" for name, count in list(rows.items())[:8])
        raise CorruptStoreError(f"the columns differ in their number of rows: {one_line(said)}")
    return next(iter(rows.values()))


def to_native_order(array: NDArray[Any]) -> NDArray[Any]:
    """`array` in the byte order of this machine."""
    return array if array.dtype.isnative else array.astype(array.dtype.newbyteorder("="))
