"""What a dataset is: its columns, which are X and which y, where they are stored, how they split.

A spec is data. It needs no plugin to be read, and opens nothing; `factory.load_dataset` does.
"""

from __future__ import annotations

import os
from collections import Counter
from collections.abc import Mapping
from pathlib import Path, PurePath
from typing import Annotated, Any, ClassVar, Literal

from pydantic import (
    BeforeValidator,
    PrivateAttr,
    ValidationError,
    model_validator,
)

from kinoml_data.errors import SpecError, quoted, unknown
from kinoml_data.files import replace_text
from kinoml_data.spec import config
from kinoml_data.spec.array import Array, Model, frozen
from kinoml_data.spec.parts import Collate, ColumnNames, Component, NamedOrName, Splits
from kinoml_data.spec.validation import explain, plain_json


def _format(value: Any) -> Any:
    if type(value) is not int or value != 1:
        raise ValueError(f"this version of kinoml_data reads format 1, not {quoted(value)}")
    return value


class DatasetSpec(Model):
    """The description of a dataset; `docs/spec.md` goes through it field by field.

    Build it in Python from the same values a file would hold, or with `from_file`.

    Raises:
        SpecError: anything wrong with it, all problems at once, each with its path.
    """

    format: Annotated[Literal[1], BeforeValidator(_format)] = 1
    name: str | None = None
    columns: dict[str, Array] | None = None
    X: ColumnNames | None = None
    y: ColumnNames | None = None
    meta: tuple[str, ...] = ()
    storage: Component
    splits: Splits | None = None
    observation_model: NamedOrName | None = None
    collate: Collate | None = None

    UNIONS: ClassVar[frozenset[str]] = frozenset(("X", "y", "splits", "observation_model", "collate"))

    _base: Path = PrivateAttr(default_factory=Path.cwd)
    _root: Path | None = PrivateAttr(default=None)
    _objects: bool = PrivateAttr(default=False)

    def __init__(self, /, **data: Any) -> None:
        # One way in: whatever comes from Python is checked as the file that would say the same.
        try:
            self.__pydantic_validator__.validate_json(plain_json(data), self_instance=self)
        except ValidationError as error:
            raise SpecError(explain(error, type(self))) from None

    @classmethod
    def parse(cls, data: Mapping[str, Any], base: Path | None = None, root: Path | None = None) -> DatasetSpec:
        """A spec from a mapping.

        Args:
            data: what a spec file would hold.
            base: the folder that relative paths start from; by default the working directory.
            root: a folder that no path may leave; by default paths are free.

        Raises:
            SpecError: see the class.
        """
        if "datasets" in data:
            raise SpecError("it describes several datasets, under 'datasets': load_datasets opens them")
        spec = cls(**{str(key): value for key, value in data.items()})
        return spec.located(base or Path.cwd(), root)

    @classmethod
    def from_file(cls, path: str | os.PathLike[str]) -> DatasetSpec:
        """A spec from a .yaml, .json or .toml file; its paths are relative to that file.

        Raises:
            StoreNotFoundError: there is no such file.
            SpecError: it is not a valid spec.
        """
        file = Path(path)
        if file.suffix.lower() not in config.SUFFIXES:
            raise SpecError(f"{file}: a spec file ends in {', '.join(config.SUFFIXES)}")
        data = config.read(file)
        try:
            return cls.parse(data, base=file.resolve().parent)
        except SpecError as error:
            raise SpecError(f"{file}: {error}") from None

    def to_file(self, path: str | os.PathLike[str]) -> None:
        """Write the spec as .yaml, .json or .toml, its relative paths rewritten to start from there.

        Raises:
            SpecError: the suffix is none of these, or the dataset holds Python objects.
        """
        file = Path(path)
        if self._objects:
            raise SpecError("the dataset holds Python objects, which no file can name; use save_dataset")
        if file.suffix.lower() not in config.SUFFIXES:
            raise SpecError(f"{file}: a spec file ends in {', '.join(config.SUFFIXES)}")
        folder = file.resolve().parent
        data = self.to_mapping()
        data["storage"] = _moved(data["storage"], self._base, folder)
        for split in data.get("splits", {}).values():
            if isinstance(split, dict) and isinstance(split.get("file"), str):
                split["file"] = _relative(split["file"], self._base, folder)
        replace_text(file, config.dump(data, file.suffix.lower()))

    @classmethod
    def infer(cls, path: str | os.PathLike[str]) -> DatasetSpec:
        """The spec of a bare data file: the one it carries, or one made from what it holds.

        Raises:
            StoreNotFoundError, CorruptStoreError, SpecError: as `load_dataset` does.
        """
        from kinoml_data.factory import load_dataset

        with load_dataset(path) as dataset:
            return dataset.spec

    def to_mapping(self) -> dict[str, Any]:
        """What a file of this spec holds: str, numbers, lists and dicts, defaults left out."""
        data: dict[str, Any] = self.model_dump(mode="json", exclude_defaults=True)
        for name, column in data.get("columns", {}).items():
            if not column.get("shape"):
                column.pop("shape", None)
            # Written out: what a file means must not hang on a default.
            data["columns"][name] = {"dtype": (self.columns or {})[name].dtype} | column
        return {"format": self.format} | data

    def located(self, base: Path, root: Path | None = None) -> DatasetSpec:
        """The same spec with its relative paths starting from `base`, and none leaving `root`."""
        spec = self.model_copy()
        # Resolved now: the working directory may change, and `..` past a symbolic link is not what it seems.
        spec._base, spec._root = base.resolve(), root
        return spec

    def over_objects(self) -> DatasetSpec:
        """The same spec, marked as one that needs Python objects besides."""
        spec = self.model_copy()
        spec._objects = True
        return spec

    def with_storage(self, storage: Component) -> DatasetSpec:
        """The same spec over another storage."""
        return self.model_copy(update={"storage": storage})

    def with_columns(self, columns: Mapping[str, Array]) -> DatasetSpec:
        """The same spec with other columns of the same names."""
        return self.model_copy(update={"columns": frozen(columns)})

    @property
    def base(self) -> Path:
        """The folder that relative paths start from."""
        return self._base

    @property
    def root(self) -> Path | None:
        """The folder that no path may leave; None where paths are free."""
        return self._root

    @property
    def X_names(self) -> tuple[str, ...]:
        return _names(self.X)

    @property
    def y_names(self) -> tuple[str, ...]:
        return _names(self.y)

    def __eq__(self, other: object) -> bool:
        # Twins in different folders are equal: where a spec lies is not part of what it says.
        return isinstance(other, DatasetSpec) and self.__dict__ == other.__dict__

    def __hash__(self) -> int:
        return hash(tuple(self.__dict__.values()))

    @model_validator(mode="after")
    def _consistent(self) -> DatasetSpec:
        for field in ("columns", "splits", "collate"):
            if isinstance(value := getattr(self, field), dict):
                object.__setattr__(self, field, frozen(value))
        problems = []
        if self.columns is not None and self.X is None:
            problems.append("X is missing: name the column, or a list of columns, that is X")
        if self.X == ():
            problems.append("X names no column")
        roles = [*self.X_names, *self.y_names, *self.meta]
        if len(set(roles)) < len(roles):
            twice = [name for name, count in Counter(roles).items() if count > 1]
            problems.append(f"X, y and meta name {', '.join(map(quoted, twice))} twice")
        if self.columns is not None:
            for name in self.columns:
                if not name or any(c not in _NAME_CHARACTERS for c in name):
                    problems.append(f"the column name {quoted(name)} has characters other than A-Z a-z 0-9 _ -")
                if name == "_spec":
                    problems.append("the column name '_spec' is where stores keep their spec; rename the column")
            for part, names in (("X", self.X_names), ("y", self.y_names), ("meta", self.meta)):
                for name in names:
                    if name not in self.columns:
                        problems.append(f"{part}: {unknown(name, self.columns, 'column')}")
                    elif part != "meta" and self.columns[name].is_string:
                        problems.append(f"{part}: column {name!r} holds strings, which are no tensors; name it in meta")
        if problems:
            raise ValueError("; ".join(problems))
        return self


_NAME_CHARACTERS = frozenset("ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789_-")


def _names(part: str | tuple[str, ...] | None) -> tuple[str, ...]:
    return () if part is None else (part,) if isinstance(part, str) else part


def _moved(value: Any, base: Path, folder: Path) -> Any:
    """`value` with the relative paths in it, which start from `base`, starting from `folder`."""
    if isinstance(value, dict):
        return {
            k: _relative(v, base, folder)
            if isinstance(v, str) and (k == "path" or k.endswith("_path"))
            else _moved(v, base, folder)
            for k, v in value.items()
        }
    return [_moved(v, base, folder) for v in value] if isinstance(value, list) else value


def _relative(path: str, base: Path, folder: Path) -> str:
    if base == folder or PurePath(path).is_absolute():
        return path
    return Path(os.path.relpath(base / path, folder)).as_posix()
