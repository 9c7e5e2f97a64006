"""A storage in each process: it is opened again after a fork or a pickle, and a change of its content is noticed."""

from __future__ import annotations

import os
import pickle
import time
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch

from kinoml_data import Array, Backend, DataPath, Storage, from_arrays, load_dataset, registry, save_dataset
from kinoml_data.errors import StoreChangedError, StoreReadError


@pytest.fixture(scope="module")
def large(tmp_path_factory) -> Path:
    """100,000 rows in three files."""
    folder = tmp_path_factory.mktemp("large")
    count = 100_000
    X = np.arange(2 * count, dtype="float32").reshape(count, 2)
    train = np.random.default_rng(0).permutation(count)
    np.savez(folder / "kinoml.npz", X=X, y=np.arange(count), idx_train=train[:90_000], idx_test=train[90_000:])
    ds = load_dataset(folder / "kinoml.npz")
    save_dataset(ds, folder / "packed.npz")
    save_dataset(ds, folder / "table.parquet")
    return folder


@pytest.mark.parametrize("file", ["kinoml.npz", "packed.npz", "table.parquet"])
def test_a_dataset_and_its_splits_pickle_small_whatever_their_rows(large, file):
    ds = load_dataset(large / file)
    train = ds.split("train")
    for view in (ds, train, train.split("train")):
        assert len(view[[0]][0]) and view.indices and len(view.rows)  # what was read must not travel along
        data = pickle.dumps(view)
        assert len(data) <= 64 << 10
        again = pickle.loads(data)
        assert len(again) == len(view)
        assert (again.rows == view.rows).all()
        assert (again[[0, -1]][0] == view[[0, -1]][0]).all()


def test_a_selection_pickles_with_its_rows(large):
    chosen = load_dataset(large / "packed.npz").split("train").select([3, 1, 1])
    again = pickle.loads(pickle.dumps(chosen))
    assert again.rows.tolist() == chosen.rows.tolist()
    assert (again[:][0] == chosen[:][0]).all()


def test_an_unpickled_dataset_notices_that_the_store_has_changed(tmp_path):
    path = tmp_path / "data.npz"
    save_dataset(from_arrays(np.arange(3.0)), path)
    data = pickle.dumps(load_dataset(path))
    assert pickle.loads(data)[:][0].tolist() == [0, 1, 2]
    save_dataset(from_arrays(np.arange(4.0)), path, overwrite=True)
    with pytest.raises(StoreChangedError, match="load it again"):
        len(pickle.loads(data))


def test_a_view_keeps_its_rows_in_other_processes_if_the_file_of_its_split_is_replaced(tmp_path):
    np.savez(tmp_path / "data.npz", X=np.arange(9.0))
    np.save(tmp_path / "train.npy", [0, 1])
    storage = {"backend": "npz-lazy", "path": "data.npz"}
    spec = {"X": "X", "storage": storage, "splits": {"train": {"file": "train.npy"}}}
    with load_dataset(spec, base=tmp_path) as dataset:
        train = dataset.split("train")
        np.save(tmp_path / "train.npy", [7, 8])
        again = pickle.loads(pickle.dumps(pickle.loads(pickle.dumps(train))))
        assert again[:][0].tolist() == train[:][0].tolist() == [0, 1]


def test_a_dataset_that_was_closed_before_it_was_pickled_stays_closed(tmp_path):
    save_dataset(from_arrays(np.arange(3.0)), tmp_path / "data.npz")
    dataset = load_dataset(tmp_path / "data.npz")
    dataset.close()
    with pytest.raises(StoreReadError, match="the dataset was closed"):
        len(pickle.loads(pickle.dumps(dataset)))


class OffsetStorage(Storage):
    """Reads through one file offset, which forked processes share: right only where each opens its own."""

    columns = {"X": Array("int64")}

    def __init__(self, path: Path) -> None:
        self._file = path.open("rb", buffering=0)

    def __len__(self) -> int:
        return len(os.pread(self._file.fileno(), 1 << 20, 0)) // 8

    def read(self, rows: Any, columns: Any) -> Any:
        found = []
        for row in rows.tolist():
            self._file.seek(8 * row)
            time.sleep(0)  # another process comes in between
            found.append(np.frombuffer(self._file.read(8), np.int64))
        return {"X": np.array(np.concatenate(found))}

    def close(self) -> None:
        self._file.close()


class Offset(Backend):
    """See `OffsetStorage`."""

    name = "offset"
    path: DataPath

    def open(self, columns: Any) -> Storage:
        return OffsetStorage(self.path)


def wrong_rows(path: Path, monkeypatch: pytest.MonkeyPatch) -> int:
    """How many rows of an epoch with two forked workers are not what was written."""
    plugin = registry.Plugin("test", "test", "0", loaded=True)
    plugin.names["backend"] = {"offset": Offset}
    monkeypatch.setattr(registry.registry(), "plugins", [plugin])
    np.arange(4096).tofile(path)
    with load_dataset({"X": "X", "storage": {"backend": "offset", "path": str(path)}}) as ds:
        assert int(ds[5][0]) == 5  # opened before the fork
        loader = ds.as_dataloader(batch_size=64, num_workers=2, multiprocessing_context="fork", timeout=60)
        found = torch.cat([X for X, _ in loader])
    return int((found != torch.arange(4096)).sum())


def test_forked_workers_open_their_own_storage(tmp_path, monkeypatch):
    assert wrong_rows(tmp_path / "rows", monkeypatch) == 0


def test_without_the_check_of_the_process_forked_workers_read_wrong_rows(tmp_path, monkeypatch):
    monkeypatch.setattr("kinoml_data.dataset.session.os", SimpleNamespace(getpid=lambda: 1))
    try:
        assert wrong_rows(tmp_path / "rows", monkeypatch) > 0
    except StoreReadError as error:  # or an offset so wrong that nothing was read there
        assert "OffsetStorage is wrong" in str(error)
