"""What notebooks show, rendered by a real browser: legible in every theme, not cut off, and foldable."""

from __future__ import annotations

import json
import re
import shutil
import subprocess
from html import unescape
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import kinoml_data as kd

BROWSER = next(filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))), None)
pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(BROWSER is None, reason="neither chromium nor google-chrome is installed"),
]
# The colors of background and text in JupyterLab and in the site.
THEMES = {
    "lab-light": ("#ffffff", "rgba(0, 0, 0, 0.87)"),
    "lab-dark": ("#111111", "rgba(255, 255, 255, 0.87)"),
    "site-light": ("#ffffff", "#222832"),
    "site-dark": ("#14181e", "#ced6dd"),
}
LEGIBLE = 4.5  # the contrast of text that the guidelines for accessible web pages ask for
# Reports what is wrong with a page as JSON in its title: text of little contrast, and what is wider than its place.
SCRIPT = """
const numbers = color => color.match(/[\\d.]+(e-?\\d+)?/g).map(Number);
const rgba = color => {
  const [r, g, b, a = 1] = numbers(color.replace("srgb", ""));
  return color.startsWith("color(") ? [r, g, b, a] : [r / 255, g / 255, b / 255, a];
};
const over = (top, bottom) => [0, 1, 2].map(i => top[i] * top[3] + bottom[i] * (1 - top[3]));
const luminance = color => {
  const [r, g, b] = color.map(c => c <= 0.04045 ? c / 12.92 : ((c + 0.055) / 1.055) ** 2.4);
  return 0.2126 * r + 0.7152 * g + 0.0722 * b;
};
const page = rgba(getComputedStyle(document.body).backgroundColor).slice(0, 3);
const contrast = element => {
  const [one, other] = [over(rgba(getComputedStyle(element).color), page), page].map(luminance);
  return (Math.max(one, other) + 0.05) / (Math.min(one, other) + 0.05);
};
const shown = element => element.checkVisibility() && element.getClientRects().length > 0;
const all = [...document.querySelectorAll(".kinoml-data, .kinoml-data :not(style)")];
const heights = element => element.getBoundingClientRect().height;
const report = {objects: document.querySelectorAll(".kinoml-data").length, texts: 0, faint: [], wide: [], folds: []};
report.scripts = document.querySelectorAll(".kinoml-data script, .kinoml-data img").length;
for (const element of all.filter(shown)) {
  const text = [...element.childNodes].filter(n => n.nodeType == 3).map(n => n.data.trim()).join(" ").trim();
  if (text) {
    report.texts += 1;
    if (contrast(element) < LEGIBLE) report.faint.push([element.className, text, contrast(element)]);
  }
  if (element.scrollWidth > element.clientWidth + 1 && element.clientWidth) report.wide.push([element.className, text]);
}
for (const details of document.querySelectorAll(".kinoml-data details")) {
  const before = heights(details), was_open = details.open;
  if (!shown(details)) continue;
  details.querySelector("summary").click();
  report.folds.push([was_open, was_open ? before - heights(details) : heights(details) - before]);
  details.open = was_open;
}
document.title = JSON.stringify(report);
"""


def rendered(tmp_path: Path, objects: list[Any], theme: str, width: int) -> dict[str, Any]:
    """The report of `SCRIPT` on a page of this width that shows these objects."""
    background, color = THEMES[theme]
    shown = "".join(item._repr_html_() for item in objects)
    script = SCRIPT.replace("LEGIBLE", str(LEGIBLE))
    page = tmp_path / "page.html"
    page.write_text(
        f'<!doctype html><meta charset="utf-8"><title>not run</title>'
        f"<style>body {{ width: {width}px; background: {background}; color: {color} }}</style>"
        f"<body>{shown}<script>{script}</script>",
        "utf-8",
    )
    assert BROWSER is not None
    command = [BROWSER, "--headless=new", "--no-sandbox", "--disable-gpu", f"--user-data-dir={tmp_path / 'profile'}"]
    command += ["--window-size=1000,2000", "--dump-dom", page.as_uri()]
    dom = subprocess.run(command, check=True, capture_output=True, text=True, timeout=300).stdout
    (title,) = re.findall(r"<title>(.*?)</title>", dom, re.DOTALL)
    report: dict[str, Any] = json.loads(unescape(title))
    return report


@pytest.fixture(scope="module")
def objects(tmp_path_factory: pytest.TempPathFactory) -> list[Any]:
    """One of everything that has a table, with names that are hostile, long or both."""
    folder = tmp_path_factory.mktemp("data")
    random, count = np.random.default_rng(0), 60
    ligand = random.integers(0, 9, count)
    data = {
        "fingerprint": random.integers(0, 2, (count, 64), np.uint8),
        "residues": [np.ones((20, 250 + number), np.uint8) for number in ligand],
        "pIC50": random.normal(6, 1, count),
        "relation": [("=", "<", ">")[number % 3] for number in ligand],
        "smiles": ["C" * (1 + number) for number in ligand],
        "a" * 80: random.normal(size=count),
    }
    columns: dict[str, Any] = {
        "fingerprint": {"dtype": "float32", "shape": [64]},
        "residues": {"dtype": "float32", "shape": [20, "*"]},
        "pIC50": {"dtype": "float32", "missing": "nan", "range": [0, 15]},
        "relation": {"dtype": "int64", "values": ["=", "<", ">"]},
        "smiles": {"dtype": "str"},
        "a" * 80: {"dtype": "float32"},
    }
    spec = {
        "name": "<script>document.title = 1</script>" + "n" * 200,
        "columns": columns,
        "X": ["fingerprint", "residues", "a" * 80],
        "y": ["pIC50", "relation"],
        "meta": ["smiles"],
        "storage": {"backend": "in-memory"},
        "splits": {"folds": 5, "ratios": {"test": 0.2, "<img src=x onerror=1>" + "v" * 60: 0.1}, "seed": 0},
        "observation_model": {"name": "pIC50", "value": "pIC50", "relation": "relation"},
    }
    kd.save_dataset(kd.load_dataset(spec, data=data), folder / "a.npz")
    kd.convert(folder / "a.npz", folder / ("b" * 100 + ".npz"), share=["residues", "smiles"])
    dataset = kd.load_dataset(folder / ("b" * 100 + ".npz"))
    check = dataset.check_splits(["smiles", "residues", "fingerprint"])
    forms = ["packed", "pad-mask", {"form": "unique", "of": "pad-mask"}, {"form": "unique", "of": "packed"}, "unique"]
    loaders = [dataset.as_dataloader(batch_size=16, collate={"residues": form}) for form in forms]
    batches = [next(iter(loader))[0]["residues"] for loader in loaders]
    views = [dataset.split("test"), dataset.select([]), kd.from_arrays(np.zeros((0, 2)))]
    closed = kd.load_dataset(folder / "a.npz")
    closed.close()
    return [dataset, *views, closed, dataset.spec, check, check.shared[0], *batches]


@pytest.mark.parametrize("theme", THEMES)
@pytest.mark.parametrize("width", [320, 960])
def test_what_notebooks_show_is_legible_and_not_cut_off(
    objects: list[Any], tmp_path: Path, theme: str, width: int
) -> None:
    report = rendered(tmp_path, objects, theme, width)
    assert report["objects"] == len(objects) and report["texts"] > 200 and not report["scripts"]
    assert not report["faint"]
    # On a narrow page, a table may be scrolled by itself. Nothing else is wider than its place.
    assert not [found for found in report["wide"] if width > 500 or found[0] != "wide"]
    assert len(report["folds"]) > 15 and all(change > 5 for _, change in report["folds"])
    assert {was_open for was_open, _ in report["folds"]} == {True, False}


class Bad:
    """What must be found: faint text, a word that sticks out, and a section without content."""

    def _repr_html_(self) -> str:
        return (
            '<div class="kinoml-data"><p style="color:#888;width:30px">faintandlong</p><script></script>'
            "<details><summary>empty</summary></details></div>"
        )


def test_text_that_is_faint_or_cut_off_is_found(tmp_path: Path) -> None:
    report = rendered(tmp_path, [Bad()], "lab-light", 320)
    assert [text for _, text, _ in report["faint"]] == ["faintandlong"] == [text for _, text in report["wide"]]
    assert report["folds"] == [[False, 0]] and report["scripts"] == 1
