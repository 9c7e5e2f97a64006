"""A `DataLoader` that notices soon if one of its worker processes has ended."""

from __future__ import annotations

import time
from itertools import cycle
from typing import Any

from torch.utils.data.dataloader import _MultiProcessingDataLoaderIter

from kinoml_data.errors import StoreReadError
from kinoml_data.loading.samplers import ArrayLoader
from kinoml_data.loading.shared_ring import RingCollate

POLL_SECONDS = 5.0


class WorkerLoader(ArrayLoader):
    """A `DataLoader` that notices within seconds if a worker has ended, regardless of `timeout`.

    torch checks its workers only when waiting for a batch has timed out. A signal reports a killed child process
    earlier, but with the start method "forkserver" workers are not child processes, and with every start method a
    worker that ends with exit code 0 is not reported.
    """

    _epochs = 0

    def __iter__(self) -> Any:
        batches = super().__iter__()
        if not self.persistent_workers:
            return batches
        # torch gives every epoch the same iterator, and its workers begin anew.
        self._epochs += 1
        return _Epoch(self, batches, self._epochs)

    def _get_iterator(self) -> Any:
        if not self.num_workers:
            return super()._get_iterator()
        if not self.persistent_workers and isinstance(self.collate_fn, RingCollate):
            self.collate_fn = self.collate_fn.with_new_ring()
        return _PollingIterator(self)


class _Epoch:
    """The batches of one epoch of a loader whose workers are kept, which only one epoch at a time can use."""

    def __init__(self, loader: WorkerLoader, batches: Any, number: int) -> None:
        self._loader, self._batches, self._number = loader, batches, number

    def __iter__(self) -> _Epoch:
        return self

    def __len__(self) -> int:
        return len(self._loader)

    def __getattr__(self, name: str) -> Any:  # torch's own, such as `_shutdown_workers`
        return getattr(self.__dict__["_batches"], name)

    def __next__(self) -> Any:
        if self._loader._epochs != self._number:
            raise StoreReadError(
                "another iteration over this loader has begun, which took over its workers; finish one before the next "
                "begins, make a second loader, or give persistent_workers=False"
            )
        return next(self._batches)


class _PollingIterator(_MultiProcessingDataLoaderIter):
    """Waits for a batch in short intervals; torch checks the workers after each.

    All batches of a window of blocks go to one worker, so that no other worker decodes these blocks.
    """

    def _next_index(self) -> Any:
        index = super()._next_index()  # type: ignore[no-untyped-call]  # torch's
        window = getattr(self._index_sampler, "window", None)
        if window is not None:  # torch takes the next number from this iterator, and another one if that worker ended
            first, workers = window % self._num_workers, range(self._num_workers)
            self._worker_queue_idx_cycle = cycle([*workers[first:], *workers[:first]])
        return index

    def _try_get_data(self, timeout: float = POLL_SECONDS) -> tuple[bool, Any]:
        deadline = time.monotonic() + timeout
        while True:
            left = max(0.0, deadline - time.monotonic())
            success, data = super()._try_get_data(min(left, POLL_SECONDS))  # type: ignore[no-untyped-call]  # torch's
            if success or left <= POLL_SECONDS:
                return success, data
