"""Timing one thing once; a round calls each of these for every competitor in turn."""

from __future__ import annotations

import math
import multiprocessing
import os
import signal
import statistics
import traceback
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path
from time import perf_counter
from typing import Any

import numpy as np

from benchmarks.adapters import BATCH, Adapter
from benchmarks.workloads import Workload

ONES, BATCHES = 64, 20
POOL_BYTES = 1 << 27


class TooSlow(Exception):
    """A time limit ran out."""


@contextmanager
def limit(seconds: float) -> Iterator[None]:
    """Raise `TooSlow` if the block takes longer, for what may hang."""

    def ring(*_: Any) -> None:
        raise TooSlow(f"no end after {seconds:.0f} s")

    before = signal.signal(signal.SIGALRM, ring)
    signal.setitimer(signal.ITIMER_REAL, seconds)
    try:
        yield
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)
        signal.signal(signal.SIGALRM, before)


def apart(work: Callable[[], Any], seconds: float) -> Any:
    """The result of `work` in a process of its own, so that a crash stays there.

    Raises:
        RuntimeError: it raised, crashed or hung.
    """
    context = multiprocessing.get_context("fork")
    receiver, sender = context.Pipe(duplex=False)
    process = context.Process(target=_send, args=(work, sender))
    process.start()
    sender.close()
    try:
        if not receiver.poll(seconds):
            raise RuntimeError(f"no end after {seconds:.0f} s")
        good, found = receiver.recv()
    except EOFError:
        process.join()
        raise RuntimeError(f"the process ended with code {process.exitcode}") from None
    finally:
        if process.is_alive():
            process.join(5)
            process.kill()
        process.join()
    if not good:
        raise RuntimeError(found)
    return found


def _send(work: Callable[[], Any], sender: Any) -> None:
    try:
        sender.send((True, work()))
    except BaseException as error:
        traceback.print_exc(limit=-3)
        sender.send((False, f"{type(error).__name__}: {error}"[:300]))


def one_us(adapter: Adapter, dataset: Any, rng: np.random.Generator, cap: float) -> float:
    """Microseconds for a single random row, the median over runs of 64."""
    one, count = adapter.one, 1
    found: list[float] = []
    began = perf_counter()
    while len(found) < 20 and (not found or perf_counter() - began < cap / 3):
        rows = rng.integers(0, len(dataset), count).tolist()
        start = perf_counter()
        for row in rows:
            one(dataset, row)
        found.append(1e6 * (perf_counter() - start) / count)
        if count == 1 and found[0] < 2000:  # the first only shows whether it is slow
            found, count = [], ONES
    return statistics.median(found)


def batch_ms(adapter: Adapter, dataset: Any, rng: np.random.Generator, cap: float) -> float:
    """Milliseconds for 128 random rows as one batch, the median of up to 20."""
    found: list[float] = []
    while len(found) < BATCHES and sum(found) < 1e3 * cap / 2:
        rows = rng.integers(0, len(dataset), BATCH).tolist()
        start = perf_counter()
        batch = adapter.batch(dataset, rows)
        found.append(1e3 * (perf_counter() - start))
        del batch
    return statistics.median(found)


def rate(adapter: Adapter, loader: Iterable[Any], batches: int | None = None, cap: float = math.inf) -> float:
    """Rows per second of an epoch, or of its begin."""
    start, rows = perf_counter(), 0
    for number, batch in enumerate(loader, 1):
        rows += adapter.count(batch)
        if number == batches or perf_counter() - start > cap:
            break
    return rows / (perf_counter() - start)


def sequential_rate(adapter: Adapter, dataset: Any, cap: float) -> float:
    """Rows per second in order."""
    start, rows = perf_counter(), 0
    for count in adapter.sequential(dataset):
        rows += count
        if rows % BATCH == 0 and perf_counter() - start > cap:
            break
    return rows / (perf_counter() - start)


class Memcpy:
    """Copies as many bytes as a batch has, from and to places that are in no cache."""

    def __init__(self, data: Workload) -> None:
        values = max((column.values for column in data.columns.values()), key=lambda values: values.nbytes)
        self.source = values.view(np.uint8)
        self.size = min(data.nbytes // len(data) * BATCH, len(self.source) // 2)
        self.target = np.ones(max(POOL_BYTES // self.size, 2) * self.size, np.uint8)

    def batch_ms(self, rng: np.random.Generator) -> float:
        found = []
        for number in range(BATCHES):
            at = int(rng.integers(0, len(self.source) - self.size))
            to = number * self.size % (len(self.target) - self.size + 1)
            start = perf_counter()
            self.target[to : to + self.size] = self.source[at : at + self.size]
            found.append(1e3 * (perf_counter() - start))
        return statistics.median(found)


def drop_pages(path: Path) -> None:
    """Take a file out of the page cache, except for pages that a process has mapped."""
    with path.open("rb") as file:
        os.fsync(file.fileno())  # pages that are not written to the disk yet cannot be dropped
        os.posix_fadvise(file.fileno(), 0, 0, os.POSIX_FADV_DONTNEED)
