"""`featurize-on-access`: features computed from raw rows when they are read, and remembered."""

from __future__ import annotations

import threading
from collections import OrderedDict
from collections.abc import Callable, Iterable, Mapping, Sequence, Set
from typing import Any

import numpy as np
from numpy.typing import NDArray
from pydantic import Field, PrivateAttr

from kinoml_data.backends.in_memory import InMemory
from kinoml_data.columns import Column, Columns, Ragged, cast
from kinoml_data.contracts.backend import AnyBackend, Backend, Storage
from kinoml_data.contracts.featurizer import Featurizer
from kinoml_data.errors import FeaturizationError, SpecError, format_error, quoted, unknown
from kinoml_data.spec.array import Array
from kinoml_data.spec.parts import Named

Arrays = tuple[NDArray[Any], ...]


class FeaturizeOnAccess(Backend):
    """Columns of a source, and columns that a featurizer computes from them.

    Attributes:
        source: the raw rows; without it they come from `load_dataset(data=...)`, and may be any objects.
        featurizer: a registered featurizer with its options; without it `load_dataset(featurizer=...)`.
        inputs: the raw columns it is called with, in order; by default those it names itself, or for a
            Python callable the one column that is not asked for as it is.
        memory_budget: bytes of features remembered per process; the least recently used go first.
    """

    name = "featurize-on-access"
    source: AnyBackend | None = None
    featurizer: Named | None = None
    inputs: tuple[str, ...] | None = None
    memory_budget: int = Field(1 << 30, ge=0)
    _data: Mapping[str, Any] | None = PrivateAttr(default=None)
    _callable: Callable[..., Any] | None = PrivateAttr(default=None)
    _featurizer: Featurizer | None = PrivateAttr(default=None)

    def model_post_init(self, context: Any) -> None:
        context = context or {}
        self._data, self._callable = context.get("data"), context.get("featurizer")
        if self.featurizer is not None and self._callable is None:
            if "featurizer_of" not in context:
                raise ValueError("featurizers are looked up by name only in a spec; pass a callable instead")
            self._featurizer = context["featurizer_of"](self.featurizer)

    def open(self, columns: Mapping[str, Array] | None) -> Storage:
        if self._featurizer is None and self._callable is None:
            raise SpecError(
                "backend 'featurize-on-access' needs a featurizer: by name, or featurizer=callable in Python"
            )
        if self.source is None and self._data is None:
            raise SpecError("backend 'featurize-on-access' needs a source, or data={'column': values} in Python")
        objects: dict[str, Sequence[Any]] = {}
        source: Storage | None
        if self.source is not None:
            source = self.source.open(None)
        else:
            assert self._data is not None
            objects, plain = self._split_data(columns)
            source = InMemory.over(plain).open(columns) if plain else None
        try:
            return _Featurized(self, source, objects, columns)
        except BaseException:
            if source is not None:
                source.close()
            raise

    def _split_data(self, columns: Mapping[str, Array] | None) -> tuple[dict[str, Sequence[Any]], dict[str, Any]]:
        """The caller's values the featurizer is called with, as they are, and the columns to pass through."""
        assert self._data is not None
        wanted = self.inputs or (self._featurizer.inputs if self._featurizer else None)
        if wanted is None:
            wanted = tuple(name for name in self._data if name not in (columns or {}))
        objects = {name: _by_position(name, self._data[name]) for name in wanted if name in self._data}
        plain = {n: v for n, v in self._data.items() if (n not in objects if columns is None else n in columns)}
        return objects, plain


class _Featurized(Storage):
    def __init__(
        self,
        backend: FeaturizeOnAccess,
        source: Storage | None,
        objects: Mapping[str, Sequence[Any]],
        columns: Mapping[str, Array] | None,
    ) -> None:
        self._source, self._objects, self._call = source, objects, backend._callable
        held = dict(source.columns) if source is not None else {}
        self.arrays = dict(source.arrays) if source is not None else {}
        self.identity = source.identity if source is not None else None
        self.has_checksums = source is not None and source.has_checksums
        featurizer = backend._featurizer
        self._label = featurizer.name if featurizer else getattr(self._call, "__name__", type(self._call).__name__)
        if featurizer is not None:
            self._outputs, self._call = dict(featurizer.outputs), featurizer.featurize
        elif columns is None:
            raise SpecError("a Python featurizer needs `columns` in the spec: the dtype and shape of what it returns")
        else:
            self._outputs = {name: array for name, array in columns.items() if name not in held}
            if not self._outputs:
                raise SpecError("every column of the spec is in the source; there is nothing to featurize")
        self._inputs = self._find_inputs(backend, featurizer, held, columns)
        # Computed columns first: where a spec leaves the roles open, the last number in the source is y.
        self.columns = {**self._outputs, **{n: array for n, array in held.items() if n not in self._outputs}}
        lengths = {len(values) for values in objects.values()} | ({len(source)} if source is not None else set())
        if len(lengths) != 1:
            raise SpecError(f"the raw columns differ in their number of rows: {sorted(lengths)}")
        self._length = lengths.pop()
        self._budget, self._used = backend.memory_budget, 0
        self._memory: OrderedDict[int, Arrays] = OrderedDict()
        self._lock = threading.Lock()

    def _find_inputs(
        self,
        backend: FeaturizeOnAccess,
        featurizer: Featurizer | None,
        held: Mapping[str, Array],
        columns: Mapping[str, Array] | None,
    ) -> tuple[str, ...]:
        raw = {**held, **dict.fromkeys(self._objects)}
        inputs = backend.inputs or (featurizer.inputs if featurizer else None)
        if inputs is None:
            inputs = tuple(name for name in raw if name not in (columns or {}))
            if len(inputs) != 1:
                raise SpecError(
                    f"say which raw columns the featurizer is called with: inputs: [...] out of {', '.join(raw)}"
                )
        if missing := [name for name in inputs if name not in raw]:
            known = list({**raw, **(backend._data or {})})
            raise SpecError(f"featurizer {self._label!r} reads {unknown(missing[0], known, 'raw column')}")
        return tuple(inputs)

    def __len__(self) -> int:
        return self._length

    def read(self, rows: NDArray[np.int64], columns: Sequence[str]) -> Columns:
        passed = [name for name in columns if name not in self._outputs]
        found: dict[str, Column] = {}
        if passed:
            assert self._source is not None
            found.update(self._source.read(rows, passed))
        if len(passed) < len(columns):
            features = self._features(rows)
            for position, (name, array) in enumerate(self._outputs.items()):
                if name in columns:
                    found[name] = _column([row[position] for row in features], array)
        return found

    def close(self) -> None:
        if self._source is not None:
            self._source.close()

    def _features(self, rows: NDArray[np.int64]) -> list[Arrays]:
        wanted = rows.tolist()
        found: dict[int, Arrays] = {}
        with self._lock:
            for row in dict.fromkeys(wanted):
                if row in self._memory:
                    self._memory.move_to_end(row)
                    found[row] = self._memory[row]
        missing = [row for row in dict.fromkeys(wanted) if row not in found]
        stored = self._stored(missing)
        for i, row in enumerate(missing):
            found[row] = self._featurized(row, {name: values[i] for name, values in stored.items()})
            self._remember(row, found[row])
        return [found[row] for row in wanted]

    def _stored(self, rows: list[int]) -> dict[str, Any]:
        """The values of the inputs that the source holds, one per row."""
        names = [name for name in self._inputs if name not in self._objects]
        if self._source is None or not names or not rows:
            return {}
        read = self._source.read(np.array(rows, np.int64), names)
        texts = {name for name in names if self._source.columns[name].is_string}
        return {n: c.strings() if isinstance(c, Ragged) and n in texts else c for n, c in read.items()}

    def _featurized(self, row: int, stored: Mapping[str, Any]) -> Arrays:
        assert self._call is not None
        try:
            raw = [stored[name] if name in stored else self._objects[name][row] for name in self._inputs]
            return self._checked(self._call(*raw), row)
        except (KeyboardInterrupt, FeaturizationError):
            raise
        # StopIteration would silently end an epoch, SystemExit a worker: both are failures of this row.
        except BaseException as error:
            raise FeaturizationError(
                f"featurizer {self._label!r} failed for row {row}: {format_error(error)}"
            ) from error

    def _checked(self, result: Any, row: int) -> Arrays:
        names = list(self._outputs)
        if isinstance(result, Mapping):
            if set(result) != set(names):
                raise FeaturizationError(
                    f"featurizer {self._label!r}, row {row}: it returned {sorted(result)}, not {names}"
                )
            result = tuple(result[name] for name in names)
        elif not isinstance(result, tuple):
            result = (result,)
        if len(result) != len(names):
            raise FeaturizationError(
                f"featurizer {self._label!r}, row {row}: it returned {len(result)} arrays, not {len(names)}"
            )
        return tuple(self._array(name, value, row) for name, value in zip(names, result, strict=True))

    def _array(self, name: str, value: Any, row: int) -> NDArray[Any]:
        if isinstance(value, np.ma.MaskedArray):
            raise TypeError(f"column {quoted(name)} is a masked array; fill it first")
        array, declared = np.asarray(value), self._outputs[name]
        shape = tuple(None if axis is None else held for axis, held in zip(declared.shape, array.shape, strict=False))
        if array.dtype.kind not in "biufc" or not np.can_cast(array.dtype, declared.numpy, declared.cast):
            raise FeaturizationError(
                f"featurizer {self._label!r}, row {row}: column {quoted(name)} is {array.dtype}, not {declared.dtype}"
            )
        if array.ndim != len(declared.shape) or shape != declared.shape:
            text = f"has shape {array.shape}, not {declared.shape}"
            raise FeaturizationError(f"featurizer {self._label!r}, row {row}: column {quoted(name)} {text}")
        # A copy: the featurizer may reuse its buffer, and what is remembered must not change.
        result, lost = cast(np.ascontiguousarray(array), declared.numpy)
        if lost is not None:
            text = f"holds {array.reshape(-1)[lost]}, which does not fit {declared.dtype}"
            raise FeaturizationError(f"featurizer {self._label!r}, row {row}: column {quoted(name)} {text}")
        return result.reshape(array.shape)

    def _remember(self, row: int, arrays: Arrays) -> None:
        size = sum(array.nbytes for array in arrays) + 200 * len(arrays)
        with self._lock:
            if row in self._memory or size > self._budget:
                return
            self._memory[row] = arrays
            self._used += size
            while self._used > self._budget:
                _, old = self._memory.popitem(last=False)
                self._used -= sum(array.nbytes for array in old) + 200 * len(old)


def _by_position(name: str, values: Any) -> Sequence[Any]:
    """The caller's values as something indexed by row number."""
    is_indexed = hasattr(values, "__getitem__") and hasattr(values, "__len__")
    if isinstance(values, (Mapping, Set, str, bytes)) or not (is_indexed or isinstance(values, Iterable)):
        raise SpecError(f"column {quoted(name)} of data is no sequence of rows")
    # What has no [], or one by label as in pandas, is written out.
    found: Sequence[Any] = values if is_indexed and not hasattr(values, "iloc") else list(values)
    return found


def _column(rows: list[NDArray[Any]], array: Array) -> Column:
    if array.ragged:
        return Ragged.from_rows(rows, array.numpy, len(array.shape))
    shape = tuple(axis for axis in array.shape if axis is not None)
    return np.stack(rows) if rows else np.empty((0, *shape), array.numpy)
