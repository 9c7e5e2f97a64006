"""From a spec, a file or Python arrays to a dataset."""

from __future__ import annotations

import difflib
import inspect
import os
import sys
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any, TypeAlias, TypeVar

from pydantic import ValidationError
from torch.utils.data import DataLoader

from kinoml_data import registry
from kinoml_data.contracts.backend import Backend, SpecContext, Storage
from kinoml_data.contracts.featurizer import Featurizer
from kinoml_data.contracts.observation_model import ObservationModel
from kinoml_data.dataset.collate import Collater
from kinoml_data.dataset.dataset import XyDataset
from kinoml_data.dataset.session import Session, open_storage
from kinoml_data.errors import (
    SpecError,
    StoreChangedError,
    StoreNotFoundError,
    error_prefix,
    one_line,
    quoted,
    unknown,
)
from kinoml_data.files import os_errors
from kinoml_data.inference import complete
from kinoml_data.layouts.foreign import table_of
from kinoml_data.spec import config
from kinoml_data.spec.array import Model
from kinoml_data.spec.dataset_spec import CompleteSpec, DatasetSpec
from kinoml_data.spec.parts import BackendRef, FeaturizerRef
from kinoml_data.spec.roles import names_of
from kinoml_data.spec.validation import plain_json, spec_error

IN_MEMORY = "in-memory"
M = TypeVar("M", bound=Model)
PythonFeaturizer: TypeAlias = Featurizer | Callable[..., Any]
PythonFeaturizers: TypeAlias = PythonFeaturizer | Mapping[str, PythonFeaturizer]


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

    A spec, or a store that contains one, says which columns are X and which are y, and so do columns that are called X,
    or X0, X1, ..., and y. Any other table needs `X` and `y` here. Without a spec, only the columns in X, y and meta are
    opened.

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
        model = _observation_model(complete_spec)
        if complete_spec.fingerprint is not None:
            _compare_fingerprint(XyDataset(session, collater), complete_spec.fingerprint)
        dataset = XyDataset(session, collater, model, () if split is None else (split,))
        opened.pop_all()
        return dataset


def _compare_fingerprint(dataset: XyDataset, locked: str) -> None:
    if (found := dataset.fingerprint()) != locked:
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
    **options: Any,
) -> XyDataset:
    """Open a dataset to look at it or to copy it, which needs no roles.

    The arguments and the errors are those of `load_dataset`. If nothing says which columns are X, X is None and all
    columns of the store are in the dataset. With `loads=False`, no rows are decoded when it opens; lists may then
    appear as ragged although all of them have one length.
    """
    described = _with_storage(as_spec(spec, None if base is None else Path(base), backend), backend, options)
    opener = make_backend(described)
    with ExitStack() as opened:
        with _named_by(spec):
            complete_spec, storage = _open(described, opener, None, opened, needs_X=False)
        if loads:
            complete_spec, storage = _loaded(described, complete_spec, storage, None, opened, needs_X=False)
        session, collater = Session(complete_spec, opener, storage), Collater(complete_spec)
        dataset = XyDataset(session, collater, _observation_model(complete_spec))
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
    loaded = storage.loaded([name for name in complete_spec.stored_names if name in storage.columns])
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

    Its X and y are None if nothing in the file says which columns they are.

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


# -- the spec


def as_spec(spec: Any, base: Path | None = None, backend: str | Backend | None = None) -> DatasetSpec:
    """The spec that `load_dataset` opens for its argument `spec`, before anything is filled in.

    A `backend` that is named opens a data file of any suffix.

    Raises:
        SpecError: `spec` is not valid, or no backend opens the data file.
        StoreNotFoundError: the file does not exist.
        StoreReadError: the operating system could not read the file.
    """
    if isinstance(spec, Backend):
        return DatasetSpec.parse({"storage": {"backend": spec.name}}, base)
    if isinstance(spec, DatasetSpec):
        return spec if base is None else spec.located(base, spec.root)
    if isinstance(spec, Mapping) or _is_omegaconf(spec):
        spec = plain(spec)
        if isinstance(spec, Mapping):
            return DatasetSpec.parse(spec, base)
    if not isinstance(spec, (str, os.PathLike)):
        raise SpecError(f"{quoted(spec)} is not a spec; give a DatasetSpec, a mapping or a path")
    path = config.expanded(spec, base)
    if path.suffix.lower() in config.SUFFIXES:
        from_file = DatasetSpec.from_file(path)
        return from_file if base is None else from_file.located(base)
    full = path if path.is_absolute() else (base or Path.cwd()) / path
    named = backend if isinstance(backend, str) else None
    return DatasetSpec.parse({"storage": {"backend": backend_for_file(full, named), "path": full.name}}, full.parent)


# How to come from a file that no backend opens by its suffix. "{backend}" is a package to install if it is missing.
CSV = """write `load_dataset({path}, backend="csv", delimiter="\\t")`, with the delimiter of the file"""
HDF5, ZARR, LANCE, PARQUET = "hdf5", "zarr", "lance", "parquet-awkward"
BACKEND_OF = {".h5": HDF5, ".hdf5": HDF5, ".h5ad": HDF5, ".nc": HDF5, ".zarr": ZARR, ".lance": LANCE, ".parq": PARQUET}
WAYS = {
    **dict.fromkeys((".txt", ".smi", ".dat"), CSV),
    **dict.fromkeys((".gz", ".bz2", ".xz", ".zst", ".zip"), "decompress it first"),
    **dict.fromkeys((".xlsx", ".xls"), "convert it with `pandas.read_excel({path}).to_parquet('data.parquet')`"),
    **dict.fromkeys(
        (".jsonl", ".ndjson"), "convert it with `pandas.read_json({path}, lines=True).to_parquet('data.parquet')`"
    ),
    **dict.fromkeys((".feather", ".arrow"), "read it with `pyarrow.feather.read_table`, and give the table as `data=`"),
    **dict.fromkeys(
        (".pkl", ".pickle", ".pt", ".pth"), "load it in Python if you trust it, and give the arrays to `from_arrays`"
    ),
    ".npy": "load it with `numpy.load({path})`, and give the array to `from_arrays`",
    ".sdf": "read its molecules with RDKit's `Chem.SDMolSupplier`, and write their SMILES and values to a .csv file",
}


def backend_for_file(path: Path, named: str | None = None) -> str:
    """The name of the backend that opens a data file.

    Args:
        path: the file.
        named: the backend that the caller names, which opens a file of any suffix.

    Raises:
        SpecError: no backend opens files of this suffix, or the path is a folder without Parquet files.
        StoreNotFoundError: the file does not exist.
        StoreReadError: the operating system failed to read the folder.
    """
    suffix = path.suffix.lower()
    if name := registry.backend_for(path.name):
        return name
    if named is not None and "path" in registry.backend(named).model_fields:
        return named
    shown = quoted(str(path))
    if not os.path.lexists(path):
        raise StoreNotFoundError(f"there is no file {shown}")
    with os_errors(path):
        is_folder = path.is_dir()
        names = {inside.name for inside in path.iterdir()} if is_folder else set()
    if not names.isdisjoint({"state.json", "dataset_dict.json"}):
        way = (
            f"write `datasets.load_from_disk({shown}).to_parquet('data.parquet')`, for each split if there are several"
        )
        raise SpecError(f"{shown} is a folder that the package 'datasets' saved; {way}")
    if any(name.endswith(".parquet") for name in names):
        return PARQUET
    way = WAYS.get(suffix, "").format(path=shown)
    if backend := BACKEND_OF.get(suffix):
        installed = backend in registry.list_backends()
        way = (
            f"write `load_dataset({shown}, backend={backend!r})`" if installed else f"pip install kinoml-data-{backend}"
        )
    opened = {s for cls in registry.list_backends().values() for s in cls.suffixes}
    suffixes = ", ".join(sorted(opened | set(config.SUFFIXES)))
    if is_folder and not way:
        raise SpecError(
            f"{shown} is a folder; name a file in it, or the backend that opens folders, such as backend='zarr', or "
            f"backend='lance'; known suffixes: {suffixes}"
        )
    way = way or 'to open it with a certain backend, name it, such as `backend="csv"`'
    raise SpecError(f"no backend opens files that end in {quoted(path.suffix)}; {way}; known suffixes: {suffixes}")


def _is_omegaconf(spec: Any) -> bool:
    omegaconf = sys.modules.get("omegaconf")
    return omegaconf is not None and bool(omegaconf.OmegaConf.is_config(spec))


def plain(spec: Any) -> Any:
    """A spec of mappings, sequences or an OmegaConf config as dicts and lists.

    Raises:
        SpecError: an interpolation of OmegaConf cannot be resolved, a mandatory value is missing, or the spec is nested
            too deep, for example because it contains itself.
    """
    if _is_omegaconf(spec):
        omegaconf: Any = sys.modules["omegaconf"]
        try:
            return omegaconf.OmegaConf.to_container(spec, resolve=True, throw_on_missing=True)
        except omegaconf.errors.OmegaConfBaseException as error:
            raise SpecError(f"the config cannot be resolved: {one_line(error)}") from None
    try:
        if isinstance(spec, Mapping):
            return {key: plain(value) for key, value in spec.items()}
        return [plain(value) for value in spec] if isinstance(spec, (list, tuple)) else spec
    except RecursionError:
        raise SpecError("the spec is nested too deep; does a mapping contain itself?") from None


# -- the backend


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


def make_backend(
    spec: DatasetSpec,
    data: Mapping[str, Any] | None = None,
    featurizer: PythonFeaturizers | None = None,
    given: Backend | None = None,
) -> Backend:
    """The backend that a spec names, with its options checked. It is not opened.

    Args:
        spec: names the backend.
        data, featurizer: Python objects for the backend; see `load_dataset`.
        given: the backend itself, if the caller has one.

    Raises:
        SpecError: an option is not valid, or the backend does not take the objects.
        UnknownNameError: no backend or featurizer of that name is installed.
        PluginLoadError, PluginConflictError: the plugin of such a name is broken, or two plugins register the name.
    """
    functions: dict[Any, Any] = {} if featurizer is None else {None: featurizer}
    if isinstance(featurizer, Mapping):
        functions = dict(featurizer)
    names: list[str | None] = []  # of the featurizers of the spec

    def featurizer_of(ref: FeaturizerRef) -> Any:
        names.append(ref.name)
        if ref.name in functions:
            return _function_of(ref, functions[ref.name])
        if ref.name is None:
            raise SpecError(
                "the backend 'featurize-on-access' needs a featurizer: by name in the spec, or featurizer=function in "
                "Python"
            )
        return _checked(registry.featurizer(ref.name), ref.options, context, f"featurizer {ref.name}")

    context = SpecContext(
        base=spec.base,
        root=spec.root,
        backend=lambda options: _backend(options, context),
        featurizer=featurizer_of,
        distribution=lambda ref: None if ref.name in functions else registry.distribution("featurizer", str(ref.name)),
    )
    backend = given or _backend(spec.storage.model_dump(mode="json"), context, "storage")
    if None in functions and None not in names:
        if not names:
            raise SpecError("featurizer= needs the backend 'featurize-on-access'")
        raise SpecError(
            f"featurizer=: every featurizer of the spec has a name; to replace {names[0]!r}, give "
            f"`featurizer={{{names[0]!r}: function}}`"
        )
    if unused := [name for name in functions if name not in names]:
        known = [name for name in names if name is not None]
        raise SpecError(f"featurizer=: {unknown(unused[0], known, 'featurizer of the spec')}")
    return backend if data is None else backend.with_objects(data=data)


def _function_of(ref: FeaturizerRef, featurizer: Any) -> Any:
    """The caller's featurizer for a reference.

    Raises:
        SpecError: it is not a featurizer, or the spec has options for it.
    """
    if not isinstance(featurizer, Featurizer) and not callable(featurizer):
        raise SpecError(f"featurizer=: {quoted(featurizer)} is neither a function nor a Featurizer object")
    if ref.options:
        problem = unknown(next(iter(ref.options)), ["name", "inputs", "outputs"])
        raise SpecError(f"featurizer {ref.name}: {problem}; a Python object takes no options from a spec")
    return featurizer


def _backend(options: Mapping[str, Any], context: SpecContext, where: str = "") -> Backend:
    options = dict(options)
    with error_prefix("storage: "):
        cls = registry.backend(options.pop("backend"))
    return _checked(cls, options, context, where)


def _checked(cls: type[M], options: Mapping[str, Any], context: Any, where: str) -> M:
    """An object of a registered class, with its options validated."""
    try:
        return cls.model_validate_json(plain_json(options), context=context)
    except ValidationError as error:
        raise spec_error(error, cls, where) from None


def _observation_model(spec: DatasetSpec) -> ObservationModel | None:
    def model(name: str, options: Mapping[str, Any], where: str) -> ObservationModel:
        return _checked(registry.observation_model(name), options, model, where)

    ref = spec.observation_model
    if ref is None:
        return None
    name, options = (ref, {}) if isinstance(ref, str) else (ref.name, ref.options)
    return model(name, options, "observation_model").bound_to(spec)
