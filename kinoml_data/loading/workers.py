"""A `DataLoader` that notices soon if one of its worker processes has ended."""

from __future__ import annotations

import time
from typing import Any

from torch.utils.data import DataLoader
from torch.utils.data.dataloader import _MultiProcessingDataLoaderIter

POLL_SECONDS = 5.0


class WorkerLoader(DataLoader[Any]):
    """A `DataLoader` that notices within seconds if a worker has ended, regardless of `timeout`.

    torch checks its workers only when waiting for a batch has timed out. A signal reports a killed child process
    earlier, but with the start method "forkserver" workers are not child processes, and with every start method a
    worker that ends with exit code 0 is not reported.
    """

    def _get_iterator(self) -> Any:
        return _PollingIterator(self) if self.num_workers else super()._get_iterator()


class _PollingIterator(_MultiProcessingDataLoaderIter):
    """Waits for a batch in short intervals; torch checks the workers after each."""

    def _try_get_data(self, timeout: float = POLL_SECONDS) -> tuple[bool, Any]:
        deadline = time.monotonic() + timeout
        while True:
            left = max(0.0, deadline - time.monotonic())
            success, data = super()._try_get_data(min(left, POLL_SECONDS))  # type: ignore[no-untyped-call]  # torch's
            if success or left <= POLL_SECONDS:
                return success, data
