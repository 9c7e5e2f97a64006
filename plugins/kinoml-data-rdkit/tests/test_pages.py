"""The pages of the manual whose code needs this plugin: the guide for chemists, and the study on MoleculeACE."""

from __future__ import annotations

import importlib.util
import re
import sys
from collections.abc import Iterator
from pathlib import Path
from types import ModuleType
from typing import Any

import kinoml_data as kd
import pytest
import torch
from kinoml_data.errors import SplitError

DOCS = Path(__file__).parents[3] / "docs"
STUDY = Path(__file__).parents[1] / "examples" / "moleculeace.py"
pytestmark = pytest.mark.skipif(not DOCS.exists(), reason="the manual is only in the repository")


@pytest.fixture(autouse=True)
def one_thread() -> Iterator[None]:
    """Networks this small gain nothing from more threads, and lose a lot on a busy machine."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    with torch.random.fork_rng(devices=[]):
        yield
    torch.set_num_threads(threads)


def module_of(path: Path) -> ModuleType:
    spec = importlib.util.spec_from_file_location(path.stem, path)
    assert spec and spec.loader
    module = importlib.util.module_from_spec(spec)
    sys.modules[spec.name] = module  # for its dataclass
    spec.loader.exec_module(module)
    return module


def test_the_code_of_the_guide_runs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    names: dict[str, Any] = {}
    module_of(DOCS.parent / "tests" / "pages.py").run(DOCS / "guide.md", names)
    assert Path("failed.csv").read_text("utf-8").count("broken") == 1
    assert names["dataset"].check_splits(["scaffold", "id", "X"]).shared == ()
    assert names["rmse"] < 0.8
    assert names["OneAssay"](names["dataset"].fold(0)["train"])(names["X"]).shape == (3,)  # the rows of wide.csv
    assert len(Path("predictions.csv").read_text("utf-8").splitlines()) == 1 + len(names["dataset"].split("test"))


def test_the_picture_of_the_readme_can_be_drawn(tmp_path: Path) -> None:
    pytest.importorskip("matplotlib", reason="the picture is drawn with matplotlib")
    picture = tmp_path / "picture.png"
    assert module_of(STUDY.with_name("batch_and_predictions.py")).main(picture, epochs=3) < 1.5
    assert picture.read_bytes().startswith(b"\x89PNG")


# -- the study


@pytest.fixture(scope="module")
def study() -> ModuleType:
    return module_of(STUDY)


@pytest.fixture(scope="module")
def benchmark(study: ModuleType) -> Path:
    folder: Path | None = study.benchmark_folder()
    if folder is None:
        pytest.skip("MoleculeACE is not installed: pip install --no-deps MoleculeACE==3.0.0")
    return folder


def test_the_study_compares_models_with_the_function_of_the_manual() -> None:
    (function,) = re.findall(
        r"^def paired_bootstrap.*?(?=^```)", (DOCS / "predictions.md").read_text("utf-8"), re.MULTILINE | re.DOTALL
    )
    assert function in STUDY.read_text("utf-8")


def test_the_published_split_of_moleculeace_has_molecules_in_train_and_test(
    study: ModuleType, benchmark: Path, tmp_path: Path
) -> None:
    study.merge(benchmark, tmp_path / "all.csv")
    spec = {
        "X": "pActivity",
        "meta": ["smiles"],
        "storage": {"backend": "csv", "path": str(tmp_path / "all.csv")},
        "splits": {"labels": {"column": "subset"}},
    }
    dataset = kd.load_dataset(spec)
    (shared,) = dataset.check_splits(["smiles"]).shared
    assert (len(dataset), len(set(dataset.column("smiles"))), shared.values) == (48_714, 35_633, 3_545)
    X, _ = dataset[:]
    assert X.min() > 2 and X.max() < 12  # -log10 of mol/L
    with pytest.raises(SplitError, match="smiles"):
        kd.load_dataset(spec | {"splits": {"labels": {"column": "subset"}, "apart": ["smiles"]}})


def test_the_study_runs(study: ModuleType, benchmark: Path, tmp_path: Path) -> None:
    pytest.importorskip("matplotlib", reason="the study draws with matplotlib")
    sets = ["CHEMBL2047_EC50", "CHEMBL2835_Ki", "CHEMBL2971_Ki"]
    rows = study.main(tmp_path, benchmark, sets, epochs=2)
    assert [row["split"] for row in rows] == list(study.SPLITS)
    known = [float(row["known"].removesuffix(" %")) for row in rows]
    assert known[0] > 20 and known[2] > 20 and known[1] == known[3] == known[4] == 0
    numbers = [float(row[f"R2 {model}"]) for row in rows for model in study.LAYERS]
    assert all(0 < number < 1 for number in numbers), rows
    assert len((tmp_path / "results.csv").read_text("utf-8").splitlines()) == 6
    assert (tmp_path / "leak.png").read_bytes().startswith(b"\x89PNG")
