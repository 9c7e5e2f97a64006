"""`npy-folder`: a folder of .npy files, one for each flat array. All rows have to fit in memory to be written."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import numpy as np
from kinoml_data import Array, ArrayStorage, Backend, Columns, DataPath, Storage, hookimpl
from kinoml_data.errors import StoreExistsError, StoreNotFoundError, StoreWriteError, UnsupportedStoreError
from kinoml_data.layouts.flat_arrays import flat_arrays
from numpy.typing import NDArray


class NpyFolder(Backend):
    """A folder of .npy files, mapped into memory.

    Attributes:
        path: the folder.
    """

    name = "npy-folder"
    can_write = True
    can_overwrite = False
    path: DataPath

    def open(self, columns: Mapping[str, Array] | None) -> Storage:
        files = sorted(self.path.glob("*.npy"))
        if not files:
            raise StoreNotFoundError(f"there are no .npy files in {str(self.path)!r}")
        return ArrayStorage({file.stem: np.load(file, mmap_mode="r") for file in files})

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
        if overwrite:
            raise UnsupportedStoreError(f"{self.name} cannot replace a folder in one step")
        if self.path.exists():
            raise StoreExistsError(f"{str(self.path)!r} exists")
        flat = flat_arrays(columns, batches, arrays=arrays, spec=spec)
        try:
            # Whatever fails, the folder is there with everything or not at all.
            with TemporaryDirectory(dir=self.path.parent) as temporary:
                folder = Path(temporary) / "folder"
                folder.mkdir()
                for name, array in flat.items():
                    np.save(folder / f"{name}.npy", array)
                folder.rename(self.path)
        except OSError as error:
            raise StoreWriteError(f"cannot write {str(self.path)!r}: {error}") from error


@hookimpl
def register_backends() -> list[type[Backend]]:
    """The backends of this plugin."""
    return [NpyFolder]
