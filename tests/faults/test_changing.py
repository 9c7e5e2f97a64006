"""Stores that change while they are read, reduced; and that the proof would notice."""

from __future__ import annotations

import pytest

from kinoml_data.files import PositionedFile
from tests.faults import changing


def test_a_store_that_changes_while_it_is_read_is_an_error_or_stays_what_it_was(scaled):
    changing.run(cases=scaled(25), seed=1).check()


@pytest.mark.slow
def test_without_the_identity_check_versions_are_mixed(monkeypatch):
    monkeypatch.setattr(PositionedFile, "check", lambda self: None)
    monkeypatch.setattr(PositionedFile, "_compare", lambda self, found: None)
    assert changing.run(cases=10).problems
