"""Limits no storage can pass: rows that are tensors already."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.utils.data import Dataset

from benchmarks.adapters import Adapter, Samples
from benchmarks.peers.numpy_files import NumpyLazy, NumpyMemmap, write_members
from benchmarks.workloads import Workload


class ReadyTensors(Adapter):
    name = "ready-tensors"
    kind = "limit"
    note = "a `DataLoader` over a Python list of tensors already in memory"
    on_disk = False
    anchor = True
    store = "kinoml"

    def write(self, data: Workload, folder: Path) -> None:
        write_members(data, folder / "data.npz")

    def open(self, folder: Path) -> Any:
        with np.load(folder / "data.npz") as file:
            y = file["y"]
            if "X" in file.files:
                X = [(row,) for row in torch.from_numpy(file["X"]).unbind()]
            else:
                columns = 2 if "X_s0_a1_" in file.files else 1
                X = [NumpyLazy.read(file, columns, row) for row in range(len(y))]
        dataset = Samples(X.__getitem__, y)
        dataset.y = dataset.y.unbind()  # type: ignore[assignment]
        return dataset


class OneTensor(NumpyMemmap):
    name = "one-tensor"
    kind = "limit"
    note = "`X[rows]` of one tensor in memory"
    on_disk = False
    anchor = True

    def open(self, folder: Path) -> Any:
        return _OneTensor(torch.from_numpy(np.load(folder / "X.npy")), torch.from_numpy(np.load(folder / "y.npy")))


class _OneTensor(Dataset[Any]):
    def __init__(self, X: Tensor, y: Tensor) -> None:
        self.X, self.y = X, y

    def __len__(self) -> int:
        return len(self.y)

    def __getitem__(self, row: int) -> tuple[tuple[Tensor, ...], Tensor]:
        return (self.X[row],), self.y[row]

    def __getitems__(self, rows: list[int]) -> tuple[list[Tensor], Tensor]:
        chosen = torch.tensor(rows)
        return [self.X[chosen]], self.y[chosen]
