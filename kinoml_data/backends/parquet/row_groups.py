"""A Parquet file that exceeds the memory budget: row groups are decoded as rows are read, and some stay in memory."""

from __future__ import annotations

import threading
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from kinoml_data.backends.parquet.container import ParquetContainer
from kinoml_data.columns import Column, Columns, Ragged, concatenate
from kinoml_data.contracts.backend import Storage
from kinoml_data.lru import LruCache
from kinoml_data.spec.array import Array

Decode = Callable[[int, Sequence[str]], Mapping[str, Column]]


class RowGroups(Storage):
    """Reads rows through a bounded cache of decoded row groups.

    Reading rows in order decodes each row group once. Reading shuffled rows decodes a whole row group for a few rows.

    Args:
        file: the open file, which is closed with this storage.
        decode: returns some columns of the row group with the given number.
        columns: the columns, by name.
        budget: bytes of decoded row groups to keep; at least one row group is kept.
        arrays, spec: see `Storage`.
    """

    def __init__(
        self,
        file: ParquetContainer,
        decode: Decode,
        columns: Mapping[str, Array],
        *,
        budget: int,
        arrays: Mapping[str, NDArray[Any]] | None = None,
        spec: str | None = None,
    ) -> None:
        self._file, self._decode = file, decode
        self.columns, self.arrays, self.spec, self.identity = columns, arrays or {}, spec, file.identity
        self._ends = np.cumsum(file.groups, dtype=np.int64)
        self._cache: LruCache[tuple[int, str], Column] = LruCache(budget, keep=len(columns))
        self._lock = threading.Lock()  # Arrow reads the file through a single file position

    def __len__(self) -> int:
        return sum(self._file.groups)

    def read(self, rows: NDArray[np.int64], columns: Sequence[str]) -> Columns:
        groups = np.searchsorted(self._ends, rows, side="right")
        order = np.argsort(groups, kind="stable")
        inverse = np.empty(len(rows), np.int64)
        inverse[order] = np.arange(len(rows))
        parts: dict[str, list[Column]] = {name: [self.columns[name].empty()] for name in columns}
        for group in np.unique(groups).tolist():
            first = int(self._ends[group]) - self._file.groups[group]
            in_group = rows[order][groups[order] == group] - first
            for name, column in self._group(group, columns).items():
                parts[name].append(_take(column, in_group))
        return {name: _take(concatenate(taken), inverse) for name, taken in parts.items()}

    def close(self) -> None:
        self._file.close()

    def _group(self, group: int, columns: Sequence[str]) -> dict[str, Column]:
        with self._lock:
            cached = self._cache.get_all((group, name) for name in columns)
            missing = [name for name in columns if (group, name) not in cached]
            decoded = dict(self._decode(group, missing)) if missing else {}
            for name, column in decoded.items():
                self._cache.put((group, name), column, column.nbytes)
            return decoded | {name: column for (_, name), column in cached.items()}


def _take(column: Column, rows: NDArray[np.int64]) -> Column:
    return column.take(rows) if isinstance(column, Ragged) else column[rows]
