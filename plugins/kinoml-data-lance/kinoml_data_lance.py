"""The backend `lance`: Lance datasets, of which a batch is one `take`.

A dataset that it writes holds the columns of the library's Parquet layout, with a colon where that has a dot, which
Lance refuses in names: `<column>`, `<column>:shape` of ragged ones, `<column>:crc32`. Its checksums go on over the
row's number, as int64: a damaged manifest could give a whole row as another one. Lance and Arrow are imported when a
dataset is opened or written, not with this module.
"""

from __future__ import annotations

import hashlib
import json
import math
import os
import secrets
import shutil
import struct
import warnings
import zlib
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
from kinoml_data import Array, Backend, DataPath, Storage, hookimpl
from kinoml_data.backends.arrays import CRC, difference
from kinoml_data.columns import Column, Columns, Ragged
from kinoml_data.errors import (
    CorruptStoreError,
    KinomlDataError,
    SpecError,
    StoreExistsError,
    StoreNotFoundError,
    StoreWriteError,
    UnsupportedStoreError,
    describe,
    quoted,
)
from numpy.typing import NDArray
from pydantic import Field, ValidationInfo, field_validator, model_validator

# In the metadata, besides what a Parquet file has there: the number of rows; and by the name of a data file, where its
# metadata begins and the BLAKE2b of it. Lance trusts the counts there, and ends the process where memory is too small.
ROWS, FILES = "kinoml_data.rows", "kinoml_data.files"
FOOTER = struct.Struct("<QQQ16x")  # of a data file: where the metadata of the columns and the tables after it begin
CHANGED = "it is damaged, or another program changed it"
_used_in: int | None = None  # the process in which Lance has threads
_kept: list[Any] = []  # see `LanceStorage.__del__`
_said: set[str] = set()


class Lance(Backend):
    """Columns in a Lance dataset: our layout, or numbers, strings and lists of numbers of any origin.

    Attributes:
        path: the folder.
        uri: instead of `path`: where it lies on a remote store, such as `s3://bucket/data.lance`. For reading only.
        storage_options: what Lance needs to get there, as its own argument of that name.
        version: the version to read, instead of the latest.
    """

    name = "lance"
    suffixes = (".lance",)
    path: DataPath | None = None
    uri: str | None = None
    storage_options: dict[str, str] | None = None
    version: int | None = Field(None, ge=1)

    @field_validator("uri")
    @classmethod
    def _remote(cls, uri: str | None, info: ValidationInfo) -> str | None:
        if uri is not None and ("://" not in uri or uri.lower().startswith("file")):
            raise ValueError("a uri names a remote store, as s3://bucket/data.lance does; `path` is for folders")
        if uri is not None and (info.context or {}).get("root") is not None:
            raise ValueError("a uri leaves the dataset's folder")
        return uri

    @model_validator(mode="after")
    def _one_place(self) -> Lance:
        if (self.path is None) == (self.uri is None):
            raise ValueError("give either `path` or `uri`")
        return self

    def open(self, columns: Mapping[str, Array] | None) -> Storage:
        """See `Backend.open`.

        Raises:
            UnsupportedStoreError: a column of another type; or this process was forked from one that uses Lance.
            SpecError: none of the columns asked for is there.
        """
        lance = _lance()
        where = self.uri or str(self.path)
        if self.path is not None and not self.path.is_dir():
            raise StoreNotFoundError(f"there is no folder {quoted(where)}")
        with lance_errors(f"{where}: it cannot be read"):
            try:
                dataset = lance.dataset(where, version=self.version, storage_options=self.storage_options)
            except ValueError as error:
                if "not found" not in str(error):
                    raise
                what = "Lance dataset" if self.version is None else f"version {self.version} of a Lance dataset"
                raise StoreNotFoundError(f"there is no {what} in {quoted(where)}") from None
            return LanceStorage(dataset, where, columns, folder=self.path)

    def write(
        self,
        columns: Mapping[str, Array],
        batches: Iterable[Columns],
        *,
        arrays: Mapping[str, NDArray[Any]] | None = None,
        spec: str | None = None,
        overwrite: bool = False,
    ) -> None:
        """See `Backend.write`. To overwrite is to add a version; the older ones stay.

        Raises:
            SpecError: a batch does not hold what `columns` says; or the options name a version.
            UnsupportedStoreError: a dtype that is not stored bit for bit; or a `uri`.
        """
        from kinoml_data.backends import parquet_write

        if self.path is None:
            raise UnsupportedStoreError("lance writes to a folder, not to a uri: give a `path`, and copy it there")
        if self.version is not None:
            raise SpecError("lance: `version` is for reading; leave it out to write")
        schema = parquet_write.schema_of(columns, self.name)
        metadata = parquet_write.metadata_of(columns, arrays or {}, spec, self.name)
        # A symbolic link stays one: what it points to is replaced.
        final = Path(os.path.realpath(self.path)) if self.path.is_symlink() else self.path
        exists = os.path.lexists(final)
        if exists and not overwrite:
            raise StoreExistsError(f"{quoted(str(final))} exists; pass overwrite=True to replace it")
        if exists and not (final / "_versions").is_dir():
            raise StoreExistsError(f"{quoted(str(final))} exists and is no Lance dataset; move it away first")
        if not final.parent.is_dir():
            raise StoreWriteError(f"there is no folder {quoted(str(final.parent))}")
        temporary = final.with_name(f".{final.name[:40]}.{os.getpid()}.{secrets.token_hex(4)}.partial")
        try:
            operation = _write_rows(temporary, columns, batches, schema, metadata)
            with lance_errors(f"cannot write {quoted(str(final))}", StoreWriteError):
                (_add_version if exists else _move)(temporary, final, operation)
        finally:
            shutil.rmtree(temporary, ignore_errors=True)


class LanceStorage(Storage):
    """One version of a Lance dataset, whatever versions come later.

    Args:
        dataset: a `lance.LanceDataset`.
        where: its place, for errors.
        columns: what is asked for, or None for everything.
        folder: the place, where it is a local one.

    Raises:
        CorruptStoreError: our layout, but not as it was written.
        UnsupportedStoreError: a later layout, or a column of a type that is not read.
    """

    def __init__(
        self, dataset: Any, where: str, columns: Mapping[str, Array] | None, *, folder: Path | None = None
    ) -> None:
        from kinoml_data.backends.arrow import chosen
        from kinoml_data.backends.parquet_layout import PREFIX

        self._dataset, self._where, self._pid = dataset, where, os.getpid()
        self._length: int = dataset.count_rows()
        self._lengths: dict[str, NDArray[np.int64]] = {}
        self._asked = columns or {}
        schema = dataset.schema
        text = {k.decode("utf-8", "replace"): v.decode("utf-8", "replace") for k, v in (schema.metadata or {}).items()}
        said = {key: value for key, value in text.items() if key.startswith(PREFIX)}
        self.checked = bool(said) or any(_colon(name + CRC) in schema.names for name in schema.names)
        if self.checked:
            held = self._own(said, schema.names, folder)
            names = chosen(Path(where), list(held), columns)
        else:
            names = chosen(Path(where), schema.names, columns)
            held = {name: _array(schema.field(name).type, f"{where}: column {quoted(name)}") for name in names}
            self._asked = {n: a for n, a in self._asked.items() if n in held and len(a.shape) == len(held[n].shape)}
            _say_once(f"{where} has no checksums by row: its integrity is unknown")
        self.columns = {name: held[name] for name in names}
        state = [dataset.version, [(field.name, str(field.type)) for field in schema], text]
        state += [fragment.metadata.to_json() for fragment in dataset.get_fragments()]
        self.identity = hashlib.blake2b(json.dumps(state, sort_keys=True).encode(), digest_size=16).hexdigest()

    def _own(self, said: Mapping[str, str], names: Sequence[str], folder: Path | None) -> dict[str, Array]:
        """The columns of our layout, once what the metadata says has been checked."""
        from kinoml_data.backends import parquet_layout as layout

        if said.get(layout.FORMAT, layout.VERSION) != layout.VERSION:
            held = quoted(said[layout.FORMAT])
            raise UnsupportedStoreError(f"{self._where} has the layout {held}; this version reads {layout.VERSION!r}")
        if said.get(layout.DIGEST) != _digest(said):
            raise CorruptStoreError(f"{self._where}: its metadata is not as it was written; {CHANGED}")
        if int(said[ROWS]) != self._length:
            raise CorruptStoreError(f"{self._where} has {self._length} rows, {said[ROWS]} were written; {CHANGED}")
        files = json.loads(said[FILES])
        for name in _files(self._dataset) if folder is not None else ():
            # What Lance has rewritten, as when it joins small files, is not among them.
            if folder is not None and name in files and _tail(folder / "data" / name, files[name][0]) != files[name]:
                raise CorruptStoreError(f"{folder / 'data' / name} is not as it was written; it is damaged")
        columns = {name: Array(a["dtype"], a["shape"]) for name, a in json.loads(said[layout.COLUMNS]).items()}
        self.arrays = {name: layout.stored_array(held) for name, held in json.loads(said[layout.ARRAYS]).items()}
        self.spec = said.get(layout.SPEC)
        parts = [_colon(part) for name, array in columns.items() for part in layout.parts_of(name, array)]
        if missing := [part for part in parts if part not in names]:
            raise CorruptStoreError(f"{self._where}: column {quoted(missing[0])} is missing; {CHANGED}")
        return columns

    def __len__(self) -> int:
        return self._length

    def read(self, rows: NDArray[np.int64], columns: Sequence[str]) -> Columns:
        try:
            return self._read(rows, columns)
        except CorruptStoreError as error:
            if "CRC-32" not in str(error):  # that names its row; for the others one is read at a time
                for row in rows if len(rows) > 1 else ():
                    self._read(np.array([row]), columns)
            raise

    def _read(self, rows: NDArray[np.int64], columns: Sequence[str]) -> Columns:
        from kinoml_data.backends.parquet_layout import parts_of

        if not columns:
            return {}
        where = self._where if len(rows) != 1 else f"{self._where}, row {rows[0]}"
        with lance_errors(f"{where}: it cannot be read"):
            held = {name: self.columns[name] for name in columns}
            parts = [_colon(part) for name, array in held.items() for part in parts_of(name, array)]
            table = self._dataset.take(rows, columns=parts if self.checked else list(held))
            table.validate(full=True)  # offsets that lead out of their values
            if len(table) != len(rows):
                raise CorruptStoreError(f"{where}: {len(table)} rows came for {len(rows)}")
            if self.checked:
                return {name: self._own_column(table, name, array, rows) for name, array in held.items()}
            first = int(rows[0]) if len(rows) == 1 else 0
            return {name: self._decoded(table, name, array, first) for name, array in held.items()}

    def _own_column(self, table: Any, name: str, array: Array, rows: NDArray[np.int64]) -> Column:
        from kinoml_data.backends.parquet_layout import SHAPE, checksums

        where = f"{self._where}: column {quoted(name)}"
        first = int(rows[0]) if len(rows) == 1 else 0
        column: Any
        if array.ragged:
            values: Any = self._decoded(table, name, Array(array.dtype, (None,)), first)
            shapes: Any = self._decoded(table, _colon(name + SHAPE), Array("int64", (len(array.shape),)), first)
            column = Ragged(values.values, shapes)
        elif array.shape:
            flat: Any = self._decoded(table, name, Array(array.dtype, (math.prod(a or 0 for a in array.shape),)), first)
            column = flat.reshape(len(rows), *array.shape)
        else:
            column = self._decoded(table, name, array, first)
        if problem := difference(array, column):
            raise CorruptStoreError(f"{where}: it holds {problem}; {CHANGED}")
        stored: Any = self._decoded(table, _colon(name + CRC), Array("uint32"), first)
        found = _numbered(checksums(column, is_string=array.is_string), rows)
        if (wrong := found != stored).any():
            row, was, said = rows[wrong][0], found[wrong][0], stored[wrong][0]
            raise CorruptStoreError(f"{where}, row {row}: its CRC-32 is {was:#010x}, stored {said:#010x}; {CHANGED}")
        checked: Column = column
        return checked

    def _decoded(self, table: Any, part: str, array: Array, first: int) -> Column:
        """One column of `table`, which must be of the type of `array`, as new arrays."""
        from kinoml_data.backends.arrow import NOT_SHOWN, column_of, dtype_of, rows_of

        held, where = table.column(part), f"{self._where}: column {quoted(part)}"
        if dtype_of(held.type, where) != (len(array.shape), array.dtype):
            raise CorruptStoreError(f"{where} has another type than was written; {CHANGED}")
        parts = [rows_of(chunk, where, first) for chunk in held.chunks]
        asked = self._asked[part].shape if not self.checked and part in self._asked else ()
        for axis, length in enumerate(asked):  # a row of no lists does not show how long these would be
            for rows in parts:
                rows.shapes[rows.shapes[:, axis] == NOT_SHOWN, axis] = length or 0
        column = column_of(array, parts)
        return Ragged(_own(column.values), column.shapes) if isinstance(column, Ragged) else _own(column)

    def shapes(self, column: str) -> NDArray[np.int64] | None:
        array, part = self.columns[column], _colon(column + ".shape")
        if not (self.checked and array.ragged):
            return None
        if column not in self._lengths:
            with lance_errors(f"{self._where}: column {quoted(part)} cannot be read"):
                table = self._dataset.to_table(columns=[part])
                held: Any = self._decoded(table, part, Array("int64", (len(array.shape),)), 0)
                self._lengths[column] = held.reshape(self._length, len(array.shape))
        return self._lengths[column]

    def close(self) -> None:
        self._dataset = None

    def __del__(self, getpid: Callable[[], int] = os.getpid, kept: list[Any] = _kept) -> None:
        # As arguments: when Python ends, the names of modules may be gone before the last storage is.
        if getattr(self, "_pid", None) not in (None, getpid()):
            kept.append(self._dataset)  # what Lance does to free it may hang in a forked process


@hookimpl
def register_backends() -> tuple[type[Backend], ...]:
    """The backend of this plugin."""
    return (Lance,)


@contextmanager
def lance_errors(what: str, raised: type[KinomlDataError] = CorruptStoreError) -> Iterator[None]:
    """Whatever Lance and Arrow raise as one of the library's errors, on one line; a panic of Rust too."""
    try:
        yield
    except (KinomlDataError, MemoryError):
        raise
    except BaseException as error:
        # A panic is a BaseException, of a class that cannot be imported.
        if not isinstance(error, Exception) and type(error).__name__ != "PanicException":
            raise
        raise raised(f"{what}: {describe(error)}") from None


def _lance() -> Any:
    """Lance, where it is safe to use.

    Raises:
        UnsupportedStoreError: in a process forked from one that used it: its threads are not there, and it may wait
            for them for ever.
    """
    global _used_in
    if _used_in not in (None, os.getpid()):
        raise UnsupportedStoreError(
            "Lance cannot be used in a forked process; pass multiprocessing_context='spawn' (or 'forkserver')"
        )
    _used_in = os.getpid()
    import lance

    return lance


def _write_rows(
    folder: Path, columns: Mapping[str, Array], batches: Iterable[Columns], schema: Any, metadata: Mapping[str, str]
) -> Any:
    """Write the rows of `batches` into a new folder; gives the operation that makes a version of them."""
    import pyarrow as pa
    from kinoml_data.backends import parquet_write
    from kinoml_data.backends.parquet_layout import DIGEST

    lance = _lance()
    stored = pa.schema([field.with_name(_colon(field.name)) for field in schema])
    failed: list[BaseException] = []

    def parts() -> Iterator[Any]:
        first = 0
        try:
            for data in parquet_write.row_groups(columns, batches):
                table = parquet_write.table_of(columns, data, schema).rename_columns(stored.names)
                rows = np.arange(first, first + len(table))
                for at, name in enumerate(stored.names):
                    if name.endswith(_colon(CRC)):
                        crcs = _numbered(table.column(at).to_numpy(), rows)
                        table = table.set_column(at, stored.field(at), pa.array(crcs))
                yield from table.to_batches()
                first += len(table)
        except BaseException as error:
            if not isinstance(error, GeneratorExit):
                failed.append(error)
            raise

    try:
        with lance_errors(f"cannot write {quoted(str(folder))}", StoreWriteError):
            reader = pa.RecordBatchReader.from_batches(stored, parts())
            fragments = lance.fragment.write_fragments(reader, str(folder), mode="create")
    except StoreWriteError:
        if failed:  # Lance has made an error of its own of it
            raise failed[0] from None
        raise
    said = {**metadata, ROWS: str(sum(fragment.physical_rows for fragment in fragments))}
    said[FILES] = json.dumps({path.name: _tail(path) for path in sorted(folder.glob("data/*"))})
    said[DIGEST] = _digest(said)
    return lance.LanceOperation.Overwrite(stored.with_metadata(said), fragments)


def _move(temporary: Path, final: Path, operation: Any) -> None:
    """Make a dataset of the rows in `temporary`, and that the new dataset `final`."""
    import lance

    lance.LanceDataset.commit(str(temporary), operation)
    _sync(temporary)
    try:
        temporary.rename(final)
    except OSError:
        if os.path.lexists(final):
            raise StoreExistsError(f"{quoted(str(final))} appeared while it was being written") from None
        raise
    _sync(final.parent, deep=False)


def _add_version(temporary: Path, final: Path, operation: Any) -> None:
    """Make the rows in `temporary` the next version of the dataset `final`."""
    import lance

    _sync(temporary)
    moved = []
    try:
        (final / "data").mkdir(exist_ok=True)
        for file in temporary.glob("data/*"):
            moved.append(file.rename(final / "data" / file.name))  # Lance gives each file a name of its own
        _sync(final / "data", deep=False)
        lance.LanceDataset.commit(str(final), operation)
    except Exception:
        used = _files(lance.dataset(str(final)))
        for path in moved:
            if path.name not in used:
                path.unlink(missing_ok=True)
        raise
    _sync(final / "_versions")


def _files(dataset: Any) -> set[str]:
    return {file.path for fragment in dataset.get_fragments() for file in fragment.data_files()}


def _tail(path: Path, start: int | None = None) -> list[Any]:
    """Where the metadata at the end of a data file begins, and the BLAKE2b of it; at `start` if that is given."""
    with path.open("rb") as file:
        if start is None:
            file.seek(-FOOTER.size, os.SEEK_END)
            start = min(FOOTER.unpack(file.read()))
        file.seek(start)
        return [start, hashlib.blake2b(file.read(), digest_size=16).hexdigest()]


def _sync(folder: Path, *, deep: bool = True) -> None:
    """Flush a folder to disk, with all that is in it or alone."""
    for path in [*(folder.rglob("*") if deep else ()), *([folder] if folder.exists() else ())]:
        fd = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
        try:
            os.fsync(fd)
        finally:
            os.close(fd)


def _own(array: NDArray[Any]) -> NDArray[Any]:
    return array if array.flags.writeable else array.copy()  # Arrow's memory is not ours to give away


def _colon(part: str) -> str:
    """What a part of a column, such as `X.crc32`, is called in Lance."""
    return part.replace(".", ":")


def _digest(said: Mapping[str, str]) -> str:
    """Hex: BLAKE2b, 16 bytes, over the metadata but this digest, as JSON with sorted keys."""
    rest = {key: value for key, value in said.items() if not key.endswith(".digest")}
    return hashlib.blake2b(json.dumps(rest, sort_keys=True).encode(), digest_size=16).hexdigest()


def _numbered(crcs: NDArray[np.uint32], rows: NDArray[np.int64]) -> NDArray[np.uint32]:
    """The CRC-32 of each row, continued over the row's number."""
    numbers = rows.astype("<i8").view("V8").tolist()
    return np.array([zlib.crc32(row, crc) for row, crc in zip(numbers, crcs.tolist(), strict=True)], np.uint32)


def _array(type_: Any, where: str) -> Array:
    """What a column of another origin holds: lists are ragged, fixed-size lists are not."""
    import pyarrow as pa
    from kinoml_data.backends.arrow import NULL, dtype_of

    _, dtype = dtype_of(type_, where)
    if dtype == NULL:
        raise UnsupportedStoreError(f"{where} holds nothing but nulls, which are not read")
    axes: list[int | None] = []
    while hasattr(type_, "value_type"):
        axes.append(type_.list_size if pa.types.is_fixed_size_list(type_) else None)
        type_ = type_.value_type
    return Array(dtype, tuple(axes))


def _say_once(text: str) -> None:
    if text not in _said:
        _said.add(text)
        warnings.warn(text, stacklevel=4)
