"""The molecules of the demo, from an example that RDKit includes."""

from __future__ import annotations

import csv
import math
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any


def chembl_demo() -> dict[str, list[Any]]:
    """The molecules and activities of RDKit's Free-Wilson example, for demonstrations.

    The files are `CHEMBL2321810.smi` and `CHEMBL2321810_act.csv`: 1,017 different molecules, each with a number `Act`
    from 4.27 to 9.22, with a mean of 6.55. The files do not say what was measured, or in which unit. That `Act` is a
    pIC50, the -log10 of an IC50 in mol/l, is an assumption: the numbers are in the range of pIC50s, and the README of
    the example asks for "pIC50s as opposed to IC50s". For anything but a demonstration, look up the assay in ChEMBL.

    The rows are sorted by activity: it rises from 5.48 to 9.22, then from 4.27 to 5.48. Split them at random; ranges
    would train and test on different activities.

    Returns:
        `{"id": [...], "smiles": [...], "activity": [...]}`, lists of str, str and float in the order of the .smi file.

    Raises:
        FileNotFoundError: this build of RDKit does not include the files, as some conda builds do not.
        ValueError: the files are not as expected, or do not contain the same ids.
    """
    from rdkit import RDConfig

    folder = Path(RDConfig.RDContribDir) / "FreeWilson" / "data"
    molecules, activities = folder / "CHEMBL2321810.smi", folder / "CHEMBL2321810_act.csv"
    for file in (molecules, activities):
        if not file.is_file():
            raise FileNotFoundError(f"{file} is missing; the wheels of RDKit on PyPI include it, other builds may not")
    smiles = _by_id(molecules, (line.split()[::-1] for line in molecules.read_text("utf-8").splitlines()))
    texts = _by_id(activities, csv.reader(activities.read_text("utf-8").splitlines()))
    if texts.pop("Name", None) != "Act":
        raise ValueError(f"{activities}: the header must be Name,Act")
    for one, other, file in ((smiles, texts, activities), (texts, smiles, molecules)):
        if missing := sorted(one.keys() - other.keys()):
            raise ValueError(f"{file}: {len(missing)} ids are missing, such as {missing[0]!r}")
    numbers = {key: _number(activities, key, text) for key, text in texts.items()}
    return {"id": list(smiles), "smiles": list(smiles.values()), "activity": [numbers[key] for key in smiles]}


def _by_id(file: Path, lines: Iterable[Sequence[str]]) -> dict[str, str]:
    """`{id: value}` of a file with two fields per line, each id once."""
    values: dict[str, str] = {}
    for number, fields in enumerate(lines, 1):
        if len(fields) != 2:
            raise ValueError(f"{file}, line {number}: expected 2 fields, got {len(fields)}")
        if fields[0] in values:
            raise ValueError(f"{file}, line {number}: duplicate id {fields[0]!r}")
        values[fields[0]] = fields[1]
    return values


def _number(file: Path, key: str, text: str) -> float:
    try:
        number = float(text)
    except ValueError:
        number = math.nan
    if not math.isfinite(number):
        raise ValueError(f"{file}: the activity of {key!r} is {text!r}, which is not a finite number")
    return number
