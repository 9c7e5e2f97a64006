"""Datasets as HTML for a notebook: one table of columns, with sections that can be folded."""

from __future__ import annotations

from collections.abc import Sequence
from html import escape

from kinoml_data.dataset import description
from kinoml_data.dataset.split_check import known_leaks, leaks_html, sizes_html
from kinoml_data.errors import KinomlDataError, count_of, format_size, one_line
from kinoml_data.spec.html import MANY, code_html, details_html, long_html, page_html, pairs_html, role_html, rows_html
from kinoml_data.spec.parts import ComputedSplits
from kinoml_data.spec.roles import names_of

MOST_ROWS = 1_000_000  # of a dataset whose keys are compared for a notebook; this takes about a tenth of a second


def dataset_html(dataset: description.Described) -> str:
    """A dataset as HTML. No rows are read."""
    try:
        stored, parts = count_of(dataset._session.binding.length, "row"), _parts(dataset)
        title = stored if dataset._rows is None else f"{len(dataset):,} of {stored}"
    except KinomlDataError as error:  # for example, if the dataset is closed
        title, parts = "", [f"<p>{escape(one_line(error))}</p>"]
    return page_html(type(dataset).__name__, dataset.spec.name, title, parts)


def _parts(dataset: description.Described) -> list[str]:
    columns = description.columns(dataset)
    facts = dict(description.facts(dataset, columns))
    parts = [details_html(f"Columns ({len(columns):,})", columns_html(columns), is_open=len(columns) <= MANY)]
    is_view = dataset._rows is not None
    sizes = {name: size for name, size in dataset._split_sizes().items() if size or not is_view}
    if sizes:
        content = sizes_html(sizes, len(dataset) - sum(sizes.values()))
        parts.append(details_html(f"Splits ({len(sizes):,})", content, is_open=True))
    if len(sizes) > 1 and (leaks := _leaks(dataset)):
        parts.append(leaks)
    if hint := description.roles_hint(dataset):
        parts.append(f"<p>{escape(hint)}</p>")
    shown = ("backend", "stored", "in memory", f"a batch of {description.BATCH}", "observation model", "collate")
    parts.append(details_html("Storage and batches", pairs_html((label, facts[label]) for label in shown)))
    return parts


def columns_html(columns: Sequence[description.ColumnFacts], *, with_values: bool = False) -> str:
    """A table of columns, also with the first values and the ranges that were read."""
    rows = []
    for column in columns:
        size = ("" if column.exact else "about ") + format_size(column.nbytes)
        stored = f'<br><small class="long">stored as {escape(column.stored_as)}</small>' if column.stored_as else ""
        shared = f"<br><small>{count_of(column.values, 'value')}, shared</small>" if column.values is not None else ""
        first = (long_html(column.note or column.first, is_warning=bool(column.note)), escape(column.range))
        rows.append(
            (
                role_html(column.role),
                code_html(column.name),
                escape(column.dtype) + stored,
                escape(column.shape),
                *(first if with_values else ()),
                (size if column.nbytes or column.exact else "") + shared,
            )
        )
    header = ("role", "column", "dtype", "shape of a row", *(("first values", "range") if with_values else ()))
    return rows_html((*header, "in memory"), rows, numeric=("in memory",))


def _leaks(dataset: description.Described) -> str:
    """What is known about shared values without reading rows: what the spec promises, and what keys show."""
    splits = dataset.spec.splits
    apart = [*names_of(splits.by), *names_of(splits.apart)] if isinstance(splits, ComputedSplits) else []
    apart = [name for name in dict.fromkeys(apart) if name in dataset.spec.columns]
    leaks = []
    if len(dataset) <= MOST_ROWS:
        leaks = known_leaks(dataset._session.binding, dataset.spec, dataset.rows, dataset.indices, without=apart)
    if not apart and not leaks:
        return ""
    note = "<p>Counted from stored keys, without reading rows. <code>check_splits()</code> compares the values.</p>"
    return details_html(
        "What splits share", leaks_html(leaks, apart, is_open=False) + (note if leaks else ""), is_open=True
    )
