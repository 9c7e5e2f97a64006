"""numpy and awkward, as KinoML uses them."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from benchmarks.adapters import Adapter, PerProcess, Row, Samples
from benchmarks.workloads import Workload


def member_names(data: Workload, row: int) -> list[str]:
    """How KinoML names the arrays of a row in an NPZ file."""
    return [f"X_s{row}_"] if len(data.columns) == 1 else [f"X_s{row}_a{k}_" for k in range(len(data.columns))]


def write_members(data: Workload, path: Path, *, compress: bool = False) -> None:
    """KinoML's layout: one array per row and column, or one array of all rows where they agree."""
    if data.fixed:
        members = {name: column.array for name, column in data.columns.items()}
    else:
        members = {}
        for row in range(len(data)):
            members |= zip(member_names(data, row), data.row(row), strict=True)
    (np.savez_compressed if compress else np.savez)(path, **members, y=data.y)


class NumpyLazy(Adapter):
    name = "numpy-lazy"
    note = "`np.load`, a member per row read when asked for"
    anchor = True
    store = "kinoml"
    works = ("ragged", "graph")

    def write(self, data: Workload, folder: Path) -> None:
        write_members(data, folder / "data.npz")

    def open(self, folder: Path) -> Any:
        handle = PerProcess(partial(np.load, folder / "data.npz"))
        keys = handle.get().files
        columns = 2 if "X_s0_a1_" in keys else 1
        return Samples(lambda row: self.read(handle.get(), columns, row), handle.get()["y"])

    @staticmethod
    def read(file: Any, columns: int, row: int) -> tuple[Tensor, ...]:
        if columns == 1:
            return (torch.from_numpy(file[f"X_s{row}_"]),)
        return tuple(torch.from_numpy(file[f"X_s{row}_a{k}_"]) for k in range(columns))


class NumpyCompressed(NumpyLazy):
    name = "numpy-compressed"
    note = "the same over `np.savez_compressed`"
    anchor = False
    store = "kinoml-compressed"

    def write(self, data: Workload, folder: Path) -> None:
        write_members(data, folder / "data.npz", compress=True)


class NumpyReopen(NumpyLazy):
    name = "numpy-reopen"
    note = "`np.load` again for every sample or batch"
    anchor = False

    def open(self, folder: Path) -> Any:
        with np.load(folder / "data.npz") as file:
            return _Reopened(folder / "data.npz", 2 if "X_s0_a1_" in file.files else 1, file["y"])


class _Reopened(Samples):
    def __init__(self, path: Path, columns: int, y: NDArray[np.float32]) -> None:
        super().__init__(lambda row: self.__getitems__([row])[0][0], y)
        self.path, self.columns = path, columns

    def __getitems__(self, rows: list[int]) -> list[tuple[tuple[Tensor, ...], Tensor]]:
        with np.load(self.path) as file:
            return [(NumpyLazy.read(file, self.columns, row), self.y[row]) for row in rows]


class NumpyPreload(NumpyLazy):
    name = "numpy-preload"
    note = "`np.load`, all members read at the start"
    on_disk = False

    def open(self, folder: Path) -> Any:
        with np.load(folder / "data.npz") as file:
            arrays = {name: file[name] for name in file.files}
        columns = 2 if "X_s0_a1_" in arrays else 1
        return Samples(lambda row: self.read(arrays, columns, row), arrays["y"])


class Jagged(NumpyPreload):
    name = "torch-jagged"
    note = "the same; a batch is a `torch.nested` tensor of layout `torch.jagged`, its first axis ragged"
    anchor = False
    on_disk = False
    forms = ("packed",)

    def open(self, folder: Path) -> Any:
        samples = super().open(folder)
        rows = [self.turned(samples.read(row)) for row in range(len(samples))]
        return Samples(rows.__getitem__, samples.y.numpy())

    @staticmethod
    def turned(X: tuple[Tensor, ...]) -> tuple[Tensor, ...]:
        """One-hot SMILES `(53, L)` and edges `(2, E)` the other way round."""
        return X[0].T.contiguous(), *X[1:]

    def collate(self) -> Callable[[Any], Any]:
        return _jagged

    def sample(self, sample: Any) -> Row:
        return super().sample((self.turned(sample[0]), sample[1]))

    def rows(self, batch: Any) -> list[Row]:
        X, y = batch
        return [self.sample(sample) for sample in zip(zip(*(c.unbind() for c in X), strict=True), y, strict=True)]


def _jagged(samples: Any) -> tuple[list[Tensor], Tensor]:
    X, y = zip(*samples, strict=True)
    columns = zip(*X, strict=True)
    return [torch.nested.nested_tensor(list(column), layout=torch.jagged) for column in columns], torch.stack(y)


class NumpyMemmap(Adapter):
    name = "numpy-memmap"
    note = '`np.load(mmap_mode="r")` of a .npy file, a copy per row'
    store = "npy"
    works = ("fixed",)

    def write(self, data: Workload, folder: Path) -> None:
        np.save(folder / "X.npy", data.columns["X"].array)
        np.save(folder / "y.npy", data.y)

    def open(self, folder: Path) -> Any:
        X = np.load(folder / "X.npy", mmap_mode="r")
        return Samples(lambda row: (torch.from_numpy(np.array(X[row])),), np.load(folder / "y.npy"))


class Awkward(Adapter):
    name = "awkward"
    note = "`ak.from_parquet`, each row converted when asked for"
    on_disk = False
    store = "awkward"

    def write(self, data: Workload, folder: Path) -> None:
        import awkward as ak

        fields = [ak.Array(_nested(column)) for column in data.columns.values()]
        ak.to_parquet(ak.zip([*fields, data.y], depth_limit=1), folder / "data.parquet")

    def open(self, folder: Path) -> Any:
        import awkward as ak

        array = ak.from_parquet(folder / "data.parquet")
        fields = [array[name] for name in array.fields]

        def read(row: int) -> tuple[Tensor, ...]:
            return tuple(torch.from_numpy(np.array(ak.to_numpy(field[row]))) for field in fields[:-1])

        return Samples(read, ak.to_numpy(fields[-1]))


def _nested(column: Any) -> Any:
    """Rows of two axes as an awkward layout of lists of lists, without a Python object per row."""
    import awkward as ak

    if column.fixed:
        return column.array
    lengths = np.repeat(column.shapes[:, 1], column.shapes[:, 0])
    inner = ak.contents.ListOffsetArray(_index([lengths]), ak.contents.NumpyArray(column.values))
    return ak.contents.ListOffsetArray(_index([column.shapes[:, 0]]), inner)


def _index(lengths: list[NDArray[np.int64]]) -> Any:
    import awkward as ak

    return ak.index.Index64(np.concatenate([[0], np.cumsum(lengths)]))
