"""`kinoml-data plugins`, also with hostile plugins installed."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

import kinoml_data as kd
from kinoml_data import registry
from kinoml_data.cli import main as cli
from tests.cli.conftest import Run, install

BACKEND = """
import kinoml_data as kd
class Mine(kd.Backend):
    "{about}"
    name = "{name}"
    def open(self, columns): ...
@kd.hookimpl
def register_backends(): return [Mine]
"""
TAKEN = """
import kinoml_data as kd
class Store(kd.Backend):
    name = "taken"
    def open(self, columns): ...
class Features(kd.Featurizer):
    name = "taken"
    inputs = ("X",)
    @property
    def outputs(self): ...
    def featurize(self, *raw): ...
@kd.hookimpl
def register_backends(): return [Store]
@kd.hookimpl
def register_featurizers(): return [Features]
"""
HOSTILE = {
    "no-import": "import a_module_that_is_not_there",
    "leaves": "raise SystemExit(3)",
    "pretender": BACKEND.format(name="npz-lazy", about="another npz-lazy"),
    "twin-one": BACKEND.format(name="twin", about="the first twin"),
    "twin-two": BACKEND.format(name="twin", about="the second twin"),
    "misspelled": "import kinoml_data as kd\n@kd.hookimpl\ndef register_backend(): return []",
    "good": BACKEND.format(name="good", about="a good one"),
}
# The reason that the listing has to give for each.
REASONS = {
    "no-import": r"ModuleNotFoundError: No module named 'a_module_that_is_not_there'",
    "leaves": r"SystemExit: 3",
    "pretender": r"'npz-lazy' is built in and cannot be replaced",
    "misspelled": r"register_backend",
}


@pytest.fixture
def hostile(site: Path) -> None:
    """Installed plugins, all hostile but one."""
    for name, text in HOSTILE.items():
        install(site, f"dist-{name}", name, f"hostile_{name.replace('-', '_')}", text)


@pytest.mark.usefixtures("hostile")
@pytest.mark.parametrize("command", [("backends",), ("plugins", "list")], ids=" ".join)
def test_hostile_plugins_are_listed_with_their_reasons_and_affect_no_other(run: Run, command: tuple[str, ...]) -> None:
    done = run(*command)
    assert done.code == 0, done.err
    lines = done.out.splitlines()
    for name, reason in REASONS.items():
        assert any(f"dist-{name}" in line and re.search(reason, line) for line in lines), (name, done.out)
    assert sum("CONFLICT" in line and "twin" in line for line in lines) == 2
    for name in ("in-memory", "npz-lazy", "parquet-awkward", "good"):
        assert any(line.startswith(f"{name} ") and "CONFLICT" not in line for line in lines), name


@pytest.mark.usefixtures("hostile")
def test_a_dataset_is_loaded_as_usual_beside_hostile_plugins() -> None:
    def imported() -> list[str]:
        return [name for name in sys.modules if name.startswith("hostile_")]

    assert len(kd.from_arrays([[1.0], [2.0]])) == 2
    assert imported() == []
    registry.backend("good")
    assert imported() == ["hostile_good"]
    assert {"npz-lazy", "good"} <= set(kd.list_backends())


def python(*command: str, folder: Path) -> subprocess.CompletedProcess[str]:
    return subprocess.run([sys.executable, *command], capture_output=True, text=True, timeout=600, cwd=folder)


@pytest.mark.parametrize(
    ("options", "example", "passed"),
    [
        pytest.param((), "npy.?folder", r"\b\d{3} passed", marks=pytest.mark.slow, id="backend"),
        pytest.param(("--featurizer",), "letter.?counts", r"\b\d{2} passed", marks=pytest.mark.slow, id="featurizer"),
    ],
)
def test_a_new_plugin_passes_lint_types_and_the_contract_as_it_is_written(
    run: Run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, options: tuple[str, ...], example: str, passed: str
) -> None:
    monkeypatch.chdir(tmp_path)
    made = run("plugins", "new", "my-own", *options)
    assert made.code == 0 and "kinoml-data-my-own" in made.out, made.err
    folder = tmp_path / "kinoml-data-my-own"
    texts = {file.relative_to(folder).as_posix(): file.read_text() for file in folder.rglob("*") if file.is_file()}
    assert {"kinoml_data_my_own.py", "pyproject.toml", "README.md", "tests/test_my_own.py"} <= texts.keys()
    assert not [name for name, text in texts.items() if re.search(example, name + text, re.IGNORECASE)]
    for command in (("ruff", "check", "."), ("ruff", "format", "--check", "."), ("mypy",)):
        done = python("-m", *command, folder=folder)
        assert done.returncode == 0, done.stdout + done.stderr
    done = python("-m", "pytest", "-q", "-k", "not processes and not workers", folder=folder)
    assert done.returncode == 0 and re.search(passed, done.stdout), done.stdout
    again = run("plugins", "new", "my-own", *options)
    assert again.code == 1 and "StoreExistsError" in again.err


@pytest.mark.parametrize("options", [(), ("--featurizer",)], ids=["backend", "featurizer"])
@pytest.mark.parametrize("name", ["Npz", "a_b", "../up", "taken", "", "class", "-x", "a--b"])
def test_an_invalid_name_for_a_new_plugin_is_refused(
    run: Run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, site: Path, name: str, options: tuple[str, ...]
) -> None:
    install(site, "dist-taken", "taken", "plugin_taken", TAKEN)
    monkeypatch.chdir(tmp_path)
    before = list(tmp_path.iterdir())
    done = run("plugins", "new", *options, "--", name)
    assert done.code == 1 and list(tmp_path.iterdir()) == before
    assert ("already installed" in done.err) == (name == "taken")


@pytest.mark.parametrize(
    "rule",
    [
        "test_rows_come_back_bit_for_bit",
        pytest.param("test_any_use_of_any_dataset_gives_what_was_stored", marks=pytest.mark.slow),
    ],
)
def test_the_suite_fails_a_backend_that_breaks_the_contract(
    rule: str, site: Path, capfd: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    with pytest.raises(SystemExit) as made:
        cli.main(["plugins", "new", "broken", "--folder", str(site / "new")])
    assert not made.value.code
    code = (site / "new" / "kinoml_data_broken.py").read_text()
    install(site, "dist-broken", "broken", "kinoml_data_broken", code.replace("array)", "array[::-1])"))
    monkeypatch.setattr(registry, "_registry", None)  # of the plugins that are installed now
    monkeypatch.setenv("PYTHONPATH", os.pathsep.join([str(site), os.environ.get("PYTHONPATH", "")]))
    monkeypatch.setenv("PYTEST_ADDOPTS", f"-k {rule}")
    with pytest.raises(SystemExit) as tested:
        cli.main(["plugins", "test", "broken"])
    assert tested.value.code == 1
    out = capfd.readouterr().out  # of the process that runs the tests as well
    assert re.search(rf"^FAILED .*{rule}", out, re.MULTILINE), out


@pytest.mark.parametrize(
    ("words", "message"),
    [(("csv",), "does not write"), (("nope",), "unknown backend"), (("npz-lazy", "--set", "io"), "KEY=VALUE")],
)
def test_a_backend_that_cannot_be_tested_is_an_error_with_the_reason(
    run: Run, words: tuple[str, ...], message: str
) -> None:
    done = run("plugins", "test", *words)
    assert done.code == 1 and message in done.err
