"""`featurize-on-access`: computes features from raw rows when the rows are read, and remembers them."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence, Set
from typing import Any

import numpy as np
from numpy.typing import NDArray
from pydantic import Field, PrivateAttr

from kinoml_data.backends.in_memory import InMemory
from kinoml_data.columns import Column, Columns, Ragged, cast, owned
from kinoml_data.contracts.backend import AnyBackend, Backend, SpecContext, Storage
from kinoml_data.contracts.featurizer import Featurizer
from kinoml_data.errors import FeaturizationError, SpecError, error_prefix, format_error, quoted, unknown
from kinoml_data.lru import LruCache
from kinoml_data.spec.array import Array
from kinoml_data.spec.parts import NamedRef

Arrays = tuple[NDArray[Any], ...]
OVERHEAD = 200  # bytes that an array object takes in addition to its values


class FeaturizeOnAccess(Backend):
    """The columns of a source, and columns that a featurizer computes from them.

    Attributes:
        source: the raw rows; without one, they come from `load_dataset(data=...)` and may be any objects.
        featurizer: a registered featurizer with its options; without one, `load_dataset(featurizer=...)` is used.
        inputs: the raw columns that the featurizer is called with, in this order. By default a registered featurizer
            names them, and a Python function gets the only column that the spec does not list.
        memory_budget: the number of bytes of features that each process remembers; the least recently used are dropped.
    """

    name = "featurize-on-access"
    source: AnyBackend | None = None
    featurizer: NamedRef | None = None
    inputs: tuple[str, ...] | None = None
    memory_budget: int = Field(1 << 30, ge=0)
    _data: Mapping[str, Any] | None = PrivateAttr(default=None)
    _function: Callable[..., Any] | None = PrivateAttr(default=None)
    _featurizer: Featurizer | None = PrivateAttr(default=None)

    def model_post_init(self, context: Any) -> None:
        if self.featurizer is not None:
            if not isinstance(context, SpecContext):
                raise ValueError("featurizers are looked up by name only in a spec; use with_objects(featurizer=...)")
            self._featurizer = context.featurizer(self.featurizer)

    def with_objects(
        self, *, data: Mapping[str, Any] | None = None, featurizer: Callable[..., Any] | None = None
    ) -> Backend:
        backend = self.model_copy()
        if data is not None and self.source is not None:
            backend = self.model_copy(update={"source": self.source.with_objects(data=owned(data))})
        elif data is not None:
            backend._data = owned(data)
        if featurizer is not None:
            backend._function, backend._featurizer = featurizer, None
        return backend

    def open(self, columns: Mapping[str, Array | None] | None) -> Storage:
        if self._featurizer is None and self._function is None:
            raise SpecError(
                "the backend 'featurize-on-access' needs a featurizer: by name in the spec, or featurizer=function in "
                "Python"
            )
        if self.source is None and self._data is None:
            raise SpecError("the backend 'featurize-on-access' needs a source, or data={'column': values} in Python")
        objects: dict[str, Sequence[Any]] = {}
        source: Storage | None
        if self.source is not None:
            source = self.source.open(self._requested_of_source(columns))
        else:
            assert self._data is not None
            objects, passed = self._split_data(self._data, columns)
            requested = None if columns is None else {name: columns[name] for name in passed}
            source = InMemory().with_objects(data=passed).open(requested) if passed else None
        try:
            return _FeaturizedStorage(self, source, objects, columns)
        except BaseException:
            if source is not None:
                source.close()
            raise

    @property
    def input_names(self) -> tuple[str, ...] | None:
        """The columns that the featurizer is called with; None if neither the spec nor the featurizer names them."""
        return self.inputs or (self._featurizer.inputs if self._featurizer else None)

    def _requested_of_source(self, columns: Mapping[str, Array | None] | None) -> dict[str, Array | None] | None:
        """The columns to ask the source for; None if the outputs or the inputs are known only once it is open."""
        if columns is None or self._featurizer is None:
            return None
        passed = {name: array for name, array in columns.items() if name not in self._featurizer.outputs}
        return dict.fromkeys(self.input_names or ()) | passed

    def _split_data(
        self, data: Mapping[str, Any], columns: Mapping[str, Array | None] | None
    ) -> tuple[dict[str, Sequence[Any]], dict[str, Any]]:
        """Split the caller's data into the featurizer's inputs, unchanged, and the columns to pass through."""
        inputs = self.input_names
        if inputs is None:
            inputs = tuple(name for name in data if name not in (columns or {}))
        objects = {name: _by_row_number(name, data[name]) for name in inputs if name in data}
        passed = {n: v for n, v in data.items() if (n not in objects if columns is None else n in columns)}
        return objects, passed


class _FeaturizedStorage(Storage):
    def __init__(
        self,
        backend: FeaturizeOnAccess,
        source: Storage | None,
        objects: Mapping[str, Sequence[Any]],
        columns: Mapping[str, Array | None] | None,
    ) -> None:
        self._source, self._objects = source, objects
        raw_columns = dict(source.columns) if source is not None else {}
        if source is not None:
            self.unreadable = source.unreadable
            self.arrays, self.identity = dict(source.arrays), source.identity
            self.has_checksums, self.blocks = source.has_checksums, source.blocks
        featurizer, function = backend._featurizer, backend._function
        if featurizer is not None:
            self._outputs, self._function = dict(featurizer.outputs), featurizer.featurize
            self._label = featurizer.name
        else:
            assert function is not None
            self._outputs, self._function = _outputs_of_function(raw_columns, columns), function
            self._label = getattr(function, "__name__", type(function).__name__)
        self._inputs = self._find_inputs(backend, {**raw_columns, **dict.fromkeys(objects)}, columns)
        self.columns: dict[str, Array] = raw_columns | self._outputs
        lengths = {len(values) for values in objects.values()} | ({len(source)} if source is not None else set())
        if len(lengths) != 1:
            raise SpecError(f"the raw columns differ in their number of rows: {sorted(lengths)}")
        self._length = lengths.pop()
        self._memory: LruCache[int, Arrays] = LruCache(backend.memory_budget)

    def _find_inputs(
        self, backend: FeaturizeOnAccess, raw: Mapping[str, Any], columns: Mapping[str, Array | None] | None
    ) -> tuple[str, ...]:
        inputs = backend.input_names
        if inputs is None:
            inputs = tuple(name for name in raw if name not in (columns or {}))
            if len(inputs) != 1:
                raise SpecError(
                    f"specify in `inputs` the raw columns that the featurizer is called with; known: {', '.join(raw)}"
                )
        if missing := [name for name in inputs if name not in raw]:
            known = list({**raw, **(backend._data or {})})
            problem = f"featurizer {self._label!r} reads {unknown(missing[0], known, 'raw column')}"
            raise SpecError(
                f"{problem}; name the columns to read in `inputs`, such as `inputs: [{next(iter(known), '')}]`"
            )
        return tuple(inputs)

    def __len__(self) -> int:
        return self._length

    def read(self, rows: NDArray[np.int64], columns: Sequence[str]) -> Columns:
        passed = [name for name in columns if name not in self._outputs]
        result: dict[str, Column] = {}
        if passed:
            assert self._source is not None
            result.update(self._source.read(rows, passed))
        if len(passed) < len(columns):
            features = self._features(rows)
            for position, (name, array) in enumerate(self._outputs.items()):
                if name in columns:
                    result[name] = _column([row[position] for row in features], array)
        return result

    def loaded(self, columns: Sequence[str]) -> Storage:
        if self._source is not None:
            needed = [name for name in (*self._inputs, *columns) if name in self._source.columns]
            self._source = self._source.loaded(list(dict.fromkeys(needed)))
            self.blocks = self._source.blocks
            self.columns |= {name: a for name, a in self._source.columns.items() if name not in self._outputs}
        return self

    def close(self) -> None:
        if self._source is not None:
            self._source.close()

    def _features(self, rows: NDArray[np.int64]) -> list[Arrays]:
        numbers = rows.tolist()
        distinct = dict.fromkeys(numbers)
        features = self._memory.get_all(distinct)
        missing = [row for row in distinct if row not in features]
        stored = self._stored_inputs(missing)
        for i, row in enumerate(missing):
            features[row] = arrays = self._featurized(row, {name: values[i] for name, values in stored.items()})
            self._memory.put(row, arrays, sum(array.nbytes + OVERHEAD for array in arrays))
        return [features[row] for row in numbers]

    def _stored_inputs(self, rows: list[int]) -> dict[str, Any]:
        """The values of the inputs that come from the source, one per row."""
        names = [name for name in self._inputs if name not in self._objects]
        if self._source is None or not names or not rows:
            return {}
        columns = self._source.read(np.array(rows, np.int64), names)
        texts = {name for name in names if self._source.columns[name].is_string}
        return {n: c.strings() if isinstance(c, Ragged) and n in texts else c for n, c in columns.items()}

    def _featurized(self, row: int, stored: Mapping[str, Any]) -> Arrays:
        try:
            raw = [stored[name] if name in stored else self._objects[name][row] for name in self._inputs]
            result = self._function(*raw)
            with error_prefix(f"featurizer {self._label!r}, row {row}: "):
                return self._checked(result)
        except (KeyboardInterrupt, FeaturizationError):
            raise
        # StopIteration would silently end an epoch, SystemExit a worker: both are failures of this row.
        except BaseException as error:
            raise FeaturizationError(
                f"featurizer {self._label!r} failed for row {row}: {format_error(error)}"
            ) from error

    def _checked(self, result: Any) -> Arrays:
        """The arrays that the featurizer returned, one per output.

        Raises:
            FeaturizationError: the featurizer returned something that differs from its outputs.
        """
        names = list(self._outputs)
        if isinstance(result, Mapping):
            if set(result) != set(names):
                raise FeaturizationError(f"it returned {sorted(result)}, not {names}")
            result = tuple(result[name] for name in names)
        elif not isinstance(result, tuple):
            result = (result,)
        if len(result) != len(names):
            raise FeaturizationError(f"it returned {len(result)} arrays, not {len(names)}")
        return tuple(_array(name, value, self._outputs[name]) for name, value in zip(names, result, strict=True))


def _outputs_of_function(
    raw_columns: Mapping[str, Array], columns: Mapping[str, Array | None] | None
) -> dict[str, Array]:
    declared = {name: array for name, array in (columns or {}).items() if name not in raw_columns}
    outputs = {name: array.as_stored for name, array in declared.items() if array is not None}
    if columns is None or (not outputs and None in columns.values()):
        raise SpecError("a Python featurizer needs `columns` in the spec: the dtype and shape of what it returns")
    if not outputs:
        raise SpecError("every column of the spec is in the source; there is nothing to featurize")
    return outputs


def _array(name: str, value: Any, declared: Array) -> NDArray[Any]:
    """Copy one output to its declared dtype and shape. A copy is needed because the featurizer may reuse its buffer."""
    if isinstance(value, np.ma.MaskedArray):
        raise TypeError(f"column {quoted(name)} is a masked array; fill in its missing values first")
    array = np.asarray(value)
    if array.dtype.kind not in "biufc" or (array.dtype.kind == "c" and declared.numpy.kind != "c"):
        raise FeaturizationError(f"column {quoted(name)} has dtype {array.dtype}, not {declared.dtype}")
    shape = tuple(None if axis is None else length for axis, length in zip(declared.shape, array.shape, strict=False))
    if array.ndim != len(declared.shape) or shape != declared.shape:
        raise FeaturizationError(f"column {quoted(name)} has shape {array.shape}, not {declared.shape}")
    result, lost = cast(np.ascontiguousarray(array), declared.numpy, exact=declared.cast == "exact")
    if lost is not None:
        value = array.reshape(-1)[lost]
        raise FeaturizationError(f"column {quoted(name)} contains {value}, which does not fit {declared.dtype}")
    return result.reshape(array.shape)


def _by_row_number(name: str, values: Any) -> Sequence[Any]:
    """The caller's values as a sequence that is indexed by row number."""
    is_indexed = hasattr(values, "__getitem__") and hasattr(values, "__len__")
    if isinstance(values, (Mapping, Set, str, bytes)) or not (is_indexed or isinstance(values, Iterable)):
        raise SpecError(f"column {quoted(name)} of data is not a sequence of rows")
    # Iterables without [], and those that index by label as pandas does, become lists.
    sequence: Sequence[Any] = values if is_indexed and not hasattr(values, "iloc") else list(values)
    return sequence


def _column(rows: list[NDArray[Any]], array: Array) -> Column:
    if not rows:
        return array.empty()
    return Ragged.from_rows(rows, array.numpy, len(array.shape)) if array.ragged else np.stack(rows)
