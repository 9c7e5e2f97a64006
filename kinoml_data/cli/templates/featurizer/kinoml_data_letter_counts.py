"""The featurizer `letter-counts`: how often each of some letters occurs in a SMILES."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Annotated, Any

import numpy as np
from kinoml_data.plugin import Array, Featurizer, hookimpl
from numpy.typing import NDArray
from pydantic import Field


class LetterCounts(Featurizer):
    """How often each of some letters occurs in a SMILES.

    The output is `counts`, int64 `(len(letters),)`.

    Attributes:
        letters: the letters to count, in the order of the output.
    """

    name = "letter-counts"
    inputs = ("smiles",)

    letters: Annotated[str, Field(min_length=1)] = "CNOSPcnos"

    @property
    def outputs(self) -> Mapping[str, Array]:
        return {"counts": Array("int64", (len(self.letters),))}

    def featurize(self, *raw: Any) -> tuple[NDArray[Any], ...]:
        """The counts of one SMILES.

        Raises:
            ValueError: the SMILES is empty.
        """
        (smiles,) = raw
        if not smiles:
            raise ValueError("the SMILES is empty")
        return (np.array([smiles.count(letter) for letter in self.letters], np.int64),)


@hookimpl
def register_featurizers() -> list[type[Featurizer]]:
    """The featurizers of this plugin."""
    return [LetterCounts]
