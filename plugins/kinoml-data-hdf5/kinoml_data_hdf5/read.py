"""Reading an HDF5 file.

A file that this plugin wrote has the layout of `kinoml_data.layouts.checked_arrays`; the metadata of that layout is
stored as JSON in the dataset `_kinoml_data`.
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
    PositionedFile,
    gather,
    own_arrays,
    rows_of,
)
from numpy.typing import NDArray

from kinoml_data_hdf5.file import Hdf5File, is_text
from kinoml_data_hdf5.layout import RaggedLayout

METADATA = "_kinoml_data"
CHUNK_CACHE = 16 << 20  # bytes per dataset; for files of other programs, which may be compressed
Lengths = NDArray[np.int64]


class Hdf5Storage(CheckedArrayStorage):
    """An HDF5 file opened for reading.

    Args:
        path: the file.
        columns: the columns that the spec asks for; None for all.
        group, ragged, verify: the options of `Hdf5`.
        fill: True if values that were never written are read as fill values; only for files of other programs.

    Raises:
        StoreNotFoundError: there is no such regular file.
        CorruptStoreError: the file is damaged, or is not an HDF5 file.
        UnsafeStoreError: a column takes its values from another file, or needs far more memory than is stored.
        UnsupportedStoreError: a column has a type or a filter that is not supported, or a path is a soft link.
        StoreReadError: the operating system failed to read.
        SpecError: an option does not fit the file, or the file contains none of the columns.
    """

    def __init__(
        self,
        path: Path,
        columns: Mapping[str, Array | None] | None,
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
                        raise SpecError(f"{path} was written by this backend; remove the options `ragged` and `group`")
                    text = file.whole(METADATA).tobytes()
                    arrays, checks = own_arrays(json.loads(text), file, columns, str(path))
                    identity = f"hdf5:{hashlib.blake2b(text, digest_size=16).hexdigest()}"
                    self._metadata = file.offset(METADATA), text
                else:
                    file.use_chunk_cache(CHUNK_CACHE)
                    file.refuse_holes = not fill
                    arrays, checks = _foreign_arrays(file, columns, group, ragged or {}), None
                    identity = f"hdf5:{file.stamp}"
                super().__init__(arrays, checks, str(path), verify=verify, identity=identity, close=file.close)
            if checks is not None and verify != "never":  # otherwise, nothing shows that the values are the same
                file.recheck_with(self.same_content)
        except BaseException:
            file.close()
            raise

    def read(self, rows: Lengths, columns: Sequence[str]) -> Columns:
        while True:
            compared = self._compared
            with self._file.errors():
                batch = super().read(rows, columns)
            if compared is self._compared:  # otherwise, the file was rechecked after the read
                return batch

    def same_content(self, file: PositionedFile) -> bool:
        """See `PositionedFile.recheck_with`."""
        self.compare_again()
        offset, text = self._metadata
        return offset is not None and file.read(offset, len(text)) == text

    def notice_change(self) -> None:
        """See `CheckedArrayStorage.notice_change`."""
        self._file.check()

    @staticmethod
    def slices(values: Any, starts: Lengths, stops: Lengths) -> NDArray[Any]:
        """Override of `ArrayStorage.slices` that reads in the order of the file, to decode each chunk only once."""
        order = np.argsort(starts, kind="stable")
        content = ArrayStorage.slices(values, starts[order], stops[order])
        if np.array_equal(order, np.arange(len(order))):
            return content
        position = np.empty(len(order), np.int64)  # of each slice in `content`
        position[order] = np.arange(len(order))
        ends = np.cumsum((stops - starts)[order])
        begins = ends - (stops - starts)[order]
        return content[position] if content.ndim > 1 else gather(content, begins[position], ends[position])


def _foreign_arrays(
    file: Hdf5File, columns: Mapping[str, Array | None] | None, group: str, ragged: Mapping[str, RaggedLayout]
) -> dict[str, Any]:
    """The flat arrays of a file that another program wrote."""
    names = file.names(group)
    if any(name.endswith(CRC) for name in names):
        raise CorruptStoreError(f"{file.path} contains checksums, but not the dataset {METADATA!r} that they need")
    parts = {_at(group, path) for layout in ragged.values() for path in (layout.values, layout.offsets, layout.lengths)}
    stored = [*ragged, *(name for name in names if _at(group, name) not in parts)]
    flat: dict[str, Any] = {}
    for name in stored if columns is None else columns:
        if name in ragged:
            flat |= _ragged(file, name, ragged[name], group)
            continue
        for key in (name, name + VALUES, name + UTF8, name + SHAPES):
            if (at := _at(group, key)) in file:
                flat |= _column_of(file, key, at)
    if not flat:
        raise SpecError(f"{file.path} contains none of the columns; its group {quoted(group)} contains {quoted(names)}")
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
    """The flat arrays of a column that another program stored as values and offsets, or as values and lengths."""
    where = f"{file.path}: column {quoted(name)}"
    values = file.array(_at(group, layout.values))
    if is_text(values):
        raise UnsupportedStoreError(f"{where} contains strings; remove it from the option `ragged`")
    path = layout.offsets or layout.lengths or ""
    counts = file.whole(_at(group, path))
    if counts.ndim != 1 or counts.dtype.kind not in "iu" or (layout.offsets and len(counts) == 0):
        raise CorruptStoreError(
            f"{where}: {quoted(path)} has dtype {counts.dtype} and shape {counts.shape}, not integers in one axis"
        )
    lengths = counts.astype(np.int64)
    if layout.offsets:
        first, lengths = int(lengths[0]), np.diff(lengths)
        if first != 0:
            raise UnsupportedStoreError(
                f"{where}: the offsets in {quoted(path)} begin at {first}; they must begin at 0"
            )
    total = values.shape[0]
    if (lengths < 0).any() or (lengths > total).any() or lengths.sum() != total:
        raise CorruptStoreError(
            f"{where}: the lengths given by {quoted(path)} do not add up "
            f"to the {total} entries of {quoted(layout.values)}"
        )
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
    """A view of a dataset `(total, ...)` with one axis; slices must begin and end at entries of its first axis."""

    def __init__(self, dataset: Any) -> None:
        self._dataset = dataset
        self.width = math.prod(dataset.shape[1:])
        self.dtype, self.shape = dataset.dtype, (dataset.shape[0] * self.width,)

    def __getitem__(self, part: slice) -> NDArray[Any]:
        width = max(1, self.width)
        values: NDArray[Any] = self._dataset[part.start // width : part.stop // width].reshape(-1)
        return values


def _at(group: str, path: str | None) -> str:
    """The path from the root, without slashes at its ends; a path that begins with a slash is not below `group`."""
    parts = f"{path or ''}" if (path or "").startswith("/") else f"{group}/{path or ''}"
    return "/".join(part for part in parts.split("/") if part)
