"""`kinoml-data demo` runs, learns something and leaves a folder that its reader can use."""

from __future__ import annotations

import contextlib
import csv
import io
import shlex
import subprocess
import sys
from pathlib import Path

import kinoml_data as kd
import pytest
import torch
from kinoml_data.errors import StoreExistsError

from kinoml_data_rdkit import chembl_demo, demo
from kinoml_data_rdkit.demo import Result

FEATURES = ("fingerprint", "smiles", "graph")
BACKENDS = ("featurize-on-access", "npz-lazy", "npz-reopen", "parquet-awkward", "in-memory")


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("demo") / "out"


@pytest.fixture(scope="module")
def run(folder: Path) -> tuple[Result, str]:
    """The demo's result and everything that it prints."""
    threads = torch.get_num_threads()
    with contextlib.redirect_stdout(io.StringIO()) as printed:
        result = demo.run(folder)
    assert torch.get_num_threads() == threads
    return result, printed.getvalue()


@pytest.fixture(scope="module")
def result(run: tuple[Result, str]) -> Result:
    return run[0]


@pytest.fixture(scope="module")
def text(run: tuple[Result, str]) -> str:
    return run[1]


def test_the_model_learns_something_in_time(result: Result) -> None:
    assert result.r2 > 0.5
    assert result.rmse < 0.7 * result.baseline
    assert result.seconds < 90


def test_every_spec_of_the_demo_loads_and_gives_the_same_tensors(result: Result) -> None:
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


def test_the_csv_contains_the_molecules_of_the_plugin(result: Result, folder: Path) -> None:
    with (folder / "molecules.csv").open(newline="") as file:
        rows = list(csv.DictReader(file))
    molecules = chembl_demo()
    assert [row["id"] for row in rows] == molecules["id"]
    assert [row["smiles"] for row in rows] == molecules["smiles"]
    assert [float(row["pIC50"]) for row in rows] == molecules["activity"]


def test_the_shapes_of_the_demo_are_those_of_molecules(result: Result) -> None:
    X, _ = kd.load_dataset(result.specs["smiles", "npz-lazy"])[:4]
    assert isinstance(X, torch.Tensor) and X.shape[:2] == (4, 53) and X.dtype == torch.float32
    X, _ = kd.load_dataset(result.specs["graph", "parquet-awkward"])[0]
    assert isinstance(X, dict) and list(X) == ["edge_index", "atoms"]
    assert int(X["edge_index"].max()) == len(X["atoms"]) - 1


def test_the_demo_prints_its_assumptions_and_results(text: str, result: Result) -> None:
    assert "ASSUMED" in text and "'Act'" in text
    assert f"RMSE {result.rmse:.2f}, R2 {result.r2:.2f}" in text
    assert text.count(" same") >= len(FEATURES) * len(BACKENDS)


def test_the_commands_that_the_demo_suggests_work(text: str, result: Result, folder: Path) -> None:
    suggested = [shlex.split(line) for line in text.splitlines()[-3:]]
    assert [words[:2] for words in suggested] == [["kinoml-data", name] for name in ("inspect", "splits", "convert")]
    for _, *words in suggested:
        subprocess.run([sys.executable, "-m", "kinoml_data", *words], check=True, timeout=120)
    with kd.load_dataset(folder / "copy.npz") as copy:
        assert len(copy) == 1017


def test_the_plot_of_the_demo_is_a_picture(result: Result, folder: Path) -> None:
    data = (folder / "predicted.png").read_bytes()
    assert data.startswith(b"\x89PNG") and len(data) > 10_000


def test_the_report_of_the_demo_shows_its_molecules_and_splits(result: Result, text: str, folder: Path) -> None:
    html = (folder / "report.html").read_text("utf-8")
    assert f"{folder / 'report.html'} shows what is in {folder / 'smiles.npz'}" in text
    assert "chembl-smiles" in html and all(size in html for size in ("train 813", "val 102", "test 102"))
    assert "12 of 1,017 different texts, from the least to the greatest pIC50." in html
    assert html.count('src="data:image/svg+xml;base64,') == 12


def test_a_second_run_of_the_demo_replaces_the_first_with_the_same_result(result: Result, folder: Path) -> None:
    (folder / "your.npz").write_bytes(b"of the user")
    again = demo.run(folder)
    assert (folder / "your.npz").read_bytes() == b"of the user"
    assert (again.rmse, again.r2, again.baseline) == (result.rmse, result.r2, result.baseline)


@pytest.mark.parametrize(
    "name", ["molecules.csv", "fingerprint.npz", "smiles.in-memory.yaml", "README.md", "predicted.png", "report.html"]
)
def test_a_file_that_was_changed_is_never_replaced(result: Result, folder: Path, name: str) -> None:
    before = {path.name: path.read_bytes() for path in folder.iterdir()}
    try:
        (folder / name).write_bytes(b"of the user")
        with pytest.raises(StoreExistsError, match=rf"{name} is not as the demo wrote it; move it.*--out FOLDER"):
            demo.run(folder)
        changed = {path.name for path in folder.iterdir() if before[path.name] != path.read_bytes()}
        assert changed == {name} and (folder / name).read_bytes() == b"of the user"
    finally:
        (folder / name).write_bytes(before[name])


def test_a_file_of_the_user_under_a_name_of_the_demo_is_never_replaced(tmp_path: Path) -> None:
    (tmp_path / ".written.json").write_text("{}")
    (tmp_path / "molecules.csv").write_text("id,smiles,pIC50\n")
    with pytest.raises(StoreExistsError, match=r"molecules\.csv is not as the demo wrote it"):
        demo.run(tmp_path)
    assert (tmp_path / "molecules.csv").read_text() == "id,smiles,pIC50\n"


def test_a_folder_with_something_else_is_left_alone(tmp_path: Path) -> None:
    (tmp_path / "README.md").write_text("# My thesis\n")
    file = tmp_path / "file"
    file.write_text("text")
    for out in (tmp_path, file):
        with pytest.raises(StoreExistsError, match="--out"):
            demo.run(out)
    assert {path.name for path in tmp_path.iterdir()} == {"README.md", "file"}
    assert (tmp_path / "README.md").read_text() == "# My thesis\n" and file.read_text() == "text"


@pytest.mark.parametrize("features", demo.SPECS)
def test_every_spec_of_the_demo_computes_the_columns_that_it_names(features: str, result: Result) -> None:
    spec = kd.DatasetSpec.from_file(result.specs[features, "featurize-on-access"])
    assert spec.storage.backend == "featurize-on-access"
    assert set(spec.columns or {}) == {*spec.X_names, "pIC50", "id", "smiles"}
