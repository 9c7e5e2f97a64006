"""The backend `npy-folder`: a folder of .npy files, one for each flat array. Writing needs all rows in memory."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import numpy as np
from kinoml_data.errors import StoreExistsError, StoreNotFoundError, StoreWriteError, UnsupportedStoreError
from kinoml_data.plugin import Array, ArrayStorage, Backend, Columns, DataPath, Storage, flat_arrays, hookimpl
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

    def open(self, columns: Mapping[str, Array | None] | None) -> Storage:
        return open_folder(self.path)

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
            raise UnsupportedStoreError(f"{self.name} cannot replace a folder in one step; write to a new path")
        if self.path.exists():
            raise StoreExistsError(f"{str(self.path)!r} already exists; choose another path")
        flat = flat_arrays(columns, batches, arrays=arrays, spec=spec)
        try:
            # The folder is renamed at the end, so that even after a failure it is complete or does not exist.
            with TemporaryDirectory(dir=self.path.parent) as temporary:
                folder = Path(temporary) / "folder"
                folder.mkdir()
                for name, array in flat.items():
                    np.save(folder / f"{name}.npy", array)
                if check is not None:
                    with open_folder(folder) as storage:
                        check(storage)
                folder.rename(self.path)
        except OSError as error:
            raise StoreWriteError(f"cannot write {str(self.path)!r}: {error}") from error


def open_folder(folder: Path) -> Storage:
    """The flat arrays of a folder as a storage."""
    files = sorted(folder.glob("*.npy"))
    if not files:
        raise StoreNotFoundError(f"there are no .npy files in {str(folder)!r}")
    return ArrayStorage({file.stem: np.load(file, mmap_mode="r") for file in files})


@hookimpl
def register_backends() -> list[type[Backend]]:
    """The backends of this plugin."""
    return [NpyFolder]
