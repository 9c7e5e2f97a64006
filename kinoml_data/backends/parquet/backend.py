"""`parquet-awkward`: a Parquet file, decoded once into memory, or by row group where that is too large.

It reads KinoML's files, tables of any origin and the layout that it writes, see `parquet_layout.py`.
"""

from __future__ import annotations

import re
import warnings
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import TYPE_CHECKING, Any

from numpy.typing import NDArray
from pydantic import Field

from kinoml_data.columns import Column, Columns, concatenate
from kinoml_data.contracts.backend import Backend, DataPath, Storage
from kinoml_data.errors import CorruptStoreError, StoreWriteError, quoted
from kinoml_data.files import replacing
from kinoml_data.layouts.flat_arrays import flatten
from kinoml_data.layouts.memory_storage import MemoryStorage
from kinoml_data.spec.array import Array

if TYPE_CHECKING:
    from kinoml_data.backends.parquet.container import ParquetContainer
    from kinoml_data.backends.parquet.layout import Layout
    from kinoml_data.layouts.arrow import ArrowRows

PANDAS_INDEX = re.compile(r"__index_level_\d+__")


class ParquetAwkward(Backend):
    """Columns in a Parquet file, nested lists or flat.

    Attributes:
        path: the file.
        memory_budget: bytes; a file that is larger decoded is read by row group, with so much of it kept.
    """

    name = "parquet-awkward"
    suffixes = (".parquet", ".pq")
    can_write = True
    unsupported_dtypes = ("complex64", "complex128")
    path: DataPath
    memory_budget: int = Field(8 << 30, ge=0)

    def open(self, columns: Mapping[str, Array] | None) -> Storage:
        """See `Backend.open`.

        Raises:
            UnsafeStoreError: the file names an Arrow extension type; none is ever built.
            SpecError: a column whose type no row shows; or the file has no column that is asked for.
        """
        from kinoml_data.backends.parquet.container import ParquetContainer
        from kinoml_data.backends.parquet.layout import Layout
        from kinoml_data.layouts.arrow import arrow_errors

        file = ParquetContainer(self.path)
        storage: Storage | None = None
        try:
            with arrow_errors(self.path):
                layout = Layout(file) if Layout.claims(file) else None
                names = _names(file, layout, columns)
                if file.decoded_size(names) > self.memory_budget:
                    storage = _by_group(file, layout, names, columns, self.memory_budget)
                elif layout is None:
                    storage = MemoryStorage(_nested(file, names, columns), identity=file.identity)
                else:
                    flat = _own(file, layout, names)
                    storage = MemoryStorage(flat, arrays=layout.arrays, spec=layout.spec, identity=file.identity)
                storage.has_checksums = layout is not None
                if layout is None:
                    _say_once(f"{file.path} has no checksums by row: its integrity is unknown")
                return storage
        finally:
            if storage is None or isinstance(storage, MemoryStorage):
                file.close()

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
        """See `Backend.write`.

        Raises:
            SpecError: a batch does not hold what `columns` says.
        """
        from kinoml_data.backends.parquet import writer as parquet_write
        from kinoml_data.backends.parquet.container import ParquetContainer
        from kinoml_data.backends.parquet.layout import Layout

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


_said: set[str] = set()


def _say_once(text: str) -> None:
    if text not in _said:
        _said.add(text)
        warnings.warn(text, stacklevel=3)


def _names(file: ParquetContainer, layout: Layout | None, columns: Mapping[str, Array] | None) -> list[str]:
    """The columns to read."""
    from kinoml_data.layouts.arrow import dtype_of, select_columns

    if layout is not None:
        return select_columns(file.path, list(layout.columns), columns)
    # What pandas numbered its rows with is no feature; it is read where a spec asks for it.
    held = [name for name in file.types if columns is not None or not PANDAS_INDEX.fullmatch(name)]
    names = select_columns(file.path, held, columns)
    for name in names:
        dtype_of(file.types[name], f"{file.path}: column {quoted(name)}")
    return names


def _own(file: ParquetContainer, layout: Layout, names: Sequence[str]) -> dict[str, NDArray[Any]]:
    parts = {name: [layout.empty(name)] for name in names}
    for group in range(len(file.groups)):
        for name, column in layout.read(group, names).items():
            parts[name].append(column)
    held = {name: layout.columns[name] for name in names}
    return flatten(held, {name: concatenate(parts.pop(name)) for name in names})


def _nested(
    file: ParquetContainer, names: Sequence[str], columns: Mapping[str, Array] | None
) -> dict[str, NDArray[Any]]:
    """The flat arrays of a file of another origin: KinoML's nested lists, or a table of any program."""
    from kinoml_data.layouts.arrow import flat_column

    parts: dict[str, list[ArrowRows]] = {name: [] for name in names}
    for group in range(len(file.groups)):
        for name, rows in _rows_of_group(file, group, names).items():
            parts[name] += rows
    flat: dict[str, NDArray[Any]] = {}
    for name in names:
        where, wanted = f"{file.path}: column {quoted(name)}", None if columns is None else columns[name]
        flat |= flat_column(name, file.types[name], parts.pop(name), where, wanted)
    return flat


def _rows_of_group(file: ParquetContainer, group: int, names: Sequence[str]) -> dict[str, list[ArrowRows]]:
    from kinoml_data.layouts.arrow import rows_of

    found: dict[str, list[ArrowRows]] = {}
    for name, chunks in file.read(group, names).items():
        start = sum(file.groups[:group])
        found[name] = []
        for chunk in chunks:
            found[name].append(rows_of(chunk, f"{file.path}: column {quoted(name)}", start))
            start += len(chunk)
    return found


def _by_group(
    file: ParquetContainer,
    layout: Layout | None,
    names: Sequence[str],
    columns: Mapping[str, Array] | None,
    budget: int,
) -> Storage:
    """The storage that decodes row groups when they are read; a file of another origin is read once for its shapes."""
    from kinoml_data.backends.parquet.row_groups import RowGroups
    from kinoml_data.layouts.arrow import ArrowRows, column_of, infer_array

    if layout is not None:
        held = {name: layout.columns[name] for name in names}
        return RowGroups(file, layout.read, held, budget=budget, arrays=layout.arrays, spec=layout.spec)
    shapes: dict[str, list[ArrowRows]] = {name: [] for name in names}
    for group in range(len(file.groups)):
        for name, rows in _rows_of_group(file, group, names).items():
            shapes[name] += [ArrowRows(part.values[:0], part.shapes) for part in rows]
    held = {}
    for name in names:
        where, wanted = f"{file.path}: column {quoted(name)}", None if columns is None else columns[name]
        held[name] = infer_array(name, file.types[name], shapes.pop(name), where, wanted)[0]

    def decode(group: int, some: Sequence[str]) -> Mapping[str, Column]:
        return {name: column_of(held[name], rows) for name, rows in _rows_of_group(file, group, some).items()}

    return RowGroups(file, decode, held, budget=budget)
