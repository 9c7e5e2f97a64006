"""`npy-folder-writable`: as `npy-folder`, and it writes."""

from pathlib import Path
from tempfile import TemporaryDirectory

import numpy as np
from kinoml_data_npy_folder import NpyFolder

from kinoml_data import hookimpl
from kinoml_data.errors import StoreExistsError, StoreWriteError, UnsupportedStoreError
from kinoml_data.layouts.flat_arrays import flat_arrays


class WritableNpyFolder(NpyFolder):
    """A folder of .npy files, written at once: all rows have to fit in memory.

    Attributes:
        path: the folder.
    """

    name = "npy-folder-writable"
    can_write = True
    can_overwrite = False

    def write(self, columns, batches, *, arrays=None, spec=None, overwrite=False):
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
def register_backends():
    return [WritableNpyFolder]
