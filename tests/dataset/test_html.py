"""What a notebook shows for a dataset."""

from __future__ import annotations

from html.parser import HTMLParser
from pathlib import Path

import numpy as np
import pytest

import kinoml_data as kd
from kinoml_data.dataset import description, html
from tests.builders import letters_of


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
    for text in (
        "2 rows",
        "atoms",
        "float32",
        "(2-5, 3)",
        "84 B",
        "train 1",
        "test 1",
        "(50.0 %)",
        "in-memory",
        "a batch of 128",
    ):
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
        check = kd.from_arrays([1.0, 1.0], splits={"<b>": [0], "<u>": [1]}).check_splits(["X"])
        assert set(check.sizes) == {"<b>", "<u>"} and check.shared
        for shown in (check, *check.shared):
            assert not {"b", "u"} & set(Shown(shown._repr_html_()).tags)
        for shown in (dataset, dataset.spec):
            found = Shown(shown._repr_html_())
            assert "script" not in found.tags and "<script>" in found.text and "<b>&" in found.text


def test_a_view_and_a_dataset_without_rows_are_shown() -> None:
    dataset = kd.from_arrays([np.zeros(n) for n in (1, 2, 3, 9)], splits={"train": [0, 1, 2], "test": []})
    shown = Shown(dataset.split("train")._repr_html_()).text
    assert "3 of 4 rows" in shown and "(1-3)" in shown and "48 B" in shown and "test" not in shown
    shown = Shown(dataset.select([])._repr_html_()).text
    assert "0 of 4 rows" in shown and "Splits" not in shown
    shown = Shown(dataset._repr_html_()).text
    assert "in no split 1" in shown and "test 0" in shown  # of the dataset itself, an empty split is shown
    assert "0 rows" in Shown(kd.from_arrays(np.zeros((0, 3)))._repr_html_()).text


def test_a_dataset_that_cannot_be_described_shows_why(tmp_path: Path) -> None:
    np.savez(tmp_path / "a.npz", X=np.zeros((5, 2)))
    with kd.load_dataset(tmp_path / "a.npz") as dataset:
        assert "5 rows" in Shown(dataset._repr_html_()).text
    assert "the dataset was closed; load it again" in Shown(dataset._repr_html_()).text
    assert repr(dataset) == "<XyDataset: the dataset was closed; load it again; X=X float64 (2,); y=None; npz-lazy>"


def test_sizes_that_are_not_known_without_reading_are_a_lower_bound(tmp_path: Path) -> None:
    (tmp_path / "t.csv").write_text("text,y\nCC,1\nCO,2\n")
    dataset = letters_of(tmp_path / "t.csv")
    shown = Shown(dataset._repr_html_()).text
    assert "at least 16 B of X and y" in shown
    read = dict(description.facts(dataset, description.columns(dataset, 1)))
    assert read["a batch of 128"] == "about 20 B of X and y" and read["in memory"] == "about 20 B"


def shared(tmp_path: Path, splits: dict[str, object]) -> kd.XyDataset:
    """Six rows that share two texts, stored with keys."""
    data = {"X": np.arange(6.0), "smiles": ["C", "C", "O", "O", "C", "O"], "kinase": ["a", "a", "a", "b", "b", "b"]}
    spec = {"X": "X", "meta": ["smiles", "kinase"], "storage": {"backend": "in-memory"}}
    kd.save_dataset(kd.load_dataset(spec, data=data), tmp_path / "a.npz")
    kd.convert(tmp_path / "a.npz", tmp_path / "b.npz", share=["smiles"])
    return kd.load_dataset({"storage": {"backend": "npz-lazy", "path": str(tmp_path / "b.npz")}, "splits": splits})


def test_what_splits_share_is_counted_from_keys_and_known_from_the_spec(tmp_path: Path) -> None:
    splits = {"labels": {"train": {"range": [0, 3]}, "test": {"range": [3, 6]}}, "apart": ["kinase"]}
    with shared(tmp_path, splits) as dataset:
        shown = Shown(dataset._repr_html_()).text
        assert "smiles: 1 pair of splits shares values, up to 100.0 % of train" in " ".join(shown.split()), shown
        assert "train 3 of 3 (100.0 %)" in shown and "2 values, shared" in shown
        assert "No two splits share a value of  kinase" in shown
        view = Shown(dataset.select([0, 1, 3])._repr_html_()).text
        assert "pair of splits" not in view and "kinase" in view  # its rows of train are C, and that of test is O
        assert "What splits share" not in Shown(dataset.split("train")._repr_html_()).text


def test_keys_are_not_compared_for_a_dataset_of_very_many_rows(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with shared(tmp_path, {"train": {"range": [0, 3]}, "test": {"range": [3, 6]}}) as dataset:
        assert "What splits share" in dataset._repr_html_()
        monkeypatch.setattr(html, "MOST_ROWS", 5)
        assert "What splits share" not in dataset._repr_html_()


def test_a_table_of_very_many_columns_is_folded() -> None:
    columns = [f"c{number}" for number in range(51)]
    data = {name: [0.5] for name in columns}
    for names, opened in ((columns, False), (columns[:50], True)):
        dataset = kd.load_dataset({"X": names, "storage": {"backend": "in-memory"}}, data=data)
        title = f"<summary>Columns ({len(names)})"
        assert (f"<details open>{title}" in dataset._repr_html_()) is opened
        assert (f"<details open>{title}" in dataset.spec._repr_html_()) is opened
