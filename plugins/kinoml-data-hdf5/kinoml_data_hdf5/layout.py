"""The option that describes how another program stored a ragged column."""

from __future__ import annotations

from typing import Any

from kinoml_data.plugin import Model
from pydantic import field_serializer, field_validator, model_validator


class RaggedLayout(Model):
    """A ragged column in two datasets: one contains the values of all rows end to end, the other tells the rows apart.

    Give either `offsets` or `lengths`.

    Attributes:
        values: the path of the values, a dataset `(total, ...)`.
        offsets: the path of the offsets, a dataset `(rows + 1,)`: row i is `values[offsets[i] : offsets[i + 1]]`.
        lengths: the path of the lengths, a dataset `(rows,)`: row i is the next `lengths[i]` entries of `values`.
        shape: the shape of one row, with None (`"*"` in a spec file) for its one ragged axis. Needed if the rows were
            flattened; by default a row is `(*, ...)` with the further axes of `values`.
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
            raise ValueError('`shape` needs exactly one "*", and 1 or more for every other axis')
        return self
