"""The command `kinoml-data`.

Each command imports what it needs when it runs: `kinoml-data --help` and errors about arguments do not import torch.
"""

from __future__ import annotations

import csv
import json
import sys
import time
import warnings
from collections.abc import Callable, Sequence
from contextlib import ExitStack
from importlib import import_module
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from kinoml_data.cli import plugins
from kinoml_data.cli.doctor import doctor
from kinoml_data.cli.options import DataOrSpec, DatasetName, Settings
from kinoml_data.cli.report import report
from kinoml_data.errors import (
    KinomlDataError,
    PluginLoadError,
    SpecError,
    count_of,
    format_size,
    one_line,
    quoted,
)

if TYPE_CHECKING:
    from kinoml_data.dataset.dataset import XyDataset
    from kinoml_data.spec.dataset_spec import DatasetSpec

SHOWN = 20  # damaged places that `verify` lists without --all

app = typer.Typer(no_args_is_help=True, add_completion=False, pretty_exceptions_enable=False, rich_markup_mode=None)
app.add_typer(plugins.app, name="plugins")
app.command()(doctor)


def main(arguments: Sequence[str] | None = None) -> None:
    """Run the command with `arguments`, or with those of the process.

    Raises:
        SystemExit: always: with 0 after success, 1 after an error, and 2 if the command line is not valid.
    """
    words = list(sys.argv[1:] if arguments is None else arguments)
    try:
        with warnings.catch_warnings():
            warnings.showwarning = _warning_printer()
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


app.command()(report)


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
        int, typer.Option(min=0, help="The number of rows to read for first values, ranges and unknown shapes.")
    ] = 1000,
    settings: Settings = None,
    name: DatasetName = None,
) -> None:
    """Show the columns, first values, sizes and splits of a dataset, or of each dataset that a spec describes.

    It needs no roles: without them, it shows all columns, and how to name X and y.
    """
    from kinoml_data.cli.terminal import say, specs

    for label, opening in specs(path, name, settings).items():
        if label:
            say(f"\n{label}")
        with opening.dataset(label or path, loads=False) as dataset:
            _inspect(dataset, sample)


def _inspect(dataset: XyDataset, sample: int) -> None:
    from rich.table import Table

    from kinoml_data.cli.terminal import progress, say, screen, show, table
    from kinoml_data.dataset import description

    with progress("reading") as report:
        columns = description.columns(dataset, sample, report)
    facts = Table.grid(padding=(0, 3))
    facts.add_column(no_wrap=True)
    facts.add_column(overflow="fold")
    for fact in description.facts(dataset, columns):
        facts.add_row(*fact)
    listing = table("column", "role", "dtype", "stored as", "shape", "first values", "range", "bytes", right=("bytes",))
    for column in columns:
        nbytes = f"{column.nbytes:,}" if column.exact else f"~{column.nbytes:,}"
        listing.add_row(
            *(column.name, column.role, column.dtype, column.stored_as, column.shape),
            *(column.note or column.first, column.range, nbytes),
        )
    show(screen(), facts, "", listing)
    if rows := min(sample, len(dataset)):
        whole = "all" if rows == len(dataset) else f"the first {rows:,}"
        say(f"First values and ranges are those of {whole} rows.")
    if not all(column.exact for column in columns):
        say(f"Shapes are those of the first {rows:,} rows: this store does not know them without reading all rows.")
    if dataset.indices and (shared := dataset.check_splits().shared):
        worst = max(shared, key=lambda found: found.rows[1])
        say(f"{worst}; `kinoml-data splits` lists what else the splits share", style="yellow")
    for column_name, reason in description.unreadable(dataset).items():
        say(f"not readable: {column_name}: {reason}", style="yellow")
    if hint := description.roles_hint(dataset):
        say(hint)


@app.command()
def splits(
    path: DataOrSpec,
    columns: Annotated[
        list[str] | None,
        typer.Option(
            "--column", metavar="NAME", help='A column to compare, or "X" for all inputs together; repeatable.'
        ),
    ] = None,
    fold: Annotated[
        int | None, typer.Option(metavar="N", help="Show the parts of the cross-validation on fold N instead.")
    ] = None,
    settings: Settings = None,
    name: DatasetName = None,
) -> None:
    """Show the sizes of the splits, and which values of each column two of them share.

    By default, it compares the columns that the splits are made from, the columns of text in meta, and the columns
    whose rows share values.
    """
    from kinoml_data.cli.terminal import say, specs

    for label, opening in specs(path, name, settings).items():
        if label:
            say(f"\n{label}")
        with opening.dataset(label or path, loads=True) as dataset:
            if fold is None:
                say(str(dataset.check_splits(columns)))
            else:
                parts = dataset.fold(fold)
                say(", ".join(f"{part} {len(rows):,}" for part, rows in parts.items()))


@app.command()
def convert(
    source: Annotated[str, typer.Argument(metavar="SRC", help="A data file or a spec.")],
    target: Annotated[
        str,
        typer.Argument(
            metavar="DST",
            help="The file to write, with {name} in it for a file with `datasets`. Its suffix selects the backend "
            "unless you name one.",
        ),
    ],
    overwrite: Annotated[bool, typer.Option("--overwrite", help="Replace DST if it exists.")] = False,
    backend: Annotated[str | None, typer.Option(metavar="NAME", help="The backend that writes DST.")] = None,
    workers: Annotated[int, typer.Option(min=0, metavar="N", help="Featurize in N processes.")] = 0,
    executor: Annotated[
        str | None, typer.Option(metavar="NAME", help="Featurize with the executor of a plugin, such as dask.")
    ] = None,
    address: Annotated[str | None, typer.Option(help="The address that the executor is created with.")] = None,
    failed: Annotated[
        Path | None,
        typer.Option(
            metavar="FILE",
            help="Leave out rows that cannot be featurized, and list them in this CSV file.",
        ),
    ] = None,
    share: Annotated[
        list[str] | None,
        typer.Option(metavar="COLUMN", help="A column whose equal rows are found and stored once; repeatable."),
    ] = None,
    log: Annotated[Path | None, typer.Option(metavar="FILE", help="Append the progress to this file.")] = None,
    settings: Settings = None,
    name: DatasetName = None,
) -> None:
    """Copy a dataset with its splits and spec into another file, or each dataset that a spec describes.

    The copy is read back and compared with the source before it replaces anything. It needs no roles: without them,
    all columns are copied.
    """
    from kinoml_data import registry
    from kinoml_data.cli.terminal import advice_on_rows, specs

    if address is not None and executor is None:
        raise SpecError("--address is the address of an executor; name the executor with --executor")
    openings = specs(source, name, settings)
    if failed is not None and len(openings) > 1:
        raise SpecError("--failed writes one file; convert the datasets one by one, with --dataset NAME")
    if len(openings) > 1 and "{name}" not in target:
        raise SpecError(
            f"{source} describes {len(openings)} datasets; write {{name}} in the target, such as "
            f"{quoted('{name}' + Path(target).suffix)}, or give --dataset NAME"
        )
    for label, opening in openings.items():
        path = target.replace("{name}", label) if label else target
        to = path if backend is None else {"backend": backend, "path": path}
        with advice_on_rows(source, None if failed is not None else "--failed FILE"), ExitStack() as opened:
            opening = opening.to_copy()
            dataset = opened.enter_context(
                opening.dataset(label or source, loads=True, omits_failures=failed is not None)
            )
            pool = opened.enter_context(registry.executor(executor)(address)) if executor is not None else None
            options = {"share": share or (), "failed": failed, "workers": workers, "executor": pool}
            _convert(dataset, path, log, target=to, overwrite=overwrite, **options)


def _convert(dataset: XyDataset, path: str, log: Path | None, **arguments: Any) -> None:
    from kinoml_data import conversion
    from kinoml_data.cli.terminal import progress, say

    start = time.perf_counter()
    with progress("copying", log) as report:
        arguments["progress"] = lambda stage, done, total: report(done, total, stage)
        spec = conversion.convert(dataset, **arguments)
    seconds = time.perf_counter() - start
    size = f", {format_size(Path(path).stat().st_size)}" if Path(path).is_file() else ""
    rows, omitted = len(dataset), ""
    if failed := arguments["failed"]:
        with failed.open(newline="", encoding="utf-8") as file:
            count = sum(1 for _ in csv.reader(file)) - 1
        rows, omitted = rows - count, f", without {count_of(count, 'row')} listed in {failed}" if count else ""
    content = f"{path}: {rows:,} rows{omitted}, {len(spec.columns)} columns{size}"
    say(f"{content}; written by {spec.storage.backend} and compared with the source in {seconds:.1f} s")


@app.command()
def check(
    path: Annotated[str, typer.Argument(metavar="SPEC", help="A spec or a data file.")],
    settings: Settings = None,
    name: DatasetName = None,
) -> None:
    """Check a spec, or each spec of a file with `datasets`, against its store.

    Opens the store and reads the first row. Prints OK, or every problem.
    """
    from kinoml_data.cli.terminal import say, specs
    from kinoml_data.dataset import description

    for label, opening in specs(path, name, settings).items():
        with opening.dataset(label or path, loads=True) as dataset:
            if len(dataset):
                dataset.head(1) if dataset.spec.X is None else dataset[0]
            say(f"OK  {label or path}: {dataset!r}")
            if hint := description.roles_hint(dataset):
                say(hint)


@app.command()
def lock(
    path: Annotated[str, typer.Argument(metavar="SPEC", help="A spec file (.yaml, .json, .toml).")],
) -> None:
    """Write the fingerprint of the data into a spec file, so that other data no longer opens with it.

    The fingerprint covers all columns of the dataset and its splits. All rows are read.
    """
    from kinoml_data.cli.terminal import say
    from kinoml_data.factory import load_dataset
    from kinoml_data.files import replacing
    from kinoml_data.spec.config import with_entry
    from kinoml_data.spec.dataset_spec import DatasetSpec

    file = Path(path)
    spec = DatasetSpec.from_file(file)
    with load_dataset(spec.replace(fingerprint=None)) as dataset:
        fingerprint = dataset.fingerprint()
    text = with_entry(file.read_text("utf-8-sig"), "fingerprint", fingerprint, file.suffix.lower())
    with replacing(file, overwrite=True) as temporary:
        temporary.write_text(text, "utf-8")
    change = "unchanged" if spec.fingerprint == fingerprint else f"was {spec.fingerprint or 'not set'}"
    say(f"{path}: fingerprint {fingerprint} ({change})")


@app.command()
def verify(
    path: DataOrSpec,
    every: Annotated[bool, typer.Option("--all", help=f"List every place, not just {SHOWN}.")] = False,
    name: DatasetName = None,
) -> None:
    """Read everything, compare all checksums, and list what is damaged or cannot be read.

    DAMAGED means that bytes are not what was written. NOT READ means that they are, but that the spec, a featurizer or
    the library cannot read them. Exits with 1 in both cases. UNCHECKED means that everything could be read, but that
    the store has no checksums which would show damage.
    """
    from kinoml_data.cli.terminal import specs

    results = [_verify(label or path, opening.spec, every=every) for label, opening in specs(path, name).items()]
    if not all(results):
        raise typer.Exit(1)


def _verify(path: str, spec: DatasetSpec | str, *, every: bool) -> bool:
    """Verify one dataset and print what was found. Returns True if everything could be read."""
    from kinoml_data.cli.terminal import progress, say
    from kinoml_data.verify import MAX_PLACES
    from kinoml_data.verify import verify as verify_data

    start = time.perf_counter()
    with progress("reading") as report:
        result = verify_data(spec, progress=report)
    for places, word, style in ((result.damage, "DAMAGED", "red"), (result.unread, "NOT READ", "yellow")):
        shown = places if every else places[:SHOWN]
        for place in shown:
            say(f"{word}  {place}", style=style)
        if len(places) > len(shown):
            say(f"... and {len(places) - len(shown):,} more places; --all lists them")
    if len(result.damage) + len(result.unread) >= MAX_PLACES:
        say(f"There may be more: reading stopped after {MAX_PLACES:,} places.")
    for column, reason in result.unreadable.items():
        say(f"not readable: {column}: {reason}", style="yellow")
    state = "UNCHECKED" if result.unchecked else "OK"
    state = state if result.complete else "NOT READ, " + count_of(sum(p.count for p in result.unread), "value")
    if not result.intact:
        state = f"DAMAGED, {count_of(result.damaged, 'value')}" if result.damaged else "DAMAGED"
    amount = f"{result.rows:,} rows of {count_of(result.columns, 'column')}, {format_size(result.nbytes)} read"
    say(f"{state}  {path}: {amount} in {time.perf_counter() - start:.1f} s")
    if result.unchecked is not None:
        say(f"integrity unknown: {result.unchecked}", style="yellow")
    return result.complete


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


def _warning_printer() -> Callable[..., None]:
    """Prints warnings, each of them once, although a command may open a dataset several times."""
    from kinoml_data.cli.terminal import say

    printed: set[str] = set()

    def show(message: Warning | str, *_: Any) -> None:
        if (line := one_line(message)) not in printed:
            printed.add(line)
            say(f"kinoml-data: {line}", style="yellow", stderr=True)

    return show


def _print_error(error: Exception) -> None:
    from kinoml_data.cli.terminal import say

    expected = isinstance(error, (KinomlDataError, OSError))
    title = type(error).__name__ if expected else f"unexpected {type(error).__name__}, please report it"
    say(f"kinoml-data: {title}", style="red", stderr=True)
    problems = [KinomlDataError(text) for text in error.problems] if isinstance(error, SpecError) else [error]
    for problem in problems:
        say(f"  {str(problem) or 'no message'}", stderr=True)
    say("  (--debug shows the traceback)", stderr=True)
