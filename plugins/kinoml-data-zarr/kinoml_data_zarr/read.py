"""Reading a Zarr group.

A group that this plugin wrote has the layout of `kinoml_data.layouts.checked_arrays`, and what belongs to that as
the attribute `kinoml_data`. A chunk that is lost or damaged, which Zarr itself would in part read as zeros, does not
have its checksums.
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
NOT_THERE = np.uint64(2**64 - 1)
Lengths = NDArray[np.int64]


class ZarrStorage(CheckedArrayStorage):
    """A Zarr group opened for reading; each row is checked whenever it is read, as chunks may change any time.

    Args:
        held: the group.
        columns: what the spec asks for; None for all.
        fill: read chunks that are not there as fill values, in a group without checksums.

    Raises:
        CorruptStoreError, UnsafeStoreError, UnsupportedStoreError, StoreReadError: as their names say.
    """

    def __init__(self, held: ZarrGroup, columns: Mapping[str, Array] | None, *, fill: bool) -> None:
        self._store = held.group.store
        with zarr_errors(held.where):
            about = held.group.attrs.asdict().get(ATTRIBUTE)
            if about is None:
                arrays, checks = _foreign_arrays(held, columns, fill=fill), None
            else:
                arrays, checks = own_arrays(about, held, columns, held.where)
            identity = None if about is None else _identity(about)
            super().__init__(arrays, checks, held.where, verify="always", identity=identity, close=self._store.close)

    def read(self, rows: Lengths, columns: Sequence[str]) -> Columns:
        with zarr_errors(self._path):
            return super().read(rows, columns)

    def notice_change(self) -> None:
        """See `CheckedArrayStorage.notice_change`."""
        about = zarr.open_group(self._store, mode="r").attrs.asdict().get(ATTRIBUTE)
        if about is None or _identity(about) != self.identity:
            raise StoreChangedError(f"{self._path} was changed after it was opened; load the dataset again")

    @staticmethod
    def slices(values: Any, starts: Lengths, stops: Lengths) -> NDArray[Any]:
        """As in the base class, but scattered rows in one selection: Zarr then decodes each chunk once."""
        lengths = stops - starts
        total = int(lengths.sum())
        if total == 0:
            return np.empty((0, *values.shape[1:]), values.dtype.newbyteorder("="))
        one_run = np.array_equal(starts[1:], stops[:-1])
        if one_run or total > len(starts) * values.chunks[0]:  # longer rows gain nothing, and their elements are many
            return ArrayStorage.slices(values, starts, stops)
        order = np.argsort(starts)
        ends = np.cumsum(lengths[order])
        begins = ends - lengths[order]
        elements = np.arange(total) + np.repeat(starts[order] - begins, lengths[order])
        found = to_native_order(np.asarray(values.oindex[elements]))
        back = np.empty(len(order), np.int64)
        back[order] = np.arange(len(order))
        return found[back] if found.ndim > 1 else gather(found, begins[back], ends[back])


def _foreign_arrays(held: ZarrGroup, columns: Mapping[str, Array] | None, *, fill: bool) -> dict[str, Any]:
    """The flat arrays of a group that another program wrote."""
    keys = sorted(held.group.array_keys(), key=lambda key: (key == "y", key))  # stores list them in any order
    if lost := [key for key in keys if key.endswith(CRC)]:
        raise CorruptStoreError(f"{held.where} holds {quoted(lost[0])}, but not the attribute that goes with it")
    flat: dict[str, Any] = {}
    for key in keys:
        name = key.removesuffix(VALUES).removesuffix(UTF8).removesuffix(SHAPES)
        if columns is None or name not in columns:
            if key == SPEC_KEY or key.endswith(INDEX) or key.startswith("idx_"):
                flat[key if key == SPEC_KEY or key.endswith(INDEX) else key + INDEX] = held.whole(key)
                continue
            if columns is not None:
                continue
        if not fill:
            _refuse_holes(held, key)
        flat[key] = held.whole(key) if key.endswith(SHAPES) else rows_of(held, key)
    return flat


def _refuse_holes(held: ZarrGroup, key: str) -> None:
    """Refuse an array without checksums of which chunks are missing; Zarr would read fill values in silence."""
    array = held.array(key)
    if not held.group.store.supports_listing or 0 in array.shape:
        return
    stored = array.shards or array.chunks  # what is one object in the store
    total = math.prod(-(-length // step) for length, step in zip(array.shape, stored, strict=True))
    lost = total - array.nchunks_initialized * math.prod(array.chunks) // math.prod(stored)
    if not lost and array.shards:
        lost, total = _lost_in_shards(held, key), array.nchunks
    if lost:
        raise CorruptStoreError(
            f"{held.where}: {quoted(key)} lacks {lost} of its {total} chunks; if they were never "
            "written, the option `missing_chunks: fill` reads them as the fill value"
        )


def _lost_in_shards(held: ZarrGroup, key: str) -> int:
    """How many chunks the index of each shard says are not there, by the specification of `sharding_indexed`.

    Raises:
        UnsupportedStoreError: the indices cannot be read.
    """
    array, store = held.array(key), held.group.store
    said = array.metadata.codecs[0].to_dict()["configuration"]
    index, inner = ([codec["name"] for codec in said[part]] for part in ("index_codecs", "codecs"))
    little = said["index_codecs"][0].get("configuration", {}).get("endian") == "little"
    if not isinstance(store, LocalStore) or index != ["bytes", "crc32c"] or not little or "sharding_indexed" in inner:
        raise UnsupportedStoreError(
            f"{held.where}: which chunks {quoted(key)} lacks in its shards cannot be told; "
            "the option `missing_chunks: fill` reads them as the fill value"
        )
    per_shard = [shard // chunk for shard, chunk in zip(array.shards, array.chunks, strict=True)]
    size = 16 * math.prod(per_shard)  # offset and length of each chunk, then four bytes of checksum
    lost = 0
    for place in np.ndindex(*(-(-length // step) for length, step in zip(array.shape, array.shards, strict=True))):
        with (store.root / array.path / array.metadata.encode_chunk_key(place)).open("rb") as file:
            if said["index_location"] == "end":
                file.seek(-size - 4, os.SEEK_END)
            found = np.frombuffer(file.read(size), "<u8").reshape(*per_shard, 2)
        inside = tuple(  # of a shard at the edge, the chunks that hold rows
            slice(-(-min(shard, length - at * shard) // chunk))
            for at, length, shard, chunk in zip(place, array.shape, array.shards, array.chunks, strict=True)
        )
        lost += int((found[inside] == NOT_THERE).all(axis=-1).sum())
    return lost


def _identity(about: Any) -> str:
    return f"zarr:{hashlib.blake2b(json.dumps(about, sort_keys=True).encode(), digest_size=16).hexdigest()}"
