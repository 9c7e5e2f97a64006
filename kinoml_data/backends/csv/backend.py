"""`csv`: a text table of numbers and strings, whose columns are converted when they are read."""

from __future__ import annotations

import hashlib
from collections import Counter
from collections.abc import Mapping, Sequence
from typing import Annotated

import numpy as np
from numpy.typing import NDArray
from pydantic import Field, field_validator

from kinoml_data.backends.csv.cells import Cells
from kinoml_data.backends.csv.text import UNNAMED, TextTable
from kinoml_data.columns import Columns
from kinoml_data.contracts.backend import Backend, DataPath, Storage
from kinoml_data.errors import SpecError, UnsupportedStoreError, quoted, unknown
from kinoml_data.files import PositionedFile
from kinoml_data.layouts.flat_arrays import flatten
from kinoml_data.layouts.memory_storage import MemoryStorage
from kinoml_data.spec.array import Array


class Csv(Backend):
    """A text table of one value per row and column.

    A column of integers is int64, or uint64 if they need it; a column of other numbers is float64 ("nan" is NaN); a
    column of "true" and "false" is bool; any other column is str. If the spec declares a dtype, the text is read as a
    number, as true, false, 1 or 0, or as a string accordingly.

    A missing value raises an error when its row is read, unless the column has `missing: nan`. An empty cell without
    quotes is a missing value, and so are, among numbers, NA, N/A, #N/A, <NA>, null and None.

    Attributes:
        path: the file, which may be compressed with gzip.
        delimiter: the character between two values; most .smi files need a space. By default, a tab for .tsv and .tab
            files, and a comma for others.
        header: False if the first line is a row; the columns are then called "0", "1", ..., or as in `names`.
        names: the names of the columns, instead of those in the header.
        dtypes: the dtypes of some columns that the spec does not declare, such as `{id: str}`. The source of
            `featurize-on-access` needs this option, because the spec declares only the columns that come out.
        encoding: the encoding of the text, by the names of Python.
        decimal: the character in front of the decimals of a number.
        missing: texts that are missing values in every column, besides the empty cell, such as `["-", "ND"]`.
        skip_lines: the number of lines in front of the header that are not read.
        skip_rows: the number of rows behind the header that are not read, such as descriptions of the columns.
    """

    name = "csv"
    suffixes = (".csv", ".tsv", ".tab", ".csv.gz", ".tsv.gz")
    path: DataPath
    delimiter: Annotated[str, Field(pattern=r'^[^"\r\n]$')] | None = None
    header: bool = True
    names: tuple[str, ...] | None = None
    dtypes: dict[str, str] = Field(default_factory=dict)
    encoding: str = "utf-8"
    decimal: Annotated[str, Field(pattern=r"^[.,]$")] = "."
    missing: tuple[str, ...] = ()
    skip_lines: int = Field(0, ge=0)
    skip_rows: int = Field(0, ge=0)

    @field_validator("encoding")
    @classmethod
    def _known_encoding(cls, value: str) -> str:
        try:
            "".encode(value), b"".decode(value)
        except (LookupError, ValueError):
            raise ValueError(f"{quoted(value)} is not an encoding of text that Python knows") from None
        return value

    def open(self, columns: Mapping[str, Array | None] | None) -> Storage:
        """Read the text of the columns into memory; see `Backend.open`.

        Raises:
            StoreNotFoundError: the file does not exist or is not a regular file.
            CorruptStoreError: the last row is cut off, or compressed data is damaged.
            UnsafeStoreError: the file takes more than 4 GiB when it is decompressed.
            UnsupportedStoreError: the number of values differs between rows, or a name occurs twice.
            StoreReadError: the operating system failed to read.
            SpecError: the text does not have this encoding, or none of `columns` is in the table.
        """
        file = PositionedFile(self.path)
        try:
            data = bytes(file.read(0, file.size))
        finally:
            file.close()
        identity = f"{len(data)}-{hashlib.blake2b(data, digest_size=16).hexdigest()}"
        return _Table(self, data, columns, identity)

    @property
    def separator(self) -> str:
        """The character between two values."""
        tabs = (".tsv", ".tab", ".tsv.gz")
        return self.delimiter or ("\t" if self.path.name.lower().endswith(tabs) else ",")


class _Table(Storage):
    """A table, of which columns are converted when they are read."""

    def __init__(self, options: Csv, data: bytes, requested: Mapping[str, Array | None] | None, identity: str) -> None:
        self.identity = identity
        text = TextTable(
            options.path,
            data,
            delimiter=options.separator,
            **{name: getattr(options, name) for name in ("header", "names", "encoding", "skip_lines", "skip_rows")},
        )
        counts = Counter(text.names)
        names = [name for name in counts if requested is None or name in requested]
        if not names and requested:
            name, way = next(iter(requested)), text.other_delimiter()
            problem = f"unknown stored column {quoted(name)}; {way}" if way else None
            raise SpecError(f"{text.path}: {problem or unknown(name, list(counts), 'stored column')}")
        self._cells: dict[str, Cells] = {}
        unreadable: dict[str, str] = {}
        cells = text.columns([text.names.index(name) for name in names])
        self._length = len(cells[0]) if cells else len(text.columns([0])[0])
        for name, texts in zip(names, cells, strict=True):
            declared = None if requested is None else requested[name]
            if declared is None and name in options.dtypes:
                declared = Array(options.dtypes[name])
            try:
                if counts[name] > 1:
                    raise UnsupportedStoreError(
                        f"{text.path}: {counts[name]} columns are called {quoted(name)}; give unique names in `names`"
                    )
                self._cells[name] = Cells(
                    texts,
                    f"{text.path}: column {quoted(name)}",
                    text.line,
                    declared,
                    missing=options.missing,
                    decimal=options.decimal,
                )
            except (SpecError, UnsupportedStoreError) as error:
                if requested is not None:
                    raise
                unreadable[name] = str(error)
        if requested is None and (way := text.other_delimiter()):
            self._cells, unreadable = {}, {text.names[0]: f"this is the only column; {way}"}
        self.unreadable = unreadable
        self.indexes = [name for name in self._cells if name.startswith(UNNAMED)]
        self.columns = {name: Array(cells.dtype) for name, cells in self._cells.items()}

    def __len__(self) -> int:
        return self._length

    def read(self, rows: NDArray[np.int64], columns: Sequence[str]) -> Columns:
        return {name: self._cells[name].read(rows) for name in columns}

    def loaded(self, columns: Sequence[str]) -> Storage:
        arrays = {name: self.columns[name] for name in columns}
        data = self.read(np.arange(len(self)), columns)
        return MemoryStorage(flatten(arrays, data), identity=self.identity)
