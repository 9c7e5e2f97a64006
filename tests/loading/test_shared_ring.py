"""Batches from worker processes through shared memory."""

from __future__ import annotations

import gc
import multiprocessing
import os
import pickle
import resource
import signal
import subprocess
import sys
import types
from pathlib import Path

import pytest
import torch

import kinoml_data as kd
from kinoml_data.loading import shared_ring as ring
from tests.builders import FORMS
from tests.loading.rows import rows_of, store_rows


@pytest.fixture
def dataset(tmp_path: Path) -> kd.XyDataset:
    return store_rows(tmp_path / "a.npz")


@pytest.mark.parametrize(
    ("form", "context"),
    [
        *[(form, "fork") for form in FORMS],
        ("pad-mask", "forkserver"),
        *[pytest.param(form, "spawn", marks=pytest.mark.slow) for form in FORMS],
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


def test_a_full_ring_refuses_batches_until_a_slot_is_free() -> None:
    small = ring.Ring(1, 4096, multiprocessing.get_context("fork"))
    first = small.put([memoryview(b"abc"), memoryview(b"")])
    assert first is not None
    assert small.put([memoryview(b"x")]) is None
    assert [bytes(part) for part in small.take(*first)] == [b"abc", b""]
    assert small.put([memoryview(bytes(4097))]) is None
    assert small.put([memoryview(b"x")]) is not None


def test_epochs_that_were_not_read_to_their_end_leave_no_slot_taken(dataset: kd.XyDataset) -> None:
    loader = dataset.as_dataloader(
        batch_size=10, num_workers=1, persistent_workers=False, multiprocessing_context="fork"
    )
    for _ in range(5):
        next(iter(loader))
    gc.collect()
    assert isinstance(loader.collate_fn, ring.RingCollate)
    batches = iter(loader)
    next(batches)
    assert sum(loader.collate_fn.ring._taken) <= 1 + 2 + 1  # the current batch, those read ahead, and one being made


@pytest.mark.parametrize("keep", ["all", "y", "each third"])
def test_batches_that_are_kept_do_not_change(dataset: kd.XyDataset, keep: str) -> None:
    loader = dataset.as_dataloader(
        batch_size=10, shuffle=True, seed=3, num_workers=2, collate="packed", multiprocessing_context="fork"
    )
    batches = [
        (n, X if keep != "y" else None, y, [t.clone() for t in X], y.clone())
        for n, (X, y) in enumerate(loader)
        if keep != "each third" or n % 3 == 0
    ]
    for _ in loader:  # another epoch reuses what is free
        pass
    for _, X, y, X_copy, y_copy in batches:
        assert torch.equal(y, y_copy)
        assert X is None or all(map(torch.equal, X, X_copy))


@pytest.mark.parametrize(
    "tensor",
    [
        torch.arange(6).view(2, 3).to(torch.uint16).t(),
        torch.arange(6).view(2, 3).to(torch.uint64).t(),
        torch.arange(6.0).view(2, 3).t(),
        torch.arange(6.0).to(torch.bfloat16),
        torch.arange(6.0).to(torch.float8_e4m3fn),
        torch.ones(2, 3, dtype=torch.bool).t(),
        torch.arange(3.0, requires_grad=True),
        torch.full((2,), 1 + 2j).conj(),
    ],
    ids=lambda tensor: str(tensor.dtype),
)
def test_any_tensor_goes_through_the_ring(tensor: torch.Tensor) -> None:
    received = sent(tensor)
    assert received.dtype == tensor.dtype
    assert received.requires_grad == tensor.requires_grad
    assert received.tolist() == tensor.tolist()


@pytest.mark.filterwarnings("ignore:The PyTorch API of nested tensors is in prototype:UserWarning")
def test_a_nested_tensor_with_strides_goes_through_the_ring() -> None:
    parts = [torch.arange(2.0), torch.arange(3.0)]
    received = sent(torch.nested.nested_tensor(parts, layout=torch.strided))
    assert all(map(torch.equal, received.unbind(), parts))


def sent(batch: torch.Tensor) -> torch.Tensor:
    """A batch as a process receives it."""
    small = ring.Ring(1, 4096, multiprocessing.get_context("fork"))
    return pickle.loads(pickle.dumps(ring._BatchInTransit.pack(batch, small)))


def test_a_worker_that_is_a_thread_sends_the_batch_itself(monkeypatch: pytest.MonkeyPatch) -> None:
    info = types.SimpleNamespace(id=0, worker_method="thread")
    monkeypatch.setattr(ring, "get_worker_info", lambda: info)
    collate = ring.RingCollate(lambda samples: samples, ring.Ring(1, 4096, multiprocessing.get_context("fork")))
    batch = [torch.zeros(2)]
    assert collate(batch) is batch


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
    # With a leak, all five are more than before; a process that is late to end makes one of them more.
    assert min(open_descriptors_after_an_epoch() for _ in range(5)) <= before
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


@pytest.mark.slow  # `test_a_batch_of_many_ragged_rows_needs_few_file_descriptors` is the same in this process
def test_large_ragged_batches_from_workers_need_few_descriptors(dataset: kd.XyDataset, tmp_path: Path) -> None:
    assert resource.getrlimit(resource.RLIMIT_NOFILE)[1] >= 256
    script = tmp_path / "child.py"
    script.write_text(CHILD)
    done = subprocess.run(
        [sys.executable, script, tmp_path / "a.npz"], capture_output=True, text=True, timeout=120, check=False
    )
    assert done.stdout.strip() == "8192", done.stderr


def test_a_killed_parent_leaves_no_shared_memory(dataset: kd.XyDataset) -> None:
    child = os.fork()
    if child == 0:
        try:
            loader = dataset.as_dataloader(batch_size=64, num_workers=1, multiprocessing_context="fork")
            next(iter(loader))
            os.kill(os.getpid(), signal.SIGKILL)
        finally:
            os._exit(1)
    assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == -signal.SIGKILL
    assert shared_memory_of({str(child)}) == []
