"""A dataset of ragged rows on disk, for tests of loaders."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import torch

import kinoml_data as kd

RNG = np.random.default_rng(3)
X = [RNG.normal(size=(4, int(n))).astype(np.float32) for n in RNG.integers(1, 60, 500)]
Y = np.arange(500, dtype=np.int64)


def store_rows(path: Path) -> kd.XyDataset:
    """Write the rows to a file and open it."""
    kd.save_dataset(kd.from_arrays(X, Y, splits={"train": range(400), "test": range(400, 500)}), path)
    return kd.load_dataset(path)


def rows_of(loader: Any) -> list[int]:
    """The rows of an epoch in order, each X compared with what was saved."""
    rows = []
    for batch, y in loader:
        assert len(batch) == len(y)
        for x, row in zip(batch, y.tolist(), strict=True):
            assert torch.equal(x, torch.from_numpy(X[row]))
            rows.append(row)
    return rows
