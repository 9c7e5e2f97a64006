"""`python -m tests.faults NAME [--cases N] [--seed S]`: one proof, at its full size where nothing else is said."""

from __future__ import annotations

import argparse
import importlib
import inspect
import sys
from typing import Any

PROOFS = {
    "attacks": "tests.faults.attacks",
    "bits": "tests.faults.bits",
    "changing": "tests.faults.changing",
    "differential": "tests.faults.differential",
    "killed_convert": "tests.faults.killed_convert",
    "npz": "tests.faults.npz_mutants",
    "parquet": "tests.faults.parquet_mutants",
    "power_loss": "tests.faults.power_loss",
    "specs": "tests.faults.spec_mutants",
    "threads": "tests.faults.threads",
    "twins": "tests.faults.twins",
    "writers": "tests.faults.writers",
}


def main() -> int:
    parser = argparse.ArgumentParser(prog="python -m tests.faults", description=__doc__)
    parser.add_argument("name", choices=PROOFS)
    parser.add_argument("--cases", type=int)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--jobs", type=int, default=2)
    chosen = parser.parse_args()
    run: Any = importlib.import_module(PROOFS[chosen.name]).run
    known = inspect.signature(run).parameters
    given = {"cases": chosen.cases, "seed": chosen.seed, "jobs": chosen.jobs}
    report = run(**{key: value for key, value in given.items() if key in known})
    for problem in report.problems:
        print(problem)
    print(report.line())
    return 1 if report.problems or report.executed < report.claimed else 0


if __name__ == "__main__":
    sys.exit(main())
