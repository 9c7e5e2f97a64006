"""`csv`: a text table of numbers and strings, read once into memory."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from typing import Annotated, Any

import numpy as np
from numpy.typing import NDArray
from pydantic import Field

from kinoml_data.contracts.backend import Backend, DataPath, Storage
from kinoml_data.errors import CorruptStoreError, SpecError, quoted
from kinoml_data.files import PositionedFile
from kinoml_data.layouts.flat_arrays import flatten
from kinoml_data.layouts.memory_storage import MemoryStorage
from kinoml_data.spec.array import STRING, Array

# A number with leading zeros, such as 0042, is most likely an identifier, so it is not a number here.
INTEGER = r"^[+-]?(0|[1-9][0-9]*)$"
FLOAT = r"(?i)^[+-]?((0|[1-9][0-9]*)(\.[0-9]*)?(e[+-]?[0-9]+)?|\.[0-9]+(e[+-]?[0-9]+)?|nan|inf|infinity)$"
MISSING = ("", "na", "n/a", "#n/a", "null", "none")


class Csv(Backend):
    """A text table of one value per row and column.

    A column of integers is int64, a column of other numbers is float64 ("nan" is NaN), and any other column is str. If
    the spec has `columns`, their dtypes are used instead. A missing value raises an error.

    Attributes:
        path: the file, in UTF-8.
        delimiter: the character between two values; most .smi files need a space.
        header: False if the first line is a row; the columns are then called "0", "1", ..., or as in `names`.
        names: the names of the columns, instead of those in the header.
        dtypes: the dtypes of some columns that the spec does not declare, such as `{id: str}`. The source of
            `featurize-on-access` needs this option, because the spec declares only the columns that come out.
    """

    name = "csv"
    suffixes = (".csv",)
    path: DataPath
    delimiter: Annotated[str, Field(pattern=r'^[^"\r\n]$')] = ","
    header: bool = True
    names: tuple[str, ...] | None = None
    dtypes: dict[str, str] = Field(default_factory=dict)

    def open(self, columns: Mapping[str, Array | None] | None) -> Storage:
        """Read the table into memory; see `Backend.open`.

        Raises:
            StoreNotFoundError: there is no such regular file.
            CorruptStoreError: a value is missing, rows differ in length, or the text is not UTF-8.
            StoreReadError: the operating system failed to read.
            SpecError: a value is not of the declared dtype, the table has no rows to infer a dtype from, or none of
                `columns` is in the table.
        """
        from kinoml_data.layouts.arrow import arrow_errors, column_from_arrow, select_columns

        file = PositionedFile(self.path)
        try:
            data = file.read(0, file.size)
        finally:
            file.close()
        identity = f"{len(data)}-{hashlib.blake2b(data, digest_size=16).hexdigest()}"
        with arrow_errors(self.path):
            table = self._table(data)
            flat: dict[str, NDArray[Any]] = {}
            for name in select_columns(self.path, list(table), columns):
                where, declared = f"{self.path}: column {quoted(name)}", self._declared(name, columns)
                values = _values(table[name], declared, where)
                array, column = column_from_arrow(name, values.type, values.chunks, where, declared)
                flat |= flatten({name: array}, {name: column})
        return MemoryStorage(flat, identity=identity)

    def _declared(self, name: str, columns: Mapping[str, Array | None] | None) -> Array | None:
        if columns is not None:
            return columns[name]
        return Array(self.dtypes[name]) if name in self.dtypes else None

    def _table(self, data: bytearray) -> dict[str, Any]:
        """The text of every cell, by column; a cell that is empty and not quoted is null."""
        import pyarrow as pa
        from pyarrow import csv

        if not data.endswith(b"\n"):
            data += b"\n"
        read = csv.ReadOptions(autogenerate_column_names=not self.header)
        parse = csv.ParseOptions(delimiter=self.delimiter, newlines_in_values=True)
        with csv.open_csv(pa.BufferReader(data), read_options=read, parse_options=parse) as reader:
            header = reader.schema.names
        # In a table of one column, an empty line is a missing value.
        parse.ignore_empty_lines = len(header) > 1
        convert = csv.ConvertOptions(
            column_types=dict.fromkeys(header, pa.large_string()),
            strings_can_be_null=True,
            quoted_strings_can_be_null=False,
            null_values=[""],
        )
        table = csv.read_csv(pa.BufferReader(data), read_options=read, parse_options=parse, convert_options=convert)
        names = self.names or (header if self.header else [str(i) for i in range(len(header))])
        if len(names) != len(header):
            raise SpecError(f"{self.path} has {len(header)} columns, but `names` has {len(names)}")
        if len(set(names)) != len(names):
            raise CorruptStoreError(f"{self.path}: two of its columns have the same name; give unique names in `names`")
        return dict(zip(names, table.columns, strict=True))


def _values(cells: Any, declared: Array | None, where: str) -> Any:
    """The cells of a column as numbers or strings, a `pyarrow.ChunkedArray`."""
    _refuse(cells.is_null(), where, "a value is missing")
    known = declared.dtype if declared is not None and not declared.dtype.startswith("complex") else None
    dtype = known or _infer_dtype(cells, where)
    return cells if dtype == STRING else _numbers(cells, dtype, where)


def _infer_dtype(cells: Any, where: str) -> str:
    import pyarrow.compute as pc

    if len(cells) == 0:
        raise SpecError(f"{where}: there are no rows to infer its dtype from; specify its dtype in `columns`")
    text = pc.utf8_trim_whitespace(cells)
    if pc.all(pc.match_substring_regex(text, INTEGER)).as_py():
        return "int64"
    number = pc.match_substring_regex(text, FLOAT)
    if pc.all(number).as_py():
        return "float64"
    missing = pc.is_in(pc.utf8_lower(text), pc.cast(list(MISSING), text.type))
    if pc.any(number).as_py() and pc.all(pc.or_(number, missing)).as_py():
        _refuse(
            missing, where, "a value is missing among numbers; if the column is text, specify dtype: str in `columns`"
        )
    return STRING


def _numbers(cells: Any, dtype: str, where: str) -> Any:
    """The cells as numbers of this dtype.

    Raises:
        CorruptStoreError: a cell is blank.
        SpecError: a cell is not a number of this dtype.
    """
    import pyarrow as pa
    import pyarrow.compute as pc

    type_, problem = pa.from_numpy_dtype(np.dtype(dtype)), f"is not a valid {dtype}"
    text = pc.replace_substring_regex(pc.utf8_trim_whitespace(cells), r"^\+", "")
    _refuse(pc.equal(text, ""), where, "a value is missing")
    if np.dtype(dtype).kind in "iu":  # Arrow also accepts 0x1f
        _refuse(pc.invert(pc.match_substring_regex(text, "^-?[0-9]+$")), where, problem, cells)
    try:
        numbers = text.cast(type_)
    except pa.ArrowInvalid:
        _refuse(np.array([not _casts(cell, type_) for cell in text]), where, problem, cells)
        raise
    if np.dtype(dtype).kind == "f" and (infinite := np.isinf(numbers.to_numpy())).any():
        # Arrow reads a finite number that is too large as infinity.
        finite = np.asarray(pc.match_substring_regex(text, "[0-9]"))
        _refuse(infinite & finite, where, f"does not fit {dtype}", cells)
    return numbers


def _casts(cell: Any, type_: Any) -> bool:
    import pyarrow as pa

    try:
        cell.cast(type_)
    except pa.ArrowInvalid:
        return False
    return True


def _refuse(wrong: Any, where: str, problem: str, cells: Any = None) -> None:
    """Raise an error if `wrong` is true for a row. If `cells` are given, the error quotes the first such cell.

    Raises:
        CorruptStoreError: `wrong` is true for a row, and `cells` are not given.
        SpecError: `wrong` is true for a row, and `cells` are given.
    """
    marked = np.asarray(wrong)
    if marked.any():
        row = int(np.argmax(marked))
        if cells is not None:
            raise SpecError(f"{where}, row {row}: {quoted(cells[row].as_py())} {problem}")
        raise CorruptStoreError(f"{where}, row {row}: {problem}")
