"""The contract, over a folder."""

from __future__ import annotations

from kinoml_data.testing import BackendTests

from kinoml_data_zarr import Zarr


class TestZarr(BackendTests):
    def make_backend(self, folder):
        return Zarr(path=folder / "data.zarr")
