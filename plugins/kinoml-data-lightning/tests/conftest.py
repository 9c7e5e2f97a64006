"""Models for the tests, in a module that a LightningCLI can import."""

from __future__ import annotations

import sys
from pathlib import Path

import kinoml_data as kd
import numpy as np
import pytest

sys.path.insert(0, str(Path(__file__).parent))

ROWS = 200


@pytest.fixture(scope="session")
def store(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Rows of different lengths whose y is their mean, with splits of 160, 20 and 20 rows."""
    rng = np.random.default_rng(0)
    X = [rng.random((n, 3), np.float32) for n in rng.integers(2, 30, ROWS)]
    y = np.array([x.mean() for x in X], np.float32)
    splits = {"ratios": {"train": 0.8, "val": 0.1, "test": 0.1}, "seed": 0}
    path = tmp_path_factory.mktemp("store") / "rows.npz"
    kd.save_dataset(kd.from_arrays({"atoms": X}, {"y": y, "row": np.arange(ROWS)}, splits), path)
    return path
