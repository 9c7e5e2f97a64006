"""The conformance suite passes a sound backend and fails every broken one, each by the rule that it breaks."""

from __future__ import annotations

import os
import subprocess
import sys
import xml.etree.ElementTree as ElementTree
from collections import Counter
from pathlib import Path

import pytest

from kinoml_data.testing import BackendTests
from tests.builders import FORK_OR_SPAWN
from tests.testing.sound import Sound

HERE = Path(__file__).parent
ROOT = HERE.parents[1]


class TestSound(BackendTests):
    def make_backend(self, folder):
        return Sound(path=folder / "data")

    @FORK_OR_SPAWN
    def test_workers_read_what_was_stored(self, shared, method):
        super().test_workers_read_what_was_stored(shared, method)


def test_every_broken_backend_fails_the_rule_that_it_breaks(request: pytest.FixtureRequest, tmp_path: Path) -> None:
    report = tmp_path / "report.xml"
    options = ["-q", "-p", "no:cacheprovider", "-p", "no:xdist", "-o", "addopts=--import-mode=importlib", "--tb=no"]
    options += [] if request.config.getoption("--all") else ["-k", "not spawn"]  # which starts slowly
    files = [str(HERE / "broken_storages.py"), str(HERE / "broken_backends.py")]
    command = [sys.executable, "-m", "pytest", *options, f"--junitxml={report}", *files]
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join([str(ROOT), os.environ.get("PYTHONPATH", "")])}
    run = subprocess.run(command, capture_output=True, text=True, timeout=500, env=environment, cwd=ROOT)
    assert report.exists(), run.stdout + run.stderr
    tests, failures = Counter[str](), Counter[str]()
    for case in ElementTree.parse(report).iter("testcase"):
        backend = case.attrib["classname"].rpartition(".")[2]
        tests[backend] += 1
        failures[backend] += case.find("failure") is not None
    assert len(tests) >= 110
    assert [backend for backend in tests if not failures[backend]] == []
