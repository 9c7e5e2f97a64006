"""A storage in each process: it is opened again after a fork or a pickle, and a change of its content is noticed."""

from __future__ import annotations

import copy
import os
import pickle
import time
from multiprocessing.reduction import ForkingPickler
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch

from kinoml_data import Array, Backend, DataPath, Ragged, Storage, from_arrays, load_dataset, registry, save_dataset
from kinoml_data.dataset import splits
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


# -- what worker processes share


def spawned(obj: Any) -> Any:
    """The object as a spawned worker of this process gets it."""
    return pickle.loads(ForkingPickler.dumps(obj))


@pytest.fixture(scope="module")
def ragged(tmp_path_factory) -> Path:
    """100,000 ragged rows in a flat NPZ with a split."""
    rng, count = np.random.default_rng(0), 100_000
    shapes = rng.integers(0, 4, (count, 1))
    X = Ragged(np.arange(shapes.sum(), dtype="float32"), shapes)
    path = tmp_path_factory.mktemp("ragged") / "data.npz"
    splits = {"train": rng.permutation(count)[:70_000].tolist()}
    save_dataset(from_arrays(X, {"y": np.zeros((count, 9), "float32"), "z": np.arange(count)}, splits=splits), path)
    return path


@pytest.mark.parametrize("backend", ["npz-lazy", "npz-reopen", "in-memory"])
def test_spawned_workers_share_one_copy_of_all_large_arrays(ragged, backend):
    with load_dataset(ragged, backend=backend, split="train") as view:
        first, second = spawned(view), spawned(view)
        for worker in (first, second):
            assert (worker.rows == view.rows).all() and (worker[[5, -1]][1]["z"] == view[[5, -1]][1]["z"]).all()
            assert [row.tolist() for row in worker[:99][0]] == [row.tolist() for row in view[:99][0]]
        arrays = {"rows": view._rows} | dict(view._session._storage.row_arrays())
        assert len(arrays) >= 2
        for worker in (first, second):
            found = {"rows": worker._rows} | dict(worker._session._storage.row_arrays())
            assert found.keys() == arrays.keys()
            for name, array in arrays.items():
                assert _file(array) == _file(found[name]), name
            # As torch maps the memory of a tensor once per process, they are at the same place in this test.
            assert {a.ctypes.data for a in found.values()} == {a.ctypes.data for a in arrays.values()}


@pytest.mark.parametrize("backend", ["npz-lazy", "in-memory"])
def test_a_spawned_worker_can_pickle_and_copy_its_dataset(ragged, backend):
    with load_dataset(ragged, backend=backend, split="train") as view:
        worker = spawned(view)
        for again in (pickle.loads(pickle.dumps(worker)), copy.deepcopy(worker)):
            assert [row.tolist() for row in again[:99][0]] == [row.tolist() for row in view[:99][0]]


def _file(array: np.ndarray) -> bool:
    """True if an array is in shared memory."""
    return isinstance(array.base, torch.Tensor) and array.base.is_shared()


def test_a_spawned_worker_needs_no_splits_until_it_is_asked_for_one(ragged, monkeypatch):
    with load_dataset(ragged) as dataset:
        view, test = spawned(dataset.split("train").select(slice(0, 9))), dataset.split("train")
        monkeypatch.setattr("kinoml_data.dataset.splits.resolve", lambda *_: pytest.fail("splits were resolved"))
        assert view[:][1]["z"].tolist() == test[:9][1]["z"].tolist()
        monkeypatch.undo()
        assert view.indices["train"].tolist() == list(range(9))


def test_splits_are_resolved_once_when_a_dataset_opens_and_random_ones_when_they_are_needed(ragged, monkeypatch):
    calls = []
    resolve = splits.resolve
    monkeypatch.setattr(splits, "resolve", lambda *args: calls.append(1) or resolve(*args))
    with load_dataset(ragged) as dataset:
        assert len(calls) == 1
        assert repr(dataset.split("train").select([0, 0])) and dataset.indices and dataset.split("train")
        assert len(calls) == 1
    random = {"storage": {"backend": "npz-lazy", "path": str(ragged)}, "splits": {"ratios": {"a": 1}}}
    with load_dataset(random) as dataset:
        assert len(dataset[[0]]) and len(calls) == 1
        assert len(dataset.split("a")) == len(dataset.split("a")) == 100_000
        assert len(calls) == 2


def test_too_little_shared_memory_gives_workers_of_a_file_their_own_copies(ragged, monkeypatch):
    def fails(self):
        raise RuntimeError("unable to allocate shared memory(shm): No space left on device (28)")

    with load_dataset(ragged, split="train") as view:
        monkeypatch.setattr(torch.Tensor, "share_memory_", fails)
        worker = spawned(view)
        assert (worker.rows == view.rows).all() and (worker[[7]][1]["z"] == view[[7]][1]["z"]).all()


@pytest.mark.parametrize("method", ["fork", "spawn"])
def test_workers_read_the_same_rows_as_their_parent(ragged, method):
    with load_dataset(ragged, split="train", collate="packed") as view:
        loader = view.as_dataloader(
            batch_size=4096, shuffle=True, seed=0, num_workers=2, multiprocessing_context=method, timeout=120
        )
        own = view.as_dataloader(batch_size=4096, shuffle=True, seed=0)
        for (X, y), (X_own, y_own) in zip(loader, own, strict=True):
            assert torch.equal(X.values, X_own.values) and torch.equal(y["z"], y_own["z"])


def test_row_arrays_of_another_content_are_not_used(ragged):
    with load_dataset(ragged) as dataset:
        state = dataset._session.__getstate__()
        state["row_arrays"] = {n: a + 1 for n, a in dataset._session._storage.row_arrays().items()}
        session = object.__new__(type(dataset._session))
        session.__setstate__(state)
        own = session.binding.storage.row_arrays()
        assert all(np.array_equal(own[n], a) for n, a in dataset._session._storage.row_arrays().items())


@pytest.mark.parametrize("pickled", [pickle.dumps, ForkingPickler.dumps])
def test_a_worker_of_a_file_that_has_changed_is_an_error(tmp_path, pickled):
    path = tmp_path / "data.npz"
    save_dataset(from_arrays([np.zeros(i % 3) for i in range(20_000)]), path)
    with load_dataset(path) as dataset:
        data = bytes(pickled(dataset))
        save_dataset(from_arrays([np.ones(i % 3) for i in range(20_000)]), path, overwrite=True)
        with pytest.raises(StoreChangedError, match="load it again"):
            pickle.loads(data)[:3]


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
