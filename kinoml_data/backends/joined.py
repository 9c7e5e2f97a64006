"""`joined`: a thin table whose rows point into other tables, so that values shared by many rows are stored once."""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
from numpy.typing import NDArray
from pydantic import Field

from kinoml_data.columns import Columns
from kinoml_data.contracts.backend import AnyBackend, Backend, Storage
from kinoml_data.errors import SpecError, UnsupportedStoreError, error_prefix, quoted, unknown
from kinoml_data.layouts.flat_arrays import stored_splits
from kinoml_data.spec import config
from kinoml_data.spec.array import Array, Model
from kinoml_data.spec.dataset_spec import DatasetSpec
from kinoml_data.spec.roles import named_X, named_y

INDEX = Array("int64")
STORAGE = {"storage": {"backend": "joined"}}  # completes the embedded spec of a part, which names no storage


class Table(Model):
    """A table that the rows of another table point into.

    Attributes:
        source: the backend that stores the table.
        columns: the columns to join: `{name in the dataset: name in the table}`.
    """

    source: AnyBackend
    columns: dict[str, str] = Field(min_length=1)


class Joined(Backend):
    """The columns of a source, and for each row of the source one row of every table.

    Attributes:
        source: the thin table, such as one row per measurement, with an integer column for each table.
        tables: the tables, each by the name of the column that contains its row numbers.
    """

    name = "joined"
    source: AnyBackend
    tables: dict[str, Table] = Field(min_length=1)

    def model_post_init(self, context: Any) -> None:
        for part in (self.source, *(table.source for table in self.tables.values())):
            if getattr(part, "device", None) is not None:
                raise ValueError("the source and tables cannot be on a device; wrap `joined` in `in-memory` instead")
        names: set[str] = set()
        for index, table in self.tables.items():
            if repeated := sorted(table.columns.keys() & (names | self.tables.keys())):
                raise ValueError(f"tables.{index}: the column name {quoted(repeated[0])} is taken; choose another one")
            if len(set(table.columns.values())) < len(table.columns):
                raise ValueError(f"tables.{index}: a column is joined more than once; list it once")
            names |= table.columns.keys()

    def open(self, columns: Mapping[str, Array | None] | None) -> Storage:
        with ExitStack() as opened:
            joins = []
            for index, table in self.tables.items():
                used = {name: theirs for name, theirs in table.columns.items() if columns is None or name in columns}
                if not used:
                    continue
                requested = None if columns is None else {theirs: columns[name] for name, theirs in used.items()}
                with error_prefix(f"tables.{index}: "):
                    storage = table.source.open(requested)
                    opened.callback(storage.close)
                    for theirs in used.values():
                        if theirs in storage.unreadable:
                            raise UnsupportedStoreError(storage.unreadable[theirs])
                        if theirs not in storage.columns:
                            raise SpecError(unknown(theirs, storage.columns, "stored column"))
                joins.append(_Join(index, storage, used))
            source = self.source.open(None if columns is None else self._columns_of_source(columns, joins))
            opened.callback(source.close)
            joined = JoinedStorage(source, joins, columns)
            opened.pop_all()
            return joined

    def _columns_of_source(
        self, columns: Mapping[str, Array | None], joins: Iterable[_Join]
    ) -> dict[str, Array | None]:
        """The requested columns that come from the source, and the columns that point into the tables."""
        joined = {name for join in joins for name in join.columns}
        own = {name: array for name, array in columns.items() if name not in joined}
        return {**own, **{join.index: own.get(join.index, INDEX) for join in joins}}


@dataclass(frozen=True)
class _Join:
    """An open table, the column of the source that points into it, and the joined columns, named as in `Table`."""

    index: str
    storage: Storage
    columns: Mapping[str, str]


class JoinedStorage(Storage):
    """An open source and its open tables. See `Joined`.

    Raises:
        SpecError: an index column is missing or does not contain one integer per row, a row points outside its table,
            or two columns share a name.
    """

    def __init__(self, source: Storage, joins: Sequence[_Join], columns: Mapping[str, Array | None] | None) -> None:
        self._source, self._joins = source, joins
        self._of = {name: join for join in joins for name in join.columns}
        if repeated := sorted(self._of.keys() & source.columns.keys()):
            raise SpecError(
                f"the source and a table both have a column {quoted(repeated[0])}; rename the table's in `columns`"
            )
        for join in joins:
            self._check(join)
        self._requested = columns
        self._describe()
        self.arrays, self.unreadable = source.arrays, source.unreadable
        self.spec = _spec_of(source, joins) if columns is None else None
        parts = (source, *(join.storage for join in joins))
        # If a part has no identity, a change of another part is still noticed.
        identities = [part.identity for part in parts]
        self.identity = json.dumps(identities) if any(text is not None for text in identities) else None
        self.has_checksums = all(part.has_checksums for part in parts)

    def _describe(self) -> None:
        """Set what depends on how the parts are loaded."""
        indices = {join.index for join in self._joins}
        self._of = {name: join for join in self._joins for name in join.columns}
        self.columns = {name: join.storage.columns[join.columns[name]] for name, join in self._of.items()} | {
            name: array
            for name, array in self._source.columns.items()
            if (name not in indices if self._requested is None else name in self._requested)
        }
        self.blocks = self._source.blocks
        self.shareable = all(part.shareable for part in (self._source, *(join.storage for join in self._joins)))

    def _check(self, join: _Join) -> None:
        """Check that each row of the source points into the table; raises the errors of the class."""
        index = self._source.columns.get(join.index)
        if index is None:
            raise SpecError(f"tables: {unknown(join.index, self._source.columns, 'column of the source')}")
        if index.is_string or index.numpy.kind not in "iu" or index.shape:
            raise SpecError(f"tables.{join.index}: the column contains {index}, not one integer per row")
        self._rows(join, np.arange(len(self._source)))

    def _rows(self, join: _Join, rows: NDArray[np.int64]) -> NDArray[np.int64]:
        """The rows of the table that these rows of the source point to."""
        pointers = self._source.read(rows, [join.index])[join.index]
        assert isinstance(pointers, np.ndarray)
        return self._inside(join, rows, pointers)

    @staticmethod
    def _inside(join: _Join, rows: NDArray[np.int64], pointers: NDArray[Any]) -> NDArray[np.int64]:
        length = len(join.storage)
        if (wrong := (pointers < 0) | (pointers >= length)).any():
            row, theirs = rows[wrong][0], pointers[wrong][0]
            raise SpecError(
                f"tables.{join.index}: row {row} of the source points to row {theirs} of a table of {length} rows"
            )
        return pointers.astype(np.int64)

    def __len__(self) -> int:
        return len(self._source)

    def read(self, rows: NDArray[np.int64], columns: Sequence[str]) -> Columns:
        own = [name for name in columns if name not in self._of]
        joins = [join for join in self._joins if not join.columns.keys().isdisjoint(columns)]
        source = self._source.read(rows, list(dict.fromkeys([*own, *(join.index for join in joins)])))
        result = {name: source[name] for name in own}
        for join in joins:
            names = [name for name in columns if name in join.columns]
            pointers = source[join.index]
            assert isinstance(pointers, np.ndarray)
            read = join.storage.read(self._inside(join, rows, pointers), [join.columns[name] for name in names])
            result |= {name: read[join.columns[name]] for name in names}
        return result

    def read_row(self, row: int, columns: Sequence[str]) -> Mapping[str, NDArray[Any]]:
        own = [name for name in columns if name not in self._of]
        result = dict(self._source.read_row(row, own)) if own else {}
        for join in self._joins:
            if names := [name for name in columns if name in join.columns]:
                pointer = self._source.read_row(row, [join.index])[join.index]
                theirs = int(self._inside(join, np.array([row]), pointer.reshape(1))[0])
                values = join.storage.read_row(theirs, [join.columns[name] for name in names])
                result |= {name: values[join.columns[name]] for name in names}
        return result

    def shapes(self, column: str) -> NDArray[np.int64] | None:
        join = self._of.get(column)
        if join is None:
            return self._source.shapes(column)
        shapes = join.storage.shapes(join.columns[column])
        return None if shapes is None else shapes[self._rows(join, np.arange(len(self)))]

    def loaded(self, columns: Sequence[str]) -> Storage:
        own = [name for name in columns if name not in self._of]
        self._source = self._source.loaded([*own, *(join.index for join in self._joins if join.index not in own)])
        self._joins = [
            replace(join, columns=used, storage=join.storage.loaded(list(used.values())))
            for join in self._joins
            if (used := {name: theirs for name, theirs in join.columns.items() if name in columns})
        ]
        self._describe()
        return self

    def close(self) -> None:
        for part in (self._source, *(join.storage for join in self._joins)):
            part.close()


def _spec_of(source: Storage, joins: Sequence[_Join]) -> str | None:
    """The joined dataset's spec as JSON, from the specs that are embedded in the source and in the tables.

    It is the source's spec without index columns, and the columns of the tables with the roles of the tables' specs.
    It is None if neither the source nor a table contains a spec. If an embedded spec is not valid, that spec is
    returned unchanged, and the caller rejects it.

    Raises:
        SpecError: two columns have the same name.
    """
    embedded: dict[str | None, dict[str, Any]] = {}
    for part in (source, *(join.storage for join in joins)):
        try:
            embedded[part.spec] = _embedded(part)
        except SpecError:
            return part.spec
    if not any(embedded):
        return None
    own = embedded[source.spec] if source.spec is not None else _embedded(source)
    indices = {join.index for join in joins}
    remaining = {name: array for name, array in own["columns"].items() if (array.stored_as or name) not in indices}
    joined: dict[str, Array] = {}
    X: list[str] = []
    for join in joins:
        table = embedded[join.storage.spec] if join.storage.spec is not None else _embedded(join.storage)
        names = {array.stored_as or name: name for name, array in table["columns"].items()}
        for name, theirs in join.columns.items():
            array = table["columns"].get(names.get(theirs), join.storage.columns[theirs])
            joined[name] = array.model_copy(update={"stored_as": None})
            X += [name] if names.get(theirs) in table["X"] else []
    if repeated := sorted(joined.keys() & remaining.keys()):
        raise SpecError(
            f"the source and a table both have a column {quoted(repeated[0])}; rename the table's in `columns`"
        )
    X += [name for name in own["X"] if name in remaining]
    y = [name for name in own["y"] if name in remaining]
    spec_dict = {
        **own,
        "columns": joined | remaining,
        "X": _role(X),
        "y": _role(y),
        "meta": [name for name in (*joined, *own["meta"]) if name in {**joined, **remaining} and name not in (*X, *y)],
    }
    spec_dict.pop("fingerprint", None)
    if isinstance(spec_dict.get("collate"), dict):
        spec_dict["collate"] = {name: form for name, form in spec_dict["collate"].items() if name in remaining}
    spec = DatasetSpec.parse({key: value for key, value in spec_dict.items() if value is not None})
    return json.dumps(spec.to_mapping())


def _role(names: list[str]) -> str | list[str] | None:
    return names[0] if len(names) == 1 else names or None


def _embedded(storage: Storage) -> dict[str, Any]:
    """The spec of the source or of a table as a mapping, in which all roles are sequences.

    Without an embedded spec, it has the columns and the splits of the store, and the roles that their names say.
    """
    if storage.spec is not None:
        spec = DatasetSpec.parse(config.parse(storage.spec.encode(), ".json") | STORAGE)
    else:
        X, y = named_X(storage.columns), named_y(storage.columns)
        parts = {"columns": dict(storage.columns), "X": X, "y": y, "splits": stored_splits(storage.arrays)}
        spec = DatasetSpec.parse({key: part for key, part in parts.items() if part is not None} | STORAGE)
    roles = {"X": spec.X_names, "y": spec.y_names, "meta": spec.meta}
    return {**spec.to_mapping(), "columns": dict(spec.columns or {}), **roles}
