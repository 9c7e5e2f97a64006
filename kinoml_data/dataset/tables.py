"""Columns as a pandas DataFrame."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np

from kinoml_data.columns import Column, Ragged
from kinoml_data.errors import PluginLoadError
from kinoml_data.spec.dataset_spec import CompleteSpec


def to_pandas(columns: Mapping[str, Column], spec: CompleteSpec) -> Any:
    """Some columns of a spec as a `pandas.DataFrame`: numbers as they are, strings as str, and arrays as objects.

    Raises:
        PluginLoadError: pandas is not installed.
    """
    try:
        import pandas as pd  # type: ignore[import-untyped]
    except ImportError:
        raise PluginLoadError("this needs pandas: pip install pandas") from None
    return pd.DataFrame({name: _cells(column, spec.columns[name].is_string) for name, column in columns.items()})


def _cells(column: Column, is_string: bool) -> Any:
    if isinstance(column, Ragged):
        rows = column.strings() if is_string else [column[row] for row in range(len(column))]
    elif column.ndim == 1:
        return column
    else:
        rows = list(column)
    cells = np.empty(len(rows), object)
    for row, value in enumerate(rows):  # numpy would make one array of rows that have one shape
        cells[row] = value
    return cells
