"""`csv`: a table of numbers and strings as text, read once into memory."""

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
from kinoml_data.layouts.memory_storage import MemoryStorage
from kinoml_data.spec.array import STRING, Array

# A number with zeros in front, such as 0042, is taken for an identifier.
INTEGER = r"^[+-]?(0|[1-9][0-9]*)$"
FLOAT = r"(?i)^[+-]?((0|[1-9][0-9]*)(\.[0-9]*)?(e[+-]?[0-9]+)?|\.[0-9]+(e[+-]?[0-9]+)?|nan|inf|infinity)$"
MISSING = ("", "na", "n/a", "#n/a", "null", "none")


class Csv(Backend):
    """A text table of one value per row and column.

    A column of integers is int64, one of other numbers float64 ("nan" is NaN), and one of anything else str;
    where the spec has `columns`, its dtypes are used instead. Nothing may be missing.

    Attributes:
        path: the file, in UTF-8.
        delimiter: one character; a space for most .smi files.
        header: False if the first line is a row; the columns are then "0", "1", ... or `names`.
        names: what to call the columns, in place of what the header says.
        dtypes: of some columns where the spec has none for them, as below `featurize-on-access`: `{id: str}`.
    """

    name = "csv"
    suffixes = (".csv",)
    path: DataPath
    delimiter: Annotated[str, Field(pattern=r'^[^"\r\n]$')] = ","
    header: bool = True
    names: tuple[str, ...] | None = None
    dtypes: dict[str, str] = Field(default_factory=dict)

    def open(self, columns: Mapping[str, Array] | None) -> Storage:
        """See `Backend.open`.

        Raises:
            CorruptStoreError: a value is missing, rows differ in length, or the text is not UTF-8.
            SpecError: text that is not of the dtype asked for; no column that is asked for.
        """
        from kinoml_data.layouts.arrow import arrow_errors, select_columns

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
                where = f"{self.path}: column {quoted(name)}"
                flat |= _column(name, table[name], where, self._wanted(name, columns))
        return MemoryStorage(flat, identity=identity)

    def _wanted(self, name: str, columns: Mapping[str, Array] | None) -> Array | None:
        if columns is not None:
            return columns[name]
        return Array(self.dtypes[name]) if name in self.dtypes else None

    def _table(self, data: bytearray) -> dict[str, Any]:
        """Every cell as text by column, what is empty and not quoted as null."""
        import pyarrow as pa
        from pyarrow import csv

        if not data.endswith(b"\n"):
            data += b"\n"
        read = csv.ReadOptions(autogenerate_column_names=not self.header)
        parse = csv.ParseOptions(delimiter=self.delimiter, newlines_in_values=True)
        with csv.open_csv(pa.BufferReader(data), read_options=read, parse_options=parse) as reader:
            found = reader.schema.names
        # In one column an empty line is a missing value.
        parse.ignore_empty_lines = len(found) > 1
        convert = csv.ConvertOptions(
            column_types=dict.fromkeys(found, pa.large_string()),
            strings_can_be_null=True,
            quoted_strings_can_be_null=False,
            null_values=[""],
        )
        table = csv.read_csv(pa.BufferReader(data), read_options=read, parse_options=parse, convert_options=convert)
        names = self.names or (found if self.header else [str(i) for i in range(len(found))])
        if len(names) != len(found):
            raise SpecError(f"{self.path} has {len(found)} columns, `names` has {len(names)}")
        if len(set(names)) != len(names):
            raise CorruptStoreError(f"{self.path}: two of its columns have the same name; give them `names`")
        return dict(zip(names, table.columns, strict=True))


def _column(name: str, cells: Any, where: str, wanted: Array | None) -> dict[str, NDArray[Any]]:
    from kinoml_data.layouts.arrow import flat_column, rows_of

    _refuse(cells.is_null(), where, "a value is missing")
    dtype = wanted.dtype if wanted is not None and not wanted.dtype.startswith("complex") else _inferred(cells, where)
    values = cells if dtype == STRING else _numbers(cells, dtype, where)
    parts = [rows_of(chunk, where) for chunk in values.chunks]
    return flat_column(name, values.type, parts, where, wanted)


def _inferred(cells: Any, where: str) -> str:
    import pyarrow.compute as pc

    if len(cells) == 0:
        raise SpecError(f"{where}: there is no row to tell its type; say its dtype in `columns`")
    text = pc.utf8_trim_whitespace(cells)
    if pc.all(pc.match_substring_regex(text, INTEGER)).as_py():
        return "int64"
    number = pc.match_substring_regex(text, FLOAT)
    if pc.all(number).as_py():
        return "float64"
    missing = pc.is_in(pc.utf8_lower(text), pc.cast(list(MISSING), text.type))
    if pc.any(number).as_py() and pc.all(pc.or_(number, missing)).as_py():
        _refuse(missing, where, "a value is missing among numbers; if it is text, say so in `columns`")
    return STRING


def _numbers(cells: Any, dtype: str, where: str) -> Any:
    """The cells as numbers.

    Raises:
        CorruptStoreError: a cell is blank.
        SpecError: a cell is no number of this dtype.
    """
    import pyarrow as pa
    import pyarrow.compute as pc

    type_ = pa.from_numpy_dtype(np.dtype(dtype))
    text = pc.replace_substring_regex(pc.utf8_trim_whitespace(cells), r"^\+", "")
    _refuse(pc.equal(text, ""), where, "a value is missing")
    if np.dtype(dtype).kind in "iu":  # Arrow also reads 0x1f
        _refuse(pc.invert(pc.match_substring_regex(text, "^-?[0-9]+$")), where, f"is no {dtype}", cells)
    try:
        return text.cast(type_)
    except pa.ArrowInvalid:
        low, high = 0, len(text)  # the first cell that fails is in between
        while high - low > 1:
            middle = (low + high) // 2
            try:
                text[low:middle].cast(type_)
                low = middle
            except pa.ArrowInvalid:
                high = middle
        raise SpecError(f"{where}, row {low}: {quoted(cells[low].as_py())} is no {dtype}") from None


def _refuse(wrong: Any, where: str, why: str, cells: Any = None) -> None:
    """Raise, naming the first row where `wrong` is true: a `SpecError` that quotes its cell if `cells` are given."""
    marked = wrong.to_numpy()
    if marked.any():
        row = int(np.argmax(marked))
        if cells is not None:
            raise SpecError(f"{where}, row {row}: {quoted(cells[row].as_py())} {why}")
        raise CorruptStoreError(f"{where}, row {row}: {why}")
