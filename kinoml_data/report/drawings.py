"""The section with pictures of what texts stand for, such as molecules, which plugins draw."""

from __future__ import annotations

import base64
from collections.abc import Mapping, Sequence
from html import escape
from typing import Any

import numpy as np
from numpy.typing import NDArray

from kinoml_data import registry
from kinoml_data.contracts.drawing import Drawing
from kinoml_data.report.contents import Content, Reported, spread
from kinoml_data.report.html import note_html
from kinoml_data.spec.html import code_html, details_html

SAMPLE = 50  # texts of a column that decide whether it is drawn
DRAWN = 12  # texts of a column that are drawn
COLUMNS = 4  # columns that are drawn


def drawings_html(dataset: Reported, contents: Mapping[str, Content]) -> str:
    """Pictures for each column of text that a plugin draws, as HTML.

    They are in the order of the measured values, if all rows have values of one kind.
    """
    value = _measured(dataset, contents)
    kind = getattr(dataset.observation_model, "kind", None)
    sections: list[str] = []
    for name, content in contents.items():
        first_rows = dict(zip(reversed(content.texts), reversed(content.positions.tolist()), strict=False))
        first_rows.pop("", None)
        if len(sections) == COLUMNS or not first_rows or (drawing := _drawing_of(list(first_rows))) is None:
            continue
        rows, order = np.sort(np.array(list(first_rows.values()))), ""
        if value is not None and kind is None:
            numbers = contents[value].numbers(_mask(dataset, rows))
            rows = rows[np.argsort(numbers, kind="stable")][: np.count_nonzero(~np.isnan(numbers))]  # NaN comes last
            order = f", from the least to the greatest {value}"
        texts = dict(zip(content.positions.tolist(), content.texts, strict=True))
        pictures = []
        for row in rows[spread(len(rows), DRAWN)].tolist():
            pictures.append(_picture(drawing, texts[row], _caption(dataset, contents, row, value, kind)))
        repeats = value is not None and len(first_rows) < sum(map(bool, content.texts))
        which = " Below a text that several rows have, the value is that of the first of them." if repeats else ""
        note = note_html(f"{len(pictures)} of {len(first_rows):,} different texts{order}.{which}")
        section = f'{note}<div class="drawings">{"".join(pictures)}</div>'
        sections.append(details_html(f"Pictures of {name}", section, is_open=True))
    return "".join(sections)


def _drawing_of(texts: Sequence[str]) -> Drawing | None:
    """The first drawing, in the order of their names, that draws these texts."""
    sample = [texts[place] for place in spread(len(texts), SAMPLE).tolist()]
    for _, (cls, _plugin) in sorted(registry.registry().all("drawing").items()):
        try:
            drawing: Drawing = cls()
            if drawing.draws(sample):
                return drawing
        except Exception:  # a plugin may fail in any way; a page without pictures is still a page
            continue
    return None


def _measured(dataset: Reported, contents: Mapping[str, Content]) -> str | None:
    """The column of y that contains the measured values, if it has one number per row and all rows were read."""
    names = dataset.spec.y_names
    name = getattr(dataset.observation_model, "value", None) or (names[0] if len(names) == 1 else None)
    content = contents.get(name) if name is not None else None
    if name is None or content is None or content.column is None or len(content.positions) < len(dataset):
        return None
    array = dataset.spec.columns[name]
    return name if array.shape == () and array.values is None and array.numpy.kind in "biuf" else None


def _caption(dataset: Reported, contents: Mapping[str, Content], row: int, value: str | None, kind: str | None) -> str:
    """The measured value of a row, with its kind if there are several, and with `<` or `>` if it is a bound.

    Without a value, it is the number of the row.
    """
    if value is None:
        return f"row {row:,}"
    number = f"{contents[value].numbers(_mask(dataset, row))[0] + 0.0:.4g}"  # not -0
    relation = _category(dataset, contents, row, getattr(dataset.observation_model, "relation", None))
    bound = f"{relation} " if relation in ("<", ">") and number != "nan" else ""
    return f"{_category(dataset, contents, row, kind)} {bound}{number}".strip()


def _category(dataset: Reported, contents: Mapping[str, Content], row: int, name: str | None) -> str:
    """The text of a row in a column with `values`; empty without such a column, or if not all of its rows were read."""
    content = contents.get(name) if name is not None else None
    if name is None or content is None or content.column is None or len(content.positions) < len(dataset):
        return ""
    return (dataset.spec.columns[name].values or ())[int(content.numbers(_mask(dataset, row))[0])]


def _mask(dataset: Reported, rows: Any) -> NDArray[np.bool_]:
    mask = np.zeros(len(dataset), bool)
    mask[rows] = True
    return mask


def _picture(drawing: Drawing, text: str, caption: str) -> str:
    """A figure with the picture of a text; an image, so that nothing in it can run or affect the page."""
    shown = text if len(text) <= 200 else f"{text[:200]}..."
    try:
        data: Any = base64.b64encode(drawing.svg(text).encode()).decode()
    except Exception:  # see the contract
        return f"<figure>{code_html(shown)}<figcaption>{escape(caption)}</figcaption></figure>"
    image = f'<img src="data:image/svg+xml;base64,{data}" alt="{escape(shown)}" title="{escape(shown)}">'
    return f"<figure>{image}<figcaption>{escape(caption)}</figcaption></figure>"
