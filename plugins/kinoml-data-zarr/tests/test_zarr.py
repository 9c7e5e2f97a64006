"""The contract, over a folder."""

from __future__ import annotations

import pytest
from kinoml_data.testing import BackendTests

from kinoml_data_zarr import Zarr


class TestZarr(BackendTests):
    can_overwrite = False

    @pytest.fixture
    def backend(self, tmp_path):
        return Zarr(path=tmp_path / "data.zarr")
