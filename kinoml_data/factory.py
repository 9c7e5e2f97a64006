"""From a spec, a file or Python arrays to a dataset."""

from __future__ import annotations

import difflib
import inspect
import os
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager, suppress
from pathlib import Path
from typing import Any

from torch.utils.data import DataLoader

from kinoml_data import registry
from kinoml_data.contracts.backend import Backend, Storage
from kinoml_data.dataset.collate import Collater
from kinoml_data.dataset.dataset import XyDataset
from kinoml_data.dataset.session import Session, open_storage
from kinoml_data.errors import (
    KinomlDataError,
    SpecError,
    StoreChangedError,
    StoreNotFoundError,
    quoted,
)
from kinoml_data.inference import complete
from kinoml_data.layouts.foreign import table_of
from kinoml_data.spec import config
from kinoml_data.spec.dataset_spec import CompleteSpec, DatasetSpec
from kinoml_data.spec.parts import BackendRef
from kinoml_data.spec.roles import names_of
from kinoml_data.spec.validation import plain_json
from kinoml_data.spec_objects import PythonFeaturizers, made_observation_model, make_backend
from kinoml_data.spec_sources import as_spec

IN_MEMORY = "in-memory"


def load_dataset(
    spec: DatasetSpec | Mapping[str, Any] | str | os.PathLike[str] | Backend,
    *,
    X: str | Sequence[str] | None = None,
    y: str | Sequence[str] | None = None,
    meta: Sequence[str] | None = None,
    backend: str | Backend | None = None,
    split: str | None = None,
    data: Any = None,
    featurizer: PythonFeaturizers | None = None,
    collate: Any = None,
    dtype: Any = None,
    device: str | None = None,
    base: str | os.PathLike[str] | None = None,
    **options: Any,
) -> XyDataset:
    """Open a dataset.

    A spec, or a store that contains one, specifies which columns are X and which are y, and so do columns that are
    called X, or X0, X1, ..., and y. Any other table needs `X` and `y` here. Without a spec, only the columns
    in X, y and meta are opened.

    Args:
        spec: a `DatasetSpec`, a mapping, a .yaml, .json or .toml file, or a data file that a backend opens.
        X, y, meta: the columns in these roles, in place of those in the spec: one name, or a list of names.
        backend: another backend for the same data. A backend with a `source` wraps the storage of the spec, so that
            "in-memory" loads all of it; any other backend replaces it, and keeps the options that both have. A
            `Backend` object replaces the storage as it is, and needs no registration; without a spec, give it as
            `spec`.
        split: open only the rows of this split.
        data: Python values by column, one entry per row, for a storage without a source: a mapping, a DataFrame of
            pandas or polars, an Arrow table, an awkward array of records or a structured array.
        featurizer: a Python function or a `Featurizer` object for the featurizer of the spec that has no name, or
            `{name: function}` for those of these names, anywhere in the spec.
        collate: a form for all ragged columns, or `{column: form}`.
        dtype: the dtype of all floating-point columns in X and y, such as "float32" or `torch.float32`, or
            `{column: dtype}`, in which "X" and "y" stand for all of their columns. A value that does not fit raises an
            error.
        device: the device on which `in-memory` keeps the data, such as "cuda".
        base: the folder that relative paths in a mapping start from; by default the working directory.
        options: further options of the outermost backend.

    Raises:
        SpecError: the spec or an argument is not valid, or the spec does not fit the store.
        SplitError: splits overlap or are out of range, or there is no split of the name `split`.
        UnknownNameError: the spec names a backend, featurizer or observation model that is not installed.
        PluginLoadError, PluginConflictError: the plugin of such a name is broken, or two plugins register the name.
        StoreNotFoundError: the store does not exist.
        CorruptStoreError: the store is damaged.
        UnsafeStoreError: opening the store would run code, leave its folder or take unbounded memory.
        UnsupportedStoreError: the store uses a feature that the backend does not read.
        StoreReadError: the operating system failed to read.
        StoreChangedError: the spec has a `fingerprint`, and the data has another one.
    """
    if data is not None and (data := table_of(values := data)) is None:
        raise SpecError(
            f"data: a value of type {type(values).__name__} is not a mapping of columns to values; give "
            "`{'column': values}`, a DataFrame, such as that of `.to_pandas()`, or an Arrow table"
        )
    options = options if device is None else options | {"device": device}
    given = next((value for value in (backend, spec) if isinstance(value, Backend)), None)
    if given is not None and options:
        raise SpecError(f"{quoted(next(iter(options)))}: give options to the backend object itself")
    backend = given or backend
    described = _with_storage(as_spec(spec, None if base is None else Path(base), backend), backend, options)
    described = _with_roles(described, X=X, y=y, meta=meta)
    opener = make_backend(described, data, featurizer, given)
    with ExitStack() as opened:
        with _named_by(spec):
            complete_spec, storage = _open(described, opener, dtype, opened)
        complete_spec, storage = _loaded(described, complete_spec, storage, dtype, opened)
        if data is not None or featurizer is not None or given is not None:
            complete_spec = complete_spec.over_objects()
        session, collater = Session(complete_spec, opener, storage), Collater(complete_spec, collate)
        model = made_observation_model(complete_spec)
        _compare_fingerprint(XyDataset(session, collater))
        dataset = XyDataset(session, collater, model, () if split is None else (split,))
        opened.pop_all()
        return dataset


def _compare_fingerprint(dataset: XyDataset) -> None:
    locked = dataset.spec.fingerprint
    if locked is not None and (found := dataset.fingerprint()) != locked:
        raise StoreChangedError(
            f"the columns or splits are not those that the spec was locked with: their fingerprint is {found}, not "
            f"{quoted(locked)}; restore the data, or lock the spec again with `kinoml-data lock`"
        )


def open_to_copy(
    spec: DatasetSpec | Mapping[str, Any] | str | os.PathLike[str],
    *,
    backend: str | None = None,
    base: str | os.PathLike[str] | None = None,
    loads: bool = True,
    omits_failures: bool = False,
    **options: Any,
) -> XyDataset:
    """Open a dataset to look at it or to copy it, which needs no roles.

    The arguments and the errors are those of `load_dataset`. If neither the data nor a spec specifies X, X is None and
    all columns of the store are in the dataset. With `loads=False`, no rows are decoded when it opens, unless the
    splits are made from columns; lists may then appear as ragged although all of them have one length, and the
    fingerprint of the spec is not compared. With `omits_failures=True`, a row is in no split if a column that the
    splits are made from cannot be featurized for it; without, this is an error.
    """
    described = _with_storage(as_spec(spec, None if base is None else Path(base), backend), backend, options)
    opener = make_backend(described)
    with ExitStack() as opened:
        with _named_by(spec):
            complete_spec, storage = _open(described, opener, None, opened, needs_X=False)
        if loads:
            complete_spec, storage = _loaded(described, complete_spec, storage, None, opened, needs_X=False)
        session = Session(complete_spec, opener, storage, omits_failures=omits_failures)
        dataset = XyDataset(session, Collater(complete_spec), made_observation_model(complete_spec))
        if loads:
            _compare_fingerprint(dataset)
        opened.pop_all()
        return dataset


@contextmanager
def _named_by(spec: Any) -> Iterator[None]:
    """Say in the error for a store that is not there which spec file names it."""
    try:
        yield
    except StoreNotFoundError as error:
        if isinstance(spec, (str, os.PathLike)) and Path(spec).suffix.lower() in config.SUFFIXES:
            raise StoreNotFoundError(f"{os.fspath(spec)}: storage: {error}") from error
        raise


def _open(
    spec: DatasetSpec, backend: Backend, dtype: Any, opened: ExitStack, *, needs_X: bool = True
) -> tuple[CompleteSpec, Storage]:
    """The complete spec and the open storage, which `opened` closes."""
    storage = open_storage(backend, spec.requested_columns)
    opened.callback(storage.close)
    if not (spec.requested_columns or {}).keys() <= {*storage.columns, *storage.unreadable}:
        with suppress(KinomlDataError):  # so that the error for an unknown column can list all columns
            storage = open_storage(backend, None)
            opened.callback(storage.close)
    if spec.columns is None and spec.X is not None and storage.spec is not None:
        # The embedded spec names more columns than the caller's roles.
        storage.close()
        storage = open_storage(backend, None)
        opened.callback(storage.close)
    return complete(spec, storage, dtype, needs_X=needs_X), storage


def _loaded(
    spec: DatasetSpec,
    complete_spec: CompleteSpec,
    storage: Storage,
    dtype: Any,
    opened: ExitStack,
    *,
    needs_X: bool = True,
) -> tuple[CompleteSpec, Storage]:
    """The storage made ready for its columns, which `opened` closes, and the spec that the loaded rows complete."""
    names = [name for name in complete_spec.stored_names if name in storage.columns]
    if not names and storage.unreadable:
        raise SpecError("\n  ".join(["no column can be read:", *storage.unreadable.values()]))
    loaded = storage.loaded(names)
    if loaded is storage:
        return complete_spec, storage
    opened.callback(loaded.close)
    # Only the loaded rows show which axes are fixed.
    return complete(spec, loaded, dtype, needs_X=needs_X), loaded


def _with_roles(spec: DatasetSpec, **roles: str | Sequence[str] | None) -> DatasetSpec:
    """`spec` with the roles that the caller of `load_dataset` gave.

    Raises:
        SpecError: a role is neither a name nor a list of names.
    """
    changes: dict[str, Any] = {}
    for role, names in roles.items():
        if names is None:
            continue
        if not isinstance(names, (str, list, tuple)) or not all(isinstance(name, str) for name in names):
            raise SpecError(f"{role}: {quoted(names)} is neither the name of a column nor a list of names")
        changes[role] = names if isinstance(names, str) and role != "meta" else names_of(names)
    return spec.replace(**changes) if changes else spec


def infer_spec(path: str | os.PathLike[str]) -> DatasetSpec:
    """The spec of a data file: the one that is embedded in it, or one with the columns that it contains.

    Its X and y are None if nothing in the file specifies which columns they are.

    Raises:
        SpecError: no backend opens the file.
        StoreNotFoundError: the file does not exist.
        CorruptStoreError: the file is damaged.
        UnsafeStoreError: opening the file would run code or take unbounded memory.
        UnsupportedStoreError: the file uses a feature that the backend does not read.
        StoreReadError: the operating system failed to read.
    """
    with open_to_copy(path) as dataset:
        return dataset.spec


def from_arrays(X: Any, y: Any = None, splits: Mapping[str, Any] | None = None) -> XyDataset:
    """Make a dataset from Python arrays.

    Args:
        X, y: one row per entry along the first axis: an array, a tensor, a Series, a list of arrays of different
            shapes, or `{name: values}` or a DataFrame for several columns. y may be None.
        splits: row numbers by name, or `{"ratios": {...}, "seed": 0}`.

    Raises:
        SpecError: the columns have different numbers of rows, rows have different numbers of axes, or values are
            Python objects that are not arrays.
        SplitError: the splits overlap or are out of range.
    """
    data: dict[str, Any] = {}
    roles: dict[str, Any] = {}
    for role, values in (("X", X), ("y", y)):
        if values is None:
            continue
        table = table_of(values)
        named = {role: values} if table is None else table
        if clash := data.keys() & named.keys():
            raise SpecError(f"X and y both have a column {quoted(min(clash))}; rename one of them")
        data |= named
        roles[role] = role if table is None else list(named)
    if splits is not None:
        if not isinstance(splits, Mapping):
            raise SpecError(f"splits: {quoted(splits)} is not a mapping of names to row numbers")
        computed = "ratios" in splits
        roles["splits"] = splits if computed else {n: {"rows": _row_list(rows)} for n, rows in splits.items()}
    return load_dataset(roles | {"storage": {"backend": IN_MEMORY}}, data=data)


def _row_list(rows: Any) -> Any:
    """Row numbers as a list. Anything that is not iterable is returned as it is; validation rejects it."""
    if hasattr(rows, "tolist"):
        return rows.tolist()
    return list(rows) if isinstance(rows, Iterable) else rows


def _with_storage(spec: DatasetSpec, backend: str | Backend | None, options: Mapping[str, Any]) -> DatasetSpec:
    """`spec` with the backend and the options that the caller of `load_dataset` gave."""
    if isinstance(backend, Backend):
        return spec.with_storage(BackendRef(backend=backend.name))
    if backend is None and not options:
        return spec
    if backend is not None and not isinstance(backend, str):
        raise SpecError(f"backend: {quoted(backend)} is neither a name nor a Backend object, such as `Mine(path=...)`")
    storage = spec.storage
    _check_keywords(options, backend or storage.backend)
    if backend is None or backend == storage.backend:
        return spec.with_storage(backend_ref(storage.backend, {**storage.options, **options}))
    fields = registry.backend(backend).model_fields
    if "source" in fields:
        # Only the data of the caller is stored in an `in-memory` without options: there is nothing to wrap.
        wraps = storage.backend != IN_MEMORY or bool(storage.options)
        inherited = {"source": storage.model_dump(mode="json")} if wraps else {}
    else:
        inherited = {key: value for key, value in storage.options.items() if key in fields}
    return spec.with_storage(backend_ref(backend, {**inherited, **options}))


def _check_keywords(options: Mapping[str, Any], backend: str) -> None:
    """Refuse a keyword that is clearly not meant as an option of the backend, which refuses the others itself."""
    known = registry.backend(backend).model_fields
    for name in [name for name in options if name not in known]:
        if name == "device":
            raise SpecError(f"the backend {backend!r} does not keep data on a device; give backend='in-memory' as well")
        if name in DatasetSpec.model_fields:
            raise SpecError(f"{name!r} is a key of the spec; set it in the spec file, or give a mapping as spec")
        of_loader = [*_parameters(XyDataset.as_dataloader), *_parameters(DataLoader.__init__)]
        if name in of_loader:
            raise SpecError(f"{name!r} is an argument of as_dataloader; pass it there")
        if near := difflib.get_close_matches(name, _parameters(load_dataset), 1, 0.8):
            raise SpecError(f"unknown argument {quoted(name)}; did you mean {near[0]!r}?")
        if near := difflib.get_close_matches(name, of_loader, 1, 0.8):
            raise SpecError(f"unknown argument {quoted(name)}; did you mean {near[0]!r} of as_dataloader?")


def _parameters(function: Callable[..., Any]) -> list[str]:
    """The names of the parameters of a function that have a default."""
    parameters = inspect.signature(function).parameters
    return [name for name, parameter in parameters.items() if parameter.default is not parameter.empty]


def backend_ref(backend: str, options: Mapping[str, Any]) -> BackendRef:
    """A reference to a backend with options that come from Python.

    Raises:
        SpecError: an option cannot be written to a file.
    """
    return BackendRef.model_validate_json(plain_json({**options, "backend": backend}))
