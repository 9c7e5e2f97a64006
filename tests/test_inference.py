"""`complete`: from a spec and an open storage to a complete spec, without a file."""

from __future__ import annotations

import csv
import json
import pickle
from collections.abc import Mapping, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import HealthCheck, assume, given, settings
from hypothesis import strategies as st

import kinoml_data as kd
from kinoml_data import Array, ArrayStorage, CompleteSpec, DatasetSpec
from kinoml_data.errors import CorruptStoreError, SpecError, UnsupportedStoreError
from kinoml_data.inference import complete

STORAGE = {"backend": "npz-lazy", "path": "x.npz"}
ARRAYS = {
    "a": np.zeros((3, 2), np.float32),
    "b": np.zeros(3, np.int64),
    "y": np.zeros(3),
    "id.utf8": np.frombuffer(b"xyz", np.uint8),
    "id.shapes": np.ones((3, 1), np.int64),
    "idx_train.index": np.array([0, 2]),
}
EMBEDDED = {
    "name": "stored",
    "columns": {name: {"dtype": dtype} for name, dtype in (("b", "int64"), ("y", "float64"), ("id", "str"))},
    "X": "b",
    "y": "y",
    "splits": {"test": {"range": [0, 1]}},
}


def storage(embedded: dict[str, Any] | str | None = None) -> ArrayStorage:
    text = embedded if isinstance(embedded, str) or embedded is None else json.dumps(embedded)
    return ArrayStorage(ARRAYS, spec=text)


def spec(**keys: Any) -> DatasetSpec:
    return DatasetSpec.parse({"storage": STORAGE, **keys})


ROLES = {"X": ["a", "b"], "y": "y", "meta": ["id"]}


def test_columns_in_roles_and_splits_come_from_the_store():
    completed = complete(spec(**ROLES), storage())
    assert completed.columns == {
        "a": Array("float32", (2,)),
        "b": Array("int64"),
        "y": Array(np.float64),
        "id": Array(str),
    }
    assert (completed.X, completed.y, completed.meta) == (("a", "b"), "y", ("id",))
    assert completed.splits == {"train": "idx_train"}


def test_only_the_columns_that_the_spec_names_are_in_the_dataset():
    completed = complete(spec(X="b", splits={}), storage())
    assert (list(completed.columns), completed.X, completed.y, completed.meta) == (["b"], "b", None, ())
    assert completed.splits == {}


def named(*names: str) -> ArrayStorage:
    return ArrayStorage({name: np.zeros(3) for name in names})


@pytest.mark.parametrize(
    ("names", "X", "y"),
    [
        (("X", "y"), "X", "y"),
        (("a", "y", "X"), "X", "y"),
        (("X1", "b", "X0", "y"), ("X0", "X1"), "y"),
        (("X0",), "X0", None),
    ],
    ids=str,
)
def test_the_names_of_columns_say_their_roles(names, X, y):
    completed = complete(spec(), named(*names))
    assert (completed.X, completed.y, completed.meta) == (X, y, ())
    assert set(completed.columns) == {*completed.X_names, *completed.y_names}
    declared = {name: {"dtype": "float64"} for name in names}
    completed = complete(spec(columns=declared), named(*names))
    assert (completed.X, completed.y, list(completed.columns)) == (X, y, list(names))


def test_a_y_that_the_caller_names_leaves_X_to_the_names():
    completed = complete(spec(y="b"), named("X", "b", "y"))
    assert (completed.X, completed.y, list(completed.columns)) == ("X", "b", ["X", "b"])


@pytest.mark.parametrize("columns", [None, {"a": {}, "b": {}}], ids=["inferred", "declared"])
def test_a_table_that_does_not_say_what_is_X_is_an_error_that_shows_the_line_to_write(columns):
    keys = {} if columns is None else {"columns": columns}
    with pytest.raises(SpecError) as caught:
        complete(spec(**keys), named("a", "b"))
    text = str(caught.value)
    assert "x.npz does not specify which columns are X and which are y" in text
    assert "load_dataset('x.npz', X=['a'], y='b')" in text
    assert "  a  float" in text and "  b  float" in text


def test_a_table_with_y_but_without_X_does_not_guess_X():
    with pytest.raises(SpecError, match="does not specify which columns are X"):
        complete(spec(), named("a", "y"))
    with pytest.raises(SpecError, match="does not specify which columns are X"):
        complete(spec(y="y"), named("a", "y"))


def test_the_error_says_what_is_odd_about_a_column_and_lists_those_that_cannot_be_read():
    texts = [*(str(i) for i in range(17)), ">10000"]
    data = ArrayStorage(
        {
            "a": np.zeros(18),
            "IC50.utf8": np.frombuffer("".join(texts).encode(), np.uint8),
            "IC50.shapes": np.array([[len(text)] for text in texts]),
        }
    )
    data.unreadable = {"when": "dates are not supported; write them as numbers"}
    with pytest.raises(SpecError) as caught:
        complete(spec(), data)
    lines = str(caught.value).splitlines()
    assert "  IC50  str: 17 numbers, and '>10000' in row 17" in lines
    assert "  when  not readable: dates are not supported; write them as numbers" in lines
    odd = r"y: column 'IC50' contains strings, .*17 numbers, and '>10000' in row 17; .* relation in a column of its own"
    with pytest.raises(SpecError, match=odd):
        complete(spec(X="a", y="IC50"), data)
    with pytest.raises(UnsupportedStoreError, match="dates are not supported"):
        complete(spec(X="a", meta=["when"]), data)


def test_without_the_need_for_X_all_columns_are_taken():
    completed = complete(spec(), named("a", "b"), needs_X=False)
    assert (list(completed.columns), completed.X, completed.y, completed.meta) == (["a", "b"], None, None, ())
    completed = complete(spec(), named("a", "y"), needs_X=False)
    assert (list(completed.columns), completed.X, completed.y) == (["y", "a"], None, "y")


def test_a_pattern_stands_for_the_stored_columns_that_match_it():
    data = named("f10", "f2", "g", "f1")
    completed = complete(spec(columns={"d": {"stored_as": {"glob": "f*"}}}, X="d"), data)
    assert completed.columns["d"] == Array("float32", (3,), stored_as=("f10", "f2", "f1"))
    assert completed.stored_names == ["f10", "f2", "f1"]
    for pattern, problem in (("h*", "no stored column matches the pattern 'h\\*'; there are f10, f2, g, f1"),):
        with pytest.raises(SpecError, match=f"columns.d.stored_as: {problem}"):
            complete(spec(columns={"d": {"stored_as": {"glob": pattern}}}, X="d"), data)
    with pytest.raises(SpecError, match=r"a column made of 3 stored columns has the shape \[3\]"):
        complete(spec(columns={"d": {"stored_as": {"glob": "f*"}, "shape": [4]}}, X="d"), data)


def test_a_spec_with_columns_takes_nothing_from_the_store():
    described = spec(columns={"a": {"shape": [2]}}, X="a")
    completed = complete(described, storage(EMBEDDED))
    assert (completed.columns, completed.X, completed.splits) == (described.columns, "a", {})


def test_an_embedded_spec_goes_before_the_columns_of_the_store():
    completed = complete(spec(), storage(EMBEDDED))
    assert list(completed.columns) == ["b", "y", "id"]
    assert (completed.name, completed.X, completed.y) == ("stored", "b", "y")
    assert completed.splits["test"].range == (0, 1)


def test_what_the_spec_specifies_goes_before_the_embedded_spec():
    completed = complete(spec(name="mine", X="y", y="b", splits={}), storage(EMBEDDED))
    assert (completed.name, completed.X, completed.y, completed.splits) == ("mine", "y", "b", {})
    assert completed.meta == ("id",)
    assert completed.storage.options == {"path": "x.npz"}


def test_an_embedded_spec_without_columns_is_completed_from_the_store():
    completed = complete(spec(), storage({"name": "stored", "X": "b"}))
    assert (completed.name, completed.X, completed.y) == ("stored", "b", None)


@pytest.mark.parametrize(
    "embedded", ["", "5", "{", '{"X": 5}', '{"columns": {"a": {"dtype": "f"}}, "X": "a"}', '{"datasets": {}}']
)
def test_an_embedded_spec_that_is_not_valid_is_damage(embedded):
    with pytest.raises(CorruptStoreError, match="the spec embedded in the store is not valid"):
        complete(spec(), storage(embedded))


def test_an_embedded_spec_of_a_later_format_is_no_damage():
    with pytest.raises(UnsupportedStoreError, match=r"a later version .* its spec has format 2, but .* reads format 1"):
        complete(spec(), storage({"format": 2, "X": "a", "unheard_of": 5}))


def test_a_role_that_the_embedded_spec_does_not_have_is_an_error_of_the_user():
    with pytest.raises(SpecError, match="X: unknown column 'a'") as caught:
        complete(spec(X="a"), storage(EMBEDDED))
    assert not isinstance(caught.value, CorruptStoreError)


def test_paths_of_the_store_stay_in_its_folder_and_those_of_the_user_may_leave_it():
    folder = Path("/data")
    inside = complete(spec().located(folder), storage(EMBEDDED))
    assert (inside.base, inside.root) == (folder, folder)
    free = complete(spec(splits={"t": {"file": "../t.npy"}}).located(folder), storage(EMBEDDED))
    assert (free.base, free.root) == (folder, None)


def test_dtypes_change_floating_columns_in_roles_and_allow_the_cast():
    completed = complete(spec(**ROLES), storage(), "float16")
    assert completed.columns["a"] == Array("float16", (2,))
    assert completed.columns["b"] == Array("int64") and completed.columns["y"].dtype == "float16"
    completed = complete(spec(**ROLES), storage(), {"X": "float64", "b": "int32"})
    assert [array.dtype for array in completed.columns.values()] == ["float64", "int32", "float64", "str"]


def test_neither_the_spec_nor_the_storage_is_changed():
    described, store = spec(), storage(EMBEDDED)
    before = described.to_mapping(), dict(store.columns)
    complete(described, store, "float32")
    assert (described.to_mapping(), dict(store.columns)) == before


def test_a_spec_is_validated_once(monkeypatch):
    described = spec(columns={"a": {"shape": [2]}}, X="a")
    made: list[type] = []
    original = DatasetSpec.__init__
    monkeypatch.setattr(DatasetSpec, "__init__", lambda self, **data: made.append(type(self)) or original(self, **data))
    complete(described, storage(), "float16")
    assert made == []
    complete(spec(), storage(EMBEDDED), "float32")
    assert made == [DatasetSpec, DatasetSpec]  # the spec of this test, and the embedded one


def test_a_complete_spec_equals_hashes_and_pickles_like_any_spec(tmp_path):
    completed = complete(spec(**ROLES), storage())
    assert isinstance(completed, CompleteSpec)
    twin = DatasetSpec.parse(completed.to_mapping())
    assert twin == completed and completed == twin and hash(twin) == hash(completed)
    copy = pickle.loads(pickle.dumps(completed))
    assert type(copy) is CompleteSpec and copy == completed and copy.base == completed.base
    completed.to_file(tmp_path / "s.yaml")
    again = CompleteSpec.from_file(tmp_path / "s.yaml")
    assert again.columns == completed.columns and again.splits == completed.splits


def test_a_complete_spec_without_splits_says_so_in_a_file():
    completed = complete(spec(splits={}, X="a"), storage())
    assert completed.to_mapping()["splits"] == {}


@pytest.mark.parametrize("missing", ["columns", "splits"])
def test_a_complete_spec_needs_columns_and_splits(missing):
    keys = {"columns": {"a": {}}, "X": "a", "splits": {}, "storage": STORAGE}
    del keys[missing]
    with pytest.raises(SpecError, match=f"{missing}: this key is missing"):
        CompleteSpec.parse(keys)


def test_infer_gives_the_spec_of_a_bare_file(tmp_path):
    np.savez(tmp_path / "x.npz", X=np.zeros((4, 3), np.float32), y=np.zeros(4), idx_train=np.array([0, 2]))
    found = kd.infer_spec(tmp_path / "x.npz")
    assert found.columns == {"X": Array("float32", (3,)), "y": Array("float64")}
    assert (found.X, found.y, found.splits) == ("X", "y", {"train": "idx_train"})
    found.to_file(tmp_path / "s.yaml")
    with kd.load_dataset(tmp_path / "s.yaml") as dataset:
        assert dataset.indices["train"].tolist() == [0, 2]


# -- names

ODD = ("IC50 (nM)", "IC50.nM", "%", "µ", "mol weight")


def test_a_stored_name_that_no_column_may_have_is_replaced():
    completed = complete(spec(X=list(ODD[:2]), y="mol weight", meta=["%"]), named(*ODD))
    assert (completed.X, completed.y, completed.meta) == (("IC50_nM", "IC50_nM_2"), "mol_weight", ("column",))
    stored_as = {name: array.stored_as for name, array in completed.columns.items()}
    assert stored_as == {"IC50_nM": ODD[0], "IC50_nM_2": ODD[1], "mol_weight": "mol weight", "column": "%"}
    names = list(complete(spec(), named(*ODD, "IC50_nM"), needs_X=False).columns)
    assert names == ["IC50_nM_2", "IC50_nM_3", "column", "column_2", "mol_weight", "IC50_nM"]


# -- random tables, as other programs write them

TEXTS = st.one_of(st.sampled_from(["", "NA", ">10000", "n.d.", "CCO", "1,200", "55%", "-"]), st.text("abc", max_size=3))
CELLS: dict[str, st.SearchStrategy[Any]] = {
    "integers": st.integers(-9, 9),
    "floats": st.floats(-9, 9),
    "bools": st.booleans(),
    "texts": TEXTS,
    "numbers and texts": st.one_of(st.integers(0, 9), TEXTS),
    "integers with gaps": st.one_of(st.none(), st.integers(0, 9)),
    "floats with gaps": st.one_of(st.none(), st.floats(-9, 9)),
}
NAMES = [
    "label",
    "target",
    "IC50",
    "smiles",
    "id",
    "Unnamed: 0",
    "x",
    "Y",
    "X_train",
    "y2",
    "0",
    "1",
    "index",
    "__index_level_0__",
]


@st.composite
def tables(draw: st.DrawFn, names: Sequence[str] = NAMES, least: int = 1) -> dict[str, list[Any]]:
    """A table of up to five columns, in which texts, gaps and numbers may be mixed."""
    rows = draw(st.integers(1, 5))
    chosen = draw(st.lists(st.sampled_from(names), min_size=least, max_size=5, unique=True))
    kinds = [draw(st.sampled_from(list(CELLS))) for _ in chosen]
    return {
        name: draw(st.lists(CELLS[kind], min_size=rows, max_size=rows))
        for name, kind in zip(chosen, kinds, strict=True)
    }


def written(table: Mapping[str, list[Any]], folder: Path, suffix: str) -> Path | None:
    """The table as a file; None if the format cannot contain it."""
    path = folder / f"t{suffix}"
    if suffix == ".csv":
        with path.open("w", newline="") as file:
            writer = csv.writer(file)
            writer.writerow(table)
            writer.writerows(zip(*table.values(), strict=True))
        return path
    if suffix == ".parquet":
        with suppress(pa.ArrowInvalid, pa.ArrowTypeError):
            pq.write_table(pa.table(dict(table)), path)
            return path
        return None
    arrays = {name: np.array(values) for name, values in table.items()}
    if any(array.dtype == object for array in arrays.values()):
        arrays = {name: array.astype(str) if array.dtype == object else array for name, array in arrays.items()}
    np.savez(path, **arrays)
    return path


@pytest.mark.parametrize("suffix", [".csv", ".parquet", ".npz"])
@settings(suppress_health_check=[HealthCheck.function_scoped_fixture], deadline=None)
@given(data=st.data())
def test_no_random_table_opens_with_a_role_that_its_names_do_not_say(
    suffix: str, tmp_path: Path, data: st.DataObject
) -> None:
    table = data.draw(tables())
    path = written(table, tmp_path, suffix)
    assume(path is not None)
    with pytest.raises(SpecError, match="does not specify which columns are X and which are y") as caught:
        kd.load_dataset(path)
    assert "load_dataset(" in str(caught.value)


@pytest.mark.parametrize("suffix", [".csv", ".parquet", ".npz"])
@settings(suppress_health_check=[HealthCheck.function_scoped_fixture], deadline=None)
@given(data=st.data())
def test_what_is_not_named_does_not_matter(suffix: str, tmp_path: Path, data: st.DataObject) -> None:
    table = data.draw(tables())
    numbers = data.draw(st.lists(st.floats(-9, 9), min_size=len(next(iter(table.values()))), max_size=5))
    rows = len(next(iter(table.values())))
    place = data.draw(st.integers(0, len(table)))
    columns = list(table.items())
    columns.insert(place, ("wanted", numbers[:rows]))
    path = written(dict(columns), tmp_path, suffix)
    assume(path is not None)
    with kd.load_dataset(path, X="wanted") as dataset:
        assert dataset.spec.y is None and dataset[:][0].tolist() == numbers[:rows]


@settings(suppress_health_check=[HealthCheck.function_scoped_fixture], deadline=None)
@given(table=tables(), data=st.data())
def test_names_that_say_the_roles_give_these_roles_and_no_other(
    table: dict[str, list[Any]], tmp_path: Path, data: st.DataObject
) -> None:
    rows = len(next(iter(table.values())))
    roles = data.draw(st.sampled_from([["X"], ["X", "y"], ["X0", "X1"], ["X0", "X1", "y"]]))
    columns = [*table.items(), *((name, [float(row) for row in range(rows)]) for name in roles)]
    path = written(dict(data.draw(st.permutations(columns))), tmp_path, ".csv")
    with kd.load_dataset(path) as dataset:
        assert sorted(dataset.spec.X_names) == [name for name in roles if name != "y"]
        assert dataset.spec.y_names == (("y",) if "y" in roles else ())
