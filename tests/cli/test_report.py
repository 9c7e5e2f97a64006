"""The command `kinoml-data report`."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

import kinoml_data as kd
from kinoml_data.report import figures
from tests.cli.conftest import Run
from tests.report.pages import Page, mixed


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    kd.convert(mixed(), tmp_path / "d.npz")
    np.savez(tmp_path / "a.npz", X=np.zeros((5, 3)), y=np.arange(5.0))
    (tmp_path / "both.yaml").write_text("datasets:\n  one: {storage: {path: a.npz}}\n  two: {storage: {path: d.npz}}\n")
    return tmp_path


def test_the_command_writes_a_page_and_says_so(folder: Path, run: Run) -> None:
    out = folder / "page.html"
    result = run("report", folder / "d.npz", "-o", out)
    assert result.code == 0 and result.out.startswith(f"{out}: ") and " kB, written in " in result.out
    page = Page(out.read_text("utf-8").partition(">")[2])
    assert page.text.startswith("d.npz: report") and "atoms" in page.text and mixed().fingerprint() in page.text


def test_the_options_reach_the_page(folder: Path, run: Run) -> None:
    out = folder / "page.html"
    options = ("--sample", "2", "--no-fingerprint", "--set", "storage.backend=in-memory")
    assert run("report", folder / "d.npz", "-o", out, *options).code == 0
    text = Page(out.read_text("utf-8").partition(">")[2]).text
    assert "those of the first 2 rows" in text and mixed().fingerprint() not in text and "in-memory over" in text


def test_a_file_with_several_datasets_has_one_page(folder: Path, run: Run) -> None:
    out = folder / "page.html"
    assert run("report", folder / "both.yaml", "-o", out).code == 0
    text = Page(out.read_text("utf-8").partition(">")[2]).text
    assert "one XyDataset 5 rows" in text and "two XyDataset 6 rows" in text
    assert run("report", folder / "both.yaml", "-o", out, "--overwrite", "--dataset", "two").code == 0
    assert "one XyDataset" not in out.read_text("utf-8")


def test_a_file_is_never_replaced_without_overwrite(folder: Path, run: Run) -> None:
    out = folder / "page.html"
    out.write_text("mine")
    result = run("report", folder / "d.npz", "-o", out)
    assert result.code == 1 and "StoreExistsError" in result.err and "--overwrite" in result.err
    assert out.read_text() == "mine"


def test_a_table_with_a_value_that_cannot_be_read_has_a_page_that_says_so(folder: Path, run: Run) -> None:
    (folder / "t.csv").write_text("smiles,IC50,mw\nCCO,5,46\nCCC,,44\n")
    assert run("report", folder / "t.csv", "-o", folder / "page.html").code == 0
    html = (folder / "page.html").read_text("utf-8")
    text = Page(html.partition(">")[2]).text
    assert "IC50" in text and "row 1 (line 3)" in text and "missing: nan" in text and html.count("<svg") == 1
    spec = "storage: {backend: csv, path: t.csv, unknown: 1}\n"
    (folder / "t.yaml").write_text(spec)
    assert "unknown key" in run("report", folder / "t.yaml", "-o", folder / "other.html").err


def test_a_missing_dataset_leaves_the_old_page(folder: Path, run: Run) -> None:
    out = folder / "page.html"
    out.write_text("mine")
    result = run("report", folder / "none.npz", "-o", out, "--overwrite")
    assert result.code == 1 and "StoreNotFoundError" in result.err and out.read_text() == "mine"


def test_without_matplotlib_the_error_says_what_to_install(
    folder: Path, run: Run, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(figures, "find_spec", lambda name: None)
    result = run("report", folder / "d.npz", "-o", folder / "page.html")
    assert result.code == 1 and "PluginLoadError" in result.err
    assert 'a report needs matplotlib: pip install "kinoml-data[report]"' in result.err


def test_the_help_of_the_command_imports_neither_torch_nor_matplotlib() -> None:
    code = "import sys, kinoml_data.cli.main; assert not {'torch', 'matplotlib', 'rich.table'} & set(sys.modules)"
    subprocess.run([sys.executable, "-c", code], check=True, timeout=60)
