import pytest
import torch

import kinoml_data as kd


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
