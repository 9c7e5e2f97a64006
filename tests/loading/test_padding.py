"""The padding of an epoch is that of the batches of a loader."""

from __future__ import annotations

import numpy as np
import pytest

import kinoml_data as kd
from kinoml_data.loading.padding import padded_sizes
from kinoml_data.spec.array import Array


@pytest.mark.parametrize("batch_size", [1, 7, 16, 100])
def test_the_values_of_batches_are_those_of_a_loader(batch_size: int) -> None:
    rng = np.random.default_rng(0)
    dataset = kd.from_arrays([np.ones(shape, "f4") for shape in rng.integers(0, 9, (50, 2))])
    shapes = dataset._session.binding.shapes("X")
    assert shapes is not None
    values, in_random_order, of_similar_length = padded_sizes(dataset.spec.columns["X"], shapes, batch_size)
    loader = dataset.as_dataloader(batch_size=batch_size, seed=0, collate="pad", group_by_length="X")
    batches = [X for X, _ in loader]
    assert values == sum(X.sum().item() for X in batches)
    assert in_random_order >= values and of_similar_length >= values
    if batch_size in (1, 100):  # the batches are the same in any order
        assert in_random_order == of_similar_length == sum(X.numel() for X in batches)


def test_bits_are_counted_as_they_are_in_a_batch() -> None:
    array = Array("float32", (None, 16), packbits=True)
    assert padded_sizes(array, np.array([[1, 2], [3, 2]]), 2) == (64, 96, 96)


def test_no_rows_have_no_values() -> None:
    assert padded_sizes(Array("float32", (None,)), np.empty((0, 1), np.int64), 4) == (0, 0, 0)
