"""Keys: for a column whose rows share values, the number of each row's distinct value."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
from numpy.typing import NDArray

from kinoml_data.columns import Indexed
from kinoml_data.contracts.backend import Storage
from kinoml_data.errors import CorruptStoreError, SpecError, StoreReadError, quoted

Keys = NDArray[Any]


def smallest(keys: Keys, count: int) -> Keys:
    """Keys in `[0, count)` in the smallest dtype that represents all such keys: uint8, uint16, uint32 or int64."""
    dtype = np.min_scalar_type(max(0, count - 1))
    return keys.astype(np.int64 if dtype == np.uint64 else dtype, copy=False)


def checked_keys(name: str, keys: Keys, count: int) -> Keys:
    """The stored keys of a column with `count` distinct rows, in their smallest dtype.

    Raises:
        CorruptStoreError: the keys are not integers `(rows,)` in `[0, count)`.
    """
    if keys.ndim != 1 or keys.dtype.kind not in "iu":
        raise CorruptStoreError(f"column {quoted(name)}: its keys are {keys.dtype} {keys.shape}, not integers (rows,)")
    if (wrong := (keys < 0) | (keys >= count)).any():
        row = int(wrong.argmax())
        raise CorruptStoreError(
            f"column {quoted(name)}, row {row}: its key is {keys[row]}, but the number of distinct rows is {count}"
        )
    return smallest(keys, count)


def keys_of(storage: Storage, column: str) -> Keys | None:
    """The keys of a column of a storage; see `Storage.keys`.

    Raises:
        StoreReadError: the keys are not integers of at least 0, one for each row.
    """
    keys = storage.keys(column)
    if keys is not None and (
        keys.dtype.kind not in "iu" or keys.shape != (len(storage),) or (keys.dtype.kind == "i" and (keys < 0).any())
    ):
        raise StoreReadError(
            f"{type(storage).__name__} is wrong: the keys of column {quoted(column)} are {keys.dtype} {keys.shape}, "
            f"but {len(storage)} integers of at least 0 are needed"
        )
    return keys


def with_equal_shared(keys: Mapping[str, Keys]) -> dict[str, Keys]:
    """The keys of each column; columns with equal keys get the same array object, as `Storage.keys` asks for."""
    shared: dict[str, Keys] = {}
    for name, own in keys.items():
        same = (other for other in shared.values() if other.dtype == own.dtype and np.array_equal(other, own))
        shared[name] = next(same, own)
    return shared


class CollectedKeys:
    """The keys of one column, collected from the batches that are written, whose number of values is not yet known.

    Attributes:
        count: the number of distinct values of all batches so far.
    """

    def __init__(self, name: str) -> None:
        self._name, self.count = name, 0
        self._parts: list[Keys] = [np.empty(0, np.uint8)]

    def add(self, column: Indexed) -> None:
        """Add a batch, as `Backend.write` describes it.

        Raises:
            SpecError: the index is not integers `(rows,)`, it refers to a value that no batch has had so far, or no row
                uses one of the batch's values.
        """
        start, self.count = self.count, self.count + len(column.values)
        where, index = f"column {quoted(self._name)}: a batch", column.index
        if index.ndim != 1 or index.dtype.kind not in "iu":
            raise SpecError(f"{where} contains an index of {index.dtype} {index.shape}, not of integers (rows,)")
        index = index.astype(np.int64, copy=False)
        if (wrong := (index < 0) | (index >= self.count)).any():
            raise SpecError(f"{where} refers to value {index[wrong][0]}, but there are only {self.count} values so far")
        used = np.zeros(len(column.values), bool)
        used[index[index >= start] - start] = True
        if not used.all():
            raise SpecError(f"{where} contains value {start + int(used.argmin())}, which none of its rows uses")
        self._parts.append(smallest(index, self.count))

    def keys(self) -> Keys:
        """The keys of all rows so far, in their smallest dtype."""
        return np.concatenate(self._parts)
