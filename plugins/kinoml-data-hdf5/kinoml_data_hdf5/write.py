"""Writing an HDF5 file, completely or not at all, batch by batch."""

from __future__ import annotations

import json
import os
from collections.abc import Callable, Iterable, Mapping
from pathlib import Path
from typing import Any

import h5py
import numpy as np
from kinoml_data.plugin import Array, Columns, Storage, check_names, replacing, write_rows
from numpy.typing import NDArray

from kinoml_data_hdf5.read import METADATA, Hdf5Storage

CHUNK_BYTES = 1 << 20
VERSION = ("v110", "v110")  # the oldest version of the format in which all metadata has checksums


def write(
    path: Path,
    columns: Mapping[str, Array],
    batches: Iterable[Columns],
    *,
    arrays: Mapping[str, NDArray[Any]],
    spec: str | None,
    overwrite: bool,
    check: Callable[[Storage], object] | None,
) -> None:
    """See `Hdf5.write`."""
    check_names("hdf5", columns, arrays, _is_refused)
    with replacing(path, overwrite=overwrite) as temporary:
        with _Unfailing(temporary) as target:
            with h5py.File(target, "w", libver=VERSION) as file:

                def create(key: str, dtype: np.dtype[Any], row_shape: tuple[int, ...]) -> _Dataset:
                    return _Dataset(file, key, dtype, row_shape, target.check)

                metadata = write_rows(columns, batches, arrays=arrays, spec=spec, create=create)
                file.create_dataset(METADATA, data=np.frombuffer(json.dumps(metadata).encode(), np.uint8))
            target.check()
        if check is not None:
            with Hdf5Storage(temporary, columns) as storage:
                check(storage)


def _is_refused(name: str) -> bool:
    return name == METADATA or "/" in name or "\0" in name or name in ("", ".", "..")


class _Unfailing:
    """A new file to which HDF5 writes without seeing an error.

    If a write fails, for example because the disk is full, HDF5 ends the process with a segmentation fault when it
    flushes its caches. So the first error is kept for `check`, and what HDF5 still writes stays in memory.
    """

    def __init__(self, path: Path) -> None:
        self._file = path.open("x+b", buffering=0)
        self._error: OSError | None = None
        self._unwritten: list[tuple[int, bytes]] = []  # the offset and the bytes of each write since the error
        self._at = 0

    def __enter__(self) -> _Unfailing:
        return self

    def __exit__(self, *_: object) -> None:
        self._file.close()

    def check(self) -> None:
        """Raise the first error.

        Raises:
            OSError: the operating system failed to write.
        """
        if self._error is not None:
            raise self._error

    def seek(self, offset: int, whence: int = os.SEEK_SET) -> int:
        self._at = offset if whence == os.SEEK_SET else self._file.seek(offset, whence)
        return self._at

    def tell(self) -> int:
        return self._at

    def read(self, size: int) -> bytes:
        """h5py takes an object for a file if it has this method."""
        data = bytearray(size)
        self.readinto(data)
        return bytes(data)

    def readinto(self, out: Any) -> int:
        buffer = memoryview(out).cast("B")
        self._file.seek(self._at)
        count = self._file.readinto(buffer) or 0
        buffer[count:] = bytes(len(buffer) - count)
        for offset, data in self._unwritten:
            first, last = max(offset, self._at), min(offset + len(data), self._at + len(buffer))
            if first < last:
                buffer[first - self._at : last - self._at] = data[first - offset : last - offset]
        self._at += len(buffer)
        return len(buffer)

    def write(self, data: Any) -> int:
        view = memoryview(data).cast("B")
        if self._error is None:
            try:
                self._file.seek(self._at)
                done = 0
                while done < len(view):
                    done += self._file.write(view[done:]) or 0
            except OSError as error:
                self._error = error
        if self._error is not None:
            self._unwritten.append((self._at, bytes(view)))
        self._at += len(view)
        return len(view)

    def truncate(self, size: int) -> int:
        if self._error is None:
            try:
                self._file.truncate(size)
            except OSError as error:
                self._error = error
        return size

    def flush(self) -> None:
        """There is no buffer."""


class _Dataset:
    """A dataset to which rows are appended.

    It is stored without chunks if all rows fit into one, because a chunk always takes its full size on disk. Nothing is
    compressed, so that a row can be read without the rows around it.
    """

    def __init__(
        self, file: Any, key: str, dtype: np.dtype[Any], row_shape: tuple[int, ...], check: Callable[[], None]
    ) -> None:
        self._file, self._key, self._dtype, self._row_shape, self._check = file, key, dtype, row_shape, check
        self._chunk_rows = max(1, CHUNK_BYTES // max(1, dtype.itemsize * int(np.prod(row_shape))))
        self._dataset: Any = None
        self._parts: list[NDArray[Any]] = [np.empty((0, *row_shape), dtype)]
        self._pending_rows = 0

    def append(self, rows: NDArray[Any]) -> None:
        self._parts.append(rows)
        self._pending_rows += len(rows)
        if self._pending_rows > self._chunk_rows:
            self._write()

    def finish(self) -> None:
        """Write the rows that are still in memory."""
        if self._dataset is None:
            self._file.create_dataset(self._key, data=np.concatenate(self._parts))
        elif self._pending_rows:
            self._write()

    def _write(self) -> None:
        rows = np.concatenate(self._parts)
        if self._dataset is None:
            chunks = self._chunk_rows, *(max(1, axis) for axis in self._row_shape)
            limits = None, *(axis or None for axis in self._row_shape)
            empty = 0, *self._row_shape
            self._dataset = self._file.create_dataset(self._key, empty, self._dtype, chunks=chunks, maxshape=limits)
        start = len(self._dataset)
        self._dataset.resize(start + len(rows), axis=0)
        if rows.size:
            self._dataset[start:] = rows
        self._check()
        self._parts, self._pending_rows = [rows[:0].copy()], 0
