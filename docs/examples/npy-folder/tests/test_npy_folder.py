"""Both backends against the contract."""

import pytest
from kinoml_data_npy_folder import NpyFolder
from kinoml_data_npy_folder_write import WritableNpyFolder

from kinoml_data.testing import BackendTests


class TestWritableNpyFolder(BackendTests):
    can_overwrite = False

    @pytest.fixture
    def backend(self, tmp_path):
        return WritableNpyFolder(path=tmp_path / "data")


class TestNpyFolder(BackendTests):
    can_write = False

    @pytest.fixture
    def backend(self, tmp_path):
        return NpyFolder(path=tmp_path / "data")

    def store(self, backend, example):
        """Put the rows of `example` where `backend` finds them."""
        super().store(WritableNpyFolder(path=backend.path), example)
        return backend
