"""Every single bit of small stores of every layout, flipped. Full size: all of them."""

from __future__ import annotations

import tempfile
from itertools import accumulate
from pathlib import Path
from typing import Any

from tests.faults import mutants
from tests.faults.report import Report
from tests.faults.stores import Seed, seeds


def run(cases: int | None = None, seed: int = 0, jobs: int = 2, **options: Any) -> Report:
    with tempfile.TemporaryDirectory() as folder:
        held = seeds(Path(folder))
    ends = list(accumulate(8 * len(store.data) for store in held))
    step = 1 if cases is None else max(1, ends[-1] // cases)

    def case(number: int) -> tuple[Seed, bytes, bool, str]:
        bit = number * step
        which = next(i for i, end in enumerate(ends) if bit < end)
        store, bit = held[which], bit - (ends[which - 1] if which else 0)
        data = bytearray(store.data)
        data[bit // 8] ^= 1 << bit % 8
        return store, bytes(data), False, f"bit {bit} flipped"

    return mutants.run("bits", ends[-1] if cases is None else cases, seed, jobs, case, options)
