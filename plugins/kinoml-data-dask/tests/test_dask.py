"""The executor over a cluster of two processes on this machine."""

from __future__ import annotations

import os
import random
import signal
import time
from collections.abc import Iterator
from concurrent.futures import Executor, as_completed
from pathlib import Path
from typing import Any

import dask
import kinoml_data as kd
import numpy as np
import pytest
from distributed import LocalCluster
from kinoml_data import registry
from kinoml_data.cli.main import main
from kinoml_data.errors import FeaturizationError, SpecError
from numpy.typing import NDArray

from kinoml_data_dask import DaskExecutor

TASKS = 60
ROWS = 6_000  # of which two each have one text


@pytest.fixture(scope="module")
def cluster() -> Iterator[Any]:
    with LocalCluster(n_workers=2, threads_per_worker=1, host="127.0.0.1", dashboard_address=None) as cluster:
        yield cluster


def living(cluster: Any) -> list[int]:
    """The processes of the workers, once all live and are known to the scheduler: one that was killed is replaced."""
    deadline = time.monotonic() + 60
    while True:
        found = [(nanny.pid, nanny.worker_address) for nanny in cluster.workers.values()]
        if all(pid and address in cluster.scheduler.workers for pid, address in found):
            return [pid for pid, _ in found]
        assert time.monotonic() < deadline, found
        time.sleep(0.02)


def squared(number: int) -> tuple[int, int]:
    time.sleep(0.02)
    return number * number, os.getpid()


def test_the_registry_finds_the_installed_plugin() -> None:
    assert registry.executor("dask") is DaskExecutor and issubclass(DaskExecutor, Executor)


def test_tasks_run_in_other_processes(cluster: Any) -> None:
    with DaskExecutor(cluster.scheduler_address) as executor:
        results = list(executor.map(squared, range(TASKS)))
    assert [square for square, _ in results] == [number * number for number in range(TASKS)]
    assert os.getpid() not in {process for _, process in results}


def test_equal_tasks_are_run_each(cluster: Any) -> None:
    with DaskExecutor(cluster.scheduler_address) as executor:
        futures = [executor.submit(time.perf_counter_ns) for _ in range(10)]
        assert len({future.result() for future in futures}) == 10


def test_keywords_reach_the_task_and_an_exception_comes_back(cluster: Any) -> None:
    with DaskExecutor(cluster.scheduler_address) as executor:
        assert executor.submit(dict, retries=1, pure=2, workers=3).result() == {"retries": 1, "pure": 2, "workers": 3}
        with pytest.raises(ZeroDivisionError):
            executor.submit(divmod, 1, 0).result()


@pytest.mark.parametrize("seed", range(3))
def test_a_worker_that_is_killed_leaves_no_trace_in_the_results(cluster: Any, seed: int) -> None:
    chance = random.Random(seed)
    with DaskExecutor(cluster.scheduler_address) as executor:
        victim = chance.choice(living(cluster))
        futures = {executor.submit(squared, number): number for number in range(TASKS)}
        moment, results = chance.randrange(TASKS // 2), {}
        for done, future in enumerate(as_completed(futures)):
            if done == moment:
                os.kill(victim, signal.SIGKILL)
            results[futures[future]] = future.result()[0]
    assert results == {number: number * number for number in range(TASKS)}


def test_a_scheduler_file_is_an_address(cluster: Any, tmp_path: Path) -> None:
    file = tmp_path / "scheduler.json"
    with pytest.raises(SpecError, match="there is no scheduler file"):
        DaskExecutor(str(file))
    file.write_text(f'{{"address": "{cluster.scheduler_address}"}}')
    with DaskExecutor(str(file)) as executor:
        assert executor.submit(pow, 2, 10).result() == 1024


def test_the_address_may_come_from_the_configuration(cluster: Any) -> None:
    with dask.config.set({"scheduler-address": cluster.scheduler_address}), DaskExecutor() as executor:
        assert executor.submit(pow, 2, 10).result() == 1024


def test_no_scheduler_is_an_error() -> None:
    with dask.config.set({"scheduler-address": None}), pytest.raises(SpecError, match="--address"):
        DaskExecutor()
    with dask.config.set({"distributed.comm.timeouts.connect": "200ms"}):
        for address in ("tcp://127.0.0.1:1", "ftp://127.0.0.1"):
            with pytest.raises(SpecError, match=f"no Dask scheduler answers at '{address}'"):
                DaskExecutor(address)


def test_a_shutdown_that_cancels_does_not_wait_and_the_scheduler_goes_on(cluster: Any, tmp_path: Path) -> None:
    gate = tmp_path / "gate"

    def wait(_: int) -> None:
        while not gate.exists():
            time.sleep(0.01)

    executor = DaskExecutor(cluster.scheduler_address)
    try:
        futures = [executor.submit(wait, number) for number in range(TASKS)]
        executor.shutdown(cancel_futures=True)
        assert not [future for future in futures if future.done() and not future.cancelled()]
    finally:
        gate.touch()  # otherwise the workers, which other tests use too, would wait for ever
    with DaskExecutor(cluster.scheduler_address) as another:
        assert another.submit(pow, 2, 10).result() == 1024


# a conversion


def codes(text: str) -> NDArray[np.uint32]:
    """The codes of the letters; a text that says so cannot be featurized."""
    if text.startswith("bad"):
        raise ValueError("the text is bad")
    return np.array([ord(letter) for letter in text], np.uint32)


def texts(*, bad: int | None = None) -> kd.XyDataset:
    data = {"text": [f"{'bad' if i == bad else 'text'} {i % (ROWS // 2):x}" for i in range(ROWS)], "y": np.arange(ROWS)}
    column = {"codes": {"dtype": "uint32", "shape": ["*"]}}
    featurizer = {"name": "codes", "inputs": ["text"], "outputs": column}
    spec = {"X": "codes", "y": "y", "storage": {"backend": "featurize-on-access", "featurizer": featurizer}}
    return kd.load_dataset(spec, data=data, featurizer={"codes": codes})


@pytest.fixture(scope="module")
def undisturbed(tmp_path_factory: pytest.TempPathFactory) -> bytes:
    """The file that one process writes."""
    path = tmp_path_factory.mktemp("undisturbed") / "codes.npz"
    kd.convert(texts(), path)
    return path.read_bytes()


@pytest.mark.parametrize("seed", range(4))
def test_a_conversion_is_bit_identical_also_if_a_worker_is_killed(
    cluster: Any, undisturbed: bytes, tmp_path: Path, seed: int
) -> None:
    chance = random.Random(seed)
    moment = chance.randrange(ROWS // 2) if seed else None  # a number of distinct texts; the first run is undisturbed
    victims = [chance.choice(living(cluster))] if seed else []

    def progress(stage: str, done: int, total: int) -> None:
        assert not stage.startswith("featurizing") or total == ROWS // 2
        if moment is not None and done > moment and victims:
            os.kill(victims.pop(), signal.SIGKILL)

    with DaskExecutor(cluster.scheduler_address) as executor:
        kd.convert(texts(), tmp_path / "codes.npz", executor=executor, progress=progress)
    assert not victims
    assert (tmp_path / "codes.npz").read_bytes() == undisturbed
    assert [path.name for path in tmp_path.iterdir()] == ["codes.npz"]


def test_a_row_that_fails_on_a_worker_is_named(cluster: Any, tmp_path: Path) -> None:
    with DaskExecutor(cluster.scheduler_address) as executor:
        with pytest.raises(FeaturizationError, match="row 4321: ValueError: the text is bad"):
            kd.convert(texts(bad=4321), tmp_path / "codes.npz", executor=executor)
        assert not list(tmp_path.iterdir())
        kd.convert(texts(bad=4321), tmp_path / "codes.npz", executor=executor, failed=tmp_path / "failed.csv")
    with kd.load_dataset(tmp_path / "codes.npz") as dataset:
        assert dataset.column("y").tolist() == [i for i in range(ROWS) if i != 4321]


def test_the_command_converts_on_a_cluster(cluster: Any, tmp_path: Path) -> None:
    pytest.importorskip("kinoml_data_rdkit", reason="the featurizer is one of kinoml-data-rdkit")
    (tmp_path / "a.csv").write_text("smiles,y\n" + "".join(f"{'C' * i}O,{i}\n" for i in range(9)))
    (tmp_path / "a.yaml").write_text(
        "{X: fingerprint, y: y, storage: {backend: featurize-on-access, source: {backend: csv, path: a.csv}, "
        "featurizer: morgan-fingerprint}}"
    )
    source, alone, together = (str(tmp_path / name) for name in ("a.yaml", "alone.npz", "together.npz"))
    for target, options in ((alone, []), (together, ["--executor", "dask", "--address", cluster.scheduler_address])):
        with pytest.raises(SystemExit) as done:
            main(["convert", source, target, *options])
        assert not done.value.code
    assert Path(together).read_bytes() == Path(alone).read_bytes()
