"""From the raw values of a table to measurements: which rows are valid, on which scale, and which are kept."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from statistics import fmean, median
from typing import NamedTuple

import numpy as np
from kinoml_data.errors import SpecError, quoted
from kinoml_data.plugin import keys_by_content
from numpy.typing import NDArray

from kinoml_data_measurements.reading import Rows
from kinoml_data_measurements.units import ABOVE, BELOW, EQUAL, MEANINGS, RELATIONS, is_percent, unit_of

Mask = NDArray[np.bool_]
NONE = -1
TURNED = np.array([RELATIONS.index(relation) for relation in (EQUAL, ABOVE, BELOW)])  # what a logarithm with - does
COMBINE: Mapping[str, Callable[[Sequence[float]], float]] = {
    "first": lambda values: values[0],
    "median": median,
    "mean": fmean,
}


class Texts(NamedTuple):
    """A column of texts: the distinct texts, and for each row the place of its text among them."""

    distinct: Sequence[str]
    places: Rows

    def of(self, row: int) -> str:
        """The text of a row."""
        return self.distinct[int(self.places[row])]


class RawTable(NamedTuple):
    """The raw columns of all rows. An empty text is a missing value.

    Attributes:
        values: float64 `(rows,)`; NaN if there is no number.
        texts: the texts that the values come from; None if they are stored as numbers.
        units, kinds, relations: the other columns.
        ids: for each column that tells measurements apart, the number of each row's distinct value; -1 if it is
            missing. If there are no such columns, each row is a measurement of its own.
        unidentified: the rows that lack a value in a column of `by`, with the reason.
    """

    values: NDArray[np.float64]
    texts: Texts | None
    units: Texts
    kinds: Texts
    relations: Texts
    ids: Sequence[Rows]
    unidentified: Mapping[int, str]

    def value_text(self, row: int) -> str:
        """The value of a row as a text; empty if it is missing."""
        if self.texts is not None:
            return self.texts.of(row)
        return "" if math.isnan(self.values[row]) else str(self.values[row])


class Measured(NamedTuple):
    """The measurements of a table.

    Attributes:
        rows: int64 `(measurements,)`, the row of the table that each measurement stands for, in ascending order.
        values: float64 `(measurements,)`, p-values or percentages.
        kinds: int64 `(measurements,)`, places in `names`.
        relations: int64 `(measurements,)`, places in `RELATIONS`.
        names: the new names of the kinds.
        reasons: the rejected rows, in ascending order, and why. A reason begins with what is wrong, and a colon.
        merged: the number of rows that are part of the measurement of another row.
    """

    rows: Rows
    values: NDArray[np.float64]
    kinds: Rows
    relations: Rows
    names: Sequence[str]
    reasons: Mapping[int, str]
    merged: int


class _Rows:
    """The rows that are valid so far, and why the others are not."""

    def __init__(self, count: int) -> None:
        self.valid = np.ones(count, bool)
        self.reasons: dict[int, str] = {}

    def reject(self, rows: Mask, reason: Callable[[int], str]) -> None:
        """Reject the rows of the mask that are still valid."""
        for row in np.flatnonzero(rows & self.valid).tolist():
            self.reasons[row] = reason(row)
        self.valid &= ~rows

    def reject_one(self, row: int, reason: str) -> None:
        """Reject a row that is valid."""
        self.reasons[row] = reason
        self.valid[row] = False

    def leave_out(self, rows: Sequence[int]) -> int:
        """Leave out rows that are merged into another one; returns their number."""
        self.valid[rows] = False
        return len(rows)


def measured(
    raw: RawTable,
    *,
    kinds: Mapping[str, str],
    relations: Mapping[str, str],
    ranges: Mapping[str, tuple[float, float]],
    replicates: str,
) -> Measured:
    """The measurements of a table. The options are those of `Measurements`; `ranges` has every kind.

    Raises:
        SpecError: several rows are one measurement, and `replicates` is "error".
    """
    names, values = list(dict.fromkeys(kinds.values())), raw.values
    rows = _Rows(len(values))
    rows.reject(np.isin(np.arange(len(values)), list(raw.unidentified)), lambda row: raw.unidentified[row])
    rows.reject(~np.isfinite(values), lambda row: f"value: {_problem_of_value(raw, row)}")

    kind = _places([names.index(kinds[text]) if text in kinds else NONE for text in raw.kinds.distinct], raw.kinds)
    rows.reject(kind == NONE, lambda row: f"kind: {_shown(raw.kinds.of(row), 'is not one of `kinds`')}")

    units = [unit_of(text) for text in raw.units.distinct]
    exponent = _places([NONE if unit is None else unit.exponent for unit in units], raw.units)
    rows.reject(exponent == NONE, lambda row: f"unit: {_shown(raw.units.of(row), 'is not a known unit')}")
    percent = _places([unit is not None and unit.is_percent for unit in units], raw.units).astype(bool)
    rows.reject(
        percent != np.array([is_percent(name) for name in names])[kind],
        lambda row: f"unit: {quoted(raw.units.of(row))} does not fit the kind {quoted(names[kind[row]])}",
    )

    meanings = {**MEANINGS, **relations}
    places = [RELATIONS.index(meanings[text]) if text in meanings else NONE for text in raw.relations.distinct]
    relation = _places(places, raw.relations)
    what = "is not a known relation; `relations` can give its meaning"
    rows.reject(relation == NONE, lambda row: f"relation: {_shown(raw.relations.of(row), what)}")

    logarithm = _places([unit is not None and unit.is_log for unit in units], raw.units).astype(bool)
    concentration = ~(logarithm | percent)
    rows.reject(
        concentration & (values <= 0), lambda row: f"value: {values[row]:g} {raw.units.of(row)} is not more than 0"
    )
    with np.errstate(divide="ignore", invalid="ignore"):
        values = np.where(concentration, exponent - np.log10(values), np.where(logarithm, exponent + values, values))
    relation = np.where(concentration, TURNED[relation], relation)
    low, high = np.array([ranges[name] for name in names]).reshape(-1, 2)[kind].T
    rows.reject(
        ~((low <= values) & (values <= high)),
        lambda row: f"range: {names[kind[row]]} {values[row]:g} is not in {low[row]:g} to {high[row]:g}",
    )

    candidates = np.flatnonzero(rows.valid)
    kept, merged = candidates, 0
    if raw.ids:
        same = keys_by_content(np.stack([*raw.ids, kind], axis=1)[candidates])
        values = values.copy()
        merged = _merge(_groups(candidates, same), values, relation, rows, replicates)
        kept = np.flatnonzero(rows.valid)
    assert len(kept) + len(rows.reasons) + merged == len(values), "each row is kept, rejected or merged"
    reasons = dict(sorted(rows.reasons.items()))
    return Measured(kept, values[kept], kind[kept], relation[kept], names, reasons, merged)


def _places(of_distinct: Sequence[int], texts: Texts) -> Rows:
    return np.array(of_distinct, np.int64)[texts.places]


def _shown(text: str, problem: str) -> str:
    return f"{quoted(text)} {problem}" if text else "missing"


def _problem_of_value(raw: RawTable, row: int) -> str:
    if math.isinf(raw.values[row]):
        return "infinite"
    return _shown(raw.value_text(row), "is not a number")


def _groups(rows: Rows, same: Rows) -> list[list[int]]:
    """The rows that are one measurement with others, for each such measurement in ascending order."""
    order = np.argsort(same, kind="stable")
    ends = np.flatnonzero(np.diff(same[order], append=NONE)) + 1
    starts = np.concatenate([[0], ends])[: len(ends)]
    several = ends - starts > 1
    return [rows[order[a:b]].tolist() for a, b in zip(starts[several], ends[several], strict=True)]


def _merge(
    groups: Sequence[Sequence[int]], values: NDArray[np.float64], relation: Rows, rows: _Rows, replicates: str
) -> int:
    """Make one row of the rows of each measurement, which gets their value; returns how many rows are merged.

    Exact values are combined. Beside them, bounds are rejected: they add nothing, or contradict the value. If there are
    only bounds, the tightest of each side is kept, unless the two contradict each other.
    """
    merged = 0
    for group in groups:
        if replicates == "error":
            raise SpecError(
                f"rows {group[0]} and {group[1]} of the source are the same measurement: they have the same kind, "
                "and equal values in the columns `by`; add `conditions`, or specify `replicates`: median, mean or first"
            )
        exact, below, above = ([row for row in group if relation[row] == place] for place in range(len(RELATIONS)))
        if exact:
            keep = exact[0]
            values[keep] = COMBINE[replicates](values[exact].tolist())
            for row in below + above:
                difference = values[row] - values[keep]
                fits = difference >= 0 if relation[row] == RELATIONS.index(BELOW) else difference <= 0
                says = "adds nothing to" if fits else "contradicts"
                rows.reject_one(row, f"bound: it {says} the exact value {values[keep]:g} of row {keep}")
            merged += rows.leave_out(exact[1:])
            continue
        kept = [tightest(side, key=values.__getitem__) for side, tightest in ((below, min), (above, max)) if side]
        if replicates == "first":
            kept = [side[0] for side in (below, above) if side]
        if len(kept) == 2 and values[kept[0]] <= values[kept[1]]:
            for row in group:
                rows.reject_one(row, f"bound: rows {kept[0]} and {kept[1]} of one measurement contradict each other")
        else:
            merged += rows.leave_out([row for row in group if row not in kept])
    return merged
