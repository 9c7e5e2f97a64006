"""The command `kinoml-data plugins`: lists plugins, tests a backend, and writes a new plugin to begin with."""

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
from typing import TYPE_CHECKING, Annotated, Any

import typer

from kinoml_data.errors import KinomlDataError, SpecError, StoreExistsError, UnsupportedStoreError, one_line, quoted

if TYPE_CHECKING:
    from kinoml_data.registry import Plugin

TEST_TIMEOUT = 600  # seconds that one test of the conformance suite may take
TEMPLATES = Path(__file__).parent / "templates"
NAME = re.compile(r"[a-z][a-z0-9]*(-[a-z0-9]+)*")

app = typer.Typer(no_args_is_help=True, help="List plugins, test a backend, or begin a new plugin.")


@app.command("list")
def list_() -> None:
    """List every registered name with its plugin, what a backend can do, and what could not be loaded."""
    print_listing()


def print_listing(*kinds: str) -> None:
    """Print a table of the classes of some kinds, or of all kinds, and a line for each plugin that is broken."""
    from kinoml_data.cli.terminal import say, screen, show, table
    from kinoml_data.registry import KINDS, registry

    listing = table("name", *(() if kinds else ("kind",)), "from", "opens", *CAPABILITIES, "description")
    for kind in kinds or KINDS:
        for name, cls, plugin, problem in _classes(kind):
            abilities = _abilities(cls) if kind == "backend" else [""] * len(CAPABILITIES)
            description = problem or (cls.__doc__ or "").strip().partition("\n")[0]
            origin = "built-in" if plugin.loader is None else str(plugin)
            suffixes = " ".join(getattr(cls, "suffixes", ()))
            listing.add_row(name, *(() if kinds else (kind,)), origin, suffixes, *abilities, description)
    show(screen(), listing)
    for plugin in registry().broken():
        error = f"{type(plugin.error).__name__}: {one_line(plugin.error)}"
        say(f"BROKEN  plugin {plugin.entry_point!r} of {plugin}: {error}")


# The columns of the listing, and the class variable of a backend that each shows.
CAPABILITIES = {
    "writes": "can_write",
    "overwrites": "can_overwrite",
    "arrays": "keeps_arrays",
    "spec": "keeps_spec",
    "fork": "survives_fork",
}


def _abilities(backend: Any) -> list[str]:
    """A cell for each of `CAPABILITIES`; what a backend keeps matters only if it writes."""
    matters = {"can_write", "survives_fork", *(CAPABILITIES.values() if backend.can_write else ())}
    return [("yes" if getattr(backend, flag) else "no") if flag in matters else "" for flag in CAPABILITIES.values()]


def _classes(kind: str) -> Iterator[tuple[str, type, Plugin, str]]:
    """Name, class, plugin and problem of every registered class of a kind, including those that are not used."""
    from kinoml_data.registry import registry

    classes = registry().all(kind)
    for name, (cls, plugin) in classes.items():
        if plugin.loader is None:
            yield name, cls, plugin, ""
    for plugin in registry().plugins:
        for name, cls in plugin.names.get(kind, {}).items():
            owners = registry().owners(kind, name)
            others = " and ".join(str(owner) for owner in owners if owner is not plugin)
            conflict = f"CONFLICT with {others}; uninstall one of them" if len(owners) > 1 else ""
            yield name, cls, plugin, conflict if plugin in owners else f"HIDDEN by {others}"


@app.command("test")
def test_backend(
    name: Annotated[str, typer.Argument(help="An installed backend.")],
    options: Annotated[
        list[str] | None, typer.Option("--set", metavar="KEY=VALUE", help="An option of the backend; repeatable.")
    ] = None,
    verbose: Annotated[bool, typer.Option("-v", help="Name every test.")] = False,
) -> None:
    """Test whether a backend keeps the contract.

    Runs the conformance suite on stores that the backend writes in a temporary folder. What the backend cannot do, such
    as overwriting, is read from its class variables and not tested.
    """
    from kinoml_data import registry
    from kinoml_data.cli.terminal import parse_setting

    cls = registry.backend(name)
    if not cls.can_write:
        raise UnsupportedStoreError(
            f"the backend {name!r} does not write, so its own tests must provide a store: "
            "subclass kinoml_data.testing.BackendTests and define `store`"
        )
    if find_spec("pytest") is None:
        raise KinomlDataError('the conformance suite needs pytest: pip install "kinoml-data[testing]"')
    paths = {"path": "data" + next(iter(cls.suffixes), "")} if "path" in cls.model_fields else {}
    module = TEST_MODULE.format(name=name, options=dict(map(parse_setting, options or ())), paths=paths)
    with tempfile.TemporaryDirectory(prefix="kinoml-data-test-") as folder:
        file = Path(folder) / "test_contract.py"
        file.write_text(module, "utf-8")
        arguments = ["-v" if verbose else "-q", "--tb=short", "-p", "no:cacheprovider", "-c", os.devnull]
        # A test that hangs fails with a traceback that shows where.
        arguments += ["-o", f"faulthandler_timeout={TEST_TIMEOUT}", "-o", "faulthandler_exit_on_timeout=true"]
        command = [sys.executable, "-m", "pytest", *arguments, f"--rootdir={folder}", str(file)]
        raise typer.Exit(subprocess.run(command, check=False).returncode)


TEST_MODULE = """\
from kinoml_data import list_backends
from kinoml_data.testing import BackendTests

class TestBackend(BackendTests):
    def make_backend(self, folder):
        paths = {{key: folder / value for key, value in {paths}.items()}}
        return list_backends()[{name!r}](**paths | {options})
"""


@app.command()
def new(
    name: Annotated[str, typer.Argument(help="The name of the backend or featurizer in specs.")],
    folder: Annotated[
        Path | None, typer.Option(help="The folder to write to; by default kinoml-data-NAME in the working directory.")
    ] = None,
    featurizer: Annotated[bool, typer.Option("--featurizer", help="Begin with a featurizer of this name.")] = False,
) -> None:
    """Write a small plugin with a backend, or with a featurizer, that keeps the contract, as a start."""
    from kinoml_data.cli.terminal import say
    from kinoml_data.registry import registry

    kind, example = ("featurizer", "letter-counts") if featurizer else ("backend", "npy-folder")
    if not NAME.fullmatch(name) or keyword.iskeyword(name.replace("-", "_")):
        raise SpecError(
            f"{quoted(name)} is not a valid name for a {kind}; use lower-case letters and digits, and - between words"
        )
    if name in registry().all(kind):
        raise SpecError(f"a {kind} {name!r} is already installed; choose another name")
    target = folder or Path(f"kinoml-data-{name}")
    if target.exists():
        raise StoreExistsError(f"{quoted(str(target))} already exists; choose another folder with --folder")
    replacements = dict(zip(_spellings(example), _spellings(name), strict=True))
    template = TEMPLATES / kind
    for source in sorted(template.rglob("*.*")):
        if source.is_file() and source.suffix in (".py", ".toml", ".md"):
            text, place = source.read_text("utf-8"), source.relative_to(template).as_posix()
            for old, replacement in replacements.items():
                text, place = text.replace(old, replacement), place.replace(old, replacement)
            (target / place).parent.mkdir(parents=True, exist_ok=True)
            (target / place).write_text(text, "utf-8")
    say(f"{target}: a plugin with the {kind} {name!r}. Next:")
    say(f'  cd {target} && pip install -e ".[test]" && pytest')


def _spellings(name: str) -> tuple[str, str, str]:
    """A name as in a spec, as in the name of a module, and as in the name of a class."""
    return name, name.replace("-", "_"), "".join(part.capitalize() for part in name.split("-"))
