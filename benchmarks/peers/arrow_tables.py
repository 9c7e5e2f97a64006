"""Hugging Face datasets, scDataset and Lance: tables of Arrow."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.utils.data import DataLoader, Dataset

from benchmarks.adapters import BATCH, Adapter, PerProcess
from benchmarks.workloads import Workload


def arrow_batches(data: Workload, rows_per_batch: int) -> Iterator[Any]:
    """Record batches: the values of a row as a list, and its shape as another."""
    import pyarrow as pa

    for first in range(0, len(data), rows_per_batch):
        last = min(first + rows_per_batch, len(data))
        arrays = {}
        for name, column in data.columns.items():
            offsets = column.offsets[first : last + 1]
            values = pa.array(column.values[offsets[0] : offsets[-1]])
            if column.fixed:
                arrays[name] = pa.FixedSizeListArray.from_arrays(values, int(column.shapes[0, 0]))
                continue
            arrays[name] = pa.ListArray.from_arrays(pa.array((offsets - offsets[0]).astype(np.int32)), values)
            shapes = pa.array(column.shapes[first:last].astype(np.int32).reshape(-1))
            arrays[f"{name}_shape"] = pa.FixedSizeListArray.from_arrays(shapes, 2)
        yield pa.record_batch(arrays | {"y": pa.array(data.y[first:last])})


class ArrowRows(Dataset[Any]):
    """Rows of Arrow tables as tensors, sliced by hand out of the flat values."""

    def __init__(self, take: Callable[[Any], Any], rows: int) -> None:
        self.take, self.rows = take, rows

    @staticmethod
    def single(row: int) -> Any:
        return [row]

    def __len__(self) -> int:
        return self.rows

    def __getitem__(self, row: int) -> tuple[tuple[Any, ...], Tensor]:
        columns, y = self.of(self.take(self.single(row)))
        return tuple(column[0] for column in columns), y[0]

    def __getitems__(self, rows: list[int]) -> tuple[list[Any], Tensor]:
        return self.of(self.take(rows))

    @staticmethod
    def of(table: Any) -> tuple[list[Any], Tensor]:
        """A list of tensors per column, one tensor where the rows have a fixed size; and y."""
        import pyarrow as pa

        columns: list[Any] = []
        for name in table.column_names[:-1]:
            if name.endswith("_shape"):
                continue
            lists = table.column(name).combine_chunks()
            values = lists.flatten().to_numpy(zero_copy_only=False)
            if isinstance(lists, pa.FixedSizeListArray):
                columns.append(torch.from_numpy(values.reshape(len(lists), -1)))
                continue
            ends = (lists.offsets.to_numpy() - lists.offsets[0].as_py()).tolist()
            shapes = table.column(f"{name}_shape").combine_chunks().flatten().to_numpy().reshape(-1, 2).tolist()
            pairs = zip(ends[:-1], ends[1:], shapes, strict=True)
            columns.append([torch.from_numpy(values[a:b].reshape(shape)) for a, b, shape in pairs])
        return columns, torch.from_numpy(table.column("y").to_numpy())


class HuggingFaceArrow(Adapter):
    name = "hf-arrow"
    note = 'Hugging Face datasets, `with_format("arrow")`, rows sliced by hand'
    anchor = True
    store = "hf"

    def write(self, data: Workload, folder: Path) -> None:
        import datasets
        import pyarrow as pa

        datasets.disable_progress_bars()
        table = pa.Table.from_batches(arrow_batches(data, 1000))  # 1,000 rows is what its own writer makes
        datasets.Dataset(datasets.table.InMemoryTable(table)).save_to_disk(folder / "data", max_shard_size="1GB")

    def open(self, folder: Path) -> Any:
        import datasets

        table = datasets.load_from_disk(folder / "data").with_format("arrow")
        return _HuggingFaceArrowRows(table)

    def sequential(self, dataset: Any) -> Iterator[int]:
        for table in dataset.table.iter(batch_size=BATCH):
            yield self.count(ArrowRows.of(table))


class _HuggingFaceArrowRows(ArrowRows):
    def __init__(self, table: Any) -> None:
        super().__init__(table.__getitem__, len(table))
        self.table = table

    @staticmethod
    def single(row: int) -> Any:
        return slice(row, row + 1)


class HuggingFaceTorch(HuggingFaceArrow):
    name = "hf-torch"
    note = 'Hugging Face datasets, `with_format("torch")`, reshaped when read'
    anchor = False

    def open(self, folder: Path) -> Any:
        import datasets

        return _HuggingFaceRows(datasets.load_from_disk(folder / "data").with_format("torch"))

    def sequential(self, dataset: Any) -> Iterator[int]:
        for batch in dataset.table.iter(batch_size=BATCH):
            yield len(batch["y"])


class _HuggingFaceRows(Dataset[Any]):
    def __init__(self, table: Any) -> None:
        self.table = table
        self.names = [name for name in table.column_names[:-1] if not name.endswith("_shape")]
        self.ragged = f"{self.names[0]}_shape" in table.column_names

    def __len__(self) -> int:
        return len(self.table)

    def __getitem__(self, row: int) -> tuple[tuple[Tensor, ...], Tensor]:
        return self._sample(self.table[row])

    def __getitems__(self, rows: list[int]) -> list[tuple[tuple[Tensor, ...], Tensor]]:
        return [self._sample(row) for row in self.table.__getitems__(rows)]

    def _sample(self, row: Any) -> tuple[tuple[Tensor, ...], Tensor]:
        if not self.ragged:
            return tuple(row[name] for name in self.names), row["y"]
        return tuple(row[name].reshape(row[f"{name}_shape"].tolist()) for name in self.names), row["y"]


class ScDataset(HuggingFaceArrow):
    name = "scdataset"
    note = "scDataset over the same table: shuffles blocks of 16 rows, and the rows of 16 batches"
    anchor = False
    random = False

    def loader(self, dataset: Any, *, workers: int, form: str, batches: int | None, shuffle: bool) -> Iterable[Any]:
        from scdataset import BlockShuffling, Streaming, scDataset

        rows = scDataset(
            dataset,
            BlockShuffling(block_size=16) if shuffle else Streaming(),
            batch_size=BATCH,
            fetch_factor=16,
            fetch_callback=_fetched,
            batch_callback=_chosen,
        )
        return DataLoader(rows, batch_size=None, num_workers=workers, persistent_workers=workers > 0)


def _fetched(dataset: ArrowRows, rows: Any) -> tuple[list[Any], Tensor]:
    return dataset.__getitems__(rows.tolist())


def _chosen(fetched: tuple[list[Any], Tensor], rows: Any) -> tuple[list[Any], Tensor]:
    X, y = fetched
    chosen = rows.tolist()
    return [c[chosen] if isinstance(c, Tensor) else [c[row] for row in chosen] for c in X], y[chosen]


class Lance(Adapter):
    name = "lance"
    note = "`dataset.take(rows)`, rows sliced by hand; spawned workers, as it does not survive fork"
    context = "spawn"

    def write(self, data: Workload, folder: Path) -> None:
        import lance
        import pyarrow as pa

        lance.write_dataset(pa.Table.from_batches(arrow_batches(data, 1000)), folder / "data.lance")

    def open(self, folder: Path) -> Any:
        import lance

        handle = PerProcess(partial(lance.dataset, str(folder / "data.lance")))
        return ArrowRows(partial(_lance_take, handle), handle.get().count_rows())

    def sequential(self, dataset: Any) -> Iterator[int]:
        import pyarrow as pa

        for batch in dataset.take.args[0].get().to_batches(batch_size=BATCH):
            yield self.count(ArrowRows.of(pa.Table.from_batches([batch])))


def _lance_take(handle: PerProcess, rows: list[int]) -> Any:
    return handle.get().take(rows)
