"""A backend that keeps the contract; each broken backend differs from it in one way."""

from __future__ import annotations

import shutil
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any, ClassVar

import numpy as np

from kinoml_data import ArrayStorage, Backend, DataPath, Storage
from kinoml_data.errors import StoreExistsError, StoreNotFoundError, StoreWriteError
from kinoml_data.layouts.flat_writing import flat_arrays
from kinoml_data.testing import BackendTests


class Wrapped(Storage):
    """Passes everything on; a broken storage overrides a part.

    Attributes:
        rule: the name of the test that must fail.
    """

    rule: ClassVar[str]

    def __init__(self, storage: Storage) -> None:
        self.storage = storage
        self.columns, self.arrays, self.spec = storage.columns, storage.arrays, storage.spec
        self.identity = storage.identity

    def __len__(self):
        return len(self.storage)

    def read(self, rows, columns):
        return self.storage.read(rows, columns)

    def shapes(self, column):
        return self.storage.shapes(column)

    def keys(self, column):
        return self.storage.keys(column)

    def close(self):
        self.storage.close()


class Sound(Backend):
    """A folder of .npy files, which is written beside its place, checked, and renamed.

    Attributes:
        rule: the name of the test that must fail.
        path: the folder.
    """

    rule: ClassVar[str]
    name = "sound"
    can_write = True
    keeps_keys = True
    path: DataPath

    def open(self, columns):
        files = sorted(self.path.glob("*.npy"))
        if not files:
            raise StoreNotFoundError(f"there are no .npy files in {str(self.path)!r}")
        return self.wrapped(ArrayStorage({file.stem: np.load(file, mmap_mode="r") for file in files}))

    def wrapped(self, storage: Storage) -> Storage:
        return Wrapped(storage)

    def write(self, columns, batches, *, arrays=None, spec=None, overwrite=False, check=None):
        if self.path.exists() and not overwrite:
            raise StoreExistsError(f"{str(self.path)!r} exists")
        flat = flat_arrays(columns, batches, arrays=arrays, spec=spec)
        try:
            with TemporaryDirectory(dir=self.path.parent) as temporary:
                folder = Path(temporary) / "new"
                folder.mkdir()
                for name, array in flat.items():
                    np.save(folder / f"{name}.npy", array)
                self.check(folder, check)
                self.replace(folder)
        except OSError as error:
            raise StoreWriteError(f"cannot write {str(self.path)!r}: {error}") from error

    def check(self, folder: Path, check: Any) -> None:
        if check:
            with type(self)(path=folder).open(None) as storage:
                check(storage)

    def replace(self, folder: Path) -> None:
        if self.path.exists():
            shutil.rmtree(self.path)
        folder.rename(self.path)


def over(storage: type[Wrapped]) -> type[Sound]:
    """The sound backend with a broken storage."""
    attributes = {"__doc__": storage.__doc__, "__module__": storage.__module__}
    attributes |= {"rule": storage.rule, "wrapped": lambda self, inner: storage(inner)}
    return type(storage.__name__, (Sound,), attributes)


def suite_of(cls: type[Sound]) -> type[BackendTests]:
    """The one test of the suite that the backend must fail."""
    others = {name: None for name in dir(BackendTests) if name.startswith("test_") and name != cls.rule}
    attributes = {"make_backend": lambda self, folder: cls(path=folder / "data"), **others}
    return type(f"Test{cls.__name__}", (BackendTests,), attributes)
