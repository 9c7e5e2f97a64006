"""`as_dataloader`: its options, and that every way of loading gives the same rows."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch

import kinoml_data as kd
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


@pytest.mark.parametrize("name", ["sampler", "batch_sampler"])
def test_shuffling_beside_a_sampler_is_refused_as_torch_does(dataset: kd.XyDataset, name: str) -> None:
    with pytest.raises(ValueError, match="mutually exclusive"):
        dataset.as_dataloader(shuffle=True, seed=0, **{name: [[0, 1]]})


def test_a_seed_and_a_generator_exclude_each_other(dataset: kd.XyDataset) -> None:
    with pytest.raises(kd.errors.SpecError, match="give either seed or generator"):
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
