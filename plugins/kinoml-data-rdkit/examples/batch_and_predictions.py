"""Draw the picture of the library's README: a batch, and the predictions for scaffolds that a model has not seen.

python plugins/kinoml-data-rdkit/examples/batch_and_predictions.py docs/img/batch-and-predictions.png
"""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

import kinoml_data as kd
import numpy as np
import torch
from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure

from kinoml_data_rdkit import chembl_demo

ROWS = 8
SPEC = {
    "storage": {
        "backend": "featurize-on-access",
        "featurizer": ["one-hot-smiles", {"name": "morgan-fingerprint", "nbits": 1024}, "murcko-scaffold"],
    },
    "columns": {
        "one_hot": {"dtype": "float32", "shape": [53, "*"]},
        "fingerprint": {"dtype": "float32", "shape": [1024]},
        "activity": {"dtype": "float32"},
        "scaffold": {"dtype": "str"},
    },
    "X": ["one_hot", "fingerprint"],
    "y": "activity",
    "meta": ["scaffold"],
    "splits": {"ratios": {"train": 0.8, "test": 0.2}, "by": "scaffold", "seed": 0},
    "observation_model": "pIC50",
    "collate": "pad-mask",
}


def main(path: Path, epochs: int = 40) -> float:
    """Train a model, and draw a batch and its predictions.

    Returns:
        The RMSE of the predictions for the test rows, in units of pIC50.
    """
    torch.manual_seed(0)
    torch.set_num_threads(1)
    dataset = kd.load_dataset(SPEC, data=chembl_demo())
    train, test = dataset.split("train"), dataset.split("test")
    bias, scale = train.observation_model.bias_and_scale(train)
    model = torch.nn.Sequential(torch.nn.Linear(1024, 64), torch.nn.ReLU(), torch.nn.Linear(64, 1), torch.nn.Flatten(0))
    optimizer = torch.optim.AdamW(model.parameters(), lr=0.001, weight_decay=0.1)
    loader = train.as_dataloader(batch_size=64, shuffle=True, seed=0)
    for _ in range(epochs):
        for X, y in loader:
            loss = train.observation_model.residual(bias + scale * model(X["fingerprint"]), y).square().mean()
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
    X, y = test[:]
    with torch.no_grad():
        predicted = test.observation_model(bias + scale * model(X["fingerprint"]))
    rmse = float((predicted - y).square().mean().sqrt())

    figure = Figure(figsize=(10, 4.2), layout="constrained")
    FigureCanvasAgg(figure)  # needs no display
    left, right = figure.subplots(1, 2, width_ratios=[1.9, 1])
    draw_batch(left, *next(iter(train.as_dataloader(batch_size=ROWS, shuffle=True, seed=1))))
    ends = [float(torch.cat([y, predicted]).min()) - 0.2, float(torch.cat([y, predicted]).max()) + 0.2]
    right.plot(ends, ends, color="0.6", linewidth=1)
    right.scatter(y, predicted, s=16, alpha=0.6, linewidths=0, color="#1f77b4")
    right.set(
        xlabel="measured activity (pIC50, assumed)", ylabel="predicted activity", xlim=ends, ylim=ends, aspect="equal"
    )
    right.set_title(f"{len(y)} molecules with new scaffolds, RMSE {rmse:.2f}", fontsize=10)
    figure.savefig(path, dpi=110)
    return rmse


def draw_batch(axes: Axes, X: dict[str, Any], y: torch.Tensor) -> None:
    """Draw the one-hot SMILES of a batch below one another: symbols in blue, padding in gray."""
    values, mask = X["one_hot"]  # both (rows, 53, longest L)
    rows, symbols, length = values.shape
    picture = np.ones((rows * (symbols + 8), length, 3))
    for row in range(rows):
        stripe = picture[row * (symbols + 8) : row * (symbols + 8) + symbols]
        stripe[:] = np.where(mask[row, 0].numpy()[:, None], [0.92, 0.95, 1.0], [0.8, 0.8, 0.8])
        for symbol, place in zip(*np.nonzero(values[row].numpy()), strict=True):
            stripe[max(0, symbol - 1) : symbol + 2, place] = [0.05, 0.25, 0.6]  # three pixels, to be seen
    axes.imshow(picture, aspect="auto", interpolation="nearest")
    axes.set_yticks([row * (symbols + 8) + symbols / 2 for row in range(rows)], [f"y = {value:.1f}" for value in y])
    axes.set_xlabel("position in the SMILES (gray: padding)")
    axes.set_title(f"A batch of {rows}: X {tuple(values.shape)}, float32, collate: pad-mask", fontsize=10)
    axes.tick_params(length=0)
    axes.spines[:].set_visible(False)


if __name__ == "__main__":
    print(f"RMSE {main(Path(sys.argv[1])):.2f}")
