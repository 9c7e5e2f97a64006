import json
import re

import numpy as np
import pytest
from pydantic import ValidationError

import kinoml_data as kd
from kinoml_data import DatasetSpec
from kinoml_data.contracts import backend as contract
from kinoml_data.errors import SpecError, StoreNotFoundError, UnsupportedStoreError
from kinoml_data.layouts.checksums import row_checksums
from kinoml_data.plugin import AnyBackend, Array, ArrayStorage, Backend, DataPath


class Numbers(Backend):
    name = "numbers"
    path: DataPath

    def open(self, columns):
        return ArrayStorage({"X": np.arange(10), "y": np.arange(20.0).reshape(10, 2)})


class Around(Backend):
    name = "around"
    source: AnyBackend

    def open(self, columns):
        return self.source.open(columns)


def test_the_example_of_a_backend_reads_a_folder(example, tmp_path):
    np.save(tmp_path / "X.npy", np.arange(6).reshape(3, 2))
    with example(contract, "NpyFolder")(path=tmp_path).open(None) as storage:
        assert storage.read(np.array([2, 0]), ["X"])["X"].tolist() == [[4, 5], [0, 1]]


def test_a_storage_closes_itself_at_the_end_of_a_with_block():
    calls = []
    with ArrayStorage({"X": np.zeros(2)}, close=lambda: calls.append("closed")) as storage:
        assert len(storage) == 2 and calls == []
    assert calls == ["closed"]


def test_batches_give_all_rows_of_the_requested_columns_in_order(tmp_path):
    storage = Numbers(path=tmp_path).open(None)
    parts = list(storage.batches(["y"], size=4))
    assert [len(part["y"]) for part in parts] == [4, 4, 2] and all(list(part) == ["y"] for part in parts)
    assert np.concatenate([part["y"] for part in parts]).tolist() == np.arange(20.0).reshape(10, 2).tolist()
    assert list(next(storage.batches())) == ["X", "y"]


def test_read_row_gives_a_new_array_of_the_rows_own_shape(tmp_path):
    storage = Numbers(path=tmp_path).open(None)
    row = storage.read_row(3, ["X", "y"])
    row["y"][:] = -1
    assert row["X"].shape == () and storage.read_row(3, ["y"])["y"].tolist() == [6, 7]


def test_a_backend_that_does_not_define_write_refuses_to_write(tmp_path):
    with pytest.raises(UnsupportedStoreError, match="'numbers' cannot write"):
        Numbers(path=tmp_path).write({"X": Array("int64")}, [])
    assert not Numbers.can_write


def test_a_backend_serializes_with_its_name_and_that_of_its_source(tmp_path):
    dumped = Around(source=Numbers(path=tmp_path)).model_dump(mode="json")
    assert dumped == {"backend": "around", "source": {"backend": "numbers", "path": str(tmp_path)}}


def test_a_source_given_by_name_outside_a_spec_is_an_error():
    with pytest.raises(ValidationError, match="names are looked up only in a spec"):
        Around(source={"backend": "numbers", "path": "x"})
    with pytest.raises(ValidationError, match="is not a backend"):
        Around(source="numbers")


@pytest.mark.parametrize("path", ["", "a\0b"])
def test_an_empty_path_or_one_with_a_nul_character_is_an_error(path):
    with pytest.raises(ValidationError, match="NUL"):
        Numbers(path=path)


def test_a_path_that_leaves_the_root_is_an_error(tmp_path):
    contract.check_inside(tmp_path / "a" / "b", tmp_path)
    contract.check_inside(tmp_path, None)
    with pytest.raises(SpecError, match="leaves the dataset's folder"):
        contract.check_inside(tmp_path / ".." / "b", tmp_path)


def embedded_in(folder, splits):
    """An NPZ in `folder` that carries a spec with these splits."""
    text = json.dumps({"columns": {"X": {"dtype": "float64"}}, "X": "X", "splits": splits})
    spec_bytes = np.frombuffer(text.encode(), np.uint8)
    crc = row_checksums(np.zeros(4), np.arange(4))
    np.savez(folder / "x.npz", **{"X": np.zeros(4), "X.crc32": crc, "_spec": spec_bytes})
    return folder / "x.npz"


@pytest.mark.parametrize(
    "path",
    ["../rows.npy", "sub/../../rows.npy", "link.npy", "linked/rows.npy", "{outside}/rows.npy", "~/../../rows.npy"],
)
def test_a_spec_embedded_in_a_store_may_not_leave_its_folder(tmp_path, path):
    (tmp_path / "in" / "sub").mkdir(parents=True)
    (tmp_path / "in" / "~").mkdir()
    np.save(tmp_path / "rows.npy", np.array([0, 1]))
    (tmp_path / "in" / "link.npy").symlink_to(tmp_path / "rows.npy")
    (tmp_path / "in" / "linked").symlink_to(tmp_path)
    file = embedded_in(tmp_path / "in", {"train": {"file": path.format(outside=tmp_path)}})
    with pytest.raises(SpecError, match="leaves the dataset's folder"):
        kd.load_dataset(file)


def test_a_user_may_name_any_file_over_a_store_that_carries_a_spec(tmp_path):
    (tmp_path / "in").mkdir()
    np.save(tmp_path / "rows.npy", np.array([2]))
    file = embedded_in(tmp_path / "in", {"train": {"file": "../rows.npy"}})
    mine = {"storage": {"backend": "npz-lazy", "path": file.name}, "splits": {"mine": {"file": "../rows.npy"}}}
    with kd.load_dataset(mine, base=tmp_path / "in") as dataset:
        assert dataset.indices["mine"].tolist() == [2]


def test_a_spec_embedded_in_a_store_may_name_files_in_its_folder(tmp_path):
    (tmp_path / "sub").mkdir()
    np.save(tmp_path / "sub" / "rows.npy", np.array([3, 1]))
    with kd.load_dataset(embedded_in(tmp_path, {"train": {"file": "sub/../sub/rows.npy"}})) as dataset:
        assert dataset.indices["train"].tolist() == [3, 1]


def test_a_storage_with_a_root_may_not_leave_it(tmp_path):
    np.savez(tmp_path / "x.npz", X=np.zeros((4, 3)))
    (tmp_path / "in").mkdir()
    for path in ("../x.npz", str(tmp_path / "x.npz")):
        inside = DatasetSpec.parse(
            {"storage": {"backend": "npz-lazy", "path": path}}, base=tmp_path / "in", root=tmp_path / "in"
        )
        with pytest.raises(SpecError, match="leaves the dataset's folder"):
            kd.load_dataset(inside)
        with kd.load_dataset(inside.located(tmp_path / "in")) as dataset:
            assert len(dataset) == 4


@pytest.mark.parametrize("path", ["", "a\0b.npz", None, 5, ["x.npz"]], ids=repr)
def test_a_path_that_is_not_valid_is_refused(path):
    with pytest.raises(SpecError, match=r"storage\.path"):
        kd.load_dataset({"storage": {"backend": "npz-lazy", "path": path}})


def test_a_home_or_a_variable_in_a_path_does_not_leave_the_folder_of_a_dataset(tmp_path, monkeypatch):
    monkeypatch.setenv("HOME", str(tmp_path.parent))
    for path in ("~/x.npz", "$HOME/x.npz"):
        spec = {"storage": {"backend": "npz-lazy", "path": path}}
        with pytest.raises(StoreNotFoundError, match=re.escape(str(tmp_path.parent / "x.npz"))):
            kd.load_dataset(spec, base=tmp_path)
        with pytest.raises(SpecError, match="leaves the dataset's folder"):
            kd.load_dataset(DatasetSpec.parse(spec, tmp_path, tmp_path))
