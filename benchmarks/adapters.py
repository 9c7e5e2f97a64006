"""What every competitor of the benchmarks looks like: it stores a workload, and reads it back as tensors."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.utils.data import DataLoader, Dataset, RandomSampler, default_collate

from benchmarks.workloads import Workload

BATCH = 128
PADDING = -1  # of integers; floats are padded with 0
WORKER_TIMEOUT = 60
Row = tuple[list[NDArray[Any]], float]


class Adapter:
    """One way to store rows and to read them back.

    Attributes:
        name: in tables and on the command line.
        kind: "ours", "peer" or "limit".
        note: how it is used, in a few words.
        store: the name of what it writes, where several read the same.
        works: the workloads it can do.
        forms: how ragged batches come: "list" of tensors, "packed" end to end, "pad" to one shape.
        random: it can read a row by its number.
        on_disk: it reads rows from files when it is asked for them.
        workers: it is tried with worker processes.
        anchor: goals are set against it: it is timed in every round, others in the first few.
        context: the start method of its workers, where it is not the default.
    """

    name: ClassVar[str]
    kind: ClassVar[str] = "peer"
    note: ClassVar[str] = ""
    store: ClassVar[str] = ""
    works: ClassVar[tuple[str, ...]] = ("ragged", "graph", "fixed")
    forms: ClassVar[tuple[str, ...]] = ("list",)
    random: ClassVar[bool] = True
    on_disk: ClassVar[bool] = True
    workers: ClassVar[bool] = True
    anchor: ClassVar[bool] = False
    context: ClassVar[str | None] = None

    def write(self, data: Workload, folder: Path) -> None:
        raise NotImplementedError

    def open(self, folder: Path) -> Any:
        raise NotImplementedError

    def close(self, dataset: Any) -> None:
        pass

    def one(self, dataset: Any, row: int) -> Any:
        return dataset[row]

    def batch(self, dataset: Any, rows: list[int]) -> Any:
        """A batch in the first of `forms`, as a loader would give it."""
        many = getattr(dataset, "__getitems__", None)
        return self.collate()(many(rows) if many else [dataset[row] for row in rows])

    def collate(self) -> Callable[[Any], Any]:
        return collate

    def loader(self, dataset: Any, *, workers: int, form: str, batches: int | None, shuffle: bool) -> Iterable[Any]:
        """A loader of so many batches, None for an epoch; it may give more."""
        rows = len(dataset) if batches is None else min(len(dataset), batches * BATCH)
        sampler = RandomSampler(dataset, num_samples=rows) if shuffle else range(rows)
        return self.stock_loader(dataset, workers, sampler=sampler)

    def stock_loader(self, dataset: Any, workers: int, cls: Any = DataLoader, **kwargs: Any) -> Iterable[Any]:
        """torch's loader, or one like it."""
        if workers:
            kwargs |= {"persistent_workers": True, "multiprocessing_context": self.context, "timeout": WORKER_TIMEOUT}
        loader: Iterable[Any] = cls(dataset, batch_size=BATCH, collate_fn=self.collate(), num_workers=workers, **kwargs)
        return loader

    def sequential(self, dataset: Any) -> Iterator[int]:
        """Go through all rows in order; yields how many came at once."""
        for batch in self.loader(dataset, workers=0, form=self.forms[0], batches=None, shuffle=False):
            yield self.count(batch)

    def count(self, batch: Any) -> int:
        """The rows in a batch."""
        return len(batch[1])

    def sample(self, sample: Any) -> Row:
        """What `one` gave, as arrays in the order of the columns, and y."""
        X, y = sample
        return [tensor.numpy() for tensor in X], float(y)

    def rows(self, batch: Any) -> list[Row]:
        """What `batch` or a loader gave, row by row."""
        X, y = batch
        return [([column[i].numpy() for column in X], float(y[i])) for i in range(len(y))]


class PerProcess:
    """A handle that every process opens for itself, as open files must not be shared."""

    def __init__(self, open_: Callable[[], Any]) -> None:
        self._open = open_
        self._pid, self._handle = os.getpid(), open_()

    def get(self) -> Any:
        if self._pid != os.getpid():
            self._pid, self._handle = os.getpid(), self._open()
        return self._handle

    def forget(self) -> None:
        """Open it again when it is next needed."""
        self._pid, self._handle = -1, None

    def __reduce__(self) -> tuple[Any, ...]:
        return PerProcess, (self._open,)


class Samples(Dataset[Any]):
    """Samples `((tensor, ...), y)`, each column of X by a function of the row number."""

    def __init__(self, read: Callable[[int], tuple[Tensor, ...]], y: NDArray[np.float32]) -> None:
        self.read, self.y = read, torch.from_numpy(y)

    def __len__(self) -> int:
        return len(self.y)

    def __getitem__(self, row: int) -> tuple[tuple[Tensor, ...], Tensor]:
        return self.read(row), self.y[row]


def collate(samples: Any) -> tuple[list[Any], Tensor]:
    """What one writes for ragged samples: a list of tensors per column, stacked where they are vectors, and y."""
    if isinstance(samples, tuple):  # read as one batch already
        return samples  # type: ignore[return-value]
    X, y = zip(*samples, strict=True)
    columns: list[Any] = [list(column) for column in zip(*X, strict=True)]
    if columns[0][0].dim() == 1:
        columns = [default_collate(column) for column in columns]
    return columns, torch.stack(y)


def unpadded(found: Row, data: Workload, row: int) -> Row:
    """A padded row without its padding; as it is if there is anything else beyond the source's shape."""
    cut = [a[tuple(map(slice, b.shape))] for a, b in zip(found[0], data.row(row), strict=True)]
    values = [PADDING if a.dtype.kind == "i" else 0 for a in cut]
    pairs = zip(found[0], cut, values, strict=True)
    good = all(np.count_nonzero(a != value) == np.count_nonzero(b != value) for a, b, value in pairs)
    return (cut if good else found[0]), found[1]


def same(found: Row, data: Workload, row: int) -> bool:
    """True if a row is, bit for bit, the source's."""
    arrays, expected = found[0], data.row(row)
    return (
        len(arrays) == len(expected)
        and all(a.dtype == b.dtype and a.shape == b.shape for a, b in zip(arrays, expected, strict=True))
        and all(np.array_equal(a, b) for a, b in zip(arrays, expected, strict=True))
        and bool(np.float32(found[1]) == data.y[row])
    )
