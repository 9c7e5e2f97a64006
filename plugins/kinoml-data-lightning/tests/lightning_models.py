"""A model that remembers which rows it saw."""

from __future__ import annotations

from typing import Any

import torch
from lightning.pytorch import LightningModule
from torch import Tensor


class Mean(LightningModule):
    """Predicts the mean of the rows, from their padded sum and the length."""

    def __init__(self, width: int = 3) -> None:
        super().__init__()
        self.save_hyperparameters()
        self.layer = torch.nn.Linear(width, 1)
        self.seen: dict[str, list[list[list[int]]]] = {}

    def _loss(self, batch: Any, stage: str) -> Tensor:
        X, y = batch
        epochs = self.seen.setdefault(stage, [])
        while len(epochs) <= self.current_epoch:
            epochs.append([])
        epochs[self.current_epoch].append(y["row"].tolist())
        values, mask = X["atoms"]
        pooled = values.sum(dim=1) / mask[:, :, 0].sum(dim=1, keepdim=True)
        return torch.nn.functional.mse_loss(self.layer(pooled)[:, 0], y["y"])

    def training_step(self, batch: Any, batch_idx: int) -> Tensor:
        return self._loss(batch, "train")

    def validation_step(self, batch: Any, batch_idx: int) -> None:
        self.log("val_loss", self._loss(batch, "val"), batch_size=len(batch[1]["y"]))

    def test_step(self, batch: Any, batch_idx: int) -> None:
        self.log("test_loss", self._loss(batch, "test"), batch_size=len(batch[1]["y"]))

    def predict_step(self, batch: Any, batch_idx: int) -> Tensor:
        rows: Tensor = batch[1]["row"]
        return rows

    def configure_optimizers(self) -> torch.optim.Optimizer:
        return torch.optim.Adam(self.parameters(), lr=0.02)
