"""The roles that the names of columns imply: KinoML calls its inputs X, or X0, X1, ..., and its measurements y."""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence


def names_of(role: str | Sequence[str] | None) -> tuple[str, ...]:
    """The column names in a role: none, one, or several."""
    return () if role is None else (role,) if isinstance(role, str) else tuple(role)


def named_X(columns: Iterable[str]) -> str | tuple[str, ...] | None:
    """The columns that are X by their names: "X" alone, or X0, X1, ... in the order of their numbers; None without."""
    names = list(columns)
    if "X" in names:
        return "X"
    numbered = sorted((name for name in names if re.fullmatch(r"X\d+", name)), key=lambda name: int(name[1:]))
    return tuple(numbered) if len(numbered) > 1 else numbered[0] if numbered else None


def named_y(columns: Iterable[str]) -> str | None:
    """The column that is y by its name: "y"; None if there is none."""
    return "y" if "y" in columns else None
