"""Where a dataset is stored: files, folders, patterns and variables, in sources and tables, and their sizes."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

import kinoml_data as kd
from kinoml_data.dataset import description
from kinoml_data.dataset.stored_paths import size_of, stored_paths


def test_files_folders_patterns_and_tables_are_found(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PARTS", str(tmp_path / "parts"))
    (tmp_path / "parts").mkdir()
    thin = kd.from_arrays(np.arange(3.0))
    kd.save_dataset(thin, tmp_path / "x.npz")
    files = [tmp_path / f"parts/{name}.parquet" for name in ("a", "b")]
    for file in files:
        kd.save_dataset(thin, file)
    for path, found in {"parts": [tmp_path / "parts"], "parts/*.parquet": files, "$PARTS/*.parquet": files}.items():
        table = {"source": {"backend": "parquet-awkward", "path": path}, "columns": {}, "key": "y"}
        joined = {"backend": "joined", "source": {"backend": "npz-lazy", "path": "x.npz"}, "tables": {"y": table}}
        spec = kd.load_dataset(tmp_path / "x.npz").spec.with_storage(
            kd.DatasetSpec.parse({"storage": joined, "X": "X"}).storage
        )
        assert stored_paths(spec) == [tmp_path / "x.npz", *found]
    assert size_of(tmp_path / "parts") == sum(file.stat().st_size for file in files)


def test_a_description_names_folders_and_the_first_of_many_files(tmp_path: Path) -> None:
    (tmp_path / "parts").mkdir()
    for part in range(7):
        pq.write_table(pa.table({"X": np.arange(100.0)}), tmp_path / f"parts/{part}.parquet")
    with kd.load_dataset(tmp_path / "parts", backend="parquet-awkward") as dataset:
        stored = dict(description.facts(dataset, description.columns(dataset)))["stored"]
    size = size_of(tmp_path / "parts")
    assert stored == f"{tmp_path / 'parts'} {size / 1e3:.1f} kB"
    spec = {"X": "X", "storage": {"backend": "parquet-awkward", "path": "parts/*.parquet"}}
    with kd.load_dataset(spec, base=tmp_path) as dataset:
        stored = dict(description.facts(dataset, description.columns(dataset)))["stored"]
    assert stored.count(".parquet") == 5 and stored.endswith(f", and 2 more files: {size / 1e3:.1f} kB")
