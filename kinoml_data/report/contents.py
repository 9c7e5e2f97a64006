"""What the sections of a report read: y, meta and texts completely if they are stored, other columns as a sample."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Protocol

import numpy as np
from numpy.typing import NDArray

from kinoml_data.columns import Column, Ragged
from kinoml_data.dataset.description import ColumnFacts, Described, is_computed
from kinoml_data.dataset.split_check import COLORS, SplitCheck
from kinoml_data.errors import KinomlDataError, one_line

LIMIT = 1 << 27  # bytes; more than this is read only if it is asked for
ALL, REST = "all rows", "in no split"
GREY = "#8c8c8c"


class Reported(Described, Protocol):
    """What a dataset has to have for a report."""

    @property
    def indices(self) -> dict[str, NDArray[np.int64]]: ...

    def check_splits(self, columns: list[str]) -> SplitCheck: ...

    def fingerprint(self) -> str: ...


@dataclass(frozen=True)
class Group:
    """Some rows of a dataset: those of a split, those in no split, or all.

    Attributes:
        name: the name of the split, or `ALL` or `REST`.
        mask: bool `(rows,)`, True for the rows of the group.
        color: its color in figures.
    """

    name: str
    mask: NDArray[np.bool_]
    color: str


@dataclass(frozen=True)
class Content:
    """The rows of a column that were read.

    Attributes:
        positions: their positions in the dataset: int64 `(rows,)`, in ascending order.
        column: the rows; None if they cannot be read.
        problem: why they cannot be read; otherwise empty.
        texts: the rows as texts if the column contains strings; otherwise empty.
    """

    positions: NDArray[np.int64]
    column: Column | None
    problem: str
    texts: list[str]

    def numbers(self, mask: NDArray[np.bool_]) -> NDArray[np.float64]:
        """All values of some rows: float64 `(values,)`, with NaN for missing ones.

        Args:
            mask: bool `(rows of the dataset,)`; the rows that were not read are left out.
        """
        assert self.column is not None
        column, places = self.column, np.flatnonzero(mask[self.positions])
        values = column.take(places).values if isinstance(column, Ragged) else column.take(places, axis=0)
        return values.reshape(-1).astype(np.float64)


def groups_of(dataset: Reported) -> list[Group]:
    """The splits of a dataset and the rows in none of them; all rows as one group if there are no splits."""
    groups, rest = [], np.ones(len(dataset), bool)
    colors = COLORS * (len(dataset.indices) + 1)
    for (name, rows), color in zip(dataset.indices.items(), colors, strict=False):
        groups.append(Group(name, np.zeros(len(dataset), bool), color))
        groups[-1].mask[rows] = True
        rest[rows] = False
    if not groups:
        return [Group(ALL, rest, colors[0])]
    return [*groups, Group(REST, rest, GREY)] if rest.any() else groups


def content_of(dataset: Reported, facts: ColumnFacts, sample: int) -> Content:
    """Read a column: all rows if they take at most `LIMIT` bytes and need no featurizer, and otherwise a sample.

    Args:
        dataset: the dataset.
        facts: what is known about the column.
        sample: the number of rows of a sample, which are spread evenly.
    """
    reads_all = facts.nbytes <= LIMIT and (
        facts.name in dataset.spec.split_columns or not is_computed(dataset, facts.name)
    )
    count = len(dataset) if reads_all else min(sample, len(dataset))
    positions = spread(len(dataset), count)
    try:
        column = dataset._session.binding.read(dataset.rows[positions], [facts.name])[facts.name]
        if isinstance(column, Ragged) and dataset.spec.columns[facts.name].is_string:
            return Content(positions, column, "", column.strings())
        return Content(positions, column, "", [])
    except (KinomlDataError, UnicodeDecodeError) as error:
        return Content(positions, None, one_line(error, 300), [])


def spread(length: int, count: int) -> NDArray[np.int64]:
    """Up to `count` different numbers below `length`, spread evenly: int64, in ascending order."""
    numbers = np.arange(min(count, length))
    return numbers * (length - 1) // max(len(numbers) - 1, 1)
