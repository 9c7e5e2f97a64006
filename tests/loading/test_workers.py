"""Worker processes and torch's own loaders: each row exactly once, to the bit, however the workers start."""

from __future__ import annotations

import multiprocessing
import os
import pickle
import resource
import signal
import threading
import time
import warnings
from collections import Counter
from collections.abc import Callable, Iterator
from itertools import product
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch.utils.data import ConcatDataset, DataLoader, Subset, random_split

from kinoml_data import Packed, PadMask, XyDataset, from_arrays, load_dataset, save_dataset
from kinoml_data.errors import FeaturizationError, SpecError, StoreChangedError, StoreNotFoundError
from tests.builders import FORMS, padded, random_bits, same_tensor

ROWS = 43
# Spawned workers import everything anew; those of the fork server start with what it has imported.
NEW = ("spawn", "forkserver")
each_new_process = pytest.mark.parametrize("method", ["forkserver", pytest.param("spawn", marks=pytest.mark.slow)])


# What every dataset here holds; y is the number of the row.
SMILES = [random_bits((5, i % 7), "int16", i) for i in range(ROWS)]
ATOMS = [random_bits((1 + i % 4, 3), "float32", 100 + i) for i in range(ROWS)]
Y = np.arange(ROWS)
SPLITS = {"train": Y[::-1][:30].copy(), "test": Y[:13].copy()}


def whole() -> XyDataset:
    return from_arrays({"smiles": SMILES, "atoms": ATOMS}, {"y": Y}, splits=SPLITS)


def in_memory(folder: Path) -> XyDataset:
    return whole()


def preloaded(folder: Path) -> XyDataset:
    save_dataset(whole(), folder / "data.npz")
    return load_dataset(folder / "data.npz", backend="in-memory")


def packed_npz(folder: Path) -> XyDataset:
    save_dataset(whole(), folder / "data.npz")
    return load_dataset(folder / "data.npz")


def kinoml_npz(folder: Path) -> XyDataset:
    path = folder / "kinoml.npz"
    members = {f"X_s{i}_a{j}_": row[i] for i in range(ROWS) for j, row in enumerate((SMILES, ATOMS))}
    np.savez(path, y=Y, **members, **{f"idx_{name}": rows for name, rows in SPLITS.items()})
    columns = {
        "smiles": {"dtype": "int16", "shape": [5, "*"], "stored_as": "X0"},
        "atoms": {"dtype": "float32", "shape": ["*", 3], "stored_as": "X1"},
        "y": {"dtype": "int64"},
    }
    splits = {name: f"idx_{name}" for name in SPLITS}
    storage = {"backend": "npz-lazy", "path": path}
    return load_dataset(
        {"columns": columns, "X": ["smiles", "atoms"], "y": ["y"], "splits": splits, "storage": storage}
    )


def reopened_npz(folder: Path) -> XyDataset:
    save_dataset(whole(), folder / "data.npz")
    return load_dataset(folder / "data.npz", backend="npz-reopen")


def parquet(folder: Path) -> XyDataset:
    save_dataset(whole(), folder / "data.parquet")
    return load_dataset(folder / "data.parquet")


def featurized(folder: Path) -> XyDataset:
    """`smiles` computed from its negative by a function that any process can import."""
    columns = {
        "smiles": {"dtype": "int16", "shape": [5, "*"]},
        "atoms": {"dtype": "float32", "shape": ["*", 3]},
        "y": {"dtype": "int64"},
    }
    splits = {name: {"rows": rows.tolist()} for name, rows in SPLITS.items()}
    spec = {"columns": columns, "X": ["smiles", "atoms"], "y": ["y"], "splits": splits}
    data = {"raw": [-row for row in SMILES], "atoms": ATOMS, "y": Y}
    return load_dataset(spec | {"storage": {"backend": "featurize-on-access"}}, data=data, featurizer=np.negative)


DATASETS: dict[str, Callable[[Path], XyDataset]] = {
    "in-memory": in_memory,
    "in-memory-over-npz": preloaded,
    "npz-lazy": packed_npz,
    "npz-lazy-of-kinoml": kinoml_npz,
    "npz-reopen": reopened_npz,
    "parquet-awkward": parquet,
    "featurize-on-access": featurized,
}
each_dataset = pytest.mark.parametrize("make", [*DATASETS.values()], ids=[*DATASETS])


def same_rows(X: dict[str, Any], y: dict[str, torch.Tensor]) -> list[int]:
    """Compare a batch with what its y says it is; returns the numbers of its rows."""
    rows = y["y"].tolist()
    for name, expected in (("smiles", SMILES), ("atoms", ATOMS)):
        assert len(X[name]) == len(rows)
        for found, row in zip(X[name], rows, strict=True):
            same_tensor(found, expected[row])
    return rows


def failure(loader: DataLoader[Any], kind: type[BaseException], match: str) -> str:
    """The text of the error that iterating ends with."""
    batches = iter(loader)
    try:
        with pytest.raises(kind, match=match) as caught:
            list(batches)
        return str(caught.value)
    finally:
        if loader.num_workers:  # left to the garbage collector, it may wait 5 s for workers that it keeps from ending
            batches._shutdown_workers()


def epoch(loader: DataLoader[Any]) -> list[int]:
    return [row for X, y in loader for row in same_rows(X, y)]


# -- every row once


def _matrix() -> Iterator[Any]:
    for method, workers in product(("fork", *NEW), (1, 2, 4)):
        marks = [] if (method, workers) in (("fork", 2), ("forkserver", 1)) else [pytest.mark.slow]
        yield pytest.param(method, workers, marks=marks, id=f"{method}-{workers}")


@pytest.mark.filterwarnings("ignore:This DataLoader will create:UserWarning")  # more workers than cores
@each_dataset
@pytest.mark.parametrize(("method", "workers"), [pytest.param(None, 0, id="0"), *_matrix()])
def test_an_epoch_has_each_row_once(make, method, workers, tmp_path):
    ds = make(tmp_path)
    ds[0]  # whatever is open in this process must not matter to the others
    loader = ds.as_dataloader(
        batch_size=4,
        shuffle=True,
        seed=1,
        num_workers=workers,
        multiprocessing_context=method,
        timeout=60 if workers else 0,
    )
    first, second = epoch(loader), epoch(loader)
    assert Counter(first) == Counter(second) == Counter(range(ROWS))
    assert first != second
    again = ds.as_dataloader(batch_size=4, shuffle=True, seed=1)
    assert epoch(again) == first, "a seed gives one order, with and without workers"


@each_dataset
def test_a_split_and_a_selection_reach_workers(make, tmp_path):
    ds = make(tmp_path)
    train = ds.split("train")
    chosen = train.select([5, 5, 0, -1])
    for view in (train, chosen, ds.select(slice(None, None, -1)), ds.select([])):
        loader = view.as_dataloader(batch_size=3, num_workers=2, multiprocessing_context="fork", timeout=60)
        assert epoch(loader) == view.rows.tolist()
    assert chosen.rows.tolist() == [SPLITS["train"][i] for i in (5, 5, 0, -1)]


@each_new_process
def test_a_selection_carries_its_rows_to_a_new_process(method, tmp_path):
    chosen = packed_npz(tmp_path).split("test").select([7, 1, 1])
    loader = chosen.as_dataloader(batch_size=2, num_workers=1, multiprocessing_context=method, timeout=60)
    assert epoch(loader) == [7, 1, 1]


# -- torch's own loaders and datasets


def collated(ds_form: str) -> dict[str, Any]:
    """How both ragged columns are put together; integers name what they are padded with."""
    smiles = {"form": ds_form, "value": -1} if ds_form == "pad" else ds_form
    return {"smiles": smiles, "atoms": ds_form}


def same_form(form: str, found: Any, rows: list[np.ndarray], value: float) -> None:
    filled, mask = padded(rows, rows[0].dtype, [None] * rows[0].ndim, 0 if form == "pad-mask" else value)
    if form == "list":
        assert type(found) is list and len(found) == len(rows)
        for tensor, row in zip(found, rows, strict=True):
            same_tensor(tensor, row)
    elif form == "pad":
        same_tensor(found, filled)
    elif form == "pad-mask":
        assert isinstance(found, PadMask)
        same_tensor(found.values, filled)
        same_tensor(found.mask, mask)
    elif form == "packed":
        assert isinstance(found, Packed)
        same_tensor(found.values, np.concatenate([row.reshape(-1) for row in rows]))
        same_tensor(found.offsets, np.cumsum([0, *(row.size for row in rows)]))
        same_tensor(found.shapes, np.array([row.shape for row in rows]))
    else:
        assert found.is_nested and found.layout == torch.jagged
        for tensor, row in zip(found.unbind(), rows, strict=True):
            same_tensor(tensor.contiguous(), row)


each_form = pytest.mark.parametrize("form", FORMS)
with_and_without_workers = pytest.mark.parametrize("workers", [0, 2])


def epoch_in_form(loader: DataLoader[Any], form: str) -> list[int]:
    seen = []
    for X, y in loader:
        rows = y["y"].tolist()
        same_form(form, X["smiles"], [SMILES[row] for row in rows], -1)
        same_form(form, X["atoms"], [ATOMS[row] for row in rows], 0)
        seen += rows
    return seen


@each_form
@with_and_without_workers
def test_a_plain_loader_works_on_ragged_rows(form, workers, tmp_path):
    ds = packed_npz(tmp_path)
    ds = load_dataset(ds.spec, collate=collated(form))
    options = {"batch_size": 4, "num_workers": workers}
    parts = random_split(ds, [20, 23], generator=torch.Generator().manual_seed(0))
    assert epoch_in_form(DataLoader(ds, **options), form) == list(range(ROWS))
    assert epoch_in_form(DataLoader(Subset(ds, [40, 2, 2]), **options), form) == [40, 2, 2]
    assert sorted(row for part in parts for row in epoch_in_form(DataLoader(part, **options), form)) == list(
        range(ROWS)
    )
    both = ConcatDataset([ds, ds.split("test"), Subset(ds.split("train"), [0])])
    assert epoch_in_form(DataLoader(both, **options), form) == [*range(ROWS), *range(13), ROWS - 1]
    assert epoch_in_form(DataLoader(ds, shuffle=True, drop_last=True, **options), form) != list(range(40))


@each_form
@with_and_without_workers
def test_pinned_batches_equal_those_that_are_not_pinned(form, workers, tmp_path):
    ds = packed_npz(tmp_path)
    loader = ds.as_dataloader(
        batch_size=5,
        num_workers=workers,
        pin_memory=True,
        collate=collated(form),
        multiprocessing_context="fork" if workers else None,
    )
    assert epoch_in_form(loader, form) == list(range(ROWS))
    assert epoch_in_form(DataLoader(load_dataset(ds.spec, collate=collated(form)), batch_size=5, pin_memory=True), form)


@each_form
def test_every_form_reaches_a_spawned_worker_and_back(form):
    loader = whole().as_dataloader(
        batch_size=8, num_workers=1, collate=collated(form), multiprocessing_context="forkserver", timeout=60
    )
    assert epoch_in_form(loader, form) == list(range(ROWS))


def test_a_loader_without_batches_gives_samples(tmp_path):
    ds = packed_npz(tmp_path)
    for workers in (0, 1):
        for row, (X, y) in enumerate(DataLoader(ds, batch_size=None, num_workers=workers)):
            same_tensor(X["smiles"], SMILES[row])
            same_tensor(y["y"], np.array(row))


def test_a_batch_of_many_ragged_rows_needs_few_file_descriptors():
    rows = [np.full((1 + i % 3, 2), i, "float32") for i in range(3000)]
    ds = from_arrays(rows, np.arange(3000))
    before = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (256, before[1]))
    try:
        loader = ds.as_dataloader(batch_size=1000, num_workers=2, multiprocessing_context="fork", timeout=60)
        held = list(loader)
    finally:
        resource.setrlimit(resource.RLIMIT_NOFILE, before)
    assert [len(X) for X, _ in held] == [1000] * 3
    assert all((X[i] == y[i]).all() for X, y in held for i in range(0, 1000, 99))


def test_threads_may_be_the_first_to_read_a_dataset_that_was_unpickled(tmp_path):
    ds = pickle.loads(pickle.dumps(packed_npz(tmp_path)))
    failures: list[BaseException] = []

    def work(seed: int) -> None:
        try:
            for row in np.random.default_rng(seed).integers(0, ROWS, 20).tolist():
                X, _ = ds[row]
                same_tensor(X["smiles"], SMILES[row])
        except BaseException as error:
            failures.append(error)

    threads = [threading.Thread(target=work, args=(seed,)) for seed in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert not failures


# -- what fails, fails loudly


def failing(kind: type[BaseException]) -> Callable[[Any], Any]:
    def featurize(value: int) -> Any:
        if value == 3:
            raise kind("the molecule is odd")
        return np.array(value, "float32")

    return featurize


def over(values: Any, featurizer: Callable[[Any], Any]) -> XyDataset:
    spec = {"columns": {"f": {}}, "X": "f", "storage": {"backend": "featurize-on-access", "inputs": ["raw"]}}
    return load_dataset(spec, data={"raw": values}, featurizer=featurizer)


@pytest.mark.parametrize("kind", [ValueError, KeyError, StopIteration, GeneratorExit, SystemExit, RecursionError])
def test_an_error_of_a_featurizer_surfaces_alike_with_and_without_workers(kind):
    texts = []
    for workers in (0, 2):
        ds = over(list(range(8)), failing(kind))
        loader = ds.as_dataloader(
            batch_size=2, num_workers=workers, multiprocessing_context="fork" if workers else None
        )
        texts.append(failure(loader, FeaturizationError, "odd"))
    assert texts[0] == texts[1].splitlines()[-1].split(": ", 1)[1]
    assert f"row 3: {kind.__name__}: " in texts[0] and "the molecule is odd" in texts[0]


@each_new_process
def test_an_error_of_a_featurizer_surfaces_from_a_new_process(method):
    # An iterator that is at its end makes `next` raise StopIteration, which alone would end the epoch.
    ds = over([iter([np.float32(1)]), iter([])], next)
    loader = ds.as_dataloader(num_workers=1, multiprocessing_context=method, timeout=60)
    failure(loader, FeaturizationError, "row 1: StopIteration")


def test_data_on_a_device_refuses_workers(tmp_path):
    spec = packed_npz(tmp_path).spec
    for ds in (
        load_dataset(spec, backend="in-memory", device="cpu"),
        load_dataset(spec, backend="in-memory", device="cpu", split="train"),
    ):
        assert sorted(epoch(ds.as_dataloader(batch_size=4))) == sorted(ds.rows.tolist())
        with pytest.raises(SpecError, match="num_workers=0"):
            ds.as_dataloader(num_workers=1)
        failure(DataLoader(ds, num_workers=1, multiprocessing_context="fork"), SpecError, "num_workers=0")


@each_new_process
def test_data_on_a_device_refuses_workers_of_a_plain_loader_that_start_anew(method, tmp_path):
    ds = load_dataset(packed_npz(tmp_path).spec, backend="in-memory", device="cpu")
    with pytest.raises(SpecError, match="num_workers=0"):
        list(DataLoader(ds, num_workers=1, multiprocessing_context=method, timeout=60))


class Holder:
    """An object of the caller that no other process can be given."""

    def __init__(self, value: float) -> None:
        self.get = lambda: np.float32(value)


@each_new_process
def test_what_cannot_pickle_raises_before_workers_start(method):
    ds = over([Holder(1), Holder(2)], lambda holder: holder.get())
    started = multiprocessing.active_children()
    with warnings.catch_warnings(), pytest.raises((pickle.PicklingError, AttributeError), match=r"(?i)pickle.*lambda"):
        warnings.simplefilter("ignore")  # newer versions of torch say besides what to do about it
        list(ds.as_dataloader(num_workers=1, multiprocessing_context=method))
    assert multiprocessing.active_children() == started
    fork = ds.as_dataloader(num_workers=1, multiprocessing_context="fork")
    assert torch.cat([X for X, _ in fork]).tolist() == [1, 2]


@pytest.mark.parametrize(
    "make", [packed_npz, reopened_npz, kinoml_npz], ids=["npz-lazy", "npz-reopen", "npz-lazy-of-kinoml"]
)
def test_workers_notice_that_the_file_was_replaced(make, tmp_path):
    ds = make(tmp_path)
    path = next(tmp_path.glob("*.npz"))
    save_dataset(ds.split("train"), tmp_path / "other.npz")
    (tmp_path / "other.npz").replace(path)
    loader = ds.as_dataloader(batch_size=4, num_workers=2, multiprocessing_context="fork")
    failure(loader, StoreChangedError, "load")


@pytest.mark.parametrize("make", [packed_npz, reopened_npz], ids=["npz-lazy", "npz-reopen"])
def test_workers_notice_that_the_file_is_gone(make, tmp_path):
    ds = make(tmp_path)
    (tmp_path / "data.npz").unlink()
    failure(ds.as_dataloader(num_workers=1, multiprocessing_context="fork"), StoreNotFoundError, r"data\.npz")


# -- workers that stop


class StopAtRow3:
    """A collate function that any process can import, and that notes the time and then stops the worker at row 3."""

    def __init__(self, how: str, folder: Path) -> None:
        self.how, self.noted = how, folder / "stopped"

    def __call__(self, batch: Any) -> Any:
        X, y = batch.collater(batch)
        if 3 in y:
            self.noted.write_text(str(time.time()))
            if self.how == "killed":
                os.kill(os.getpid(), signal.SIGKILL)
            if self.how == "SystemExit":
                raise SystemExit(0)
            if self.how == "exited with 0":
                os._exit(0)
            time.sleep(600)
        return X, y

    def loader(self, method: str, timeout: float) -> DataLoader[Any]:
        ds = from_arrays(np.arange(8.0), np.arange(8))
        return ds.as_dataloader(
            batch_size=2, num_workers=2, collate_fn=self, multiprocessing_context=method, timeout=timeout
        )


def _stops() -> Iterator[Any]:
    for method in ("fork", *NEW):
        for how in ("killed", "exited with 0", "SystemExit"):
            quick = (method, how) in {("fork", "killed"), ("fork", "exited with 0"), ("forkserver", "killed")}
            yield pytest.param(method, how, marks=[] if quick else [pytest.mark.slow], id=f"{how}-{method}")


@pytest.mark.parametrize(("method", "how"), [*_stops()])
def test_a_worker_that_ended_is_an_error_within_20_seconds(how, method, tmp_path):
    stop = StopAtRow3(how, tmp_path)
    failure(stop.loader(method, timeout=300), RuntimeError, r"(?i)worker.*(killed|exited unexpectedly)")
    assert time.time() - float(stop.noted.read_text()) < 20


@pytest.mark.parametrize(
    ("method", "timeout"),
    [pytest.param("fork", 2, id="fork"), *(pytest.param(new, 6, marks=pytest.mark.slow, id=new) for new in NEW)],
)
def test_a_worker_that_hangs_is_an_error_after_the_timeout(method, timeout, tmp_path):
    start = time.monotonic()
    loader = StopAtRow3("hangs", tmp_path).loader(method, timeout)
    failure(loader, RuntimeError, f"timed out after {timeout} seconds")
    assert timeout <= time.monotonic() - start < 120


def test_a_batch_that_takes_longer_than_one_check_of_the_workers_arrives(monkeypatch):
    monkeypatch.setattr("kinoml_data.loading.workers.POLL_SECONDS", 0.05)

    def slow(batch: Any) -> Any:
        time.sleep(0.5)
        return batch.collater(batch)

    ds = from_arrays(np.arange(4.0), np.arange(4))
    loader = ds.as_dataloader(batch_size=2, num_workers=1, collate_fn=slow, multiprocessing_context="fork")
    assert torch.cat([y for _, y in loader]).tolist() == [0, 1, 2, 3]


def test_the_timeout_of_workers_is_300_seconds_unless_it_is_given(tmp_path):
    ds = packed_npz(tmp_path)
    assert ds.as_dataloader(num_workers=1).timeout == 300
    assert ds.as_dataloader(num_workers=1, timeout=7).timeout == 7
