"""The command `kinoml-data report`."""

from __future__ import annotations

import time
from contextlib import ExitStack
from pathlib import Path
from typing import Annotated

import typer

from kinoml_data.cli.options import DataOrSpec, DatasetName, Settings
from kinoml_data.errors import CorruptStoreError, SpecError


def report(
    path: DataOrSpec,
    out: Annotated[Path, typer.Option("-o", "--out", metavar="FILE", help="The page to write.")] = Path("report.html"),
    overwrite: Annotated[bool, typer.Option("--overwrite", help="Replace FILE if it exists.")] = False,
    sample: Annotated[
        int, typer.Option(min=0, help="The number of rows to read of a column that is not read completely.")
    ] = 1000,
    fingerprint: Annotated[
        bool | None,
        typer.Option(
            help="Compute the fingerprint, which reads all rows of all columns, or leave it out. By default, it is "
            "computed if they take at most 128 MiB and need no featurizer."
        ),
    ] = None,
    settings: Settings = None,
    name: DatasetName = None,
) -> None:
    """Write a page of HTML about a dataset, or about each dataset that a spec describes.

    It shows columns, distributions of values and lengths, splits and what leaks, missing values, sizes, molecules if
    a plugin draws them, and versions. The page needs no other file and no network. It needs no roles. All rows of y
    and meta are read, and a sample of X.
    """
    from kinoml_data.cli.terminal import progress, say, specs
    from kinoml_data.report.page import check_report, dataset_html, write

    start = time.perf_counter()
    target = check_report(out, overwrite=overwrite)
    sections = []
    for label, opening in specs(path, name, settings).items():
        with ExitStack() as opened:
            try:
                dataset = opened.enter_context(opening.dataset(label or path, loads=True))
            except (SpecError, CorruptStoreError):  # of a value: the page shows the other columns, and says why
                dataset = opened.enter_context(opening.dataset(label or path, loads=False))
            shown = opened.enter_context(progress("reading"))
            title = label or dataset.spec.name or Path(path).name
            section = dataset_html(dataset, title, sample=sample, fingerprint=fingerprint, progress=shown)
            sections.append(section)
    write(target, f"{Path(path).name}: report", sections, overwrite=overwrite)
    say(f"{out}: {target.stat().st_size / 1e3:,.0f} kB, written in {time.perf_counter() - start:.1f} s")
