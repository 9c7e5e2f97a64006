"""A dataset of small graphs: its values in memory, its spec, and its stores."""

from pathlib import Path

import numpy as np
import torch

import kinoml_data as kd
from kinoml_data import DatasetSpec

N = 7
EDGES = [np.arange(2 * (i % 3), dtype=np.int64).reshape(2, i % 3) for i in range(N)]
ATOMS = [np.full((i, 3), i + 0.5, np.float32) for i in range(N)]
FP = np.random.default_rng(0).integers(0, 2, (N, 5)).astype(np.uint8)
Y = np.arange(N) / 7
IDS = ["", "a", "ümläut", "x" * 50, "a", "\N{GRINNING FACE}", "z\n"]
DATA = {"edges": EDGES, "atoms": ATOMS, "fp": FP, "y": Y, "id": IDS}
SPEC = {
    "name": "graphs",
    "columns": {
        "edges": {"dtype": "int64", "shape": [2, "*"]},
        "atoms": {"dtype": "float32", "shape": ["*", 3]},
        "fp": {"dtype": "uint8", "shape": [5]},
        "y": {"dtype": "float64"},
        "id": {"dtype": "str"},
    },
    "X": ["edges", "atoms", "fp"],
    "y": "y",
    "meta": ["id"],
    "storage": {"backend": "in-memory"},
    "splits": {"train": {"rows": [6, 1, 2]}, "test": {"range": [3, 5]}},
    "observation_model": {"name": "pIC50", "substrate_conc": 1e-5},
}


def memory(**changes):
    return kd.load_dataset(SPEC | changes, data=DATA)


def assert_rows(dataset, rows):
    """The dataset holds these rows of the data above, bit for bit, by batch and one by one."""
    assert len(dataset) == len(rows)
    X, y = dataset[:]
    assert list(X) == ["edges", "atoms", "fp"]
    for name, column in (("edges", EDGES), ("atoms", ATOMS)):
        assert [(t.shape, t.numpy().tobytes()) for t in X[name]] == [
            (column[r].shape, column[r].tobytes()) for r in rows
        ]
    assert X["fp"].numpy().tobytes() == FP[rows].tobytes() and X["fp"].shape == (len(rows), 5)
    assert y.numpy().tobytes() == Y[rows].tobytes() and y.dtype == torch.float64
    assert dataset.column("id") == [IDS[r] for r in rows]
    for i, row in enumerate(rows):
        sample, target = dataset[i]
        assert torch.equal(sample["atoms"], torch.from_numpy(ATOMS[row])) and target.item() == Y[row]
        assert sample["edges"].numpy().tobytes() == EDGES[row].tobytes() and sample["edges"].shape == EDGES[row].shape


def store_graphs(folder: Path) -> Path:
    """Put the dataset into two stores in `folder`, and three specs beside them."""
    kd.save_dataset(memory(), folder / "x.npz")
    kd.save_dataset(memory(), folder / "x.parquet")
    spec = DatasetSpec.parse(
        SPEC | {"storage": {"backend": "npz-lazy", "path": "x.npz"}, "splits": {"train": "idx_train"}}, folder
    )
    for suffix in (".yaml", ".json", ".toml"):
        spec.to_file(folder / f"s{suffix}")
    return folder
