"""`parquet-awkward`: a Parquet file, whose columns are decoded when they are needed.

It reads KinoML's files, tables of other programs, and the files that it writes; see `layout.py`.
"""

from __future__ import annotations

import warnings
from collections.abc import Callable, Iterable, Mapping
from typing import Any

from numpy.typing import NDArray
from pydantic import Field

from kinoml_data.columns import Columns
from kinoml_data.contracts.backend import Backend, DataPath, Storage
from kinoml_data.files import replacing
from kinoml_data.memory import available_memory
from kinoml_data.spec.array import Array


class ParquetAwkward(Backend):
    """Columns in a Parquet file.

    Attributes:
        path: the file; or a folder or a pattern such as `parts/*.parquet` of files with the same columns, whose rows
            follow one another in the order of the names of the files.
        memory_budget: the number of bytes that reading may take; by default, three quarters of the memory that is
            available when the file is opened. The columns of a dataset are kept in memory if they take at most half of
            it when they are decoded. Otherwise they are read by row group, or by slices of a row group that takes more
            than an eighth of it (or than 32 MiB, in files of other programs), and the decoded rows are remembered up to
            a third of it.
    """

    name = "parquet-awkward"
    suffixes = (".parquet", ".pq")
    can_write = True
    unsupported_dtypes = ("complex64", "complex128")
    path: DataPath
    memory_budget: int | None = Field(None, ge=0)

    def open(self, columns: Mapping[str, Array | None] | None) -> Storage:
        """Open the file for reading; see `Backend.open`.

        Raises:
            StoreNotFoundError: the file does not exist or is not a regular file.
            CorruptStoreError: the file is damaged.
            UnsafeStoreError: the footer has more than 64 MiB, or a row group takes more than 64 GiB.
            UnsupportedStoreError: the file is encrypted, or a column that is asked for has a type that is not
                supported.
            StoreReadError: the operating system failed to read, or there is too little memory.
            SpecError: the file does not show the type of a column, or none of `columns` is in the file.
        """
        storage = self._open(columns)
        if not storage.has_checksums:
            warnings.warn(f"{self.path} has no checksums of its rows: its integrity is unknown", stacklevel=2)
        return storage

    def write(
        self,
        columns: Mapping[str, Array],
        batches: Iterable[Columns],
        *,
        arrays: Mapping[str, NDArray[Any]] | None = None,
        spec: str | None = None,
        overwrite: bool = False,
        check: Callable[[Storage], object] | None = None,
    ) -> None:
        """Write a new file; see `Backend.write`.

        Raises:
            StoreExistsError: the file exists and `overwrite` is False.
            StoreWriteError: the operating system failed to write; the old file is unchanged.
            UnsupportedStoreError: a dtype is not supported, or the arrays and the spec are too large.
            SpecError: the name of a column is not valid, or a batch does not match `columns`.
        """
        from kinoml_data.backends.parquet.layout import write_table
        from kinoml_data.layouts.arrow_rows import ArrowLayout

        layout = ArrowLayout(columns, arrays or {}, spec)
        layout.schema(), layout.metadata()  # raises before a file is created if something cannot be stored
        with replacing(self.path, overwrite=overwrite) as temporary:
            write_table(temporary, layout, batches)
            if check is not None:
                with self.model_copy(update={"path": temporary})._open(None) as storage:
                    check(storage)

    def _open(self, columns: Mapping[str, Array | None] | None) -> Storage:
        from kinoml_data.backends.parquet.container import ParquetContainer
        from kinoml_data.backends.parquet.foreign import ForeignTable
        from kinoml_data.backends.parquet.layout import ParquetTable
        from kinoml_data.backends.parquet.parts import ParquetParts, part_paths
        from kinoml_data.backends.parquet.row_groups import RowGroups, Table
        from kinoml_data.layouts.arrow import arrow_errors
        from kinoml_data.layouts.arrow_rows import ArrowLayout

        budget = available_memory() * 3 // 4 if self.memory_budget is None else self.memory_budget
        parts = part_paths(self.path)
        file = ParquetContainer(self.path) if parts is None else ParquetParts(self.path, parts)
        try:
            with arrow_errors(self.path):
                own = ArrowLayout.claims(file.metadata, file.types)
                table: Table = ParquetTable(file, columns, budget) if own else ForeignTable(file, columns, budget)
                return RowGroups(file, table, list(table.columns), budget=budget)
        except BaseException:
            file.close()
            raise
