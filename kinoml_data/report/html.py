"""The parts of which a report is made: tables that scroll, figures, legends and notes."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from html import escape

from kinoml_data.spec.html import MANY, code_html, details_html, marked_html, rows_html

# The page takes its colors from the theme of the reader: black on white, or white on nearly black.
STYLE = """
:root { color-scheme: light dark; }
body { margin: 1.5rem auto 4rem; padding: 0 1rem; max-width: 62rem; background: Canvas; color: CanvasText; }
.kinoml-data { max-width: none; margin-bottom: 3rem; }
.kinoml-data h4 { font-size: 20px; overflow-wrap: anywhere; }
.kinoml-data summary { font-size: 15px; font-weight: 600; color: inherit; margin-top: 18px; }
.kinoml-data details details summary { font-size: 13px; font-weight: 400; color: var(--kd-soft); margin-top: 6px; }
.kinoml-data p, .kinoml-data .legend { margin: 4px 0; color: var(--kd-soft); overflow-wrap: anywhere; }
.kinoml-data td { overflow-wrap: break-word; }
.kinoml-data .wide { overflow-x: auto; margin: 4px 0 12px; }
.kinoml-data .wide table { width: auto; }
.kinoml-data .wide td, .kinoml-data .wide th { padding-right: 18px; }
.kinoml-data .wide td, .kinoml-data .wide th { white-space: nowrap; }
.kinoml-data .wide td.label + td { white-space: normal; }
.kinoml-data .wide .long { white-space: normal; width: max-content; max-width: 24rem; overflow-wrap: anywhere; }
.kinoml-data .figures { display: grid; grid-template-columns: repeat(auto-fill, minmax(17rem, 1fr)); gap: 8px 20px; }
.kinoml-data figure { margin: 4px 0; break-inside: avoid; }
.kinoml-data figure svg { display: block; width: 100%; max-width: 24rem; height: auto; }
.kinoml-data figcaption { overflow-wrap: anywhere; }
.kinoml-data small { color: var(--kd-soft); font-size: 12px; }
.kinoml-data .legend i { display: inline-block; width: 10px; height: 10px; border-radius: 2px; margin: 0 4px 0 12px; }
.kinoml-data .legend i:first-child { margin-left: 0; }
.kinoml-data .drawings { display: grid; grid-template-columns: repeat(auto-fill, minmax(9.5rem, 1fr)); gap: 12px; }
.kinoml-data .drawings img { display: block; width: 100%; }
.kinoml-data .drawings figcaption { font-size: 12px; text-align: center; }
.kinoml-data pre { white-space: pre-wrap; overflow-wrap: anywhere; font: 12px/1.5 ui-monospace, monospace; }
.kinoml-data .warn { color: #c0392b; }
@media (prefers-color-scheme: dark) {
  body { background: #16181c; color: #dfe2e6; }
  .kinoml-data .drawings img { filter: invert(1) hue-rotate(180deg); }
  .kinoml-data .warn { color: #ff8a75; }
}
@media print {
  body { margin: 0; max-width: none; }
  .kinoml-data .wide { overflow: visible; }
  .kinoml-data .wide td, .kinoml-data .wide th { white-space: normal; padding-right: 10px; font-size: 11px; }
  .kinoml-data .wide .n, .kinoml-data .wide .label { white-space: nowrap; }
  .kinoml-data .wide .long { width: auto; }
  .kinoml-data .wide code { font-size: 11px; overflow-wrap: break-word; }
  .kinoml-data summary, .kinoml-data .legend { break-after: avoid; }
  .kinoml-data tr { break-inside: avoid; }
}
"""


def document_html(title: str, parts: Iterable[str]) -> str:
    """A whole page. Its policy allows no scripts and no requests, whatever it contains."""
    policy = "default-src 'none'; style-src 'unsafe-inline'; img-src data:"
    return (
        '<!doctype html>\n<html lang="en"><head><meta charset="utf-8">'
        f'<meta http-equiv="Content-Security-Policy" content="{policy}">'
        '<meta name="viewport" content="width=device-width, initial-scale=1">'
        f"<title>{escape(title)}</title></head>\n<body>{''.join(parts)}<style>{STYLE}</style></body></html>\n"
    )


def folded_html(
    title: str, header: Sequence[str], rows: Sequence[Sequence[str]], *, numeric: Sequence[str] = ()
) -> str:
    """A table as in `rows_html`, which is folded if it is long, and empty if it has no rows."""
    table = rows_html(header, rows, numeric=numeric) if rows else ""
    return table if len(rows) <= MANY else details_html(f"{title}: {len(rows)} lines", table)


def figure_html(svg: str, column: str, label: str = "", note: str = "") -> str:
    """A figure with the name of its column; empty if there is no figure."""
    note = f" <small>({escape(note)})</small>" if note else ""
    return f"<figure><figcaption>{code_html(column)} {escape(label)}{note}</figcaption>{svg}</figure>" if svg else ""


def legend_html(names: Iterable[tuple[str, str]]) -> str:
    """What the colors of figures mean."""
    entries = "".join(f'<i style="background:{color}"></i>{escape(name)}' for name, color in names)
    return f'<div class="legend">{entries}</div>'


def note_html(text: str, *, is_warning: bool = False) -> str:
    """A paragraph, in which words between backticks are code."""
    return f"<p{' class=warn' if is_warning else ''}>{marked_html(text)}</p>"
