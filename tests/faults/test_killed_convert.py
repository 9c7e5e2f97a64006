"""`convert` that is killed, reduced; and that the proof would notice a result that differs."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.faults import killed_convert


def test_a_convert_that_was_killed_continues_where_it_was(request: pytest.FixtureRequest) -> None:
    killed_convert.run(cases=3 if request.config.getoption("--all") else 1, seed=1).check()


@pytest.mark.slow
def test_without_a_cache_the_proof_finds_that_inputs_are_computed_again(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(killed_convert, "_remembered", lambda place: set(map(bytes, range(killed_convert.INPUTS))))
    assert any("computed again" in problem for problem in killed_convert.run(cases=2).problems)


@pytest.mark.slow
def test_the_proof_finds_a_result_that_differs(monkeypatch: pytest.MonkeyPatch) -> None:
    expected = killed_convert._expected

    def other(folder: Path) -> bytes:
        return expected(folder)[:-1] + b"?"

    monkeypatch.setattr(killed_convert, "_expected", other)
    (problem,) = killed_convert.run(cases=1).problems
    assert "the second run differs: 0," in problem or "the target is there, but not complete" in problem
