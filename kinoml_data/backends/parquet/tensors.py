"""Tensors of one shape in Arrow tables, without Arrow's extension type for them."""

from __future__ import annotations

import json
import math
from dataclasses import dataclass
from typing import Any

import numpy as np
import pyarrow as pa

from kinoml_data.errors import CorruptStoreError
from kinoml_data.layouts.arrow import is_list

METADATA = b"ARROW:extension:metadata"


@dataclass(frozen=True)
class Tensor:
    """How Arrow's canonical extension type `arrow.fixed_shape_tensor` stores the tensor of a row.

    Source: https://arrow.apache.org/docs/format/CanonicalExtensions.html#fixed-shape-tensor

    Attributes:
        shape: the axes as the values are laid out.
        order: for each axis of the tensor, its place in `shape`.
        type: nested fixed-size lists of the axes of the tensor.
    """

    shape: tuple[int, ...]
    order: tuple[int, ...]
    type: Any

    @classmethod
    def of(cls, field: Any, stored: Any) -> Tensor | None:
        """How a tensor is stored; None if its description is not valid.

        Args:
            field: the `pyarrow.Field` of the Arrow schema, whose extension type is not built.
            stored: the Arrow type of the column in the file.
        """
        try:
            described = json.loads(field.metadata[METADATA])
            shape = tuple(map(int, described["shape"]))
            order = tuple(described.get("permutation") or range(len(shape)))
        except (ValueError, TypeError, LookupError):
            return None
        if not shape or min(shape) < 1 or sorted(order) != list(range(len(shape))) or not is_list(stored):
            return None
        type_ = stored.value_type
        for axis in reversed(order):
            type_ = pa.list_(type_, shape[axis])
        return cls(shape, order, type_)

    def nested(self, chunk: Any) -> Any:
        """The rows of a chunk of flat lists, as nested lists.

        Raises:
            CorruptStoreError: a row does not have one value for each element of the tensor.
        """
        size = math.prod(self.shape)
        missing = chunk.is_null() if chunk.null_count else None  # the reader of nested lists names them
        if missing is not None:
            chunk = chunk.fill_null(pa.scalar([0] * size, chunk.type))
        values = chunk.flatten()
        if len(values) != size * len(chunk):
            raise CorruptStoreError(f"a tensor of the shape {self.shape} does not have {size} values")
        if self.order != tuple(range(len(self.order))):
            places = np.arange(len(values)).reshape(len(chunk), *self.shape)
            values = values.take(pa.array(places.transpose(0, *(axis + 1 for axis in self.order)).reshape(-1)))
        for axis in reversed(self.order):
            mask = missing if axis == self.order[0] else None
            values = pa.FixedSizeListArray.from_arrays(values, self.shape[axis], mask=mask)
        return values
