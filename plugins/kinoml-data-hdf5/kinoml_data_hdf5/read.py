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
    column_of,
    foreign_arrays,
    gather,
    is_reserved,
    missing_groups,
    own_arrays,
    refuse_scaling,
    rows_of,
    scaled_column,
)
from numpy.typing import NDArray

from kinoml_data_hdf5.file import Hdf5File
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
        StoreNotFoundError: the file does not exist or is not a regular file.
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
        unreadable: dict[str, str] = {}
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
                    file.foreign, file.refuse_holes, checks = True, not fill, None
                    arrays, unreadable = _foreign_arrays(file, columns, group, ragged or {}, self.slices)
                    identity = f"hdf5:{file.stamp}"
                super().__init__(
                    arrays,
                    checks,
                    str(path),
                    verify=verify,
                    unreadable=unreadable,
                    identity=identity,
                    close=file.close,
                )
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
    file: Hdf5File,
    columns: Mapping[str, Array | None] | None,
    group: str,
    ragged: Mapping[str, RaggedLayout],
    slices: Any,
) -> tuple[dict[str, Any], dict[str, str]]:
    """The flat arrays of a file that another program wrote, and why other members of the group cannot be read."""
    names = file.names(group) if columns is None else file.all_names(group)
    if any(name.endswith(CRC) for name in names):
        raise CorruptStoreError(f"{file.path} contains checksums, but not the dataset {METADATA!r} that they need")
    if columns is None and (problem := file.own_problem(group)):
        raise UnsupportedStoreError(problem)
    parts = {_at(group, path) for layout in ragged.values() for path in (layout.values, layout.offsets, layout.lengths)}
    single = [name for name in names if _at(group, name) not in parts]
    splits = [
        name for name in single if (name.startswith("idx_") or name.endswith(INDEX)) and name not in (columns or ())
    ]
    stored = dict.fromkeys(column_of(name, names) for name in single if name not in splits and name != SPEC_KEY)
    groups = file.groups(group) if columns is None else {}
    if columns is not None:
        stored = dict.fromkeys(name for name in columns if _is_stored(file, name, group) or name in ragged)
        if not stored:
            there = f"its group {quoted(group)} contains {quoted(names)}"
            raise SpecError(f"{file.path} contains none of the columns; {there}")
    elif not stored and not ragged:
        raise missing_groups(str(file.path), group, groups)

    def make(name: str) -> dict[str, Any]:
        if name in ragged:
            return _ragged(file, name, ragged[name], group)
        return _column_of(file, name, group, (columns or {}).get(name), slices)

    flat, unreadable = foreign_arrays(
        {**ragged, **stored} if columns is None else stored, columns, make, str(file.path)
    )
    for name in splits:
        try:
            flat[name.removesuffix(INDEX) + INDEX] = file.whole(_at(group, name))
        except UnsupportedStoreError as error:
            unreadable[name] = str(error)
    if SPEC_KEY in names:
        flat[SPEC_KEY] = file.whole(_at(group, SPEC_KEY))
    return flat, unreadable | groups


def _is_stored(file: Hdf5File, name: str, group: str) -> bool:
    return any(_at(group, key) in file for key in (name, name + VALUES, name + UTF8))


def _column_of(file: Hdf5File, name: str, group: str, declared: Array | None, slices: Any) -> dict[str, Any]:
    """The flat arrays of one column that is not in the option `ragged`."""
    at = _at(group, name)
    if at not in file:
        key = name + (VALUES if _at(group, name + VALUES) in file else UTF8)
        shapes = _at(group, name + SHAPES)
        if shapes not in file:
            raise UnsupportedStoreError(f"{file.path} contains {quoted(key)}, but not {quoted(name + SHAPES)}")
        refuse_scaling(name, file.attributes(_at(group, key)), str(file.path))
        return {key: rows_of(file, _at(group, key)), name + SHAPES: file.whole(shapes)}
    if is_reserved(name):
        raise UnsupportedStoreError(f"{file.path}: {quoted(at)} has a name that no column can have; rename it")
    if (column := file.decoded(at)) is not None:
        if not column.array.is_string:
            refuse_scaling(name, file.attributes(at), str(file.path))
        return {name: column}
    values = rows_of(file, at)
    attributes, fill = file.attributes(at), file.fill(values.dtype)
    return {name: scaled_column(name, values, attributes, declared, slices, str(file.path), fill=fill) or values}


def _ragged(file: Hdf5File, name: str, layout: RaggedLayout, group: str) -> dict[str, Any]:
    """The flat arrays of a column that another program stored as values and offsets, or as values and lengths."""
    where = f"{file.path}: column {quoted(name)}"
    path = layout.offsets or layout.lengths or ""
    for key in (layout.values, path):
        if _at(group, key) not in file:
            raise SpecError(f"{where}: there is no dataset {quoted(key)}; correct the option `ragged`")
    values = file.array(_at(group, layout.values))
    if file.decoded(_at(group, layout.values)) is not None:
        raise UnsupportedStoreError(f"{where} contains strings or lists; remove it from the option `ragged`")
    refuse_scaling(name, file.attributes(_at(group, layout.values)), str(file.path))
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
