"""How a ragged column of another program is stored."""

from __future__ import annotations

from typing import Any

from kinoml_data.plugin import Model
from pydantic import field_serializer, field_validator, model_validator


class RaggedLayout(Model):
    """Where a ragged column lies: its rows end to end in one dataset, and where each begins in another.

    Attributes:
        values: the path of the dataset `(total, ...)`.
        offsets: of the dataset `(rows + 1,)`: row i is `values[offsets[i] : offsets[i + 1]]`; this or `lengths`.
        lengths: of the dataset `(rows,)`: how much of the first axis each row takes.
        shape: of one row, with one None (in a file `"*"`), where `values` has one axis that the row does not have;
            by default rows have the axes of `values`.
    """

    values: str
    offsets: str | None = None
    lengths: str | None = None
    shape: tuple[int | None, ...] | None = None

    @field_validator("shape", mode="before")
    @classmethod
    def _stars(cls, value: Any) -> Any:
        if not isinstance(value, (list, tuple)):
            return value
        return tuple(None if isinstance(axis, str) and axis == "*" else axis for axis in value)

    @field_serializer("shape", when_used="json-unless-none")
    def _with_stars(self, shape: tuple[int | None, ...]) -> tuple[int | str, ...]:
        return tuple("*" if axis is None else axis for axis in shape)

    @model_validator(mode="after")
    def _complete(self) -> RaggedLayout:
        if (self.offsets is None) == (self.lengths is None):
            raise ValueError("a ragged column needs either `offsets` or `lengths`")
        if self.shape is not None and (
            self.shape.count(None) != 1 or any(axis is not None and axis < 1 for axis in self.shape)
        ):
            raise ValueError('`shape` has one "*", its other axes are 1 or more')
        return self
