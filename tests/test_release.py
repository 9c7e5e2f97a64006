"""What a release consists of fits together: versions, requirements, changelogs and the pages of a package index."""

from __future__ import annotations

import re
import tomllib
from pathlib import Path
from typing import Any

import pytest
import yaml

import kinoml_data

ROOT = Path(__file__).parents[1]
PLUGINS = sorted(file.parent for file in (ROOT / "plugins").glob("*/pyproject.toml"))
TEMPLATES = sorted(file.parent for file in (ROOT / "kinoml_data/cli/templates").glob("*/pyproject.toml"))
MAJOR, MINOR = (int(part) for part in kinoml_data.__version__.split(".")[:2])
EACH_DISTRIBUTION = pytest.mark.parametrize("folder", [ROOT, *PLUGINS], ids=lambda folder: folder.name)


def pyproject(folder: Path) -> dict[str, Any]:
    return tomllib.loads((folder / "pyproject.toml").read_text("utf-8"))


@pytest.mark.parametrize("folder", [*PLUGINS, *TEMPLATES], ids=lambda folder: folder.name)
def test_a_plugin_requires_the_minor_version_of_the_library_that_it_is_released_with(folder: Path) -> None:
    assert f"kinoml-data>={MAJOR}.{MINOR},<{MAJOR}.{MINOR + 1}" in pyproject(folder)["project"]["dependencies"]


def test_the_manual_shows_the_requirement_that_plugins_have() -> None:
    shown = re.findall(r"kinoml-data>=[\d.]+,<[\d.]+", (ROOT / "docs/writing-a-backend.md").read_text("utf-8"))
    assert set(shown) == {f"kinoml-data>={MAJOR}.{MINOR},<{MAJOR}.{MINOR + 1}"}


@pytest.mark.parametrize("folder", PLUGINS, ids=lambda folder: folder.name)
def test_the_version_of_a_plugin_begins_with_that_of_the_library(folder: Path) -> None:
    assert pyproject(folder)["project"]["version"].startswith(f"{MAJOR}.{MINOR}.")


@EACH_DISTRIBUTION
def test_the_changelog_has_a_heading_for_the_version(folder: Path) -> None:
    version = pyproject(folder)["project"].get("version", kinoml_data.__version__)
    headings = re.findall(r"^## (\S+)", (folder / "CHANGELOG.md").read_text("utf-8"), re.MULTILINE)
    assert version in headings


def test_the_citation_names_the_version() -> None:
    assert yaml.safe_load((ROOT / "CITATION.cff").read_text("utf-8"))["version"] == kinoml_data.__version__


@EACH_DISTRIBUTION
def test_the_page_of_a_package_index_has_no_link_into_the_repository(folder: Path) -> None:
    text = (folder / "README.md").read_text("utf-8")
    for step in pyproject(folder)["tool"]["hatch"]["metadata"]["hooks"]["fancy-pypi-readme"]["substitutions"]:
        text = re.sub(step["pattern"], step["replacement"], text)
    assert not relative_links(text)


def relative_links(text: str) -> list[str]:
    """The targets of links and pictures, in Markdown and in HTML, that are not addresses."""
    targets = re.findall(r"\]\(([^)\s]+)", text) + re.findall(r"""(?:src|href|srcset)=["']([^"']+)""", text)
    return [target for target in targets if not target.startswith(("https://", "http://"))]
