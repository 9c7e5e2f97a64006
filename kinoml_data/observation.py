"""Observation models: from a predicted free energy to the scale that was measured.

All of them are differentiable. The formulas and defaults are those of KinoML, `kinoml/core/measurements.py`
(https://github.com/openkinome/kinoml), except that `percent-displacement` requires a concentration.
"""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Any

from pydantic import Field

from kinoml_data.contracts.observation_model import ObservationModel

if TYPE_CHECKING:
    from torch import Tensor

LN10 = math.log(10)


def _log(value: Tensor | float) -> Tensor | float:
    from torch import Tensor

    return value.log() if isinstance(value, Tensor) else math.log(value)


class Identity(ObservationModel):
    """The prediction as it is: F(x) = x."""

    name = "identity"

    def predict(self, dG_over_kT: Tensor, **conditions: Tensor | float) -> Tensor:
        return dG_over_kT


class PKd(ObservationModel):
    """pKd = -(dG/kT + ln C) / ln 10, without a unit.

    Source: KinoML `pKdMeasurement`; Kd = C exp(dG/kT).

    Attributes:
        standard_conc: C, the standard concentration, in mol/L.
    """

    name = "pKd"
    standard_conc: float = Field(1.0, gt=0)

    def predict(self, dG_over_kT: Tensor, **conditions: Tensor | float) -> Tensor:
        return -(dG_over_kT + _log(conditions["standard_conc"])) / LN10


class PKi(PKd):
    """pKi = -(dG/kT + ln C) / ln 10, without a unit, with Ki taken as Kd.

    Source: KinoML `pKiMeasurement`.

    Attributes:
        standard_conc: C, the standard concentration, in mol/L.
    """

    name = "pKi"


class PIC50(ObservationModel):
    """pIC50 = -(dG/kT + ln((1 + S/Km) C)) / ln 10, without a unit: the Cheng-Prusoff equation with Ki taken as Kd.

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

    Source: KinoML `PercentageDisplacementMeasurement`. Its default for I is 1 mol/L, far above the concentration in an
    assay; here the concentration is required.

    Attributes:
        inhibitor_conc: I, the inhibitor's concentration, in mol/L.
        standard_conc: C, the standard concentration, in mol/L.
    """

    name = "percent-displacement"
    inhibitor_conc: float = Field(gt=0)
    standard_conc: float = Field(1.0, gt=0)

    def predict(self, dG_over_kT: Tensor, **conditions: Tensor | float) -> Tensor:
        from torch import sigmoid

        # 100 / (1 + exp(x)), in a form that neither overflows nor loses its gradient for large x.
        ratio: Any = conditions["standard_conc"] / conditions["inhibitor_conc"]
        return 100 * sigmoid(-(dG_over_kT + _log(ratio)))


BUILT_IN: tuple[type[ObservationModel], ...] = (PIC50, PKi, PKd, PercentDisplacement, Identity)
