"""The contract for the author of a collate form: from the columns of a batch to the object that training uses."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Collection
from typing import Any, ClassVar

from kinoml_data.spec.dataset_spec import CompleteSpec


class BatchForm(ABC):
    """Turns the columns of a batch into one object. Each loader makes one form, which is pickled for its workers.

    For example::

        class RowSums(BatchForm):
            name = "row-sums"

            def __init__(self, spec):
                super().__init__(spec)
                if not isinstance(spec.X, str) or spec.columns[spec.X].ragged:
                    raise SpecError("collate: row-sums needs X to be a single fixed column")

            def __call__(self, X, y):
                return X.flatten(1).sum(1), y

    Attributes:
        name: the name that `collate` uses.
        unique: the columns of which the form takes the distinct rows of the batch; none by default. `__init__` may set
            it. Such a column is a `Unique` of what it would be otherwise.

    Args:
        spec: the spec, with its columns.

    Raises:
        SpecError: the form does not suit these columns.
    """

    name: ClassVar[str]
    unique: Collection[str] = ()

    def __init__(self, spec: CompleteSpec) -> None:
        self.spec = spec

    @abstractmethod
    def __call__(self, X: Any, y: Any) -> Any:
        """The batch, made from its X and y in the form `packed`. It has to be picklable.

        Args:
            X, y: a tensor `(rows, *shape)`, or a `Packed` if the column is ragged; a mapping of these by column if the
                spec names a list of columns; y is None if the spec names none. The tensors are new and may be modified.

        Raises:
            SpecError: the values of the batch do not fit together.
        """
