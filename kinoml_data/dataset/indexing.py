"""Converts any index that a user may give into positions, for the whole library."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from kinoml_data.errors import SampleIndexError, one_line, quoted


def normalize_index(index: Any, length: int) -> tuple[NDArray[np.int64], bool]:
    """Translate an index as numpy does, without guessing.

    Args:
        index: an int (of Python or numpy, or an integer tensor without axes), a slice, a list, range, array, tensor
            or Series of ints, or a boolean mask of `length` entries.
        length: the number of rows.

    Returns:
        int64 positions `(n,)` in `[0, length)`, and True if `index` asks for one sample.

    Raises:
        SampleIndexError: `index` is out of range, or is of another kind: a bool, float, string or tuple, a mask of
            another length, or an array of several axes.
    """
    if type(index) is np.ndarray and index.dtype == np.int64 and index.ndim == 1 and len(index):
        if index.view(np.uint64).max() < length:  # as loaders index; here a negative number is a large one
            return index.copy(), False
    elif isinstance(index, slice):
        try:
            return np.arange(*index.indices(length), dtype=np.int64), False
        except (TypeError, ValueError) as error:
            raise SampleIndexError(f"{quoted(index)} is not a slice of rows: {error}") from None
    if type(index) is int:
        return np.array([_position(index, length)]), True
    if isinstance(index, torch.Tensor):
        index = _from_tensor(index)
    elif isinstance(index, Sequence) and not isinstance(index, (str, bytes, tuple, list, range)):
        index = list(index)  # such as the lists of OmegaConf
    elif hasattr(index, "__array__") and not isinstance(index, (np.ndarray, np.generic)):
        index = np.asarray(index)  # such as a Series, whose own index plays no part
    if isinstance(index, np.ndarray) and index.dtype == object and all(type(i) is int for i in index.flat):
        return normalize_index(index.tolist(), length)
    if isinstance(index, (list, range)):
        array = _from_sequence(index, length)
    elif isinstance(index, (np.ndarray, np.integer, int)) and not isinstance(index, bool):
        array = np.asarray(index)
    else:
        raise SampleIndexError(f"{quoted(index)} does not select rows; use an int, slice, list or mask")
    if array.dtype == bool and array.ndim == 1:
        if len(array) != length:
            raise SampleIndexError(f"the mask has {len(array)} entries, but there are {length} rows")
        return np.flatnonzero(array), False
    if array.ndim > 1 or array.dtype.kind not in "iu":
        raise SampleIndexError(f"{quoted(index)} does not select rows; use an int, slice, list or mask")
    return _in_range(array.reshape(-1), length), array.ndim == 0


def _from_tensor(index: torch.Tensor) -> NDArray[Any]:
    if index.is_floating_point() or index.is_complex():  # numpy does not have all of these dtypes
        raise SampleIndexError(f"a tensor of {index.dtype} does not select rows; use ints or a mask")
    try:
        return index.detach().cpu().numpy()
    except (TypeError, RuntimeError) as error:  # sparse, or on the device "meta"
        raise SampleIndexError(f"a tensor without plain values does not select rows: {one_line(error)}") from None


def _from_sequence(index: list[Any] | range, length: int) -> NDArray[Any]:
    if isinstance(index, range):
        for end in (index[0], index[-1]) if index else ():  # checked first: the range may be too long for memory
            _position(end, length)
        return np.arange(index.start, index.stop, index.step) if index else np.empty(0, np.int64)
    kinds = {type(item) for item in index}
    if index and kinds <= {bool, np.bool_}:
        return np.array(index, bool)
    if not kinds <= {int}:
        items = [i.item() if isinstance(i, torch.Tensor) and i.ndim == 0 else i for i in index]
        if not all(isinstance(i, (int, np.integer)) and not isinstance(i, bool) for i in items):
            raise SampleIndexError(f"{quoted(index)} is not a list of ints")
        index = [int(i) for i in items]
    try:
        return np.array(index, np.int64)
    except OverflowError:  # no position is beyond int64: this raises the error for the first that is out of range
        return np.array([_position(i, length) for i in index])


def _position(index: int, length: int) -> int:
    if not -length <= index < length:
        raise SampleIndexError(f"index {quoted(index)} is out of range for {length} rows")
    return index if index >= 0 else index + length


def _in_range(index: NDArray[Any], length: int) -> NDArray[np.int64]:
    outside = (index < -length) | (index >= length)
    if outside.any():
        _position(int(index[outside][0]), length)
    positions: NDArray[np.int64] = index.astype(np.int64)
    positions[positions < 0] += length
    return positions
