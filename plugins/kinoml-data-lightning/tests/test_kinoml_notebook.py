"""The Lightning notebook published with KinoML, written anew from its description: folds, a model that applies the
observation model to its prediction, early stopping on the validation loss, and a test of each fold.

Each fold is trained from one seed with KinoML's classes, with our dataset, and with plain tensors. The
losses of every step and the validation and test losses have to be the same.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import kinoml_data as kd
import numpy as np
import pytest
import torch
from kinoml_data.observation import PIC50
from kinoml_data.torch_datasets import MultiXTorchDataset, XyTorchDataset
from lightning.pytorch import LightningModule, Trainer, seed_everything
from lightning.pytorch.callbacks import EarlyStopping
from torch import Tensor, nn
from torch.utils.data import DataLoader, SubsetRandomSampler, TensorDataset

pytestmark = [
    pytest.mark.filterwarnings("ignore:.*does not have many workers which may be a bottleneck"),
    pytest.mark.filterwarnings("ignore:.*is smaller than the logging interval"),
    pytest.mark.filterwarnings("ignore:.*isinstance.treespec, LeafSpec.. is deprecated"),
]
ROWS, FOLDS = 40, 3
RNG = np.random.default_rng(3)
X = RNG.integers(0, 2, (ROWS, 6, 12)).astype("f4")  # one-hot SMILES, padded to one length
Y = RNG.normal(6, 1, ROWS).astype("f4")


class Regressor(LightningModule):
    """A dense network whose prediction, dG/kT, is converted to the measured scale before it is compared."""

    def __init__(self, observation_model: Any) -> None:
        super().__init__()
        self.network = nn.Sequential(nn.Flatten(), nn.Linear(72, 8), nn.ReLU(), nn.Linear(8, 1))
        self.observation_model = observation_model
        self.losses: list[float] = []

    def loss(self, batch: Any) -> Tensor:
        inputs, y = batch
        inputs = inputs[0] if isinstance(inputs, list) else inputs
        return nn.functional.mse_loss(self.observation_model(self.network(inputs)), y.reshape(-1, 1))

    def training_step(self, batch: Any, batch_idx: int) -> Tensor:
        loss = self.loss(batch)
        self.losses.append(loss.item())
        return loss

    def validation_step(self, batch: Any, batch_idx: int) -> None:
        self.log("val_loss", self.loss(batch), batch_size=len(batch[1]))

    def test_step(self, batch: Any, batch_idx: int) -> None:
        self.log("test_loss", self.loss(batch), batch_size=len(batch[1]))

    def configure_optimizers(self) -> torch.optim.Optimizer:
        return torch.optim.Adam(self.parameters(), lr=0.01)


def folds() -> list[dict[str, list[int]]]:
    parts = [part.tolist() for part in np.array_split(np.random.default_rng(0).permutation(ROWS), FOLDS)]
    found = []
    for i in range(FOLDS):
        test, val = parts[i], parts[i - 1]
        train = [row for part in parts if part not in (test, val) for row in part]
        found.append({"train": train, "val": val, "test": test})
    return found


def trained(dataset: Any, fold: dict[str, list[int]], folder: Path) -> list[float]:
    """The losses of all training steps, then the validation and the test loss of the fold."""
    seed_everything(7, verbose=False)
    samplers = {name: SubsetRandomSampler(rows) for name, rows in fold.items()}
    loaders = {name: DataLoader(dataset, batch_size=4, sampler=sampler) for name, sampler in samplers.items()}
    model = Regressor(PIC50())
    trainer = Trainer(
        default_root_dir=folder, max_epochs=3, accelerator="cpu", logger=False, enable_checkpointing=False,
        enable_progress_bar=False, enable_model_summary=False, callbacks=[EarlyStopping("val_loss", patience=2)],
    )  # fmt: skip
    trainer.fit(model, loaders["train"], loaders["val"])
    validation = float(trainer.callback_metrics["val_loss"])
    (result,) = trainer.test(model, loaders["test"], verbose=False)
    return [*model.losses, validation, result["test_loss"]]


@pytest.mark.parametrize("kind", ["MultiXTorchDataset", "XyTorchDataset", "XyDataset"])
def test_the_losses_of_every_fold_are_those_of_plain_tensors(kind: str, tmp_path: Path) -> None:
    np.savez(tmp_path / "rows.npz", **{f"X_s{row}_": x for row, x in enumerate(X)}, y=Y)
    np.savez(tmp_path / "whole.npz", X=X, y=Y)
    dataset: Any = {
        "MultiXTorchDataset": lambda: MultiXTorchDataset.from_npz(tmp_path / "rows.npz"),
        "XyTorchDataset": lambda: XyTorchDataset.from_npz(tmp_path / "whole.npz"),
        "XyDataset": lambda: kd.load_dataset(tmp_path / "rows.npz"),
    }[kind]()
    plain = TensorDataset(torch.from_numpy(X), torch.from_numpy(Y))
    for fold in folds():
        expected = trained(plain, fold, tmp_path)
        assert len(expected) > 6 and np.isfinite(expected).all()
        assert trained(dataset, fold, tmp_path) == expected
