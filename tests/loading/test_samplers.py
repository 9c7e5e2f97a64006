"""Batches of similar length, batches by blocks, and rows shared between distributed processes."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch.utils.data import DataLoader, RandomSampler

import kinoml_data as kd
from kinoml_data.loading.samplers import BlockBatchSampler, LengthBatchSampler
from kinoml_data.plugin import Blocks
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


@pytest.mark.parametrize("workers", [1, 2])
def test_the_order_of_single_samples_is_the_same_with_workers(dataset: kd.XyDataset, workers: int) -> None:
    def epochs(**kwargs: Any) -> list[list[int]]:
        loader = dataset.select(slice(0, 40)).as_dataloader(batch_size=None, shuffle=True, seed=2, **kwargs)
        return [[int(y) for _, y in loader] for _ in range(3)]

    assert epochs(num_workers=workers, multiprocessing_context="fork") == epochs()


def test_an_order_without_a_seed_comes_from_the_generator_of_torch(dataset: kd.XyDataset) -> None:
    def epochs(**kwargs: Any) -> list[list[int]]:
        torch.manual_seed(3)
        loader = dataset.as_dataloader(batch_size=16, shuffle=True, **kwargs)
        return [rows_of(loader), rows_of(loader)]

    first, second = epochs()
    assert epochs() == [first, second] and first != second
    given = [epochs(generator=torch.Generator().manual_seed(4)) for _ in range(2)]
    assert given[0] == given[1] != [first, second]


# -- shuffling by blocks


@st.composite
def layouts(draw: st.DrawFn) -> tuple[Blocks, np.ndarray | None]:
    """Blocks, and the rows of a view or None."""
    counts = draw(st.lists(st.integers(1, 12), min_size=1, max_size=12))
    follows = draw(st.none() | st.lists(st.booleans(), min_size=len(counts), max_size=len(counts)))
    blocks = Blocks(
        np.cumsum([0, *counts]),
        draw(st.integers(1, 5)),
        None if follows is None else np.array([False, *follows[1:]]),
    )
    rows = draw(st.none() | st.lists(st.integers(0, sum(counts) - 1), max_size=40))
    return blocks, None if rows is None else np.array(rows, np.int64)


def lists(sampler: BlockBatchSampler) -> list[list[int]]:
    return [batch.tolist() for batch in sampler]


def decoded(blocks: Blocks, rows: np.ndarray, batches: list[list[int]]) -> list[int]:
    """The blocks that a storage decodes for these batches, if it keeps those that it read last."""
    kept: list[int] = []
    found = []
    for batch in batches:
        for block in dict.fromkeys(np.searchsorted(blocks.bounds, rows[batch], side="right") - 1):
            if block in kept:
                kept.remove(block)
            else:
                found.append(int(block))
            kept = [*kept, block][-blocks.kept :]
    return found


@given(layouts(), st.integers(1, 30), st.booleans(), st.integers(0, 2**32))
def test_every_row_occurs_once_and_every_block_is_decoded_once(
    layout: tuple[Blocks, np.ndarray | None], size: int, drop_last: bool, seed: int
) -> None:
    blocks, rows = layout

    def sampler() -> BlockBatchSampler:
        return BlockBatchSampler(blocks, rows, size, drop_last=drop_last, generator=torch.Generator().manual_seed(seed))

    row_of = np.arange(blocks.bounds[-1]) if rows is None else rows
    order = sampler()
    batches = lists(order)
    positions = [position for batch in batches for position in batch]
    assert len(batches) == len(order) and len(set(positions)) == len(positions)
    assert len(positions) == (len(row_of) // size * size if drop_last else len(row_of))
    assert set(positions) <= set(range(len(row_of)))
    assert [len(batch) for batch in batches[:-1]] == [size] * (len(batches) - 1)
    found = decoded(blocks, row_of, batches)
    assert len(set(found)) == len(found)
    for block in np.flatnonzero(blocks.follows) if blocks.follows is not None else ():
        if {block - 1, block} <= set(found):
            assert found.index(block) == found.index(block - 1) + 1
    assert lists(sampler()) == batches


def test_the_rows_of_a_window_are_mixed_and_epochs_differ() -> None:
    blocks = Blocks(np.arange(0, 4001, 100), kept=4)
    sampler = BlockBatchSampler(blocks, None, 32, generator=torch.Generator().manual_seed(0))
    epochs = [lists(sampler) for _ in range(3)]
    for epoch in epochs:
        assert sorted(row for batch in epoch for row in batch) == list(range(4000))
        mixed = [len({row // 100 for row in batch}) for batch in epoch]
        assert np.mean(mixed) > 3.5 and max(mixed) <= 5
        first = [row // 100 for row in epoch[0]]
        assert first != sorted(first)
    assert len({tuple(batch) for epoch in epochs for batch in epoch}) == 3 * 125
    orders = [list(dict.fromkeys(row // 100 for batch in epoch for row in batch)) for epoch in epochs]
    assert orders[0] != orders[1] != orders[2] != orders[0]
    # All rows are equally likely to be in any place: on average in the middle.
    places = np.zeros(4000)
    for _ in range(200):
        places[[row for batch in sampler for row in batch]] += np.arange(4000) / 200
    assert abs(places - 2000).max() < 5 * 4000 / np.sqrt(12 * 200)


def test_blocks_of_a_given_epoch_depend_on_the_seed_and_the_epoch_alone() -> None:
    def epoch(number: int, seed: int, before: int) -> list[list[int]]:
        generator = torch.Generator().manual_seed(seed)
        sampler = BlockBatchSampler(Blocks(np.arange(0, 101, 10), 3), None, 7, generator=generator)
        for _ in range(before):
            list(sampler)
        sampler.set_epoch(number)
        return lists(sampler)

    assert epoch(3, 1, 0) == epoch(3, 1, 2)
    assert len({str(epoch(*said, 0)) for said in ((3, 1), (4, 1), (3, 2))}) == 3
