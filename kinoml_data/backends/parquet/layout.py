"""The library's own Parquet files: the tables of `layouts/arrow_rows.py`, each a row group.

The metadata has one more key, `kinoml_data.row_groups`: JSON, `{column: [the CRC-32 of the row checksums of each row
group, as little-endian uint32]}`. The 16 bytes in front of the footer are its BLAKE2b, because a damaged footer can end
the process in Arrow. So the footer is covered by its digest, the row checksums are covered by the footer, and the rows
by their checksums. The page checksums of Parquet are written too.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from kinoml_data.backends.parquet.container import ParquetContainer, seal
from kinoml_data.backends.parquet.row_groups import Table, held
from kinoml_data.columns import Column, Columns, concatenate
from kinoml_data.errors import CorruptStoreError, quoted
from kinoml_data.layouts.arrow import arrow_errors, select_columns
from kinoml_data.layouts.arrow_rows import CRC, ArrowLayout
from kinoml_data.layouts.checksums import zlib
from kinoml_data.spec.array import Array

ROW_GROUPS = "row_groups"


class ParquetTable(Table):
    """A file that this library wrote; see `Table`.

    Args:
        file: the open file.
        requested: the columns that the spec asks for, None for all.
        budget: the number of bytes that reading may take. A row group of more than an eighth of it is decoded in
            slices.

    Raises:
        CorruptStoreError: the footer differs from what was written.
        UnsupportedStoreError: a later version of the library wrote the file.
        SpecError: columns are requested, and none of them is stored.
    """

    has_checksums = True

    def __init__(self, file: ParquetContainer, requested: Mapping[str, Array | None] | None, budget: int) -> None:
        self._layout = ArrowLayout.parse(file.metadata, file.types, str(file.path))
        if not file.sealed:
            raise CorruptStoreError(
                f"{file.path}: its footer differs from what was written; the file is damaged, or another program "
                "rewrote it"
            )
        self._checksums: Mapping[str, list[int]] = json.loads(self._layout.extra[ROW_GROUPS])
        names = select_columns(file.path, list(self._layout.columns), requested)
        self.columns = {name: self._layout.columns[name] for name in names}
        self.arrays, self.spec = self._layout.arrays, self._layout.spec
        self._compared: dict[tuple[int, str], Any] = {}  # the row checksums of the latest row group, by group and name
        super().__init__(file, self._layout.stored_names(names), budget // 8, budget)

    def read(self, part: int, columns: Sequence[str]) -> dict[str, Column]:
        """Read some columns of one part, and compare every row with its checksum.

        Raises:
            CorruptStoreError: a row differs from what was written; the message names the file, the column and the row.
            StoreChangedError: the file was altered or replaced after it was opened.
            StoreReadError: the operating system failed to read.
        """
        return self._read(self.places[part], columns)

    def _read(self, place: tuple[int, int, int], columns: Sequence[str]) -> dict[str, Column]:
        group, start, stop = place
        first = int(self._firsts[group])
        with arrow_errors(self._file.path):
            whole = self.is_whole(place)
            if whole:
                chunks = self._file.read(group, self._layout.stored_names(columns))
            else:  # one column after another, as each reader needs memory
                chunks = {name + CRC: self._row_checksums(group, name)[start:stop].chunks for name in columns}
                for name in columns:
                    stored_names = [part for part in self._layout.stored_names([name]) if part not in chunks]
                    chunks |= self._file.read(group, stored_names, start, stop)
            data = self._layout.read(chunks, columns, np.arange(first + start, first + stop), str(self._file.path))
            if whole:
                self._compare(group, {name: chunks[name + CRC] for name in columns})
            return data

    def _row_checksums(self, group: int, name: str) -> Any:
        """The checksums of all rows of a row group."""
        if (group, name) not in self._compared:
            chunks = self._file.read(group, [name + CRC])[name + CRC]
            self._compare(group, {name: chunks})
            self._compared = {key: value for key, value in self._compared.items() if key[0] == group}
            self._compared[group, name] = pa.chunked_array(chunks)
        return self._compared[group, name]

    def _compare(self, group: int, row_checksums: Mapping[str, Sequence[Any]]) -> None:
        for name, chunks in row_checksums.items():
            if _checksum(chunks) != self._checksums[name][group]:
                first, last = self._firsts[group], self._firsts[group + 1] - 1
                raise CorruptStoreError(
                    f"{self._file.path}: column {quoted(name)}, rows {first} to {last} do not match their checksums; "
                    "the file is damaged"
                )

    def load(self, names: Sequence[str], budget: int) -> dict[str, Column] | None:
        """See `Table`; raises the errors of `read`."""
        parts: dict[str, list[Column]] = {name: [self.columns[name].empty()] for name in names}
        size = 0
        for group, rows in enumerate(self._file.groups):
            for name, column in self._read((group, 0, rows), names).items():
                parts[name].append(column)
                size += held(column)
            if size * (2 if group else 1) > budget:  # the parts, and the whole that is made of them
                return None
        return {name: concatenate(parts.pop(name)) for name in names}


def write_table(path: Path, layout: ArrowLayout, batches: Iterable[Columns]) -> None:
    """Write the rows of `batches` to a new file.

    Raises:
        UnsupportedStoreError: Arrow has no type for a dtype, or the arrays and the spec are too large.
        SpecError: a batch does not match the layout.
    """
    schema = layout.schema()
    checksums: dict[str, list[int]] = {name: [] for name in layout.columns}
    strings = [name for name, array in layout.columns.items() if array.is_string]
    with pq.ParquetWriter(path, schema, compression="zstd", use_dictionary=strings, write_page_checksum=True) as writer:
        for table in layout.tables(batches):
            writer.write_table(table, row_group_size=len(table))
            for name in checksums:
                checksums[name].append(_checksum(table.column(name + CRC).chunks))
        writer.add_key_value_metadata(layout.metadata({ROW_GROUPS: json.dumps(checksums)}))
    seal(path)


def _checksum(chunks: Sequence[Any]) -> int:
    checksum = 0
    for chunk in chunks:
        checksum = zlib.crc32(chunk.to_numpy().astype("<u4", copy=False), checksum)
    return checksum
