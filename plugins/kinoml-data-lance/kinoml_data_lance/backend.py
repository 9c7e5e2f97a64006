"""The backend `lance`: Lance datasets, of which a batch is one `take`.

A dataset that it writes holds the columns of the library's Parquet layout, with a colon where that has a dot, which
Lance refuses in names: `<column>`, `<column>:shape` of ragged ones, `<column>:crc32`. Its checksums go on over the
row's number, as int64: a damaged manifest could give a whole row as another one. Lance and Arrow are imported when a
dataset is opened or written, not with this module.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from typing import Any

from kinoml_data import Array, Backend, DataPath, Storage
from kinoml_data.columns import Columns
from kinoml_data.errors import SpecError, StoreNotFoundError, UnsupportedStoreError, quoted
from numpy.typing import NDArray
from pydantic import Field, ValidationInfo, field_validator, model_validator

from kinoml_data_lance.dataset import lance_errors, lance_here


class Lance(Backend):
    """Columns in a Lance dataset: our layout, or numbers, strings and lists of numbers of any origin.

    Attributes:
        path: the folder.
        uri: instead of `path`: where it lies on a remote store, such as `s3://bucket/data.lance`. For reading only.
        storage_options: what Lance needs to get there, as its own argument of that name.
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
            raise ValueError("a uri names a remote store, as s3://bucket/data.lance does; `path` is for folders")
        if uri is not None and (info.context or {}).get("root") is not None:
            raise ValueError("a uri leaves the dataset's folder")
        return uri

    @model_validator(mode="after")
    def _one_place(self) -> Lance:
        if (self.path is None) == (self.uri is None):
            raise ValueError("give either `path` or `uri`")
        return self

    def open(self, columns: Mapping[str, Array] | None) -> Storage:
        """See `Backend.open`.

        Raises:
            UnsupportedStoreError: a column of another type; or this process was forked from one that uses Lance.
            SpecError: none of the columns asked for is there.
        """
        from kinoml_data_lance.read import LanceStorage

        lance = lance_here()
        where = self.uri or str(self.path)
        if self.path is not None and not self.path.is_dir():
            raise StoreNotFoundError(f"there is no folder {quoted(where)}")
        with lance_errors(f"{where}: it cannot be read"):
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
        """See `Backend.write`. To overwrite is to add a version; the older ones stay.

        Raises:
            SpecError: a batch does not hold what `columns` says; or the options name a version.
            UnsupportedStoreError: a dtype that is not stored bit for bit; or a `uri`.
        """
        from kinoml_data_lance.write import write_dataset

        if self.path is None:
            raise UnsupportedStoreError("lance writes to a folder, not to a uri: give a `path`, and copy it there")
        if self.version is not None:
            raise SpecError("lance: `version` is for reading; leave it out to write")
        write_dataset(self.path, columns, batches, arrays=arrays or {}, spec=spec, overwrite=overwrite)
