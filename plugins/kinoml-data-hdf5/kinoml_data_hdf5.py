"""The backend `hdf5`: columns in an HDF5 file.

h5py is imported when a file is opened or written, not with this module.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any, ClassVar, Literal

from kinoml_data import Array, Backend, Columns, DataPath, Storage, hookimpl
from kinoml_data.spec import Model
from numpy.typing import NDArray
from pydantic import Field, field_serializer, field_validator, model_validator

KINOML_DATA_API = 1


class RaggedLayout(Model):
    """Where a ragged column lies: its rows end to end in one dataset, and where each begins in another.

    Attributes:
        values: the path of the dataset `(total, ...)`.
        offsets: of the dataset `(rows + 1,)`: row i is `values[offsets[i] : offsets[i + 1]]`; this or `lengths`.
        lengths: of the dataset `(rows,)`: how much of the first axis each row takes.
        shape: of one row, with one None (in a file `"*"`), where `values` has one axis that the row does not have;
            by default rows have the axes of `values`.
    """

    values: str
    offsets: str | None = None
    lengths: str | None = None
    shape: tuple[int | None, ...] | None = None

    @field_validator("shape", mode="before")
    @classmethod
    def _stars(cls, value: Any) -> Any:
        if not isinstance(value, (list, tuple)):
            return value
        return tuple(None if isinstance(axis, str) and axis == "*" else axis for axis in value)

    @field_serializer("shape", when_used="json-unless-none")
    def _with_stars(self, shape: tuple[int | None, ...]) -> tuple[int | str, ...]:
        return tuple("*" if axis is None else axis for axis in shape)

    @model_validator(mode="after")
    def _complete(self) -> RaggedLayout:
        if (self.offsets is None) == (self.lengths is None):
            raise ValueError("a ragged column needs either `offsets` or `lengths`")
        if self.shape is not None and (
            self.shape.count(None) != 1 or any(axis is not None and axis < 1 for axis in self.shape)
        ):
            raise ValueError('`shape` has one "*", its other axes are 1 or more')
        return self


class Hdf5(Backend):
    """An HDF5 file: its own layout, or datasets of other programs, which are columns by their path in the file.

    Attributes:
        path: the file.
        group: of other programs' files: the group that paths start from.
        ragged: of other programs' files: the ragged columns, by name.
        missing_chunks: of other programs' files: "refuse" takes values that were never written for damage, "fill" reads
            them as the fill value.
        verify: when checksums are checked: "first" time a row is read in a process, "always", "never".
    """

    name = "hdf5"
    suffixes: ClassVar[tuple[str, ...]] = (".h5", ".hdf5")
    path: DataPath
    group: str = "/"
    ragged: dict[str, RaggedLayout] = Field(default_factory=dict)
    missing_chunks: Literal["refuse", "fill"] = "refuse"
    verify: Literal["first", "always", "never"] = "first"

    def open(self, columns: Mapping[str, Array] | None) -> Storage:
        """See `Backend.open`.

        Raises:
            StoreNotFoundError, StoreReadError: there is no such regular file, or it cannot be read.
            CorruptStoreError, UnsafeStoreError, UnsupportedStoreError: as their names say.
        """
        from kinoml_data_hdf5_read import Hdf5Storage

        fill = self.missing_chunks == "fill"
        return Hdf5Storage(self.path, columns, group=self.group, ragged=self.ragged, fill=fill, verify=self.verify)

    def checking(self) -> Backend:
        """See `Backend.checking`."""
        return self.model_copy(update={"verify": "first"})

    def write(
        self,
        columns: Mapping[str, Array],
        batches: Iterable[Columns],
        *,
        arrays: Mapping[str, NDArray[Any]] | None = None,
        spec: str | None = None,
        overwrite: bool = False,
    ) -> None:
        """See `Backend.write`. Rows are written as they come, in this backend's own layout.

        Raises:
            UnsupportedStoreError: a name that HDF5 cannot have, or options for the files of others.
            StoreExistsError, StoreWriteError: as `kinoml_data.files.replacing`.
            SpecError: a batch holds something else than `columns` announces.
        """
        from kinoml_data_hdf5_write import write

        own = not self.ragged and self.group == "/"
        write(self.path, columns, batches, arrays=arrays or {}, spec=spec, overwrite=overwrite, own=own)


@hookimpl
def register_backends() -> tuple[type[Backend], ...]:
    """The backend of this plugin."""
    return (Hdf5,)
