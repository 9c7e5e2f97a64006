"""The commands and the code that an advice consists of."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

import kinoml_data as kd
from kinoml_data.doctor.advice import Origin
from kinoml_data.factory import open_to_copy
from tests.doctor.work import follow


@pytest.fixture(autouse=True)
def files(folder: Path) -> None:
    """A data file `my data.npz`, a spec `x.yaml` and a spec of several `all.yaml` in the working directory."""
    np.savez("my data.npz", X=np.ones((3, 2)), y=np.arange(3))
    Path("x.yaml").write_text("storage: {backend: npz-lazy, path: my data.npz}\nX: X\n")
    Path("all.yaml").write_text("X: X\ny: y\ndatasets: {one: {storage: {path: my data.npz}}}\n")


ORIGINS = {
    "a data file": (Origin("my data.npz"), "my data-flat.npz", "y"),
    "a spec": (Origin("x.yaml"), "x-flat.npz", None),
    "one of several datasets": (Origin("all.yaml", "one"), "one-flat.npz", "y"),
    "a spec with settings": (Origin("x.yaml", "", ("y=y", "name=a b")), "x-flat.npz", "y"),
}


@pytest.mark.parametrize(("origin", "target", "y"), ORIGINS.values(), ids=ORIGINS)
def test_the_command_and_the_code_open_the_dataset_that_was_named(origin: Origin, target: str, y: str | None) -> None:
    follow(origin.command("flat", "--share", "X"))
    with open_to_copy(target) as copy:
        assert len(copy) == 3 and copy.spec.y == y and copy._session.binding.keys("X") is not None
    spec = {"storage": {"backend": "npz-lazy", "path": "my data.npz"}, "X": "X", "y": "y", "name": "a b"}
    with kd.load_dataset(spec) as opened, follow(origin.code(opened, dtype={"X": "float32"}))["dataset"] as dataset:
        assert dataset.spec.columns["X"].dtype == "float32" and dataset.spec.y == y
        assert dataset.spec.name == ("a b" if origin.settings else None)
