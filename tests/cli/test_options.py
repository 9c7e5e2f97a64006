"""Arguments and options that several commands have."""

from __future__ import annotations

import pytest

from tests.cli.conftest import Run


@pytest.mark.parametrize("command", ["inspect", "check", "splits", "doctor", "convert"])
def test_a_command_that_opens_a_spec_can_set_its_values_and_name_one_of_several_datasets(
    run: Run, command: str
) -> None:
    done = run(command, "--help")
    assert "--set" in done.out and "--dataset" in done.out
