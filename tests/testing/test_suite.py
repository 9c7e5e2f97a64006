"""The conformance suites pass what is sound and fail what is broken, each by the rule that it breaks."""

from __future__ import annotations

import os
import subprocess
import sys
import xml.etree.ElementTree as ElementTree
from collections import Counter
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from kinoml_data.testing import BackendTests, FeaturizerTests
from tests.builders import FORK_OR_SPAWN
from tests.testing import broken_featurizers
from tests.testing.sound import Sound

HERE = Path(__file__).parent
ROOT = HERE.parents[1]


class TestSound(BackendTests):
    def make_backend(self, folder):
        return Sound(path=folder / "data")

    @FORK_OR_SPAWN
    def test_workers_read_what_was_stored(self, shared, method):
        super().test_workers_read_what_was_stored(shared, method)


class TestSoundFeaturizer(FeaturizerTests):
    featurizers = (broken_featurizers.Sound(), broken_featurizers.Sound(scale=2.0), broken_featurizers.Text())
    data = broken_featurizers.data()


def test_every_rule_for_featurizers_is_broken_by_one() -> None:
    rules = {name for name in dir(FeaturizerTests) if name.startswith("test_")}
    assert {cls.rule for cls in broken_featurizers.BROKEN.values()} == rules


@pytest.mark.parametrize("lacking", [{"featurizers": ()}, {"data": {}}, {"data": {"text": ["C"]}}])
def test_a_suite_without_featurizers_or_rows_is_an_error(lacking: dict[str, Any]) -> None:
    defined = {"featurizers": (broken_featurizers.Sound(),), "data": broken_featurizers.data()}
    suite = type("Empty", (FeaturizerTests,), defined | lacking)
    with pytest.raises(TypeError, match="Empty must define `featurizers`, and `data`"):
        suite().pytest_generate_tests(SimpleNamespace(fixturenames=()))


def test_whatever_is_broken_fails_the_rule_that_it_breaks(request: pytest.FixtureRequest, tmp_path: Path) -> None:
    report = tmp_path / "report.xml"
    options = ["-q", "-p", "no:cacheprovider", "-p", "no:xdist", "-o", "addopts=--import-mode=importlib", "--tb=no"]
    options += [] if request.config.getoption("--all") else ["-k", "not spawn"]  # which starts slowly
    files = [str(HERE / f"broken_{kind}.py") for kind in ("storages", "backends", "featurizers")]
    command = [sys.executable, "-m", "pytest", *options, f"--junitxml={report}", *files]
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join([str(ROOT), os.environ.get("PYTHONPATH", "")])}
    run = subprocess.run(command, capture_output=True, text=True, timeout=500, env=environment, cwd=ROOT)
    assert report.exists(), run.stdout + run.stderr
    tests, failures = Counter[str](), Counter[str]()
    for case in ElementTree.parse(report).iter("testcase"):
        backend = case.attrib["classname"].rpartition(".")[2]
        tests[backend] += 1
        failures[backend] += case.find("failure") is not None
    assert len(tests) >= 136
    assert [backend for backend in tests if not failures[backend]] == []
