"""Files of other programs: what is read, and what is refused."""

from __future__ import annotations

import re
from contextlib import closing
from pathlib import Path

import h5py
import kinoml_data as kd
import numpy as np
import pytest
from kinoml_data.errors import CorruptStoreError, SpecError, UnsafeStoreError, UnsupportedStoreError
from kinoml_data.layouts.flat_arrays import flatten
from kinoml_data.testing import mixed, same_rows

from kinoml_data_hdf5 import Hdf5

rng = np.random.default_rng(0)
COUNTS = np.array([3, 0, 5, 1, 4])
PTR = np.r_[0, COUNTS.cumsum()]
ATOMS = rng.random((13, 4), np.float32)


def file_of(path: Path, **datasets) -> Path:
    with h5py.File(path, "w") as file:
        for name, data in datasets.items():
            file[name.replace("__", "/")] = data
    return path


def read(path: Path, column: str, columns=None, rows=(4, 0, 0, 1), **options):
    with closing(Hdf5(path=path, **options).open(columns)) as storage:
        assert not storage.has_checksums and storage.identity.startswith("hdf5:")
        return storage.columns[column], storage.read(np.array(rows), [column])[column]


@pytest.mark.parametrize(
    "options", [{}, {"chunks": (7, 2)}, {"chunks": (4, 3), "compression": "gzip"}, {"fletcher32": True}]
)
@pytest.mark.parametrize("dtype", ["<f4", ">f8", "i2", "?", "c8", "f2"])
def test_fixed_datasets_are_read_in_any_layout_of_hdf5(tmp_path, options, dtype):
    data = (rng.random((20, 3)) * 100).astype(dtype)
    with h5py.File(tmp_path / "a.h5", "w") as file:
        file.create_dataset("g/sub/X", data=data, **options)
    array, found = read(tmp_path / "a.h5", "g/sub/X", {"g/sub/X": kd.Array(data.dtype, (3,))}, rows=(19, 3, 3, 4))
    assert array == kd.Array(data.dtype, (3,)) and found.dtype.isnative
    assert np.array_equal(found, data[[19, 3, 3, 4]])
    _, found = read(tmp_path / "a.h5", "X", rows=(0,), group="/g/sub")
    assert np.array_equal(found, data[:1])


@pytest.mark.parametrize(
    "layout",
    [
        {"values": "g/atoms", "offsets": "g/ptr"},
        {"values": "/g/atoms", "lengths": "/g/counts"},
        {"values": "g/atoms", "offsets": "g/ptr", "shape": [None, 4]},
        {"values": "g/flat", "offsets": "g/ptr4", "shape": [None, 4]},
        {"values": "g/flat", "lengths": "g/counts4", "shape": [None, 2, 2]},
    ],
)
@pytest.mark.parametrize("said", [True, False])
def test_ragged_columns_are_read_from_values_and_offsets_or_lengths(tmp_path, layout, said):
    path = file_of(
        tmp_path / "a.h5",
        g__atoms=ATOMS,
        g__ptr=PTR,
        g__counts=COUNTS.astype("u4"),
        g__flat=ATOMS.reshape(-1),
        g__ptr4=PTR * 4,
        g__counts4=(COUNTS * 4).astype(np.uint64),
        y=np.arange(5.0),
    )
    columns = {"atoms": kd.Array("float32", (None, 4))} if said else None
    array, found = read(path, "atoms", columns, ragged={"atoms": layout})
    rest = tuple(layout.get("shape", [None, 4])[1:])
    assert array == kd.Array("float32", (None, *rest))
    for i, row in enumerate((4, 0, 0, 1)):
        assert found[i].tolist() == ATOMS[PTR[row] : PTR[row + 1]].reshape(-1, *rest).tolist()


def test_rows_that_are_ragged_along_the_last_axis_are_read(tmp_path):
    rows = [rng.random((3, n)) for n in (2, 5, 1)]
    flat = np.concatenate([row.reshape(-1) for row in rows])
    path = file_of(tmp_path / "a.h5", flat=flat, n=[6, 15, 3])
    layout = {"values": "flat", "lengths": "n", "shape": (3, None)}
    array, found = read(path, "X", rows=(2, 0, 1), ragged={"X": layout})
    assert array.shape == (3, None)
    assert [found[i].tolist() for i in range(3)] == [rows[i].tolist() for i in (2, 0, 1)]


@pytest.mark.parametrize(
    ("ptr", "error", "said"),
    [
        ([0, 3, 3, 8, 9, 12], CorruptStoreError, "add up"),
        ([0, 3, 2, 8, 9, 13], CorruptStoreError, "add up"),
        ([0, 30, -3, 8, 9, 13], CorruptStoreError, "add up"),
        ([1, 3, 3, 8, 9, 13], UnsupportedStoreError, "begin at 1"),
        (np.zeros(0, int), CorruptStoreError, "not integers in one axis"),
        ([0.0, 13.0], CorruptStoreError, "not integers in one axis"),
        ([[0, 13]], CorruptStoreError, "not integers in one axis"),
    ],
)
def test_offsets_that_do_not_fit_are_an_error(tmp_path, ptr, error, said):
    path = file_of(tmp_path / "a.h5", atoms=ATOMS, ptr=ptr)
    with pytest.raises(error, match=said):
        read(path, "X", ragged={"X": {"values": "atoms", "offsets": "ptr"}})


def test_rows_that_do_not_fill_their_shape_are_an_error(tmp_path):
    path = file_of(tmp_path / "a.h5", flat=np.zeros(7), n=[4, 3])
    with pytest.raises(CorruptStoreError, match=r"row 1: 3 values"):
        read(path, "X", ragged={"X": {"values": "flat", "lengths": "n", "shape": (2, None)}})


def test_strings_of_variable_and_of_fixed_length_are_read(tmp_path):
    texts = ["CCO", "", "Zoë", "x" * 100]
    with h5py.File(tmp_path / "a.h5", "w") as file:
        file["any"] = texts
        file["fixed"] = np.array([text.encode() for text in texts])
        file["y"] = np.arange(4)
    for name in ("any", "fixed"):
        array, found = read(tmp_path / "a.h5", name, rows=(3, 0, 2, 1))
        assert array.is_string and found.strings() == [texts[i] for i in (3, 0, 2, 1)]
    with kd.load_dataset(tmp_path / "a.h5", X="y", meta=["any"]) as dataset:
        assert dataset.column("any") == texts


def test_strings_that_are_not_text_are_refused(tmp_path):
    with h5py.File(tmp_path / "a.h5", "w") as file:
        file["bytes"] = np.array([b"\xff\xfe"])
    with pytest.raises(UnsupportedStoreError, match=r"row 0 is not valid text.*UTF-8.*decode bytes first"):
        read(tmp_path / "a.h5", "bytes", rows=(0,))
    with h5py.File(tmp_path / "a.h5", "w") as file:
        file["table"] = np.array([[b"a", b"b"]])
    with pytest.raises(UnsupportedStoreError, match="more than one axis"):
        read(tmp_path / "a.h5", "table")


def test_the_flat_layout_and_splits_of_another_program_are_read(tmp_path):
    example = mixed()
    path = file_of(tmp_path / "a.h5", **flatten(example.columns, next(example.batches(100))), idx_train=[0, 2])
    for columns in (None, example.columns):
        with closing(Hdf5(path=path).open(columns)) as storage:
            same_rows(storage, example, [3, 0, 6, 6])
            assert storage.arrays["idx_train"].tolist() == [0, 2]


def test_columns_that_are_not_there_are_named(tmp_path):
    path = file_of(tmp_path / "a.h5", X=np.zeros((3, 2)), y=np.zeros(3))
    with pytest.raises(SpecError, match=r"contains \['X', 'y'\]"):
        Hdf5(path=path).open({"Z": kd.Array("float64")})
    with pytest.raises(SpecError, match="does not contain the group 'g'"):
        Hdf5(path=path, group="g").open(None)
    spec = {"columns": {"X": {"dtype": "float64", "shape": [2]}, "yy": {"dtype": "float64"}}, "X": "X", "y": "yy"}
    with pytest.raises(SpecError, match="yy"):
        kd.load_dataset(spec | {"storage": {"backend": "hdf5", "path": str(path)}})


# -- what leaves the file, and what is no array of numbers


def refused(path: Path, error: type[Exception], said: str, name: str = "X") -> None:
    for columns in ({name: kd.Array("float64", (2,))}, None):
        with pytest.raises(error, match=said):
            Hdf5(path=path).open(columns)


def test_values_that_were_never_written_are_refused_or_the_fill_value(tmp_path):
    path = tmp_path / "a.h5"
    with h5py.File(path, "w") as file:
        file.create_dataset("chunks", (5, 4), "f4", chunks=(2, 2))[:2, :2] = 5
        file.create_dataset("whole", (5,), "f4", fillvalue=7)
        file.create_dataset("text", (5,), h5py.string_dtype())
        file.create_dataset("values", (9,), "f4")
        file["ptr"] = np.array([0, 1, 4, 4, 8, 9])
        file.create_dataset("none", (5, 0), "f4")
    lost = {"chunks": "5 of its 6 chunks were", "whole": "its values were", "text": "its values were"}
    for name, said in lost.items():
        with pytest.raises(CorruptStoreError, match=f"'{name}': {said} never written; .*missing_chunks: fill"):
            Hdf5(path=path).open({name: kd.Array("float32", (4,))})
    ragged = {"X": {"values": "values", "offsets": "ptr"}}
    with pytest.raises(CorruptStoreError, match="never written"):
        Hdf5(path=path, ragged=ragged).open({"X": kd.Array("float32", (None,))})
    with closing(Hdf5(path=path).open({"none": kd.Array("float32", (0,))})) as storage:
        assert storage.read(np.array([3]), ["none"])["none"].shape == (1, 0)
    columns = {"chunks": kd.Array("float32", (4,)), "whole": kd.Array("float32")}
    with closing(Hdf5(path=path, missing_chunks="fill").open(columns)) as storage:
        found = storage.read(np.array([1, 3]), list(columns))
        assert found["chunks"].tolist() == [[5, 5, 0, 0], [0, 0, 0, 0]] and found["whole"].tolist() == [7, 7]


def test_links_are_refused(tmp_path):
    file_of(tmp_path / "other.h5", X=np.zeros((3, 2)), g__X=np.zeros((3, 2)))
    with h5py.File(tmp_path / "a.h5", "w") as file:
        file["X"] = h5py.ExternalLink("other.h5", "/X")
    refused(tmp_path / "a.h5", UnsafeStoreError, "links to another file")
    with h5py.File(tmp_path / "a.h5", "w") as file:
        file["Z"] = np.zeros((3, 2))
        file["X"] = h5py.SoftLink("/Z")
    with pytest.raises(UnsupportedStoreError, match="is a soft link; use the path that it points to"):
        Hdf5(path=tmp_path / "a.h5").open({"X": None})
    with closing(Hdf5(path=tmp_path / "a.h5").open(None)) as storage:
        assert list(storage.columns) == ["Z"] and "is a soft link" in storage.unreadable["X"]
    with h5py.File(tmp_path / "a.h5", "w") as file:
        file["g"] = h5py.ExternalLink("other.h5", "/g")
    with pytest.raises(UnsafeStoreError, match="links to another file"):
        Hdf5(path=tmp_path / "a.h5").open({"g/X": kd.Array("float64", (2,))})
    with pytest.raises(UnsafeStoreError, match="links to another file"):
        Hdf5(path=tmp_path / "a.h5", group="g").open(None)


def test_values_in_other_files_are_refused(tmp_path):
    (tmp_path / "secret").write_bytes(bytes(48))
    with h5py.File(tmp_path / "a.h5", "w") as file:
        file.create_dataset("X", (3, 2), "f8", external=[(str(tmp_path / "secret"), 0, 48)])
    refused(tmp_path / "a.h5", UnsafeStoreError, "other files")
    file_of(tmp_path / "other.h5", X=np.zeros((3, 2)))
    layout = h5py.VirtualLayout((3, 2), "f8")
    layout[:] = h5py.VirtualSource(tmp_path / "other.h5", "X", (3, 2))
    with h5py.File(tmp_path / "a.h5", "w") as file:
        file.create_virtual_dataset("X", layout)
    refused(tmp_path / "a.h5", UnsafeStoreError, "other files")


@pytest.mark.parametrize("kind", ["record", "reference", "opaque", "vlen", "time", "scalar", "group"])
def test_unsupported_hdf5_types_are_refused_by_name(tmp_path, kind):
    with h5py.File(tmp_path / "a.h5", "w") as file:
        if kind == "record":
            file["X"] = np.zeros((3, 2), [("a", "f4"), ("b", "i8")])
        elif kind == "reference":
            file.create_dataset("X", (3, 2), h5py.ref_dtype)
        elif kind == "opaque":
            file["X"] = np.zeros((3, 2), "V7")
        elif kind == "vlen":
            file.create_dataset("X", (3, 2), h5py.vlen_dtype(np.float32))
        elif kind == "time":
            file.create_dataset("X", (3, 2), h5py.opaque_dtype(np.dtype("M8[s]")))
        elif kind == "scalar":
            file["X"] = 3.0
        else:
            file.create_group("X")
        file["y"] = np.arange(3.0)
    way = {
        "record": r"file\['a'\] = file\['/X'\]\['a'\]",
        "vlen": "store one of them per row",
        "time": r'astype\("int64"\)',
        "scalar": "one entry per row",
        "group": "use the option `group: X`",
    }.get(kind, "leave it out")
    with pytest.raises(UnsupportedStoreError, match=f"'X' .*{way}"):
        Hdf5(path=tmp_path / "a.h5").open({"X": kd.Array("float64", (2,))})
    with closing(Hdf5(path=tmp_path / "a.h5").open(None)) as storage:
        assert list(storage.columns) == ["y"] and re.search(way, storage.unreadable["X"])
    with pytest.raises(UnsupportedStoreError, match=way):
        kd.load_dataset(tmp_path / "a.h5")
    with kd.load_dataset(tmp_path / "a.h5", X="y") as dataset:
        assert dataset[2][0] == 2


def test_a_filter_that_would_be_loaded_is_refused(tmp_path):
    created = h5py.h5p.create(h5py.h5p.DATASET_CREATE)
    created.set_chunk((3, 2))
    created.set_filter(32001, h5py.h5z.FLAG_OPTIONAL, (1,))
    with h5py.File(tmp_path / "a.h5", "w") as file:
        h5py.h5d.create(file.id, b"X", h5py.h5t.NATIVE_DOUBLE, h5py.h5s.create_simple((3, 2)), created)
    refused(tmp_path / "a.h5", UnsupportedStoreError, "32001")


def test_fletcher32_is_compared(tmp_path):
    with h5py.File(tmp_path / "a.h5", "w") as file:
        file.create_dataset("X", data=rng.random((50, 20)), chunks=(50, 20), fletcher32=True)
        at = file["X"].id.get_chunk_info(0).byte_offset
    data = bytearray((tmp_path / "a.h5").read_bytes())
    data[at + 100] ^= 1
    (tmp_path / "a.h5").write_bytes(data)
    with pytest.raises(CorruptStoreError):
        read(tmp_path / "a.h5", "X")


@pytest.mark.parametrize(
    ("layout", "said"),
    [
        ({"values": "v"}, "either `offsets` or `lengths`"),
        ({"values": "v", "offsets": "o", "lengths": "n"}, "either `offsets` or `lengths`"),
        ({"values": "v", "offsets": "o", "shape": ["*", "*"]}, "one"),
        ({"values": "v", "offsets": "o", "shape": [3, 4]}, "one"),
        ({"values": "v", "offsets": "o", "shape": [0, "*"]}, "1 or more"),
        ({"offsets": "o"}, "values"),
    ],
)
def test_options_that_make_no_sense_are_refused(layout, said):
    with pytest.raises(SpecError, match=said):
        kd.load_dataset({"X": "X", "storage": {"backend": "hdf5", "path": "a.h5", "ragged": {"X": layout}}})


def test_ragged_options_survive_a_file(tmp_path):
    path = file_of(tmp_path / "a.h5", flat=np.arange(12.0), n=[4, 8], y=[0.0, 1.0])
    ragged = {"X": {"values": "flat", "lengths": "n", "shape": [2, "*"]}}
    spec = kd.DatasetSpec.parse(
        {"X": "X", "y": "y", "storage": {"backend": "hdf5", "path": str(path), "ragged": ragged}}
    )
    with kd.load_dataset(spec) as dataset:
        for suffix in (".yaml", ".json", ".toml"):
            dataset.spec.to_file(tmp_path / f"spec{suffix}")
            with kd.load_dataset(tmp_path / f"spec{suffix}") as again:
                assert again[1][0].tolist() == dataset[1][0].tolist() == [[4, 5, 6, 7], [8, 9, 10, 11]]
    backend = Hdf5(path=path, ragged=ragged)
    assert backend.model_dump(mode="json", exclude_defaults=True)["ragged"] == ragged
