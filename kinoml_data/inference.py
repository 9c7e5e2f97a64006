"""Completing a spec from the open store: columns, roles, splits, and the dtypes that the caller asks for."""

from __future__ import annotations

import itertools
import re
from collections.abc import Iterable, Mapping
from fnmatch import fnmatchcase
from typing import Any

from pydantic import ValidationError

from kinoml_data.contracts.backend import Storage
from kinoml_data.dataset.oddities import oddity, of_texts, roles_example, text_among_numbers
from kinoml_data.errors import (
    CorruptStoreError,
    SpecError,
    UnsupportedStoreError,
    error_prefix,
    one_line,
    quoted,
    unknown,
)
from kinoml_data.layouts.flat_arrays import stored_splits
from kinoml_data.spec import config
from kinoml_data.spec.array import DTYPES, NAME_PATTERN, Array, Glob
from kinoml_data.spec.dataset_spec import RESERVED_NAME, CompleteSpec, DatasetSpec
from kinoml_data.spec.parts import ComputedSplits
from kinoml_data.spec.roles import named_X, named_y, names_of
from kinoml_data.spec.validation import dtype_name, spec_error

MOST_COLUMNS = 40  # that an error lists


def complete(
    spec: DatasetSpec,
    storage: Storage,
    dtype: Any = None,
    *,
    needs_X: bool = True,
) -> CompleteSpec:
    """`spec` with everything that it leaves open filled in.

    A spec without columns takes whatever it does not specify from the spec that is embedded in the store. If there is
    none, it takes the splits of the store, the roles that the names of the columns imply, and the columns in these
    roles.

    Args:
        spec: the spec that led to the store.
        storage: the open store.
        dtype: the dtype of all floating-point columns in X and y, or dtypes by column, "X" or "y".
        needs_X: False if it does not matter whether there is an X; without roles, all columns are then taken.

    Raises:
        SpecError: neither the spec nor the store specifies which columns are X, the parts do not fit together, or
            `dtype` is not valid.
        UnsupportedStoreError: a column in a role cannot be read, or the format of the embedded spec is a later one.
        CorruptStoreError: the embedded spec is not valid.
    """
    if spec.columns is None and storage.spec is not None:
        spec = _over_embedded(spec, storage.spec)
    if spec.columns is None:
        complete_spec = _over_columns(spec, storage, needs_X=needs_X)
    else:
        complete_spec = _over_declared(spec, spec.columns, storage)
    if needs_X and complete_spec.X is None:
        raise SpecError(_roles_needed(spec, storage))
    return complete_spec if dtype is None else _with_dtypes(complete_spec, dtype)


def _over_embedded(spec: DatasetSpec, text: str) -> DatasetSpec:
    """The embedded spec, with its fields replaced by those that `spec` specifies."""
    try:
        stored = config.parse(text.encode(), ".json") | {"storage": spec.storage}
        if type(version := stored.get("format")) is int and version > 1:
            raise UnsupportedStoreError(
                f"a later version of kinoml_data wrote the store: its spec has format {version}, "
                "but this version reads format 1"
            )
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


def _over_columns(spec: DatasetSpec, storage: Storage, *, needs_X: bool) -> CompleteSpec:
    """`spec` with the splits of the store, the roles that the names of its columns imply, and the columns in roles."""
    X, y = spec.X, spec.y
    if X is None:
        # To copy a table, a column that is called X but contains text needs no role.
        known = [name for name, array in storage.columns.items() if needs_X or not array.is_string]
        known += storage.unreadable if needs_X else ()  # such a column is an error if its name says that it is X or y
        X = named_X(known)
        y = named_y(known) if y is None and (X is not None or not needs_X) else y
    meta = _with_split_columns(spec.meta, spec, (*names_of(X), *names_of(y)))
    requested = spec.requested_columns or {}
    names = (*names_of(X), *names_of(y), *meta)
    if X is None and not needs_X:
        names = (*names, *(name for name in storage.columns if name not in names))
    _check_names(names, storage)
    for role, role_names in (("X", names_of(X)), ("y", names_of(y))):
        for name in role_names:
            if note := text_among_numbers(storage, name, least=0):
                way = "write a bound such as >5 as a number, with its relation in a column of its own"
                if note.startswith("no numbers"):
                    way = "compute numbers from it with a featurizer"
                raise SpecError(
                    f"{role}: column {quoted(name)} contains strings, which no tensor can have: {note}; put it in "
                    f"meta, declare it in `columns` with `values: [...]` if its texts are categories, or {way}"
                )
    valid = _valid_names(names)
    columns = {
        valid[name]: array if valid[name] == name else array.model_copy(update={"stored_as": name})
        for name in names
        for array in [_as_declared(storage.columns[name], requested.get(name))]
    }
    splits = stored_splits(storage.arrays) if spec.splits is None else spec.splits
    X, y = _renamed(X, valid), _renamed(y, valid)
    splits = splits.renamed(valid) if isinstance(splits, ComputedSplits) else splits
    return CompleteSpec.of(spec, columns=columns, X=X, y=y, meta=tuple(valid[name] for name in meta), splits=splits)


def _check_names(names: Iterable[str], storage: Storage) -> None:
    """Raise if a column that is asked for is not in the store, or cannot be read.

    Raises:
        UnsupportedStoreError: the column cannot be read.
        SpecError: there is no such column.
    """
    for name in names:
        if name in storage.unreadable:
            raise UnsupportedStoreError(storage.unreadable[name])
        if name not in storage.columns:
            raise SpecError(unknown(name, storage.columns, "column"))


def _valid_names(names: Iterable[str]) -> dict[str, str]:
    """By stored name, a valid name: `_` stands for other characters, so that `IC50 (nM)` is `IC50_nM`."""
    valid = {name: name for name in names if re.fullmatch(NAME_PATTERN, name) and name != RESERVED_NAME}
    for name in names:
        if name not in valid:
            stem = re.sub("[^A-Za-z0-9-]+", "_", name).strip("_") or "column"
            numbered = (f"{stem}_{number}" for number in itertools.count(2))
            valid[name] = next(new for new in itertools.chain([stem], numbered) if new not in valid.values())
    return valid


def _renamed(role: str | tuple[str, ...] | None, names: Mapping[str, str]) -> str | tuple[str, ...] | None:
    return names[role] if isinstance(role, str) else None if role is None else tuple(names[name] for name in role)


def _over_declared(spec: DatasetSpec, columns: Mapping[str, Array], storage: Storage) -> CompleteSpec:
    """`spec` with the roles that the names of its columns imply, and the stored columns that its patterns stand for."""
    X = named_X(columns) if spec.X is None else spec.X
    y = named_y(columns) if spec.X is None and spec.y is None and X is not None else spec.y
    roles = (*names_of(X), *names_of(y))
    meta = _with_split_columns(tuple(name for name in spec.meta if name not in roles), spec, (*roles, *columns))
    matched = {name: _matched(name, array, storage) for name, array in columns.items()}
    undeclared = [name for name in spec.split_columns if name not in columns]
    _check_names(undeclared, storage)
    requested = spec.requested_columns or {}
    matched |= {name: _as_declared(storage.columns[name], requested.get(name)) for name in undeclared}
    return CompleteSpec.of(spec, columns=matched, X=X, y=y, meta=meta, splits=spec.splits or {})


def _as_declared(array: Array, declared: Array | None) -> Array:
    """A stored column with the text that stands for a missing one."""
    return array if declared is None or not array.is_string else array.model_copy(update={"missing": declared.missing})


def _with_split_columns(meta: tuple[str, ...], spec: DatasetSpec, others: Iterable[str]) -> tuple[str, ...]:
    """`meta` with the columns that the splits are made from, except those that are in other roles or are declared."""
    known = {*meta, *others}
    return (*meta, *(name for name in spec.split_columns if name not in known))


def _matched(name: str, array: Array, storage: Storage) -> Array:
    """`array` with the stored columns that its pattern stands for; unchanged if it has none.

    Raises:
        SpecError: no stored column matches the pattern, or their number is not the length of the row.
    """
    if not isinstance(array.stored_as, Glob):
        return array
    pattern = array.stored_as.glob
    names = tuple(stored for stored in storage.columns if fnmatchcase(stored, pattern))
    with error_prefix(f"columns.{name}.stored_as: "):
        if not names:
            known = one_line(", ".join(storage.columns), 300)
            raise SpecError(f"no stored column matches the pattern {quoted(pattern)}; there are {known}")
        try:
            return Array(**{**dict(array), "stored_as": names})
        except ValidationError as error:
            raise spec_error(error, Array) from None


def _roles_needed(spec: DatasetSpec, storage: Storage) -> str:
    """The error for a table that does not specify which columns are X: what there is, and the line to write."""
    columns = storage.columns if spec.columns is None else spec.columns
    path = spec.storage.options.get("path")
    where = "the store" if path is None else str(path)
    lines = [f"{where} does not specify which columns are X and which are y. Name them, for example:"]
    lines.append(f"  {roles_example(columns, path, storage.indexes)}")
    count = len(columns) + len(storage.unreadable)
    there = "is 1 column" if count == 1 else f"are {count:,} columns"
    lines.append(f"In a spec file, the keys are X and y. {of_texts(columns)}There {there}:")
    width = min(40, max(map(len, columns), default=0))
    for name, array in list(columns.items())[:MOST_COLUMNS]:
        note = oddity(storage, name) if name in storage.columns else None
        lines.append(f"  {name:{width}}  {array}" + (f": {note}" if note else ""))
    if len(columns) > MOST_COLUMNS:
        lines.append(f"  ... and {len(columns) - MOST_COLUMNS:,} more")
    lines += [f"  {name:{width}}  not readable: {reason}" for name, reason in storage.unreadable.items()]
    return "\n".join(lines)


def _with_dtypes(spec: CompleteSpec, dtype: Any) -> CompleteSpec:
    columns = dict(spec.columns)
    roles = {"X": spec.X_names, "y": spec.y_names}
    changes: dict[str, Any] = {}
    dtype = dtype_name(dtype)
    if isinstance(dtype, str):
        names = (*roles["X"], *roles["y"])
        changes = dict.fromkeys((name for name in names if columns[name].numpy.kind == "f"), dtype)
    elif isinstance(dtype, Mapping):
        for key, value in dtype.items():
            if key not in columns and not roles.get(key):
                raise SpecError(f"dtype: {unknown(key, [*columns, *roles], 'column')}")
            changes |= dict.fromkeys((key,) if key in columns else roles[key], dtype_name(value))
    else:
        raise SpecError(f"dtype: {quoted(dtype)} is neither the name of a dtype nor a mapping of columns to dtypes")
    for name, value in changes.items():
        if not isinstance(value, str) or value not in DTYPES:
            raise SpecError(f"dtype: {unknown(value, DTYPES, 'dtype')}")
        columns[name] = columns[name].model_copy(update={"dtype": value})
    return spec.replace(columns=columns)
