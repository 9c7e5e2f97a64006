"""The storage of `featurize-on-access`: which rows have equal inputs, and the features that are remembered."""

from __future__ import annotations

import threading
from collections.abc import Iterator, Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from kinoml_data.backends.featurizer_call import Arrays, FeaturizerCall, column_of_rows
from kinoml_data.columns import Column, Columns, Ragged, distinct_keys, keys_by_content
from kinoml_data.contracts.backend import Storage
from kinoml_data.errors import FeaturizationError, SpecError
from kinoml_data.layouts.keys import keys_of, smallest
from kinoml_data.lru import LruCache
from kinoml_data.spec.array import Array

ROWS_PER_READ = 4096
OVERHEAD = 200  # bytes that an array object takes in addition to its values


class FeaturizedStorage(Storage):
    """The columns of a source, and those that featurizers compute from them.

    Args:
        computed: what the featurizers compute.
        source: the columns of the source; None if all columns are computed from Python objects.
        memory_budget: see `FeaturizeOnAccess`.

    Raises:
        SpecError: the raw columns have different numbers of rows.
    """

    def __init__(self, computed: Sequence[ComputedColumns], source: Storage | None, memory_budget: int) -> None:
        self.computed, self._source = computed, source
        self._of = {name: part for part in computed for name in part.columns}
        if source is not None:
            self.unreadable, self.indexes, self.arrays = source.unreadable, source.indexes, dict(source.arrays)
            self.identity, self.has_checksums = source.identity, source.has_checksums
        self._describe()
        lengths = {len(values) for part in computed for values in part.objects.values()}
        lengths |= {len(source)} if source is not None else set()
        if len(lengths) != 1:
            raise SpecError(f"the raw columns differ in their number of rows: {sorted(lengths)}")
        (self._length,) = lengths
        self._memory: LruCache[int, Arrays] = LruCache(memory_budget)

    def _describe(self) -> None:
        """Set what depends on how the source is loaded."""
        raw = {} if self._source is None else self._source.columns
        self.columns: dict[str, Array] = dict(raw)
        for part in self.computed:
            if all(name in raw or name in part.objects for name in part.inputs):
                self.columns |= part.columns
        self.blocks = None if self._source is None else self._source.blocks

    def __len__(self) -> int:
        return self._length

    def read(self, rows: NDArray[np.int64], columns: Sequence[str]) -> Columns:
        passed = [name for name in columns if name not in self._of]
        result: dict[str, Column] = {}
        if passed:
            assert self._source is not None
            result.update(self._source.read(rows, passed))
        for number, part in enumerate(self.computed):
            if part.columns.keys().isdisjoint(columns):
                continue
            features = self._features(number, rows)
            for place, (name, array) in enumerate(part.columns.items()):
                if name in columns:
                    result[name] = column_of_rows([row[place] for row in features], array)
        return result

    def _features(self, number: int, rows: NDArray[np.int64]) -> list[Arrays]:
        """The features that a featurizer computes from each row. Features not yet in memory are computed and kept."""
        part = self.computed[number]
        keys = part.keys(self._source)
        own = rows if keys is None else keys.take(rows).astype(np.int64)
        numbers = (own * len(self.computed) + number).tolist()  # those of different featurizers differ
        row_of: dict[int, int] = {}
        for each, row in zip(numbers, rows.tolist(), strict=True):
            row_of.setdefault(each, row)
        features = self._memory.get_all(row_of)
        if missing := [each for each in row_of if each not in features]:
            attempts = part.attempts(self._source, [row_of[each] for each in missing])
            for each, arrays in zip(missing, attempts, strict=True):
                if isinstance(arrays, FeaturizationError):
                    raise arrays
                features[each] = arrays
                self._memory.put(each, arrays, sum(array.nbytes + OVERHEAD for array in arrays))
        return [features[each] for each in numbers]

    def loaded(self, columns: Sequence[str]) -> Storage:
        if self._source is not None:
            inputs = [n for part in self.computed if not part.columns.keys().isdisjoint(columns) for n in part.inputs]
            passed = [name for name in columns if name not in self._of]
            known = self._source.columns
            self._source = self._source.loaded(list(dict.fromkeys(n for n in (*inputs, *passed) if n in known)))
            self._describe()
        return self

    def shapes(self, column: str) -> NDArray[np.int64] | None:
        return None if column in self._of or self._source is None else self._source.shapes(column)

    def keys(self, column: str) -> NDArray[Any] | None:
        if column in self._of:
            return self._of[column].keys(self._source)
        return None if self._source is None else self._source.keys(column)

    def computations(self, rows: NDArray[np.int64], columns: Sequence[str]) -> Iterator[Computation]:
        """What has to be computed for some rows of some columns."""
        for part in self.computed:
            if not part.columns.keys().isdisjoint(columns):
                keys = part.keys(self._source)
                if keys is not None:
                    first, _ = distinct_keys(keys.take(rows))
                yield Computation(part, self._source, rows if keys is None else rows[first])

    def row_arrays(self) -> Mapping[str, NDArray[Any]]:
        """The arrays of the source, and the keys that are known, so that no other process has to compute them."""
        arrays = {} if self._source is None else self._source.row_arrays()
        keys = {f"keys.{number}": part.known_keys for number, part in enumerate(self.computed)}
        return {f"source.{name}": array for name, array in arrays.items()} | {
            name: array for name, array in keys.items() if array is not None
        }

    def share_row_arrays(self, arrays: Mapping[str, NDArray[Any]]) -> None:
        if self._source is not None:
            self._source.share_row_arrays({name: arrays[f"source.{name}"] for name in self._source.row_arrays()})
        for number, part in enumerate(self.computed):
            # Without an identity, only a comparison shows that the inputs are still the same.
            is_same = part.known_keys is not None or self.identity is not None or len(part.objects) == len(part.inputs)
            if is_same and (keys := arrays.get(f"keys.{number}")) is not None:
                part.use_keys(keys)

    def facts(self) -> Sequence[tuple[str, str]]:
        of_source = () if self._source is None else self._source.facts()
        return [*of_source, *(fact for part in self.computed for fact in part.call.facts())]

    def close(self) -> None:
        for part in self.computed:
            part.call.close()
        if self._source is not None:
            self._source.close()


class Computation(NamedTuple):
    """The features of some rows that have different inputs.

    Attributes:
        part: what is computed.
        source: where the inputs come from; None if they are Python objects.
        rows: int64 `(n,)`, row numbers in `source`.
    """

    part: ComputedColumns
    source: Storage | None
    rows: NDArray[np.int64]


class ComputedColumns:
    """The columns that one featurizer computes.

    Args:
        call: the featurizer.
        names: the names of the columns, in the order of `call.outputs`.
        inputs: the names of the raw values that it is called with, in order.
        objects: the values of those inputs that are Python objects of the caller. The others are columns of a source.

    Attributes:
        columns: what the featurizer computes, by the names of the columns.
        known_keys: the keys of the rows, if they have been computed already.
    """

    def __init__(
        self,
        call: FeaturizerCall,
        names: Sequence[str],
        inputs: Sequence[str],
        objects: Mapping[str, Sequence[Any]],
    ) -> None:
        self.call, self.inputs = call, tuple(inputs)
        self.columns: dict[str, Array] = dict(zip(names, call.outputs.values(), strict=True))
        self.objects = {name: objects[name] for name in inputs if name in objects}
        self.known_keys: NDArray[Any] | None = None
        self._compared = False
        self._lock = threading.Lock()

    def attempts(self, source: Storage | None, rows: Sequence[int]) -> Iterator[Arrays | FeaturizationError]:
        """The features of some rows, or the error of each; see `FeaturizerCall.attempts`.

        Raises:
            FeaturizationError: a Python object cannot be read. The source raises the errors of `Storage.read`.
        """
        return self.call.attempts(self.raw(source, rows), rows)

    def raw(self, source: Storage | None, rows: Sequence[int]) -> list[Sequence[Any]]:
        """For each input its raw values, one per row; raises the errors of `attempts`."""
        columns: Mapping[str, Any] = {}
        if stored := [name for name in self.inputs if name not in self.objects]:
            assert source is not None
            read = source.read(np.array(rows, np.int64), stored)
            texts = {name for name in stored if source.columns[name].is_string}
            columns = {n: c.strings() if n in texts and isinstance(c, Ragged) else c for n, c in read.items()}
        return [columns[name] if name in columns else self._objects_of(name, rows) for name in self.inputs]

    def _objects_of(self, name: str, rows: Sequence[int]) -> list[Any]:
        values = []
        for row in rows:
            try:
                values.append(self.objects[name][row])
            except KeyboardInterrupt:
                raise
            except BaseException as error:  # such as StopIteration, which would silently end an epoch
                raise self.call.failure(row, error) from error
        return values

    def keys(self, source: Storage | None) -> NDArray[Any] | None:
        """Integers `(rows,)`: for each row, the number of its distinct inputs; None if no two rows have equal inputs.

        The first call compares the inputs bit for bit, and reads every one that the source has no keys for. Python
        objects other than numbers and strings, and sequences other than lists, tuples and arrays, are not compared:
        their rows share nothing. Raises the errors of `Storage.read`.
        """
        with self._lock:
            if not self._compared:
                self.known_keys, self._compared = self._found_keys(source), True
        return self.known_keys

    def use_keys(self, keys: NDArray[Any]) -> None:
        """Use these keys, which another process computed from the same inputs."""
        self.known_keys, self._compared = keys, True

    def _found_keys(self, source: Storage | None) -> NDArray[Any] | None:
        parts: list[NDArray[np.int64]] = []
        for name in self.inputs:
            part = _keys_of_objects(self.objects[name]) if name in self.objects else _keys_of_column(source, name)
            if part is None:
                return None
            parts.append(part)
        keys = parts[0] if len(parts) == 1 else keys_by_content(np.stack(parts, axis=1))
        count = int(keys.max(initial=0)) + 1
        return None if count >= len(keys) else smallest(keys, count)


def _keys_of_column(source: Storage | None, name: str) -> NDArray[np.int64]:
    """The numbers of the distinct values of a column. If the column has keys, one row of each is read."""
    assert source is not None
    keys = keys_of(source, name)
    if keys is None:
        return _keys_of_rows(source, name, np.arange(len(source)))
    first, number = distinct_keys(keys)
    return _keys_of_rows(source, name, first)[number]


def _keys_of_rows(source: Storage, name: str, rows: NDArray[np.int64]) -> NDArray[np.int64]:
    numbers: dict[Any, int] = {}
    parts = [
        keys_by_content(source.read(rows[start : start + ROWS_PER_READ], [name])[name], numbers)
        for start in range(0, len(rows), ROWS_PER_READ)
    ]
    return np.concatenate(parts) if parts else np.empty(0, np.int64)


def _keys_of_objects(values: Any) -> NDArray[np.int64] | None:
    """The numbers of the distinct values; None if there are values that cannot be compared bit for bit."""
    if isinstance(values, Ragged) or (type(values) is np.ndarray and not values.dtype.hasobject):
        return keys_by_content(values)
    if type(values) not in (list, tuple, np.ndarray) or not all(map(_is_plain, values)):
        return None
    numbers: dict[Any, int] = {}
    contents = ((type(value), _comparable(value)) for value in values)
    return np.fromiter((numbers.setdefault(content, len(numbers)) for content in contents), np.int64, len(values))


def _is_plain(value: Any) -> bool:
    is_scalar = isinstance(value, np.generic) and not value.dtype.hasobject
    return is_scalar or type(value) in (str, bytes, int, float, bool)


def _comparable(value: Any) -> Any:
    """What equal values share: text, whole numbers and bytes are themselves, other numbers their bits."""
    if isinstance(value, np.generic):
        return value.dtype.str, value.tobytes()
    return np.float64(value).tobytes() if isinstance(value, float) else value
