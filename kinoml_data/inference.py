"""Completing a spec from the open store: columns, roles, splits, and the dtypes that the caller asks for."""

from __future__ import annotations

from collections.abc import Mapping

from kinoml_data.contracts.backend import Storage
from kinoml_data.errors import CorruptStoreError, SpecError, quoted, unknown
from kinoml_data.layouts.flat_arrays import stored_splits
from kinoml_data.spec import config
from kinoml_data.spec.array import DTYPES
from kinoml_data.spec.dataset_spec import CompleteSpec, DatasetSpec
from kinoml_data.spec.roles import guess_roles, names_of


def complete(spec: DatasetSpec, storage: Storage, dtype: str | Mapping[str, str] | None = None) -> CompleteSpec:
    """`spec` with everything that it leaves open filled in.

    A spec without columns takes whatever it does not specify from the spec that is embedded in the store. If there is
    none, it takes the columns and splits of the store, and roles that are guessed from their names.

    Args:
        spec: the spec that led to the store.
        storage: the open store.
        dtype: the dtype of all floating-point columns in X and y, or dtypes by column, "X" or "y".

    Raises:
        SpecError: the roles cannot be guessed, the parts do not fit together, or `dtype` is not valid.
        CorruptStoreError: the embedded spec is not valid.
    """
    if spec.columns is None and storage.spec is not None:
        spec = _over_embedded(spec, storage.spec)
    if spec.columns is None:
        complete_spec = _over_columns(spec, storage)
    else:
        complete_spec = CompleteSpec.of(spec, splits=spec.splits or {})
    return complete_spec if dtype is None else _with_dtypes(complete_spec, dtype)


def _over_embedded(spec: DatasetSpec, text: str) -> DatasetSpec:
    """The embedded spec, with its fields replaced by those that `spec` specifies."""
    try:
        stored = config.parse(text.encode(), ".json") | {"storage": spec.storage}
        embedded = DatasetSpec.parse(stored)
    except ValueError as error:  # a SpecError is one
        raise CorruptStoreError(f"the spec embedded in the store is not valid: {error}") from None
    fields = DatasetSpec.model_fields.items()
    own = {name: getattr(spec, name) for name, field in fields if getattr(spec, name) != field.default}
    if "X" in own or "y" in own:
        roles = {*names_of(own.get("X", embedded.X)), *names_of(own.get("y", embedded.y))}
        own["meta"] = spec.meta or tuple(name for name in embedded.columns or () if name not in roles)
    # Files of splits that the store itself names must be in its folder; the user's own may be anywhere.
    root = spec.root if "splits" in own else spec.root or spec.base
    return embedded.replace(**own).located(spec.base, root)


def _over_columns(spec: DatasetSpec, storage: Storage) -> CompleteSpec:
    """`spec` with the columns and splits of the store, and roles guessed from the names of the columns."""
    numeric = [name for name, array in storage.columns.items() if not array.is_string]
    X, y = spec.X, spec.y
    if X is None and y is None:
        X, y = guess_roles(numeric)
    elif X is None:
        others = tuple(name for name in numeric if name not in (*spec.y_names, *spec.meta))
        X = others[0] if len(others) == 1 else others
    roles = {*names_of(X), *names_of(y)}
    meta = spec.meta or tuple(name for name in storage.columns if name not in roles)
    splits = stored_splits(storage.arrays) if spec.splits is None else spec.splits
    return CompleteSpec.of(spec, columns=dict(storage.columns), X=X, y=y, meta=meta, splits=splits)


def _with_dtypes(spec: CompleteSpec, dtype: str | Mapping[str, str]) -> CompleteSpec:
    columns = dict(spec.columns)
    roles = {"X": spec.X_names, "y": spec.y_names}
    changes: dict[str, str] = {}
    if isinstance(dtype, str):
        names = (*roles["X"], *roles["y"])
        changes = dict.fromkeys((name for name in names if columns[name].numpy.kind == "f"), dtype)
    elif isinstance(dtype, Mapping):
        for key, value in dtype.items():
            if key not in columns and not roles.get(key):
                raise SpecError(f"dtype: {unknown(key, [*columns, *roles], 'column')}")
            changes |= dict.fromkeys((key,) if key in columns else roles[key], value)
    else:
        raise SpecError(f"dtype: {quoted(dtype)} is neither the name of a dtype nor a mapping of columns to dtypes")
    for name, value in changes.items():
        if value not in DTYPES:
            raise SpecError(f"dtype: {unknown(value, DTYPES, 'dtype')}")
        columns[name] = columns[name].model_copy(update={"dtype": value, "cast": "same_kind"})
    return spec.replace(columns=columns)
