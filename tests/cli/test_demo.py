"""What the demo does before it needs RDKit; the plugin kinoml-data-rdkit runs it to the end."""

from __future__ import annotations

from importlib.util import find_spec
from pathlib import Path

import pytest
from rich.console import Console

from kinoml_data.cli import demo
from kinoml_data.errors import PluginLoadError, StoreExistsError
from kinoml_data.spec.dataset_spec import DatasetSpec


def test_a_missing_package_is_named_with_what_to_install(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(demo, "find_spec", lambda name: None if name == "kinoml_data_rdkit" else find_spec(name))
    with pytest.raises(PluginLoadError, match=r"needs kinoml_data_rdkit.*pip install -e .* plugins/kinoml-data-rdkit"):
        demo.run(tmp_path / "out", Console(quiet=True))
    assert not (tmp_path / "out").exists()


def test_a_folder_with_something_else_is_left_alone(tmp_path: Path) -> None:
    (tmp_path / "README.md").write_text("# My thesis\n")
    with pytest.raises(StoreExistsError, match="--out"):
        demo._prepare(tmp_path)
    assert (tmp_path / "README.md").read_text() == "# My thesis\n"
    file = tmp_path / "file"
    file.write_text("text")
    with pytest.raises(StoreExistsError):
        demo._prepare(file)


def test_a_new_an_empty_and_an_earlier_folder_are_taken(tmp_path: Path) -> None:
    for folder in (tmp_path / "a" / "new", tmp_path / "empty"):
        demo._prepare(folder)
        assert (folder / "README.md").read_text().startswith(demo.MARK)
        (folder / "molecules.csv").write_text("of an earlier run")
        demo._prepare(folder)


@pytest.mark.parametrize("features", demo.SPECS)
def test_the_specs_are_specs(features: str, tmp_path: Path) -> None:
    file = tmp_path / "spec.yaml"
    file.write_text(demo.SPEC.format(name=features, **demo.SPECS[features]))
    spec = DatasetSpec.from_file(file)
    assert spec.storage.backend == "featurize-on-access"
    assert set(spec.columns or {}) == {*spec.X_names, "pIC50", "id"}
