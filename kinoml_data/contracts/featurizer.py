"""The contract for the author of a featurizer: from the raw values of a row to its feature arrays."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from typing import Any, ClassVar

from numpy.typing import NDArray

from kinoml_data.spec.array import Array, Model


class Featurizer(Model, ABC):
    """Computes feature columns from the raw columns of one row. Its fields are its options in a spec.

    For example::

        class Length(Featurizer):
            name = "length"
            inputs = ("smiles",)
            scale: float = 1.0

            @property
            def outputs(self):
                return {"length": Array("float32")}

            def featurize(self, smiles):
                return (np.float32(self.scale * len(smiles)),)

    Attributes:
        name: the name that a spec uses.
        inputs: the raw columns that it reads, unless the spec names others.
    """

    name: ClassVar[str]
    inputs: ClassVar[tuple[str, ...]]

    @property
    @abstractmethod
    def outputs(self) -> Mapping[str, Array]:
        """The columns that it computes, by name, in the order in which `featurize` returns them.

        `Array("str")` is a column of text.
        """

    @abstractmethod
    def featurize(self, *raw: Any) -> tuple[NDArray[Any] | str, ...]:
        """The feature arrays of one row, one for each of `outputs` and of its dtype and shape; a str for text.

        The same values always give the same arrays: rows with equal values share the arrays of one call. Several
        threads may call this at once.

        Args:
            raw: the value of each input: a str, a numpy scalar or array, or an object of the caller.

        Raises:
            Exception: this row cannot be featurized. The library reports any exception as a `FeaturizationError` that
                names the row.
        """

    def featurize_many(self, *columns: Sequence[Any]) -> tuple[Sequence[Any], ...]:
        """The feature arrays of several rows at once. Override this if it is faster, as for a model on a GPU.

        It is called with the distinct inputs of as many rows as are read together, which may be thousands.

        Args:
            columns: for each input, its values, one per row.

        Returns:
            For each of `outputs`, what `featurize` would return for each row: a sequence, or an array `(n, *shape)`.

        Raises:
            Exception: a row cannot be featurized. The library then calls this with each row alone, to name the row.
        """
        rows = [self.featurize(*raw) for raw in zip(*columns, strict=True)]
        return tuple([row[position] for row in rows] for position in range(len(self.outputs)))
