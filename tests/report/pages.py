"""Datasets to report on, and a reader of pages that fails on HTML which is not well formed."""

from __future__ import annotations

from html.parser import HTMLParser
from typing import Any

import numpy as np

import kinoml_data as kd
from kinoml_data.dataset import description
from kinoml_data.report.contents import Content, Group, content_of, groups_of

VOID = ("br", "meta", "img")


class Page(HTMLParser):
    """Collects the tags and the text of a page, and fails on a tag that is not closed in order."""

    def __init__(self, html: str) -> None:
        super().__init__()
        self.open: list[str] = []
        self.tags: list[str] = []
        self.attributes: list[tuple[str, str | None]] = []
        self.text = ""
        self.feed(html)
        self.close()
        assert not self.open, self.open
        self.text = " ".join(self.text.split())

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append(tag)
        self.attributes += attrs
        if tag not in VOID:
            self.open.append(tag)

    def handle_startendtag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append(tag)
        self.attributes += attrs

    def handle_endtag(self, tag: str) -> None:
        assert self.open.pop() == tag

    def handle_data(self, data: str) -> None:
        if not self.open or self.open[-1] != "style":
            self.text += f"{data} "


def cells(html: str) -> list[list[str]]:
    """The text of each cell of every row of the tables in some HTML."""
    rows: list[list[str]] = []
    for row in html.split("<tr>")[1:]:
        parts = row.partition("</tr>")[0].replace("<td", "<th").split("<th")[1:]
        rows.append([Page(f"<i{part}".replace("</td>", "</i>").replace("</th>", "</i>")).text for part in parts])
    return rows


KINDS, RELATIONS = ["pIC50", "pKi"], ["=", "<", ">"]


def mixed(**parts: Any) -> kd.XyDataset:
    """Six measurements of two kinds in two splits, with a ragged column, a bound, and a value that is missing."""
    data = {
        "atoms": [np.zeros((length, 2), "f4") for length in (1, 2, 3, 4, 5, 10)],
        "value": np.array([5.0, 6.0, np.nan, 7.0, 8.0, 9.0]),
        "kind": [KINDS[place] for place in (0, 0, 0, 1, 1, 1)],
        "relation": ["=", "=", "=", "=", ">", "="],
        "id": ["a", "b", "c", "d", "e", "e"],
    }
    spec = {
        "columns": {
            "atoms": {"dtype": "float32", "shape": ["*", 2]},
            "value": {"dtype": "float32"},
            "kind": {"dtype": "uint8", "values": KINDS},
            "relation": {"dtype": "uint8", "values": RELATIONS},
            "id": {"dtype": "str"},
        },
        "X": "atoms",
        "y": ["value", "kind", "relation"],
        "meta": ["id"],
        "splits": {"train": {"rows": [0, 1, 2, 3, 4]}, "test": {"rows": [5]}},
        "observation_model": {
            "name": "mixed",
            "value": "value",
            "kind": "kind",
            "relation": "relation",
            "models": {"pIC50": {}, "pKi": {}},
        },
        "storage": {"backend": "in-memory"},
    }
    return kd.load_dataset(spec | parts, data=data)


def contents_of(dataset: kd.XyDataset, sample: int = 1000) -> dict[str, Content]:
    """What a report reads of every column."""
    return {facts.name: content_of(dataset, facts, sample) for facts in description.columns(dataset, sample)}


def all_of(dataset: kd.XyDataset, sample: int = 1000) -> tuple[dict[str, Content], list[Group]]:
    return contents_of(dataset, sample), groups_of(dataset)
