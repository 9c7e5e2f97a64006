"""The training template published with KinoML, written anew from its description, on our classes and on plain tensors.

One model predicts dG/kT for several types of measurement. Each type has a Parquet file, which an `AwkwardArrayDataset`
reads, and an observation model, which converts the prediction to the measured scale. A `DataLoader` with a sampler of
rows and a collate function makes the batches; a step of the optimizer uses one batch of each type. After each epoch the
test rows are read at once from `loader.dataset[loader.sampler.indices]` and scored by R2 and RMSE.

Each run is done twice from one seed: with the dataset class, and with a list of tensors that were never in a file. The
losses and scores have to be equal to the last bit.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import awkward as ak
import numpy as np
import pytest
import torch
from torch import Tensor, nn
from torch.utils.data import DataLoader, SubsetRandomSampler

import kinoml_data as kd
from kinoml_data.observation import PIC50, PKi
from kinoml_data.torch_datasets import AwkwardArrayDataset, MultiXTorchDataset

ROWS, TRAIN, EPOCHS = 24, 18, 3
RNG = np.random.default_rng(5)
MODELS = {"pIC50": PIC50(), "pKi": PKi()}

Samples = Sequence[Any]
Collate = Callable[[list[Any]], tuple[Any, Tensor]]


class Dense(nn.Module):
    """Two dense layers over fingerprints."""

    def __init__(self) -> None:
        super().__init__()
        self.layers = nn.Sequential(nn.Linear(32, 8), nn.ReLU(), nn.Linear(8, 1))

    def forward(self, X: list[Tensor]) -> Tensor:
        return self.layers(X[0].float())  # type: ignore[no-any-return]


class Convolutional(nn.Module):
    """A convolution along padded one-hot SMILES."""

    def __init__(self) -> None:
        super().__init__()
        self.convolution = nn.Conv1d(7, 5, kernel_size=3)
        self.last = nn.Linear(5, 1)

    def forward(self, X: list[Tensor]) -> Tensor:
        return self.last(torch.relu(self.convolution(X[0].float())).amax(dim=2))  # type: ignore[no-any-return]


class MessagePassing(nn.Module):
    """Two rounds of messages along the edges of graphs that were joined to one."""

    def __init__(self) -> None:
        super().__init__()
        self.embed, self.message, self.last = nn.Linear(4, 6), nn.Linear(6, 6), nn.Linear(6, 1)

    def forward(self, X: list[Tensor]) -> Tensor:
        edges, nodes, graph = X
        states = torch.relu(self.embed(nodes.float()))
        for _ in range(2):
            received = torch.zeros_like(states).index_add(0, edges[1], self.message(states)[edges[0]])
            states = torch.relu(states + received)
        sums = torch.zeros(int(graph[-1]) + 1, states.shape[1]).index_add(0, graph, states)
        return self.last(sums)  # type: ignore[no-any-return]


def stacked(samples: list[Any]) -> tuple[list[Tensor], Tensor]:
    return [torch.stack([X[0] for X, _ in samples])], stacked_y(samples)


def padded(samples: list[Any]) -> tuple[list[Tensor], Tensor]:
    longest = max(X[0].shape[1] for X, _ in samples)
    X = torch.stack([nn.functional.pad(X[0], (0, longest - X[0].shape[1])) for X, _ in samples])
    return [X], stacked_y(samples)


def joined(samples: list[Any]) -> tuple[list[Tensor], Tensor]:
    sizes = torch.tensor([len(X[1]) for X, _ in samples])
    first = torch.cumsum(sizes, 0) - sizes
    edges = torch.cat([X[0] + start for (X, _), start in zip(samples, first, strict=True)], dim=1)
    graph = torch.repeat_interleave(torch.arange(len(samples)), sizes)
    return [edges, torch.cat([X[1] for X, _ in samples]), graph], stacked_y(samples)


def stacked_y(samples: list[Any]) -> Tensor:
    return torch.stack([y for _, y in samples]).reshape(-1, 1).float()


def fingerprints() -> list[list[np.ndarray[Any, Any]]]:
    return [[row] for row in RNG.integers(0, 2, (ROWS, 32)).astype("u1")]


def one_hot() -> list[list[np.ndarray[Any, Any]]]:
    return [[RNG.integers(0, 2, (7, int(length))).astype("f8")] for length in RNG.integers(5, 20, ROWS)]


def graphs() -> list[list[np.ndarray[Any, Any]]]:
    return [
        [RNG.integers(0, atoms, (2, 2 * atoms)), RNG.normal(size=(atoms, 4)).astype("f4")]
        for atoms in RNG.integers(2, 9, ROWS)
    ]


CASES: dict[str, tuple[type[nn.Module], Callable[[], list[list[np.ndarray[Any, Any]]]], Collate]] = {
    "fingerprints": (Dense, fingerprints, stacked),
    "one-hot SMILES": (Convolutional, one_hot, padded),
    "graphs": (MessagePassing, graphs, joined),
}


def run(model_class: type[nn.Module], datasets: dict[str, Samples], collate: Collate) -> list[tuple[float, ...]]:
    """The training loss of each epoch, with R2 and RMSE of the test rows for each type of measurement."""
    torch.manual_seed(11)
    model = model_class()
    optimizer = torch.optim.Adam(model.parameters(), lr=0.01)
    loaders = {
        kind: [
            DataLoader(ds, batch_size=5, sampler=SubsetRandomSampler(rows), collate_fn=collate)
            for rows in (range(TRAIN), range(TRAIN, ROWS))
        ]
        for kind, ds in datasets.items()
    }
    history: list[tuple[float, ...]] = []
    for _ in range(EPOCHS):
        losses = []
        for batches in zip(*(train for train, _ in loaders.values()), strict=True):
            optimizer.zero_grad()
            loss = torch.zeros(())
            for kind, (X, y) in zip(loaders, batches, strict=True):
                loss = loss + nn.functional.mse_loss(MODELS[kind](model(X)), y)
            loss.backward()
            optimizer.step()
            losses.append(loss.item())
        scores = []
        for kind, (_, test) in loaders.items():
            rows = list(test.sampler.indices)  # type: ignore[attr-defined]
            X, y = collate([test.dataset[row] for row in rows])
            with torch.no_grad():
                error = MODELS[kind](model(X)) - y
            spread = (y - y.mean()).square().sum()
            scores += [float(1 - error.square().sum() / spread), float(error.square().mean().sqrt())]
        history.append((float(np.mean(losses)), *scores))
    return history


@pytest.mark.parametrize("case", CASES)
@pytest.mark.parametrize("layout", ["Parquet", "NPZ"])
def test_losses_and_scores_are_those_of_plain_tensors(case: str, layout: str, tmp_path: Path) -> None:
    model_class, make, collate = CASES[case]
    ours: dict[str, Samples] = {}
    plain: dict[str, Samples] = {}
    for kind in MODELS:
        rows, y = make(), RNG.normal(6, 1, ROWS)
        tensors = [[torch.from_numpy(x) for x in row] for row in rows]
        plain[kind] = [(X, torch.tensor(value)) for X, value in zip(tensors, y, strict=True)]
        path = tmp_path / f"{kind}.{layout.lower()}"
        if layout == "Parquet":
            fields = [typed([row[i] for row in rows]) for i in range(len(rows[0]))]
            ak.to_parquet(ak.zip([*fields, y], depth_limit=1), path)
            ours[kind] = AwkwardArrayDataset.from_parquet(path)  # type: ignore[assignment]
        else:
            np.savez(path, **{f"X_s{i}_a{j}_": x for i, row in enumerate(rows) for j, x in enumerate(row)}, y=y)
            ours[kind] = MultiXTorchDataset.from_npz(path)  # type: ignore[assignment]
    expected = run(model_class, plain, collate)
    assert run(model_class, ours, collate) == expected
    losses = [epoch[0] for epoch in expected]
    assert losses[-1] < losses[0] and all(np.isfinite(epoch).all() for epoch in expected)


def typed(rows: list[np.ndarray[Any, Any]]) -> Any:
    """An awkward array of these rows in their dtype, which `ak.Array` of a list does not keep."""
    flat = ak.Array(np.concatenate([row.reshape(-1) for row in rows]))
    for axis in reversed(range(1, rows[0].ndim)):
        counts = [np.full(int(np.prod(row.shape[:axis])), row.shape[axis]) for row in rows]
        flat = ak.unflatten(flat, np.concatenate(counts))
    return ak.unflatten(flat, np.array([len(row) for row in rows]))


def test_padding_by_a_collate_form_gives_the_losses_of_the_collate_function(tmp_path: Path) -> None:
    rows, y = one_hot(), RNG.normal(6, 1, ROWS)
    np.savez(tmp_path / "a.npz", **{f"X_s{i}_": row[0] for i, row in enumerate(rows)}, y=y)
    with kd.load_dataset(tmp_path / "a.npz", collate="pad") as dataset:
        X, target = next(iter(dataset.as_dataloader(batch_size=ROWS)))
    samples = [([torch.from_numpy(row[0])], torch.tensor(value)) for row, value in zip(rows, y, strict=True)]
    (expected,), expected_y = padded(samples)
    assert torch.equal(X, expected) and torch.equal(target.reshape(-1, 1).float(), expected_y)
