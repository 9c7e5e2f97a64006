"""Stores that are truncated, replaced, overwritten and unlinked while epochs are read. Full size: 1,000 rounds each.

A store whose time stamp changes, or that is replaced by its own bytes in place, is read to the end.
"""

from __future__ import annotations

import multiprocessing
import os
import random
import tempfile
import threading
import time
import traceback
import warnings
from itertools import product
from pathlib import Path
from typing import Any

import numpy as np

import kinoml_data as kd
from kinoml_data.errors import CorruptStoreError, StoreChangedError, StoreNotFoundError, StoreReadError
from tests.faults.report import Report

ROUNDS = 1000
ROWS, BATCH, EPOCHS = 300, 16, 4
CHANGES = ("truncate", "replace", "overwrite", "unlink", "touch", "same bytes")
READERS: dict[str, tuple[str, dict[str, Any]]] = {
    "npz-lazy": (".npz", {}),
    "npz-lazy, a member per row": (".npz", {}),
    "npz-reopen": (".npz", {"backend": "npz-reopen"}),
    "parquet-awkward": (".parquet", {"memory_budget": 0}),
}
EXPECTED = (CorruptStoreError, StoreChangedError, StoreNotFoundError, StoreReadError)


def run(cases: int | None = None, seed: int = 0, jobs: int = 2) -> Report:
    """`cases` rounds of each change and reader."""
    rounds = ROUNDS if cases is None else cases
    kinds = list(product(READERS, CHANGES))
    report = Report("changing", seed, rounds * len(kinds))
    start = time.perf_counter()
    context = multiprocessing.get_context("fork")
    with tempfile.TemporaryDirectory() as folder:
        versions = {reader: _versions(Path(folder), reader) for reader in READERS}
        executed, noticed = context.Value("q", 0), context.Value("q", 0)
        problems = context.Queue()
        running: list[Any] = []
        for number, (reader, change) in enumerate(kinds):
            place = Path(folder) / f"{number}{READERS[reader][0]}"
            work = (reader, change, versions[reader], place, rounds, seed, executed, noticed, problems)
            process = context.Process(target=_rounds, args=work, name=f"{reader}, {change}")
            process.start()
            running.append(process)
            if len(running) == jobs:
                _ended(running.pop(0), report, problems)
        for process in running:
            _ended(process, report, problems)
        report.executed = executed.value
        if rounds >= 20 and noticed.value < rounds:
            report.problems.append(f"only {noticed.value} changes came before the end of reading")
    report.seconds = time.perf_counter() - start
    return report


def _ended(process: Any, report: Report, problems: Any) -> None:
    while process.is_alive():
        process.join(0.05)
        while not problems.empty():
            report.problems.append(problems.get())
    while not problems.empty():
        report.problems.append(problems.get())
    if process.exitcode:
        report.problems.append(f"{process.name}: exit code {process.exitcode}")


def _versions(folder: Path, reader: str) -> tuple[bytes, bytes]:
    """Two stores of one size whose rows have the same shapes and other values: 1 and 2."""
    suffix, _ = READERS[reader]
    found = []
    for value in (1, 2):
        rows = [np.full((3, n % 7 + 5), value, np.float32) for n in range(ROWS)]
        path, y = folder / f"version{suffix}", np.full(ROWS, value, np.float32)
        if "member" in reader:
            np.savez(path, **{f"X_s{n}_": row for n, row in enumerate(rows)}, y=y)
        else:
            kd.save_dataset(kd.from_arrays(rows, y), path, overwrite=True)
        found.append(path.read_bytes())
    return found[0], found[1]


def _rounds(
    reader: str,
    change: str,
    versions: tuple[bytes, bytes],
    path: Path,
    rounds: int,
    seed: int,
    executed: Any,
    noticed: Any,
    problems: Any,
) -> None:
    for number in range(rounds):
        rng = random.Random(f"{seed} {reader} {change} {number}")
        stop = None
        try:
            stop = _round(reader, change, versions, path, rng)
        except BaseException:
            problems.put(f"{reader}, {change}, round {number}: {traceback.format_exc(limit=-3)}")
        with executed.get_lock():
            executed.value += 1
            noticed.value += stop is not None
    problems.close()
    problems.join_thread()


def _round(reader: str, change: str, versions: tuple[bytes, bytes], path: Path, rng: random.Random) -> str | None:
    path.unlink(missing_ok=True)
    path.write_bytes(versions[0])
    os.utime(path, ns=(10**18, 10**18))  # long ago: the clock of a file system ticks every few milliseconds
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        dataset = kd.load_dataset(path, collate="packed", **READERS[reader][1])
    delay = rng.random() * 0.006
    size = rng.randrange(len(versions[0]))

    def act() -> None:
        time.sleep(delay)
        _change(change, path, versions[change != "same bytes"], size)

    thread = threading.Thread(target=act)
    thread.start()
    try:
        for _ in range(EPOCHS):
            order = list(range(ROWS))
            rng.shuffle(order)
            for at in range(0, ROWS, BATCH):
                rows = order[at : at + BATCH]
                X, y = dataset[rows]
                one, label = dataset[rows[0]]
                assert X.shapes[:, 1].tolist() == [row % 7 + 5 for row in rows], "other shapes"
                whole = bool((X.values == 1).all() and (y == 1).all() and (one == 1).all() and label == 1)
                assert whole, "values of the other version"
    except EXPECTED as error:
        assert change not in ("touch", "same bytes"), f"nothing changed, but {error!r}"
        return type(error).__name__
    finally:
        thread.join()
        dataset.close()
    return None


def _change(change: str, path: Path, other: bytes, size: int) -> None:
    if change == "truncate":
        os.truncate(path, size)
    elif change == "unlink":
        path.unlink()
    elif change == "touch":
        path.touch()
    elif change == "replace":
        beside = path.with_suffix(".beside")
        beside.write_bytes(other)
        beside.replace(path)
    else:
        with path.open("r+b", buffering=0) as file:
            for at in range(0, len(other), 4096):
                file.write(other[at : at + 4096])
