"""A fork server that starts workers quickly."""

from __future__ import annotations

import multiprocessing

import pytest


@pytest.fixture(scope="session", autouse=True)
def _quick_forkserver() -> None:
    """Children of the fork server share one import of torch and of the library."""
    multiprocessing.set_forkserver_preload(
        ["torch", "kinoml_data.factory", "kinoml_data.backends.npz.backend", "kinoml_data.backends.parquet.backend"]
    )
