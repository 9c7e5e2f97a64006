"""The rows of a dataset on their way into another store: what they share is read once, and compared with the copy."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from kinoml_data.columns import Column, Indexed, distinct_keys, keys_by_content
from kinoml_data.contracts.backend import Storage
from kinoml_data.dataset.dataset import XyDataset
from kinoml_data.dataset.forms import taken
from kinoml_data.layouts.checksums import row_checksums
from kinoml_data.layouts.keys import keys_of
from kinoml_data.spec.array import Array

ROWS_PER_BATCH = 1024
SAMPLE = 64  # rows of which the size is measured
Positions = NDArray[np.int64]


class CopiedRows:
    """All rows of a dataset as they are stored, batch by batch, in the form that `Backend.write` takes.

    Args:
        dataset: the dataset, which may be a view.
        columns: how each column is stored.
        share: the columns whose equal rows are found by their content, and stored once.
        keeps_keys: True if the target stores what rows share once. Otherwise, rows are expanded.

    Attributes:
        columns: see above.
    """

    def __init__(
        self, dataset: XyDataset, columns: Mapping[str, Array], share: Sequence[str] = (), *, keeps_keys: bool
    ) -> None:
        self.columns, self._dataset = columns, dataset
        self.groups = list(groups(dataset, [name for name in columns if not (keeps_keys and name in share)]))
        parts = [_Plain if group.keys is None else _Keyed if keeps_keys else _Expanded for group in self.groups]
        self._parts: list[_Plain] = [part(dataset, group) for part, group in zip(parts, self.groups, strict=True)]
        if keeps_keys:
            self._parts += [_ByContent(dataset, Group([name], None)) for name in columns if name in share]

    def __iter__(self) -> Iterator[dict[str, Column | Indexed]]:
        for part in self._parts:
            part.begin()
        for start in range(0, len(self._dataset), ROWS_PER_BATCH):
            positions = np.arange(start, min(start + ROWS_PER_BATCH, len(self._dataset)))
            batch: dict[str, Column | Indexed] = {}
            for part in self._parts:
                batch |= part.batch(positions)
            yield {name: batch[name] for name in self.columns}

    def sizes(self) -> tuple[int, int]:
        """About how many bytes the values take if each row has its own, and if they are shared; from a few rows."""
        expanded = shared = 0.0
        for group in self.groups:
            if not len(self._dataset):
                break
            first = np.arange(len(self._dataset)) if group.keys is None else group.first
            some = first[np.linspace(0, len(first) - 1, min(SAMPLE, len(first))).astype(np.int64)]
            read = self._dataset.read_stored(some, group.names)
            each = sum(column.nbytes for column in read.values()) / len(some)
            expanded += each * len(self._dataset)
            shared += each * len(first)
        return round(expanded), round(shared)


class Group:
    """Columns whose rows share values in the same way.

    Attributes:
        names: the columns.
        keys: int64 `(rows,)`, for each row of the dataset the number of its value, in the order in which the values
            occur first; None if no rows share a value.
        first: int64 `(distinct,)`, the position at which each value occurs first.
    """

    def __init__(self, names: list[str], keys: NDArray[Any] | None) -> None:
        self.names, self.keys = names, None
        if keys is not None:
            self.first, self.keys = distinct_keys(keys)
            if len(self.first) == len(keys):
                self.keys = None


def groups(dataset: XyDataset, names: Sequence[str]) -> Iterator[Group]:
    """The columns `names` of a dataset, in groups whose rows share values in the same way."""
    rows = dataset.rows
    for group in dataset._session.binding.grouped(tuple(names)):
        yield Group(list(group.names), None if group.keys is None else group.keys.take(rows))


class _Plain:
    """Columns of which each row is read."""

    def __init__(self, dataset: XyDataset, group: Group) -> None:
        self._dataset, self._group = dataset, group
        self.begin()

    def begin(self) -> None:
        """Start again with the first batch."""

    def batch(self, positions: Positions) -> Mapping[str, Column | Indexed]:
        """The rows at some positions."""
        return self._read(positions)

    def _read(self, positions: Positions) -> dict[str, Column]:
        return self._dataset.read_stored(positions, self._group.names)


class _Expanded(_Plain):
    """Columns of which each distinct value is read once per batch, and copied to the rows that share it."""

    def batch(self, positions: Positions) -> Mapping[str, Column | Indexed]:
        assert self._group.keys is not None
        first, index = distinct_keys(self._group.keys[positions], len(self._group.first))
        values = self._read(positions[first])
        return {name: taken(column, index) for name, column in values.items()}


class _Keyed(_Plain):
    """Columns of which each distinct value is read once."""

    def begin(self) -> None:
        self._count = 0

    def batch(self, positions: Positions) -> Mapping[str, Column | Indexed]:
        assert self._group.keys is not None
        index = self._group.keys[positions]  # numbered by the first occurrence, so that new ones follow each other
        stop = max(self._count, int(index.max(initial=-1)) + 1)
        values = self._read(self._group.first[self._count : stop])
        self._count = stop
        return {name: Indexed(column, index) for name, column in values.items()}


class _ByContent(_Plain):
    """A column whose equal rows are found by their content."""

    def begin(self) -> None:
        self._contents: dict[Any, int] = {}

    def batch(self, positions: Positions) -> Mapping[str, Column | Indexed]:
        ((name, column),) = self._read(positions).items()
        before = len(self._contents)
        index = keys_by_content(column, self._contents)
        first, _ = distinct_keys(index, len(self._contents))
        return {name: Indexed(taken(column, first[index[first] >= before]), index)}


class Digests:
    """A digest of each column that is copied, which tells whether the copy has the same rows.

    Args:
        columns: how each column is stored.

    Attributes:
        rows: the number of rows so far.
        keyed: the columns whose distinct values and index have digests of their own.
    """

    def __init__(self, columns: Mapping[str, Array]) -> None:
        self.rows, self.keyed = 0, set[str]()
        self._columns = columns
        self._hashes = {name: hashlib.blake2b(digest_size=16) for name in columns}
        self._indices = {name: hashlib.blake2b(digest_size=16) for name in columns}
        self._counts = dict.fromkeys(columns, 0)

    def add(self, batch: Mapping[str, Column | Indexed]) -> None:
        """Add a batch, as `CopiedRows` gives it."""
        for name, column in batch.items():
            if isinstance(column, Indexed):
                self.keyed.add(name)
                self._indices[name].update(column.index.astype("<i8").tobytes())
                self.add_values(name, column.values)
            else:
                self.add_values(name, column)
        self.rows += len(next(iter(batch.values())))

    def add_values(self, name: str, values: Column) -> None:
        """Add rows, or distinct values, of one column."""
        numbers = np.arange(self._counts[name], self._counts[name] + len(values))
        self._counts[name] += len(values)
        checksums = row_checksums(values, numbers, is_string=self._columns[name].is_string)
        self._hashes[name].update(checksums.tobytes())

    def of(self, name: str) -> bytes:
        """The digest of a column."""
        return self._hashes[name].digest() + self._indices[name].digest()


def digests_of(
    storage: Storage, columns: Mapping[str, Array], keyed: set[str], progress: Callable[[int], None] | None
) -> Digests:
    """The digests of a copy, of which each distinct value is read once.

    Args:
        storage: the copy.
        columns: how each column is stored.
        keyed: the columns that were written as `Indexed`.
        progress: called with the number of rows that are done; None to report nothing.
    """
    digests = Digests(columns)
    for name in keyed:
        keys = keys_of(storage, name)
        if keys is None:
            continue  # its digest is that of no rows, and differs
        first, index = distinct_keys(keys)
        digests._indices[name].update(index.astype("<i8").tobytes())
        for start in range(0, len(first), ROWS_PER_BATCH):
            values = storage.read(first[start : start + ROWS_PER_BATCH], [name])[name]
            digests.add_values(name, values)
    plain = [name for name in columns if name not in keyed]
    for start in range(0, len(storage) if plain else 0, ROWS_PER_BATCH):
        digests.add(storage.read(np.arange(start, min(start + ROWS_PER_BATCH, len(storage))), plain))
        if progress is not None:
            progress(digests.rows)
    digests.rows = len(storage)
    return digests
