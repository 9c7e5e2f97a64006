"""The backend `zarr`: columns in a Zarr group, in a folder or at a URL.

Zarr is imported when a store is opened or written, not when this module is imported.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterable, Mapping
from typing import Annotated, Any, ClassVar, Literal

from kinoml_data.errors import StoreExistsError, UnsupportedStoreError, quoted
from kinoml_data.plugin import Array, Backend, Columns, DataPath, Storage
from numpy.typing import NDArray
from pydantic import Field, ValidationInfo, field_validator, model_validator

PROTOCOLS = ("abfs", "az", "gcs", "gs", "http", "https", "memory", "s3")
"""The protocols that a URL may have. With others, fsspec would read local files, or open what a file tells it to."""


class Zarr(Backend):
    """A Zarr group of version 3 or 2, whose arrays have the names that `ArrayStorage` expects.

    Give either `path` or `url`.

    Attributes:
        path: the local folder of the group.
        url: the URL of the group for fsspec, such as `s3://bucket/data.zarr`; for reading only.
        storage_options: further options for fsspec, such as credentials; only with `url`.
        group: the group inside the store that contains the columns, if another program wrote it. A column that it
            contains is named by its path from the group.
        missing_chunks: "refuse" treats a missing chunk as damage; "fill" reads it as the fill value of its array, if
            another program wrote the group.
        compress: True to write chunks compressed with Zstandard.
        chunk_bytes: the size of the chunks to write, before compression.
    """

    name = "zarr"
    suffixes: ClassVar[tuple[str, ...]] = (".zarr",)
    can_write = True
    keeps_keys = True
    can_overwrite = False
    path: DataPath | None = None
    url: str | None = None
    storage_options: dict[str, Any] = Field(default_factory=dict)
    group: str = "/"
    missing_chunks: Literal["refuse", "fill"] = "refuse"
    compress: bool = True
    chunk_bytes: Annotated[int, Field(ge=1024, le=1 << 30)] = 1 << 18

    @field_validator("url")
    @classmethod
    def _plain_url(cls, url: str | None, info: ValidationInfo) -> str | None:
        protocol, separator, rest = (url or "").partition("://")
        if url is not None and (protocol not in PROTOCOLS or not separator or not rest or "::" in url):
            raise ValueError(
                f"{quoted(url)} is not a valid URL; its protocol must be one of {', '.join(PROTOCOLS)}; "
                "for a local folder, use `path`"
            )
        if url is not None and getattr(info.context, "root", None) is not None:
            raise ValueError("a spec whose files must be in one folder cannot have a `url`; use `path`")
        return url

    @model_validator(mode="after")
    def _one_place(self) -> Zarr:
        if (self.path is None) == (self.url is None):
            raise ValueError("give either `path` or `url`, and not both")
        if self.storage_options and self.url is None:
            raise ValueError("`storage_options` can only be used with `url`")
        return self

    def open(self, columns: Mapping[str, Array | None] | None) -> Storage:
        """Open the group for reading; see `Backend.open`.

        Raises:
            StoreNotFoundError: there is no Zarr group.
            StoreReadError: the group cannot be reached.
            SpecError: the package that fsspec needs for this URL is not installed, or fsspec refuses the options; or
                the group contains none of the columns.
            CorruptStoreError: the group is damaged, or lacks a chunk.
            UnsafeStoreError: an array needs too much memory.
            UnsupportedStoreError: an array has a dtype or a codec that is not supported, or a later version of this
                library wrote the group.
        """
        from kinoml_data_zarr.group import local_group, remote_group
        from kinoml_data_zarr.read import ZarrStorage

        if self.path is not None:
            group = local_group(self.path)
        else:
            assert self.url is not None
            group = remote_group(self.url, self.storage_options)
        return ZarrStorage(group, columns, fill=self.missing_chunks == "fill", group=self.group)

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
        """Write a new group; see `Backend.write`. Rows are written while the batches are read, a few chunks at a time.

        Raises:
            UnsupportedStoreError: `overwrite` is True, the backend has a `url` and no `path` or has a `group`, or Zarr
                cannot store one of the names.
            StoreExistsError: there is a file or a folder at `path`.
            StoreWriteError: the operating system failed to write.
            SpecError: a batch does not match `columns`.
        """
        if self.path is None:
            raise UnsupportedStoreError(
                f"{self.name} cannot write to a URL; write to a local `path` and upload that folder"
            )
        if self.group.strip("/"):
            raise UnsupportedStoreError(f"{self.name} writes only whole stores; remove the option `group`")
        if overwrite:
            raise UnsupportedStoreError(
                f"{self.name} cannot replace a folder in one step; write to a new path, or delete the folder first"
            )
        if os.path.lexists(self.path):
            where = quoted(str(self.path))
            raise StoreExistsError(f"{where} already exists, and {self.name} cannot replace it; choose another path")
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
