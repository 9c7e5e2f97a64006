"""How many cases of each proof run: a tenth by default, all of them with `--all`."""

from __future__ import annotations

from collections.abc import Callable

import pytest


@pytest.fixture
def scaled(request: pytest.FixtureRequest) -> Callable[[int], int]:
    """Takes the number of cases for `--all`; returns the number to run."""
    return lambda count: count if request.config.getoption("--all") else count // 10


@pytest.fixture
def jobs(request: pytest.FixtureRequest) -> int:
    """The number of processes of a proof whose processes take longer to start than a few cases take."""
    return 2 if request.config.getoption("--all") else 1
