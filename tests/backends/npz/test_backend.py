"""How many files the backends of NPZ keep open."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from kinoml_data.backends.npz.backend import NpzLazy, NpzReopen
from tests.backends.npz.files import EXAMPLE, written


def open_files(path: Path) -> int:
    folder = Path("/proc/self/fd")
    if not folder.is_dir():
        pytest.skip("the operating system does not list open files")
    return sum(1 for fd in folder.iterdir() if fd.is_symlink() and fd.readlink() == path)


@pytest.mark.parametrize(("backend", "held"), [(NpzLazy, 1), (NpzReopen, 0)])
def test_npz_lazy_keeps_one_file_open_and_npz_reopen_none(tmp_path, backend, held):
    path = written(tmp_path / "data.npz").path
    storage = backend(path=path).open(None)
    storage.read(np.array([1]), list(EXAMPLE.columns))
    assert open_files(path) == held
    storage.close()
    assert open_files(path) == 0
