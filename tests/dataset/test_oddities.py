"""What is odd about a stored column, in words."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from kinoml_data import Array, ArrayStorage
from kinoml_data.dataset.oddities import oddity, roles_example, text_among_numbers
from kinoml_data.errors import missing_value


def texts(*values: str) -> ArrayStorage:
    data = "".join(values).encode()
    shapes = np.array([[len(value.encode())] for value in values], np.int64).reshape(-1, 1)
    return ArrayStorage({"t.utf8": np.frombuffer(data, np.uint8), "t.shapes": shapes})


@pytest.mark.parametrize("odd", [">10000", "-", "ND", "n.d.", "55%", "1,200", "inactive", "", "1_0", "0x1F", "µ"])
def test_a_text_among_numbers_is_named_with_its_row(odd):
    assert oddity(texts("1", " 2.5", "-3e4", odd, "nan"), "t") == f"4 numbers, and {odd!r} in row 3"


def test_more_than_one_text_is_counted():
    assert oddity(texts("1", "a", "2", "b"), "t") == "2 numbers, and 'a' in row 1 and 1 more texts"


@pytest.mark.parametrize("values", [("CCO", "CCN", "1"), ("a",), ("1", "2"), ()], ids=str)
def test_a_column_of_texts_or_of_numbers_is_not_odd(values):
    assert oddity(texts(*values), "t") is None


def test_a_column_that_should_be_numbers_is_described_in_any_case():
    assert text_among_numbers(texts("a", "b"), "t", least=0) == "no numbers, and 'a' in row 0 and 1 more texts"
    assert text_among_numbers(texts("1", "2"), "t", least=0) is None


def test_a_column_of_numbers_is_odd_if_it_cannot_be_read():
    class Gaps(ArrayStorage):
        def read(self, rows: Any, columns: Any) -> Any:
            raise missing_value("t.csv: column 'a'", 4, 6)

    assert oddity(ArrayStorage({"a": np.zeros(3)}), "a") is None
    assert "column 'a', row 4 (line 6): a value is missing" in str(oddity(Gaps({"a": np.zeros(3)}), "a"))


def test_an_index_is_known_for_what_it_is():
    storage = ArrayStorage({"id": np.arange(3), "mw": np.ones(3)})
    storage.indexes = ["id"]
    assert oddity(storage, "id") == "an index that another program stored"
    assert oddity(storage, "mw") is None
    assert roles_example(storage.columns, None, storage.indexes) == "load_dataset(..., X=['mw'])"


@pytest.mark.parametrize(
    ("columns", "expected"),
    [
        ({"label": (), "embedding": (None,)}, "load_dataset('t.csv', X=['embedding'], y='label')"),
        ({"mw": (), "logp": (), "IC50": ()}, "load_dataset('t.csv', X=['mw', 'logp'], y='IC50')"),
        ({"y": (), "mw": (), "logp": ()}, "load_dataset('t.csv', X=['mw', 'logp'], y='y')"),
        ({}, "load_dataset('t.csv', X=['...'])"),
        (dict.fromkeys("abcde", ()), "load_dataset('t.csv', X=['a', 'b', 'c', ...], y='e')"),
    ],
)
def test_an_example_of_roles_has_one_number_per_row_as_y(columns, expected):
    assert roles_example({name: Array("float32", shape) for name, shape in columns.items()}, "t.csv") == expected


def test_a_column_of_numbers_is_not_read_for_texts(monkeypatch):
    storage = ArrayStorage({"a": np.arange(3.0)})
    monkeypatch.setattr(storage, "read", None)
    assert text_among_numbers(storage, "a") is None
