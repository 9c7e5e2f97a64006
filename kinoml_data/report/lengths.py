"""The section about the lengths of ragged columns, and about the padding that they need in a batch."""

from __future__ import annotations

from collections.abc import Sequence
from html import escape

import numpy as np
from numpy.typing import NDArray

from kinoml_data.columns import Ragged
from kinoml_data.dataset.description import BATCH, ColumnFacts, Described
from kinoml_data.dataset.split_check import COLORS
from kinoml_data.errors import KinomlDataError, format_size
from kinoml_data.loading.padding import padded_sizes
from kinoml_data.report.contents import spread
from kinoml_data.report.figures import histogram
from kinoml_data.report.html import figure_html, note_html
from kinoml_data.spec.array import Array
from kinoml_data.spec.html import code_html, rows_html

FIGURES = 12
NUMBERS = ("rows", "least", "5 %", "median", "mean", "95 %", "greatest")
PADDING = ("random batches", "similar lengths", "a padded batch")


def lengths_html(dataset: Described, facts: Sequence[ColumnFacts], sample: int) -> str:
    """The lengths of the ragged axes of each column, and the share of padding in its batches; as HTML.

    Args:
        dataset: the dataset.
        facts: what is known about its columns.
        sample: the number of rows to read for shapes that the store does not know.
    """
    figures: list[str] = []
    lengths, padding = [], []
    for column in facts:
        array = dataset.spec.columns[column.name]
        if not array.ragged or array.is_string or not len(dataset):
            continue
        shapes = _shapes(dataset, column.name, sample)
        if shapes is None or not len(shapes):
            continue
        for axis in [axis for axis, length in enumerate(array.shape) if length is None]:
            label = f"axis {axis}" if len(array.shape) > 1 else ""
            values = shapes[:, axis].astype(np.float64)
            low, median, high = np.quantile(values, [0.05, 0.5, 0.95])
            numbers = (values.min(), low, median, values.mean(), high, values.max())
            counts = (f"{len(values):,}", *(f"{number:.4g}" for number in numbers))
            lengths.append((code_html(column.name), escape(label), *counts))
            if len(figures) < FIGURES:
                svg, beyond = histogram({COLORS[0]: values}, f"Lengths of {column.name} {label}")
                note = f"{beyond:,} rows beyond the ends" if beyond else ""
                figures.append(figure_html(svg, column.name, label, note))
        if column.role in ("X", "y"):
            padding.append((code_html(column.name), *_padding(array, shapes)))
    if not lengths:
        return ""
    note = note_html(
        f"The share of padding in batches of {BATCH} rows with the form `pad`, over one epoch: in random order, and "
        "with the argument `group_by_length` of `as_dataloader`."
    )
    padded = rows_html(("column", *PADDING), padding, numeric=PADDING) + note if padding else ""
    table = rows_html(("column", "axis", *NUMBERS), lengths, numeric=NUMBERS)
    return f'<div class="figures">{"".join(figures)}</div>{table}{padded}'


def _shapes(dataset: Described, name: str, sample: int) -> NDArray[np.int64] | None:
    """int64 `(rows, ndim)`: the shapes of all rows, or those of a sample if the store does not know them."""
    binding, rows = dataset._session.binding, dataset.rows
    if (shapes := binding.shapes(name)) is not None:
        return shapes[rows]
    try:
        column = binding.read(rows[spread(len(rows), sample)], [name])[name]
    except KinomlDataError:  # the table of columns says why
        return None
    return column.shapes if isinstance(column, Ragged) else None


def _padding(array: Array, shapes: NDArray[np.int64]) -> tuple[str, str, str]:
    """The cells of `PADDING`."""
    values, by_chance, similar = padded_sizes(array, shapes, BATCH)
    share, other = (f"{1 - values / total if total else 0.0:.0%}" for total in (by_chance, similar))
    batches = -(-len(shapes) // BATCH)
    return share, other, format_size(round(by_chance / batches * array.numpy.itemsize))
