"""The contract for the author of a collate form: the columns of a batch in, whatever training takes out."""

from __future__ import annotations

from abc import ABC, abstractmethod
from typing import Any, ClassVar

from kinoml_data.spec.dataset_spec import DatasetSpec


class BatchForm(ABC):
    """Puts all columns of a batch together. One is made for each loader; it goes to worker processes by pickle.

    Attributes:
        name: what `collate` calls it.

    Args:
        spec: the spec, with its columns.

    Raises:
        SpecError: it cannot hold these columns.
    """

    name: ClassVar[str]

    def __init__(self, spec: DatasetSpec) -> None:
        self.spec = spec

    @abstractmethod
    def __call__(self, X: Any, y: Any) -> Any:
        """What a batch is, from its X and y in the form `packed`.

        Args:
            X, y: where the spec names one column, a tensor `(rows, *shape)`, or a ragged one's `Packed`; where it
                names a list, these by column. y is None where there is none. The tensors are new: they may be kept.

        Raises:
            SpecError: values that do not fit together.
        """
