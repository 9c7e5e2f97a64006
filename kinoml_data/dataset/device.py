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

    def __contains__(self, name: object) -> bool:
        return name in self._columns

    def read(self, rows: NDArray[np.int64], names: Sequence[str]) -> dict[str, Any]:
        """The same as `Storage.read`, but with tensors on the device instead of arrays."""
        return {name: _take(self._columns[name], rows) for name in names}

    def read_row(self, row: int, names: Sequence[str]) -> dict[str, Any]:
        """The same as `Storage.read_row`, but with tensors on the device instead of arrays."""
        return {name: self._columns[name][row].clone() for name in names}


def _moved(column: Column, device: str) -> Any:
    if isinstance(column, Ragged):
        return column.with_values(torch.from_numpy(column.values).to(device))
    return torch.from_numpy(column).to(device)


def _take(column: Any, rows: NDArray[np.int64]) -> Any:
    if not isinstance(column, Ragged):
        return _indexed(column, torch.from_numpy(rows).to(column.device))
    values: Any = column.values
    taken = Ragged(values, column.shapes[rows])  # its values are still those of all rows
    starts = taken.offsets[:-1]
    # The distance from each value's place in the batch to its place in the column is the same within a row.
    distances, sizes = (
        torch.from_numpy(array).to(values.device) for array in (column.offsets[rows] - starts, np.diff(taken.offsets))
    )
    total = int(taken.offsets[-1])
    index = torch.repeat_interleave(distances, sizes, output_size=total) + torch.arange(total, device=values.device)
    return taken.with_values(_indexed(values, index))


def _indexed(values: Any, index: Any) -> Any:
    return as_signed(values)[index].view(values.dtype)
