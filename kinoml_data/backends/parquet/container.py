"""A Parquet file opened for reading: extension types are never built, and a digest may protect the footer."""

from __future__ import annotations

import base64
import hashlib
import io
import multiprocessing
import os
from collections.abc import Iterable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from kinoml_data.backends.parquet.tensors import Tensor
from kinoml_data.errors import CorruptStoreError, UnsafeStoreError, UnsupportedStoreError, quoted
from kinoml_data.files import PositionedFile
from kinoml_data.layouts.arrow import arrow_errors

MAGIC, ENCRYPTED = b"PAR1", b"PARE"
DIGEST_BYTES = 16
MAX_FOOTER_BYTES = 64 << 20
MAX_GROUP_BYTES = 1 << 36
WIDTHS = {"BOOLEAN": 1, "INT32": 4, "INT64": 8, "FLOAT": 4, "DOUBLE": 8}
MOST_THREADS = 8
WITHOUT_THREADS = 16 << 20  # bytes of a row group before compression; less is not read faster by several
SLICE_BUFFER = 1 << 17  # bytes of a column chunk that are read at once if a row group is decoded in slices
# Arrow builds every registered extension type that the values of these two keys name. With one letter changed, the keys
# mean nothing to Arrow, which then uses Parquet's own types. These suffice for everything that is read here.
SCHEMA, HIDDEN_SCHEMA = b"ARROW:schema", b"_RROW:schema"
EXTENSION, HIDDEN_EXTENSION = b"ARROW:extension:name", b"_RROW:extension:name"
TENSOR = b"arrow.fixed_shape_tensor"
# The arrays of the package `datasets` are stored as nested lists, which are read as such.
PLAIN_EXTENSIONS = {f"datasets.features.features.Array{ndim}DExtensionType".encode() for ndim in range(2, 6)}


class ParquetContainer:
    """A Parquet file: its columns, its metadata and its row groups as Arrow arrays.

    Attributes:
        types: the Arrow type of every column. If the root is a single struct, its fields are the columns. A fixed-shape
            tensor is nested fixed-size lists.
        refused: why some of the columns cannot be read, as the end of a sentence about the column.
        metadata: the key-value metadata.
        groups: the number of rows in each row group.
        sealed: True if the footer has the digest that `seal` wrote. Reading rows with a damaged footer may crash Arrow
            and the process, so check this before reading from a file that should be sealed.
        identity: a text that changes when the footer changes.
        max_readers: how many readers of slices stay open. Each takes a few MiB for every column that it reads.

    Raises:
        StoreNotFoundError: the file does not exist or is not a regular file.
        CorruptStoreError: the file is not a Parquet file, or is damaged.
        UnsafeStoreError: the footer has more than 64 MiB.
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
        self._footer = start, footer.replace(SCHEMA, HIDDEN_SCHEMA)
        self._parquet: Any = None
        self._parquet = self._parquet_file()
        self._parallel = [self._parquet]
        self.max_readers = 1
        self._slices: dict[tuple[str, ...], tuple[int, int, Iterator[Any]]] = {}
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
        self._leaves: dict[str, range] = {}
        leaf = 0
        for field in fields:
            count = _leaves(field.type)
            self._leaves[field.name] = range(leaf, leaf + count)
            leaf += count
        self.refused: dict[str, str] = {}
        self._tensors: dict[str, Tensor] = {}
        self._read_arrow_schema()

    def _parquet_file(self, **options: Any) -> Any:
        return pq.ParquetFile(
            _FooterOverride(self._file, *self._footer),
            metadata=None if self._parquet is None else self._parquet.metadata,
            memory_map=False,
            pre_buffer=False,
            page_checksum_verification=True,
            arrow_extensions_enabled=False,
            list_type=pa.LargeListType,  # 64-bit offsets: a row group may contain more than 2**31 values
            binary_type=pa.large_binary(),
            **options,
        )

    def _read_arrow_schema(self) -> None:
        """Take from the Arrow schema what Parquet's own types do not express: durations and extension types."""
        encoded = self.metadata.get(HIDDEN_SCHEMA)
        if encoded is None:
            return
        schema = pa.ipc.read_schema(pa.py_buffer(base64.b64decode(encoded).replace(EXTENSION, HIDDEN_EXTENSION)))
        for field in _columns(schema):
            if field.name not in self.types:
                continue
            if pa.types.is_duration(_leaf(field.type)):
                self.types[field.name] = field.type
            names = {_extension(inner) for inner in _all_fields([field])} - {b"", *PLAIN_EXTENSIONS}
            if (
                _extension(field) == TENSOR
                and names == {TENSOR}
                and (tensor := Tensor.of(field, self.types[field.name]))
            ):
                self._tensors[field.name] = tensor
                self.types[field.name] = tensor.type
            elif names:
                shown = quoted(min(names).decode("utf-8", "replace"))
                self.refused[field.name] = (
                    f"has the extension type {shown}, which is not supported; write it as numbers, lists or strings"
                )

    def read(self, group: int, columns: Iterable[str], start: int = 0, stop: int | None = None) -> dict[str, list[Any]]:
        """The chunks of the given columns in one row group, as valid `pyarrow.Array`s.

        Args:
            group: the number of the row group.
            columns: the names of columns.
            start, stop: the rows of the row group. If they are not all of them, memory is needed for these rows only;
                calls for neighbouring slices of one length continue where the last one ended.

        Raises:
            CorruptStoreError: the file is damaged.
            StoreChangedError: the file was altered or replaced after it was opened.
            StoreReadError: the operating system failed to read.
        """
        names = list(columns)
        stop = self.groups[group] if stop is None else stop
        with arrow_errors(self.path):
            if (start, stop) == (0, self.groups[group]):
                tables = self._group(group, names)
            else:
                tables = dict.fromkeys(names, self._slice(group, self._paths(names), start, stop))
            self._file.check()
            arrays = {}
            for name in names:
                chunks = tables[name].column(self._root if self._root is not None else name).chunks
                if self._root is not None:
                    # `flatten` turns a missing struct into missing fields.
                    chunks = [chunk.flatten()[chunk.type.get_field_index(name)] for chunk in chunks]
                for chunk in chunks:
                    chunk.validate(full=True)
                if sum(map(len, chunks)) != stop - start:
                    raise CorruptStoreError(f"{self.path}: column {quoted(name)} lacks rows in row group {group}")
                tensor = self._tensors.get(name)
                arrays[name] = [tensor.nested(chunk) for chunk in chunks] if tensor else chunks
        return arrays

    def _paths(self, names: Iterable[str]) -> list[str]:
        return [self._parquet.schema.column(leaf).path for name in names for leaf in self._leaves[name]]

    def _group(self, group: int, names: Sequence[str]) -> dict[str, Any]:
        """All rows of a row group, as a `pyarrow.Table` for each column, which some columns share.

        The threads are not Arrow's: those stay, and may still be giving back the Python file when the process forks or
        ends, which then hangs or crashes.
        """
        large = self._parquet.metadata.row_group(group).total_byte_size > WITHOUT_THREADS
        cores = (os.cpu_count() or 1) if large and multiprocessing.parent_process() is None else 1
        count = max(1, min(cores, MOST_THREADS, len(names)))
        while len(self._parallel) < count:
            self._parallel.append(self._parquet_file())
        shares = [names[i::count] for i in range(count)]

        def read(file: Any, share: Sequence[str]) -> Any:
            return file.read_row_group(group, columns=self._paths(share), use_threads=False)

        if count == 1:
            return dict.fromkeys(names, read(self._parquet, names))
        with ThreadPoolExecutor(count) as pool:
            tables = list(pool.map(read, self._parallel, shares))
        return {name: table for table, share in zip(tables, shares, strict=True) for name in share}

    def _slice(self, group: int, paths: list[str], start: int, stop: int) -> Any:
        """Some rows of a row group, as a `pyarrow.Table`."""
        at_group, at, rows = self._slices.pop(tuple(paths), (-1, 0, iter(())))
        if (at_group, at) != (group, start):
            rows = _rows_of(self._parquet_file(buffer_size=SLICE_BUFFER), group, paths, start, stop - start)
        table = next(rows)
        if len(table) == stop - start:  # otherwise the reader has come to its end
            self._slices[tuple(paths)] = group, stop, rows
        while len(self._slices) > self.max_readers:
            del self._slices[next(iter(self._slices))]
        pa.default_memory_pool().release_unused()
        return table

    def same_content(self, file: PositionedFile) -> bool:
        """See `PositionedFile.recheck_with`."""
        return f"{file.size}-{digest(read_footer(file)[1]).hex()}" == self.identity

    def group_sizes(self, columns: Iterable[str], widths: Mapping[str, int] | None = None) -> list[int]:
        """For each row group, the least number of bytes that some columns take in memory, according to the footer.

        Args:
            columns: the names of columns.
            widths: the number of bytes of a value, by column; for other columns, that of the type that Parquet stores.

        Raises:
            UnsafeStoreError: a row group would take more than 64 GiB.
        """
        footer = self._parquet.metadata
        leaves = [(leaf, (widths or {}).get(name)) for name in columns for leaf in self._leaves[name]]
        groups = map(footer.row_group, range(footer.num_row_groups))
        sizes = [sum(_decoded_size(group.column(leaf), width) for leaf, width in leaves) for group in groups]
        if max(sizes, default=0) > MAX_GROUP_BYTES:
            group = sizes.index(max(sizes))
            raise UnsafeStoreError(
                f"{self.path}: row group {group} takes {sizes[group]} bytes decoded; the limit is {MAX_GROUP_BYTES}"
            )
        return sizes

    def decoded_size(self, columns: Iterable[str]) -> int:
        """The least number of bytes that some columns take in memory, according to the footer."""
        return sum(self.group_sizes(columns))

    def close(self) -> None:
        self._slices.clear()
        self._parallel.clear()
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


def _rows_of(file: Any, group: int, paths: list[str], start: int, count: int) -> Iterator[Any]:
    """Tables of `count` rows of a row group, from row `start` on."""
    held: list[Any] = []
    rows = skipped = 0
    for batch in file.iter_batches(count, row_groups=[group], columns=paths, use_threads=False):
        if (skip := min(start - skipped, len(batch))) > 0:
            skipped += skip
            if skip == len(batch):
                continue  # an empty slice would keep the memory of all its rows
            batch = batch.slice(skip)
        held, rows = [*held, batch], rows + len(batch)
        while rows >= count:
            table = pa.Table.from_batches(held)
            yield table.slice(0, count)
            held, rows = table.slice(count).to_batches(), rows - count
    yield pa.Table.from_batches(held, file.schema_arrow if not held else None)


def _decoded_size(chunk: Any, width: int | None) -> int:
    """The least number of bytes of the values of a column chunk in memory."""
    width = width or WIDTHS.get(chunk.physical_type)
    least: int = chunk.num_values * (width or 16)
    return least if width else max(least, chunk.total_uncompressed_size)


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


def _extension(field: Any) -> bytes:
    """The name of the extension type of a field; empty if it has none."""
    return bytes((field.metadata or {}).get(HIDDEN_EXTENSION, b""))


def _all_fields(fields: Iterable[Any]) -> Iterable[Any]:
    for field in fields:
        yield field
        yield from _all_fields(field.type.field(i) for i in range(field.type.num_fields))


def _leaf(type_: Any) -> Any:
    while type_.num_fields == 1:
        type_ = type_.field(0).type
    return type_
