"""A `DataLoader` whose batches are read in a thread while the model works on earlier ones."""

from __future__ import annotations

import queue
import threading
from collections.abc import Iterator
from typing import Any

from kinoml_data.loading.samplers import ArrayLoader


class PrefetchLoader(ArrayLoader):
    """A `DataLoader` without workers whose batches are read in a thread while the model works on earlier ones.

    Attributes:
        prefetch: the number of batches that may wait to be used; the thread reads one more meanwhile.
    """

    prefetch: int = 2

    def __iter__(self) -> Iterator[Any]:  # type: ignore[override]
        return _PrefetchIterator(super().__iter__(), self.prefetch)


class _PrefetchIterator:
    """Runs an iterator in a thread that ends when this object is garbage-collected."""

    def __init__(self, batches: Iterator[Any], size: int) -> None:
        self._ready: queue.Queue[tuple[Any, BaseException | None]] = queue.Queue(size)
        self._stop = threading.Event()
        self._thread = threading.Thread(target=_fill, args=(batches, self._ready, self._stop), daemon=True)
        self._thread.start()

    def __iter__(self) -> _PrefetchIterator:
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
    # This is not a method, because the thread must not keep the `_PrefetchIterator` alive.
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
