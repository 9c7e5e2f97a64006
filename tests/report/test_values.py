"""What a report says about values: by kind and split, with bounds and what is missing."""

from __future__ import annotations

import re
from typing import Any

import numpy as np
import pytest

import kinoml_data as kd
from kinoml_data.dataset import description
from kinoml_data.report import contents as report_contents
from kinoml_data.report import values
from kinoml_data.report.values import missing_html, texts_html, values_html
from tests.report.pages import Page, all_of, cells, contents_of, mixed


def shown(dataset: kd.XyDataset) -> str:
    return values_html(dataset, *all_of(dataset))


def test_the_statistics_are_those_of_each_kind_and_split() -> None:
    html = shown(mixed())
    header, *rows = cells(html)
    assert header == [
        *("column", "kind", "split", "rows", "values", "missing", "least"),
        *("5 %", "median", "mean", "95 %", "greatest", "bounds"),
    ]
    of = {(row[1], row[2]): dict(zip(header, row, strict=True)) for row in rows if len(row) == len(header)}
    assert set(of) == {(kind, split) for kind in ("pIC50", "pKi") for split in ("train", "test")}
    train = of["pIC50", "train"]
    assert (train["rows"], train["values"], train["missing"]) == ("3", "2", "1")
    assert (train["least"], train["median"], train["mean"], train["greatest"]) == ("5", "5.5", "5.5", "6")
    assert of["pKi", "train"]["bounds"] == "> 1" and of["pKi", "test"]["bounds"] == ""
    assert (of["pIC50", "test"]["rows"], of["pIC50", "test"]["least"]) == ("0", "")
    assert of["pKi", "test"]["mean"] == "9"
    assert html.count("<svg") == 2


def test_the_texts_of_a_column_are_counted_in_each_split() -> None:
    rows = cells(shown(mixed()))
    assert ["kind", "train", "test"] in rows and ["pIC50", "3", "0"] in rows and ["pKi", "2", "1"] in rows
    assert ["relation", "train", "test"] in rows and [">", "1", "0"] in rows and ["<", "0", "0"] in rows


def test_values_of_a_sample_are_counted_as_such(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(report_contents, "LIMIT", 10)
    dataset = kd.from_arrays(np.zeros(100), np.arange(100.0), {"train": list(range(50)), "test": list(range(50, 100))})
    html = values_html(dataset, *all_of(dataset, 10))
    header, *rows = cells(html)
    assert [dict(zip(header, row, strict=True))["rows"] for row in rows] == ["5", "5"]
    assert "Of y, only 10 rows were read." in Page(html).text


def test_a_dataset_without_y_has_no_values() -> None:
    assert shown(kd.from_arrays(np.zeros((3, 2)))) == ""


def test_every_entry_of_a_row_is_counted() -> None:
    y = np.array([[1.0, np.nan], [3.0, 4.0]])
    header, row = cells(shown(kd.from_arrays(np.zeros(2), y)))
    found = dict(zip(header, row, strict=True))
    assert (found["rows"], found["values"], found["missing"], found["mean"]) == ("2", "3", "1", "2.667")
    assert "kind" not in header and "bounds" not in header


@pytest.mark.parametrize(
    ("y", "numbers"),
    [
        (np.array([True, False, True]), ["0", "1"]),
        (np.array([1, 2, 2**53 - 1]), ["1", "9.007e+15"]),
        (np.array([np.inf, 1.0, -np.inf]), ["1", "1"]),
        (np.array([1.7e308, -1.7e308, 0]), ["-1.7e+308", "1.7e+308"]),
        (np.array([np.nan, np.nan, np.nan]), ["", ""]),
    ],
)
def test_unusual_numbers_are_described(y: Any, numbers: list[str]) -> None:
    header, row = cells(shown(kd.from_arrays(np.zeros(3), y)))
    found = dict(zip(header, row, strict=True))
    assert [found.get("least", ""), found.get("greatest", "")] == numbers


def test_complex_values_are_not_compared() -> None:
    assert shown(kd.from_arrays(np.zeros(2), np.array([1j, 2]))) == ""


def test_more_figures_than_fit_are_left_out_and_counted(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(values, "FIGURES", 1)
    html = shown(mixed())
    assert html.count("<svg") == 1 and "Only 1 figures are shown; the table has all 2 distributions." in Page(html).text


def test_many_splits_are_one_line_in_a_figure_but_not_in_the_table(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(values, "MOST_GROUPS", 1)
    html = shown(mixed())
    assert "all rows" in Page(html).text and ["pIC50", "train"] in [row[1:3] for row in cells(html)]
    assert len(set(re.findall(r"stroke: (#[0-9a-f]{6})", html))) == 1


def test_other_columns_show_how_many_values_are_different() -> None:
    data = {"x": [1.0, 2.0, 3.0], "text": ["a", "a", "<b>"], "year": [2020, 2021, 2021]}
    dataset = kd.load_dataset({"X": "x", "meta": ["text", "year"], "storage": {"backend": "in-memory"}}, data=data)
    html = texts_html(dataset, contents_of(dataset), description.columns(dataset))
    assert cells(html)[1:] == [["text", "str", "2", "'a' 2"], ["year", "int64", "2", "2021 2"]]


def test_all_missing_numbers_count_as_one_value() -> None:
    data = {"x": [1.0, 2.0, 3.0], "ph": np.array([np.nan, 7.0, np.nan]), "z": np.array([1j, np.nan, np.nan])}
    dataset = kd.load_dataset({"X": "x", "meta": ["ph", "z"], "storage": {"backend": "in-memory"}}, data=data)
    html = texts_html(dataset, contents_of(dataset), description.columns(dataset))
    assert cells(html)[1:] == [["ph", "float64", "2", "nan 2"], ["z", "complex128", "2", "nan 2"]]


def test_missing_values_are_counted_in_all_rows_that_were_read() -> None:
    data = {"x": [1.0, np.nan, 3.0, np.nan], "y": [np.nan, 1.0, np.nan, np.nan], "text": ["", "a", "", "b"]}
    spec = {"X": "x", "y": "y", "meta": ["text"], "storage": {"backend": "in-memory"}}
    dataset = kd.load_dataset(spec, data=data)
    read = contents_of(dataset)
    del read["x"]  # X is known from a sample only
    rows = cells(missing_html(dataset, read, description.columns(dataset, 2), 2))
    assert rows[1:] == [
        ["x", "X", "1", "NaN", "2"],
        ["y", "y", "3", "NaN", "4"],
        ["text", "meta", "2", "empty texts", "4"],
    ]
    assert missing_html(mixed().select([0]), contents_of(mixed().select([0])), [], 5) == ""
