"""One dataset in every kind of store, and comparisons of its batches."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch.utils.data import DataLoader

from kinoml_data import XyDataset, from_arrays, load_dataset, save_dataset
from tests.builders import random_bits, same_tensor

ROWS = 43
# Spawned workers import everything anew; those of the fork server start with what it has imported.
NEW = ("spawn", "forkserver")
each_new_process = pytest.mark.parametrize("method", ["forkserver", pytest.param("spawn", marks=pytest.mark.slow)])

# What every dataset here holds; y is the number of the row.
SMILES = [random_bits((5, i % 7), "int16", i) for i in range(ROWS)]
ATOMS = [random_bits((1 + i % 4, 3), "float32", 100 + i) for i in range(ROWS)]
Y = np.arange(ROWS)
SPLITS = {"train": Y[::-1][:30].copy(), "test": Y[:13].copy()}


def whole() -> XyDataset:
    return from_arrays({"smiles": SMILES, "atoms": ATOMS}, {"y": Y}, splits=SPLITS)


def in_memory(folder: Path) -> XyDataset:
    return whole()


def preloaded(folder: Path) -> XyDataset:
    save_dataset(whole(), folder / "data.npz")
    return load_dataset(folder / "data.npz", backend="in-memory")


def packed_npz(folder: Path) -> XyDataset:
    save_dataset(whole(), folder / "data.npz")
    return load_dataset(folder / "data.npz")


def kinoml_npz(folder: Path) -> XyDataset:
    path = folder / "kinoml.npz"
    members = {f"X_s{i}_a{j}_": row[i] for i in range(ROWS) for j, row in enumerate((SMILES, ATOMS))}
    np.savez(path, y=Y, **members, **{f"idx_{name}": rows for name, rows in SPLITS.items()})
    columns = {
        "smiles": {"dtype": "int16", "shape": [5, "*"], "stored_as": "X0"},
        "atoms": {"dtype": "float32", "shape": ["*", 3], "stored_as": "X1"},
        "y": {"dtype": "int64"},
    }
    splits = {name: f"idx_{name}" for name in SPLITS}
    storage = {"backend": "npz-lazy", "path": path}
    return load_dataset(
        {"columns": columns, "X": ["smiles", "atoms"], "y": ["y"], "splits": splits, "storage": storage}
    )


def reopened_npz(folder: Path) -> XyDataset:
    save_dataset(whole(), folder / "data.npz")
    return load_dataset(folder / "data.npz", backend="npz-reopen")


def parquet(folder: Path) -> XyDataset:
    save_dataset(whole(), folder / "data.parquet")
    return load_dataset(folder / "data.parquet")


def featurized(folder: Path) -> XyDataset:
    """`smiles` computed from its negative by a function that any process can import."""
    columns = {
        "smiles": {"dtype": "int16", "shape": [5, "*"]},
        "atoms": {"dtype": "float32", "shape": ["*", 3]},
        "y": {"dtype": "int64"},
    }
    splits = {name: {"rows": rows.tolist()} for name, rows in SPLITS.items()}
    spec = {"columns": columns, "X": ["smiles", "atoms"], "y": ["y"], "splits": splits}
    data = {"raw": [-row for row in SMILES], "atoms": ATOMS, "y": Y}
    return load_dataset(spec | {"storage": {"backend": "featurize-on-access"}}, data=data, featurizer=np.negative)


DATASETS: dict[str, Callable[[Path], XyDataset]] = {
    "in-memory": in_memory,
    "in-memory-over-npz": preloaded,
    "npz-lazy": packed_npz,
    "npz-lazy-of-kinoml": kinoml_npz,
    "npz-reopen": reopened_npz,
    "parquet-awkward": parquet,
    "featurize-on-access": featurized,
}

each_dataset = pytest.mark.parametrize("make", [*DATASETS.values()], ids=[*DATASETS])


def same_rows(X: dict[str, Any], y: dict[str, torch.Tensor]) -> list[int]:
    """Compare a batch with what its y says it is; returns the numbers of its rows."""
    rows = y["y"].tolist()
    for name, expected in (("smiles", SMILES), ("atoms", ATOMS)):
        assert len(X[name]) == len(rows)
        for found, row in zip(X[name], rows, strict=True):
            same_tensor(found, expected[row])
    return rows


def epoch(loader: DataLoader[Any]) -> list[int]:
    return [row for X, y in loader for row in same_rows(X, y)]
