"""`as_dataloader`: what it sets up, and that every way gives the same rows."""

from __future__ import annotations

import gc
import multiprocessing
import os
import resource
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

import kinoml_data as kd
from kinoml_data.loading import shared_ring as ring
from kinoml_data.loading.samplers import LengthBatchSampler

RNG = np.random.default_rng(3)
X = [RNG.normal(size=(4, int(n))).astype(np.float32) for n in RNG.integers(1, 60, 500)]
Y = np.arange(500, dtype=np.int64)


@pytest.fixture
def dataset(tmp_path: Path) -> kd.XyDataset:
    kd.save_dataset(kd.from_arrays(X, Y, splits={"train": range(400), "test": range(400, 500)}), tmp_path / "a.npz")
    return kd.load_dataset(tmp_path / "a.npz")


def rows_of(loader: Any) -> list[int]:
    """The rows of an epoch in order, each X compared with what was saved."""
    rows = []
    for batch, y in loader:
        assert len(batch) == len(y)
        for x, row in zip(batch, y.tolist(), strict=True):
            assert torch.equal(x, torch.from_numpy(X[row]))
            rows.append(row)
    return rows


WAYS: list[dict[str, Any]] = [{}, {"prefetch": 3}, {"num_workers": 2}, {"num_workers": 2, "persistent_workers": False}]


@pytest.mark.parametrize("order", [{}, {"group_by_length": "X"}, {"batch_size": 7}], ids=["plain", "groups", "small"])
@pytest.mark.parametrize("kwargs", WAYS, ids=["plain", "thread", "workers", "new workers"])
def test_a_seed_gives_the_same_order_in_every_way_of_loading(
    dataset: kd.XyDataset, kwargs: dict[str, Any], order: dict[str, Any]
) -> None:
    def epochs(**kwargs: Any) -> list[list[int]]:
        loader = dataset.as_dataloader(**{"batch_size": 16, "shuffle": True, "seed": 5, **order, **kwargs})
        return [rows_of(loader) for _ in range(3)]

    found = epochs(**kwargs)
    assert found == epochs()
    assert all(sorted(rows) == list(range(500)) for rows in found)
    assert found[0] != found[1] != found[2] != found[0]


@pytest.mark.parametrize("name", ["sampler", "batch_sampler"])
def test_shuffling_beside_a_sampler_is_refused_as_torch_does(dataset: kd.XyDataset, name: str) -> None:
    with pytest.raises(ValueError, match="mutually exclusive"):
        dataset.as_dataloader(shuffle=True, seed=0, **{name: [[0, 1]]})


def test_a_seed_and_a_generator_exclude_each_other(dataset: kd.XyDataset) -> None:
    with pytest.raises(kd.errors.SpecError, match="seed and generator exclude"):
        dataset.as_dataloader(seed=1, generator=torch.Generator())
    with pytest.raises(kd.errors.SpecError, match="prefetch"):
        dataset.as_dataloader(prefetch=1, num_workers=1)


def test_an_error_in_the_prefetching_thread_is_raised_where_the_batch_was_due() -> None:
    def featurizer(row: Any) -> Any:
        if row == 5:
            raise StopIteration
        return np.zeros(2, np.float32)

    spec = {"columns": {"f": {"shape": [2]}}, "X": "f", "storage": {"backend": "featurize-on-access"}}
    ds = kd.load_dataset(spec, data={"raw": list(range(10))}, featurizer=featurizer)
    batches = iter(ds.as_dataloader(batch_size=2, prefetch=1))
    assert len(next(batches)[0]) == 2
    next(batches)
    with pytest.raises(kd.errors.FeaturizationError, match="row 5"):
        next(batches)
    with pytest.raises(StopIteration):
        next(batches)


def test_a_prefetching_epoch_that_is_left_early_ends_its_thread(dataset: kd.XyDataset) -> None:
    import threading

    before = threading.active_count()
    for _ in dataset.as_dataloader(batch_size=2, prefetch=2):
        break
    gc.collect()
    for _ in range(50):
        if threading.active_count() == before:
            break
        threading.Event().wait(0.1)
    assert threading.active_count() == before


def test_grouping_by_length_gives_each_row_once_and_cuts_padding(dataset: kd.XyDataset) -> None:
    loader = dataset.as_dataloader(batch_size=16, shuffle=True, seed=1, group_by_length="X")
    first = rows_of(loader)
    assert sorted(first) == list(range(500))
    assert rows_of(loader) != first
    assert isinstance(loader.batch_sampler, LengthBatchSampler)

    def padding(batches: Any) -> float:
        """The share of the elements of padded batches that is padding."""
        lengths = [[x.shape[1] for x in batch] for batch, _ in batches]
        return 1 - sum(map(sum, lengths)) / sum(max(batch) * len(batch) for batch in lengths)

    assert padding(loader) < 0.1 < 0.3 < padding(dataset.as_dataloader(batch_size=16, shuffle=True, seed=1)) < 0.7
    assert len(loader) == 32


def test_groups_of_an_epoch_that_is_said_depend_on_the_seed_and_the_epoch_alone(dataset: kd.XyDataset) -> None:
    def epoch(number: int, seed: int, before: int) -> list[int]:
        loader = dataset.as_dataloader(batch_size=16, shuffle=True, seed=seed, group_by_length="X")
        for _ in range(before):
            rows_of(loader)
        loader.batch_sampler.set_epoch(number)
        return rows_of(loader)

    assert epoch(3, 1, 0) == epoch(3, 1, 2)
    assert len({tuple(epoch(*said, 0)) for said in ((3, 1), (4, 1), (3, 2))}) == 3


def test_grouping_by_length_works_on_a_view_and_with_short_last_batches(dataset: kd.XyDataset) -> None:
    test = dataset.split("test")
    assert sorted(rows_of(test.as_dataloader(batch_size=33, shuffle=True, group_by_length="X"))) == [*range(400, 500)]
    dropped = test.as_dataloader(batch_size=33, group_by_length="X", drop_last=True)
    assert len(dropped) == 3
    rows = rows_of(dropped)
    assert len(rows) == 99
    lengths = [X[row].shape[1] for row in rows]
    assert lengths == sorted(lengths)


def test_grouping_needs_a_ragged_column(dataset: kd.XyDataset) -> None:
    with pytest.raises(kd.errors.SpecError, match="ragged column"):
        dataset.as_dataloader(group_by_length="y")
    with pytest.raises(kd.errors.SpecError, match="group_by_length and sampler exclude"):
        dataset.as_dataloader(group_by_length="X", sampler=[1, 2])


@pytest.mark.parametrize(
    ("form", "context"),
    [
        *[(form, "fork") for form in ("list", "packed", "pad", "pad-mask", "nested")],
        *[pytest.param(form, "spawn", marks=pytest.mark.slow) for form in ("list", "packed", "pad", "nested")],
        ("pad-mask", "spawn"),
    ],
)
def test_batches_that_went_through_the_ring_equal_those_read_here(
    dataset: kd.XyDataset, form: str, context: str
) -> None:
    here = list(dataset.as_dataloader(batch_size=128, collate=form))
    there = dataset.as_dataloader(batch_size=128, collate=form, num_workers=1, multiprocessing_context=context)
    kept = list(there)  # every batch is kept while its slot is used again
    assert isinstance(there.collate_fn, ring.RingCollate)
    assert len(kept) == len(here)
    for (a, y), (b, z) in zip(here, kept, strict=True):
        assert torch.equal(y, z)
        parts = [(a, b)] if isinstance(a, torch.Tensor) else zip(a, b, strict=True)
        for one, other in parts:
            assert one.dtype == other.dtype
            pairs = zip(one.unbind(), other.unbind(), strict=True) if one.is_nested else [(one, other)]
            assert all(torch.equal(p, q) for p, q in pairs)
            assert not other.is_shared() or one.is_nested


def test_a_batch_too_large_for_its_slot_goes_as_torch_sends_it(
    dataset: kd.XyDataset, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("kinoml_data.loading.loader.SLOT_BYTES", 4096)
    loader = dataset.as_dataloader(batch_size=100, num_workers=1, multiprocessing_context="fork")
    assert rows_of(loader) == list(range(500))


def test_a_full_ring_is_no_obstacle() -> None:
    small = ring.Ring(1, 4096, multiprocessing.get_context("fork"))
    first = small.put([memoryview(b"abc"), memoryview(b"")])
    assert first is not None
    assert small.put([memoryview(b"x")]) is None
    assert [bytes(part) for part in small.take(*first)] == [b"abc", b""]
    assert small.put([memoryview(bytes(4097))]) is None
    assert small.put([memoryview(b"x")]) is not None


def shared_memory_of(processes: set[str]) -> list[str]:
    """The files of these processes: torch names its files after them, and other programs use the folder as well."""
    return [path.name for path in Path("/dev/shm").iterdir() if processes & {*path.name.split("_")}]


def test_no_descriptor_and_no_shared_memory_is_left(dataset: kd.XyDataset) -> None:
    processes = {str(os.getpid())}

    def open_descriptors_after_an_epoch() -> int:
        loader = dataset.as_dataloader(batch_size=64, num_workers=1, multiprocessing_context="fork")
        for _ in loader:
            processes.update(str(child.pid) for child in multiprocessing.active_children())
        del loader
        gc.collect()
        return len(list(Path("/proc/self/fd").iterdir()))

    before = open_descriptors_after_an_epoch()
    assert max(open_descriptors_after_an_epoch() for _ in range(5)) <= before
    assert len(processes) > 1
    assert shared_memory_of(processes) == []


CHILD = """
import resource, sys
import kinoml_data as kd
resource.setrlimit(resource.RLIMIT_NOFILE, (256, 256))
if __name__ == "__main__":
    ds = kd.load_dataset(sys.argv[1]).select([i % 500 for i in range(8192)])
    rows = 0
    for X, y in ds.as_dataloader(batch_size=1024, num_workers=4, multiprocessing_context="fork"):
        rows += len(X)
    print(rows)
"""


def test_large_ragged_batches_from_workers_need_few_descriptors(dataset: kd.XyDataset, tmp_path: Path) -> None:
    assert resource.getrlimit(resource.RLIMIT_NOFILE)[1] >= 256
    script = tmp_path / "child.py"
    script.write_text(CHILD)
    done = subprocess.run(
        [sys.executable, script, tmp_path / "a.npz"], capture_output=True, text=True, timeout=120, check=False
    )
    assert done.stdout.strip() == "8192", done.stderr


def test_a_killed_parent_leaves_no_shared_memory(dataset: kd.XyDataset, tmp_path: Path) -> None:
    script = tmp_path / "child.py"
    script.write_text(
        "import os, signal, sys\nimport kinoml_data as kd\n"
        "loader = kd.load_dataset(sys.argv[1]).as_dataloader(\n"
        "    batch_size=64, num_workers=1, multiprocessing_context='fork')\n"
        "batches = iter(loader); next(batches)\n"
        "os.kill(os.getpid(), signal.SIGKILL)\n"
    )
    child = subprocess.Popen([sys.executable, script, tmp_path / "a.npz"], stderr=subprocess.DEVNULL)
    assert child.wait(timeout=120) == -9
    assert shared_memory_of({str(child.pid)}) == []


def test_distributed_samplers_share_the_rows_between_them(dataset: kd.XyDataset) -> None:
    from torch.utils.data.distributed import DistributedSampler

    found = []
    for rank in range(2):
        sampler: DistributedSampler[Any] = DistributedSampler(dataset, num_replicas=2, rank=rank, shuffle=True)
        found += rows_of(dataset.as_dataloader(batch_size=32, sampler=sampler))
    assert sorted(found) == list(range(500))


def test_a_loader_can_be_made_again_from_its_own_attributes(dataset: kd.XyDataset) -> None:
    """What Lightning does to put its sampler into a loader."""
    loader = dataset.as_dataloader(batch_size=32, num_workers=1, multiprocessing_context="fork", prefetch_factor=3)
    again = type(loader)(
        loader.dataset,
        batch_size=loader.batch_size,
        sampler=torch.utils.data.SequentialSampler(dataset),
        num_workers=loader.num_workers,
        collate_fn=loader.collate_fn,
        prefetch_factor=loader.prefetch_factor,
        multiprocessing_context=loader.multiprocessing_context,
    )
    assert rows_of(again) == list(range(500))
