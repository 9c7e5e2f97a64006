"""Datasets as HTML for a notebook: one table of columns, with sections that can be folded."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from html import escape

from kinoml_data.dataset import description
from kinoml_data.spec.html import code_html, details_html, page_html, pairs_html, role_html, rows_html

COLOURS = ("#4e79a7", "#f28e2b", "#59a14f", "#b07aa1", "#edc948", "#76b7b2", "#9c755f", "#e15759")


def dataset_html(dataset: description.Described) -> str:
    """A dataset as HTML. No rows are read."""
    columns = description.columns(dataset)
    facts = dict(description.facts(dataset, columns))
    title = f"{len(dataset):,} rows"
    parts = [details_html("Columns", columns_html(columns), is_open=True)]
    if splits := dataset._split_sizes():
        parts.append(details_html("Splits", splits_html(splits, len(dataset)), is_open=True))
    if hint := description.roles_hint(dataset):
        parts.append(f"<p>{escape(hint)}</p>")
    shown = ("backend", "stored", "in memory", f"a batch of {description.BATCH}", "observation model", "collate")
    parts.append(details_html("Storage and batches", pairs_html((label, facts[label]) for label in shown)))
    return page_html(type(dataset).__name__, dataset.spec.name, title, parts)


def columns_html(columns: Sequence[description.ColumnFacts]) -> str:
    """A table of the columns, with their first values if rows were read."""
    rows = []
    for column in columns:
        size = ("" if column.exact else "about ") + description.format_size(column.nbytes)
        stored = f"<br><small>stored as {escape(column.stored_as)}</small>" if column.stored_as else ""
        rows.append(
            (
                role_html(column.role),
                code_html(column.name),
                escape(column.dtype) + stored,
                escape(column.shape),
                escape(size if column.nbytes or column.exact else ""),
            )
        )
    header = ("role", "column", "dtype", "shape of a row", "in memory")
    return rows_html(header, rows, numeric=("in memory",))


def splits_html(counts: Mapping[str, int], total: int) -> str:
    """The sizes of the splits as a bar and as text."""
    bar = "".join(
        f'<i style="flex:{count} 0 0;background:{colour}" title="{escape(name)} {count:,}"></i>'
        for (name, count), colour in zip(counts.items(), COLOURS * len(counts), strict=False)
    )
    rest = total - sum(counts.values())
    blank = f'<i style="flex:{rest} 0 0" title="in no split {rest:,}"></i>' if rest > 0 else ""
    text = [f"{name} {count:,}" for name, count in counts.items()] + ([f"in no split {rest:,}"] if rest > 0 else [])
    return f'<div class="bar">{bar}{blank}</div>{escape(", ".join(text))}'
