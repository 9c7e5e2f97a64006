"""The notebooks of the manual run, and their outputs are those that are committed.

After a change, write the outputs again: `python plugins/kinoml-data-rdkit/tests/test_notebooks.py`.
"""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import pytest

FOLDER = Path(__file__).parents[3] / "docs" / "notebooks"
NOTEBOOKS = sorted(FOLDER.glob("*.ipynb"))
VARIES = "varies"  # the tag of a cell whose numbers depend on the versions of other libraries
pytestmark = pytest.mark.skipif(not NOTEBOOKS, reason="the manual is only in the repository")


def executed(path: Path, folder: Path) -> Any:
    """A notebook after it has run in this folder."""
    nbformat = pytest.importorskip("nbformat", reason="it comes with nbclient")
    nbclient = pytest.importorskip("nbclient", reason="it runs notebooks: pip install nbclient ipykernel")
    pytest.importorskip("ipykernel", reason="notebooks run in it")
    pytest.importorskip("matplotlib", reason="the notebooks draw with it")
    pytest.importorskip("kinoml_data_proteins", reason="a notebook uses its featurizer")
    notebook = nbformat.read(path, as_version=4)
    resources = {"metadata": {"path": str(folder)}}
    client = nbclient.NotebookClient(
        notebook, timeout=600, record_timing=False, coalesce_streams=True, resources=resources
    )
    client.execute()
    notebook.metadata.language_info = {"name": "python"}  # without the version
    return notebook


def texts(cell: Any) -> list[str]:
    """The outputs of a cell as text, without styles and images; of a cell that varies, without its numbers."""
    found = []
    for output in cell.get("outputs", ()):
        data = output.get("data", {})
        for text in (output.get("text", ""), data.get("text/plain", ""), data.get("text/html", "")):
            text = re.sub(r"<style>.*?</style>", "", text, flags=re.DOTALL)
            varies = VARIES in cell.metadata.get("tags", ())
            found.append(re.sub(r"CHEMBL\d+|\d[\d.,]*", "0", text) if varies else text)
        found.append(", ".join(sorted(data)))
    return found


@pytest.mark.slow
@pytest.mark.parametrize("path", NOTEBOOKS, ids=lambda path: path.stem)
def test_a_notebook_runs_and_gives_the_outputs_that_are_committed(path: Path, tmp_path: Path) -> None:
    notebook = executed(path, tmp_path)
    committed = pytest.importorskip("nbformat").read(path, as_version=4)
    assert committed.metadata == notebook.metadata
    for before, after in zip(committed.cells, notebook.cells, strict=True):
        assert texts(after) == texts(before), f"{path.name}: run `python {Path(__file__).name}`, and look at its diff"
        assert before.get("execution_count") == after.get("execution_count")
        assert not [output for output in after.get("outputs", ()) if output.get("name") == "stderr"]


@pytest.mark.parametrize("path", NOTEBOOKS, ids=lambda path: path.stem)
def test_a_notebook_is_short_and_names_no_folder_of_a_machine(path: Path) -> None:
    notebook = pytest.importorskip("nbformat").read(path, as_version=4)
    assert notebook.cells[0].cell_type == "markdown" and len(notebook.cells) <= 16
    assert any("image/png" in output.get("data", {}) for cell in notebook.cells for output in cell.get("outputs", ()))
    for cell in notebook.cells:
        for output in cell.get("outputs", ()):
            data = output.get("data", {})
            shown = output.get("text", "") + data.get("text/plain", "") + data.get("text/html", "")
            assert not re.search(r"/(tmp|home|root|Users)/", shown), cell.source
    assert "execution" not in {key for cell in notebook.cells for key in cell.metadata}


if __name__ == "__main__":
    import tempfile

    import nbformat

    for notebook_path in NOTEBOOKS:
        with tempfile.TemporaryDirectory() as temporary:
            nbformat.write(executed(notebook_path, Path(temporary)), notebook_path)
