"""How the command prints. In a file or a pipe, the output is plain text, and long lines are not wrapped."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from kinoml_data.errors import CorruptStoreError, FeaturizationError, SpecError, quoted, unknown

if TYPE_CHECKING:
    from rich.console import Console
    from rich.table import Table

    from kinoml_data.dataset.dataset import XyDataset
    from kinoml_data.spec.dataset_spec import DatasetSpec

PLAIN_WIDTH = 100_000  # in a file or a pipe, every cell is on one line
SECONDS_PER_LINE = 10.0  # between lines of progress in a file or a pipe


def screen(*, stderr: bool = False) -> Console:
    """The console to print to. It prints plain, unbroken lines if it is not a terminal."""
    from rich.console import Console

    console = Console(stderr=stderr, highlight=False, emoji=False)
    if not console.is_terminal:
        console.width = PLAIN_WIDTH
    return console


def say(text: str, *, style: str | None = None, stderr: bool = False) -> None:
    """Print a text as it is, without markup or added line ends."""
    screen(stderr=stderr).print(text, style=style, markup=False, soft_wrap=True)


def show(console: Console, *parts: Any) -> None:
    """Print tables. If the output is not a terminal, leave out the blanks that fill the last column."""
    if console.is_terminal:
        console.print(*parts, sep="\n", markup=False)
        return
    with console.capture() as captured:
        console.print(*parts, sep="\n", markup=False)
    console.out("\n".join(line.rstrip() for line in captured.get().rstrip("\n").split("\n")), highlight=False)


def table(*columns: str, right: Sequence[str] = ()) -> Table:
    """An empty table whose cells wrap rather than lose text."""
    from rich import box
    from rich.table import Table

    plain = not screen().is_terminal
    empty = Table(
        box=None if plain else box.SIMPLE_HEAD, show_edge=False, pad_edge=False, padding=(0, 2 if plain else 1, 0, 0)
    )
    for name in columns:
        empty.add_column(
            name, justify="right" if name in right else "left", overflow="fold", no_wrap=name == columns[0]
        )
    return empty


@contextmanager
def progress(task: str, log: Path | None = None) -> Iterator[Callable[..., None]]:
    """Show the progress of a task: `report(done, total)` moves a bar.

    If the output is not a terminal, it prints a line every `SECONDS_PER_LINE` instead; such lines are also appended to
    the file `log`. `report(done, total, stage)` renames the task, if it has several stages.
    """
    from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn

    console = screen(stderr=True)
    started = last_line = time.monotonic()
    rate = TextColumn("{task.fields[rate]}")
    fields = TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), rate, TimeElapsedColumn()
    with Progress(*fields, console=console, transient=True, disable=not console.is_terminal) as bar:
        bar_task = bar.add_task(task, total=None, rate="")
        begun = ""

        def report(done: int, total: int, stage: str = task) -> None:
            nonlocal started, last_line, begun
            now = time.monotonic()
            if (name := stage.partition(",")[0]) != begun:
                begun, started = name, now
            rate = f"{done / (now - started):,.0f}/s" if now - started > 1 else ""
            bar.update(bar_task, completed=done, total=total, description=stage, rate=rate)
            if now - last_line >= SECONDS_PER_LINE or (log is not None and done == total):
                last_line = now
                line = f"{stage}, {done:,} of {total:,}" + (f", {rate}" if rate else "")
                if log is not None:
                    with log.open("a", encoding="utf-8") as file:
                        file.write(f"{time.strftime('%Y-%m-%d %H:%M:%S')} {line}\n")
                if not console.is_terminal:
                    say(f"kinoml-data: {line}", stderr=True)

        yield report


@contextmanager
def advice_on_rows(path: str, leaving_out: str | None) -> Iterator[None]:
    """Add to the error for a row that cannot be read how to list such rows, and what leaves them out, if not None."""
    try:
        yield
    except (CorruptStoreError, FeaturizationError, SpecError) as error:
        if not isinstance(error, FeaturizationError) and ", row " not in str(error):
            raise
        way = f"`kinoml-data verify {path}` lists every row that cannot be read"
        if isinstance(error, FeaturizationError) and leaving_out is not None:
            way += f", and {leaving_out} leaves such rows out"
        raise type(error)(f"{error}; {way}") from error


def specs(path: str, name: str | None = None, settings: Sequence[str] | None = None) -> dict[str, Opening]:
    """What to open for a path: the spec of one dataset under the name "", or those of a file with `datasets` by name.

    Args:
        path: a data file or a spec.
        name: only the dataset of this name in a file with `datasets`.
        settings: texts such as `key.key=value`, which replace values in the spec.

    Raises:
        SpecError: the file does not describe a dataset called `name`; `name` is given for a single dataset; or
            `settings` are given for several datasets.
    """
    from kinoml_data.several import specs_by_name
    from kinoml_data.spec import config

    file = config.expanded(path)
    if file.suffix.lower() not in config.SUFFIXES or "datasets" not in config.read(file):
        if name is not None:
            raise SpecError(f"--dataset {quoted(name)}: {quoted(path)} describes a single dataset; leave --dataset out")
        return {"": _with_settings(path, dict(map(parse_setting, settings))) if settings else Opening(path, {})}
    if settings:
        raise SpecError("--set changes a single dataset, but the file describes several; edit the file")
    found = specs_by_name(path)
    if name is not None and name not in found:
        raise SpecError(f"--dataset: {unknown(name, found, 'dataset')}")
    names = found if name is None else [name]
    return {key: Opening(found[key](), {}) for key in names}


@dataclass(frozen=True)
class Opening:
    """A spec or its path, and options of its outermost backend that replace those in the spec."""

    spec: DatasetSpec | str
    options: Mapping[str, Any]

    def to_copy(self) -> Opening:
        """The same dataset as `convert` opens it."""
        from kinoml_data.conversion import to_copy

        return self if self.options else Opening(to_copy(self.spec), {})

    @contextmanager
    def dataset(self, label: str, *, loads: bool, omits_failures: bool = False) -> Iterator[XyDataset]:
        """The open dataset, which needs no roles; see `open_to_copy`. A terminal shows that it is being opened."""
        from kinoml_data.factory import open_to_copy

        console = screen(stderr=True)
        with console.status(f"opening {label}") if console.is_terminal else nullcontext():
            dataset = open_to_copy(self.spec, loads=loads, omits_failures=omits_failures, **self.options)
        with dataset:
            yield dataset


def parse_setting(text: str) -> tuple[str, Any]:
    """The key and the value of `key.key=value`; the value is read as YAML.

    Raises:
        SpecError: the text does not have this form.
    """
    from kinoml_data.spec import config

    key, equals, value = text.partition("=")
    if not equals or not all(key.split(".")):
        raise SpecError(f"--set {quoted(text)}: write KEY=VALUE, such as storage.backend=in-memory")
    return key, config.parse(f"value: {value}".encode(), ".yaml")["value"]


def _with_settings(path: str, settings: Mapping[str, Any]) -> Opening:
    from kinoml_data.spec.dataset_spec import DatasetSpec
    from kinoml_data.spec_sources import as_spec

    spec = as_spec(path, None, settings.get("storage.backend"))
    spec_dict = spec.to_mapping()
    # `load_dataset` takes the options of the outermost backend with its name, which may be that of a wrapper.
    options = {}
    for dotted_key, value in settings.items():
        *parents, key = dotted_key.split(".")
        if parents == ["storage"]:
            options[key] = value
            continue
        parent = spec_dict
        for name in parents:
            parent = parent.setdefault(name, {})
            if not isinstance(parent, dict):
                raise SpecError(f"--set {dotted_key}: {quoted(name)} is {quoted(parent)}, which has no keys")
        parent[key] = value
    return Opening(DatasetSpec.parse(spec_dict, spec.base), options)
