"""The example of the README, and the page of the manual that uses it: docs/measurements.md."""

from __future__ import annotations

import csv
import importlib.util
import math
import re
import subprocess
import sys
from pathlib import Path
from typing import Any

import kinoml_data as kd
import numpy as np
import pytest
import torch

from kinoml_data_measurements import rejected

README = Path(__file__).parents[1] / "README.md"
MANUAL = Path(__file__).parents[3]
UNKNOWN_UNITS = ("ug.mL-1", "/uM", "10^2 uM", "min", "NM")
HEADER = [
    "smiles",
    "kinase",
    "mw",
    "alogp",
    "psa",
    "standard_type",
    "standard_relation",
    "standard_value",
    "standard_units",
    "conc",
]

BREAKS = (
    (7, ""),
    (8, ""),
    (6, ""),
    (5, "Potency"),
    (7, "-1"),
    (0, ""),
    (7, "n.d."),
    (8, None),
)  # the cell, what it gets; None: a unit that is unknown


def block(language: str, containing: str = "") -> str:
    blocks = re.findall(rf"^```{language}\n(.*?)^```$", README.read_text("utf-8"), re.MULTILINE | re.DOTALL)
    (found,) = [text for text in blocks if containing in text]
    return str(found)


def raw_table() -> list[list[Any]]:
    """Rows of molecules whose affinity depends on their descriptors, with units, bounds, repeats, gaps and errors."""
    rng = np.random.default_rng(0)
    rows: list[list[Any]] = []
    for molecule in range(300):
        mw, alogp, psa = rng.uniform(200, 600), rng.uniform(-1, 6), rng.uniform(0, 150)
        p = 6 + (mw - 400) / 200 + (alogp - 2.5) / 5 + rng.normal(0, 0.1)
        about = ["C" * (molecule + 1), "ABL1", round(mw, 1), round(alogp, 2), round(psa, 1)]
        kind, unit = [("IC50", "nM"), ("IC50", "uM"), ("Ki", "nM"), ("Inhibition", "%")][molecule % 4]
        if unit == "%":
            value = round(100 / (1 + 10 ** (6 - p)), 1)
            rows.append([*about, kind, "=", value, unit, "1e-6"])
            continue
        value = 10 ** ((9 if unit == "nM" else 6) - p)
        if kind == "IC50" and p < 5:
            rows.append([*about, kind, ">", 10_000 if unit == "nM" else 10, unit, ""])
            continue
        rows.append([*about, kind, "~" if molecule % 50 == 0 else "=", f"{value:.4g}", unit, ""])
        if molecule % 10 == 0:
            rows.append([*about, kind, "=", f"{value * 1.2:.4g}", unit, ""])
    for number, row in enumerate([list(row) for row in rows[:40]]):
        row[0] = f"N{row[0]}"
        place, wrong = BREAKS[number % len(BREAKS)]
        row[place] = UNKNOWN_UNITS[number // len(BREAKS)] if wrong is None else wrong
        rows.insert(7 * number, row)
    return rows


def test_a_mixed_model_is_trained_from_a_raw_table_with_a_few_lines(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    spec, program = block("yaml"), block("python")
    assert len(spec.splitlines()) <= 25 and len(program.splitlines()) <= 15
    monkeypatch.chdir(tmp_path)
    rows = raw_table()
    with Path("activities.csv").open("w", newline="", encoding="utf-8") as file:
        csv.writer(file).writerows([HEADER, *rows])
    Path("activities.yaml").write_text(spec, "utf-8")
    names: dict[str, Any] = {}
    torch.manual_seed(0)
    exec(program, names)

    with Path("rejected.csv").open(newline="", encoding="utf-8") as file:
        wrong = {int(row["row"]): row["reason"] for row in csv.DictReader(file)}
    assert list(wrong) == [number for number, row in enumerate(rows) if row[0] == "" or row[0].startswith("N")]
    assert all(reason.partition(": ")[2] for reason in wrong.values())
    assert {reason for reason in wrong.values() if "not a known unit" in reason} == {
        f"unit: {unit!r} is not a known unit" for unit in UNKNOWN_UNITS
    }
    right = [row for number, row in enumerate(rows) if number not in wrong]
    with kd.load_dataset("activities.yaml") as dataset:
        assert len(dataset) == len({(row[0], row[5]) for row in right}) < len(right)
        assert {0, 1} == set(dataset.column("relation").tolist())
        train, test = dataset.split("train"), dataset.split("test")
        residuals = {}
        for name, predict in (("mean", lambda X: torch.zeros(len(X))), ("model", names["model"].eval())):
            X, y = test[:]
            with torch.no_grad():
                residual = test.observation_model.residual(names["bias"] + names["scale"] * predict(X), y)
            residuals[name] = residual.square().mean().sqrt().item()
        assert len(train) + len(test) == len(dataset)
        assert residuals["model"] < residuals["mean"] / 2


def test_inspect_prints_how_many_rows_were_kept_rejected_and_merged(tmp_path: Path) -> None:
    rows = raw_table()
    with (tmp_path / "activities.csv").open("w", newline="", encoding="utf-8") as file:
        csv.writer(file).writerows([HEADER, *rows])
    (tmp_path / "activities.yaml").write_text(block("yaml"), "utf-8")
    command = [sys.executable, "-m", "kinoml_data", "inspect", str(tmp_path / "activities.yaml")]
    shown = subprocess.run(command, capture_output=True, text=True, check=True).stdout
    (counts,) = re.findall(r"([0-9]+) of ([0-9]+) rows kept, ([0-9]+) rejected, ([0-9]+) merged", shown)
    kept, read, rejected, merged = map(int, counts)
    assert kept + rejected + merged == read == len(rows)
    assert rejected == 40 and merged > 0


def test_the_table_of_the_readme_is_read_as_it_says(tmp_path: Path) -> None:
    (tmp_path / "activities.csv").write_text(block("text"), "utf-8")
    (tmp_path / "activities.yaml").write_text(block("yaml"), "utf-8")
    with kd.load_dataset(tmp_path / "activities.yaml") as dataset:
        expected = [9 - (math.log10(120) + math.log10(200)) / 2, 5, 63]
        np.testing.assert_allclose(dataset.column("value"), expected, rtol=1e-6)
        assert dataset.column("relation").tolist() == [0, 1, 0]
    (row,) = rejected(tmp_path / "activities.yaml")
    assert row["reason"] == "unit: 'ug.mL-1' is not a known unit"


@pytest.mark.skipif(not (MANUAL / "docs").exists(), reason="the manual is only in the repository")
def test_the_code_of_the_page_about_mixed_measurements_runs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The spec and the program of the README are those that the page refers to."""
    found = importlib.util.spec_from_file_location("pages", MANUAL / "tests" / "pages.py")
    assert found and found.loader
    pages = importlib.util.module_from_spec(found)
    monkeypatch.setitem(sys.modules, found.name, pages)  # for its dataclass
    found.loader.exec_module(pages)
    page = MANUAL / "docs" / "measurements.md"
    monkeypatch.chdir(tmp_path)
    Path("activities.yaml").write_text(block("yaml"), "utf-8")
    names: dict[str, Any] = {}
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        table = next(found for found in pages.blocks(page) if found.language == "python")
        pages.run(page, names, skip=lambda found: found != table)
        exec(block("python"), names)
        pages.run(page, names, skip=lambda found: found == table)
    command = [sys.executable, "-m", "kinoml_data", "inspect", "activities.yaml"]
    shown = subprocess.run(command, capture_output=True, text=True, check=True).stdout
    (lines,) = [found.text for found in pages.blocks(page) if found.language == "text"]
    assert lines in shown
