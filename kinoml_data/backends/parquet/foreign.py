"""Parquet files of other programs: nested lists of numbers, and tables of numbers and strings."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence

import numpy as np
from numpy.typing import NDArray

from kinoml_data.backends.parquet.container import ParquetContainer
from kinoml_data.columns import Column
from kinoml_data.errors import quoted
from kinoml_data.layouts.arrow import (
    ArrowRows,
    column_from_arrow,
    column_of,
    dtype_of,
    infer_array,
    rows_of_chunks,
    select_columns,
)
from kinoml_data.spec.array import Array

PANDAS_INDEX = re.compile(r"__index_level_\d+__")


class ForeignTable:
    """A file of another program. It has no arrays, no spec and no checksums of rows.

    Args:
        file: the open file.
        requested: the columns that the spec asks for, None for all; they provide dtypes and axes that no row shows.

    Attributes:
        names: the columns to read. The index of a pandas table is one of them only if it is requested.

    Raises:
        SpecError: columns are requested, and none of them is stored.
        UnsupportedStoreError: a column has an Arrow type that is not supported.
    """

    def __init__(self, file: ParquetContainer, requested: Mapping[str, Array | None] | None) -> None:
        self._file, self._requested = file, requested or {}
        self._columns: dict[str, Array] = {}
        stored = [name for name in file.types if requested is not None or not PANDAS_INDEX.fullmatch(name)]
        self.names = select_columns(file.path, stored, requested)
        for name in self.names:
            dtype_of(file.types[name], self._where(name))

    def read_all(self) -> tuple[dict[str, Array], dict[str, Column]]:
        """All rows of all columns.

        Raises:
            CorruptStoreError: the file is damaged, a value is null, or the lists of a row are not rectangular.
            SpecError: no row shows the type of a column, and the spec does not specify it.
        """
        groups = [self._file.read(group, self.names) for group in range(len(self._file.groups))]
        data = {}
        for name in self.names:
            chunks = [chunk for group in groups for chunk in group.pop(name)]
            type_, where = self._file.types[name], self._where(name)
            declared = self._requested.get(name)
            self._columns[name], data[name] = column_from_arrow(name, type_, chunks, where, declared)
        return self._columns, data

    def infer_columns(self) -> dict[str, Array]:
        """Find the columns that `read` needs, by decoding every row group once. Raises the errors of `read_all`."""
        shapes: dict[str, list[NDArray[np.int64]]] = {name: [] for name in self.names}
        for group in range(len(self._file.groups)):
            for name, parts in self._rows(group, self.names).items():
                shapes[name] += [part.shapes for part in parts]
        for name in self.names:
            type_, where = self._file.types[name], self._where(name)
            self._columns[name] = infer_array(name, type_, shapes[name], where, self._requested.get(name))
        return self._columns

    def read(self, group: int, names: Sequence[str]) -> dict[str, Column]:
        """Some columns of one row group; raises the errors of `read_all`."""
        return {name: column_of(self._columns[name], parts) for name, parts in self._rows(group, names).items()}

    def _rows(self, group: int, names: Sequence[str]) -> dict[str, list[ArrowRows]]:
        first = sum(self._file.groups[:group])
        chunks = self._file.read(group, names)
        return {name: rows_of_chunks(chunks[name], self._where(name), first) for name in names}

    def _where(self, name: str) -> str:
        return f"{self._file.path}: column {quoted(name)}"
