"""Verifying data: every row is read with every check on; what is damaged or not read is reported by column and row."""

from __future__ import annotations

import os
import warnings
from collections.abc import Callable, Iterator, Mapping
from contextlib import suppress
from dataclasses import dataclass, field, replace
from functools import cached_property
from typing import Any

import numpy as np
from numpy.typing import NDArray

from kinoml_data.backends.in_memory import InMemory
from kinoml_data.columns import Column, Ragged, distinct_keys
from kinoml_data.contracts.backend import Backend, Storage
from kinoml_data.dataset.binding import Binding
from kinoml_data.dataset.session import Session, open_storage
from kinoml_data.errors import (
    CorruptStoreError,
    KinomlDataError,
    SpecError,
    StoreChangedError,
    UnsafeStoreError,
    format_error,
)
from kinoml_data.inference import complete
from kinoml_data.layouts.keys import keys_of
from kinoml_data.spec.array import Model
from kinoml_data.spec.dataset_spec import DatasetSpec
from kinoml_data.spec_objects import make_backend
from kinoml_data.spec_sources import as_spec

ROWS_PER_READ = 1024
MAX_PLACES = 1000  # places, damaged or not read, after which reading stops
WITH_CHECKS = {"verify": "first"}


@dataclass(frozen=True)
class Place:
    """Rows of a column that cannot be read.

    Attributes:
        column: the name of the column; None if the whole store cannot be read.
        first, last: the first and the last such row, numbered from 0; None for the whole store. Neighbouring rows that
            cannot be read for the same reason are one place.
        reason: the error that reading raises.
        count: the number of rows; 0 if the damage is not in rows. If rows share values (`Storage.keys`), all rows with
            the values of these are counted, and `first` and `last` are the first rows that have such values.
        damaged: True if the bytes are not the ones that were written, so that the error is a `CorruptStoreError`. False
            if the row is intact but not read: because a value is missing or has no place in the spec, because a
            featurizer fails, or because reading it would not be safe (`UnsafeStoreError`).
    """

    column: str | None
    first: int | None
    last: int | None
    reason: str
    count: int = 0
    damaged: bool = True

    def __str__(self) -> str:
        if self.column is None or self.first is None or self.last is None:
            return self.reason
        rows = f"row {self.first:,}" if self.first == self.last else f"rows {self.first:,} to {self.last:,}"
        if self.count != self.last - self.first + 1:
            rows += f" and those with the same values, {self.count:,} rows in all"
        return f"column {self.column!r}, {rows}: {self.reason}"


@dataclass
class Verification:
    """The result of `verify`.

    Attributes:
        rows, columns: the numbers of rows and columns that were read.
        nbytes: the number of bytes of values that were read. A value that rows share is read once.
        damage: the damaged places, in the order of reading. After 1,000 places of both kinds, reading stops.
        unread: the places that are intact but cannot be read.
        damaged: the number of damaged values, a value being one row of one column; 0 if the store cannot be opened.
        unreadable: the columns that no spec asks for and that cannot be read, each with the reason.
        unchecked: why there may be damage that cannot be found; None if checksums cover everything.
    """

    rows: int = 0
    columns: int = 0
    nbytes: int = 0
    damage: list[Place] = field(default_factory=list)
    unread: list[Place] = field(default_factory=list)
    damaged: int = 0
    unreadable: Mapping[str, str] = field(default_factory=dict)
    unchecked: str | None = None

    @property
    def intact(self) -> bool:
        """True if no damage was found."""
        return not self.damage

    @property
    def complete(self) -> bool:
        """True if all rows were read."""
        return not self.damage and not self.unread


def verify(
    spec: DatasetSpec | Mapping[str, Any] | str | os.PathLike[str],
    *,
    progress: Callable[[int, int], None] | None = None,
) -> Verification:
    """Read all rows of a dataset with every check enabled, and report all damage and all that cannot be read.

    The store is opened once. Every value of every column is read, computed columns included, and compared with the
    dtype, the values and the range that the spec asks for; then the spec and its splits are compared with the store.
    Only bytes that are not what was written are damage. A spec that does not fit an intact store is an error, unless
    the store itself contains that spec.

    Args:
        spec: as for `load_dataset`.
        progress: called with the number of rows read so far and the number of all rows.

    Raises:
        SpecError: the spec is not valid, or does not fit the store.
        UnknownNameError: the spec names a backend or featurizer that is not installed.
        PluginLoadError, PluginConflictError: the plugin of such a name is broken, or two plugins register the name.
        StoreNotFoundError: the store does not exist.
        StoreChangedError: the store was changed while it was read.
        UnsupportedStoreError, UnsafeStoreError, StoreReadError: the store cannot be opened, although it is not damaged.
    """
    result = Verification()
    described = as_spec(spec)
    backend: Backend = with_checks(make_backend(described))
    try:
        with warnings.catch_warnings():
            # These warn about slow reading, which is expected with all checks.
            warnings.simplefilter("ignore", UserWarning)
            storage = open_storage(backend, described.requested_columns)
    except CorruptStoreError as error:
        if not _is_damage(error):
            raise
        result.damage.append(Place(None, None, None, format_error(error)))
        return result
    with storage:
        result.unreadable = storage.unreadable
        if not storage.has_checksums:
            result.unchecked = f"{backend.name} does not have checksums for all that it reads"
        _read_all(storage, _readers(described, storage), result, progress)
        if result.complete:
            try:
                Session(complete(described, storage, needs_X=False), backend, storage)
            except (CorruptStoreError, SpecError) as error:
                embedded = storage.spec is not None and described.model_fields_set == {"storage"}
                if not embedded and not _is_damage(error):
                    raise
                result.damage.append(Place(None, None, None, format_error(error)))
    return result


def _is_damage(error: KinomlDataError) -> bool:
    """True if the error means that bytes are not what was written."""
    return isinstance(error, CorruptStoreError) and not isinstance(error, UnsafeStoreError)


def with_checks(option: Any) -> Any:
    """A backend, and every backend in it, with the option `verify` as `Backend` describes it."""
    if isinstance(option, InMemory) and option.source is not None:
        return with_checks(option.source)  # it has the same rows, and they need not fit into memory
    if isinstance(option, Mapping):
        return {key: with_checks(item) for key, item in option.items()}
    if not isinstance(option, Model):
        return option
    names = type(option).model_fields
    return option.model_copy(update={n: WITH_CHECKS.get(n, with_checks(getattr(option, n))) for n in names})


@dataclass(frozen=True)
class _Reader:
    """How one column is read.

    Attributes:
        name: the name of the column.
        read: returns some rows of some columns.
        keys: see `Storage.keys`.
    """

    name: str
    read: Callable[[NDArray[np.int64], list[str]], Mapping[str, Column]]
    keys: NDArray[Any] | None

    @cached_property
    def _is_first(self) -> NDArray[np.bool_]:
        """Marks the rows whose key no earlier row has."""
        assert self.keys is not None
        marks = np.zeros(len(self.keys), bool)
        marks[distinct_keys(self.keys)[0]] = True
        return marks

    def distinct(self, start: int, stop: int) -> NDArray[np.int64]:
        """The rows from `start` to `stop` that have to be read: of rows that share a value, only the first."""
        rows = np.arange(start, stop)
        return rows if self.keys is None else rows[self._is_first[start:stop]]

    def place(self, rows: NDArray[np.int64], error: KinomlDataError) -> Place:
        """Some rows that raise the same error."""
        count = len(rows) if self.keys is None else int(np.isin(self.keys, self.keys[rows]).sum())
        return Place(self.name, int(rows[0]), int(rows[-1]), format_error(error), count, _is_damage(error))


def _readers(spec: DatasetSpec, storage: Storage) -> list[_Reader]:
    """How each column is read: as it is stored, or as the spec asks for it if it checks or changes the values."""
    readers = {name: _Reader(name, storage.read, keys_of(storage, name)) for name in storage.columns}
    with suppress(KinomlDataError):  # a spec that does not fit is reported after reading
        completed = complete(spec, storage, needs_X=False)
        binding = Binding(completed, storage)
        for name, array in completed.columns.items():
            if binding.adapts(name):
                for stored in array.stored_names(name):
                    readers.pop(stored, None)
                readers[name] = _Reader(name, binding.read, binding.keys(name))
    return list(readers.values())


def _read_all(
    storage: Storage, readers: list[_Reader], result: Verification, progress: Callable[[int, int], None] | None
) -> None:
    result.rows, result.columns = len(storage), len(readers)
    for start in range(0, len(storage), ROWS_PER_READ):
        stop = min(start + ROWS_PER_READ, len(storage))
        for reader in readers:
            rows = reader.distinct(start, stop)
            error = _failure(reader, rows, result)
            if error is not None:
                for place in _locate(reader, rows, error, result):
                    result.damaged += place.count if place.damaged else 0
                    _add(result.damage if place.damaged else result.unread, place)
        if len(result.damage) + len(result.unread) >= MAX_PLACES:
            return
        if progress is not None:
            progress(stop, len(storage))


def _failure(reader: _Reader, rows: NDArray[np.int64], result: Verification) -> KinomlDataError | None:
    """Why some rows of a column cannot be read; None if they can."""
    try:
        column = reader.read(rows, [reader.name])[reader.name]
    except StoreChangedError:
        raise
    except KinomlDataError as error:
        return error
    result.nbytes += (column.values if isinstance(column, Ragged) else column).nbytes
    return None


def _locate(reader: _Reader, rows: NDArray[np.int64], error: KinomlDataError, result: Verification) -> Iterator[Place]:
    """The places in rows that cannot be read together, found by reading halves of them."""
    if len(rows) > 1 and not _same_reason(reader, rows, str(error), result):
        for half in (rows[: len(rows) // 2], rows[len(rows) // 2 :]):
            half_error = _failure(reader, half, result)
            if half_error is not None:
                yield from _locate(reader, half, half_error, result)
        return
    yield reader.place(rows, error)


def _same_reason(reader: _Reader, rows: NDArray[np.int64], reason: str, result: Verification) -> bool:
    """True if 17 of the rows fail for one reason, such as a damaged member that contains all of them."""
    sample = sorted({len(rows) * i // 16 for i in range(16)} | {len(rows) - 1})
    return all(str(_failure(reader, rows[i : i + 1], result)) == reason for i in sample)


def _add(places: list[Place], found: Place) -> None:
    """Append a place, or extend the last place in the same column if the new one continues it."""
    for i in reversed(range(max(0, len(places) - 8), len(places))):
        place = places[i]
        if (place.column, place.reason, place.last) == (found.column, found.reason, (found.first or 0) - 1):
            places[i] = replace(place, last=found.last, count=place.count + found.count)
            return
    places.append(found)
