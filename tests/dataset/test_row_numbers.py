"""`with_rows`: samples and batches that end with their row numbers in the store."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
from torch.utils.data import DataLoader

import kinoml_data as kd
from kinoml_data.errors import SampleIndexError


@pytest.fixture
def dataset() -> kd.XyDataset:
    rows = np.arange(40)
    data = {
        "atoms": [np.full((row % 5, 2), row, np.float32) for row in rows],
        "y": rows.astype(np.float32),
        "id": [f"id{row}" for row in rows],
    }
    splits = {"train": {"range": [10, 40]}, "test": {"range": [0, 10]}}
    spec = {"X": "atoms", "y": "y", "meta": ["id"], "splits": splits, "storage": {"backend": "in-memory"}}
    return kd.load_dataset(spec, data=data).with_rows()


@pytest.mark.parametrize("collate", ["list", "pad", "pad-mask", "packed", "nested", "unique"])
@pytest.mark.parametrize("options", [{}, {"num_workers": 1}, {"prefetch": 2}, {"group_by_length": "atoms"}])
def test_every_form_and_loader_gives_the_rows_of_its_samples(
    dataset: kd.XyDataset, collate: str, options: dict[str, Any]
) -> None:
    seen = []
    loader = dataset.split("train").as_dataloader(batch_size=7, shuffle=True, seed=1, collate=collate, **options)
    for _, y, row in loader:
        assert row.dtype == torch.int64 and row.tolist() == y.tolist()
        assert dataset.column("id", rows=row) == [f"id{number}" for number in row.tolist()]
        seen += row.tolist()
    assert sorted(seen) == list(range(10, 40))


def test_samples_and_slices(dataset: kd.XyDataset) -> None:
    view = dataset.select([30, 5, 7])
    assert [int(view[position][2]) for position in range(3)] == [30, 5, 7]
    assert view[1:][2].tolist() == [5, 7] and view[[2, 0]][2].tolist() == [7, 30]
    assert view.as_dataloader(batch_size=None).dataset is view
    assert [int(row) for _, _, row in view.as_dataloader(batch_size=None)] == [30, 5, 7]


@pytest.mark.parametrize("workers", [0, 1])
def test_a_plain_loader(dataset: kd.XyDataset, workers: int) -> None:
    rows = [row for _, _, batch in DataLoader(dataset, batch_size=9, num_workers=workers) for row in batch.tolist()]
    assert rows == list(range(40))


def test_samples_that_were_read_one_by_one(dataset: kd.XyDataset) -> None:
    assert dataset.collate_fn([dataset[4], dataset[2]])[2].tolist() == [4, 2]
    assert dataset.collate_fn([])[2].tolist() == []


def test_without_it_there_are_none(dataset: kd.XyDataset) -> None:
    plain = kd.from_arrays(np.arange(3.0), np.arange(3.0))
    assert len(plain[0]) == 2 and len(plain[:]) == 2 and len(plain.with_rows()[0]) == 3 and len(plain[0]) == 2


@pytest.mark.parametrize("rows", [[40], [-41], [1.0], torch.tensor([40]), "id"])
def test_rows_of_a_column_must_be_in_the_store(dataset: kd.XyDataset, rows: Any) -> None:
    with pytest.raises(SampleIndexError):
        dataset.column("id", rows=rows)


def test_rows_of_a_column_are_those_of_the_store_also_for_a_view(dataset: kd.XyDataset) -> None:
    assert dataset.split("train").column("id", rows=[0, 12]) == ["id0", "id12"]
