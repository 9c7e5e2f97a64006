"""The contract for the author of an observation model: free energies in, measured values out."""

from __future__ import annotations

from abc import ABC, abstractmethod
from typing import TYPE_CHECKING, ClassVar

from kinoml_data.spec.array import Model

if TYPE_CHECKING:
    from torch import Tensor


class ObservationModel(Model, ABC):
    """From dG/kT to a measured value. Its fields are its options in the config.

    Attributes:
        name: what a spec calls it.
    """

    name: ClassVar[str]

    @abstractmethod
    def predict(self, dG_over_kT: Tensor, **conditions: Tensor | float) -> Tensor:
        """See `__call__`; `conditions` holds every option, from the config or from the caller."""

    def __call__(self, dG_over_kT: Tensor, **conditions: Tensor | float) -> Tensor:
        """The observable for each predicted free energy.

        Args:
            dG_over_kT: binding free energy in units of kT, any shape.
            conditions: options that differ from the configured ones: numbers, or one tensor per row
                that broadcasts against `dG_over_kT`.

        Returns:
            A tensor of the same shape, differentiable.

        Raises:
            TypeError: a condition the model does not have.
        """
        options = type(self).model_fields
        if wrong := set(conditions) - set(options):
            raise TypeError(f"{self.name} has no {min(wrong)!r}; it has: {', '.join(options) or 'no conditions'}")
        return self.predict(dG_over_kT, **{name: conditions.get(name, getattr(self, name)) for name in options})
