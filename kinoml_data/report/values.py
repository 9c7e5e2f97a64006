"""The section about measured values, by kind and split, and the sections about other columns and missing values."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from html import escape
from typing import Any

import numpy as np
from numpy.typing import NDArray

from kinoml_data.columns import Ragged
from kinoml_data.dataset.description import TEXT, ColumnFacts, Described, missing_in
from kinoml_data.errors import quoted
from kinoml_data.report.contents import ALL, Content, Group, Reported
from kinoml_data.report.figures import histogram
from kinoml_data.report.html import figure_html, folded_html, legend_html, note_html
from kinoml_data.spec.html import code_html, long_html, rows_html

FIGURES = 12  # of one section
MOST_GROUPS = 8  # more of them are not told apart in one figure
FREQUENT = 3  # texts that are shown with their counts
STATISTICS = ("rows", "values", "missing", "least", "5 %", "median", "mean", "95 %", "greatest")


def values_html(dataset: Reported, contents: Mapping[str, Content], groups: Sequence[Group]) -> str:
    """The values of y, as HTML. Without a y, those of every column with one number per row.

    Args:
        dataset: the dataset.
        contents: what was read of each column.
        groups: the splits.
    """
    spec, model = dataset.spec, dataset.observation_model
    names = spec.y_names if spec.X is not None else tuple(n for n, a in spec.columns.items() if not a.shape)
    names = tuple(name for name in names if name in contents and contents[name].column is not None)
    coded = [name for name in names if spec.columns[name].values is not None]
    kind, relation = getattr(model, "kind", None), getattr(model, "relation", None)
    drawn = groups if len(groups) <= MOST_GROUPS else [Group(ALL, np.ones(len(dataset), bool), groups[0].color)]
    figures: list[str] = []
    rows, left_out = [], 0
    for name in names:
        if name in coded or spec.columns[name].numpy.kind not in "biuf" or spec.columns[name].is_string:
            continue
        measured = name == (getattr(model, "value", None) or (names[0] if len(names) == 1 else None))
        for label, of_kind in _kinds(dataset, contents, kind if measured else None):
            content = contents[name]
            parts = {group.name: group.mask & of_kind for group in groups}
            for group in groups:
                bounds = _bounds(spec.columns, contents, relation, parts[group.name]) if measured else ""
                of_rows = (code_html(name), escape(label), escape(group.name), *_statistics(content, parts[group.name]))
                rows.append((*of_rows, escape(bounds)))
            if len(figures) == FIGURES:
                left_out += 1
                continue
            series = {g.color: _finite(content.numbers(g.mask & of_kind)) for g in drawn}
            svg, beyond = histogram(series, " ".join(filter(None, ("Distribution of", name, label))))
            figures.append(figure_html(svg, name, label, f"{beyond:,} values beyond the ends" if beyond else ""))
    header = ("column", "kind", "split", *STATISTICS, "bounds")
    kept = [place for place, title in enumerate(header) if place < 1 or any(row[place] for row in rows)]
    cells = [[row[place] for place in kept] for row in rows]
    table = folded_html("Statistics", [header[place] for place in kept], cells, numeric=STATISTICS)
    more = f"Only {FIGURES} figures are shown; the table has all {FIGURES + left_out} distributions."
    legend = legend_html((group.name, group.color) for group in drawn)
    picture = f'{legend}<div class="figures">{"".join(figures)}</div>' if any(figures) else ""
    counts = "".join(_counts(name, spec.columns[name].values or (), contents[name], groups) for name in coded)
    if sampled := [name for name in names if len(contents[name].positions) < len(dataset)]:
        counts += note_html(f"Of {', '.join(sampled)}, only {len(contents[sampled[0]].positions):,} rows were read.")
    return picture + (note_html(more) if left_out else "") + table + counts


def texts_html(dataset: Reported, contents: Mapping[str, Content], facts: Sequence[ColumnFacts]) -> str:
    """The columns that are neither X nor y, as HTML: how many different values, and the most frequent ones."""
    rows = []
    for column in facts:
        content = contents.get(column.name)
        if content is None or content.column is None or column.role in ("X", "y"):
            continue
        values: Sequence[Any] = content.texts
        if not dataset.spec.columns[column.name].is_string:
            if isinstance(content.column, Ragged) or content.column.ndim > 1:
                continue
            values = [math.nan if value != value else value for value in content.column.tolist()]  # one NaN for all
        counts = Counter(values)
        frequent = [f"{_shown(value)} {count:,}" for value, count in counts.most_common(FREQUENT) if count > 1]
        read = "" if len(values) == len(dataset) else f" of {len(values):,} rows"
        cells = (escape(column.dtype), f"{len(counts):,}{read}", long_html(", ".join(frequent) or "none occurs twice"))
        rows.append((code_html(column.name), *cells))
    return rows_html(("column", "dtype", "different values", "most frequent"), rows) if rows else ""


def missing_html(dataset: Described, contents: Mapping[str, Content], facts: Sequence[ColumnFacts], sample: int) -> str:
    """The columns with missing values, as HTML: NaN and empty texts."""
    rows = []
    for column in facts:
        content = contents.get(column.name)
        if content is not None and content.column is not None:
            read, missing = len(content.positions), _missing(content)
        else:
            read, missing = min(sample, len(dataset)), column.missing
        if missing:
            what = "empty texts" if dataset.spec.columns[column.name].is_string else "NaN"
            rows.append((code_html(column.name), column.role, f"{missing:,}", what, f"{read:,}"))
    header = ("column", "role", "missing", "what", "rows read")
    return rows_html(header, rows, numeric=("missing", "rows read")) if rows else ""


def _kinds(
    dataset: Reported, contents: Mapping[str, Content], kind: str | None
) -> Iterator[tuple[str, NDArray[np.bool_]]]:
    """Each kind of measurement, with a mask of its rows; all rows under the name "" if there are no kinds."""
    content = contents.get(kind) if kind is not None else None
    if kind is None or content is None or content.column is None:
        yield "", np.ones(len(dataset), bool)
        return
    for place, text in enumerate(dataset.spec.columns[kind].values or ()):
        mask = np.zeros(len(dataset), bool)
        mask[content.positions] = content.column == place
        yield text, mask


def _statistics(content: Content, mask: NDArray[np.bool_]) -> list[str]:
    """The cells of `STATISTICS`."""
    values = content.numbers(mask)
    finite = _finite(values)
    missing = int(np.isnan(values).sum())
    numbers = [
        f"{np.count_nonzero(mask[content.positions]):,}",
        f"{len(values) - missing:,}",
        f"{missing:,}" if missing else "",
    ]
    if not len(finite):
        return numbers + [""] * 6
    with np.errstate(over="ignore", invalid="ignore"):
        low, median, high = np.quantile(finite, [0.05, 0.5, 0.95])
        statistics = (finite.min(), low, median, finite.mean(), high, finite.max())
    return numbers + [f"{value:.4g}" for value in statistics]


def _finite(values: NDArray[np.float64]) -> NDArray[np.float64]:
    return values[np.isfinite(values)]


def _bounds(
    columns: Mapping[str, Any], contents: Mapping[str, Content], relation: str | None, mask: NDArray[np.bool_]
) -> str:
    """How many of some rows are bounds, such as `< 12, > 3`."""
    content = contents.get(relation) if relation is not None else None
    if relation is None or content is None or content.column is None:
        return ""
    counts = Counter(content.numbers(mask).astype(int).tolist())
    texts = columns[relation].values or ()
    return ", ".join(f"{text} {counts[place]:,}" for place, text in enumerate(texts) if text != "=" and counts[place])


def _counts(name: str, texts: Sequence[str], content: Content, groups: Sequence[Group]) -> str:
    """How many rows of each split have each text of a column with `values`."""
    counts = [np.bincount(content.numbers(group.mask).astype(int), minlength=len(texts)) for group in groups]
    rows = [(code_html(text), *(f"{int(count[place]):,}" for count in counts)) for place, text in enumerate(texts)]
    names = [group.name for group in groups]
    return rows_html((name, *names), rows, numeric=names)


def _missing(content: Content) -> int:
    if content.texts:
        return content.texts.count("")
    return 0 if content.column is None else missing_in(content.column)


def _shown(value: Any) -> str:
    return quoted(value, TEXT) if isinstance(value, str) else f"{value:.4g}" if isinstance(value, float) else str(value)
