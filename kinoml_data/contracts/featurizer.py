"""The contract for the author of a featurizer: raw values of one row in, feature arrays out."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping
from typing import Any, ClassVar

from numpy.typing import NDArray

from kinoml_data.spec.array import Array, Model


class Featurizer(Model, ABC):
    """Computes feature columns from the raw columns of one row. Its fields are its options in the config.

    Attributes:
        name: what a spec calls it.
        inputs: the raw columns it reads, unless the spec names others.
    """

    name: ClassVar[str]
    inputs: ClassVar[tuple[str, ...]]

    @property
    @abstractmethod
    def outputs(self) -> Mapping[str, Array]:
        """The columns it computes, by name, in the order `featurize` returns them."""

    @abstractmethod
    def featurize(self, *raw: Any) -> tuple[NDArray[Any], ...]:
        """The feature arrays of one row, one per output.

        Args:
            raw: the row's value of each input: str, a numpy scalar or array, or the caller's own object.

        Raises:
            Exception: anything; the row is then reported as `FeaturizationError`.
        """
