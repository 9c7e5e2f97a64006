"""Guessing which columns are X and y if a spec does not name them."""

from __future__ import annotations

import re
from collections.abc import Sequence

from kinoml_data.errors import SpecError


def names_of(role: str | Sequence[str] | None) -> tuple[str, ...]:
    """The column names in a role: none, one, or several."""
    return () if role is None else (role,) if isinstance(role, str) else tuple(role)


def guess_y(numeric: Sequence[str]) -> str | None:
    """The last of the numeric columns; None if all are called X, X0, X1, ..., as KinoML calls its inputs."""
    return None if all(re.fullmatch(r"X\d*", name) for name in numeric) else numeric[-1]


def guess_roles(numeric: Sequence[str]) -> tuple[str | tuple[str, ...], str | None]:
    """X and y of a store that contains these numeric columns.

    Raises:
        SpecError: there is no numeric column.
    """
    if not numeric:
        raise SpecError("the store has no numeric column; list the columns in the spec")
    y = guess_y(numeric) if len(numeric) > 1 else None
    X = tuple(name for name in numeric if name != y)
    return X[0] if len(X) == 1 else X, y
