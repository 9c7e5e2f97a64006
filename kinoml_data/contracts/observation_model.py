"""The contract for the author of an observation model: from free energies to measured values."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any, ClassVar, Self

from pydantic import PrivateAttr, ValidationError

from kinoml_data.contracts.y_columns import (
    ABOVE,
    BELOW,
    EQUAL,
    OF_TEXTS,
    FromColumn,
    YColumns,
    entries_of,
    expanded,
    inverse,
    problem_of,
    tensor_of,
)
from kinoml_data.errors import SpecError, quoted, unknown
from kinoml_data.spec.array import Model
from kinoml_data.spec.dataset_spec import DatasetSpec
from kinoml_data.spec.validation import spec_error

if TYPE_CHECKING:
    from numpy.typing import NDArray
    from torch import Tensor


class ObservationModel(Model, ABC):
    """A differentiable function from dG/kT to a measured value. Its fields are its options in a spec.

    For example::

        class Occupancy(ObservationModel):
            name = "occupancy"
            inhibitor_conc: Condition[float]  # mol/L

            def predict(self, dG_over_kT, **conditions):
                conc = torch.as_tensor(conditions["inhibitor_conc"])
                return torch.sigmoid(conc.log() - dG_over_kT)

    Attributes:
        name: the name that a spec uses.
        value: the column of y that contains the measured values; needed only if y has several columns.
        relation: the column of y that contains the relation of each row, with `values` from `=`, `<` and `>`. The
            measured quantity is below the value if the relation is `<`, and above it if it is `>`.
    """

    name: ClassVar[str]
    value: str | None = None
    relation: str | None = None
    _texts: Mapping[str, tuple[str, ...]] = PrivateAttr(default_factory=dict)  # the `values` of columns of texts

    @abstractmethod
    def predict(self, dG_over_kT: Tensor, **conditions: Tensor | float) -> Tensor:
        """Compute the measured values; called by `__call__`.

        Args:
            dG_over_kT: binding free energies in units of kT, of any shape.
            conditions: the value of every option of this class, from the spec, from the caller or from y.

        Returns:
            The measured values, of the same shape. Each depends on the energy and the conditions at its own place.
        """

    def __call__(self, dG_over_kT: Tensor, **conditions: Tensor | NDArray[Any] | float) -> Tensor:
        """The measured value for each predicted free energy.

        Args:
            dG_over_kT: binding free energies in units of kT, of any shape.
            conditions: options that differ from those in the spec: numbers, which must be valid as options, or tensors
                or numpy arrays with one entry per row that broadcast against `dG_over_kT`. The entries are not checked,
                as that would wait for the device: if they are not valid, the result is NaN or infinite.

        Returns:
            A differentiable tensor of the same shape.

        Raises:
            TypeError: a condition is not an option of this model.
            SpecError: a number is not valid as an option, a condition that the spec takes from a column is not given,
                or the shape of a condition would change the shape of the result, as `(N,)` does beside `(N, 1)`.
        """
        import numpy as np
        import torch

        options = self.condition_names()
        if others := set(conditions) - set(options):
            known = ", ".join(options) or "no conditions"
            raise TypeError(f"{self.name} has no condition {min(others)!r}; it has: {known}")
        values: dict[str, Tensor | float] = {
            name: torch.as_tensor(value, dtype=dG_over_kT.dtype, device=dG_over_kT.device)
            if isinstance(value, np.ndarray)
            else (value.item() if isinstance(value, np.generic) else value)
            for name, value in conditions.items()
        }
        self._check_numbers({name: value for name, value in values.items() if not isinstance(value, torch.Tensor)})
        values = {name: values.get(name, getattr(self, name)) for name in options}
        for name, value in values.items():
            if isinstance(value, FromColumn):
                raise SpecError(
                    f"{self.name}.{name}: the spec takes it from the column {quoted(value.column)} of y; call "
                    f"`measured(dG, y)`, or pass `{name}`"
                )
        measured = self.predict(dG_over_kT, **values)
        shape, found = tuple(getattr(dG_over_kT, "shape", ())), tuple(getattr(measured, "shape", ()))
        if found != shape:
            shapes = ", ".join(f"{name} {tuple(getattr(value, 'shape', ()))}" for name, value in conditions.items())
            raise SpecError(
                f"{self.name}: dG/kT has the shape {shape}, but the result would have {found}; give conditions that "
                f"broadcast to {shape}, such as `conc.reshape(dG.shape)`: {shapes or 'there are none'}"
            )
        return measured

    # -- with the y of a batch

    def measured(self, dG_over_kT: Tensor, y: Any) -> Tensor:
        """The measured value for each predicted free energy, with the conditions and the kind of its row.

        Args:
            dG_over_kT: binding free energies in units of kT, `(rows, ...)`.
            y: the y of a batch: a tensor, or a mapping of columns. Its measured values are not used.

        Returns:
            A differentiable tensor of the same shape.

        Raises:
            SpecError: y lacks a column that the model names, a column does not fit the shape of `dG_over_kT`, or a
                value of a column is not valid as an option.
        """
        return self._predicted(dG_over_kT, self._columns(y, dG_over_kT.shape, dG_over_kT.device))

    def residual(self, dG_over_kT: Tensor, y: Any) -> Tensor:
        """The predicted minus the measured values, on the measured scale, for a loss of any kind.

        A residual is 0, without a gradient, if the measured value is NaN, or if the relation is `<` and the prediction
        is not above the value, or `>` and the prediction is not below it. The formula is not differentiated there, so
        that a gradient is finite even if it overflows. `residual(dG, y).square().mean()` counts such entries as 0.

        Args:
            dG_over_kT: binding free energies in units of kT, of the shape of the measured values: `(rows,)`, or
                `(rows, tasks)` if one column contains several tasks.
            y: the y of a batch: a tensor, or a mapping of columns. A condition, a relation or a kind with one entry per
                row applies to all tasks of its row.

        Returns:
            A differentiable tensor of the same shape, at least float32.

        Raises:
            SpecError: the shape of `dG_over_kT` is not that of the measured values, y lacks a column that the model
                names, the model names a relation or a kind but was not bound to a spec, or a condition of a measured
                entry is not valid as an option.
        """
        import torch

        measured = self._value_of(y)
        if dG_over_kT.shape != measured.shape:
            raise SpecError(
                f"{self.name}: dG/kT has the shape {tuple(dG_over_kT.shape)}, but the measured values have "
                f"{tuple(measured.shape)}; reshape the prediction, as in `model(X).squeeze(1)`"
            )
        # Half precision would round the measured value.
        dG = dG_over_kT.to(torch.promote_types(dG_over_kT.dtype, torch.float32))
        measured = measured.to(dG)
        columns = self._columns(y, dG.shape, dG.device)
        entries = ~measured.isnan()
        if self.relation is not None:
            with torch.no_grad():
                difference = torch.full_like(dG, torch.nan)
                difference[entries] = self._predicted(dG[entries], entries_of(columns, entries)) - measured[entries]
                entries &= ~(self._is(BELOW, columns) & (difference <= 0))
                entries &= ~(self._is(ABOVE, columns) & (difference >= 0))
        there = entries_of(columns, entries)
        difference = (self._predicted(dG[entries], there) - measured[entries]) / self._scale(there)
        return torch.zeros_like(dG).masked_scatter(entries, difference)

    def energies(self, y: Any) -> Tensor:
        """The free energy from which each measured value follows, in units of kT: the inverse of `measured`.

        Args:
            y: the y of a batch: a tensor, or a mapping of columns.

        Returns:
            A float64 tensor of the shape of the measured values. It contains NaN if a value is missing, is a bound, or
            is not a value of the formula, such as a displacement of 0 or 105 percent. If several energies give a value,
            it is one of them.

        Raises:
            SpecError: see `residual`.
        """
        import torch

        measured = self._value_of(y).detach().double()
        columns = self._columns(y, measured.shape, measured.device)
        entries = ~measured.isnan()
        if self.relation is not None:
            entries &= self._is(EQUAL, columns)
        result = torch.full_like(measured, torch.nan)
        with torch.no_grad():
            there = entries_of(columns, entries)
            result[entries] = inverse(lambda dG: self._predicted(dG, there), measured[entries])
        return result

    def bias_and_scale(self, dataset: Any) -> tuple[Tensor, Tensor]:
        """The mean and the standard deviation of the free energies of a dataset, for the last layer of a network.

        A network whose outputs are about 0, plus or minus 1, starts near the data if it predicts
        `bias + scale * output`. It then trains as if y were scaled. Use the training rows only::

            bias, scale = dataset.observation_model.bias_and_scale(dataset.split("train"))

        Args:
            dataset: the dataset. The columns of y that the model names are read completely, and no others.

        Returns:
            Two tensors of the shape of one measured value, `()` or `(tasks,)`, in units of kT. They are computed from
            the values that `energies` inverts. The scale is 1 if all of these energies are equal.

        Raises:
            SpecError: the dataset has no y, or has no value that can be inverted, for one of the tasks.
        """
        import torch

        names = dataset.spec.y_names if self.value is None else self._named().values()
        if not names:
            raise SpecError(f"{self.name}: the dataset has no y, from which to take the bias and the scale")
        energies = self.energies({name: dataset.column(name) for name in names})
        known = ~energies.isnan()
        if not (counts := known.sum(0)).all():
            task = "" if counts.ndim == 0 else f"task {counts.tolist().index(0)}: "
            raise SpecError(
                f"{self.name}: {task}none of the {len(energies):,} rows has a measured value that the formula gives; "
                "bounds and missing values do not count"
            )
        bias = energies.nanmean(0)
        scale = (energies - bias).square().nanmean(0).sqrt()
        dtype = torch.get_default_dtype()
        return bias.to(dtype), scale.where(scale > 0, 1).to(dtype)

    def bound_to(self, spec: DatasetSpec) -> Self:
        """The same model for the y of a dataset. `load_dataset` calls this.

        Args:
            spec: the spec, with its columns. The texts behind the numbers of a relation are its `values`.

        Raises:
            SpecError: a column that the model names is not in y, or is not of the kind that its option needs.
        """
        named = self._named()
        problems = [
            f"observation_model.{option}: {problem}"
            for option, column in named.items()
            if (problem := problem_of(option, column, spec))
        ]
        if named and self.value is None and isinstance(spec.y, tuple) and len(spec.y) > 1:
            problems.append(f"observation_model.value: name the column of the measured values, one of {quoted(spec.y)}")
        if problems:
            raise SpecError(*problems)
        columns = spec.columns or {}
        model = self.model_copy()
        model._texts = {name: columns[name].values or () for option, name in named.items() if option in OF_TEXTS}
        return model

    # -- what `Mixed` does in another way

    @classmethod
    def condition_names(cls) -> tuple[str, ...]:
        """The options that `predict` takes: all fields except `value` and `relation`."""
        return tuple(name for name in cls.model_fields if name not in ObservationModel.model_fields)

    def _named(self) -> dict[str, str]:
        """The columns that the model reads, by the option that names them."""
        named = {"value": self.value, "relation": self.relation}
        named |= {option: value.column for option, value in self._conditions().items()}
        return {option: column for option, column in named.items() if column is not None}

    def _predicted(self, dG: Tensor, columns: YColumns) -> Tensor:
        """The measured values of the shape of `dG`, with conditions from columns of the same shape."""
        import torch

        conditions = {name: columns[option.column].to(dG) for name, option in self._conditions().items()}
        for name, values in conditions.items():
            if values.numel():
                for extreme in torch.stack(torch.aminmax(values)).tolist():
                    self._check_numbers({name: extreme})
        return self(dG, **conditions)

    def _scale(self, columns: YColumns) -> Tensor | float:
        """What residuals are divided by."""
        return 1.0

    # -- helpers

    def _conditions(self) -> dict[str, FromColumn]:
        """The conditions that come from columns."""
        options = {name: getattr(self, name) for name in self.condition_names()}
        return {name: option for name, option in options.items() if isinstance(option, FromColumn)}

    def _check_numbers(self, numbers: Mapping[str, Any]) -> None:
        if numbers:
            try:
                type(self)(**{**dict(self), **numbers})
            except ValidationError as error:
                raise spec_error(error, type(self), self.name) from None

    def _value_of(self, y: Any) -> Tensor:
        """The measured values."""
        if not isinstance(y, Mapping):
            return tensor_of("y", y)
        name = self.value
        if name is None:
            if len(y) != 1:
                raise SpecError(
                    f"{self.name}: y has the columns {', '.join(map(quoted, y))}; name that of the measured values, "
                    "such as `observation_model: {name: pIC50, value: ...}`"
                )
            name = next(iter(y))
        if name not in y:
            raise SpecError(f"{self.name}.value: {unknown(name, y, 'column of y')}")
        return tensor_of(name, y[name])

    def _columns(self, y: Any, shape: tuple[int, ...], device: Any) -> YColumns:
        """The columns of y that the model names, except that of the values, each expanded to a shape."""
        columns = {}
        for option, name in self._named().items():
            if option == "value":
                continue
            if not isinstance(y, Mapping) or name not in y:
                known = y if isinstance(y, Mapping) else {}
                raise SpecError(f"{self.name}.{option}: {unknown(name, known, 'column of y')}")
            columns[name] = expanded(f"{self.name}.{option}: {quoted(name)}", y[name], shape, device)
        return columns

    def _texts_of(self, column: str) -> tuple[str, ...]:
        if column not in self._texts:
            raise SpecError(
                f"{self.name}: the texts of the column {quoted(column)} are not known; take the model of a dataset, or "
                "call `bound_to(dataset.spec)`"
            )
        return self._texts[column]

    def _is(self, relation: str, columns: YColumns) -> Tensor:
        """Where the relation is this one."""
        assert self.relation is not None
        texts = self._texts_of(self.relation)
        return columns[self.relation] == (texts.index(relation) if relation in texts else -1)
