"""Writing a Zarr group, completely or not at all, batch by batch."""

from __future__ import annotations

import errno
import threading
import time
from collections.abc import Callable, Iterable, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import zarr
from kinoml_data.plugin import Array, Columns, Storage, check_names, replacing, write_rows
from numpy.typing import NDArray
from zarr.storage import LocalStore

from kinoml_data_zarr.group import local_group
from kinoml_data_zarr.read import ATTRIBUTE, ZarrStorage

CHUNKS_AT_ONCE = 16  # chunks that are written together, so that Zarr compresses them in parallel


def write(
    path: Path,
    columns: Mapping[str, Array],
    batches: Iterable[Columns],
    *,
    arrays: Mapping[str, NDArray[Any]],
    spec: str | None,
    chunk_bytes: int,
    compress: bool,
    check: Callable[[Storage], object] | None,
) -> None:
    """See `Zarr.write`."""
    check_names("zarr", columns, arrays, _is_refused)
    with replacing(path, overwrite=False) as temporary:
        store = _Folder(temporary)
        group = zarr.create_group(store, zarr_format=3)
        options = {"compressors": "auto" if compress else None}

        def create(key: str, dtype: Any, row_shape: tuple[int, ...]) -> _Dataset:
            return _Dataset(group, key, dtype, row_shape, chunk_bytes, options)

        try:
            group.attrs[ATTRIBUTE] = write_rows(columns, batches, arrays=arrays, spec=spec, create=create)
        except BaseException:
            store.give_up()
            raise
        if check is not None:
            with ZarrStorage(local_group(temporary), columns, fill=False) as storage:
                check(storage)


def _is_refused(name: str) -> bool:
    return "/" in name or "\\" in name or name.startswith((".", "__")) or name in ("", "zarr.json")


class _Folder(LocalStore):
    """A folder whose writes can be given up.

    Zarr writes several chunks at once. If one of them fails, the others go on, and would create the folder once more
    after it was removed.
    """

    def __init__(self, root: Path) -> None:
        super().__init__(root)
        self._lock, self._given_up, self._writing = threading.Lock(), False, 0

    async def set(self, key: str, value: Any) -> None:
        with self._lock:
            if self._given_up:
                raise OSError(errno.ECANCELED, f"{key}: another write has failed")
            self._writing += 1
        try:
            await super().set(key, value)
        finally:
            with self._lock:
                self._writing -= 1

    def give_up(self) -> None:
        """Refuse every further write, and wait for those that have begun."""
        with self._lock:
            self._given_up = True
        while self._writing:
            time.sleep(0.001)


class _Dataset:
    """An array of the group to which rows are appended; complete chunks are written `CHUNKS_AT_ONCE` at a time."""

    def __init__(
        self, group: Any, key: str, dtype: Any, shape: tuple[int, ...], chunk_bytes: int, options: Mapping[str, Any]
    ) -> None:
        row_bytes = max(1, dtype.itemsize * int(np.prod(shape)))
        self._chunk_rows = max(1, chunk_bytes // row_bytes)
        self._array = group.create_array(
            key,
            shape=(0, *shape),
            chunks=(self._chunk_rows, *(max(1, axis) for axis in shape)),
            dtype=dtype,
            config={"write_empty_chunks": True},  # a missing chunk is then always damage
            **options,
        )
        self._parts: list[NDArray[Any]] = []
        self._pending_rows = self._length = 0

    def append(self, rows: NDArray[Any]) -> None:
        self._parts.append(rows)
        self._pending_rows += len(rows)
        if self._pending_rows >= self._chunk_rows * CHUNKS_AT_ONCE:
            self._write(self._pending_rows // self._chunk_rows * self._chunk_rows)

    def finish(self) -> None:
        """Write the rows that are still in memory."""
        if self._pending_rows:
            self._write(self._pending_rows)

    def _write(self, count: int) -> None:
        rows = np.concatenate(self._parts)
        start, self._length = self._length, self._length + count
        self._array.resize((self._length, *rows.shape[1:]))
        if rows.size:
            self._array[start : self._length] = rows[:count]
        self._parts, self._pending_rows = [rows[count:].copy()], self._pending_rows - count
