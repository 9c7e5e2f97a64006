"""Pictures in a report, which plugins draw."""

from __future__ import annotations

import base64
import re
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import pytest

import kinoml_data as kd
from kinoml_data import registry
from kinoml_data.report import drawings
from kinoml_data.report.drawings import drawings_html
from tests.report.pages import Page, contents_of, mixed

Install = Callable[..., None]


class Letters(kd.Drawing):
    """Draws texts of letters."""

    name = "letters"

    def draws(self, texts: Sequence[str]) -> bool:
        return all(text.isalpha() for text in texts)

    def svg(self, text: str) -> str:
        if text == "bad":
            raise RuntimeError("cannot draw it")
        return f'<svg xmlns="http://www.w3.org/2000/svg"><script>{text}</script></svg>'


class Broken(kd.Drawing):
    """Fails whatever it is asked."""

    name = "a-broken-one"

    def draws(self, texts: Sequence[str]) -> bool:
        raise RuntimeError("broken")

    def svg(self, text: str) -> str:
        raise RuntimeError("broken")


@pytest.fixture(autouse=True)
def _installed(monkeypatch: pytest.MonkeyPatch) -> None:
    plugin = registry.Plugin("letters", "letters", "1.0", loaded=True)
    plugin.names = {"drawing": {"letters": Letters, "a-broken-one": Broken}}
    installed = registry.Registry()
    installed.plugins = [plugin]
    monkeypatch.setattr(registry, "_registry", installed)


def table(texts: Sequence[str], y: Any = None) -> kd.XyDataset:
    data = {"x": np.zeros(len(texts)), "text": list(texts)} | ({} if y is None else {"y": np.array(y)})
    roles = {"X": "x", "meta": ["text"]} | ({} if y is None else {"y": "y"})
    return kd.load_dataset(roles | {"storage": {"backend": "in-memory"}}, data=data)


def shown(dataset: kd.XyDataset) -> str:
    return drawings_html(dataset, contents_of(dataset))


def drawn(html: str) -> list[str]:
    return [base64.b64decode(data).decode() for data in re.findall(r"base64,([^\"]*)", html)]


def test_each_text_is_drawn_once_as_an_image_in_the_order_of_y() -> None:
    html = shown(table(["b", "a", "b", "c", ""], [3.0, 1.0, 9.0, np.nan, 0.0]))
    assert [re.findall("<script>(.)", svg) for svg in drawn(html)] == [["a"], ["b"]]
    page = Page(html)
    assert "script" not in page.tags and page.tags.count("img") == 2
    assert "2 of 3 different texts, from the least to the greatest y." in page.text
    assert page.text.endswith("1 3")
    assert "Below a text that several rows have, the value is that of the first of them." in page.text


def test_a_negative_zero_is_a_zero() -> None:
    assert Page(shown(table(["a", "b"], [-0.0, 1.0]))).text.endswith(" 0 1")


def test_without_y_the_rows_are_named() -> None:
    assert Page(shown(table(["b", "a"]))).text.endswith("row 0 row 1")
    assert "several rows" not in shown(table(["b", "a", "a"])) + shown(table(["b", "a", ""], [1.0, 2.0, 3.0]))


def test_values_of_several_kinds_are_in_the_order_of_the_rows() -> None:
    text = Page(shown(mixed())).text
    assert "5 of 5 different texts." in text
    assert text.endswith("pIC50 5 pIC50 6 pIC50 nan pKi 7 pKi > 8")


def test_only_some_of_many_texts_are_drawn(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(drawings, "DRAWN", 3)
    html = shown(table([chr(97 + place) for place in range(9)], range(9)))
    assert [re.findall("<script>(.)", svg) for svg in drawn(html)] == [["a"], ["e"], ["i"]]


@pytest.mark.parametrize("texts", [["1", "2"], ["", ""]])
def test_texts_that_nothing_draws_have_no_pictures(texts: list[str]) -> None:
    assert shown(table(texts)) == ""


def test_a_text_that_cannot_be_drawn_is_shown_as_text() -> None:
    html = shown(table(["bad", "good"]))
    assert len(drawn(html)) == 1 and "<code>bad</code>" in html


def test_a_column_without_text_is_not_drawn() -> None:
    assert shown(kd.from_arrays(np.zeros(3), np.zeros(3))) == ""


def test_the_caption_of_a_bound_has_its_relation() -> None:
    values = {"dtype": "uint8", "values": ["=", "<", ">"]}
    columns = {"x": {}, "text": {"dtype": "str"}, "pKi": {"dtype": "float32", "missing": "nan"}, "relation": values}
    roles = {"X": "x", "y": ["pKi", "relation"], "meta": ["text"], "storage": {"backend": "in-memory"}}
    spec = roles | {"columns": columns, "observation_model": {"name": "pKi", "value": "pKi", "relation": "relation"}}
    data = {"x": [0.0] * 4, "text": list("abcd"), "pKi": [5.0, 7.0, None, 9.0], "relation": ["<", "=", ">", ">"]}
    assert Page(shown(kd.load_dataset(spec, data=data))).text.endswith("< 5 7 > 9")
