"""Rows of Arrow arrays as columns."""

from __future__ import annotations

from typing import Any

import numpy as np
import pyarrow as pa
import pytest

from kinoml_data.columns import Ragged
from kinoml_data.layouts.arrow import NOT_SHOWN, rows_of


@pytest.mark.parametrize("list_type", [pa.list_, pa.large_list, lambda inner: pa.list_(inner, 2)])
def test_a_slice_of_an_arrow_array_gives_its_own_rows_only(list_type: Any) -> None:
    rows = np.arange(24, dtype=np.int32).reshape(6, 2, 2)
    array = pa.array(rows.tolist(), list_type(list_type(pa.int32())))
    found = rows_of(array.slice(2, 3), "x")
    assert found.values.tolist() == rows[2:5].reshape(-1).tolist()
    assert found.shapes.tolist() == [[2, 2]] * 3


@pytest.mark.parametrize("type_", [pa.string(), pa.large_string()])
def test_a_slice_of_arrow_strings_gives_its_own_rows_only(type_: Any) -> None:
    found = rows_of(pa.array(["a", "bc", "", "déf", "g"], type_).slice(1, 3), "x")
    assert Ragged(found.values, found.shapes).strings() == ["bc", "", "déf"]


def test_the_axes_that_an_arrow_row_does_not_show_are_marked() -> None:
    found = rows_of(pa.array([[], [[]], [[[1], [2]]]], pa.list_(pa.list_(pa.list_(pa.int8())))), "x")
    assert found.shapes.tolist() == [[0, NOT_SHOWN, NOT_SHOWN], [1, 0, NOT_SHOWN], [1, 2, 1]]
