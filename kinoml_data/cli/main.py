"""The command `kinoml-data`.

Each command imports what it needs when it runs: `kinoml-data --help` and errors about arguments do not import torch.
"""

from __future__ import annotations

import json
import sys
import time
import warnings
from collections.abc import Sequence
from importlib import import_module
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from kinoml_data.cli import plugins
from kinoml_data.errors import KinomlDataError, PluginLoadError, SpecError, one_line

if TYPE_CHECKING:
    from kinoml_data.dataset.dataset import XyDataset

SHOWN = 20  # damaged places that `verify` lists without --all

app = typer.Typer(no_args_is_help=True, add_completion=False, pretty_exceptions_enable=False, rich_markup_mode=None)
app.add_typer(plugins.app, name="plugins")
Settings = Annotated[
    list[str] | None,
    typer.Option(
        "--set", metavar="KEY=VALUE", help="Another value in the spec, such as storage.backend=in-memory; repeatable."
    ),
]
DataOrSpec = Annotated[str, typer.Argument(metavar="PATH", help="A data file, or a spec (.yaml, .json, .toml).")]


def main(arguments: Sequence[str] | None = None) -> None:
    """Run the command with `arguments`, or with those of the process.

    Raises:
        SystemExit: always: with 0 after success, 1 after an error, and 2 if the command line is not valid.
    """
    words = list(sys.argv[1:] if arguments is None else arguments)
    try:
        with warnings.catch_warnings():
            warnings.showwarning = _print_warning  # type: ignore[assignment]  # it uses only the text
            app(args=[word for word in words if word != "--debug"], prog_name="kinoml-data")
    except Exception as error:
        if "--debug" in words:
            raise
        _print_error(error)
        raise SystemExit(1) from None


@app.callback()
def _options(
    debug: Annotated[bool, typer.Option("--debug", help="Show the traceback of an error (anywhere on the line).")] = (
        False
    ),
) -> None:
    """From a description of a dataset to a PyTorch dataset, no matter how the data is stored."""


@app.command()
def demo(
    out: Annotated[
        Path, typer.Option(help="The folder to write to: a new one, an empty one, or that of an earlier demo.")
    ] = Path("kinoml-data-demo"),
) -> None:
    """Go from molecules to a trained model in about half a minute.

    The demo is part of the plugin kinoml-data-rdkit and also needs matplotlib.
    """
    if missing := [name for name in ("kinoml_data_rdkit", "rdkit", "matplotlib") if find_spec(name) is None]:
        raise PluginLoadError(
            f"the demo needs {' and '.join(missing)}. In a checkout of kinoml_data run: "
            'pip install -e ".[demo]" -e plugins/kinoml-data-rdkit'
        )
    import_module("kinoml_data_rdkit.demo").run(out)


@app.command()
def inspect(
    path: DataOrSpec,
    sample: Annotated[
        int, typer.Option(min=0, help="The number of rows to read if the store does not know the shapes.")
    ] = 1000,
    settings: Settings = None,
) -> None:
    """Show the columns, shapes and splits of a dataset, or of each dataset that a spec describes."""
    from kinoml_data.cli.terminal import open_dataset, say
    from kinoml_data.several import load_datasets
    from kinoml_data.spec import config

    if Path(path).suffix.lower() in config.SUFFIXES and "datasets" in config.read(Path(path)):
        if settings:
            raise SpecError("--set changes a single dataset, but the file describes several; edit the file")
        for name, dataset in load_datasets(path).items():
            say(f"\n{name}")
            with dataset:
                _inspect(dataset, sample)
        return
    with open_dataset(path, settings) as dataset:
        _inspect(dataset, sample)


def _inspect(dataset: XyDataset, sample: int) -> None:
    from rich.table import Table

    from kinoml_data.cli import summary
    from kinoml_data.cli.terminal import say, screen, show, table

    facts = Table.grid(padding=(0, 3))
    facts.add_column(no_wrap=True)
    facts.add_column(overflow="fold")
    for fact in summary.facts(dataset):
        facts.add_row(*fact)
    columns = table(*summary.COLUMNS, right=("bytes",))
    complete = True
    for row, covers_all_rows in summary.columns(dataset, sample):
        columns.add_row(*row)
        complete = complete and covers_all_rows
    show(screen(), facts, "", columns)
    if not complete:
        say(f"Shapes are those of the first {min(sample, len(dataset)):,} rows: this store computes its rows.")


@app.command()
def convert(
    source: Annotated[str, typer.Argument(metavar="SRC", help="A data file or a spec.")],
    target: Annotated[
        str,
        typer.Argument(metavar="DST", help="The file to write. Its suffix selects the backend unless you name one."),
    ],
    overwrite: Annotated[bool, typer.Option("--overwrite", help="Replace DST if it exists.")] = False,
    backend: Annotated[str | None, typer.Option(metavar="NAME", help="The backend that writes DST.")] = None,
) -> None:
    """Copy a dataset with its splits and spec into another file.

    The copy is read back and compared with the source before it replaces anything.
    """
    from kinoml_data import conversion
    from kinoml_data.cli.terminal import format_size, open_dataset, progress, say

    start = time.perf_counter()
    to = target if backend is None else {"backend": backend, "path": target}
    with open_dataset(source) as dataset:
        with progress("copying") as report:
            spec = conversion.convert(
                dataset, to, overwrite=overwrite, progress=lambda stage, done, total: report(done, total, stage)
            )
        rows, seconds = len(dataset), time.perf_counter() - start
    size = f", {format_size(Path(target).stat().st_size)}" if Path(target).is_file() else ""
    content = f"{target}: {rows:,} rows, {len(spec.columns)} columns{size}"
    say(f"{content}; written by {spec.storage.backend} and compared with the source in {seconds:.1f} s")


@app.command()
def check(
    path: Annotated[str, typer.Argument(metavar="SPEC", help="A spec or a data file.")], settings: Settings = None
) -> None:
    """Check a spec against its store.

    Opens the store and reads the first row. Prints OK, or every problem.
    """
    from kinoml_data.cli.terminal import open_dataset, say

    with open_dataset(path, settings) as dataset:
        if len(dataset):
            dataset[0]
        say(f"OK  {path}: {dataset!r}")


@app.command()
def verify(
    path: DataOrSpec,
    every: Annotated[bool, typer.Option("--all", help=f"List every damaged place, not just {SHOWN}.")] = False,
) -> None:
    """Read everything, compare all checksums, and list what is damaged.

    Exits with 1 if anything is damaged. UNCHECKED means that everything could be read, but that the store has no
    checksums which would show damage.
    """
    from kinoml_data.cli.terminal import format_size, progress, say
    from kinoml_data.verify import MAX_PLACES
    from kinoml_data.verify import verify as verify_data

    start = time.perf_counter()
    with progress("reading") as report:
        result = verify_data(path, progress=report)
    damage = result.damage if every else result.damage[:SHOWN]
    for place in damage:
        say(f"DAMAGED  {place}", style="red")
    if len(result.damage) > len(damage):
        say(f"... and {len(result.damage) - len(damage):,} more places; --all lists them")
    if len(result.damage) >= MAX_PLACES:
        say(f"There may be more damage: reading stopped after {MAX_PLACES:,} places.")
    state = "UNCHECKED" if result.unchecked else "OK"
    state = state if result.intact else f"DAMAGED, {result.damaged:,} values" if result.damaged else "DAMAGED"
    amount = f"{result.rows:,} rows of {result.columns} columns, {format_size(result.nbytes)} read"
    say(f"{state}  {path}: {amount} in {time.perf_counter() - start:.1f} s")
    if result.unchecked is not None:
        say(f"integrity unknown: {result.unchecked}", style="yellow")
    if not result.intact:
        raise typer.Exit(1)


@app.command()
def backends() -> None:
    """List the installed backends and what each can do: the same as `plugins list`, but only backends."""
    plugins.print_listing("backend")


@app.command()
def schema() -> None:
    """Print the JSON Schema of a spec file, for editors.

    It contains the options of every backend, featurizer and observation model that is installed.
    """
    from kinoml_data.cli.json_schema import json_schema

    print(json.dumps(json_schema(), indent=2))


def _print_warning(message: Warning | str, *_: Any) -> None:
    from kinoml_data.cli.terminal import say

    say(f"kinoml-data: {one_line(message)}", style="yellow", stderr=True)


def _print_error(error: Exception) -> None:
    from kinoml_data.cli.terminal import say

    expected = isinstance(error, (KinomlDataError, OSError))
    title = type(error).__name__ if expected else f"unexpected {type(error).__name__}, please report it"
    say(f"kinoml-data: {title}", style="red", stderr=True)
    problems = [KinomlDataError(text) for text in error.problems] if isinstance(error, SpecError) else [error]
    for problem in problems:
        say(f"  {str(problem) or 'no message'}", stderr=True)
    say("  (--debug shows the traceback)", stderr=True)
