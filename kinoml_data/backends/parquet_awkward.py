"""`parquet-awkward`: a Parquet file, decoded once into memory.

It reads KinoML's files, tables of any origin and the layout that it writes, see `parquet_layout.py`.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from typing import TYPE_CHECKING, Any

from numpy.typing import NDArray

from kinoml_data.backend import Backend, DataPath, Storage
from kinoml_data.backends.arrays import MemoryStorage, flatten
from kinoml_data.columns import Columns, concatenate
from kinoml_data.errors import CorruptStoreError, StoreWriteError, quoted
from kinoml_data.files import replacing
from kinoml_data.spec import Array

if TYPE_CHECKING:
    from kinoml_data.backends.parquet import ParquetContainer
    from kinoml_data.backends.parquet_layout import Layout

PANDAS_INDEX = re.compile(r"__index_level_\d+__")


class ParquetAwkward(Backend):
    """Columns in a Parquet file, nested lists or flat.

    Attributes:
        path: the file.
    """

    name = "parquet-awkward"
    suffixes = (".parquet", ".pq")
    path: DataPath

    def open(self, columns: Mapping[str, Array] | None) -> Storage:
        """See `Backend.open`.

        Raises:
            UnsafeStoreError: the file names an Arrow extension type; none is ever built.
            SpecError: a column whose type no row shows; or the file has no column that is asked for.
        """
        from kinoml_data.backends.arrow import arrow_errors
        from kinoml_data.backends.parquet import ParquetContainer
        from kinoml_data.backends.parquet_layout import Layout

        file = ParquetContainer(self.path)
        try:
            with arrow_errors(self.path):
                if not Layout.claims(file):
                    return MemoryStorage(_nested(file, columns), identity=file.identity)
                layout = Layout(file)
                flat = _own(file, layout, columns)
                return MemoryStorage(flat, arrays=layout.arrays, spec=layout.spec, identity=file.identity)
        finally:
            file.close()

    def write(
        self,
        columns: Mapping[str, Array],
        batches: Iterable[Columns],
        *,
        arrays: Mapping[str, NDArray[Any]] | None = None,
        spec: str | None = None,
        overwrite: bool = False,
    ) -> None:
        """See `Backend.write`.

        Raises:
            SpecError: a batch does not hold what `columns` says.
        """
        from kinoml_data.backends import parquet_write
        from kinoml_data.backends.parquet import ParquetContainer
        from kinoml_data.backends.parquet_layout import Layout

        schema = parquet_write.schema_of(columns, self.name)
        metadata = parquet_write.metadata_of(columns, arrays or {}, spec, self.name)
        with replacing(self.path, overwrite=overwrite) as temporary:
            parquet_write.write(temporary, columns, batches, schema, metadata)
            try:
                file = ParquetContainer(temporary)
                try:
                    layout = Layout(file)
                    for group in range(len(file.groups)):
                        layout.read(group, layout.columns)
                finally:
                    file.close()
            except CorruptStoreError as error:
                raise StoreWriteError(f"{quoted(str(self.path))} was not written well: {error}") from error


def _own(file: ParquetContainer, layout: Layout, columns: Mapping[str, Array] | None) -> dict[str, NDArray[Any]]:
    from kinoml_data.backends.arrow import chosen

    names = chosen(file.path, list(layout.columns), columns)
    parts = {name: [layout.empty(name)] for name in names}
    for group in range(len(file.groups)):
        for name, column in layout.read(group, names).items():
            parts[name].append(column)
    held = {name: layout.columns[name] for name in names}
    return flatten(held, {name: concatenate(parts.pop(name)) for name in names})


def _nested(file: ParquetContainer, columns: Mapping[str, Array] | None) -> dict[str, NDArray[Any]]:
    """The flat arrays of a file of another origin: KinoML's nested lists, or a table of any program."""
    from kinoml_data.backends.arrow import Rows, chosen, dtype_of, flat_column, rows_of

    # What pandas numbered its rows with is no feature; it is read where a spec asks for it.
    held = [name for name in file.types if columns is not None or not PANDAS_INDEX.fullmatch(name)]
    names = chosen(file.path, held, columns)
    where = {name: f"{file.path}: column {quoted(name)}" for name in names}
    parts: dict[str, list[Rows]] = {name: [] for name in names}
    for name in names:
        dtype_of(file.types[name], where[name])
    first = 0
    for group, rows in enumerate(file.groups):
        for name, chunks in file.read(group, names).items():
            start = first
            for chunk in chunks:
                parts[name].append(rows_of(chunk, where[name], start))
                start += len(chunk)
        first += rows
    flat: dict[str, NDArray[Any]] = {}
    for name in names:
        wanted = None if columns is None else columns[name]
        flat |= flat_column(name, file.types[name], parts.pop(name), where[name], wanted)
    return flat
