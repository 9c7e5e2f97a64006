"""HDF5, Zarr and TensorDict: values of all rows end to end."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.utils.data import Dataset, get_worker_info

from benchmarks.adapters import Adapter, PerProcess, Row, Samples, collate
from benchmarks.workloads import Workload


class Flat(Adapter):
    """Values of all rows in one flat array; offsets and shapes are read when it is opened."""

    def slices(self, arrays: Callable[[], Any], index: Any, names: list[str]) -> Samples:
        ends = {name: index[f"{name}.offsets"].tolist() for name in names}
        shapes = {name: index[f"{name}.shapes"].tolist() for name in names}

        def read(row: int) -> tuple[Tensor, ...]:
            held = arrays()
            return tuple(
                torch.from_numpy(held[name][ends[name][row] : ends[name][row + 1]].reshape(shapes[name][row]))
                for name in names
            )

        return Samples(read, index["y"])


class FixedRows(Dataset[Any]):
    """Rows of one two-dimensional array, a batch read at once."""

    def __init__(self, read: Callable[[list[int]], NDArray[Any]], y: NDArray[np.float32]) -> None:
        self.read, self.y = read, torch.from_numpy(y)

    def __len__(self) -> int:
        return len(self.y)

    def __getitem__(self, row: int) -> tuple[tuple[Tensor, ...], Tensor]:
        return (torch.from_numpy(self.read([row])[0]),), self.y[row]

    def __getitems__(self, rows: list[int]) -> tuple[list[Tensor], Tensor]:
        return [torch.from_numpy(self.read(rows))], self.y[rows]


class H5py(Flat):
    name = "h5py"
    note = "values end to end in one dataset, with the offsets in a second dataset; fixed rows by a sorted list"

    def write(self, data: Workload, folder: Path) -> None:
        import h5py

        with h5py.File(folder / "data.h5", "w") as file:
            file["y"] = data.y
            for name, column in data.columns.items():
                file[name] = column.array if column.fixed else column.values
                if not column.fixed:
                    file[f"{name}.offsets"], file[f"{name}.shapes"] = column.offsets, column.shapes

    def open(self, folder: Path) -> Any:
        handle = PerProcess(partial(_h5_datasets, folder / "data.h5"))
        found = handle.get()
        index = {name: values[:] for name, values in found.items() if name == "y" or "." in name}
        names = [name for name in ("X", "edge_index", "atoms") if name in found]
        if "X.shapes" not in found and names == ["X"]:
            return FixedRows(lambda rows: _sorted_rows(handle.get()["X"], rows), index["y"])
        return self.slices(handle.get, index, names)


def _h5_datasets(path: Path) -> dict[str, Any]:
    import h5py

    return dict(h5py.File(path, "r").items())


def _sorted_rows(values: Any, rows: list[int]) -> NDArray[Any]:
    unique, back = np.unique(rows, return_inverse=True)
    found: NDArray[Any] = values[unique][back]
    return found


class Zarr(Flat):
    name = "zarr"
    note = "values end to end in chunks of 128 KiB, sharded, not compressed; fixed rows by `oindex`"

    def write(self, data: Workload, folder: Path) -> None:
        import zarr

        group = zarr.create_group(folder / "data.zarr")
        group.create_array("y", data=data.y)
        for name, column in data.columns.items():
            values = column.array if column.fixed else column.values
            step = (32, *values.shape[1:]) if column.fixed else (1 << 15,)
            shard = (step[0] * 128, *step[1:])
            group.create_array(name, data=values, chunks=step, shards=shard, compressors=None)
            if not column.fixed:
                group.create_array(f"{name}.offsets", data=column.offsets)
                group.create_array(f"{name}.shapes", data=column.shapes)

    def open(self, folder: Path) -> Any:
        handle = PerProcess(partial(_zarr_arrays, folder / "data.zarr"))
        arrays = handle.get()
        index = {name: array[:] for name, array in arrays.items() if name == "y" or "." in name}
        names = [name for name in ("X", "edge_index", "atoms") if name in arrays]
        if "X.shapes" not in arrays and names == ["X"]:
            return FixedRows(lambda rows: handle.get()["X"].oindex[np.asarray(rows)], index["y"])
        return self.slices(handle.get, index, names)


def _zarr_arrays(path: Path) -> dict[str, Any]:
    import zarr

    return dict(zarr.open_group(path, mode="r").arrays())


class TensorDictMemmap(Flat):
    name = "tensordict"
    note = "memory-mapped TensorDict; ragged rows as slices of the flat values, fixed ones as `td[rows]`"
    anchor = True

    def write(self, data: Workload, folder: Path) -> None:
        from tensordict import TensorDict

        if data.fixed:
            columns = {name: torch.from_numpy(column.array) for name, column in data.columns.items()}
            TensorDict(columns | {"y": torch.from_numpy(data.y)}, [len(data)]).memmap(folder / "data")
            return
        parts = {"y": data.y}
        for name, column in data.columns.items():
            parts |= {name: column.values, f"{name}_offsets": column.offsets, f"{name}_shapes": column.shapes}
        TensorDict({name: torch.from_numpy(part) for name, part in parts.items()}, []).memmap(folder / "data")

    def open(self, folder: Path) -> Any:
        from tensordict import TensorDict

        found = TensorDict.load_memmap(folder / "data")
        if found.batch_size:
            return found
        names = [name for name in ("X", "edge_index", "atoms") if name in found]
        values = {name: found[name] for name in names}
        ends = {name: found[f"{name}_offsets"].tolist() for name in names}
        shapes = {name: found[f"{name}_shapes"].tolist() for name in names}

        def read(row: int) -> tuple[Tensor, ...]:
            rows = [values[name][ends[name][row] : ends[name][row + 1]].view(shapes[name][row]) for name in names]
            # A worker cannot send a view of a mapped file: its descriptor is not valid elsewhere.
            return tuple(row.clone() for row in rows) if get_worker_info() else tuple(rows)

        return Samples(read, found["y"].numpy())

    def collate(self) -> Callable[[Any], Any]:
        return _tensordict_collate

    def count(self, batch: Any) -> int:
        return len(batch[1]) if isinstance(batch, tuple) else len(batch)

    def sample(self, sample: Any) -> Row:
        return super().sample(sample if isinstance(sample, tuple) else ([sample["X"]], sample["y"]))

    def rows(self, batch: Any) -> list[Row]:
        return super().rows(batch if isinstance(batch, tuple) else ([batch["X"]], batch["y"]))


def _tensordict_collate(samples: Any) -> Any:
    return collate(samples) if isinstance(samples, list) else samples
