"""Training with a `Trainer` and from a LightningCLI config, stopped and resumed, in one process and in two."""

from __future__ import annotations

import json
import os
import pickle
import re
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import kinoml_data as kd
import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import torch
from kinoml_data.errors import SpecError, SplitError
from lightning.pytorch import Trainer
from lightning.pytorch.callbacks import ModelCheckpoint
from lightning_models import Mean

from kinoml_data_lightning import DataModule

pytestmark = [
    pytest.mark.filterwarnings("ignore:.*does not have many workers which may be a bottleneck"),
    pytest.mark.filterwarnings("ignore:.*is smaller than the logging interval"),
    # That no validation was asked for, and that a checkpoint's callback is not there again.
    pytest.mark.filterwarnings("ignore:Total length of `list` across ranks is zero"),
    pytest.mark.filterwarnings("ignore:Be aware that when using `ckpt_path`, callbacks"),
    # Lightning's own use of torch.
    pytest.mark.filterwarnings("ignore:.*isinstance.treespec, LeafSpec.. is deprecated"),
]
HERE = Path(__file__).parent


@pytest.fixture(autouse=True)
def seeded() -> Iterator[None]:
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        yield


def trainer(folder: Path, **options: Any) -> Trainer:
    quiet = {"enable_progress_bar": False, "enable_model_summary": False, "logger": False}
    options = {"max_epochs": 2, "accelerator": "cpu", "enable_checkpointing": False, **quiet, **options}
    return Trainer(default_root_dir=folder, **options)


def rows_of(store: Path, split: str) -> list[int]:
    with kd.load_dataset(store, split=split) as ds:
        return sorted(ds.rows.tolist())


def flat(batches: list[list[int]]) -> list[int]:
    return [row for batch in batches for row in batch]


@pytest.mark.parametrize("workers", [0, 2])
@pytest.mark.parametrize("options", [{}, {"loader_options": {"prefetch": 2}}, {"group_by_length": "atoms"}], ids=str)
def test_two_epochs_of_training_see_each_row_of_their_splits_and_learn(
    store: Path, tmp_path: Path, workers: int, options: dict[str, Any]
) -> None:
    if workers and "loader_options" in options:
        options = {"loader_options": {"multiprocessing_context": "forkserver"}}
    model = Mean()
    data = DataModule(str(store), 20, collate="pad-mask", num_workers=workers, **options)
    assert data.dataset is None  # opened in setup, not before
    run = trainer(tmp_path, num_sanity_val_steps=0, max_epochs=4)
    run.fit(model, data)
    assert data.dataset is None  # and closed
    for epoch in model.seen["train"]:
        assert sorted(flat(epoch)) == rows_of(store, "train") and [len(batch) for batch in epoch] == [20] * 8
    assert model.seen["train"][0] != model.seen["train"][1]
    for epoch in model.seen["val"]:
        assert sorted(flat(epoch)) == rows_of(store, "val")
    assert run.callback_metrics["val_loss"] < 0.05
    run.test(model, data)
    assert sorted(flat(model.seen["test"][-1])) == rows_of(store, "test")
    predicted = torch.cat(run.predict(model, data))  # type: ignore[arg-type]
    with kd.load_dataset(store, split="test") as ds:
        assert predicted.tolist() == ds.rows.tolist()  # in the order of the split


@pytest.mark.parametrize("spec", ["path", "yaml", "mapping", "spec"])
def test_a_data_module_is_made_from_anything_that_describes_a_dataset(store: Path, tmp_path: Path, spec: str) -> None:
    mapping = {"storage": {"backend": "npz-lazy", "path": store.name}, "collate": "pad-mask"}
    described = kd.DatasetSpec.parse(mapping, store.parent)
    described.to_file(tmp_path / "rows.yaml")
    given: Any = {"path": store, "yaml": tmp_path / "rows.yaml", "mapping": mapping, "spec": described}[spec]
    data = DataModule(given, base=str(store.parent) if spec == "mapping" else None)
    again = DataModule(**data.hparams)
    for module in (data, again, pickle.loads(pickle.dumps(data))):
        module.setup("fit")
        assert sorted(module.dataset.split("train").rows.tolist()) == rows_of(store, "train")
        assert next(iter(module.val_dataloader()))[1]["y"].shape == (20,)
        module.teardown("fit")


def test_the_keywords_of_load_dataset_and_of_the_loaders_reach_them(store: Path) -> None:
    data = DataModule(store, dataset_options={"backend": "in-memory"}, loader_options={"drop_last": True})
    data.setup("test")
    assert data.dataset is not None and data.dataset.spec.storage.backend == "in-memory"
    assert data.test_dataloader().drop_last and len(data.test_dataloader()) == 0  # 20 rows are no batch of 32
    data.teardown("test")
    with pytest.raises(SpecError, match="unknown form 'padd'; did you mean 'pad'"):
        DataModule(store, collate="padd").setup("fit")


def test_a_fold_trains_on_the_others_and_batches_may_have_row_numbers(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    rows = np.arange(60)
    splits = {"folds": 3, "ratios": {"test": 0.1}, "seed": 1}
    spec = {"X": "X", "y": "y", "storage": {"backend": "npz-lazy", "path": "rows.npz"}}
    kd.save_dataset(kd.from_arrays(rows.astype(np.float32), rows), spec["storage"])
    module = DataModule(spec | {"splits": splits}, batch_size=7, fold=2, with_rows=True)
    module.setup("fit")
    parts = module.dataset.fold(2)
    trained = [row for _, _, batch in module.train_dataloader() for row in batch.tolist()]
    validated = [row for _, y, batch in module.val_dataloader() for row in batch.tolist() if row in y.tolist()]
    assert sorted(trained) == parts["train"].rows.tolist() and validated == parts["val"].rows.tolist()
    assert len(trained) == 36 and len(validated) == 18
    module.teardown("fit")


def test_a_missing_split_is_an_error_before_training_and_none_goes_without(store: Path, tmp_path: Path) -> None:
    data = DataModule(store, collate="pad-mask", val="valid")
    with pytest.raises(
        SplitError, match=r"val: unknown split 'valid'; did you mean 'val'.*; set val to another split, or to None"
    ):
        trainer(tmp_path).fit(Mean(), data)
    assert data.dataset is None
    data = DataModule(store, collate="pad-mask", val=None, test=None)
    model = Mean()
    trainer(tmp_path).fit(model, data)
    assert set(model.seen) == {"train"} and len(model.seen["train"]) == 2
    with pytest.raises(SplitError, match="no split for test, because test=None"):
        trainer(tmp_path).test(model, data)
    with pytest.raises(SpecError, match="call `setup` first"):
        data.train_dataloader()


def test_a_model_that_fails_leaves_no_dataset_open(store: Path, tmp_path: Path) -> None:
    data = DataModule(store, collate="list")  # the model needs pad-mask
    with pytest.raises(ValueError):
        trainer(tmp_path).fit(Mean(), data)
    assert data.dataset is None


# -- checkpoints


@pytest.mark.parametrize("workers", [0, 1])
@pytest.mark.parametrize("column", [None, "atoms"])
@pytest.mark.parametrize("saved", ["after validation", "after training"])
def test_a_resumed_run_sees_the_batches_of_one_that_did_not_stop(
    store: Path, tmp_path: Path, workers: int, column: str | None, saved: str
) -> None:
    def data(seed: int = 1) -> DataModule:
        return DataModule(str(store), 16, collate="pad-mask", seed=seed, num_workers=workers, group_by_length=column)

    torch.manual_seed(0)
    whole = Mean()
    trainer(tmp_path, max_epochs=4).fit(whole, data())
    torch.manual_seed(0)
    first = Mean()
    callback = ModelCheckpoint(tmp_path, "last", save_on_train_epoch_end=saved == "after training")
    keep = {"enable_checkpointing": True, "callbacks": [callback]}
    trainer(tmp_path, max_epochs=2, **keep).fit(first, data())
    second = Mean()
    trainer(tmp_path, max_epochs=4).fit(second, data(), ckpt_path=str(tmp_path / "last.ckpt"))
    assert first.seen["train"] == whole.seen["train"][:2]
    assert second.seen["train"][2:] == whole.seen["train"][2:]
    assert torch.equal(second.layer.weight, whole.layer.weight)
    another = Mean()
    trainer(tmp_path).fit(another, data(seed=2))
    assert another.seen["train"] != first.seen["train"]


@pytest.mark.filterwarnings("ignore:.*(memory_budget|no checksums of its rows):UserWarning")
@pytest.mark.parametrize("workers", [0, 1])
def test_a_resumed_run_over_blocks_sees_the_batches_of_one_that_did_not_stop(
    store: Path, tmp_path: Path, workers: int
) -> None:
    with kd.load_dataset(store) as ds:
        atoms, (y, row) = ds.column("atoms"), (ds.column(name).numpy() for name in ("y", "row"))
    table = pa.table({"atoms": [x.tolist() for x in atoms], "y": y, "row": row})
    pq.write_table(table, tmp_path / "rows.parquet", row_group_size=20)
    spec = {
        "storage": {"backend": "parquet-awkward", "path": str(tmp_path / "rows.parquet"), "memory_budget": 0},
        "columns": {
            "atoms": {"dtype": "float32", "shape": ["*", 3]},
            "y": {"dtype": "float32"},
            "row": {"dtype": "int64"},
        },
        "X": ["atoms"],
        "y": ["y", "row"],
        "splits": {"ratios": {"train": 0.8, "val": 0.1, "test": 0.1}, "seed": 0},
    }

    def data() -> DataModule:
        return DataModule(spec, 16, collate="pad-mask", seed=1, num_workers=workers)

    def fit(epochs: int, *, resume: str | None = None, **options: Any) -> list[list[list[int]]]:
        model = Mean()
        trainer(tmp_path, max_epochs=epochs, **options).fit(model, data(), ckpt_path=resume)
        return model.seen["train"]

    whole = fit(4)
    keep = {"enable_checkpointing": True, "callbacks": [ModelCheckpoint(tmp_path / "run", "last")]}
    assert fit(2, **keep) == whole[:2]
    assert fit(4, resume=str(tmp_path / "run" / "last.ckpt"))[2:] == whole[2:]
    assert len({tuple(flat(epoch)) for epoch in whole}) == 4
    for epoch in whole:
        assert sorted(flat(epoch)) == rows_of(store, "train")
        assert len({row // 20 for row in epoch[3]}) <= 3  # of ten row groups


def test_a_checkpoint_holds_the_arguments_in_plain_values(store: Path, tmp_path: Path) -> None:
    spec = kd.DatasetSpec.parse({"storage": {"backend": "npz-lazy", "path": store.name}}, store.parent)
    data = DataModule(spec, 7, collate={"atoms": "pad-mask"}, dataset_options={"backend": "in-memory"})
    keep = {"enable_checkpointing": True, "callbacks": [ModelCheckpoint(tmp_path, "last")]}
    trainer(tmp_path, max_epochs=1, **keep).fit(Mean(), data)
    held = torch.load(tmp_path / "last.ckpt", weights_only=True)
    assert held["datamodule_hyper_parameters"]["spec"] == spec.to_mapping()
    assert len(held["DataModule"]["train"]) == 64
    again = DataModule.load_from_checkpoint(tmp_path / "last.ckpt", weights_only=True)
    assert dict(again.hparams) == dict(data.hparams) and again.hparams["batch_size"] == 7
    again.setup("fit")
    assert again.dataset is not None and len(again.dataset) == 200
    again.teardown("fit")


def test_going_on_with_other_training_rows_warns_and_testing_does_not(store: Path, tmp_path: Path) -> None:
    keep = {"enable_checkpointing": True, "callbacks": [ModelCheckpoint(tmp_path, "last")]}
    trainer(tmp_path, max_epochs=1, **keep).fit(Mean(), DataModule(store, collate="pad-mask"))
    last = str(tmp_path / "last.ckpt")
    swapped = DataModule(store, collate="pad-mask", train="test", test="train")
    trainer(tmp_path).test(Mean(), swapped, ckpt_path=last)
    with pytest.warns(UserWarning, match="trained on rows other than those in `train` now"):
        trainer(tmp_path, max_epochs=2).fit(Mean(), swapped, ckpt_path=last)


# -- LightningCLI, in a process of its own

MAIN = """
import warnings
warnings.filterwarnings("ignore")
from lightning.pytorch.cli import LightningCLI
if __name__ == "__main__":
    LightningCLI()
"""
CONFIG = """
seed_everything: 0
model:
  class_path: lightning_models.Mean
data:
  class_path: kinoml_data_lightning.DataModule
  init_args:
    spec: {spec}
    batch_size: 20
    collate: {collate}
    dataset_options: {{backend: in-memory}}
trainer:
  max_epochs: 2
  accelerator: cpu
  logger: false
  enable_progress_bar: false
  callbacks:
    - class_path: lightning.pytorch.callbacks.ModelCheckpoint
      init_args: {{dirpath: checkpoints, filename: last}}
"""


def python(folder: Path, *arguments: str) -> subprocess.CompletedProcess[str]:
    path = os.pathsep.join([str(HERE), *filter(None, [os.environ.get("PYTHONPATH")])])
    return subprocess.run(
        [sys.executable, *arguments],
        cwd=folder,
        env=os.environ | {"PYTHONPATH": path},
        capture_output=True,
        text=True,
        timeout=240,
    )


@pytest.mark.parametrize(
    ("spec", "collate"),
    [("rows.yaml", "pad-mask"), ("{storage: {backend: npz-lazy, path: rows.npz}}", "{atoms: pad-mask}")],
    ids=["file", "mapping"],
)
def test_a_config_of_lightning_cli_trains_and_its_checkpoint_goes_on(
    store: Path, tmp_path: Path, spec: str, collate: str
) -> None:
    (tmp_path / "rows.npz").symlink_to(store)
    (tmp_path / "rows.yaml").write_text("storage: {backend: npz-lazy, path: rows.npz}\n")
    (tmp_path / "main.py").write_text(MAIN)
    (tmp_path / "training.yaml").write_text(CONFIG.format(spec=spec, collate=collate))
    ran = python(tmp_path, "main.py", "fit", "--config", "training.yaml", "--data.batch_size", "40")
    assert ran.returncode == 0, ran.stderr
    held = torch.load(tmp_path / "checkpoints" / "last.ckpt", weights_only=True)
    assert held["epoch"] == 1 and held["global_step"] == 2 * 4  # 160 rows
    assert held["datamodule_hyper_parameters"]["batch_size"] == 40
    (tmp_path / "config.yaml").unlink()  # which LightningCLI saved, and would not overwrite
    ran = python(tmp_path, "main.py", "test", "--config", "training.yaml", "--ckpt_path", "checkpoints/last.ckpt")
    assert ran.returncode == 0 and "test_loss" in ran.stdout, ran.stderr


def test_a_wrong_argument_in_a_config_is_named(store: Path, tmp_path: Path) -> None:
    (tmp_path / "main.py").write_text(MAIN)
    text = CONFIG.format(spec=store, collate="pad-mask").replace("batch_size:", "batchsize:")
    (tmp_path / "training.yaml").write_text(text)
    ran = python(tmp_path, "main.py", "fit", "--config", "training.yaml")
    assert ran.returncode != 0 and "batchsize" in ran.stderr


# -- two processes

DISTRIBUTED = """
import json, os, sys, warnings
warnings.filterwarnings("ignore")
from pathlib import Path
import torch.distributed
from lightning.pytorch import Trainer
import kinoml_data
from lightning_models import Mean
from kinoml_data_lightning import DataModule

class Writes(Mean):
    reads = 0

    def on_train_end(self):
        text = json.dumps({"seen": self.seen["train"], "reads": Writes.reads})
        Path(f"rank{self.global_rank}.json").write_text(text)

def counted(self, indices, read=kinoml_data.XyDataset.__getitems__):
    Writes.reads += 1
    return read(self, indices)

if __name__ == "__main__":
    kinoml_data.XyDataset.__getitems__ = counted
    column = sys.argv[2] if len(sys.argv) > 2 else None
    data = DataModule(sys.argv[1], 20, collate="pad-mask", val=None, group_by_length=column)
    Trainer(
        max_epochs=2, accelerator="cpu", devices=2, strategy="ddp", logger=False, enable_checkpointing=False,
        enable_progress_bar=False, enable_model_summary=False,
    ).fit(Writes(), data)
    torch.distributed.destroy_process_group()  # else a thread of gloo's may abort the process when it ends
"""


def test_two_processes_share_the_rows_and_read_them_in_batches(store: Path, tmp_path: Path) -> None:
    (tmp_path / "main.py").write_text(DISTRIBUTED)
    ran = python(tmp_path, "main.py", str(store))
    assert ran.returncode == 0, ran.stderr
    ranks = [json.loads((tmp_path / f"rank{rank}.json").read_text()) for rank in (0, 1)]
    for epoch in (0, 1):
        assert sorted(flat(ranks[0]["seen"][epoch]) + flat(ranks[1]["seen"][epoch])) == rows_of(store, "train")
    for rank in ranks:
        assert rank["seen"][0] != rank["seen"][1]
        assert rank["reads"] == 2 * 4  # 80 rows each, a batch at a time


def test_rows_of_similar_length_are_for_one_process(store: Path, tmp_path: Path) -> None:
    (tmp_path / "main.py").write_text(DISTRIBUTED)
    ran = python(tmp_path, "main.py", str(store), "atoms")
    assert ran.returncode != 0 and "group_by_length does not work with several processes" in ran.stderr


def test_the_readme_runs(tmp_path: Path) -> None:
    text = (HERE.parent / "README.md").read_text("utf-8")
    (code,) = re.findall(r"^```python\n(.*?)^```", text, re.MULTILINE | re.DOTALL)
    (tmp_path / "readme.py").write_text(code)
    ran = python(tmp_path, "readme.py")
    assert ran.returncode == 0 and "`Trainer.fit` stopped: `max_epochs=2` reached" in ran.stderr, ran.stderr
