"""Rows, comparisons and small plugins that several test files need."""

from __future__ import annotations

import itertools
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from numpy.typing import NDArray

import kinoml_data as kd
from kinoml_data.columns import Column, Indexed, Ragged, keys_by_content
from kinoml_data.contracts.featurizer import Featurizer
from kinoml_data.spec.array import Array
from kinoml_data.testing.example import Example, column_of

# For subclasses of `BackendTests`: workers that are spawned import torch, which takes seconds.
FORK_OR_SPAWN = pytest.mark.parametrize("method", ["fork", pytest.param("spawn", marks=pytest.mark.slow)])
FORMS = ("list", "pad", "pad-mask", "packed", "nested")
"""The built-in collate forms."""
# Four rows of a ragged column, of strings and of a fixed column.
ROWS = [np.arange(n * 3.0).reshape(n, 3) for n in (2, 0, 4, 1)]
ATOMS = Ragged.from_rows(ROWS, "float64", 2)
NAMES = Ragged.from_strings(["a", "", "bc", "é"])
FIXED = np.arange(8, dtype=">i4").reshape(4, 2)


def random_bits(shape: tuple[int, ...], dtype: str, seed: int) -> NDArray[Any]:
    """Any bits, so that floating types contain NaN payloads and infinities too."""
    rng = np.random.default_rng(seed)
    return np.frombuffer(rng.bytes(int(np.prod(shape)) * np.dtype(dtype).itemsize), dtype).reshape(shape)


def padded(
    rows: Sequence[NDArray[Any]], dtype: Any, shape: Sequence[int | None], value: float
) -> tuple[NDArray[Any], NDArray[np.bool_]]:
    """The padded array and its mask, one element after the other."""
    longest = [max((row.shape[i] for row in rows), default=shape[i] or 0) for i in range(len(shape))]
    values = np.full((len(rows), *longest), value, dtype)
    mask = np.zeros((len(rows), *longest), bool)
    for i, row in enumerate(rows):
        for position in itertools.product(*map(range, row.shape)):
            values[(i, *position)] = row[position]
            mask[(i, *position)] = True
    return values, mask


def same_tensor(tensor: Any, expected: NDArray[Any]) -> None:
    """A contiguous tensor with the dtype, shape and bytes of an array, whatever the byte order of the array."""
    native = np.ascontiguousarray(expected, expected.dtype.newbyteorder("="))
    assert isinstance(tensor, torch.Tensor) and not tensor.requires_grad and tensor.is_contiguous()
    assert tensor.numpy().dtype == native.dtype
    assert tuple(tensor.shape) == expected.shape
    assert tensor.numpy().tobytes() == native.tobytes()


def tensors_of(value: Any) -> list[torch.Tensor]:
    """All tensors in nested lists, tuples and dicts, in order."""
    if isinstance(value, torch.Tensor):
        return [value]
    return [tensor for part in (value.values() if isinstance(value, dict) else value) for tensor in tensors_of(part)]


def equal_tensors(a: Any, b: Any) -> bool:
    """Whether two nested values contain equal tensors of equal dtypes."""
    pairs = zip(tensors_of(a), tensors_of(b), strict=True)
    return all(one.dtype == other.dtype and torch.equal(one, other) for one, other in pairs)


def keyed_batches(
    data: Mapping[str, Column], names: Sequence[str], size: int = 3
) -> Iterator[dict[str, Column | Indexed]]:
    """Rows in batches for `Backend.write`; equal rows of the columns `names` have one key."""
    keys = {name: keys_by_content(data[name]) for name in names}
    first = {name: np.unique(keys[name], return_index=True)[1] for name in names}
    done = dict.fromkeys(names, 0)
    for start in range(0, len(next(iter(data.values()))), size):
        batch: dict[str, Column | Indexed] = {name: column[start : start + size] for name, column in data.items()}
        for name in names:
            index = keys[name][start : start + size]
            new = first[name][done[name] : max(done[name], index.max() + 1)]
            done[name] += len(new)
            column = data[name]
            batch[name] = Indexed(column.take(new) if isinstance(column, Ragged) else column[new], index)
        yield batch


class Size(Featurizer):
    """The number of elements of a row, or of characters of a string."""

    name = "size"
    inputs = ("X",)

    @property
    def outputs(self) -> Mapping[str, Array]:
        return {"size": Array("int64")}

    def featurize(self, *raw: Any) -> tuple[NDArray[Any], ...]:
        (value,) = raw
        return (np.array(len(value) if isinstance(value, str) else np.size(value), np.int64),)


def marked(path: str) -> int:
    Path(path).touch()
    return 0


class Canary:
    """Leaves a file behind if it is ever unpickled."""

    def __init__(self, path: Path) -> None:
        self.path = str(path)

    def __reduce__(self) -> tuple[Any, ...]:
        return marked, (self.path,)


def values_of(example: Example) -> dict[str, Any]:
    """The rows as a user passes them to `load_dataset(data=...)`: strings, arrays, or lists of arrays."""
    return {name: _values(example.rows[name], array) for name, array in example.columns.items()}


def _values(rows: Sequence[Any], array: Array) -> Any:
    if rows and (array.ragged or array.is_string):
        return list(rows)
    return np.empty(0, "U1") if array.is_string else column_of(rows, array)


def letters_of(path: Path) -> kd.XyDataset:
    """The bytes of the texts in a CSV file with the columns `text` and `y`, computed when a row is read."""
    spec = {
        "columns": {"letters": {"dtype": "uint8", "shape": ["*"]}, "y": {"dtype": "int64"}},
        "X": "letters",
        "y": "y",
        "storage": {"backend": "featurize-on-access", "source": {"backend": "csv", "path": str(path)}},
    }
    return kd.load_dataset(spec, featurizer=lambda text: np.frombuffer(text.encode(), np.uint8))
