"""Put what was measured into `docs/benchmarks.md` and draw its plots: `python -m benchmarks.report`."""

from __future__ import annotations

import argparse
import re
import statistics
from pathlib import Path
from typing import Any

from benchmarks import targets
from benchmarks.results import FOLDER, Results

DOCS = Path(__file__).parents[1] / "docs"
WORKLOADS = ("ragged", "graph", "fixed")
COLORS = {"ours": "#1f77b4", "peer": "#c8793a", "limit": "#999999"}
COLUMNS = {
    "open_ms": "opening, ms",
    "one_us": "one row, us",
    "batch_ms": "128 random rows, ms",
    "epoch0": "shuffled epoch, rows/s",
    "epoch0_list": "as a list",
    "epoch0_pad": "as `pad`",
    "first_epoch": "first epoch",
    "cold": "cold file",
    "epoch2": "with 2 workers",
    "epoch2_list": "as a list",
    "sequential": "in order",
}
PANELS = {
    "one_us": "one row, microseconds\n(less is better)",
    "batch_ms": "128 random rows, ms\n(less is better)",
    "epoch0": "shuffled epoch, rows/s\n(more is better)",
    "epoch2": "the same with 2 workers\n(more is better)",
}


def measure_of(result: dict[str, Any], column: str) -> str:
    """The measure behind a column: epochs are in the form that comes first, lists only where that is another."""
    if column in ("epoch0", "epoch2"):
        return f"{column}_{result['forms'][0]}" if "forms" in result else column
    if column.endswith("_list") and result.get("forms", ["list"])[0] == "list":
        return ""
    return column


def ordered(results: dict[str, Any]) -> list[tuple[str, dict[str, Any]]]:
    """Ours, then the limits, then the peers, the fastest epoch first; those that could not be used last."""

    def key(item: tuple[str, dict[str, Any]]) -> tuple[int, float]:
        found = item[1].get(measure_of(item[1], "epoch0"))
        return ["ours", "limit", "peer"].index(item[1]["kind"]), -statistics.median(found) if found else 0.0

    return sorted(results.items(), key=key)


def cell(found: list[float] | None) -> str:
    """`median (least to most)`."""
    if not found:
        return ""
    if len(found) == 1:
        return number(found[0])
    return f"{number(statistics.median(found))} ({number(min(found))} to {number(max(found))})"


def number(value: float) -> str:
    if value >= 9950:
        return f"{value / 1000:.0f}k"
    return f"{value:,.0f}" if value >= 100 else f"{value:.3g}"


def workload_table(results: dict[str, Any]) -> str:
    lines = [f"| | {' | '.join(COLUMNS.values())} |", f"| --- |{' ---: |' * len(COLUMNS)}"]
    for name, result in ordered(results):
        cells = [cell(result.get(measure_of(result, column))) for column in COLUMNS]
        bold = f"**{name}**" if result["kind"] == "ours" else name
        lines.append(f"| {bold} | {' | '.join(cells)} |")
    broken = [f"- `{name}`: {what}: {said}" for name, r in results.items() for what, said in r["errors"].items()]
    return "\n".join(lines + (["", "What failed:", "", *broken] if broken else []))


def who_table(found: Results) -> str:
    """Everybody, and how each is used."""
    notes: dict[str, tuple[str, str, int]] = {}
    for workload in WORKLOADS:
        for name, result in found.competitors(workload).items():
            notes[name] = result["kind"], result["note"], result.get("bytes", 0) if workload == "ragged" else 0
    lines = ["| | | how it is used |", "| --- | --- | --- |"]
    for kind in ("ours", "limit", "peer"):
        lines += [f"| `{name}` | {kind} | {note} |" for name, (k, note, _) in notes.items() if k == kind]
    return "\n".join(lines)


def checking_table(found: Results) -> str:
    """What checking costs: later epochs against the first one, and against never checking."""
    lines = ["| | first epoch, rows/s | later ones | `verify: never` |", "| --- | ---: | ---: | ---: |"]
    for workload in WORKLOADS:
        pairs = ((who, "epoch0_packed") for who in ("npz-lazy", "npz-lazy-unverified"))
        cells = [cell(found.samples(workload, *pair)) for pair in (("npz-lazy", "first_epoch"), *pairs)]
        lines.append(f"| *{workload}* | {' | '.join(cells)} |")
    return "\n".join(lines)


def facts_table(found: Results) -> str:
    lines = ["| | | median (least to most) |", "| --- | --- | ---: |"]
    for name, facts in found.held.get("limits", {}).items():
        lines += [f"| {name.replace('_', ' ')} | `{what}` | {cell(values)} |" for what, values in facts.items()]
    return "\n".join(lines)


def about(found: Results) -> str:
    held = next((found.held[name]["about"] for name in WORKLOADS if name in found.held), {})
    versions = ", ".join(f"{name} {version}" for name, version in held.get("versions", {}).items() if version)
    rounds = ", ".join(f"{found.held[name].get('rounds')} of *{name}*" for name in WORKLOADS if name in found.held)
    machine = f"{held.get('cpu')}, {held.get('cores')} cores, Python {held.get('python')}"
    return f"{machine}, {versions}. Rounds: {rounds}."


def plot(workload: str, results: dict[str, Any], path: Path) -> None:
    """Bars of medians on log axes with the range of all rounds; diamonds are lists of tensors."""
    import matplotlib as mpl

    mpl.use("Agg")
    from matplotlib import pyplot

    rows = [(name, result) for name, result in ordered(results) if len(result) > 4][::-1]
    figure, axes = pyplot.subplots(1, len(PANELS), figsize=(13, 1.2 + 0.27 * len(rows)), sharey=True)
    for axis, (column, title) in zip(axes, PANELS.items(), strict=True):
        found = [result.get(measure_of(result, column)) or [] for _, result in rows]
        known = [value for values in found for value in values]
        low = 10**-0.4 * min(known) if known else 1
        for place, ((_, result), values) in enumerate(zip(rows, found, strict=True)):
            if values:
                median = statistics.median(values)
                spread = [[median - min(values)], [max(values) - median]]
                axis.barh(place, median - low, left=low, color=COLORS[result["kind"]], height=0.7)
                axis.errorbar(median, place, xerr=spread, color="black", linewidth=0.8, capsize=2)
                axis.text(max(values) * 1.15, place, number(median), va="center", fontsize=7)
            listed = result.get(f"{column}_list") if measure_of(result, column).endswith("packed") else None
            if listed:
                axis.plot(statistics.median(listed), place, "D", color="white", markeredgecolor="black", markersize=4)
        axis.set_xscale("log")
        axis.set_xlim(low, (max(known) if known else 1) * 6)
        axis.set_title(title, fontsize=9)
        axis.grid(axis="x", which="major", alpha=0.3)
        axis.tick_params(labelsize=8)
        axis.spines[["top", "right"]].set_visible(False)
    axes[0].set_yticks(range(len(rows)), [name for name, _ in rows])
    for label, (_, result) in zip(axes[0].get_yticklabels(), rows, strict=True):
        label.set_color(COLORS[result["kind"]] if result["kind"] != "limit" else "#555555")
    figure.suptitle(f"{workload}: medians with the range of all rounds; diamonds: as a list of tensors", fontsize=10)
    figure.tight_layout()
    path.parent.mkdir(exist_ok=True)
    figure.savefig(path, dpi=100)
    pyplot.close(figure)


def parts(found: Results) -> dict[str, str]:
    """The generated parts of the page, by name."""
    made = {
        "about": about(found),
        "targets": targets.table(found),
        "who": who_table(found),
        "checking": checking_table(found),
        "facts": facts_table(found),
    }
    for workload in WORKLOADS:
        made[workload] = workload_table(found.competitors(workload))
    return made


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--results", type=Path, default=FOLDER)
    parser.add_argument("--docs", type=Path, default=DOCS)
    options = parser.parse_args()
    found = Results(options.results)
    page = options.docs / "benchmarks.md"
    text = page.read_text("utf-8")
    for name, part in parts(found).items():
        pattern = rf"(<!-- {name}: begin -->\n).*?(<!-- {name}: end -->)"
        text = re.sub(pattern, lambda match, part=part: f"{match[1]}{part}\n{match[2]}", text, flags=re.DOTALL)
    page.write_text(text, "utf-8")
    for workload in WORKLOADS:
        if workload in found.held:
            plot(workload, found.competitors(workload), options.docs / "img" / f"benchmark-{workload}.png")


if __name__ == "__main__":
    main()
