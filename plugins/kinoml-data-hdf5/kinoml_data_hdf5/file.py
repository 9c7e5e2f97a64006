"""An HDF5 file opened with care: nothing outside of it is followed, and no filter is loaded for it."""

from __future__ import annotations

import errno
import math
from collections.abc import Iterator
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
"""Those that h5py has itself; for any other HDF5 would look for a library to load."""
LARGEST_RATIO, ALWAYS_HELD = 4096, 1 << 20  # of bytes held in memory to bytes in the file; bytes


class Hdf5File:
    """An HDF5 file for reading, by any thread; a `Container`.

    Attributes:
        refuse_holes: whether a dataset of which values were never written is refused.

    Args:
        path: the file.

    Raises:
        StoreNotFoundError, StoreReadError: there is no such regular file, or it cannot be read.
        CorruptStoreError: it is no HDF5 file.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        self._watched = PositionedFile(path)  # finds out if the file is changed; h5py holds one of its own
        self._file: Any = None
        self.refuse_holes = False
        try:
            # No cache of chunks: without filters, HDF5 then reads the bytes of the rows and no more.
            self._open(0)
        except BaseException:
            self.close()
            raise

    def _open(self, cache: int) -> None:
        with self.errors():
            self._file = h5py.File(self.path, "r", locking=False, rdcc_nbytes=cache)
            found = self.path.stat()
            if (found.st_dev, found.st_ino) != self._watched.stat[:2]:
                raise StoreChangedError(f"{self.path} was replaced while it was opened; load the dataset again")

    def check(self) -> None:
        """Raise `StoreChangedError` if the file is no longer as it was."""
        self._watched.check()

    def cached(self, size: int) -> None:
        """Keep so many bytes of chunks per dataset from now on."""
        self._file.close()
        self._open(size)

    @property
    def stamp(self) -> str:
        """The size of the file, and when it was last changed."""
        return f"{self._watched.stat[2]}-{self._watched.stat[3]}"

    @contextmanager
    def errors(self) -> Iterator[None]:
        """Errors of h5py in the block as this library's; after it the file must still be as it was.

        Raises:
            StoreChangedError: it is not.
            StoreReadError: the operating system failed to read.
            CorruptStoreError: anything else.
        """
        try:
            yield
        except KinomlDataError:
            raise
        except Exception as error:
            self._watched.check()
            if isinstance(error, OSError) and error.errno == errno.EIO:
                raise StoreReadError(f"{self.path}: cannot read: {format_error(error)}") from error
            raise CorruptStoreError(f"{self.path} is damaged, or no HDF5 file: {format_error(error)}") from error
        self._watched.check()

    def names(self, group: str) -> list[str]:
        """What a group holds besides groups, in a fixed order with y last.

        Raises:
            SpecError: there is no such group.
            UnsafeStoreError, UnsupportedStoreError: the way there is a link.
        """
        found = self._node(group)
        if not isinstance(found, h5py.Group):
            raise SpecError(f"{self.path} holds no group {quoted(group)}")
        kept = [name for name in found if not isinstance(self._child(found, name), h5py.Group)]
        return sorted(kept, key=lambda name: (name == "y", name))

    def __contains__(self, path: str) -> bool:
        return self._node(path) is not None

    def array(self, path: str) -> Any:
        """A dataset that is safe to read, by its path.

        Raises:
            CorruptStoreError: there is none, or it has no axis of rows.
            UnsafeStoreError: it lies in another file.
            UnsupportedStoreError: its type or a filter of it is not read.
            CorruptStoreError: values of it were never written.
        """
        where = f"{self.path}: {quoted(path)}"
        dataset = self._node(path)
        if dataset is None:
            raise CorruptStoreError(f"{where} is missing")
        if not isinstance(dataset, h5py.Dataset):
            raise CorruptStoreError(f"{where} is no dataset")
        if dataset.is_virtual or dataset.external:
            raise UnsafeStoreError(f"{where} takes its values from other files, which is never done")
        if not is_text(dataset) and (dataset.dtype.name not in DTYPES or dataset.dtype.name == STRING):
            kind = "references" if h5py.check_ref_dtype(dataset.dtype) else f"{dataset.dtype}"
            raise UnsupportedStoreError(f"{where} holds {kind}, which is not read; leave it out of the spec")
        if not dataset.shape:
            raise CorruptStoreError(f"{where} has no axis of rows")
        created = dataset.id.get_create_plist()
        for number in range(created.get_nfilters()):
            code, _, _, name = created.get_filter(number)
            if code not in FILTERS:
                raise UnsupportedStoreError(
                    f"{where} needs the filter {quoted(name.decode('utf-8', 'replace'))} ({code})"
                )
        if self.refuse_holes and (lost := _never_written(dataset)):
            raise CorruptStoreError(
                f"{where}: {lost} never written; the option `missing_chunks: fill` reads them as the fill value"
            )
        return dataset

    def whole(self, path: str) -> NDArray[Any]:
        """A whole dataset as an array in native byte order.

        Raises:
            UnsafeStoreError: it would take far more memory than the file has bytes; others as `array`.
        """
        dataset = self.array(path)
        size = dataset.dtype.itemsize * np.prod(dataset.shape, dtype=np.float64)
        if size > max(ALWAYS_HELD, LARGEST_RATIO * dataset.id.get_storage_size()):
            raise UnsafeStoreError(f"{self.path}: {quoted(path)} would take {size:.0f} bytes, of which few are stored")
        found = dataset[...]
        return np.asarray(found).astype(dataset.dtype.newbyteorder("="), copy=False)

    def text(self, path: str) -> Ragged:
        """The strings of a dataset `(rows,)`, as UTF-8.

        Raises:
            CorruptStoreError: one is not UTF-8.
            UnsupportedStoreError: it has more axes.
        """
        found = self.array(path)[...]
        if found.ndim != 1:
            raise UnsupportedStoreError(f"{self.path}: {quoted(path)} has strings in more than one axis")
        try:
            return Ragged.from_strings([item.decode() for item in found.tolist()])
        except UnicodeDecodeError:
            raise CorruptStoreError(f"{self.path}: {quoted(path)} holds strings that are not UTF-8") from None

    def close(self) -> None:
        if self._file is not None:
            self._file.close()
        self._watched.close()

    def _node(self, path: str) -> Any:
        """What a path leads to, by hard links alone, as others may leave the file; None if it leads nowhere."""
        node = self._file
        for part in path.split("/"):
            if part and node is not None:
                node = self._child(node, part)
                if node in (h5py.ExternalLink, h5py.SoftLink):
                    if node is h5py.SoftLink:
                        raise UnsupportedStoreError(f"{self.path}: {quoted(path)} is a link; name what it points to")
                    raise UnsafeStoreError(f"{self.path}: {quoted(path)} leads out of the file, which is never done")
        return node

    @staticmethod
    def _child(node: Any, name: str) -> Any:
        """What is under a name: the class of the link if it is no hard one, None if there is nothing."""
        if not isinstance(node, h5py.Group) or name in (".", ".."):
            return None
        link = node.get(name, getclass=True, getlink=True)
        return node[name] if link is h5py.HardLink else link


def _never_written(dataset: Any) -> str | None:
    """What of a dataset is not in the file, which HDF5 would read as fill values; None if all of it is."""
    if dataset.size == 0:
        return None
    if dataset.chunks is None:
        return "its values were" if dataset.id.get_storage_size() == 0 else None
    total = math.prod(-(-length // chunk) for length, chunk in zip(dataset.shape, dataset.chunks, strict=True))
    lost = total - dataset.id.get_num_chunks()
    return f"{lost} of its {total} chunks were" if lost else None


def is_text(dataset: Any) -> bool:
    """True for strings, of any length or of one."""
    return h5py.check_string_dtype(dataset.dtype) is not None
