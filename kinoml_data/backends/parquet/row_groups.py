"""A Parquet file that does not fit the memory budget: one row group decoded at a time, the last ones kept."""

from __future__ import annotations

import threading
import warnings
from collections import OrderedDict
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from kinoml_data.backends.parquet.container import ParquetContainer
from kinoml_data.columns import Column, Columns, Ragged, concatenate
from kinoml_data.contracts.backend import Storage
from kinoml_data.spec.array import Array

Decode = Callable[[int, Sequence[str]], Mapping[str, Column]]


class RowGroups(Storage):
    """Reads rows through a bounded cache of decoded row groups.

    ArrowRows in order cost what decoding costs. Shuffled rows decode a whole row group for a few rows each: convert such a
    file to npz-lazy, or raise the budget.

    Args:
        file: open; closed with this storage.
        decode: the columns of one row group.
        columns: what they hold.
        budget: bytes of decoded row groups to keep; at least one is kept.
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
        self._file, self._decode, self._budget = file, decode, budget
        self.columns, self.arrays, self.spec, self.identity = columns, arrays or {}, spec, file.identity
        self._ends = np.cumsum(file.groups)
        self._cache: OrderedDict[tuple[int, str], Column] = OrderedDict()
        self._used = 0
        self._lock = threading.Lock()  # the file has one position
        warnings.warn(
            f"{file.path} is larger decoded than its memory_budget of {budget} bytes; its row groups are decoded as "
            "rows are read, which is slow for shuffled rows. Convert it to npz-lazy, or raise the budget.",
            stacklevel=2,
        )

    def __len__(self) -> int:
        return int(self._ends[-1]) if len(self._ends) else 0

    def read(self, rows: NDArray[np.int64], columns: Sequence[str]) -> Columns:
        groups = np.searchsorted(self._ends, rows, side="right")
        order = np.argsort(groups, kind="stable")
        inverse = np.empty(len(rows), np.int64)
        inverse[order] = np.arange(len(rows))
        parts: dict[str, list[Column]] = {name: [_empty(self.columns[name])] for name in columns}
        for group in np.unique(groups).tolist():
            first = int(self._ends[group]) - self._file.groups[group]
            wanted = rows[order][groups[order] == group] - first
            for name, column in self._group(group, columns).items():
                parts[name].append(_take(column, wanted))
        return {name: _take(concatenate(found), inverse) for name, found in parts.items()}

    def close(self) -> None:
        self._file.close()

    def _group(self, group: int, columns: Sequence[str]) -> dict[str, Column]:
        with self._lock:
            missing = [name for name in columns if (group, name) not in self._cache]
            found = dict(self._decode(group, missing)) if missing else {}
            for name in columns:
                if name in found:
                    self._cache[group, name] = found[name]
                    self._used += _nbytes(found[name])
                else:
                    found[name] = self._cache[group, name]
                    self._cache.move_to_end((group, name))
            while self._used > self._budget and len(self._cache) > len(columns):
                _, old = self._cache.popitem(last=False)
                self._used -= _nbytes(old)
            return found


def _empty(array: Array) -> Column:
    if array.ragged or array.is_string:
        return Ragged(np.empty(0, array.numpy), np.empty((0, max(1, len(array.shape))), np.int64))
    return np.empty((0, *(axis or 0 for axis in array.shape)), array.numpy)


def _take(column: Column, rows: NDArray[np.int64]) -> Column:
    return column.take(rows) if isinstance(column, Ragged) else column[rows]


def _nbytes(column: Column) -> int:
    return column.values.nbytes + column.shapes.nbytes if isinstance(column, Ragged) else column.nbytes
