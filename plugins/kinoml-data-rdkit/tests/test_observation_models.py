"""Observation models on real measurements: the networks of the page docs/observation-models.md."""

from __future__ import annotations

from collections.abc import Callable

import torch
from kinoml_data import load_dataset

from kinoml_data_rdkit import chembl_demo


def test_a_network_that_starts_near_the_data_learns_as_fast_as_on_scaled_y() -> None:
    spec = {
        "columns": {"fingerprint": {"dtype": "float32", "shape": [1024]}, "activity": {}},
        "X": "fingerprint",
        "y": "activity",
        "storage": {"backend": "featurize-on-access", "featurizer": {"name": "morgan-fingerprint", "nbits": 1024}},
        "splits": {"ratios": {"train": 0.8, "test": 0.2}, "seed": 0},
        "observation_model": "pIC50",
    }
    dataset = load_dataset(spec, data=chembl_demo())
    (X, y), (X_test, y_test) = dataset.split("train")[:], dataset.split("test")[:]
    model = dataset.observation_model
    bias, scale = model.bias_and_scale(dataset.split("train"))
    mean, std = y.mean(), y.std(correction=0)

    def errors(predicted: Callable[[torch.Tensor], torch.Tensor], weight: torch.Tensor | float = 1.0) -> list[float]:
        """The root mean square error on the test rows after each of 20 epochs."""
        torch.manual_seed(0)
        layers = (torch.nn.Linear(1024, 64), torch.nn.ReLU(), torch.nn.Linear(64, 1), torch.nn.Flatten(0))
        network = torch.nn.Sequential(*layers)
        optimizer = torch.optim.Adam(network.parameters(), lr=1e-3)
        history = []
        for epoch in range(20):
            for rows in torch.randperm(len(X), generator=torch.Generator().manual_seed(epoch)).split(64):
                loss = ((predicted(network(X[rows])) - y[rows]) / weight).square().mean()
                optimizer.zero_grad()
                loss.backward()
                optimizer.step()
            with torch.no_grad():
                history.append((predicted(network(X_test)) - y_test).square().mean().sqrt().item())
        return history

    with torch.random.fork_rng(devices=[]):
        raw = errors(model)
        started = errors(lambda output: model(bias + scale * output), std)
        scaled = errors(lambda output: mean - std * output, std)
    assert raw[0] > 3 and started[0] < 1  # the activities have a standard deviation of 1.1
    assert all(abs(one - other) < 0.02 for one, other in zip(started, scaled, strict=True))
    assert min(started) < raw[-1]
