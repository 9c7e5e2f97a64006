"""Splits: from what a spec says to row numbers, and what is no split."""

import re
from fractions import Fraction
from types import SimpleNamespace

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

import kinoml_data as kd
from kinoml_data.dataset.labels import divided_by_chance
from kinoml_data.dataset.splits import resolve
from kinoml_data.errors import CorruptStoreError, SpecError, SplitError, StoreNotFoundError, UnsafeStoreError
from kinoml_data.spec.dataset_spec import DatasetSpec
from tests.dataset.rows import SPEC, N, as_lists, load


def found(arrays, splits, length=N, base=None):
    spec = DatasetSpec.parse(SPEC | {"splits": splits}, base)
    binding = SimpleNamespace(storage=SimpleNamespace(arrays=arrays), length=length)  # its columns cannot be read
    return resolve(spec, binding, np.arange(length))


# -- the kinds


@pytest.mark.parametrize("dtype", ["i1", "u1", "i2", "u4", "i8", "u8", ">i4", object])
def test_a_name_is_an_array_in_the_store(dtype):
    arrays = {"idx_train": np.array([5, 0, 7], dtype), "other": np.arange(3)}
    splits = found(arrays, {"train": "idx_train"})
    assert as_lists(splits) == {"train": [5, 0, 7]} and splits["train"].dtype == np.int64


def test_a_stored_mask_is_the_rows_where_it_is_true():
    mask = np.zeros(N, bool)
    mask[[3, 9]] = True
    splits = found({"m": mask}, {"test": "m"})
    assert as_lists(splits) == {"test": [3, 9]} and splits["test"].dtype == np.int64


@pytest.mark.parametrize(
    "array",
    [np.array([], dtype) for dtype in (np.int64, np.float64, bool, object, "U1", "M8[D]")] + [np.zeros(N, bool)],
    ids=lambda array: str(array.dtype),
)
def test_a_split_may_be_empty(array):
    assert as_lists(found({"a": array}, {"val": "a"})) == {"val": []}


@pytest.mark.parametrize(("start", "stop"), [(0, N), (0, 0), (3, 8), (N, N), (N - 1, N)])
def test_a_range_is_the_rows_up_to_its_end(start, stop):
    assert as_lists(found({}, {"a": {"range": [start, stop]}})) == {"a": list(range(start, stop))}


def test_rows_are_kept_in_the_order_written():
    assert as_lists(found({}, {"a": {"rows": [7, 2, 19]}, "b": {"rows": []}})) == {"a": [7, 2, 19], "b": []}


@pytest.mark.parametrize("dtype", ["<i8", ">i8", "i4", "u1"])
def test_a_file_of_row_numbers_lies_beside_the_spec(tmp_path, dtype):
    (tmp_path / "rows").mkdir()
    np.save(tmp_path / "rows" / "test.npy", np.array([9, 1], dtype))
    assert as_lists(found({}, {"test": {"file": "rows/test.npy"}}, base=tmp_path)) == {"test": [9, 1]}
    absolute = {"test": {"file": str(tmp_path / "rows" / "test.npy")}}
    assert as_lists(found({}, absolute, base=tmp_path / "rows")) == {"test": [9, 1]}


def test_a_file_may_hold_a_mask(tmp_path):
    np.save(tmp_path / "m.npy", np.arange(N) % 10 == 0)
    assert as_lists(found({}, {"a": {"file": "m.npy"}}, base=tmp_path)) == {"a": [0, 10]}


def test_splits_of_all_kinds_may_be_combined(tmp_path):
    np.save(tmp_path / "f.npy", np.array([15]))
    splits = {"a": "arr", "b": {"range": [2, 4]}, "c": {"rows": [10]}, "d": {"file": "f.npy"}}
    assert as_lists(found({"arr": np.array([0, 1])}, splits, base=tmp_path)) == {
        "a": [0, 1],
        "b": [2, 3],
        "c": [10],
        "d": [15],
    }


# -- random splits


@pytest.mark.parametrize("seed", [0, 1, 42, 2**40])
@pytest.mark.parametrize("length", [0, 1, 10, 1000])
def test_random_splits_cut_one_permutation_in_the_order_written(seed, length):
    splits = divided_by_chance({"train": 0.7, "val": 0.2, "test": 0.1}, np.arange(length), seed)
    expected = np.random.Generator(np.random.PCG64(seed)).permutation(length)
    assert list(splits) == ["train", "val", "test"]
    assert np.concatenate(list(splits.values())).tolist() == expected.tolist()
    assert sorted(expected.tolist()) == list(range(length))


SIZES = [
    # ratios, rows, sizes by largest remainder, ties in the order written
    ((0.7, 0.2, 0.1), 10, (7, 2, 1)),
    ((0.8, 0.1, 0.1), 10, (8, 1, 1)),
    ((0.7, 0.2, 0.1), 11, (8, 2, 1)),
    ((0.7, 0.2, 0.1), 1, (1, 0, 0)),
    ((0.7, 0.2, 0.1), 2, (2, 0, 0)),
    ((0.5, 0.5), 3, (2, 1)),
    ((0.5, 0.5), 1, (1, 0)),
    ((0.5, 0.5), 0, (0, 0)),
    ((0.1, 0.9), 5, (1, 4)),  # 0.5 and 4.5: a tie
    ((0.9, 0.1), 5, (5, 0)),
    ((0.29, 0.71), 50, (15, 35)),  # 14.5 and 35.5, though 0.29 * 50 is 14.499999999999998
    ((0.71, 0.29), 50, (36, 14)),
    ((0.57, 0.43), 50, (29, 21)),  # 28.5 and 21.5
    ((1 / 3, 1 / 3, 1 / 3), 10, (4, 3, 3)),
    ((1 / 3, 1 / 3, 1 / 3), 11, (4, 4, 3)),
    ((1.0,), 7, (7,)),
    ((1.0, 0.0), 7, (7, 0)),
    ((0.0, 1.0), 7, (0, 7)),
    ((0.999999, 0.000001), 100, (100, 0)),
    ((0.1,) * 10, 10, (1,) * 10),
    ((0.1,) * 10, 13, (2, 2, 2, 1, 1, 1, 1, 1, 1, 1)),
]


@pytest.mark.parametrize(("ratios", "length", "sizes"), SIZES)
def test_the_sizes_are_those_of_the_largest_remainder(ratios, length, sizes):
    names = [f"s{i}" for i in range(len(ratios))]
    splits = divided_by_chance(dict(zip(names, ratios, strict=True)), np.arange(length), 0)
    assert tuple(len(splits[name]) for name in names) == sizes


@given(st.lists(st.integers(0, 20), min_size=1, max_size=5).filter(any), st.integers(0, 500), st.integers(0, 2**32))
def test_the_sizes_are_exact_for_any_ratios(parts, length, seed):
    ratios = {f"s{i}": part / sum(parts) for i, part in enumerate(parts)}
    splits = divided_by_chance(ratios, np.arange(length), seed)
    exact = [Fraction(part, sum(parts)) * length for part in parts]
    sizes = [int(size) for size in exact]
    for i in sorted(range(len(parts)), key=lambda i: (sizes[i] - exact[i], i))[: length - sum(sizes)]:
        sizes[i] += 1
    assert [len(rows) for rows in splits.values()] == sizes
    assert sorted(np.concatenate(list(splits.values())).tolist()) == list(range(length))


def test_the_order_written_decides_who_gets_which_rows():
    a = divided_by_chance({"train": 0.5, "test": 0.5}, np.arange(10), 0)
    b = divided_by_chance({"test": 0.5, "train": 0.5}, np.arange(10), 0)
    assert a["train"].tolist() == b["test"].tolist()


def test_the_rows_of_a_seed_never_change():
    # Written down once, from numpy's own generator; a paper may depend on them.
    splits = divided_by_chance({"train": 0.8, "test": 0.2}, np.arange(10), 0)
    assert as_lists(splits) == {"train": [4, 6, 2, 7, 3, 5, 9, 0], "test": [8, 1]}


# -- what is wrong


BAD = {
    "no such array": ({}, {"train": "idx_train"}, "split 'train': unknown array of the store 'idx_train'"),
    "nearly": ({"idx_train": np.arange(3)}, {"train": "idx_trian"}, "did you mean 'idx_train'"),
    "after the end": ({"a": np.array([0, N])}, {"train": "a"}, f"split 'train': row {N} is outside the {N} rows"),
    "negative": ({"a": np.array([0, -1])}, {"train": "a"}, "split 'train': row -1 is outside"),
    "beyond int64": ({"a": np.array([2**63], np.uint64)}, {"train": "a"}, "row 9223372036854775808 is outside"),
    "twice": ({"a": np.array([3, 5, 3])}, {"train": "a"}, "split 'train' contains row 3 more than once"),
    "floats": (
        {"a": np.array([0.0, 1.0])},
        {"train": "a"},
        "split 'train': row numbers must be integers, but these are float64, such as 0.0",
    ),
    "fractions": (
        {"a": np.array([0.0, 1.0, 1.5])},
        {"train": "a"},
        "split 'train': row numbers must be integers, but these are float64, such as 1.5",
    ),
    "not a number": (
        {"a": np.array([0.0, np.nan])},
        {"train": "a"},
        "row numbers must be integers, but these are float64, such as nan",
    ),
    "dates": (
        {"a": np.array(["2020-01-01"], "M8[D]")},
        {"train": "a"},
        "row numbers must be integers, but these are datetime64",
    ),
    "strings": (
        {"a": np.array(["0"])},
        {"train": "a"},
        "split 'train': row numbers must be integers, but these are <U1, such as '0'",
    ),
    "complex": ({"a": np.array([1j])}, {"train": "a"}, "these are complex128"),
    "two axes": (
        {"a": np.array([[0, 1]])},
        {"train": "a"},
        "split 'train': row numbers must have one axis, but these have 2",
    ),
    "no axis": ({"a": np.array(1)}, {"train": "a"}, "these have 0"),
    "mask too short": (
        {"a": np.ones(N - 1, bool)},
        {"train": "a"},
        f"the mask has {N - 1} entries, but there are {N} rows",
    ),
    "mask too long": (
        {"a": np.ones(N + 1, bool)},
        {"train": "a"},
        f"the mask has {N + 1} entries, but there are {N} rows",
    ),
    "mask of two axes": ({"a": np.ones((N, 1), bool)}, {"train": "a"}, "these have 2"),
    "range after the end": ({}, {"train": {"range": [0, N + 1]}}, f"split 'train': range \\[0, {N + 1}\\] is outside"),
    "range backwards": ({}, {"train": {"range": [5, 3]}}, r"range \[5, 3\] is outside"),
    "range negative": ({}, {"train": {"range": [-5, 3]}}, r"range \[-5, 3\] is outside"),
    "range huge": ({}, {"train": {"range": [0, 2**70]}}, "is outside"),
    "rows after the end": ({}, {"train": {"rows": [N]}}, f"split 'train': row {N} is outside the {N} rows"),
    "rows negative": ({}, {"train": {"rows": [-1]}}, "split 'train': row -1 is outside"),
    "rows huge": ({}, {"train": {"rows": [0, 2**70]}}, "row 1180591620717411303424 is outside"),
    "rows twice": ({}, {"train": {"rows": [4, 4]}}, "split 'train' contains row 4 more than once"),
    "overlap": (
        {},
        {"train": {"rows": [1, 2, 3]}, "val": {"rows": [9]}, "test": {"rows": [3, 8, 2]}},
        "splits 'train' and 'test' share 2 rows, for example row 3",
    ),
    "overlap of a range": (
        {},
        {"a": {"range": [0, 5]}, "b": {"range": [4, 6]}},
        "'a' and 'b' share 1 row, for example row 4",
    ),
    "the second of a row in three splits": (
        {},
        {"a": {"rows": [6]}, "b": {"rows": [1]}, "c": {"rows": [0, 1, 6]}},
        "splits 'b' and 'c' share 2 rows, for example row 1",
    ),
    "an overlap before a row that is repeated": (
        {},
        {"a": {"rows": [6]}, "b": {"rows": [2, 6]}, "c": {"rows": [3, 3]}},
        "splits 'a' and 'b' share 1 row, for example row 6",
    ),
    "a repeated row before an overlap": (
        {},
        {"a": {"rows": [8, 6, 5, 6, 8]}, "b": {"rows": [6]}},
        "split 'a' contains row 8 more than once",
    ),
    "the same twice": ({"i": np.arange(5)}, {"train": "i", "test": "i"}, "'train' and 'test' share 5 rows"),
}


@pytest.mark.parametrize(("arrays", "splits", "said"), BAD.values(), ids=BAD)
def test_an_invalid_split_is_an_error_naming_split_and_row(arrays, splits, said):
    with pytest.raises(SplitError, match=said) as caught:
        found(arrays, splits)
    assert isinstance(caught.value, SpecError) and isinstance(caught.value, ValueError)


@pytest.mark.parametrize("name", ["overlap", "rows after the end", "rows twice", "range huge"])
def test_an_invalid_split_is_an_error_when_the_dataset_opens(name):
    with pytest.raises(SplitError):
        load(BAD[name][1])


def test_train_and_test_with_the_same_rows_never_pass():
    # What a notebook does that writes `indices[split:], indices[split:]`.
    with pytest.raises(SplitError, match="share 10 rows"):
        kd.from_arrays(np.arange(N), splits={"train": np.arange(10, N), "test": np.arange(10, N)})


def test_files_that_are_not_row_numbers_are_errors(tmp_path):
    np.save(tmp_path / "objects.npy", np.array([{}], object), allow_pickle=True)
    (tmp_path / "text.npy").write_text("0 1 2")
    (tmp_path / "folder.npy").mkdir()
    for name, kind in {
        "none.npy": StoreNotFoundError,
        "folder.npy": StoreNotFoundError,
        "text.npy": CorruptStoreError,
        "objects.npy": UnsafeStoreError,
    }.items():
        with pytest.raises(kind, match=name):
            found({}, {"a": {"file": name}}, base=tmp_path)
    np.save(tmp_path / "two.npy", np.zeros((2, 2), np.int64))
    with pytest.raises(SplitError, match="split 'a': row numbers must have one axis"):
        found({}, {"a": {"file": "two.npy"}}, base=tmp_path)


# -- splits of a dataset


def test_an_empty_split_of_a_store_may_have_any_dtype(tmp_path):
    for name, empty in {"float": np.array([]), "bool": np.array([], bool), "text": np.array([], "U3")}.items():
        np.savez(tmp_path / f"{name}.npz", X=np.zeros((9, 2)), y=np.zeros(9), idx_train=np.arange(9), idx_val=empty)
        dataset = kd.load_dataset(tmp_path / f"{name}.npz")
        assert as_lists(dataset.indices) == {"train": list(range(9)), "val": []} and len(dataset.split("val")) == 0


@pytest.mark.parametrize(
    ("rows", "said"),
    [
        (np.array([0.0, 1.5]), "these are float64, such as 1.5"),
        (np.array(["0"]), "these are <U1, such as '0'"),
        (np.array([[0, 1]]), "must have one axis, but these have 2"),
        (np.array(3), "must have one axis, but these have 0"),
        (np.array([True]), "the mask has 1 entries, but there are 9 rows"),
    ],
    ids=["fraction", "text", "two axes", "no axis", "short mask"],
)
def test_a_split_of_a_store_that_is_not_valid_is_an_error_unless_the_spec_has_its_own(tmp_path, rows, said):
    np.savez(tmp_path / "x.npz", X=np.zeros((9, 2)), y=np.zeros(9), idx_train=np.arange(9), idx_val=rows)
    with pytest.raises(SplitError, match=f"split 'val': .*{said}"):
        kd.load_dataset(tmp_path / "x.npz")
    spec = {"storage": {"backend": "npz-lazy", "path": "x.npz"}}
    for own in ({}, {"train": "idx_train"}):
        assert set(kd.load_dataset(spec | {"splits": own}, base=tmp_path).indices) == set(own)


def test_load_dataset_gives_a_split_at_once():
    assert load({"train": {"rows": [12, 3]}, "val": {"range": [14, 17]}}, split="val").rows.tolist() == [
        14,
        15,
        16,
    ]


def test_splits_left_out_come_from_the_store_and_an_empty_mapping_says_there_are_none(tmp_path):
    np.savez(tmp_path / "x.npz", X=np.zeros(5), idx_train=np.array([0, 1]), idx_test=np.array([4]))
    spec = {"storage": {"backend": "npz-lazy", "path": "x.npz"}}
    assert as_lists(kd.load_dataset(spec, base=tmp_path).indices) == {"train": [0, 1], "test": [4]}
    assert kd.load_dataset(spec | {"splits": {}}, base=tmp_path).indices == {}
    assert as_lists(kd.load_dataset(spec | {"splits": {"only": "idx_test"}}, base=tmp_path).indices) == {"only": [4]}


@given(st.data())
def test_the_sizes_of_splits_in_texts_are_those_of_the_rows_that_a_view_contains(data):
    rows = data.draw(st.permutations(range(N)))
    cut = sorted(data.draw(st.tuples(st.integers(0, N), st.integers(0, N))))
    dataset = load({"a": {"rows": rows[: cut[0]]}, "b": {"rows": rows[cut[0] : cut[1]]}})
    for _ in range(data.draw(st.integers(0, 3))):
        if len(dataset) and data.draw(st.booleans()):
            dataset = dataset.select(data.draw(st.lists(st.integers(0, len(dataset) - 1), max_size=30)))
        else:
            dataset = dataset.split(data.draw(st.sampled_from("ab")))
    own = dataset.rows.tolist()
    sizes = {
        name: sum(row in members for row in own)
        for name, members in {"a": set(rows[: cut[0]]), "b": set(rows[cut[0] : cut[1]])}.items()
    }
    assert {name: len(positions) for name, positions in dataset.indices.items()} == sizes
    listed = ", ".join(f"{name} {size}" for name, size in sizes.items() if size)
    assert (f"splits: {listed};" in repr(dataset)) if listed else ("splits" not in repr(dataset))
    shown = dict(re.findall(r"</i>([ab]) (\d+) <small>", dataset._repr_html_()))
    is_view = dataset._rows is not None
    assert shown == {name: str(size) for name, size in sizes.items() if size or not is_view}
