"""Writing rows in the flat layout: the flat arrays of batches."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Iterator, Mapping
from itertools import chain, islice
from typing import Any

import numpy as np
from numpy.typing import NDArray

from kinoml_data.columns import Column, Columns, Indexed
from kinoml_data.errors import SpecError, UnsupportedStoreError, quoted
from kinoml_data.layouts.checksums import row_checksums
from kinoml_data.layouts.flat_arrays import CRC, INDEX, KEYS, SHAPES, SPEC_KEY, flatten, mismatch, values_key
from kinoml_data.layouts.keys import CollectedKeys
from kinoml_data.spec.array import Array


class FlatBatches:
    """The flat arrays of a stream of batches, which is passed through once.

    The first batch is read at once: a column that is `Indexed` in it has keys.

    Args:
        columns: the columns.
        batches: the rows, see `Backend.write`.
        checksums: False to leave out the checksums of the rows.

    Attributes:
        layout: the arrays that the batches add to, by name: the dtype and the shape of one entry.

    Raises:
        UnsupportedStoreError: an array would have the name of another one.
    """

    def __init__(self, columns: Mapping[str, Array], batches: Iterable[Columns], *, checksums: bool = True) -> None:
        rest = iter(batches)
        first = list(islice(rest, 1))
        self._columns, self._checksums, self._batches = columns, checksums, chain(first, rest)
        self._keys = {n: CollectedKeys(n) for n in columns for batch in first if isinstance(batch[n], Indexed)}
        arrays = [entry for name, array in columns.items() for entry in self._arrays_of(name, array)]
        self.layout = {key: (np.dtype(dtype), shape) for key, dtype, shape in arrays}
        names = [key for key, _, _ in arrays] + [name + KEYS for name in self._keys]
        if clash := [key for key, count in Counter(names).items() if count > 1]:
            raise UnsupportedStoreError(f"two arrays would have the name {quoted(min(clash))}; rename a column")

    def _arrays_of(self, name: str, array: Array) -> Iterator[tuple[str, Any, tuple[int, ...]]]:
        yield values_key(name, array), array.numpy, () if array.rows_differ else array.row_shape
        if array.rows_differ:
            yield name + SHAPES, np.int64, (len(array.axes),)
        if self._checksums:
            yield name + CRC, np.uint32, ()

    def __iter__(self) -> Iterator[dict[str, NDArray[Any]]]:
        """The flat arrays of each batch, by the names of `layout`.

        Raises:
            SpecError: a batch does not match the columns.
        """
        rows = dict.fromkeys(self._columns, 0)  # or distinct rows, if the column has keys
        for batch in self._batches:
            lengths = {len(batch[name]) for name in self._columns}
            columns = {name: self._values(name, batch[name]) for name in self._columns}
            for name, array in self._columns.items():
                if problem := mismatch(array, columns[name]):
                    raise SpecError(f"column {quoted(name)}: a batch contains {problem}")
            if len(lengths) > 1:  # a later batch may make up for it, and the rows of the columns would not correspond
                raise SpecError(f"the columns of a batch differ in their number of rows: {sorted(lengths)}")
            flat = flatten(self._columns, columns)
            for name, array in self._columns.items() if self._checksums else ():
                start, rows[name] = rows[name], rows[name] + len(columns[name])
                numbers = np.arange(start, rows[name])
                flat[name + CRC] = row_checksums(columns[name], numbers, is_string=array.is_string)
            yield flat

    def _values(self, name: str, column: Column | Indexed) -> Column:
        """The rows of a batch that are stored; the keys of all its rows are collected."""
        if isinstance(column, Indexed) != (name in self._keys):
            raise SpecError(f"column {quoted(name)}: either every batch or none must be `Indexed`")
        if not isinstance(column, Indexed):
            return column
        self._keys[name].add(column)
        return column.values

    def keys(self) -> dict[str, NDArray[Any]]:
        """The arrays of keys, by their names in the flat layout, after all batches were passed through."""
        return {name + KEYS: collected.keys() for name, collected in self._keys.items()}


def flat_arrays(
    columns: Mapping[str, Array],
    batches: Iterable[Columns],
    *,
    arrays: Mapping[str, NDArray[Any]] | None = None,
    spec: str | None = None,
) -> dict[str, NDArray[Any]]:
    """The flat arrays of a dataset without checksums, for a `Backend.write` that has enough memory for all rows.

    Raises:
        SpecError: a batch does not match `columns`.
        UnsupportedStoreError: an array would have the name of another one.
    """
    flat = FlatBatches(columns, batches, checksums=False)
    parts = {key: [np.empty((0, *shape), dtype)] for key, (dtype, shape) in flat.layout.items()}
    for batch in flat:
        for key, part in batch.items():
            parts[key].append(part)
    return {key: np.concatenate(some) for key, some in parts.items()} | flat.keys() | other_arrays(arrays or {}, spec)


def other_arrays(arrays: Mapping[str, NDArray[Any]], spec: str | None) -> dict[str, NDArray[Any]]:
    """The flat arrays that do not belong to a column: the named arrays and the spec."""
    flat = {name + INDEX: array for name, array in arrays.items()}
    return flat if spec is None else {**flat, SPEC_KEY: np.frombuffer(spec.encode(), np.uint8)}
