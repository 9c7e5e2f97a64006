"""Batches that a thread reads ahead."""

from __future__ import annotations

import gc
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import kinoml_data as kd
from tests.loading.rows import store_rows


@pytest.fixture
def dataset(tmp_path: Path) -> kd.XyDataset:
    return store_rows(tmp_path / "a.npz")


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
