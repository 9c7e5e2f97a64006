"""`kinoml-data plugins`, also with hostile plugins installed."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

BACKEND = """
import kinoml_data as kd
class Mine(kd.Backend):
    "{about}"
    name = "{name}"
    def open(self, columns): ...
@kd.hookimpl
def register_backends(): return [Mine]
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


@pytest.fixture(scope="module")
def site(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder of installed packages, all hostile but one."""
    site = tmp_path_factory.mktemp("site")
    for name, text in HOSTILE.items():
        module = f"hostile_{name.replace('-', '_')}"
        (site / f"{module}.py").write_text(text)
        info = site / f"dist_{name.replace('-', '_')}-1.0.dist-info"
        info.mkdir()
        (info / "METADATA").write_text(f"Metadata-Version: 2.1\nName: dist-{name}\nVersion: 1.0\n")
        (info / "entry_points.txt").write_text(f"[kinoml_data]\n{name} = {module}\n")
    return site


def run(*command: str, site: Path | None = None, cwd: Path | None = None) -> subprocess.CompletedProcess[str]:
    environment = {**os.environ, "PYTHONPATH": str(site)} if site else dict(os.environ)
    return subprocess.run(
        [sys.executable, *command], capture_output=True, text=True, timeout=120, cwd=cwd, env=environment
    )


@pytest.mark.parametrize("command", [("backends",), ("plugins", "list")], ids=" ".join)
def test_hostile_plugins_are_listed_with_their_reasons_and_affect_no_other(
    site: Path, command: tuple[str, ...]
) -> None:
    done = run("-m", "kinoml_data", *command, site=site)
    assert done.returncode == 0, done.stderr
    lines = done.stdout.splitlines()
    for name, reason in REASONS.items():
        assert any(f"dist-{name}" in line and re.search(reason, line) for line in lines), (name, done.stdout)
    assert sum("CONFLICT" in line and "twin" in line for line in lines) == 2
    for name in ("in-memory", "npz-lazy", "parquet-awkward", "good"):
        assert any(line.startswith(f"{name} ") and "CONFLICT" not in line for line in lines), name


def test_a_dataset_is_loaded_as_usual_beside_hostile_plugins(site: Path) -> None:
    text = """
import sys
import kinoml_data as kd
assert len(kd.from_arrays([[1.0], [2.0]])) == 2
assert not [name for name in sys.modules if name.startswith("hostile_")]
kd.registry.backend("good")
assert [name for name in sys.modules if name.startswith("hostile_")] == ["hostile_good"]
assert {"npz-lazy", "good"} <= set(kd.list_backends())
"""
    done = run("-c", "import kinoml_data.registry\n" + text, site=site)
    assert done.returncode == 0, done.stderr


@pytest.mark.slow
def test_a_new_plugin_passes_lint_types_and_the_contract_as_it_is_written(tmp_path: Path) -> None:
    made = run("-m", "kinoml_data", "plugins", "new", "my-store", cwd=tmp_path)
    assert made.returncode == 0 and "kinoml-data-my-store" in made.stdout, made.stderr
    folder = tmp_path / "kinoml-data-my-store"
    texts = {file.relative_to(folder).as_posix(): file.read_text() for file in folder.rglob("*") if file.is_file()}
    assert {"kinoml_data_my_store.py", "pyproject.toml", "README.md", "tests/test_my_store.py"} <= texts.keys()
    assert not [name for name, text in texts.items() if re.search("npy.?folder", name + text, re.IGNORECASE)]
    for command in (("ruff", "check", "."), ("ruff", "format", "--check", "."), ("mypy",)):
        done = subprocess.run([sys.executable, "-m", *command], capture_output=True, text=True, cwd=folder)
        assert done.returncode == 0, done.stdout + done.stderr
    done = subprocess.run(
        [sys.executable, "-m", "pytest", "-q", "-k", "not processes and not workers"],
        capture_output=True,
        text=True,
        cwd=folder,
    )
    assert done.returncode == 0 and re.search(r"1\d\d passed", done.stdout), done.stdout
    again = run("-m", "kinoml_data", "plugins", "new", "my-store", cwd=tmp_path)
    assert again.returncode == 1 and "StoreExistsError" in again.stderr


@pytest.mark.parametrize("name", ["Npz", "a_b", "../up", "npz-lazy", "", "class", "-x", "a--b"])
def test_an_invalid_name_for_a_new_plugin_is_refused(tmp_path: Path, name: str) -> None:
    done = run("-m", "kinoml_data", "plugins", "new", "--", name, cwd=tmp_path)
    assert done.returncode == 1 and not list(tmp_path.iterdir())


def test_the_suite_fails_a_backend_that_breaks_the_contract(tmp_path: Path) -> None:
    made = run("-m", "kinoml_data", "plugins", "new", "broken", cwd=tmp_path)
    assert made.returncode == 0
    folder = tmp_path / "kinoml-data-broken"
    module = folder / "kinoml_data_broken.py"
    module.write_text(module.read_text().replace("np.save(folder", "np.save(folder").replace("array)", "array[::-1])"))
    info = folder / "dist_broken-1.0.dist-info"
    info.mkdir()
    (info / "METADATA").write_text("Metadata-Version: 2.1\nName: dist-broken\nVersion: 1.0\n")
    (info / "entry_points.txt").write_text("[kinoml_data]\nbroken = kinoml_data_broken\n")
    options = "-k 'bit_for_bit or any_use'"  # two rules are enough
    environment = {**os.environ, "PYTHONPATH": str(folder), "PYTEST_ADDOPTS": options}
    command = [sys.executable, "-m", "kinoml_data", "plugins", "test", "broken"]
    done = subprocess.run(command, capture_output=True, text=True, env=environment)
    assert done.returncode == 1
    for rule in ("test_rows_come_back_bit_for_bit", "test_any_use_of_any_dataset_gives_what_was_stored"):
        assert re.search(rf"^FAILED .*{rule}", done.stdout, re.MULTILINE), rule


@pytest.mark.parametrize(
    ("words", "message"),
    [(("csv",), "does not write"), (("nope",), "unknown backend"), (("npz-lazy", "--set", "io"), "KEY=VALUE")],
)
def test_a_backend_that_cannot_be_tested_is_an_error_with_the_reason(words: tuple[str, ...], message: str) -> None:
    done = run("-m", "kinoml_data", "plugins", "test", *words)
    assert done.returncode == 1 and message in done.stderr
