"""Writing a Zarr group: streaming, all or nothing, read back before it takes its name."""

from __future__ import annotations

import os
import secrets
import shutil
from collections.abc import Iterable, Mapping
from contextlib import closing
from pathlib import Path
from typing import Any

import numpy as np
import zarr
from kinoml_data import Array, Columns
from kinoml_data.errors import KinomlDataError, StoreExistsError, StoreWriteError, quoted
from kinoml_data.layouts.checked_arrays import check_names, read_all, write_rows
from numpy.typing import NDArray
from zarr.storage import LocalStore

from kinoml_data_zarr.group import local_group
from kinoml_data_zarr.read import ATTRIBUTE, ZarrStorage

CHUNKS_AT_ONCE = 16  # written together: Zarr compresses them side by side


def write(
    path: Path,
    columns: Mapping[str, Array],
    batches: Iterable[Columns],
    *,
    arrays: Mapping[str, NDArray[Any]],
    spec: str | None,
    chunk_bytes: int,
    compress: bool,
) -> None:
    """See `Zarr.write`."""
    check_names("zarr", columns, arrays, _refused)
    if os.path.lexists(path):
        raise StoreExistsError(f"{quoted(str(path))} exists")
    if not path.parent.is_dir():
        raise StoreWriteError(f"there is no folder {quoted(str(path.parent))}")
    temporary = path.with_name(f".{path.name[:40]}.{os.getpid()}.{secrets.token_hex(4)}.partial")
    try:
        options = {"compressors": "auto" if compress else None}
        _fill(temporary, columns, batches, arrays, spec, chunk_bytes, options)
        with closing(ZarrStorage(local_group(temporary), None, fill=False)) as storage:
            read_all(storage)
        for folder, _, files in os.walk(temporary, topdown=False):
            for name in files:
                _sync(Path(folder, name))
            _sync(Path(folder))
        _rename(temporary, path)
        _sync(path.parent)
    except KinomlDataError:
        raise
    except OSError as error:
        raise StoreWriteError(f"cannot write {quoted(str(path))}: {error}") from error
    finally:
        shutil.rmtree(temporary, ignore_errors=True)


def _refused(name: str) -> bool:
    return "/" in name or "\\" in name or name.startswith((".", "__")) or name in ("", "zarr.json")


def _fill(
    folder: Path,
    columns: Mapping[str, Array],
    batches: Iterable[Columns],
    arrays: Mapping[str, NDArray[Any]],
    spec: str | None,
    chunk_bytes: int,
    options: Mapping[str, Any],
) -> None:
    group = zarr.create_group(LocalStore(folder), zarr_format=3)

    def made(key: str, dtype: Any, shape: tuple[int, ...]) -> _Dataset:
        return _Dataset(group, key, dtype, shape, chunk_bytes, options)

    group.attrs[ATTRIBUTE] = write_rows(columns, batches, arrays=arrays, spec=spec, made=made)


class _Dataset:
    """An array of the group that rows are appended to; whole chunks are written, a few at a time."""

    def __init__(
        self, group: Any, key: str, dtype: Any, shape: tuple[int, ...], chunk_bytes: int, options: Mapping[str, Any]
    ) -> None:
        row_bytes = max(1, dtype.itemsize * int(np.prod(shape)))
        self._step = max(1, chunk_bytes // row_bytes)
        self._array = group.create_array(
            key,
            shape=(0, *shape),
            chunks=(self._step, *(max(1, axis) for axis in shape)),
            dtype=dtype,
            config={"write_empty_chunks": True},  # a chunk that is not there is then always damage
            **options,
        )
        self._parts: list[NDArray[Any]] = []
        self._waiting = self._length = 0

    def append(self, rows: NDArray[Any]) -> None:
        self._parts.append(rows)
        self._waiting += len(rows)
        if self._waiting >= self._step * CHUNKS_AT_ONCE:
            self._write(self._waiting // self._step * self._step)

    def finish(self) -> None:
        """Write what is left."""
        if self._waiting:
            self._write(self._waiting)

    def _write(self, count: int) -> None:
        rows = np.concatenate(self._parts)
        start, self._length = self._length, self._length + count
        self._array.resize((self._length, *rows.shape[1:]))
        if rows.size:
            self._array[start : self._length] = rows[:count]
        self._parts, self._waiting = [rows[count:].copy()], self._waiting - count


def _rename(temporary: Path, path: Path) -> None:
    if os.path.lexists(path):  # `rename` would take the place of an empty folder
        raise StoreExistsError(f"{quoted(str(path))} appeared while it was being written")
    temporary.rename(path)


def _sync(path: Path) -> None:
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
