"""The parts of a spec: references to plugins, splits, roles and collate forms."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from typing import Annotated, Any, Self

import numpy as np
from pydantic import BaseModel, ConfigDict, Discriminator, Field, Tag, field_validator, model_validator

from kinoml_data.errors import quoted
from kinoml_data.spec.array import Array, Model, frozen
from kinoml_data.spec.roles import names_of

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


class ColumnLabels(Model):
    """The split of each row is the text in a column, and none if it is empty: `{column: subset}`."""

    column: str


class FileLabels(Model):
    """The split of each row is found in a CSV file by the row's id: `{file: splits.csv, id: activity_id}`.

    Attributes:
        file: a CSV file with a header; ids that are not in the dataset are ignored.
        id: the name of the column of ids, in the file and in the dataset.
        column: the column of the file that contains the labels; by default the only other column.
    """

    file: str
    id: str
    column: str | None = None


class ComputedSplits(Model):
    """Splits as one label per row: by chance, in an order, from a column or a table, and with groups kept together.

    For example, `{ratios: {train: 0.8, test: 0.2}, by: scaffold, seed: 0}` or `{folds: 5, ratios: {test: 0.1}}`.

    Attributes:
        ratios: the shares of the splits. They add up to 1, or to less if there are folds, which share the rest.
        folds: the number of splits `fold0`, `fold1`, and so on.
        labels: splits that are given: rows that have one of these labels keep it, except that rows labelled train are
            divided as well if there are folds or ratios.
        by: a column, or several; rows with equal values are in one split. With several columns, splits have no value
            of any of them in common, and rows that would break this are in no split.
        order: a column of numbers or texts; the splits are cut in its ascending order, and equal values stay together.
        apart: columns of which no two splits may have a value in common.
        seed: makes the division reproducible.
    """

    ratios: dict[str, Annotated[float, Field(ge=0)]] = Field(default_factory=dict)
    folds: Annotated[int, Field(ge=2)] | None = None
    labels: Labels | None = None
    by: ColumnNames | None = None
    order: str | None = None
    apart: ColumnNames | None = None
    seed: Annotated[int, Field(ge=0)] = 0

    @model_validator(mode="after")
    def _check(self) -> Self:
        total = sum(self.ratios.values())
        if problem := self._problem(total):
            raise ValueError(problem)
        for field in ("ratios", "labels"):
            if isinstance(value := getattr(self, field), dict):
                object.__setattr__(self, field, frozen(value))
        return self

    def _problem(self, total: float) -> str | None:
        if not self.ratios and self.folds is None:
            if self.labels is None:
                return "splits need `ratios`, `folds` or `labels`"
            if self.by is not None or self.order is not None:
                return "`by` and `order` divide rows, and need `ratios` or `folds`"
        if self.folds is None and self.ratios and abs(total - 1) > 1e-6:
            return f"split ratios must sum to 1; these sum to {total:g}"
        if self.folds is not None and total > 1 - 1e-6:
            rest = "because the folds share the rest; write only the shares of other splits, such as `{test: 0.2}`"
            return f"split ratios must sum to less than 1, {rest}; these sum to {total:g}"
        if self.by is not None and self.order is not None:
            return "`by` and `order` cannot be combined"
        if clash := sorted(self.ratios.keys() & set(self.fold_names)):
            return f"the name {clash[0]} is that of a fold; rename it in `ratios`"
        return None

    @property
    def fold_names(self) -> tuple[str, ...]:
        """The names of the folds: fold0, fold1, and so on."""
        return tuple(f"fold{number}" for number in range(self.folds or 0))

    @property
    def shares(self) -> dict[str, float]:
        """The share of every split that rows are divided into."""
        rest = (1 - sum(self.ratios.values())) / (self.folds or 1)
        return {**self.ratios, **dict.fromkeys(self.fold_names, rest)}

    @property
    def columns(self) -> tuple[str, ...]:
        """The columns of the dataset that the splits are made from."""
        labels = [self.labels.column] if isinstance(self.labels, ColumnLabels) else []
        labels += [self.labels.id] if isinstance(self.labels, FileLabels) else []
        order = [] if self.order is None else [self.order]
        return tuple(dict.fromkeys([*labels, *names_of(self.by), *order, *names_of(self.apart)]))

    def renamed(self, names: Mapping[str, str]) -> ComputedSplits:
        """The same splits, made from columns of other names: `{old: new}`."""
        changes: dict[str, Any] = {"order": names.get(self.order or "", self.order)}
        for field in ("by", "apart"):
            changes[field] = tuple(names.get(name, name) for name in names_of(getattr(self, field))) or None
        if isinstance(self.labels, ColumnLabels):
            column = self.labels.column
            changes["labels"] = ColumnLabels(column=names.get(column, column))
        return self.model_copy(update=changes)

    @property
    def is_random(self) -> bool:
        """True if only chance divides the rows, which needs nothing but their number."""
        return self.labels is None and not self.columns

    def _values(self) -> tuple[Any, ...]:
        # The order of the ratios matters: rows are cut in it.
        return tuple(self.ratios.items()), *(getattr(self, n) for n in type(self).model_fields if n != "ratios")

    def __eq__(self, other: object) -> bool:
        return self._values() == other._values() if isinstance(other, ComputedSplits) else NotImplemented

    def __hash__(self) -> int:
        return hash(self._values())


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


def is_computed(value: Any) -> bool:
    """True if `splits` of a spec has the form of `ComputedSplits`."""
    if not isinstance(value, Mapping):
        return isinstance(value, ComputedSplits)
    # A store may have splits that are called folds or labels.
    return "ratios" in value or any(name in value and not _is_split(value[name]) for name in ("folds", "labels"))


def _is_split(value: Any) -> bool:
    return isinstance(value, str) or (isinstance(value, Mapping) and {*value} in ({"range"}, {"rows"}, {"file"}))


def _kind_of_splits(value: Any) -> str:
    return TAG_MARK + "computed" if is_computed(value) else MAPPING


def _kind_of_labels(value: Any) -> str:
    if isinstance(value, Mapping):
        if "id" in value or {*value} == {"file", "column"}:
            return TAG_MARK + "file"
        return TAG_MARK + "column" if {*value} == {"column"} else MAPPING
    return TAG_MARK + type(value).__name__.removesuffix("Labels").lower()


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
Labels = Annotated[
    Annotated[dict[str, Split], Tag(MAPPING)]
    | Annotated[ColumnLabels, Tag(TAG_MARK + "column")]
    | Annotated[FileLabels, Tag(TAG_MARK + "file")],
    _by(_kind_of_labels, "labels are {column: name}, {file: splits.csv, id: column}, or splits by name"),
]
Splits = Annotated[
    Annotated[dict[str, Split], Tag(MAPPING)] | Annotated[ComputedSplits, Tag(TAG_MARK + "computed")],
    _by(_kind_of_splits),
]
ColumnNames = Annotated[
    Annotated[str, Tag(TEXT)] | Annotated[tuple[str, ...], Tag(LIST)],
    _by(_kind, "give the name of one column, or a list of names"),
]
NameOrRef = Annotated[
    Annotated[str, Tag(TEXT)] | Annotated[NamedRef, Tag(MAPPING)], _by(_kind, "give a name, or {name: ..., options}")
]
ComputedSplits.model_rebuild()
FormOrName = Annotated[
    Annotated[str, Tag(TEXT)] | Annotated[CollateForm, Tag(MAPPING)], _by(_kind, "give a form, or {form: ..., value}")
]
Collate = Annotated[
    Annotated[str, Tag(TEXT)] | Annotated[dict[str, FormOrName], Tag(MAPPING)],
    _by(_kind, "give a form, or a form for each column"),
]
