"""The structure of the library, read from its imports: layers, public modules, names and the place of each test."""

from __future__ import annotations

import ast
import importlib
import inspect
import re
from collections.abc import Iterator
from graphlib import CycleError, TopologicalSorter
from pathlib import Path

import pytest

import kinoml_data as kd
from kinoml_data import plugin

ROOT = Path(__file__).parents[1]
PACKAGE = ROOT / "kinoml_data"
TEMPLATES = sorted((PACKAGE / "cli" / "templates").iterdir())
PLUGINS = sorted((ROOT / "plugins").iterdir())

# From the bottom to the top; a module imports modules of its own layer and of the layers below it.
LAYERS = (
    ("errors", "columns", "files", "lru", "memory"),
    ("spec",),
    ("contracts",),
    ("layouts",),
    ("backends",),
    ("observation", "registry"),
    ("loading",),
    ("dataset", "report"),
    ("inference", "spec_objects", "spec_sources"),
    ("factory", "several"),
    ("conversion", "copied_rows", "featurizing", "verify"),
    ("doctor",),
    ("torch_datasets",),
    ("cli", "testing"),
    ("__init__", "__main__", "plugin"),
)
PUBLIC = {"kinoml_data", *(f"kinoml_data.{name}" for name in ("plugin", "testing", "errors", "torch_datasets"))}

# The rules of the conformance suite are tested together: each one must fail a backend that breaks it.
TESTED_TOGETHER = (
    {
        f"kinoml_data.testing.{kind}_tests": "tests/testing/test_suite.py"
        for kind in ("backend", "dataset", "featurizer", "key", "reading", "storage", "writing")
    }
    | {
        f"kinoml_data.backends.joined.{name}": "tests/backends/test_joined.py"
        for name in ("backend", "embedded_spec", "storage")
    }
    | {f"kinoml_data.spec_{what}": "tests/test_factory.py" for what in ("objects", "sources")}
)


def files_of(folder: Path) -> list[Path]:
    return sorted(file for file in folder.rglob("*.py") if not set(TEMPLATES) & set(file.parents))


def module_name(file: Path) -> str:
    parts = file.relative_to(ROOT).with_suffix("").parts
    return ".".join(parts[:-1] if parts[-1] == "__init__" else parts)


MODULES = {module_name(file): file for file in files_of(PACKAGE)}


def imports_of(source: str) -> Iterator[tuple[str, str | None]]:
    """Every import of kinoml_data in a source, also inside functions: the module, and the name taken from it."""
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.Import):
            yield from ((alias.name, None) for alias in node.names if alias.name.split(".")[0] == "kinoml_data")
        elif isinstance(node, ast.ImportFrom) and node.module and node.module.split(".")[0] == "kinoml_data":
            yield from ((node.module, alias.name) for alias in node.names)


def arrows(name: str) -> set[str]:
    """The modules of kinoml_data that a module imports."""
    targets = set()
    for module, attribute in imports_of(MODULES[name].read_text("utf-8")):
        submodule = f"{module}.{attribute}"
        targets.add(submodule if submodule in MODULES else module)
    return targets


def layer(name: str) -> int:
    top = [*name.split("."), "__init__"][1]
    return next(number for number, names in enumerate(LAYERS) if top in names)


@pytest.mark.parametrize("name", MODULES)
def test_a_module_imports_only_modules_of_its_own_and_of_lower_layers(name: str) -> None:
    assert not [target for target in arrows(name) if layer(target) > layer(name)]


def test_no_modules_import_each_other_in_a_circle() -> None:
    try:
        TopologicalSorter({name: arrows(name) - {name} for name in MODULES}).prepare()
    except CycleError as error:
        pytest.fail(" imports ".join(error.args[1]))


def test_imports_are_absolute() -> None:
    for file in files_of(PACKAGE):
        assert not [n for n in ast.walk(ast.parse(file.read_text())) if isinstance(n, ast.ImportFrom) and n.level], file


# -- public modules


def private_imports(source: str) -> list[str]:
    """The imports of a source that are not public."""
    names = {"kinoml_data": {*kd.__all__, "__version__", *(name.rpartition(".")[2] for name in PUBLIC)}}
    names["kinoml_data.plugin"] = set(plugin.__all__)
    return [
        f"{module}: {attribute}"
        for module, attribute in imports_of(source)
        if module not in PUBLIC or (attribute is not None and attribute not in names.get(module, {attribute}))
    ]


@pytest.mark.parametrize("folder", [*PLUGINS, *TEMPLATES], ids=lambda folder: folder.name)
def test_plugins_and_their_templates_import_public_modules_only(folder: Path) -> None:
    files = [
        file for file in folder.rglob("*.py") if folder in TEMPLATES or "tests" not in file.relative_to(folder).parts
    ]
    assert files or not folder.is_dir() or not list(folder.glob("*.toml"))
    problems = {str(file.relative_to(folder)): private_imports(file.read_text("utf-8")) for file in files}
    assert not {file: imports for file, imports in problems.items() if imports}


@pytest.mark.parametrize(
    "page", [ROOT / "README.md", *sorted((ROOT / "docs").glob("*.md"))], ids=lambda page: page.name
)
def test_the_manual_imports_public_modules_only(page: Path) -> None:
    blocks = re.findall(r"^```python\n(.*?)^```$", page.read_text("utf-8"), re.MULTILINE | re.DOTALL)
    assert not [problem for block in blocks for problem in private_imports(block)]


# -- names


@pytest.mark.parametrize("name", [name for name, file in MODULES.items() if file.name == "__init__.py"])
def test_no_exported_name_hides_a_module_of_its_package(name: str) -> None:
    package = importlib.import_module(name)
    submodules = {other.rpartition(".")[2] for other in MODULES if other.rpartition(".")[0] == name}
    for submodule in submodules & {*vars(package), *getattr(package, "__all__", ())}:
        assert inspect.ismodule(getattr(package, submodule)), f"{name}.{submodule}"


def test_a_built_in_backend_can_be_imported_by_its_module() -> None:
    import kinoml_data.backends.csv.backend

    assert kinoml_data.backends.csv.backend.Csv.name == "csv"


# -- tests


def mirrored(name: str) -> Path:
    """Where the tests of a module are."""
    if name in TESTED_TOGETHER:
        return ROOT / TESTED_TOGETHER[name]
    place = MODULES[name].relative_to(PACKAGE)
    return ROOT / "tests" / place.with_name(f"test_{place.name}")


@pytest.mark.parametrize("name", [name for name, file in MODULES.items() if not file.name.startswith("__")])
def test_a_module_is_tested_at_the_mirrored_place(name: str) -> None:
    assert mirrored(name).is_file()
