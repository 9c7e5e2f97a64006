"""Reading: one version of a Lance dataset as a `Storage`."""

from __future__ import annotations

import hashlib
import json
import os
import warnings
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from kinoml_data.errors import CorruptStoreError, SpecError, UnsupportedStoreError, quoted
from kinoml_data.plugin import (
    Array,
    ArrowLayout,
    Column,
    Columns,
    Ragged,
    Storage,
    arrow_array,
    arrow_column,
    select_columns,
)
from numpy.typing import NDArray

from kinoml_data_lance.dataset import FILES, ROWS, file_digest, file_names, lance_errors

_not_freed: list[Any] = []  # see `LanceStorage.__del__`


class LanceStorage(Storage):
    """One version of a Lance dataset, which stays the same if versions are added later.

    Args:
        dataset: a `lance.LanceDataset`.
        where: the folder or the uri, for errors.
        columns: the columns that the spec asks for; None for all.
        folder: the folder, if it is a local one.

    Raises:
        CorruptStoreError: this backend wrote the dataset, but the dataset is damaged, or another program changed it.
        UnsupportedStoreError: a later version of the library wrote the dataset, or the type of a column is not
            supported.
        SpecError: none of `columns` is stored.
    """

    def __init__(
        self, dataset: Any, where: str, columns: Mapping[str, Array | None] | None, *, folder: Path | None = None
    ) -> None:
        self._dataset, self._where, self._pid = dataset, where, os.getpid()
        self._length: int = dataset.count_rows()
        self._shapes: dict[str, NDArray[np.int64]] = {}
        schema, metadata = dataset.schema, dataset.schema.metadata or {}
        self.has_checksums = ArrowLayout.claims(metadata, schema.names)
        self._layout = ArrowLayout.parse(metadata, schema.names, where) if self.has_checksums else None
        stored: Sequence[str] = schema.names
        if self._layout is not None:
            self._check_files(self._layout.extra, folder)
            stored, self.arrays, self.spec = list(self._layout.columns), self._layout.arrays, self._layout.spec
        names = select_columns(where, stored, columns)
        if self._layout is not None:
            self.columns = {name: self._layout.columns[name] for name in names}
        else:
            self.columns, self.unreadable = self._columns(schema, names, columns)
            warnings.warn(f"{where} has no checksums of its rows: its integrity is unknown", stacklevel=3)
        self._declared = {name: array for name, array in (columns or {}).items() if name in self.columns}
        state = [dataset.version, [(field.name, str(field.type)) for field in schema]]
        state += [sorted((repr(key), repr(value)) for key, value in metadata.items())]
        state += [fragment.metadata.to_json() for fragment in dataset.get_fragments()]
        self.identity = hashlib.blake2b(json.dumps(state, sort_keys=True).encode(), digest_size=16).hexdigest()

    def _columns(
        self, schema: Any, names: Sequence[str], requested: Mapping[str, Array | None] | None
    ) -> tuple[dict[str, Array], dict[str, str]]:
        """The columns of another program, and if none is requested, why others cannot be read."""
        found, unreadable = {}, {}
        for name in names:
            try:
                declared = None if requested is None else requested[name]
                found[name] = arrow_array(schema.field(name).type, self._column(name), declared)
            except UnsupportedStoreError as error:
                if requested is not None:
                    raise
                unreadable[name] = str(error)
        return found, unreadable

    def _check_files(self, extra: Mapping[str, str], folder: Path | None) -> None:
        if int(extra[ROWS]) != self._length:
            raise CorruptStoreError(
                f"{self._where} has {self._length} rows, but {extra[ROWS]} were written; the dataset is damaged, "
                "or another program changed it"
            )
        digests = json.loads(extra[FILES])
        for name in file_names(self._dataset) if folder is not None else ():
            # A file that Lance has rewritten, as when it joins small files, is not among them.
            if folder is not None and name in digests:
                path = folder / "data" / name
                if file_digest(path, digests[name][0]) != digests[name]:
                    raise CorruptStoreError(f"{path} differs from what was written; the file is damaged")

    def __len__(self) -> int:
        return self._length

    def read(self, rows: NDArray[np.int64], columns: Sequence[str]) -> Columns:
        try:
            return self._read(rows, columns)
        except (CorruptStoreError, SpecError, UnsupportedStoreError) as error:
            if "CRC-32" not in str(error):  # an error about a checksum names its row; for others, find the row
                for row in rows if len(rows) > 1 else ():
                    self._read(np.array([row]), columns)
            raise

    def _read(self, rows: NDArray[np.int64], columns: Sequence[str]) -> Columns:
        if not columns:
            return {}
        where = self._where if len(rows) != 1 else f"{self._where}, row {rows[0]}"
        first = int(rows[0]) if len(rows) else 0
        with lance_errors(f"{where}: cannot read the rows"):
            stored = self._layout.stored_names(columns) if self._layout is not None else list(columns)
            table = self._dataset.take(rows, columns=stored)
            table.validate(full=True)  # finds offsets outside of the values
            if len(table) != len(rows):
                raise CorruptStoreError(f"{where}: Lance returned {len(table)} rows instead of {len(rows)}")
            chunks = {name: table.column(name).chunks for name in stored}
            if self._layout is not None:
                data: Mapping[str, Column] = self._layout.read(chunks, columns, rows, self._where)
            else:
                data = {
                    name: arrow_column(
                        self.columns[name], chunks[name], self._column(name), first, self._declared.get(name)
                    )
                    for name in columns
                }
        return {name: _writable(column) for name, column in data.items()}

    def shapes(self, column: str) -> NDArray[np.int64] | None:
        if self._layout is None or not self.columns[column].ragged:
            return None
        if column not in self._shapes:
            where, stored = self._column(column), self._layout.stored_names([column])[1]
            with lance_errors(f"{where}: cannot read the shapes"):
                table = self._dataset.to_table(columns=[stored])
                self._shapes[column] = self._layout.shapes(column, table.column(stored).chunks, where)
        return self._shapes[column]

    def close(self) -> None:
        self._dataset = None

    def _column(self, name: str) -> str:
        return f"{self._where}: column {quoted(name)}"

    def __del__(self, getpid: Callable[[], int] = os.getpid, not_freed: list[Any] = _not_freed) -> None:
        # These are arguments because module globals may be gone before the last storage when Python exits.
        if getattr(self, "_pid", None) not in (None, getpid()):
            not_freed.append(self._dataset)  # freeing a dataset in a forked process may hang in Lance


def _writable(column: Column) -> Column:
    if isinstance(column, Ragged):
        return Ragged(_own(column.values), _own(column.shapes))
    return _own(column)


def _own(array: NDArray[Any]) -> NDArray[Any]:
    return array if array.flags.writeable else array.copy()  # memory of Arrow must not be modified
