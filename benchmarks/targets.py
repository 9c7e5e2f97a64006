"""The goals, as data, and whether the last run of the benchmarks met them: `python -m benchmarks.targets`."""

from __future__ import annotations

import argparse
from dataclasses import dataclass
from pathlib import Path

from benchmarks.results import FOLDER, Measured, Results, Value, least

MAPPED, MEMORY, LAZY = "npz-lazy-mmap", "in-memory", "npz-lazy"
MEMBERS, COMPRESSED = "npz-kinoml", "npz-kinoml-compressed"
RAGGED = ("ragged", "graph")


@dataclass(frozen=True)
class Target:
    """One goal.

    Attributes:
        what: the situation.
        who: what is to be that fast or small.
        said: the bound in words, ">= {}x tensordict".
        goal: the bound, which takes the place of "{}"; None if the number is only reported.
        value: the measured number.
    """

    what: str
    who: str
    said: str
    goal: float | None
    value: Value

    def met(self, measured: Measured) -> bool | None:
        if self.goal is None:
            return None
        return measured.median <= self.goal if self.said.startswith("<=") else measured.median >= self.goal


def times(
    what: str, who: str, workload: str, measure: str, goal: float | None, peer: str, of_peer: str = "", words: str = ""
) -> Target:
    """The goal that `who` is at least `goal` times as fast as a peer."""
    said = f">= {{}}x {words or peer}" if goal is not None else f"reported, as a multiple of {words or peer}"
    title = f"{what}, *{workload}*"
    return Target(title, who, said, goal, lambda found: found.faster(workload, who, peer, measure, of_peer))


def against_all(what: str, who: str, workload: str, measure: str, goal: float) -> Target:
    """The goal that `who` is at least `goal` times as fast as every peer that reads files."""

    def value(found: Results) -> Measured | None:
        peers = [n for n, r in found.competitors(workload).items() if r["kind"] == "peer" and r.get("on_disk")]
        return least([found.faster(workload, who, peer, measure) for peer in peers])

    return Target(f"{what}, *{workload}*", who, ">= {}x every disk-backed peer", goal, value)


def longer(what: str, who: str, workload: str, measure: str, goal: float, peer: str, words: str) -> Target:
    """The goal that `who` takes at most `goal` times as long as another competitor."""
    title, said = f"{what}, *{workload}*", f"<= {{}}x {words}"
    return Target(title, who, said, goal, lambda found: found.ratio(workload, (who, measure), (peer, measure)))


def batches() -> list[Target]:
    found = []
    what = "128 random rows, packed"
    for workload, goal in (("ragged", 1.5), ("graph", 2.5)):
        for who in (MEMORY, MAPPED):
            found.append(longer(what, who, workload, "batch_ms", goal, "memcpy", "memcpy out of cache"))
            found.append(against_all(what, who, workload, "batch_ms", 8))
        found.append(times(what, LAZY, workload, "batch_ms", 5, "tensordict"))
        found.append(times(what, LAZY, workload, "batch_ms", 30, "numpy-lazy", words="lazy `np.load`"))
    found.append(times("128 random rows", LAZY, "fixed", "batch_ms", 1, "tensordict"))
    return found


def single_rows() -> list[Target]:
    what = "one `ds[i]`"
    found = [against_all(what, who, name, "one_us", 1) for name in RAGGED for who in (LAZY, MAPPED, MEMORY)]
    preloaded = ("numpy-preload", "preloaded arrays")
    return found + [longer(what, MEMORY, name, "one_us", 1.8, *preloaded) for name in RAGGED]


def epochs() -> list[Target]:
    ready = ("ready-tensors", "epoch0_list", "a `DataLoader` over ready-made tensors")
    packed = ("epoch0_packed", "packed")
    found = []
    for workload, goal in (("ragged", 1), ("graph", 0.8), ("fixed", 0.8)):
        found.append(times("shuffled epoch, packed", MEMORY, workload, "epoch0_packed", goal, *ready))
    for workload in RAGGED:
        preloaded = ("numpy-preload", "epoch0_list", "preloaded arrays")
        found.append(times("shuffled epoch as a list", MEMORY, workload, "epoch0_list", 1.1, *preloaded))
        found.append(times("shuffled epoch as `pad`", MEMORY, workload, "epoch0_pad", 0.5, MEMORY, *packed))
    for who, goal, workloads in ((LAZY, 0.8, (*RAGGED, "fixed")), (MEMBERS, 0.6, RAGGED)):
        later = (who, "epoch0_packed", "later epochs")
        found += [times("first epoch", who, workload, "first_epoch", goal, *later) for workload in workloads]
    for workload in (*RAGGED, "fixed"):
        warm = (LAZY, "epoch0_packed", "the same file in the page cache")
        found.append(times("cold file, shuffled", LAZY, workload, "cold", None, *warm))
    found.append(times("shuffled epoch", LAZY, "fixed", "epoch0_packed", 1, "tensordict", "epoch0_list"))
    return found


def workers() -> list[Target]:
    found = []
    what = "shuffled epoch, 2 workers, packed"
    for who in (LAZY, COMPRESSED):
        none = (who, "beside2_packed", "0 workers")
        found += [times(what, who, workload, "epoch2_packed", 1.2, *none) for workload in RAGGED]

    def worst(found: Results) -> Measured | None:
        pairs = [(workload, who) for workload in (*RAGGED, "fixed") for who in found.competitors(workload)]
        return least([found.faster(name, who, who, "epoch2_packed", "beside2_packed") for name, who in pairs])

    return [*found, Target(what, "the slowest of ours", ">= {}x 0 workers", 0.6, worst)]


def facts() -> list[Target]:
    def fact(what: str, who: str, said: str, goal: float, name: str, above: str, below: str = "") -> Target:
        if not below:
            return Target(what, who, said, goal, lambda found: found.one("limits", name, above))
        return Target(what, who, said, goal, lambda found: found.ratio("limits", (name, above), (name, below)))

    kinoml, parquet, many = "KinoML's NPZ", "parquet-awkward", "10,000,000 rows with named splits"
    opening = (">= {}x `np.load` and its keys", 2, "opening_members", "numpy_ms", "ours_ms")
    decoded = (">= {}x `ak.from_parquet`", 1.2, "opening_parquet", "awkward_ms", "ours_ms")
    apart = ("featurizing", "workers_2", "workers_0")
    over, name = "Parquet over its budget", "parquet_over_budget"
    return [
        fact("opening 20,001 members", kinoml, *opening),
        fact("opening", parquet, *decoded),
        fact("featurizing, 2 workers", "featurize-on-access", ">= {}x 0 workers", 1.2, *apart),
        fact(f"{over}, shuffled epoch", "parquet", ">= {}x in order", 0.5, name, "shuffled", "in_order"),
        fact(f"{over}, memory", "parquet", "<= {}x the budget", 2, name, "budgets"),
        fact(f"opening {many}", LAZY, "<= {}x without", 2, "ten_million_rows", "files_ms", "without_ms"),
        fact(f"a forked worker of {many}", LAZY, "<= {} bytes a row", 10, "ten_million_rows", "fork_bytes_per_row"),
        fact(f"a spawned worker of {many}", LAZY, "<= {} bytes a row", 10, "ten_million_rows", "spawn_bytes_per_row"),
    ]


def panel() -> list[Target]:
    """Measurements that share ligands and kinases."""
    dense, found = "dense `pad`", []
    for batch_size in (256, 1024, 4096):
        what, measure = f"shuffled epoch, batches of {batch_size:,}", f"loader_{batch_size}"
        found.append(times(what, "pad", "panel", measure, 1, "before", words="`joined` without keys"))
    for measure, what, goals in (
        ("loader", "shuffled epoch", (1.1, 2, 6)),
        ("training", "epoch of training", (1.2, 2.5, 8)),
    ):
        for batch_size, goal in zip((256, 1024, 4096), goals, strict=True):
            title = f"{what}, batches of {batch_size:,}"
            found.append(times(title, "unique", "panel", f"{measure}_{batch_size}", goal, "pad", words=dense))
    for name, who in (("pad", "joined"), ("one-file", "npz-lazy")):
        for measure, what in (("bytes", "size on disk"), ("memory_bytes", "size in memory")):
            sizes = (name, measure), ("dense-float64", "bytes")
            title, said = f"{what}, *panel*", "<= {}x dense float64"
            found.append(Target(title, who, said, 1 / 500, lambda found, sizes=sizes: found.ratio("panel", *sizes)))
    opening = "opening, *panel* in one file", "npz-lazy", "<= {} s", 0.3
    return [*found, Target(*opening, lambda found: found.one("panel", "one-file", "opening_s"))]


TARGETS = [*batches(), *single_rows(), *epochs(), *workers(), *panel(), *facts()]


def short(number: float) -> str:
    return f"{number:,.0f}" if abs(number) >= 1000 else f"{number:.3g}"


def table(found: Results) -> str:
    """All goals with what was measured, as Markdown."""
    lines = ["| what | who | goal | median | best | met |", "| --- | --- | --- | ---: | ---: | --- |"]
    for target in TARGETS:
        measured = target.value(found)
        goal = target.said if target.goal is None else target.said.format(short(target.goal))
        shown = ("not measured", "", "") if measured is None else (short(measured.median), short(measured.best))
        met = "" if measured is None else {None: "", True: "yes", False: "**no**"}[target.met(measured)]
        lines.append(f"| {target.what} | `{target.who}` | {goal} | {shown[0]} | {shown[1]} | {met} |")
    return "\n".join(lines)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--results", type=Path, default=FOLDER)
    print(table(Results(parser.parse_args().results)))


if __name__ == "__main__":
    main()
