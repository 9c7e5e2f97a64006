"""A Zarr group opened for reading. Only codecs that do nothing but compute are allowed to run."""

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

MAX_CHUNK_BYTES = 1 << 31  # of one chunk or shard, uncompressed
MAX_ARRAY_BYTES = 1 << 36  # of an array that is read as a whole
CODECS = frozenset(
    (
        *("bytes", "transpose", "sharding_indexed", "crc32c", "crc32", "adler32", "fletcher32", "jenkins_lookup3"),
        *("blosc", "gzip", "zstd", "zlib", "bz2", "lz4", "lzma", "shuffle", "delta", "bitround", "fixedscaleoffset"),
        *("quantize", "packbits"),
    )
)
"""The codecs that only compute. Others, such as pickle, run or build whatever the bytes describe."""
DECODING_PACKAGES = (
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
    """Turn errors of Zarr, its codecs and its stores in the block into errors of this library.

    Raises:
        StoreReadError: the store could not be reached.
        CorruptStoreError: the block failed for any other reason.
    """
    try:
        yield
    except KinomlDataError:
        raise
    except Exception as error:
        if isinstance(error, OSError) or type(error).__module__.partition(".")[0] not in DECODING_PACKAGES:
            raise StoreReadError(f"{where} cannot be read: {format_error(error)}") from error
        raise CorruptStoreError(f"{where} is damaged: {format_error(error)}") from error


def local_group(path: Path) -> ZarrGroup:
    """Open the Zarr group in a folder.

    Raises:
        StoreNotFoundError: there is no folder, or no Zarr group in it.
        CorruptStoreError: the metadata of the group is damaged.
        StoreReadError: the operating system failed to read.
    """
    if not path.is_dir():
        raise StoreNotFoundError(f"there is no folder {quoted(str(path))}")
    return _group(LocalStore(path, read_only=True), str(path))


def remote_group(url: str, options: Mapping[str, Any]) -> ZarrGroup:
    """Open the Zarr group at a URL; `options` are passed to fsspec.

    Raises:
        SpecError: the package that fsspec needs for this URL is not installed, or it refuses the options.
        StoreNotFoundError: there is no Zarr group at this URL.
        CorruptStoreError: the metadata of the group is damaged.
        StoreReadError: the group cannot be reached.
    """
    try:
        store = FsspecStore.from_url(url, storage_options=dict(options), read_only=True)
    except (ImportError, TypeError, ValueError) as error:
        raise SpecError(f"{quoted(url)} cannot be opened: {format_error(error)}") from error
    return _group(store, url)


def _group(store: Any, where: str) -> ZarrGroup:
    with zarr_errors(where):
        try:
            # Consolidated metadata may be older than the arrays, but over a network it saves a request per array.
            consolidated = False if isinstance(store, LocalStore) else None
            return ZarrGroup(zarr.open_group(store, mode="r", use_consolidated=consolidated), where)
        except FileNotFoundError:
            raise StoreNotFoundError(f"there is no Zarr group in {quoted(where)}") from None


class ZarrGroup:
    """A Zarr group for reading; implements `Container`.

    Attributes:
        group: the `zarr.Group`.
        where: the path or URL, for messages.
    """

    def __init__(self, group: Any, where: str) -> None:
        self.group, self.where = group, where

    def whole(self, key: str) -> NDArray[Any]:
        """All values of an array, in native byte order; raises the errors of `array`.

        Raises:
            UnsafeStoreError: the array would take more than `MAX_ARRAY_BYTES` in memory.
        """
        array = self.array(key)
        if (size := array.dtype.itemsize * np.prod(array.shape, dtype=np.float64)) > MAX_ARRAY_BYTES:
            raise UnsafeStoreError(
                f"{self.where}: {quoted(key)} would take {size:.0f} bytes in memory; the limit is {MAX_ARRAY_BYTES}"
            )
        return np.asarray(array[:]).astype(array.dtype.newbyteorder("="), copy=False)

    def array(self, key: str) -> Any:
        """The `zarr.Array` of this name, after checks that it is safe to read.

        Raises:
            CorruptStoreError: there is no array of this name, or it has no axis of rows.
            UnsafeStoreError: the array needs a forbidden codec, or its chunks are larger than `MAX_CHUNK_BYTES`.
            UnsupportedStoreError: the dtype of the array is not supported.
        """
        array = self.group.get(key)
        _check_array(array, f"{self.where}: {quoted(key)}")
        return array


def _check_array(array: Any, where: str) -> None:
    if array is None:
        raise CorruptStoreError(f"{where} is missing")
    if not isinstance(array, zarr.Array):
        raise CorruptStoreError(f"{where} is not an array")
    if array.dtype.name not in DTYPES or array.dtype.name == STRING:
        raise UnsupportedStoreError(f"{where} contains {array.dtype}, which cannot be read; leave it out of the spec")
    for codec in _codecs((*array.filters, array.serializer, *array.compressors)):
        if codec not in CODECS:
            raise UnsafeStoreError(f"{where} needs the codec {quoted(codec)}, which is not allowed")
    if not array.shape:
        raise CorruptStoreError(f"{where} is a scalar; an array needs an axis of rows")
    largest = array.shards or array.chunks
    if array.dtype.itemsize * np.prod(largest, dtype=np.float64) > MAX_CHUNK_BYTES:
        raise UnsafeStoreError(f"{where} has chunks of more than {MAX_CHUNK_BYTES} bytes")


def _codecs(codecs: Sequence[Any]) -> Iterator[str]:
    """The names of some codecs, and of the codecs nested in them."""
    for codec in codecs:
        if codec is None:
            continue
        config = codec.to_dict() if hasattr(codec, "to_dict") else codec.get_config()
        yield str(config.get("name", config.get("id"))).removeprefix("numcodecs.")
        yield from _codecs([*getattr(codec, "codecs", ()), *getattr(codec, "index_codecs", ())])
