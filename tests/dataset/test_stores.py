"""The files and folders that a dataset is read from."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

import kinoml_data as kd
from kinoml_data.dataset import description
from kinoml_data.dataset.stores import size_on_disk, stored_paths


@pytest.fixture(autouse=True)
def parts(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The file `x.npz`, and a folder of two Parquet files."""
    monkeypatch.chdir(tmp_path)
    np.savez("x.npz", X=np.zeros((5, 2)), y=np.arange(5))
    Path("parts").mkdir()
    for name in ("a", "b"):
        write_part(name)


def write_part(name: str) -> None:
    pq.write_table(pa.table({"X": np.arange(100.0), "y": np.arange(100)}), f"parts/{name}.parquet")


def joined(path: str) -> kd.DatasetSpec:
    table: dict[str, Any] = {"source": {"backend": "parquet-awkward", "path": path}, "columns": {}, "key": "y"}
    source = {"backend": "npz-lazy", "path": "x.npz"}
    return kd.DatasetSpec.parse(
        {"storage": {"backend": "joined", "source": source, "tables": {"y": table}}, "X": "X"}, Path.cwd()
    )


@pytest.mark.parametrize(
    ("path", "expected"), [("parts", ["parts"]), ("parts/*.parquet", ["parts/a.parquet", "parts/b.parquet"])]
)
def test_files_folders_patterns_and_tables_are_found(path: str, expected: list[str]) -> None:
    assert stored_paths(joined(path)) == [Path(name).absolute() for name in ("x.npz", *expected)]


def test_the_size_of_a_folder_is_that_of_its_files() -> None:
    assert size_on_disk(Path("parts")) == sum(file.stat().st_size for file in Path("parts").iterdir()) > 1000


def test_a_description_names_folders_and_counts_many_files() -> None:
    with kd.load_dataset("parts", X="X", backend="parquet-awkward") as dataset:
        stored = dict(description.facts(dataset, []))["stored"]
    assert stored.startswith("parts ") and stored.endswith(" kB")
    for number in range(description.PATHS):
        write_part(str(number))
    with kd.load_dataset("parts/*.parquet", X="X", backend="parquet-awkward") as dataset:
        assert dict(description.facts(dataset, []))["stored"].startswith(f"{description.PATHS + 2} files, ")
