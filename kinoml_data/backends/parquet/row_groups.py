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
from kinoml_data.columns import Column, Columns, Ragged
from kinoml_data.contracts.backend import Storage
from kinoml_data.contracts.blocks import Blocks
from kinoml_data.layouts.flat_arrays import flatten
from kinoml_data.layouts.memory_storage import MemoryStorage
from kinoml_data.lru import LruCache
from kinoml_data.spec.array import Array

MOST_REMEMBERED = 8  # parts from which the rows of a batch are collected: each takes time
LEAST_SLICE = 1 << 20  # bytes
READER = 4 << 20  # bytes that are allowed for the pages and the dictionary of a column that is read in slices
MOST_TOGETHER = 32 << 20  # bytes that are decoded at once: the readers of columns take as much again


class Table(ABC):
    """How the columns of a file are decoded.

    Args:
        file: the open file.
        names: the columns.
        most: the number of bytes above which a row group is decoded in slices of this size.
        budget: the number of bytes that reading may take; a quarter of it is for the readers of slices.

    Attributes:
        columns: the columns, by name. An axis that only decoded rows show is ragged until `load` or `settle`.
        places: `(group, start, stop)` of each part: its row group, and its rows within that group.
        unreadable, indexes, arrays, spec, has_checksums: see `Storage`.
    """

    columns: dict[str, Array]
    places: Sequence[tuple[int, int, int]]
    unreadable: Mapping[str, str] = {}
    indexes: Collection[str] = ()
    arrays: Mapping[str, NDArray[Any]] = {}
    spec: str | None = None
    has_checksums: bool = False

    def __init__(self, file: ParquetContainer, names: Sequence[str], most: int, budget: int) -> None:
        self._file = file
        self._firsts = np.cumsum([0, *file.groups])
        file.max_readers = max(4, budget // 4 // READER)
        places: list[tuple[int, int, int]] = []
        for group, (rows, size) in enumerate(zip(file.groups, file.group_sizes(names), strict=True)):
            step = -(-rows // min(rows or 1, -(-size // max(LEAST_SLICE, most)) or 1))
            places += [(group, start, min(start + step, rows)) for start in range(0, max(rows, 1), step or 1)]
        self.places = places

    def is_whole(self, place: tuple[int, int, int]) -> bool:
        """True if a part is a whole row group."""
        group, start, stop = place
        return (start, stop) == (0, self._file.groups[group])

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

    Reading rows in order, or shuffled by `blocks`, decodes each part once. Reading rows that were shuffled in another
    way decodes a whole part for a few rows.

    Args:
        file: the open file, which is closed with this storage.
        table: decodes its columns.
        names: the columns of this storage.
        budget: the number of bytes that reading may take.
        cached: the number of bytes of decoded parts to keep; `blocks.kept` parts are kept in any case.
    """

    def __init__(
        self, file: ParquetContainer, table: Table, names: Sequence[str], *, budget: int, cached: int = 0
    ) -> None:
        self._file, self._table, self._budget = file, table, budget
        self.columns = {name: table.columns[name] for name in names}
        self.arrays, self.spec, self.identity = table.arrays, table.spec, file.identity
        self.unreadable, self.indexes, self.has_checksums = table.unreadable, table.indexes, table.has_checksums
        self._counts = np.array([stop - start for _, start, stop in table.places], np.int64)
        self._ends = np.cumsum(self._counts)
        self.blocks = self._blocks(names, cached)
        self._cache: LruCache[tuple[int, str], Column] = LruCache(cached)
        self._lock = threading.Lock()  # Arrow reads the file through a single file position

    def __len__(self) -> int:
        return int(self._ends[-1]) if len(self._ends) else 0

    def read(self, rows: NDArray[np.int64], columns: Sequence[str]) -> Columns:
        parts = np.searchsorted(self._ends, rows, side="right")
        order = np.argsort(parts, kind="stable")
        touched, first, counts = np.unique(parts, return_index=True, return_counts=True)
        stops = np.cumsum(counts)
        if len(touched) == 1:
            in_part = rows - (self._ends[parts[0]] - self._counts[parts[0]])
            return {name: _take(column, in_part) for name, column in self._part(int(parts[0]), columns).items()}
        gathered = {name: _Gathered(self.columns[name], len(rows)) for name in columns}
        for i in np.argsort(first).tolist():  # in the order in which the rows name them, see `Blocks`
            part, places = int(touched[i]), order[stops[i] - counts[i] : stops[i]]
            in_part = rows[places] - (self._ends[part] - self._counts[part])
            for name, column in self._part(part, columns).items():
                gathered[name].put(places, column, in_part)
        return {name: each.column() for name, each in gathered.items()}

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
            "row groups are decoded as rows are read. `as_dataloader(shuffle=True)` shuffles row groups, and the rows "
            "of a few row groups together; reading rows in another random order is slow. Convert the file to npz-lazy, "
            "or raise the budget.",
            stacklevel=3,
        )
        for name in columns:
            table.settle(name)
        return RowGroups(self._file, table, columns, budget=self._budget, cached=self._budget // 3)

    def close(self) -> None:
        self._file.close()

    def _blocks(self, names: Sequence[str], cached: int) -> Blocks | None:
        """The parts that have rows, and how many parts as large as the largest are remembered; None without rows."""
        if not len(self):
            return None
        widths = {name: array.numpy.itemsize for name, array in self.columns.items() if not array.is_string}
        ragged = [array for array in self.columns.values() if array.ragged or array.is_string]
        beside = sum(8 * (1 + max(1, len(array.shape))) for array in ragged)  # bytes of a row for offsets and shapes
        sizes, rows = self._file.group_sizes(names, widths), self._file.groups
        groups = [group for group, _, _ in self._table.places]
        row_sizes = np.array([size / max(1, count) + beside for size, count in zip(sizes, rows, strict=True)])
        largest = max(1, int((row_sizes[groups] * self._counts).max()))
        follows = np.array([start > 0 for _, start, _ in self._table.places])[self._counts > 0]
        bounds = np.unique(np.concatenate([[0], self._ends]))
        return Blocks(bounds, max(1, min(cached // largest, MOST_REMEMBERED)), follows)

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
            # The parts of a window stay, even if they take more memory than the footer says.
            self._cache.keep = len(columns) * (self.blocks.kept if self.blocks is not None else 1)
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


class _Gathered:
    """Rows of one column that are collected from several parts. Each row is copied, so that no part stays in memory.

    Args:
        array: the column.
        count: the number of rows.
    """

    def __init__(self, array: Array, count: int) -> None:
        self._count, self._column = count, array.empty()
        self._rows: list[bytes] = [b""] * count

    def put(self, places: NDArray[np.int64], column: Column, rows: NDArray[np.int64]) -> None:
        """Copy some rows of a part to their places in the result."""
        if not len(self._column):
            self._column = (
                Ragged(column.values[:0], np.zeros((self._count, column.shapes.shape[1]), np.int64))
                if isinstance(column, Ragged)
                else np.empty((self._count, *column.shape[1:]), column.dtype)
            )
        if not isinstance(column, Ragged):
            self._column[places] = column[rows]  # type: ignore[index]  # an array, as the column is
            return
        assert isinstance(self._column, Ragged)
        self._column.shapes[places] = column.shapes[rows]
        offsets, data = column.offsets, np.ascontiguousarray(column.values).data
        ends = zip(places.tolist(), offsets[rows].tolist(), offsets[rows + 1].tolist(), strict=True)
        for place, start, stop in ends:
            self._rows[place] = data[start:stop].tobytes()

    def column(self) -> Column:
        column = self._column
        if not isinstance(column, Ragged):
            return column
        return Ragged(np.frombuffer(bytearray().join(self._rows), column.values.dtype), column.shapes)


def _take(column: Column, rows: NDArray[np.int64]) -> Column:
    return column.take(rows) if isinstance(column, Ragged) else column[rows]
