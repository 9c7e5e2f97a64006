"""Reading everything there is, with every check on, to find out what is damaged."""

from __future__ import annotations

import os
import warnings
from collections.abc import Callable, Iterator, Mapping
from contextlib import closing
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np

from kinoml_data.backends.in_memory import InMemory
from kinoml_data.columns import Ragged
from kinoml_data.contracts.backend import Backend, Storage
from kinoml_data.errors import KinomlDataError, SpecError, StoreChangedError, format_error
from kinoml_data.factory import as_spec, load_dataset, make_backend
from kinoml_data.spec.array import Model
from kinoml_data.spec.dataset_spec import DatasetSpec

ROWS_PER_READ = 1024
MOST = 1000  # damaged places after which reading stops


@dataclass(frozen=True)
class Damage:
    """What is wrong in one place.

    Attributes:
        column: None where it is not in one column.
        first, last: the rows, numbered from 0, neighbours with one reason together; None where it is no row.
        reason: the error that reading it raises.
    """

    column: str | None
    first: int | None
    last: int | None
    reason: str

    @property
    def count(self) -> int:
        """How many rows it is, 0 where it is none."""
        return 0 if self.first is None or self.last is None else self.last - self.first + 1

    def __str__(self) -> str:
        if self.column is None:
            return self.reason
        rows = f"row {self.first:,}" if self.first == self.last else f"rows {self.first:,} to {self.last:,}"
        return f"column {self.column!r}, {rows}: {self.reason}"


@dataclass
class Verification:
    """What `verify` found.

    Attributes:
        rows, columns: how many were read.
        nbytes: how many bytes of values.
        damage: what is wrong, in the order it was found; after 1,000 places nothing more is read.
        damaged: how many values are, a value being one row of one column; 0 also where the store cannot be opened.
        unchecked: why damage may be there that nothing can find; None where everything has a checksum.
    """

    rows: int = 0
    columns: int = 0
    nbytes: int = 0
    damage: list[Damage] = field(default_factory=list)
    damaged: int = 0
    unchecked: str | None = None

    @property
    def whole(self) -> bool:
        """True if nothing is damaged."""
        return not self.damage


def verify(
    spec: DatasetSpec | Mapping[str, Any] | str | os.PathLike[str],
    *,
    progress: Callable[[int, int], None] | None = None,
) -> Verification:
    """Read all rows of a dataset with every check on, and say what is damaged.

    It checks that the store opens and is whole as far as its format says, every value of every column, computed ones
    too, and then the spec and its splits against the store. What a spec says that does not fit a store that is whole
    is an error, not damage; unless the store brings its spec itself.

    Args:
        spec: as for `load_dataset`.
        progress: called with the rows read so far and all rows.

    Raises:
        SpecError, UnknownNameError, PluginLoadError, PluginConflictError: the spec names no backend that opens it, or
            does not fit what it opens.
        StoreNotFoundError: there is no such store.
        StoreChangedError: it was changed while it was read.
    """
    found = Verification()
    described_spec = as_spec(spec)
    backend = with_checks(make_backend(described_spec))
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", UserWarning)  # that this is a slow way to read
            storage = backend.open(described_spec.requested_columns)
    except FileNotFoundError:
        raise
    except KinomlDataError as error:
        found.damage.append(Damage(None, None, None, format_error(error)))
        return found
    with closing(storage):
        found.rows, found.columns = len(storage), len(storage.columns)
        if not storage.has_checksums:
            found.unchecked = f"{backend.name} has no checksums for all that it reads"
        for start in range(0, len(storage), ROWS_PER_READ):
            rows = range(start, min(start + ROWS_PER_READ, len(storage)))
            for name in storage.columns:
                reason = _failure(storage, name, rows, found)
                if reason is not None:
                    for damage in _where(storage, name, rows, reason, found):
                        found.damaged += damage.count
                        _add(found.damage, damage)
            if len(found.damage) >= MOST:
                return found
            if progress is not None:
                progress(rows.stop, len(storage))
    if found.whole:
        try:
            load_dataset(spec).close()
        except StoreChangedError:
            raise
        except KinomlDataError as error:
            if isinstance(error, SpecError) and described_spec.model_fields_set != {"storage"}:
                raise
            found.damage.append(Damage(None, None, None, format_error(error)))
    return found


def with_checks(backend: Backend) -> Backend:
    """The backend with its options `verify` and `memory_budget` set as `Backend` says, and all inside it alike."""
    if isinstance(backend, InMemory) and backend.source is not None:
        return with_checks(backend.source)  # whose rows are the same, and are not all kept
    changed: Backend = _with_checks(backend)
    return changed


def _with_checks(value: Any) -> Any:
    if isinstance(value, Mapping):
        return {key: _checked_field(item) for key, item in value.items()}
    options = {"verify": "first", "memory_budget": 0}
    fields = {name: getattr(value, name) for name in type(value).model_fields}
    changes = {name: options.get(name, _checked_field(item)) for name, item in fields.items()}
    return value.model_copy(update=changes)


def _checked_field(value: Any) -> Any:
    if isinstance(value, Backend):
        return with_checks(value)
    return _with_checks(value) if isinstance(value, (Model, Mapping)) else value


def _failure(storage: Storage, name: str, rows: range, found: Verification) -> str | None:
    """Why some rows of a column cannot be read; None if they can."""
    try:
        column = storage.read(np.arange(rows.start, rows.stop), [name])[name]
    except StoreChangedError:
        raise
    except KinomlDataError as error:
        return format_error(error)
    found.nbytes += (column.values if isinstance(column, Ragged) else column).nbytes
    return None


def _where(storage: Storage, name: str, rows: range, reason: str, found: Verification) -> Iterator[Damage]:
    """The damage in rows that cannot be read together, by halves."""
    if len(rows) > 1 and not _all_alike(storage, name, rows, reason, found):
        for half in (rows[: len(rows) // 2], rows[len(rows) // 2 :]):
            why = _failure(storage, name, half, found)
            if why is not None:
                yield from _where(storage, name, half, why, found)
        return
    yield Damage(name, rows.start, rows.stop - 1, reason)


def _all_alike(storage: Storage, name: str, rows: range, reason: str, found: Verification) -> bool:
    """Whether some rows fail for one reason, such as a damaged member that holds them all; 16 of them are asked."""
    some = {rows[len(rows) * i // 16] for i in range(16)} | {rows[-1]}
    return all(_failure(storage, name, range(row, row + 1), found) == reason for row in sorted(some))


def _add(known: list[Damage], new: Damage) -> None:
    """Add to the list, or to the last place of the column if it goes on there."""
    for i in reversed(range(max(0, len(known) - 8), len(known))):
        if known[i].column == new.column and known[i].reason == new.reason and known[i].last == (new.first or 0) - 1:
            known[i] = replace(known[i], last=new.last)
            return
    known.append(new)
