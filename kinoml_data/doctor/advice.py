"""What is worth changing, and how the user names the dataset in the commands and the code that change it."""

from __future__ import annotations

import shlex
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from kinoml_data.dataset.dataset import XyDataset

GAIN = 1.5  # a smaller one is not worth a change


@dataclass(frozen=True)
class Advice:
    """One thing that is worth changing.

    Attributes:
        problem: what was measured, with figures.
        change: the command to run, or the Python code.
        gain: how many times less there is of `of` after the change, as measured on some rows of this dataset.
        of: "time of a batch", possibly "in the first epoch"; "time to the first batch", "bytes on disk" or "bytes of a
            batch".
    """

    problem: str
    change: str
    gain: float
    of: str


@dataclass(frozen=True)
class Origin:
    """How the user names the dataset, for the commands and the code of an advice.

    Attributes:
        path: the path of the spec or the data file.
        name: the name of the dataset if the file describes several.
        settings: the arguments of `--set`.
    """

    path: str
    name: str = ""
    settings: Sequence[str] = ()

    def target(self, what: str) -> str:
        """The path of a new NPZ file in the working directory."""
        return f"{self.name or Path(self.path).stem}-{what}.npz"

    def command(self, what: str, *more: str) -> str:
        """The command that converts the dataset to a new NPZ file."""
        words = ["kinoml-data", "convert", self.path, self.target(what), *more]
        words += ["--dataset", self.name] if self.name else []
        return shlex.join([*words, *(word for setting in self.settings for word in ("--set", setting))])

    def code(self, dataset: XyDataset, **arguments: Any) -> str:
        """The Python code that opens the dataset with arguments of `load_dataset`."""
        source = repr(self.path)
        if self.settings:
            source, arguments = repr(dataset.spec.to_mapping()), {"base": str(dataset.spec.base), **arguments}
        function = "load_datasets" if self.name else "load_dataset"
        text = ", ".join([source, *(f"{name}={value!r}" for name, value in arguments.items())])
        return f"import kinoml_data as kd\n\ndataset = kd.{function}({text})" + (
            f"[{self.name!r}]" if self.name else ""
        )


def saves(before: float, after: float, least: float) -> bool:
    """True if a change is worth it: it has a gain of at least `GAIN`, and saves at least `least`."""
    return after > 0 and before / after >= GAIN and before - after >= least
