"""`as_dataloader` and torch's own loaders: every way of loading gives the same rows."""

from __future__ import annotations

import resource
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch.utils.data import ConcatDataset, DataLoader, Subset, random_split

import kinoml_data as kd
from kinoml_data import Packed, PadMask, from_arrays, load_dataset
from kinoml_data.errors import SpecError
from tests.builders import FORMS, padded, same_tensor
from tests.loading.datasets import ATOMS, ROWS, SMILES, packed_npz, whole
from tests.loading.rows import rows_of, store_rows


@pytest.fixture
def dataset(tmp_path: Path) -> kd.XyDataset:
    return store_rows(tmp_path / "a.npz")


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


@pytest.mark.parametrize("order", [{}, {"group_by_length": "X"}, {"batch_size": 7}], ids=["plain", "groups", "small"])
@pytest.mark.parametrize("kwargs", WAYS, ids=["plain", "thread", "workers", "new workers"])
def test_the_order_after_an_epoch_that_was_not_finished_is_that_of_the_next_epoch(
    dataset: kd.XyDataset, kwargs: dict[str, Any], order: dict[str, Any]
) -> None:
    def loader(**kwargs: Any) -> DataLoader[Any]:
        return dataset.as_dataloader(**{"batch_size": 16, "shuffle": True, "seed": 5, **order, **kwargs})

    whole, cut = loader(), loader(**kwargs)
    epochs = [rows_of(whole) for _ in range(4)]
    for epoch, batches in enumerate((1, 3, 1)):
        rows = [row for (_, y), _ in zip(cut, range(batches), strict=False) for row in y.tolist()]
        assert rows == epochs[epoch][: len(rows)] and rows
    assert rows_of(cut) == epochs[3]


@pytest.mark.parametrize("options", [{}, {"group_by_length": "X"}, {"seed": 3}, {"num_workers": 2}])
def test_shuffling_without_a_sampler_is_refused_if_several_processes_train(
    dataset: kd.XyDataset, monkeypatch: pytest.MonkeyPatch, options: dict[str, Any]
) -> None:
    monkeypatch.setattr(torch.distributed, "is_initialized", lambda: True)
    monkeypatch.setattr(torch.distributed, "get_world_size", lambda: 2)
    with pytest.raises(SpecError, match="2 processes train together, and each of them would read all rows"):
        dataset.as_dataloader(shuffle=True, **options)
    assert len(dataset.as_dataloader(batch_size=50)) == 10
    if "group_by_length" not in options:
        sampler = torch.utils.data.DistributedSampler(dataset, num_replicas=2, rank=1)
        assert len(dataset.as_dataloader(batch_size=50, sampler=sampler, **options)) == 5


@pytest.mark.parametrize("name", ["sampler", "batch_sampler"])
def test_shuffling_beside_a_sampler_is_refused_as_torch_does(dataset: kd.XyDataset, name: str) -> None:
    with pytest.raises(ValueError, match="mutually exclusive"):
        dataset.as_dataloader(shuffle=True, seed=0, **{name: [[0, 1]]})


def test_a_seed_and_a_generator_exclude_each_other(dataset: kd.XyDataset) -> None:
    with pytest.raises(kd.errors.SpecError, match="give either seed or generator, and not both"):
        dataset.as_dataloader(seed=1, generator=torch.Generator())
    with pytest.raises(kd.errors.SpecError, match="prefetch"):
        dataset.as_dataloader(prefetch=1, num_workers=1)


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


def collated(ds_form: str) -> dict[str, Any]:
    """How both ragged columns are put together; integers name what they are padded with."""
    smiles = {"form": ds_form, "value": -1} if ds_form == "pad" else ds_form
    return {"smiles": smiles, "atoms": ds_form}


def same_form(form: str, found: Any, rows: list[np.ndarray], value: float) -> None:
    filled, mask = padded(rows, rows[0].dtype, [None] * rows[0].ndim, 0 if form == "pad-mask" else value)
    if form == "list":
        assert type(found) is list and len(found) == len(rows)
        for tensor, row in zip(found, rows, strict=True):
            same_tensor(tensor, row)
    elif form == "pad":
        same_tensor(found, filled)
    elif form == "pad-mask":
        assert isinstance(found, PadMask)
        same_tensor(found.values, filled)
        same_tensor(found.mask, mask)
    elif form == "packed":
        assert isinstance(found, Packed)
        same_tensor(found.values, np.concatenate([row.reshape(-1) for row in rows]))
        same_tensor(found.offsets, np.cumsum([0, *(row.size for row in rows)]))
        same_tensor(found.shapes, np.array([row.shape for row in rows]))
    else:
        assert found.is_nested and found.layout == torch.jagged
        for tensor, row in zip(found.unbind(), rows, strict=True):
            same_tensor(tensor.contiguous(), row)


each_form = pytest.mark.parametrize("form", FORMS)

with_and_without_workers = pytest.mark.parametrize("workers", [0, 2])


def epoch_in_form(loader: DataLoader[Any], form: str) -> list[int]:
    seen = []
    for X, y in loader:
        rows = y["y"].tolist()
        same_form(form, X["smiles"], [SMILES[row] for row in rows], -1)
        same_form(form, X["atoms"], [ATOMS[row] for row in rows], 0)
        seen += rows
    return seen


@each_form
@with_and_without_workers
def test_a_plain_loader_works_on_ragged_rows(form, workers, tmp_path):
    ds = packed_npz(tmp_path)
    ds = load_dataset(ds.spec, collate=collated(form))
    options = {"batch_size": 4, "num_workers": workers}
    parts = random_split(ds, [20, 23], generator=torch.Generator().manual_seed(0))
    assert epoch_in_form(DataLoader(ds, **options), form) == list(range(ROWS))
    assert epoch_in_form(DataLoader(Subset(ds, [40, 2, 2]), **options), form) == [40, 2, 2]
    assert sorted(row for part in parts for row in epoch_in_form(DataLoader(part, **options), form)) == list(
        range(ROWS)
    )
    both = ConcatDataset([ds, ds.split("test"), Subset(ds.split("train"), [0])])
    assert epoch_in_form(DataLoader(both, **options), form) == [*range(ROWS), *range(13), ROWS - 1]
    assert epoch_in_form(DataLoader(ds, shuffle=True, drop_last=True, **options), form) != list(range(40))


@each_form
@with_and_without_workers
def test_pinned_batches_equal_those_that_are_not_pinned(form, workers, tmp_path):
    ds = packed_npz(tmp_path)
    if form == "nested" and torch.cuda.is_available():  # one column is ragged along its last axis
        with pytest.raises(SpecError, match="pin_memory: torch cannot pin these nested tensors"):
            ds.as_dataloader(num_workers=workers, pin_memory=True, collate=collated(form))
        return
    loader = ds.as_dataloader(
        batch_size=5,
        num_workers=workers,
        pin_memory=True,
        collate=collated(form),
        multiprocessing_context="fork" if workers else None,
    )
    assert epoch_in_form(loader, form) == list(range(ROWS))
    assert epoch_in_form(DataLoader(load_dataset(ds.spec, collate=collated(form)), batch_size=5, pin_memory=True), form)


def test_nested_tensors_that_torch_cannot_pin_are_refused(monkeypatch, tmp_path):
    def pin_memory(batch):
        assert all(len(tensor) == 0 for tensor in batch[0].values())
        raise ValueError("expected self to be contiguous")

    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr("kinoml_data.loading.loader.pin_memory", pin_memory)
    ds = packed_npz(tmp_path)
    with pytest.raises(SpecError, match=r"torch cannot pin these nested tensors \(expected self to be contiguous\)"):
        ds.as_dataloader(pin_memory=True, collate=collated("nested"))
    ds.as_dataloader(collate=collated("nested"))
    ds.as_dataloader(pin_memory=True, collate=collated("packed"))


@each_form
def test_every_form_reaches_a_spawned_worker_and_back(form):
    loader = whole().as_dataloader(
        batch_size=8, num_workers=1, collate=collated(form), multiprocessing_context="forkserver", timeout=60
    )
    assert epoch_in_form(loader, form) == list(range(ROWS))


def test_a_loader_without_batches_gives_samples(tmp_path):
    ds = packed_npz(tmp_path)
    for workers in (0, 1):
        for row, (X, y) in enumerate(DataLoader(ds, batch_size=None, num_workers=workers)):
            same_tensor(X["smiles"], SMILES[row])
            same_tensor(y["y"], np.array(row))


def test_a_batch_of_many_ragged_rows_needs_few_file_descriptors():
    rows = [np.full((1 + i % 3, 2), i, "float32") for i in range(3000)]
    ds = from_arrays(rows, np.arange(3000))
    before = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (256, before[1]))
    try:
        loader = ds.as_dataloader(batch_size=1000, num_workers=2, multiprocessing_context="fork", timeout=60)
        held = list(loader)
    finally:
        resource.setrlimit(resource.RLIMIT_NOFILE, before)
    assert [len(X) for X, _ in held] == [1000] * 3
    assert all((X[i] == y[i]).all() for X, y in held for i in range(0, 1000, 99))


@pytest.mark.parametrize("workers", [0, 1])
def test_a_misspelled_argument_is_refused_with_the_nearest(workers):
    dataset = kd.from_arrays(np.zeros((4, 2)))
    with pytest.raises(SpecError, match="unknown argument 'batchsize'; did you mean 'batch_size'"):
        dataset.as_dataloader(batchsize=2, num_workers=workers)


def test_a_seed_may_be_any_integer_of_64_bits():
    dataset = kd.from_arrays(np.arange(9.0))

    def order(seed):
        return [int(x) for X, _ in dataset.as_dataloader(shuffle=True, seed=seed) for x in X]

    assert order(np.int64(3)) == order(3) and sorted(order(-1)) == list(range(9))
    for wrong, message in (
        (2**64, "does not fit into 64 bits"),
        (0.5, "is not an integer"),
        ("a", "is not an integer"),
    ):
        with pytest.raises(SpecError, match=f"seed: .* {message}"):
            order(wrong)


@pytest.mark.parametrize("size", [None, 0, -1])
def test_batches_of_similar_length_need_a_size(size):
    with pytest.raises(SpecError, match="group_by_length needs a batch_size of at least 1"):
        kd.from_arrays([[1.0], [1.0, 2.0]]).as_dataloader(group_by_length="X", batch_size=size)
