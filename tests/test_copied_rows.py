"""What rows share is read once, stored once and compared once, whatever the keys of the source are."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest

import kinoml_data as kd
from kinoml_data import Backend, conversion, registry
from kinoml_data.contracts.backend import Storage
from kinoml_data.errors import SpecError
from tests import slow_features
from tests.slow_features import ROWS, SMILES, stored_once, table, values

pytestmark = pytest.mark.usefixtures("small_batches")


def test_what_rows_share_is_featurized_once_and_stored_once(tmp_path: Path) -> None:
    slow_features.called.clear()
    kd.convert(table(tmp_path, SMILES), tmp_path / "x.npz")
    assert sorted(slow_features.called) == sorted([*set(SMILES), "P"])
    assert stored_once(tmp_path / "x.npz", "ligand") == len(set(SMILES))
    assert stored_once(tmp_path / "x.npz", "kinase") == 1
    assert values(tmp_path / "x.npz", "ligand") == [[ord(c) for c in text] for text in SMILES]


class Counting(Storage):
    """Counts the rows that are read."""

    def __init__(self, storage: Storage) -> None:
        self._storage, self.read_rows = storage, dict[str, list[int]]()
        self.columns, self.arrays = storage.columns, storage.arrays

    def __len__(self) -> int:
        return len(self._storage)

    def read(self, rows: Any, columns: Any) -> Any:
        for name in columns:
            self.read_rows.setdefault(name, []).extend(rows.tolist())
        return self._storage.read(rows, columns)

    def keys(self, column: str) -> Any:
        return self._storage.keys(column)


def test_what_rows_share_is_read_once_to_copy_it_and_once_to_compare_it(tmp_path: Path, monkeypatch: Any) -> None:
    numbers = np.arange(ROWS) % 4
    data = {"x": numbers * 1.5, "y": np.arange(ROWS) * 1.0}
    kd.save_dataset(kd.from_arrays(data["x"], data["y"]), tmp_path / "plain.npz")
    kd.convert(tmp_path / "plain.npz", tmp_path / "shared.npz", share=["X"])
    opened: list[Counting] = []
    opens = registry.backend("npz-lazy").open

    def counted(self: Backend, columns: Any) -> Storage:
        opened.append(Counting(opens(self, columns)))
        return opened[-1]

    monkeypatch.setattr(registry.backend("npz-lazy"), "open", counted)
    with kd.load_dataset(tmp_path / "shared.npz") as dataset:
        opened[-1].read_rows.clear()
        kd.save_dataset(dataset, tmp_path / "again.npz")
        assert opened[0].read_rows == {"X": [0, 1, 2, 3], "y": list(range(ROWS))}
    assert stored_once(tmp_path / "again.npz", "X") == 4


def test_the_copy_does_not_depend_on_the_keys_of_the_source(tmp_path: Path) -> None:
    smiles, rows = np.array(SMILES), np.random.default_rng(0).permutation(ROWS)
    contents = []
    for number, (keys, dtype) in enumerate([("content", "uint8"), ("content", "int64"), ("source", "uint8")]):
        kd.convert(table(tmp_path, smiles.tolist()), tmp_path / "once.npz", overwrite=True)
        source = {"backend": "keyed", "source": {"backend": "npz-lazy", "path": str(tmp_path / "once.npz")}}
        spec = {"storage": source | {"keys": keys, "dtype": dtype}, "X": ["ligand", "kinase"], "y": "y"}
        with kd.load_dataset(spec) as dataset:
            kd.save_dataset(dataset.select(rows), tmp_path / f"{number}.npz")
        contents.append((tmp_path / f"{number}.npz").read_bytes())
        assert values(tmp_path / f"{number}.npz", "ligand") == [[ord(c) for c in text] for text in smiles[rows]]
    assert contents[0] == contents[1]  # with all columns compared by content, also y has keys
    assert stored_once(tmp_path / "2.npz", "ligand") == len(set(SMILES))


# -- share


def test_equal_rows_are_found_by_content(tmp_path: Path) -> None:
    X = [np.arange(i % 3 + 2.0) for i in range(ROWS)]
    fixed = np.array([0.0, -0.0, np.nan, 1.0] * (ROWS // 4))
    source = kd.from_arrays({"a": X, "b": fixed}, np.arange(ROWS))
    kd.convert(source, tmp_path / "x.npz", share=["a", "b"])
    assert (stored_once(tmp_path / "x.npz", "a"), stored_once(tmp_path / "x.npz", "b")) == (3, 4)
    assert stored_once(tmp_path / "x.npz", "y") is None
    assert values(tmp_path / "x.npz", "a") == [row.tolist() for row in X]
    with kd.load_dataset(tmp_path / "x.npz") as dataset:
        assert dataset.column("b").numpy().tobytes() == fixed.astype(np.float64).tobytes()
    kd.convert(tmp_path / "x.npz", tmp_path / "y.npz", share=["a", "b"])  # keys are kept as they are
    assert (tmp_path / "x.npz").read_bytes() == (tmp_path / "y.npz").read_bytes()


def test_an_unknown_column_cannot_be_shared(tmp_path: Path) -> None:
    source = kd.from_arrays(np.zeros(3))
    with pytest.raises(SpecError, match="share: unknown column 'Z'"):
        kd.convert(source, tmp_path / "x.npz", share=["Z"])
    assert list(tmp_path.iterdir()) == []


def test_a_copy_that_is_much_larger_than_what_rows_share_is_announced_before_it_is_written(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    kd.convert(kd.from_arrays(np.zeros((ROWS, 100)), np.arange(ROWS) * 1.0), tmp_path / "x.npz", share=["X"])
    kd.convert(tmp_path / "x.npz", tmp_path / "small.parquet")  # no warning for some kB
    monkeypatch.setattr(conversion, "LARGE", 1000)
    progress: list[Any] = []
    with pytest.warns(UserWarning, match="about 48,480 bytes large instead of 1,280"):
        kd.convert(tmp_path / "x.npz", tmp_path / "x.parquet", progress=lambda *report: progress.append(report))
    assert [report[0] for report in progress].count("copying") == 9
