"""The contract."""

from __future__ import annotations

import pytest
from kinoml_data.testing import BackendTests

from kinoml_data_hdf5 import Hdf5


class TestHdf5(BackendTests):
    @pytest.fixture
    def backend(self, tmp_path):
        return Hdf5(path=tmp_path / "data.h5")
