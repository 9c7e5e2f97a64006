"""A Lightning `DataModule` made from a spec."""

from __future__ import annotations

import hashlib
import os
from collections.abc import Iterator, Mapping
from typing import Any

import numpy as np
import torch
from kinoml_data import DatasetSpec, XyDataset, load_dataset
from kinoml_data.errors import SpecError, SplitError
from lightning.pytorch import LightningDataModule, Trainer
from lightning.pytorch.utilities import rank_zero_warn
from torch.utils.data import DataLoader, RandomSampler

__all__ = ["DataModule"]

LOADERS: Mapping[str, tuple[str, ...]] = {
    "fit": ("train", "val"),
    "validate": ("val",),
    "test": ("test",),
    "predict": ("predict",),
}


FOLDED = ("train", "val")  # the roles that a fold determines


class DataModule(LightningDataModule):
    """The splits of a dataset as the loaders of a `Trainer`.

    `setup` opens the dataset in each process that trains, and `teardown` closes it. The order of the training rows
    depends only on the seed and the number of the epoch, so a run that is resumed from the checkpoint of an epoch
    continues as if it had not been interrupted.

    Args:
        spec: the path of a spec file or a data file, the contents of a spec file as a mapping, or a `DatasetSpec`.
        batch_size: rows per batch and process.
        num_workers: worker processes per loader. 0 reads in the process itself, which is the fastest way for stored
            features.
        collate: a form for all ragged columns, or a mapping of columns to forms; by default the spec's own.
        seed: the seed of the order of the training rows.
        group_by_length: a ragged column; training rows of similar size share a batch. It cannot be used if several
            processes train.
        train: the split to train on; None if there is none.
        val: the split to validate on; None for no validation.
        test: the split to test on.
        predict: the split to predict.
        fold: the fold to validate on, if the dataset has the splits fold0, fold1, and so on; the others are trained on.
            It takes the place of `train` and `val`.
        with_rows: True if batches are `(X, y, row)`, with row numbers in the store; see `XyDataset.with_rows`.
        base: the folder that relative paths in a mapping start from; by default the working directory.
        dataset_options: further arguments of `kinoml_data.load_dataset`, such as `backend: in-memory`.
        loader_options: further arguments of `XyDataset.as_dataloader` for all loaders, such as `pin_memory: true`.
            `drop_last: true` drops rows of the validation and the test set, too.

    Attributes:
        dataset: the dataset with all splits; None before `setup` and after `teardown`.
    """

    def __init__(
        self,
        spec: dict[str, Any] | str | os.PathLike[str] | DatasetSpec,  # LightningCLI takes the first that fits
        batch_size: int = 32,
        *,
        num_workers: int = 0,
        collate: str | dict[str, Any] | None = None,
        seed: int = 0,
        group_by_length: str | None = None,
        train: str | None = "train",
        val: str | None = "val",
        test: str | None = "test",
        predict: str | None = "test",
        fold: int | None = None,
        with_rows: bool = False,
        base: str | None = None,
        dataset_options: dict[str, Any] | None = None,
        loader_options: dict[str, Any] | None = None,
    ) -> None:
        super().__init__()
        self.dataset: XyDataset | None = None
        self._splits = {"train": train, "val": val, "test": test, "predict": predict}
        # These are plain values, so that a checkpoint with them can be loaded without unpickling classes.
        plain: Any = os.fspath(spec) if isinstance(spec, (str, os.PathLike)) else spec
        if isinstance(spec, DatasetSpec):
            plain, base = spec.to_mapping(), base or str(spec.base)
        self._spec = spec if isinstance(spec, DatasetSpec) else plain
        options: dict[str, Any] = {
            "batch_size": batch_size,
            "num_workers": num_workers,
            "collate": collate,
            "seed": seed,
            "group_by_length": group_by_length,
            **self._splits,
            "fold": fold,
            "with_rows": with_rows,
            "base": base,
            "dataset_options": dict(dataset_options or {}),
            "loader_options": dict(loader_options or {}),
        }
        self.save_hyperparameters({"spec": plain, **options})

    def setup(self, stage: str) -> None:
        """Open the dataset unless it is open, and check that it has the splits that `stage` needs.

        Raises:
            SplitError: a split is missing.
            KinomlDataError: `load_dataset` fails.
        """
        if self.dataset is None:
            options = {"collate": self.hparams["collate"], **self.hparams["dataset_options"]}
            dataset = load_dataset(self._spec, base=self.hparams["base"], **options)
            self.dataset = dataset.with_rows() if self.hparams["with_rows"] else dataset
        for role in LOADERS[stage]:
            if self._splits[role] is not None or role != "val" or stage != "fit":
                self._split(role)

    def teardown(self, stage: str) -> None:
        """Close the dataset."""
        if self.dataset is not None:
            self.dataset.close()
            self.dataset = None

    def on_exception(self, exception: BaseException) -> None:
        """Close the dataset."""
        self.teardown("")

    def _split(self, role: str) -> XyDataset:
        name = self._splits[role]
        if self.dataset is None:
            raise SpecError("the dataset is not open; call `setup` first")
        if name is None:
            raise SplitError(f"there is no split for {role}, because {role}=None")
        fold = self.hparams["fold"]
        if fold is not None and role in FOLDED:
            return self.dataset.fold(fold)[role]
        try:
            return self.dataset.split(name)
        except SplitError as error:
            raise SplitError(f"{role}: {error}; set {role} to another split, or to None") from None

    def _loader(self, role: str, **options: Any) -> DataLoader[Any]:
        options = {"batch_size": self.hparams["batch_size"], "num_workers": self.hparams["num_workers"], **options}
        return self._split(role).as_dataloader(**options, **self.hparams["loader_options"])

    def train_dataloader(self) -> DataLoader[Any]:
        """The rows to train on, in a different order in each epoch.

        Raises:
            SpecError: `group_by_length` is set and several processes train.
        """
        column, seed, epoch = self.hparams["group_by_length"], self.hparams["seed"], _epoch(self.trainer)
        if self.trainer is None or self.trainer.world_size == 1:
            loader = self._loader("train", shuffle=True, seed=seed, group_by_length=column)
            batches: Any = loader.batch_sampler
            if hasattr(batches, "set_epoch"):  # rows are grouped by length, or shuffled by blocks
                batches.set_epoch(epoch)
                batches.sampler = batches  # the trainer looks for `set_epoch` here
                return loader
        elif column is not None:
            raise SpecError("group_by_length does not work with several processes; leave it out")
        order = EpochOrder(self._split("train"), seed)
        order.set_epoch(epoch)
        return self._loader("train", sampler=order)

    def val_dataloader(self) -> DataLoader[Any] | list[DataLoader[Any]]:
        """The rows to validate on, in their order."""
        return [] if self._splits["val"] is None else self._loader("val")

    def test_dataloader(self) -> DataLoader[Any]:
        """The rows to test on, in their order."""
        return self._loader("test")

    def predict_dataloader(self) -> DataLoader[Any]:
        """The rows to predict, in their order."""
        return self._loader("predict")

    def state_dict(self) -> dict[str, Any]:
        """A checksum of the rows that were trained on."""
        if self.dataset is None or self._splits["train"] is None:
            return {}
        return {"train": hashlib.sha256(self._split("train").rows.tobytes()).hexdigest()}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Warn if training would continue with rows other than those of the checkpoint."""
        fitting = self.trainer is not None and self.trainer.state.fn == "fit"
        if fitting and state_dict != self.state_dict():
            rank_zero_warn(
                "the checkpoint was trained on rows other than those in `train` now, so scores may be too good"
            )


def _epoch(trainer: Trainer | None) -> int:
    """The epoch with which a trainer begins. The trainer sets it only after workers and batch samplers have begun."""
    if trainer is None:
        return 0
    progress: Any = trainer.fit_loop.epoch_progress.current
    # In a checkpoint written during validation, the epoch has had its last batch but is not counted yet.
    over = progress.ready > progress.processed and trainer.fit_loop.epoch_loop.batch_progress.is_last_batch
    return int(progress.processed + over)


class EpochOrder(RandomSampler):
    """A random order that depends only on a seed and the epoch."""

    def __init__(self, dataset: XyDataset, seed: int) -> None:
        super().__init__(dataset, generator=torch.Generator())
        self.seed = seed
        self.set_epoch(0)

    def set_epoch(self, epoch: int) -> None:
        """Continue with the order of this epoch. Called by the trainer."""
        self.epoch = epoch
        # torch uses only 32 bits of a seed.
        self.generator.manual_seed(int(np.random.SeedSequence([self.seed, epoch]).generate_state(1)[0]))

    def __iter__(self) -> Iterator[int]:
        self.set_epoch(self.epoch)
        return super().__iter__()
