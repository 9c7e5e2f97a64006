"""`kinoml-data demo` without the plugin that contains it; the plugin kinoml-data-rdkit tests the demo itself."""

from __future__ import annotations

from importlib.util import find_spec
from pathlib import Path

import pytest

from kinoml_data.cli import main as cli
from kinoml_data.errors import PluginLoadError


@pytest.mark.parametrize("package", ["kinoml_data_rdkit", "rdkit", "matplotlib"])
def test_a_package_that_the_demo_lacks_is_named_with_the_command_that_installs_it(
    package: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(cli, "find_spec", lambda name: None if name == package else find_spec(name) or "installed")
    with pytest.raises(PluginLoadError, match=rf"needs {package}\..*pip install -e .* plugins/kinoml-data-rdkit"):
        cli.demo(tmp_path / "out")
    assert not (tmp_path / "out").exists()
