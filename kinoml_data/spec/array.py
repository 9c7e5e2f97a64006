"""`Array`, which describes one column, and the base class of every part of a spec."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Literal

import numpy as np
from pydantic import BaseModel, ConfigDict, field_serializer, field_validator, model_validator

from kinoml_data.columns import Column, Ragged
from kinoml_data.errors import unknown

STRING = "str"


DTYPES = (
    *("bool", "uint8", "uint16", "uint32", "uint64", "int8", "int16", "int32", "int64"),
    *("float16", "float32", "float64", "complex64", "complex128", STRING),
)


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


class Array(Model):
    """The dtype and the shape of the rows of one column, such as `Array("float32", (53, None))`.

    Attributes:
        dtype: the numpy name of the dtype in a batch, or "str".
        shape: the axes of one row; None (`"*"` in a file) for an axis whose length differs between rows.
        stored_as: the name of the column in the store, if it differs.
        cast: "safe" allows a smaller dtype in the store; "same_kind" also allows a larger one, and checks every value.
        packbits: True if the store contains the bits of the last axis packed into uint8, as by `numpy.packbits`.
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
        """True if rows differ in shape."""
        return None in self.shape

    @property
    def rows_differ(self) -> bool:
        """True if rows may differ in size, as ragged rows and strings do. The column is then a `Ragged`."""
        return self.ragged or self.is_string

    @property
    def axes(self) -> tuple[int | None, ...]:
        """The axes of one row as it is stored: the shape, or for a string the one axis of its bytes."""
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
    def is_string(self) -> bool:
        """True if the column contains text."""
        return self.dtype == STRING

    @property
    def numpy(self) -> np.dtype[Any]:
        """The numpy dtype of the values; uint8 for strings, which are UTF-8 bytes."""
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
            raise ValueError("an axis cannot be negative")
        if self.is_string and self.shape:
            raise ValueError("a column of strings cannot have axes")
        if self.packbits and (not self.shape or not self.shape[-1]):
            raise ValueError("packbits needs a last axis of fixed length, at least 1")
        return self

    @field_serializer("shape", when_used="json")
    def _stars(self, shape: tuple[int | None, ...]) -> tuple[int | str, ...]:
        return tuple("*" if axis is None else axis for axis in shape)
