from __future__ import annotations

from typing import Any

import numpy as np
import pyarrow as pa
import pytest
from hypothesis import given
from hypothesis import strategies as st

from kinoml_data.backends.csv.cells import Cells
from kinoml_data.errors import SpecError
from kinoml_data.spec.array import Array


def cells(*texts: str | None, declared: Array | None = None, **options: Any) -> Cells:
    line = lambda row: row + 2  # noqa: E731
    return Cells(pa.array(texts, pa.large_string()), "t.csv: column 'x'", line, declared, **options)


def values(found: Cells, count: int) -> Any:
    return found.read(np.arange(count))


@given(st.lists(st.floats(), min_size=1).filter(lambda numbers: not all(n.is_integer() for n in numbers)))
def test_a_float_is_the_one_that_python_reads(numbers: list[float]) -> None:
    found = cells(*map(repr, numbers))
    assert found.dtype == "float64"
    expected = np.array(numbers)
    np.testing.assert_array_equal(values(found, len(numbers)), expected)
    shown = ~np.isnan(expected)
    np.testing.assert_array_equal(np.signbit(values(found, len(numbers)))[shown], np.signbit(expected)[shown])


@given(st.lists(st.integers(-(2**63), 2**64 - 1), min_size=1))
def test_an_integer_is_exact_or_an_error(numbers: list[int]) -> None:
    found = cells(*map(str, numbers))
    if min(numbers) < 0 and max(numbers) >= 2**63:
        with pytest.raises(SpecError, match="does not fit int64"):
            values(found, len(numbers))
    else:
        assert values(found, len(numbers)).tolist() == numbers


@given(st.lists(st.sampled_from(["", "NA", "null", "1", "2.5", None]), min_size=1))
def test_a_gap_is_nan_at_its_place_or_an_error_with_its_line(texts: list[str | None]) -> None:
    gaps = [text not in ("1", "2.5") for text in texts]
    expected = [np.nan if gap else float(text or "") for text, gap in zip(texts, gaps, strict=True)]
    filled = cells(*texts, declared=Array("float32", missing="nan"))
    np.testing.assert_array_equal(values(filled, len(texts)), expected)
    if any(gaps):
        with pytest.raises(
            SpecError, match=rf"row {gaps.index(True)} \(line {gaps.index(True) + 2}\): a value is missing"
        ):
            values(cells(*texts, declared=Array("float32")), len(texts))


def test_the_rows_are_those_that_are_asked_for() -> None:
    found = cells("1", "x", "3", declared=Array("int8"))
    assert found.read(np.array([2, 0, 2])).tolist() == [3, 1, 3]
    with pytest.raises(SpecError, match=r"row 1 \(line 3\): 'x' is not a valid int8"):
        found.read(np.array([2, 1]))


@pytest.mark.parametrize(
    ("texts", "dtype"),
    [
        (("1", "+2", " -3 "), "int64"),
        (("1", "2."), "float64"),
        (("1", "007"), "str"),
        (("True", "FALSE", None), "bool"),
        (("1", "True"), "str"),
        (("NA", "NA"), "str"),
        ((None, ""), "float64"),
        (("1", None), "int64"),
        (("1", ">2"), "str"),
        ((str(2**64), "1"), "uint64"),
    ],
)
def test_the_dtype_is_that_of_all_cells(texts: tuple[str | None, ...], dtype: str) -> None:
    assert cells(*texts).dtype == dtype


@pytest.mark.parametrize("declared", [Array("float32", missing="nan"), Array("int8"), Array("bool")], ids=str)
def test_true_and_false_are_numbers_if_the_spec_asks_for_numbers(declared: Array) -> None:
    found = values(cells("True", "false", declared=declared), 2)
    assert found.tolist() == [1, 0] and found.dtype == bool
    if declared.missing:
        np.testing.assert_array_equal(values(cells("True", "", "false", declared=declared), 3), [1, np.nan, 0])


def test_a_comma_may_stand_in_front_of_the_decimals() -> None:
    assert values(cells("1,5", "-2", decimal=","), 2).tolist() == [1.5, -2]
    assert cells("1.5", "-2", decimal=",").dtype == "str"
    with pytest.raises(SpecError, match=r"'1\.5' is not a valid float32"):
        values(cells("1.5", declared=Array("float32"), decimal=","), 1)


def test_texts_are_kept_as_they_are() -> None:
    found = cells(" a", "", "NA", declared=Array("str"))
    assert values(found, 3).strings() == [" a", "", "NA"]
