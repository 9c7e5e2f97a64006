"""`joined`: a thin table whose rows refer to rows of other tables, so that values that rows share are stored once."""

from __future__ import annotations

from collections.abc import Mapping
from contextlib import ExitStack
from typing import Any

from pydantic import Field

from kinoml_data.backends.joined.embedded_spec import embedded_spec
from kinoml_data.backends.joined.storage import Join, JoinedStorage, check_stored
from kinoml_data.contracts.backend import AnyBackend, Backend, Storage
from kinoml_data.errors import SpecError, error_prefix, quoted
from kinoml_data.layouts.checksums import table_digest
from kinoml_data.spec.array import Array, Model


class Table(Model):
    """A table that the rows of another table refer to.

    Attributes:
        source: the backend that stores the table.
        columns: the columns to join: `{name in the dataset: name in the table}`.
        key: the table's column of ids, integers or texts that differ from each other; without it, rows are referred to
            by their numbers, counted from 0.
        digest: the `current_digest` of the table that is expected; required without `key`.
    """

    source: AnyBackend
    columns: dict[str, str] = Field(min_length=1)
    key: str | None = None
    digest: str | None = None

    @property
    def _names(self) -> list[str]:
        """The joined columns and the ids, by their names in the table."""
        return list(dict.fromkeys([*self.columns.values(), *([] if self.key is None else [self.key])]))

    def open(self, columns: Mapping[str, Array | None] | None) -> Storage:
        """Open the table, together with its ids; see `Backend.open`.

        Raises:
            SpecError: a column is not in the table, the table has another digest, or neither `key` nor `digest` is set.
        """
        requested = columns if columns is None or self.key is None else {self.key: None, **columns}
        with ExitStack() as opened:
            storage = opened.enter_context(self.source.open(requested))
            for name in self._names if requested is None else requested:
                check_stored(name, storage)
            # A change of the table after it was opened is noticed when it is read, and an earlier one by its digest.
            if self.digest is not None or self.key is None:
                digest = self.current_digest(columns or {})
                if self.digest is None:
                    raise SpecError(
                        "rows that are joined by their numbers would get other values if the table changed; name its "
                        f'column of ids in `key`, or write `digest: "{digest}"`, which is the digest of the table now'
                    )
                if self.digest != digest:
                    raise SpecError(
                        f"the table is not the one whose digest is {quoted(self.digest)}: its rows have changed; if "
                        f'that is right, write `digest: "{digest}"`'
                    )
            opened.pop_all()
            return storage

    def current_digest(self, columns: Mapping[str, Array | None] | None = None) -> str:
        """The digest of the joined columns and the ids, all rows of which are read for it; see `table_digest`.

        Args:
            columns: how a spec declares some of the columns. Only `missing` matters, because the digest is that of the
                values as they are stored.
        """
        names, declared = self._names, columns or {}
        with self.source.open({name: _as_stored(declared.get(name)) for name in names}) as storage:
            for name in names:
                check_stored(name, storage)
            return table_digest(storage.batches(names), {n: storage.columns[n].is_string for n in names})


def _as_stored(declared: Array | None) -> Array | None:
    if declared is None or declared.missing is None:
        return None
    return Array("float64", declared.shape, missing="nan") if declared.fills_numbers else declared.as_stored


class Joined(Backend):
    """The columns of a source, and for each row of the source one row of every table.

    Attributes:
        source: the thin table, such as one row per measurement.
        tables: the tables, each by the name of the column of the source that contains its ids or its row numbers.
    """

    name = "joined"
    source: AnyBackend
    tables: dict[str, Table] = Field(min_length=1)

    def model_post_init(self, context: Any) -> None:
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
                if used:
                    requested = None if columns is None else {theirs: columns[name] for name, theirs in used.items()}
                    with error_prefix(f"tables.{index}: "):
                        storage = opened.enter_context(table.open(requested))
                    joins.append(Join(index, table.key, storage, used))
            joined = {name for join in joins for name in join.columns}
            own = None if columns is None else {name: a for name, a in columns.items() if name not in joined}
            indices = {join.index: None for join in joins}
            source = opened.enter_context(self.source.open(None if own is None else {**indices, **own}))
            storage = JoinedStorage(source, joins, own)
            storage.spec = embedded_spec(source, joins) if columns is None else None
            opened.pop_all()
            return storage
