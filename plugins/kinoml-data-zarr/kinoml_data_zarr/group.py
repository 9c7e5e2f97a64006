"""A Zarr group opened for reading. Only codecs that do nothing but compute are allowed to run."""

from __future__ import annotations

import json
from collections.abc import AsyncIterator, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numcodecs  # type: ignore[import-untyped]
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
from kinoml_data.plugin import (
    DTYPES,
    STRING,
    Array,
    Ragged,
    WholeColumn,
    group_problem,
    missing_groups,
    strings_of,
)
from numpy.typing import NDArray
from zarr.core.buffer import default_buffer_prototype
from zarr.core.sync import sync
from zarr.storage import FsspecStore, LocalStore

MAX_CHUNK_BYTES = 1 << 31  # of one chunk or shard, uncompressed
MAX_ARRAY_BYTES = 1 << 36  # of an array that is read as a whole
CODECS = frozenset(
    (
        *("bytes", "transpose", "sharding_indexed", "crc32c", "crc32", "adler32", "fletcher32", "jenkins_lookup3"),
        *("blosc", "gzip", "zstd", "zlib", "bz2", "lz4", "lzma", "shuffle", "delta", "bitround", "fixedscaleoffset"),
        *("quantize", "packbits", "vlen-utf8", "vlen-bytes"),
    )
)
"""The codecs that only compute. Others, such as pickle, run or build whatever the bytes describe."""
METADATA_FILES = ("zarr.json", ".zarray")
UNKNOWN = (ValueError, KeyError, TypeError, NotImplementedError)
"""What Zarr raises for a dtype or a codec that it does not know, but also for damaged metadata."""
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
            if not isinstance(store, LocalStore):
                try:
                    return ZarrGroup(zarr.open_group(store, mode="r"), where)
                except UNKNOWN:  # an array that Zarr does not know is among them
                    pass
            return ZarrGroup(zarr.open_group(store, mode="r", use_consolidated=False), where)
        except FileNotFoundError:
            raise StoreNotFoundError(f"there is no Zarr group in {quoted(where)}") from None


class ZarrGroup:
    """A Zarr group for reading; implements `Container`.

    Attributes:
        group: the `zarr.Group`.
        where: the path or URL, for messages.
        foreign: True if another program wrote the group, so that what is not expected is not damage.
    """

    def __init__(self, group: Any, where: str) -> None:
        self.group, self.where = group, where
        self.foreign = False
        self._found: dict[str, Any] = {}

    def inside(self, path: str) -> ZarrGroup:
        """The group at a path.

        Raises:
            SpecError: there is no group.
        """
        group = self.get(path) if path.strip("/") else self.group
        if not isinstance(group, zarr.Group):
            raise SpecError(f"{self.where} does not contain the group {quoted(path)}; correct the option `group`")
        inside = ZarrGroup(group, self.where)
        inside.foreign = self.foreign
        return inside

    def names(self) -> list[str]:
        """The names of the members, sorted, with "y" last.

        If Zarr cannot open every member, the names are those that the store lists, whatever the members are.
        """
        try:
            names = [name for name, _ in self.group.members()]
        except UNKNOWN:
            found = sync(_listed(self.group.store.list_dir(self.group.path)))
            names = [name for name in found if not name.startswith(".") and name != "zarr.json"]
        return sorted(names, key=lambda name: (name == "y", name))

    def get(self, path: str) -> Any:
        """The `zarr.Array` or `zarr.Group` at a path; None if there is none.

        Raises:
            UnsupportedStoreError: it is an array of another program, with a dtype or a codec that Zarr does not know.
        """
        parts = [part for part in path.split("/") if part]
        if not parts or ".." in parts or "." in parts:
            return None
        path = "/".join(parts)
        try:
            if path not in self._found:
                self._found[path] = self.group.get(path)
            return self._found[path]
        except UNKNOWN as error:
            if not self.foreign or self._metadata(path, *METADATA_FILES) is None:
                raise
            raise UnsupportedStoreError(
                f"{self.where}: {quoted(path)} has a dtype or a codec that cannot be read: {format_error(error)}; "
                "store it as numbers or strings, or leave it out"
            ) from None

    def problem(self, path: str) -> str | None:
        """Why a group is not a column, and the way out; None if it is not a group. Raises the errors of `get`."""
        group = self.get(path)
        if not isinstance(group, zarr.Group):
            return None
        full = group.path
        return group_problem(self.where, full, group.attrs.asdict(), ZarrGroup(group, self.where).names()[:20])

    def no_arrays(self, groups: Mapping[str, str]) -> SpecError:
        """The error for a group that contains no arrays."""
        return missing_groups(self.where, self.group.path or "/", groups)

    def whole(self, key: str) -> NDArray[Any]:
        """All values of an array, in native byte order; raises the errors of `array`.

        Raises:
            UnsafeStoreError: the array would take more than `MAX_ARRAY_BYTES` in memory.
        """
        array = self.array(key)
        self._refuse_size(f"{self.where}: {quoted(key)}", array.dtype.itemsize * np.prod(array.shape, dtype=np.float64))
        return np.asarray(array[:]).astype(array.dtype.newbyteorder("="), copy=False)

    def array(self, key: str, *, text: bool = False) -> Any:
        """The `zarr.Array` of this name, after checks that it is safe to read.

        Args:
            key: the path of the array.
            text: True if it may contain strings.

        Raises:
            CorruptStoreError: there is no array of this name; in a group of this library also for a group or a scalar.
            UnsafeStoreError: the chunks of the array are larger than `MAX_CHUNK_BYTES`.
            UnsupportedStoreError: there is a group or a scalar, or the dtype or a codec of the array is not supported.
        """
        array, where = self.get(key), f"{self.where}: {quoted(key)}"
        unexpected = UnsupportedStoreError if self.foreign else CorruptStoreError
        if array is None:
            raise CorruptStoreError(f"{where} is missing")
        if not isinstance(array, zarr.Array):
            raise unexpected(self.problem(key) or f"{where} is not an array")
        if not (text and is_text(array)) and (problem := _type_problem(array)):
            raise UnsupportedStoreError(f"{where} {problem}")
        for codec in _codecs((*array.filters, array.serializer, *array.compressors)):
            if codec not in CODECS:
                raise UnsupportedStoreError(
                    f"{where} needs the codec {quoted(codec)}, which is not allowed to run; store it with a codec that "
                    "only compresses, such as zstd, or leave it out"
                )
        if not array.shape:
            raise unexpected(f"{where} is a single value, not a sequence of rows; store it with one entry per row")
        largest = array.shards or array.chunks
        if array.dtype.itemsize * np.prod(largest, dtype=np.float64) > MAX_CHUNK_BYTES:
            raise UnsafeStoreError(f"{where} has chunks of more than {MAX_CHUNK_BYTES} bytes")
        return array

    def strings(self, key: str) -> WholeColumn | None:
        """The column of an array `(rows,)` of strings; None if it contains something else. Raises as `array`.

        Raises:
            UnsupportedStoreError: the array has more than one axis.
        """
        if not is_text(self.get(key)):
            return None
        array, where = self.array(key, text=True), f"{self.where}: {quoted(key)}"
        if array.ndim != 1:
            raise UnsupportedStoreError(
                f"{where} contains strings in more than one axis, which cannot be read; store one of them per row, or "
                "leave it out"
            )
        self._refuse_size(where, array.dtype.itemsize * array.shape[0])
        return WholeColumn(Array(STRING), array.shape[0], lambda: strings_of(np.asarray(array[:]).tolist(), where))

    def lists(self, key: str, *, fill: bool) -> WholeColumn | None:
        """The column of an array of Zarr 2 that numcodecs' `VLenArray` encoded; None if it is another one.

        Zarr 3 does not read it, so its chunks are decoded here, with the codecs that are allowed and no others.

        Args:
            key: the path of the array.
            fill: True if the rows of a missing chunk are empty.

        Raises:
            UnsupportedStoreError: the array has more than one axis, or needs a codec or a dtype that is not supported.
            CorruptStoreError: a chunk is missing and `fill` is False.
        """
        metadata = self._metadata(key, ".zarray")
        filters = (metadata or {}).get("filters")
        if not filters or filters[0].get("id") != "vlen-array":
            return None
        where = f"{self.where}: {quoted(key)}"
        dtype, shape, chunks = np.dtype(filters[0]["dtype"]), metadata["shape"], metadata["chunks"]
        others = [config for config in (*filters[1:], metadata["compressor"]) if config]
        wrong = [config.get("id") for config in others if config.get("id") not in CODECS]
        if wrong or len(shape) != 1 or dtype.name not in DTYPES:
            problem = f"the codec {quoted(wrong[0])}" if wrong else f"{dtype} in {len(shape)} axes"
            raise UnsupportedStoreError(f"{where} contains lists with {problem}, which cannot be read; leave it out")
        self._refuse_size(where, 8 * shape[0])
        codecs = [numcodecs.get_codec(config) for config in (filters[0], *others)]
        places = range(-(-shape[0] // chunks[0]) if shape[0] else 0)

        def decode() -> Ragged:
            rows: list[Any] = []
            with zarr_errors(where):
                for place in places:
                    data: Any = self._bytes(f"{key}/{place}")
                    count = min(chunks[0], shape[0] - place * chunks[0])
                    if data is None:
                        if not fill:
                            raise CorruptStoreError(missing_chunks(where, 1, len(places)))
                        rows += [np.empty(0, dtype)] * count
                        continue
                    for codec in reversed(codecs):
                        data = codec.decode(data)
                    rows += list(data)[:count]
                if len(rows) != shape[0]:
                    raise CorruptStoreError(f"{where} has {len(rows)} rows instead of {shape[0]}")
                native = dtype.newbyteorder("=")
                return Ragged.from_rows([np.asarray(row, native) for row in rows], native, 1)

        return WholeColumn(Array(dtype, (None,)), shape[0], decode)

    def attributes_of_lists(self, key: str) -> Mapping[str, Any]:
        """The attributes of an array for which `lists` gives a column."""
        found = self._metadata(key, ".zattrs")
        return found if isinstance(found, dict) else {}

    @staticmethod
    def _refuse_size(where: str, size: float) -> None:
        if size > MAX_ARRAY_BYTES:
            raise UnsafeStoreError(f"{where} would take {size:.0f} bytes in memory; the limit is {MAX_ARRAY_BYTES}")

    def _metadata(self, key: str, *names: str) -> Any:
        """The metadata of an array or group, from the first of some files; None if there is none, or it is not JSON."""
        for name in names:
            if (data := self._bytes(f"{key}/{name}")) is not None:
                try:
                    return json.loads(data)
                except ValueError:
                    return None
        return None

    def _bytes(self, path: str) -> bytes | None:
        full = "/".join(part for part in f"{self.group.path}/{path}".split("/") if part)
        found = sync(self.group.store.get(full, prototype=default_buffer_prototype()))
        return None if found is None else found.to_bytes()


async def _listed(names: AsyncIterator[str]) -> list[str]:
    return [name async for name in names]


def missing_chunks(where: str, missing: int, total: int) -> str:
    """The error for an array that lacks chunks."""
    return (
        f"{where} lacks {missing} of its {total} chunks; if they were never "
        "written, the option `missing_chunks: fill` reads them as the fill value"
    )


def is_text(array: Any) -> bool:
    """True for a `zarr.Array` of strings, of fixed or of variable length."""
    if not isinstance(array, zarr.Array):
        return False
    encoded = {*_codecs((*array.filters, array.serializer))}
    return array.dtype.kind in "TUS" or (
        array.dtype.kind == "O" and not encoded.isdisjoint({"vlen-bytes", "vlen-utf8"})
    )


def _type_problem(array: Any) -> str | None:
    """Why values of this type cannot be read, and the way out; None if they can."""
    dtype = array.dtype
    if dtype.names:
        field = quoted(dtype.names[0])
        return (
            f"contains records with the fields {', '.join(dtype.names)}, which are not supported; store each field as "
            f"an array of its own, as with `group[{field}] = group[{quoted(array.basename)}][:][{field}]`"
        )
    if dtype.name in DTYPES and dtype.name != STRING:
        return None
    way = 'with `.astype("int64")`' if dtype.kind in "mM" else "as numbers or strings"
    return f"contains {dtype}, which cannot be read; store it {way}, or leave it out"


def _codecs(codecs: Sequence[Any]) -> Iterator[str]:
    """The names of some codecs, and of the codecs nested in them."""
    for codec in codecs:
        if codec is None:
            continue
        config = codec.to_dict() if hasattr(codec, "to_dict") else codec.get_config()
        yield str(config.get("name", config.get("id"))).removeprefix("numcodecs.")
        yield from _codecs([*getattr(codec, "codecs", ()), *getattr(codec, "index_codecs", ())])
