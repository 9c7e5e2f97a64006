"""`Array`, which describes one column, and the base class of every part of a spec."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Literal

import numpy as np
from pydantic import BaseModel, ConfigDict, Field, field_serializer, field_validator, model_validator

from kinoml_data.columns import Column, Ragged
from kinoml_data.errors import SpecError, quoted, unknown

STRING = "str"
DTYPES = (
    *("bool", "uint8", "uint16", "uint32", "uint64", "int8", "int16", "int32", "int64"),
    *("float16", "float32", "float64", "complex64", "complex128", STRING),
)
_NUMPY = {name: np.dtype(name) for name in DTYPES if name != STRING} | {STRING: np.dtype(np.uint8)}
NAME_PATTERN = r"^[A-Za-z0-9_-]+$"


class Frozen(dict[str, Any]):
    """A dict that cannot be changed. It serializes, compares and pickles like a dict."""

    def _refuse(self, *_: Any, **__: Any) -> Any:
        raise TypeError("a spec cannot be changed; make a new one")

    __setitem__ = __delitem__ = pop = popitem = clear = update = setdefault = __ior__ = _refuse

    def __hash__(self) -> int:  # type: ignore[override]
        return hash(frozenset(self.items()))

    def __reduce__(self) -> tuple[Any, ...]:
        return Frozen, (dict(self),)


def frozen(value: Any) -> Any:
    """`value` with a `Frozen` in place of every mapping and a tuple in place of every list."""
    if isinstance(value, Mapping):
        return Frozen({str(key): frozen(item) for key, item in value.items()})
    if isinstance(value, (list, tuple)):
        return tuple(frozen(item) for item in value)
    return value


class Model(BaseModel):
    """Base of every part of a spec: immutable, without type conversions, and without unknown keys."""

    model_config = ConfigDict(frozen=True, extra="forbid", strict=True, allow_inf_nan=False)


class Glob(Model):
    """All stored columns whose names match a pattern, in the order of the store: `{glob: "f*"}`.

    Attributes:
        glob: the pattern, in which `*` stands for any text and `?` for any character, as in the names of files.
    """

    glob: str = Field(min_length=1)


class Array(Model):
    """The dtype and the shape of the rows of one column, such as `Array("float32", (53, None))`.

    Attributes:
        dtype: the numpy name of the dtype in a batch, or "str".
        shape: the axes of one row; None (`"*"` in a file) for an axis whose length differs between rows.
        stored_as: the name of the column in the store, if it differs. A list of names, or `Glob`, makes one column
            `(rows, F)` of F stored columns that contain one number per row.
        cast: "round" rounds floating-point numbers to the dtype; "exact" refuses to change any value. In both cases,
            an integer that cannot be converted exactly and a finite number that becomes infinite are errors.
        packbits: True or "big" if the store contains the bits of the last axis packed into uint8, as by
            `numpy.packbits`; "little" if the first bit is the least significant one.
        missing: what a missing value becomes; by default it is an error. "nan" for floating-point columns, and any text
            for columns of text; with `values`, one of them.
        values: the texts that the stored column may contain. The batch contains the place of each text in this list.
            Only for integer columns of one value per row.
        range: the least and the greatest value that is allowed; None for no limit. NaN is allowed only with `missing`.
    """

    dtype: str = "float32"
    shape: tuple[int | None, ...] = ()
    stored_as: str | tuple[str, ...] | Glob | None = None
    cast: Literal["round", "exact"] = "round"
    packbits: bool | Literal["big", "little"] = False
    missing: str | None = None
    values: tuple[str, ...] | None = None
    range: tuple[float | None, float | None] | None = None

    def __init__(self, /, dtype: Any = "float32", shape: Any = (), **options: Any) -> None:
        options |= {"dtype": dtype, "shape": shape}
        super().__init__(**options)

    @property
    def ragged(self) -> bool:
        """True if rows differ in shape."""
        return None in self.shape

    @property
    def rows_differ(self) -> bool:
        """True if rows may differ in size, as ragged rows and strings do. The column is then a `Ragged`."""
        return self.ragged or self.is_string

    @property
    def axes(self) -> tuple[int | None, ...]:
        """The axes of one row as it is stored, which are the shape, or for a string the one axis of its bytes."""
        return (None,) if self.is_string else self.shape

    @property
    def row_shape(self) -> tuple[int, ...]:
        """The shape with 0 for each ragged axis."""
        return tuple(axis or 0 for axis in self.shape)

    def empty(self) -> Column:
        """A column of this kind without rows."""
        if self.rows_differ:
            return Ragged(np.empty(0, self.numpy), np.empty((0, len(self.axes)), np.int64))
        return np.empty((0, *self.row_shape), self.numpy)

    def __str__(self) -> str:
        """The description as text, such as `float32 (53, *)`; only the dtype if a row is a single value."""
        if not self.shape:
            return self.dtype
        axes = ", ".join("*" if axis is None else str(axis) for axis in self.shape)
        return f"{self.dtype} ({axes}{',' if len(self.shape) == 1 else ''})"

    @property
    def as_stored(self) -> Array:
        """The stored column as far as the spec describes it. Packed bits are uint8, and `values` are text."""
        if self.values is not None:
            return Array(STRING, missing=self.missing)
        if not self.packbits:
            return self
        *axes, bits = self.shape
        shape = (*axes, None if bits is None else -(-bits // 8))
        return self.model_copy(update={"dtype": "uint8", "shape": shape, "packbits": False, "range": None})

    def stored_names(self, name: str) -> tuple[str, ...]:
        """The names in the store of the column `name`, which this array describes: one, or several that are stacked.

        Raises:
            SpecError: the names are a pattern, which only an open store can resolve.
        """
        if isinstance(self.stored_as, Glob):
            raise SpecError(f"columns.{name}.stored_as: {self.stored_as.glob!r} is a pattern; open the store first")
        return self.stored_as if isinstance(self.stored_as, tuple) else (self.stored_as or name,)

    @property
    def fills_numbers(self) -> bool:
        """True if a missing number becomes NaN."""
        return self.missing is not None and self.missing_text is None

    @property
    def missing_text(self) -> str | None:
        """What a missing text becomes; None if it is an error."""
        return self.missing if self.is_string or self.values is not None else None

    @property
    def is_string(self) -> bool:
        """True if the column contains text."""
        return self.dtype == STRING

    @property
    def numpy(self) -> np.dtype[Any]:
        """The numpy dtype of the values; uint8 for strings, which are UTF-8 bytes."""
        return _NUMPY[self.dtype]

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

    @field_validator("stored_as", mode="before")
    @classmethod
    def _stored_names(cls, value: Any) -> Any:
        if isinstance(value, Mapping) and set(value) == {"glob"}:
            return Glob(**value)
        if isinstance(value, (list, tuple)) and value and all(isinstance(name, str) for name in value):
            return tuple(value)
        if value is None or isinstance(value, (str, Glob)):
            return value
        raise ValueError("give the name of one stored column, a list of names, or {glob: pattern}")

    @field_validator("values", "range", mode="before")
    @classmethod
    def _tuple(cls, value: Any) -> Any:
        return tuple(value) if isinstance(value, list) else value

    @model_validator(mode="after")
    def _consistent(self) -> Array:
        if any(axis is not None and axis < 0 for axis in self.shape):
            raise ValueError("an axis cannot be negative")
        if self.is_string and self.shape:
            raise ValueError("a column of strings cannot have axes")
        if self.packbits and (not self.shape or not self.shape[-1]):
            raise ValueError("packbits needs a last axis of fixed length, at least 1")
        if problem := self._problem_of_several() or self._problem_of_values():
            raise ValueError(problem)
        return self

    def _problem_of_several(self) -> str | None:
        """What is wrong with a column that is made of several; its shape is set if it is not given."""
        if not isinstance(self.stored_as, (tuple, Glob)):
            return None
        if self.is_string or self.packbits or self.values is not None:
            return "only a column of numbers, without packbits and values, can be made of several stored columns"
        if isinstance(self.stored_as, Glob):
            return None if len(self.shape) <= 1 else "a column made of several stored columns has one axis"
        if len(set(self.stored_as)) < len(self.stored_as):
            return "stored_as contains a name more than once"
        shape = (len(self.stored_as),)
        if self.shape not in ((), (None,), shape):
            return f"a column made of {len(self.stored_as)} stored columns has the shape {list(shape)}"
        object.__setattr__(self, "shape", shape)
        return None

    def _problem_of_values(self) -> str | None:
        """What is wrong with the options that change or check values."""
        kind = self.numpy.kind
        if self.fills_numbers and kind != "f":
            return f"missing needs a floating-point dtype, text or `values`, not {self.dtype}"
        if self.fills_numbers and self.missing != "nan":
            return f"missing: a missing number can only become nan, not {quoted(self.missing)}"
        if self.values is not None:
            if kind not in "iu" or self.is_string or self.shape:
                return "values needs an integer dtype and one value per row"
            if not self.values or len(set(self.values)) < len(self.values):
                return "values must be a list of different texts"
            if self.missing is not None and self.missing not in self.values:
                return (
                    f"missing: {quoted(self.missing)} is not one of the `values`; add it to them, or write the one "
                    f"that an empty cell means, such as {quoted(self.values[0])}"
                )
            if len(self.values) - 1 > np.iinfo(self.numpy).max:
                return f"values has {len(self.values)} texts, whose places do not fit {self.dtype}"
        if self.range is not None:
            low, high = self.range
            if kind not in "iuf" or self.is_string or self.values is not None:
                return "range needs a column of real numbers, without `values`"
            if (low is None and high is None) or (low is not None and high is not None and low > high):
                return "range must be [least, greatest]; one of them may be null"
        return None

    @field_serializer("shape", when_used="json")
    def _stars(self, shape: tuple[int | None, ...]) -> tuple[int | str, ...]:
        return tuple("*" if axis is None else axis for axis in shape)
