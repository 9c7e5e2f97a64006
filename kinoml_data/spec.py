"""What a dataset is: its columns, which are X and which y, where they are stored, how they split.

A spec is data. It needs no plugin to be read, and opens nothing; `factory.load_dataset` does.
"""

from __future__ import annotations

import difflib
import json
import math
import os
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from itertools import islice
from pathlib import Path, PurePath
from typing import Annotated, Any, Literal

import numpy as np
from pydantic import (
    BaseModel,
    BeforeValidator,
    ConfigDict,
    Discriminator,
    Field,
    PrivateAttr,
    Tag,
    ValidationError,
    field_serializer,
    field_validator,
    model_validator,
)
from pydantic_core import to_json

from kinoml_data import config
from kinoml_data.errors import SpecError, one_line, quoted

STRING = "str"
DTYPES = (
    *("bool", "uint8", "uint16", "uint32", "uint64", "int8", "int16", "int32", "int64"),
    *("float16", "float32", "float64", "complex64", "complex128", STRING),
)
FORMS = ("list", "pad", "pad-mask", "packed", "nested")
NAME_PATTERN = r"^[A-Za-z0-9_-]+$"


class Frozen(dict[str, Any]):
    """A dict that refuses to change; it serializes, compares and pickles as one."""

    def _refuse(self, *_: Any, **__: Any) -> Any:
        raise TypeError("a spec cannot be changed; make another one")

    __setitem__ = __delitem__ = pop = popitem = clear = update = setdefault = __ior__ = _refuse

    def __hash__(self) -> int:  # type: ignore[override]
        return hash(frozenset(self.items()))

    def __reduce__(self) -> tuple[Any, ...]:
        return Frozen, (dict(self),)


def frozen(value: Any) -> Any:
    """`value` with every mapping in it `Frozen` and every list a tuple."""
    if isinstance(value, Mapping):
        return Frozen({str(key): frozen(item) for key, item in value.items()})
    if isinstance(value, (list, tuple)):
        return tuple(frozen(item) for item in value)
    return value


class Model(BaseModel):
    """Base of every part of a config: frozen, strict, unknown keys refused."""

    model_config = ConfigDict(frozen=True, extra="forbid", strict=True, allow_inf_nan=False)


def unknown(name: object, known: Sequence[str] | Mapping[str, Any], what: str = "key") -> str:
    """The sentence that refuses a name: with the nearest known one, or all of them."""
    near = difflib.get_close_matches(str(name), list(known), 1)
    hint = f"; did you mean {near[0]!r}?" if near else f"; known: {one_line(', '.join(known), 300)}" if known else ""
    return f"unknown {what} {quoted(name)}{hint}"


class Array(Model):
    """What one column holds: `Array("float32", (53, None))`.

    Attributes:
        dtype: numpy's name of the type that comes out, or "str".
        shape: the axes of one row; None (in a file `"*"`) where rows differ.
        stored_as: the column's name in the store, where it has another one.
        cast: "safe" lets the store hold a smaller type; "same_kind" also narrows, checking values.
        packbits: the store holds the bits of the last axis as `numpy.packbits` packs them, in uint8.
    """

    dtype: str = "float32"
    shape: tuple[int | None, ...] = ()
    stored_as: str | None = None
    cast: Literal["safe", "same_kind"] = "safe"
    packbits: bool = False

    def __init__(self, /, dtype: Any = "float32", shape: Any = (), **options: Any) -> None:
        options |= {"dtype": dtype, "shape": shape}
        super().__init__(**options)

    @property
    def ragged(self) -> bool:
        """True if the shape differs from row to row."""
        return None in self.shape

    @property
    def is_string(self) -> bool:
        return self.dtype == STRING

    @property
    def numpy(self) -> np.dtype[Any]:
        """The dtype of the values as numpy holds them; a string's are UTF-8 bytes."""
        return np.dtype(np.uint8 if self.is_string else self.dtype)

    @field_validator("dtype", mode="before")
    @classmethod
    def _known_dtype(cls, value: Any) -> Any:
        if isinstance(value, (type, np.dtype)):
            value = STRING if value is str else np.dtype(value).name
        name = value if isinstance(value, str) else ""
        if name not in DTYPES:
            raise ValueError(unknown(value, DTYPES, "dtype"))
        return name

    @field_validator("shape", mode="before")
    @classmethod
    def _ragged_axes(cls, value: Any) -> Any:
        if not isinstance(value, (list, tuple)):
            return value
        axes = (axis.item() if isinstance(axis, np.integer) else axis for axis in value)
        return tuple(None if isinstance(axis, str) and axis == "*" else axis for axis in axes)

    @model_validator(mode="after")
    def _consistent(self) -> Array:
        if any(axis is not None and axis < 0 for axis in self.shape):
            raise ValueError("an axis is not negative")
        if self.is_string and self.shape:
            raise ValueError("a column of strings has no axes")
        if self.packbits and (not self.shape or not self.shape[-1]):
            raise ValueError("packbits needs a fixed last axis, of one bit or more")
        return self

    @field_serializer("shape", when_used="json")
    def _stars(self, shape: tuple[int | None, ...]) -> tuple[int | str, ...]:
        return tuple("*" if axis is None else axis for axis in shape)


class Component(BaseModel):
    """A backend named in a config, with its options: `{backend: npz-lazy, path: x.npz}`.

    The options are checked by the backend's own model when it opens, so that a spec can be read
    where the plugin is not installed.
    """

    model_config = ConfigDict(frozen=True, extra="allow", strict=True)
    backend: str

    @property
    def options(self) -> dict[str, Any]:
        return dict(self.__pydantic_extra__ or {})

    @model_validator(mode="after")
    def _freeze(self) -> Component:
        object.__setattr__(self, "__pydantic_extra__", frozen(self.__pydantic_extra__ or {}))
        return self


class Named(BaseModel):
    """A registered object named in a config, with its options: `{name: pIC50, substrate_conc: 1.0e-6}`."""

    model_config = ConfigDict(frozen=True, extra="allow", strict=True)
    name: str

    @property
    def options(self) -> dict[str, Any]:
        return dict(self.__pydantic_extra__ or {})

    @model_validator(mode="after")
    def _freeze(self) -> Named:
        object.__setattr__(self, "__pydantic_extra__", frozen(self.__pydantic_extra__ or {}))
        return self


class RangeSplit(Model):
    """Rows from start up to, not including, stop: `{range: [0, 800]}`."""

    range: tuple[int, int]


class RowsSplit(Model):
    """Row numbers written out: `{rows: [0, 5, 7]}`."""

    rows: tuple[int, ...]


class FileSplit(Model):
    """Row numbers in a .npy file, 1-D int64, beside the spec: `{file: test_rows.npy}`."""

    file: str


class RatioSplits(Model):
    """Random splits: `{ratios: {train: 0.8, test: 0.2}, seed: 0}`."""

    ratios: dict[str, Annotated[float, Field(ge=0)]]
    seed: Annotated[int, Field(ge=0)] = 0

    @model_validator(mode="after")
    def _sum(self) -> RatioSplits:
        if not self.ratios or abs(sum(self.ratios.values()) - 1) > 1e-6:
            raise ValueError(f"ratios add up to 1, these to {sum(self.ratios.values()):g}")
        object.__setattr__(self, "ratios", frozen(self.ratios))
        return self

    def __eq__(self, other: object) -> bool:
        # The order counts: the permutation is cut in it.
        if not isinstance(other, RatioSplits):
            return NotImplemented
        return self.seed == other.seed and list(self.ratios.items()) == list(other.ratios.items())

    def __hash__(self) -> int:
        return hash((self.seed, *self.ratios.items()))


def _kind_of_split(value: Any) -> str:
    if isinstance(value, Mapping):
        kinds = [kind for kind in ("range", "rows", "file") if kind in value]
        return kinds[0] if len(kinds) == 1 else "none of them"
    return "name" if isinstance(value, str) else type(value).__name__.removesuffix("Split").lower()


def _choice(kind: Callable[[Any], str], message: str) -> Any:
    """A union whose member is chosen by `kind`, so that an error speaks of that member alone."""
    return Discriminator(kind, custom_error_type="choice", custom_error_message=message)


Split = Annotated[
    Annotated[str, Tag("name")]
    | Annotated[RangeSplit, Tag("range")]
    | Annotated[RowsSplit, Tag("rows")]
    | Annotated[FileSplit, Tag("file")],
    _choice(
        _kind_of_split,
        "a split is the name of an array in the store, {range: [start, stop]}, {rows: [...]} or {file: rows.npy}",
    ),
]
Splits = Annotated[
    Annotated[dict[str, Split], Tag("named")] | Annotated[RatioSplits, Tag("computed")],
    _choice(
        lambda v: "computed" if isinstance(v, RatioSplits) or (isinstance(v, Mapping) and "ratios" in v) else "named",
        "",
    ),
]
ColumnNames = Annotated[
    Annotated[str, Tag("one")] | Annotated[tuple[str, ...], Tag("several")],
    _choice(
        lambda v: "one" if isinstance(v, str) else "several" if isinstance(v, (list, tuple)) else "neither",
        "name one column, or a list of columns",
    ),
]


class CollateForm(Model):
    """A collate form with the value its padding has: `{form: pad, value: 0}`."""

    form: str
    value: float | int | None = None

    @field_validator("value", mode="before")
    @classmethod
    def _number(cls, value: Any) -> Any:
        number = value.item() if isinstance(value, np.number) else value
        if number is not None and (
            type(number) not in (int, float) or number in (math.inf, -math.inf) or number != number
        ):
            raise ValueError(f"{quoted(value)} is no finite number")
        return number


NamedOrName = Annotated[
    Annotated[str, Tag("bare")] | Annotated[Named, Tag("options")],
    _choice(lambda v: "bare" if isinstance(v, str) else "options", ""),
]
FormOrName = Annotated[
    Annotated[str, Tag("bare")] | Annotated[CollateForm, Tag("options")],
    _choice(lambda v: "bare" if isinstance(v, str) else "options", ""),
]
Collate = Annotated[
    Annotated[str, Tag("all")] | Annotated[dict[str, FormOrName], Tag("each")],
    _choice(lambda v: "all" if isinstance(v, str) else "each", ""),
]


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
        from kinoml_data.files import replace_text  # only writing needs the file layer

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


def plain_json(data: Mapping[str, Any]) -> bytes:
    """Python values as the JSON a spec file could hold: paths and numpy numbers included.

    Raises:
        SpecError: a value that no file could hold.
    """

    def fallback(value: Any) -> Any:
        if isinstance(value, (np.integer, np.floating, np.bool_)):
            return value.item()
        if isinstance(value, Mapping):
            return dict(value)
        raise SpecError(f"a spec cannot hold {quoted(value)}; pass Python objects to load_dataset(data=, featurizer=)")

    data = {key: _without_unset(value) for key, value in data.items()}

    def refuse(constant: str) -> None:
        raise ValueError("NaN and infinity are not values of a spec")

    try:
        text = to_json(data, fallback=fallback, inf_nan_mode="constants", exclude_none=False)
        if b"NaN" in text or b"Infinity" in text:
            json.loads(text, parse_constant=refuse)
    except ValueError as error:  # pydantic puts its own words before those of `fallback`
        said = one_line(error)
        for prefix in ("Error serializing to JSON: ", "SpecError: ", "ValueError: ", "UnicodeEncodeError: "):
            said = said.removeprefix(prefix)
        raise SpecError(said) from None
    return text


def _without_unset(value: Any) -> Any:
    return value.model_dump(mode="json", exclude_defaults=True) if isinstance(value, BaseModel) else value


def explain(error: ValidationError, model: type[BaseModel], where: str = "") -> str:
    """All problems of a validation, each with its path: `columns.atoms.dtype: ...`."""
    problems: dict[tuple[str, str], None] = {}  # each once, in order: a union reports what its members share twice
    for problem in error.errors(include_url=False, include_context=False, include_input=False):
        loc, text = problem["loc"], problem["msg"].removeprefix("Value error, ")
        if problem["type"] == "extra_forbidden":
            known = model.model_fields if len(loc) == 1 else Array.model_fields if loc[0] == "columns" else {}
            text = unknown(loc[-1], known)
        # Behind the fields that are unions stand tags, which are not the user's words.
        tags = (1, 3) if loc[1:2] in (("named",), ("each",)) else (1,)
        tagged = model is DatasetSpec and loc[:1] and loc[0] in _UNIONS
        names = [str(part) for i, part in enumerate(loc) if not (tagged and i in tags)]
        problems[".".join(filter(None, (where, *names))), text] = None
    shown = [
        f"{one_line(path, 200)}: {one_line(text)}" if path else one_line(text)
        for path, text in islice(problems, MOST_PROBLEMS)
    ]
    more = [f"and {len(problems) - MOST_PROBLEMS} more"] if len(problems) > MOST_PROBLEMS else []
    return "; ".join([*shown, *more])


MOST_PROBLEMS = 20  # in one message
_UNIONS = frozenset(("X", "y", "splits", "observation_model", "collate"))


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
