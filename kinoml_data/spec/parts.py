"""The parts of a spec: storage, splits, roles, collate forms."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from typing import Annotated, Any

import numpy as np
from pydantic import (
    BaseModel,
    ConfigDict,
    Discriminator,
    Field,
    Tag,
    field_validator,
    model_validator,
)

from kinoml_data.errors import quoted
from kinoml_data.spec.array import Model, frozen

FORMS = ("list", "pad", "pad-mask", "packed", "nested")


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
