"""Which rows a report reads."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

import kinoml_data as kd
from kinoml_data.dataset import description
from kinoml_data.dataset.description import is_computed
from kinoml_data.report import contents
from kinoml_data.report.contents import ALL, REST, content_of, groups_of, spread
from tests.report.pages import contents_of, mixed


@pytest.mark.parametrize(
    ("length", "count", "numbers"),
    [(5, 9, [0, 1, 2, 3, 4]), (9, 3, [0, 4, 8]), (7, 1, [0]), (7, 0, []), (0, 3, [])],
)
def test_rows_of_a_sample_are_different_and_spread_evenly(length: int, count: int, numbers: list[int]) -> None:
    assert spread(length, count).tolist() == numbers


def test_no_row_of_a_sample_occurs_twice() -> None:
    for length in range(1, 200):
        for count in (2, length // 3, length - 1, length):
            assert len(set(spread(length, count).tolist())) == min(count, length)


def test_the_groups_are_the_splits_and_the_rest() -> None:
    dataset = mixed(splits={"train": {"rows": [4, 1]}, "test": {"rows": [0]}})
    groups = {group.name: np.flatnonzero(group.mask).tolist() for group in groups_of(dataset)}
    assert groups == {"train": [1, 4], "test": [0], REST: [2, 3, 5]}
    assert len({group.color for group in groups_of(dataset)}) == 3
    assert [group.name for group in groups_of(mixed(splits={}))] == [ALL]


def test_numbers_are_those_of_the_rows_in_the_mask() -> None:
    read = contents_of(mixed())
    mask = np.array([False, True, True, False, False, True])
    assert read["value"].numbers(mask).tolist()[::2] == [6, 9] and np.isnan(read["value"].numbers(mask)[1])
    assert len(read["atoms"].numbers(mask)) == (2 + 3 + 10) * 2
    assert read["id"].texts == ["a", "b", "c", "d", "e", "e"]


def test_a_view_reads_its_own_rows() -> None:
    view = mixed().select([5, 0])
    assert contents_of(view)["value"].numbers(np.array([True, True])).tolist() == [9, 5]


def test_a_large_column_is_read_as_a_sample(monkeypatch: pytest.MonkeyPatch) -> None:
    dataset = mixed()
    assert contents_of(dataset, 3)["value"].positions.tolist() == [0, 1, 2, 3, 4, 5]
    monkeypatch.setattr(contents, "LIMIT", 20)
    assert contents_of(dataset, 3)["value"].positions.tolist() == [0, 2, 5]


def test_a_computed_column_is_read_as_a_sample_unless_splits_need_it(tmp_path: Path) -> None:
    def shout(text: str) -> tuple[str]:
        return (text.upper(),)

    (tmp_path / "t.csv").write_text("x,text\n1,a\n2,b\n3,c\n4,d\n")
    featurizer = {"inputs": ["text"], "outputs": {"loud": {"dtype": "str"}}}
    storage = {
        "backend": "featurize-on-access",
        "source": {"backend": "csv", "path": "t.csv"},
        "featurizer": featurizer,
    }
    spec = {"X": "x", "meta": ["text", "loud"], "storage": storage}
    by = {"splits": {"ratios": {"train": 0.5, "test": 0.5}, "by": "loud", "seed": 0}}
    for extra, rows in (({}, 2), (by, 4)):
        with kd.load_dataset(spec | extra, base=tmp_path, featurizer=shout) as dataset:
            assert is_computed(dataset, "loud") and not is_computed(dataset, "text")
            facts = {column.name: column for column in description.columns(dataset, 2)}
            assert len(content_of(dataset, facts["loud"], 2).texts) == rows
            assert content_of(dataset, facts["text"], 2).texts == ["a", "b", "c", "d"]


def test_a_column_that_cannot_be_read_has_a_problem(tmp_path: Path) -> None:
    np.savez(tmp_path / "t.npz", X=np.zeros(3), y=np.array([1.0, 99.0, 2.0]))
    spec = {"columns": {"y": {"range": [0, 10]}, "X": {}}, "X": "X", "y": "y"}
    with kd.load_dataset(spec | {"storage": {"backend": "npz-lazy", "path": str(tmp_path / "t.npz")}}) as dataset:
        read = contents_of(dataset)
    assert read["y"].column is None and "row 1" in read["y"].problem and "99" in read["y"].problem
    assert read["X"].column is not None and not read["X"].problem
