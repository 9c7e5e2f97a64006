"""This library's backends, as adapters."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path
from typing import Any, ClassVar

import pyarrow.parquet as pq
from numpy.typing import NDArray

import kinoml_data as kd
from benchmarks.adapters import BATCH, PADDING, Adapter, Row
from benchmarks.peers.numpy_files import Awkward, NumpyCompressed, NumpyLazy
from benchmarks.workloads import Workload
from kinoml_data import Packed


class Ours(Adapter):
    """A dataset of `load_dataset`.

    Attributes:
        file: what it opens, in the folder of its store.
        options: of `load_dataset`.
    """

    kind = "ours"
    forms = ("packed", "list", "pad")
    anchor = True
    store = "packed"
    file: ClassVar[str] = "data.npz"
    options: ClassVar[dict[str, Any]] = {}

    def write(self, data: Workload, folder: Path) -> None:
        kd.save_dataset(kd.from_arrays(_columns(data), data.y), folder / self.file)

    def open(self, folder: Path) -> Any:
        return kd.load_dataset(folder / self.file, collate="packed", **self.options)

    def close(self, dataset: Any) -> None:
        dataset.close()

    def batch(self, dataset: Any, rows: list[int]) -> Any:
        return dataset[rows]

    def loader(self, dataset: Any, *, workers: int, form: str, batches: int | None, shuffle: bool) -> Iterable[Any]:
        collate: Any = form
        if form == "pad":
            integers = [name for name in dataset.spec.X if dataset.spec.columns[name].dtype.startswith("int")]
            collate = dict.fromkeys(dataset.spec.X, "pad") | {n: {"form": "pad", "value": PADDING} for n in integers}
        loader: Iterable[Any] = dataset.as_dataloader(
            batch_size=BATCH, shuffle=shuffle, collate=collate, num_workers=workers
        )
        return loader

    def sample(self, sample: Any) -> Row:
        X, y = sample
        return [tensor.numpy() for tensor in (X.values() if isinstance(X, dict) else [X])], float(y)

    def rows(self, batch: Any) -> list[Row]:
        X, y = batch
        columns = [_rows(column) for column in (X.values() if isinstance(X, dict) else [X])]
        return [(list(arrays), float(label)) for *arrays, label in zip(*columns, y, strict=True)]


def _columns(data: Workload) -> Any:
    ragged = {n: c.array if c.fixed else kd.Ragged(c.values, c.shapes) for n, c in data.columns.items()}
    return ragged["X"] if list(ragged) == ["X"] else ragged


def _rows(column: Any) -> list[NDArray[Any]]:
    if not isinstance(column, Packed):
        return [row.numpy() for row in column]
    values, ends = column.values.numpy(), column.offsets.tolist()
    pairs = zip(ends[:-1], ends[1:], column.shapes.tolist(), strict=True)
    return [values[a:b].reshape(shape) for a, b, shape in pairs]


class NpzLazy(Ours):
    name = "npz-lazy"
    note = "flat NPZ, read by position"


class NpzMapped(Ours):
    name = "npz-lazy-mmap"
    note = "the same file, `io: mmap`"
    options = {"io": "mmap"}


class NpzUnverified(Ours):
    name = "npz-lazy-unverified"
    note = "the same file, `verify: never`"
    options = {"verify": "never"}
    workers = False


class InMemory(Ours):
    name = "in-memory"
    note = "the same file, read into memory when opened"
    on_disk = False
    options = {"backend": "in-memory"}


class NpzMembers(Ours):
    name = "npz-kinoml"
    note = "KinoML's NPZ, a member per row, read by position"
    store = "kinoml"
    works = ("ragged", "graph")

    def write(self, data: Workload, folder: Path) -> None:
        NumpyLazy().write(data, folder)


class NpzCompressed(Ours):
    name = "npz-kinoml-compressed"
    note = "the same, compressed"
    store = "kinoml-compressed"
    works = ("ragged", "graph")

    def write(self, data: Workload, folder: Path) -> None:
        NumpyCompressed().write(data, folder)


class ParquetAwkward(Ours):
    name = "parquet-awkward"
    note = "KinoML's Parquet, decoded when opened"
    roles: dict[str, Any] = {}
    on_disk = False
    store = "awkward"
    file = "data.parquet"

    def write(self, data: Workload, folder: Path) -> None:
        Awkward().write(data, folder)

    def open(self, folder: Path) -> Any:
        if not self.roles:  # once, as the user knows them
            *X, y = (field.name for field in pq.read_schema(folder / self.file).field(0).type)  # of awkward's struct
            self.roles = {"X": X, "y": y}
        return kd.load_dataset(folder / self.file, collate="packed", **self.roles)


class ParquetOwn(Ours):
    name = "parquet-own"
    note = "our own layout of Parquet, decoded when opened"
    on_disk = False
    store = "parquet-own"
    workers = False
    file = "data.parquet"


OURS: tuple[type[Adapter], ...] = (
    *(NpzLazy, NpzMapped, NpzUnverified, InMemory),
    *(NpzMembers, NpzCompressed, ParquetAwkward, ParquetOwn),
)
