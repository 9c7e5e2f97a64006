"""An HDF5 file opened for reading. Links out of the file are refused, and HDF5 never loads a filter library for it."""

from __future__ import annotations

import errno
import math
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
from kinoml_data.plugin import DTYPES, STRING, PositionedFile, Ragged
from numpy.typing import NDArray

FILTERS = {1: "deflate", 2: "shuffle", 3: "fletcher32", 4: "szip", 5: "nbit", 6: "scaleoffset", 32000: "lzf"}
"""The filters that h5py includes, by their HDF5 codes. For any other filter, HDF5 would load a library."""
MAX_RATIO = 4096  # an array may take this many times as many bytes in memory as in the file
SMALL_ARRAY = 1 << 20  # bytes; an array of up to this size may be stored in any number of bytes


class Hdf5File:
    """An HDF5 file that any thread may read; implements `Container`.

    Attributes:
        refuse_holes: True to refuse a dataset if some of its values were never written; False by default.

    Args:
        path: the file.

    Raises:
        StoreNotFoundError: there is no such regular file.
        StoreReadError: the operating system failed to read.
        StoreChangedError: the file was replaced while it was opened.
        CorruptStoreError: the file is damaged, or is not an HDF5 file.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        self._watched = PositionedFile(path)  # it notices a change of the file; h5py reads through its own descriptor
        self._file: Any = None
        self.refuse_holes = False
        try:
            # Without a chunk cache and without filters, HDF5 reads only the bytes of the requested rows.
            self._open(chunk_cache=0)
        except BaseException:
            self.close()
            raise

    def _open(self, chunk_cache: int) -> None:
        with self.errors():
            self._file = h5py.File(self.path, "r", locking=False, rdcc_nbytes=chunk_cache)
            status = self.path.stat()
            if (status.st_dev, status.st_ino) != self._watched.stat[:2]:
                raise StoreChangedError(f"{self.path} was replaced while it was opened; load the dataset again")

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
            StoreReadError: the operating system failed to read.
            CorruptStoreError: h5py failed for any other reason.
        """
        try:
            yield
        except KinomlDataError:
            raise
        except Exception as error:
            self._watched.check()
            if isinstance(error, OSError) and error.errno == errno.EIO:
                raise StoreReadError(f"{self.path} cannot be read: {format_error(error)}") from error
            raise CorruptStoreError(f"{self.path} is damaged or not an HDF5 file: {format_error(error)}") from error
        self._watched.check()

    def names(self, group: str) -> list[str]:
        """The names of the members of a group that are not groups themselves, sorted, with "y" last.

        Raises:
            SpecError: there is no such group.
            UnsafeStoreError: a part of the path is an external link.
            UnsupportedStoreError: a part of the path is a soft link.
        """
        node = self._node(group)
        if not isinstance(node, h5py.Group):
            raise SpecError(f"{self.path} does not contain the group {quoted(group)}; correct the option `group`")
        names = [name for name in node if not isinstance(self._child(node, name), h5py.Group)]
        return sorted(names, key=lambda name: (name == "y", name))

    def __contains__(self, path: str) -> bool:
        return self._node(path) is not None

    def array(self, path: str) -> Any:
        """The h5py dataset at a path, after checks that it is safe to read.

        Raises:
            CorruptStoreError: there is no dataset at this path, it has no axis of rows, or `refuse_holes` is True and
                some of its values were never written.
            UnsafeStoreError: the path leads out of the file, or the dataset takes its values from other files.
            UnsupportedStoreError: a part of the path is a soft link, or the dataset has a type or a filter that is not
                supported.
        """
        where = f"{self.path}: {quoted(path)}"
        dataset = self._node(path)
        if dataset is None:
            raise CorruptStoreError(f"{where} is missing")
        if not isinstance(dataset, h5py.Dataset):
            raise CorruptStoreError(f"{where} is not an HDF5 dataset")
        if dataset.is_virtual or dataset.external:
            raise UnsafeStoreError(f"{where} takes its values from other files, which are never read")
        if not is_text(dataset) and (dataset.dtype.name not in DTYPES or dataset.dtype.name == STRING):
            kind = "references" if h5py.check_ref_dtype(dataset.dtype) else f"{dataset.dtype}"
            raise UnsupportedStoreError(f"{where} contains {kind}, which cannot be read; leave it out of the spec")
        if not dataset.shape:
            raise CorruptStoreError(f"{where} is a scalar; a dataset needs an axis of rows")
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
        return dataset

    def whole(self, path: str) -> NDArray[Any]:
        """All values of a dataset, as an array in native byte order; raises the errors of `array`.

        Raises:
            UnsafeStoreError: the array would take far more bytes in memory than are stored.
        """
        dataset = self.array(path)
        size, stored = dataset.dtype.itemsize * np.prod(dataset.shape, dtype=np.float64), dataset.id.get_storage_size()
        if size > max(SMALL_ARRAY, MAX_RATIO * stored):
            raise UnsafeStoreError(
                f"{self.path}: {quoted(path)} would take {size:.0f} bytes in memory, but only {stored} are stored"
            )
        return np.asarray(dataset[...]).astype(dataset.dtype.newbyteorder("="), copy=False)

    def text(self, path: str) -> Ragged:
        """The strings of a dataset `(rows,)`, as their UTF-8 bytes; raises the errors of `array`.

        Raises:
            CorruptStoreError: a string is not UTF-8.
            UnsupportedStoreError: the dataset has more than one axis.
        """
        strings = self.array(path)[...]
        if strings.ndim != 1:
            raise UnsupportedStoreError(
                f"{self.path}: {quoted(path)} contains strings in more than one axis; leave it out of the spec"
            )
        try:
            return Ragged.from_strings([item.decode() for item in strings.tolist()])
        except UnicodeDecodeError:
            raise CorruptStoreError(f"{self.path}: {quoted(path)} contains a string that is not UTF-8") from None

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
