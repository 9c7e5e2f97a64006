"""`kinoml-data demo` runs, learns something and leaves a folder that its reader can use."""

from __future__ import annotations

import csv
import io
from pathlib import Path

import kinoml_data as kd
import pytest
import torch
from kinoml_data.cli import demo
from kinoml_data.cli import main as cli
from kinoml_data.cli.demo import Result
from rich.console import Console

from kinoml_data_rdkit import chembl_demo

FEATURES = ("fingerprint", "smiles", "graph")
BACKENDS = ("featurize-on-access", "npz-lazy", "npz-reopen", "parquet-awkward", "in-memory")


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("demo") / "out"


@pytest.fixture(scope="module")
def console() -> Console:
    return Console(width=200, record=True, file=io.StringIO())


@pytest.fixture(scope="module")
def result(folder: Path, console: Console) -> Result:
    threads = torch.get_num_threads()
    result = demo.run(folder, console)
    assert torch.get_num_threads() == threads
    return result


@pytest.fixture(scope="module")
def text(result: Result, console: Console) -> str:
    return console.export_text()


def test_it_learns_something_in_time(result: Result) -> None:
    assert result.r2 > 0.5
    assert result.rmse < 0.7 * result.baseline
    assert result.seconds < 90


def test_every_spec_loads_and_gives_the_same(result: Result) -> None:
    assert set(result.specs) == {(features, backend) for features in FEATURES for backend in BACKENDS}
    for features in FEATURES:
        first = kd.load_dataset(result.specs[features, BACKENDS[0]])
        for backend in BACKENDS:
            with kd.load_dataset(result.specs[features, backend]) as dataset:
                assert len(dataset) == 1017 and dataset.spec.storage.backend == backend
                assert {name: len(rows) for name, rows in dataset.indices.items()} == {
                    "train": 813,
                    "val": 102,
                    "test": 102,
                }
                for row in (0, 500, -1):
                    assert demo._bits(dataset[row]) == demo._bits(first[row])


def test_the_molecules_are_the_plugins(result: Result, folder: Path) -> None:
    with (folder / "molecules.csv").open(newline="") as file:
        rows = list(csv.DictReader(file))
    found = chembl_demo()
    assert [row["id"] for row in rows] == found["id"]
    assert [row["smiles"] for row in rows] == found["smiles"]
    assert [float(row["pIC50"]) for row in rows] == found["activity"]


def test_the_shapes_are_those_of_molecules(result: Result) -> None:
    X, _ = kd.load_dataset(result.specs["smiles", "npz-lazy"])[:4]
    assert isinstance(X, torch.Tensor) and X.shape[:2] == (4, 53) and X.dtype == torch.float32
    X, _ = kd.load_dataset(result.specs["graph", "parquet-awkward"])[0]
    assert isinstance(X, dict) and list(X) == ["edge_index", "atoms"]
    assert int(X["edge_index"].max()) == len(X["atoms"]) - 1


def test_it_says_what_it_assumes_and_found(text: str, result: Result) -> None:
    assert "ASSUMED" in text and "'Act'" in text
    assert f"RMSE {result.rmse:.2f}, R2 {result.r2:.2f}" in text
    assert text.count(" same") >= len(FEATURES) * len(BACKENDS)


def test_what_it_tells_to_try_works(text: str, result: Result, folder: Path) -> None:
    said = [line.split() for line in text.splitlines() if line.startswith("  kinoml-data ")]
    spec = str(folder / "fingerprint.featurize-on-access.yaml")
    assert ["kinoml-data", "validate", spec] in said
    assert ["kinoml-data", "convert", spec, "YOUR.npz"] in said
    for words in (
        ["validate", spec],
        ["convert", spec, str(folder / "your.npz")],
        ["inspect", str(folder / "your.npz")],
    ):
        with pytest.raises(SystemExit) as done:
            cli.main(words)
        assert not done.value.code


def test_the_plot_is_a_picture(result: Result, folder: Path) -> None:
    data = (folder / "predicted.png").read_bytes()
    assert data.startswith(b"\x89PNG") and len(data) > 10_000


def test_a_second_run_replaces_the_first_and_finds_the_same(result: Result, folder: Path) -> None:
    (folder / "fingerprint.npz").write_bytes(b"damaged")
    again = demo.run(folder, Console(quiet=True))
    assert (again.rmse, again.r2, again.baseline) == (result.rmse, result.r2, result.baseline)
