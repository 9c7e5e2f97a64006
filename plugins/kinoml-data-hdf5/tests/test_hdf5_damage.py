"""Damage is an error, or makes no difference; a file that changes is noticed."""

from __future__ import annotations

import json
import os
from contextlib import closing
from pathlib import Path

import h5py
import kinoml_data as kd
import numpy as np
import pytest
from kinoml_data.errors import (
    CorruptStoreError,
    KinomlDataError,
    SpecError,
    StoreChangedError,
    StoreNotFoundError,
    UnsafeStoreError,
    UnsupportedStoreError,
)
from kinoml_data.testing import Example, mixed, same_array, same_rows
from kinoml_data.testing.examples import sharing

from kinoml_data_hdf5 import Hdf5

EXAMPLE, SHARING = mixed(), sharing()  # in the other one, rows share values and have keys


def stored(path: Path, example: Example = EXAMPLE) -> Hdf5:
    backend = Hdf5(path=path)
    batches = example.batches(indexed=example is SHARING)
    backend.write(example.columns, batches, arrays=example.arrays, spec=example.spec)
    return backend


def same_everything(backend: Hdf5, example: Example = EXAMPLE) -> None:
    with closing(backend.open(None)) as storage:
        assert set(storage.columns) == set(example.columns)
        same_rows(storage, example, range(len(example)))
        assert storage.spec == example.spec
        assert set(storage.arrays) == set(example.arrays)
        for name, array in example.arrays.items():
            same_array(storage.arrays[name], array, name)


@pytest.mark.parametrize("example", [EXAMPLE, SHARING], ids=lambda example: example.name)
def test_a_flipped_byte_is_an_error_or_makes_no_difference(tmp_path, example):
    backend = stored(tmp_path / "data.h5", example)
    held = backend.path.read_bytes()
    noticed, tried = 0, range(0, len(held), 37)
    for at in tried:
        backend.path.write_bytes(held[:at] + bytes([held[at] ^ 0x21]) + held[at + 1 :])
        try:
            same_everything(backend, example)
        except KinomlDataError:
            noticed += 1
    assert noticed > len(tried) // 3 > 100
    backend.path.write_bytes(held)
    same_everything(backend, example)


@pytest.mark.parametrize("size", [0, 1, 8, 100, 0.1, 0.5, 0.9, 0.999])
def test_a_file_cut_short_is_an_error(tmp_path, size):
    backend = stored(tmp_path / "data.h5")
    held = backend.path.read_bytes()
    backend.path.write_bytes(held[: int(size * len(held)) if isinstance(size, float) else size])
    with pytest.raises(CorruptStoreError):
        same_everything(backend)


@pytest.mark.parametrize("example", [EXAMPLE, SHARING], ids=lambda example: example.name)
def test_a_dataset_that_is_lost_or_changed_is_an_error(tmp_path, example):
    backend = stored(tmp_path / "data.h5", example)
    held = backend.path.read_bytes()
    with h5py.File(backend.path) as file:
        names = list(file)
    for name in names:
        with h5py.File(backend.path, "r+") as file:
            del file[name]
        with pytest.raises(CorruptStoreError):
            same_everything(backend, example)
        backend.path.write_bytes(held)
        with h5py.File(backend.path, "r+") as file:
            changed = file[name][...]
            if changed.size == 0:
                continue
            changed.reshape(-1).view(np.uint8)[0] ^= 1
            file[name][...] = changed
        with pytest.raises(KinomlDataError):
            same_everything(backend, example)
        backend.path.write_bytes(held)


def test_a_damaged_row_is_named_as_often_as_verify_says(tmp_path):
    X = np.arange(600.0).reshape(20, 30)
    Hdf5(path=tmp_path / "data.h5").write({"X": kd.Array("float64", (30,))}, [{"X": X}])
    with h5py.File(tmp_path / "data.h5", "r+") as file:
        file["X"][7, 3] = -1
    for verify in ("first", "always"):
        with closing(Hdf5(path=tmp_path / "data.h5", verify=verify).open(None)) as storage:
            assert storage.has_checksums
            assert storage.read(np.array([8, 6]), ["X"])["X"].tolist() == X[[8, 6]].tolist()
            with pytest.raises(CorruptStoreError, match=r"column 'X', row 7"):
                storage.read(np.array([8, 7]), ["X"])
    backend = Hdf5(path=tmp_path / "data.h5", verify="never")
    with closing(backend.open(None)) as storage:
        assert storage.read(np.array([7]), ["X"])["X"][0, 3] == -1


def test_a_file_that_is_rewritten_is_noticed(tmp_path):
    backend = stored(tmp_path / "data.h5")
    with h5py.File(backend.path, "r") as file:
        at = file["_kinoml_data"].id.get_offset()
    with closing(backend.open(None)) as storage:
        data = backend.path.read_bytes()
        backend.path.write_bytes(data[:at] + bytes([data[at] ^ 1]) + data[at + 1 :])
        os.utime(backend.path, ns=(1, 1))
        with pytest.raises(StoreChangedError):
            same_rows(storage, EXAMPLE, [0])


@pytest.mark.parametrize("verify", ["first", "always"])
def test_another_time_stamp_is_no_change_but_every_row_is_compared_again(tmp_path, verify):
    X = np.arange(80_000.0).reshape(20, 4000)  # more than HDF5 keeps in memory
    backend = Hdf5(path=tmp_path / "data.h5", verify=verify)
    backend.write({"X": kd.Array("float64", (4000,))}, [{"X": X}])
    with h5py.File(backend.path, "r") as file:
        at = file["X"].id.get_offset() + 7 * 4000 * 8
    with closing(backend.open(None)) as storage:
        storage.read(np.arange(20), ["X"])
        backend.path.touch()
        assert storage.read(np.arange(20), ["X"])["X"].tolist() == X.tolist()
        data = backend.path.read_bytes()
        backend.path.write_bytes(data[:at] + bytes([data[at] ^ 1]) + data[at + 1 :])
        os.utime(backend.path, ns=(1, 1))
        assert storage.read(np.array([8, 6]), ["X"])["X"].tolist() == X[[8, 6]].tolist()
        with pytest.raises(CorruptStoreError, match=r"column 'X', row 7"):
            storage.read(np.array([8, 7]), ["X"])


@pytest.mark.parametrize("own", [True, False])
def test_without_comparisons_another_time_stamp_is_a_change(tmp_path, own):
    X = np.arange(600.0).reshape(20, 30)
    if own:
        Hdf5(path=tmp_path / "data.h5").write({"X": kd.Array("float64", (30,))}, [{"X": X}])
    else:
        with h5py.File(tmp_path / "data.h5", "w") as file:
            file["X"] = X
    with closing(Hdf5(path=tmp_path / "data.h5", verify="never" if own else "first").open(None)) as storage:
        storage.read(np.arange(20), ["X"])
        os.utime(tmp_path / "data.h5", ns=(1, 1))
        with pytest.raises(StoreChangedError):
            storage.read(np.arange(20), ["X"])


def test_a_dataset_over_another_file_is_noticed(tmp_path):
    import pickle

    for name, scale in (("data.h5", 1.0), ("other.h5", 2.0)):
        with h5py.File(tmp_path / name, "w") as file:
            file["X"], file["y"] = np.full((10, 20), scale), np.arange(10)
    with kd.load_dataset(tmp_path / "data.h5") as dataset:
        sent = pickle.dumps(dataset)
    (tmp_path / "other.h5").replace(tmp_path / "data.h5")
    with pytest.raises(StoreChangedError):
        pickle.loads(sent)[0]


def test_the_same_content_is_the_same_file(tmp_path):
    assert stored(tmp_path / "a.h5").path.read_bytes() == stored(tmp_path / "b.h5").path.read_bytes()


def test_a_later_version_is_refused(tmp_path):
    backend = stored(tmp_path / "data.h5")
    with h5py.File(backend.path, "r+") as file:
        said = json.loads(file["_kinoml_data"][:].tobytes()) | {"format": 2}
        del file["_kinoml_data"]
        file["_kinoml_data"] = np.frombuffer(json.dumps(said).encode(), np.uint8)
    with pytest.raises(UnsupportedStoreError, match="version 2 of the layout"):
        backend.open(None)


def test_a_path_that_is_not_a_file_is_not_found(tmp_path):
    os.mkfifo(tmp_path / "fifo.h5")
    for path in (tmp_path / "nothing.h5", tmp_path, tmp_path / "fifo.h5"):
        with pytest.raises(StoreNotFoundError):
            Hdf5(path=path).open(None)


def test_a_read_only_place_is_read(tmp_path):
    backend = stored(tmp_path / "data.h5")
    backend.path.chmod(0o444)
    tmp_path.chmod(0o555)
    try:
        same_everything(backend)
    finally:
        tmp_path.chmod(0o755)


@pytest.mark.parametrize("name", ["a/b", "..", "", "a.shapes", "_spec", "_kinoml_data"])
def test_names_that_hdf5_cannot_have_are_refused(tmp_path, name):
    with pytest.raises(UnsupportedStoreError, match="name"):
        Hdf5(path=tmp_path / "data.h5").write({name: kd.Array("float32")}, iter(()))
    assert list(tmp_path.iterdir()) == []


def test_options_for_foreign_files_are_refused_for_files_of_the_library(tmp_path):
    backend = stored(tmp_path / "data.h5")
    other = Hdf5(path=backend.path, group="g")
    with pytest.raises(SpecError, match="remove the options `ragged` and `group`"):
        other.open(None)
    with pytest.raises(UnsupportedStoreError, match="own layout"):
        other.write({"y": kd.Array("float32")}, iter(()), overwrite=True)


def test_a_dataset_of_made_up_size_is_refused(tmp_path):
    with h5py.File(tmp_path / "data.h5", "w") as file:
        file.create_dataset("y", (1 << 40,), "f8", chunks=(1 << 10,))
    with pytest.raises(CorruptStoreError, match="never written"):
        Hdf5(path=tmp_path / "data.h5").open(None)
    with pytest.raises(UnsafeStoreError, match="but only 0 are stored"):
        Hdf5(path=tmp_path / "data.h5", missing_chunks="fill").open(None)
