"""The backend `hdf5`: columns in an HDF5 file.

h5py is imported when a file is opened or written, not with this module.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from typing import Any, ClassVar, Literal

from kinoml_data import Array, Backend, Columns, DataPath, Storage
from numpy.typing import NDArray
from pydantic import Field

from kinoml_data_hdf5.layout import RaggedLayout


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
    can_write = True
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
        """See `Backend.write`. Rows are written as they come, in this backend's own layout.

        Raises:
            UnsupportedStoreError: a name that HDF5 cannot have, or options for the files of others.
            StoreExistsError, StoreWriteError: as `kinoml_data.files.replacing`.
            SpecError: a batch holds something else than `columns` announces.
        """
        from kinoml_data_hdf5.write import write

        own = not self.ragged and self.group == "/"
        write(self.path, columns, batches, arrays=arrays or {}, spec=spec, overwrite=overwrite, own=own)
