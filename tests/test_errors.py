"""Errors: their text, and the problems that a `SpecError` lists."""

from __future__ import annotations

import copy
import pickle

import pytest

import kinoml_data as kd
from kinoml_data import DatasetSpec
from kinoml_data.errors import (
    FeaturizationError,
    SpecError,
    SplitError,
    StoreReadError,
    error_prefix,
    format_error,
    format_size,
    nearest,
    quoted,
    unknown,
)


def test_the_text_of_a_spec_error_is_all_of_its_problems():
    error = SpecError("columns.a: unknown", "X: missing; say which")
    assert str(error) == "columns.a: unknown; X: missing; say which"
    assert error.problems == ("columns.a: unknown", "X: missing; say which")


@pytest.mark.parametrize(
    "duplicate", [copy.copy, lambda error: pickle.loads(pickle.dumps(error))], ids=["copy", "pickle"]
)
def test_a_copied_error_has_the_same_problems(duplicate):
    error = duplicate(SplitError("a", "b"))
    assert type(error) is SplitError and error.problems == ("a", "b") and str(error) == "a; b"


def test_an_error_that_is_rebuilt_from_its_text_has_the_same_text():
    error = SpecError("a", "b")
    again = type(error)(str(error))
    assert str(again) == "a; b" and again.problems == ("a; b",)


def test_a_prefix_goes_before_the_first_problem_and_keeps_the_type():
    with pytest.raises(SplitError) as caught, error_prefix("datasets.x: "):
        raise SplitError("a", "b")
    assert caught.value.problems == ("datasets.x: a", "b")
    with pytest.raises(StoreReadError, match=r"^datasets\.x: gone$"), error_prefix("datasets.x: "):
        raise StoreReadError("gone")


def test_the_problems_of_a_spec_are_separate_also_where_one_check_reports_several():
    columns = {"a": {}, "b b": {}, "s": {"dtype": "str"}}
    with pytest.raises(SpecError) as caught:
        DatasetSpec(columns=columns, X=["s", "z"], y="a", storage={"backend": "in-memory"}, meta=["a"])
    assert [problem.partition(" ")[0] for problem in caught.value.problems] == ["X,", "the", "X:", "X:"]


def test_control_characters_are_escaped_in_the_text():
    assert str(SpecError("a\x1b[31m", "b\0")) == "a\\x1b[31m; b\\x00"


class Silent(Exception):
    """An exception whose text cannot be made."""

    def __str__(self):
        raise RuntimeError("no text")

    __repr__ = __str__


def test_an_exception_without_a_text_is_named_by_its_type():
    assert format_error(Silent()) == "Silent: a Silent without a text"
    assert quoted(Silent()) == "a value of type Silent"

    def featurize(value):
        raise Silent

    columns = {"f": {"dtype": "float64"}}
    spec = {
        "columns": columns,
        "X": "f",
        "storage": {"backend": "featurize-on-access", "featurizer": {"inputs": ["raw"]}},
    }
    with pytest.raises(FeaturizationError, match=r"failed for row 0: Silent"):
        kd.load_dataset(spec, data={"raw": [1.0]}, featurizer=featurize)[0]


@pytest.mark.parametrize(
    ("count", "text"), [(0, "0 B"), (999, "999 B"), (12_345, "12.3 kB"), (1_234_567_890, "1,234.6 MB")]
)
def test_sizes_are_written_in_decimal_units(count: int, text: str) -> None:
    assert format_size(count) == text


def test_a_name_in_other_letter_case_is_suggested() -> None:
    assert unknown("smiles", ["id", "SMILES"], "column") == "unknown column 'smiles'; did you mean 'SMILES'?"
    assert unknown("zzz", ["id", "SMILES"]) == "unknown key 'zzz'; known: id, SMILES"
    assert nearest("zzz", []) is None
