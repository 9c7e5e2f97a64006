"""Worker processes: each row exactly once, to the bit, however the workers start, and what fails is an error."""

from __future__ import annotations

import multiprocessing
import os
import pickle
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
from torch.utils.data import DataLoader

from kinoml_data import XyDataset, from_arrays, load_dataset, save_dataset
from kinoml_data.errors import FeaturizationError, SpecError, StoreChangedError, StoreNotFoundError, StoreReadError
from tests.builders import same_tensor
from tests.loading.datasets import (
    NEW,
    ROWS,
    SMILES,
    SPLITS,
    each_dataset,
    each_new_process,
    epoch,
    kinoml_npz,
    packed_npz,
    reopened_npz,
)


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


# -- threads


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
    spec = {
        "columns": {"f": {}},
        "X": "f",
        "storage": {"backend": "featurize-on-access", "featurizer": {"inputs": ["raw"]}},
    }
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
    message = r"(?i)(pickle|local object).*lambda"  # Python 3.13 words it in another way
    with warnings.catch_warnings(), pytest.raises((pickle.PicklingError, AttributeError), match=message):
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


def test_a_second_iteration_over_kept_workers_is_an_error_for_the_first():
    loader = from_arrays(np.arange(8.0)).as_dataloader(batch_size=2, num_workers=1)
    first = iter(loader)
    assert len(first) == 4 and next(first)[0].tolist() == [0, 1]
    assert [X.tolist() for X, _ in loader] == [[0, 1], [2, 3], [4, 5], [6, 7]]
    with pytest.raises(StoreReadError, match="another iteration over this loader has begun"):
        next(first)
    assert len(list(loader)) == 4 and len(list(loader)) == 4
    other = from_arrays(np.arange(8.0)).as_dataloader(batch_size=2, num_workers=1, persistent_workers=False)
    assert len(list(zip(other, other, strict=True))) == 4
