"""The roles that the names of columns say."""

from __future__ import annotations

import pytest

from kinoml_data.spec.roles import named_X, named_y, names_of


@pytest.mark.parametrize(
    ("columns", "X"),
    [
        ([], None),
        (["a", "b", "y"], None),
        (["x", "XX", "X_", "X1a", "1X", "X-1", "X1.0", "\u0058\u0661\u0061"], None),
        (["a", "X", "y"], "X"),
        (["X0", "X"], "X"),
        (["X0", "y"], "X0"),
        (["X10", "X2", "a", "X0"], ("X0", "X2", "X10")),
    ],
    ids=str,
)
def test_columns_are_X_only_by_the_names_that_kinoml_gives(columns, X):
    assert named_X(columns) == X
    assert named_X(dict.fromkeys(columns)) == X


@pytest.mark.parametrize(("columns", "y"), [(["X", "y"], "y"), (["Y", "yy", "y0"], None), ([], None)], ids=str)
def test_only_a_column_that_is_called_y_is_y(columns, y):
    assert named_y(columns) == y


def test_a_role_is_no_name_one_name_or_several():
    assert (names_of(None), names_of("ab"), names_of(["a", "b"])) == ((), ("ab",), ("a", "b"))
