"""`kinoml-data convert` with two workers and a cache, killed at random moments and run again. Full size: 30 kills.

The result is that of an undisturbed run, bit for bit, and no input is computed again that a worker had written into the
cache before the kill, which is all but those of the unfinished tasks.
"""

from __future__ import annotations

import json
import os
import random
import signal
import subprocess
import sys
import tempfile
import time
from contextlib import suppress
from pathlib import Path

import numpy as np

from kinoml_data.featurizing import CHUNK
from tests.faults.report import Report
from tests.slow_features import install_plugin

KILLS, INPUTS, SECONDS = 30, 3000, 0.001
WORKERS = 2


def run(cases: int | None = None, seed: int = 0) -> Report:
    """`cases` kills, each of a run with an empty cache."""
    kills = KILLS if cases is None else cases
    report = Report("killed_convert", seed, kills)
    start, rng = time.perf_counter(), random.Random(seed)
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        (folder / "site").mkdir()
        install_plugin(folder / "site")
        texts = [f"{'CNOF'[i % 4] * (i % 7)}{i}" for i in range(INPUTS)]
        rows = [f"r{i},{text},{i}" for i, text in enumerate([*texts, *texts[::-1]])]
        (folder / "t.csv").write_text("\n".join(["id,text,y", *rows]) + "\n")
        expected = _expected(folder)
        for number in range(kills):
            place = folder / str(number)
            place.mkdir()
            if problem := _killed_and_run_again(folder, place, rng, expected):
                report.problems.append(f"kill {number}: {problem}")
            report.executed += 1
    report.seconds = time.perf_counter() - start
    return report


def _expected(folder: Path) -> bytes:
    place = folder / "expected"
    place.mkdir()
    with _convert(folder, place) as process:
        code = process.wait()
    assert code == 0, (place / "out").read_text()[-500:]
    return (place / "x.npz").read_bytes()


def _convert(folder: Path, place: Path) -> subprocess.Popen[bytes]:
    """Start the command in a process group of its own."""
    featurizer = {"name": "letters", "inputs": ["text"], "seconds": SECONDS, "log": str(place / "log")}
    storage = {
        "backend": "featurize-on-access",
        "source": {"backend": "csv", "path": str(folder / "t.csv")},
        "featurizer": featurizer,
        "cache_path": str(place / "cache"),
    }
    spec = {"storage": storage, "X": ["letters"], "y": "y", "meta": ["id"]}
    (place / "spec.json").write_text(json.dumps(spec))
    path = os.pathsep.join([str(folder / "site"), str(Path(__file__).parents[2]), os.environ.get("PYTHONPATH", "")])
    command = [sys.executable, "-m", "kinoml_data", "convert", str(place / "spec.json"), str(place / "x.npz")]
    options = ["--workers", str(WORKERS), "--overwrite"]
    environment = {**os.environ, "PYTHONPATH": path, "KINOML_DATA_PLUGINS": "letters"}
    with (place / "out").open("ab") as out:
        return subprocess.Popen([*command, *options], env=environment, stdout=out, stderr=out, start_new_session=True)


def _killed_and_run_again(folder: Path, place: Path, rng: random.Random, expected: bytes) -> str | None:
    """What is wrong after a kill and a second run; None if nothing is."""
    moment, pause = rng.randrange(INPUTS + 1), rng.random() * 0.05
    with _convert(folder, place) as process:
        while len(_computed(place)) < moment and process.poll() is None:
            time.sleep(0.001)
        time.sleep(pause)
        with suppress(ProcessLookupError):  # it has ended
            os.killpg(process.pid, signal.SIGKILL)
        process.wait()
    if (place / "x.npz").exists() and (place / "x.npz").read_bytes() != expected:
        return "the target is there, but not complete"
    before, remembered = _computed(place), _remembered(place)
    if len(remembered) < len(before) - WORKERS * CHUNK:
        return f"only {len(remembered)} of {len(before)} inputs are in the cache"
    with _convert(folder, place) as process:
        code = process.wait()
    if code or (place / "x.npz").read_bytes() != expected:
        return f"the second run differs: {code}, {(place / 'out').read_text()[-500:]}"
    again = _computed(place)[len(before) :]
    if len(again) != INPUTS - len(remembered) or len(set(again)) != len(again):
        return f"{len(again)} inputs were computed again, although {len(remembered)} were in the cache"
    return None


def _computed(place: Path) -> list[str]:
    log = place / "log"
    return log.read_text().splitlines() if log.exists() else []


def _remembered(place: Path) -> set[bytes]:
    """The digests of the inputs in the cache."""

    digests: set[bytes] = set()
    for part in (place / "cache").glob("*/part-*.npz"):
        with np.load(part) as arrays:
            digests |= {row.tobytes() for row in arrays["digest"]}
    return digests
