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
    """A file that this library wrote; see `Table`. Each row group is a part.

    Args:
        file: the open file.
        requested: the columns that the spec asks for, None for all.

    Raises:
        CorruptStoreError: the footer differs from what was written.
        UnsupportedStoreError: a later version of the library wrote the file.
        SpecError: columns are requested, and none of them is stored.
    """

    has_checksums = True

    def __init__(self, file: ParquetContainer, requested: Mapping[str, Array | None] | None) -> None:
        self._file = file
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
        self.parts, self._firsts = file.groups, np.cumsum([0, *file.groups])

    def read(self, group: int, columns: Sequence[str]) -> dict[str, Column]:
        """Read some columns of one row group, and compare every row with its checksum.

        Raises:
            CorruptStoreError: a row differs from what was written; the message names the file, the column and the row.
            StoreChangedError: the file was altered or replaced after it was opened.
            StoreReadError: the operating system failed to read.
        """
        path, first = self._file.path, int(self._firsts[group])
        rows = np.arange(first, first + self._file.groups[group])
        chunks = self._file.read(group, self._layout.stored_names(columns))
        with arrow_errors(path):
            data = self._layout.read(chunks, columns, rows, str(path))
            for name in columns:
                if _checksum(chunks[name + CRC]) != self._checksums[name][group]:
                    raise CorruptStoreError(
                        f"{path}: column {quoted(name)}, rows {first} to {first + len(rows) - 1} do not match "
                        "their checksums; the file is damaged"
                    )
        return data

    def load(self, names: Sequence[str], budget: int) -> dict[str, Column] | None:
        """See `Table`; raises the errors of `read`."""
        parts: dict[str, list[Column]] = {name: [self.columns[name].empty()] for name in names}
        size = 0
        for group in range(len(self.parts)):
            for name, column in self.read(group, names).items():
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
