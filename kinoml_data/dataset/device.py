"""Columns kept on a device as tensors, from which rows are gathered there."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from kinoml_data.columns import Column, Indexed, Ragged, distinct_keys
from kinoml_data.dataset.forms import taken, unit_of


class DeviceColumns:
    """Entire columns as tensors on devices. Shapes, offsets and keys stay on the CPU.

    Args:
        columns: the columns to keep, in the dtypes in which they are read.
        devices: a name that torch knows, such as "cuda", for each column.
    """

    def __init__(self, columns: Mapping[str, Column | Indexed], devices: Mapping[str, str]) -> None:
        self._columns = {name: _moved(column, devices[name]) for name, column in columns.items()}
        self._units = {name: _unit(column) for name, column in columns.items()}

    def __contains__(self, name: object) -> bool:
        return name in self._columns

    def read(self, rows: NDArray[np.int64], names: Sequence[str]) -> dict[str, Any]:
        """The same as `Binding.read_batch`, but with tensors on the device instead of arrays."""
        return {name: self._taken(self._columns[name], rows, self._units[name]) for name in names}

    def _taken(self, column: Any, rows: NDArray[np.int64], unit: int) -> Any:
        if not isinstance(column, Indexed):
            return taken(column, rows, unit)
        numbers = column.index.take(rows)
        first, index = distinct_keys(numbers, len(column.values))
        values = taken(column.values, numbers[first], unit)
        return values if len(first) == len(rows) else Indexed(values, index)


def _moved(column: Any, device: str) -> Any:
    if isinstance(column, Indexed):
        return Indexed(_moved(column.values, device), column.index)
    if isinstance(column, Ragged):
        return column.with_values(torch.from_numpy(column.values).to(device))
    return torch.from_numpy(column).to(device)


def _unit(column: Any) -> int:
    column = column.values if isinstance(column, Indexed) else column
    return unit_of(column.shapes) if isinstance(column, Ragged) else 1
