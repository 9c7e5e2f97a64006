"""Computing the features of a whole dataset ahead, in parallel, into caches on disk; and finding the rows that fail."""

from __future__ import annotations

import csv
import multiprocessing
import os
import secrets
import shutil
import signal
import threading
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import FIRST_COMPLETED, Executor, Future, ProcessPoolExecutor, wait
from contextlib import ExitStack, contextmanager, suppress
from functools import partial
from itertools import islice
from multiprocessing.connection import Connection
from pathlib import Path
from pickle import PicklingError
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from kinoml_data.backends.cached_call import CachedCall
from kinoml_data.backends.feature_cache import open_cache
from kinoml_data.backends.featurized_storage import Computation, FeaturizedStorage
from kinoml_data.backends.featurizer_call import FeaturizerCall
from kinoml_data.copied_rows import groups
from kinoml_data.dataset.dataset import XyDataset
from kinoml_data.dataset.failing import failing
from kinoml_data.errors import FeaturizationError, KinomlDataError, SpecError, format_error, one_line, quoted
from kinoml_data.files import replacing

CHUNK = 256  # distinct inputs that a task featurizes
WAITING = 64  # tasks that are submitted at most, besides those that are done
STAGE = "featurizing"
Progress = Callable[[str, int, int], None]


class Failure(NamedTuple):
    """A row that cannot be featurized.

    Attributes:
        position: its position in the dataset.
        row: its row number in the store.
        reason: why.
    """

    position: int
    row: int
    reason: str


@contextmanager
def executor_of(workers: int, executor: Executor | None) -> Iterator[Executor | None]:
    """The caller's executor, or one of so many processes, which end with the block; None for neither.

    Raises:
        SpecError: both are given, or the number of workers is negative.
    """
    if executor is not None and workers:
        raise SpecError("give either workers or an executor")
    if workers < 0:
        raise SpecError(f"workers must be at least 0, not {workers}")
    if not workers:
        yield executor
        return
    # A forked process would share threads, locks and open files with this one.
    context = multiprocessing.get_context("spawn")
    theirs, ours = context.Pipe(duplex=False)  # theirs ends when `ours` is closed, or when this process ends
    own = ProcessPoolExecutor(workers, mp_context=context, initializer=_begin_worker, initargs=(theirs,))
    try:
        yield own
        own.shutdown()
    finally:
        ours.close()  # after a failure, the workers end in the middle of their tasks
        own.shutdown(cancel_futures=True)
        theirs.close()


def _begin_worker(lifeline: Connection) -> None:
    """Let a worker process end with the process that started it, however that ends."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C reaches all processes; the one that started this one ends it
    threading.Thread(target=_end_with, args=(lifeline,), daemon=True).start()


def _end_with(lifeline: Connection) -> None:
    with suppress(EOFError, OSError):
        lifeline.recv()
    os._exit(1)


@contextmanager
def cached(dataset: XyDataset, folder: Path) -> Iterator[None]:
    """Give every featurizer of a dataset that has no cache a temporary one in a folder, which is removed at the end."""
    with ExitStack() as undone:
        undone.callback(shutil.rmtree, folder, ignore_errors=True)  # at last, when every cache has been closed
        for each in _computations(dataset):
            call = each.part.call
            if isinstance(call, CachedCall):
                continue
            identity = {"featurizer": call.label, "temporary": secrets.token_hex(8)}
            cache = open_cache(folder, 1 << 62, identity, call.outputs)
            each.part.call = CachedCall(call.featurizer, call.outputs, call.label, cache)
            undone.callback(cache.close)
            undone.callback(setattr, each.part, "call", call)
        yield


def featurize_ahead(dataset: XyDataset, executor: Executor, progress: Progress | None, *, keeps_going: bool) -> None:
    """Compute whatever features of the dataset are not in their caches, and write them there.

    Each task computes a few hundred distinct inputs and writes them into the cache by itself. A task that runs twice,
    because its worker was lost, writes the same features again.

    Args:
        dataset: the dataset, all of whose featurizers have caches; see `cached`.
        executor: runs the tasks.
        progress: called with the stage and the numbers of distinct inputs that are done and of all of them.
        keeps_going: False to raise the first failure.

    Raises:
        FeaturizationError: a row cannot be featurized, and `keeps_going` is False; or a process of the executor ended.
        SpecError: a featurizer or its inputs cannot be sent to another process.
    """
    parts = list(_computations(dataset))
    total, done, failed = sum(len(each.rows) for each in parts), 0, 0
    tasks = ((each, rows) for each in parts for rows in _chunks(each.rows, CHUNK))
    running: set[Future[tuple[int, list[tuple[int, str]]]]] = set()
    try:
        while done < total:
            for each, rows in islice(tasks, WAITING - len(running)):
                inputs = each.part.raw(each.source, rows)
                running.add(executor.submit(_featurized, each.part.call, inputs, rows))
            finished, running = wait(running, return_when=FIRST_COMPLETED)
            for future in finished:
                count, failures = _result(future)
                done, failed = done + count, failed + len(failures)
                if failures and not keeps_going:
                    error = FeaturizationError(failures[0][1])
                    error.row = failures[0][0]
                    raise error
                if progress is not None:
                    progress(f"{STAGE}, {failed:,} failed" if failed else STAGE, done, total)
    finally:
        for future in running:
            future.cancel()
    for each in parts:
        assert isinstance(each.part.call, CachedCall)
        each.part.call.cache.rescan()


def _featurized(
    call: FeaturizerCall, inputs: Sequence[Sequence[Any]], rows: Sequence[int]
) -> tuple[int, list[tuple[int, str]]]:
    """In a worker: compute the features of some rows into the cache. The number of rows, and the rows that failed."""
    results = zip(rows, call.attempts(inputs, rows), strict=True)
    failures = [(row, str(result)) for row, result in results if isinstance(result, FeaturizationError)]
    call.flush()
    return len(rows), failures


def _result(future: Future[Any]) -> Any:
    try:
        return future.result()
    except (PicklingError, AttributeError, TypeError) as error:
        raise SpecError(
            f"a featurizer or its inputs cannot be sent to another process: {one_line(error)}; a function must be "
            "defined at the top level of a module"
        ) from error
    except KinomlDataError:
        raise
    except Exception as error:  # such as `BrokenProcessPool`, or Dask's `KilledWorker`; `_featurized` raises none
        raise FeaturizationError(
            "a process ended while it featurized; it crashed, or was killed because memory was short: "
            f"{format_error(error)}"
        ) from error


def _chunks(rows: NDArray[np.int64], size: int) -> Iterator[list[int]]:
    for start in range(0, len(rows), size):
        yield rows[start : start + size].tolist()


def _computations(dataset: XyDataset) -> Iterator[Computation]:
    storage = dataset._session.binding.storage
    return storage.computations(dataset.rows, dataset.spec.stored_names)


def failures(dataset: XyDataset, names: Sequence[str]) -> list[Failure]:
    """The rows of which a column cannot be featurized, in their order.

    Args:
        dataset: the dataset, whose features are in caches, so that none is computed twice; see `cached`.
        names: the columns.
    """
    storage = dataset._session.binding.storage
    reasons: dict[int, str] = {}
    stored = {name: dataset.spec.columns[name].stored_names(name) for name in names}
    computed = [name for name in names if any(storage.computations(dataset.rows, stored[name]))]
    for group in groups(dataset, computed):
        positions = np.arange(len(dataset)) if group.keys is None else group.first
        reason_of = dict(failing(partial(dataset.read_stored, names=group.names), positions))
        if group.keys is None:
            reasons |= {position: reasons.get(position, reason) for position, reason in reason_of.items()}
            continue
        bad = np.isin(group.first, list(reason_of))
        for position in np.flatnonzero(bad[group.keys]).tolist():
            reasons.setdefault(position, reason_of[int(group.first[group.keys[position]])])
    rows = dataset.rows
    return [Failure(position, int(rows[position]), reasons[position]) for position in sorted(reasons)]


def ids(dataset: XyDataset, rows: Sequence[int]) -> Mapping[int, str]:
    """The ids of some rows of the store: the texts in the first column of text in meta; none without such a column."""
    name = next((name for name in dataset.spec.meta if dataset.spec.columns[name].is_string), None)
    return {} if name is None else dict(zip(rows, dataset.column(name, rows=list(rows)), strict=True))


def with_id(dataset: XyDataset, error: FeaturizationError) -> FeaturizationError:
    """The error with the id of its row, if the featurizer reads the rows of the dataset itself."""
    storage = dataset._session.binding.storage
    if error.row is None or not isinstance(storage, FeaturizedStorage) or not (texts := ids(dataset, [error.row])):
        return error
    result = FeaturizationError(f"{error} (id {quoted(texts[error.row])})")
    result.row = error.row
    return result


def write_failures(path: Path, dataset: XyDataset, found: Sequence[Failure]) -> None:
    """Write a CSV file with the row number, id, stage and reason of each row that failed.

    The id is the text in the first column of text in meta; it is empty if there is none.

    Raises:
        StoreWriteError: the operating system could not write the file.
    """
    texts = ids(dataset, [failure.row for failure in found])
    with replacing(path, overwrite=True) as temporary, temporary.open("w", newline="", encoding="utf-8") as file:
        table = csv.writer(file)
        table.writerow(["row", "id", "stage", "reason"])
        table.writerows([f.row, texts.get(f.row, ""), "featurize", one_line(f.reason, 1000)] for f in found)
