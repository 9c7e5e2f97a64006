"""The contract of a storage backend, and what is particular to this one."""

from __future__ import annotations

from pathlib import Path

import pytest
from kinoml_data.errors import StoreNotFoundError
from kinoml_data.testing import BackendTests

from kinoml_data_npy_folder import NpyFolder


class TestNpyFolder(BackendTests):
    """Every rule of the contract."""

    def make_backend(self, folder: Path) -> NpyFolder:
        return NpyFolder(path=folder / "data")


def test_an_empty_folder_is_not_a_dataset(tmp_path: Path) -> None:
    with pytest.raises(StoreNotFoundError, match=r"no \.npy files"):
        NpyFolder(path=tmp_path).open(None)
