"""The columns and arrays that the members of an NPZ file make up."""

from __future__ import annotations

import os
import pickle
from contextlib import closing

import numpy as np
import pytest

import kinoml_data as kd
from kinoml_data import Array, load_dataset
from kinoml_data.backends.npz.storage import NpzStorage
from kinoml_data.errors import CorruptStoreError, KinomlDataError, SpecError, StoreChangedError, UnsafeStoreError
from tests.backends.npz.files import flip
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


# -- time stamps

ROWS = np.arange(600.0).reshape(20, 30)


def write_own(path):
    kd.save_dataset(kd.from_arrays([row[: 10 + i] for i, row in enumerate(ROWS)], np.arange(20)), path)


def write_own_fixed(path):
    kd.save_dataset(kd.from_arrays(ROWS, np.arange(20)), path)


def write_whole(path):
    np.savez(path, X=ROWS, y=np.arange(20))


def write_members(path):
    np.savez(path, **{f"X_s{i}_": row for i, row in enumerate(ROWS)}, y=np.arange(20))


WRITERS = {
    "ragged": (write_own, "X.values", lambda row: 8 * sum(10 + i for i in range(row))),
    "fixed": (write_own_fixed, "X", lambda row: 240 * row),
    "whole": (write_whole, "X", lambda row: 240 * row),
    "members": (write_members, None, lambda row: 0),
}


def stamped(path, stamp):
    os.utime(path, ns=(stamp, stamp))


@pytest.mark.parametrize("options", [{}, {"io": "mmap"}, {"backend": "npz-reopen"}, {"verify": "always"}], ids=str)
@pytest.mark.parametrize(("write", "member", "offset"), WRITERS.values(), ids=WRITERS)
def test_another_time_stamp_is_no_change_but_what_is_read_is_compared_again(tmp_path, write, member, offset, options):
    path = tmp_path / "data.npz"
    write(path)
    stamped(path, 1)
    with kd.load_dataset(path, **options) as dataset:
        sent, expected = pickle.dumps(dataset), [row.tolist() for row, _ in dataset]
        for stamp in (2, 3):
            stamped(path, stamp)
            assert [row.tolist() for row, _ in dataset] == expected
            assert [row.tolist() for row in dataset[[5, 3]][0]] == [expected[5], expected[3]]
        assert pickle.loads(sent)[4][0].tolist() == expected[4]
        flip(path, member or "X_s7_", offset(7))
        stamped(path, 4)
        if write is not write_whole:  # an array without checksums of its rows is damaged as a whole
            assert dataset[6][0].tolist() == expected[6]
            assert [row.tolist() for row in dataset[[8, 6]][0]] == [expected[8], expected[6]]
        for rows in (7, [6, 7]):
            with pytest.raises(CorruptStoreError, match="its CRC-32 is"):
                dataset[rows]


@pytest.mark.parametrize(("write", "member", "offset"), WRITERS.values(), ids=WRITERS)
def test_without_comparisons_another_time_stamp_is_a_change(tmp_path, write, member, offset):
    write(tmp_path / "data.npz")
    with kd.load_dataset(tmp_path / "data.npz", verify="never") as dataset:
        dataset[3]
        stamped(tmp_path / "data.npz", 1)
        with pytest.raises(StoreChangedError):
            dataset[3]


@pytest.mark.parametrize("write", [write_own, write_members])
def test_other_rows_of_the_same_size_are_a_change(tmp_path, write):
    path = tmp_path / "data.npz"
    write(path)
    with kd.load_dataset(path) as dataset:
        dataset[3]
        data = path.read_bytes()
        arrays = np.load(path)
        np.savez(tmp_path / "zeros.npz", **{name: np.zeros_like(arrays[name]) for name in arrays.files})
        for content in ((tmp_path / "zeros.npz").read_bytes(), data[:-30] + bytes(30)):
            assert len(content) == len(data)
            path.write_bytes(content)
            with pytest.raises(StoreChangedError):
                dataset[3]


def test_a_reopened_file_may_be_replaced_by_a_copy_and_by_nothing_else(tmp_path):
    path = tmp_path / "data.npz"
    write_own(path)
    with kd.load_dataset(path, backend="npz-reopen") as dataset:
        expected = dataset[3][0].tolist()
        (tmp_path / "copy.npz").write_bytes(path.read_bytes())
        (tmp_path / "copy.npz").replace(path)
        assert dataset[3][0].tolist() == expected
        flip(path, "X.values", 8 * sum(10 + i for i in range(3)))
        (tmp_path / "copy.npz").write_bytes(path.read_bytes())
        (tmp_path / "copy.npz").replace(path)
        assert dataset[4][0].tolist() == (ROWS[4][:14]).tolist()
        with pytest.raises(CorruptStoreError, match="row 3: its CRC-32"):
            dataset[3]
