"""Damaged specs and twins, reduced; and that the proofs would notice."""

from __future__ import annotations

from typing import Any

import pytest

from kinoml_data.errors import SpecError
from kinoml_data.spec import config
from tests.faults import spec_mutants, twins


def test_damaged_specs_are_refused_or_valid(scaled):
    # Machines that run many jobs are several times slower: the full run holds the limit of 50 ms, this one finds hangs.
    spec_mutants.run(cases=scaled(6000), seed=1, milliseconds=500).check()


def test_twin_specs_in_three_formats_are_read_alike(scaled):
    twins.run(cases=scaled(500), seed=1).check()


# -- canaries


@pytest.mark.slow
def test_a_reader_that_lets_other_errors_through_is_noticed(monkeypatch):
    monkeypatch.setattr(config, "check_plain", lambda value: [key.strip() for key in value["storage"]])
    assert spec_mutants.run(cases=400).problems


@pytest.mark.slow
def test_a_slow_reader_of_specs_is_noticed():
    assert spec_mutants.run(cases=200, milliseconds=0.05).problems


@pytest.mark.slow
def test_a_reader_of_yaml_1_1_is_noticed(monkeypatch):
    import yaml

    def old(text: str) -> Any:
        try:
            return yaml.safe_load(text)
        except yaml.YAMLError as error:
            raise SpecError(str(error)[:100]) from None

    real = config.parse
    as_before = config._yaml
    try:
        config._yaml = old  # type: ignore[assignment]
        assert real(b"a: 1e-3", ".yaml") == {"a": "1e-3"}
        report = spec_mutants.run(cases=3000)
    finally:
        config._yaml = as_before  # type: ignore[assignment]
    assert report.problems
