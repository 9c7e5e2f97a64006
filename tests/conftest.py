"""The option `--all`, and several processes for a run of the whole suite."""

from __future__ import annotations

import multiprocessing

import pytest
from hypothesis import settings


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption("--all", action="store_true", help="also run the tests marked slow, and more random examples")


@pytest.hookimpl(tryfirst=True)
def pytest_cmdline_main(config: pytest.Config) -> None:
    """Plain `pytest` uses every CPU core, if pytest-xdist is installed; `pytest FILE` and `--pdb` use one process."""
    everything = config.args_source is pytest.Config.ArgsSource.TESTPATHS and not config.option.collectonly
    worker = hasattr(config, "workerinput")  # a process that pytest-xdist started must start none
    if everything and not worker and getattr(config.option, "numprocesses", 0) is None:
        config.option.numprocesses = "auto"  # pytest-xdist turns this into 0 for --pdb
        config.option.dist = "worksteal"


def pytest_configure(config: pytest.Config) -> None:
    settings.register_profile("quick", max_examples=25, deadline=None)
    settings.register_profile("all", max_examples=200, deadline=None)
    settings.load_profile("all" if config.getoption("--all") else "quick")
    # Children of the fork server share one import of torch and of the library.
    multiprocessing.set_forkserver_preload(
        ["torch", "kinoml_data.factory", "kinoml_data.backends.npz.backend", "kinoml_data.backends.parquet.backend"]
    )
    if config.getoption("--all"):
        from kinoml_data.testing import BackendTests

        BackendTests.machine_examples = 100


def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    if not config.getoption("--all"):
        for item in items:
            if item.get_closest_marker("slow"):
                item.add_marker(pytest.mark.skip(reason="slow; run with --all"))


@pytest.fixture
def small_batches(monkeypatch: pytest.MonkeyPatch) -> None:
    """`convert` copies and featurizes a few rows at a time, and finds the plugin of `slow_features`."""
    from kinoml_data import copied_rows, registry
    from kinoml_data.dataset import failing
    from tests import slow_features

    monkeypatch.setattr(copied_rows, "ROWS_PER_BATCH", 7)
    monkeypatch.setattr(failing, "ROWS_PER_READ", 7)
    monkeypatch.setattr(registry, "_registry", slow_features.registered())
