"""A Zarr group, and its arrays, opened with care: no codec runs that does more than compute."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import zarr
from kinoml_data.errors import (
    CorruptStoreError,
    KinomlDataError,
    SpecError,
    StoreNotFoundError,
    StoreReadError,
    UnsafeStoreError,
    UnsupportedStoreError,
    format_error,
    quoted,
)
from kinoml_data.plugin import DTYPES, STRING
from numpy.typing import NDArray
from zarr.storage import FsspecStore, LocalStore

MAX_CHUNK_BYTES, MAX_HELD_BYTES = 1 << 31, 1 << 36
CODECS = frozenset(
    (
        *("bytes", "transpose", "sharding_indexed", "crc32c", "crc32", "adler32", "fletcher32", "jenkins_lookup3"),
        *("blosc", "gzip", "zstd", "zlib", "bz2", "lz4", "lzma", "shuffle", "delta", "bitround", "fixedscaleoffset"),
        *("quantize", "packbits"),
    )
)
"""Those that only compute. Others, such as pickle, run or build what the bytes say."""
DECODING = (
    "builtins",
    "zarr",
    "numcodecs",
    "numpy",
    "json",
    "pydantic_core",
    "google_crc32c",
    "struct",
    "zlib",
    "_lzma",
)


@contextmanager
def zarr_errors(where: str) -> Iterator[None]:
    """Errors of Zarr, its codecs and its stores as this library's.

    Raises:
        StoreReadError: the store cannot be reached.
        CorruptStoreError: anything else.
    """
    try:
        yield
    except KinomlDataError:
        raise
    except Exception as error:
        if isinstance(error, OSError) or type(error).__module__.partition(".")[0] not in DECODING:
            raise StoreReadError(f"{where}: cannot read: {format_error(error)}") from error
        raise CorruptStoreError(f"{where} is damaged: {format_error(error)}") from error


def local_group(path: Path) -> ZarrGroup:
    """The Zarr group in a folder.

    Raises:
        StoreNotFoundError, CorruptStoreError, StoreReadError: as their names say.
    """
    if not path.is_dir():
        raise StoreNotFoundError(f"there is no folder {quoted(str(path))}")
    return _group(LocalStore(path, read_only=True), str(path))


def remote_group(url: str, options: Mapping[str, Any]) -> ZarrGroup:
    """The Zarr group at a URL; `options` are fsspec's.

    Raises:
        SpecError: there is no package for such a URL, or it refuses the options.
        StoreNotFoundError, CorruptStoreError, StoreReadError: as their names say.
    """
    try:
        store = FsspecStore.from_url(url, storage_options=dict(options), read_only=True)
    except (ImportError, TypeError, ValueError) as error:
        raise SpecError(f"{quoted(url)} cannot be opened: {format_error(error)}") from error
    return _group(store, url)


def _group(store: Any, where: str) -> ZarrGroup:
    with zarr_errors(where):
        try:
            # Consolidated metadata may be older than the arrays; over a network it saves a request for each of them.
            consolidated = False if isinstance(store, LocalStore) else None
            return ZarrGroup(zarr.open_group(store, mode="r", use_consolidated=consolidated), where)
        except FileNotFoundError:
            raise StoreNotFoundError(f"there is no Zarr group in {quoted(where)}") from None


class ZarrGroup:
    """A Zarr group for reading; a `Container`.

    Attributes:
        group: the `zarr.Group`.
        where: the path or URL, for messages.
    """

    def __init__(self, group: Any, where: str) -> None:
        self.group, self.where = group, where

    def whole(self, key: str) -> NDArray[Any]:
        """A whole array in native byte order; raises as `array`, and where it would fill the memory."""
        array = self.array(key)
        if array.dtype.itemsize * np.prod(array.shape, dtype=np.float64) > MAX_HELD_BYTES:
            raise UnsafeStoreError(f"{self.where}: {quoted(key)} would fill the memory")
        return np.asarray(array[:]).astype(array.dtype.newbyteorder("="), copy=False)

    def array(self, key: str) -> Any:
        """An array of the group, once it is known to be safe to read.

        Raises:
            CorruptStoreError: there is none of this name, or it has no axis.
            UnsupportedStoreError, UnsafeStoreError: its type or a codec of it is not read; its chunks are too large.
        """
        array = self.group.get(key)
        _refuse(array, f"{self.where}: {quoted(key)}")
        return array


def _refuse(array: Any, where: str) -> None:
    if not isinstance(array, zarr.Array):
        raise CorruptStoreError(f"{where} is no array")
    if array.dtype.name not in DTYPES or array.dtype.name == STRING:
        raise UnsupportedStoreError(f"{where} holds {array.dtype}, which is not read; leave it out of the spec")
    for codec in _codecs((*array.filters, array.serializer, *array.compressors)):
        if codec not in CODECS:
            raise UnsafeStoreError(f"{where} needs the codec {quoted(codec)}, which is not allowed")
    if not array.shape:
        raise CorruptStoreError(f"{where} has no axis of rows")
    largest = array.shards or array.chunks
    if array.dtype.itemsize * np.prod(largest, dtype=np.float64) > MAX_CHUNK_BYTES:
        raise UnsafeStoreError(f"{where} has chunks over {MAX_CHUNK_BYTES} bytes")


def _codecs(codecs: Sequence[Any]) -> Iterator[str]:
    """The names of codecs, those inside of others too."""
    for codec in codecs:
        if codec is None:
            continue
        said = codec.to_dict() if hasattr(codec, "to_dict") else codec.get_config()
        yield str(said.get("name", said.get("id"))).removeprefix("numcodecs.")
        yield from _codecs([*getattr(codec, "codecs", ()), *getattr(codec, "index_codecs", ())])
