"""A Parquet file opened for reading: extension types are never built, and a digest may protect the footer."""

from __future__ import annotations

import base64
import hashlib
import io
import multiprocessing
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from kinoml_data.errors import CorruptStoreError, UnsafeStoreError, UnsupportedStoreError, quoted
from kinoml_data.files import PositionedFile
from kinoml_data.layouts.arrow import arrow_errors

MAGIC, ENCRYPTED = b"PAR1", b"PARE"
DIGEST_BYTES = 16
MAX_FOOTER_BYTES = 64 << 20
MAX_GROUP_BYTES = 1 << 34  # a row group is decoded whole
# Arrow builds every registered extension type that the values of these two keys name. With one letter changed, the keys
# mean nothing to Arrow, which then uses Parquet's own types. These suffice for everything that is read here.
SCHEMA, HIDDEN_SCHEMA = b"ARROW:schema", b"_RROW:schema"
EXTENSION, HIDDEN_EXTENSION = b"ARROW:extension:name", b"_RROW:extension:name"


class ParquetContainer:
    """A Parquet file: its columns, its metadata and its row groups as Arrow arrays.

    Attributes:
        types: the Arrow type of every column. If the root is a single struct, its fields are the columns.
        metadata: the key-value metadata.
        groups: the number of rows in each row group.
        sealed: True if the footer has the digest that `seal` wrote. Reading rows with a damaged footer may crash Arrow
            and the process, so check this before reading from a file that should be sealed.
        identity: a text that changes when the footer changes.

    Raises:
        StoreNotFoundError: there is no such regular file.
        CorruptStoreError: the file is not a Parquet file, or is damaged.
        UnsafeStoreError: the file contains an extension type, or a footer of more than 64 MiB.
        UnsupportedStoreError: the file is encrypted.
        StoreReadError: the operating system failed to read.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        self._file = PositionedFile(path)
        try:
            with arrow_errors(path):
                self._open()
        except BaseException:
            self._file.close()
            raise

    def _open(self) -> None:
        start, footer = read_footer(self._file)
        self.sealed = bytes(self._file.read(max(0, start - DIGEST_BYTES), min(start, DIGEST_BYTES))) == digest(footer)
        self.identity = f"{self._file.size}-{digest(footer).hex()}"
        if self.sealed:  # only files of this library; their rows are compared with checksums whenever they are decoded
            self._file.recheck_with(self.same_content)
        self._parquet = pq.ParquetFile(
            _FooterOverride(self._file, start, footer.replace(SCHEMA, HIDDEN_SCHEMA)),
            memory_map=False,
            pre_buffer=False,
            page_checksum_verification=True,
            arrow_extensions_enabled=False,
            list_type=pa.LargeListType,  # 64-bit offsets: a row group may contain more than 2**31 values
            binary_type=pa.large_binary(),
        )
        footer_metadata = self._parquet.metadata
        self.metadata: Mapping[bytes, bytes] = footer_metadata.metadata or {}
        self.groups = [footer_metadata.row_group(i).num_rows for i in range(footer_metadata.num_row_groups)]
        if sum(self.groups) != footer_metadata.num_rows or min(self.groups, default=0) < 0:
            raise CorruptStoreError(f"{self.path}: its row groups do not add up to its {footer_metadata.num_rows} rows")
        schema = self._parquet.schema_arrow
        self._root = schema.field(0).name if len(schema) == 1 and pa.types.is_struct(schema.field(0).type) else None
        fields = _columns(schema)
        self.types = {field.name: field.type for field in fields}
        if len(self.types) != len(fields):
            raise CorruptStoreError(f"{self.path}: two of its columns have the same name")
        self._leaves: dict[str, list[str]] = {}
        leaf = 0
        for field in fields:
            count = _leaves(field.type)
            self._leaves[field.name] = [self._parquet.schema.column(i).path for i in range(leaf, leaf + count)]
            leaf += count
        self.types |= _declared(self.metadata.get(HIDDEN_SCHEMA), self.path, self.types)

    def read(self, group: int, columns: Iterable[str]) -> dict[str, list[Any]]:
        """The chunks of the given columns in one row group, as valid `pyarrow.Array`s.

        Raises:
            CorruptStoreError: the file is damaged.
            StoreChangedError: the file was altered or replaced after it was opened.
            StoreReadError: the operating system failed to read.
        """
        names = list(columns)
        paths = [path for name in names for path in self._leaves[name]]
        with arrow_errors(self.path):
            # In a forked worker, the threads of the parent process do not exist.
            threads = multiprocessing.parent_process() is None
            table = self._parquet.read_row_group(group, columns=paths, use_threads=threads)
            self._file.check()
            arrays = {}
            for name in names:
                chunks = table.column(self._root if self._root is not None else name).chunks
                if self._root is not None:
                    # `flatten` turns a missing struct into missing fields.
                    chunks = [chunk.flatten()[chunk.type.get_field_index(name)] for chunk in chunks]
                for chunk in chunks:
                    chunk.validate(full=True)
                if sum(map(len, chunks)) != self.groups[group]:
                    raise CorruptStoreError(f"{self.path}: column {quoted(name)} lacks rows in row group {group}")
                arrays[name] = chunks
        return arrays

    def same_content(self, file: PositionedFile) -> bool:
        """See `PositionedFile.recheck_with`."""
        return f"{file.size}-{digest(read_footer(file)[1]).hex()}" == self.identity

    def decoded_size(self, columns: Iterable[str]) -> int:
        """The number of bytes that some columns take in memory, according to the footer; 16 for each string.

        Raises:
            UnsafeStoreError: a row group would take more than 16 GiB.
        """
        footer, size = self._parquet.metadata, 0
        leaves = {path for name in columns for path in self._leaves[name]}
        widths = {"BOOLEAN": 1, "INT32": 4, "INT64": 8, "FLOAT": 4, "DOUBLE": 8}
        for group in range(footer.num_row_groups):
            chunks = (footer.row_group(group).column(i) for i in range(footer.num_columns))
            nbytes = sum(c.num_values * widths.get(c.physical_type, 16) for c in chunks if c.path_in_schema in leaves)
            if nbytes > MAX_GROUP_BYTES:
                raise UnsafeStoreError(
                    f"{self.path}: row group {group} takes {nbytes} bytes decoded; the limit is {MAX_GROUP_BYTES}"
                )
            size += nbytes
        return size

    def close(self) -> None:
        self._file.close()


def read_footer(file: PositionedFile) -> tuple[int, bytes]:
    """The offset of the footer in the file, and its bytes.

    Raises:
        CorruptStoreError: the file has no footer.
        UnsafeStoreError: the footer is larger than 64 MiB.
        UnsupportedStoreError: the footer is encrypted.
    """
    if file.size < 12:
        raise CorruptStoreError(f"{file.path} has {file.size} bytes, which is too short for a Parquet file")
    tail = bytes(file.read(file.size - 8, 8))
    if tail[4:] == ENCRYPTED:
        raise UnsupportedStoreError(f"{file.path} is encrypted, which is not supported; store it without encryption")
    size = int.from_bytes(tail[:4], "little")
    if tail[4:] != MAGIC or file.read(0, 4) != MAGIC or size > file.size - 12:
        raise CorruptStoreError(f"{file.path} does not begin and end like a Parquet file")
    if size > MAX_FOOTER_BYTES:
        raise UnsafeStoreError(f"{file.path}: its footer has {size} bytes; the limit is {MAX_FOOTER_BYTES}")
    start = file.size - 8 - size
    return start, bytes(file.read(start, size))


def seal(path: Path) -> None:
    """Write a digest of the footer in front of it, where readers of Parquet files do not look."""
    file = PositionedFile(path)
    try:
        start, footer = read_footer(file)
    finally:
        file.close()
    with path.open("r+b") as target:
        target.seek(start)
        target.write(digest(footer) + footer + len(footer).to_bytes(4, "little") + MAGIC)


def digest(footer: bytes) -> bytes:
    """The BLAKE2b digest of a footer, 16 bytes long."""
    return hashlib.blake2b(footer, digest_size=DIGEST_BYTES).digest()


class _FooterOverride(io.RawIOBase):
    """The file as Arrow sees it, with another footer of the same length."""

    def __init__(self, file: PositionedFile, start: int, footer: bytes) -> None:
        self._file, self._start, self._footer, self._at = file, start, footer, 0

    def readable(self) -> bool:
        return True

    def seekable(self) -> bool:
        return True

    def tell(self) -> int:
        return self._at

    def seek(self, offset: int, whence: int = io.SEEK_SET) -> int:
        self._at = offset + (0, self._at, self._file.size)[whence]
        return self._at

    def read(self, size: int = -1) -> bytes:
        end = self._file.size if size < 0 else min(self._at + size, self._file.size)
        data = self._file.read(self._at, max(0, end - self._at))
        a, b = max(self._at, self._start), min(end, self._start + len(self._footer))
        if a < b:
            data[a - self._at : b - self._at] = self._footer[a - self._start : b - self._start]
        self._at += len(data)
        return data  # type: ignore[return-value]


def _columns(schema: Any) -> list[Any]:
    """The fields that are columns: those of the schema, or those of the struct that is its only field."""
    if len(schema) == 1 and pa.types.is_struct(schema.field(0).type):
        return [schema.field(0).type.field(i) for i in range(schema.field(0).type.num_fields)]
    return list(schema)


def _leaves(type_: Any) -> int:
    """The number of Parquet columns that an Arrow type takes."""
    return sum(_leaves(type_.field(i).type) for i in range(type_.num_fields)) if type_.num_fields else 1


def _declared(schema: bytes | None, path: Path, types: Mapping[str, Any]) -> dict[str, Any]:
    """The types that the Arrow schema specifies and Parquet cannot express, such as a duration.

    Raises:
        UnsafeStoreError: the schema names an extension type.
    """
    if schema is None:
        return {}
    declared = pa.ipc.read_schema(pa.py_buffer(base64.b64decode(schema).replace(EXTENSION, HIDDEN_EXTENSION)))
    for field in _all_fields(list(declared)):
        if name := (field.metadata or {}).get(HIDDEN_EXTENSION):
            raise UnsafeStoreError(
                f"{path}: the extension type {quoted(name.decode('utf-8', 'replace'))} is not allowed"
            )
    return {f.name: f.type for f in _columns(declared) if f.name in types and pa.types.is_duration(_leaf(f.type))}


def _all_fields(fields: Iterable[Any]) -> Iterable[Any]:
    for field in fields:
        yield field
        yield from _all_fields(field.type.field(i) for i in range(field.type.num_fields))


def _leaf(type_: Any) -> Any:
    while type_.num_fields == 1:
        type_ = type_.field(0).type
    return type_
