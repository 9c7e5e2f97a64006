"""Parquet files that this library wrote, damaged by accident. Full size: 100,000."""

from __future__ import annotations

import random
import tempfile
from pathlib import Path
from typing import Any

from tests.faults import mutants
from tests.faults.report import Report
from tests.faults.stores import Seed, parquet_seeds

FULL = 100_000


def run(cases: int | None = None, seed: int = 0, jobs: int = 2, **options: Any) -> Report:
    with tempfile.TemporaryDirectory() as folder:
        held = parquet_seeds(Path(folder))

    def case(number: int) -> tuple[Seed, bytes, bool, str]:
        rng = random.Random(seed << 40 | number)
        store, other = rng.choice(held), rng.choice(held)
        data, how = mutants.damaged(store.data, other.data, rng)
        return store, data, any(data == each.data for each in held), how

    return mutants.run("parquet", FULL if cases is None else cases, seed, jobs, case, options)
