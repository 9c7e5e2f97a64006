"""The text of a table: its encoding, its header, its rows and the lines on which they begin."""

from __future__ import annotations

import csv
import io
import itertools
import zlib
from array import array
from collections.abc import Iterator, Sequence
from contextlib import suppress
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np

from kinoml_data.errors import CorruptStoreError, SpecError, UnsafeStoreError, UnsupportedStoreError, one_line

UNNAMED = "Unnamed: "  # pandas' name for a column without one, with its number
GZIP = b"\x1f\x8b"
UTF16 = (b"\xff\xfe", b"\xfe\xff")
WITHOUT_THREADS = 1 << 20  # bytes
MAX_BYTES = 1 << 32  # of a file that is decompressed


class TextTable:
    """The text of a table.

    Attributes:
        path: the file.
        names: the names of the columns, in order.

    Args:
        data: the content of the file.
        delimiter, header, names, encoding, skip_lines, skip_rows: see `Csv`.

    Raises:
        CorruptStoreError: the file is empty, or compressed data is damaged.
        UnsafeStoreError: the file takes more than 4 GiB when it is decompressed.
        UnsupportedStoreError: the header cannot be read.
        SpecError: the text does not have this encoding, or the number of names differs from that of the columns.
    """

    def __init__(
        self,
        path: Path,
        data: bytes,
        *,
        delimiter: str = ",",
        header: bool = True,
        names: Sequence[str] | None = None,
        encoding: str = "utf-8",
        skip_lines: int = 0,
        skip_rows: int = 0,
    ) -> None:
        self.path, self._delimiter, self._skip_rows = path, delimiter, skip_rows
        text = _decoded(_decompressed(data, path), encoding, path)
        stream = io.StringIO(text, newline="")
        skipped = sum(1 for _ in itertools.islice(stream, skip_lines))
        reader = csv.reader(stream, delimiter=delimiter)
        found: list[str] = []
        try:
            # Empty lines in front of the header are not read.
            found = next((cells for cells in reader if cells), []) if header else []
        except csv.Error as error:
            raise UnsupportedStoreError(f"{self.path}, line {skipped + 1}: {one_line(error)}") from None
        self._body, self._first_line = text[stream.tell() :], skipped + reader.line_num + 1
        width = len(found or next((cells for _, cells in self._rows()), []))
        if not width:
            raise CorruptStoreError(f"{self.path} is empty")
        # A column without a name, which is often an index, is called as pandas calls it.
        own = [name or f"{UNNAMED}{i}" for i, name in enumerate(found)] or list(map(str, range(width)))
        if names is not None and len(names) != width:
            raise SpecError(f"{path} has {width} columns, but `names` has {len(names)}")
        self.names = list(own if names is None else names)

    def columns(self, places: Sequence[int]) -> list[Any]:
        """The cells of some columns, each a `pyarrow.LargeStringArray`; a cell that is empty and not quoted is null.

        Raises:
            CorruptStoreError: the last row is cut off.
            UnsupportedStoreError: a row does not have one value per column.
        """
        import pyarrow as pa
        from pyarrow import csv as arrow_csv

        body, width = self._body.encode(), len(self.names)
        ids = [str(i) for i in range(width)]
        # In a table of one column, an empty line is a missing value.
        if not (body if width == 1 else body.strip(b"\r\n")):
            return [pa.array([], pa.large_string()) for _ in places]
        if not body.endswith((b"\n", b"\r")):
            body += b"\n"
        # Little text is read without threads, so that a process that forks soon afterwards has none at work.
        read = arrow_csv.ReadOptions(column_names=ids, use_threads=len(body) > WITHOUT_THREADS)
        parse = arrow_csv.ParseOptions(delimiter=self._delimiter, newlines_in_values=True, ignore_empty_lines=width > 1)
        convert = arrow_csv.ConvertOptions(
            column_types=dict.fromkeys(ids, pa.large_string()),
            include_columns=[ids[-1], *(ids[i] for i in places)],
            strings_can_be_null=True,
            quoted_strings_can_be_null=False,
            null_values=[""],
        )
        # Arrow's threads may outlive this call for a moment, so what they release must not be an object of Python.
        buffer = pa.allocate_buffer(len(body))
        np.frombuffer(buffer, np.uint8)[:] = np.frombuffer(body, np.uint8)
        try:
            table = arrow_csv.read_csv(
                pa.BufferReader(buffer), read_options=read, parse_options=parse, convert_options=convert
            )
        except pa.ArrowInvalid as error:
            raise self._uneven() or CorruptStoreError(f"{self.path}: {one_line(error)}") from None
        last, *columns = table.columns
        if (last[-1].as_py() or "").endswith(("\n", "\r")) and not body.rstrip(b"\r\n").endswith((b'\n"', b'\r"')):
            raise CorruptStoreError(f"{self.path}: the file ends within quotes, so it may be cut off")
        return [column.slice(self._skip_rows).combine_chunks() for column in columns]

    def line(self, row: int) -> int | None:
        """The line on which a row begins, counted from 1; None if it cannot be told."""
        place = row + self._skip_rows
        return self._lines[place] if place < len(self._lines) else None

    @cached_property
    def _lines(self) -> Sequence[int]:
        """The line of each row, up to the first that cannot be told. Many rows may have errors, so it is kept."""
        lines = array("q")
        with suppress(csv.Error):
            lines.extend(line for line, _ in self._rows())
        return lines

    def other_delimiter(self) -> str | None:
        """What to write if the only column seems to be several, with another delimiter in between."""
        found = next((c for c in ";\t|," if len(self.names) == 1 and c in self.names[0]), None)
        return found and f"its values may be separated by another character: write `delimiter: {found!r}`"

    def _rows(self) -> Iterator[tuple[int, list[str]]]:
        """Every row, with the line on which it begins."""
        reader = csv.reader(io.StringIO(self._body, newline=""), delimiter=self._delimiter)
        single, line = len(getattr(self, "names", ())) == 1, self._first_line
        for cells in reader:
            if cells or single:
                yield line, cells
            line = self._first_line + reader.line_num

    def _uneven(self) -> Exception | None:
        """The error for the first row that does not have one value per column; None if there is none."""
        width, rows = len(self.names), self._rows()
        try:
            wrong = next(((line, len(cells)) for line, cells in rows if len(cells or ("",)) != width), None)
            if wrong is None:
                return None
            place = f"{self.path}, line {wrong[0]}: {wrong[1]} values, but there are {width} columns"
            if wrong[1] < width and not self._body.endswith(("\n", "\r")) and next(rows, None) is None:
                return CorruptStoreError(f"{place}; the file ends there, so it may be cut off")
        except csv.Error as error:
            return UnsupportedStoreError(f"{self.path}: {one_line(error)}")
        way = self.other_delimiter() or (
            "write values that contain the delimiter in quotes, or use `skip_lines` if there is text before the header"
        )
        return UnsupportedStoreError(f"{place}; {way}")


def _decompressed(data: bytes, path: Path) -> bytes:
    if not data.startswith(GZIP):
        return data
    parts, total = [], 0
    try:
        while data:
            stream = zlib.decompressobj(wbits=31)
            part = stream.decompress(data, MAX_BYTES - total)
            parts.append(part)
            total += len(part)
            if total >= MAX_BYTES:
                raise UnsafeStoreError(
                    f"{path} takes more than {MAX_BYTES} bytes when decompressed; decompress it first"
                )
            if not stream.eof:
                raise CorruptStoreError(f"{path}: its compressed data ends too early")
            data = stream.unused_data.lstrip(b"\0")
    except zlib.error as error:
        raise CorruptStoreError(f"{path}: its compressed data is damaged: {one_line(error)}") from None
    return b"".join(parts)


def _decoded(data: bytes, encoding: str, path: Path) -> str:
    try:
        return data.decode(encoding).removeprefix("\ufeff")
    except UnicodeDecodeError as error:
        line = data.count(b"\n", 0, error.start) + 1
        other = "utf-16" if data.startswith(UTF16) else "latin-1"
        raise SpecError(
            f"{path}, line {line}: the text is not {encoding}; write its encoding, such as `encoding: {other}`"
        ) from None
