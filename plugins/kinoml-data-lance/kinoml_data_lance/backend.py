"""The backend `lance`: Lance datasets, from which each batch is read by one `take`.

The datasets that it writes contain tables of the library's own Arrow layout, as Parquet files do. Lance and Arrow are
imported when a dataset is opened or written, not when this module is imported.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from typing import Any

from kinoml_data.errors import SpecError, StoreNotFoundError, UnsupportedStoreError, quoted
from kinoml_data.plugin import Array, Backend, Columns, DataPath, Storage
from numpy.typing import NDArray
from pydantic import Field, ValidationInfo, field_validator, model_validator

from kinoml_data_lance.dataset import import_lance, lance_errors


class Lance(Backend):
    """Columns in a Lance dataset: those that this backend wrote, and datasets of other programs.

    Attributes:
        path: the folder.
        uri: instead of `path`, a dataset on a remote store, such as `s3://bucket/data.lance`. It can only be read.
        storage_options: passed to Lance, which needs them for some remote stores.
        version: the version to read, instead of the latest.
    """

    name = "lance"
    suffixes = (".lance",)
    can_write = True
    survives_fork = False
    unsupported_dtypes = ("complex64", "complex128")
    path: DataPath | None = None
    uri: str | None = None
    storage_options: dict[str, str] | None = None
    version: int | None = Field(None, ge=1)

    @field_validator("uri")
    @classmethod
    def _remote(cls, uri: str | None, info: ValidationInfo) -> str | None:
        if uri is not None and ("://" not in uri or uri.lower().startswith("file")):
            raise ValueError("a uri names a remote store, such as s3://bucket/data.lance; use `path` for a folder")
        if uri is not None and getattr(info.context, "root", None) is not None:
            raise ValueError("a spec whose files must be in one folder cannot have a `uri`; use `path`")
        return uri

    @model_validator(mode="after")
    def _one_place(self) -> Lance:
        if (self.path is None) == (self.uri is None):
            raise ValueError("give either `path` or `uri`, and not both")
        return self

    def open(self, columns: Mapping[str, Array | None] | None) -> Storage:
        """Open one version for reading; see `Backend.open`.

        Raises:
            StoreNotFoundError: there is no such folder, no Lance dataset in it, or no such version.
            CorruptStoreError: the dataset is damaged, or another program changed the rows that this backend wrote.
            UnsupportedStoreError: the type of a column is not supported, a later version of the library wrote the
                dataset, or this process was forked from one that uses Lance.
            SpecError: none of `columns` is stored.
        """
        from kinoml_data_lance.read import LanceStorage

        lance = import_lance()
        where = self.uri or str(self.path)
        if self.path is not None and not self.path.is_dir():
            raise StoreNotFoundError(f"there is no folder {quoted(where)}")
        with lance_errors(f"{where}: cannot open the dataset"):
            try:
                dataset = lance.dataset(where, version=self.version, storage_options=self.storage_options)
            except ValueError as error:
                if "not found" not in str(error):
                    raise
                what = "Lance dataset" if self.version is None else f"version {self.version} of a Lance dataset"
                raise StoreNotFoundError(f"there is no {what} in {quoted(where)}") from None
            return LanceStorage(dataset, where, columns, folder=self.path)

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
        """Write a dataset; see `Backend.write`. Overwriting adds a version, and the older versions stay.

        Raises:
            StoreExistsError: the folder exists and `overwrite` is False, or it is not a Lance dataset.
            StoreWriteError: the dataset cannot be written; the old dataset is unchanged.
            SpecError: the options name a version, the name of a column is not valid, or a batch does not match
                `columns`.
            UnsupportedStoreError: the options name a `uri`, a dtype is not supported, or the arrays and the spec are
                too large.
        """
        from kinoml_data.plugin import ArrowLayout

        from kinoml_data_lance.write import write_dataset

        if self.path is None:
            raise UnsupportedStoreError("lance cannot write to a uri; give a `path`, and copy the folder there")
        if self.version is not None:
            raise SpecError("lance: `version` selects a version to read; leave it out to write")
        layout = ArrowLayout(columns, arrays or {}, spec)
        write_dataset(self.path, layout, batches, overwrite=overwrite, check=check)
