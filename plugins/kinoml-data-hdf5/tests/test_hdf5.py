"""The contract."""

from __future__ import annotations

from kinoml_data.testing import BackendTests

from kinoml_data_hdf5 import Hdf5


class TestHdf5(BackendTests):
    def make_backend(self, folder):
        return Hdf5(path=folder / "data.h5")
