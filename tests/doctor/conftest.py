"""A working directory, few rounds, and work in place of seconds."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.doctor.work import Work


@pytest.fixture(autouse=True)
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The working directory."""
    monkeypatch.chdir(tmp_path)
    return tmp_path


@pytest.fixture(autouse=True)
def rounds(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> None:
    """Only the test of seconds needs more than one round."""
    if not request.node.get_closest_marker("slow"):
        monkeypatch.setattr("kinoml_data.doctor.case.ROUNDS", 1)


@pytest.fixture
def work(monkeypatch: pytest.MonkeyPatch) -> Work:
    return Work(monkeypatch)
