"""`npy-folder`: a folder of .npy files, mapped into memory."""

import numpy as np

from kinoml_data import ArrayStorage, Backend, DataPath, hookimpl
from kinoml_data.errors import StoreNotFoundError


class NpyFolder(Backend):
    """A folder of .npy files, one for each flat array.

    Attributes:
        path: the folder.
    """

    name = "npy-folder"
    path: DataPath

    def open(self, columns):
        files = sorted(self.path.glob("*.npy"))
        if not files:
            raise StoreNotFoundError(f"there are no .npy files in {str(self.path)!r}")
        return ArrayStorage({file.stem: np.load(file, mmap_mode="r") for file in files})


@hookimpl
def register_backends():
    return [NpyFolder]
