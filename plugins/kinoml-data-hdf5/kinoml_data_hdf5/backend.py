"""The backend `hdf5`: columns in an HDF5 file.

h5py is imported when a file is opened or written, not when this module is imported.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from typing import Any, ClassVar, Literal

from kinoml_data.errors import UnsupportedStoreError
from kinoml_data.plugin import Array, Backend, Columns, DataPath, Storage
from numpy.typing import NDArray
from pydantic import Field

from kinoml_data_hdf5.layout import RaggedLayout


class Hdf5(Backend):
    """An HDF5 file that this backend wrote, or one of another program, in which every dataset is a column.

    The options `group`, `ragged` and `missing_chunks` are for files of other programs.

    Attributes:
        path: the file.
        group: the group that contains the columns. A column that it contains is named by its path from the group.
        ragged: how each ragged column is stored, by the name of the column.
        missing_chunks: "refuse" treats values that were never written as damage; "fill" reads them as the fill value.
        verify: "first" compares a row with its checksum when it is first read in a process, "always" compares each
            time, "never" does not compare.
    """

    name = "hdf5"
    suffixes: ClassVar[tuple[str, ...]] = (".h5", ".hdf5")
    can_write = True
    keeps_keys = True
    path: DataPath
    group: str = "/"
    ragged: dict[str, RaggedLayout] = Field(default_factory=dict)
    missing_chunks: Literal["refuse", "fill"] = "refuse"
    verify: Literal["first", "always", "never"] = "first"

    def open(self, columns: Mapping[str, Array | None] | None) -> Storage:
        """Open the file for reading; see `Backend.open`.

        Raises:
            StoreNotFoundError: the file does not exist or is not a regular file.
            CorruptStoreError: the file is damaged, or is not an HDF5 file.
            UnsafeStoreError: a column takes its values from another file, or needs far more memory than is stored.
            UnsupportedStoreError: a column has a type or a filter that is not supported, or a path is a soft link.
            StoreReadError: the operating system failed to read.
            SpecError: an option does not fit the file, or the file contains none of the columns.
        """
        from kinoml_data_hdf5.read import Hdf5Storage

        fill = self.missing_chunks == "fill"
        return Hdf5Storage(self.path, columns, group=self.group, ragged=self.ragged, fill=fill, verify=self.verify)

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
        """Write a file in this backend's own layout, batch by batch; see `Backend.write`.

        Raises:
            UnsupportedStoreError: HDF5 cannot store one of the names, or one of the options `ragged` and `group` is
                set.
        """
        from kinoml_data_hdf5.write import write

        if self.ragged or self.group != "/":
            raise UnsupportedStoreError("hdf5 writes only its own layout; remove the options `ragged` and `group`")
        write(self.path, columns, batches, arrays=arrays or {}, spec=spec, overwrite=overwrite, check=check)
