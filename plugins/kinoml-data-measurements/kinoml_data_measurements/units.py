"""What the texts of a raw table mean: units, relations and numbers."""

from __future__ import annotations

import math
import re
from typing import NamedTuple

PERCENT = "%"
EQUAL, BELOW, ABOVE = RELATIONS = ("=", "<", ">")
MEANINGS = {"=": EQUAL, "<": BELOW, ">": ABOVE, "<=": BELOW, ">=": ABOVE}

_NUMBER = re.compile(r"(<=|>=|[<>=~])?\s*([+-]?(?:[0-9]+\.?[0-9]*|\.[0-9]+)(?:[eE][+-]?[0-9]+)?)")
_EXPONENTS = {"M": 0, "mM": 3, "uM": 6, "nM": 9, "pM": 12}


class Unit(NamedTuple):
    """A unit that is known.

    Attributes:
        name: its name.
        is_log: True if a value is a logarithm already, such as a pIC50.
        exponent: n, if the unit of a concentration is 1e-n mol/L.
    """

    name: str
    is_log: bool = False
    exponent: int = 0

    @property
    def is_percent(self) -> bool:
        """True for percent, which is neither a concentration nor a logarithm of one."""
        return self.name == PERCENT


def unit_of(text: str) -> Unit | None:
    """The unit that a text names; None if it is not known."""
    text = text.strip().replace("\N{MICRO SIGN}", "u").replace("\N{GREEK SMALL LETTER MU}", "u")
    if text == PERCENT:
        return Unit(PERCENT)
    is_log = text.startswith("-log10(") and text.endswith(")")
    exponent = _EXPONENTS.get(text[7:-1] if is_log else text)
    return None if exponent is None else Unit(text, is_log, exponent)


def number_of(text: str) -> tuple[str, float]:
    """The relation in front of a number, or an empty text, and the number; NaN if the text is something else."""
    match = _NUMBER.fullmatch(text.strip())
    return (match[1] or "", float(match[2])) if match else ("", math.nan)


def is_percent(kind: str) -> bool:
    """True if values of this kind are in percent; those of any other kind are p-values."""
    return kind.startswith("percent")
