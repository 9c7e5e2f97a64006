"""From a spec file, in workers, converted, and as the README has it."""

from __future__ import annotations

import re
import subprocess
import sys
from contextlib import closing
from pathlib import Path

import kinoml_data as kd
import numpy as np
from kinoml_data.backends.npz.backend import NpzLazy
from kinoml_data.spec import config
from kinoml_data.testing import Example, mixed, same_rows
from kinoml_data.verify import verify

from kinoml_data_hdf5 import Hdf5

README = (Path(__file__).parents[1] / "README.md").read_text("utf-8")


def test_a_spec_file_opens_an_hdf5_store(tmp_path):
    rng = np.random.default_rng(0)
    X = [rng.random((5, n), np.float32) for n in (3, 1, 4, 2, 6)]
    (tmp_path / "stores").mkdir()
    kd.save_dataset(kd.from_arrays(X, np.arange(5.0)), tmp_path / "stores/toy.hdf5")
    spec = tmp_path / "toy.yaml"
    spec.write_text(
        """
columns:
  X: {dtype: float32, shape: [5, "*"]}
  y: {dtype: float64}
X: X
y: y
storage: {backend: hdf5, path: stores/toy.hdf5}
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
    found = verify(spec)
    assert found.damage == [] and found.unchecked is None


def test_npz_to_hdf5_and_back_is_the_same(tmp_path):
    example = mixed()
    source = NpzLazy(path=tmp_path / "source.npz")
    source.write(example.columns, example.batches(), arrays=example.arrays, spec=example.spec)
    kd.convert(source.path, tmp_path / "copy.h5")
    kd.convert(tmp_path / "copy.h5", tmp_path / "back.npz")
    with closing(NpzLazy(path=tmp_path / "back.npz").open(None)) as storage:
        same_rows(storage, example, range(len(example)))
    subprocess.run(
        [sys.executable, "-m", "kinoml_data", "convert", str(source.path), str(tmp_path / "again.h5")],
        check=True,
        capture_output=True,
    )
    assert (tmp_path / "again.h5").read_bytes() == (tmp_path / "copy.h5").read_bytes()


def test_only_the_columns_asked_for_are_opened(tmp_path):
    example = mixed()
    backend = Hdf5(path=tmp_path / "data.h5")
    backend.write(example.columns, example.batches(), arrays=example.arrays, spec=example.spec)
    first = next(iter(example.columns))
    with closing(backend.open({first: example.columns[first]})) as storage:
        assert set(storage.columns) == {first} and set(storage.arrays) == set(example.arrays)


def test_rows_that_cross_many_chunks_come_back(tmp_path):
    rng = np.random.default_rng(1)
    lengths = [0, 1, 300_000, 256, 400_000, 0, 3]
    rows = {"X": [rng.random((2, n), np.float32) for n in lengths], "wide": list(rng.random((7, 70_000)))}
    columns = {"X": kd.Array("float32", (2, None)), "wide": kd.Array("float64", (70_000,))}
    example = Example("crossing", columns, rows)
    backend = Hdf5(path=tmp_path / "data.h5")
    backend.write(columns, example.batches(1))
    with closing(backend.open(columns)) as storage:
        for asked in (range(7), [6, 4, 2, 0], [2, 5, 2], [5, 0], [4, 4, 1, 3]):
            same_rows(storage, example, list(asked))


def test_h5py_is_imported_when_a_file_is_opened():
    code = "import sys, kinoml_data_hdf5; sys.exit('h5py' in sys.modules)"
    subprocess.run([sys.executable, "-c", code], check=True)


def test_the_readme_runs_and_its_spec_parses(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    held: dict[str, object] = {}
    for code in re.findall(r"^```python\n(.*?)^```", README, re.MULTILINE | re.DOTALL):
        exec(compile(code, "README.md", "exec"), held)
    (spec,) = re.findall(r"^```yaml\n(.*?)^```", README, re.MULTILINE | re.DOTALL)
    parsed = kd.DatasetSpec.parse(config.parse(spec.encode(), ".yaml"))
    assert Hdf5.model_validate_json(parsed.storage.model_dump_json(exclude={"backend"})).ragged["X"].shape == (53, None)


def test_every_option_is_in_the_readme():
    for name in Hdf5.model_fields:
        assert f"| `{name}` |" in README
