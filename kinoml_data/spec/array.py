"""What one column contains, and the base of every part of a spec."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Literal

import numpy as np
from pydantic import (
    BaseModel,
    ConfigDict,
    field_serializer,
    field_validator,
    model_validator,
)

from kinoml_data.columns import Column, Ragged
from kinoml_data.errors import unknown

STRING = "str"


DTYPES = (
    *("bool", "uint8", "uint16", "uint32", "uint64", "int8", "int16", "int32", "int64"),
    *("float16", "float32", "float64", "complex64", "complex128", STRING),
)


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
    def rows_differ(self) -> bool:
        """True if rows may differ in size, as ragged rows and strings do: the column is then a `Ragged`."""
        return self.ragged or self.is_string

    @property
    def axes(self) -> tuple[int | None, ...]:
        """The axes of one row as it is stored: the shape, and for a string the one axis of its bytes."""
        return (None,) if self.is_string else self.shape

    @property
    def row_shape(self) -> tuple[int, ...]:
        """The shape with 0 for each ragged axis."""
        return tuple(axis or 0 for axis in self.shape)

    def empty(self) -> Column:
        """No rows of such a column."""
        if self.rows_differ:
            return Ragged(np.empty(0, self.numpy), np.empty((0, len(self.axes)), np.int64))
        return np.empty((0, *self.row_shape), self.numpy)

    def __str__(self) -> str:
        """`float32 (53, *)`; the dtype alone for one value per row."""
        if not self.shape:
            return self.dtype
        axes = ", ".join("*" if axis is None else str(axis) for axis in self.shape)
        return f"{self.dtype} ({axes}{',' if len(self.shape) == 1 else ''})"

    @property
    def is_string(self) -> bool:
        """True for text."""
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
