"""From any index a user may write to positions, once for the whole library."""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from kinoml_data.errors import SampleIndexError, one_line, quoted


def normalize_index(index: Any, length: int) -> tuple[NDArray[np.int64], bool]:
    """Translate an index as numpy would, with nothing guessed.

    Args:
        index: an int (numpy's and 0-d integer tensors too), a slice, a list, range, array or tensor of
            ints, or a boolean mask of `length` entries.
        length: the number of rows indexed into.

    Returns:
        int64 positions `(n,)`, all in `[0, length)`, and whether one sample was asked for.

    Raises:
        SampleIndexError: out of range, or not an index: bools, floats, strings, tuples, masks of
            another length, arrays of two axes.
    """
    if isinstance(index, slice):
        try:
            return np.arange(*index.indices(length), dtype=np.int64), False
        except (TypeError, ValueError) as error:
            raise SampleIndexError(f"{quoted(index)} is not a slice of rows: {error}") from None
    if type(index) is int:  # the most frequent case first
        return np.array([_position(index, length)]), True
    if isinstance(index, torch.Tensor):
        index = _from_tensor(index)
    if isinstance(index, (list, range)):
        index = _from_list(index, length)
    elif not isinstance(index, (np.ndarray, np.integer, int)) or isinstance(index, bool):
        raise SampleIndexError(f"{quoted(index)} does not select rows; use an int, slice, list or mask")
    array = np.asarray(index)
    if array.dtype == bool and array.ndim == 1:
        if len(array) != length:
            raise SampleIndexError(f"a mask of {len(array)} entries for {length} rows")
        return np.flatnonzero(array), False
    if array.ndim > 1 or not (array.dtype.kind in "iu" or _all_ints(array)):
        raise SampleIndexError(f"{quoted(index)} does not select rows; use an int, slice, list or mask")
    return _in_range(array.reshape(-1), length), array.ndim == 0


def _from_tensor(index: torch.Tensor) -> NDArray[Any]:
    if index.is_floating_point() or index.is_complex():  # numpy has not all of these
        raise SampleIndexError(f"a tensor of {index.dtype} does not select rows; use ints or a mask")
    try:
        return index.detach().cpu().numpy()
    except (TypeError, RuntimeError) as error:  # sparse, or on the device "meta"
        raise SampleIndexError(f"a tensor without plain values does not select rows: {one_line(error)}") from None


def _from_list(index: list[Any] | range, length: int) -> NDArray[Any]:
    if not index:
        return np.empty(0, np.int64)
    if isinstance(index, range):
        for end in (index[0], index[-1]):  # before as many numbers are made as it has
            _position(end, length)
        return np.arange(index.start, index.stop, index.step)
    kinds = {type(item) for item in index}
    if kinds <= {int}:
        try:
            return np.array(index, np.int64)
        except OverflowError:
            return np.array(index, dtype=object)
    if kinds <= {bool, np.bool_}:
        return np.array(index, bool)
    items = [i.item() if isinstance(i, torch.Tensor) and i.ndim == 0 else i for i in index]
    if all(isinstance(i, (int, np.integer)) and not isinstance(i, bool) for i in items):
        return np.array([int(i) for i in items], dtype=object)
    raise SampleIndexError(f"{quoted(index)} is not a list of ints")


def _all_ints(array: NDArray[Any]) -> bool:
    return array.dtype == object and all(type(i) is int for i in array.reshape(-1))


def _position(index: int, length: int) -> int:
    if not -length <= index < length:
        raise SampleIndexError(f"index {quoted(index)} is out of range for {length} rows")
    return index if index >= 0 else index + length


def _in_range(index: NDArray[Any], length: int) -> NDArray[np.int64]:
    outside = (index < -length) | (index >= length)
    if outside.any():
        _position(int(index[outside][0]), length)
    found: NDArray[np.int64] = index.astype(np.int64)
    found[found < 0] += length
    return found
