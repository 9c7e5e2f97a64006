"""The goals, as data, and whether the last run of the benchmarks met them: `python -m benchmarks.targets`."""

from __future__ import annotations

import argparse
from dataclasses import dataclass
from pathlib import Path

from benchmarks.results import FOLDER, Measured, Results, Value, least

MAPPED, MEMORY, LAZY = "npz-lazy-mmap", "in-memory", "npz-lazy"
ON_DISK = (
    *("numpy-lazy", "numpy-reopen", "numpy-compressed", "hf-arrow", "hf-torch", "lance", "h5py", "zarr"),
    *("tensordict", "lmdb", "litdata"),
)


@dataclass(frozen=True)
class Target:
    """One goal.

    Attributes:
        what: the situation.
        who: what is to be that fast or small.
        goal: the bound, with "{}" in `said` in its place.
        said: the bound in words, ">= {}x tensordict".
        value: the measured number.
    """

    what: str
    who: str
    said: str
    goal: float
    value: Value

    def met(self, measured: Measured) -> bool:
        return measured.median <= self.goal if self.said.startswith("<=") else measured.median >= self.goal


def at_most(what: str, who: str, workload: str, measure: str, goal: float, unit: str) -> Target:
    return Target(what, who, f"<= {{}} {unit}", goal, lambda found: found.one(workload, who, measure))


def at_least(what: str, who: str, workload: str, measure: str, goal: float, unit: str) -> Target:
    return Target(what, who, f">= {{}} {unit}", goal, lambda found: found.one(workload, who, measure))


def times(
    what: str, who: str, workload: str, measure: str, goal: float, peer: str, of_peer: str = "", words: str = ""
) -> Target:
    """`who` is at least so many times as fast as a peer."""
    said = f">= {{}}x {words or peer}"
    return Target(what, who, said, goal, lambda found: found.faster(workload, who, peer, measure, of_peer))


def batches() -> list[Target]:
    found = []
    for workload, lazy_ms in (("ragged", 0.5), ("graph", 0.8)):
        what = f"128 random rows, packed, *{workload}*"
        found.append(at_most(what, LAZY, workload, "batch_ms", lazy_ms, "ms"))
        for peer, goal in (("numpy-lazy", 25), ("numpy-reopen", 200), ("tensordict", 3)):
            found.append(times(what, LAZY, workload, "batch_ms", goal, peer))
        for who in (MEMORY, MAPPED):
            found.append(at_most(what, who, workload, "batch_ms", 0.35, "ms"))
            found.append(times(what, who, workload, "batch_ms", 2, "hf-arrow"))
            found.append(_slower(what, who, workload, 4))
    return found


def _slower(what: str, who: str, workload: str, goal: float) -> Target:
    pair = (who, "batch_ms"), ("memcpy", "batch_ms")
    return Target(what, who, "<= {}x memcpy out of cache", goal, lambda found: found.ratio(workload, *pair))


def single_rows() -> list[Target]:
    what = "one `ds[i]`, *ragged*"

    def against_all(who: str) -> Target:
        value = lambda found: least([found.faster("ragged", who, peer, "one_us") for peer in ON_DISK])  # noqa: E731
        return Target(what, who, ">= {}x every peer on disk", 1, value)

    return [
        at_most(what, LAZY, "ragged", "one_us", 10, "us"),
        at_most(what, MAPPED, "ragged", "one_us", 6, "us"),
        at_most(what, MEMORY, "ragged", "one_us", 6, "us"),
        against_all(LAZY),
        against_all(MAPPED),
    ]


def epochs() -> list[Target]:
    what = "shuffled epoch, 0 workers, packed, *ragged*"
    found = [at_least(what, LAZY, "ragged", "epoch0_packed", 150_000, "rows/s")]
    for who in (MEMORY, MAPPED):
        found.append(at_least(what, who, "ragged", "epoch0_packed", 300_000, "rows/s"))
        for peer, goal in (("hf-arrow", 2.5), ("tensordict", 5), ("ready-tensors", 0.6)):
            found.append(times(what, who, "ragged", "epoch0_packed", goal, peer, "epoch0_list"))
    what = "the same, as a list of tensors"
    found.append(at_least(what, MEMORY, "ragged", "epoch0_list", 150_000, "rows/s"))
    return found


def workers() -> list[Target]:
    found = []
    what = "shuffled epoch, 2 workers, packed, *ragged*"
    for who in (LAZY, MAPPED, MEMORY):
        found.append(at_least(what, who, "ragged", "epoch2_packed", 60_000, "rows/s"))
        found.append(times(what, who, "ragged", "epoch2_packed", 3, "pyg", "epoch2_packed"))
        of_list = ("ready-tensors", "epoch2_list", "a list of tensors")
        found.append(times(what, who, "ragged", "epoch2_packed", 20, *of_list))
        found.append(at_least(f"{what} (wish)", who, "ragged", "epoch2_packed", 200_000, "rows/s"))
    for who in (LAZY, MAPPED, MEMORY):
        found.append(at_least("the same, as a list of tensors", who, "ragged", "epoch2_list", 50_000, "rows/s"))
    return found


def others() -> list[Target]:
    what = "*fixed*, shuffled epoch, 0 workers"
    tensor = ("one-tensor", "epoch0_list", "`X[rows]` of one tensor")
    found = [
        times(what, MEMORY, "fixed", "epoch0_packed", 0.9, *tensor),
        times(what, LAZY, "fixed", "epoch0_packed", 0.6, *tensor),
        times(what, MEMORY, "fixed", "epoch0_packed", 2, "tensordict", "epoch0_list"),
        times(what, LAZY, "fixed", "epoch0_packed", 2, "tensordict", "epoch0_list"),
    ]
    for who in (LAZY, MAPPED, MEMORY):
        found.append(times("sequential epoch, *ragged*", who, "ragged", "sequential", 1.2, "hf-arrow"))
    for workload in ("ragged", "graph"):
        what = f"compressed NPZ, 128 random rows, *{workload}*"
        found.append(times(what, "npz-kinoml-compressed", workload, "batch_ms", 4, "numpy-compressed"))
    for workload in ("ragged", "graph"):
        what = f"Parquet, decoded, shuffled epoch, *{workload}*"
        found.append(times(what, "parquet-awkward", workload, "epoch0_packed", 50, "awkward", "epoch0_list"))
    return found


def facts() -> list[Target]:
    def fact(what: str, who: str, said: str, goal: float, name: str, *measures: str) -> Target:
        if len(measures) == 1:
            return Target(what, who, said, goal, lambda found: found.one("limits", name, measures[0]))
        pair = (name, measures[0]), (name, measures[1])
        return Target(what, who, said, goal, lambda found: found.ratio("limits", *pair))

    kinoml, parquet = "KinoML's NPZ", "parquet-awkward"
    found = [
        fact("opening 20,001 members", kinoml, ">= {}x `np.load` and its keys", 3, "opening_members", *PAIR),
        fact("opening 1,000,001 members", kinoml, "<= {} s", 8, "opening_many_members", "ours_s"),
        fact("opening 1,000,000 rows", "flat NPZ", "<= {} ms", 50, "opening_flat", "ours_ms"),
        fact("opening", parquet, ">= {}x `ak.from_parquet`", 1, "opening_parquet", "awkward_ms", "ours_ms"),
        fact("index", kinoml, "<= {} bytes a member", 64, "opening_many_members", "held_bytes_per_member"),
        fact("growth of a worker over three epochs", LAZY, "<= {} MiB", 4, "worker_memory", "growth_mib"),
    ]
    what = "1,024 rows a batch, 4 workers, `ulimit -n 256`: rows that arrive"
    found += [fact(what, form, ">= {}", 20_000, "descriptors", f"rows_{form}") for form in ("list", "packed", "pad")]
    what = "random batches, 1,000,000 rows against 10,000"
    found += [
        fact(what, who, ">= {}x the rows/s", 0.8, "growth", f"{who}_many", f"{who}_fewer")
        for who in (LAZY, MAPPED, MEMORY)
    ]
    return found


PAIR = ("numpy_ms", "ours_ms")
TARGETS = [*batches(), *single_rows(), *epochs(), *workers(), *others(), *facts()]


def short(number: float) -> str:
    return f"{number:,.0f}" if abs(number) >= 1000 else f"{number:.3g}"


def table(found: Results) -> str:
    """All goals with what was measured, as Markdown."""
    lines = ["| what | who | goal | median | best | met |", "| --- | --- | --- | ---: | ---: | --- |"]
    for target in TARGETS:
        measured = target.value(found)
        goal = target.said.format(short(target.goal))
        shown = ("not measured", "", "") if measured is None else (short(measured.median), short(measured.best))
        met = "" if measured is None else ("yes" if target.met(measured) else "**no**")
        lines.append(f"| {target.what} | `{target.who}` | {goal} | {shown[0]} | {shown[1]} | {met} |")
    return "\n".join(lines)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--results", type=Path, default=FOLDER)
    print(table(Results(parser.parse_args().results)))


if __name__ == "__main__":
    main()
