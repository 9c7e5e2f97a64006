"""`joined`: a thin table whose rows point into other tables, so that what many rows share is stored once."""

from __future__ import annotations

import json
import re
from collections.abc import Iterable, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray
from pydantic import Field

from kinoml_data.columns import Columns
from kinoml_data.contracts.backend import AnyBackend, Backend, Storage
from kinoml_data.errors import CorruptStoreError, SpecError, error_prefix, quoted, unknown
from kinoml_data.layouts.flat_arrays import stored_splits
from kinoml_data.spec import config
from kinoml_data.spec.array import Array, Model
from kinoml_data.spec.dataset_spec import DatasetSpec

INDEX = Array("int64")
NOWHERE = {"storage": {"backend": "joined"}}  # of a spec that is only a part of one


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
        for part in (self.source, *(table.source for table in self.tables.values())):
            if getattr(part, "device", None) is not None:
                raise ValueError("what is joined is not kept on a device; put `in-memory` with a device around it")
        seen: set[str] = set()
        for index, table in self.tables.items():
            if twice := sorted(table.columns.keys() & (seen | self.tables.keys())):
                raise ValueError(f"tables.{index}: another column is called {quoted(twice[0])} already; rename it")
            if len(set(table.columns.values())) < len(table.columns):
                raise ValueError(f"tables.{index}: a column is joined twice")
            seen |= table.columns.keys()

    def open(self, columns: Mapping[str, Array] | None) -> Storage:
        with ExitStack() as opened:
            joins = []
            for index, table in self.tables.items():
                held = {name: there for name, there in table.columns.items() if columns is None or name in columns}
                if not held:
                    continue
                asked = None if columns is None else {there: columns[name] for name, there in held.items()}
                with error_prefix(f"tables.{index}: "):
                    storage = table.source.open(asked)
                    opened.callback(storage.close)
                    for there in held.values():
                        if there not in storage.columns:
                            raise SpecError(unknown(there, storage.columns, "stored column"))
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
        self.columns = {name: join.storage.columns[join.columns[name]] for name, join in self._of.items()} | {
            name: array
            for name, array in source.columns.items()
            if (name not in indices if columns is None else name in columns)
        }
        self.arrays = source.arrays
        self.spec = _spec_of(source, joins) if columns is None else None
        parts = (source, *(join.storage for join in joins))
        # One that cannot tell when it changes leaves the others to be told.
        known = [part.identity for part in parts]
        self.identity = json.dumps(known) if any(text is not None for text in known) else None
        self.has_checksums = all(part.has_checksums for part in parts)
        self.shareable = all(part.shareable for part in parts)

    def _check(self, join: _Join) -> None:
        """Whether all rows of the source point into a table; raises as the class."""
        index = self._source.columns.get(join.index)
        if index is None:
            raise SpecError(f"tables: {unknown(join.index, self._source.columns, 'column of the source')}")
        if index.is_string or index.numpy.kind not in "iu" or index.shape:
            raise SpecError(f"tables.{join.index}: the column holds {index.dtype} {index.shape}, not one integer a row")
        self._rows(join, np.arange(len(self._source)))

    def _rows(self, join: _Join, rows: NDArray[np.int64]) -> NDArray[np.int64]:
        """The rows of a table that these rows of the source point to."""
        found = self._source.read(rows, [join.index])[join.index]
        assert isinstance(found, np.ndarray)
        return self._inside(join, rows, found)

    @staticmethod
    def _inside(join: _Join, rows: NDArray[np.int64], found: NDArray[Any]) -> NDArray[np.int64]:
        length = len(join.storage)
        if (wrong := (found < 0) | (found >= length)).any():
            row, there = rows[wrong][0], found[wrong][0]
            raise CorruptStoreError(
                f"tables.{join.index}: row {row} of the source points to row {there} of a table of {length} rows"
            )
        return found.astype(np.int64)

    def __len__(self) -> int:
        return len(self._source)

    def read(self, rows: NDArray[np.int64], columns: Sequence[str]) -> Columns:
        own = [name for name in columns if name not in self._of]
        found = dict(self._source.read(rows, own)) if own else {}
        for join in self._joins:
            if here := [name for name in columns if name in join.columns]:
                there = self._rows(join, rows)
                read = join.storage.read(there, [join.columns[name] for name in here])
                found |= {name: read[join.columns[name]] for name in here}
        return found

    def read_row(self, row: int, columns: Sequence[str]) -> Mapping[str, NDArray[Any]]:
        own = [name for name in columns if name not in self._of]
        found = dict(self._source.read_row(row, own)) if own else {}
        for join in self._joins:
            if here := [name for name in columns if name in join.columns]:
                pointer = self._source.read_row(row, [join.index])[join.index]
                there = int(self._inside(join, np.array([row]), pointer.reshape(1))[0])
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


def _spec_of(source: Storage, joins: Sequence[_Join]) -> str | None:
    """The spec of the whole as JSON: that of the source without the indices, and with the tables' columns in X.

    None where nothing can be X. A spec of a part that is not valid is given on as it is, for who reads it to refuse.

    Raises:
        SpecError: a name stands for two columns.
    """
    carried: dict[str | None, dict[str, Any]] = {None: {"columns": {}}}
    for part in (source, *(join.storage for join in joins)):
        try:
            if part.spec is not None:
                carried[part.spec] = _carried(part.spec)
        except SpecError:
            return part.spec
    own = _suggested(source, [join.index for join in joins]) if source.spec is None else carried[source.spec]
    indices = {join.index for join in joins}
    kept = {name: array for name, array in own["columns"].items() if (array.stored_as or name) not in indices}
    joined: dict[str, Array] = {}
    for join in joins:
        theirs = carried[join.storage.spec]["columns"]
        stored = {array.stored_as or name: array for name, array in theirs.items()}
        for name, there in join.columns.items():
            array = stored.get(there, join.storage.columns[there])
            joined[name] = array.model_copy(update={"stored_as": None})
    if twice := sorted(joined.keys() & kept.keys()):
        raise SpecError(f"the source and a table both have a column {quoted(twice[0])}; rename the table's")
    strings = [name for name, array in joined.items() if array.is_string]
    said = {
        **own,
        "columns": joined | kept,
        "X": _role([*(name for name in joined if name not in strings), *(name for name in own["X"] if name in kept)]),
        "y": _role([name for name in own["y"] if name in kept]),
        "meta": [*strings, *(name for name in own["meta"] if name in kept)],
    }
    if said["X"] is None:
        return None
    if isinstance(said.get("collate"), dict):
        said["collate"] = {name: form for name, form in said["collate"].items() if name in kept}
    return json.dumps(DatasetSpec.parse({key: value for key, value in said.items() if value is not None}).to_mapping())


def _role(names: list[str]) -> str | list[str] | None:
    return names[0] if len(names) == 1 else names or None


def _carried(text: str) -> dict[str, Any]:
    """The spec of a part as a mapping, of which the roles are lists."""
    spec = DatasetSpec.parse(config.parse(text.encode(), ".json") | NOWHERE)
    roles = {"X": spec.X_names, "y": spec.y_names, "meta": spec.meta}
    return {**spec.to_mapping(), "columns": spec.columns or {}, **roles}


def _suggested(source: Storage, indices: Sequence[str]) -> dict[str, Any]:
    """As for a bare file: the last number in the source is y, and no index is."""
    numbers = [name for name, array in source.columns.items() if not array.is_string and name not in indices]
    y = [] if all(re.fullmatch(r"X\d*", name) for name in numbers) else numbers[-1:]
    return {
        "columns": source.columns,
        "X": [name for name in numbers if name not in y],
        "y": y,
        "meta": [name for name, array in source.columns.items() if array.is_string],
        "splits": stored_splits(source.arrays),
        **NOWHERE,
    }
