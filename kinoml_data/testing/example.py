"""`Example`: a small dataset in memory, to store and to compare with."""

from __future__ import annotations

import json
import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from kinoml_data.columns import Column, Columns, Indexed, Ragged
from kinoml_data.spec.array import Array

Rows = Mapping[str, Sequence[Any]]


@dataclass(frozen=True)
class Example:
    """A dataset as one list of rows per column, which no backend has touched.

    Attributes:
        name: the name that test ids contain.
        columns: the dtype and shape of each column.
        rows: by column, one numpy array or str per row.
        arrays: named arrays that are not per row.
        shared: the columns whose rows share values; a backend that keeps keys stores each of these values once.
        splits: the splits of the dataset, as in a spec; by default the `arrays` whose names begin with `idx_`.
    """

    name: str
    columns: Mapping[str, Array]
    rows: Rows
    arrays: Mapping[str, NDArray[Any]] = field(default_factory=dict)
    shared: tuple[str, ...] = ()
    splits: Mapping[str, Any] | None = None

    def __len__(self) -> int:
        return len(next(iter(self.rows.values())))

    @property
    def numeric(self) -> list[str]:
        """The columns that become tensors."""
        return [name for name, array in self.columns.items() if not array.is_string]

    @property
    def strings(self) -> list[str]:
        """The columns of strings."""
        return [name for name, array in self.columns.items() if array.is_string]

    @property
    def spec(self) -> str:
        """The spec to embed in a store, as JSON without a storage."""
        columns = {name: array.model_dump(mode="json", exclude_defaults=True) for name, array in self.columns.items()}
        splits = {name.removeprefix("idx_"): name for name in self.arrays if name.startswith("idx_")}
        return json.dumps({"format": 1, "columns": columns, "X": self.numeric, "meta": self.strings, "splits": splits})

    def batches(self, size: int | None = None, *, indexed: bool = False) -> Iterator[Columns]:
        """The rows in batches for `Backend.write`: read-only, `size` rows each; by default at least two batches.

        If `indexed` is True, the columns `shared` are `Indexed` in every batch.
        """
        step = size or max(1, len(self) // 2)
        numbers: dict[str, dict[Any, int]] = {name: {} for name in (self.shared if indexed else ())}
        for start in range(0, len(self), step):
            batch: dict[str, Any] = {}
            for name, array in self.columns.items():
                rows, known = self.rows[name][start : start + step], numbers.get(name)
                if known is None:
                    batch[name] = column_of(rows, array)
                    continue
                new = {content: row for row in rows if (content := content_of(row)) not in known}
                known |= {content: number for number, content in enumerate(new, len(known))}
                index = np.array([known[content_of(row)] for row in rows], np.int64)
                batch[name] = Indexed(column_of(list(new.values()), array), locked(index))
            yield batch

    def only(self, names: Sequence[str]) -> Example:
        """The same rows of some columns."""
        return replace(
            self,
            columns={name: self.columns[name] for name in names},
            rows={name: self.rows[name] for name in names},
            shared=tuple(name for name in self.shared if name in names),
        )

    def taken(self, rows: Sequence[int], name: str) -> list[Any]:
        """The given rows of one column."""
        return [self.rows[name][row] for row in rows]


def content_of(row: Any) -> Any:
    """What two rows of a column have in common if and only if they have the same value, bit for bit."""
    return row if isinstance(row, str) else (row.shape, row.tobytes())


def column_of(rows: Sequence[Any], array: Array) -> Column:
    """The column with these rows, in read-only arrays."""
    if array.is_string:
        rows = [np.frombuffer(text.encode(), np.uint8) for text in rows]
    if not array.rows_differ:
        stacked = np.empty((len(rows), *array.row_shape), array.numpy)
        for i, row in enumerate(rows):
            stacked[i] = row
        return locked(stacked)
    shapes = np.array([row.shape for row in rows], np.int64).reshape(len(rows), len(array.axes))
    values = np.concatenate([np.empty(0, array.numpy), *(row.reshape(-1) for row in rows)], dtype=array.numpy)
    return Ragged(locked(values), locked(shapes))


def locked(array: NDArray[Any]) -> NDArray[Any]:
    """The same array, which nothing can change from now on."""
    array.setflags(write=False)
    return array


def bits(dtype: str, shape: tuple[int, ...], seed: int) -> NDArray[Any]:
    """An array of random bit patterns: for floating types NaNs with payloads, infinities and subnormals too."""
    kind = np.dtype(dtype)
    rng = np.random.Generator(np.random.PCG64(seed))
    if dtype == "bool":
        return locked(rng.integers(0, 2, shape).astype(bool))
    return locked(np.frombuffer(bytearray(rng.bytes(math.prod(shape) * kind.itemsize)), kind).reshape(shape))
