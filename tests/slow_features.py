"""A featurizer that tests import in other processes, too, and tables for it."""

from __future__ import annotations

import os
import time
import zipfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np

import kinoml_data as kd
from kinoml_data import Array, registry
from kinoml_data.plugin import Featurizer
from tests.keyed import Keyed

ROWS = 60
SMILES = [text * (i % 3 + 1) for i, text in zip(range(ROWS), ["C", "N", "O", "CC", "F"] * 12, strict=True)]
called: list[str] = []  # in this process


class Letters(Featurizer):
    """The code of each letter of a text. A text with a "!" fails, "?" ends the process.

    Attributes:
        seconds: how long each text takes.
        log: a file to which a line is appended for each text that was featurized.
    """

    name = "letters"
    inputs = ("text",)
    seconds: float = 0.0
    log: str | None = None

    @property
    def outputs(self) -> Mapping[str, Array]:
        return {"letters": Array("float32", (None,))}

    def featurize(self, *raw: Any) -> tuple[Any, ...]:
        (text,) = raw
        called.append(text)
        if "?" in text:
            os._exit(3)
        if "!" in text:
            raise ValueError(f"{text} is not a molecule")
        time.sleep(self.seconds)
        if self.log is not None:
            with Path(self.log).open("ab", buffering=0) as file:
                file.write(f"{text}\n".encode())
        return (np.array([ord(c) for c in text], np.float32),)


FEATURIZERS = (Letters,)

PLUGIN = """
from kinoml_data.plugin import hookimpl
from tests.slow_features import FEATURIZERS

@hookimpl
def register_featurizers():
    return FEATURIZERS
"""


def install_plugin(site: Path) -> None:
    """Install a plugin with these featurizers into a folder on the path."""
    (site / "letters_plugin.py").write_text(PLUGIN)
    info = site / "letters-1.0.dist-info"
    info.mkdir()
    (info / "METADATA").write_text("Metadata-Version: 2.1\nName: letters\nVersion: 1.0\n")
    (info / "entry_points.txt").write_text("[kinoml_data]\nletters = letters_plugin\n")


def registered() -> registry.Registry:
    """A registry in which these featurizers and the backend `keyed` are registered by a plugin."""
    found = registry.Registry()
    names = {"backend": {"keyed": Keyed}, "featurizer": {cls.name: cls for cls in FEATURIZERS}}
    found.plugins.append(registry.Plugin("letters", "letters-dist", "1.0", loaded=True, names=names))
    return found


def table(folder: Path, smiles: list[str], proteins: list[str] | None = None, **more: Any) -> dict[str, Any]:
    """The spec of a table with texts that a featurizer turns into their letters."""
    proteins = ["P"] * len(smiles) if proteins is None else proteins
    lines = [f"r{i},{a},{b},{i}" for i, (a, b) in enumerate(zip(smiles, proteins, strict=True))]
    (folder / "t.csv").write_text("\n".join(["id,smiles,protein,y", *lines]) + "\n")
    featurizers = [
        {"name": "letters", "inputs": ["smiles"], "outputs": {"letters": "ligand"}},
        {"name": "letters", "inputs": ["protein"], "outputs": {"letters": "kinase"}},
    ]
    source = {"backend": "csv", "path": str(folder / "t.csv")}
    return {
        "storage": {"backend": "featurize-on-access", "source": source, "featurizer": featurizers},
        "X": ["ligand", "kinase"],
        "y": "y",
        "meta": ["id"],
        "splits": {"train": {"rows": list(range(0, len(smiles), 2))}, "test": {"rows": list(range(1, len(smiles), 2))}},
    } | more


def values(path: Any, name: str) -> list[Any]:
    with kd.load_dataset(path) as dataset:
        return [row.tolist() for row in dataset.column(name)]


def stored_once(path: Path, name: str) -> int | None:
    """How many distinct values of a column an NPZ file contains; None if it has no keys."""
    with zipfile.ZipFile(path) as file:
        if f"{name}.keys.npy" not in file.namelist():
            return None
    with kd.load_dataset(path) as dataset:
        return int(dataset._session.binding.keys(name).max()) + 1
