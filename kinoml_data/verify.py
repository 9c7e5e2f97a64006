"""Verifying data: every row is read with every check enabled, and damage is reported by column and row."""

from __future__ import annotations

import os
import warnings
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np

from kinoml_data.backends.in_memory import InMemory
from kinoml_data.columns import Ragged
from kinoml_data.contracts.backend import Backend, Storage
from kinoml_data.dataset.session import Session
from kinoml_data.errors import KinomlDataError, SpecError, StoreChangedError, StoreNotFoundError, format_error
from kinoml_data.factory import as_spec, make_backend
from kinoml_data.inference import complete
from kinoml_data.spec.array import Model
from kinoml_data.spec.dataset_spec import DatasetSpec

ROWS_PER_READ = 1024
MAX_PLACES = 1000  # damaged places after which reading stops
WITH_CHECKS = {"verify": "first"}


@dataclass(frozen=True)
class Damage:
    """Damage in one place.

    Attributes:
        column: the name of the column; None if the damage is not in one column.
        first, last: the first and the last damaged row, numbered from 0; None if the damage is not in rows.
            Neighbouring rows that are damaged for the same reason are one place.
        reason: the error that reading raises.
    """

    column: str | None
    first: int | None
    last: int | None
    reason: str

    @property
    def count(self) -> int:
        """The number of rows, 0 if the damage is not in rows."""
        return 0 if self.first is None or self.last is None else self.last - self.first + 1

    def __str__(self) -> str:
        if self.column is None:
            return self.reason
        rows = f"row {self.first:,}" if self.first == self.last else f"rows {self.first:,} to {self.last:,}"
        return f"column {self.column!r}, {rows}: {self.reason}"


@dataclass
class Verification:
    """The result of `verify`.

    Attributes:
        rows, columns: the numbers of rows and columns that were read.
        nbytes: the number of bytes of values that were read.
        damage: the damaged places, in the order of reading. After 1,000 places, reading stops.
        damaged: the number of damaged values, a value being one row of one column; 0 if the store cannot be opened.
        unchecked: why there may be damage that cannot be found; None if checksums cover everything.
    """

    rows: int = 0
    columns: int = 0
    nbytes: int = 0
    damage: list[Damage] = field(default_factory=list)
    damaged: int = 0
    unchecked: str | None = None

    @property
    def intact(self) -> bool:
        """True if no damage was found."""
        return not self.damage


def verify(
    spec: DatasetSpec | Mapping[str, Any] | str | os.PathLike[str],
    *,
    progress: Callable[[int, int], None] | None = None,
) -> Verification:
    """Read all rows of a dataset with every check enabled, and report all damage.

    The store is opened once. Every value of every column is read, computed columns included; then the spec and its
    splits are compared with the store. A spec that does not fit an intact store is an error, not damage, unless the
    store itself contains that spec.

    Args:
        spec: as for `load_dataset`.
        progress: called with the number of rows read so far and the number of all rows.

    Raises:
        SpecError: the spec is not valid, or does not fit the store.
        UnknownNameError: the spec names a backend or featurizer that is not installed.
        PluginLoadError, PluginConflictError: the plugin of such a name is broken, or two plugins register the name.
        StoreNotFoundError: the store does not exist.
        StoreChangedError: the store was changed while it was read.
    """
    result = Verification()
    described = as_spec(spec)
    backend: Backend = with_checks(make_backend(described))
    try:
        with warnings.catch_warnings():
            warnings.simplefilter(
                "ignore", UserWarning
            )  # these warn about slow reading, which is expected with all checks
            storage = backend.open(described.requested_columns)
    except StoreNotFoundError:
        raise
    except KinomlDataError as error:
        result.damage.append(Damage(None, None, None, format_error(error)))
        return result
    with storage:
        if not storage.has_checksums:
            result.unchecked = f"{backend.name} does not have checksums for all that it reads"
        _read_all(storage, result, progress)
        if result.intact:
            try:
                Session(complete(described, storage, needs_X=False), backend, storage)
            except KinomlDataError as error:
                by_user = isinstance(error, SpecError) and described.model_fields_set != {"storage"}
                if by_user or isinstance(error, StoreChangedError):
                    raise
                result.damage.append(Damage(None, None, None, format_error(error)))
    return result


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


def _read_all(storage: Storage, result: Verification, progress: Callable[[int, int], None] | None) -> None:
    result.rows, result.columns = len(storage), len(storage.columns)
    for start in range(0, len(storage), ROWS_PER_READ):
        rows = range(start, min(start + ROWS_PER_READ, len(storage)))
        for name in storage.columns:
            reason = _failure(storage, name, rows, result)
            if reason is not None:
                for damage in _locate(storage, name, rows, reason, result):
                    result.damaged += damage.count
                    _add(result.damage, damage)
        if len(result.damage) >= MAX_PLACES:
            return
        if progress is not None:
            progress(rows.stop, len(storage))


def _failure(storage: Storage, name: str, rows: range, result: Verification) -> str | None:
    """Why some rows of a column cannot be read; None if they can."""
    try:
        column = storage.read(np.arange(rows.start, rows.stop), [name])[name]
    except StoreChangedError:
        raise
    except KinomlDataError as error:
        return format_error(error)
    result.nbytes += (column.values if isinstance(column, Ragged) else column).nbytes
    return None


def _locate(storage: Storage, name: str, rows: range, reason: str, result: Verification) -> Iterator[Damage]:
    """The damage in rows that cannot be read together, found by reading halves of them."""
    if len(rows) > 1 and not _same_reason(storage, name, rows, reason, result):
        for half in (rows[: len(rows) // 2], rows[len(rows) // 2 :]):
            half_reason = _failure(storage, name, half, result)
            if half_reason is not None:
                yield from _locate(storage, name, half, half_reason, result)
        return
    yield Damage(name, rows.start, rows.stop - 1, reason)


def _same_reason(storage: Storage, name: str, rows: range, reason: str, result: Verification) -> bool:
    """True if 17 of the rows fail for one reason, such as a damaged member that contains all of them."""
    sample = {rows[len(rows) * i // 16] for i in range(16)} | {rows[-1]}
    return all(_failure(storage, name, range(row, row + 1), result) == reason for row in sorted(sample))


def _add(places: list[Damage], damage: Damage) -> None:
    """Append the damage, or extend the last place in the same column if the damage continues it."""
    for i in reversed(range(max(0, len(places) - 8), len(places))):
        place = places[i]
        if (place.column, place.reason, place.last) == (damage.column, damage.reason, (damage.first or 0) - 1):
            places[i] = replace(place, last=damage.last)
            return
    places.append(damage)
