"""What is measured of a dataset, and how."""

from __future__ import annotations

import tempfile
from pathlib import Path

import numpy as np
import pytest

import kinoml_data as kd
from kinoml_data.doctor import case
from kinoml_data.doctor.advice import Origin
from kinoml_data.doctor.case import Case, least_times
from kinoml_data.factory import open_to_copy


@pytest.fixture(autouse=True)
def rows(folder: Path) -> None:
    """The file `x.npz` of 500 rows, of which each fifth is the same."""
    X = np.random.default_rng(0).random((500, 20))
    X[::5] = X[0]
    np.savez("x.npz", X=X, y=np.arange(500), unnamed=np.zeros((500, 1000)))


def of(path: str, seconds: float = 100.0) -> Case:
    work = Path(tempfile.mkdtemp(dir=Path.cwd()))
    return Case(lambda: open_to_copy(path), Origin(path), work, batch_size=64, workers=0, seconds=seconds)


def test_the_bytes_of_all_rows_are_those_of_the_columns_of_the_dataset() -> None:
    with of("x.npz") as measured:
        assert len(measured.sample) == 500 and [len(batch) for batch in measured.batches] == [64] * 7
        assert measured.nbytes == 500 * 21 * 8 and measured.batch_nbytes == {"X": 64 * 160, "y": 64 * 8}
        assert measured.on_disk > 4_000_000 > 1.2 * measured.nbytes > measured.own_on_disk
        assert {len(y) for _, y in [measured.read(measured.flat, batch) for batch in measured.batches]} == {64}


def test_values_that_are_stored_once_are_counted_once() -> None:
    kd.convert("x.npz", "once.npz", share=["X"])
    with of("once.npz") as measured:
        assert measured.distinct("X") == 401 and measured.distinct("y") == 500
        assert measured.nbytes == 401 * 160 + 500 * 8


def test_a_sample_is_taken_if_there_is_no_time_for_all_rows(monkeypatch: pytest.MonkeyPatch) -> None:
    ticks = iter(range(10**6))
    monkeypatch.setattr(case, "clock", lambda: float(next(ticks)))
    with of("x.npz", seconds=100.0) as measured:
        assert len(measured.sample) == 100 and [len(batch) for batch in measured.batches] == [64]
        assert measured.nbytes == 500 * 21 * 8
    with of("x.npz", seconds=0.0) as measured:
        assert len(measured.sample) == 3


def test_the_imports_of_the_first_opening_are_not_part_of_the_first_batch(monkeypatch: pytest.MonkeyPatch) -> None:
    now, takes = [0.0], iter([3.0, 0.5])
    monkeypatch.setattr(case, "clock", lambda: now[0])

    def opened() -> kd.XyDataset:
        now[0] += next(takes)
        return open_to_copy("x.npz")

    with Case(opened, Origin("x.npz"), Path.cwd(), batch_size=64, workers=0, seconds=0.2) as measured:
        assert measured.first == 0.5


def test_the_least_time_of_several_rounds_counts(monkeypatch: pytest.MonkeyPatch) -> None:
    now = [0.0]
    takes = {"quick": iter([9.0, 1.0, 1.0, 9.0]), "slow": iter([8.0, 8.0, 3.0, 5.0])}
    monkeypatch.setattr(case, "clock", lambda: now[0])
    monkeypatch.setattr(case, "ROUNDS", 2)

    def read(way: str) -> None:
        now[0] += next(takes[way])

    ways = {way: lambda batch, way=way: read(way) for way in takes}
    assert least_times(ways, [0, 1], 0.0) == {"quick": 5.0, "slow": 4.0}
