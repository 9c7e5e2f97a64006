"""The columns of y that an observation model reads, and the inverse of its formula."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING, Annotated, Any, TypeVar

from pydantic import Discriminator, Tag

from kinoml_data.errors import SpecError, quoted, unknown
from kinoml_data.spec.array import Array, Model
from kinoml_data.spec.dataset_spec import DatasetSpec
from kinoml_data.spec.parts import MAPPING, TAG_MARK

if TYPE_CHECKING:
    from torch import Tensor

EQUAL, BELOW, ABOVE = RELATIONS = ("=", "<", ">")
OF_TEXTS = ("relation", "kind")  # the options that name a column with `values`
NUMBER = TAG_MARK + "number"
YColumns = Mapping[str, "Tensor"]  # each expanded to the shape of the energies


class FromColumn(Model):
    """A condition whose value for each row is in a column of y: `{column: conc}`."""

    column: str


def _kind(value: Any) -> str:
    return MAPPING if isinstance(value, (Mapping, FromColumn)) else NUMBER


N = TypeVar("N")
Condition = Annotated[Annotated[N, Tag(NUMBER)] | Annotated[FromColumn, Tag(MAPPING)], Discriminator(_kind)]
"""The type of an option that is a number or, as `{column: name}`, a column of y: `Condition[float]`."""


def problem_of(option: str, column: str, spec: DatasetSpec) -> str | None:
    """Why an option cannot name this column of a spec; None if it can."""
    if column not in spec.y_names:
        return f"{unknown(column, spec.y_names, 'column of y')}; an observation model reads columns of y"
    array = (spec.columns or {}).get(column, Array())
    if option in OF_TEXTS:
        if array.values is None:
            return f"the column {quoted(column)} needs `values`, the list of its texts"
        if option == "relation" and (others := [quoted(text) for text in array.values if text not in RELATIONS]):
            return f"the column {quoted(column)} has {', '.join(others)} in `values`; relations are '=', '<' and '>'"
    elif array.values is not None:
        return f"the column {quoted(column)} has `values`, so it contains places in a list, not measured numbers"
    elif array.ragged or array.numpy.kind not in "iuf":
        return f"the column {quoted(column)} contains {array}, not real numbers of one shape"
    return None


def tensor_of(where: str, values: Any) -> Tensor:
    """A column of a batch as a tensor.

    Raises:
        SpecError: it is not a tensor or an array, such as the list of tensors of a ragged column.
    """
    import numpy as np
    import torch

    if not isinstance(values, (torch.Tensor, np.ndarray)):
        raise SpecError(f"{where}: an observation model takes a tensor, not a value of type {type(values).__name__}")
    return torch.as_tensor(values)


def expanded(where: str, values: Any, shape: tuple[int, ...], device: Any) -> Tensor:
    """A column expanded to a shape: one entry per row is that of all tasks of the row.

    Raises:
        SpecError: the column does not begin with the axes of the shape.
    """
    column = tensor_of(where, values).to(device)
    if column.shape != shape[: column.ndim]:
        raise SpecError(f"{where} has the shape {tuple(column.shape)}, which does not fit {tuple(shape)}")
    return column.reshape((*column.shape, *[1] * (len(shape) - column.ndim))).expand(shape)


def entries_of(columns: YColumns, mask: Tensor) -> YColumns:
    """Some entries of each column, on one axis."""
    return {name: column[mask] for name, column in columns.items()}


def inverse(function: Callable[[Tensor], Tensor], values: Tensor) -> Tensor:
    """Where a continuous function takes these values, entry by entry, found by bisection within 2**60 of 0.

    Args:
        function: from a float64 tensor `(n,)` to one of the same shape.
        values: float64, `(n,)`.

    Returns:
        Float64 `(n,)`, NaN if the function is not below a value at one end and above it at the other.
    """
    import torch

    low = high = torch.full_like(values, torch.nan)
    for power in range(0, 64, 4):
        reach = torch.full_like(values, 2.0**power)
        left, right = function(-reach), function(reach)
        enclosed = ((left < values) & (values < right)) | ((right < values) & (values < left))
        enclosed &= low.isnan()
        low, high = low.where(~enclosed, -reach), high.where(~enclosed, reach)
    rises = function(low) < values
    for _ in range(64):
        middle = (low + high) / 2
        above = (function(middle) < values) == rises
        low, high = low.where(~above, middle), high.where(above, middle)
    return (low + high) / 2
