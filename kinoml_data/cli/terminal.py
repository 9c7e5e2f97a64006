"""What the command prints with: plain and whole where the output is no terminal."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from rich import box
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn
from rich.table import Table

from kinoml_data.conversion import Progress as Report
from kinoml_data.dataset.dataset import XyDataset
from kinoml_data.errors import SpecError, quoted
from kinoml_data.factory import as_spec, load_dataset
from kinoml_data.spec import config

PLAIN_WIDTH = 100_000  # a file or a pipe gets every cell on one line


def screen(*, stderr: bool = False) -> Console:
    """Where to print. What is no terminal gets plain text, and lines as long as they are."""
    console = Console(stderr=stderr, highlight=False, emoji=False)
    if not console.is_terminal:
        console.width = PLAIN_WIDTH
    return console


def show(console: Console, *parts: Any) -> None:
    """Print tables, without the blanks that fill their last column where the output is no terminal."""
    if console.is_terminal:
        console.print(*parts, sep="\n", markup=False)
        return
    with console.capture() as captured:
        console.print(*parts, sep="\n", markup=False)
    console.out("\n".join(line.rstrip() for line in captured.get().rstrip("\n").split("\n")), highlight=False)


def table(*columns: str, right: Sequence[str] = ()) -> Table:
    """An empty table whose cells wrap rather than lose text."""
    plain = not screen().is_terminal
    style = None if plain else box.SIMPLE_HEAD
    made = Table(box=style, show_edge=False, pad_edge=False, padding=(0, 2 if plain else 1, 0, 0))
    for name in columns:
        made.add_column(name, justify="right" if name in right else "left", overflow="fold")
    return made


def size(count: int) -> str:
    """`12.3 kB`."""
    return f"{count} B" if count < 1000 else f"{count / 1e3:.1f} kB" if count < 1e6 else f"{count / 1e6:,.1f} MB"


@contextmanager
def progress(what: str) -> Iterator[Report]:
    """A bar on a terminal, to be told `(done, total)`."""
    console = screen(stderr=True)
    parts = TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeElapsedColumn()
    with Progress(*parts, console=console, transient=True, disable=not console.is_terminal) as bar:
        task = bar.add_task(what, total=None)

        def report(done: int, total: int) -> None:
            # The last call comes before the copy is compared, which takes as long again.
            bar.update(task, completed=done, total=total, description=what if done < total else "comparing")

        yield report


@contextmanager
def opened(path: str, settings: Sequence[str] | None = None) -> Iterator[XyDataset]:
    """The dataset of a path, with a sign of life while it opens; `settings` are `key.key=value` in its spec."""
    console = screen(stderr=True)
    with console.status(f"opening {path}") if console.is_terminal else progress(""):
        dataset = _with_settings(path, dict(map(setting, settings))) if settings else load_dataset(path)
    with dataset:
        yield dataset


def setting(text: str) -> tuple[str, Any]:
    """`key.key=value` as a key and a value, read as YAML would be.

    Raises:
        SpecError: it is not of that form.
    """
    key, equals, value = text.partition("=")
    if not equals or not all(key.split(".")):
        raise SpecError(f"--set {quoted(text)}: write KEY=VALUE, such as storage.backend=in-memory")
    return key, config.parse(f"value: {value}".encode(), ".yaml")["value"]


def _with_settings(path: str, settings: Mapping[str, Any]) -> XyDataset:
    spec = as_spec(path)
    said = spec.to_mapping()
    # The options of the outermost backend go with its name, which may be another one over the same data.
    options = {}
    for dotted, value in settings.items():
        *way, last = dotted.split(".")
        if way == ["storage"]:
            options[last] = value
            continue
        inner = said
        for key in way:
            inner = inner.setdefault(key, {})
            if not isinstance(inner, dict):
                raise SpecError(f"--set {dotted}: {quoted(key)} holds {quoted(inner)}, nothing stands below it")
        inner[last] = value
    return load_dataset(said, base=spec.base, **options)


def files(dataset: XyDataset) -> list[Path]:
    """The files that the storage of a dataset names."""
    found: list[Path] = []
    storage: Any = dataset.spec.storage.model_dump(mode="json")
    while isinstance(storage, Mapping):
        if isinstance(path := storage.get("path"), str) and (dataset.spec.base / path).is_file():
            found.append(dataset.spec.base / path)
        storage = storage.get("source")
    return found
