"""Histograms as SVG, drawn by matplotlib. They contain no text of the data, and have the color of the text around."""

from __future__ import annotations

import io
import math
import re
from collections.abc import Mapping
from html import escape
from importlib.util import find_spec
from typing import Any

import numpy as np
from numpy.typing import NDArray

from kinoml_data.errors import PluginLoadError

BINS = 30
OUTER = 0.001  # the share of values at each end that may be left out
STRETCH = 3.0  # they are left out if the range without them is so many times smaller
TEXT = "#010203"  # stands for the color of text


def check_matplotlib() -> None:
    """Check that figures can be drawn, before the work that makes their content.

    Raises:
        PluginLoadError: matplotlib is not installed.
    """
    if find_spec("matplotlib") is None:
        raise PluginLoadError('a report needs matplotlib: pip install "kinoml-data[report]"')


def histogram(series: Mapping[str, NDArray[Any]], label: str) -> tuple[str, int]:
    """The distributions of several groups of numbers, each in percent of its own group.

    Args:
        series: the finite values of each group by its color, float64 `(values,)`.
        label: what the figure shows, for those who cannot see it.

    Returns:
        An `svg` element, empty if there is nothing to draw; and the number of values beyond its ends, which are not
        drawn.
    """
    every = np.concatenate([np.empty(0), *series.values()])
    edges = _edges(every)
    if edges is None:
        return "", 0
    counts = {color: np.histogram(values, edges)[0] for color, values in series.items() if len(values)}
    beyond = len(every) - sum(int(count.sum()) for count in counts.values())
    shares = {color: 100 * count / len(series[color]) for color, count in counts.items()}
    return _drawn(shares, edges, label), beyond


def _edges(values: NDArray[np.float64]) -> NDArray[np.floating[Any]] | None:
    """The edges of the bins: float64 `(bins + 1,)`; None if there are no values, or if their range is too large."""
    if not len(values):
        return None
    with np.errstate(over="ignore", invalid="ignore"):
        low, high = float(values.min()), float(values.max())
        inner_low, inner_high = map(float, np.quantile(values, [OUTER, 1 - OUTER]))
        if inner_low < inner_high and (high - low) > STRETCH * (inner_high - inner_low):
            low, high = inner_low, inner_high
        is_small = max(abs(low), abs(high)) < 2**31
        if is_small and not (values % 1).any():  # each bin has as many whole numbers as the others
            first, count = math.ceil(low), math.floor(high) - math.ceil(low) + 1
            least = -(-count // (2 * BINS))
            step = min(
                range(least, min(2 * least, least + 1000) + 1), key=lambda size: -count % size
            )  # few are beyond the last value
            return first - 0.5 + step * np.arange(-(-count // step) + 1, dtype=np.float64)
        margin = 0.0 if low < high else abs(low) / 2 or 0.5
        edges = np.linspace(low - margin, high + margin, BINS + 1)
    return edges if np.isfinite(edges).all() and (np.diff(edges) > 0).all() else None


def _drawn(shares: Mapping[str, NDArray[np.float64]], edges: NDArray[np.floating[Any]], label: str) -> str:
    import matplotlib
    from matplotlib.backends.backend_svg import FigureCanvasSVG
    from matplotlib.figure import Figure

    with matplotlib.rc_context():
        matplotlib.rcdefaults()  # the figures do not depend on the style of the caller
        settings: Any = {"svg.fonttype": "none", "svg.hashsalt": "kinoml-data", "font.size": 9, "axes.linewidth": 0.6}
        colors = ("text.color", "axes.edgecolor", "axes.labelcolor", "xtick.color", "ytick.color")
        matplotlib.rcParams.update(settings | dict.fromkeys(colors, TEXT))
        figure = Figure(figsize=(3.5, 1.9), layout="constrained")
        axes = figure.add_subplot()
        axes.set_facecolor("none")
        figure.patch.set_alpha(0)
        for color, share in shares.items():
            axes.stairs(share, edges, color=color, linewidth=1.3)
            axes.stairs(share, edges, fill=True, color=color, alpha=0.12 if len(shares) > 1 else 0.35)
        axes.set_xlim(edges[0], edges[-1])
        axes.set_ylim(bottom=0)
        axes.spines[["top", "right"]].set_visible(False)
        axes.tick_params(length=0, pad=4)
        if (edges % 1 == 0.5).all():  # bins of whole numbers
            axes.xaxis.set_major_locator(matplotlib.ticker.MaxNLocator("auto", steps=[1, 2, 5, 10], integer=True))
        axes.yaxis.set_major_locator(matplotlib.ticker.MaxNLocator(4))
        axes.yaxis.set_major_formatter(lambda share, _: f"{share:g} %")
        text = io.StringIO()
        canvas: Any = FigureCanvasSVG(figure)
        canvas.print_svg(text, metadata={"Date": None})
    return _element(text.getvalue(), label)


def _element(document: str, label: str) -> str:
    """The `svg` element of a document, without what would affect the page around it: ids, styles and its size."""
    _, box, content = re.split(r'<svg [^>]*(viewBox="[^"]*")[^>]*>', document, maxsplit=1)
    for unwanted in ("<metadata>.*?</metadata>", r"<defs>\s*<style.*?</style>\s*</defs>", "<!--.*?-->"):
        content = re.sub(unwanted, "", content, flags=re.DOTALL)
    document = f'<svg {box} role="img" aria-label="{escape(label)}">{content}'
    used = set(re.findall(r"url\(#([^)]*)\)", document))
    document = re.sub(r' id="([^"]*)"', lambda match: match[0] if match[1] in used else "", document)
    return re.sub(r"\n\s*", "\n", document.replace(TEXT, "currentColor"))
