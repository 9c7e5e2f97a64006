"""Writing an HDF5 file: streaming, all or nothing, read back before it takes its name."""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping
from contextlib import closing
from pathlib import Path
from typing import Any

import h5py
import numpy as np
from kinoml_data import Array, Columns
from kinoml_data.errors import UnsupportedStoreError
from kinoml_data.files import replacing
from kinoml_data.layouts.checked_arrays import check_names, read_all, write_rows
from numpy.typing import NDArray

from kinoml_data_hdf5.read import ABOUT, Hdf5Storage

CHUNK_BYTES = 1 << 20
VERSION = ("v110", "v110")  # the oldest whose metadata has checksums throughout


def write(
    path: Path,
    columns: Mapping[str, Array],
    batches: Iterable[Columns],
    *,
    arrays: Mapping[str, NDArray[Any]],
    spec: str | None,
    overwrite: bool,
    own: bool,
) -> None:
    """See `Hdf5.write`."""
    if not own:
        raise UnsupportedStoreError("hdf5 writes its own layout alone; leave out `ragged` and `group`")
    check_names("hdf5", columns, arrays, _refused)
    with replacing(path, overwrite=overwrite) as temporary:
        with h5py.File(temporary, "x", libver=VERSION, locking=False) as file:

            def made(key: str, dtype: np.dtype[Any], shape: tuple[int, ...]) -> _Dataset:
                return _Dataset(file, key, dtype, shape)

            about = write_rows(columns, batches, arrays=arrays, spec=spec, made=made)
            file.create_dataset(ABOUT, data=np.frombuffer(json.dumps(about).encode(), np.uint8))
        with closing(Hdf5Storage(temporary, None, verify="always")) as storage:
            read_all(storage)


def _refused(name: str) -> bool:
    return name == ABOUT or "/" in name or "\0" in name or name in ("", ".", "..")


class _Dataset:
    """A dataset that rows are appended to, some at a time.

    What fits into one chunk is written in one piece, as a chunk always takes its whole size. Neither has filters: a
    row is then read without those around it.
    """

    def __init__(self, file: Any, key: str, dtype: np.dtype[Any], shape: tuple[int, ...]) -> None:
        self._file, self._key, self._dtype, self._shape = file, key, dtype, shape
        self._step = max(1, CHUNK_BYTES // max(1, dtype.itemsize * int(np.prod(shape))))
        self._dataset: Any = None
        self._parts: list[NDArray[Any]] = [np.empty((0, *shape), dtype)]
        self._waiting = 0

    def append(self, rows: NDArray[Any]) -> None:
        self._parts.append(rows)
        self._waiting += len(rows)
        if self._waiting > self._step:
            self._write()

    def finish(self) -> None:
        """Write what is left."""
        if self._dataset is None:
            self._file.create_dataset(self._key, data=np.concatenate(self._parts))
        elif self._waiting:
            self._write()

    def _write(self) -> None:
        rows = np.concatenate(self._parts)
        if self._dataset is None:
            chunks = self._step, *(max(1, axis) for axis in self._shape)
            most = None, *(axis or None for axis in self._shape)
            empty = 0, *self._shape
            self._dataset = self._file.create_dataset(self._key, empty, self._dtype, chunks=chunks, maxshape=most)
        start = len(self._dataset)
        self._dataset.resize(start + len(rows), axis=0)
        if rows.size:
            self._dataset[start:] = rows
        self._parts, self._waiting = [rows[:0].copy()], 0
