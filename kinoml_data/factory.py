"""`load_dataset`: from a config, a file or Python arrays to a dataset."""

from __future__ import annotations

import difflib
import os
import sys
from collections.abc import Callable, Iterable, Mapping
from functools import partial
from glob import glob
from pathlib import Path
from typing import Any, TypeVar

from pydantic import ValidationError

from kinoml_data import registry
from kinoml_data.contracts.backend import Backend
from kinoml_data.contracts.featurizer import Featurizer
from kinoml_data.contracts.observation_model import ObservationModel
from kinoml_data.dataset.binding import complete, parse_embedded_spec
from kinoml_data.dataset.collate import Collater
from kinoml_data.dataset.dataset import XyDataset
from kinoml_data.dataset.session import Session, requested_columns
from kinoml_data.errors import SpecError, StoreNotFoundError, UnknownNameError, error_prefix, quoted, unknown
from kinoml_data.spec import config
from kinoml_data.spec.array import DTYPES, Model
from kinoml_data.spec.dataset_spec import DatasetSpec
from kinoml_data.spec.parts import Component, Named
from kinoml_data.spec.validation import explain, plain_json

IN_MEMORY = "in-memory"
M = TypeVar("M", bound=Model)
KEYWORDS = ("backend", "split", "data", "featurizer", "collate", "dtype", "device", "base")
LOADING = ("batch_size", "shuffle", "num_workers", "seed", "prefetch", "group_by_length")


def load_dataset(
    spec: DatasetSpec | Mapping[str, Any] | str | os.PathLike[str],
    *,
    backend: str | None = None,
    split: str | None = None,
    data: Mapping[str, Any] | None = None,
    featurizer: Callable[..., Any] | None = None,
    collate: Any = None,
    dtype: str | Mapping[str, str] | None = None,
    device: str | None = None,
    base: str | os.PathLike[str] | None = None,
    **options: Any,
) -> XyDataset:
    """A dataset from its description.

    Args:
        spec: a `DatasetSpec`, a mapping, a .yaml, .json or .toml file, or a bare data file that a backend opens.
        backend: another backend over the same data: one with a `source` option wraps the spec's storage, so
            "in-memory" preloads it; any other replaces it and keeps the options both have.
        split: return this split instead of all rows.
        data: Python values by column, one entry per row, for a storage without a source.
        featurizer: a Python callable for `featurize-on-access`.
        collate: a form for all ragged columns, or `{column: form}`.
        dtype: the dtype of all floating columns of X and y, or `{column: dtype}`, where "X" and "y" stand for
            all of theirs. Values that do not fit are an error.
        device: where `in-memory` keeps the data, such as "cuda".
        base: the folder that a mapping's relative paths start from; by default the working directory.
        options: further options of the outermost backend.

    Raises:
        SpecError: the description is wrong, or does not fit what is stored.
        SplitError: its splits overlap or are out of range, or there is no `split`.
        UnknownNameError, PluginLoadError, PluginConflictError: a name is not registered, or its plugin is broken.
        StoreNotFoundError, CorruptStoreError, UnsupportedStoreError: the store cannot be opened.
    """
    if data is not None and not isinstance(data, Mapping):
        raise SpecError(f"data: {quoted(data)} is not a mapping of columns to values")
    found = as_spec(spec, None if base is None else Path(base))
    if device is not None:
        options = options | {"device": device}
    found = _with_storage(found, backend, options)
    opener = open_backend(found, data, featurizer)
    storage = opener.open(requested_columns(found))
    try:
        if found.columns is None and storage.spec is not None:
            found = _embedded(storage.spec, found)
        found = complete(found, storage)
        if dtype is not None:
            found = _with_dtypes(found, dtype)
        model = _observation_model(found)
        if data is not None or featurizer is not None:
            found = found.over_objects()
        dataset = XyDataset(Session(found, opener, storage), Collater(found, collate), model)
        return dataset if split is None else dataset.split(split)
    except BaseException:
        storage.close()
        raise


def from_arrays(X: Any, y: Any = None, splits: Mapping[str, Any] | None = None) -> XyDataset:
    """A dataset over Python arrays.

    Args:
        X, y: values of one row each along the first axis: an array, a tensor, a list of arrays of different
            shapes, or `{name: values}` for several columns. y may be None.
        splits: row numbers by name, or `{"ratios": {...}, "seed": 0}`.

    Raises:
        SpecError: different numbers of rows, object arrays, rows of different rank.
        SplitError: splits that overlap or are out of range.
    """
    data: dict[str, Any] = {}
    roles: dict[str, Any] = {}
    for role, values in (("X", X), ("y", y)):
        if values is None:
            continue
        named = values if isinstance(values, Mapping) else {role: values}
        if clash := data.keys() & named.keys():
            raise SpecError(f"X and y both have a column {quoted(min(clash))}")
        data |= named
        roles[role] = list(named) if isinstance(values, Mapping) else role
    if splits is not None:
        if not isinstance(splits, Mapping):
            raise SpecError(f"splits: {quoted(splits)} is not a mapping of names to row numbers")
        computed = "ratios" in splits
        roles["splits"] = splits if computed else {n: {"rows": _listed(rows)} for n, rows in splits.items()}
    return load_dataset(roles | {"storage": {"backend": IN_MEMORY}}, data=data)


def load_datasets(
    specs: Mapping[str, Any] | str | os.PathLike[str], *, base: str | os.PathLike[str] | None = None, **options: Any
) -> dict[str, XyDataset]:
    """Several datasets from one description.

    Args:
        specs: a mapping, or a .yaml, .json or .toml file, with the key `datasets`: specs by name, or a glob of data
            files that each become a dataset named by its stem. What stands beside `datasets` holds for each of them
            that has not the key itself; a `storage` without `backend` takes its options beside its own.
        base: the folder that a mapping's relative paths start from; by default the working directory.
        options: as of `load_dataset`, for each of them.

    Returns:
        The datasets by name, in the order of the description; those of a glob by their names.

    Raises:
        StoreNotFoundError: no file fits the glob.
        SpecError and the others of `load_dataset`: beginning with `datasets.<name>`.
    """
    found: dict[str, XyDataset] = {}
    try:
        for name, spec in _several(specs, None if base is None else Path(base)).items():
            with error_prefix(f"datasets.{name}: "):
                found[name] = load_dataset(spec(), **options)
    except BaseException:
        for dataset in found.values():
            dataset.close()
        raise
    return found


def _several(specs: Any, base: Path | None) -> dict[str, Callable[[], DatasetSpec]]:
    """What makes each spec, by name."""
    where = ""
    if isinstance(specs, (str, os.PathLike)):
        path = Path(specs)
        if path.suffix.lower() not in config.SUFFIXES:
            raise SpecError(
                f"{quoted(str(path))} is no spec file: give one with the key 'datasets', or {{'datasets': a glob}}; "
                "for one data file, use load_dataset"
            )
        specs, base, where = config.read(path), path.resolve().parent if base is None else base, f"{path}: "
    specs = _plain(specs)
    if not isinstance(specs, Mapping) or "datasets" not in specs:
        raise SpecError(f"{where}several datasets stand under the key 'datasets'; for one, use load_dataset")
    shared, folder = {key: value for key, value in specs.items() if key != "datasets"}, base or Path.cwd()
    listed = specs["datasets"]
    if not isinstance(shared.get("storage", {}), Mapping):
        raise SpecError(f"{where}storage: {quoted(shared['storage'])} is no mapping of options")
    if isinstance(listed, str):
        listed = {name: {"storage": {"path": path}} for name, path in _fitting(listed, folder)}
    if not isinstance(listed, Mapping) or not listed or not all(isinstance(said, Mapping) for said in listed.values()):
        raise SpecError(f"{where}datasets: {quoted(listed)} is neither a mapping of names to specs nor a glob")
    if wrong := [name for name in listed if not isinstance(name, str)]:
        raise SpecError(f"{where}datasets: the name {quoted(wrong[0])} is not a text")
    return {name: partial(_one_of, shared, said, folder) for name, said in listed.items()}


def _fitting(pattern: str, folder: Path) -> list[tuple[str, str]]:
    """Stem and path of each file that fits a glob, in order of the stems."""
    paths = sorted(glob(pattern, root_dir=folder, recursive=True))  # noqa: PTH207 - Path.glob refuses absolute patterns
    stems = [Path(path).stem for path in paths]
    if not paths:
        raise StoreNotFoundError(f"no file fits {quoted(pattern)} in {quoted(str(folder))}")
    if twice := [stem for stem in stems if stems.count(stem) > 1]:
        both = [path for path in paths if Path(path).stem == twice[0]]
        raise SpecError(f"datasets: {' and '.join(map(quoted, both[:2]))} would have one name")
    return sorted(zip(stems, paths, strict=True))


def _one_of(shared: Mapping[str, Any], said: Mapping[str, Any], folder: Path) -> DatasetSpec:
    both = {**shared, **said}
    storage = both.get("storage")
    if isinstance(storage, Mapping) and "backend" not in storage:
        storage = {**shared.get("storage", {}), **storage}
        path = storage.get("path")
        both["storage"] = {"backend": _backend_for(Path(path)), **storage} if isinstance(path, str) else storage
    return DatasetSpec.parse(both, folder)


def _listed(rows: Any) -> Any:
    if hasattr(rows, "tolist"):
        return rows.tolist()
    return list(rows) if isinstance(rows, Iterable) else rows  # what is no list the spec refuses


# -- the spec


def as_spec(spec: Any, base: Path | None = None) -> DatasetSpec:
    """The spec that `load_dataset` would open, as it is said; raises as that does."""
    if isinstance(spec, DatasetSpec):
        return spec if base is None else spec.located(base, spec.root)
    if isinstance(spec, Mapping) or _is_omegaconf(spec):
        return DatasetSpec.parse(_plain(spec), base)
    if not isinstance(spec, (str, os.PathLike)):
        raise SpecError(f"{quoted(spec)} is no spec: give a DatasetSpec, a mapping or a path")
    path = Path(spec)
    if path.suffix.lower() in config.SUFFIXES:
        found = DatasetSpec.from_file(path)
        return found if base is None else found.located(base)
    full = path if path.is_absolute() else (base or Path.cwd()) / path
    return DatasetSpec.parse({"storage": {"backend": _backend_for(path), "path": full.name}}, full.parent)


def _backend_for(path: Path) -> str:
    """The backend that opens a bare file."""
    name = registry.backend_for(path.suffix.lower())
    if name is None:
        if not path.is_file():
            raise StoreNotFoundError(f"there is no file {quoted(str(path))}")
        opened = {s for cls in registry.list_backends().values() for s in cls.suffixes}
        suffixes = sorted(opened | set(config.SUFFIXES))
        raise SpecError(f"no backend opens bare {quoted(path.suffix)} files; known suffixes: {', '.join(suffixes)}")
    return name


def _is_omegaconf(spec: Any) -> bool:
    omegaconf = sys.modules.get("omegaconf")
    return omegaconf is not None and bool(omegaconf.OmegaConf.is_config(spec))


def _plain(spec: Any) -> Any:
    if _is_omegaconf(spec):
        return sys.modules["omegaconf"].OmegaConf.to_container(spec, resolve=True)
    if isinstance(spec, Mapping):
        return {key: _plain(value) for key, value in spec.items()}
    return [_plain(value) for value in spec] if isinstance(spec, (list, tuple)) else spec


def _embedded(text: str, opened: DatasetSpec) -> DatasetSpec:
    """The spec in the store; what the spec that led there says besides goes first."""
    found = parse_embedded_spec(text, opened.storage.model_dump(mode="json"), opened.base, opened.root or opened.base)
    said = opened.to_mapping()
    both = found.to_mapping() | said
    if "X" in said or "y" in said:
        roles = {*_names(both["X"]), *_names(both.get("y"))}
        both["meta"] = list(opened.meta) or [name for name in found.columns or {} if name not in roles]
    # Splits that the store names itself may not lead out of its folder; the user's own may.
    root = opened.root if "splits" in said else opened.root or opened.base
    return DatasetSpec.parse(both, opened.base, root)


def _names(part: Any) -> list[str]:
    return [part] if isinstance(part, str) else list(part or ())


def _with_dtypes(spec: DatasetSpec, dtype: str | Mapping[str, str]) -> DatasetSpec:
    columns = dict(spec.columns or {})
    roles = {"X": spec.X_names, "y": spec.y_names}
    if isinstance(dtype, str):
        floating = (name for name in (*roles["X"], *roles["y"]) if columns[name].numpy.kind == "f")
        changes = dict.fromkeys(floating, dtype)
    elif not isinstance(dtype, Mapping):
        raise SpecError(f"dtype: {quoted(dtype)} is neither a dtype's name, such as 'float32', nor names by column")
    else:
        changes = {}
        for key, value in dtype.items():
            names = (key,) if key in columns else roles.get(key, ())
            if not names:
                raise SpecError(f"dtype: {unknown(key, [*columns, *roles], 'column')}")
            changes |= dict.fromkeys(names, value)
    for name, value in changes.items():
        if value not in DTYPES:
            raise SpecError(f"dtype: {unknown(value, DTYPES, 'dtype')}")
        columns[name] = columns[name].model_copy(update={"dtype": value, "cast": "same_kind"})
    return spec.with_columns(columns)


# -- the backend


def _with_storage(spec: DatasetSpec, backend: str | None, options: Mapping[str, Any]) -> DatasetSpec:
    if backend is None and not options:
        return spec
    held = spec.storage
    _check_keywords(options, backend or held.backend)
    if backend is None or backend == held.backend:
        chosen = {**held.options, **options}
        return spec.with_storage(_component(held.backend, chosen))
    cls = registry.backend(backend)
    if "source" in cls.model_fields:
        wraps = held.backend != backend and not (len(held.options) == 0 and held.backend == IN_MEMORY)
        source = {"source": held.model_dump(mode="json")} if wraps else {}
        return spec.with_storage(_component(backend, {**source, **options}))
    kept = {key: value for key, value in held.options.items() if key in cls.model_fields}
    return spec.with_storage(_component(backend, {**kept, **options}))


def _check_keywords(options: Mapping[str, Any], backend: str) -> None:
    """Refuse what is no option of the backend, where it is clear what was meant; the others it refuses itself."""
    known = registry.backend(backend).model_fields
    for name in [name for name in options if name not in known]:
        if name == "device":
            raise SpecError(f"backend {backend!r} keeps nothing on a device; give backend='in-memory' too")
        if name in DatasetSpec.model_fields:
            raise SpecError(f"{name!r} is a key of the spec: write it there, or give a mapping as spec")
        if name in LOADING:
            raise SpecError(f"{name!r} is an argument of as_dataloader")
        if near := difflib.get_close_matches(name, KEYWORDS, 1, 0.8):
            raise SpecError(f"unknown argument {quoted(name)}; did you mean {near[0]!r}?")


def _component(backend: str, options: Mapping[str, Any]) -> Component:
    return Component.model_validate_json(plain_json({**options, "backend": backend}))


def open_backend(
    spec: DatasetSpec, data: Mapping[str, Any] | None = None, featurizer: Callable[..., Any] | None = None
) -> Backend:
    """The backend a spec names, with its options checked, over the Python objects given.

    Raises:
        SpecError: an option is wrong, or no backend of the spec takes what is given.
        UnknownNameError, PluginLoadError, PluginConflictError: as `registry.Registry.get`.
    """
    context = {
        "base": spec.base,
        "root": spec.root,
        "resolve": _resolve,
        "featurizer_of": lambda named: _featurizer(named, {"base": spec.base, "root": spec.root}),
        "data": data,
        "featurizer": featurizer,
    }
    found = _resolve(spec.storage.model_dump(mode="json"), context, "storage")
    chain: list[Any] = [found]
    while isinstance(inner := getattr(chain[-1], "source", None), Backend):
        chain.append(inner)
    innermost = chain[-1]
    if data is not None and getattr(innermost, "_data", None) is None:
        raise SpecError(f"backend {innermost.name!r} takes no data=; use backend='in-memory' or 'featurize-on-access'")
    if featurizer is not None and not any(getattr(link, "_callable", None) is not None for link in chain):
        raise SpecError("featurizer= needs the backend 'featurize-on-access'")
    return found


def _resolve(value: Mapping[str, Any], context: dict[str, Any], where: str = "") -> Backend:
    options = dict(value)
    name = options.pop("backend")
    try:
        cls = registry.backend(name)
    except UnknownNameError as error:
        raise UnknownNameError(f"storage: {error}") from None
    return _options(cls, options, context, where)


def _options(cls: type[M], options: Mapping[str, Any], context: Any, where: str) -> M:
    try:
        return cls.model_validate_json(plain_json(options), context=context)
    except ValidationError as error:
        raise SpecError(explain(error, cls, where)) from None


def _featurizer(named: Named, context: Mapping[str, Any]) -> Featurizer:
    return _options(registry.featurizer(named.name), named.options, context, f"featurizer {named.name}")


def _observation_model(spec: DatasetSpec) -> ObservationModel | None:
    named = spec.observation_model
    if named is None:
        return None
    name, options = (named, {}) if isinstance(named, str) else (named.name, named.options)
    return _options(registry.observation_model(name), options, None, "observation_model")
