"""The fast path by counting, not by timing: what these counts allow cannot be slow, and losing them fails here."""

from __future__ import annotations

import gc
import os
import tracemalloc
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from torch.utils.data import DataLoader

import kinoml_data as kd
from kinoml_data import columns
from kinoml_data.backends.npz.storage import NpzStorage
from kinoml_data.layouts.memory_storage import MemoryStorage
from kinoml_data.loading import shared_ring as ring

ROWS = 3000
RNG = np.random.default_rng(5)
X = [RNG.normal(size=(3, int(n))).astype(np.float32) for n in RNG.integers(1, 30, ROWS)]
Y = np.arange(ROWS, dtype=np.float32)


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("fast")
    kd.save_dataset(kd.from_arrays(X, Y), folder / "packed.npz")
    np.savez(folder / "kinoml.npz", **{f"X_s{row}_": x for row, x in enumerate(X)}, y=Y)
    return folder


class Counter:
    """Counts the calls of a function while it lets them through."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch, module: Any, name: str) -> None:
        self.calls = 0
        original = getattr(module, name)

        def counted(*args: Any, **kwargs: Any) -> Any:
            self.calls += 1
            return original(*args, **kwargs)

        monkeypatch.setattr(module, name, counted)


@pytest.mark.parametrize("name", ["packed.npz", "kinoml.npz"])
def test_a_batch_costs_one_read_per_row_and_neighbours_share_one(
    folder: Path, name: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delattr(os, "RWF_NOWAIT", raising=False)  # so that nothing looks into the system's cache
    ds = kd.load_dataset(folder / name)
    ds[:]  # checked now
    small, into_place = Counter(monkeypatch, os, "pread"), Counter(monkeypatch, os, "preadv")

    def calls(rows: Any) -> int:
        small.calls = into_place.calls = 0
        ds[rows]
        return small.calls + into_place.calls

    assert 120 <= calls(RNG.permutation(ROWS)[:128].tolist()) <= 128
    assert calls(slice(200, 328)) == 1  # the headers between the members of KinoML's layout are small
    assert calls(17) == 1


@pytest.mark.parametrize(("backend", "storage"), [("npz-lazy", NpzStorage), ("in-memory", MemoryStorage)])
def test_an_epoch_reads_each_batch_once_and_makes_no_samples(
    folder: Path, backend: str, storage: type[kd.Storage], monkeypatch: pytest.MonkeyPatch
) -> None:
    ds = kd.load_dataset(folder / "packed.npz", backend=backend, collate="packed")
    reads = Counter(monkeypatch, storage, "read")
    samples = Counter(monkeypatch, type(ds.collate_fn), "sample")
    assert sum(1 for _ in ds.as_dataloader(batch_size=100)) == 30
    assert (reads.calls, samples.calls) == (30, 0)
    assert sum(1 for _ in DataLoader(ds, batch_size=100)) == 30
    assert (reads.calls, samples.calls) == (60, 30)  # torch's own collate function looks at one sample a batch


@pytest.mark.parametrize("collate", ["list", "pad", "pad-mask", "packed", "nested"])
@pytest.mark.parametrize("dtype", [None, {"X": "float64"}], ids=["as stored", "cast"])
@pytest.mark.parametrize(
    ("name", "backend"), [("packed.npz", "npz-lazy"), ("packed.npz", "in-memory"), ("kinoml.npz", "npz-lazy")]
)
def test_the_sizes_of_the_rows_of_a_batch_are_computed_once(
    folder: Path, name: str, backend: str, dtype: Any, collate: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    ds = kd.load_dataset(folder / name, backend=backend, collate=collate, dtype=dtype)
    ds[:]  # the store is open now
    sizes = Counter(monkeypatch, columns, "sizes_of")
    assert [len(ds[RNG.permutation(ROWS)[:128]][1]) for _ in range(3)] == [128] * 3
    assert sizes.calls == 3
    assert sum(1 for _ in ds.as_dataloader(batch_size=100)) == 30
    assert sizes.calls == 33


@pytest.mark.parametrize("backend", ["npz-lazy", "in-memory"])
def test_a_batch_is_copied_once(tmp_path: Path, backend: str) -> None:
    wide = [np.ones((3, int(n)), np.float32) for n in RNG.integers(200, 400, ROWS)]
    kd.save_dataset(kd.from_arrays(wide, Y), tmp_path / "wide.npz")
    ds = kd.load_dataset(tmp_path / "wide.npz", backend=backend, collate="packed")
    rows = RNG.permutation(ROWS).tolist()
    batch, _ = ds[rows]
    size = batch.values.nbytes
    assert size > 10_000_000
    del batch
    tracemalloc.start()
    try:
        ds[rows]
        _, peak = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert size < peak < 1.5 * size  # a second copy would be 2


def test_no_python_object_is_kept_per_row(folder: Path) -> None:
    kd.load_dataset(folder / "kinoml.npz")  # imports are done
    gc.collect()
    before = len(gc.get_objects())
    tracemalloc.start()
    try:
        ds = kd.load_dataset(folder / "kinoml.npz")
        gc.collect()
        held, _ = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert len(ds) == ROWS
    assert len(gc.get_objects()) - before < 500
    assert held < 64 * ROWS + 200_000


def test_a_batch_from_a_worker_needs_no_descriptor(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    ds = kd.load_dataset(folder / "packed.npz")
    received = Counter(monkeypatch, ring.Ring, "take")
    loader = ds.as_dataloader(batch_size=100, num_workers=1, multiprocessing_context="fork")
    descriptors = set()
    for _ in loader:
        descriptors.add(len(list(Path("/proc/self/fd").iterdir())))
    assert received.calls == 30
    assert len(descriptors) == 1
