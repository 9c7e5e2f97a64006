"""The columns and arrays that the members of an NPZ file make up."""

from __future__ import annotations

import os
import pickle
import re
import warnings
import zipfile
from contextlib import closing

import numpy as np
import pytest

import kinoml_data as kd
from kinoml_data import Array, load_dataset
from kinoml_data.backends.npz.backend import NpzLazy
from kinoml_data.backends.npz.storage import NpzStorage
from kinoml_data.columns import Ragged
from kinoml_data.errors import (
    CorruptStoreError,
    KinomlDataError,
    SpecError,
    SplitError,
    StoreChangedError,
    UnsafeStoreError,
    UnsupportedStoreError,
)
from tests.backends.npz.files import flip
from tests.builders import Canary, keyed_batches
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
    for options in ({}, {"backend": "in-memory"}):
        if key != "idx_train":
            with pytest.raises(UnsafeStoreError, match=rf"'{key}.npy' is an object array, .* store it as numbers"):
                kd.load_dataset(tmp_path / "x.npz", X=key[0], **options)
            with NpzLazy(path=tmp_path / "x.npz").open(None) as storage:
                assert list(storage.unreadable) == [key[0]] and set(storage.columns) == {"X", "y"} - {key[0]}
        else:
            with pytest.raises(UnsafeStoreError, match=r"'idx_train\.npy' is an object array"):
                kd.load_dataset(tmp_path / "x.npz", **options)
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


# -- only what is asked for is looked at

ROWS = np.arange(600.0).reshape(20, 30)

ODD = {
    "objects": (np.array([{}, 1, "a"], object), "is an object array, which would need unpickling; store it as numbers"),
    "dates": (np.array(["2020-01-01"] * 3, "M8[D]"), r'contains datetime64\[D\].*store it as \.astype\("int64"\)'),
    "spans": (np.zeros(3, "m8[s]"), r'contains timedelta64\[s\].*store it as \.astype\("int64"\)'),
    "records": (np.zeros(3, [("a", "i4"), ("b", "f8")]), "is a structured array; store each field"),
    "objects in records": (np.zeros(3, [("a", "O")]), "is an object array"),
    "bfloat16": (np.zeros(3, "V2"), r'2 bytes without a type, as numpy stores bfloat16.*\.astype\("float32"\)'),
    "float8": (np.zeros(3, "V1"), r'\.astype\("float32"\)'),
    "voids": (np.zeros(3, "V5"), "has dtype .V5"),
    "long doubles": (np.zeros(3, np.longdouble), r'contains float128.*\.astype\("float64"\)'),
    "long complex": (np.zeros(3, np.clongdouble), r'contains complex256.*\.astype\("complex128"\)'),
    "texts of two axes": (np.array([["a"], ["b"], ["c"]]), "contains text with 2 axes; store one text per row"),
    "a single value": (np.float64(3), "is a single value, not a sequence of rows"),
    "another length": (np.zeros(7), "has 7 rows, but the others have 3"),
}
SPEC = {"columns": {"X": {"dtype": "float64", "shape": [2]}, "y": {"dtype": "float64"}}, "X": "X", "y": "y"}


@pytest.mark.parametrize("save", [np.savez, np.savez_compressed])
@pytest.mark.parametrize(("odd", "said"), ODD.values(), ids=ODD)
def test_a_member_that_cannot_be_read_matters_only_if_it_is_asked_for(tmp_path, odd, said, save):
    path = tmp_path / "odd.npz"
    save(path, X=np.ones((3, 2)), y=np.arange(3.0), odd=odd, idx_train=np.array([0, 2]))
    storage = {"backend": "npz-lazy", "path": str(path)}
    for source in (path, SPEC | {"storage": storage}, SPEC | {"storage": {"backend": "in-memory", "source": storage}}):
        with kd.load_dataset(source) as dataset:
            assert dataset[:][1].tolist() == [0, 1, 2] and "odd" not in dataset.spec.columns
    with kd.load_dataset(path, X=["X"], y="y") as dataset:
        assert dataset.split("train")[:][1].tolist() == [0, 2]
    with NpzLazy(path=path).open(None) as opened:
        assert list(opened.columns) == ["X", "y"] and list(opened.unreadable) == ["odd"]
        assert re.search(said, opened.unreadable["odd"]) and "odd.npz: member 'odd.npy'" in opened.unreadable["odd"]
    if odd.shape != (7,):
        with pytest.raises((UnsupportedStoreError, UnsafeStoreError), match=said):
            NpzLazy(path=path).open({"X": None, "odd": None})
        with pytest.raises(UnsupportedStoreError, match=said):
            np.savez(path, odd=odd)
            kd.load_dataset(path)
    else:
        with pytest.raises(SpecError, match="X has 3, odd has 7; name columns of one table"):
            NpzLazy(path=path).open({"X": None, "odd": None})


def test_a_bfloat16_array_says_how_to_store_it(tmp_path):
    ml_dtypes = pytest.importorskip("ml_dtypes")
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # numpy may warn that the type is lost
        np.savez(tmp_path / "b.npz", X=np.zeros((3, 2)).astype(ml_dtypes.bfloat16), y=np.zeros(3))
    with pytest.raises(UnsupportedStoreError, match=r'bfloat16.*store it as \.astype\("float32"\)'):
        kd.load_dataset(tmp_path / "b.npz", X="X", y="y")


@pytest.mark.parametrize("form", ["csr", "csc", "coo", "bsr", "dia"])
def test_a_sparse_matrix_of_scipy_says_how_to_store_it(tmp_path, form):
    sparse = pytest.importorskip("scipy.sparse")
    sparse.save_npz(tmp_path / "s.npz", sparse.random(6, 4, 0.5, form))
    with pytest.raises(
        UnsupportedStoreError, match=r"sparse matrix of SciPy.*numpy\.savez\(path, X=matrix\.toarray\(\)\)"
    ):
        kd.load_dataset(tmp_path / "s.npz")


@pytest.mark.parametrize("save", [np.savez, np.savez_compressed])
@pytest.mark.parametrize("layout", ["whole", "rows", "flat"])
def test_damage_matters_only_in_what_is_read(tmp_path, layout, save):
    path = tmp_path / "a.npz"
    other = {"whole": {"z": ROWS}, "rows": {f"X_s{i}": row for i, row in enumerate(ROWS)}}.get(layout)
    other = other or {"z.values": ROWS.reshape(-1), "z.shapes": np.full((20, 1), 30)}
    save(path, y=np.arange(20.0), **other)
    name = next(iter(other))
    data = path.read_bytes()
    at = data.index(f"{name}.npy".encode()) + len(name) + 4 + 20 + 20
    path.write_bytes(data[:at] + bytes([data[at] ^ 16]) + data[at + 1 :])  # in the npy header, or near it
    column = "X" if layout == "rows" else "z"
    with NpzLazy(path=path).open({"y": None}) as storage:
        assert storage.read(np.array([3]), ["y"])["y"] == 3
    for columns in ({"y": None, column: None}, None):  # what is damaged is never left out as something that is not read
        with pytest.raises(CorruptStoreError), NpzLazy(path=path).open(columns) as storage:
            storage.read(np.arange(20), [column])


def test_splits_are_read_only_if_they_are_needed(tmp_path):
    path, text = tmp_path / "a.npz", np.array(["a", "b", "c"])
    np.savez(path, X=np.ones((3, 2)), idx_train=np.array([0]), idx_names=text, mine=np.array([1, 2]), text=text)
    spec = {"columns": {"X": {"dtype": "float64", "shape": [2]}}, "X": "X"}
    spec |= {"storage": {"backend": "npz-lazy", "path": str(path)}}
    with kd.load_dataset(spec | {"splits": {"a": "mine", "b": "idx_train"}}) as dataset:
        assert {name: rows.tolist() for name, rows in dataset.indices.items()} == {"a": [1, 2], "b": [0]}
    with pytest.raises(SplitError, match=r"split 'a': row numbers must be integers, but these are <U1, such as 'a'"):
        kd.load_dataset(spec | {"splits": {"a": "text"}})
    with pytest.raises(SplitError, match="unknown array of the store 'nine'"):
        kd.load_dataset(spec | {"splits": {"a": "nine"}})
    with pytest.raises(SplitError, match=r"split 'names': row numbers must be integers, but these are <U1"):
        kd.load_dataset(path)
    with NpzLazy(path=path).open({"X": None}) as storage:
        assert list(storage.arrays) == ["idx_train", "idx_names"] and len(storage.arrays) == 2
        assert "mine" in storage.arrays and "nine" not in storage.arrays


def test_members_of_any_name_are_columns_and_others_than_arrays_are_ignored(tmp_path):
    path = tmp_path / "a.npz"
    held = {
        "ids": np.array(["a", "b", "c"]),
        "IC50 (nM)": np.arange(3.0),
        "sub/f": np.ones((3, 4)),
        "gr\u00f6\u00dfe": np.arange(3),
    }
    np.savez(path, **held, classes=np.array(["x", "y"]))
    with zipfile.ZipFile(path, "a") as file:
        for name in ("README.txt", "sub/", "__MACOSX/._ids.npy", "sub/._f.npy", ".DS_Store", "Thumbs.db", "z.npy.bak"):
            file.writestr(name, b"no array" if not name.endswith("/") else b"")
    with NpzLazy(path=path).open(None) as storage:
        assert set(storage.columns) == set(held) and set(storage.unreadable) == {"classes"} and len(storage) == 3
    with kd.load_dataset(path, X="sub/f", y="IC50 (nM)", meta="ids") as dataset:
        assert dataset[2][1] == 2 and dataset[2][0].tolist() == [1] * 4
    with pytest.raises(
        SpecError, match=r"(?s)does not specify which columns are X.*ids +str.*classes +not readable: .*has 2 rows"
    ):
        kd.load_dataset(path)


def test_members_of_as_many_lengths_as_there_are_members_are_no_table(tmp_path):
    np.savez(tmp_path / "a.npz", a=np.arange(3), b=np.arange(5))
    with pytest.raises(SpecError, match="a has 3, b has 5; name columns of one table"):
        kd.load_dataset(tmp_path / "a.npz")
    with kd.load_dataset(tmp_path / "a.npz", X="b") as dataset:
        assert len(dataset) == 5


# -- time stamps


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


KEYS = np.array([0, 1, 2, 1, 0, 3])
ATOMS = Ragged.from_rows([np.arange(n * 3.0).reshape(n, 3) for n in (2, 0, 4, 1)], "float64", 2)
NAMES = Ragged.from_strings(["a", "", "bc", "é"])
FIXED = np.arange(40.0).reshape(4, 10)
SHARED = {"atoms": ATOMS.take(KEYS), "name": NAMES.take(KEYS), "fixed": FIXED[KEYS], "small": KEYS * 2, "y": KEYS + 0.5}
COLUMNS = {
    **{"atoms": Array("float64", (None, 3)), "name": Array("str"), "fixed": Array("float64", (10,))},
    **{"small": Array("int64"), "y": Array("float64")},
}


def keyed(path, **options):
    """A file in which the rows of all columns but y share values."""
    backend = NpzLazy(path=path, **options)
    backend.write(COLUMNS, keyed_batches(SHARED, [name for name in COLUMNS if name != "y"]))
    return backend


@pytest.mark.parametrize("options", [{}, {"compress": True}, {"io": "mmap", "verify": "never"}], ids=str)
def test_rows_that_share_values_are_those_that_were_written(tmp_path, options):
    with keyed(tmp_path / "a.npz", **options).open(None) as storage:
        assert len(storage) == 6 and storage.columns == COLUMNS and not storage.unreadable
        shared = storage.keys("atoms")
        assert shared.tolist() == KEYS.tolist() and shared.dtype == np.uint8 and storage.keys("y") is None
        assert all(storage.keys(name) is shared for name in ("name", "fixed", "small"))
        assert storage.shapes("atoms").tolist() == SHARED["atoms"].shapes.tolist()
        assert storage.shapes("fixed") is None
        rows = np.array([5, 0, 4, 1, 3, 2])
        read = storage.read(rows, list(COLUMNS))
        for name in ("atoms", "name"):
            expected = SHARED[name].take(rows)
            assert read[name].values.tobytes() == expected.values.tobytes()
            assert read[name].shapes.tolist() == expected.shapes.tolist()
        for name in ("fixed", "small", "y"):
            assert read[name].tolist() == SHARED[name][rows].tolist()
        for i, row in enumerate(rows.tolist()):
            assert all(a.tolist() == read[name][i].tolist() for name, a in storage.read_row(row, list(COLUMNS)).items())
        arrays = {name: np.array(array) for name, array in storage.row_arrays().items()}
        storage.share_row_arrays(arrays)
        assert storage.keys("atoms") is arrays["atoms.keys"]
    with NpzLazy(path=tmp_path / "a.npz").open({"name": None}) as storage:
        assert storage.keys("name").tolist() == KEYS.tolist() and list(storage.columns) == ["name"]


@pytest.mark.parametrize("verify", ["first", "always", "never"])
def test_a_flipped_bit_of_keys_is_found_when_the_file_is_opened(tmp_path, verify):
    backend = keyed(tmp_path / "a.npz", verify=verify)
    flip(backend.path, "fixed.keys", 4)  # row 4 would have key 4
    said = "'fixed', row 4: its key is 4" if verify == "never" else "member 'fixed.keys.npy': its CRC-32"
    for columns in (None, {"fixed": None, "y": None}):
        with pytest.raises(CorruptStoreError, match=rf"a\.npz: .*{said}"):
            backend.open(columns)
    with backend.open({"name": None}) as storage:
        assert storage.read(np.arange(6), ["name"])["name"].strings() == SHARED["name"].strings()


@pytest.mark.parametrize(("name", "member"), [("atoms", "atoms.values"), ("fixed", "fixed")])
def test_damage_of_a_shared_value_names_its_distinct_row(tmp_path, name, member):
    backend = keyed(tmp_path / "a.npz")
    flip(backend.path, member, 8)  # in the first row
    with backend.open(None) as storage:
        storage.read(np.array([1, 2, 3, 5]), [name])
        for read in (lambda: storage.read(np.array([1, 4]), [name]), lambda: storage.read_row(4, [name])):
            with pytest.raises(CorruptStoreError, match=f"column '{name}', distinct row 0: its CRC-32"):
                read()


def test_a_column_may_have_a_name_that_ends_like_keys(tmp_path):
    # Only next to the checksums of `a`, and without checksums of its own, `a.keys` contains the keys of `a`.
    np.savez(tmp_path / "foreign.npz", **{"a": np.arange(3.0), "a.keys": np.array([2, 1, 0])})
    columns = {"a": Array("float64"), "a.keys": Array("int64")}
    data = {"a": np.arange(3.0), "a.keys": np.array([2, 1, 0])}
    NpzLazy(path=tmp_path / "own.npz").write(columns, [data])
    for name in ("foreign.npz", "own.npz"):
        with NpzLazy(path=tmp_path / name).open(None) as storage:
            assert storage.columns == columns and storage.keys("a") is None
            read = storage.read(np.arange(3), ["a", "a.keys"])
            assert read["a"].tolist() == [0, 1, 2] and read["a.keys"].tolist() == [2, 1, 0]


def test_a_layout_that_is_slower_than_the_flat_one_is_a_fact(tmp_path):
    rows = {f"X_s{row}_": np.zeros((2, row + 1)) for row in range(3)}
    for name, save, members, layout in (
        ("flat", np.savez, {"X": np.zeros((3, 2))}, None),
        ("rows", np.savez, rows, "one member per row"),
        ("compressed", np.savez_compressed, {"X": np.zeros((3, 2))}, "compressed"),
        ("both", np.savez_compressed, rows, "one member per row, compressed"),
    ):
        save(tmp_path / f"{name}.npz", **members)
        with NpzLazy(path=tmp_path / f"{name}.npz").open(None) as storage:
            assert dict(storage.facts()).get("layout") == layout
