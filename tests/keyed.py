"""A backend whose storages have keys, or have none, whatever its source has; and a comparison of what datasets give."""

from __future__ import annotations

from collections.abc import Mapping
from itertools import pairwise
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from kinoml_data import AnyBackend, Backend, Packed, PadMask, Ragged, Storage, Unique
from kinoml_data.columns import keys_by_content

FINER = 3  # with finer keys, rows of one value have so many keys


class Keyed(Backend):
    """The rows of a source, with keys or without.

    Attributes:
        source: the backend whose rows these are.
        keys: "none"; "content" for one key per value; "finer" for several keys per value; "source" for those it has.
        dtype: the dtype of the keys.
    """

    name = "keyed"
    source: AnyBackend
    keys: str = "content"
    dtype: str = "uint8"

    def open(self, columns: Any) -> Storage:
        return KeyedStorage(self.source.open(columns), self.keys, self.dtype)


class KeyedStorage(Storage):
    def __init__(self, storage: Storage, kind: str, dtype: str) -> None:
        self._storage, self._kind, self._dtype = storage, kind, dtype
        self.columns, self.arrays, self.spec = storage.columns, storage.arrays, storage.spec
        self.identity, self.blocks = storage.identity, storage.blocks
        self._keys: dict[bytes, NDArray[Any]] = {}

    def __len__(self) -> int:
        return len(self._storage)

    def read(self, rows: Any, columns: Any) -> Any:
        return self._storage.read(rows, columns)

    def shapes(self, column: str) -> Any:
        return self._storage.shapes(column)

    def keys(self, column: str) -> NDArray[Any] | None:
        if self._kind == "none":
            return None
        if self._kind == "source":
            return self._storage.keys(column)
        keys = keys_by_content(self._storage.read(np.arange(len(self)), [column])[column])
        keys = keys.max(initial=0) - keys  # the value that occurs first has the greatest key
        if self._kind == "finer":
            keys = FINER * keys + np.arange(len(keys)) % FINER
        # Columns with equal keys return one array, as the contract demands.
        return self._keys.setdefault(keys.tobytes(), keys.astype(self._dtype))

    def close(self) -> None:
        self._storage.close()


def without_index(value: Any) -> Any:
    """The rows of a batch one by one: with every `Unique` in place of the form of all rows that it stands for."""
    if isinstance(value, Unique):
        return _taken(value.values, value.index)
    if isinstance(value, Mapping):
        return {name: without_index(part) for name, part in value.items()}
    if type(value) in (list, tuple):
        return type(value)(map(without_index, value))
    return value


def _taken(values: Any, index: torch.Tensor) -> Any:
    if isinstance(values, PadMask):
        return PadMask(*(part[index] for part in values))
    if isinstance(values, Packed):
        rows = Ragged(values.values.numpy(), values.shapes.numpy()).take(index.numpy())
        return Packed(*map(torch.from_numpy, (rows.values, rows.offsets, rows.shapes)))
    if isinstance(values, list) or values.is_nested:
        rows = values if isinstance(values, list) else [row.contiguous() for row in values.unbind()]
        return [rows[i] for i in index.tolist()]
    return torch.from_numpy(values.numpy()[index.numpy()])


def facts(value: Any) -> Any:
    """Everything about a batch, a sample or a table that must not depend on keys, to be compared with `==`."""
    if isinstance(value, torch.Tensor) and value.is_nested:
        return "nested", value.dtype, value.dim(), facts(value.offsets()), list(map(facts, value.unbind()))
    if isinstance(value, torch.Tensor):
        array = value.contiguous().numpy()
        return value.dtype, tuple(value.shape), value.is_contiguous(), value.requires_grad, array.tobytes()
    if isinstance(value, np.ndarray):
        cells = list(map(facts, value)) if value.dtype == object else value.tobytes()
        return value.dtype.str, value.shape, cells
    if isinstance(value, Ragged):
        return "ragged", facts(value.values), facts(value.shapes)
    if isinstance(value, Mapping):
        return {name: facts(part) for name, part in value.items()}
    if isinstance(value, (list, tuple)):
        return type(value).__name__, list(map(facts, value))
    assert value is None or isinstance(value, (str, int, float, np.generic)), type(value)
    return value


def memory_is_its_own(value: Any) -> bool:
    """True if no two tensors of a batch share memory, so that changing a row changes no other row."""
    places = sorted((t.data_ptr(), t.data_ptr() + t.nbytes) for t in _tensors(value) if t.numel())
    return all(one[1] <= other[0] for one, other in pairwise(places))


def _tensors(value: Any) -> list[torch.Tensor]:
    if isinstance(value, torch.Tensor):
        return [value.values()] if value.is_nested else [value]
    parts = value.values() if isinstance(value, Mapping) else value if isinstance(value, (list, tuple)) else ()
    return [tensor for part in parts for tensor in _tensors(part)]
