"""The conformance suite fails every backend that breaks the contract, each in one way of its own."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections import defaultdict
from pathlib import Path

import pytest

BROKEN = Path(__file__).parent / "broken_backends.py"


@pytest.fixture(scope="module")
def outcome(tmp_path_factory: pytest.TempPathFactory) -> dict[str, dict[str, list[str]]]:
    """By class, the names of the tests that passed and failed; a class is left at its first failure."""
    report = tmp_path_factory.mktemp("broken") / "report.json"
    command = [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", "--tb=no", str(BROKEN)]
    environment = {**os.environ, "BROKEN_BACKENDS_REPORT": str(report)}
    done = subprocess.run(command, capture_output=True, text=True, timeout=500, env=environment, cwd=BROKEN.parent)
    assert report.exists(), done.stdout + done.stderr
    found: dict[str, dict[str, list[str]]] = defaultdict(lambda: {"passed": [], "failed": []})
    for name, test, state in json.loads(report.read_text()):
        found[name][state].append(test)
    return found


def test_the_backend_that_they_are_made_from_passes(outcome):
    assert not outcome["TestSound"]["failed"] and len(outcome["TestSound"]["passed"]) > 100


def test_at_least_thirty_are_tried(outcome):
    assert len(outcome) - 1 >= 30


def test_each_of_them_fails(outcome):
    assert not [name for name, found in outcome.items() if name != "TestSound" and not found["failed"]]
