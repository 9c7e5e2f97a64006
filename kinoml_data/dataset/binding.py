"""A spec bound to an open storage: they are compared once, and rows are adapted to the spec when they are read."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from kinoml_data.columns import Column, Columns, Ragged, cast
from kinoml_data.contracts.backend import Storage
from kinoml_data.dataset.device import DeviceColumns
from kinoml_data.errors import SpecError, StoreReadError, quoted, unknown
from kinoml_data.layouts.flat_arrays import mismatch
from kinoml_data.layouts.memory_storage import MemoryStorage
from kinoml_data.spec.array import Array
from kinoml_data.spec.dataset_spec import CompleteSpec


@dataclass(frozen=True)
class _Plan:
    """How one column of the spec is made from its stored column."""

    name: str
    stored_as: str
    requested: Array
    cast: bool  # the dtypes differ
    reshape: bool  # only one of the two is ragged, or the length of an axis has to be compared

    @property
    def adapts(self) -> bool:
        return self.cast or self.reshape or self.requested.packbits


class Binding:
    """A spec bound to an open storage. Reads columns by the spec's names, in the spec's dtypes and shapes.

    Attributes:
        storage: the open storage.
        length: the number of rows.

    Raises:
        SpecError: a column is not in the store, or its stored dtype or shape does not allow what the spec asks for.
            The error lists all such columns.
    """

    def __init__(self, spec: CompleteSpec, storage: Storage) -> None:
        self.storage, self.length = storage, len(storage)
        problems: list[str] = []
        self._plans: dict[str, _Plan] = {}
        for name, requested in spec.columns.items():
            stored_as = requested.stored_as or name
            stored = storage.columns.get(stored_as)
            if stored is None:
                problems.append(f"columns.{name}: {unknown(stored_as, storage.columns, 'stored column')}")
            elif problem := _difference(requested, stored, storage, stored_as):
                problems.append(f"columns.{name}: {problem}")
            else:
                self._plans[name] = _plan(name, stored_as, requested, stored)
        if problems:
            raise SpecError(*problems).prefixed("the spec does not fit the store: ")
        # These columns need no change, and the storage has a shorter way to read one row of them.
        overridden = type(storage).read_row is not Storage.read_row
        self._direct = frozenset(n for n, p in self._plans.items() if overridden and p.stored_as == n and not p.adapts)
        self._direct_names: set[tuple[str, ...]] = set()
        self._device: DeviceColumns | None = None
        if isinstance(storage, MemoryStorage) and storage.device is not None:
            names = [*spec.X_names, *spec.y_names]
            self._device = DeviceColumns(self.read(np.arange(self.length), names), storage.device)

    def read(self, rows: NDArray[np.int64], names: Sequence[str]) -> dict[str, Column]:
        """Read some rows of the columns `names`, adapted to the spec.

        Raises:
            SpecError: a value does not fit the dtype that the spec asks for, or a row does not have its shape.
            StoreReadError: the storage did not return the requested rows.
        """
        if self._device is not None and all(name in self._device for name in names):
            return self._device.read(rows, names)
        plans = [self._plans[name] for name in names]
        columns = self._read(rows, [plan.stored_as for plan in plans])
        return {plan.name: _adapt(columns[plan.stored_as], plan, rows) for plan in plans}

    def read_row(self, row: int, names: tuple[str, ...]) -> Mapping[str, NDArray[Any]]:
        """Read one row of the columns `names`, each as a new array in its own shape; raises the errors of `read`."""
        if self._device is not None:
            return self._device.read_row(row, names)
        if names in self._direct_names:
            return self.storage.read_row(row, names)
        if self._direct.issuperset(names):
            self._direct_names.add(names)
        columns = self.read(np.array([row]), names)
        return {name: np.array(column[0]) for name, column in columns.items()}

    def stored(self, name: str) -> Array:
        """How a column of the spec is stored."""
        return self.storage.columns[self._plans[name].stored_as]

    def read_stored(self, rows: NDArray[np.int64], names: Sequence[str]) -> dict[str, Column]:
        """Read some rows of the columns `names` as they are stored; raises the errors of `Storage.read`."""
        stored_names = {name: self._plans[name].stored_as for name in names}
        columns = self._read(rows, list(stored_names.values()))
        return {name: columns[stored_as] for name, stored_as in stored_names.items()}

    def shapes(self, name: str) -> NDArray[np.int64] | None:
        """int64 `(rows, ndim)`: the shape of every row of a column; None if that needs reading the values."""
        return self.storage.shapes(self._plans[name].stored_as)

    def _read(self, rows: NDArray[np.int64], stored_names: list[str]) -> Columns:
        """Read from the storage and check the result: missing rows would only make an epoch shorter."""
        columns = self.storage.read(rows, stored_names)
        for name in stored_names:
            column = columns[name]
            problem = mismatch(self.storage.columns[name], column)
            if len(column) != len(rows) or problem:
                raise StoreReadError(
                    f"{type(self.storage).__name__} is wrong: it was asked for {len(rows)} rows of column "
                    f"{quoted(name)}, but returned {problem or f'{len(column)} rows'}"
                )
        return columns


def _difference(requested: Array, stored: Array, storage: Storage, stored_as: str) -> str | None:
    """Why the stored column cannot become the requested one; None if it can."""
    both = f"the store has {stored}, but the spec asks for {requested}"
    if requested.is_string != stored.is_string:
        return both
    if requested.packbits:
        bits = requested.shape[-1] or 0
        if stored.dtype != "uint8" or stored.shape[-1:] != (_packed_length(bits),):
            return f"packbits of {bits} needs uint8 rows of {_packed_length(bits)}, but the store has {stored}"
        stored = Array("bool", (*stored.shape[:-1], bits))
    if not np.can_cast(stored.numpy, requested.numpy, requested.cast):
        allowed = np.can_cast(stored.numpy, requested.numpy, "same_kind")
        return f"{both}; `cast: same_kind` allows this" if allowed else f"{both}, which is not a safe cast"
    if len(requested.shape) != len(stored.shape):
        return both
    shapes = None
    for axis, (length, stored_length) in enumerate(zip(requested.shape, stored.shape, strict=True)):
        if length is None or length == stored_length:
            continue
        if stored_length is None:
            shapes = storage.shapes(stored_as) if shapes is None else shapes
            if shapes is None or (shapes[:, axis] == length).all():
                continue
        return both
    return None


def _packed_length(bits: int) -> int:
    return -(-bits // 8)


def _plan(name: str, stored_as: str, requested: Array, stored: Array) -> _Plan:
    dtype = np.dtype(bool) if requested.packbits else stored.numpy
    shape = (*stored.shape[:-1], requested.shape[-1]) if requested.packbits else stored.shape
    reshape = not requested.is_string and shape != requested.shape
    return _Plan(name, stored_as, requested, cast=dtype != requested.numpy, reshape=reshape)


def _adapt(column: Column, plan: _Plan, rows: NDArray[np.int64]) -> Column:
    if plan.requested.packbits:
        column = _unpacked(column, plan.requested.shape[-1] or 0)
    if plan.reshape:
        column = _reshaped(column, plan.requested, plan.name, rows)
    if not plan.cast:
        return column
    values = column.values if isinstance(column, Ragged) else column
    result = _cast(values, plan, column, rows)
    return column.with_values(result) if isinstance(column, Ragged) else result


def _reshaped(column: Column, requested: Array, name: str, rows: NDArray[np.int64]) -> Column:
    if not isinstance(column, Ragged):
        shapes = np.tile(np.array(column.shape[1:], np.int64), (len(column), 1))
        column = Ragged(column.reshape(-1), shapes)
    for axis, length in enumerate(requested.shape):
        if length is not None and (wrong := column.shapes[:, axis] != length).any():
            row, shape = int(rows[wrong][0]), tuple(column.shapes[wrong][0].tolist())
            raise SpecError(f"column {name!r}, row {row}: its shape is {shape}, but the spec asks for {requested}")
    return column if requested.ragged else column.values.reshape(len(column), *requested.row_shape)


def _unpacked(column: Column, bits: int) -> Column:
    values = column.values if isinstance(column, Ragged) else column
    unpacked = np.unpackbits(values.reshape(-1, _packed_length(bits)), axis=1, count=bits).view(bool)
    if isinstance(column, Ragged):
        shapes = column.shapes.copy()
        shapes[:, -1] = bits
        return Ragged(unpacked.reshape(-1), shapes)
    return unpacked.reshape(*values.shape[:-1], bits)


def _cast(values: NDArray[Any], plan: _Plan, column: Column, rows: NDArray[np.int64]) -> NDArray[Any]:
    result, lost = cast(values, plan.requested.numpy)
    if lost is None:
        return result
    if isinstance(column, Ragged):
        row = int(np.searchsorted(column.offsets, lost, side="right")) - 1
    else:
        row = lost // (values.size // len(values))
    value = quoted(values.reshape(-1)[lost].item())
    raise SpecError(f"column {plan.name!r}, row {int(rows[row])}: {value} does not fit {plan.requested.dtype}")
