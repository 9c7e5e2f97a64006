"""Rows, comparisons and small plugins that several test files need."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
from numpy.typing import NDArray

from kinoml_data.contracts.featurizer import Featurizer
from kinoml_data.spec.array import Array


class Size(Featurizer):
    """The number of elements of a row, or of characters of a string."""

    name = "size"
    inputs = ("X",)

    @property
    def outputs(self) -> Mapping[str, Array]:
        return {"size": Array("int64")}

    def featurize(self, *raw: Any) -> tuple[NDArray[Any], ...]:
        (value,) = raw
        return (np.array(len(value) if isinstance(value, str) else np.size(value), np.int64),)
