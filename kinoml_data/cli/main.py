"""The command `kinoml-data`."""

from __future__ import annotations

import json
import re
import sys
import time
import warnings
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Annotated, Any

import typer
from rich.table import Table

from kinoml_data.cli import plugins as plugins_command
from kinoml_data.cli import summary
from kinoml_data.cli.terminal import opened, progress, screen, show, size, table
from kinoml_data.conversion import convert as copy
from kinoml_data.dataset.dataset import XyDataset
from kinoml_data.errors import KinomlDataError, SpecError, one_line
from kinoml_data.factory import load_datasets
from kinoml_data.registry import Plugin, registry
from kinoml_data.spec import config
from kinoml_data.verify import MOST
from kinoml_data.verify import verify as check

# `explain` and `Binding` join problems by semicolons; each begins with its path in the spec.
PROBLEM = re.compile(r"; (?!known: |cast: )(?=[\w.-]+: )")
IN_THE_COMMAND = {
    "pass overwrite=True": "give --overwrite",
    "name one: {backend: name, path: ...}": "name one: --backend NAME",
}

app = typer.Typer(no_args_is_help=True, add_completion=False, pretty_exceptions_enable=False, rich_markup_mode=None)
app.add_typer(plugins_command.app, name="plugins")
Settings = Annotated[
    list[str] | None,
    typer.Option("--set", metavar="KEY=VALUE", help="Another value in the spec, such as storage.backend=in-memory."),
]
DataOrSpec = Annotated[str, typer.Argument(metavar="PATH", help="A data file, or a spec (.yaml, .json, .toml).")]


def main(arguments: Sequence[str] | None = None) -> None:
    """Run the command; without `arguments` those of the process.

    Raises:
        SystemExit: always; 0, or 1 after an error, or 2 for a command line that makes no sense.
    """
    words = list(sys.argv[1:] if arguments is None else arguments)
    try:
        with warnings.catch_warnings():
            warnings.showwarning = _warn  # type: ignore[assignment]  # it takes the text alone
            app(args=[word for word in words if word != "--debug"], prog_name="kinoml-data")
    except Exception as error:
        if "--debug" in words:
            raise
        _explain(error)
        raise SystemExit(1) from None


@app.callback()
def _options(
    debug: Annotated[bool, typer.Option("--debug", help="Show the traceback of an error (anywhere on the line).")] = (
        False
    ),
) -> None:
    """From a description of a dataset to a PyTorch dataset, whatever holds the data."""


@app.command()
def demo(
    out: Annotated[Path, typer.Option(help="The folder to write to: new, empty, or of an earlier demo.")] = Path(
        "kinoml-data-demo"
    ),
) -> None:
    """From molecules to a trained model, start to end.

    Takes about half a minute. It needs the plugin kinoml-data-rdkit, and matplotlib.
    """
    from kinoml_data.cli.demo import run

    run(out, screen())


@app.command()
def inspect(
    path: DataOrSpec,
    sample: Annotated[int, typer.Option(min=0, help="Rows to read where the store does not know the shapes.")] = 1000,
    settings: Settings = None,
) -> None:
    """What a dataset holds: columns, shapes, splits. Of a file with several, each."""
    if Path(path).suffix.lower() in config.SUFFIXES and "datasets" in config.read(Path(path)):
        if settings:
            raise SpecError("--set changes one dataset, and the file describes several")
        for name, dataset in load_datasets(path).items():
            screen().print(f"\n{name}", markup=False, soft_wrap=True)
            with dataset:
                _inspect(dataset, sample)
        return
    with opened(path, settings) as dataset:
        _inspect(dataset, sample)


def _inspect(dataset: XyDataset, sample: int) -> None:
    about = Table.grid(padding=(0, 3))
    about.add_column(no_wrap=True)
    about.add_column(overflow="fold")
    for fact in summary.facts(dataset):
        about.add_row(*fact)
    columns = table(*summary.COLUMNS, right=("bytes",))
    whole = True
    for row, read_all in summary.columns(dataset, sample):
        columns.add_row(*row)
        whole = whole and read_all
    show(screen(), about, "", columns)
    if not whole:
        note = f"Shapes are of the first {min(sample, len(dataset)):,} rows: this store computes them."
        screen().print(note, soft_wrap=True)


@app.command()
def convert(
    source: Annotated[str, typer.Argument(metavar="SRC", help="A data file or a spec.")],
    target: Annotated[str, typer.Argument(metavar="DST", help="The file to write; its suffix tells the backend.")],
    overwrite: Annotated[bool, typer.Option("--overwrite", help="Replace DST if it exists.")] = False,
    backend: Annotated[str | None, typer.Option(metavar="NAME", help="The backend that writes DST.")] = None,
) -> None:
    """Copy a dataset into another file.

    Splits and spec go along. The copy is read back and compared with the source.
    """
    start = time.perf_counter()
    to = target if backend is None else {"backend": backend, "path": target}
    with opened(source) as dataset:
        with progress("copying") as report:
            spec = copy(dataset, to, overwrite=overwrite, progress=report)
        rows, took = len(dataset), time.perf_counter() - start
    held = f", {size(Path(target).stat().st_size)}" if Path(target).is_file() else ""
    what = f"{target}: {rows:,} rows, {len(spec.columns or {})} columns{held}"
    how = f"written by {spec.storage.backend} and compared with the source in {took:.1f} s"
    screen().print(f"{what}; {how}", markup=False, soft_wrap=True)


@app.command()
def validate(
    path: Annotated[str, typer.Argument(metavar="SPEC", help="A spec or a data file.")], settings: Settings = None
) -> None:
    """Check a spec against what is stored.

    Opens the store and reads the first row. Prints OK, or every problem.
    """
    with opened(path, settings) as dataset:
        if len(dataset):
            dataset[0]
        screen().print(f"OK  {path}: {dataset!r}", markup=False, soft_wrap=True)


@app.command()
def verify(
    path: DataOrSpec,
    every: Annotated[bool, typer.Option("--all", help="List every damaged place, not the first 20.")] = False,
) -> None:
    """Read everything with every check on, and name what is damaged.

    Exits with 1 if anything is. UNCHECKED means that all could be read, and that damage may not have been noticed.
    """
    start = time.perf_counter()
    with progress("reading") as report:
        found = check(path, progress=report)
    out, shown = screen(), len(found.damage) if every else 20
    for damage in found.damage[:shown]:
        out.print(f"DAMAGED  {damage}", style="red", markup=False, soft_wrap=True)
    if len(found.damage) > shown:
        out.print(f"... and {len(found.damage) - shown:,} more places; --all lists them", soft_wrap=True)
    if len(found.damage) >= MOST:
        out.print("there may be more: reading stopped here", soft_wrap=True)
    state = "UNCHECKED" if found.unchecked else "OK"
    state = state if found.whole else f"DAMAGED, {found.damaged:,} values" if found.damaged else "DAMAGED"
    read = f"{found.rows:,} rows of {found.columns} columns, {size(found.nbytes)} read"
    out.print(f"{state}  {path}: {read} in {time.perf_counter() - start:.1f} s", markup=False, soft_wrap=True)
    if found.unchecked is not None:
        out.print(f"integrity unknown: {found.unchecked}", style="yellow", markup=False, soft_wrap=True)
    if not found.whole:
        raise typer.Exit(1)


@app.command()
def backends() -> None:
    """What is installed, and what cannot be loaded."""
    out, found = screen(), registry().all("backend", patience=plugins_command.PATIENCE)
    listing = table("backend", "from", "version", "opens", "what it is")
    for name, cls, plugin in _each(found):
        source = "built-in" if plugin.distribution == "kinoml-data" else plugin.distribution
        clash = "CONFLICT, registered twice: " if len(registry().owners("backend", name)) > 1 else ""
        text = clash + (cls.__doc__ or "").strip().partition("\n")[0]
        listing.add_row(name, source, plugin.version, " ".join(getattr(cls, "suffixes", ())), text)
    show(out, listing)
    for kind in ("featurizer", "observation model"):
        known = registry().all(kind, patience=0)
        said = [f"{name} ({owner.distribution})" for name, (_, owner) in known.items()]
        out.print(f"{kind}s: {', '.join(said) or 'none'}", markup=False, soft_wrap=True)
    for plugin in registry().plugins:
        if plugin.importing or plugin.error is not None:
            why = (
                "its import takes long"
                if plugin.importing
                else f"{type(plugin.error).__name__}: {one_line(plugin.error)}"
            )
            what = f"plugin {plugin.entry_point!r} of {plugin}: {why}"
            out.print(f"could not be loaded: {what}", markup=False, soft_wrap=True)


def _each(found: Mapping[str, tuple[type, Plugin]]) -> Iterator[tuple[str, type, Plugin]]:
    """Every backend with its plugin, one that two plugins register once for each."""
    for name, (cls, plugin) in found.items():
        owners = registry().owners("backend", name)
        if not owners:
            yield name, cls, plugin
        for owner in owners:
            yield name, owner.names["backend"][name], owner


@app.command()
def schema() -> None:
    """The JSON Schema of a spec file, for editors.

    It knows the options of every backend, featurizer and observation model that is installed.
    """
    from kinoml_data.cli.json_schema import json_schema

    print(json.dumps(json_schema(), indent=2))


def _warn(message: Warning | str, *_: Any) -> None:
    screen(stderr=True).print(f"kinoml-data: {one_line(message)}", style="yellow", markup=False, soft_wrap=True)


def _explain(error: Exception) -> None:
    known = isinstance(error, (KinomlDataError, OSError))
    head = type(error).__name__ if known else f"unexpected {type(error).__name__}, please report it"
    text = str(error) or "no message"
    for python, command in IN_THE_COMMAND.items():
        text = text.replace(python, command)
    out = screen(stderr=True)
    out.print(f"kinoml-data: {head}", style="red", markup=False, soft_wrap=True)
    for line in PROBLEM.split(text):
        out.print(f"  {line}", markup=False, soft_wrap=True)
    out.print("  (--debug shows where it comes from)", markup=False, soft_wrap=True)
