"""What `run.py` and `limits.py` found, read back: medians, ranges, ratios."""

from __future__ import annotations

import json
import statistics
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

FOLDER = Path(__file__).parent / "results"


@dataclass(frozen=True)
class Measured:
    """One number: from the medians of all rounds, and from the best ones."""

    median: float
    best: float


class Results:
    """All that was measured.

    Args:
        folder: with a JSON file per workload and one for the limits; what is not there was not measured.
    """

    def __init__(self, folder: Path = FOLDER) -> None:
        self.held: dict[str, Any] = {file.stem: json.loads(file.read_text()) for file in folder.glob("*.json")}

    def samples(self, workload: str, name: str, measure: str) -> list[float]:
        """All rounds of one measure; of the limits, `name` is the fact."""
        held = self.held.get(workload, {})
        found: list[float] = (held if workload == "limits" else held.get("results", {})).get(name, {}).get(measure, [])
        return found

    def one(self, workload: str, name: str, measure: str) -> Measured | None:
        found = self.samples(workload, name, measure)
        if not found:
            return None
        return Measured(statistics.median(found), min(found) if is_time(measure) else max(found))

    def ratio(self, workload: str, above: tuple[str, str], below: tuple[str, str]) -> Measured | None:
        """One measure over another, each `(name, measure)`."""
        a, b = self.one(workload, *above), self.one(workload, *below)
        return None if a is None or b is None else Measured(a.median / b.median, a.best / b.best)

    def faster(self, workload: str, ours: str, peer: str, measure: str, of_peer: str = "") -> Measured | None:
        """How many times as fast as a peer."""
        mine, its = (ours, measure), (peer, of_peer or measure)
        return self.ratio(workload, its, mine) if is_time(measure) else self.ratio(workload, mine, its)

    def competitors(self, workload: str) -> dict[str, Any]:
        found: dict[str, Any] = self.held.get(workload, {}).get("results", {})
        return found


def is_time(measure: str) -> bool:
    """True if less is better."""
    return measure.endswith(("_ms", "_us", "_s", "_mib", "_member"))


def least(found: list[Measured | None]) -> Measured | None:
    """The smallest of several ratios."""
    known = [measured for measured in found if measured is not None]
    return min(known, key=lambda measured: measured.median) if known else None


Value = Callable[[Results], Measured | None]
