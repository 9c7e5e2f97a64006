"""An open thin table and the open tables that its rows refer to."""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from itertools import chain, pairwise
from typing import Any

import numpy as np
from numpy.typing import NDArray

from kinoml_data.columns import Columns, Ragged
from kinoml_data.contracts.backend import Storage
from kinoml_data.errors import SpecError, UnsupportedStoreError, error_prefix, quoted, unknown
from kinoml_data.spec.array import Array

IDS_PER_READ = 1 << 16  # they are Python objects while they are looked up


@dataclass(frozen=True)
class Join:
    """An open table, its column of ids, the column of the source that refers to it, and the joined columns."""

    index: str
    key: str | None
    storage: Storage
    columns: Mapping[str, str]


class JoinedStorage(Storage):
    """An open source and its open tables. See `Joined`.

    Args:
        source: the source.
        joins: the tables.
        own: the columns of the source that are asked for; None for all but those of row numbers.

    Raises:
        SpecError: a column of ids or row numbers is missing, does not contain one integer or text per row, or contains
            one that is not in the table; a table contains an id twice; or two columns share a name.
    """

    def __init__(self, source: Storage, joins: Sequence[Join], own: Iterable[str] | None) -> None:
        self._source, self._joins = source, list(joins)
        self._length = len(source)
        self._rows: Mapping[str, NDArray[Any]] = {}  # for each row of the source the row of a table
        for join in joins:
            with error_prefix(f"tables.{join.index}: "):
                check_stored(join.index, source, "column of the source")
                if repeated := sorted(join.columns.keys() & source.columns.keys()):
                    raise SpecError(
                        f"the source and the table both have a column {quoted(repeated[0])}; rename the table's in "
                        "`columns`"
                    )
                self._rows = {**self._rows, join.index: _rows_of_table(source, join)}
        numbers = {join.index for join in joins if join.key is None}
        self._own = [name for name in source.columns if (name not in numbers if own is None else name in own)]
        self.arrays, self.unreadable = source.arrays, source.unreadable
        self._describe()

    @property
    def _parts(self) -> tuple[Storage, ...]:
        return self._source, *(join.storage for join in self._joins)

    def _describe(self) -> None:
        """Set what depends on how the parts are loaded."""
        self._of = {name: join for join in self._joins for name in join.columns}
        places = {name: (join.storage, join.columns[name]) for name, join in self._of.items()}
        places |= {name: (self._source, name) for name in self._own}
        self.columns = {name: storage.columns[stored] for name, (storage, stored) in places.items()}
        self.devices = {
            n: storage.devices[stored] for n, (storage, stored) in places.items() if stored in storage.devices
        }
        self.blocks = self._source.blocks if self._own else None
        parts = self._parts
        # If a part has no identity, a change of another part is still noticed.
        identities = [part.identity for part in parts]
        self.identity = json.dumps(identities) if any(text is not None for text in identities) else None
        self.has_checksums = all(part.has_checksums for part in parts)
        self.shareable = all(part.shareable for part in parts)
        # By the table, and by the array of its own keys, which is kept so that no other array has its id.
        self._composed: dict[tuple[str, int], tuple[NDArray[Any], NDArray[Any]]] = {}

    def __len__(self) -> int:
        return self._length

    def read(self, rows: NDArray[np.int64], columns: Sequence[str]) -> Columns:
        own = [name for name in columns if name not in self._of]
        result = dict(self._source.read(rows, own)) if own else {}
        for join in self._joins:
            if names := [name for name in columns if name in join.columns]:
                theirs = self._rows[join.index].take(rows).astype(np.int64)
                read = join.storage.read(theirs, [join.columns[name] for name in names])
                result |= {name: read[join.columns[name]] for name in names}
        return result

    def read_row(self, row: int, columns: Sequence[str]) -> Mapping[str, NDArray[Any]]:
        own = [name for name in columns if name not in self._of]
        result = dict(self._source.read_row(row, own)) if own else {}
        for join in self._joins:
            if names := [name for name in columns if name in join.columns]:
                theirs = int(self._rows[join.index][row])
                values = join.storage.read_row(theirs, [join.columns[name] for name in names])
                result |= {name: values[join.columns[name]] for name in names}
        return result

    def shapes(self, column: str) -> NDArray[np.int64] | None:
        if (join := self._of.get(column)) is None:
            return self._source.shapes(column)
        shapes = join.storage.shapes(join.columns[column])
        return None if shapes is None else shapes.take(self._rows[join.index], axis=0)

    def keys(self, column: str) -> NDArray[Any] | None:
        if (join := self._of.get(column)) is None:
            return self._source.keys(column)
        rows, theirs = self._rows[join.index], join.storage.keys(join.columns[column])
        if theirs is None:
            return rows
        place = join.index, id(theirs)  # columns that share one array in the table share one array here
        if place not in self._composed:
            self._composed[place] = theirs, theirs.take(rows)
        return self._composed[place][1]

    def computations(self, rows: NDArray[np.int64], columns: Sequence[str]) -> Iterator[Any]:
        """What has to be computed for some rows of some columns; see `Storage.computations`."""
        own = [name for name in columns if name not in self._of]
        asked = [(self._source, rows, own)]
        for join in self._joins:
            theirs = np.unique(self._rows[join.index].take(rows)).astype(np.int64)
            asked.append((join.storage, theirs, [join.columns[name] for name in columns if name in join.columns]))
        for storage, wanted, names in asked:
            if names:
                yield from storage.computations(wanted, names)

    def row_arrays(self) -> Mapping[str, NDArray[Any]]:
        arrays = {f".{index}": rows for index, rows in self._rows.items()}
        for number, part in enumerate(self._parts):
            arrays |= {f"{number}.{name}": array for name, array in part.row_arrays().items()}
        return arrays

    def share_row_arrays(self, arrays: Mapping[str, NDArray[Any]]) -> None:
        self._rows = {index: arrays[f".{index}"] for index in self._rows}
        for number, part in enumerate(self._parts):
            part.share_row_arrays({name: arrays[f"{number}.{name}"] for name in part.row_arrays()})

    def loaded(self, columns: Sequence[str]) -> Storage:
        self._own = [name for name in self._own if name in columns]
        self._source = self._source.loaded(self._own) if self._own else self._source
        joins, self._joins = self._joins, []
        for join in joins:
            if used := {name: theirs for name, theirs in join.columns.items() if name in columns}:
                storage = join.storage.loaded(list(used.values()))
                self._joins.append(replace(join, columns=used, storage=storage))
            else:
                join.storage.close()
        self._rows = {join.index: self._rows[join.index] for join in self._joins}
        self._describe()
        return self

    def facts(self) -> Sequence[tuple[str, str]]:
        return [fact for part in self._parts for fact in part.facts()]

    def close(self) -> None:
        for part in self._parts:
            part.close()


def _rows_of_table(source: Storage, join: Join) -> NDArray[Any]:
    """For each row of the source, the row of the table that it refers to, in the smallest unsigned integers that fit.

    Raises:
        SpecError: a column of ids or row numbers does not contain one integer or text per row, the two are of different
            kinds, a table contains an id twice, or the source contains one that is not in the table.
    """
    index, key, table = join.index, join.key, join.storage
    row_of: dict[int | bytes, int] = {}
    numbers = range(len(table))
    if key is not None:
        for row, value in enumerate(chain.from_iterable(_ids(table, key))):
            if (first := row_of.setdefault(value, row)) != row:
                raise SpecError(f"rows {first} and {row} of the table have the same id, {_shown(value)}")
    expected = Array("int64") if key is None else table.columns[key]
    result, start = np.empty(len(source), np.min_scalar_type(max(0, len(table) - 1))), 0
    for ids in _ids(source, index):
        if source.columns[index].is_string != expected.is_string:
            row_0 = f"{source.columns[index]}, such as {_shown(ids[0])} in row 0"
            what = "row numbers" if key is None else f"the ids in column {quoted(key)} of the table"
            raise SpecError(
                f"the column {quoted(index)} of the source contains {row_0}, but {what} are {expected}; in the backend "
                "csv, `dtypes` sets how ids are read"
            )
        if key is None:
            rows: list[Any] = [number if number in numbers else None for number in ids]
        else:
            rows = list(map(row_of.get, ids))
        if None in rows:
            place = rows.index(None)
            shown, row = _shown(ids[place]), start + place
            if key is None:
                raise SpecError(f"row {row} of the source points to row {shown} of a table of {len(table)} rows")
            raise SpecError(
                f"row {row} of the source has the id {shown}, which is not in column {quoted(key)} of the table"
            )
        result[start : start + len(rows)] = rows
        start += len(rows)
    return result


def _ids(storage: Storage, name: str) -> Iterator[Sequence[int | bytes]]:
    """The integers or the texts of a column, as UTF-8, many rows at a time.

    Raises:
        SpecError: the column contains something else.
    """
    array = storage.columns[name]
    if array.shape or not (array.is_string or array.numpy.kind in "iu"):
        raise SpecError(f"the column {quoted(name)} contains {array}, not one integer or text per row")
    for batch in storage.batches([name], IDS_PER_READ):
        column = batch[name]
        if isinstance(column, Ragged):
            data = column.values.tobytes()
            yield [data[start:stop] for start, stop in pairwise(column.offsets.tolist())]
        else:
            yield column.tolist()


def _shown(value: int | bytes) -> str:
    return str(value) if isinstance(value, int) else quoted(value.decode("utf-8", "replace"))


def check_stored(name: str, storage: Storage, what: str = "stored column") -> None:
    """Raise if a column cannot be read.

    Raises:
        SpecError: there is no such column.
        UnsupportedStoreError: the storage does not read it.
    """
    if name in storage.unreadable:
        raise UnsupportedStoreError(storage.unreadable[name])
    if name not in storage.columns:
        raise SpecError(unknown(name, storage.columns, what))
