"""Batches of similar length, and rows shared between distributed processes."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch.utils.data import DataLoader, RandomSampler

import kinoml_data as kd
from kinoml_data.loading.samplers import LengthBatchSampler
from tests.loading.rows import X, rows_of, store_rows


@pytest.fixture
def dataset(tmp_path: Path) -> kd.XyDataset:
    return store_rows(tmp_path / "a.npz")


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


def test_groups_of_a_given_epoch_depend_on_the_seed_and_the_epoch_alone(dataset: kd.XyDataset) -> None:
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
    with pytest.raises(
        kd.errors.SpecError, match=r"group_by_length cannot be combined with sampler; .*use_distributed_sampler=False"
    ):
        dataset.as_dataloader(group_by_length="X", sampler=[1, 2])


def test_distributed_samplers_share_the_rows_between_them(dataset: kd.XyDataset) -> None:
    from torch.utils.data.distributed import DistributedSampler

    found = []
    for rank in range(2):
        sampler: DistributedSampler[Any] = DistributedSampler(dataset, num_replicas=2, rank=rank, shuffle=True)
        found += rows_of(dataset.as_dataloader(batch_size=32, sampler=sampler))
    assert sorted(found) == list(range(500))


WAYS: dict[str, dict[str, Any]] = {
    "in order": {},
    "shuffled": {"shuffle": True},
    "seeded": {"shuffle": True, "seed": 2},
    "in a thread": {"shuffle": True, "prefetch": 2},
    "grouped": {"shuffle": True, "group_by_length": "X"},
}


@pytest.mark.parametrize("drop_last", [False, True])
@pytest.mark.parametrize("way", WAYS)
def test_row_numbers_reach_the_dataset_as_arrays(
    dataset: kd.XyDataset, monkeypatch: pytest.MonkeyPatch, way: str, drop_last: bool
) -> None:
    given: list[Any] = []
    read = kd.XyDataset.__getitems__
    monkeypatch.setattr(kd.XyDataset, "__getitems__", lambda self, rows: [given.append(rows), read(self, rows)][1])
    loader = dataset.as_dataloader(batch_size=16, drop_last=drop_last, **WAYS[way])
    found = rows_of(loader)
    assert {type(rows) for rows in given} == {np.ndarray} and np.concatenate(given).tolist() == found
    assert [len(rows) for rows in given] == [16] * 31 + [4] * (not drop_last)
    assert len(loader) == len(given) and len(set(found)) == len(found)


def test_batches_of_other_samplers_are_those_of_torch(dataset: kd.XyDataset) -> None:
    def sampler() -> RandomSampler:
        return RandomSampler(dataset, replacement=True, num_samples=70, generator=torch.Generator().manual_seed(1))

    plain: DataLoader[Any] = DataLoader(dataset, batch_size=16, sampler=sampler(), collate_fn=dataset.collate_fn)
    assert rows_of(dataset.as_dataloader(batch_size=16, sampler=sampler())) == rows_of(plain)


def test_an_order_without_a_seed_comes_from_the_generator_of_torch(dataset: kd.XyDataset) -> None:
    def epochs(**kwargs: Any) -> list[list[int]]:
        torch.manual_seed(3)
        loader = dataset.as_dataloader(batch_size=16, shuffle=True, **kwargs)
        return [rows_of(loader), rows_of(loader)]

    first, second = epochs()
    assert epochs() == [first, second] and first != second
    given = [epochs(generator=torch.Generator().manual_seed(4)) for _ in range(2)]
    assert given[0] == given[1] != [first, second]
