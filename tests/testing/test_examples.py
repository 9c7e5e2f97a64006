"""The examples of the conformance suite cover every dtype and kind of column, and are the same every time."""

from __future__ import annotations

import numpy as np
import pytest

from kinoml_data import Array
from kinoml_data.spec.array import DTYPES
from kinoml_data.testing.examples import EXAMPLES, Example, mixed, of_dtype, other


@pytest.mark.parametrize("example", [*EXAMPLES, other(), *map(of_dtype, DTYPES)], ids=lambda example: example.name)
def test_rows_of_an_example_fit_their_columns(example: Example) -> None:
    assert example.rows.keys() == example.columns.keys()
    for name, array in example.columns.items():
        rows = example.rows[name]
        assert len(rows) == len(example)
        if array.is_string:
            assert all(type(row) is str for row in rows)
            continue
        for row in rows:
            assert row.dtype == array.numpy and row.ndim == len(array.shape)
            assert all(axis in (None, length) for axis, length in zip(array.shape, row.shape, strict=True))
        ragged = [axis for axis, length in enumerate(array.shape) if length is None]
        for axis in ragged if len(rows) > 1 else ():
            lengths = {row.shape[axis] for row in rows}
            assert len(lengths) > 1 or lengths == {0}, f"{name}: axis {axis} is ragged, but all rows have one length"
    for name, rows in example.arrays.items():
        assert not name.startswith("idx_") or len(example) > max(rows, default=-1)


def test_examples_of_one_name_are_the_same_every_time() -> None:
    assert len({example.name for example in EXAMPLES}) == len(EXAMPLES)
    for name, rows in mixed().rows.items():
        for one, again in zip(rows, mixed().rows[name], strict=True):
            assert np.asarray(one).tobytes() == np.asarray(again).tobytes()


def test_the_other_example_has_the_columns_of_the_mixed_one_and_other_rows() -> None:
    assert other().columns == mixed().columns and len(other()) > len(mixed())


@pytest.mark.parametrize("dtype", DTYPES)
def test_an_example_of_each_dtype_has_every_rank(dtype: str) -> None:
    columns = of_dtype(dtype).columns
    if dtype == "str":
        assert Array("str") in columns.values()
    else:
        assert {len(array.shape) for array in columns.values()} == {0, 1, 2, 3, 4}
        assert {array.dtype for array in columns.values()} == {dtype}
