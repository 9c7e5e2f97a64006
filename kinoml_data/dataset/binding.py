"""What a spec asks for, against what a storage holds: inferred, checked once, adapted on every read."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from kinoml_data.columns import Column, Columns, Ragged, cast
from kinoml_data.contracts.backend import Storage
from kinoml_data.dataset.device import DeviceColumns
from kinoml_data.errors import CorruptStoreError, SpecError, StoreReadError, quoted, unknown
from kinoml_data.layouts.flat_arrays import mismatch, stored_splits
from kinoml_data.layouts.memory_storage import MemoryStorage
from kinoml_data.spec import config
from kinoml_data.spec.array import Array
from kinoml_data.spec.dataset_spec import DatasetSpec


def complete(spec: DatasetSpec, storage: Storage) -> DatasetSpec:
    """`spec` with the columns and roles it leaves out taken from the store.

    Raises:
        SpecError: nothing can be inferred.
    """
    if spec.columns is not None:
        return spec
    said = spec.to_mapping()
    columns = said | {"columns": dict(storage.columns)}
    if spec.X is None and spec.y is None:
        X, y = _roles(storage.columns)
        columns |= {"X": X, "y": y}
    elif spec.X is None:
        others = [n for n, a in storage.columns.items() if not a.is_string and n not in (*spec.y_names, *spec.meta)]
        columns["X"] = others[0] if len(others) == 1 else others
    if not spec.meta:
        roles = {*_tuple(columns["X"]), *_tuple(columns.get("y"))}
        columns["meta"] = [name for name in storage.columns if name not in roles]
    if spec.splits is None:
        columns["splits"] = stored_splits(storage.arrays)
    if columns.get("y") is None:
        columns.pop("y", None)
    return DatasetSpec.parse(columns, spec.base, spec.root)


def parse_embedded_spec(text: str, storage: Mapping[str, Any], base: Path, root: Path) -> DatasetSpec:
    """The spec a store carries, over `storage`, which is how the store was opened.

    Raises:
        CorruptStoreError: it is not a spec.
    """
    try:
        data = config.parse(text.encode(), ".json")
        return DatasetSpec.parse(data | {"storage": storage}, base, root)
    except ValueError as error:  # a SpecError is one
        raise CorruptStoreError(f"the spec embedded in the store is not valid: {error}") from None


def _roles(columns: Mapping[str, Array]) -> tuple[str | list[str], str | None]:
    numeric = [name for name, array in columns.items() if not array.is_string]
    if not numeric:
        raise SpecError("the store has no numeric column; say in the spec which columns there are")
    no_y = all(re.fullmatch(r"X\d*", name) for name in numeric)
    X, y = (numeric, None) if no_y or len(numeric) == 1 else (numeric[:-1], numeric[-1])
    return X[0] if len(X) == 1 else X, y


def _tuple(part: str | Sequence[str] | None) -> tuple[str, ...]:
    return () if part is None else (part,) if isinstance(part, str) else tuple(part)


@dataclass(frozen=True)
class _Plan:
    """How one column of the spec comes out of its stored column."""

    name: str
    stored_as: str
    wanted: Array
    cast: bool  # the dtypes differ
    reshape: bool  # one of the two is ragged where the other is not, or an axis has to be compared

    @property
    def adapts(self) -> bool:
        return self.cast or self.reshape or self.wanted.packbits


class Binding:
    """A spec bound to an open storage: reads columns by the spec's names, in the spec's dtypes.

    Raises:
        SpecError: the spec and the store differ, all differences at once.
    """

    def __init__(self, spec: DatasetSpec, storage: Storage) -> None:
        assert spec.columns is not None
        self.storage = storage
        problems: list[str] = []
        self._plans: dict[str, _Plan] = {}
        for name, wanted in spec.columns.items():
            source = wanted.stored_as or name
            stored = storage.columns.get(source)
            if stored is None:
                problems.append(f"columns.{name}: {unknown(source, storage.columns, 'stored column')}")
            elif problem := _difference(wanted, stored, storage, source):
                problems.append(f"columns.{name}: {problem}")
            else:
                self._plans[name] = _plan(name, source, wanted, stored)
        if problems:
            raise SpecError("the spec does not fit the store: " + "; ".join(problems))
        # Columns that come out as stored, under the same name, where the storage has its own way to read a row.
        own = type(storage).read_row is not Storage.read_row
        self._direct = frozenset(n for n, p in self._plans.items() if own and p.stored_as == n and not p.adapts)
        self._direct_names: set[tuple[str, ...]] = set()
        self._device: DeviceColumns | None = None
        if isinstance(storage, MemoryStorage) and storage.device is not None:
            names = [*spec.X_names, *spec.y_names]
            self._device = DeviceColumns(self.read(np.arange(len(storage)), names), storage.device)

    def read(self, rows: NDArray[np.int64], names: Sequence[str]) -> dict[str, Column]:
        """The given rows of the columns `names`, as `Storage.read` but adapted to the spec.

        Raises:
            SpecError: a value does not fit the dtype asked for, or a row the shape.
            StoreReadError: the backend gave something other than the rows asked for.
        """
        if self._device is not None and all(name in self._device for name in names):
            return self._device.read(rows, names)
        plans = [self._plans[name] for name in names]
        found = self._read(rows, [plan.stored_as for plan in plans])
        return {plan.name: _adapt(found[plan.stored_as], plan, rows) for plan in plans}

    def read_row(self, row: int, names: tuple[str, ...]) -> Mapping[str, NDArray[Any]]:
        """One row of the columns `names`, each as a new array in its own shape."""
        if self._device is not None:
            return self._device.read_row(row, names)
        if names in self._direct_names:
            return self.storage.read_row(row, names)
        if self._direct.issuperset(names):
            self._direct_names.add(names)
        found = self.read(np.array([row]), names)
        return {name: np.array(column[0]) for name, column in found.items()}

    def stored(self, name: str) -> Array:
        """What the store holds for a column of the spec."""
        return self.storage.columns[self._plans[name].stored_as]

    def read_stored(self, rows: NDArray[np.int64], names: Sequence[str]) -> dict[str, Column]:
        """As `read`, but as the store holds it."""
        sources = {name: self._plans[name].stored_as for name in names}
        found = self._read(rows, list(sources.values()))
        return {name: found[source] for name, source in sources.items()}

    def _read(self, rows: NDArray[np.int64], sources: list[str]) -> Columns:
        """As `Storage.read`, and what comes is what was asked for: rows too few would only make an epoch shorter."""
        found = self.storage.read(rows, sources)
        for source in sources:
            column = found[source]
            problem = mismatch(self.storage.columns[source], column)
            if len(column) != len(rows) or problem:
                raise StoreReadError(
                    f"{type(self.storage).__name__} is wrong: it was asked for {len(rows)} rows of column "
                    f"{quoted(source)}, and gave {problem or f'{len(column)} rows'}"
                )
        return found

    def shapes(self, name: str) -> NDArray[np.int64] | None:
        """As `Storage.shapes`, by the spec's name."""
        return self.storage.shapes(self._plans[name].stored_as)


def _difference(wanted: Array, stored: Array, storage: Storage, source: str) -> str | None:
    if wanted.is_string != stored.is_string:
        return f"the store has {stored.dtype}, the spec says {wanted.dtype}"
    if wanted.packbits:
        last = wanted.shape[-1]
        assert last is not None
        if stored.dtype != "uint8" or (stored.shape[-1:] != (-(-last // 8),)):
            return (
                f"packbits of {last} needs uint8 rows of {-(-last // 8)}, the store has {stored.dtype} {_text(stored)}"
            )
        stored = Array("bool", (*stored.shape[:-1], last))
    if not np.can_cast(stored.numpy, wanted.numpy, wanted.cast):
        other = "; cast: same_kind allows it" if np.can_cast(stored.numpy, wanted.numpy, "same_kind") else ""
        return f"the store has {stored.dtype}, which is no {wanted.dtype}{other}"
    if len(wanted.shape) != len(stored.shape):
        return f"the store has shape {_text(stored)}, the spec says {_text(wanted)}"
    shapes = None
    for axis, (asked, held) in enumerate(zip(wanted.shape, stored.shape, strict=True)):
        if asked is None or asked == held:
            continue
        if held is None:
            shapes = storage.shapes(source) if shapes is None else shapes
            if shapes is None or (shapes[:, axis] == asked).all():
                continue
        return f"the store has shape {_text(stored)}, the spec says {_text(wanted)}"
    return None


def _text(array: Array) -> str:
    return "(" + ", ".join("*" if axis is None else str(axis) for axis in array.shape) + ")"


def _plan(name: str, source: str, wanted: Array, stored: Array) -> _Plan:
    dtype = np.dtype(bool) if wanted.packbits else stored.numpy
    shape = (*stored.shape[:-1], wanted.shape[-1]) if wanted.packbits else stored.shape
    return _Plan(
        name=name,
        stored_as=source,
        wanted=wanted,
        cast=dtype != wanted.numpy,
        reshape=not wanted.is_string and shape != wanted.shape,
    )


def _adapt(column: Column, plan: _Plan, rows: NDArray[np.int64]) -> Column:
    if plan.wanted.packbits:
        column = _unpacked(column, plan.wanted)
    if plan.reshape:
        column = _shaped(column, plan.wanted.shape, plan.name, rows)
    if not plan.cast:
        return column
    values = column.values if isinstance(column, Ragged) else column
    result = _cast(values, plan, column, rows)
    return column.with_values(result) if isinstance(column, Ragged) else result


def _shaped(column: Column, shape: tuple[int | None, ...], name: str, rows: NDArray[np.int64]) -> Column:
    if not isinstance(column, Ragged):
        shapes = np.tile(np.array(column.shape[1:], np.int64), (len(column), 1))
        column = Ragged(column.reshape(-1), shapes)
    for axis, length in enumerate(shape):
        if length is not None and (wrong := column.shapes[:, axis] != length).any():
            row, found = int(rows[wrong][0]), tuple(column.shapes[wrong][0].tolist())
            raise SpecError(f"column {name!r}, row {row}: its shape is {found}, the spec says axis {axis} is {length}")
    if None in shape:
        return column
    return column.values.reshape(len(column), *[axis for axis in shape if axis is not None])


def _unpacked(column: Column, wanted: Array) -> Column:
    last = wanted.shape[-1]
    assert last is not None
    packed = -(-last // 8)
    values = column.values if isinstance(column, Ragged) else column
    bits = np.unpackbits(values.reshape(-1, packed), axis=1, count=last).view(bool)
    if isinstance(column, Ragged):
        shapes = column.shapes.copy()
        shapes[:, -1] = last
        return Ragged(bits.reshape(-1), shapes)
    return bits.reshape(*values.shape[:-1], last)


def _cast(values: NDArray[Any], plan: _Plan, column: Column, rows: NDArray[np.int64]) -> NDArray[Any]:
    result, lost = cast(values, plan.wanted.numpy)
    if lost is None:
        return result
    if isinstance(column, Ragged):
        row = int(np.searchsorted(column.offsets, lost, side="right")) - 1
    else:
        row = lost // (values.size // len(values))
    value = quoted(values.reshape(-1)[lost].item())
    raise SpecError(f"column {plan.name!r}, row {int(rows[row])}: {value} does not fit {plan.wanted.dtype}")
