"""Both backends against the contract."""

from kinoml_data_npy_folder import NpyFolder
from kinoml_data_npy_folder_write import WritableNpyFolder

from kinoml_data.testing import BackendTests


class TestWritableNpyFolder(BackendTests):
    def make_backend(self, folder):
        return WritableNpyFolder(path=folder / "data")


class TestNpyFolder(BackendTests):
    def make_backend(self, folder):
        return NpyFolder(path=folder / "data")

    def store(self, backend, example):
        """Put the rows of `example` where `backend` finds them."""
        super().store(WritableNpyFolder(path=backend.path), example)
        return backend
