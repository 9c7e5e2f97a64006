"""`joined`: a thin table whose rows point into other tables, so that what many rows share is stored once."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray
from pydantic import Field

from kinoml_data.backend import AnyBackend, Backend, Storage
from kinoml_data.columns import Columns
from kinoml_data.errors import CorruptStoreError, SpecError, quoted
from kinoml_data.spec import Array, Model, unknown

INDEX = Array("int64")


class Table(Model):
    """A table that rows of another one point into.

    Attributes:
        source: where it is stored.
        columns: which of its columns are joined: the name here to the name there.
    """

    source: AnyBackend
    columns: dict[str, str] = Field(min_length=1)


class Joined(Backend):
    """The columns of a source, and for each of its rows one row of every table it points into.

    Attributes:
        source: the thin table, such as one row per measurement, with an integer column for each table.
        tables: by the name of that column, which holds row numbers: the table it points into.
    """

    name = "joined"
    source: AnyBackend
    tables: dict[str, Table] = Field(min_length=1)

    def model_post_init(self, context: Any) -> None:
        seen: set[str] = set()
        for index, table in self.tables.items():
            if twice := sorted(table.columns.keys() & (seen | self.tables.keys())):
                raise ValueError(f"tables.{index}: another column is called {quoted(twice[0])} already; rename it")
            if len(set(table.columns.values())) < len(table.columns):
                raise ValueError(f"tables.{index}: a column is joined twice")
            seen |= table.columns.keys()

    def checking(self) -> Backend:
        """See `Backend.checking`."""
        tables = {i: table.model_copy(update={"source": table.source.checking()}) for i, table in self.tables.items()}
        return self.model_copy(update={"source": self.source.checking(), "tables": tables})

    def open(self, columns: Mapping[str, Array] | None) -> Storage:
        with ExitStack() as opened:
            joins = []
            for index, table in self.tables.items():
                held = {name: there for name, there in table.columns.items() if columns is None or name in columns}
                if not held:
                    continue
                asked = None if columns is None else {there: columns[name] for name, there in held.items()}
                storage = table.source.open(asked)
                opened.callback(storage.close)
                for there in held.values():
                    if there not in storage.columns:
                        raise SpecError(f"tables.{index}: {unknown(there, storage.columns, 'stored column')}")
                joins.append(_Join(index, storage, held))
            own = None if columns is None else self._own(columns, joins)
            source = self.source.open(own)
            opened.callback(source.close)
            found = JoinedStorage(source, joins, columns)
            opened.pop_all()
            return found

    def _own(self, columns: Mapping[str, Array], joins: Iterable[_Join]) -> dict[str, Array]:
        """The columns to be read from the source."""
        joined = {name for join in joins for name in join.columns}
        own = {name: array for name, array in columns.items() if name not in joined}
        return {**own, **{join.index: own.get(join.index, INDEX) for join in joins}}


@dataclass(frozen=True)
class _Join:
    """An open table, the column of the source that points into it, and its columns by the names they get."""

    index: str
    storage: Storage
    columns: Mapping[str, str]


class JoinedStorage(Storage):
    """A source and its tables, opened; see `Joined`.

    Raises:
        SpecError: an index column is missing or holds no integers, or a name stands for two columns.
        CorruptStoreError: a row number is not in its table.
    """

    def __init__(self, source: Storage, joins: Sequence[_Join], columns: Mapping[str, Array] | None) -> None:
        self._source, self._joins = source, joins
        self._of = {name: join for join in joins for name in join.columns}
        if twice := sorted(self._of.keys() & source.columns.keys()):
            raise SpecError(f"the source and a table both have a column {quoted(twice[0])}; rename the table's")
        for join in joins:
            self._check(join)
        indices = {join.index for join in joins}
        # Where a spec leaves the roles open, the last number in the source is y, and an index is no feature.
        self.columns = {name: join.storage.columns[join.columns[name]] for name, join in self._of.items()} | {
            name: array
            for name, array in source.columns.items()
            if (name not in indices if columns is None else name in columns)
        }
        self.arrays = source.arrays
        parts = (source, *(join.storage for join in joins))
        known = [part.identity for part in parts if part.identity is not None]
        self.identity = "; ".join(known) if len(known) == len(parts) else None
        self.checked = all(part.checked for part in parts)
        self.shareable = all(part.shareable for part in parts)

    def _check(self, join: _Join) -> None:
        index = self._source.columns.get(join.index)
        if index is None:
            raise SpecError(f"tables: {unknown(join.index, self._source.columns, 'column of the source')}")
        if index.is_string or index.numpy.kind not in "iu" or index.shape:
            raise SpecError(f"tables.{join.index}: the column holds {index.dtype} {index.shape}, not one integer a row")
        rows, length = self._rows(join, np.arange(len(self._source))), len(join.storage)
        if (wrong := (rows < 0) | (rows >= length)).any():
            row = int(wrong.argmax())
            raise CorruptStoreError(
                f"column {quoted(join.index)}, row {row}: it points to row {rows[row]} of a table of {length} rows"
            )

    def _rows(self, join: _Join, rows: NDArray[np.int64]) -> NDArray[Any]:
        found = self._source.read(rows, [join.index])[join.index]
        assert isinstance(found, np.ndarray)
        return found

    def __len__(self) -> int:
        return len(self._source)

    def read(self, rows: NDArray[np.int64], columns: Sequence[str]) -> Columns:
        own = [name for name in columns if name not in self._of]
        found = dict(self._source.read(rows, own)) if own else {}
        for join in self._joins:
            if here := [name for name in columns if name in join.columns]:
                there = self._rows(join, rows).astype(np.int64)
                read = join.storage.read(there, [join.columns[name] for name in here])
                found |= {name: read[join.columns[name]] for name in here}
        return found

    def read_row(self, row: int, columns: Sequence[str]) -> Mapping[str, NDArray[Any]]:
        own = [name for name in columns if name not in self._of]
        found = dict(self._source.read_row(row, own)) if own else {}
        for join in self._joins:
            if here := [name for name in columns if name in join.columns]:
                there = int(self._source.read_row(row, [join.index])[join.index])
                values = join.storage.read_row(there, [join.columns[name] for name in here])
                found |= {name: values[join.columns[name]] for name in here}
        return found

    def shapes(self, column: str) -> NDArray[np.int64] | None:
        join = self._of.get(column)
        if join is None:
            return self._source.shapes(column)
        shapes = join.storage.shapes(join.columns[column])
        return None if shapes is None else shapes[self._rows(join, np.arange(len(self)))]

    def close(self) -> None:
        for part in (self._source, *(join.storage for join in self._joins)):
            part.close()
