"""The manual is true: its code runs, its specs are valid, its links have targets, and no public name is missing."""

from __future__ import annotations

import inspect
import os
import re
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch

import kinoml_data as kd
from kinoml_data import plugin, testing
from kinoml_data.backends import BUILT_IN
from kinoml_data.contracts import hookspecs
from kinoml_data.observation import BUILT_IN as OBSERVATION_MODELS
from kinoml_data.spec import config
from kinoml_data.spec.dataset_spec import DatasetSpec
from kinoml_data.spec.parts import FORMS
from tests import pages
from tests.pages import FENCE, Block, blocks

ROOT = Path(__file__).parents[1]
DOCS = ROOT / "docs"
TEMPLATES = ROOT / "kinoml_data" / "cli" / "templates"
PAGES = [*(ROOT / f"{name}.md" for name in ("README", "CONTRIBUTING", "SECURITY")), *sorted(DOCS.glob("*.md"))]
RUN_BY_PLUGINS = {  # pages whose code needs a plugin
    "guide.md": "plugins/kinoml-data-rdkit/tests/test_pages.py",
    "measurements.md": "plugins/kinoml-data-measurements/tests/test_readme.py",
}
EACH_PAGE = pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
PLUGIN_PAGES = [page for pattern in ("*.md", "*/*.md") for page in sorted((ROOT / "plugins").glob(pattern))]
PUBLIC = {name: getattr(module, name) for module in (kd, plugin, testing, kd.torch_datasets) for name in module.__all__}
PUBLIC |= {name: error for name, error in vars(kd.errors).items() if name.endswith("Error")}
PUBLIC = {name: value for name, value in PUBLIC.items() if name[0] != "_"}


def manual() -> str:
    return "\n".join(page.read_text("utf-8") for page in PAGES)


def specs_of(text: str) -> list[DatasetSpec]:
    """The specs of a YAML block; one that shows some fields only is completed with the least there can be."""
    found = config.parse(text.encode(), ".yaml")
    listed = found.pop("datasets", {"": {}})
    if isinstance(listed, str):
        listed = {"a": {"storage": {"path": listed}}}
    if "columns" in found and "X" not in found:
        found["X"] = next(iter(found["columns"]))
    least = {"backend": "in-memory"}
    each = [found | said for said in listed.values()]
    return [DatasetSpec.parse(said | {"storage": least | said.get("storage", {})}) for said in each]


@EACH_PAGE
def test_the_code_of_a_page_runs(page: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """It also prints what the page shows; see `pages.run`."""
    if page.name in RUN_BY_PLUGINS:
        assert page.name in (ROOT / RUN_BY_PLUGINS[page.name]).read_text("utf-8")
        pytest.skip(f"its code is run by {RUN_BY_PLUGINS[page.name]}")
    monkeypatch.chdir(tmp_path)
    with torch.random.fork_rng(devices=[]):
        pages.run(page, {"__name__": f"docs_{page.stem.replace('-', '_')}"}, skip=is_template)


@EACH_PAGE
def test_the_specs_of_a_page_are_valid(page: Path) -> None:
    for block in blocks(page):
        if block.language == "yaml":
            try:
                specs_of(block.text)
            except kd.errors.SpecError as error:
                pytest.fail(f"{page.name}, line {block.line}: {error}")


@pytest.mark.parametrize("page", [*PAGES, *PLUGIN_PAGES], ids=lambda page: str(page.relative_to(ROOT)))
def test_the_links_of_a_page_have_targets(page: Path) -> None:
    for target in re.findall(r"\]\(([^)\s]+)\)", page.read_text("utf-8")):
        if target.startswith(("http://", "https://")):
            continue
        path, _, anchor = target.partition("#")
        file = (page.parent / path).resolve() if path else page
        assert file.exists(), f"{page.name}: {target}"
        if anchor:
            assert anchor in anchors(file), f"{page.name}: {target}"


def anchors(page: Path) -> set[str]:
    """The anchors that the headings of a page get."""
    headings = re.findall(r"^#+ (.+)$", FENCE.sub("", page.read_text("utf-8")), re.MULTILINE)
    return {re.sub(r"[^\w\- ]", "", heading.lower()).replace(" ", "-") for heading in headings}


def test_the_shell_commands_of_the_manual_exist() -> None:
    """Commands of ours have the subcommands that the manual uses."""
    from kinoml_data.cli.main import app

    known = {command.callback.__name__ for command in app.registered_commands if command.callback}
    used = set(re.findall(r"`?kinoml-data (\w+)", manual()))
    assert known <= used, f"not in the manual: {known - used}"
    lines = "\n".join(block.text for page in PAGES for block in blocks(page) if block.language == "sh")
    assert set(re.findall(r"kinoml-data (\w+)", lines)) <= known


# -- nothing is missing


def test_every_backend_has_a_section_with_all_its_options() -> None:
    text = (DOCS / "backends.md").read_text("utf-8")
    for cls in BUILT_IN:
        assert f"\n## `{cls.name}`" in text, cls.name
        section = text.partition(f"\n## `{cls.name}`")[2].partition("\n## ")[0]
        for option in cls.model_fields:
            assert f"`{option}`" in section, f"{cls.name}: {option}"


def test_every_observation_model_has_a_row_with_all_its_options() -> None:
    text = (DOCS / "observation-models.md").read_text("utf-8")
    for cls in OBSERVATION_MODELS:
        row = re.search(rf"^\| `{re.escape(cls.name)}` \|.*$", text, re.MULTILINE)
        assert row, cls.name
        for option in cls.model_fields.keys() - kd.ObservationModel.model_fields.keys():
            assert f"`{option}`" in row[0], f"{cls.name}: {option}"
    for option in kd.ObservationModel.model_fields:  # of every model
        assert re.search(rf"^\| `{option}` \|", text, re.MULTILINE), option


def test_every_field_of_a_spec_is_in_a_table() -> None:
    text = (DOCS / "spec.md").read_text("utf-8")
    for name in (*DatasetSpec.model_fields, *kd.Array.model_fields):
        assert re.search(rf"^\|.*`{name}`.*\|", text, re.MULTILINE), name


def test_every_keyword_of_load_dataset_is_in_a_table() -> None:
    text = (DOCS / "spec.md").read_text("utf-8")
    for name, parameter in inspect.signature(kd.load_dataset).parameters.items():
        if parameter.kind is inspect.Parameter.KEYWORD_ONLY:
            assert re.search(rf"^\|.*\b{name}=.*\|", text, re.MULTILINE), name


METHODS = [value for name, value in vars(kd.XyDataset).items() if inspect.isfunction(value) and name[0] != "_"]


@pytest.mark.parametrize("function", [*filter(inspect.isfunction, map(PUBLIC.get, kd.__all__)), *METHODS])
def test_every_keyword_is_in_the_docstring(function: Callable[..., Any]) -> None:
    text = inspect.getdoc(function)
    assert text
    for name, parameter in inspect.signature(function).parameters.items():
        if parameter.kind is inspect.Parameter.KEYWORD_ONLY:
            assert re.search(rf"^    (\w+, )*{name}(, \w+)*: |`{name}\b", text, re.MULTILINE), name


@pytest.mark.parametrize("form", FORMS)
def test_every_collate_form_is_in_a_table(form: str) -> None:
    assert f"\n| `{form}` |" in (DOCS / "spec.md").read_text("utf-8")


@pytest.mark.parametrize("name", sorted(PUBLIC))
def test_every_public_name_is_in_the_list_of_names(name: str) -> None:
    """On a line of its own, from which the site makes a page, or as code; an error, among the members of `errors`."""
    text = (DOCS / "api.md").read_text("utf-8")
    assert re.search(rf"^   {name}$|`(kinoml_data\.)?{name}\b|^ +(:members: )?(\w+, )*{name}\b", text, re.MULTILINE)


def test_every_hook_is_explained() -> None:
    hooks = [name for name in vars(hookspecs) if name.startswith("register_")]
    assert hooks
    for hook in hooks:
        assert f"`{hook}`" in (DOCS / "writing-a-backend.md").read_text("utf-8"), hook


def test_every_file_of_the_library_is_in_the_description_of_the_architecture() -> None:
    text = (DOCS / "architecture.md").read_text("utf-8")
    package = ROOT / "kinoml_data"
    for file in package.rglob("*.py"):
        if file.name != "__init__.py":
            assert f"`{file.relative_to(package).as_posix()}`" in text, file


def test_the_figures_of_the_readme_are_those_of_the_benchmarks() -> None:
    """Each is the median of a cell in the row of the same name, in the table of the same workload."""
    results = (DOCS / "benchmarks.md").read_text("utf-8").partition("<!-- ragged: begin -->")[2]
    measured = {
        row[1].strip("*"): row[0] for row in re.finditer(r"^\| ([^|]+) \|.*$", results.partition("<!--")[0], re.M)
    }
    table = (ROOT / "README.md").read_text("utf-8").partition("## How fast?")[2].partition("\n## ")[0]
    rows = re.findall(r"^\| \**`([\w-]+)`[^|]*\|(.*)\|$", table, re.M)
    assert len(rows) == 9
    for name, cells in rows:
        for figure in cells.split("|"):
            assert re.search(rf"\| {figure.strip()} (\(|\|)", measured[name]), f"{name}: {figure}"


# -- the templates of plugins, which `kinoml-data plugins new` copies


def is_template(block: Block) -> bool:
    """True for a block that shows a file of a template, which runs on its own."""
    return any(block.text == file.read_text("utf-8") for file in TEMPLATES.rglob("*.py"))


@pytest.mark.parametrize("kind", ["backend", "featurizer"])
def test_the_page_about_a_kind_of_plugin_shows_its_template_as_it_is(kind: str) -> None:
    shown = [block.text for block in blocks(DOCS / f"writing-a-{kind}.md") if block.language == "python"]
    files = [file.read_text("utf-8") for file in (TEMPLATES / kind).rglob("*.py")]
    assert len(files) == 2 and not [text for text in files if text not in shown]


@pytest.mark.parametrize(
    ("kind", "name", "rules"),
    [
        pytest.param("backend", "npy-folder", "bit_for_bit or overwrit", id="some rules for a backend"),
        pytest.param("backend", "npy-folder", "test", marks=pytest.mark.slow, id="all rules for a backend"),
        pytest.param("featurizer", "letter-counts", "test", id="all rules for a featurizer"),
    ],
)
def test_the_template_passes_its_tests_as_an_installed_plugin(kind: str, name: str, rules: str, tmp_path: Path) -> None:
    """The plugin is found by its entry point, and passes the conformance suite."""
    template = TEMPLATES / kind
    info = tmp_path / f"kinoml_data_{name.replace('-', '_')}-0.1.0.dist-info"
    info.mkdir()
    (info / "METADATA").write_text(f"Metadata-Version: 2.1\nName: kinoml-data-{name}\nVersion: 0.1.0\n")
    groups = config.parse((template / "pyproject.toml").read_bytes(), ".toml")["project"]["entry-points"]
    lines = [f"[{group}]\n" + "".join(f"{k} = {v}\n" for k, v in names.items()) for group, names in groups.items()]
    (info / "entry_points.txt").write_text("".join(lines))
    path = os.pathsep.join([str(tmp_path), str(template), str(ROOT), os.environ.get("PYTHONPATH", "")])
    environment = os.environ | {"PYTHONPATH": path}
    tests = [str(template / "tests"), "-q", "-k", rules, "-p", "no:cacheprovider", "-c", str(ROOT / "pyproject.toml")]
    for command in (["-m", "pytest", *tests, f"--rootdir={template}"], ["-m", "kinoml_data", "plugins", "list"]):
        done = subprocess.run([sys.executable, *command], env=environment, capture_output=True, text=True, cwd=tmp_path)
        assert done.returncode == 0, done.stdout + done.stderr
    assert re.search(rf"^{name} +{kind} +kinoml-data-{name} 0\.1\.0 ", done.stdout, re.MULTILINE), done.stdout
