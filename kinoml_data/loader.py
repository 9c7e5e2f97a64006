"""`as_dataloader`: a torch `DataLoader` set up for the way a dataset is stored."""

from __future__ import annotations

import multiprocessing
import queue
import threading
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch.utils.data import DataLoader, RandomSampler, Sampler

from kinoml_data import ring
from kinoml_data.errors import SpecError

if TYPE_CHECKING:
    from kinoml_data.dataset import XyDataset

WORKER_TIMEOUT = 300.0
SLOT_BYTES = 16 << 20  # of address space; memory is used as far as batches fill it
WINDOW = 50  # batches whose rows are sorted by length together: enough to pad little, few enough to stay random


def make(
    dataset: XyDataset,
    collate_fn: Callable[[Any], Any],
    *,
    seed: int | None,
    prefetch: int,
    lengths: NDArray[np.int64] | None,
    kwargs: dict[str, Any],
) -> DataLoader[Any]:
    """See `XyDataset.as_dataloader`; `lengths` is int64 `(rows,)`, by which rows are grouped."""
    if seed is not None:
        if kwargs.get("generator") is not None:
            raise SpecError("give either a seed or a generator")
        kwargs["generator"] = torch.Generator().manual_seed(seed)
        # Of their own, since DataLoader draws from its generator too, at other times with workers than without.
        if kwargs.get("shuffle") and not {"sampler", "batch_sampler"} & {*kwargs} and lengths is None:
            kwargs["sampler"] = RandomSampler(dataset, generator=torch.Generator().manual_seed(seed))
            del kwargs["shuffle"]
    if lengths is not None:
        kwargs["batch_sampler"] = _length_sampler(lengths, seed, kwargs)
    kwargs = {"collate_fn": collate_fn} | kwargs
    workers = kwargs.get("num_workers", 0)
    if workers:
        kwargs = _for_workers(kwargs)
    if not prefetch:
        return DataLoader(dataset, **kwargs)
    if workers:
        raise SpecError("prefetch is for loading without workers; theirs is prefetch_factor")
    loader = PrefetchLoader(dataset, **kwargs)
    loader.prefetch = prefetch
    return loader


def _for_workers(kwargs: dict[str, Any]) -> dict[str, Any]:
    defaults: dict[str, Any] = {"persistent_workers": True, "timeout": WORKER_TIMEOUT}
    kwargs = defaults | kwargs
    if ring.available():
        context = kwargs.get("multiprocessing_context")
        if context is None or isinstance(context, str):
            context = kwargs["multiprocessing_context"] = multiprocessing.get_context(context)
        slots = kwargs["num_workers"] * ((kwargs.get("prefetch_factor") or 2) + 1)
        kwargs["collate_fn"] = ring.RingCollate(kwargs["collate_fn"], ring.Ring(slots, SLOT_BYTES, context))
    return kwargs


class PrefetchLoader(DataLoader[Any]):
    """A `DataLoader` without workers whose batches are read in a thread while the model works on earlier ones.

    Attributes:
        prefetch: how many batches may be ready at once.
    """

    prefetch: int = 2

    def __iter__(self) -> Iterator[Any]:  # type: ignore[override]
        return _Ahead(super().__iter__(), self.prefetch)


class _Ahead:
    """An iterator run in a thread, which ends when the iterator is dropped."""

    def __init__(self, batches: Iterator[Any], size: int) -> None:
        self._ready: queue.Queue[tuple[Any, BaseException | None]] = queue.Queue(size)
        self._stop = threading.Event()
        self._thread = threading.Thread(target=_fill, args=(batches, self._ready, self._stop), daemon=True)
        self._thread.start()

    def __iter__(self) -> _Ahead:
        return self

    def __next__(self) -> Any:
        if self._stop.is_set():
            raise StopIteration
        batch, error = self._ready.get()
        if error is not None:
            self._stop.set()
            raise error
        return batch

    def __del__(self) -> None:
        self._stop.set()


def _fill(batches: Iterator[Any], ready: queue.Queue[Any], stop: threading.Event) -> None:
    # Not a method: the thread must not keep the iterator alive that it works for.
    error: BaseException = StopIteration()
    try:
        for batch in batches:
            if not _put(ready, (batch, None), stop):
                return
    except BaseException as raised:
        error = raised
    _put(ready, (None, error), stop)


def _put(ready: queue.Queue[Any], item: Any, stop: threading.Event) -> bool:
    while not stop.is_set():
        try:
            ready.put(item, timeout=0.1)
            return True
        except queue.Full:
            continue
    return False


@dataclass(frozen=True)
class Padding:
    """How much of an epoch's padded elements is padding, with rows grouped by length and without.

    Attributes:
        grouped, ungrouped: shares between 0 and 1.
    """

    grouped: float
    ungrouped: float

    def __str__(self) -> str:
        return f"{self.grouped:.1%} of the elements are padding, {self.ungrouped:.1%} without grouping"


class LengthBatchSampler(Sampler[list[int]]):
    """Batches of rows of similar length, in random order.

    Rows are shuffled, sorted by length within windows of 50 batches, cut into batches, and the batches shuffled.
    Each row comes once an epoch; the batches differ from epoch to epoch. After `set_epoch` they are those of the
    generator's seed and of that epoch, whatever was drawn before: for runs that are resumed.

    Args:
        lengths: int64 `(rows,)`.
        batch_size: rows per batch.
        shuffle: False goes through the rows from short to long, always the same.
        drop_last: leave out a last batch that is not full.
        generator: of the random order.

    Attributes:
        padding: what grouping saves in the last epoch begun, or in a first one.
    """

    def __init__(
        self,
        lengths: NDArray[np.int64],
        batch_size: int,
        *,
        shuffle: bool = True,
        drop_last: bool = False,
        generator: torch.Generator | None = None,
    ) -> None:
        self.lengths, self.batch_size, self.shuffle, self.drop_last = lengths, batch_size, shuffle, drop_last
        self.generator = generator
        self.epoch: int | None = None
        self.padding = self._measure(self._batches(np.arange(len(lengths)), np.random.default_rng(0)))

    def __len__(self) -> int:
        rows = len(self.lengths)
        return rows // self.batch_size if self.drop_last else -(-rows // self.batch_size)

    def __iter__(self) -> Iterator[list[int]]:
        # A generator draws when the epoch begins; DataLoader with workers makes two iterators and uses one.
        rows, rng = np.arange(len(self.lengths)), np.random.default_rng(0)
        if self.shuffle:
            rng = np.random.default_rng(self._seed())
            rows = rng.permutation(rows)
        batches = self._batches(rows, rng)
        self.padding = self._measure(batches)
        for batch in batches:
            yield batch.tolist()

    def set_epoch(self, epoch: int) -> None:
        """Take the batches of this epoch, until it is called again."""
        self.epoch = epoch

    def _seed(self) -> int | list[int]:
        if self.epoch is None:
            return int(torch.empty((), dtype=torch.int64).random_(generator=self.generator).item())
        seed = torch.initial_seed() if self.generator is None else self.generator.initial_seed()
        return [seed % 2**64, self.epoch]

    def _batches(self, rows: NDArray[np.int64], rng: np.random.Generator) -> list[NDArray[np.int64]]:
        size = self.batch_size
        window = size * WINDOW if self.shuffle else max(1, len(rows))
        batches: list[NDArray[np.int64]] = []
        for start in range(0, len(rows), window):
            some = rows[start : start + window]
            some = some[np.argsort(self.lengths[some], kind="stable")]
            batches += [some[a : a + size] for a in range(0, len(some), size)]
        full = [batch for batch in batches if len(batch) == size]
        last = [batch for batch in batches if len(batch) < size]
        if self.shuffle:
            full = [full[i] for i in rng.permutation(len(full))]
        return full if self.drop_last else full + last

    def _measure(self, batches: list[NDArray[np.int64]]) -> Padding:
        def share(groups: list[NDArray[np.int64]]) -> float:
            padded = sum(int(self.lengths[group].max()) * len(group) for group in groups)
            return 1 - sum(int(self.lengths[group].sum()) for group in groups) / padded if padded else 0.0

        rows = np.random.default_rng(0).permutation(len(self.lengths))
        ungrouped = [rows[a : a + self.batch_size] for a in range(0, len(rows), self.batch_size)]
        return Padding(share(batches), share(ungrouped))


def _length_sampler(lengths: NDArray[np.int64], seed: int | None, kwargs: dict[str, Any]) -> LengthBatchSampler:
    if other := [name for name in ("sampler", "batch_sampler") if kwargs.pop(name, None) is not None]:
        raise SpecError(f"group_by_length makes the batches itself; leave out {other[0]}")
    return LengthBatchSampler(
        lengths,
        kwargs.pop("batch_size", 1),
        shuffle=bool(kwargs.pop("shuffle", False)),
        drop_last=bool(kwargs.pop("drop_last", False)),
        generator=kwargs.get("generator") if seed is None else torch.Generator().manual_seed(seed),
    )
