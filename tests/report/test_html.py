"""The parts of a page: everything from the data is text."""

from __future__ import annotations

from kinoml_data.report.html import (
    document_html,
    figure_html,
    folded_html,
    legend_html,
    note_html,
)
from kinoml_data.spec.html import MANY, long_html, rows_html
from tests.report.pages import Page, cells

HOSTILE = "<script>alert('1')</script>&\"`x`"


def test_a_page_forbids_scripts_and_requests() -> None:
    html = document_html(HOSTILE, ["<p>text</p>"])
    page = Page(html.partition(">")[2])
    assert html.startswith("<!doctype html>") and "script" not in page.tags and "link" not in page.tags
    policy = next(value for name, value in page.attributes if name == "content" and value and "default-src" in value)
    assert policy == "default-src 'none'; style-src 'unsafe-inline'; img-src data:"
    assert "http" not in html.replace('http-equiv="', "")


def test_hostile_text_is_shown_as_it_is() -> None:
    parts = (
        figure_html("<svg></svg>", HOSTILE, HOSTILE, HOSTILE),
        folded_html("t", (HOSTILE,), [("cell",)]),
        legend_html([(HOSTILE, "#fff")]),
        note_html(HOSTILE),
        long_html(HOSTILE, is_warning=True),
    )
    for part in parts:
        page = Page(part)
        assert "script" not in page.tags
        assert "<script>alert('1')</script>&\"" in page.text, part


def test_words_between_backticks_are_code() -> None:
    assert note_html("use `pad`, `a` & b") == "<p>use <code>pad</code>, <code>a</code> &amp; b</p>"


def test_a_table_is_folded_only_if_it_is_long() -> None:
    few, many = [("1",)] * MANY, [("1",)] * (MANY + 1)
    assert folded_html("Lines", ("a",), few) == rows_html(("a",), few)
    assert f"Lines: {MANY + 1} lines" in Page(folded_html("Lines", ("a",), many)).text
    assert folded_html("Lines", ("a",), []) == ""


def test_several_columns_are_aligned_to_the_right() -> None:
    html = rows_html(("a", "b", "c"), [("1", "2", "3")], numeric=("b", "c"))
    assert html.count("class=n") == 4 and cells(html) == [["a", "b", "c"], ["1", "2", "3"]]


def test_without_a_picture_there_is_no_figure() -> None:
    assert figure_html("", "column") == ""
