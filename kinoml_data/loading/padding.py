"""How much padding the batches of an epoch need."""

from __future__ import annotations

import math
from collections.abc import Iterable

import numpy as np
import torch
from numpy.typing import NDArray

from kinoml_data.columns import sizes_of
from kinoml_data.loading.samplers import LengthBatchSampler
from kinoml_data.spec.array import Array


def padded_sizes(array: Array, shapes: NDArray[np.int64], batch_size: int) -> tuple[int, int, int]:
    """The number of values in all batches of an epoch.

    Args:
        array: a ragged column.
        shapes: int64 `(rows, ndim)`, the shapes of its rows; if it has `packbits`, they may be those of the bytes.
        batch_size: the number of rows of a batch.

    Returns:
        The number without padding, with the padding of rows in random order, and with that of rows of similar length.
    """
    shapes = np.where([length is None for length in array.shape], shapes, array.row_shape)
    sizes, order = sizes_of(shapes), np.random.default_rng(0).permutation(len(shapes))
    in_random_order = (order[start : start + batch_size] for start in range(0, len(order), batch_size))
    of_similar_length = LengthBatchSampler(sizes, batch_size, generator=torch.Generator().manual_seed(0))

    def padded(batches: Iterable[NDArray[np.int64]]) -> int:
        return sum(math.prod(shapes[rows].max(axis=0).tolist()) * len(rows) for rows in batches)

    return int(sizes.sum()), padded(in_random_order), padded(of_similar_length)
