"""An HDF5 file opened for reading. Links out of the file are refused, and HDF5 never loads a filter library for it."""

from __future__ import annotations

import errno
import math
import os
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import h5py
import numpy as np
from kinoml_data.errors import (
    CorruptStoreError,
    KinomlDataError,
    SpecError,
    StoreChangedError,
    StoreReadError,
    UnsafeStoreError,
    UnsupportedStoreError,
    format_error,
    quoted,
)
from kinoml_data.plugin import DTYPES, STRING, Array, PositionedFile, Ragged, WholeColumn, group_problem, strings_of
from numpy.typing import NDArray

try:
    import fcntl
except ImportError:  # on Windows, where HDF5 itself notices that a file is open for writing
    fcntl = None  # type: ignore[assignment]

FILTERS = {1: "deflate", 2: "shuffle", 3: "fletcher32", 4: "szip", 5: "nbit", 6: "scaleoffset", 32000: "lzf"}
"""The filters that h5py includes, by their HDF5 codes. For any other filter, HDF5 would load a library."""
MAX_RATIO = 4096  # an array may take this many times as many bytes in memory as in the file
SMALL_ARRAY = 1 << 20  # bytes; an array of up to this size may be stored in any number of bytes
MAX_RATIO_OF_HEAP = 8  # strings and lists of variable length may take this many times as many bytes as the file

PART_ROWS, PART_BYTES = 256, 1 << 24  # of strings or lists that are read at once
DIMENSION = b"This is a netCDF dimension but not a netCDF variable"
# What netCDF-C writes where no value was written, if a variable has no attribute `_FillValue`.
NETCDF_FILL = {
    **{"int16": -32767, "uint16": 65535, "int32": -2147483647, "uint32": 4294967295},
    **{"int64": -9223372036854775806, "uint64": 18446744073709551614},
    **{"float32": np.float32(9.969209968386869e36), "float64": 9.969209968386869e36},
}


class Hdf5File:
    """An HDF5 file that any thread may read; implements `Container`.

    Attributes:
        foreign: True if another program wrote the file, so that what is not expected is not damage.
        refuse_holes: True to refuse a dataset if some of its values were never written; False by default.

    Args:
        path: the file.

    Raises:
        StoreNotFoundError: the file does not exist or is not a regular file.
        StoreReadError: the operating system failed to read, or another program has the file open for writing.
        StoreChangedError: the file was replaced while it was opened.
        UnsupportedStoreError: the file is a netCDF file of the classic format, which is not HDF5.
        CorruptStoreError: the file is damaged, or is not an HDF5 file.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        self._watched = PositionedFile(path)  # it notices a change of the file; h5py reads through its own descriptor
        self._file: Any = None
        self.foreign = self.refuse_holes = False
        try:
            self._refuse_open_for_writing()
            if (
                self._watched.stat[2] > 4
                and (start := self._watched.read(0, 4))[:3] == b"CDF"
                and start[3] in (1, 2, 5)
            ):
                raise UnsupportedStoreError(
                    f"{path} is a netCDF file of the classic format, which is not HDF5; convert it with "
                    "`nccopy -k netCDF-4`"
                )
            # Without a chunk cache and without filters, HDF5 reads only the bytes of the requested rows.
            self._open(chunk_cache=0)
        except BaseException:
            self.close()
            raise

    def _open(self, chunk_cache: int) -> None:
        with self.errors():
            self._file = self._opened(chunk_cache)
            status = self.path.stat()
            if (status.st_dev, status.st_ino) != self._watched.stat[:2]:
                raise StoreChangedError(f"{self.path} was replaced while it was opened; load the dataset again")

    def _opened(self, chunk_cache: int) -> Any:
        """The open `h5py.File`. It is not locked, unless this process already has it open with a lock."""
        for locking in (False, None, True, "best-effort"):
            try:
                return h5py.File(self.path, "r", locking=locking, rdcc_nbytes=chunk_cache)
            except OSError as error:
                if "locking flag values don't match" not in str(error) or locking == "best-effort":
                    raise
        raise AssertionError

    def _refuse_open_for_writing(self) -> None:
        """Refuse a file that HDF5 has locked for writing, in which parts may be missing as if it were damaged."""
        if fcntl is None:
            return
        try:
            descriptor = os.open(self.path, os.O_RDONLY)
        except OSError:
            return  # opening it with h5py reports the error
        try:
            fcntl.flock(descriptor, fcntl.LOCK_SH | fcntl.LOCK_NB)
        except BlockingIOError:
            raise StoreReadError(_in_use(self.path)) from None
        except OSError:
            pass  # the file system has no locks
        finally:
            os.close(descriptor)

    def check(self) -> None:
        """Raise `StoreChangedError` if the file changed after it was opened."""
        self._watched.check()

    def recheck_with(self, method: Callable[[PositionedFile], bool]) -> None:
        """See `PositionedFile.recheck_with`."""
        self._watched.recheck_with(method)

    def offset(self, path: str) -> int | None:
        """The byte of the file at which the values of a dataset begin; None if they are not in one piece."""
        offset: int | None = self.array(path).id.get_offset()
        return offset

    def use_chunk_cache(self, nbytes: int) -> None:
        """Reopen the file with a chunk cache of `nbytes` bytes per dataset; raises the errors of the constructor."""
        self._file.close()
        self._open(nbytes)

    @property
    def stamp(self) -> str:
        """The size of the file and the time of its last change, as `size-time`."""
        return f"{self._watched.stat[2]}-{self._watched.stat[3]}"

    @contextmanager
    def errors(self) -> Iterator[None]:
        """Turn errors of h5py in the block into errors of this library, and check the file for changes after it.

        Raises:
            StoreChangedError: the file changed after it was opened.
            StoreReadError: the operating system failed to read, another program has the file open for writing, or there
                is too little memory.
            CorruptStoreError: h5py failed for any other reason.
        """
        try:
            yield
        except KinomlDataError:
            raise
        except Exception as error:
            self._watched.check()
            if isinstance(error, OSError) and "already open" in str(error):
                raise StoreReadError(_in_use(self.path)) from error
            if isinstance(error, (OSError, MemoryError)) and getattr(error, "errno", errno.EIO) == errno.EIO:
                raise StoreReadError(f"{self.path} cannot be read: {format_error(error)}") from error
            raise CorruptStoreError(f"{self.path} is damaged or not an HDF5 file: {format_error(error)}") from error
        self._watched.check()

    def names(self, group: str) -> list[str]:
        """The names of the members of a group that may be columns, sorted, with "y" last.

        Raises:
            SpecError: the file does not contain the group.
            UnsafeStoreError: a part of the path is an external link.
            UnsupportedStoreError: a part of the path is a soft link.
        """
        node = self._group(group)
        members = {name: self._child(node, name) for name in node}
        names = [name for name, member in members.items() if not isinstance(member, (h5py.Group, h5py.Datatype))]
        return sorted(
            (name for name in names if not _is_dimension(members[name])), key=lambda name: (name == "y", name)
        )

    def all_names(self, group: str) -> list[str]:
        """The names of all members of a group, without a look at them; raises the errors of `names`."""
        return sorted(self._group(group))

    def groups(self, group: str) -> dict[str, str]:
        """Why each group in a group is not a column, and the way out; raises the errors of `names`."""
        node = self._group(group)
        inside = ((name, self._child(node, name)) for name in node)
        return {name: self._problem(child) for name, child in inside if isinstance(child, h5py.Group)}

    def own_problem(self, group: str) -> str | None:
        """Why a group is not a table of columns, if another program stores one table in it; None if it may be one."""
        node = self._group(group)
        return self._problem(node) if "pandas_type" in node.attrs else None

    def attributes(self, path: str) -> dict[str, Any]:
        """The attributes of a dataset that are numbers or text."""
        return _attributes(self._node(path))

    def fill(self, dtype: Any) -> Any:
        """The number that netCDF writes for values that were never set; None if another library wrote the file."""
        return NETCDF_FILL.get(dtype.name) if "_NCProperties" in self._file.attrs else None

    def _group(self, path: str) -> Any:
        node = self._node(path)
        if not isinstance(node, h5py.Group):
            raise SpecError(f"{self.path} does not contain the group {quoted(path)}; correct the option `group`")
        return node

    def _problem(self, group: Any) -> str:
        return group_problem(str(self.path), group.name.strip("/"), _attributes(group), list(group)[:20])

    def __contains__(self, path: str) -> bool:
        return self._node(path) is not None

    def array(self, path: str) -> Any:
        """The h5py dataset at a path, after checks that it is safe to read.

        Raises:
            CorruptStoreError: there is no dataset at this path, or `refuse_holes` is True and some of its values were
                never written.
            UnsafeStoreError: the path leads out of the file, or the dataset takes its values from other files.
            UnsupportedStoreError: a part of the path is a soft link, or the dataset has a type or a filter that is not
                supported; or it is a group or a single value, which is a CorruptStoreError in a file of this library.
        """
        where = f"{self.path}: {quoted(path)}"
        dataset = self._node(path)
        if dataset is None:
            raise CorruptStoreError(f"{where} is missing")
        unexpected = UnsupportedStoreError if self.foreign else CorruptStoreError
        if isinstance(dataset, h5py.Group):
            raise unexpected(self._problem(dataset))
        if not isinstance(dataset, h5py.Dataset):
            raise unexpected(f"{where} is a named type, not an HDF5 dataset")
        if dataset.is_virtual or dataset.external:
            raise UnsafeStoreError(f"{where} takes its values from other files, which are never read")
        if problem := _type_problem(dataset):
            raise UnsupportedStoreError(f"{where} {problem}")
        if not dataset.shape:
            raise unexpected(f"{where} is a single value, not a sequence of rows; store it with one entry per row")
        creation = dataset.id.get_create_plist()
        for number in range(creation.get_nfilters()):
            code, _, _, name = creation.get_filter(number)
            if code not in FILTERS:
                name = quoted(name.decode("utf-8", "replace"))
                raise UnsupportedStoreError(
                    f"{where} needs the filter {name} ({code}), which is not supported; "
                    f"store it without that filter, for example with `h5repack`"
                )
        if self.refuse_holes and (missing := _never_written(dataset)):
            raise CorruptStoreError(
                f"{where}: {missing} never written; the option `missing_chunks: fill` reads them as the fill value"
            )
        return _Bools(dataset) if _is_bools(dataset) else dataset

    def whole(self, path: str) -> NDArray[Any]:
        """All values of a dataset, as an array in native byte order; raises the errors of `array`.

        Raises:
            UnsafeStoreError: the array would take far more bytes in memory than are stored.
            UnsupportedStoreError: the dataset contains strings or lists.
        """
        dataset = self.array(path)
        if dataset.dtype.name not in DTYPES or is_text(dataset):
            raise UnsupportedStoreError(f"{self.path}: {quoted(path)} does not contain numbers")
        size, stored = dataset.dtype.itemsize * np.prod(dataset.shape, dtype=np.float64), dataset.id.get_storage_size()
        if size > max(SMALL_ARRAY, MAX_RATIO * stored):
            raise UnsafeStoreError(
                f"{self.path}: {quoted(path)} would take {size:.0f} bytes in memory, but only {stored} are stored"
            )
        return np.asarray(dataset[...]).astype(dataset.dtype.newbyteorder("="), copy=False)

    def decoded(self, path: str) -> WholeColumn | None:
        """The column of a dataset `(rows,)` of strings or of lists; None if it contains numbers. Raises as `array`."""
        dataset = self.array(path)
        base = None if is_text(dataset) else h5py.check_vlen_dtype(dataset.dtype)
        if base is None and not is_text(dataset):
            return None
        where = f"{self.path}: {quoted(path)}"
        if base is None:
            padded = dataset.dtype.kind == "S" and dataset.id.get_type().get_strpad() == h5py.h5t.STR_SPACEPAD

            def strings() -> Ragged:
                items = [item for part in self._parts(dataset, where) for item in part.tolist()]
                return strings_of([item.rstrip(b" ") for item in items] if padded else items, where)

            return WholeColumn(Array(STRING), len(dataset), strings)
        is_bool = isinstance(dataset.id.get_type().get_super(), h5py.h5t.TypeBitfieldID)
        native = np.dtype(bool) if is_bool else base.base

        def lists() -> Ragged:
            rows = [np.asarray(row).astype(native) for part in self._parts(dataset, where) for row in part]
            return Ragged.from_rows(rows, native, 1 + len(base.shape))

        return WholeColumn(Array(native, (None, *base.shape)), len(dataset), lists)

    def _parts(self, dataset: Any, where: str) -> Iterator[NDArray[Any]]:
        """The rows of strings or lists, some at a time; many rows may refer to the same bytes of the file.

        Raises:
            UnsafeStoreError: they take far more bytes in memory than the file contains.
        """
        # Bytes of variable length are stored without compression.
        ratio = MAX_RATIO if dataset.dtype.kind == "S" else MAX_RATIO_OF_HEAP
        limit, size = max(SMALL_ARRAY, ratio * self._watched.stat[2]), 0
        step = max(1, PART_BYTES // dataset.dtype.itemsize) if dataset.dtype.kind == "S" else PART_ROWS
        for start in range(0, len(dataset), step):
            part = dataset[start : start + step]
            size += part.nbytes if part.dtype.kind == "S" else sum(len(row) for row in part)
            if size > limit:
                raise UnsafeStoreError(f"{where} would take more than {limit} bytes in memory; leave it out")
            yield part

    def close(self) -> None:
        if self._file is not None:
            self._file.close()
        self._watched.close()

    def _node(self, path: str) -> Any:
        """The object at a path, or None if there is none. Only hard links are followed: others may leave the file."""
        node = self._file
        for part in path.split("/"):
            if part and node is not None:
                node = self._child(node, part)
                if node in (h5py.ExternalLink, h5py.SoftLink):
                    if node is h5py.SoftLink:
                        raise UnsupportedStoreError(
                            f"{self.path}: {quoted(path)} is a soft link; use the path that it points to"
                        )
                    raise UnsafeStoreError(f"{self.path}: {quoted(path)} links to another file, which is never read")
        return node

    @staticmethod
    def _child(node: Any, name: str) -> Any:
        """The member `name` of a group; the class of the link if it is not a hard link; None if there is none."""
        if not isinstance(node, h5py.Group) or name in (".", ".."):
            return None
        link = node.get(name, getclass=True, getlink=True)
        return node[name] if link is h5py.HardLink else link


def _never_written(dataset: Any) -> str | None:
    """The part of a dataset that HDF5 would read as fill values, as words for a message; None if all is stored."""
    if dataset.size == 0:
        return None
    if dataset.chunks is None:
        return "its values were" if dataset.id.get_storage_size() == 0 else None
    total = math.prod(-(-length // chunk) for length, chunk in zip(dataset.shape, dataset.chunks, strict=True))
    missing = total - dataset.id.get_num_chunks()
    return f"{missing} of its {total} chunks were" if missing else None


def is_text(dataset: Any) -> bool:
    """True if a dataset contains strings, of fixed or of variable length."""
    return h5py.check_string_dtype(dataset.dtype) is not None


def _in_use(path: Path) -> str:
    return (
        f"{path} is open for writing; close it there first, as with `file.close()`. If the program that wrote it was "
        "ended, `h5clear -s` of HDF5 makes the file readable again"
    )


def _is_dimension(member: Any) -> bool:
    """True for the empty dataset by which netCDF names an axis."""
    name = member.attrs.get("NAME", b"") if isinstance(member, h5py.Dataset) else b""
    return isinstance(name, bytes) and name.startswith(DIMENSION)


def _attributes(node: Any) -> dict[str, Any]:
    found: dict[str, Any] = {}
    for key in node.attrs:
        value = node.attrs[key] if _readable(node.attrs.get_id(key)) else None
        value = value.decode("utf-8", "replace") if isinstance(value, bytes) else value
        if isinstance(value, (str, np.ndarray, np.generic)):
            found[key] = value
    return found


def _readable(attribute: Any) -> bool:
    kinds = h5py.h5t.TypeIntegerID, h5py.h5t.TypeFloatID, h5py.h5t.TypeStringID
    return isinstance(attribute.get_type(), kinds)


def _is_bools(dataset: Any) -> bool:
    """True if PyTables wrote the dataset from bools, which it stores as bit fields of one byte."""
    is_field = isinstance(dataset.id.get_type(), h5py.h5t.TypeBitfieldID)
    return is_field and dataset.dtype == np.uint8 and dataset.attrs.get("CLASS") in (b"ARRAY", b"CARRAY", b"EARRAY")


class _Bools:
    """A dataset of bools, which h5py reads as uint8."""

    def __init__(self, dataset: Any) -> None:
        self._dataset, self.dtype = dataset, np.dtype(bool)

    def __getattr__(self, name: str) -> Any:
        return getattr(self._dataset, name)

    def __getitem__(self, part: Any) -> NDArray[np.bool_]:
        values: NDArray[np.bool_] = self._dataset[part].astype(bool)
        return values


def _type_problem(dataset: Any) -> str | None:
    """Why values of this type cannot be read, and the way out; None if they can."""
    try:
        dtype = dataset.dtype
    except TypeError:  # h5py knows no dtype for it
        return "contains times, which cannot be read; store them as numbers, or leave it out"
    if dataset.shape and len(dataset.shape) > 1 and (is_text(dataset) or h5py.check_vlen_dtype(dtype)):
        kind = "strings" if is_text(dataset) else "lists"
        return (
            f"contains {kind} in more than one axis, which cannot be read; store one of them per row, or leave it out"
        )
    if is_text(dataset):
        return None
    if dtype.names:
        field = quoted(dtype.names[0])
        return (
            f"contains records with the fields {', '.join(dtype.names)}, which are not supported; store each field as "
            f"a dataset of its own, as with `file[{field}] = file[{quoted(dataset.name)}][{field}]`"
        )
    if h5py.check_ref_dtype(dtype):
        return "contains references, which cannot be read; leave it out"
    if base := h5py.check_vlen_dtype(dtype):
        atom = dataset.attrs.get("PSEUDOATOM", b"")
        if atom == b"object":
            return "contains pickled Python objects, which are never read; store them as arrays, or leave it out"
        if atom in (b"vlstring", b"vlunicode"):
            return "contains text in a form of PyTables; store it with h5py as strings, or leave it out"
        dtype = base.base
        if not dtype.isnative:  # h5py returns the bytes as they are, as if they were in the order of this machine
            return f"contains lists of {dtype.str}, whose byte order h5py does not convert; store them as {dtype.name}"
    if dtype.name in DTYPES and dtype.name != STRING and not dtype.shape:
        return None
    way = '.astype("int64")' if dtype.kind in "mM" else '.astype("float64")' if dtype.kind in "fc" else None
    store = f"store it with `{way}`" if way else "store it as numbers or strings"
    return f"contains {dtype}, which cannot be read; {store}, or leave it out"
