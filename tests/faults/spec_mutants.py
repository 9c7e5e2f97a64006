"""Specs in YAML, JSON and TOML, damaged as texts and as trees: a valid spec or a `SpecError`. Full size: 200,000."""

from __future__ import annotations

import copy
import multiprocessing
import random
import resource
import time
import traceback
from typing import Any

from kinoml_data import DatasetSpec
from kinoml_data.errors import SpecError
from kinoml_data.spec import config
from tests.faults import mutants
from tests.faults.report import Report

FULL = 200_000
MILLISECONDS = 50
MEBIBYTES = 32
LONGEST = 10_000  # characters of an error, which names up to 20 problems
SPECS: list[dict[str, Any]] = [
    {"storage": {"backend": "npz-lazy", "path": "a.npz"}},
    {
        "format": 1,
        "name": "kinases",
        "columns": {
            "atoms": {"dtype": "float32", "shape": ["*", 3]},
            "bits": {"dtype": "float32", "shape": [1024], "packbits": True, "stored_as": "fp"},
            "pIC50": {"dtype": "float32", "missing": "nan", "range": [0, 15]},
            "relation": {"dtype": "int64", "values": ["=", "<", ">"]},
            "descriptors": {"dtype": "float32", "stored_as": ["f0", "f1"], "cast": "exact"},
            "others": {"dtype": "float64", "stored_as": {"glob": "d*"}},
            "smiles": {"dtype": "str"},
        },
        "X": ["atoms", "bits", "descriptors", "others"],
        "y": "pIC50",
        "meta": ["smiles"],
        "storage": {"backend": "in-memory", "source": {"backend": "parquet-awkward", "path": "data/a.parquet"}},
        "splits": {"ratios": {"train": 0.8, "val": 0.1, "test": 0.1}, "seed": 42},
        "observation_model": {"name": "pIC50"},
        "collate": {"atoms": "pad"},
    },
    {
        "X": "X",
        "y": "y",
        "columns": {"X": {"shape": [53, "*"]}, "y": {}},
        "storage": {
            "backend": "featurize-on-access",
            "source": {"backend": "csv", "path": "m.csv", "delimiter": "\t", "header": False},
            "featurizer": [
                {"name": "one-hot-smiles", "inputs": ["smiles"], "outputs": {"one_hot": "X"}},
                "morgan-fingerprint",
            ],
            "memory_budget": 1000000,
        },
        "splits": {"train": {"rows": list(range(40))}, "test": {"file": "test.npy"}, "val": "idx_val"},
        "collate": {"X": {"form": "pad", "value": -1}},
    },
]
VALUES: list[Any] = [
    *(None, True, False, 0, -1, 1, 2**31, 2**63, 2**64, -(2**70), 1e308, 1e-3, 0.1, "", "*", "on", "1e-3", "\0"),
    *("a" * 5000, "\x1b[31m", "../../etc", "/dev/zero", "\u202e", [], {}, [[]], [None], {"": 1}, {"a": {"b": {}}}),
    *(
        ["*"] * 40,
        list(range(3000)),
        {str(n): n for n in range(500)},
        "ratios",
        {"backend": "npz-lazy"},
        [1, "a", None],
    ),
]

KEYS = ("", "x", "0", "backend", "path", "source", "a.b", "\u00e9", "rows", "ratios", "name")


def run(cases: int | None = None, seed: int = 0, jobs: int = 2, milliseconds: float = MILLISECONDS) -> Report:
    report = Report("specs", seed, FULL if cases is None else cases)
    start = time.perf_counter()
    parts = [range(job, report.claimed, jobs) for job in range(jobs)]
    with multiprocessing.get_context("fork").Pool(jobs) as pool:
        found = pool.starmap(_part, [(part, seed, milliseconds) for part in parts])
    report.executed = sum(executed for executed, _ in found)
    report.problems = [problem for _, problems in found for problem in problems]
    report.seconds = time.perf_counter() - start
    return report


def _part(part: range, seed: int, milliseconds: float) -> tuple[int, list[str]]:
    problems: list[str] = []
    for number in range(-len(SPECS) * 3, 0):  # what is imported or grows once
        _outcome(*_texts()[number], milliseconds)
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    executed = 0
    for number in part:
        data, suffix, how = _mutant(random.Random(seed << 40 | number))
        problem = _outcome(data, suffix, milliseconds)
        if problem is not None and len(problems) < mutants.SHOWN:
            problems.append(f"case {number}: {suffix}, {how}: {problem}")
        executed += 1
    grown = (resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before) / 1024
    if grown > MEBIBYTES:  # so no single case took more
        problems.append(f"memory grew by {grown:.0f} MiB")
    return executed, problems


def _texts() -> list[tuple[bytes, str]]:
    suffixes = (".yaml", ".json", ".toml")
    return [(config.dump(spec, suffix).encode(), suffix) for spec in SPECS for suffix in suffixes]


TEXTS = _texts()


def _mutant(rng: random.Random) -> tuple[bytes, str, str]:
    if rng.random() < 0.5:
        data, suffix = rng.choice(TEXTS)
        data, how = mutants.damaged(data, rng.choice(TEXTS)[0], rng)
        return data, suffix, how
    tree, suffix = copy.deepcopy(rng.choice(SPECS)), rng.choice((".yaml", ".json", ".toml"))
    how = "; ".join(_changed(tree, rng) for _ in range(rng.choice((1, 1, 2, 4))))
    try:
        return config.dump(tree, suffix).encode("utf-8", "surrogatepass"), suffix, how
    except Exception:  # this format cannot say it
        return config.dump(tree, ".json").encode(), ".json", how


def _changed(tree: dict[str, Any], rng: random.Random) -> str:
    """Put another value, or another key, somewhere into the tree."""
    places: list[tuple[Any, Any]] = []
    stack: list[Any] = [tree]
    while stack:
        inner = stack.pop()
        for key in list(inner) if isinstance(inner, dict) else range(len(inner)):
            places.append((inner, key))
            if isinstance(inner[key], (dict, list)):
                stack.append(inner[key])
    if not places:
        return "nothing left"
    inner, key = rng.choice(places)
    kind = rng.choice(("value", "value", "missing", "key", "moved"))
    if kind == "value":
        inner[key] = copy.deepcopy(rng.choice(VALUES))
    elif kind == "missing":
        del inner[key]
    elif kind == "key" and isinstance(inner, dict):
        inner[rng.choice(("", "x", "0", "backend", "path", "source", "a.b", "é", "rows", "ratios", "name"))] = (
            inner.pop(key)
        )
    else:
        other, there = rng.choice(places)
        if isinstance(other, dict) or there < len(other):
            try:
                other[there] = copy.deepcopy(inner[key])
            except (KeyError, IndexError):
                return "nothing moved"
    return f"{kind} at {key!r}"


def _outcome(data: bytes, suffix: str, milliseconds: float) -> str | None:
    took = []
    for _ in range(3):  # what else the machine does is no fault of the text
        start = time.process_time()
        try:
            DatasetSpec.parse(config.parse(data, suffix))
        except SpecError as error:
            text = str(error)
            if len(text) > LONGEST or any(ord(c) < 32 and c != "\n" for c in text):
                return f"its error is not fit to be shown: {text[:100]!r}, {len(text)} characters"
        except BaseException:
            return traceback.format_exc(limit=-3)
        took.append(1000 * (time.process_time() - start))
        if took[-1] <= milliseconds:
            return None
    return f"it took {min(took):.0f} ms"
