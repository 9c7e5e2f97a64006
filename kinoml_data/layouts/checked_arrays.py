"""Flat arrays with checksums, for backends over containers of arrays, such as a Zarr group or an HDF5 file.

Beside the arrays that `ArrayStorage` reads stand the checksums of their rows; and somewhere in the container, as JSON,
what `write_rows` returns:

| where | what |
| --- | --- |
| `<column>.crc32` | uint32 `(rows,)`: the checksum of each row, see `checksums` |
| `format` | 1 |
| `columns` | by name: its `dtype`, `shape`, and the `digest` of `column_digest` |
| `arrays` | by name: the `digest` of `array_digest` |
| `spec` | the same of `_spec`, or null |

The digests cover types, shapes and the checksums of rows, and these cover the values.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

from kinoml_data.columns import Column, Columns
from kinoml_data.contracts.backend import Storage
from kinoml_data.errors import CorruptStoreError, SpecError, UnsupportedStoreError, quoted
from kinoml_data.layouts.checksums import row_checksums
from kinoml_data.layouts.flat_arrays import CRC, INDEX, SHAPES, SPEC, UTF8, VALUES, ArrayStorage, flatten, mismatch
from kinoml_data.spec.array import Array

FORMAT = 1
SMALL_ROW = 16  # bytes; a fixed column of smaller rows is held in memory
ROWS_PER_READ = 1024


class Container(Protocol):
    """An open container; what it raises are errors of this library."""

    def array(self, key: str) -> Any:
        """An array to read rows of: with `dtype`, `shape` and slices."""

    def whole(self, key: str) -> NDArray[Any]:
        """A whole array, in native byte order."""


class AppendableArray(Protocol):
    """An array of a container that rows are appended to."""

    def append(self, rows: NDArray[Any]) -> None:
        """Add rows `(n, *shape)` at the end."""

    def finish(self) -> None:
        """Write what is left; nothing is appended afterwards."""


class CheckedArrayStorage(ArrayStorage):
    """An `ArrayStorage` that compares rows with their checksums.

    Args:
        arrays: see `ArrayStorage`.
        checks: uint32 `(rows,)` by column, as `own_arrays` gives them; None for arrays of other programs.
        where: the file or folder, for messages.
        verify: "first" time a row is read, "always", or "never".
        identity, close: see `ArrayStorage`.

    Raises:
        CorruptStoreError: the arrays do not fit together.
    """

    def __init__(
        self,
        arrays: Mapping[str, Any],
        checks: Mapping[str, NDArray[np.uint32]] | None,
        where: str,
        *,
        verify: str = "first",
        identity: str | None = None,
        close: Callable[[], Any] | None = None,
    ) -> None:
        try:
            super().__init__(arrays, identity=identity, close=close)
        except CorruptStoreError as error:
            raise CorruptStoreError(f"{where}: {error}") from None
        self.has_checksums = checks is not None
        self._checks = {} if checks is None or verify == "never" else dict(checks)
        self._where, self._once = where, verify == "first"
        self._passed = {name: np.zeros(len(self), bool) for name in self._checks}

    def read(self, rows: NDArray[np.int64], columns: Sequence[str]) -> Columns:
        found = super().read(rows, columns)
        for name in columns:
            if name in self._checks and not self._passed[name][rows].all():
                self._check(name, rows, found[name])
        return found

    def notice_change(self) -> None:
        """Called before damage is reported.

        Raises:
            StoreChangedError: the store is no longer the one that was opened.
        """

    def _check(self, name: str, rows: NDArray[np.int64], column: Column) -> None:
        checksums = row_checksums(column, rows, is_string=self.columns[name].is_string)
        stored = self._checks[name][rows]
        if (wrong := checksums != stored).any():
            self.notice_change()
            i = int(wrong.argmax())
            raise CorruptStoreError(
                f"{self._where}: column {quoted(name)}, row {rows[i]}: "
                f"its CRC-32 is {checksums[i]:#010x}, stored is {stored[i]:#010x}"
            )
        self._passed[name][rows] = self._once


def own_arrays(
    about: Any, container: Container, columns: Mapping[str, Array] | None, where: str
) -> tuple[dict[str, Any], dict[str, NDArray[np.uint32]]]:
    """The arrays of a container that `write_rows` filled, and the checksums of the rows by column.

    Args:
        about: what that returned.
        container: what holds the arrays.
        columns: what the spec asks for; None for all.
        where: the file or folder, for messages.

    Raises:
        UnsupportedStoreError: a later version wrote it.
        CorruptStoreError: what is read now does not have its digest. Other errors mean that `about` is damaged.
    """
    if about["format"] != FORMAT:
        raise UnsupportedStoreError(f"{where} has the layout {quoted(about['format'])}; this version reads {FORMAT}")
    wanted = about["columns"].keys() if columns is None else columns.keys() & about["columns"].keys()
    flat: dict[str, Any] = {}
    checks: dict[str, NDArray[np.uint32]] = {}
    for name, said in about["columns"].items():
        if name not in wanted and wanted:  # one is needed, to know how many rows there are
            continue
        array = Array(said["dtype"], said["shape"])
        key = _key(name, array)
        flat[key], checks[name] = rows_of(container, key), container.whole(name + CRC)
        if key != name:
            flat[name + SHAPES] = container.whole(name + SHAPES)
        types = flat[key].dtype.name, checks[name].dtype.name
        digest = column_digest(types[0], flat[key].shape, flat.get(name + SHAPES), checks[name])
        if types != (array.numpy.name, "uint32") or checks[name].ndim != 1 or digest != said["digest"]:
            raise CorruptStoreError(f"{where}: column {quoted(name)} is not what was written")
    digests = {name + INDEX: digest for name, digest in about["arrays"].items()}
    digests |= {} if about["spec"] is None else {SPEC: about["spec"]}
    for key, digest in digests.items():
        flat[key] = container.whole(key)
        if array_digest(flat[key]) != digest:
            raise CorruptStoreError(f"{where}: {quoted(key)} is not what was written")
    return flat, checks


def rows_of(container: Container, key: str) -> Any:
    """An array to read rows of; held as numpy where it is a column of small rows."""
    array = container.array(key)
    small = array.dtype.itemsize * np.prod(array.shape[1:], dtype=np.float64) <= SMALL_ROW
    return container.whole(key) if small and not key.endswith((VALUES, UTF8)) else array


def write_rows(
    columns: Mapping[str, Array],
    batches: Iterable[Columns],
    *,
    arrays: Mapping[str, NDArray[Any]],
    spec: str | None,
    made: Callable[[str, np.dtype[Any], tuple[int, ...]], AppendableArray],
) -> dict[str, Any]:
    """Fill a container with rows as they come; returns what belongs into it besides, as plain JSON values.

    Args:
        columns, batches, arrays, spec: see `Backend.write`.
        made: makes an array without rows, of a name, a dtype and the shape of one row.

    Raises:
        SpecError: a batch holds something else than `columns` announces.
    """
    growing: dict[str, AppendableArray] = {}
    for name, array in columns.items():
        growing[_key(name, array)] = made(_key(name, array), array.numpy, _fixed(array))
        if array.ragged or array.is_string:
            growing[name + SHAPES] = made(name + SHAPES, np.dtype(np.int64), (max(1, len(array.shape)),))
        growing[name + CRC] = made(name + CRC, np.dtype(np.uint32), ())
    row, lengths = 0, dict.fromkeys(columns, 0)
    kept: dict[str, list[NDArray[Any]]] = {key: [] for key in growing if key.endswith((SHAPES, CRC))}
    for batch in batches:
        for name, array in columns.items():
            if problem := mismatch(array, batch[name]):
                raise SpecError(f"column {quoted(name)}: a batch holds {problem}")
            rows = np.arange(row, row + len(batch[name]))
            parts = flatten({name: array}, {name: batch[name]})
            parts[name + CRC] = row_checksums(batch[name], rows, is_string=array.is_string)
            lengths[name] += len(parts[_key(name, array)])
            for key, part in parts.items():
                growing[key].append(part)
                if key in kept:
                    kept[key].append(part)
        row += len(next(iter(batch.values())))
    whole = {name + INDEX: array for name, array in arrays.items()}
    if spec is not None:
        whole[SPEC] = np.frombuffer(spec.encode(), np.uint8)
    for key, held in whole.items():
        growing[key] = made(key, held.dtype, held.shape[1:])
        growing[key].append(held)
    for each in growing.values():
        each.finish()

    def digest(name: str, array: Array) -> str:
        crc = np.concatenate([np.empty(0, np.uint32), *kept[name + CRC]])
        width = max(1, len(array.shape))
        lines = kept.get(name + SHAPES)
        shapes = None if lines is None else np.concatenate([np.empty((0, width), np.int64), *lines])
        return column_digest(array.numpy.name, (lengths[name], *_fixed(array)), shapes, crc)

    return {
        "format": FORMAT,
        "columns": {
            name: {**array.model_dump(mode="json", include={"dtype", "shape"}), "digest": digest(name, array)}
            for name, array in columns.items()
        },
        "arrays": {name: array_digest(held) for name, held in arrays.items()},
        "spec": None if spec is None else array_digest(whole[SPEC]),
    }


def check_names(backend: str, names: Collection[str], arrays: Collection[str], refused: Callable[[str], bool]) -> None:
    """Refuse names of columns and arrays that the layout or the container uses otherwise.

    Raises:
        UnsupportedStoreError: naming it.
    """
    ours = [name for name in names if name == SPEC or name.endswith((VALUES, UTF8, SHAPES, INDEX, CRC))]
    if wrong := [*ours, *filter(refused, (*names, *arrays))]:
        raise UnsupportedStoreError(f"{backend} cannot hold a column or an array of the name {quoted(wrong[0])}")


def read_all(storage: Storage) -> None:
    """Read every row, so that checksums are compared."""
    for start in range(0, len(storage), ROWS_PER_READ):
        storage.read(np.arange(start, min(start + ROWS_PER_READ, len(storage))), list(storage.columns))


def column_digest(
    dtype: str, shape: Sequence[int], shapes: NDArray[np.int64] | None, checks: NDArray[np.uint32]
) -> str:
    """BLAKE2b of 16 bytes, in hex, over what is stored of a column besides its values.

    Args:
        dtype, shape: of the array with the values.
        shapes, checks: its `.shapes`, where it has them, and its `.crc32`.
    """
    digest = hashlib.blake2b(json.dumps([dtype, *shape]).encode(), digest_size=16)
    if shapes is not None:
        digest.update(np.ascontiguousarray(shapes, "<i8").tobytes())
    digest.update(np.ascontiguousarray(checks, "<u4").tobytes())
    return digest.hexdigest()


def array_digest(array: NDArray[Any]) -> str:
    """The same over a whole array."""
    digest = hashlib.blake2b(json.dumps([array.dtype.name, *array.shape]).encode(), digest_size=16)
    digest.update(np.ascontiguousarray(array, array.dtype.newbyteorder("<")).tobytes())
    return digest.hexdigest()


def _key(name: str, array: Array) -> str:
    return name + (UTF8 if array.is_string else VALUES if array.ragged else "")


def _fixed(array: Array) -> tuple[int, ...]:
    """The shape of a row of the array with the values."""
    return () if array.ragged else tuple(axis or 0 for axis in array.shape)
