"""`XyDataset`: splits and selections as views, their rows and indices, and what they pickle."""

import pickle

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

import kinoml_data as kd
from kinoml_data.errors import SplitError
from tests.dataset.rows import N, as_lists, load

SPLITS = {"train": {"rows": [12, 3, 7, 0]}, "val": {"range": [14, 17]}, "test": {"rows": [19]}}


@pytest.fixture
def dataset():
    return load(SPLITS)


def values(ds):
    return (ds[:][0] / 10).tolist()


def test_a_split_is_a_view_of_its_rows_in_their_order(dataset):
    view = dataset.split("train")
    assert type(view) is type(dataset) and len(view) == 4
    assert view.rows.tolist() == [12, 3, 7, 0] == values(view)
    assert [view[i][0].item() / 10 for i in range(4)] == [12, 3, 7, 0]
    assert [X.item() / 10 for X, _ in view] == [12, 3, 7, 0]
    assert view[-1][0].item() == 0 and view[[2, 0]][0].tolist() == [70, 120]


def test_an_unknown_split_is_an_error_that_suggests_one(dataset):
    with pytest.raises(SplitError, match="unknown split 'trian'; did you mean 'train'"):
        dataset.split("trian")
    with pytest.raises(SplitError, match="known: train, val, test"):
        load(SPLITS, split="holdout")
    with pytest.raises(SplitError, match="the dataset has no splits"):
        load({}).split("train")
    with pytest.raises(SplitError, match=r"unknown split 'val'; .*`dataset\.fold\(0\)\['val'\]` is that of fold 0"):
        load({"folds": 2}).split("val")


def test_an_unknown_split_is_told_of_those_in_the_store(tmp_path):
    np.savez(tmp_path / "a.npz", X=np.ones((3, 2), "f4"), idx_train=[0], idx_test=[1])
    storage = {"backend": "npz-lazy", "path": str(tmp_path / "a.npz")}
    spec = {"columns": {"X": {"shape": [2], "dtype": "float32"}}, "X": "X", "storage": storage}
    with pytest.raises(
        SplitError,
        match=r"has no splits\. The store contains 'idx_train', 'idx_test'; name these in `splits` of the spec",
    ):
        kd.load_dataset(spec).split("train")


def test_rows_are_the_row_numbers_in_the_store(dataset):
    assert dataset.rows.tolist() == list(range(N)) and dataset.rows.dtype == np.int64
    assert dataset.select([5, 5, -1]).rows.tolist() == [5, 5, N - 1]
    assert dataset.select(slice(None, None, -1)).rows.tolist() == list(range(N))[::-1]
    assert dataset.select([]).rows.tolist() == []


def test_indices_are_positions_in_the_dataset_at_hand(dataset):
    assert as_lists(dataset.indices) == {"train": [12, 3, 7, 0], "val": [14, 15, 16], "test": [19]}
    view = dataset.select([19, 0, 5, 14, 12])
    assert as_lists(view.indices) == {"train": [1, 4], "val": [3], "test": [0]}
    for name, positions in view.indices.items():
        assert positions.dtype == np.int64
        assert set(view.rows[positions]) == set(dataset.indices[name]) & set(view.rows)
    assert as_lists(dataset.split("val").indices) == {"train": [], "val": [0, 1, 2], "test": []}
    assert load({}).indices == {} == load({}).select([1]).indices


def test_changing_the_rows_and_indices_that_a_dataset_returns_does_not_change_the_dataset(dataset):
    dataset.indices["train"][:] = 0
    dataset.rows[:] = 0
    view = dataset.split("train")
    view.rows[:] = 0
    view.indices["train"][:] = 9
    assert as_lists(dataset.indices)["train"] == [12, 3, 7, 0] and view.rows.tolist() == [12, 3, 7, 0]


def test_a_view_of_a_view_has_the_rows_of_both_steps(dataset):
    train = dataset.split("train")
    assert train.select([1, 3]).rows.tolist() == [3, 0] == values(train.select([1, 3]))
    assert train.select([3, 3, 0]).select([-1, 0]).rows.tolist() == [12, 0]
    chosen = dataset.select([0, 14, 3, 3, 9])
    assert chosen.split("train").rows.tolist() == [0, 3, 3] == values(chosen.split("train"))
    assert chosen.split("val").rows.tolist() == [14]
    assert chosen.split("test").rows.tolist() == []
    assert train.split("train").rows.tolist() == [12, 3, 7, 0]
    assert train.split("test").rows.tolist() == [] and len(train.split("test")) == 0
    assert dataset.select(slice(10, None)).select(np.arange(10) % 2 == 0).rows.tolist() == [10, 12, 14, 16, 18]
    assert dataset.select(torch.tensor([4, 2])).rows.tolist() == [4, 2]


def test_a_view_of_a_view_out_of_range_is_an_index_error(dataset):
    with pytest.raises(kd.errors.SampleIndexError, match="out of range for 4 rows"):
        dataset.split("train").select([4])
    with pytest.raises(kd.errors.SampleIndexError, match="out of range for 1 rows"):
        dataset.split("test")[1]


def test_the_rows_given_to_select_may_change_afterwards(dataset):
    rows = np.array([4, 2])
    view = dataset.select(rows)
    rows[:] = 0
    assert view.rows.tolist() == [4, 2] == values(view)


def test_a_view_has_the_spec_and_the_columns_of_its_rows(dataset):
    view = dataset.select([2, 1])
    assert view.spec == dataset.spec
    assert view.column("x").tolist() == [20, 10]
    assert view.shape_X == (2,) and dataset.shape_X == (N,)


@pytest.mark.parametrize("make", [lambda d: d, lambda d: d.split("train"), lambda d: d.select([1, 4]).split("train")])
def test_a_view_pickles_with_its_rows(dataset, make):
    view = make(dataset)
    again = pickle.loads(pickle.dumps(view))
    assert again.rows.tolist() == view.rows.tolist() and values(again) == values(view)
    assert as_lists(again.indices) == as_lists(view.indices)


def test_a_named_split_of_many_rows_pickles_small(tmp_path):
    np.savez(tmp_path / "x.npz", X=np.zeros(300_000, np.float32), idx_train=np.arange(250_000))
    with kd.load_dataset(tmp_path / "x.npz") as dataset:
        assert len(pickle.dumps(dataset)) < 1 << 16
        view = dataset.split("train")
        data = pickle.dumps(view)
        assert len(data) < 1 << 16
        again = pickle.loads(data)
        assert again.rows[-1] == 249_999 and len(again) == 250_000
        again.close()
        ratios = kd.load_dataset(
            {"X": "X", "splits": {"ratios": {"a": 0.9, "b": 0.1}}, "storage": {"backend": "npz-lazy", "path": "x.npz"}},
            base=tmp_path,
        )
        assert len(pickle.dumps(ratios.split("a"))) < 1 << 16
        assert pickle.loads(pickle.dumps(ratios.split("a"))).rows.tolist() == ratios.split("a").rows.tolist()


@given(st.lists(st.sampled_from(["a", "b", None]), max_size=12), st.data())
def test_a_view_holds_the_rows_of_a_split_that_it_has(owners, data):
    rows = {name: [i for i, owner in enumerate(owners) if owner == name] for name in "ab"}
    dataset = kd.from_arrays(np.arange(len(owners)), splits=rows)
    chosen = data.draw(st.lists(st.integers(0, len(owners) - 1), max_size=10) if owners else st.just([]))
    view = dataset.select(chosen)
    for name in "ab":
        assert view.split(name).rows.tolist() == [row for row in chosen if owners[row] == name]
        assert view.indices[name].tolist() == [i for i, row in enumerate(chosen) if owners[row] == name]
