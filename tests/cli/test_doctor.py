"""The command `kinoml-data doctor`."""

from __future__ import annotations

import re
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

import kinoml_data as kd
from kinoml_data.doctor import time_findings
from tests.cli.conftest import Run
from tests.doctor.work import follow, ragged
from tests.slow_features import install_plugin


@pytest.fixture(autouse=True)
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The working directory. Only bytes are judged, as they do not depend on the machine."""
    for name in ("SECONDS_PER_BATCH", "SECONDS_TO_FIRST_BATCH"):
        monkeypatch.setattr(time_findings, name, 1e9)
    monkeypatch.chdir(tmp_path)
    return tmp_path


def bits(name: str, rows: int = 400) -> None:
    X = (np.random.default_rng(0).random((rows, 512)) < 0.3).astype(float)
    np.savez(name, X=X, y=np.arange(rows) * 1.5)


def test_each_advice_is_printed_with_its_gain_and_its_change(run: Run) -> None:
    bits("x.npz")
    done = run("doctor", "x.npz", "--seconds", "100")
    assert done.code == 0 and done.err == ""
    head, first, second = re.split(r"\n\n\d\. ", done.out)
    assert head.startswith("x.npz: 400 rows, 1.6 MB on disk; a batch of 128 rows takes ")
    assert re.match(
        r"bytes on disk: \d+\.\d times less\nColumn X contains only 0 and 1, but is stored as float64, in 1.6 MB", first
    )
    assert second.startswith("bytes of a batch: 2.0 times less\n")
    assert done.out.endswith("\n\nEach gain is that of one change alone: make one, and run the doctor again.\n")
    follow(first.partition("Run in Python:\n\n")[2])
    assert Path("x-smaller.npz").stat().st_size < 50_000
    assert "1. bytes on disk" not in run("doctor", "x-smaller.npz", "--seconds", "100").out


def test_the_manual_shows_what_is_printed(run: Run) -> None:
    """Apart from times, which depend on the machine."""
    page = (Path(__file__).parents[2] / "docs" / "doctor.md").read_text("utf-8")
    python, text = (
        re.findall(rf"^```{kind}\n(.*?)^```$", page, re.MULTILINE | re.DOTALL)[0] for kind in ("python", "text")
    )
    follow(python)
    printed = run("doctor", "screen.npz", "--seconds", "100").out
    assert re.sub(r"[\d.]+ ms", "(time)", printed) == re.sub(r"[\d.]+ ms", "(time)", text)


def test_it_says_so_if_nothing_is_worth_changing_or_there_are_no_rows(run: Run) -> None:
    kd.save_dataset(kd.from_arrays(ragged(0, 50, 2, 3), np.arange(50.0)), "x.npz")
    assert run("doctor", "x.npz").out.splitlines()[-1] == "Nothing is worth changing."
    np.savez("empty.npz", X=np.zeros((0, 3)), y=np.zeros(0))
    assert run("doctor", "empty.npz").out == "empty.npz: 0 rows, 490 B on disk; there is nothing to measure\n"


# The test counts how often the warning is printed.
@pytest.mark.filterwarnings("always:.*integrity is unknown")
def test_a_warning_is_printed_once_although_the_dataset_is_opened_twice(run: Run) -> None:
    pq.write_table(pa.table({"X": [1.0, 2.0], "y": [3.0, 4.0]}), "foreign.parquet")
    done = run("doctor", "foreign.parquet", "--seconds", "100")
    (line,) = done.err.splitlines()
    assert done.code == 0 and "integrity is unknown" in line


def test_a_sample_is_said_to_be_one(run: Run) -> None:
    bits("x.npz")
    done = run("doctor", "x.npz", "--seconds", "0")
    assert "Figures are those of a sample of 3 rows." in done.out and "a batch of 3 rows takes" in done.out


def test_it_examines_each_of_several_datasets_or_one(run: Run) -> None:
    bits("a.npz")
    kd.save_dataset(kd.from_arrays(ragged(0, 50, 2, 3), np.arange(50.0)), "b.npz")
    Path("all.yaml").write_text("X: X\ny: y\ndatasets: {a: {storage: {path: a.npz}}, b: {storage: {path: b.npz}}}\n")
    both, one = run("doctor", "all.yaml"), run("doctor", "all.yaml", "--dataset", "b")
    assert both.out.startswith("a: 400 rows") and "\n\nb: 50 rows" in both.out
    assert "kd.load_datasets('all.yaml')['a']" in both.out and "a: 400 rows" not in one.out


def test_values_of_the_spec_can_be_set(run: Run) -> None:
    bits("x.npz")
    done = run("doctor", "x.npz", "--set", "storage.backend=in-memory", "--batch-size", "64", "--seconds", "100")
    assert done.code == 0 and "a batch of 64 rows takes" in done.out and "'backend': 'in-memory'" in done.out


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["none.npz"], "none.npz'"),
        (["x.npz", "--set", "storage.backend=in-memry"], "unknown backend 'in-memry'"),
        (["x.npz", "--dataset", "a"], "describes a single dataset"),
    ],
)
def test_what_cannot_be_opened_is_an_error(run: Run, arguments: list[str], message: str) -> None:
    bits("x.npz")
    done = run("doctor", *arguments)
    assert done.code == 1 and done.out == "" and message in done.err


def test_a_row_that_cannot_be_featurized_is_an_error_that_says_how_to_go_on(run: Run, site: Path) -> None:
    install_plugin(site)
    Path("t.csv").write_text("smiles,pIC50\nCCO,5\nN!,6\n")
    Path("t.yaml").write_text(
        "{X: letters, y: pIC50, storage: {backend: featurize-on-access, source: {backend: csv, path: t.csv}, "
        "featurizer: {name: letters, inputs: [smiles]}}}"
    )
    done = run("doctor", "t.yaml")
    assert done.code == 1 and "row 1: ValueError: N! is not a molecule" in done.err
    way = "`kinoml-data verify t.yaml` lists every row that cannot be read, and `kinoml-data convert t.yaml FILE"
    assert way in done.err
