"""The attack corpus: as a whole in a process that is watched, and each file by itself."""

from __future__ import annotations

import numpy as np
import pytest

import kinoml_data as kd
from tests.faults import attacks
from tests.faults.attack_corpus import Attack
from tests.faults.attack_corpus import attacks as corpus

ATTACKS = corpus()


def test_no_attack_runs_anything_or_is_read():
    report = attacks.run()
    report.check()
    assert report.executed == len(ATTACKS) and sum(attack.error is not None for attack in ATTACKS) >= 60


@pytest.mark.slow  # the test above opens the same files
@pytest.mark.parametrize("attack", ATTACKS, ids=lambda attack: attack.name.encode("unicode_escape").decode())
def test_an_attack_ends_in_its_error(attack: Attack, tmp_path):
    assert attacks.judge(attack, attack.make(tmp_path)) is None


@pytest.mark.parametrize("attack", [a for a in ATTACKS if a.error is None], ids=lambda attack: attack.name)
def test_what_is_harmless_is_read_as_it_was_written(attack: Attack, tmp_path):
    source = attack.make(tmp_path)
    with kd.load_dataset(source) as dataset:
        X = dataset.column("X")
        if "header" in attack.name or "Fortran" in attack.name or "npy" in attack.name:
            expected = np.zeros((3, 2), np.float32)
        elif source.suffix in (".parquet", ".csv"):
            expected = np.array([1.0, 2.0]) if source.suffix == ".parquet" else np.array([1])
        else:
            expected = np.arange(6, dtype=np.float32).reshape(3, 2)
    assert X.numpy().dtype == expected.dtype and np.array_equal(X.numpy(), expected)


@pytest.mark.slow
@pytest.mark.parametrize(
    ("protection", "found"),
    [
        ("unpickling", "pickle.find_class"),
        ("evaluating", "compile"),
        ("yaml of Python", "import"),
        ("expecting too much", "harmless: stored: was read as if nothing were wrong"),
    ],
)
def test_the_proof_fails_without_one_protection(protection, found):
    report = attacks.run(weaken=protection)
    assert any(found in problem for problem in report.problems)
    with pytest.raises(AssertionError):
        report.check()
