"""What the command prints with, on a terminal and elsewhere."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

import kinoml_data as kd
from kinoml_data.cli import terminal
from kinoml_data.errors import SpecError


def test_tables_wrap_on_a_terminal(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    monkeypatch.setenv("FORCE_COLOR", "1")
    monkeypatch.setenv("COLUMNS", "30")
    table = terminal.table("a", "b")
    table.add_row("word" * 10, "other " * 10)
    terminal.show(terminal.screen(), table)
    out = capsys.readouterr().out
    assert out.count("word") + out.count("wor") >= 10 and "…" not in out


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> list[float]:
    """The only entry is the time, which the test sets."""
    now = [0.0]
    monkeypatch.setattr(terminal.time, "monotonic", lambda: now[0])
    return now


def test_progress_without_a_terminal_is_printed_as_lines(
    clock: list[float], capsys: pytest.CaptureFixture[str]
) -> None:
    with terminal.progress("copying") as report:
        for seconds, done in ((1.0, 10), (11.0, 1_500), (12.0, 2_000)):
            clock[0] = seconds
            report(done, 3_000)
        clock[0] = 25.0
        report(3_000, 3_000, "comparing")
    captured = capsys.readouterr()
    assert captured.out == ""
    assert captured.err.splitlines() == [
        "kinoml-data: copying, 1,500 of 3,000, 150/s",
        "kinoml-data: comparing, 3,000 of 3,000",
    ]


@pytest.mark.usefixtures("clock", "capsys")
def test_progress_is_also_appended_to_a_log(tmp_path: Path) -> None:
    for _ in range(2):
        with terminal.progress("copying", tmp_path / "log.txt") as report:
            report(5, 10)
            report(10, 10)
    lines = (tmp_path / "log.txt").read_text().splitlines()
    assert [line[20:] for line in lines] == ["copying, 10 of 10"] * 2


@pytest.mark.parametrize(
    ("text", "setting"),
    [
        ("collate=pad", ("collate", "pad")),
        ("storage.memory_budget=10", ("storage.memory_budget", 10)),
        ("splits={train: {range: [0, 2]}}", ("splits", {"train": {"range": [0, 2]}})),
    ],
)
def test_a_setting_is_a_key_and_a_value_in_yaml(text: str, setting: tuple[str, object]) -> None:
    assert terminal.parse_setting(text) == setting


@pytest.mark.parametrize("text", ["collate", "=pad", "storage.=x", ".a=1"])
def test_a_setting_of_another_form_is_an_error(text: str) -> None:
    with pytest.raises(SpecError, match="write KEY=VALUE"):
        terminal.parse_setting(text)


def test_a_setting_below_a_value_is_an_error(tmp_path) -> None:
    np.savez(tmp_path / "x.npz", X=np.zeros((3, 2)), y=np.zeros(3))
    with kd.load_dataset(tmp_path / "x.npz") as dataset:
        dataset.spec.to_file(tmp_path / "x.yaml")
    with (
        pytest.raises(SpecError, match="which has no keys"),
        terminal.specs(str(tmp_path / "x.yaml"), settings=["X.y=1"])[""].dataset("x", loads=False),
    ):
        pass
