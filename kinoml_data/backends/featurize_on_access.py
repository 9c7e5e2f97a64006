"""`featurize-on-access`: computes features from raw rows when the rows are read, each distinct input once."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence, Set
from typing import Any, NamedTuple

from pydantic import Field, PrivateAttr

from kinoml_data.backends.cached_call import CachedCall
from kinoml_data.backends.featurized_storage import ComputedColumns, FeaturizedStorage
from kinoml_data.backends.featurizer_call import FeaturizerCall
from kinoml_data.backends.in_memory import InMemory
from kinoml_data.columns import owned
from kinoml_data.contracts.backend import AnyBackend, Backend, DataPath, SpecContext, Storage
from kinoml_data.contracts.featurizer import Featurizer
from kinoml_data.errors import SpecError, UnsupportedStoreError, nearest, quoted, unknown
from kinoml_data.spec.array import Array
from kinoml_data.spec.parts import FeaturizerRef, Featurizers

Requested = Mapping[str, Array | None] | None
DECLARED = "declare in `outputs` what it returns, such as `outputs: {descriptors: {dtype: float32, shape: [3]}}`"


class FeaturizeOnAccess(Backend):
    """The columns of a source, and columns that featurizers compute from them.

    Attributes:
        source: the raw rows; without one, they come from `load_dataset(data=...)` and may be any objects.
        featurizer: a featurizer with its options, or a list of them. Each may have `inputs`, the raw columns that it is
            called with, and `outputs`, other names for the columns that it computes. One without a name is the function
            of `load_dataset(featurizer=...)`.
        memory_budget: the number of bytes of features that each process remembers; the least recently used are dropped.
        cache_path: a folder in which the features of all processes are remembered, see `FeatureCache`.
        cache_budget: the number of bytes of all files in the folder; those that were not used for longest are deleted.
        cache_version: a text that changes when a featurizer computes something else. It is required for Python
            functions and objects; the version of a registered featurizer is that of its distribution, too.
    """

    name = "featurize-on-access"
    source: AnyBackend | None = None
    featurizer: Featurizers | None = None
    memory_budget: int = Field(1 << 30, ge=0)
    cache_path: DataPath | None = None
    cache_budget: int = Field(50_000_000_000, ge=1)
    cache_version: str | None = None
    _data: Mapping[str, Any] | None = PrivateAttr(default=None)
    _featurizers: tuple[Featurizer | Callable[..., Any], ...] = PrivateAttr(default=())
    _distributions: tuple[str | None, ...] = PrivateAttr(default=())

    def model_post_init(self, context: Any) -> None:
        if not isinstance(context, SpecContext):
            raise ValueError("featurizers are looked up by name only in a spec")
        self._featurizers = tuple(map(context.featurizer, self._refs))
        self._distributions = tuple(map(context.distribution, self._refs))

    @property
    def _refs(self) -> tuple[FeaturizerRef, ...]:
        refs = FeaturizerRef() if self.featurizer is None else self.featurizer
        return refs if isinstance(refs, tuple) else (refs,)

    def with_objects(self, *, data: Mapping[str, Any]) -> Backend:
        if self.source is not None:
            return super().with_objects(data=data)
        backend = self.model_copy()
        backend._data = owned(data)
        return backend

    def open(self, columns: Requested) -> Storage:
        if self.source is None and self._data is None:
            raise SpecError("the backend 'featurize-on-access' needs a source, or data={'column': values} in Python")
        computed = self._computed(columns)
        source = self._open_source(columns, computed)
        try:
            self._check_inputs(computed, source)
            return FeaturizedStorage(computed, source, self.memory_budget)
        except BaseException:
            if source is not None:
                source.close()
            raise

    def _computed(self, columns: Requested) -> list[ComputedColumns]:
        """What the featurizers compute, except those of which no column is asked for."""
        members = [_member(*pair) for pair in zip(self._refs, self._featurizers, strict=True)]
        raw: Sequence[str] = ()
        if any(member.outputs is None or member.inputs is None for member in members):
            raw = self._raw_names()
        computed = []
        for member, distribution in zip(_declared(members, columns, raw), self._distributions, strict=True):
            if columns is None or not columns.keys().isdisjoint(member.names):
                inputs = member.inputs or (_only_input(member.label, raw, columns),)
                objects = {n: _by_row_number(n, self._data[n]) for n in inputs if self._data and n in self._data}
                call = FeaturizerCall(member.featurizer, member.outputs or {}, member.label)
                if self.cache_path is not None:
                    call = CachedCall.of(call, self.cache_path, self.cache_budget, self.cache_version, distribution)
                computed.append(ComputedColumns(call, member.names, inputs, objects))
        return computed

    def _raw_names(self) -> list[str]:
        """The names of all raw columns."""
        if self.source is None:
            return list(self._data or ())
        with self.source.open(None) as source:
            return [*source.columns, *source.unreadable]

    def _open_source(self, columns: Requested, computed: Sequence[ComputedColumns]) -> Storage | None:
        """The raw columns that are asked for or are inputs; None if there are only inputs, which are Python objects."""
        inputs: dict[str, Array | None] = dict.fromkeys(name for part in computed for name in part.inputs)
        outputs = {name for part in computed for name in part.columns}
        passed = None if columns is None else {n: array for n, array in columns.items() if n not in outputs}
        if self.source is not None:
            return self.source.open(None if passed is None else inputs | passed)
        assert self._data is not None
        names = [name for name in self._data if (name not in inputs if passed is None else name in passed)]
        if not names and computed:
            return None
        if not names:  # the columns that are asked for are unknown; the error lists those that there are
            return InMemory().with_objects(data=self._data).open(None)
        data = {name: self._data[name] for name in names}
        return InMemory().with_objects(data=data).open(passed and {name: passed[name] for name in names})

    def _check_inputs(self, computed: Sequence[ComputedColumns], source: Storage | None) -> None:
        raw = {**(self._data or {}), **(source.columns if source is not None else {})}
        for part in computed:
            for name in part.inputs:
                if name in raw:
                    continue
                if source is not None and name in source.unreadable:
                    raise UnsupportedStoreError(source.unreadable[name])
                known = self._raw_names()
                raise SpecError(
                    f"featurizer {part.call.label!r} reads {unknown(name, known, 'raw column')}; name the columns to "
                    f"read in its `inputs`, such as `inputs: [{nearest(name, known) or next(iter(known), '')}]`"
                )


class _Member(NamedTuple):
    """One featurizer of the spec.

    Attributes:
        featurizer: a `Featurizer` or a function.
        label: its name in errors.
        inputs: the raw columns that it is called with; None if nothing names them.
        outputs: what it computes, by its own names; None for a function that does not declare it.
        names: the names of the outputs in the dataset.
    """

    featurizer: Featurizer | Callable[..., Any]
    label: str
    inputs: tuple[str, ...] | None
    outputs: Mapping[str, Array] | None
    names: tuple[str, ...]


def _member(ref: FeaturizerRef, featurizer: Featurizer | Callable[..., Any]) -> _Member:
    """A featurizer with what the spec specifies for it.

    Raises:
        SpecError: the spec renames an output that there is not, or declares the outputs of a class or renames those of
            a function.
    """
    if isinstance(featurizer, Featurizer):
        label, outputs = ref.name or featurizer.name, dict(featurizer.outputs)
        for name, new in ref.outputs.items():
            if name not in outputs:
                raise SpecError(f"featurizer {label!r}: {unknown(name, outputs, 'output')}")
            if isinstance(new, Array):
                raise SpecError(f"featurizer {label!r} declares {quoted(name)} itself; in `outputs`, give another name")
        names = tuple(str(ref.outputs.get(name, name)) for name in outputs)
        return _Member(featurizer, label, ref.inputs or featurizer.inputs, outputs, names)
    label = str(ref.name or getattr(featurizer, "__name__", type(featurizer).__name__))
    declared = {name: array.as_stored for name, array in ref.outputs.items() if isinstance(array, Array)}
    if len(declared) < len(ref.outputs):
        raise SpecError(f"featurizer {label!r} is a function; {DECLARED}")
    return _Member(featurizer, label, ref.inputs, declared or None, tuple(declared))


def _declared(members: Sequence[_Member], columns: Requested, raw: Sequence[str]) -> list[_Member]:
    """The featurizers with all of their outputs. A function without any computes what nothing else provides.

    Raises:
        SpecError: two featurizers compute a column of one name, or it is unknown what a function computes.
    """
    labels: dict[str, str] = {}
    for member in members:
        for name in member.names:
            if name in labels:
                raise SpecError(
                    f"featurizers {labels[name]!r} and {member.label!r} both compute a column {quoted(name)}; rename "
                    f"one of them, such as `outputs: {{{name}: {name}_2}}`"
                )
            labels[name] = member.label
    undeclared = [member for member in members if member.outputs is None]
    if len(undeclared) > 1:
        raise SpecError(f"featurizer {undeclared[1].label!r} is not the only function; {DECLARED}")
    rest = {name: array for name, array in (columns or {}).items() if name not in labels and name not in raw}
    outputs = {name: array.as_stored for name, array in rest.items() if array is not None}
    if undeclared and not outputs:
        if columns is None or rest:
            raise SpecError(
                f"featurizer {undeclared[0].label!r} needs `columns` in the spec: the dtype and shape of "
                f"what it returns; or {DECLARED}"
            )
        raise SpecError("every column of the spec is in the source; there is nothing to featurize")
    return [m._replace(outputs=outputs, names=tuple(outputs)) if m.outputs is None else m for m in members]


def _only_input(label: str, raw: Sequence[str], columns: Requested) -> str:
    """The only raw column that is not asked for.

    Raises:
        SpecError: there is none, or there are several.
    """
    names = [name for name in raw if name not in (columns or {})]
    if len(names) != 1:
        raise SpecError(
            f"specify in `inputs` the raw columns that the featurizer {label!r} is called with, such as `featurizer: "
            f"{{inputs: [{next(iter(names or raw), '')}]}}`; known: {', '.join(raw)}"
        )
    return names[0]


def _by_row_number(name: str, values: Any) -> Sequence[Any]:
    """The caller's values as a sequence that is indexed by row number."""
    is_indexed = hasattr(values, "__getitem__") and hasattr(values, "__len__")
    if isinstance(values, (Mapping, Set, str, bytes)) or not (is_indexed or isinstance(values, Iterable)):
        raise SpecError(f"column {quoted(name)} of data is not a sequence of rows")
    # Iterables without [], and those that index by label as pandas does, become lists.
    sequence: Sequence[Any] = values if is_indexed and not hasattr(values, "iloc") else list(values)
    return sequence
