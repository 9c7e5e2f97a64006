"""Featurizers for sequences of amino acids: `one-hot-sequence` and `amino-acid-composition`."""

from __future__ import annotations

from collections.abc import Mapping
from functools import cache
from typing import Annotated, Any, Literal

import numpy as np
from kinoml_data.plugin import Array, Featurizer
from numpy.typing import NDArray
from pydantic import Field, field_validator

AMINO_ACIDS = "ACDEFGHIKLMNPQRSTVWY"
"""The 20 amino acids in the alphabetical order of their one-letter codes, which is also KinoML's order.

Source of the codes: IUPAC-IUB, European Journal of Biochemistry 138 (1984), 9-37, section 3AA-21.
"""

OTHER = -1  # in place of the row of a letter that is not in the alphabet


class OfSequence(Featurizer):
    """What both featurizers share: how a sequence becomes the rows of its letters.

    Attributes:
        alphabet: the letters, in the order of the rows. The gap symbol of an alignment may be one of them, as in
            "ACDEFGHIKLMNPQRSTVWY-".
        unknown: "error" refuses a letter that is not in the alphabet, such as X or a lower-case letter. "ignore" leaves
            it out of the counts, and gives it a column of zeros.
    """

    inputs = ("sequence",)

    alphabet: Annotated[str, Field(min_length=1)] = AMINO_ACIDS
    unknown: Literal["error", "ignore"] = "error"

    @field_validator("alphabet")
    @classmethod
    def _different(cls, alphabet: str) -> str:
        if len(set(alphabet)) < len(alphabet):
            raise ValueError("alphabet contains a letter more than once")
        return alphabet

    def rows(self, sequence: Any) -> NDArray[np.int64]:
        """The row of each letter, int64 `(L,)`; `OTHER` for a letter that is not in the alphabet.

        Raises:
            ValueError: the sequence is empty or not a string, or contains a letter that is not in the alphabet.
        """
        if not isinstance(sequence, str) or not sequence:
            raise ValueError(f"{sequence!r} is not a sequence: give a string of one-letter codes")
        row_of = _rows_of(self.alphabet)
        rows = np.array([row_of.get(letter, OTHER) for letter in sequence], np.int64)
        if self.unknown == "error" and (rows == OTHER).any():
            position = int((rows == OTHER).argmax())
            raise ValueError(
                f"{sequence[position]!r} at position {position + 1} of a sequence of {len(sequence)} letters is not in "
                f"the alphabet {self.alphabet!r}; add it to `alphabet`, or write `unknown: ignore`"
            )
        return rows


class OneHotSequence(OfSequence):
    """A sequence as a column per amino acid and a row per letter of the alphabet.

    The output is `one_hot`, uint8 `(20, L)` for a sequence of L letters; `(len(alphabet), L)` with another alphabet.
    """

    name = "one-hot-sequence"

    @property
    def outputs(self) -> Mapping[str, Array]:
        return {"one_hot": Array("uint8", (len(self.alphabet), None))}

    def featurize(self, *raw: Any) -> tuple[NDArray[Any], ...]:
        """The one-hot matrix of one sequence; raises the errors of `rows`."""
        rows = self.rows(*raw)
        known = np.flatnonzero(rows != OTHER)
        one_hot = np.zeros((len(self.alphabet), len(rows)), np.uint8)
        one_hot[rows[known], known] = 1
        return (one_hot,)


class AminoAcidComposition(OfSequence):
    """How much of a sequence each amino acid is.

    The output is `composition`, float32 `(20,)`; `(len(alphabet),)` with another alphabet. It contains the share of
    each letter among those that are in the alphabet; with `counts`, the numbers themselves.

    Attributes:
        counts: gives numbers instead of shares, as KinoML does.
    """

    name = "amino-acid-composition"

    counts: bool = False

    @property
    def outputs(self) -> Mapping[str, Array]:
        return {"composition": Array("float32", (len(self.alphabet),))}

    def featurize(self, *raw: Any) -> tuple[NDArray[Any], ...]:
        """The composition of one sequence.

        Raises:
            ValueError: `rows` refuses the sequence, or none of its letters is in the alphabet, so that no share exists.
        """
        rows = self.rows(*raw)
        numbers = np.bincount(rows[rows != OTHER], minlength=len(self.alphabet))
        if self.counts:
            return (numbers.astype(np.float32),)
        if not numbers.any():
            raise ValueError(f"no letter of the sequence is in the alphabet {self.alphabet!r}")
        return ((numbers / numbers.sum()).astype(np.float32),)


@cache
def _rows_of(alphabet: str) -> dict[str, int]:
    return {letter: row for row, letter in enumerate(alphabet)}
