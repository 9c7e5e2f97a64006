"""Eight threads that read random rows of one dataset at once. Full size: 10,000 reads each, for every backend."""

from __future__ import annotations

import random
import sys
import tempfile
import threading
import time
import traceback
import warnings
from pathlib import Path
from typing import Any

import numpy as np

import kinoml_data as kd
from kinoml_data.backends.joined.backend import Table
from kinoml_data.backends.npz.backend import NpzLazy
from kinoml_data.testing.comparing import same_array
from tests.faults.report import Report

THREADS, READS, ROWS = 8, 10_000, 500
RNG = np.random.default_rng(3)
ATOMS = [RNG.normal(size=(int(n), 3)).astype(np.float32) for n in RNG.integers(0, 9, ROWS)]
NAMES = {"atoms": "atoms", "fixed": "fixed"}
FIXED = RNG.normal(size=(ROWS, 4)).astype(np.float32)


class Row:
    """A featurizer over the row's number, as a Python callable: pure, and unaware of threads."""

    def __call__(self, number: Any) -> tuple[np.ndarray[Any, Any], np.ndarray[Any, Any]]:
        return ATOMS[int(number)], FIXED[int(number)]


def datasets(folder: Path) -> dict[str, kd.XyDataset]:
    """The same rows from every backend."""
    held = kd.from_arrays({"atoms": ATOMS, "fixed": FIXED})
    for name in ("a.npz", "a.parquet"):
        kd.save_dataset(held, folder / name)
    kd.save_dataset(held, {"backend": "npz-lazy", "path": str(folder / "deflated.npz"), "compress": True})
    kd.save_dataset(kd.from_arrays({"row": np.arange(ROWS)}), folder / "thin.npz")
    digest = Table(source=NpzLazy(path=folder / "a.npz"), columns=NAMES).current_digest()
    table = {"source": {"backend": "npz-lazy", "path": str(folder / "a.npz")}, "columns": NAMES, "digest": digest}
    thin = {"backend": "joined", "source": {"backend": "npz-lazy", "path": str(folder / "thin.npz")}}
    joined = {"X": ["atoms", "fixed"], "storage": {**thin, "tables": {"row": table}}}
    columns = {"atoms": {"shape": ["*", 3]}, "fixed": {"shape": [4]}}
    computed = {"columns": columns, "X": ["atoms", "fixed"], "storage": {"backend": "featurize-on-access"}}
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        return {
            "npz-lazy": kd.load_dataset(folder / "a.npz"),
            "npz-lazy, compressed": kd.load_dataset(folder / "deflated.npz"),
            "npz-lazy, mapped": kd.load_dataset(folder / "a.npz", io="mmap"),
            "npz-reopen": kd.load_dataset(folder / "a.npz", backend="npz-reopen"),
            "in-memory": kd.load_dataset(folder / "a.npz", backend="in-memory"),
            "parquet-awkward": kd.load_dataset(folder / "a.parquet"),
            "parquet-awkward, by row group": kd.load_dataset(folder / "a.parquet", memory_budget=10_000),
            "joined": kd.load_dataset(joined),
            "featurize-on-access": kd.load_dataset(computed, data={"number": np.arange(ROWS)}, featurizer=Row()),
        }


def run(cases: int | None = None, seed: int = 0) -> Report:
    """`cases` reads of each thread and backend."""
    reads = READS if cases is None else cases
    start = time.perf_counter()
    before = sys.getswitchinterval()
    with tempfile.TemporaryDirectory() as folder:
        made = datasets(Path(folder))
        report = Report("threads", seed, reads * THREADS * len(made))
        sys.setswitchinterval(1e-5)
        try:
            for name, dataset in made.items():
                _read_by_all(name, dataset, reads, report)
        finally:
            sys.setswitchinterval(before)
    report.seconds = time.perf_counter() - start
    return report


def _read_by_all(name: str, dataset: kd.XyDataset, reads: int, report: Report) -> None:
    lock = threading.Lock()

    def read(number: int) -> None:
        rng, done = random.Random(f"{report.seed} {name} {number}"), 0
        try:
            for _ in range(reads):
                rows = [rng.randrange(ROWS) for _ in range(rng.choice((1, 1, 2, 5)))]
                X, _ = dataset[rows] if len(rows) > 1 else dataset[rows[0]]
                for i, row in enumerate(rows):
                    atoms, fixed = (X["atoms"][i], X["fixed"][i]) if len(rows) > 1 else (X["atoms"], X["fixed"])
                    same_array(atoms.numpy(), ATOMS[row])
                    same_array(fixed.numpy(), FIXED[row])
                done += 1
        except BaseException:
            report.problems.append(f"{name}, thread {number}, read {done}: {traceback.format_exc(limit=-2)}")
        with lock:
            report.executed += done

    threads = [threading.Thread(target=read, args=(number,)) for number in range(THREADS)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
