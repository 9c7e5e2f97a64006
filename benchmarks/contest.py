"""All competitors on one workload: each is compared with the source, then all are timed in turn."""

from __future__ import annotations

import gc
import json
import shutil
import sys
from collections.abc import Callable
from pathlib import Path
from time import perf_counter
from typing import Any

import numpy as np

from benchmarks import timing, workloads
from benchmarks.adapters import BATCH, Adapter, same, unpadded

FEW = 2  # rounds for those that no goal depends on closely
SLOW_MS = 300  # what opens slower is opened in these rounds only
CHECKED = 256  # rows that are compared with the source, besides a batch of each loader


class Contest:
    """All competitors on one workload.

    Args:
        results: what an interrupted run found, by name; medians and ranges are taken later.
    """

    def __init__(
        self, data: workloads.Workload, adapters: list[Adapter], folder: Path, cap: float, results: dict[str, Any]
    ) -> None:
        self.data, self.folder, self.cap = data, folder, cap
        self.adapters = adapters
        self.results: dict[str, dict[str, Any]] = results
        for a in adapters:
            about = {"kind": a.kind, "note": a.note, "forms": list(a.forms), "on_disk": a.on_disk}
            results[a.name] = {"errors": {}} | results.get(a.name, {}) | about
        self._datasets: dict[str, Any] = {}
        self._shared: dict[str, Any] = {}  # with workers, which keep it open
        self._loaders: dict[tuple[str, str], Any] = {}
        self._batches: dict[tuple[str, str], int | None] = {}

    def place(self, adapter: Adapter) -> Path:
        return self.folder / (adapter.store or adapter.name)

    def of_round(self, number: int, few: int) -> list[Adapter]:
        """All of them at first, then those that matter most; in another order each round."""
        some = [adapter for adapter in self.adapters if adapter.anchor or number < few]
        by = 5 * number % max(1, len(some))
        return some[by:] + some[:by]

    def forms(self, adapter: Adapter) -> tuple[str, ...]:
        return adapter.forms[:1] if self.data.fixed else adapter.forms  # without ragged columns all forms are one

    # -- written, and equal to the source

    def write_and_check(self) -> None:
        for adapter in self.adapters:
            result = self.results[adapter.name]
            result["errors"].pop("check", None)
            try:
                result |= timing.apart(lambda adapter=adapter: self._write(adapter), 300)
                timing.apart(lambda adapter=adapter: self._check(adapter), 120)
                result["equal"] = True
            except RuntimeError as error:
                result["errors"]["check"] = str(error)
                result.pop("equal", None)
            log(f"{adapter.name}: {'equals the source' if result.get('equal') else result['errors']}")
        self.adapters = [a for a in self.adapters if self.results[a.name].get("equal")]

    def _write(self, adapter: Adapter) -> dict[str, Any]:
        place = self.place(adapter)
        done = place / "written.json"
        if not done.exists():
            place.mkdir(parents=True)
            start = perf_counter()
            adapter.write(self.data, place)
            seconds = perf_counter() - start
            size = sum(file.stat().st_size for file in place.rglob("*") if file.is_file())
            done.write_text(json.dumps({"write_s": seconds, "bytes": size}))
        found: dict[str, Any] = json.loads(done.read_text())
        return found

    def _check(self, adapter: Adapter) -> None:
        data, rng = self.data, np.random.default_rng(0)
        dataset = adapter.open(self.place(adapter))
        if adapter.random:
            for row in (0, len(data) - 1, *rng.integers(0, len(data), 8).tolist()):
                require(same(adapter.sample(adapter.one(dataset, row)), data, row), f"row {row}")
            for _ in range(CHECKED // BATCH if adapter.name != "numpy-reopen" else 1):
                rows = rng.integers(0, len(data), BATCH).tolist()
                self._compare(adapter, adapter.batch(dataset, rows), rows, "batch")
        for form in self.forms(adapter):
            for workers in (0, 2) if adapter.random and adapter.context is None else (0,):
                loader = adapter.loader(dataset, workers=workers, form=form, batches=1, shuffle=False)
                batch = next(iter(loader))
                if workers and adapter.name == "litdata":
                    continue  # its workers begin at other chunks
                self._compare(adapter, batch, list(range(min(BATCH, len(data)))), f"{form}, {workers} workers")

    def _compare(self, adapter: Adapter, batch: Any, rows: list[int], what: str) -> None:
        found = adapter.rows(batch)
        require(len(found) == len(rows) == adapter.count(batch), f"{what}: {len(found)} rows")
        for got, row in zip(found, rows, strict=True):
            got = unpadded(got, self.data, row) if what.startswith("pad") else got
            require(same(got, self.data, row), f"{what}: row {row}")

    # -- timed

    def round(self, number: int) -> None:
        self.access_round(number)
        self.cold_round(number)
        self.worker_round(number)

    def access_round(self, number: int) -> None:
        """Opening, single rows, batches, epochs without workers."""
        rng = np.random.default_rng(number)
        memcpy = timing.Memcpy(self.data)
        for adapter in self.of_round(number, FEW):
            self.add("memcpy", "batch_ms", lambda: memcpy.batch_ms(rng))
            fresh = number < FEW or min(self.results[adapter.name].get("open_ms", [0])) < SLOW_MS
            if fresh or adapter.name not in self._datasets:
                self.add(adapter.name, "open_ms", lambda adapter=adapter: self._open(adapter))
            dataset = self._datasets.get(adapter.name)
            if dataset is None:
                continue
            gc.collect()
            key = adapter.name
            if (key, "0") not in self._batches or (fresh and adapter.kind == "ours"):
                self.add(key, "first_epoch", lambda a=adapter, d=dataset: self._first(a, d))
            if adapter.random:
                self.add(key, "one_us", lambda a=adapter, d=dataset: timing.one_us(a, d, rng, self.cap))
                self.add(key, "batch_ms", lambda a=adapter, d=dataset: timing.batch_ms(a, d, rng, self.cap))
            for form in self.forms(adapter) * (2 if adapter.anchor else 1):
                self.add(key, f"epoch0_{form}", lambda a=adapter, d=dataset, f=form: self._epoch(a, d, f))
            self.add(key, "sequential", lambda a=adapter, d=dataset: timing.sequential_rate(a, d, self.cap))

    def _open(self, adapter: Adapter) -> float:
        # Before the first time once more: what the library imports is not counted.
        before = self._datasets.pop(adapter.name, None)
        before = adapter.open(self.place(adapter)) if before is None else before
        adapter.close(before)
        del before
        gc.collect()
        start = perf_counter()
        dataset = adapter.open(self.place(adapter))
        seconds = perf_counter() - start
        self._datasets[adapter.name] = dataset
        return 1e3 * seconds

    def _first(self, adapter: Adapter, dataset: Any) -> float:
        loader = adapter.loader(dataset, workers=0, form=adapter.forms[0], batches=None, shuffle=True)
        found = timing.rate(adapter, loader, cap=4 * self.cap)
        self._batches[adapter.name, "0"] = self._affordable(found)
        return found

    def _affordable(self, rows_per_second: float) -> int | None:
        """How many batches fit the time, None for all."""
        batches = int(rows_per_second * self.cap / BATCH)
        return None if batches * BATCH >= len(self.data) else max(2, batches)

    def _epoch(self, adapter: Adapter, dataset: Any, form: str) -> float:
        batches = None if adapter.kind == "ours" else self._batches[adapter.name, "0"]
        loader = adapter.loader(dataset, workers=0, form=form, batches=batches, shuffle=True)
        return timing.rate(adapter, loader, batches)

    def cold_round(self, number: int) -> None:
        """The begin of an epoch from files that are not in the page cache."""
        for adapter in self.of_round(number, FEW):
            if adapter.on_disk:
                self.add(adapter.name, "cold", lambda adapter=adapter: self._cold(adapter))

    def _cold(self, adapter: Adapter) -> float:
        # A copy that nobody else opens: pages that a process has mapped stay in the cache.
        place = self.folder / "cold" / self.place(adapter).name
        if not place.exists():
            unfinished = self.folder / "unfinished"
            shutil.rmtree(unfinished, ignore_errors=True)
            shutil.copytree(self.place(adapter), unfinished)
            place.parent.mkdir(exist_ok=True)
            unfinished.rename(place)
        dataset = adapter.open(place)
        try:
            for file in place.rglob("*"):
                if file.is_file():
                    timing.drop_pages(file)
            loader = adapter.loader(dataset, workers=0, form=adapter.forms[0], batches=None, shuffle=True)
            return timing.rate(adapter, loader, cap=2 * self.cap)
        finally:
            adapter.close(dataset)

    def worker_round(self, number: int) -> None:
        """Epochs with two workers, which live as long as the contest does, and ours without workers in between."""
        for adapter in self.of_round(number, FEW - 1):
            for form in self.forms(adapter)[:2]:
                if not adapter.workers or self.failed(adapter.name, "epoch2"):
                    continue
                gc.collect()
                self.add(adapter.name, f"epoch2_{form}", lambda a=adapter, f=form: self._worker_epoch(a, f))
                if adapter.kind == "ours" and (adapter.name, form) in self._loaders:
                    dataset = self._shared[adapter.name]
                    self.add(adapter.name, f"beside2_{form}", lambda a=adapter, d=dataset, f=form: self._epoch(a, d, f))

    def _worker_epoch(self, adapter: Adapter, form: str) -> float:
        key = adapter.name, form
        if key not in self._loaders:
            if adapter.name not in self._shared:
                if adapter.name in self._datasets:  # some cannot be open twice in a process
                    adapter.close(self._datasets.pop(adapter.name))
                self._shared[adapter.name] = adapter.open(self.place(adapter))
            dataset = self._shared[adapter.name]
            loader = adapter.loader(dataset, workers=2, form=form, batches=6, shuffle=True)
            timing.rate(adapter, loader, 2)  # starts the workers
            self._batches[key] = self._affordable(timing.rate(adapter, loader, 6))
            if adapter.kind != "ours":
                close(loader)
                loader = adapter.loader(dataset, workers=2, form=form, batches=self._batches[key], shuffle=True)
                timing.rate(adapter, loader, 2)
            self._loaders[key] = loader
        batches = None if adapter.kind == "ours" else self._batches[key]
        return timing.rate(adapter, self._loaders[key], batches)

    def close(self) -> None:
        for loader in self._loaders.values():
            close(loader)

    def add(self, name: str, what: str, measure: Callable[[], float]) -> None:
        result = self.results.setdefault(name, {"kind": "limit", "note": "a copy of as many bytes", "errors": {}})
        try:
            with timing.limit(90):
                result.setdefault(what, []).append(measure())
        except Exception as error:
            result["errors"][what] = f"{type(error).__name__}: {error}"[:300]
            log(f"{name}: {what}: {result['errors'][what]}")

    def failed(self, name: str, what: str) -> bool:
        return any(key.startswith(what) for key in self.results[name]["errors"])


def require(good: bool, what: str) -> None:
    if not good:
        raise ValueError(f"differs from the source: {what}")


def close(loader: Any) -> None:
    """Let the workers of a loader go."""
    iterator = getattr(loader, "_iterator", None)
    try:
        if iterator is not None:
            iterator._shutdown_workers()
            loader._iterator = None
    except RuntimeError:  # some abort when they end
        pass


def log(text: str) -> None:
    print(f"[{perf_counter() - _start:6.1f}] {text}", file=sys.stderr, flush=True)


_start = perf_counter()
