"""Observation models: the formulas, written out by hand, and their gradients."""

import itertools
import math

import numpy as np
import pytest
import torch
from pydantic import ValidationError

import kinoml_data as kd
from kinoml_data.errors import SpecError, UnknownNameError
from kinoml_data.observation import PIC50, Identity, Mixed, PercentDisplacement, PKd, PKi

G = [-30.0, -12.5, -1.0, 0.0, 0.3, 7.0]


def pkd(g, c=1.0):
    return -(g + math.log(c)) / math.log(10)


def pic50(g, s=1e-6, km=1.0, c=1.0):
    return -(g + math.log((1 + s / km) * c)) / math.log(10)


def displacement(g, i, c=1.0):
    return 100 * i / (i + c * math.exp(g))


CASES = {
    "pKd": (PKd(), {}, pkd),
    "pKd, other standard": (PKd(standard_conc=1e-3), {}, lambda g: pkd(g, 1e-3)),
    "pKi": (PKi(), {}, pkd),
    "pKi, other standard": (PKi(standard_conc=2.0), {}, lambda g: pkd(g, 2.0)),
    "pIC50": (PIC50(), {}, pic50),
    "pIC50, options": (
        PIC50(substrate_conc=1e-5, michaelis_constant=3e-6, standard_conc=1e-3),
        {},
        lambda g: pic50(g, 1e-5, 3e-6, 1e-3),
    ),
    "pIC50 without substrate is pKd": (PIC50(substrate_conc=0.0), {}, pkd),
    "displacement": (PercentDisplacement(inhibitor_conc=1e-6), {}, lambda g: displacement(g, 1e-6)),
    "displacement, other standard": (
        PercentDisplacement(inhibitor_conc=1e-6, standard_conc=1e-3),
        {},
        lambda g: displacement(g, 1e-6, 1e-3),
    ),
    "identity": (Identity(), {}, lambda g: g),
    "pKd, said at the call": (PKd(), {"standard_conc": 1e-3}, lambda g: pkd(g, 1e-3)),
    "pIC50, said at the call": (PIC50(substrate_conc=5.0), {"substrate_conc": 1e-4}, lambda g: pic50(g, 1e-4)),
    "displacement, said at the call": (
        PercentDisplacement(inhibitor_conc=1.0),
        {"inhibitor_conc": 1e-6},
        lambda g: displacement(g, 1e-6),
    ),
}


@pytest.mark.parametrize(("model", "conditions", "formula"), CASES.values(), ids=CASES)
def test_a_model_computes_the_formula_written_out_by_hand(model, conditions, formula):
    found = model(torch.tensor(G, dtype=torch.float64), **conditions)
    expected = torch.tensor([formula(g) for g in G], dtype=torch.float64)
    torch.testing.assert_close(found, expected, rtol=1e-12, atol=1e-12)


def test_a_model_gives_values_that_a_chemist_knows():
    # 1 nM: Kd = exp(dG/kT) mol/L, so that pKd is 9; half of it is displaced by 1 nM of inhibitor.
    g = torch.tensor(math.log(1e-9), dtype=torch.float64)
    assert PKd()(g).item() == pytest.approx(9)
    assert PKi()(g).item() == pytest.approx(9)
    assert PIC50()(g).item() == pytest.approx(9 - math.log10(1 + 1e-6))
    assert PIC50(substrate_conc=1.0)(g).item() == pytest.approx(9 - math.log10(2))
    assert PercentDisplacement(inhibitor_conc=1e-9)(g).item() == pytest.approx(50)
    assert PercentDisplacement(inhibitor_conc=1e-6)(g).item() == pytest.approx(100 * 1000 / 1001)


@pytest.mark.parametrize("shape", [(), (1,), (6,), (2, 3), (2, 1, 3), (0,)], ids=str)
@pytest.mark.parametrize("name", ["pKd", "pKi", "pIC50", "displacement", "identity"])
def test_a_measurement_has_the_shape_of_the_prediction(name, shape):
    assert CASES[name][0](torch.zeros(shape)).shape == shape


PER_ROW = {
    "pKd": (PKd(), {"standard_conc": [1.0, 1e-3, 2.0]}, lambda g, c: pkd(g, c["standard_conc"])),
    "pKi": (PKi(), {"standard_conc": [1.0, 1e-3, 2.0]}, lambda g, c: pkd(g, c["standard_conc"])),
    "pIC50": (
        PIC50(),
        {"substrate_conc": [1e-6, 0.0, 1e-3], "michaelis_constant": [1.0, 2.0, 1e-6], "standard_conc": [1.0, 2.0, 3.0]},
        lambda g, c: pic50(g, c["substrate_conc"], c["michaelis_constant"], c["standard_conc"]),
    ),
    "displacement": (
        PercentDisplacement(inhibitor_conc=1.0),
        {"inhibitor_conc": [1e-6, 1e-3, 1.0], "standard_conc": [1.0, 1e-3, 2.0]},
        lambda g, c: displacement(g, c["inhibitor_conc"], c["standard_conc"]),
    ),
}
PER_ROW_CASES = [
    pytest.param(model, {name: conditions[name] for name in names}, formula, id=f"{label}: {', '.join(names)}")
    for label, (model, conditions, formula) in PER_ROW.items()
    for names in [*([name] for name in conditions), list(conditions)]
]


@pytest.mark.parametrize(("model", "conditions", "formula"), PER_ROW_CASES)
def test_a_condition_may_be_one_tensor_per_row(model, conditions, formula):
    g = torch.tensor([-20.0, -1.0, 3.0], dtype=torch.float64)
    tensors = {name: torch.tensor(values, dtype=torch.float64) for name, values in conditions.items()}
    options = model.model_dump()
    expected = [
        formula(g[i].item(), options | {name: values[i] for name, values in conditions.items()}) for i in range(3)
    ]
    torch.testing.assert_close(model(g, **tensors), torch.tensor(expected, dtype=torch.float64), rtol=1e-12, atol=1e-12)
    # A column of predictions, (rows, 1), takes a column of conditions.
    columns = {name: tensor[:, None] for name, tensor in tensors.items()}
    torch.testing.assert_close(model(g[:, None], **columns).squeeze(1), model(g, **tensors))


@pytest.mark.parametrize(("model", "conditions", "formula"), CASES.values(), ids=CASES)
def test_the_gradient_of_the_prediction_is_that_of_the_formula(model, conditions, formula):
    g = torch.tensor([-14.0, -1.0, 0.3, 2.0], dtype=torch.float64, requires_grad=True)
    assert torch.autograd.gradcheck(lambda x: model(x, **conditions), (g,))
    assert torch.autograd.gradgradcheck(lambda x: model(x, **conditions) ** 2, (g,))


@pytest.mark.parametrize(("model", "conditions", "formula"), PER_ROW_CASES)
def test_the_gradient_of_every_condition_is_that_of_the_formula(model, conditions, formula):
    g = torch.tensor([-3.0, -1.0, 0.3], dtype=torch.float64, requires_grad=True)
    # Finite differences need a point away from 0.
    tensors = [torch.tensor(v, dtype=torch.float64).clamp(0.5).requires_grad_(True) for v in conditions.values()]
    names = list(conditions)
    assert torch.autograd.gradcheck(lambda x, *c: model(x, **dict(zip(names, c, strict=True))), (g, *tensors))


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float32, torch.float64])
@pytest.mark.parametrize(("model", "conditions", "formula"), CASES.values(), ids=CASES)
def test_a_measurement_has_the_dtype_of_the_prediction(model, conditions, formula, dtype):
    g = torch.tensor(G, dtype=dtype, requires_grad=True)
    found = model(g, **conditions)
    assert found.dtype == dtype
    found.sum().backward()
    assert g.grad.dtype == dtype


def test_a_condition_without_axes_keeps_the_dtype_of_the_prediction():
    g = torch.zeros(3, dtype=torch.float32)
    condition = torch.tensor(1e-6, dtype=torch.float64)
    assert PIC50()(g, substrate_conc=condition).dtype == torch.float32
    assert PercentDisplacement(inhibitor_conc=1.0)(g, inhibitor_conc=condition).dtype == torch.float32


@pytest.mark.parametrize(("model", "conditions", "formula"), CASES.values(), ids=CASES)
def test_a_measurement_is_on_the_device_of_the_prediction(model, conditions, formula):
    assert model(torch.empty(3, device="meta"), **conditions).device.type == "meta"


@pytest.mark.parametrize(("model", "conditions", "formula"), CASES.values(), ids=CASES)
def test_a_model_does_not_modify_the_prediction(model, conditions, formula):
    g = torch.tensor(G)
    model(g, **conditions)
    assert g.tolist() == torch.tensor(G).tolist()


@pytest.mark.parametrize("extreme", [-1e4, -800.0, -100.0, 100.0, 800.0, 1e4, 3e38, -3e38])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("name", ["pKd", "pIC50", "displacement", "displacement, other standard"])
def test_an_extreme_prediction_has_a_finite_value_and_gradient(name, dtype, extreme):
    g = torch.tensor([extreme], dtype=dtype, requires_grad=True)
    found = CASES[name][0](g)
    found.sum().backward()
    assert found.isfinite().all() and g.grad.isfinite().all()
    if name.startswith("displacement"):
        assert 0 <= found.item() <= 100
        assert found.item() == pytest.approx(0 if extreme > 0 else 100, abs=1e-3)


def test_displacement_has_a_gradient_even_if_the_plain_formula_has_none():
    # In float32, exp(90) is inf, and 100 I / (I + inf) has the gradient 0 or nan.
    g = torch.tensor([90.0], dtype=torch.float32, requires_grad=True)
    PercentDisplacement(inhibitor_conc=1e3)(g).sum().backward()
    assert g.grad.item() < 0


def test_displacement_falls_and_p_values_fall_with_the_free_energy():
    g = torch.linspace(-20, 20, 200, dtype=torch.float64)
    for name in ("pKd", "pKi", "pIC50", "displacement"):
        assert (CASES[name][0](g).diff() < 0).all()


# -- options


def test_the_defaults_of_the_models_are_those_of_kinoml():
    columns = {"value": None, "relation": None}
    assert PKd().model_dump() == PKi().model_dump() == columns | {"standard_conc": 1.0}
    conditions = {"substrate_conc": 1e-6, "michaelis_constant": 1.0, "standard_conc": 1.0}
    assert PIC50().model_dump() == columns | conditions
    assert PercentDisplacement(inhibitor_conc=1e-6).standard_conc == 1.0


def test_percent_displacement_requires_the_concentration():
    with pytest.raises(ValidationError, match="inhibitor_conc"):
        PercentDisplacement()
    for said in ("percent-displacement", {"name": "percent-displacement"}):
        with pytest.raises(SpecError, match=r"observation_model\.inhibitor_conc: this key is missing"):
            load(said)


def load(observation_model):
    return kd.load_dataset(
        {
            "columns": {"x": {}},
            "X": "x",
            "storage": {"backend": "in-memory"},
            "observation_model": observation_model,
        },
        data={"x": torch.zeros(3)},
    )


@pytest.mark.parametrize(
    ("said", "kind", "options"),
    [
        ("pIC50", PIC50, {}),
        ("pKi", PKi, {}),
        ("pKd", PKd, {}),
        ("identity", Identity, {}),
        ({"name": "pIC50"}, PIC50, {}),
        ({"name": "pIC50", "substrate_conc": 1e-5}, PIC50, {"substrate_conc": 1e-5}),
        ({"name": "pKd", "standard_conc": 2}, PKd, {"standard_conc": 2.0}),
        ({"name": "percent-displacement", "inhibitor_conc": 1e-6}, PercentDisplacement, {"inhibitor_conc": 1e-6}),
    ],
    ids=str,
)
def test_a_spec_names_the_model_and_its_options(said, kind, options):
    model = load(said).observation_model
    assert type(model) is kind and model == kind(**options)
    assert load(said).select([1]).observation_model == model


def test_a_spec_without_an_observation_model_has_the_identity():
    dataset = kd.from_arrays(torch.zeros(3))
    g = torch.tensor(G)
    assert torch.equal(dataset.observation_model(g), g)


@pytest.mark.parametrize(
    ("said", "expected"),
    [
        ({"name": "pIC50", "substrate_con": 1.0}, "substrate_con'; did you mean 'substrate_conc'"),
        ({"name": "pKd", "substrate_conc": 1.0}, "unknown key 'substrate_conc'; known: value, relation, standard_conc"),
        ({"name": "identity", "x": 1}, "unknown key 'x'"),
        ({"name": "pIC50", "substrate_conc": "1e-6"}, "observation_model.substrate_conc"),
        ({"name": "pIC50", "substrate_conc": True}, "observation_model.substrate_conc"),
        ({"name": "pIC50", "substrate_conc": -1e-6}, "observation_model.substrate_conc"),
        ({"name": "pIC50", "michaelis_constant": 0}, "observation_model.michaelis_constant"),
        ({"name": "pKd", "standard_conc": 0.0}, "observation_model.standard_conc"),
        ({"name": "percent-displacement", "inhibitor_conc": 0}, "observation_model.inhibitor_conc"),
        ({"name": "percent-displacement", "inhibitor_conc": None}, "observation_model.inhibitor_conc"),
    ],
    ids=str,
)
def test_a_wrong_option_is_a_spec_error(said, expected):
    with pytest.raises(SpecError, match=expected):
        load(said)


def test_an_unknown_model_is_an_error_that_suggests_one():
    with pytest.raises(UnknownNameError, match="unknown observation model 'pIC5O'; did you mean 'pIC50'"):
        load("pIC5O")
    with pytest.raises(UnknownNameError, match="percent-displacement"):
        load("nonsense")


def test_a_condition_that_the_model_does_not_have_is_a_type_error():
    with pytest.raises(
        TypeError, match="pIC50 has no condition 'inhibitor_conc'; it has: substrate_conc, michaelis_constant"
    ):
        PIC50()(torch.zeros(1), inhibitor_conc=1.0)
    with pytest.raises(TypeError, match="identity has no condition 'x'; it has: no conditions"):
        Identity()(torch.zeros(1), x=1.0)


def test_a_model_cannot_be_changed_and_pickles():
    import pickle

    model = PIC50(substrate_conc=1e-5)
    with pytest.raises(ValidationError):
        model.substrate_conc = 1.0
    assert pickle.loads(pickle.dumps(model)) == model


def test_training_through_a_model_finds_the_free_energy():
    target = torch.tensor([6.0, 9.0])
    g = torch.zeros(2, requires_grad=True)
    optimizer = torch.optim.LBFGS([g], max_iter=50)

    def loss():
        optimizer.zero_grad()
        value = ((PIC50()(g) - target) ** 2).mean()
        value.backward()
        return value

    optimizer.step(loss)
    assert g.tolist() == pytest.approx([-6 * math.log(10), -9 * math.log(10)], rel=1e-3)


@pytest.mark.parametrize(
    "model", [PIC50(), PKi(), PKd(), PercentDisplacement(inhibitor_conc=1e-6)], ids=lambda m: m.name
)
def test_a_condition_that_would_change_the_shape_is_an_error_over_every_broadcast(model):
    name = model.condition_names()[0]
    shapes = [(), (4,), (1,), (4, 1), (1, 4), (3, 4), (2, 3, 4), (2, 1, 1), (2, 3, 1)]
    for prediction, condition in itertools.product(shapes, shapes):
        dG, values = torch.zeros(prediction), torch.ones(condition)
        result = broadcast(prediction, condition)
        if result == prediction:
            assert model(dG, **{name: values}).shape == prediction
        elif result is not None:
            with pytest.raises(SpecError, match=r"the result would have .* give conditions that broadcast"):
                model(dG, **{name: values})


def broadcast(one, other):
    """The shape that two shapes broadcast to; None if they do not."""
    try:
        return np.broadcast_shapes(one, other)
    except ValueError:
        return None


@pytest.mark.parametrize(
    ("model", "conditions"),
    [
        (PIC50(), {"substrate_conc": -1.0}),
        (PIC50(), {"michaelis_constant": 0}),
        (PIC50(), {"substrate_conc": math.nan}),
        (PKd(), {"standard_conc": 0.0}),
        (PercentDisplacement(inhibitor_conc=1.0), {"inhibitor_conc": 0}),
    ],
    ids=str,
)
def test_a_number_that_is_not_valid_as_an_option_is_not_valid_as_a_condition(model, conditions):
    (name,) = conditions
    with pytest.raises(SpecError, match=f"{model.name}.{name}: "):
        model(torch.zeros(3), **conditions)


@pytest.mark.parametrize("number", [1, np.float32(1), np.float64(1), np.int64(1), torch.tensor(1.0)], ids=repr)
def test_a_condition_may_be_a_number_of_any_kind(number):
    expected = PIC50()(torch.zeros(2), substrate_conc=1.0)
    torch.testing.assert_close(PIC50()(torch.zeros(2), substrate_conc=number), expected)


def test_a_condition_may_be_a_numpy_array_and_keeps_the_dtype():
    conc = np.array([1e-6, 1e-5])
    found = PIC50()(torch.zeros(2), substrate_conc=conc)
    assert found.dtype == torch.float32
    torch.testing.assert_close(found, PIC50()(torch.zeros(2), substrate_conc=torch.tensor(conc, dtype=torch.float32)))


# -- conditions in columns, and rows of several kinds

KINDS = ["pIC50", "pKd", "percent-displacement"]
MIXED = {
    "name": "mixed",
    "value": "value",
    "kind": "kind",
    "relation": "relation",
    "models": {
        "pIC50": {"substrate_conc": 1e-6, "michaelis_constant": 1e-6},
        "pKd": {},
        "percent-displacement": {"inhibitor_conc": {"column": "conc"}},
    },
    "scale": {"percent-displacement": 10},
}
ROWS = {
    "value": [6.5, 7.0, 55.0, math.nan, 8.0, 5.0, 90.0, 40.0, 7.5],
    "kind": [KINDS[i] for i in (0, 1, 2, 1, 1, 0, 2, 2, 0)],
    "relation": ["=", "=", "=", "=", ">", "<", ">", "<", "<"],
    "conc": [math.nan, math.nan, 1e-6, math.nan, math.nan, math.nan, 1e-5, 1e-6, math.nan],
}
COLUMNS = {
    "value": {"dtype": "float64", "missing": "nan"},
    "kind": {"dtype": "uint8", "values": KINDS},
    "relation": {"dtype": "uint8", "values": ["=", "<", ">"]},
    "conc": {"dtype": "float64", "missing": "nan"},
}


def measurements(observation_model, rows=ROWS, columns=COLUMNS):
    """A dataset with these measurements as y, and the number of each row as X."""
    return kd.load_dataset(
        {
            "columns": {"x": {}, **columns},
            "X": "x",
            "y": list(columns),
            "storage": {"backend": "in-memory"},
            "observation_model": observation_model,
        },
        data={"x": np.arange(len(rows["value"])), **rows},
    )


ENERGIES = [-14.5, -17.0, -13.0, -3.0, -20.0, -14.0, -16.0, -12.0, -10.0]


def test_the_gradients_of_a_mixed_batch_are_the_sum_of_those_of_separate_loaders():
    torch.manual_seed(0)
    network = torch.nn.Linear(1, 1).double()
    with torch.no_grad():
        network.bias.fill_(-14.0)

    def gradients(dataset, scale=1):
        network.zero_grad()
        for X, y in dataset.as_dataloader(batch_size=4):
            residual = dataset.observation_model.residual(network(X[:, None].double()).squeeze(1), y) / scale
            residual.square().sum().backward()
        return torch.cat([parameter.grad.flatten() for parameter in network.parameters()])

    separate = []
    for kind, options in MIXED["models"].items():
        here = [row for row, name in enumerate(ROWS["kind"]) if name == kind]
        rows = {"x": here} | {name: [values[row] for row in here] for name, values in ROWS.items()}
        dataset = measurements({"name": kind, "value": "value", "relation": "relation", **options}, rows)
        separate.append(gradients(dataset, MIXED["scale"].get(kind, 1)))
    assert all(gradient.abs().min() > 0 for gradient in separate)
    torch.testing.assert_close(gradients(measurements(MIXED)), sum(separate), rtol=1e-6, atol=1e-6)


def test_a_mixed_residual_is_that_of_the_formula_of_each_row_written_out_by_hand():
    dataset = measurements(MIXED)
    _, y = dataset[:]
    g = ENERGIES
    expected = [
        pic50(g[0], 1e-6, 1e-6) - 6.5,
        pkd(g[1]) - 7,
        (displacement(g[2], 1e-6) - 55) / 10,
        0,  # NaN
        0,  # pKd is 8.7, as `> 8` says
        pic50(g[5], 1e-6, 1e-6) - 5,  # 5.8, but `< 5`
        0,  # 99 percent, as `> 90` says
        0,  # 14 percent, as `< 40` says
        0,  # pIC50 is 4, as `< 7.5` says
    ]
    dG = torch.tensor(g, dtype=torch.float64)
    torch.testing.assert_close(dataset.observation_model.residual(dG, y), torch.tensor(expected, dtype=torch.float64))


def test_a_mixed_residual_has_the_gradient_of_its_formula():
    dataset = measurements(MIXED)
    y = dataset[:][1]
    dG = torch.tensor(ENERGIES, dtype=torch.float64, requires_grad=True)
    assert torch.autograd.gradcheck(lambda g: dataset.observation_model.residual(g, y), (dG,))
    assert torch.autograd.gradgradcheck(lambda g: dataset.observation_model.residual(g, y) ** 2, (dG,))


def test_a_mixed_model_is_the_same_after_a_conversion_and_in_another_process(tmp_path):
    import pickle

    dataset = measurements(MIXED)
    kd.save_dataset(dataset, tmp_path / "m.npz")
    dG = torch.tensor(ENERGIES)
    expected = dataset.observation_model.residual(dG, dataset[:][1])
    with kd.load_dataset(tmp_path / "m.npz") as copy:
        assert torch.equal(copy.observation_model.residual(dG, copy[:][1]), expected)
    model = pickle.loads(pickle.dumps(dataset.observation_model))
    assert torch.equal(model.residual(dG, dataset[:][1]), expected)


def test_the_kinds_of_a_mixed_model_may_come_from_plugins(monkeypatch):
    from kinoml_data.registry import BUILT_IN

    class Twice(kd.ObservationModel):
        name = "twice"
        factor: float = 2.0

        def predict(self, dG_over_kT, **conditions):
            return conditions["factor"] * dG_over_kT

    monkeypatch.setitem(BUILT_IN["observation model"], "twice", Twice)
    columns = {"value": {}, "kind": {"dtype": "uint8", "values": ["pKd", "twice"]}}
    rows = {"value": [0.0, 0.0], "kind": ["twice", "pKd"]}
    spec = {"name": "mixed", "value": "value", "kind": "kind", "models": {"twice": {"factor": 3.0}, "pKd": {}}}
    dataset = measurements(spec, rows, columns)
    found = dataset.observation_model.residual(torch.tensor([-1.0, -1.0]), dataset[:][1])
    assert found.tolist() == pytest.approx([-3, 1 / math.log(10)])


def changed(**options):
    return {**MIXED, **options}


@pytest.mark.parametrize(
    ("said", "expected"),
    [
        (
            changed(models={"pKd": {}, "pIC50": {}}, scale={}),
            "observation_model.models: no model for kind 'percent-displacement'",
        ),
        (
            changed(models={**MIXED["models"], "pKi": {}}),
            "observation_model.models.pKi: the column 'kind' has no such kind",
        ),
        (
            changed(models={**MIXED["models"], "pKd": {"standard_con": 1.0}}),
            "observation_model.models.pKd: .*did you mean 'standard_conc'",
        ),
        (
            changed(models={**MIXED["models"], "percent-displacement": {}}),
            "observation_model.models.percent-displacement: inhibitor_conc: this key is missing",
        ),
        (
            changed(models={**MIXED["models"], "percent-displacement": {"inhibitor_conc": {"column": "con"}}}),
            "observation_model.models.percent-displacement.inhibitor_conc: unknown column of y 'con'; did you mean",
        ),
        (changed(models={**MIXED["models"], "pKd": {"relation": "relation"}}), "next to `models`, for all kinds"),
        (changed(models={"mixed": {"kind": "kind", "models": {"pKd": {}}}}), "next to `models`, for all kinds"),
        (changed(models={}), "observation_model.models: "),
        (changed(models=3), "observation_model.models: must be a mapping"),
        (changed(models={"pKd": 3}), "observation_model.models.pKd: give the options of the model"),
        (changed(scale={"pKa": 10}), "scale: no kind in `models` is called 'pKa'"),
        (changed(scale={"pKd": 0}), "observation_model.scale.pKd: "),
        (changed(kind="conc"), "observation_model.kind: the column 'conc' needs `values`"),
        (changed(kind=None), "observation_model.kind: "),
    ],
    ids=str,
)
def test_a_mixed_model_that_does_not_fit_its_columns_is_a_spec_error(said, expected):
    with pytest.raises(SpecError, match=expected):
        measurements(said)


def test_an_unknown_model_of_a_kind_is_an_error_that_suggests_one():
    with pytest.raises(UnknownNameError, match="unknown observation model 'pKD'; did you mean 'pK"):
        measurements(changed(models={**MIXED["models"], "pKD": {}}))


def test_a_mixed_model_has_no_formula_without_the_kinds_of_rows():
    with pytest.raises(SpecError, match=r"call `measured\(dG, y\)` or `residual\(dG, y\)`"):
        measurements(MIXED).observation_model(torch.zeros(2))


def test_the_models_of_a_mixed_model_may_be_objects_but_not_names_in_python():
    model = Mixed(value="value", kind="kind", models={"pKd": PKd()})
    with pytest.raises(SpecError, match=r"the texts of the column 'kind' are not known.*bound_to"):
        model.residual(torch.zeros(1), {"value": torch.zeros(1), "kind": torch.zeros(1)})
    columns = {"value": {}, "kind": {"dtype": "uint8", "values": ["pKd"]}}
    dataset = measurements(None, {"value": [7.0], "kind": ["pKd"]}, columns)
    found = model.bound_to(dataset.spec).residual(torch.zeros(1), dataset[:][1])
    assert found.tolist() == [-7]
    with pytest.raises(ValidationError, match="names are looked up only in a spec"):
        Mixed(value="value", kind="kind", models={"pKd": {}})


def test_a_kind_outside_its_list_has_no_residual_that_could_pass_for_one():
    dataset = measurements(changed(relation=None, scale={}))
    y = dataset[:][1]
    y["kind"][0] = 9
    with pytest.raises(IndexError):
        dataset.observation_model.residual(torch.tensor(ENERGIES), y)
    assert (
        dataset.observation_model.measured(torch.tensor(ENERGIES[:1]), {n: c[:1] for n, c in y.items()}).isnan().all()
    )
