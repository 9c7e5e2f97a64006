"""A dataset under examination: some of its rows, how long they take to read, and a flat copy of them."""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Mapping, Sequence
from contextlib import ExitStack
from functools import cached_property, partial
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from kinoml_data.columns import Column, Ragged, distinct_keys, sizes_of
from kinoml_data.conversion import save_dataset
from kinoml_data.dataset.dataset import XyDataset
from kinoml_data.dataset.stored_paths import size_of, stored_paths
from kinoml_data.doctor.advice import Origin
from kinoml_data.factory import IN_MEMORY, open_to_copy
from kinoml_data.memory import available_memory

MAX_ROWS = 4096
MAX_BYTES = 64 << 20  # of the rows that are copied
BATCHES = 8  # that are timed
ROUNDS = 20  # in which the ways to read take turns
IMPORTS = 5.0  # seconds that imports may take; a first batch that takes less is timed once more, without them
PROBES = 8  # rows that show how much a row takes
Rows = NDArray[np.int64]
clock = time.perf_counter  # tests count work in place of seconds


class Case:
    """A dataset under examination, which has at least one row. A context manager.

    Args:
        opened: opens the dataset, which needs no roles.
        origin: how the user names the dataset.
        folder: a temporary folder for copies.
        batch_size: the rows of a batch of the user's loader.
        workers: the `num_workers` of the user's loader.
        seconds: about how long the measurements may take, apart from opening the dataset.

    Attributes:
        dataset: the open dataset.
        first: the seconds to open it and to read one batch; None if its features are computed.
        names: the columns of X and y, or all columns if neither the data nor a spec specifies them.
        sample: the positions of the rows that are measured: int64 `(n,)`.
        batches: of positions in the sample; they are smaller than those of the loader if the sample is.
        flat: the sample in a flat NPZ file.
        cold: the seconds that a batch takes whose rows are read for the first time; 0 if its features are computed.
        in_order: the same if its rows are read together with others, in the order of the store.
        compute: the mean seconds that computing the features of a new row of a batch takes in the first epoch.
        calls: the number of inputs that have to be featurized in all; 0 if no features are computed.
    """

    def __init__(
        self,
        opened: Callable[[], XyDataset],
        origin: Origin,
        folder: Path,
        *,
        batch_size: int,
        workers: int,
        seconds: float,
    ) -> None:
        self.origin, self.workers, self.seconds = origin, workers, seconds
        self._opened = ExitStack()
        start = clock()
        self.dataset = dataset = self._opened.enter_context(opened())
        opening = clock() - start
        spec, self.rows = dataset.spec, len(dataset)
        self.names = (*spec.X_names, *spec.y_names) or tuple(spec.columns)
        self.storage = dataset._session.binding.storage
        self.batch_size = min(batch_size, self.rows)
        if not self.rows:
            return
        self.calls = self._calls(dataset.rows)
        self.first = None if self.calls else opening + self._first_batch(dataset)
        if self.first is not None and self.first < max(seconds / 4, IMPORTS):
            self.first = min(self.first, self._time_to_first_batch(opened))
        rng = np.random.default_rng(0)
        self.sample, probes = self._sample(rng)
        self.view = dataset.select(self.sample)
        size, order = min(self.batch_size, len(self.sample)), rng.permutation(len(self.sample))
        count = min(BATCHES, len(order) // size)
        self.batches: list[Rows] = np.split(order[: count * size], count)
        self.cold, self.in_order = self._cold_times() if not self.calls else (0.0, 0.0)
        self.compute = self._time_to_compute(probes)
        self.path = folder / "flat.npz"
        save_dataset(self.view, self.path)
        self.flat = self._opened.enter_context(open_to_copy(self.path))

    def _calls(self, rows: Rows) -> int:
        """How many inputs have to be featurized for some rows."""
        columns = self.dataset.spec.columns
        stored = [name for column in self.names for name in columns[column].stored_names(column)]
        return sum(len(computation.rows) for computation in self.storage.computations(rows, stored))

    def _sample(self, rng: np.random.Generator) -> tuple[Rows, Rows]:
        """The positions of as many rows as can be read in a part of the time, and of those that were read already.

        They are random, or the first rows if rows have blocks. If features are computed, no two of them have the same
        inputs, as far as there are so many inputs.
        """
        order = np.arange(self.rows) if self.storage.blocks is not None else rng.permutation(self.rows)
        if self.calls:
            keys = [keys for name in self.names if (keys := self.dataset._session.binding.keys(name)) is not None]
            first, _ = distinct_keys(max(keys, key=np.max)[self.dataset.rows][order]) if keys else (order[:0], None)
            order = np.concatenate([order[first], np.delete(order, first)])
        names = list(self.dataset.spec.columns)
        self.dataset.read_stored(order[:1], names)  # opens what is opened on first use
        probes = order[:2]
        each, columns = self._probed(probes[-1:], names)
        if PROBES * each < self.seconds / 8:
            probes = order[:PROBES]
            each, columns = self._probed(probes, names)
        nbytes = sum(map(nbytes_of, columns.values())) / len(next(iter(columns.values())))
        count = min(MAX_ROWS, int(MAX_BYTES / max(1.0, nbytes)), int(self.seconds / 8 / each))
        return np.sort(order[: max(len(probes) + 1, count)]), probes

    def _probed(self, rows: Rows, names: Sequence[str]) -> tuple[float, Mapping[str, Column]]:
        """The seconds that each of some rows takes, and the rows."""
        start = clock()
        columns = self.dataset.read_stored(rows, names)
        return max(1e-9, clock() - start) / len(rows), columns

    def _time_to_compute(self, probes: Rows) -> float:
        """See `compute`; the features of some rows are remembered already."""
        rows = self.dataset.rows
        calls = self._calls(self.view.rows) - self._calls(rows[np.intersect1d(probes, self.sample)])
        if not self.calls or not calls:
            return 0.0
        times = []
        for _ in range(2):  # the second time, the features are remembered
            start = clock()
            self.view.read_stored(np.arange(len(self.sample)), self.names)
            times.append(clock() - start)
        return max(0.0, times[0] - times[1]) / calls * self.calls / self.rows

    # -- time

    def read(self, dataset: XyDataset, positions: Rows) -> Any:
        """A batch of a dataset; without roles, the columns of one."""
        if dataset.spec.X is not None:
            return dataset[positions]
        return dataset._session.binding.read_batch(dataset.rows[positions], self.names)

    def _first_batch(self, dataset: XyDataset) -> float:
        start = clock()
        self.read(dataset, np.arange(min(self.batch_size, len(dataset))))
        return clock() - start

    def _time_to_first_batch(self, opened: Callable[[], XyDataset]) -> float:
        start = clock()
        with opened() as dataset:
            return clock() - start + self._first_batch(dataset)

    def _cold_times(self) -> tuple[float, float]:
        """See `cold` and `in_order`. Of several batches the least counts, as something else may disturb one."""
        timed = self.batches[: (len(self.batches) + 1) // 2]
        cold, others = math.inf, np.setdiff1d(np.arange(len(self.sample)), np.concatenate(timed))
        for batch in timed:
            start = clock()
            self.read(self.view, batch)
            cold = min(cold, clock() - start)
        start = clock()
        self.view.read_stored(others, self.names)
        return cold, (clock() - start) / max(1, len(others)) * len(self.batches[0])

    @cached_property
    def first_flat(self) -> float:
        """The seconds to open the flat file of the sample and to read one batch."""
        return min(self._time_to_first_batch(lambda: open_to_copy(self.path)) for _ in range(2))

    @cached_property
    def times(self) -> Mapping[str, float]:
        """The least seconds per batch of the dataset as it is ("now"), in a flat NPZ file and in memory.

        Features are remembered already; see `compute` for the time that they take.
        """
        in_memory = self._opened.enter_context(open_to_copy(self.path, backend=IN_MEMORY))
        ways = {"now": self.view, "flat": self.flat, "memory": in_memory}
        reads = {way: partial(self.read, dataset) for way, dataset in ways.items()}
        return least_times(reads, self.batches, self.seconds / 4)

    # -- bytes

    @cached_property
    def columns(self) -> Mapping[str, Column]:
        """All columns of the sample, as they are stored."""
        return self.view.read_stored(np.arange(len(self.sample)), list(self.dataset.spec.columns))

    def distinct(self, name: str) -> int:
        """How many values of a column are stored: each one that rows share once, if the storage has keys."""
        keys = self.dataset._session.binding.keys(name)
        return self.rows if keys is None else len(np.unique(keys[self.dataset.rows]))

    def stored_nbytes(self, name: str) -> float:
        """The number of bytes of all stored values of a column, from those of the sample."""
        keys, sizes = self.dataset._session.binding.keys(name), row_sizes(self.columns[name])
        if keys is not None:
            sizes = sizes[distinct_keys(keys[self.view.rows])[0]]
        return float(sizes.mean() * self.distinct(name))

    @cached_property
    def nbytes(self) -> int:
        """The number of bytes of all stored values in memory."""
        return round(sum(map(self.stored_nbytes, self.columns)))

    @cached_property
    def fits_in_memory(self) -> bool:
        """True if all values take less than half of the memory that is available."""
        return 2 * self.nbytes < available_memory()

    @cached_property
    def on_disk(self) -> int:
        """The number of bytes of the files and folders that the storage names; 0 if it names none."""
        return sum(map(size_of, stored_paths(self.dataset.spec)))

    @cached_property
    def own_on_disk(self) -> float:
        """About the part of `on_disk` that the columns of the dataset take, since a file may contain others."""
        return min(self.on_disk, self.flat_on_disk)

    @cached_property
    def flat_on_disk(self) -> float:
        """About the number of bytes of a flat NPZ file of all rows; rather too large than too small."""
        return self.path.stat().st_size * self.rows / len(self.sample)

    @cached_property
    def batch_nbytes(self) -> Mapping[str, float]:
        """The mean number of bytes of each column in a batch, without padding."""
        columns = self.view._session.binding.read(self.view.rows, self.names)
        return {name: nbytes_of(column) * self.batch_size / len(column) for name, column in columns.items()}

    def loader_code(self, **arguments: Any) -> str:
        """The code of a loader with these arguments of `as_dataloader`."""
        more = "".join(f", {name}={value!r}" for name, value in arguments.items())
        code = self.origin.code(self.dataset)
        return f"{code}\nloader = dataset.as_dataloader(batch_size={self.batch_size}, shuffle=True{more})"

    def close(self) -> None:
        self._opened.close()

    def __enter__(self) -> Case:
        return self

    def __exit__(self, *_: Any) -> None:
        self.close()


def least_times(ways: Mapping[str, Callable[[Any], Any]], batches: Sequence[Any], seconds: float) -> dict[str, float]:
    """The least seconds per batch of each way to read batches. The ways take turns, so that all are disturbed alike."""
    least, stop = dict.fromkeys(ways, math.inf), time.monotonic() + seconds
    for number in range(ROUNDS):
        for way, read in ways.items():
            start = clock()
            for batch in batches:
                read(batch)
            least[way] = min(least[way], (clock() - start) / len(batches))
        if number and time.monotonic() > stop:
            break
    return least


def nbytes_of(column: Any) -> int:
    """The number of bytes of the values of a column."""
    return int((column.values if isinstance(column, Ragged) else column).nbytes)


def row_sizes(column: Column) -> NDArray[np.int64]:
    """The number of bytes of the values of each row: int64 `(rows,)`."""
    if isinstance(column, Ragged):
        return sizes_of(column.shapes) * column.values.itemsize
    return np.full(len(column), column[:1].nbytes)
