"""What holds for all splits of any table: in another process, in another order, after a copy, and with more rows."""

from __future__ import annotations

import csv
import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

import kinoml_data as kd
from kinoml_data.errors import SplitError
from kinoml_data.testing.dataset_tests import SPLITS

ROOT = Path(__file__).parents[2]
SHARES = [
    {"ratios": {"train": 0.7, "val": 0.1, "test": 0.2}},
    {"ratios": {"train": 1.0}},
    {"folds": 3},
    {"folds": 2, "ratios": {"test": 0.3}},
]
DIVIDED_BY = [
    {},
    *({"by": by} for by in ("ligand", "kinase", "logp", "pose", ["ligand", "kinase"], ["pose", "logp", "ligand"])),
    *({"order": order} for order in ("ligand", "kinase", "id")),
]
LABELS = [None, {"column": "subset"}, {"file": "labels.csv", "id": "id"}, {"file": "labels.csv", "id": "number"}]
COLUMNS = {
    "X": {"dtype": "float64"},
    "ligand": {"dtype": "str"},
    "kinase": {"dtype": "int64"},
    "logp": {"dtype": "float32"},
    "pose": {"dtype": "float32", "shape": [None, 2]},
    "id": {"dtype": "str"},
    "number": {"dtype": "int32"},
    "subset": {"dtype": "str"},
}
Table = dict[str, list[Any]]


def row_of(number: int, ligand: str, kinase: int, logp: float, subset: str) -> dict[str, Any]:
    pose = np.full((abs(kinase) % 3, 2), kinase, np.float32)
    values = {"X": float(number), "ligand": ligand, "kinase": kinase, "logp": logp, "pose": pose}
    return values | {"id": f"id{number}", "number": number, "subset": subset}


def table_of(rows: list[dict[str, Any]]) -> Table:
    return {name: [row[name] for row in rows] for name in COLUMNS}


PARTS = st.tuples(
    st.sampled_from(["C", "CC", "", "c1ccccc1", "C\N{GREEK SMALL LETTER ALPHA}", "C" * 70]),
    st.integers(-3, 3),
    st.sampled_from([0.5, 1e-7, 3e30, 0.0, -0.0, np.nan, -np.nan]),
    st.sampled_from(["train", "test", "", "held out"]),
)
ROWS = st.lists(PARTS, min_size=1, max_size=30).map(lambda parts: [row_of(i, *p) for i, p in enumerate(parts)])


def divided(by: list[dict[str, Any]], labels: list[Any]) -> st.SearchStrategy[dict[str, Any]]:
    """Splits into which rows are divided in one of these ways, apart from those that have one of these labels."""
    return st.builds(
        lambda shares, by, labels, seed: (
            {**shares, **by, "seed": seed} | ({} if labels is None else {"labels": labels})
        ),
        *map(st.sampled_from, (SHARES, by, labels)),
        st.integers(0, 3),
    )


ANY = divided(DIVIDED_BY, LABELS)
LABELLED = st.sampled_from(LABELS[1:]).map(lambda labels: {"labels": labels})


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with a table of labels that lacks one row and contains rows that no table has."""
    path = tmp_path_factory.mktemp("splits")
    lines = [[f"id{number}", number, ("test", "train", "")[number % 3]] for number in (0, *range(2, 99))]
    with (path / "labels.csv").open("w", newline="") as file:
        csv.writer(file).writerows([["id", "number", "split"], *lines])
    return path


def load(rows: list[dict[str, Any]], splits: Any, folder: Path) -> kd.XyDataset:
    spec = {"columns": COLUMNS, "X": "X", "meta": [name for name in COLUMNS if name != "X"], "splits": splits}
    return kd.load_dataset(spec | {"storage": {"backend": "in-memory"}}, data=table_of(rows), base=folder)


def load_or_refuse(rows: list[dict[str, Any]], splits: Any, folder: Path) -> kd.XyDataset | None:
    """The dataset; None if labels that are given break what `by` promises."""
    try:
        return load(rows, splits, folder)
    except SplitError as error:
        assert "labels" in splits and "by" in splits and "share" in str(error)
        return None


def rows_by_split(dataset: kd.XyDataset) -> dict[str, list[int]]:
    return {name: positions.tolist() for name, positions in dataset.indices.items()}


def as_text(value: Any) -> str:
    """The same text for equal values: for 0.0 and -0.0, and for every NaN."""
    return value if isinstance(value, str) else str((np.asarray(value) + 0).tolist())


def label_of_each_id(dataset: kd.XyDataset) -> dict[str, str]:
    ids = dataset.column("id")
    return {ids[row]: name for name, rows in rows_by_split(dataset).items() for row in rows}


# -- one dataset


@given(rows=ROWS, splits=ANY)
def test_no_row_is_in_two_splits_and_all_are_counted(folder: Path, rows: list[Any], splits: Any) -> None:
    dataset = load_or_refuse(rows, splits, folder)
    if dataset is None:
        return
    split_of = label_of_each_id(dataset)
    check = dataset.check_splits()
    assert sum(check.sizes.values()) == len(split_of) and check.in_no_split == len(rows) - len(split_of)
    assert check.in_no_split == 0 or isinstance(splits.get("by"), list)
    by = splits.get("by", [])
    columns = [by] if isinstance(by, str) else by
    for name in columns:
        values = [{as_text(rows[row][name]) for row in positions} for positions in dataset.indices.values()]
        assert sum(map(len, values)) == len(set().union(*values))
    assert not [shared for shared in check.shared if shared.column in columns]


@given(rows=ROWS, splits=ANY, data=st.data())
def test_the_splits_and_folds_of_a_view_are_those_of_its_rows(
    folder: Path, rows: list[Any], splits: Any, data: st.DataObject
) -> None:
    dataset = load_or_refuse(rows, splits, folder)
    if dataset is None:
        return
    chosen = data.draw(st.lists(st.integers(0, len(rows) - 1), max_size=12))
    view, split_of = dataset.select(chosen), label_of_each_id(dataset)
    labels = [split_of.get(f"id{row}") for row in chosen]
    for name in dataset.indices:
        rows_of_split = [row for row, label in zip(chosen, labels, strict=True) if label == name]
        assert view.split(name).rows.tolist() == view.rows[view.indices[name]].tolist() == rows_of_split
        assert dataset.split(name).select(slice(1, None)).rows.tolist() == dataset.split(name).rows[1:].tolist()
    for number in range(splits.get("folds", 0)):
        parts = view.fold(number)
        for part, names in {
            "val": [f"fold{number}"],
            "train": [f"fold{other}" for other in range(splits["folds"]) if other != number],
            "test": ["test"],
        }.items():
            rows_of_part = [row for row, label in zip(chosen, labels, strict=True) if label in names]
            assert (parts[part].rows.tolist() if part in parts else []) == rows_of_part
    assert {name: len(view.split(name)) for name in view.indices} == view.check_splits().sizes


# -- the same splits


@given(rows=ROWS, splits=divided(DIVIDED_BY[1:], LABELS) | LABELLED, data=st.data())
def test_labels_do_not_depend_on_the_order_of_the_rows(
    folder: Path, rows: list[Any], splits: Any, data: st.DataObject
) -> None:
    dataset = load_or_refuse(rows, splits, folder)
    shuffled = data.draw(st.permutations(rows))
    again = load_or_refuse(shuffled, splits, folder)
    assert (dataset is None) == (again is None)
    if dataset is not None and again is not None:
        assert label_of_each_id(again) == label_of_each_id(dataset)


@given(rows=ROWS, more=ROWS, splits=divided(DIVIDED_BY, LABELS[1:]) | LABELLED, data=st.data())
def test_labels_by_id_are_unchanged_if_rows_are_added(
    folder: Path, rows: list[Any], more: list[Any], splits: Any, data: st.DataObject
) -> None:
    dataset = load_or_refuse(rows, splits, folder)
    added = [
        row_of(len(rows) + i, *(row[name] for name in ("ligand", "kinase", "logp", "subset")))
        for i, row in enumerate(more)
    ]
    again = load_or_refuse(data.draw(st.permutations([*rows, *added])), splits, folder)
    if dataset is None or again is None:
        return
    before, after = label_of_each_id(dataset), label_of_each_id(again)
    if {"folds", "ratios"} & splits.keys():  # the rows that are divided may move
        given = {row["id"]: row["subset"] for row in rows}
        if "file" in splits["labels"]:
            with (folder / "labels.csv").open() as file:
                given = {line["id"]: line["split"] for line in csv.DictReader(file)}
        before = {name: label for name, label in before.items() if given.get(name, "") not in ("", "train")}
    assert {name: after[name] for name in before} == before


@pytest.mark.parametrize("suffix", [".npz", ".parquet"])
@given(rows=ROWS, splits=ANY | LABELLED, data=st.data())
def test_a_copy_has_the_same_splits(
    tmp_path_factory: pytest.TempPathFactory,
    folder: Path,
    suffix: str,
    rows: list[Any],
    splits: Any,
    data: st.DataObject,
) -> None:
    dataset = load_or_refuse(rows, splits, folder)
    if dataset is None:
        return
    if data.draw(st.booleans(), label="a view"):
        dataset = dataset.select(data.draw(st.lists(st.integers(0, len(rows) - 1), min_size=1, max_size=12)))
    path = tmp_path_factory.mktemp("copy") / f"copy{suffix}"
    kd.save_dataset(dataset, path)
    with kd.load_dataset(path) as copy:
        assert rows_by_split(copy) == rows_by_split(dataset) and copy.fingerprint() == dataset.fingerprint()
        kd.save_dataset(copy, path.with_name("again.npz"))
    with kd.load_dataset(path.with_name("again.npz")) as again:
        assert rows_by_split(again) == rows_by_split(dataset) and again.fingerprint() == dataset.fingerprint()


def splits_of_an_example() -> dict[str, Any]:
    """The rows of every split of the conformance suite, and the fingerprint."""
    from kinoml_data.testing.examples import labelled

    example, found = labelled(), {}
    for name, splits in SPLITS.items():
        spec = {"columns": dict(example.columns), "X": example.numeric, "meta": example.strings, "splits": splits}
        dataset = kd.load_dataset(spec | {"storage": {"backend": "in-memory"}}, data=dict(example.rows))
        found[name] = [rows_by_split(dataset), dataset.fingerprint()]
    return found


def test_another_process_finds_the_same_splits() -> None:
    program = "import json, tests.dataset.test_split_properties as t; print(json.dumps(t.splits_of_an_example()))"
    paths = os.pathsep.join([str(ROOT), os.environ.get("PYTHONPATH", "")])
    for seed in ("1", "2"):
        environment = {**os.environ, "PYTHONHASHSEED": seed, "PYTHONPATH": paths}
        run = subprocess.run(
            [sys.executable, "-c", program], capture_output=True, text=True, env=environment, cwd=ROOT, check=True
        )
        assert json.loads(run.stdout) == splits_of_an_example()
