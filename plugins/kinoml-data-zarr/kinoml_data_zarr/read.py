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
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import zarr
from kinoml_data.errors import CorruptStoreError, StoreChangedError, UnsupportedStoreError, quoted
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
    to_native_order,
)
from numpy.typing import NDArray
from zarr.storage import LocalStore

from kinoml_data_zarr.group import ZarrGroup, zarr_errors

ATTRIBUTE = "kinoml_data"
MISSING_CHUNK = np.uint64(2**64 - 1)  # in the index of a shard, the offset and the length of a chunk that is not stored
Lengths = NDArray[np.int64]


class ZarrStorage(CheckedArrayStorage):
    """A Zarr group opened for reading. Every row is checked whenever it is read, because chunks may change at any time.

    Args:
        container: the group.
        columns: the columns that the spec asks for; None for all.
        fill: True if missing chunks are read as fill values; only for groups of other programs.

    Raises:
        CorruptStoreError: the group is damaged, or lacks a column or a chunk.
        UnsafeStoreError: an array needs a codec that is not allowed, or too much memory.
        UnsupportedStoreError: an array has a dtype that is not supported, or a later version of this library wrote the
            group.
        StoreReadError: the group cannot be reached.
    """

    def __init__(self, container: ZarrGroup, columns: Mapping[str, Array | None] | None, *, fill: bool) -> None:
        self._store = container.group.store
        with zarr_errors(container.where):
            metadata = container.group.attrs.asdict().get(ATTRIBUTE)
            if metadata is None:
                arrays, checks = _foreign_arrays(container, columns, fill=fill), None
            else:
                arrays, checks = own_arrays(metadata, container, columns, container.where)
            identity = None if metadata is None else _identity(metadata)
            super().__init__(
                arrays, checks, container.where, verify="always", identity=identity, close=self._store.close
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


def _foreign_arrays(container: ZarrGroup, columns: Mapping[str, Array | None] | None, *, fill: bool) -> dict[str, Any]:
    """The flat arrays of a group that another program wrote."""
    keys = sorted(container.group.array_keys(), key=lambda key: (key == "y", key))  # a store may list them in any order
    if checksums := [key for key in keys if key.endswith(CRC)]:
        raise CorruptStoreError(
            f"{container.where} contains the checksums {quoted(checksums[0])}, but not the attribute {ATTRIBUTE!r} "
            "that they need"
        )
    flat: dict[str, Any] = {}
    for key in keys:
        name = key.removesuffix(VALUES).removesuffix(UTF8).removesuffix(SHAPES)
        if columns is None or name not in columns:
            if key == SPEC_KEY or key.endswith(INDEX) or key.startswith("idx_"):
                flat[key if key == SPEC_KEY or key.endswith(INDEX) else key + INDEX] = container.whole(key)
                continue
            if columns is not None:
                continue
        if not fill:
            _refuse_holes(container, key)
        flat[key] = container.whole(key) if key.endswith(SHAPES) else rows_of(container, key)
    return flat


def _refuse_holes(container: ZarrGroup, key: str) -> None:
    """Refuse an array without checksums if chunks of it are missing, which Zarr would silently read as fill values."""
    array = container.array(key)
    if not container.group.store.supports_listing or 0 in array.shape:
        return
    object_shape = array.shards or array.chunks  # of one object in the store
    total = math.prod(-(-length // step) for length, step in zip(array.shape, object_shape, strict=True))
    missing = total - array.nchunks_initialized * math.prod(array.chunks) // math.prod(object_shape)
    if not missing and array.shards:
        missing, total = _missing_in_shards(container, key), array.nchunks
    if missing:
        raise CorruptStoreError(
            f"{container.where}: {quoted(key)} lacks {missing} of its {total} chunks; if they were never "
            "written, the option `missing_chunks: fill` reads them as the fill value"
        )


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
