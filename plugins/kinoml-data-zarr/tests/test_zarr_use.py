"""From a spec file, in workers, converted, and as the README has it."""

from __future__ import annotations

import re
import subprocess
import sys
from contextlib import closing
from pathlib import Path

import kinoml_data as kd
import numpy as np
import pytest
from kinoml_data.backends.npz.backend import NpzLazy
from kinoml_data.spec import config
from kinoml_data.testing import Example, mixed, same_rows
from kinoml_data.verify import verify

from kinoml_data_zarr import Zarr

README = (Path(__file__).parents[1] / "README.md").read_text("utf-8")


def test_a_spec_file_opens_a_zarr_store(tmp_path):
    rng = np.random.default_rng(0)
    X = [rng.random((5, n), np.float32) for n in (3, 1, 4, 2, 6)]
    (tmp_path / "stores").mkdir()
    kd.save_dataset(kd.from_arrays(X, np.arange(5.0)), {"backend": "zarr", "path": str(tmp_path / "stores/toy.zarr")})
    spec = tmp_path / "toy.yaml"
    spec.write_text(
        """
columns:
  X: {dtype: float32, shape: [5, "*"]}
  y: {dtype: float64}
X: X
y: y
storage: {backend: zarr, path: stores/toy.zarr}
splits: {train: {rows: [0, 1, 2, 3]}, test: {rows: [4]}}
collate: pad
"""
    )
    with kd.load_dataset(spec) as dataset:
        for workers, method in ((0, None), (2, "fork"), (2, "spawn")):
            loader = dataset.split("train").as_dataloader(
                batch_size=4, num_workers=workers, multiprocessing_context=method
            )
            (batch,) = loader
            assert batch[0].shape == (4, 5, 4) and batch[1].tolist() == [0, 1, 2, 3]
            assert batch[0][2].numpy().tobytes() == X[2].tobytes()
    assert verify(spec).damage == []


def test_npz_to_zarr_and_back_is_the_same(tmp_path):
    example = mixed()
    source = NpzLazy(path=tmp_path / "source.npz")
    source.write(example.columns, example.batches(), arrays=example.arrays, spec=example.spec)
    kd.convert(source.path, tmp_path / "copy.zarr")
    kd.convert(tmp_path / "copy.zarr", tmp_path / "back.npz")
    with closing(NpzLazy(path=tmp_path / "back.npz").open(None)) as storage:
        same_rows(storage, example, range(len(example)))
    # By the command too, and the same dataset.
    subprocess.run(
        [sys.executable, "-m", "kinoml_data", "convert", str(source.path), str(tmp_path / "again.zarr")],
        check=True,
        capture_output=True,
    )
    identities = set()
    for name in ("copy.zarr", "again.zarr"):
        with closing(Zarr(path=tmp_path / name).open(None)) as storage:
            identities.add(storage.identity)
    assert len(identities) == 1


@pytest.mark.parametrize("chunk_bytes", [1024, 4096, 1 << 20])
def test_rows_that_cross_or_fill_chunks_come_back(tmp_path, chunk_bytes):
    rng = np.random.default_rng(1)
    lengths = [0, 1, 5000, 256, 255, 257, 0, 1024, 3]
    rows = {"X": [rng.random((2, n), np.float32) for n in lengths], "wide": list(rng.random((9, 700)))}
    columns = {"X": kd.Array("float32", (2, None)), "wide": kd.Array("float64", (700,))}
    example = Example("crossing", columns, rows)
    backend = Zarr(path=tmp_path / "data.zarr", chunk_bytes=chunk_bytes)
    backend.write(columns, example.batches(1))
    with closing(backend.open(columns)) as storage:
        for asked in (range(9), [8, 7, 2, 0], [2, 5, 2], [6, 0], [3, 4], [8, 8, 1, 3, 4]):
            same_rows(storage, example, list(asked))


def test_only_the_columns_asked_for_are_opened(tmp_path):
    example = mixed()
    backend = Zarr(path=tmp_path / "data.zarr")
    backend.write(example.columns, example.batches(), arrays=example.arrays, spec=example.spec)
    first = next(iter(example.columns))
    with closing(backend.open({first: example.columns[first]})) as storage:
        assert set(storage.columns) == {first} and set(storage.arrays) == set(example.arrays)


def test_zarr_is_imported_when_a_store_is_opened():
    code = "import sys, kinoml_data_zarr; sys.exit('zarr' in sys.modules)"
    subprocess.run([sys.executable, "-c", code], check=True)


def test_the_readme_runs_and_its_specs_parse(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (code,) = re.findall(r"^```python\n(.*?)^```", README, re.MULTILINE | re.DOTALL)
    exec(compile(code, "README.md", "exec"), {})
    specs = re.findall(r"^```yaml\n(.*?)^```", README, re.MULTILINE | re.DOTALL)
    parsed = [kd.DatasetSpec.parse(config.parse(spec.encode(), ".yaml")) for spec in specs]
    assert len(parsed) == 2
    with kd.load_dataset(parsed[0]) as dataset:
        assert len(dataset) == 200
    assert Zarr.model_validate(parsed[1].storage.options).url == "s3://bucket/toy.zarr"


def test_every_option_is_in_the_readme():
    for name in Zarr.model_fields:
        assert f"| `{name}` |" in README
