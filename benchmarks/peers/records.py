"""LMDB, Bagz and ArrayRecord: a record of bytes per row."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Iterator
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.utils.data import BatchSampler, DataLoader, RandomSampler

from benchmarks.adapters import BATCH, Adapter, PerProcess, Samples, collate
from benchmarks.workloads import Workload

Layout = list[tuple[np.dtype[Any], int]]


class Records(Adapter):
    """Each row is one record: y, the shapes and the values of its arrays."""

    def write(self, data: Workload, folder: Path) -> None:
        self.put(self.encoded(data), folder / "data")
        layout = [(column.values.dtype.str, column.shapes.shape[1]) for column in data.columns.values()]
        np.savez(folder / "layout.npz", layout=np.array(layout), y=data.y)

    @staticmethod
    def encoded(data: Workload) -> Iterator[bytes]:
        for row, y in enumerate(data.y):
            shapes = np.array([axis for array in data.row(row) for axis in array.shape], np.int64)
            yield y.tobytes() + b"".join([shapes.tobytes(), *(array.tobytes() for array in data.row(row))])

    def put(self, records: Iterator[bytes], path: Path) -> None:
        raise NotImplementedError

    @staticmethod
    def reader(path: str) -> Any:
        """What a process opens."""
        raise NotImplementedError

    @staticmethod
    def get(reader: Any, rows: list[int]) -> Iterable[Any]:
        """The records of some rows."""
        raise NotImplementedError

    def open(self, folder: Path) -> Any:
        with np.load(folder / "layout.npz") as file:
            layout, y = [(np.dtype(str(dtype)), int(ndim)) for dtype, ndim in file["layout"]], file["y"]
        return RecordRows(PerProcess(partial(self.reader, str(folder / "data"))), self.get, layout, y)


class RecordRows(Samples):
    def __init__(
        self,
        handle: PerProcess,
        get: Callable[[Any, list[int]], Iterable[Any]],
        layout: Layout,
        y: NDArray[np.float32],
    ) -> None:
        super().__init__(lambda row: self.__getitems__([row])[0][0], y)
        self.handle, self.get, self.layout = handle, get, layout

    def __getitems__(self, rows: list[int]) -> list[tuple[tuple[Tensor, ...], Tensor]]:
        values = self.get(self.handle.get(), rows)
        return [(decoded(value, self.layout), self.y[row]) for value, row in zip(values, rows, strict=True)]


def decoded(value: Any, layout: Layout) -> tuple[Tensor, ...]:
    """The arrays of a record, copied out of it."""
    count = sum(ndim for _, ndim in layout)
    shapes = np.frombuffer(value, np.int64, count, 4).tolist()
    at, found = 4 + 8 * count, []
    for dtype, ndim in layout:
        shape, shapes = shapes[:ndim], shapes[ndim:]
        array = np.frombuffer(value, dtype, math.prod(shape), at)
        found.append(torch.from_numpy(array.reshape(shape).copy()))
        at += array.nbytes
    return tuple(found)


class Lmdb(Records):
    name = "lmdb"
    note = "a value per row, one read transaction, copied out of its buffers"
    anchor = True

    def put(self, records: Iterator[bytes], path: Path) -> None:
        import lmdb

        environment = lmdb.open(str(path), map_size=8 << 30)
        with environment.begin(write=True) as transaction:
            for row, record in enumerate(records):
                transaction.put(row.to_bytes(4, "big"), record, append=True)
        environment.close()

    @staticmethod
    def reader(path: str) -> Any:
        import lmdb

        environment = lmdb.open(path, readonly=True, lock=False)
        return environment, environment.begin(buffers=True)

    @staticmethod
    def get(reader: Any, rows: list[int]) -> Iterable[Any]:
        return [reader[1].get(row.to_bytes(4, "big")) for row in rows]

    def close(self, dataset: Any) -> None:
        environment, transaction = dataset.handle.get()
        transaction.abort()
        environment.close()
        dataset.handle.forget()

    def stock_loader(self, dataset: Any, workers: int, cls: Any = DataLoader, **kwargs: Any) -> Iterable[Any]:
        if workers:  # an environment must not be open in a process that forks
            self.close(dataset)
        return super().stock_loader(dataset, workers, cls, **kwargs)

    def sequential(self, dataset: Any) -> Iterator[int]:
        for _, value in dataset.handle.get()[1].cursor():
            decoded(value, dataset.layout)
            yield 1


class Bagz(Records):
    name = "bagz"
    note = "a record per row, not compressed, `read_indices`"

    def put(self, records: Iterator[bytes], path: Path) -> None:
        import bagz

        options = bagz.Writer.Options(compression=bagz.CompressionNone())
        with bagz.Writer(f"{path}.bag", options) as writer:
            for record in records:
                writer.write(record)

    @staticmethod
    def reader(path: str) -> Any:
        import bagz

        options = bagz.Reader.Options(compression=bagz.CompressionNone())
        return bagz.Reader(f"{path}.bag", options)

    @staticmethod
    def get(reader: Any, rows: list[int]) -> Iterable[Any]:
        return reader.read_indices(rows)  # type: ignore[no-any-return]  # an untyped package


class Spdl(Bagz):
    name = "spdl"
    note = "an SPDL pipeline over the records of Bagz, whose workers are threads"
    store = "bagz"

    def loader(self, dataset: Any, *, workers: int, form: str, batches: int | None, shuffle: bool) -> Iterable[Any]:
        return _Pipeline(dataset, max(1, workers), batches, shuffle)


class _Pipeline:
    def __init__(self, dataset: Any, threads: int, batches: int | None, shuffle: bool) -> None:
        rows = len(dataset) if batches is None else min(len(dataset), batches * BATCH)
        sampler = RandomSampler(dataset, num_samples=rows) if shuffle else range(rows)
        self.dataset, self.threads, self.sampler = dataset, threads, BatchSampler(sampler, BATCH, False)

    def __iter__(self) -> Iterator[Any]:
        from spdl.pipeline import PipelineBuilder

        read = lambda rows: collate(self.dataset.__getitems__(rows))  # noqa: E731
        builder = PipelineBuilder().add_source(self.sampler)
        builder = builder.pipe(read, concurrency=self.threads, output_order="input").add_sink(2)
        pipeline = builder.build(num_threads=self.threads)
        with pipeline.auto_stop():
            yield from pipeline.get_iterator(timeout=60)


class Grain(Records):
    name = "grain"
    note = "ArrayRecord with groups of one row, not compressed; batches by grain's MapDataset"
    workers = False  # its worker processes need the command-line flags of absl

    def put(self, records: Iterator[bytes], path: Path) -> None:
        from array_record.python.array_record_module import ArrayRecordWriter

        writer = ArrayRecordWriter(f"{path}.array_record", "group_size:1,uncompressed")
        for record in records:
            writer.write(record)
        writer.close()

    @staticmethod
    def reader(path: str) -> Any:
        from array_record.python.array_record_data_source import ArrayRecordDataSource

        return ArrayRecordDataSource(f"{path}.array_record")

    @staticmethod
    def get(reader: Any, rows: list[int]) -> Iterable[Any]:
        return reader.__getitems__(rows)  # type: ignore[no-any-return]  # an untyped package

    def loader(self, dataset: Any, *, workers: int, form: str, batches: int | None, shuffle: bool) -> Iterable[Any]:
        import grain

        rows = grain.MapDataset.source(dataset)
        rows = rows.shuffle(seed=int(torch.randint(1 << 30, ()))) if shuffle else rows
        return rows.batch(BATCH, batch_fn=collate).to_iter_dataset()  # type: ignore[no-any-return]  # an untyped package
