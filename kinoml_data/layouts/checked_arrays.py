"""Flat arrays with checksums, for backends over containers of arrays, such as a Zarr group or an HDF5 file.

The container has the arrays of the flat layout, their checksums, and the metadata that `write_rows` returns, as JSON:

| key | value |
| --- | --- |
| `format` | 1 |
| `columns` | by name: its `dtype`, its `shape`, its `digest` (see `column_digest`), and `keys`: true if it has keys |
| `arrays` | by name: its digest, see `array_digest` |
| `spec` | the digest of `_spec`, or null |

The digests cover types, shapes, keys and the checksums of the rows; the checksums cover the values.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

from kinoml_data.columns import Column, Columns
from kinoml_data.errors import CorruptStoreError, UnsupportedStoreError, error_prefix, quoted
from kinoml_data.layouts.checksums import row_difference
from kinoml_data.layouts.flat_arrays import (
    CRC,
    INDEX,
    KEYS,
    SHAPES,
    SPEC_KEY,
    UTF8,
    VALUES,
    ArrayStorage,
    is_reserved,
    values_key,
)
from kinoml_data.layouts.flat_writing import FlatBatches, other_arrays
from kinoml_data.spec.array import Array

FORMAT = 1
SMALL_ROW = 16  # bytes; a fixed column with rows of up to this size is kept in memory


class Container(Protocol):
    """An open container, which raises only errors of this library."""

    def array(self, key: str) -> Any:
        """An array from which rows are read: it has `dtype`, `shape` and slices."""

    def whole(self, key: str) -> NDArray[Any]:
        """All values of an array, in native byte order."""


class AppendableArray(Protocol):
    """An array of a container that rows are appended to."""

    def append(self, rows: NDArray[Any]) -> None:
        """Add rows `(n, *shape)` at the end."""

    def finish(self) -> None:
        """Write the rows that are still in memory; nothing is appended afterwards."""


class CheckedArrayStorage(ArrayStorage):
    """An `ArrayStorage` that compares rows with their checksums.

    Args:
        arrays: see `ArrayStorage`.
        checksums: uint32 `(rows,)` by column, as `own_arrays` gives them, `(distinct rows,)` if the column has keys;
            None for the arrays of other programs.
        path: the file or folder, for messages.
        verify: "first" compares a row when it is first read, "always" compares each time, "never" does not compare.
        unreadable: see `Storage`.
        identity, close: see `ArrayStorage`.

    Raises:
        CorruptStoreError: the arrays do not fit together.
    """

    def __init__(
        self,
        arrays: Mapping[str, Any],
        checksums: Mapping[str, NDArray[np.uint32]] | None,
        path: str,
        *,
        verify: str = "first",
        unreadable: Mapping[str, str] | None = None,
        identity: str | None = None,
        close: Callable[[], Any] | None = None,
    ) -> None:
        with error_prefix(f"{path}: "):
            super().__init__(arrays, identity=identity, close=close)
        self.unreadable = {**self.unreadable, **(unreadable or {})}
        self.has_checksums = checksums is not None
        self._checksums = {} if checksums is None or verify == "never" else dict(checksums)
        self._path, self._once = path, verify == "first"
        self.compare_again()

    def read(self, rows: NDArray[np.int64], columns: Sequence[str]) -> Columns:
        compared = self._compared  # before the read: see `compare_again`
        batch = super().read(rows, columns)
        for name in columns:
            if name in compared and not compared[name][distinct := self._distinct(name, rows)].all():
                self._compare(name, distinct, batch[name])
                compared[name][distinct] = self._once
        return batch

    def compare_again(self) -> None:
        """Forget which rows were compared with their checksums, because the store may have been altered in place."""
        self._compared = {name: np.zeros(len(crc), bool) for name, crc in self._checksums.items()}

    def notice_change(self) -> None:
        """Check that the store has not been replaced or changed. Called before damage is reported.

        Raises:
            StoreChangedError: the store is no longer the one that was opened.
        """

    def _compare(self, name: str, rows: NDArray[np.int64], column: Column) -> None:
        is_string, what = self.columns[name].is_string, "distinct row" if name in self._keys else "row"
        if problem := row_difference(column, rows, self._checksums[name][rows], is_string=is_string, what=what):
            self.notice_change()
            raise CorruptStoreError(f"{self._path}: column {quoted(name)}, {problem}")


def own_arrays(
    metadata: Any, container: Container, columns: Mapping[str, Array | None] | None, path: str
) -> tuple[dict[str, Any], dict[str, NDArray[np.uint32]]]:
    """The arrays of a container that `write_rows` filled, and the checksums of the rows by column.

    Args:
        metadata: the metadata that `write_rows` returned.
        container: the open container.
        columns: the columns that the spec asks for; None for all.
        path: the file or folder, for messages.

    Raises:
        UnsupportedStoreError: a later version of this library wrote the container.
        CorruptStoreError: an array does not match its digest. Any other exception means that the metadata is damaged.
    """
    if metadata["format"] != FORMAT:
        raise UnsupportedStoreError(
            f"{path} has version {quoted(metadata['format'])} of the layout; "
            f"this version of kinoml_data reads version {FORMAT}"
        )
    stored = metadata["columns"]
    names = [name for name in stored if columns is None or name in columns]
    flat: dict[str, Any] = {}
    checksums: dict[str, NDArray[np.uint32]] = {}
    for name in names or stored:  # one column at least, which tells the number of rows
        array = Array(stored[name]["dtype"], stored[name]["shape"])
        key = values_key(name, array)
        flat[key], checksums[name] = rows_of(container, key), container.whole(name + CRC)
        if key != name:
            flat[name + SHAPES] = container.whole(name + SHAPES)
        if stored[name].get("keys"):
            flat[name + KEYS] = container.whole(name + KEYS)
        dtypes = flat[key].dtype.name, checksums[name].dtype.name
        shapes, keys = flat.get(name + SHAPES), flat.get(name + KEYS)
        digest = column_digest(dtypes[0], flat[key].shape, shapes, checksums[name], keys)
        if dtypes != (array.numpy.name, "uint32") or checksums[name].ndim != 1 or digest != stored[name]["digest"]:
            raise CorruptStoreError(f"{path}: column {quoted(name)} differs from what was written; the data is damaged")
    digests = {name + INDEX: digest for name, digest in metadata["arrays"].items()}
    digests |= {} if metadata["spec"] is None else {SPEC_KEY: metadata["spec"]}
    for key, digest in digests.items():
        flat[key] = container.whole(key)
        if array_digest(flat[key]) != digest:
            raise CorruptStoreError(f"{path}: {quoted(key)} differs from what was written; the data is damaged")
    return flat, checksums


def rows_of(container: Container, key: str) -> Any:
    """An array from which rows are read; a fixed column of small rows is read at once and kept in memory."""
    array = container.array(key)
    small = array.dtype.itemsize * np.prod(array.shape[1:], dtype=np.float64) <= SMALL_ROW
    return container.whole(key) if small and not key.endswith((VALUES, UTF8)) else array


def write_rows(
    columns: Mapping[str, Array],
    batches: Iterable[Columns],
    *,
    arrays: Mapping[str, NDArray[Any]],
    spec: str | None,
    create: Callable[[str, np.dtype[Any], tuple[int, ...]], AppendableArray],
) -> dict[str, Any]:
    """Fill a container with rows batch by batch; returns the metadata of the container, as plain JSON values.

    Args:
        columns, batches, arrays, spec: see `Backend.write`.
        create: creates an array without rows, given its name, its dtype and the shape of one row.

    Raises:
        SpecError: a batch does not match `columns`.
    """
    flat = FlatBatches(columns, batches)
    created = {key: create(key, dtype, shape) for key, (dtype, shape) in flat.layout.items()}
    lengths = dict.fromkeys(flat.layout, 0)
    digested = {
        key: [np.empty((0, *shape), dtype)]
        for key, (dtype, shape) in flat.layout.items()
        if key.endswith((SHAPES, CRC))
    }
    for batch in flat:
        for key, part in batch.items():
            created[key].append(part)
            lengths[key] += len(part)
            if key in digested:
                digested[key].append(part)
    keys, others = flat.keys(), other_arrays(arrays, spec)
    for key, other in (keys | others).items():
        created[key] = create(key, other.dtype, other.shape[1:])
        created[key].append(other)
    for written in created.values():
        written.finish()

    def described(name: str, array: Array) -> dict[str, Any]:
        key, own_keys = values_key(name, array), keys.get(name + KEYS)
        shapes = np.concatenate(digested[name + SHAPES]) if array.rows_differ else None
        shape, checksums = (lengths[key], *flat.layout[key][1]), np.concatenate(digested[name + CRC])
        digest = column_digest(array.numpy.name, shape, shapes, checksums, own_keys)
        marks = {} if own_keys is None else {"keys": True}
        return {**array.model_dump(mode="json", include={"dtype", "shape"}), "digest": digest, **marks}

    return {
        "format": FORMAT,
        "columns": {name: described(name, array) for name, array in columns.items()},
        "arrays": {name: array_digest(array) for name, array in arrays.items()},
        "spec": None if spec is None else array_digest(others[SPEC_KEY]),
    }


def check_names(backend: str, names: Collection[str], arrays: Collection[str], refused: Callable[[str], bool]) -> None:
    """Refuse names of columns and arrays that the layout or the container uses for something else.

    Raises:
        UnsupportedStoreError: a name is refused; the error names it.
    """
    if wrong := [*filter(is_reserved, names), *filter(refused, (*names, *arrays))]:
        raise UnsupportedStoreError(
            f"{backend} cannot store a column or an array with the name {quoted(wrong[0])}; rename it"
        )


def column_digest(
    dtype: str,
    shape: Sequence[int],
    shapes: NDArray[np.int64] | None,
    checksums: NDArray[np.uint32],
    keys: NDArray[Any] | None = None,
) -> str:
    """The 16-byte BLAKE2b digest, in hex, of everything that is stored for a column except its values.

    Args:
        dtype, shape: the dtype and the shape of the array that contains the values.
        shapes: the array `<column>.shapes`; None if there is none.
        checksums: the array `<column>.crc32`.
        keys: the array `<column>.keys`; None if there is none.
    """
    digest = hashlib.blake2b(json.dumps([dtype, *shape]).encode(), digest_size=16)
    if shapes is not None:
        digest.update(np.ascontiguousarray(shapes, "<i8").tobytes())
    digest.update(np.ascontiguousarray(checksums, "<u4").tobytes())
    if keys is not None:
        digest.update(array_digest(keys).encode())
    return digest.hexdigest()


def array_digest(array: NDArray[Any]) -> str:
    """The 16-byte BLAKE2b digest, in hex, of the dtype, the shape and the values of an array."""
    digest = hashlib.blake2b(json.dumps([array.dtype.name, *array.shape]).encode(), digest_size=16)
    digest.update(np.ascontiguousarray(array, array.dtype.newbyteorder("<")).tobytes())
    return digest.hexdigest()
