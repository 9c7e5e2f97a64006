"""Splits as labels: groups that stay together, folds, orders, labels of columns and tables, and what is promised."""

from __future__ import annotations

import pickle
from multiprocessing.reduction import ForkingPickler
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import kinoml_data as kd
from kinoml_data.errors import CorruptStoreError, SpecError, SplitError, StoreNotFoundError
from tests.dataset.rows import as_lists

ROWS = 600


def table(rows: int = ROWS, seed: int = 0) -> dict[str, Any]:
    random = np.random.default_rng(seed)
    return {
        "X": np.arange(rows, dtype=np.float32),
        "ligand": [f"L{number}" for number in random.integers(0, rows // 6, rows)],
        "kinase": random.integers(0, 25, rows),
        "year": random.integers(1990, 2020, rows),
        "id": [f"id{number}" for number in range(rows)],
        "subset": [("test", "train", "")[number % 3] for number in range(rows)],
    }


def load(splits: Any, data: dict[str, Any] | None = None, base: Path | None = None) -> kd.XyDataset:
    spec = {"X": "X", "storage": {"backend": "in-memory"}, "splits": splits}
    return kd.load_dataset(spec, data=table() if data is None else data, base=base)


def values(dataset: kd.XyDataset, column: str) -> dict[str, set[Any]]:
    texts = np.array(table()[column])
    return {name: set(texts[rows].tolist()) for name, rows in dataset.indices.items()}


@given(
    st.integers(0, 5),
    st.sampled_from(["ligand", "kinase", ["ligand", "kinase"], ["kinase", "year"]]),
    st.sampled_from([{"ratios": {"train": 0.8, "test": 0.2}}, {"folds": 3}, {"folds": 4, "ratios": {"test": 0.2}}]),
)
@settings(max_examples=25, deadline=None)
def test_no_two_splits_share_a_value_of_the_columns_that_rows_are_kept_together_by(
    seed: int, by: Any, shares: Any
) -> None:
    dataset = load(shares | {"by": by, "seed": seed})
    for column in [by] if isinstance(by, str) else by:
        sets = list(values(dataset, column).values())
        assert sum(map(len, sets)) == len(set.union(*sets))
    in_splits = sum(map(len, dataset.indices.values()))
    assert in_splits == ROWS if isinstance(by, str) else 0 < in_splits < ROWS
    assert f"{ROWS - in_splits:,} rows in none" in str(dataset.check_splits()) or in_splits == ROWS


def test_groups_come_close_to_the_ratios() -> None:
    sizes = {
        n: len(r) for n, r in load({"ratios": {"train": 0.7, "val": 0.1, "test": 0.2}, "by": "ligand"}).indices.items()
    }
    assert abs(sizes["train"] - 420) < 15 and abs(sizes["val"] - 60) < 15 and abs(sizes["test"] - 120) < 15


@pytest.mark.parametrize(
    "splits", [{"folds": 3, "by": "ligand", "seed": 1}, {"ratios": {"a": 0.5, "b": 0.5}, "by": "kinase"}]
)
def test_the_split_of_a_group_does_not_depend_on_the_order_of_the_rows_or_their_dtype(splits: Any) -> None:
    data, order = table(), np.random.default_rng(1).permutation(ROWS)
    shuffled = {name: [column[row] for row in order] for name, column in data.items()}
    shuffled["kinase"] = np.array(shuffled["kinase"], np.int16)
    one, other = load(splits).indices, load(splits, shuffled).indices
    assert {name: set(rows.tolist()) for name, rows in one.items()} == {
        name: set(order[rows].tolist()) for name, rows in other.items()
    }


@pytest.mark.parametrize("dtype", ["float16", "float32", "float64", "complex64"])
@pytest.mark.parametrize("rows", [1, 3])
def test_equal_numbers_are_one_value_whatever_their_bits_are(dtype: str, rows: int) -> None:
    nans = np.array([0x7FC00000, 0xFFC00001, 0x7F800001], np.uint32).view(np.float32)
    with np.errstate(invalid="ignore"):
        numbers = np.concatenate([[0.0, -0.0, 0.0, -0.0], nans, [1.0]]).astype(dtype)
    value: Any = numbers if rows == 1 else [np.full(row % 2 + 1, number) for row, number in enumerate(numbers)]
    data = {"X": np.arange(8.0), "value": value}
    labels = {"train": {"rows": [0, 2, 4]}, "test": {"rows": [1, 3, 5, 6, 7]}}
    groups = [row // 4 if rows == 1 else (row // 4, row % 2) for row in range(7)]
    for seed in range(4):
        indices = load({"folds": 2, "by": "value", "seed": seed}, data).indices
        split_of = {row: name for name, positions in indices.items() for row in positions.tolist()}
        assert all((split_of[a] == split_of[b]) or groups[a] != groups[b] for a in range(7) for b in range(7))
    (shared,) = load({"labels": labels}, {"X": numbers}).check_splits(["X"]).shared
    assert shared.values == 2 and shared.rows == (3, 4)
    with pytest.raises(SplitError, match="share 2 values"):
        load({"labels": labels, "apart": "value"}, data | {"value": numbers})


@pytest.mark.parametrize("dtype", ["bool", "uint8", "int64", "float32"])
def test_the_split_of_a_group_does_not_depend_on_whether_its_rows_are_declared_ragged(dtype: str) -> None:
    data = {"X": np.arange(60.0), "bits": np.random.default_rng(0).integers(0, 2, (60, 4)).astype(dtype)}
    found = []
    for shape in ([4], ["*"]):
        columns = {"X": {"dtype": "float64"}, "bits": {"dtype": dtype, "shape": shape}}
        spec = {"columns": columns, "X": "X", "splits": {"folds": 3, "by": "bits"}}
        dataset = kd.load_dataset(spec | {"storage": {"backend": "in-memory"}}, data=data)
        found.append({name: rows.tolist() for name, rows in dataset.indices.items()})
    assert found[0] == found[1]


def test_seeds_divide_groups_differently() -> None:
    one, other = (load({"folds": 2, "by": "ligand", "seed": seed}).indices["fold0"].tolist() for seed in (0, 1))
    assert one != other


def test_folds_are_validated_one_by_one_and_the_test_set_stays() -> None:
    dataset = load({"folds": 5, "ratios": {"test": 0.1}, "seed": 3})
    rows = [set(dataset.fold(number)["val"].rows.tolist()) for number in range(5)]
    assert sorted(set.union(*rows)) == sorted(set(range(ROWS)) - set(dataset.split("test").rows.tolist()))
    for number in range(5):
        parts = dataset.fold(number)
        assert list(parts) == ["train", "val", "test"] and len(parts["test"]) == 60
        assert set(parts["train"].rows.tolist()) == set.union(*(part for i, part in enumerate(rows) if i != number))
    view = dataset.select(range(100, 0, -1))
    assert set(view.fold(0)["val"].rows.tolist()) == rows[0] & set(range(1, 101))


def test_there_is_an_error_for_a_fold_that_does_not_exist() -> None:
    with pytest.raises(SplitError, match="there is no fold 5; the folds are fold0, fold1, fold2"):
        load({"folds": 3}).fold(5)
    with pytest.raises(SplitError, match="folds: 5"):
        load({"ratios": {"train": 1.0}}).fold(0)


def test_an_order_is_cut_and_equal_values_stay_together() -> None:
    for column in ("year", "id"):
        dataset = load({"ratios": {"train": 0.7, "test": 0.3}, "order": column})
        train, test = (values(dataset, column)[name] for name in ("train", "test"))
        assert max(train) < min(test)
    assert len(load({"ratios": {"train": 0.7, "test": 0.3}, "order": "id"}).split("train")) == 420


def test_texts_are_ordered_by_their_bytes() -> None:
    texts = sorted(["", "2020", "2020-01", "2020 b", "2020\0", "2020.", "20200", "é", "z", "\U0001f600"])
    order = np.random.default_rng(0).permutation(len(texts))
    data = {"X": np.zeros(len(texts)), "id": [texts[row] for row in order]}
    for count in range(1, len(texts)):
        share = count / len(texts)
        dataset = load({"ratios": {"train": share, "test": 1 - share}, "order": "id"}, data)
        assert sorted(data["id"][row] for row in dataset.indices["train"]) == texts[:count]


@pytest.mark.parametrize(
    ("data", "message"),
    [
        ({"year": np.where(np.arange(ROWS) == 7, np.nan, 1.0)}, "row 7: NaN has no place"),
        ({"year": np.zeros((ROWS, 2))}, "several values per row"),
        ({"year": [np.zeros(row % 3) for row in range(ROWS)]}, "rows of different shapes"),
    ],
)
def test_an_order_needs_one_value_per_row(data: Any, message: str) -> None:
    with pytest.raises(SplitError, match=message):
        load({"ratios": {"train": 0.7, "test": 0.3}, "order": "year"}, table() | data)


def test_labels_of_a_column_are_splits_and_rows_without_one_are_in_none() -> None:
    dataset = load({"labels": {"column": "subset"}})
    assert {n: r.tolist() for n, r in dataset.indices.items()} == {
        "test": list(range(0, ROWS, 3)),
        "train": list(range(1, ROWS, 3)),
    }


def test_rows_that_are_labelled_train_or_not_at_all_are_divided() -> None:
    indices = load({"labels": {"column": "subset"}, "folds": 4, "seed": 0}).indices
    assert list(indices) == ["test", "fold0", "fold1", "fold2", "fold3"]
    assert indices["test"].tolist() == list(range(0, ROWS, 3)) and all(
        len(indices[f"fold{i}"]) == 100 for i in range(4)
    )


def test_labels_of_a_table_follow_the_ids(tmp_path: Path) -> None:
    (tmp_path / "splits.csv").write_text("id,part\nid1,train\nid0,test\nid999999,train\nid3,\n")
    dataset = load({"labels": {"file": "splits.csv", "id": "id"}}, base=tmp_path)
    assert {name: rows.tolist() for name, rows in dataset.indices.items()} == {"test": [0], "train": [1]}
    fewer = {name: column[1:] for name, column in table().items()}
    assert load({"labels": {"file": "splits.csv", "id": "id"}}, fewer, tmp_path).indices["train"].tolist() == [0]


@pytest.mark.parametrize(
    ("text", "error", "message"),
    [
        ("id,part\nid1,train\nid1,test\n", SplitError, "row 3: 'id1' has the labels 'train' and 'test'"),
        ("name,part\nid1,train\n", SplitError, "unknown column 'id'"),
        ("id,a,b\nid1,train,x\n", SplitError, "unknown column 'split'"),
        ("id,part\nid1\n", CorruptStoreError, "row 2: it has 1 cells"),
        ("", SplitError, "column"),
    ],
)
def test_tables_of_labels_that_cannot_be_used(tmp_path: Path, text: str, error: Any, message: str) -> None:
    (tmp_path / "splits.csv").write_text(text)
    with pytest.raises(error, match=message):
        load({"labels": {"file": "splits.csv", "id": "id"}}, base=tmp_path)


def test_a_table_of_labels_must_have_an_id_of_the_dataset(tmp_path: Path) -> None:
    splits = {"labels": {"file": "splits.csv", "id": "id"}}
    (tmp_path / "splits.csv").write_text("id,part\nID1,train\n")
    with pytest.raises(SplitError, match=r"'splits\.csv' contains no id of column 'id': it has 'ID1', .* has 'id0'"):
        load(splits, base=tmp_path)
    (tmp_path / "splits.csv").write_text("id,part\n")
    assert load(splits, base=tmp_path).indices == {}


def test_a_table_of_labels_that_is_missing(tmp_path: Path) -> None:
    with pytest.raises(StoreNotFoundError):
        load({"labels": {"file": "none.csv", "id": "id"}}, base=tmp_path)


def test_apart_is_a_promise() -> None:
    labels = {"train": {"range": [0, 300]}, "test": {"range": [300, 600]}}
    assert load({"labels": labels, "apart": "id"}).indices["test"][0] == 300
    message = r"'train' and 'test' share 25 values of column 'kinase', such as '\d+', and must not; change the labels"
    with pytest.raises(SplitError, match=message):
        load({"labels": labels, "apart": ["id", "kinase"]})
    with pytest.raises(SplitError, match="write `by: kinase`, or leave the column out of `by` and `apart`"):
        load({"folds": 2, "apart": "kinase"})


def test_a_copy_keeps_the_splits_and_the_promise(tmp_path: Path) -> None:
    dataset = load({"folds": 3, "ratios": {"test": 0.2}, "by": "ligand", "seed": 4})
    kd.save_dataset(dataset, tmp_path / "copy.npz")
    copy = kd.load_dataset(tmp_path / "copy.npz")
    assert copy.indices.keys() == dataset.indices.keys()
    assert all(np.array_equal(copy.indices[name], rows) for name, rows in dataset.indices.items())
    assert copy.spec.splits.apart == ("ligand",)  # type: ignore[union-attr]  # they are computed splits
    assert copy.column("ligand") == table()["ligand"]


@pytest.mark.parametrize("name", ["train", "test"])
def test_a_split_without_rows_is_kept_by_a_copy(tmp_path: Path, name: str) -> None:
    dataset = load({"labels": {name: {"rows": []}, "val": {"rows": [3, 5]}}, "apart": "id"})
    kd.save_dataset(dataset, tmp_path / "copy.npz")
    assert {n: len(rows) for n, rows in kd.load_dataset(tmp_path / "copy.npz").indices.items()} == {name: 0, "val": 2}


def test_workers_get_the_rows_of_the_splits() -> None:
    dataset = load({"ratios": {"train": 0.5, "test": 0.5}, "by": "ligand"})
    train = dataset.split("train")
    rows = torch_rows(train, num_workers=1, multiprocessing_context="spawn")
    assert rows == torch_rows(train) == train.rows.tolist()


def torch_rows(dataset: kd.XyDataset, **options: Any) -> list[int]:
    return [row for _, _, rows in dataset.with_rows().as_dataloader(batch_size=50, **options) for row in rows.tolist()]


def test_names_of_columns_that_are_not_valid_in_a_spec(tmp_path: Path) -> None:
    path = tmp_path / "t.csv"
    path.write_text("X,the ligand\n1,a\n2,a\n3,b\n")
    spec = {"X": "X", "storage": {"backend": "csv", "path": str(path)}}
    dataset = kd.load_dataset(spec | {"splits": {"folds": 2, "by": "the ligand"}})
    assert sorted(map(len, dataset.indices.values())) == [1, 2] and dataset.spec.meta == ("the_ligand",)


@pytest.mark.parametrize(
    ("splits", "message"),
    [
        ({"folds": 1}, "splits.folds"),
        ({"folds": 3, "ratios": {"test": 1.0}}, "less than 1"),
        ({"folds": 3, "ratios": {"fold1": 0.1}}, "rename it"),
        ({"ratios": {"train": 0.5, "test": 0.5}, "by": "ligand", "order": "year"}, "cannot be combined"),
        ({"labels": {"column": "subset"}, "by": "ligand"}, "need `ratios` or `folds`"),
        ({"labels": {"column": "subset", "id": "id"}}, "splits.labels"),
        ({"labels": {"column": "kinase"}}, "does not contain text"),
        ({"labels": {"file": "a.csv", "column": "split"}}, r"splits\.labels\.id: this key is missing"),
        ({"labels": "subset"}, "for labels in a column, write `labels: {column: subset}`"),
        ({"folds": 2, "by": "ligands"}, "did you mean 'ligand'"),
        ({"labels": {"train": "idx_train"}}, "idx_train"),
    ],
)
def test_splits_that_make_no_sense(splits: Any, message: str) -> None:
    with pytest.raises(SpecError, match=message):
        load(splits)


def test_splits_of_a_store_may_be_called_folds_or_labels() -> None:
    dataset = kd.from_arrays(np.arange(4.0), splits={"folds": [0, 1], "labels": [2]})
    assert {name: rows.tolist() for name, rows in dataset.indices.items()} == {"folds": [0, 1], "labels": [2]}


@pytest.mark.parametrize("suffix", [".yaml", ".json", ".toml"])
def test_computed_splits_survive_a_file(tmp_path: Path, suffix: str) -> None:
    splits = {"labels": {"file": "splits.csv", "id": "id"}, "folds": 3, "ratios": {"val": 0.25}, "by": ["id", "kinase"]}
    spec = kd.DatasetSpec.parse({"X": "X", "storage": {"backend": "in-memory"}, "splits": splits}, tmp_path)
    (tmp_path / "folder").mkdir()
    spec.to_file(tmp_path / "folder" / f"spec{suffix}")
    again = kd.DatasetSpec.from_file(tmp_path / "folder" / f"spec{suffix}").splits
    assert again.labels.file == "../splits.csv" and again.by == ("id", "kinase") and again.folds == 3  # type: ignore[union-attr]  # computed
    assert len({spec, spec.located(tmp_path)}) == 1


def test_a_missing_label_is_no_label_in_each_process(tmp_path: Path) -> None:
    (tmp_path / "t.csv").write_text("x,subset\n1,test\n2,\n3,\n4,test\n")
    spec = {"X": "x", "storage": {"backend": "csv", "path": "t.csv"}, "splits": {"labels": {"column": "subset"}}}
    for columns in ({}, {"columns": {"x": {"dtype": "float32"}}}):
        with kd.load_dataset(spec | columns, base=tmp_path) as dataset:
            worker = pickle.loads(ForkingPickler.dumps(dataset))
            assert as_lists(dataset.indices) == {"test": [0, 3]} == as_lists(worker.indices)
            assert worker.column("subset") == dataset.column("subset") == ["test", "", "", "test"]
        kd.convert(dataset.spec, tmp_path / "t.npz", overwrite=True)
        with kd.load_dataset(tmp_path / "t.npz") as copy:
            assert as_lists(copy.indices) == {"test": [0, 3]}
