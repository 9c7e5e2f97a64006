"""Builds the site from these pages and the docstrings: `python -m sphinx -W --keep-going docs build/site`."""

import html
import inspect
import os
import re
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any
from urllib.parse import unquote, urlsplit

from sphinx.application import Sphinx
from sphinx.domains.python import PyXRefRole
from sphinx.util import logging

import kinoml_data

DOCS = Path(__file__).parent
ROOT = DOCS.parent
logger = logging.getLogger(__name__)

project = "kinoml_data"
author = "The kinoml_data developers"
copyright = author
version = release = kinoml_data.__version__
extensions = ["sphinx.ext.autodoc", "sphinx.ext.autosummary", "sphinx.ext.napoleon", "myst_nb"]
exclude_patterns = ["reference/command.md", "notebooks/.ipynb_checkpoints"]

# Docstrings: a word in backticks is a link if it is a public name, and code otherwise.
default_role = "py:name"
nitpicky = True
nitpick_ignore_regex = [
    ("py:name", r"(?s).*"),
    ("py:.*", r"(?!kinoml_data\b).*"),  # other packages
    ("py:class", r"kinoml_data\.\w+\..*"),  # private classes in signatures
]
add_module_names = False
python_maximum_signature_line_length = 100
toc_object_entries_show_parents = "hide"
autodoc_default_options = {
    "members": True,
    "special-members": "__getitem__",
    "show-inheritance": True,
    "exclude-members": "model_config, model_post_init",  # of pydantic
}
autodoc_typehints_format = "short"
napoleon_custom_sections = [("Attributes", "params_style")]
napoleon_use_rtype = False
templates_path = ["_templates"]

# Pages and notebooks: links to headings are those of code hosts, and notebooks contain their outputs.
myst_heading_anchors = 4
nb_execution_mode = "off"

html_theme = "pydata_sphinx_theme"
html_title = f"{project} {version}"
html_static_path = ["_static"]
html_css_files = ["site.css"]
html_sidebars = {"**": ["pages"]}
html_show_sourcelink = False
html_theme_options = {
    "logo": {"text": html_title},
    "navbar_center": [],
    "show_toc_level": 2,
    "secondary_sidebar_items": ["page-toc"],
    "footer_start": ["copyright"],
    "footer_end": [],
}

# The pages of files outside of this folder. Links to these files, or to the folder of a README, lead to the pages.
ELSEWHERE = {ROOT / "README.md": DOCS / "index.md", ROOT / "plugins" / "README.md": DOCS / "plugins" / "index.md"}
ELSEWHERE |= {ROOT / f"{name.upper()}.md": DOCS / f"{name}.md" for name in ("changelog", "contributing", "security")}
ELSEWHERE |= {path: DOCS / "plugins" / f"{path.parent.name}.md" for path in ROOT.glob("plugins/*/README.md")}


def relinked(text: str, source: Path, page: Path) -> str:
    """The text of the file `source` for `page`, from which relative links lead to other places."""

    def link(match: re.Match[str]) -> str:
        path, mark, anchor = match[2].partition("#")
        target = Path(os.path.normpath(source.parent / path))
        if not path or not target.exists():  # a link within the page, a URL or code
            return match[0]
        target = ELSEWHERE.get(target / "README.md" if target.is_dir() else target, target)
        return f"{match[1]}{os.path.relpath(target, page.parent)}{mark}{anchor}"

    return re.sub(r'(\]\(|src=")([^)\s"]+)', link, text)


def relink_page(app: Sphinx, docname: str, content: list[str]) -> None:
    """Change the links of a page that lead out of this folder."""
    page = DOCS / f"{docname}.md"
    if page.exists():
        content[0] = relinked(content[0], page, page)


def relink_included(app: Sphinx, path: Path, docname: str, content: list[str]) -> None:
    """Change the links of a file that a page includes."""
    content[0] = relinked(content[0], DOCS / path, DOCS / f"{docname}.md")


def write_pages() -> None:
    """Write the pages of the plugins, and the descriptions of all commands, which `cli.md` includes."""
    for folder in ("reference", "plugins"):
        shutil.rmtree(DOCS / folder, ignore_errors=True)
        (DOCS / folder).mkdir()
    for file, page in ELSEWHERE.items():
        if page.parent != DOCS:
            pages = "~~~{toctree}\n:hidden:\n:glob:\n\n*\n~~~\n" if page.stem == "index" else ""
            page.write_text(relinked(file.read_text("utf-8"), file, page) + pages, "utf-8")
    command = [sys.executable, "-m", "typer", "kinoml_data.cli.main", "utils", "docs", "--name", "kinoml-data"]
    text = subprocess.run(command, check=True, capture_output=True, text=True).stdout
    text = re.sub(r"\*\*Commands\*\*:\n\n(\* .*\n)+\n", "", text)  # their first words; the commands follow
    (DOCS / "reference" / "command.md").write_text(text.replace("```console", "```text"), "utf-8")


def signature_of_class(app: Sphinx, what: str, name: str, value: Any, *_: Any) -> tuple[str, str] | None:
    """The arguments of a class without their types, which the options of a backend or a spec have in great detail."""
    if what != "class":
        return None
    parameters = inspect.signature(value).parameters.values()
    return str(inspect.Signature([part.replace(annotation=part.empty) for part in parameters])), ""


def check_links(app: Sphinx, exception: Exception | None) -> None:
    """Warn about each link within the site that leads nowhere."""
    pages = [] if exception else [Path(app.outdir) / f"{name}.html" for name in app.env.found_docs]
    texts = {page: page.read_text("utf-8") for page in pages if page.exists()}
    places = {
        page: {html.unescape(name) for name in re.findall(r' id="([^"]+)"', text)} for page, text in texts.items()
    }
    for page, text in texts.items():
        for link in map(html.unescape, set(re.findall(r' (?:href|src)="([^"]+)"', text))):
            url = urlsplit(link)
            target = Path(os.path.normpath(page.parent / unquote(url.path))) if url.path else page
            exists = target.exists() and (not url.fragment or url.fragment in places.get(target, {url.fragment}))
            if not (url.scheme or url.netloc or exists):
                logger.warning("%s: the link %s leads nowhere", page, link)


def setup(app: Sphinx) -> None:
    """Register what this file defines."""
    app.add_role_to_domain("py", "name", PyXRefRole())
    app.connect("autodoc-process-signature", signature_of_class)
    app.connect("source-read", relink_page)
    app.connect("include-read", relink_included)
    app.connect("build-finished", check_links)
    write_pages()
