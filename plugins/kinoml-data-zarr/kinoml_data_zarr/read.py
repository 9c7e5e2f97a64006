"""Reading a Zarr group.

A group that this plugin wrote has the layout of `kinoml_data.layouts.checked_arrays`; the metadata of that layout is
its attribute `kinoml_data`. Zarr reads a missing chunk as zeros and does not always notice a damaged one, but then the
rows do not have their checksums.
"""

from __future__ import annotations

import hashlib
import json
import math
import os
from collections.abc import Collection, Iterable, Mapping, Sequence
from typing import Any

import numpy as np
import zarr
from kinoml_data.errors import CorruptStoreError, SpecError, StoreChangedError, UnsupportedStoreError, quoted
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
    column_of,
    foreign_arrays,
    gather,
    is_reserved,
    own_arrays,
    refuse_scaling,
    rows_of,
    scaled_column,
    to_native_order,
)
from numpy.typing import NDArray
from zarr.storage import LocalStore

from kinoml_data_zarr.group import ZarrGroup, missing_chunks, zarr_errors

ATTRIBUTE = "kinoml_data"
MISSING_CHUNK = np.uint64(2**64 - 1)  # in the index of a shard, the offset and the length of a chunk that is not stored
Lengths = NDArray[np.int64]


class ZarrStorage(CheckedArrayStorage):
    """A Zarr group opened for reading. Every row is checked whenever it is read, because chunks may change at any time.

    Args:
        container: the group.
        columns: the columns that the spec asks for; None for all.
        fill: True if missing chunks are read as fill values; only for groups of other programs.
        group: the path of the group that contains the columns; only for groups of other programs.

    Raises:
        CorruptStoreError: the group is damaged, or lacks a column or a chunk.
        UnsafeStoreError: an array needs too much memory.
        UnsupportedStoreError: an array has a dtype or a codec that is not supported, or a later version of this library
            wrote the group.
        SpecError: the group contains none of the columns, or the group does not exist.
        StoreReadError: the group cannot be reached.
    """

    def __init__(
        self, container: ZarrGroup, columns: Mapping[str, Array | None] | None, *, fill: bool, group: str = "/"
    ) -> None:
        self._store = container.group.store
        unreadable: dict[str, str] = {}
        with zarr_errors(container.where):
            metadata = container.group.attrs.asdict().get(ATTRIBUTE)
            if metadata is None:
                container.foreign, checks = True, None
                inside = container.inside(group)
                arrays, unreadable = _foreign_arrays(inside, columns, self.slices, fill=fill)
            else:
                if group.strip("/"):
                    raise SpecError(f"{container.where} was written by this backend; remove the option `group`")
                arrays, checks = own_arrays(metadata, container, columns, container.where)
            identity = None if metadata is None else _identity(metadata)
            super().__init__(
                arrays,
                checks,
                container.where,
                verify="always",
                unreadable=unreadable,
                identity=identity,
                close=self._store.close,
            )

    def read(self, rows: Lengths, columns: Sequence[str]) -> Columns:
        with zarr_errors(self._path):
            return super().read(rows, columns)

    def notice_change(self) -> None:
        """See `CheckedArrayStorage.notice_change`."""
        metadata = zarr.open_group(self._store, mode="r").attrs.asdict().get(ATTRIBUTE)
        if metadata is None or _identity(metadata) != self.identity:
            raise StoreChangedError(f"{self._path} was changed after it was opened; load the dataset again")

    @staticmethod
    def slices(values: Any, starts: Lengths, stops: Lengths) -> NDArray[Any]:
        """Override of `ArrayStorage.slices` that selects scattered rows at once, so that each chunk is decoded once."""
        lengths = stops - starts
        total = int(lengths.sum())
        if total == 0:
            return np.empty((0, *values.shape[1:]), values.dtype.newbyteorder("="))
        adjacent = np.array_equal(starts[1:], stops[:-1])
        if adjacent or total > len(starts) * values.chunks[0]:  # rows longer than a chunk gain nothing from a selection
            return ArrayStorage.slices(values, starts, stops)
        order = np.argsort(starts)
        ends = np.cumsum(lengths[order])
        begins = ends - lengths[order]
        elements = np.arange(total) + np.repeat(starts[order] - begins, lengths[order])
        content = to_native_order(np.asarray(values.oindex[elements]))
        position = np.empty(len(order), np.int64)  # of each slice in `content`
        position[order] = np.arange(len(order))
        return content[position] if content.ndim > 1 else gather(content, begins[position], ends[position])


def _foreign_arrays(
    container: ZarrGroup, columns: Mapping[str, Array | None] | None, slices: Any, *, fill: bool
) -> tuple[dict[str, Any], dict[str, str]]:
    """The flat arrays of a group that another program wrote, and why other members of it cannot be read."""
    names = container.names()
    if checksums := [key for key in names if key.endswith(CRC)]:
        raise CorruptStoreError(
            f"{container.where} contains the checksums {quoted(checksums[0])}, but not the attribute {ATTRIBUTE!r} "
            "that they need"
        )
    splits = [
        name for name in names if (name.startswith("idx_") or name.endswith(INDEX)) and name not in (columns or ())
    ]
    groups: dict[str, str] = {}
    if columns is None:
        stored = dict.fromkeys(column_of(name, names) for name in names if name not in splits and name != SPEC_KEY)
        groups = _groups(container, stored)
        stored = {name: None for name in stored if name not in groups}
        if not stored:
            raise container.no_arrays(groups)
    else:
        stored = dict.fromkeys(name for name in columns if _is_stored(container, name, names))
        if not stored:
            there = f"its group {quoted(container.group.path or '/')} contains {quoted(names)}"
            raise SpecError(f"{container.where} contains none of the columns; {there}")

    def make(name: str) -> dict[str, Any]:
        return _column(container, name, names, (columns or {}).get(name), slices, fill=fill)

    flat, unreadable = foreign_arrays(stored, columns, make, container.where)
    for name in splits:
        try:
            flat[name.removesuffix(INDEX) + INDEX] = container.whole(name)
        except UnsupportedStoreError as error:
            unreadable[name] = str(error)
    if SPEC_KEY in names:
        flat[SPEC_KEY] = container.whole(SPEC_KEY)
    return flat, unreadable | groups


def _groups(container: ZarrGroup, names: Iterable[str]) -> dict[str, str]:
    groups: dict[str, str] = {}
    for name in names:
        try:
            problem = container.problem(name)
        except UnsupportedStoreError:
            continue  # an array
        if problem:
            groups[name] = problem
    return groups


def _is_stored(container: ZarrGroup, name: str, names: Collection[str]) -> bool:
    if name in names or name + VALUES in names or name + UTF8 in names:
        return True
    try:
        return any(container.get(key) is not None for key in (name, name + VALUES, name + UTF8))
    except UnsupportedStoreError:
        return True


def _column(
    container: ZarrGroup, name: str, names: Collection[str], declared: Array | None, slices: Any, *, fill: bool
) -> dict[str, Any]:
    """The flat arrays of one column."""
    for key in (name + VALUES, name + UTF8):
        if name not in names and (key in names or ("/" in name and container.get(key) is not None)):
            for part in (key, name + SHAPES):
                if part not in names and container.get(part) is None:
                    raise UnsupportedStoreError(f"{container.where} contains {quoted(key)}, but not {quoted(part)}")
                _refuse_holes(container, part, fill=fill)
            refuse_scaling(name, container.array(key).attrs.asdict(), container.where)
            return {key: rows_of(container, key), name + SHAPES: container.whole(name + SHAPES)}
    if is_reserved(name):
        raise UnsupportedStoreError(f"{container.where}: {quoted(name)} has a name that no column can have; rename it")
    if (lists := container.lists(name, fill=fill)) is not None:
        refuse_scaling(name, container.attributes_of_lists(name), container.where)
        return {name: lists}
    strings = container.strings(name)
    _refuse_holes(container, name, fill=fill)
    if strings is not None:
        return {name: strings}
    values = rows_of(container, name)
    array = container.array(name)
    attributes = array.attrs.asdict()
    # Of Zarr 2, xarray writes `_FillValue` in this place; the fill value of another program does not mean anything.
    is_xarray = array.metadata.zarr_format == 2 and "_ARRAY_DIMENSIONS" in attributes
    missing = array.fill_value if is_xarray else None
    column = scaled_column(name, values, attributes, declared, slices, container.where, fill=missing)
    return {name: column or values}


def _refuse_holes(container: ZarrGroup, key: str, *, fill: bool) -> None:
    """Refuse an array without checksums if chunks of it are missing, which Zarr would silently read as fill values.

    If `fill` is True, nothing is refused.
    """
    array = container.array(key, text=True)
    if fill or not container.group.store.supports_listing or 0 in array.shape:
        return
    object_shape = array.shards or array.chunks  # of one object in the store
    total = math.prod(-(-length // step) for length, step in zip(array.shape, object_shape, strict=True))
    missing = total - array.nchunks_initialized * math.prod(array.chunks) // math.prod(object_shape)
    if not missing and array.shards:
        missing, total = _missing_in_shards(container, key), array.nchunks
    if missing:
        raise CorruptStoreError(missing_chunks(f"{container.where}: {quoted(key)}", missing, total))


def _missing_in_shards(container: ZarrGroup, key: str) -> int:
    """The number of chunks that the indices of the shards mark as missing; see the codec `sharding_indexed` of Zarr 3.

    Raises:
        UnsupportedStoreError: the store is remote, or the indices are encoded differently from Zarr's default.
    """
    array, store = container.array(key), container.group.store
    config = array.metadata.codecs[0].to_dict()["configuration"]
    index, inner = ([codec["name"] for codec in config[part]] for part in ("index_codecs", "codecs"))
    little = config["index_codecs"][0].get("configuration", {}).get("endian") == "little"
    if not isinstance(store, LocalStore) or index != ["bytes", "crc32c"] or not little or "sharding_indexed" in inner:
        raise UnsupportedStoreError(
            f"{container.where}: cannot tell whether chunks are missing in the shards of {quoted(key)}; "
            "the option `missing_chunks: fill` reads missing chunks as the fill value"
        )
    per_shard = [shard // chunk for shard, chunk in zip(array.shards, array.chunks, strict=True)]
    size = 16 * math.prod(per_shard)  # bytes: the offset and the length of each chunk; a checksum of 4 bytes follows
    missing = 0
    for place in np.ndindex(*(-(-length // step) for length, step in zip(array.shape, array.shards, strict=True))):
        with (store.root / array.path / array.metadata.encode_chunk_key(place)).open("rb") as file:
            if config["index_location"] == "end":
                file.seek(-size - 4, os.SEEK_END)
            extents = np.frombuffer(file.read(size), "<u8").reshape(*per_shard, 2)
        inside = tuple(  # the chunks within the array; a shard at its edge has chunks beyond it
            slice(-(-min(shard, length - at * shard) // chunk))
            for at, length, shard, chunk in zip(place, array.shape, array.shards, array.chunks, strict=True)
        )
        missing += int((extents[inside] == MISSING_CHUNK).all(axis=-1).sum())
    return missing


def _identity(metadata: Any) -> str:
    return f"zarr:{hashlib.blake2b(json.dumps(metadata, sort_keys=True).encode(), digest_size=16).hexdigest()}"
