"""Observation models: from a predicted free energy to the scale that was measured.

All are differentiable. The formulas and defaults are those of KinoML, `kinoml/core/measurements.py`
(https://github.com/openkinome/kinoml), except that `percent-displacement` requires its concentration.
"""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from typing import Any, ClassVar

import torch
from pydantic import Field
from torch import Tensor

from kinoml_data.spec import Model

LN10 = math.log(10)


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


def _log(value: Tensor | float) -> Tensor | float:
    return torch.log(value) if isinstance(value, Tensor) else math.log(value)


class Identity(ObservationModel):
    """The prediction as it is: F(x) = x."""

    name = "identity"

    def predict(self, dG_over_kT: Tensor, **conditions: Tensor | float) -> Tensor:
        return dG_over_kT


class PKd(ObservationModel):
    """pKd = -(dG/kT + ln C) / ln 10, without unit.

    Source: KinoML `pKdMeasurement`; Kd = C exp(dG/kT).

    Attributes:
        standard_conc: C, the standard concentration, in mol/L.
    """

    name = "pKd"
    standard_conc: float = Field(1.0, gt=0)

    def predict(self, dG_over_kT: Tensor, **conditions: Tensor | float) -> Tensor:
        return -(dG_over_kT + _log(conditions["standard_conc"])) / LN10


class PKi(PKd):
    """pKi = -(dG/kT + ln C) / ln 10, without unit, with Ki taken as Kd.

    Source: KinoML `pKiMeasurement`.

    Attributes:
        standard_conc: C, the standard concentration, in mol/L.
    """

    name = "pKi"


class PIC50(ObservationModel):
    """pIC50 = -(dG/kT + ln((1 + S/Km) C)) / ln 10, without unit: the Cheng-Prusoff equation with Ki taken as Kd.

    Source: KinoML `pIC50Measurement`; Cheng and Prusoff, Biochem. Pharmacol. 22, 3099 (1973).

    Attributes:
        substrate_conc: S, the substrate's concentration, in mol/L.
        michaelis_constant: Km, in mol/L.
        standard_conc: C, the standard concentration, in mol/L.
    """

    name = "pIC50"
    substrate_conc: float = Field(1e-6, ge=0)
    michaelis_constant: float = Field(1.0, gt=0)
    standard_conc: float = Field(1.0, gt=0)

    def predict(self, dG_over_kT: Tensor, **conditions: Tensor | float) -> Tensor:
        ratio = conditions["substrate_conc"] / conditions["michaelis_constant"]
        return -(dG_over_kT + _log((1 + ratio) * conditions["standard_conc"])) / LN10


class PercentDisplacement(ObservationModel):
    """Displacement = 100 I / (I + C exp(dG/kT)), in percent, 0 to 100.

    Source: KinoML `PercentageDisplacementMeasurement`. KinoML's default of 1 mol/L for I, far above what
    an assay uses, is not taken over: the concentration is required.

    Attributes:
        inhibitor_conc: I, the inhibitor's concentration, in mol/L.
        standard_conc: C, the standard concentration, in mol/L.
    """

    name = "percent-displacement"
    inhibitor_conc: float = Field(gt=0)
    standard_conc: float = Field(1.0, gt=0)

    def predict(self, dG_over_kT: Tensor, **conditions: Tensor | float) -> Tensor:
        # 100 / (1 + exp(x)) in the form that neither overflows nor loses its gradient for large x.
        ratio: Any = conditions["standard_conc"] / conditions["inhibitor_conc"]
        return 100 * torch.sigmoid(-(dG_over_kT + _log(ratio)))


BUILT_IN: tuple[type[ObservationModel], ...] = (PIC50, PKi, PKd, PercentDisplacement, Identity)
