"""Reading an HDF5 file.

One that this plugin wrote has the layout of `kinoml_data.layouts.checked_arrays`, and what belongs to that as JSON in
the dataset `_kinoml_data`.
"""

from __future__ import annotations

import hashlib
import json
import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from kinoml_data.errors import CorruptStoreError, SpecError, UnsupportedStoreError, quoted
from kinoml_data.plugin import (
    CRC,
    INDEX,
    SHAPES,
    SPEC_KEY,
    UTF8,
    VALUES,
    Array,
    ArrayStorage,
    CheckedArrayStorage,
    Columns,
    gather,
    own_arrays,
    rows_of,
)
from numpy.typing import NDArray

from kinoml_data_hdf5.file import Hdf5File, is_text
from kinoml_data_hdf5.layout import RaggedLayout

METADATA = "_kinoml_data"
CACHE = 16 << 20  # bytes of chunks, for the files of others, which may be compressed
Lengths = NDArray[np.int64]


class Hdf5Storage(CheckedArrayStorage):
    """An HDF5 file opened for reading.

    Args:
        path: the file.
        columns: what the spec asks for; None for all.
        group, ragged, verify: the options of `Hdf5`.
        fill: read what was never written as fill values, in a file of another program.

    Raises:
        StoreNotFoundError, StoreReadError, CorruptStoreError, UnsafeStoreError, UnsupportedStoreError: as named.
    """

    def __init__(
        self,
        path: Path,
        columns: Mapping[str, Array] | None,
        *,
        group: str = "/",
        ragged: Mapping[str, RaggedLayout] | None = None,
        fill: bool = False,
        verify: str = "first",
    ) -> None:
        self._file = file = Hdf5File(path)
        try:
            with file.errors():
                if METADATA in file:
                    if ragged or group.strip("/"):
                        raise SpecError(f"{path} was written by this backend; it needs no `ragged` and no `group`")
                    text = file.whole(METADATA).tobytes()
                    arrays, checks = own_arrays(json.loads(text), file, columns, str(path))
                    identity = f"hdf5:{hashlib.blake2b(text, digest_size=16).hexdigest()}"
                else:
                    file.cached(CACHE)
                    file.refuse_holes = not fill
                    arrays, checks = _foreign_arrays(file, columns, group, ragged or {}), None
                    identity = f"hdf5:{file.stamp}"
                super().__init__(arrays, checks, str(path), verify=verify, identity=identity, close=file.close)
        except BaseException:
            file.close()
            raise

    def read(self, rows: Lengths, columns: Sequence[str]) -> Columns:
        with self._file.errors():
            return super().read(rows, columns)

    def notice_change(self) -> None:
        """See `CheckedArrayStorage.notice_change`."""
        self._file.check()

    @staticmethod
    def slices(values: Any, starts: Lengths, stops: Lengths) -> NDArray[Any]:
        """As in the base class, but in the order of the file, so that a compressed chunk is decoded once."""
        order = np.argsort(starts, kind="stable")
        found = ArrayStorage.slices(values, starts[order], stops[order])
        if np.array_equal(order, np.arange(len(order))):
            return found
        back = np.empty(len(order), np.int64)
        back[order] = np.arange(len(order))
        ends = np.cumsum((stops - starts)[order])
        begins = ends - (stops - starts)[order]
        return found[back] if found.ndim > 1 else gather(found, begins[back], ends[back])


def _foreign_arrays(
    file: Hdf5File, columns: Mapping[str, Array] | None, group: str, ragged: Mapping[str, RaggedLayout]
) -> dict[str, Any]:
    """The flat arrays of a file that another program wrote."""
    names = file.names(group)
    if any(name.endswith(CRC) for name in names):
        raise CorruptStoreError(f"{file.path} holds checksums, but not what goes with them")
    parts = {_at(group, path) for held in ragged.values() for path in (held.values, held.offsets, held.lengths)}
    found = [*ragged, *(name for name in names if _at(group, name) not in parts)]
    flat: dict[str, Any] = {}
    for name in found if columns is None else columns:
        if name in ragged:
            flat |= _ragged(file, name, ragged[name], group)
            continue
        for key in (name, name + VALUES, name + UTF8, name + SHAPES):
            if (at := _at(group, key)) in file:
                flat |= _column_of(file, key, at)
    if not flat:
        raise SpecError(f"{file.path} holds none of the columns; there are {quoted(names)} in {quoted(group)}")
    for name in names:
        if name.startswith("idx_") and (columns is None or name not in columns):
            flat.pop(name, None)
            flat[name + INDEX] = file.whole(_at(group, name))
    return flat


def _column_of(file: Hdf5File, key: str, at: str) -> dict[str, Any]:
    if is_text(file.array(at)):
        strings = file.text(at)
        return {key + UTF8: strings.values, key + SHAPES: strings.shapes}
    return {key: file.whole(at) if key == SPEC_KEY or key.endswith((SHAPES, INDEX)) else rows_of(file, at)}


def _ragged(file: Hdf5File, name: str, layout: RaggedLayout, group: str) -> dict[str, Any]:
    """The flat arrays of a column of values and offsets, or lengths."""
    where = f"{file.path}: column {quoted(name)}"
    values = file.array(_at(group, layout.values))
    if is_text(values):
        raise UnsupportedStoreError(f"{where} is of strings, which are read without `ragged`")
    path = layout.offsets or layout.lengths or ""
    counts = file.whole(_at(group, path))
    if counts.ndim != 1 or counts.dtype.kind not in "iu" or (layout.offsets and len(counts) == 0):
        raise CorruptStoreError(f"{where}: {quoted(path)} is {counts.dtype} {counts.shape}, not integers in a row")
    lengths = counts.astype(np.int64)
    if layout.offsets:
        first, lengths = int(lengths[0]), np.diff(lengths)
        if first != 0:
            raise UnsupportedStoreError(f"{where}: {quoted(path)} begins at {first}, not at 0")
    total = values.shape[0]
    if (lengths < 0).any() or (lengths > total).any() or lengths.sum() != total:
        raise CorruptStoreError(f"{where}: {quoted(path)} does not add up to the {total} of {quoted(layout.values)}")
    flat = _Flat(values)
    shape = layout.shape or (None, *values.shape[1:])
    inner = math.prod(axis for axis in shape if axis is not None)
    elements = lengths * flat.width
    if layout.shape and (wrong := elements % inner != 0).any():
        row = int(wrong.argmax())
        raise CorruptStoreError(f"{where}, row {row}: {elements[row]} values do not fill the shape {shape}")
    free = elements // inner if layout.shape else lengths
    shapes = np.stack([free if axis is None else np.full(len(free), axis) for axis in shape], axis=1)
    return {name + VALUES: flat, name + SHAPES: shapes}


class _Flat:
    """A dataset `(total, ...)` as if it had one axis; slices begin and end where an entry of the first axis does."""

    def __init__(self, dataset: Any) -> None:
        self._dataset = dataset
        self.width = math.prod(dataset.shape[1:])
        self.dtype, self.shape = dataset.dtype, (dataset.shape[0] * self.width,)

    def __getitem__(self, part: slice) -> NDArray[Any]:
        width = max(1, self.width)
        found: NDArray[Any] = self._dataset[part.start // width : part.stop // width].reshape(-1)
        return found


def _at(group: str, path: str | None) -> str:
    """The parts of a path from the root; a path that begins with a slash does not start at the group."""
    parts = f"{path or ''}" if (path or "").startswith("/") else f"{group}/{path or ''}"
    return "/".join(part for part in parts.split("/") if part)
