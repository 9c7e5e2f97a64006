"""Damaged stores, reduced, and that the proofs would notice if the library did not."""

from __future__ import annotations

import os
import signal

import pytest

from kinoml_data.backends.parquet.container import ParquetContainer
from kinoml_data.layouts import arrow_rows
from tests.faults import bits, mutants, npz_mutants, parquet_mutants
from tests.faults.stores import Seed, seeds


@pytest.fixture(scope="module")
def held(tmp_path_factory: pytest.TempPathFactory) -> list[Seed]:
    return seeds(tmp_path_factory.mktemp("seeds"))


def test_each_store_holds_what_is_kept_in_memory(held, tmp_path):
    for seed in held:
        path = tmp_path / f"store{seed.suffix}"
        path.write_bytes(seed.data)
        assert seed.mismatch(seed.backend(path)) is None, seed.name


def test_damaged_npz_files_are_errors_or_right(scaled):
    npz_mutants.run(cases=scaled(6000), seed=1).check()


def test_damaged_parquet_files_are_errors_or_right(scaled):
    parquet_mutants.run(cases=scaled(3000), seed=1).check()


def test_single_flipped_bits_are_errors_or_harmless(scaled):
    bits.run(cases=scaled(5000)).check()


# -- canaries


@pytest.mark.slow
def test_without_checksums_of_members_the_proofs_find_wrong_tensors():
    assert npz_mutants.run(cases=1000, verify="never").problems


@pytest.mark.slow
def test_without_digests_of_the_footer_and_the_metadata_the_proof_finds_wrong_tensors(monkeypatch):
    monkeypatch.setattr(ParquetContainer, "sealed", property(lambda _: True, lambda *_: None), raising=False)
    monkeypatch.setattr(arrow_rows, "_digest", lambda metadata: "")
    assert parquet_mutants.run(cases=6000).problems


def cases(held: list[Seed], act):
    class Acting(Seed):
        def mismatch(self, backend):
            return act()

    store = held[0]
    acting = Acting(store.name, store.suffix, store.data, store.columns, store.arrays)
    return lambda number: (acting if number == 3 else store, store.data, False, "as it is")


def spin():
    while True:
        pass


@pytest.mark.parametrize(
    ("act", "said"),
    [
        (lambda: os.kill(os.getpid(), signal.SIGKILL), "case 3: the process died, exit code -9"),
        (spin, "more than 1.0 s"),
        (lambda: 1 // 0, "ZeroDivisionError"),
        (lambda: "column X, row 2", "silently different: column X, row 2"),
    ],
    ids=["death", "hang", "foreign", "difference"],
)
def test_whatever_a_case_does_is_noticed_and_the_others_are_executed(held, act, said):
    report = mutants.run("canary", 10, 0, 2, cases(held, act))
    assert report.executed == 10 and len(report.problems) == 1 and said in report.problems[0]


def test_fewer_cases_than_claimed_fail():
    report = npz_mutants.run(cases=4)
    report.claimed = 5
    with pytest.raises(AssertionError, match="4 cases of 5"):
        report.check()
