"""Specs as HTML for a notebook, and the parts of which the HTML of other objects is made."""

from __future__ import annotations

import json
import re
from collections.abc import Iterable, Mapping, Sequence
from html import escape
from typing import Any

from kinoml_data.spec.array import Array

# Every color of a text is mixed with the color of the page's own text, so that it is legible in every theme.
STYLE = """
.kinoml-data {
  --kd-soft: color-mix(in srgb, currentColor 65%, transparent);
  --kd-line: color-mix(in srgb, currentColor 18%, transparent);
  --kd-leak: color-mix(in srgb, #f28e2b 35%, transparent);
  font: 13px/1.5 system-ui, sans-serif; max-width: 60rem; padding-bottom: 8px;
}
.kinoml-data h4 { font-size: 14px; margin: 0 0 4px; font-weight: 600; overflow-wrap: anywhere; }
.kinoml-data p { margin: 4px 0; overflow-wrap: anywhere; }
.kinoml-data details details { margin-left: 14px; }
.kinoml-data .wide { overflow-x: auto; }
.kinoml-data h4 span { color: var(--kd-soft); font-weight: 400; }
.kinoml-data summary { cursor: pointer; margin: 6px 0 2px; color: var(--kd-soft); overflow-wrap: anywhere; }
.kinoml-data table { border-collapse: collapse; width: 100%; margin: 0; font-size: 13px; }
.kinoml-data th, .kinoml-data td {
  text-align: left; padding: 2px 14px 2px 0; border-top: 1px solid var(--kd-line); vertical-align: top;
  background: none; white-space: normal;
}
.kinoml-data table:has(th) { min-width: 22rem; }
.kinoml-data th { color: var(--kd-soft); font-weight: 400; border-top: 0; }
.kinoml-data td.n, .kinoml-data th.n { text-align: right; padding-right: 0; font-variant-numeric: tabular-nums; }
.kinoml-data small { font-size: 11px; }
.kinoml-data td.n { white-space: nowrap; }
.kinoml-data code {
  font-family: ui-monospace, monospace; font-size: 12px; background: none; border: 0; color: inherit; padding: 0;
  overflow-wrap: anywhere;
}
.kinoml-data .X { color: color-mix(in srgb, #2b7fe0 55%, currentColor); }
.kinoml-data .y { color: color-mix(in srgb, #e06a10 55%, currentColor); }
.kinoml-data .meta { color: var(--kd-soft); }
.kinoml-data td.label { white-space: nowrap; width: 1%; color: var(--kd-soft); }
.kinoml-data td.label + td, .kinoml-data .long { overflow-wrap: anywhere; }
.kinoml-data .bar { display: flex; height: 10px; border-radius: 3px; overflow: hidden; margin: 4px 0; }
.kinoml-data .bar i { display: block; min-width: 2px; }
.kinoml-data .key { display: inline-block; margin-right: 14px; overflow-wrap: anywhere; }
.kinoml-data .key i { display: inline-block; width: 9px; height: 9px; border-radius: 2px; margin-right: 5px; }
.kinoml-data .blank { background: var(--kd-line); }
.kinoml-data .share {
  height: 3px; background: linear-gradient(var(--kd-leak), var(--kd-leak)) no-repeat var(--kd-line);
}
"""

MANY = 50  # from which number of lines on a table is folded


def spec_html(
    kind: str,
    name: str | None,
    columns: Mapping[str, Array],
    roles: Mapping[str, Sequence[str]],
    mapping: Mapping[str, Any],
) -> str:
    """A spec as HTML.

    Args:
        kind: the name of its class.
        name: the name of the dataset.
        columns: the columns that it declares.
        roles: the names of the columns in each role.
        mapping: the contents of a file with this spec.
    """
    rows = []
    for column, array in columns.items():
        role = next((role for role, names in roles.items() if column in names), "")
        given = array.model_dump(mode="json", exclude_defaults=True, exclude={"dtype", "shape"})
        options = ", ".join(f"{key}: {plain_text(value)}" for key, value in given.items())
        shape = str(array).removeprefix(array.dtype).strip().replace(",)", ")")
        rows.append((role_html(role), code_html(column), escape(array.dtype), escape(shape), long_html(options)))
    header = ("role", "column", "dtype", "shape of a row", "options")
    parts = (
        [details_html(f"Columns ({len(rows):,})", rows_html(header, rows), is_open=len(rows) <= MANY)] if rows else []
    )
    in_table = ("format", "columns", *roles) if rows else ("format",)
    parts.append(pairs_html((key, plain_text(value)) for key, value in mapping.items() if key not in in_table))
    return page_html(kind, name, "", parts)


def page_html(kind: str, name: str | None, title: str, parts: Iterable[str]) -> str:
    """What a notebook shows for one object: a heading, and parts that are HTML already."""
    heading = f"<h4>{escape(name or kind)} <span>{escape(kind if name else '')} {escape(title)}</span></h4>"
    return f'<div class="kinoml-data"><style>{STYLE}</style>{heading}{"".join(parts)}</div>'


def details_html(title: str, content: str, *, is_open: bool = False) -> str:
    """A section that can be folded, whose content is HTML already."""
    return f"<details{' open' if is_open else ''}><summary>{escape(title)}</summary>{content}</details>"


def pairs_html(pairs: Iterable[tuple[str, str]]) -> str:
    """A table of labels and texts, in which words between backticks are code."""
    lines = [f"<tr><td class=label>{escape(label)}</td><td>{marked_html(text)}</td></tr>" for label, text in pairs]
    return _table(lines)


def rows_html(header: Sequence[str], rows: Iterable[Sequence[str]], *, numeric: Sequence[str] = ()) -> str:
    """A table, whose cells are HTML already. The columns called as in `numeric` are aligned to the right."""

    def line(cells: Sequence[str], tag: str) -> str:
        tags = [f"{tag} class=n" if name in numeric else tag for name in header]
        return "<tr>" + "".join(f"<{t}>{cell}</{tag}>" for cell, t in zip(cells, tags, strict=True)) + "</tr>"

    return _table([line(list(map(escape, header)), "th"), *(line(row, "td") for row in rows)])


def _table(lines: Iterable[str]) -> str:
    return f'<div class="wide"><table>{"".join(lines)}</table></div>'


def role_html(role: str) -> str:
    """A role in its color."""
    return f'<b class="{role}">{role}</b>' if role else ""


def code_html(text: str) -> str:
    """A name, as code."""
    return f"<code>{escape(text)}</code>"


def marked_html(text: str) -> str:
    """A text in which words between backticks are code."""
    return re.sub("`([^`]*)`", r"<code>\1</code>", escape(text))


def long_html(text: str, *, is_warning: bool = False) -> str:
    """A text that may be broken anywhere."""
    return f'<div class="long{" warn" if is_warning else ""}">{escape(text)}</div>'


def plain_text(value: Any) -> str:
    """A value of a spec as short text, without quotation marks."""
    return json.dumps(value, default=str).replace('"', "")
