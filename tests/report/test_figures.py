"""Histograms: what is counted, and what the SVG contains."""

from __future__ import annotations

import re
import sys

import matplotlib
import numpy as np
import pytest

from kinoml_data.errors import PluginLoadError
from kinoml_data.report import figures
from kinoml_data.report.figures import _edges, check_matplotlib, histogram
from tests.report.pages import Page

RED, BLUE = "#ff0000", "#0000ff"


def test_a_histogram_is_one_element_without_ids_styles_or_addresses_that_affect_the_page() -> None:
    svg, beyond = histogram({RED: np.arange(100.0), BLUE: np.array([3.0])}, 'values of <b> & "c"')
    assert svg.startswith("<svg viewBox=") and svg.rstrip().endswith("</svg>") and beyond == 0
    page = Page(svg)
    assert ("aria-label", 'values of <b> & "c"') in page.attributes
    assert not {"style", "script", "metadata", "image"} & set(page.tags)
    assert "http" not in svg and figures.TEXT not in svg and "currentColor" in svg
    assert set(re.findall(r'id="([^"]*)"', svg)) <= set(re.findall(r"url\(#([^)]*)\)", svg))


def test_a_figure_is_the_same_again_and_whatever_style_the_caller_uses() -> None:
    values = {RED: np.linspace(0, 1, 50)}
    before = histogram(values, "values")
    with matplotlib.rc_context({"font.size": 30, "text.color": "red", "svg.fonttype": "path"}):
        assert histogram(values, "values") == before
        assert matplotlib.rcParams["font.size"] == 30
    assert histogram(values, "values") == before


@pytest.mark.parametrize("values", [[0.0, 1.0], [5.0], [0.0], [1e-300], [-7.5, -7.5], [1e-6, 2e-6], [0, 10**6]])
def test_the_bins_contain_every_value(values: list[float]) -> None:
    edges = _edges(np.array(values, float))
    assert edges is not None and (np.diff(edges) > 0).all()
    assert np.histogram(values, edges)[0].sum() == len(values)


@pytest.mark.parametrize("most", [1, 5, 29, 59, 60, 61, 100, 1000, 10**6])
def test_each_bin_of_whole_numbers_has_as_many_of_them(most: int) -> None:
    edges = _edges(np.arange(most + 1.0))
    assert edges is not None and len(edges) <= 2 * figures.BINS + 1
    counts = np.histogram(np.arange(edges[0] + 0.5, edges[-1]), edges)[0]
    assert len(set(counts.tolist())) == 1 and edges[0] == -0.5 and most < edges[-1] < most * 1.05 + 3


def test_the_axis_of_whole_numbers_has_whole_numbers() -> None:
    svg, _ = histogram({RED: np.arange(9.0, 29.0)}, "lengths")
    labels = re.findall(r">\s*([\d.]+)\s*</text>", svg)
    assert len(labels) > 3 and not [label for label in labels if "." in label]


def test_values_far_beyond_nearly_all_others_are_counted_but_not_drawn() -> None:
    values = np.append(np.linspace(0, 1, 2000), [1e9])
    svg, beyond = histogram({RED: values}, "values")
    assert beyond >= 1 and "1e9" not in svg
    edges = _edges(values)
    assert edges is not None and edges[-1] <= 1.1


@pytest.mark.parametrize("values", [[2.0**64] * 3, [1e17, 1e17 + 16], [2.0**53, 2.0**53 + 2]])
# A division by zero or an overflow would be a warning of numpy.
@pytest.mark.filterwarnings("error")
def test_whole_numbers_without_room_between_them_are_drawn_as_other_numbers(values: list[float]) -> None:
    histogram({RED: np.array(values)}, "values")
    assert (edges := _edges(np.array(values))) is None or (np.diff(edges) > 0).all()


def test_bins_of_whole_numbers_of_a_large_range_are_found_among_few_sizes() -> None:
    edges = _edges(np.linspace(0, 2**31 - 1, 50).round())  # all sizes would be 35 million
    assert edges is not None and figures.BINS <= len(edges) <= 2 * figures.BINS + 1
    assert edges[0] == -0.5 and 2**31 - 1 < edges[-1] < 2**31 * 1.02


@pytest.mark.parametrize("values", [[], [-1.7e308, 1.7e308]])
def test_nothing_is_drawn_without_values_or_if_their_range_is_too_large(values: list[float]) -> None:
    assert histogram({RED: np.array(values, float)}, "values") == ("", 0)


def test_a_group_without_values_does_not_prevent_a_figure() -> None:
    assert BLUE not in histogram({RED: np.arange(5.0), BLUE: np.empty(0)}, "values")[0]


def test_without_matplotlib_the_error_says_what_to_install(monkeypatch: pytest.MonkeyPatch) -> None:
    check_matplotlib()
    monkeypatch.setitem(sys.modules, "matplotlib", None)
    monkeypatch.setattr(figures, "find_spec", lambda name: None)
    with pytest.raises(PluginLoadError, match=r'needs matplotlib: pip install "kinoml-data\[report\]"'):
        check_matplotlib()
