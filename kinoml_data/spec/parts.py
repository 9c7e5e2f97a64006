"""The parts of a spec: references to plugins, splits, roles and collate forms."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from typing import Annotated, Any, Self

import numpy as np
from pydantic import BaseModel, ConfigDict, Discriminator, Field, Tag, field_validator, model_validator

from kinoml_data.errors import quoted
from kinoml_data.spec.array import Array, Model, frozen

FORMS = ("list", "pad", "pad-mask", "packed", "nested", "unique")

# A tag tells pydantic which member of a union to use. It appears in the paths of errors, from which
# `validation.spec_error` removes whatever begins with this mark.
TAG_MARK = "\0"
TEXT, LIST, MAPPING = (TAG_MARK + kind for kind in ("text", "list", "mapping"))


class PluginRef(BaseModel):
    """A reference to a registered class, with its options.

    The options are checked only when the class is used, so that a spec can be read without its plugins.
    """

    model_config = ConfigDict(frozen=True, extra="allow", strict=True)

    @property
    def options(self) -> dict[str, Any]:
        """A copy of the options."""
        return dict(self.__pydantic_extra__ or {})

    @model_validator(mode="after")
    def _freeze(self) -> Self:
        object.__setattr__(self, "__pydantic_extra__", frozen(self.__pydantic_extra__ or {}))
        return self


class BackendRef(PluginRef):
    """A backend and its options: `{backend: npz-lazy, path: x.npz}`."""

    backend: str


class NamedRef(PluginRef):
    """A registered class and its options: `{name: pIC50, substrate_conc: 1.0e-6}`, or its name."""

    name: str

    @model_validator(mode="before")
    @classmethod
    def _bare_name(cls, value: Any) -> Any:
        return {"name": value} if isinstance(value, str) else value


class RangeSplit(Model):
    """The rows from `start` up to, but not including, `stop`: `{range: [0, 800]}`."""

    range: tuple[int, int]


class RowsSplit(Model):
    """A list of row numbers: `{rows: [0, 5, 7]}`."""

    rows: tuple[int, ...]


class FileSplit(Model):
    """A .npy file of row numbers, one axis of integers: `{file: test_rows.npy}`."""

    file: str


class RatioSplits(Model):
    """Random splits: `{ratios: {train: 0.8, test: 0.2}, seed: 0}`."""

    ratios: dict[str, Annotated[float, Field(ge=0)]]
    seed: Annotated[int, Field(ge=0)] = 0

    @model_validator(mode="after")
    def _sum(self) -> RatioSplits:
        if not self.ratios or abs(sum(self.ratios.values()) - 1) > 1e-6:
            raise ValueError(f"split ratios must sum to 1; these sum to {sum(self.ratios.values()):g}")
        object.__setattr__(self, "ratios", frozen(self.ratios))
        return self

    def __eq__(self, other: object) -> bool:
        # The order matters: the permutation is cut in the order of the ratios.
        if not isinstance(other, RatioSplits):
            return NotImplemented
        return self.seed == other.seed and list(self.ratios.items()) == list(other.ratios.items())

    def __hash__(self) -> int:
        return hash((self.seed, *self.ratios.items()))


class CollateForm(Model):
    """A collate form, the value that it pads with, and for `unique` the form of the distinct rows.

    For example, `{form: pad, value: 0}` or `{form: unique, of: pad}`.
    """

    form: str
    of: str | None = None
    value: float | int | None = None

    @field_validator("value", mode="before")
    @classmethod
    def _number(cls, value: Any) -> Any:
        number = value.item() if isinstance(value, np.number) else value
        is_number = type(number) is int or (type(number) is float and math.isfinite(number))
        if number is not None and not is_number:
            raise ValueError(f"{quoted(value)} is not a finite number")
        return number


def _kind(value: Any) -> str:
    return TEXT if isinstance(value, str) else LIST if isinstance(value, (list, tuple)) else MAPPING


def _kind_of_split(value: Any) -> str:
    if isinstance(value, Mapping):
        kinds = [kind for kind in ("range", "rows", "file") if kind in value]
        return TAG_MARK + kinds[0] if len(kinds) == 1 else ""
    return TEXT if isinstance(value, str) else TAG_MARK + type(value).__name__.removesuffix("Split").lower()


def _kind_of_splits(value: Any) -> str:
    computed = isinstance(value, RatioSplits) or (isinstance(value, Mapping) and "ratios" in value)
    return TAG_MARK + "ratios" if computed else MAPPING


def _by(kind: Callable[[Any], str], message: str = "") -> Any:
    """A union whose member is chosen by `kind`, so that errors are about that member only.

    `message` is the error for a value whose kind is that of no member.
    """
    return Discriminator(kind, custom_error_type="choice", custom_error_message=message)


class FeaturizerRef(NamedRef):
    """A featurizer and its options, and the columns that it is called with and computes.

    Attributes:
        name: a registered name, or one of those in `load_dataset(featurizer={"name": function})`; None for the function
            in `load_dataset(featurizer=function)`.
        inputs: the columns that it is called with, in order; None for those that it names itself.
        outputs: other names for the columns that it computes, by its own names; or for a function the dtype and shape
            of each column that it computes, in the order in which it returns them.
    """

    name: str | None = None  # type: ignore[assignment]  # a function has no name
    inputs: Annotated[tuple[str, ...], Field(min_length=1)] | None = None
    outputs: dict[
        str,
        Annotated[
            Annotated[str, Tag(TEXT)] | Annotated[Array, Tag(MAPPING)],
            _by(_kind, "give another name for the column; for a Python function, {dtype: ..., shape: [...]}"),
        ],
    ] = {}

    @field_validator("inputs", mode="before")
    @classmethod
    def _tuple(cls, value: Any) -> Any:
        return tuple(value) if isinstance(value, list) else value


Featurizers = Annotated[
    Annotated[FeaturizerRef, Tag(MAPPING)] | Annotated[tuple[FeaturizerRef, ...], Field(min_length=1), Tag(LIST)],
    _by(lambda value: LIST if isinstance(value, (list, tuple)) else MAPPING),
]
Split = Annotated[
    Annotated[str, Tag(TEXT)]
    | Annotated[RangeSplit, Tag(TAG_MARK + "range")]
    | Annotated[RowsSplit, Tag(TAG_MARK + "rows")]
    | Annotated[FileSplit, Tag(TAG_MARK + "file")],
    _by(
        _kind_of_split,
        "a split is the name of an array in the store, {range: [start, stop]}, {rows: [...]} or {file: rows.npy}",
    ),
]
Splits = Annotated[
    Annotated[dict[str, Split], Tag(MAPPING)] | Annotated[RatioSplits, Tag(TAG_MARK + "ratios")], _by(_kind_of_splits)
]
ColumnNames = Annotated[
    Annotated[str, Tag(TEXT)] | Annotated[tuple[str, ...], Tag(LIST)],
    _by(_kind, "give the name of one column, or a list of names"),
]
NameOrRef = Annotated[
    Annotated[str, Tag(TEXT)] | Annotated[NamedRef, Tag(MAPPING)], _by(_kind, "give a name, or {name: ..., options}")
]
FormOrName = Annotated[
    Annotated[str, Tag(TEXT)] | Annotated[CollateForm, Tag(MAPPING)], _by(_kind, "give a form, or {form: ..., value}")
]
Collate = Annotated[
    Annotated[str, Tag(TEXT)] | Annotated[dict[str, FormOrName], Tag(MAPPING)],
    _by(_kind, "give a form, or a form for each column"),
]
