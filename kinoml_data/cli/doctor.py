"""`kinoml-data doctor`: says why a dataset is slow or large, and what to change."""

from __future__ import annotations

from functools import partial
from typing import TYPE_CHECKING, Annotated

import typer

from kinoml_data.cli.options import DataOrSpec, DatasetName, Settings
from kinoml_data.cli.terminal import advice_on_rows, say, screen, specs
from kinoml_data.errors import count_of, format_size

if TYPE_CHECKING:
    from kinoml_data.doctor.examination import Examination


def doctor(
    path: DataOrSpec,
    batch_size: Annotated[int, typer.Option(min=1, metavar="N", help="The number of rows of a batch.")] = 128,
    workers: Annotated[
        int, typer.Option(min=0, metavar="N", help="The number of worker processes of your loader.")
    ] = 0,
    seconds: Annotated[
        float, typer.Option(min=0, metavar="S", help="About how long to measure, apart from opening the dataset.")
    ] = 10.0,
    settings: Settings = None,
    name: DatasetName = None,
) -> None:
    """Measure a few batches, and say why a dataset is slow or large, what to change, and what the change gains.

    Some rows are copied into a temporary folder to measure the gain. Nothing else is written.
    """
    from kinoml_data.doctor.advice import Origin
    from kinoml_data.doctor.examination import examine
    from kinoml_data.factory import open_to_copy

    openings = specs(path, name, settings)
    first = next(iter(openings))
    for label, opening in openings.items():
        if label != first:
            say("")
        origin = Origin(path, label, tuple(settings or ()))
        measuring = screen(stderr=True).status(f"measuring {label or path}")
        with measuring, advice_on_rows(path, f"`kinoml-data convert {path} FILE --failed FAILED`"):
            opened = partial(open_to_copy, opening.spec, **opening.options)
            examination = examine(opened, origin, batch_size=batch_size, workers=workers, seconds=seconds)
        _print(label or path, examination)


def _print(label: str, examination: Examination) -> None:
    on_disk = f", {format_size(examination.on_disk)} on disk" if examination.on_disk else ""
    if not examination.rows:
        say(f"{label}: 0 rows{on_disk}; there is nothing to measure")
        return
    batch = f"a batch of {count_of(examination.batch_size, 'row')} takes {1e3 * examination.seconds:.3g} ms"
    say(f"{label}: {count_of(examination.rows, 'row')}{on_disk}; {batch} and {format_size(examination.batch_nbytes)}")
    if examination.sample < examination.rows:
        say(f"Figures are those of a sample of {count_of(examination.sample, 'row')}.")
    if not examination.advice:
        say("Nothing is worth changing.")
    for number, advice in enumerate(examination.advice, 1):
        say(f"\n{number}. {advice.of}: {advice.gain:,.1f} times less", style="bold")
        where = "in a shell" if advice.change.startswith("kinoml-data ") else "in Python"
        say(f"{advice.problem[:1].upper()}{advice.problem[1:]}. Run {where}:\n\n{advice.change}")
    if len(examination.advice) > 1:
        say("\nEach gain is that of one change alone: make one, and run the doctor again.")
