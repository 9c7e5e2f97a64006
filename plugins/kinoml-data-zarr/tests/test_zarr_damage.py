"""Damage is an error, or makes no difference; what is refused is refused by name."""

from __future__ import annotations

import json
import os
import shutil
from contextlib import closing, suppress
from pathlib import Path

import kinoml_data as kd
import numpy as np
import pytest
import zarr
from kinoml_data.errors import (
    CorruptStoreError,
    KinomlDataError,
    SpecError,
    StoreChangedError,
    StoreExistsError,
    StoreNotFoundError,
    StoreWriteError,
    UnsafeStoreError,
    UnsupportedStoreError,
)
from kinoml_data.layouts.flat_arrays import flatten
from kinoml_data.testing import Example, mixed, other, same_array, same_rows
from kinoml_data.testing.examples import sharing

from kinoml_data_zarr import Zarr

EXAMPLE, SHARING = mixed(), sharing()  # in the other one, rows share values and have keys


def stored(path: Path, example: Example = EXAMPLE, **options) -> Zarr:
    backend = Zarr(path=path, **options)
    batches = example.batches(indexed=example is SHARING)
    backend.write(example.columns, batches, arrays=example.arrays, spec=example.spec)
    return backend


def same_everything(backend: Zarr, example: Example = EXAMPLE) -> None:
    with closing(backend.open(None)) as storage:
        assert set(storage.columns) == set(example.columns)
        same_rows(storage, example, range(len(example)))
        assert storage.spec == example.spec
        assert set(storage.arrays) == set(example.arrays)
        for name, array in example.arrays.items():
            same_array(storage.arrays[name], array, name)


def files(folder: Path) -> list[Path]:
    return sorted(path for path in folder.rglob("*") if path.is_file())


def names(folder: Path) -> list[str]:
    return [path.name for path in folder.iterdir()]


# -- groups of this backend


@pytest.mark.parametrize("example", [EXAMPLE, SHARING], ids=lambda example: example.name)
def test_a_lost_file_is_an_error_or_makes_no_difference(tmp_path, example):
    backend = stored(tmp_path / "data.zarr", example)
    harmless = []  # a chunk of zeros: Zarr reads a lost chunk as zeros
    for path in files(backend.path):
        held = path.read_bytes()
        path.unlink()
        with suppress(KinomlDataError):  # as it should be
            same_everything(backend, example)
            harmless.append(path.name)
        path.write_bytes(held)
    assert len(harmless) <= (example is SHARING), harmless
    same_everything(backend, example)


@pytest.mark.parametrize("compress", [True, False])
@pytest.mark.parametrize("example", [EXAMPLE, SHARING], ids=lambda example: example.name)
def test_a_flipped_byte_is_an_error_or_makes_no_difference(tmp_path, compress, example):
    backend = stored(tmp_path / "data.zarr", example, compress=compress)
    noticed = 0
    for path in files(backend.path):
        held = path.read_bytes()
        step = max(1, len(held) // 12)
        for at in {*range(0, len(held), step), len(held) - 1}:
            path.write_bytes(held[:at] + bytes([held[at] ^ 0x21]) + held[at + 1 :])
            try:
                same_everything(backend, example)
            except KinomlDataError:
                noticed += 1
        path.write_bytes(held)
    assert noticed > 100
    same_everything(backend, example)


def test_a_file_cut_short_or_swapped_is_an_error(tmp_path):
    backend = stored(tmp_path / "data.zarr", compress=False)
    for path in files(backend.path):
        held = path.read_bytes()
        path.write_bytes(held[: len(held) // 2])
        with pytest.raises(KinomlDataError):
            same_everything(backend)
        path.write_bytes(held)


def test_chunks_that_change_places_are_an_error(tmp_path):
    backend = Zarr(path=tmp_path / "data.zarr", chunk_bytes=1024)
    X = np.arange(2000, dtype=np.float64).reshape(100, 20)
    array = kd.Array("float64", (20,))
    backend.write({"X": array}, [{"X": X}])
    first, second = backend.path / "X/c/0/0", backend.path / "X/c/1/0"
    shutil.move(first, tmp_path / "held")
    shutil.move(second, first)
    shutil.move(tmp_path / "held", second)
    with closing(backend.open(None)) as storage:
        with pytest.raises(CorruptStoreError, match=r"column 'X', row 0"):
            storage.read(np.array([0]), ["X"])
        found = storage.read(np.array([99, 50]), ["X"])["X"]
        assert found.tolist() == X[[99, 50]].tolist()


def test_a_lost_chunk_of_zeros_is_not_told_from_zeros_but_a_lost_one_of_others_is(tmp_path):
    backend = Zarr(path=tmp_path / "data.zarr", chunk_bytes=1024)
    X = np.zeros((100, 20))
    X[:50] = 1
    backend.write({"X": kd.Array("float64", (20,))}, [{"X": X}])
    chunks = files(backend.path / "X/c")
    assert len(chunks) == -(-100 // 6)
    chunks[0].unlink()
    with closing(backend.open(None)) as storage, pytest.raises(CorruptStoreError, match="row 3"):
        storage.read(np.array([99, 3]), ["X"])


def test_a_group_that_was_replaced_is_noticed(tmp_path):
    def write(X):
        Zarr(path=tmp_path / "data.zarr").write({"X": kd.Array("float64", (20,))}, [{"X": X}])

    write(np.zeros((10, 20)))
    with kd.load_dataset(tmp_path / "data.zarr") as dataset:
        dataset[3]
        shutil.rmtree(tmp_path / "data.zarr")
        write(np.ones((10, 20)))
        with pytest.raises(StoreChangedError):
            dataset[3]


def test_the_identity_is_that_of_the_content(tmp_path):
    one, two = stored(tmp_path / "one.zarr"), stored(tmp_path / "two.zarr", compress=False)
    third = Zarr(path=tmp_path / "other.zarr")
    example = other()
    third.write(example.columns, example.batches())
    found = []
    for backend in (one, two, third):
        with closing(backend.open(None)) as storage:
            assert storage.has_checksums
            found.append(storage.identity)
    assert found[0] == found[1] != found[2]


def test_another_version_of_the_layout_is_refused(tmp_path):
    backend = stored(tmp_path / "data.zarr")
    zarr.open_group(backend.path, mode="r+").attrs["kinoml_data"] = {"format": 2}
    with pytest.raises(UnsupportedStoreError, match="version 2 of the layout"):
        backend.open(None)


# -- places


def test_a_path_that_is_not_a_zarr_group_is_not_found(tmp_path):
    (tmp_path / "empty").mkdir()
    (tmp_path / "file").write_bytes(b"")
    for name in ("empty", "file", "nothing"):
        with pytest.raises(StoreNotFoundError, match=name):
            Zarr(path=tmp_path / name).open(None)


def test_a_file_at_the_path_of_a_new_store_is_not_overwritten(tmp_path):
    (tmp_path / "empty").mkdir()
    (tmp_path / "file").write_bytes(b"held")
    (tmp_path / "link").symlink_to(tmp_path / "nowhere")
    for name in ("empty", "file", "link"):
        with pytest.raises(
            StoreExistsError, match=f"{name}' already exists, and zarr cannot replace it; choose another path"
        ):
            stored(tmp_path / name)
    with pytest.raises(StoreWriteError, match="no folder"):
        stored(tmp_path / "missing" / "data.zarr")
    assert sorted(names(tmp_path)) == ["empty", "file", "link"]


def test_a_folder_that_appears_meanwhile_stays(tmp_path):
    target = tmp_path / "data.zarr"

    def batches():
        yield from EXAMPLE.batches()
        target.mkdir()

    with pytest.raises(StoreExistsError, match="appeared"):
        Zarr(path=target).write(EXAMPLE.columns, batches())
    assert names(tmp_path) == ["data.zarr"] and names(target) == []


@pytest.mark.parametrize("name", ["a/b", "..", "__x", "zarr.json", "a.shapes", "_spec"])
def test_names_that_zarr_cannot_have_are_refused(tmp_path, name):
    with pytest.raises(UnsupportedStoreError, match="name"):
        Zarr(path=tmp_path / "data.zarr").write({name: kd.Array("float32")}, iter(()))
    assert names(tmp_path) == []


# -- groups of others


def foreign(path: Path, **arrays) -> Path:
    group = zarr.create_group(path, zarr_format=arrays.pop("zarr_format", 3))
    for name, array in arrays.items():
        group.create_array(name, data=np.asarray(array))
    return path


@pytest.mark.parametrize("version", [2, 3])
def test_a_plain_group_of_another_program_is_read(tmp_path, version):
    X, y = np.arange(60.0).reshape(20, 3), np.arange(20)
    path = foreign(tmp_path / "a.zarr", X=X, y=y, idx_train=np.arange(5), zarr_format=version)
    with kd.load_dataset(path) as dataset:
        assert dataset[[7, 2, 7]][0].tolist() == X[[7, 2, 7]].tolist()
        assert dataset.split("train")[4][1] == 4
    with closing(Zarr(path=path).open(None)) as storage:
        assert storage.identity is None and not storage.has_checksums


def test_the_flat_layout_of_another_program_is_read(tmp_path):
    flat = {key: array for key, array in flatten(EXAMPLE.columns, next(EXAMPLE.batches(100))).items() if array.size}
    path = foreign(tmp_path / "a.zarr", **flat)
    for columns in (None, EXAMPLE.columns):
        with closing(Zarr(path=path).open(columns)) as storage:
            same_rows(storage, EXAMPLE, [3, 0, 6, 6])


def test_missing_chunks_of_another_program_are_refused_or_filled(tmp_path):
    group = zarr.create_group(tmp_path / "a.zarr")
    group.create_array("X", shape=(20, 3), chunks=(5, 3), dtype="f8", fill_value=7)[:5] = 1
    with pytest.raises(CorruptStoreError, match="3 of its 4 chunks"):
        Zarr(path=tmp_path / "a.zarr").open(None)
    with closing(Zarr(path=tmp_path / "a.zarr", missing_chunks="fill").open(None)) as storage:
        assert storage.read(np.array([0, 19]), ["X"])["X"].tolist() == [[1] * 3, [7] * 3]


def test_shards_are_read_and_a_missing_one_is_refused(tmp_path):
    X = np.arange(25.0 * 25).reshape(25, 25) + 1
    group = zarr.create_group(tmp_path / "a.zarr")
    group.create_array("X", shape=X.shape, chunks=(5, 5), shards=(20, 20), dtype="f8")[:] = X
    with closing(Zarr(path=tmp_path / "a.zarr").open(None)) as storage:
        assert storage.read(np.array([24, 3, 24]), ["X"])["X"].tolist() == X[[24, 3, 24]].tolist()
    (tmp_path / "a.zarr/X/c/1/1").unlink()
    with pytest.raises(CorruptStoreError, match="1 of its 4 chunks"):
        Zarr(path=tmp_path / "a.zarr").open(None)


@pytest.mark.parametrize("where", ["start", "end"])
def test_a_chunk_that_a_shard_lacks_is_refused(tmp_path, where):
    from zarr.codecs import BytesCodec, ShardingCodec

    group = zarr.create_group(tmp_path / "a.zarr")
    codec = ShardingCodec(chunk_shape=(5, 5), codecs=[BytesCodec()], index_location=where)
    array = group.create_array("X", shape=(25, 25), chunks=(20, 20), dtype="f8", serializer=codec, compressors=None)
    array[:] = X = np.arange(25.0 * 25).reshape(25, 25) + 1
    with closing(Zarr(path=tmp_path / "a.zarr").open(None)) as storage:
        assert storage.read(np.array([24, 3]), ["X"])["X"].tolist() == X[[24, 3]].tolist()
    array[20:, 5:10] = array.fill_value  # which Zarr does not store
    array[:5, 5:15] = array.fill_value
    with pytest.raises(CorruptStoreError, match="lacks 3 of its 25 chunks"):
        Zarr(path=tmp_path / "a.zarr").open(None)
    with closing(Zarr(path=tmp_path / "a.zarr", missing_chunks="fill").open(None)) as storage:
        assert storage.read(np.array([3, 20]), ["X"])["X"][:, 4:7].tolist() == [[80, 0, 0], [505, 0, 0]]


def test_shards_of_which_the_index_is_not_known_are_refused(tmp_path):
    from zarr.codecs import BytesCodec, ShardingCodec

    group = zarr.create_group(tmp_path / "a.zarr")
    codec = ShardingCodec(chunk_shape=(5,), codecs=[BytesCodec()], index_codecs=[BytesCodec()])
    group.create_array("X", shape=(20,), chunks=(10,), dtype="f8", serializer=codec, compressors=None)[:] = 1
    with pytest.raises(UnsupportedStoreError, match="missing_chunks: fill"):
        Zarr(path=tmp_path / "a.zarr").open(None)
    with closing(Zarr(path=tmp_path / "a.zarr", missing_chunks="fill").open(None)) as storage:
        assert storage.read(np.array([3]), ["X"])["X"].tolist() == [1]


def test_consolidated_metadata_does_not_hide_rows_that_were_appended_later(tmp_path):
    path = tmp_path / "a.zarr"
    zarr.create_group(path, zarr_format=2).create_array("X", data=np.ones((10, 2)))
    zarr.consolidate_metadata(path)
    zarr.open_group(path, mode="r+", use_consolidated=False)["X"].append(np.ones((5, 2)))
    with closing(Zarr(path=path).open(None)) as storage:
        assert len(storage) == 15


def test_numbers_of_another_byte_order_come_in_that_of_the_machine(tmp_path):
    X = np.arange(40.0).reshape(8, 5).astype(">f8")
    array = zarr.create_group(tmp_path / "a.zarr", zarr_format=2).create_array(
        "X", shape=X.shape, chunks=(8, 5), dtype=X.dtype
    )
    array[:] = X
    with kd.load_dataset(tmp_path / "a.zarr") as dataset:
        for rows in ([3, 1], [3, 4], [5]):
            assert dataset[rows][0].numpy().tolist() == X[rows].tolist()


def test_columns_that_do_not_fit_can_be_left_out(tmp_path):
    path = foreign(tmp_path / "a.zarr", X=np.ones((20, 30)), z=np.ones(7))
    zarr.open_group(path).create_array("name", shape=(20, 2), dtype=str)
    with kd.load_dataset(path) as dataset:
        assert len(dataset) == 20
    with pytest.raises(UnsupportedStoreError, match="'name' contains strings in more than one axis"):
        kd.load_dataset(path, X="name")
    with pytest.raises(SpecError, match="X has 20, z has 7"):
        kd.load_dataset(path, X=["X", "z"])
    spec = {"X": "X", "columns": {"X": {"dtype": "float64", "shape": [30]}}}
    with kd.load_dataset(spec | {"storage": {"backend": "zarr", "path": str(path)}}) as dataset:
        assert len(dataset) == 20


class Bomb:
    def __reduce__(self):
        return os.mkdir, ("exploded",)


def test_objects_and_pickles_are_refused(tmp_path, monkeypatch):
    import numcodecs

    monkeypatch.chdir(tmp_path)
    group = zarr.create_group(tmp_path / "a.zarr", zarr_format=2)
    array = group.create_array("X", shape=(2,), chunks=(2,), dtype="f8", filters=[numcodecs.Delta("f8")])
    array[:] = 1
    file = tmp_path / "a.zarr/X/.zarray"
    said = json.loads(file.read_bytes())
    for dtype, codec in (("<f8", "pickle"), ("|O", "pickle"), ("|O", "json2"), ("<f8", "msgpack2")):
        filters = [{"id": codec, "protocol": 5}] if codec == "pickle" else [{"id": codec}]
        file.write_text(json.dumps(said | {"dtype": dtype, "filters": filters, "fill_value": None}))
        (tmp_path / "a.zarr/X/0").write_bytes(numcodecs.Pickle().encode(np.array([Bomb(), Bomb()], object)))
        with pytest.raises((UnsafeStoreError, UnsupportedStoreError, CorruptStoreError)):
            Zarr(path=tmp_path / "a.zarr").open(None)
    assert not Path("exploded").exists()


def test_huge_arrays_and_chunks_are_refused(tmp_path):
    group = zarr.create_group(tmp_path / "a.zarr")
    group.create_array("X", shape=(1 << 40,), chunks=(1 << 40,), dtype="f8")
    with pytest.raises(UnsafeStoreError, match="chunks"):
        Zarr(path=tmp_path / "a.zarr").open(None)
    group.create_array("X", shape=(1 << 40,), chunks=(1 << 20,), dtype="f8", overwrite=True)
    with pytest.raises((UnsafeStoreError, CorruptStoreError)):
        Zarr(path=tmp_path / "a.zarr").open(None)


# -- options


@pytest.mark.parametrize(
    ("options", "said"),
    [
        ({}, "either `path` or `url`"),
        ({"path": "a.zarr", "url": "memory://a"}, "either `path` or `url`"),
        ({"path": "a.zarr", "storage_options": {"anon": True}}, "only be used with `url`"),
        ({"url": "file:///etc"}, "is not a valid URL"),
        ({"url": "simplecache::s3://a"}, "is not a valid URL"),
        ({"url": "s3://a::file:///etc"}, "is not a valid URL"),
        ({"url": "reference://"}, "is not a valid URL"),
    ],
)
def test_options_that_make_no_sense_are_refused(options, said):
    with pytest.raises(SpecError, match=said):
        kd.load_dataset({"X": "X", "storage": {"backend": "zarr", **options}})
