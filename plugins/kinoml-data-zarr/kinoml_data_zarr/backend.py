"""The backend `zarr`: columns in a Zarr group, in a folder or at a URL.

Zarr is imported when a store is opened or written, not with this module.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterable, Mapping
from typing import Annotated, Any, ClassVar, Literal

from kinoml_data.errors import StoreExistsError, UnsupportedStoreError, quoted
from kinoml_data.plugin import Array, Backend, Columns, DataPath, Storage
from numpy.typing import NDArray
from pydantic import Field, field_validator, model_validator

PROTOCOLS = ("abfs", "az", "gcs", "gs", "http", "https", "memory", "s3")
"""Of URLs. Others of fsspec reach files outside the dataset's folder, or run what a file describes."""


class Zarr(Backend):
    """A Zarr group of version 3 or 2: flat arrays by the names that `ArrayStorage` has for them.

    Attributes:
        path: a local folder; this or `url`.
        url: where fsspec finds it, such as `s3://bucket/data.zarr`; for reading only.
        storage_options: what fsspec needs to know besides the URL.
        missing_chunks: of groups that other programs wrote: "refuse" takes a chunk that is not there for damage,
            "fill" reads it as the array's fill value.
        compress: write chunks compressed with Zstandard.
        chunk_bytes: of the chunks written, before compression.
    """

    name = "zarr"
    suffixes: ClassVar[tuple[str, ...]] = (".zarr",)
    can_write = True
    can_overwrite = False
    path: DataPath | None = None
    url: str | None = None
    storage_options: dict[str, Any] = Field(default_factory=dict)
    missing_chunks: Literal["refuse", "fill"] = "refuse"
    compress: bool = True
    chunk_bytes: Annotated[int, Field(ge=1024, le=1 << 30)] = 1 << 18

    @field_validator("url")
    @classmethod
    def _plain_url(cls, url: str | None) -> str | None:
        protocol, separator, rest = (url or "").partition("://")
        if url is not None and (protocol not in PROTOCOLS or not separator or not rest or "::" in url):
            raise ValueError(f"{quoted(url)} is no URL of one of {', '.join(PROTOCOLS)}; for a local folder use `path`")
        return url

    @model_validator(mode="after")
    def _one_place(self) -> Zarr:
        if (self.path is None) == (self.url is None):
            raise ValueError("say where the store is: either `path` or `url`")
        if self.storage_options and self.url is None:
            raise ValueError("`storage_options` go with `url`")
        return self

    def open(self, columns: Mapping[str, Array] | None) -> Storage:
        """See `Backend.open`.

        Raises:
            StoreNotFoundError: there is no Zarr group.
            StoreReadError: it cannot be reached.
            SpecError: fsspec lacks the package for such a URL, or refuses the options.
            CorruptStoreError, UnsafeStoreError, UnsupportedStoreError: as their names say.
        """
        from kinoml_data_zarr.group import local_group, remote_group
        from kinoml_data_zarr.read import ZarrStorage

        if self.path is not None:
            group = local_group(self.path)
        else:
            assert self.url is not None
            group = remote_group(self.url, self.storage_options)
        return ZarrStorage(group, columns, fill=self.missing_chunks == "fill")

    def write(
        self,
        columns: Mapping[str, Array],
        batches: Iterable[Columns],
        *,
        arrays: Mapping[str, NDArray[Any]] | None = None,
        spec: str | None = None,
        overwrite: bool = False,
        check: Callable[[Storage], object] | None = None,
    ) -> None:
        """See `Backend.write`. Rows are written as they come, a few chunks at a time.

        Raises:
            UnsupportedStoreError: `overwrite`, a URL, or a name that Zarr cannot have.
            StoreExistsError: there is something at `path`.
            StoreWriteError: the operating system refused.
            SpecError: a batch holds something else than `columns` announces.
        """
        if self.path is None:
            raise UnsupportedStoreError(f"{self.name} writes to a local `path` alone; upload that folder afterwards")
        if overwrite:
            raise UnsupportedStoreError(f"{self.name} cannot replace a folder in one step; write beside it")
        if os.path.lexists(self.path):
            where = quoted(str(self.path))
            raise StoreExistsError(f"{where} exists, and {self.name} cannot replace it; choose another path")
        from kinoml_data_zarr.write import write

        chunk_bytes, compress = self.chunk_bytes, self.compress
        write(
            self.path,
            columns,
            batches,
            arrays=arrays or {},
            spec=spec,
            chunk_bytes=chunk_bytes,
            compress=compress,
            check=check,
        )
