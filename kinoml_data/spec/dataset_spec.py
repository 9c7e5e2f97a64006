"""The description of a dataset: its columns, their roles, its storage, and how the rows are split.

A spec is plain data. Reading one opens no store and needs no plugin; `factory.load_dataset` opens the dataset.
"""

from __future__ import annotations

import os
import re
from collections import Counter
from collections.abc import Container, Mapping
from pathlib import Path
from typing import Annotated, Any, Literal, Self

from pydantic import BeforeValidator, PrivateAttr, ValidationError, model_validator

from kinoml_data.errors import SpecError, error_prefix, quoted, unknown
from kinoml_data.files import replacing
from kinoml_data.spec import config
from kinoml_data.spec.array import NAME_PATTERN, STRING, Array, Glob, Model, frozen
from kinoml_data.spec.html import spec_html
from kinoml_data.spec.parts import BackendRef, Collate, ColumnLabels, ColumnNames, ComputedSplits, NameOrRef, Splits
from kinoml_data.spec.roles import names_of
from kinoml_data.spec.validation import plain_json, spec_error

RESERVED_NAME = "_spec"


def _format(value: Any) -> Any:
    if type(value) is not int or value != 1:
        raise ValueError(f"this version of kinoml_data reads format 1, not {quoted(value)}")
    return value


class DatasetSpec(Model):
    """The description of a dataset. The manual's page "The spec" explains every field.

    Build one in Python from the values that a file would contain, or read one with `from_file`. A spec never changes;
    two specs are equal if all their fields are equal, regardless of the files that they were read from.

    Raises:
        SpecError: the spec is not valid. The error lists every problem with its path.
    """

    format: Annotated[Literal[1], BeforeValidator(_format)] = 1
    name: str | None = None
    columns: dict[str, Array] | None = None
    X: ColumnNames | None = None
    y: ColumnNames | None = None
    meta: tuple[str, ...] = ()
    storage: BackendRef
    splits: Splits | None = None
    observation_model: NameOrRef | None = None
    collate: Collate | None = None
    fingerprint: str | None = None

    _base: Path = PrivateAttr(default_factory=Path.cwd)
    _root: Path | None = PrivateAttr(default=None)
    _objects: bool = PrivateAttr(default=False)

    def __init__(self, /, **data: Any) -> None:
        # Values from Python are checked as if they came from a file, so that both have the same rules.
        try:
            self.__pydantic_validator__.validate_json(plain_json(data), self_instance=self)
        except ValidationError as error:
            raise spec_error(error, type(self)) from None

    @classmethod
    def parse(cls, data: Mapping[str, Any], base: Path | None = None, root: Path | None = None) -> Self:
        """Make a spec from a mapping.

        Args:
            data: the contents of a spec file.
            base: the folder that relative paths start from; by default the working directory.
            root: a folder that no path may leave; by default paths may lead anywhere.

        Raises:
            SpecError: the spec is not valid, or describes several datasets.
        """
        if "datasets" in data:
            raise SpecError("the spec describes several datasets under the key 'datasets'; use load_datasets")
        return cls(**{str(key): value for key, value in data.items()}).located(base or Path.cwd(), root)

    @classmethod
    def from_file(cls, path: str | os.PathLike[str]) -> Self:
        """Read a spec from a .yaml, .json or .toml file. Its relative paths start from the folder of the file.

        Raises:
            StoreNotFoundError: the file does not exist.
            StoreReadError: the operating system could not read the file.
            SpecError: the spec is not valid.
        """
        file = _spec_file(path)
        data = config.read(file)
        with error_prefix(f"{file}: "):
            return cls.parse(data, base=file.resolve().parent)

    def to_file(self, path: str | os.PathLike[str]) -> None:
        """Write the spec to a .yaml, .json or .toml file. Relative paths are rewritten to start from its folder.

        Raises:
            SpecError: the file has another suffix, the dataset contains Python objects, or the text would be longer
                than `from_file` reads.
            StoreWriteError: the operating system could not write the file.
        """
        file = _spec_file(path)
        if self._objects:
            raise SpecError("the dataset contains Python objects, which a spec file cannot contain; use save_dataset")
        folder = file.resolve().parent
        data = self.to_mapping()
        data["storage"] = _moved(data["storage"], self._base, folder)
        splits = data.get("splits", {})
        labels = splits.get("labels", {})
        for split in (*splits.values(), *(labels.values() if isinstance(labels, dict) else ())):
            if isinstance(split, dict) and isinstance(split.get("file"), str):
                split["file"] = _relative(split["file"], self._base, folder)
        text = config.dump(data, file.suffix.lower()).encode()
        if len(text) > config.MAX_BYTES:
            raise SpecError(
                f"{file}: the spec takes {len(text):,} bytes, but a spec file may have at most {config.MAX_BYTES:,}; "
                "save long lists of rows with `numpy.save`, and name the file in the spec, such as "
                "`splits: {train: {file: train.npy}}`"
            )
        with replacing(file, overwrite=True) as temporary:
            temporary.write_bytes(text)

    def _repr_html_(self) -> str:
        """The spec as tables for a notebook."""
        roles = {"X": self.X_names, "y": self.y_names, "meta": self.meta}
        return spec_html(type(self).__name__, self.name, self.columns or {}, roles, self.to_mapping())

    def to_mapping(self) -> dict[str, Any]:
        """The contents of a file with this spec: strings, numbers, lists and dicts. Defaults are left out."""
        data: dict[str, Any] = self.model_dump(mode="json", exclude_defaults=True)
        for name, array in (self.columns or {}).items():
            column = data["columns"][name]
            if not array.shape:
                column.pop("shape", None)
            # The dtype is always written, so that the meaning of a file does not depend on a default.
            data["columns"][name] = {"dtype": array.dtype} | column
        return {"format": self.format} | data

    def located(self, base: Path, root: Path | None = None) -> Self:
        """The same spec with relative paths that start from `base` and do not leave `root`."""
        spec = self.model_copy()
        # Paths are resolved now, because the working directory may change, and `..` after a symbolic link is ambiguous.
        spec._base, spec._root = base.resolve(), root
        return spec

    def over_objects(self) -> Self:
        """The same spec, marked as one that needs Python objects as well."""
        spec = self.model_copy()
        spec._objects = True
        return spec

    def with_storage(self, storage: BackendRef) -> Self:
        """The same spec over another storage."""
        return self.replace(storage=storage)

    def replace(self, **parts: Any) -> Self:
        """The same spec with other values of some fields.

        The values must have the types of the fields; only whether they fit together is checked.

        Raises:
            SpecError: the parts do not fit together.
        """
        spec = self.model_copy(update=parts)
        spec._check()
        return spec

    @property
    def base(self) -> Path:
        """The folder that relative paths start from."""
        return self._base

    @property
    def root(self) -> Path | None:
        """The folder that no path may leave; None if paths may lead anywhere."""
        return self._root

    @property
    def X_names(self) -> tuple[str, ...]:
        """The names of the columns in X."""
        return names_of(self.X)

    @property
    def y_names(self) -> tuple[str, ...]:
        """The names of the columns in y."""
        return names_of(self.y)

    @property
    def requested_columns(self) -> dict[str, Array | None] | None:
        """The columns by their names in the store, as `Backend.open` takes them.

        They are the columns that the spec lists, or without such a list the columns in its roles; None if the spec
        names no column, or if a pattern stands for several.
        """
        if self.columns is None:
            roles = (*self.X_names, *self.y_names, *self.meta)
            return dict.fromkeys(roles) | self._undeclared(roles) if self.X is not None else None
        if any(isinstance(array.stored_as, Glob) for array in self.columns.values()):
            return None
        requested: dict[str, Array | None] = {}
        for name, array in self.columns.items():
            several = isinstance(array.stored_as, tuple)
            declared = array.model_copy(update={"shape": (), "stored_as": None}) if several else array
            for stored_as in array.stored_names(name):
                other = requested.get(stored_as, declared)
                # Two columns of different dtypes may be made from one stored column, which is then read as it is.
                same = other is not None and _of_store(other) == _of_store(declared)
                requested[stored_as] = declared if same else None
        return requested | self._undeclared(self.columns)

    def _undeclared(self, others: Container[str]) -> dict[str, Array | None]:
        """The columns that only the splits are made from. A row with a missing label, or an empty one, has no label."""
        labels = self.splits.labels if isinstance(self.splits, ComputedSplits) else None
        label = labels.column if isinstance(labels, ColumnLabels) else None
        names = [name for name in self.split_columns if name not in others]
        return {name: Array(STRING, missing="") if name == label else None for name in names}

    @property
    def split_columns(self) -> tuple[str, ...]:
        """The columns that the splits are made from."""
        return self.splits.columns if isinstance(self.splits, ComputedSplits) else ()

    def __eq__(self, other: object) -> bool:
        # Where a spec was read from is not a part of its meaning.
        return isinstance(other, DatasetSpec) and self._values() == other._values()

    def __hash__(self) -> int:
        return hash(self._values())

    def _values(self) -> tuple[Any, ...]:
        return tuple(getattr(self, name) for name in DatasetSpec.model_fields)

    @model_validator(mode="after")
    def _validated(self) -> Self:
        self._check()
        return self

    def _check(self) -> None:
        """Make the fields immutable, and raise a `SpecError` if they do not fit together."""
        for field in ("columns", "splits", "collate"):
            if isinstance(value := getattr(self, field), dict):
                object.__setattr__(self, field, frozen(value))
        problems = []
        if self.X == ():
            problems.append("X is an empty list")
        roles = Counter((*self.X_names, *self.y_names, *self.meta))
        if repeated := [quoted(name) for name, count in roles.items() if count > 1]:
            problems.append(f"X, y and meta contain {', '.join(repeated)} more than once")
        if self.columns is not None:
            roles_of = {"X": self.X_names, "y": self.y_names, "meta": self.meta}
            hint = "" if isinstance(self, CompleteSpec) else "; `columns` must list every column that has a role"
            problems += _problems_of_columns(self.columns, roles_of, hint)
        if problems:
            raise SpecError(*problems)


class CompleteSpec(DatasetSpec):
    """A spec that leaves nothing open: columns, roles and splits are filled in. Every open dataset has one.

    X is None only if the dataset was opened to be copied, and its store does not specify which columns are X.
    """

    columns: dict[str, Array]
    splits: Splits

    @property
    def stored_names(self) -> list[str]:
        """The names in the store of all columns."""
        return list({stored: None for name, array in self.columns.items() for stored in array.stored_names(name)})

    @classmethod
    def of(cls, spec: DatasetSpec, **parts: Any) -> CompleteSpec:
        """Complete `spec` with values for the fields that it leaves open; see `DatasetSpec.replace`."""
        complete = cls.model_construct(**{name: getattr(spec, name) for name in cls.model_fields} | parts)
        complete._base, complete._root, complete._objects = spec._base, spec._root, spec._objects
        complete._check()
        return complete


def _problems_of_columns(columns: Mapping[str, Array], roles: Mapping[str, tuple[str, ...]], hint: str) -> list[str]:
    problems = []
    for name in columns:
        if not re.fullmatch(NAME_PATTERN, name):
            problems.append(
                f"the column name {quoted(name)} contains characters other than A-Z a-z 0-9 _ -; choose another name, "
                f"and write `stored_as: {quoted(name)}`"
            )
        if name == RESERVED_NAME:
            problems.append(f"the column name {name!r} is reserved for the spec inside a store; rename the column")
    for role, names in roles.items():
        for name in names:
            if name not in columns:
                problems.append(f"{role}: {unknown(name, columns, 'column')}{hint}")
            elif role != "meta" and columns[name].is_string:
                problems.append(f"{role}: column {name!r} contains strings, which no tensor can have; put it in meta")
    return problems


def _of_store(array: Array) -> tuple[object, ...]:
    """The keys of an array that describe the stored column, rather than what is made of it."""
    return array.as_stored.dtype, array.as_stored.shape, array.missing


def _spec_file(path: str | os.PathLike[str]) -> Path:
    file = config.expanded(path)
    if file.suffix.lower() not in config.SUFFIXES:
        raise SpecError(f"{file}: the name of a spec file must end in {', '.join(config.SUFFIXES)}")
    return file


def _moved(value: Any, base: Path, folder: Path) -> Any:
    """`value` with its relative paths, which start from `base`, rewritten to start from `folder`."""
    if isinstance(value, dict):
        return {
            k: _relative(v, base, folder)
            if isinstance(v, str) and (k == "path" or k.endswith("_path"))
            else _moved(v, base, folder)
            for k, v in value.items()
        }
    return [_moved(v, base, folder) for v in value] if isinstance(value, list) else value


def _relative(path: str, base: Path, folder: Path) -> str:
    if base == folder or config.expanded(path, base).is_absolute():
        return path
    return Path(os.path.relpath(base / path, folder)).as_posix()
