"""Columns kept on a device as tensors, from which rows are gathered there."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from kinoml_data.columns import Column, Ragged
from kinoml_data.dataset.forms import as_signed


class DeviceColumns:
    """Entire columns as tensors on a device. The shapes and offsets of ragged columns stay on the CPU.

    Args:
        columns: the columns to keep, in the dtypes in which they are read.
        device: a name that torch knows, such as "cuda".
    """

    def __init__(self, columns: Mapping[str, Column], device: str) -> None:
        self._columns = {name: _moved(column, device) for name, column in columns.items()}
        self._units = {name: _unit(column.shapes) for name, column in columns.items() if isinstance(column, Ragged)}

    def __contains__(self, name: object) -> bool:
        return name in self._columns

    def read(self, rows: NDArray[np.int64], names: Sequence[str]) -> dict[str, Any]:
        """The same as `Storage.read`, but with tensors on the device instead of arrays."""
        return {name: self._take(name, rows) for name in names}

    def read_row(self, row: int, names: Sequence[str]) -> dict[str, Any]:
        """The same as `Storage.read_row`, but with tensors on the device instead of arrays."""
        return {name: self._columns[name][row].clone() for name in names}

    def _take(self, name: str, rows: NDArray[np.int64]) -> Any:
        column = self._columns[name]
        if not isinstance(column, Ragged):
            return _indexed(column, torch.from_numpy(rows).to(column.device))
        values: Any = column.values
        taken = Ragged(values, column.shapes.take(rows, axis=0))  # its values are still those of all rows
        # Rows are taken by units, several values at once. The distance from each unit's place in the batch to its
        # place in the column is the same within a row.
        unit, starts = self._units[name], taken.offsets[:-1]
        parts = np.stack([column.offsets.take(rows) - starts, np.diff(taken.offsets)]) // unit
        distances, sizes = torch.from_numpy(parts).to(values.device)
        total = int(taken.offsets[-1]) // unit
        index = torch.repeat_interleave(distances, sizes, output_size=total) + torch.arange(total, device=values.device)
        return taken.with_values(_indexed(values.view(-1, unit), index).view(-1))


def _moved(column: Column, device: str) -> Any:
    if isinstance(column, Ragged):
        return column.with_values(torch.from_numpy(column.values).to(device))
    return torch.from_numpy(column).to(device)


def _unit(shapes: NDArray[np.int64]) -> int:
    """A number of values of which every row contains a multiple: the product of the axes that all rows share."""
    shared = shapes[0, (shapes == shapes[0]).all(axis=0)] if len(shapes) else shapes[:0]
    return max(1, int(shared.prod()))


def _indexed(values: Any, index: Any) -> Any:
    return as_signed(values)[index].view(values.dtype)
