"""Reading a Parquet file in parts, each of which is a row group or a slice of a large row group."""

from __future__ import annotations

import threading
import warnings
from abc import ABC, abstractmethod
from collections.abc import Collection, Iterator, Mapping, Sequence
from typing import Any

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from kinoml_data.backends.parquet.container import ParquetContainer
from kinoml_data.columns import Column, Columns, Ragged, concatenate
from kinoml_data.contracts.backend import Storage
from kinoml_data.layouts.flat_arrays import flatten
from kinoml_data.layouts.memory_storage import MemoryStorage
from kinoml_data.lru import LruCache
from kinoml_data.spec.array import Array

MOST_TOGETHER = 32 << 20  # bytes that are decoded at once: the readers of columns take as much again


class Table(ABC):
    """How the columns of a file are decoded.

    Attributes:
        columns: the columns, by name. An axis that only decoded rows show is ragged until `load` or `settle`.
        parts: the number of rows in each part.
        unreadable, indexes, arrays, spec, has_checksums: see `Storage`.
    """

    columns: dict[str, Array]
    parts: Sequence[int]
    unreadable: Mapping[str, str] = {}
    indexes: Collection[str] = ()
    arrays: Mapping[str, NDArray[Any]] = {}
    spec: str | None = None
    has_checksums: bool = False

    @abstractmethod
    def read(self, part: int, names: Sequence[str]) -> Mapping[str, Column]:
        """Some columns of one part."""

    @abstractmethod
    def load(self, names: Sequence[str], budget: int) -> dict[str, Column] | None:
        """All rows of some columns; None as soon as they take more than `budget` bytes while they are put together."""

    def settle(self, name: str) -> None:  # noqa: B027 - a table that describes its columns does nothing
        """Find out which axes of a column are fixed, by decoding each part once."""


class RowGroups(Storage):
    """Reads rows through a bounded cache of decoded parts.

    Reading rows in order decodes each part once. Reading shuffled rows decodes a whole part for a few rows.

    Args:
        file: the open file, which is closed with this storage.
        table: decodes its columns.
        names: the columns of this storage.
        budget: the number of bytes that reading may take.
        cached: the number of bytes of decoded parts to keep; the last part is kept in any case.
    """

    def __init__(
        self, file: ParquetContainer, table: Table, names: Sequence[str], *, budget: int, cached: int = 0
    ) -> None:
        self._file, self._table, self._budget = file, table, budget
        self.columns = {name: table.columns[name] for name in names}
        self.arrays, self.spec, self.identity = table.arrays, table.spec, file.identity
        self.unreadable, self.indexes, self.has_checksums = table.unreadable, table.indexes, table.has_checksums
        self._ends = np.cumsum(table.parts, dtype=np.int64)
        self._cache: LruCache[tuple[int, str], Column] = LruCache(cached, keep=len(names))
        self._lock = threading.Lock()  # Arrow reads the file through a single file position

    def __len__(self) -> int:
        return int(self._ends[-1]) if len(self._ends) else 0

    def read(self, rows: NDArray[np.int64], columns: Sequence[str]) -> Columns:
        parts = np.searchsorted(self._ends, rows, side="right")
        order = np.argsort(parts, kind="stable")
        inverse = np.empty(len(rows), np.int64)
        inverse[order] = np.arange(len(rows))
        taken: dict[str, list[Column]] = {name: [self.columns[name].empty()] for name in columns}
        for part in np.unique(parts).tolist():
            first = int(self._ends[part]) - self._table.parts[part]
            in_part = rows[order][parts[order] == part] - first
            for name, column in self._part(part, columns).items():
                taken[name].append(_take(column, in_part))
        return {name: _take(concatenate(pieces), inverse) for name, pieces in taken.items()}

    def loaded(self, columns: Sequence[str]) -> Storage:
        """The columns in memory if they take at most half of the budget, and otherwise through a cache."""
        if not columns:
            return self
        table, data = self._table, self._loaded(columns)
        pa.default_memory_pool().release_unused()
        if data is not None:
            self.close()
            storage = MemoryStorage(
                flatten({name: table.columns[name] for name in columns}, data),
                arrays=self.arrays,
                spec=self.spec,
                identity=self.identity,
            )
            storage.unreadable, storage.indexes, storage.has_checksums = (
                self.unreadable,
                self.indexes,
                self.has_checksums,
            )
            return storage
        warnings.warn(
            f"{self._file.path} takes more than half of its memory_budget of {self._budget} bytes when decoded. Its "
            "row groups are decoded as rows are read, which is slow for shuffled rows. Convert the file to npz-lazy, "
            "or raise the budget.",
            stacklevel=3,
        )
        for name in columns:
            table.settle(name)
        return RowGroups(self._file, table, columns, budget=self._budget, cached=self._budget // 3)

    def close(self) -> None:
        self._file.close()

    def _loaded(self, columns: Sequence[str]) -> dict[str, Column] | None:
        """All rows of some columns; None if they take more than half of the budget."""
        data: dict[str, Column] = {}
        left = self._budget // 2  # decoding takes as much again, with what the allocator keeps
        sizes = {name: self._file.decoded_size([name]) for name in columns}
        if sum(sizes.values()) > left:
            return None
        for names in _together(sizes, min(left // 8, MOST_TOGETHER)):
            found = self._table.load(names, left)
            if found is None:
                return None
            data |= found
            left -= sum(map(held, found.values()))
        return data

    def _part(self, part: int, columns: Sequence[str]) -> dict[str, Column]:
        with self._lock:
            cached = self._cache.get_all((part, name) for name in columns)
            missing = [name for name in columns if (part, name) not in cached]
            decoded = dict(self._table.read(part, missing)) if missing else {}
            for name, column in decoded.items():
                self._cache.put((part, name), column, held(column))
            if decoded:
                pa.default_memory_pool().release_unused()
            return decoded | {name: column for (_, name), column in cached.items()}


def _together(sizes: Mapping[str, int], most: int) -> Iterator[list[str]]:
    """The columns in groups of at most this many bytes, each of which is decoded together."""
    names: list[str] = []
    total = 0
    for name, size in sizes.items():
        if names and total + size > most:
            yield names
            names, total = [], 0
        names, total = [*names, name], total + size
    if names:
        yield names


def held(column: Column) -> int:
    """The number of bytes that a decoded column takes, its offsets included."""
    return column.nbytes + (8 * (len(column) + 1) if isinstance(column, Ragged) else 0)


def _take(column: Column, rows: NDArray[np.int64]) -> Column:
    return column.take(rows) if isinstance(column, Ragged) else column[rows]
