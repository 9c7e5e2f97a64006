"""`complete`: from a spec and an open storage to a complete spec, without a file."""

from __future__ import annotations

import json
import pickle
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import kinoml_data as kd
from kinoml_data import Array, ArrayStorage, CompleteSpec, DatasetSpec
from kinoml_data.errors import CorruptStoreError, SpecError
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


def test_columns_roles_and_splits_come_from_the_store():
    completed = complete(spec(), storage())
    assert completed.columns == {
        "a": Array("float32", (2,)),
        "b": Array("int64"),
        "y": Array(np.float64),
        "id": Array(str),
    }
    assert (completed.X, completed.y, completed.meta) == (("a", "b"), "y", ("id",))
    assert completed.splits == {"train": "idx_train"}


def test_roles_that_the_spec_names_are_kept_and_the_other_columns_are_meta():
    completed = complete(spec(X="b", splits={}), storage())
    assert (completed.X, completed.y, completed.meta, completed.splits) == ("b", None, ("a", "y", "id"), {})
    completed = complete(spec(y="b", meta=["id"]), storage())
    assert (completed.X, completed.y, completed.meta) == (("a", "y"), "b", ("id",))


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
    completed = complete(spec(), storage({"name": "stored"}))
    assert (completed.name, completed.X, completed.y) == ("stored", ("a", "b"), "y")


@pytest.mark.parametrize(
    "embedded", ["", "5", "{", '{"X": 5}', '{"columns": {"a": {"dtype": "f"}}, "X": "a"}', '{"datasets": {}}']
)
def test_an_embedded_spec_that_is_not_valid_is_damage(embedded):
    with pytest.raises(CorruptStoreError, match="the spec embedded in the store is not valid"):
        complete(spec(), storage(embedded))


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
    completed = complete(spec(), storage(), "float16")
    assert completed.columns["a"] == Array("float16", (2,), cast="same_kind")
    assert completed.columns["b"] == Array("int64") and completed.columns["y"].dtype == "float16"
    completed = complete(spec(), storage(), {"X": "float64", "b": "int32"})
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
    completed = complete(spec(), storage())
    assert isinstance(completed, CompleteSpec)
    twin = DatasetSpec.parse(completed.to_mapping())
    assert twin == completed and completed == twin and hash(twin) == hash(completed)
    copy = pickle.loads(pickle.dumps(completed))
    assert type(copy) is CompleteSpec and copy == completed and copy.base == completed.base
    completed.to_file(tmp_path / "s.yaml")
    again = CompleteSpec.from_file(tmp_path / "s.yaml")
    assert again.columns == completed.columns and again.splits == completed.splits


def test_a_complete_spec_without_splits_says_so_in_a_file():
    completed = complete(spec(splits={}), storage())
    assert completed.to_mapping()["splits"] == {}


@pytest.mark.parametrize("missing", ["columns", "X", "splits"])
def test_a_complete_spec_needs_columns_X_and_splits(missing):
    keys = {"columns": {"a": {}}, "X": "a", "splits": {}, "storage": STORAGE}
    del keys[missing]
    with pytest.raises(SpecError, match=f"{missing}: Field required"):
        CompleteSpec.parse(keys)


def test_infer_gives_the_spec_of_a_bare_file(tmp_path):
    np.savez(tmp_path / "x.npz", X=np.zeros((4, 3), np.float32), y=np.zeros(4), idx_train=np.array([0, 2]))
    found = kd.infer_spec(tmp_path / "x.npz")
    assert found.columns == {"X": Array("float32", (3,)), "y": Array("float64")}
    assert (found.X, found.y, found.splits) == ("X", "y", {"train": "idx_train"})
    found.to_file(tmp_path / "s.yaml")
    with kd.load_dataset(tmp_path / "s.yaml") as dataset:
        assert dataset.indices["train"].tolist() == [0, 2]
