"""`npy-folder-writable`: as `npy-folder`, and it writes."""

from pathlib import Path
from tempfile import TemporaryDirectory

import numpy as np
from kinoml_data_npy_folder import NpyFolder

from kinoml_data import Ragged, hookimpl
from kinoml_data.backends.arrays import difference, flatten
from kinoml_data.columns import concatenate
from kinoml_data.errors import SpecError, StoreExistsError, UnsupportedStoreError


class WritableNpyFolder(NpyFolder):
    """A folder of .npy files, written at once: all rows have to fit in memory.

    Attributes:
        path: the folder.
    """

    name = "npy-folder-writable"

    def write(self, columns, batches, *, arrays=None, spec=None, overwrite=False):
        if overwrite:
            raise UnsupportedStoreError(f"{self.name} cannot replace a folder in one step")
        if self.path.exists():
            raise StoreExistsError(f"{str(self.path)!r} exists")
        parts = {name: [no_rows(array)] for name, array in columns.items()}
        for batch in batches:
            for name, array in columns.items():
                if problem := difference(array, batch[name]):
                    raise SpecError(f"column {name!r}: a batch holds {problem}")
                parts[name].append(batch[name])
        flat = flatten(columns, {name: concatenate(held) for name, held in parts.items()})
        flat |= {f"{name}.index": array for name, array in (arrays or {}).items()}
        if spec is not None:
            flat["_spec"] = np.frombuffer(spec.encode(), np.uint8)
        # Whatever fails, the folder is there with everything or not at all.
        with TemporaryDirectory(dir=self.path.parent) as temporary:
            folder = Path(temporary) / "folder"
            folder.mkdir()
            for name, array in flat.items():
                np.save(folder / f"{name}.npy", array)
            folder.rename(self.path)


def no_rows(array):
    if array.ragged or array.is_string:
        return Ragged.from_rows([], array.numpy, max(1, len(array.shape)))
    return np.empty((0, *array.shape), array.numpy)


@hookimpl
def register_backends():
    return [WritableNpyFolder]
