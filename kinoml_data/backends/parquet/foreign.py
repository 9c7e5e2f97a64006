"""Parquet files of other programs: nested lists of numbers, and tables of numbers and strings."""

from __future__ import annotations

import json
import re
from collections.abc import Mapping, Sequence

import numpy as np
from numpy.typing import NDArray

from kinoml_data.backends.parquet.container import ParquetContainer
from kinoml_data.backends.parquet.row_groups import Table
from kinoml_data.columns import Column
from kinoml_data.errors import SpecError, UnsupportedStoreError, quoted
from kinoml_data.layouts.arrow import (
    NOT_SHOWN,
    ArrowRows,
    column_of,
    infer_array,
    rows_of_chunks,
    select_columns,
    type_axes,
)
from kinoml_data.spec.array import Array

PANDAS_INDEX = re.compile(r"__index_level_\d+__")
MOST_SLICE = 32 << 20  # bytes


class ForeignTable(Table):
    """A file of another program. It has no arrays, no spec and no checksums of rows; see `Table`.

    Args:
        file: the open file.
        requested: the columns that the spec asks for, None for all; they provide dtypes and axes that no row shows.
            The index of a pandas table is a column only if it is requested.
        budget: the number of bytes that reading may take: a third for the rows that `RowGroups` remembers, a quarter
            for the readers of slices, and the rest for the slice that is decoded. A row group of more than an eighth of
            the budget, or more than 32 MiB, is decoded in slices of this size.

    Raises:
        SpecError: columns are requested, and none of them is stored; or the type of a column is not known.
        UnsupportedStoreError: a column that is requested has an Arrow type that is not supported.
    """

    def __init__(self, file: ParquetContainer, requested: Mapping[str, Array | None] | None, budget: int) -> None:
        self._file, self._requested = file, requested or {}
        self.columns: dict[str, Array] = {}
        unreadable: dict[str, str] = {}
        stored = [name for name in file.types if requested is not None or not PANDAS_INDEX.fullmatch(name)]
        for name in select_columns(file.path, stored, requested):
            try:
                if name in file.refused:
                    raise UnsupportedStoreError(f"{self._where(name)} {file.refused[name]}")
                self.columns[name] = self._undecoded(name)
            except (SpecError, UnsupportedStoreError) as error:
                if requested is not None:
                    raise
                unreadable[name] = str(error)
        self.unreadable, self.indexes = unreadable, _pandas_index(file.metadata)
        super().__init__(file, list(self.columns), min(budget // 8, MOST_SLICE), budget)

    def read(self, part: int, names: Sequence[str]) -> dict[str, Column]:
        """Some columns of one part.

        Raises:
            CorruptStoreError: the file is damaged.
            SpecError: a value is missing.
            UnsupportedStoreError: the lists of a row are not rectangular.
        """
        place = self.places[part]
        # The columns of a slice are decoded one after another, as each reader needs memory.
        together = [names] if self.is_whole(place) else [[name] for name in names]
        return {
            name: column_of(self.columns[name], rows, self._with_declared_axes(name))
            for some in together
            for name, rows in self._rows(place, some).items()
        }

    def load(self, names: Sequence[str], budget: int) -> dict[str, Column] | None:
        """See `Table`; raises the errors of `read`."""
        found: dict[str, list[ArrowRows]] = {name: [] for name in names}
        size = 0
        for group, count in enumerate(self._file.groups):
            for name, rows in self._rows((group, 0, count), names).items():
                found[name] += rows
                size += sum(r.values.nbytes + r.shapes.nbytes + 8 * len(r.shapes) for r in rows)
            if size * (2 if group else 1) > budget:  # the parts, and the whole that is made of them
                return None
        for name, rows in found.items():
            self.columns[name] = self._inferred(name, [part_rows.shapes for part_rows in rows])
        return {name: column_of(self.columns[name], found.pop(name)) for name in names}

    def settle(self, name: str) -> None:
        """See `Table`; raises the errors of `read`. A column that the spec declares needs nothing."""
        if self._requested.get(name) is None and self.columns[name].ragged:
            parts = (self._rows(place, [name])[name] for place in self.places)
            self.columns[name] = self._inferred(name, [_extremes(rows.shapes) for part in parts for rows in part])

    def _with_declared_axes(self, name: str) -> Array:
        """The column with the lengths that the spec declares for ragged axes, for rows that do not show them."""
        array, declared = self.columns[name], self._inferred(name, [])
        axes = (a if a is not None else b for a, b in zip(array.shape, declared.shape, strict=True))
        return array.model_copy(update={"shape": tuple(axes)})

    def _undecoded(self, name: str) -> Array:
        """The column as its Arrow type describes it."""
        array = self._inferred(name, [])
        axes = type_axes(self._file.types[name])
        return array if len(axes) != len(array.shape) else array.model_copy(update={"shape": axes})

    def _inferred(self, name: str, shapes: Sequence[NDArray[np.int64]]) -> Array:
        return infer_array(name, self._file.types[name], shapes, self._where(name), self._requested.get(name))

    def _rows(self, place: tuple[int, int, int], names: Sequence[str]) -> dict[str, list[ArrowRows]]:
        """The rows of some columns in a row group, from the first row to the last."""
        group, start, stop = place
        chunks = self._file.read(group, names, start, stop)
        first = int(self._firsts[group]) + start
        return {
            name: rows_of_chunks(chunks[name], self._where(name), first, self._requested.get(name)) for name in names
        }

    def _where(self, name: str) -> str:
        return f"{self._file.path}: column {quoted(name)}"


def _pandas_index(metadata: Mapping[bytes, bytes]) -> frozenset[str]:
    """The columns in which pandas stored the index of a table.

    Source: https://pandas.pydata.org/docs/development/developer.html, "Storing pandas DataFrame objects".
    """
    try:
        described = json.loads(metadata[b"pandas"])["index_columns"]
        return frozenset(name for name in described if isinstance(name, str))
    except (LookupError, TypeError, ValueError):
        return frozenset()


def _extremes(shapes: NDArray[np.int64]) -> NDArray[np.int64]:
    """Two shapes that show the same axes as fixed as all of them do: the least and the greatest length of each axis."""
    extremes = np.full((2, shapes.shape[1]), NOT_SHOWN, np.int64)
    for axis, lengths in enumerate(shapes.T):
        if len(shown := lengths[lengths != NOT_SHOWN]):
            extremes[:, axis] = shown.min(), shown.max()
    return extremes
