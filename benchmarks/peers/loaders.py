"""PyTorch Geometric, LitData and WebDataset: datasets with loaders of their own."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from benchmarks.adapters import Adapter, Row, collate
from benchmarks.workloads import Workload


class Geometric(Adapter):
    name = "pyg"
    note = "PyG's InMemoryDataset and DataLoader, which joins graphs; one-hot SMILES transposed as `x`"
    on_disk = False
    anchor = True
    works = ("ragged", "graph")
    forms = ("packed",)

    def write(self, data: Workload, folder: Path) -> None:
        from torch_geometric.data import InMemoryDataset

        graphs = [self._graph(data, row) for row in range(len(data))]
        InMemoryDataset.save(graphs, str(folder / "data.pt"))

    @staticmethod
    def _graph(data: Workload, row: int) -> Any:
        from torch_geometric.data import Data

        arrays, y = [torch.from_numpy(array) for array in data.row(row)], torch.from_numpy(data.y[row : row + 1])
        if len(arrays) == 1:
            return Data(x=arrays[0].T.contiguous(), y=y)
        return Data(edge_index=arrays[0], x=arrays[1], y=y)

    def open(self, folder: Path) -> Any:
        from torch_geometric.data import InMemoryDataset

        dataset = InMemoryDataset()
        dataset.load(str(folder / "data.pt"))
        return dataset

    def batch(self, dataset: Any, rows: list[int]) -> Any:
        from torch_geometric.data import Batch

        return Batch.from_data_list([dataset[row] for row in rows])

    def stock_loader(self, dataset: Any, workers: int, cls: Any = None, **kwargs: Any) -> Iterable[Any]:
        from torch_geometric.loader import DataLoader

        return super().stock_loader(dataset, workers, cls=DataLoader, **kwargs)

    def count(self, batch: Any) -> int:
        return int(batch.num_graphs)

    def sample(self, sample: Any) -> Row:
        x = sample.x.numpy()
        edges = sample.edge_index
        return [x.T] if edges is None else [edges.numpy(), x], float(sample.y)

    def rows(self, batch: Any) -> list[Row]:
        return [self.sample(graph) for graph in batch.to_data_list()]


class LitData(Adapter):
    name = "litdata"
    note = "StreamingDataset of local chunks of 64 MB; shuffles chunks and within them"

    def write(self, data: Workload, folder: Path) -> None:
        import litdata

        litdata.optimize(
            fn=partial(_fields, data),
            inputs=list(range(len(data))),
            output_dir=str(folder / "data"),
            chunk_bytes="64MB",
            num_workers=1,
            start_method="fork",
            verbose=False,
        )

    def open(self, folder: Path) -> Any:
        import litdata

        dataset = litdata.StreamingDataset(str(folder / "data"), shuffle=False)
        dataset.folder = folder
        return dataset

    def collate(self) -> Callable[[Any], Any]:
        return _fields_collate

    def loader(self, dataset: Any, *, workers: int, form: str, batches: int | None, shuffle: bool) -> Iterable[Any]:
        import litdata

        fresh = litdata.StreamingDataset(str(dataset.folder / "data"), shuffle=shuffle)
        return self.stock_loader(fresh, workers, cls=litdata.StreamingDataLoader)

    def sample(self, sample: Any) -> Row:
        return [value.numpy() for name, value in sample.items() if name != "y"], float(sample["y"])


def _fields(data: Workload, row: int) -> dict[str, Any]:
    fields: dict[str, Any] = {name: torch.from_numpy(column[row]) for name, column in data.columns.items()}
    return fields | {"y": torch.tensor(data.y[row])}


def _fields_collate(samples: list[dict[str, Any]]) -> tuple[list[Any], Tensor]:
    return collate([(tuple(v for name, v in sample.items() if name != "y"), sample["y"]) for sample in samples])


class WebDataset(Adapter):
    name = "webdataset"
    note = "four tar files of .npy members; shuffles the files and a buffer of 1,000"
    random = False

    def write(self, data: Workload, folder: Path) -> None:
        import webdataset

        columns = list(data.columns)
        most = -(-len(data) // 4)
        with webdataset.ShardWriter(f"{folder}/%04d.tar", maxcount=most, maxsize=1 << 40, verbose=0) as writer:
            for row, y in enumerate(data.y):
                arrays = zip(columns, data.row(row), strict=True)
                writer.write({"__key__": f"{row:07d}", **{f"{k}.npy": a for k, a in arrays}, "y.npy": np.asarray(y)})

    def open(self, folder: Path) -> Any:
        return sorted(map(str, folder.glob("*.tar")))

    def loader(self, dataset: Any, *, workers: int, form: str, batches: int | None, shuffle: bool) -> Iterable[Any]:
        import webdataset

        rows = webdataset.WebDataset(dataset, shardshuffle=4 if shuffle else False)
        rows = rows.shuffle(1000) if shuffle else rows
        return self.stock_loader(rows.decode().map(_members), workers)


def _members(sample: dict[str, Any]) -> tuple[tuple[Tensor, ...], Tensor]:
    # Names come back in lower case.
    names = [name for name in ("x.npy", "edge_index.npy", "atoms.npy") if name in sample]
    return tuple(torch.from_numpy(sample[name]) for name in names), torch.as_tensor(sample["y.npy"])
