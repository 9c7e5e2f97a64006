"""What a notebook shows for a spec."""

from __future__ import annotations

from kinoml_data import DatasetSpec
from kinoml_data.spec.html import pairs_html


def test_a_spec_shows_its_columns_with_their_roles_and_options() -> None:
    columns = {"X": {"dtype": "bool", "shape": [77], "packbits": True}, "rel": {"dtype": "int8", "values": ["<", "="]}}
    storage = {"backend": "npz-lazy", "path": "a.npz"}
    html = DatasetSpec.parse({"columns": columns, "X": "X", "meta": ["rel"], "storage": storage})._repr_html_()
    for text in ("<code>X</code>", "(77)", "packbits: true", "values: [", "&lt;", "npz-lazy", '<b class="meta">'):
        assert text in html, text


def test_words_between_backticks_are_code_and_everything_else_is_escaped() -> None:
    html = pairs_html([("<a>", "run `x <y>` and ` alone")])
    assert "<td class=label>&lt;a&gt;</td><td>run <code>x &lt;y&gt;</code> and ` alone</td>" in html


def test_a_spec_without_columns_shows_its_keys() -> None:
    html = DatasetSpec.parse({"X": ["a", "b"], "y": "c", "storage": {"backend": "csv", "path": "t.csv"}})._repr_html_()
    assert "[a, b]" in html and "t.csv" in html
