from __future__ import annotations

from pathlib import Path

import pytest

from kinoml_data import memory


def test_the_memory_of_this_machine_is_a_plausible_number() -> None:
    assert 1 << 20 < memory.available_memory() < 1 << 50


def test_a_limit_of_the_control_group_counts(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    limit, used = tmp_path / "max", tmp_path / "current"
    used.write_text("1000000\n")
    monkeypatch.setattr(memory, "CGROUPS", ((str(limit), str(used)),))
    without = memory.available_memory()
    limit.write_text("3000000\n")
    assert memory.available_memory() == 2_000_000 < without
    limit.write_text("500000\n")
    assert memory.available_memory() == 0
    limit.write_text("max\n")
    assert memory.available_memory() > 2_000_000
