"""What a notebook shows for a dataset."""

from __future__ import annotations

from html.parser import HTMLParser
from pathlib import Path

import numpy as np
import pytest

import kinoml_data as kd


class Shown(HTMLParser):
    """Collects the tags and the text, and fails on a tag that is not closed in order."""

    def __init__(self, html: str) -> None:
        super().__init__()
        self.open: list[str] = []
        self.tags: list[str] = []
        self.text = ""
        self.feed(html)
        self.close()
        assert not self.open, self.open

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append(tag)
        if tag != "br":
            self.open.append(tag)

    def handle_endtag(self, tag: str) -> None:
        assert self.open.pop() == tag

    def handle_data(self, data: str) -> None:
        if not self.open or self.open[-1] != "style":
            self.text += f"{data} "


def test_a_dataset_shows_its_columns_sizes_and_splits() -> None:
    atoms = [np.ones((n, 3), "f4") for n in (2, 5)]
    dataset = kd.from_arrays({"atoms": atoms}, [1.5, 2.5], {"train": [0], "test": [1]})
    shown = Shown(dataset._repr_html_()).text
    for text in ("2 rows", "atoms", "float32", "(2-5, 3)", "84 B", "train 1, test 1", "in-memory", "a batch of 128"):
        assert text in shown, text


def test_no_row_is_read_for_it(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    np.savez(tmp_path / "a.npz", X=np.zeros((5, 2)), y=np.zeros(5))
    with kd.load_dataset(tmp_path / "a.npz") as dataset:
        monkeypatch.setattr(type(dataset._session.binding.storage), "read", None)
        assert "5 rows" in Shown(dataset._repr_html_()).text


def test_names_are_text_and_never_html(tmp_path: Path) -> None:
    (tmp_path / "t.csv").write_text("<script>alert(1)</script>,y\n1,2\n")
    columns = {"X": {"dtype": "float32", "stored_as": "<script>alert(1)</script>"}}
    storage = {"backend": "csv", "path": str(tmp_path / "t.csv")}
    with kd.load_dataset({"name": "<b>&", "columns": columns, "X": "X", "storage": storage}) as dataset:
        for html in (dataset._repr_html_(), dataset.spec._repr_html_()):
            found = Shown(html)
            assert "script" not in found.tags and "<script>" in found.text and "<b>&" in found.text


def test_a_view_and_a_dataset_without_rows_are_shown() -> None:
    dataset = kd.from_arrays(np.zeros((4, 2)), splits={"train": [0, 1, 2]})
    assert "3 rows" in Shown(dataset.split("train")._repr_html_()).text
    assert "0 rows" in Shown(dataset.select([])._repr_html_()).text
