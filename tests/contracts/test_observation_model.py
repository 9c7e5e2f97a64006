import math

import numpy as np
import pytest
import torch
from pydantic import PositiveFloat

import kinoml_data as kd
from kinoml_data.errors import SpecError
from kinoml_data.observation import PIC50, Identity, PercentDisplacement, PKd
from kinoml_data.plugin import Condition


def test_the_example_of_an_observation_model_is_differentiable(example):
    occupancy = example(kd.ObservationModel, "Occupancy")
    energies = torch.tensor([-20.0, 0.0], requires_grad=True)
    fractions = occupancy(inhibitor_conc=1e-6)(energies)
    assert fractions[0] > 0.99 and fractions[1] < 1e-5
    fractions.sum().backward()
    assert energies.grad is not None and (energies.grad < 0).all()


def test_a_condition_of_the_call_takes_the_place_of_the_option(example):
    model = example(kd.ObservationModel, "Occupancy")(inhibitor_conc=1e-6)
    energy = torch.tensor(-13.8)
    assert model(energy, inhibitor_conc=1.0) > 0.99 > model(energy)


def test_a_condition_that_is_not_an_option_is_an_error_with_the_options(example):
    with pytest.raises(TypeError, match="occupancy has no condition 'temperature'; it has: inhibitor_conc"):
        example(kd.ObservationModel, "Occupancy")(inhibitor_conc=1e-6)(torch.zeros(1), temperature=300.0)


# -- residuals


class Overflowing(kd.ObservationModel):
    """The plain formula of a displacement: in float32, exp(90) is infinite, and the gradient is NaN."""

    name = "overflowing"
    inhibitor_conc: Condition[PositiveFloat] = 1.0

    def predict(self, dG_over_kT, **conditions):
        x = dG_over_kT.exp()
        return 100 * conditions["inhibitor_conc"] * (1 - x / (conditions["inhibitor_conc"] + x))


RELATION = {"dtype": "uint8", "values": ["<", "=", ">"]}


def spec_of(y, columns, model=None):
    return kd.DatasetSpec(
        columns={"x": {}, **columns}, X="x", y=y, storage={"backend": "in-memory"}, observation_model=model
    )


def bound(model, **columns):
    """The model for a y with the column `value`, relations, and further columns."""
    columns = {"value": {}, "relation": RELATION, **columns}
    return model.bound_to(spec_of(list(columns), columns))


def test_a_residual_is_the_prediction_minus_the_value():
    dG = torch.tensor([-10.0, -20.0], requires_grad=True)
    y = torch.tensor([5.0, 8.0])
    assert torch.equal(PKd().residual(dG, y), PKd()(dG) - y)
    assert torch.equal(Identity().residual(dG, y), dG - y)
    assert torch.equal(PKd().residual(dG[0], y[0]), PKd()(dG[0]) - y[0])  # of one sample
    # The y of a batch is a mapping if the spec names a list.
    assert torch.equal(PKd().residual(dG, {"pKd": y}), PKd()(dG) - y)


@pytest.mark.parametrize(
    ("relation", "value", "expected"),
    [("=", 8.0, 2.0), ("<", 8.0, 2.0), (">", 8.0, 0.0), ("=", 12.0, -2.0), ("<", 12.0, 0.0), (">", 12.0, -2.0)],
)
def test_a_bound_that_is_kept_has_no_residual_and_no_gradient(relation, value, expected):
    model = bound(Identity(value="value", relation="relation"))
    dG = torch.tensor([10.0], requires_grad=True)
    place = torch.tensor([RELATION["values"].index(relation)], dtype=torch.uint8)
    residual = model.residual(dG, {"value": torch.tensor([value]), "relation": place})
    assert residual.tolist() == [expected]
    residual.sum().backward()
    assert dG.grad.tolist() == [float(expected != 0)]


@pytest.mark.parametrize("relation", RELATION["values"])
def test_a_missing_value_has_no_residual_and_no_gradient_whatever_the_prediction_is(relation):
    model = bound(Overflowing(value="value", relation="relation"))
    dG = torch.tensor([1.0, 90.0, math.inf, math.nan], requires_grad=True)
    place = torch.full((4,), RELATION["values"].index(relation), dtype=torch.uint8)
    residual = model.residual(dG, {"value": torch.full((4,), math.nan), "relation": place})
    residual.sum().backward()
    assert residual.tolist() == dG.grad.tolist() == [0, 0, 0, 0]


def test_a_bound_that_is_kept_has_no_gradient_even_if_the_formula_overflows():
    class Steep(kd.ObservationModel):
        name = "steep"

        def predict(self, dG_over_kT, **conditions):
            return 100 / (1 + dG_over_kT.exp() ** 2).sqrt()

    dG = torch.tensor([90.0, 0.0], requires_grad=True)
    Steep()(dG).sum().backward()
    assert not dG.grad.isfinite().all()  # the formula itself has no gradient there
    dG.grad = None
    model = bound(Steep(value="value", relation="relation"))
    y = {"value": torch.tensor([5.0, 5.0]), "relation": torch.tensor([0, 1])}
    residual = model.residual(dG, y)
    residual.square().sum().backward()
    assert residual[0] == 0 and dG.grad[0] == 0 and dG.grad[1] < 0


def test_a_prediction_that_is_nan_has_a_residual_that_is_nan_unless_the_value_is_missing():
    model = bound(Identity(value="value", relation="relation"))
    dG = torch.tensor([math.nan] * 3)
    y = {"value": torch.ones(3), "relation": torch.tensor([0, 1, 2])}
    assert model.residual(dG, y).isnan().all()


def test_a_single_sample_has_the_residual_of_its_row():
    model = bound(PercentDisplacement(inhibitor_conc={"column": "conc"}, value="value", relation="relation"), conc={})
    y = {"value": torch.tensor([20.0, 20, math.nan]), "relation": torch.tensor([1, 2, 1]), "conc": torch.ones(3) * 1e-6}
    dG = torch.full((3,), math.log(1e-6))
    rows = [model.residual(dG[row], {name: column[row] for name, column in y.items()}) for row in range(3)]
    assert torch.equal(torch.stack(rows), model.residual(dG, y))
    energy = model.energies({name: column[0] for name, column in y.items()})
    assert energy.shape == () and energy.item() == pytest.approx(math.log(4e-6))


def test_a_batch_without_measured_values_has_a_gradient_of_zero():
    dG = torch.zeros(3, requires_grad=True)
    PIC50().residual(dG, torch.full((3,), math.nan)).square().mean().backward()
    assert dG.grad.tolist() == [0, 0, 0]
    empty = torch.zeros(0, requires_grad=True)
    model = PIC50(substrate_conc={"column": "s"}, value="v")
    model.residual(empty, {"v": torch.zeros(0), "s": torch.zeros(0)}).sum().backward()
    assert empty.grad.shape == (0,)


def test_several_tasks_in_one_column_have_residuals_of_its_shape():
    value = torch.tensor([[6.0, math.nan], [math.nan, 7.0]])
    dG = torch.tensor([[-10.0, -11.0], [-12.0, -13.0]], requires_grad=True)
    residual = PKd().residual(dG, value)
    residual.abs().sum().backward()
    assert residual.shape == (2, 2)
    assert (residual == 0).tolist() == (dG.grad == 0).tolist() == value.isnan().tolist()


def test_a_condition_and_a_relation_of_a_row_apply_to_all_tasks_of_the_row():
    # As many rows as tasks: a column `(2,)` would also broadcast along the wrong axis.
    model = bound(PercentDisplacement(inhibitor_conc={"column": "conc"}, value="value", relation="relation"), conc={})
    dG = torch.full((2, 2), math.log(1e-6), dtype=torch.float64)
    conc = torch.tensor([1e-6, 3e-6], dtype=torch.float64)
    value = torch.zeros(2, 2, dtype=torch.float64)
    y = {"value": value, "relation": torch.tensor([1, 1]), "conc": conc}
    torch.testing.assert_close(model.residual(dG, y), torch.tensor([[50.0, 50], [75, 75]], dtype=torch.float64))
    y["relation"] = torch.tensor([2, 1])
    torch.testing.assert_close(model.residual(dG, y), torch.tensor([[0.0, 0], [75, 75]], dtype=torch.float64))
    torch.testing.assert_close(model.measured(dG, y), torch.tensor([[50.0, 50], [75, 75]], dtype=torch.float64))


def test_a_residual_of_half_precision_does_not_round_the_measured_value():
    dG = torch.tensor([-14.0], dtype=torch.bfloat16, requires_grad=True)
    residual = Identity().residual(dG, torch.tensor([-14.015625]))
    assert residual.dtype == torch.float32 and residual.tolist() == [0.015625]
    residual.sum().backward()
    assert dG.grad.dtype == torch.bfloat16


@pytest.mark.parametrize(
    ("model", "y", "expected"),
    [
        (PKd(), torch.zeros(3, 1), r"dG/kT has the shape \(3,\), but the measured values have \(3, 1\)"),
        (PKd(), torch.zeros(()), "reshape the prediction"),
        (PKd(), None, "takes a tensor, not a value of type NoneType"),
        (PKd(), [torch.zeros(3)], "takes a tensor, not a value of type list"),
        (PKd(), {"a": torch.zeros(3), "b": torch.zeros(3)}, "y has the columns 'a', 'b'; name that of the measured"),
        (PKd(value="p"), {"pKd": torch.zeros(3)}, "pKd.value: unknown column of y 'p'"),
        (PKd(standard_conc={"column": "c"}), torch.zeros(3), "pKd.standard_conc: unknown column of y 'c'"),
        (
            PKd(value="p", standard_conc={"column": "c"}),
            {"p": torch.zeros(3), "c": torch.ones(2)},
            r"pKd.standard_conc: 'c' has the shape \(2,\), which does not fit \(3,\)",
        ),
        (
            PKd(value="p", standard_conc={"column": "c"}),
            {"p": torch.zeros(3), "c": torch.tensor([1.0, 0.0, 1.0])},
            "pKd.standard_conc: must be greater than 0",
        ),
        (
            PKd(value="p", standard_conc={"column": "c"}),
            {"p": torch.zeros(3), "c": torch.tensor([1.0, math.nan, 1.0])},
            "pKd.standard_conc: must be a finite number",
        ),
        (
            PKd(value="p", relation="r"),
            {"p": torch.zeros(3), "r": torch.zeros(3)},
            "the texts of the column 'r' are not known; take the model of a dataset",
        ),
    ],
    ids=str,
)
def test_a_y_that_does_not_fit_the_model_is_a_spec_error(model, y, expected):
    with pytest.raises(SpecError, match=expected):
        model.residual(torch.zeros(3), y)


def test_a_condition_is_checked_only_where_a_value_was_measured():
    model = PKd(value="p", standard_conc={"column": "c"})
    y = {"p": torch.tensor([5.0, math.nan]), "c": torch.tensor([1.0, math.nan])}
    assert model.residual(torch.zeros(2), y).tolist() == [-5, 0]


def test_a_condition_in_a_column_is_not_known_without_y():
    model = PIC50(substrate_conc={"column": "s"})
    with pytest.raises(SpecError, match=r"pIC50.substrate_conc: the spec takes it from the column 's' of y; call"):
        model(torch.zeros(2))
    assert torch.equal(model(torch.zeros(2), substrate_conc=1.0), PIC50(substrate_conc=1.0)(torch.zeros(2)))
    y = {"s": torch.tensor([1.0, 2.0])}
    assert torch.equal(model.measured(torch.zeros(2), y), PIC50()(torch.zeros(2), substrate_conc=y["s"]))


@pytest.mark.parametrize(
    ("model", "columns", "expected"),
    [
        (PKd(relation="b"), {"p": {}, "b": {"dtype": "int64"}}, "observation_model.relation: .*needs `values`"),
        (
            PKd(value="p", relation="b"),
            {"p": {}, "b": {"dtype": "int64", "values": ["=", "~"]}},
            "observation_model.relation: the column 'b' has '~' in `values`; relations are '=', '<' and '>'",
        ),
        (PKd(value="q"), {"p": {}, "b": {}}, "observation_model.value: unknown column of y 'q'"),
        (PKd(value="x"), {"p": {}}, "observation_model.value: unknown column of y 'x'.* reads columns of y"),
        (PKd(value="b"), {"p": {}, "b": RELATION}, "'b' has `values`, so it contains places in a list"),
        (PKd(value="b"), {"p": {}, "b": {"dtype": "complex64"}}, "contains complex64, not real numbers"),
        (PKd(value="b"), {"p": {}, "b": {"shape": ["*"]}}, "not real numbers of one shape"),
        (PKd(standard_conc={"column": "c"}), {"p": {}, "c": {}}, "observation_model.value: name the column of the"),
        (PKd(value="p", standard_conc={"column": "d"}), {"p": {}}, "observation_model.standard_conc: unknown column"),
    ],
    ids=str,
)
def test_a_column_that_the_option_cannot_name_is_a_spec_error(model, columns, expected):
    spec = spec_of(list(columns), columns)
    with pytest.raises(SpecError, match=expected):
        model.bound_to(spec)


def test_a_model_that_names_no_column_fits_every_y():
    assert PKd().bound_to(spec_of(["p", "weight"], {"p": {}, "weight": {}})) == PKd()
    assert PKd().bound_to(spec_of(None, {})) == PKd()


# -- energies, and where a network starts


@pytest.mark.parametrize(
    "model", [Identity(), PKd(), PIC50(substrate_conc=1e-3), PercentDisplacement(inhibitor_conc=1e-6)], ids=repr
)
def test_energies_are_the_inverse_of_the_formula(model):
    dG = torch.tensor([-30.0, -14.0, -13.0, 0.0, 5.0], dtype=torch.float64)
    torch.testing.assert_close(model.energies(model(dG)), dG, rtol=1e-6, atol=1e-6)


def test_values_that_the_formula_does_not_give_have_no_energy():
    model = bound(PercentDisplacement(inhibitor_conc=1e-6, value="value", relation="relation"))
    y = {"value": torch.tensor([50.0, 0, 100, -3, 105, math.nan, 50, 50]), "relation": torch.ones(8, dtype=torch.uint8)}
    y["relation"][6:] = torch.tensor([0, 2])
    energies = model.energies(y)
    assert energies[0].item() == pytest.approx(math.log(1e-6)) and energies[1:].isnan().all()


def test_bias_and_scale_are_those_of_the_energies_of_the_measured_rows():
    values = np.array([6.0, 8.0, np.nan, 5.0, 9.0])
    data = {"x": np.zeros(5), "value": values, "relation": ["=", "=", "=", "<", "="], "weight": np.ones(5)}
    columns = {"value": {"missing": "nan"}, "relation": RELATION, "weight": {}}
    spec = spec_of(list(columns), columns, {"name": "pKd", "value": "value", "relation": "relation"})
    dataset = kd.load_dataset(spec, data=data)
    bias, scale = dataset.observation_model.bias_and_scale(dataset.select(range(4)))
    assert (bias.item(), scale.item()) == pytest.approx((-7 * math.log(10), math.log(10)))
    bias, scale = dataset.observation_model.bias_and_scale(dataset.select([0]))
    assert (bias.item(), scale.item()) == pytest.approx((-6 * math.log(10), 1))
    with pytest.raises(SpecError, match="pKd: none of the 2 rows has a measured value that the formula gives"):
        dataset.observation_model.bias_and_scale(dataset.select([2, 3]))


def test_each_task_has_its_own_bias_and_scale():
    y = np.array([[6.0, np.nan, np.nan], [8.0, 5.0, np.nan]], np.float32)
    dataset = kd.from_arrays(np.zeros((2, 1)), y)
    with pytest.raises(SpecError, match="task 2: none of the 2 rows"):
        Identity().bias_and_scale(dataset)
    bias, scale = Identity().bias_and_scale(kd.from_arrays(np.zeros((2, 1)), y[:, :2]))
    assert bias.tolist() == [7, 5] and scale.tolist() == [1, 1]


def test_a_dataset_without_y_has_no_bias():
    with pytest.raises(SpecError, match="identity: the dataset has no y"):
        Identity().bias_and_scale(kd.from_arrays(np.zeros((2, 1))))


def test_a_network_with_the_bias_and_the_scale_trains_exactly_as_on_scaled_y():
    rng = torch.Generator().manual_seed(0)
    X = torch.randn(200, 4, generator=rng, dtype=torch.float64)
    y = 7 + X @ torch.tensor([1.0, -0.5, 0.3, 0.0], dtype=torch.float64)
    dataset = kd.from_arrays(X, y)
    model = PIC50()
    bias, scale = model.bias_and_scale(dataset)
    mean, std = y.mean(), y.std(correction=0)

    def losses(predicted):
        torch.manual_seed(0)
        network = torch.nn.Sequential(torch.nn.Linear(4, 8), torch.nn.Tanh(), torch.nn.Linear(8, 1)).double()
        optimizer = torch.optim.Adam(network.parameters(), lr=0.01)
        history = []
        for _ in range(30):
            loss = predicted(network(X).squeeze(1)).square().mean()
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
            history.append(loss.detach())
        return torch.stack(history)

    scaled = losses(lambda output: -output - (y - mean) / std)  # pIC50 falls with the energy
    started = losses(lambda output: model.residual(bias + scale * output, y) / std)
    raw = losses(lambda output: model.residual(output, y) / std)
    torch.testing.assert_close(started, scaled, rtol=1e-4, atol=1e-4)
    assert raw[-1] > 10 * started[-1]
