"""Observation models: from a predicted free energy to the scale that was measured.

All of them are differentiable. A condition is a number, or a column of y: `{column: name}`.

The formulas and defaults are those of KinoML, `kinoml/core/measurements.py` (https://github.com/openkinome/kinoml),
except that `percent-displacement` requires a concentration.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import TYPE_CHECKING, Annotated, Any, Self

from pydantic import (
    BeforeValidator,
    Field,
    NonNegativeFloat,
    PositiveFloat,
    SerializeAsAny,
    ValidationInfo,
    WithJsonSchema,
    field_validator,
)

from kinoml_data.contracts.observation_model import ObservationModel
from kinoml_data.contracts.y_columns import Condition, YColumns, entries_of
from kinoml_data.errors import SpecError, quoted
from kinoml_data.spec.array import frozen
from kinoml_data.spec.dataset_spec import DatasetSpec

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
    standard_conc: Condition[PositiveFloat] = 1.0

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
    substrate_conc: Condition[NonNegativeFloat] = 1e-6
    michaelis_constant: Condition[PositiveFloat] = 1.0
    standard_conc: Condition[PositiveFloat] = 1.0

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
    inhibitor_conc: Condition[PositiveFloat]
    standard_conc: Condition[PositiveFloat] = 1.0

    def predict(self, dG_over_kT: Tensor, **conditions: Tensor | float) -> Tensor:
        from torch import sigmoid

        # 100 / (1 + exp(x)), in a form that neither overflows nor loses its gradient for large x.
        ratio: Any = conditions["standard_conc"] / conditions["inhibitor_conc"]
        return 100 * sigmoid(-(dG_over_kT + _log(ratio)))


def _model(value: Any, info: ValidationInfo) -> Any:
    if isinstance(value, ObservationModel):
        return value
    name, options = value
    if not isinstance(options, Mapping):
        raise ValueError("give the options of the model, such as {} for none")
    if not callable(info.context):
        raise ValueError("give an ObservationModel here; names are looked up only in a spec")
    return info.context(name, options, "")


class Mixed(ObservationModel):
    """Measurements of several kinds: the kind of a row selects its observation model.

    Attributes:
        kind: the column of y that contains the kind of each row. Its `values` are names of observation models.
        models: the options of the model of each kind: `{pIC50: {substrate_conc: 1.0e-6}, pKd: {}}`.
        scale: the numbers that the residuals of some kinds are divided by, on the scale of the kind; by default 1.
    """

    name = "mixed"
    kind: str
    models: dict[
        str, Annotated[SerializeAsAny[ObservationModel], BeforeValidator(_model), WithJsonSchema({"type": "object"})]
    ] = Field(min_length=1)
    scale: dict[str, PositiveFloat] = {}

    @field_validator("models", mode="before")
    @classmethod
    def _with_names(cls, models: Any) -> Any:
        if not isinstance(models, Mapping):
            return models
        return {k: v if isinstance(v, ObservationModel) else (k, v) for k, v in models.items()}

    @field_validator("models", "scale")
    @classmethod
    def _frozen(cls, value: Any) -> Any:
        return frozen(value)

    def model_post_init(self, context: Any) -> None:
        for kind, model in self.models.items():
            if isinstance(model, Mixed) or model.value is not None or model.relation is not None:
                raise ValueError(f"models.{kind}: name value, relation and kind next to `models`, for all kinds")
        if others := [quoted(kind) for kind in self.scale if kind not in self.models]:
            raise ValueError(f"scale: no kind in `models` is called {', '.join(others)}")

    @classmethod
    def condition_names(cls) -> tuple[str, ...]:
        return ()

    def predict(self, dG_over_kT: Tensor, **conditions: Tensor | float) -> Tensor:
        raise SpecError("mixed: the formula depends on the kind of a row; call `measured(dG, y)` or `residual(dG, y)`")

    def bound_to(self, spec: DatasetSpec) -> Self:
        model = super().bound_to(spec)
        kinds = model._texts[self.kind]
        problems = [
            f"observation_model.models: no model for kind {quoted(kind)}, which the column {quoted(self.kind)} has in "
            "`values`"
            for kind in kinds
            if kind not in self.models
        ] + [
            f"observation_model.models.{kind}: the column {quoted(self.kind)} has no such kind in `values`"
            for kind in self.models
            if kind not in kinds
        ]
        if problems:
            raise SpecError(*problems)
        return model

    def _named(self) -> dict[str, str]:
        of_kinds = {f"models.{k}.{option}": name for k, m in self.models.items() for option, name in m._named().items()}
        return super()._named() | {"kind": self.kind} | of_kinds

    def _predicted(self, dG: Tensor, columns: YColumns) -> Tensor:
        import torch

        result = torch.full_like(dG, torch.nan)
        for place, kind in enumerate(self._texts_of(self.kind)):
            rows = columns[self.kind] == place
            predicted = self.models[kind]._predicted(dG[rows], entries_of(columns, rows))
            result = result.masked_scatter(rows, predicted)
        return result

    def _scale(self, columns: YColumns) -> Tensor | float:
        import torch

        scales = torch.tensor([self.scale.get(kind, 1.0) for kind in self._texts_of(self.kind)])
        kinds = columns[self.kind]
        return scales.to(kinds.device)[kinds.long()]


BUILT_IN: tuple[type[ObservationModel], ...] = (PIC50, PKi, PKd, PercentDisplacement, Identity, Mixed)
