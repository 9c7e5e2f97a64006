"""A spec bound to an open storage: they are compared once, and rows are adapted to the spec when they are read."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from kinoml_data.columns import Column, Columns, Indexed, Ragged, cast, distinct_keys
from kinoml_data.contracts.backend import Storage
from kinoml_data.contracts.blocks import Blocks
from kinoml_data.dataset.device import DeviceColumns
from kinoml_data.dataset.forms import copied, expanded
from kinoml_data.dataset.oddities import text_among_numbers
from kinoml_data.errors import SpecError, StoreReadError, UnsupportedStoreError, quoted, unknown
from kinoml_data.layouts.flat_arrays import mismatch
from kinoml_data.layouts.keys import keys_of
from kinoml_data.spec.array import Array
from kinoml_data.spec.dataset_spec import CompleteSpec


@dataclass(frozen=True)
class _Plan:
    """How one column of the spec is made from its stored columns, of which there are several if they are stacked."""

    name: str
    stored_as: tuple[str, ...]
    requested: Array
    stored: Array  # what `read_stored` returns
    cast: bool  # the dtypes differ
    reshape: bool  # only one of the two is ragged, or the length of an axis has to be compared

    @property
    def several(self) -> bool:
        return isinstance(self.requested.stored_as, tuple)

    @property
    def adapts(self) -> bool:
        requested = self.requested
        return bool(
            self.cast
            or self.reshape
            or self.several
            or requested.packbits
            or requested.values is not None
            or requested.range is not None
        )


class _Group:
    """Columns of the spec whose rows share values in the same way.

    Attributes:
        names: the columns.
        keys: integers `(rows,)`; None if rows share nothing.
        count: an upper bound of the keys.
    """

    def __init__(self, names: tuple[str, ...], keys: NDArray[Any] | None) -> None:
        self.names, self.keys = names, keys
        self.count = 0 if keys is None else int(keys.max(initial=0)) + 1


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
            stored_as = requested.stored_names(name)
            wrong = [n for n in stored_as if n not in storage.columns]
            if wrong and wrong[0] in storage.unreadable:
                raise UnsupportedStoreError(storage.unreadable[wrong[0]])
            if wrong:
                problems.append(f"columns.{name}: {unknown(wrong[0], storage.columns, 'stored column')}")
            elif problem := _difference(requested, stored_as, storage):
                problems.append(f"columns.{name}: {problem}")
            else:
                self._plans[name] = _plan(name, stored_as, requested, storage)
        if problems:
            raise SpecError(*problems).prefixed("the spec does not fit the store: ")
        # These columns need no change.
        self._direct = frozenset(n for n, plan in self._plans.items() if plan.stored_as == (n,) and not plan.adapts)
        self._has_read_row = type(storage).read_row is not Storage.read_row  # a shorter way to read one row
        self._groups: dict[tuple[str, ...], list[_Group]] = {}
        self._device: DeviceColumns | None = None
        if kept := {name: device for name in (*spec.X_names, *spec.y_names) if (device := self._device_of(name))}:
            self._device = DeviceColumns(self.read_batch(np.arange(self.length), list(kept)), kept)

    def read(self, rows: NDArray[np.int64], names: Sequence[str]) -> dict[str, Column]:
        """Read some rows of the columns `names`, adapted to the spec; raises the errors of `read_batch`."""
        return {name: expanded(column) for name, column in self.read_batch(rows, names).items()}

    def read_batch(self, rows: NDArray[np.int64], names: Sequence[str]) -> dict[str, Column | Indexed]:
        """Read some rows of the columns `names`, adapted to the spec. A value that rows share is read and adapted once.

        Returns:
            One entry per name: an `Indexed` if the storage has keys for the column and some of the rows share a key.

        Raises:
            SpecError: a value does not fit the dtype that the spec asks for, or a row does not have its shape.
            StoreReadError: the storage did not return the requested rows, or its keys are not those of its rows.
        """
        batch: dict[str, Column | Indexed] = {}
        if self._device is not None:
            batch = self._device.read(rows, [name for name in names if name in self._device])
            names = [name for name in names if name not in batch]
        for group in self.grouped(tuple(names)):
            if group.keys is None:
                batch |= self._adapted(rows, group.names)
                continue
            first, index = distinct_keys(group.keys.take(rows), group.count)
            columns = self._adapted(rows[first], group.names)
            batch |= columns if len(first) == len(rows) else {n: Indexed(c, index) for n, c in columns.items()}
        return batch

    def _adapted(self, rows: NDArray[np.int64], names: Sequence[str]) -> dict[str, Column]:
        if self._direct.issuperset(names):
            return self._read(rows, names)
        plans = [self._plans[name] for name in names]
        columns = self._read(rows, _stored_names(plans))
        return {plan.name: _adapt(columns, plan, rows) for plan in plans}

    def grouped(self, names: tuple[str, ...]) -> list[_Group]:
        """The columns `names`, in groups of columns whose rows share values in the same way."""
        if (groups := self._groups.get(names)) is None:
            by_keys: dict[int, list[str]] = {}
            keys = {name: self.keys(name) for name in names}
            for name in names:
                by_keys.setdefault(id(keys[name]), []).append(name)
            groups = [_Group(tuple(some), keys[some[0]]) for some in by_keys.values()]
            self._groups[names] = groups
        return groups

    def keys(self, name: str) -> NDArray[Any] | None:
        """Integers `(rows,)`: for each row, the number of its distinct value; None if rows share nothing.

        Raises:
            StoreReadError: the keys of the storage are not those of its rows.
        """
        several = {id(keys): keys for stored in self._plans[name].stored_as for keys in [keys_of(self.storage, stored)]}
        return next(iter(several.values())) if len(several) == 1 else None

    def _device_of(self, name: str) -> str | None:
        """The device on which a column is kept; None if it is read to the CPU."""
        devices = {self.storage.devices.get(stored) for stored in self._plans[name].stored_as}
        return devices.pop() if len(devices) == 1 else None

    def read_row(self, row: int, names: tuple[str, ...]) -> Mapping[str, NDArray[Any]]:
        """Read one row of the columns `names`, each as a new array in its own shape; raises the errors of `read`."""
        if self._device is None and self._has_read_row and self._direct.issuperset(names):
            return self.storage.read_row(row, names)
        columns = self.read_batch(np.array([row]), names)
        return {name: copied(column[0]) for name, column in columns.items()}

    def adapts(self, name: str) -> bool:
        """True if the stored values of a column are checked or changed before they are in a batch."""
        return self._plans[name].adapts

    def stored(self, name: str) -> Array:
        """How a column of the spec is stored; several stored columns count as one whose rows are stacked."""
        return self._plans[name].stored

    def read_stored(self, rows: NDArray[np.int64], names: Sequence[str]) -> dict[str, Column]:
        """Read some rows of the columns `names` as they are stored; raises the errors of `Storage.read`."""
        plans = [self._plans[name] for name in names]
        columns = self._read(rows, _stored_names(plans))
        return {plan.name: _stacked(columns, plan, plan.stored, rows) for plan in plans}

    def shapes(self, name: str) -> NDArray[np.int64] | None:
        """int64 `(rows, ndim)`: the shape of every row of a column; None if that needs reading the values."""
        plan = self._plans[name]
        return None if plan.several else self.storage.shapes(plan.stored_as[0])

    @property
    def blocks(self) -> Blocks | None:
        """Which rows are decoded together; None if a row can be read by itself.

        Raises:
            StoreReadError: the blocks are not those of the rows of the storage.
        """
        blocks = self.storage.blocks
        if blocks is not None and (problem := blocks.problem(self.length)):
            raise StoreReadError(f"{type(self.storage).__name__} is wrong: {problem}")
        return blocks

    def _read(self, rows: NDArray[np.int64], stored_names: Sequence[str]) -> dict[str, Column]:
        """Read from the storage and check the result: missing rows would only make an epoch shorter."""
        columns = self.storage.read(rows, stored_names)
        result = {name: columns[name] for name in stored_names}
        for name, column in result.items():
            problem = mismatch(self.storage.columns[name], column)
            if len(column) != len(rows) or problem:
                raise StoreReadError(
                    f"{type(self.storage).__name__} is wrong: it was asked for {len(rows)} rows of column "
                    f"{quoted(name)}, but returned {problem or f'{len(column)} rows'}"
                )
        return result


def _stored_names(plans: Sequence[_Plan]) -> list[str]:
    return list(dict.fromkeys(stored for plan in plans for stored in plan.stored_as))


def _difference(requested: Array, stored_as: Sequence[str], storage: Storage) -> str | None:
    """Why the stored columns cannot become the requested one; None if they can."""
    if isinstance(requested.stored_as, tuple):
        for name in stored_as:
            stored = storage.columns[name]
            if stored.shape or not _converts(stored, requested):
                text = _note_on_text(storage, name, requested)
                return f"the stored column {quoted(name)} contains {stored}, not one number per row{text}"
        return None
    stored = storage.columns[stored_as[0]]
    both = f"the store has {stored}, but the spec asks for {requested}"
    if requested.values is not None:
        return None if stored.is_string else f"`values` translates texts, but the store has {stored}"
    if requested.packbits:
        bits = requested.shape[-1] or 0
        if stored.dtype != "uint8" or not _has_last_axis(storage, stored_as[0], _packed_length(bits)):
            text = f"packbits of {bits} needs uint8 rows of {_packed_length(bits)}, but the store has {stored}"
            is_unpacked = stored.shape[-1:] == (bits,)
            way = "; leave `packbits` out, or let the featurizer pack the bits, as those with `packed: true` do"
            return text + (way if is_unpacked else "")
        stored = Array("bool", (*stored.shape[:-1], bits))
    if requested.is_string != stored.is_string or not _converts(stored, requested):
        is_number = requested.is_string and not stored.is_string and not stored.shape
        way = f"; write `dtype: {stored.dtype}`, or in the backend csv `dtypes: {{{stored_as[0]}: str}}`"
        return both + (way if is_number else _note_on_text(storage, stored_as[0], requested))
    if len(requested.shape) != len(stored.shape):
        return both
    shapes = None
    for axis, (length, stored_length) in enumerate(zip(requested.shape, stored.shape, strict=True)):
        if length is None or length == stored_length:
            continue
        if stored_length is None:
            shapes = storage.shapes(stored_as[0]) if shapes is None else shapes
            if shapes is None or (shapes[:, axis] == length).all():
                continue
        return both
    return None


def _has_last_axis(storage: Storage, name: str, length: int) -> bool:
    """True if the last axis of every row of a column has this length; also if there are no rows that show it."""
    axes = storage.columns[name].shape
    if axes[-1:] == (None,) and len(storage):
        shapes = storage.shapes(name)
        return shapes is not None and bool((shapes[:, -1] == length).all())
    return axes[-1:] in ((length,), (None,))


def _converts(stored: Array, requested: Array) -> bool:
    """True if numbers of the stored dtype may become the requested one; whether each value fits is seen when read."""
    if stored.is_string or requested.is_string:
        return stored.is_string and requested.is_string
    return stored.numpy.kind != "c" or requested.numpy.kind == "c"


def _note_on_text(storage: Storage, name: str, requested: Array) -> str:
    """For a column of text that should be numbers: which text is not a number."""
    note = None if requested.is_string else text_among_numbers(storage, name, least=0)
    return f"; it contains {note}" if note else ""


def _packed_length(bits: int) -> int:
    return -(-bits // 8)


def _plan(name: str, stored_as: tuple[str, ...], requested: Array, storage: Storage) -> _Plan:
    stored = storage.columns[stored_as[0]]
    if isinstance(requested.stored_as, tuple):
        dtypes = [storage.columns[name].numpy for name in stored_as]
        stored = Array(np.result_type(*dtypes), (len(stored_as),))
        cast = any(dtype != requested.numpy for dtype in dtypes)
        return _Plan(name, stored_as, requested, stored, cast=cast, reshape=False)
    dtype = np.dtype(bool) if requested.packbits else stored.numpy
    shape = (*stored.shape[:-1], requested.shape[-1]) if requested.packbits else stored.shape
    reshape = not requested.is_string and requested.values is None and shape != requested.shape
    return _Plan(name, stored_as, requested, stored, cast=dtype != requested.numpy, reshape=reshape)


def _adapt(columns: Columns, plan: _Plan, rows: NDArray[np.int64]) -> Column:
    """The rows of one column of the spec, from the stored columns."""
    requested = plan.requested
    column = _stacked(columns, plan, requested, rows)
    if requested.values is not None:
        return _places(column, plan, rows)
    if requested.packbits:
        column = _unpacked(column, requested)
    if plan.reshape:
        column = _reshaped(column, requested, plan.name, rows)
    if plan.cast and not plan.several:
        column = _cast(column, plan.name, requested, rows)
    if requested.range is not None:
        _check_range(column, plan, rows)
    return column


def _stacked(columns: Columns, plan: _Plan, array: Array, rows: NDArray[np.int64]) -> Column:
    """The stored column, or several of them stacked to `(rows, F)` in the dtype of `array`."""
    if not plan.several:
        return columns[plan.stored_as[0]]
    target = plan.requested.model_copy(update={"dtype": array.dtype})
    parts = [_cast(columns[stored], stored, target, rows) for stored in plan.stored_as]
    return np.stack([part for part in parts if not isinstance(part, Ragged)], axis=1)


def _places(column: Column, plan: _Plan, rows: NDArray[np.int64]) -> NDArray[Any]:
    """The place of each text in the list `values` of the spec."""
    assert isinstance(column, Ragged) and plan.requested.values is not None
    place = {text: i for i, text in enumerate(plan.requested.values)}
    texts = column.strings()
    try:
        return np.array([place[text] for text in texts], plan.requested.numpy)
    except KeyError:
        row = next(i for i, text in enumerate(texts) if text not in place)
        problem = unknown(texts[row], list(place), "value")
        raise SpecError(f"column {plan.name!r}, row {int(rows[row])}: {problem}") from None


def _check_range(column: Column, plan: _Plan, rows: NDArray[np.int64]) -> None:
    """Raise if a value is outside of the range that the spec specifies.

    Raises:
        SpecError: a value is too small or too large, or is NaN without `missing`.
    """
    assert plan.requested.range is not None
    low, high = plan.requested.range
    values = column.values if isinstance(column, Ragged) else column
    wrong = np.zeros(values.shape, bool)
    if low is not None:
        wrong |= ~(values >= low)
    if high is not None:
        wrong |= ~(values <= high)
    if plan.requested.missing is not None:
        wrong &= ~np.isnan(values)
    if wrong.any():
        place = int(wrong.argmax())
        row, value = _row_of(column, place, rows), quoted(values.reshape(-1)[place].item())
        limits = f"at most {high:g}" if low is None else f"at least {low:g}" if high is None else f"{low:g} to {high:g}"
        raise SpecError(
            f"column {plan.name!r}, row {row}: {value} is outside of the range that the spec allows, {limits}"
        )


def _reshaped(column: Column, requested: Array, name: str, rows: NDArray[np.int64]) -> Column:
    if not isinstance(column, Ragged):
        shapes = np.tile(np.array(column.shape[1:], np.int64), (len(column), 1))
        column = Ragged(column.reshape(-1), shapes)
    for axis, length in enumerate(requested.shape):
        if length is not None and (wrong := column.shapes[:, axis] != length).any():
            row, shape = int(rows[wrong][0]), tuple(column.shapes[wrong][0].tolist())
            raise SpecError(f"column {name!r}, row {row}: its shape is {shape}, but the spec asks for {requested}")
    return column if requested.ragged else column.values.reshape(len(column), *requested.row_shape)


def _unpacked(column: Column, requested: Array) -> Column:
    values = column.values if isinstance(column, Ragged) else column
    bits, order = requested.shape[-1] or 0, "little" if requested.packbits == "little" else "big"
    flat = values.reshape(-1, _packed_length(bits))
    unpacked: NDArray[Any] = np.unpackbits(flat, axis=1, count=bits, bitorder=order).view(bool)  # type: ignore[call-overload]
    if isinstance(column, Ragged):
        shapes = column.shapes.copy()
        shapes[:, -1] = bits
        return Ragged(unpacked.reshape(-1), shapes)
    return unpacked.reshape(*values.shape[:-1], bits)


def _cast(column: Column, name: str, requested: Array, rows: NDArray[np.int64]) -> Column:
    values = column.values if isinstance(column, Ragged) else column
    result, lost = cast(values, requested.numpy, exact=requested.cast == "exact")
    if lost is not None:
        row, value = _row_of(column, lost, rows), quoted(values.reshape(-1)[lost].item())
        raise SpecError(f"column {name!r}, row {row}: {value} does not fit {requested.dtype}")
    return column.with_values(result) if isinstance(column, Ragged) else result


def _row_of(column: Column, place: int, rows: NDArray[np.int64]) -> int:
    """The row number of the value at a flat place in a column."""
    if isinstance(column, Ragged):
        return int(rows[int(np.searchsorted(column.offsets, place, side="right")) - 1])
    return int(rows[place // (column.size // len(column))])
