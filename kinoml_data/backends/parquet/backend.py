"""`parquet-awkward`: a Parquet file, decoded once into memory, or by row group if it is too large for that.

It reads KinoML's files, tables of other programs, and the files that it writes; see `layout.py`.
"""

from __future__ import annotations

import warnings
from collections.abc import Callable, Iterable, Mapping
from typing import TYPE_CHECKING, Any

from numpy.typing import NDArray
from pydantic import Field

from kinoml_data.columns import Columns, concatenate
from kinoml_data.contracts.backend import Backend, DataPath, Storage
from kinoml_data.files import replacing
from kinoml_data.layouts.flat_arrays import flatten
from kinoml_data.layouts.memory_storage import MemoryStorage
from kinoml_data.spec.array import Array

if TYPE_CHECKING:
    from kinoml_data.backends.parquet.container import ParquetContainer


class ParquetAwkward(Backend):
    """Columns in a Parquet file.

    Attributes:
        path: the file.
        memory_budget: a number of bytes. A file that takes more when decoded is read by row group, and decoded row
            groups are remembered up to this size.
    """

    name = "parquet-awkward"
    suffixes = (".parquet", ".pq")
    can_write = True
    unsupported_dtypes = ("complex64", "complex128")
    path: DataPath
    memory_budget: int = Field(8 << 30, ge=0)

    def open(self, columns: Mapping[str, Array | None] | None) -> Storage:
        """Open the file for reading; see `Backend.open`.

        Raises:
            StoreNotFoundError: there is no such regular file.
            CorruptStoreError: the file is damaged, or contains a null.
            UnsafeStoreError: the file names an Arrow extension type, or needs unbounded memory.
            UnsupportedStoreError: the file is encrypted, or has a type that is not supported.
            StoreReadError: the operating system failed to read.
            SpecError: no row shows the type of a column, or none of `columns` is in the file.
        """
        storage = self._open(columns)
        if not storage.has_checksums:
            warnings.warn(f"{self.path} has no checksums of its rows: its integrity is unknown", stacklevel=2)
        if not isinstance(storage, MemoryStorage):
            warnings.warn(
                f"{self.path} is larger than its memory_budget of {self.memory_budget} bytes when decoded. Its row "
                "groups are decoded as rows are read, which is slow for shuffled rows. Convert the file to npz-lazy, "
                "or raise the budget.",
                stacklevel=2,
            )
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
                with self.model_copy(update={"path": temporary, "memory_budget": 0})._open(None) as storage:
                    check(storage)

    def _open(self, columns: Mapping[str, Array | None] | None) -> Storage:
        from kinoml_data.backends.parquet.container import ParquetContainer
        from kinoml_data.layouts.arrow import arrow_errors
        from kinoml_data.layouts.arrow_rows import ArrowLayout

        file = ParquetContainer(self.path)
        storage: Storage | None = None
        try:
            with arrow_errors(self.path):
                own = ArrowLayout.claims(file.metadata, file.types)
                storage = (_open_own if own else _open_foreign)(file, columns, self.memory_budget)
                storage.has_checksums = own
                return storage
        finally:
            if storage is None or isinstance(storage, MemoryStorage):
                file.close()


def _open_own(file: ParquetContainer, requested: Mapping[str, Array | None] | None, budget: int) -> Storage:
    from kinoml_data.backends.parquet.layout import ParquetTable
    from kinoml_data.backends.parquet.row_groups import RowGroups
    from kinoml_data.layouts.arrow import select_columns

    table = ParquetTable(file)
    columns = {name: table.columns[name] for name in select_columns(file.path, list(table.columns), requested)}
    if file.decoded_size(columns) > budget:
        return RowGroups(file, table.read, columns, budget=budget, arrays=table.arrays, spec=table.spec)
    groups = [table.read(group, list(columns)) for group in range(len(file.groups))]
    data = {
        name: concatenate([array.empty(), *(group.pop(name) for group in groups)]) for name, array in columns.items()
    }
    return MemoryStorage(flatten(columns, data), arrays=table.arrays, spec=table.spec, identity=file.identity)


def _open_foreign(file: ParquetContainer, requested: Mapping[str, Array | None] | None, budget: int) -> Storage:
    from kinoml_data.backends.parquet.foreign import ForeignTable
    from kinoml_data.backends.parquet.row_groups import RowGroups

    table = ForeignTable(file, requested)
    if file.decoded_size(table.names) > budget:
        return RowGroups(file, table.read, table.infer_columns(), budget=budget)
    return MemoryStorage(flatten(*table.read_all()), identity=file.identity)
