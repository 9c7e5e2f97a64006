"""Random specs written as YAML, JSON and TOML: all three are read as the same spec. Full size: 10,000."""

from __future__ import annotations

import copy
import random
import time

from kinoml_data import DatasetSpec
from kinoml_data.errors import SpecError
from kinoml_data.spec import config
from tests.faults.report import Report
from tests.faults.spec_mutants import SPECS, _changed

FULL = 10_000


def run(cases: int | None = None, seed: int = 0) -> Report:
    report = Report("twins", seed, FULL if cases is None else cases)
    start, number = time.perf_counter(), 0
    while report.executed < report.claimed:
        rng = random.Random(seed << 40 | number)
        number += 1
        tree = copy.deepcopy(rng.choice(SPECS))
        for _ in range(rng.randrange(5)):
            _changed(tree, rng)
        try:
            expected = DatasetSpec.parse(tree)
            texts = {suffix: config.dump(expected.to_mapping(), suffix) for suffix in (".yaml", ".json", ".toml")}
        except SpecError:
            continue  # no spec, or one with a null, which TOML has not
        report.executed += 1
        for suffix, text in texts.items():
            if DatasetSpec.parse(config.parse(text.encode(), suffix)) != expected:
                report.problems.append(f"case {number - 1}: {suffix} is read as another spec: {text[:300]}")
    report.seconds = time.perf_counter() - start
    return report
