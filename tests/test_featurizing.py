"""`convert` with rows that fail, and with features that other processes compute."""

from __future__ import annotations

import csv
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

import kinoml_data as kd
from kinoml_data.errors import FeaturizationError, SpecError, StoreWriteError
from tests import slow_features
from tests.slow_features import ROWS, SMILES, table, values

pytestmark = pytest.mark.usefixtures("small_batches")


@pytest.mark.parametrize("suffix", [".npz", ".parquet"])
@given(data=st.data())
def test_any_rows_of_any_view_are_copied_with_their_values(
    tmp_path_factory: pytest.TempPathFactory, suffix: str, data: st.DataObject
) -> None:
    folder = tmp_path_factory.mktemp("x")
    smiles = data.draw(st.lists(st.sampled_from(["", "C", "CC", "C!", "O!"]), min_size=1, max_size=30))
    proteins = data.draw(st.lists(st.sampled_from(["P", "PK", "K!"]), min_size=len(smiles), max_size=len(smiles)))
    smiles = [text or "N" for text in smiles]
    kept = [i for i, pair in enumerate(zip(smiles, proteins, strict=True)) if "!" not in "".join(pair)]
    if not kept:
        with pytest.raises(FeaturizationError, match="rows failed"):
            kd.convert(table(folder, smiles, proteins), folder / f"x{suffix}", failed=folder / "failed.csv")
        return
    kd.convert(table(folder, smiles, proteins), folder / f"x{suffix}", failed=folder / "failed.csv")
    with kd.load_dataset(folder / f"x{suffix}") as copy:
        assert copy.column("id") == [f"r{i}" for i in kept] and len(copy) == len(kept)
        for name, texts in (("ligand", smiles), ("kinase", proteins)):
            assert [row.tolist() for row in copy.column(name)] == [[ord(c) for c in texts[i]] for i in kept]
        for split, rest in (("train", 0), ("test", 1)):
            assert copy.indices[split].tolist() == [place for place, i in enumerate(kept) if i % 2 == rest]
    with (folder / "failed.csv").open(newline="") as file:
        header, *lines = csv.reader(file)
    assert header == ["row", "id", "stage", "reason"]
    assert [(int(row), text) for row, text, *_ in lines] == [(i, f"r{i}") for i in range(len(smiles)) if i not in kept]
    assert all(stage == "featurize" and "is not a molecule" in reason for *_, stage, reason in lines)


# -- rows that fail


def test_without_a_file_for_failures_the_first_one_is_an_error_with_row_id_and_reason(tmp_path: Path) -> None:
    spec = table(tmp_path, [*SMILES[:20], "C!", *SMILES[20:40], "O!"])
    for options in ({}, {"executor": ThreadPoolExecutor(2)}):
        with pytest.raises(FeaturizationError, match=r"row 20: .*C! is not a molecule \(id 'r20'\)"):
            kd.convert(spec, tmp_path / "x.npz", **options)
    assert [path.name for path in tmp_path.iterdir()] == ["t.csv"]


def test_rows_that_fail_are_left_out_of_a_joined_table_in_memory_too(tmp_path: Path) -> None:
    texts = ["C", "C!", "O", "O!"]
    (tmp_path / "ligands.csv").write_text("\n".join(["smiles", *texts]) + "\n")
    (tmp_path / "thin.csv").write_text("id,ligand,y\n" + "".join(f"r{i},{texts[i % 4]},{i}\n" for i in range(ROWS)))
    featurizer = {"name": "letters", "inputs": ["smiles"]}
    ligands = {"backend": "csv", "path": str(tmp_path / "ligands.csv")}
    ligands = {"backend": "featurize-on-access", "source": ligands, "featurizer": featurizer}
    thin = {"backend": "csv", "path": str(tmp_path / "thin.csv")}
    ligands = {"backend": "in-memory", "source": ligands}
    tables = {"ligand": {"source": ligands, "key": "smiles", "columns": {"X": "letters"}}}
    joined = {"backend": "joined", "source": thin, "tables": tables}
    spec = {"storage": {"backend": "in-memory", "source": joined}, "X": "X", "y": "y", "meta": ["id"]}
    slow_features.called.clear()
    kd.convert(spec, tmp_path / "x.npz", failed=tmp_path / "failed.csv")
    assert sorted(set(slow_features.called)) == texts and slow_features.called.count("C") == 1
    assert values(tmp_path / "x.npz", "X") == [[[ord("C")], [ord("O")]][i % 2] for i in range(ROWS // 2)]
    lines = (tmp_path / "failed.csv").read_text().splitlines()
    assert (
        lines[1] == "1,r1,featurize,featurizer 'letters': ValueError: C! is not a molecule"
        and len(lines) == 1 + ROWS // 2
    )


def test_no_failures_are_a_file_with_only_its_header(tmp_path: Path) -> None:
    (tmp_path / "failed.csv").write_text("old")
    kd.convert(kd.from_arrays(np.zeros(3)), tmp_path / "x.npz", failed=tmp_path / "failed.csv")
    assert (tmp_path / "failed.csv").read_text() == "row,id,stage,reason\n"
    with pytest.raises(StoreWriteError, match="there is no folder"):
        kd.convert(kd.from_arrays(np.zeros(3)), tmp_path / "y.npz", failed=tmp_path / "none" / "failed.csv")
    assert not (tmp_path / "y.npz").exists()


@pytest.mark.parametrize("suffix", [".npz", ".parquet"])
@pytest.mark.parametrize(
    ("splits", "columns"),
    [
        ({"folds": 3, "ratios": {"test": 0.2}, "by": "ligand", "seed": 1}, ["smiles"]),
        ({"ratios": {"train": 0.6, "test": 0.4}, "by": ["ligand", "kinase"]}, ["smiles", "proteins"]),
        ({"labels": {"test": {"range": [0, 9]}}, "ratios": {"train": 0.5, "val": 0.5}, "by": "kinase"}, ["proteins"]),
    ],
)
def test_splits_made_from_features_are_those_of_the_rows_that_have_these_features(
    tmp_path: Path, splits: Any, columns: list[str], suffix: str
) -> None:
    rng = np.random.default_rng(0)
    texts = {
        name: [letters[i] for i in rng.integers(0, 5, 60)]
        for name, letters in (("smiles", "CNOFB"), ("proteins", "PKAGL"))
    }
    for row in (20, 21, 51):
        texts["smiles"][row] += "!"
    texts["proteins"][40] += "!"
    texts["proteins"][:9] = ["X"] * 9
    spec = table(tmp_path, **texts, splits=splits)
    with pytest.raises(FeaturizationError, match="is not a molecule"):
        kd.load_dataset(spec)
    kd.convert(spec, tmp_path / f"x{suffix}", failed=tmp_path / "failed.csv")
    failed = [int(line.split(",")[0]) for line in (tmp_path / "failed.csv").read_text().splitlines()[1:]]
    assert failed == [20, 21, 40, 51]

    labelled = [i for i in range(60) if not any("!" in texts[name][i] for name in columns)]
    (tmp_path / "rest").mkdir()
    rest = {name: [texts[name][i].removesuffix("!") for i in labelled] for name in texts}
    with (
        kd.load_dataset(table(tmp_path / "rest", **rest, splits=splits)) as expected,
        kd.load_dataset(tmp_path / f"x{suffix}") as copy,
    ):
        assert {*expected.indices} == {*copy.indices}
        for name, rows in expected.indices.items():
            kept = [i for i in (labelled[row] for row in rows) if i not in failed]
            assert [int(text[1:]) for text in copy.split(name).column("id")] == kept and kept


# -- other processes


def test_other_processes_give_the_same_bytes_and_failures(tmp_path: Path) -> None:
    smiles = [f"{'CNO'[i % 3]}{'!' if i % 31 == 0 else ''}{i % 90}" for i in range(200)]
    spec, results = table(tmp_path, smiles, [f"P{i % 5}" for i in range(200)]), []
    for options in ({}, {"workers": 2}, {"executor": ThreadPoolExecutor(3)}):
        kd.convert(spec, tmp_path / "x.npz", failed=tmp_path / "failed.csv", overwrite=True, **options)
        results.append([(tmp_path / name).read_bytes() for name in ("x.npz", "failed.csv")])
    assert results[0] == results[1] == results[2]


def test_a_process_that_crashes_is_an_error_and_nothing_is_written(tmp_path: Path) -> None:
    with pytest.raises(FeaturizationError, match="a process ended while it featurized"):
        kd.convert(table(tmp_path, [*SMILES, "C?"]), tmp_path / "x.npz", workers=1)
    assert [path.name for path in tmp_path.iterdir()] == ["t.csv"]


def test_arguments_that_do_not_fit_are_refused(tmp_path: Path) -> None:
    source = kd.from_arrays(np.zeros(3))
    with pytest.raises(SpecError, match="either workers or an executor"):
        kd.convert(source, tmp_path / "x.npz", workers=1, executor=ThreadPoolExecutor(1))
    with pytest.raises(SpecError, match="must be at least 0"):
        kd.convert(source, tmp_path / "x.npz", workers=-1)
    columns = {"f": {"dtype": "float32"}}
    spec = {"columns": columns, "X": "f", "storage": {"backend": "featurize-on-access"}}
    with (
        kd.load_dataset(spec, data={"v": [1.0]}, featurizer=lambda value: np.float32(value)) as dataset,
        pytest.raises(SpecError, match="cannot be sent to another process"),
    ):
        kd.convert(dataset, tmp_path / "x.npz", workers=1)
    assert list(tmp_path.iterdir()) == []


# -- the end of processes


def is_running(pid: int) -> bool:
    """Whether a process exists and is not a zombie."""
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except OSError:
        return False


def wait_until(condition: Callable[[], bool]) -> None:
    deadline = time.monotonic() + 120
    while not condition():
        assert time.monotonic() < deadline
        time.sleep(0.02)


FOREVER = """
import os, signal, sys, time
from kinoml_data.featurizing import executor_of
def forever(folder):
    open(os.path.join(folder, str(os.getpid())), "w").close()
    time.sleep(3600)
if __name__ == "__main__":
    signal.signal(signal.SIGINT, signal.default_int_handler)  # a program in the background may have to ignore it
    with executor_of(2, None) as pool:
        tasks = [pool.submit(forever, sys.argv[1]) for _ in range(2)]
        tasks[0].result()
"""


@pytest.mark.skipif(not Path("/proc/self/stat").exists(), reason="looks for processes in /proc")
@pytest.mark.parametrize(
    "number",
    [
        signal.SIGKILL,
        pytest.param(signal.SIGTERM, marks=pytest.mark.slow),
        pytest.param(signal.SIGINT, marks=pytest.mark.slow),
    ],
)
def test_processes_end_in_the_middle_of_a_task_with_the_one_that_started_them(tmp_path: Path, number: int) -> None:
    (tmp_path / "main.py").write_text(FOREVER)
    (tmp_path / "pids").mkdir()
    run = [sys.executable, str(tmp_path / "main.py"), str(tmp_path / "pids")]
    with (tmp_path / "stderr").open("wb") as stderr, subprocess.Popen(run, stderr=stderr) as process:
        try:
            wait_until(lambda: process.poll() is not None or len(list((tmp_path / "pids").iterdir())) == 2)
            assert process.poll() is None, (tmp_path / "stderr").read_text()
            process.send_signal(number)
            process.wait(120)
        finally:
            process.kill()
    pids = [int(path.name) for path in (tmp_path / "pids").iterdir()]
    wait_until(lambda: not any(map(is_running, pids)))
