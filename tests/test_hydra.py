"""The same dataset from Hydra: a run with overrides and interpolation that trains two epochs."""

from __future__ import annotations

import json
import re
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

import kinoml_data as kd

PAGE = (Path(__file__).parents[1] / "docs" / "training.md").read_text("utf-8")


@pytest.fixture
def project(tmp_path: Path) -> Path:
    """The files that the manual shows, and data for them."""
    for name, text in re.findall(r"^```(?:text|python)\n# ([\w/.]+)\n(.*?)^```$", PAGE, re.MULTILINE | re.DOTALL):
        file = tmp_path / name
        file.parent.mkdir(exist_ok=True)
        file.write_text(text)
    rng = np.random.default_rng(0)
    X = rng.normal(size=(200, 16)).astype(np.float32)
    y = X @ np.linspace(-1, 1, 16).astype(np.float32)
    splits = {"train": np.arange(160), "val": np.arange(160, 200)}
    kd.save_dataset(kd.from_arrays(X, y, splits), tmp_path / "activities.npz")
    return tmp_path


def run(project: Path, *overrides: str) -> dict[str, object]:
    command = [sys.executable, "train.py", f"hydra.run.dir={project / 'outputs'}", *overrides]
    done = subprocess.run(command, cwd=project, capture_output=True, text=True, timeout=200)
    assert done.returncode == 0, done.stdout + done.stderr
    found: dict[str, object] = json.loads(done.stdout.splitlines()[-1])
    return found


@pytest.mark.slow
def test_hydra_trains_two_epochs_from_its_config(project):
    found = run(project)
    assert found["backend"] == "npz-lazy" and found["batches"] == 5 and found["rows"] == 160
    before, after = found["losses"]
    assert after < before


def test_hydra_trains_two_epochs_with_overrides_that_reach_the_dataset(project):
    found = run(project, "dataset.backend=in-memory", "batch_size=16", "dataset.split=val")
    assert found["backend"] == "in-memory" and found["rows"] == 40 and found["batches"] == 3
    before, after = found["losses"]
    assert after < before


def test_an_error_from_hydra_names_the_wrong_key(project):
    command = [sys.executable, "train.py", f"hydra.run.dir={project / 'outputs'}", "+dataset.spec.storge=1"]
    done = subprocess.run(command, cwd=project, capture_output=True, text=True, timeout=200)
    assert done.returncode != 0 and "unknown key 'storge'; did you mean 'storage'?" in done.stderr


def test_hydra_zen_makes_the_config_from_the_function(project):
    from hydra_zen import builds, instantiate

    made = builds(kd.load_dataset, populate_full_signature=True)
    found = instantiate(made(spec=str(project / "activities.npz"), backend="in-memory", split="val"))
    assert found.spec.storage.backend == "in-memory" and len(found) == 40
