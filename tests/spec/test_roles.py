"""Which columns are X and which y, if a spec does not name them."""

from __future__ import annotations

import pytest

from kinoml_data.errors import SpecError
from kinoml_data.spec.roles import guess_roles, guess_y, names_of


@pytest.mark.parametrize(
    ("numeric", "X", "y"),
    [
        (["a"], "a", None),
        (["a", "b"], "a", "b"),
        (["b", "a", "c"], ("b", "a"), "c"),
        (["X", "y"], "X", "y"),
        (["X", "X0", "X12"], ("X", "X0", "X12"), None),
        (["X0", "X1", "y"], ("X0", "X1"), "y"),
        (["X0", "Xy"], "X0", "Xy"),
    ],
    ids=str,
)
def test_the_last_numeric_column_is_y_unless_all_have_names_of_inputs(numeric, X, y):
    assert guess_roles(numeric) == (X, y)


def test_roles_of_a_store_without_numeric_columns_are_an_error():
    with pytest.raises(SpecError, match="no numeric column; list the columns in the spec"):
        guess_roles([])


def test_a_single_column_beside_joined_tables_is_y():
    assert (guess_y(["activity"]), guess_y(["X0"]), guess_y([])) == ("activity", None, None)


def test_a_role_is_no_name_one_name_or_several():
    assert (names_of(None), names_of("ab"), names_of(["a", "b"])) == ((), ("ab",), ("a", "b"))
