"""The columns and arrays that the members of an NPZ file make up."""

from __future__ import annotations

from contextlib import closing

import numpy as np
import pytest

import kinoml_data as kd
from kinoml_data import Array, load_dataset
from kinoml_data.backends.npz.storage import NpzStorage
from kinoml_data.errors import CorruptStoreError, KinomlDataError, SpecError, UnsafeStoreError
from tests.builders import Canary
from tests.graphs import store_graphs


def test_the_flat_layout_may_come_from_numpy_and_without_checksums(tmp_path):
    rows = [np.full((2, n), n, np.int16) for n in (3, 0, 1)]
    np.savez(
        tmp_path / "data.npz",
        **{
            "X.values": np.concatenate([row.reshape(-1) for row in rows]),
            "X.shapes": np.array([row.shape for row in rows], np.uint8),
            "y": np.arange(3.0),
        },
    )
    ds = load_dataset(tmp_path / "data.npz")
    assert ds.spec.columns == {"X": Array("int16", (2, None)), "y": Array("float64")}
    for found, row in zip(ds[:][0], rows, strict=True):
        assert found.tolist() == row.tolist()


def test_arrays_that_a_spec_does_not_name_need_not_fit_its_columns(tmp_path):
    np.savez(
        tmp_path / "data.npz", X=np.zeros((3, 2)), Z=np.zeros((7, 7)), idx_train=np.array([2, 0]), other=np.arange(9)
    )
    columns = {"X": {"dtype": "float64", "shape": [2]}}
    spec = {"columns": columns, "X": "X", "storage": {"backend": "npz-lazy", "path": str(tmp_path / "data.npz")}}
    with kd.load_dataset(spec | {"splits": {"train": "idx_train"}}) as dataset:
        assert len(dataset) == 3 and len(dataset.split("train")) == 2


def test_an_array_without_axes_has_none_after_reading(tmp_path):
    np.savez(tmp_path / "data.npz", X=np.zeros((3, 2)), idx_train=np.array(1))
    with closing(NpzStorage(tmp_path / "data.npz", None)) as storage:
        assert storage.arrays["idx_train"].shape == () and storage.arrays["idx_train"] == 1


@pytest.fixture
def stored(tmp_path):
    return store_graphs(tmp_path)


def test_a_column_that_an_npz_has_not_is_named(stored):
    np.savez(stored / "bare.npz", X=np.ones((3, 2)), y=np.ones(3))
    spec = {"columns": {"z": {}}, "X": "z", "storage": {"backend": "npz-lazy", "path": "bare.npz"}}
    with pytest.raises(SpecError, match=r"bare\.npz: unknown stored column 'z'; known: X, y"):
        kd.load_dataset(spec, base=stored)


@pytest.mark.parametrize("key", ["X", "y", "idx_train", "X_s0_", "X_s0_a0_"])
def test_an_object_array_is_never_unpickled(tmp_path, key):
    arrays = {"X": np.zeros(1), "y": np.zeros(1)} if not key.startswith("X_s") else {"y": np.zeros(1)}
    arrays[key] = np.array([Canary(tmp_path / "ran")], object)
    np.savez(tmp_path / "x.npz", **arrays)
    with pytest.raises(UnsafeStoreError, match="object array"):
        kd.load_dataset(tmp_path / "x.npz")
    with pytest.raises(UnsafeStoreError):
        kd.load_dataset(tmp_path / "x.npz", backend="in-memory")
    assert not (tmp_path / "ran").exists()


@pytest.mark.parametrize("layout", ["packed", "kinoml", "compressed"])
def test_a_file_cut_at_any_length_is_an_error_of_the_library(tmp_path, layout):
    path = tmp_path / "whole.npz"
    if layout == "packed":
        kd.save_dataset(kd.from_arrays([np.arange(n) for n in (2, 0, 1)], np.arange(3.0)), path)
    elif layout == "kinoml":
        np.savez(path, X_s0_=np.arange(2), X_s1_=np.arange(3), y=np.arange(2.0), idx_train=np.array([0]))
    else:
        np.savez_compressed(path, X=np.arange(6).reshape(3, 2), y=np.arange(3.0))
    kd.load_dataset(path).close()
    whole = path.read_bytes()
    cut = tmp_path / "cut.npz"
    for size in range(len(whole)):
        cut.write_bytes(whole[:size])
        with pytest.raises(CorruptStoreError, match=r"cut\.npz"):
            kd.load_dataset(cut)


def test_a_changed_byte_is_never_a_wrong_number(tmp_path):
    path = tmp_path / "x.npz"
    kd.save_dataset(kd.from_arrays([np.arange(n, dtype=np.uint8) for n in (9, 0, 30)], np.arange(3.0)), path)
    whole, bad = path.read_bytes(), tmp_path / "bad.npz"
    with kd.load_dataset(path) as dataset:
        expected = [t.tolist() for t in dataset[:][0]], dataset[:][1].tolist(), dataset.spec
    for position in range(0, len(whole), 3):
        changed = bytearray(whole)
        changed[position] ^= 1 << position % 8
        bad.write_bytes(changed)
        try:
            with kd.load_dataset(bad) as dataset:
                X, y = dataset[:]
                assert ([t.tolist() for t in X], y.tolist()) == expected[:2]
        except KinomlDataError:
            pass
