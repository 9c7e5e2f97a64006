"""Examines a dataset: measures a few batches, and collects what is worth changing."""

from __future__ import annotations

import tempfile
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from kinoml_data.dataset.dataset import XyDataset
from kinoml_data.doctor.advice import Advice, Origin
from kinoml_data.doctor.case import Case
from kinoml_data.doctor.size_findings import padding, repeated_rows, zeros_and_ones
from kinoml_data.doctor.time_findings import computed_features, in_memory, layout, workers

FINDINGS = (computed_features, layout, in_memory, workers, repeated_rows, zeros_and_ones, padding)


@dataclass(frozen=True)
class Examination:
    """What was measured, and what is worth changing.

    Attributes:
        rows: the number of rows of the dataset.
        sample: the number of rows that were measured.
        batch_size: the number of rows of the batches that were measured.
        seconds: the least time of a batch, with features that are remembered.
        batch_nbytes: the mean number of bytes of a batch of X and y, or of all columns without roles, without padding.
        on_disk: the number of bytes of the files and folders that the storage names.
        advice: what is worth changing, the largest gain first.
    """

    rows: int
    sample: int
    batch_size: int
    seconds: float
    batch_nbytes: int
    on_disk: int
    advice: tuple[Advice, ...]


def examine(
    opened: Callable[[], XyDataset],
    origin: Origin,
    *,
    batch_size: int = 128,
    workers: int = 0,
    seconds: float = 10.0,
) -> Examination:
    """Examine a dataset. Some of its rows are copied into a temporary folder, which is deleted afterwards.

    Args:
        opened: opens the dataset, which needs no roles.
        origin: how the user names the dataset, for the commands of an advice.
        batch_size: the number of rows of a batch; a smaller batch is timed if reading so many rows takes too long.
        workers: the number of worker processes that are used at present.
        seconds: about how long the measurements may take, apart from opening the dataset.

    Raises:
        KinomlDataError: whatever opening the dataset or reading its rows raises.
    """
    with (
        tempfile.TemporaryDirectory(prefix="kinoml-data-doctor-") as folder,
        Case(opened, origin, Path(folder), batch_size=batch_size, workers=workers, seconds=seconds) as case,
    ):
        if not case.rows:
            return Examination(0, 0, 0, 0.0, 0, case.on_disk, ())
        advice = [each for finding in FINDINGS for each in finding(case)]
        size = len(case.batches[0])
        return Examination(
            case.rows,
            len(case.sample),
            size,
            case.times["now"],
            round(sum(case.batch_nbytes.values()) * size / case.batch_size),
            case.on_disk,
            tuple(sorted(advice, key=lambda each: -each.gain)),
        )
