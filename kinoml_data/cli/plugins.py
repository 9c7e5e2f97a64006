"""The command `kinoml-data plugins`: what is installed, a check of a backend, and a new one to begin with."""

from __future__ import annotations

import keyword
import os
import re
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from importlib.util import find_spec
from pathlib import Path
from typing import Annotated

import typer

from kinoml_data import registry
from kinoml_data.cli.terminal import screen, setting, show, table
from kinoml_data.contracts.backend import Backend
from kinoml_data.errors import SpecError, StoreExistsError, UnsupportedStoreError, one_line, quoted
from kinoml_data.registry import KINDS, Plugin

PATIENCE = 0.3  # seconds in all that listing waits for plugins to be imported
HANGS = 600  # seconds that one test of the conformance suite may take
TEMPLATE = Path(__file__).parent / "plugin_template"
NAME = re.compile(r"[a-z][a-z0-9]*(-[a-z0-9]+)*")

app = typer.Typer(no_args_is_help=True, help="List plugins, check a backend, or begin a new plugin.")


@app.command("list")
def list_() -> None:
    """Every name that is registered, from where, and what could not be loaded."""
    listing = table("name", "kind", "from", "version", "API", "state")
    for name, kind, plugin, state in _rows(registry.registry()):
        listing.add_row(name, kind, plugin.distribution, plugin.version, str(plugin.api), state)
    show(screen(), listing)


def _rows(found: registry.Registry) -> Iterator[tuple[str, str, Plugin, str]]:
    """Name, kind, plugin and state of everything; what is wrong in capitals."""
    for kind in KINDS:
        for name, (_, plugin) in found.all(kind, patience=PATIENCE).items():
            if plugin not in found.plugins:
                yield name, kind, plugin, "built-in"
    for plugin in found.plugins:
        for kind, classes in plugin.names.items():
            for name in classes:
                owners = found.owners(kind, name)
                others = " and ".join(str(owner) for owner in owners if owner is not plugin)
                state = f"CONFLICT with {others}; uninstall one of them" if len(owners) > 1 else "ready"
                yield name, kind, plugin, state if plugin in owners else f"HIDDEN by {others}"
        if plugin.importing:
            yield plugin.entry_point, "", plugin, f"SLOW: still being imported after {PATIENCE} s"
        elif plugin.error is not None:
            yield plugin.entry_point, "", plugin, f"BROKEN: {type(plugin.error).__name__}: {one_line(plugin.error)}"


@app.command()
def check(
    name: Annotated[str, typer.Argument(help="An installed backend.")],
    options: Annotated[
        list[str] | None, typer.Option("--set", metavar="KEY=VALUE", help="An option of the backend; repeat for more.")
    ] = None,
    unsupported_dtype: Annotated[
        list[str] | None, typer.Option(metavar="DTYPE", help="A dtype that it refuses to write; repeat for more.")
    ] = None,
    overwrite: Annotated[bool, typer.Option(help="Whether it can replace a store.")] = True,
    arrays: Annotated[bool, typer.Option(help="Whether it gives back arrays that are not per row.")] = True,
    spec: Annotated[bool, typer.Option(help="Whether it gives back the embedded spec.")] = True,
    fork: Annotated[bool, typer.Option(help="Whether forked worker processes can open it.")] = True,
    verbose: Annotated[bool, typer.Option("-v", help="Name every rule.")] = False,
) -> None:
    """Whether a backend keeps the contract.

    Runs the conformance suite over stores that the backend writes itself, in a temporary folder.
    """
    cls = registry.backend(name)
    if cls.write is Backend.write:
        raise UnsupportedStoreError(
            f"backend {name!r} does not write: its own tests must say how rows get into a store; "
            "subclass kinoml_data.testing.BackendTests and define `store`"
        )
    if find_spec("pytest") is None:
        raise SpecError('the conformance suite needs pytest: pip install "kinoml-data[test]"')
    said = dict(map(setting, options or ()))
    here = {"path": "data" + next(iter(cls.suffixes), "")} if "path" in cls.model_fields else {}
    module = CHECK.format(
        name=name,
        options=said,
        here=here,
        can_overwrite=overwrite,
        keeps_arrays=arrays,
        keeps_spec=spec,
        survives_fork=fork,
        unsupported_dtypes=tuple(unsupported_dtype or ()),
    )
    with tempfile.TemporaryDirectory(prefix="kinoml-data-check-") as folder:
        file = Path(folder) / "test_contract.py"
        file.write_text(module, "utf-8")
        arguments = ["-v" if verbose else "-q", "--tb=short", "-p", "no:cacheprovider", "-c", os.devnull]
        # A backend that hangs fails, with a traceback of where.
        arguments += ["-o", f"faulthandler_timeout={HANGS}", "-o", "faulthandler_exit_on_timeout=true"]
        ran = subprocess.run(
            [sys.executable, "-m", "pytest", *arguments, f"--rootdir={folder}", str(file)], check=False
        )
    if ran.returncode:
        screen().print(HINT, markup=False, soft_wrap=True)
    raise typer.Exit(ran.returncode)


HINT = """
What a backend refuses on purpose is said: --no-overwrite, --no-arrays, --no-spec, --no-fork,
--unsupported-dtype DTYPE."""

CHECK = """\
import pytest
from kinoml_data import registry
from kinoml_data.testing import BackendTests

class TestBackend(BackendTests):
    can_overwrite, keeps_arrays, keeps_spec = {can_overwrite}, {keeps_arrays}, {keeps_spec}
    survives_fork = {survives_fork}
    unsupported_dtypes = {unsupported_dtypes}

    @pytest.fixture
    def backend(self, tmp_path):
        here = {{key: tmp_path / value for key, value in {here}.items()}}
        return registry.backend({name!r})(**here, **{options})
"""


@app.command()
def new(
    name: Annotated[str, typer.Argument(help="What specs will call the backend, such as sqlite.")],
    folder: Annotated[
        Path | None, typer.Option(help="Where to write it; by default kinoml-data-NAME in the working directory.")
    ] = None,
) -> None:
    """Write a small plugin with a backend that keeps the contract, to change from there."""
    module = name.replace("-", "_")
    if not NAME.fullmatch(name) or keyword.iskeyword(module):
        raise SpecError(f"{quoted(name)} is no name for a backend: small letters and digits, words joined by -")
    if name in registry.registry().all("backend", patience=PATIENCE):
        raise SpecError(f"a backend {name!r} is installed already; choose another name")
    target = folder or Path(f"kinoml-data-{name}")
    if target.exists():
        raise StoreExistsError(f"{quoted(str(target))} exists")
    names = {
        "npy-folder": name,
        "npy_folder": module,
        "NpyFolder": "".join(part.capitalize() for part in name.split("-")),
    }
    for source in sorted(TEMPLATE.rglob("*.*")):
        if source.is_file() and source.suffix in (".py", ".toml", ".md"):
            text, place = source.read_text("utf-8"), source.relative_to(TEMPLATE).as_posix()
            for old, said in names.items():
                text, place = text.replace(old, said), place.replace(old, said)
            (target / place).parent.mkdir(parents=True, exist_ok=True)
            (target / place).write_text(text, "utf-8")
    screen().print(f"{target}: a backend {name!r}. Next:", markup=False, soft_wrap=True)
    screen().print(f'  cd {target} && pip install -e ".[test]" && pytest', markup=False, soft_wrap=True)
