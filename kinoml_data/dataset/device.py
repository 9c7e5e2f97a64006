"""Columns kept on a device, as tensors: rows are gathered where they are."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from kinoml_data.columns import Column, Ragged


class DeviceColumns:
    """Whole columns as tensors on a device; shapes and offsets stay with the processor.

    Args:
        columns: what to keep, in the dtypes that are to come out.
        device: such as "cuda".
    """

    def __init__(self, columns: Mapping[str, Column], device: str) -> None:
        self._columns = {name: _moved(column, device) for name, column in columns.items()}

    def __contains__(self, name: object) -> bool:
        return name in self._columns

    def read(self, rows: NDArray[np.int64], names: Sequence[str]) -> dict[str, Any]:
        """As `Storage.read`, with tensors on the device in place of arrays."""
        return {name: _take(self._columns[name], rows) for name in names}

    def read_row(self, row: int, names: Sequence[str]) -> dict[str, Any]:
        """As `Storage.read_row`, with tensors on the device in place of arrays."""
        found = {}
        for name in names:
            column = self._columns[name]
            if isinstance(column, Ragged):
                start, stop = column.offsets[row : row + 2].tolist()
                found[name] = column.values[start:stop].reshape(column.shapes[row].tolist()).clone()  # type: ignore[attr-defined]
            else:
                found[name] = column[row].clone()
        return found


def _moved(column: Column, device: str) -> Any:
    if isinstance(column, Ragged):
        values: Any = torch.from_numpy(column.values).to(device)
        return Ragged(values, column.shapes)
    return torch.from_numpy(column).to(device)


def _take(column: Any, rows: NDArray[np.int64]) -> Any:
    values = column.values if isinstance(column, Ragged) else column
    if not isinstance(column, Ragged):
        return values[torch.from_numpy(rows).to(values.device)]
    starts = column.offsets[rows]
    lengths = column.offsets[rows + 1] - starts
    ends = np.cumsum(lengths)
    total = int(ends[-1]) if len(rows) else 0
    shift, counts = (torch.from_numpy(a).to(values.device) for a in (starts - (ends - lengths), lengths))
    index = torch.repeat_interleave(shift, counts, output_size=total) + torch.arange(total, device=values.device)
    return Ragged(values[index], column.shapes[rows])
