"""The contract for the author of an observation model: from free energies to measured values."""

from __future__ import annotations

from abc import ABC, abstractmethod
from typing import TYPE_CHECKING, Any, ClassVar

from pydantic import ValidationError

from kinoml_data.errors import SpecError
from kinoml_data.spec.array import Model
from kinoml_data.spec.validation import spec_error

if TYPE_CHECKING:
    from numpy.typing import NDArray
    from torch import Tensor


class ObservationModel(Model, ABC):
    """A differentiable function from dG/kT to a measured value. Its fields are its options in a spec.

    For example::

        class Occupancy(ObservationModel):
            name = "occupancy"
            inhibitor_conc: float  # mol/L

            def predict(self, dG_over_kT, **conditions):
                return torch.sigmoid(math.log(conditions["inhibitor_conc"]) - dG_over_kT)

    Attributes:
        name: the name that a spec uses.
    """

    name: ClassVar[str]

    @abstractmethod
    def predict(self, dG_over_kT: Tensor, **conditions: Tensor | float) -> Tensor:
        """Compute the measured values; called by `__call__`.

        Args:
            dG_over_kT: binding free energies in units of kT, of any shape.
            conditions: the value of every option, from the spec or from the caller.

        Returns:
            The measured values, of the same shape.
        """

    def __call__(self, dG_over_kT: Tensor, **conditions: Tensor | NDArray[Any] | float) -> Tensor:
        """The measured value for each predicted free energy.

        Args:
            dG_over_kT: binding free energies in units of kT, of any shape.
            conditions: options that differ from those in the spec: numbers, which must be valid as options, or tensors
                or numpy arrays with one entry per row that broadcast against `dG_over_kT`. The entries are not checked,
                as that would wait for the device: where they are not valid, the result is NaN or infinite.

        Returns:
            A differentiable tensor of the same shape.

        Raises:
            TypeError: a condition is not an option of this model.
            SpecError: a number is not valid as an option, or the shape of a condition would change the shape of the
                result, as `(N,)` does beside `(N, 1)`.
        """
        import numpy as np
        import torch

        options = type(self).model_fields
        if unknown := set(conditions) - set(options):
            known = ", ".join(options) or "no conditions"
            raise TypeError(f"{self.name} has no condition {min(unknown)!r}; it has: {known}")
        values: dict[str, Tensor | float] = {
            name: torch.as_tensor(value, dtype=dG_over_kT.dtype, device=dG_over_kT.device)
            if isinstance(value, np.ndarray)
            else (value.item() if isinstance(value, np.generic) else value)
            for name, value in conditions.items()
        }
        numbers = {name: value for name, value in values.items() if not isinstance(value, torch.Tensor)}
        if numbers:
            try:
                type(self)(**{**dict(self), **numbers})
            except ValidationError as error:
                raise spec_error(error, type(self), self.name) from None
        measured = self.predict(dG_over_kT, **{name: values.get(name, getattr(self, name)) for name in options})
        shape, found = tuple(getattr(dG_over_kT, "shape", ())), tuple(getattr(measured, "shape", ()))
        if found != shape:
            shapes = ", ".join(f"{name} {tuple(getattr(value, 'shape', ()))}" for name, value in conditions.items())
            raise SpecError(
                f"{self.name}: dG/kT has the shape {shape}, but the result would have {found}; give conditions that "
                f"broadcast to {shape}, such as `conc.reshape(dG.shape)`: {shapes or 'there are none'}"
            )
        return measured
