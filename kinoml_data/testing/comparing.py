"""Comparing what a store gives with rows kept in memory, with nothing but numpy."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from kinoml_data.columns import Column, Ragged
from kinoml_data.spec.array import Array


def same_column(found: Column, array: Array, expected: Sequence[Any], name: str = "") -> None:
    """A column as `Storage.read` returns it, against rows kept in memory."""
    assert len(found) == len(expected), name
    if array.is_string:
        expected = [np.frombuffer(text.encode(), np.uint8) for text in expected]
    if array.ragged or array.is_string:
        assert isinstance(found, Ragged), f"{name}: its rows differ in shape; it is to be Ragged"
        assert found.shapes.dtype == np.int64 and found.shapes.shape == (len(expected), max(1, len(array.shape))), name
        assert found.values.dtype == array.numpy and found.values.dtype.isnative and found.values.ndim == 1, name
        at = 0
        for shape, row in zip(found.shapes.tolist(), expected, strict=True):
            end = at + math.prod(shape)
            same_array(found.values[at:end].reshape(shape), row, name)
            at = end
        assert at == len(found.values), f"{name}: {len(found.values) - at} values too many"
    else:
        assert isinstance(found, np.ndarray), f"{name}: its rows have one shape; it is to be an array"
        assert found.dtype == array.numpy and found.dtype.isnative, name
        assert found.shape == (len(expected), *array.shape), name
        for i, row in enumerate(expected):
            same_array(found[i], row, name)


def same_array(found: NDArray[Any], expected: NDArray[Any], name: str = "") -> None:
    """Two arrays of one dtype, shape and content, to the bit."""
    assert found.dtype == expected.dtype, name
    assert found.shape == expected.shape, name
    if found.tobytes() != expected.tobytes():
        raise AssertionError(f"{name}: {found} is not {expected}, to the bit")


def same_list(found: Sequence[Any], expected: Sequence[Any], name: str = "") -> None:
    """Two lists, told apart at their first difference; pytest itself would look for all of them, in CI for minutes."""
    assert len(found) == len(expected), name
    for i, (one, other) in enumerate(zip(found, expected, strict=True)):
        assert one == other, f"{name}, entry {i}"
