"""Groups of other tools, each written here by that tool: what they contain is read, or refused with the way out."""

from __future__ import annotations

import base64
import json
import struct
import warnings
from contextlib import closing
from pathlib import Path
from typing import Any

import kinoml_data as kd
import numcodecs
import numpy as np
import pytest
import zarr
from kinoml_data.errors import CorruptStoreError, SpecError, UnsafeStoreError, UnsupportedStoreError
from kinoml_data.verify import verify

from kinoml_data_zarr import Zarr

VERSIONS = pytest.mark.parametrize("version", [2, 3])
UNSTABLE = pytest.mark.filterwarnings("ignore:.*does not have a Zarr V3 specification")
LISTS = [[1.0, 2.0], [], [3.0], [4.0, 5.0, 6.0], [7.0]]
TEXTS = ["C", "", "Zoë", "CCO", "x" * 50]


def listed(path: Path, **options) -> tuple[dict[str, str], dict[str, str]]:
    """The columns and what is unreadable, in a group that is opened bare."""
    with closing(Zarr(path=path, **options).open(None)) as storage:
        return {name: str(array) for name, array in storage.columns.items()}, dict(storage.unreadable)


def values(path: Path, name: str, declared: kd.Array | None = None, **options) -> list:
    with closing(Zarr(path=path, **options).open({name: declared})) as storage:
        column = storage.read(np.arange(len(storage)), [name])[name]
        if storage.columns[name].is_string:
            return column.strings()
        return [np.asarray(column[i]).tolist() for i in range(len(column))]


def refused(path: Path, name: str, said: str, **options) -> None:
    """A column is refused by name, is listed as unreadable, and is no damage."""
    with pytest.raises(UnsupportedStoreError, match=said) as caught:
        Zarr(path=path, **options).open({name: None})
    assert not isinstance(caught.value, CorruptStoreError)


def group_of(path: Path, version: int, **arrays) -> Any:
    group = zarr.create_group(path, zarr_format=version)
    for name, data in arrays.items():
        group.create_array(name.replace("__", "/"), data=np.asarray(data))
    return group


def objects(path: Path, name: str, items: list, codec: Any, *, compressor: Any = None, chunk: int = 2) -> None:
    """Write an array of objects of Zarr 2 as Zarr's own version 2 does, which Zarr 3 no longer can."""
    folder = path / name
    folder.mkdir()
    metadata = {"zarr_format": 2, "shape": [len(items)], "chunks": [chunk], "dtype": "|O", "fill_value": None}
    metadata |= {"order": "C", "filters": [codec.get_config()]}
    metadata |= {"compressor": None if compressor is None else compressor.get_config()}
    (folder / ".zarray").write_text(json.dumps(metadata))
    for place in range(0, len(items), chunk):
        part = np.empty(chunk, object)
        some = items[place : place + chunk]
        for i in range(chunk):
            part[i] = some[min(i, len(some) - 1)]
        data = codec.encode(part)
        (folder / str(place // chunk)).write_bytes(data if compressor is None else compressor.encode(data))


# -- Zarr 2 and 3


@pytest.mark.parametrize("compressor", [None, numcodecs.Zstd(), numcodecs.Blosc()])
@pytest.mark.parametrize("dtype", ["<f8", "<i2", "<f4"])
def test_vlen_arrays_of_zarr_2_are_a_ragged_column(tmp_path, dtype, compressor):
    group_of(tmp_path / "a.zarr", 2, y=np.arange(5.0))
    rows = [np.array(row, dtype) for row in LISTS]
    objects(tmp_path / "a.zarr", "X", rows, numcodecs.VLenArray(dtype), compressor=compressor)
    assert values(tmp_path / "a.zarr", "X") == [row.tolist() for row in rows]
    assert listed(tmp_path / "a.zarr") == ({"X": str(kd.Array(np.dtype(dtype), (None,))), "y": "float64"}, {})
    with kd.load_dataset(tmp_path / "a.zarr", collate={"X": {"form": "pad", "value": 0}}) as dataset:
        assert dataset[[2, 3]][0].tolist() == [[3, 0, 0], [4, 5, 6]] and dataset[[4]][1].tolist() == [4]
    kd.convert(tmp_path / "a.zarr", tmp_path / "b.zarr")
    with kd.load_dataset(tmp_path / "b.zarr") as dataset:
        assert [dataset[i][0].tolist() for i in range(5)] == [row.tolist() for row in rows]


def test_a_missing_or_damaged_chunk_of_lists_is_damage(tmp_path):
    group_of(tmp_path / "a.zarr", 2, y=np.arange(5.0))
    objects(tmp_path / "a.zarr", "X", [np.array(row) for row in LISTS], numcodecs.VLenArray("<f8"))
    chunk = tmp_path / "a.zarr/X/1"
    held = chunk.read_bytes()
    for data in (held[:-3], held[:2], b"\xff" * len(held)):
        chunk.write_bytes(data)
        with pytest.raises(CorruptStoreError):
            values(tmp_path / "a.zarr", "X")
    chunk.unlink()
    with pytest.raises(CorruptStoreError, match="missing_chunks: fill"):
        values(tmp_path / "a.zarr", "X")
    assert values(tmp_path / "a.zarr", "X", missing_chunks="fill") == [*LISTS[:2], [], [], LISTS[4]]


def test_lists_that_are_scaled_too_many_or_of_odd_dtypes_are_refused(tmp_path):
    group_of(tmp_path / "a.zarr", 2, y=np.arange(5.0))
    rows = [np.array(row) for row in LISTS]
    objects(tmp_path / "a.zarr", "scaled", rows, numcodecs.VLenArray("<f8"))
    (tmp_path / "a.zarr/scaled/.zattrs").write_text('{"add_offset": 1}')
    refused(tmp_path / "a.zarr", "scaled", "attribute add_offset, which is applied only to")
    objects(tmp_path / "a.zarr", "dates", [row.astype("i8") for row in rows], numcodecs.VLenArray("<i8"))
    file = tmp_path / "a.zarr/dates/.zarray"
    file.write_text(file.read_text().replace('"<i8"', '"<M8[s]"'))
    refused(tmp_path / "a.zarr", "dates", r"lists with datetime64\[s\] in 1 axes")
    objects(tmp_path / "a.zarr", "other", [row.astype(">f8") for row in rows], numcodecs.VLenArray(">f8"))
    assert values(tmp_path / "a.zarr", "other") == LISTS
    objects(tmp_path / "a.zarr", "packed", rows, numcodecs.VLenArray("<f8"))
    file = tmp_path / "a.zarr/packed/.zarray"
    metadata = json.loads(file.read_text())
    file.write_text(json.dumps(metadata | {"compressor": {"id": "pickle"}}))
    refused(tmp_path / "a.zarr", "packed", "lists with the codec 'pickle'")
    file.write_text(json.dumps(metadata | {"shape": [1 << 40]}))
    with pytest.raises(UnsafeStoreError, match="bytes in memory"):
        values(tmp_path / "a.zarr", "packed", missing_chunks="fill")
    assert set(listed(tmp_path / "a.zarr")[1]) == {"scaled", "dates", "packed"}


def test_a_group_at_a_url_is_read_like_one_in_a_folder(tmp_path):
    import fsspec

    group_of(tmp_path / "a.zarr", 2, obs__age=np.arange(1.0, 6.0), y=np.arange(5.0))
    objects(tmp_path / "a.zarr", "X", [np.array(row) for row in LISTS], numcodecs.VLenArray("<f8"))
    objects(tmp_path / "a.zarr", "names", list("abcde"), numcodecs.JSON())
    fsspec.filesystem("memory").put(str(tmp_path / "a.zarr"), "/tools.zarr", recursive=True)
    storage = {"backend": "zarr", "url": "memory://tools.zarr"}
    columns = {"X": {"dtype": "float64", "shape": ["*"]}, "age": {"dtype": "float64", "stored_as": "obs/age"}}
    with kd.load_dataset({"columns": columns, "X": "X", "y": "age", "storage": storage}) as dataset:
        assert dataset[2][0].tolist() == [3] and dataset[2][1] == 3
    with closing(Zarr(url="memory://tools.zarr").open(None)) as opened:
        assert set(opened.columns) == {"X", "y"} and set(opened.unreadable) == {"names", "obs"}


@UNSTABLE
@VERSIONS
@pytest.mark.parametrize("dtype", [str, "<U60", "S60"])
def test_texts_are_strings(tmp_path, version, dtype):
    group = group_of(tmp_path / "a.zarr", version, y=np.arange(5.0))
    data = np.array([t.encode() for t in TEXTS] if dtype == "S60" else TEXTS, object if dtype is str else dtype)
    group.create_array("name", shape=(5,), chunks=(2,), dtype=dtype)[:] = data
    assert values(tmp_path / "a.zarr", "name") == TEXTS
    with kd.load_dataset(tmp_path / "a.zarr", X="y", meta=["name"]) as dataset:
        assert dataset.column("name") == TEXTS
    assert verify(tmp_path / "a.zarr").damage == []


def test_texts_of_zarr_2_in_any_encoding_are_strings_and_odd_ones_say_the_way_out(tmp_path):
    group_of(tmp_path / "a.zarr", 2, y=np.arange(5.0))
    objects(tmp_path / "a.zarr", "utf8", TEXTS, numcodecs.VLenUTF8())
    objects(tmp_path / "a.zarr", "bytes", [t.encode() for t in TEXTS], numcodecs.VLenBytes())
    objects(tmp_path / "a.zarr", "latin", [t.encode("latin-1") for t in TEXTS], numcodecs.VLenBytes())
    assert values(tmp_path / "a.zarr", "utf8") == values(tmp_path / "a.zarr", "bytes") == TEXTS
    with pytest.raises(UnsupportedStoreError, match=r"row 2 is not valid text.*decode\('latin-1'\)"):
        values(tmp_path / "a.zarr", "latin")


@pytest.mark.parametrize("codec", [numcodecs.Pickle(), numcodecs.JSON(), numcodecs.MsgPack()])
def test_objects_of_zarr_2_matter_only_if_they_are_named(tmp_path, codec):
    group_of(tmp_path / "a.zarr", 2, X=np.ones((4, 2)), y=np.arange(4.0), idx_train=[0, 1])
    objects(tmp_path / "a.zarr", "names", ["a", "b", "c", "d"], codec)
    columns, unreadable = listed(tmp_path / "a.zarr")
    assert set(columns) == {"X", "y"} and "store it as numbers or strings, or leave it out" in unreadable["names"]
    refused(tmp_path / "a.zarr", "names", "dtype or a codec that cannot be read")
    with kd.load_dataset(tmp_path / "a.zarr") as dataset:
        assert dataset.split("train")[1][1] == 1
    assert verify(tmp_path / "a.zarr").damage == []


@UNSTABLE
@VERSIONS
@pytest.mark.parametrize("kind", ["record", "date", "scalar", "group", "unknown codec", "unknown dtype"])
def test_what_is_not_read_says_the_way_out(tmp_path, version, kind):
    group = group_of(tmp_path / "a.zarr", version, y=np.arange(3.0))
    if kind == "record":
        data = np.zeros(3, [("a", "f4"), ("b", "i8")])
    else:
        data = np.zeros(() if kind == "scalar" else 3, "M8[s]" if kind == "date" else "f8")
    if kind == "group":
        group.create_group("X").create_array("deep", data=data)
    else:
        group.create_array("X", shape=data.shape, dtype=data.dtype)[...] = data
    file = tmp_path / "a.zarr/X" / (".zarray" if version == 2 else "zarr.json")
    if kind.startswith("unknown"):
        metadata = json.loads(file.read_text())
        if kind == "unknown dtype":
            metadata["dtype" if version == 2 else "data_type"] = "<f16" if version == 2 else "float128"
        elif version == 2:
            metadata["compressor"] = {"id": "nope"}
        else:
            metadata["codecs"].append({"name": "nope", "configuration": {}})
        file.write_text(json.dumps(metadata))
    way = {
        "record": r"group\['a'\] = group\['X'\]\[:\]\['a'\]",
        "date": r'astype\("int64"\)',
        "scalar": "one entry per row",
        "group": "`stored_as: X/deep`, or use the option `group: X`",
    }.get(kind, "leave it out")
    refused(tmp_path / "a.zarr", "X", way)
    columns, unreadable = listed(tmp_path / "a.zarr")
    assert columns == {"y": "float64"} and set(unreadable) == {"X"}
    with pytest.raises(UnsupportedStoreError, match=way):
        kd.load_dataset(tmp_path / "a.zarr")
    with kd.load_dataset(tmp_path / "a.zarr", X="y") as dataset:
        assert dataset[2][0] == 2


@VERSIONS
def test_metadata_that_is_damaged_stays_damage(tmp_path, version):
    group_of(tmp_path / "a.zarr", version, X=np.ones(3), y=np.arange(3.0))
    file = tmp_path / "a.zarr/X" / (".zarray" if version == 2 else "zarr.json")
    file.write_text(file.read_text()[:-20])
    with pytest.raises(CorruptStoreError, match="damaged"):
        kd.load_dataset(tmp_path / "a.zarr", X="X")
    with kd.load_dataset(tmp_path / "a.zarr", X="y") as dataset:
        assert len(dataset) == 3


@VERSIONS
def test_other_lengths_and_names_do_not_matter_if_they_are_not_named(tmp_path, version):
    path = tmp_path / "a.zarr"
    group_of(path, version, X=np.ones((5, 2)), y=np.arange(5.0), mean=np.ones(2))
    zarr.open_group(path)["y"].attrs["units"] = "nM"
    zarr.open_group(path).create_array("lost.values", data=np.ones(5))
    zarr.open_group(path).create_array("idx_names", shape=(2,), dtype=str)
    columns, unreadable = listed(path)
    assert set(columns) == {"X", "y"} and set(unreadable) == {"mean", "lost.values", "idx_names"}
    with kd.load_dataset(path) as dataset:
        assert len(dataset) == 5
    with pytest.raises(SpecError, match="differ in their number of rows: X has 5, mean has 2"):
        kd.load_dataset(path, X=["X", "mean"])
    with pytest.raises(SpecError, match=r"contains none of the columns; its group '/' contains \['X', "):
        kd.load_dataset(path, X="Z")


@VERSIONS
def test_nested_groups_are_named_by_path_or_by_the_option_group(tmp_path, version):
    path = tmp_path / "a.zarr"
    group_of(path, version, obsm__pca=np.arange(6.0).reshape(3, 2), obs__age=[1.0, 2.0, 3.0], obs__deep__z=[1, 2, 3])
    columns = {"pca": {"dtype": "float32", "shape": [2], "stored_as": "obsm/pca"}, "age": {"stored_as": "obs/age"}}
    spec = {"columns": columns, "X": "pca", "y": "age", "storage": {"backend": "zarr", "path": str(path)}}
    with kd.load_dataset(spec) as dataset:
        assert dataset[[2, 0]][0].tolist() == [[4, 5], [0, 1]] and dataset[1][1] == 2
    with kd.load_dataset(path, X="obsm/pca", y="obs/deep/z") as dataset:
        assert dataset[1][0].tolist() == [2, 3] and dataset[1][1] == 2
    with kd.load_dataset(path, group="obs", X="age", y="deep/z") as dataset:
        assert dataset[2][0] == 3 and dataset[2][1] == 3
    with pytest.raises(SpecError, match=r"no array of rows in the group '/', but the groups obs, obsm; .*group: obs"):
        kd.load_dataset(path)
    for group in ("nothing", "obs/age", "../a.zarr"):
        with pytest.raises(SpecError, match="correct the option `group`"):
            kd.load_dataset(path, group=group, X="age")
    with pytest.raises(SpecError, match="none of the columns"):
        kd.load_dataset(path, X="../a.zarr/obs/age")


def test_the_option_group_is_only_for_groups_of_other_programs(tmp_path):
    kd.save_dataset(kd.from_arrays(np.zeros((3, 2)), np.zeros(3)), tmp_path / "a.zarr")
    with pytest.raises(SpecError, match="remove the option `group`"):
        kd.load_dataset(tmp_path / "a.zarr", group="g")
    with pytest.raises(UnsupportedStoreError, match="remove the option `group`"):
        Zarr(path=tmp_path / "b.zarr", group="g").write({}, iter(()))


# -- the conventions of netCDF, as xarray writes them


@VERSIONS
def test_scaled_and_missing_numbers_are_applied(tmp_path, version):
    path = tmp_path / "a.zarr"
    group = group_of(path, version, packed=np.array([[1, 2], [-9, 4], [5, 6]], "i2"), nan=[1.0, np.nan, 3.0])
    group["packed"].attrs.update({"scale_factor": 0.1, "add_offset": 5.0, "_FillValue": -9})
    group["nan"].attrs["_FillValue"] = base64.b64encode(struct.pack("<d", np.nan)).decode()
    group.create_array("limited", data=np.array([1, 200, 3], "i4")).attrs["valid_max"] = 100
    group.create_array("wrong", data=np.arange(3)).attrs["scale_factor"] = "a lot"
    for name, missing in (("packed", [[0, 0], [1, 0], [0, 0]]), ("nan", [0, 1, 0]), ("limited", [0, 1, 0])):
        with closing(
            Zarr(path=path).open({name: kd.Array(shape=(2,) if name == "packed" else (), missing="nan")})
        ) as s:
            found = s.read(np.arange(3), [name])[name]
        assert np.isnan(found).tolist() == np.array(missing, bool).tolist()
        with closing(Zarr(path=path).open({name: None})) as storage:
            with pytest.raises(SpecError, match=f"column '{name}', row 1: a value is missing.*missing: nan"):
                storage.read(np.array([2, 1]), [name])
            found = storage.read(np.array([2, 0]), [name])[name]
        expected = {"packed": [[5.5, 5.6], [5.1, 5.2]], "nan": [3, 1], "limited": [3, 1]}[name]
        assert np.allclose(found, expected) and (found.dtype == "int32") == (name == "limited")
    refused(path, "wrong", "attribute scale_factor, which is not a number")


def test_the_fill_value_of_zarr_2_is_a_missing_value_only_if_xarray_wrote_it(tmp_path):
    group = zarr.create_group(tmp_path / "a.zarr", zarr_format=2)
    for name in ("xarray", "other"):
        group.create_array(name, shape=(3,), dtype="f8", fill_value=0.0, config={"write_empty_chunks": True})[:] = [
            1,
            0,
            2,
        ]
    group["xarray"].attrs["_ARRAY_DIMENSIONS"] = ["row"]
    assert values(tmp_path / "a.zarr", "other") == [1, 0, 2]
    with pytest.raises(SpecError, match="row 1: a value is missing"):
        values(tmp_path / "a.zarr", "xarray")
    found = values(tmp_path / "a.zarr", "xarray", kd.Array("float64", missing="nan"))
    assert found[0] == 1 and np.isnan(found[1]) and found[2] == 2


# -- anndata


@pytest.fixture(params=[2, 3])
def adata(tmp_path, request):
    anndata, pandas = pytest.importorskip("anndata"), pytest.importorskip("pandas")
    sparse = pytest.importorskip("scipy.sparse")
    obs = pandas.DataFrame(
        {
            "age": [1.0, 2.0, 3.0],
            "kind": pandas.Categorical(["a", "b", "a"]),
            "count": pandas.array([1, None, 3], dtype="Int64"),
            "ok": [True, False, True],
            "note": ["q", "r", "s"],
        },
        index=list("xyz"),
    )
    X = np.arange(6, dtype="f4").reshape(3, 2)
    data = anndata.AnnData(X, obs=obs, obsm={"pca": X[:, ::-1] * 2.0, "sparse": sparse.csr_matrix(np.eye(3))})
    with warnings.catch_warnings(), anndata.settings.override(zarr_write_format=request.param):
        warnings.simplefilter("ignore")
        data.write_zarr(tmp_path / "a.zarr")
        data.X = sparse.csr_matrix(X)
        data.write_zarr(tmp_path / "sparse.zarr")
    return tmp_path / "a.zarr"


def test_anndata_is_read_by_path(adata):
    columns = {
        "pca": {"dtype": "float32", "shape": [2], "stored_as": "obsm/pca"},
        "age": {"dtype": "float32", "stored_as": "obs/age"},
        "note": {"dtype": "str", "stored_as": "obs/note"},
        "kind": {"dtype": "int64", "stored_as": "obs/kind/codes"},
    }
    spec = {"columns": columns, "X": "pca", "y": "age", "meta": ["note", "kind"]}
    with kd.load_dataset(spec | {"storage": {"backend": "zarr", "path": str(adata)}}) as dataset:
        assert dataset[[2, 0]][0].tolist() == [[10, 8], [2, 0]] and dataset[[2, 0]][1].tolist() == [3, 1]
        assert dataset.column("note") == ["q", "r", "s"] and dataset.column("kind").tolist() == [0, 1, 0]
    with kd.load_dataset(adata, y="obs/ok", X="X") as dataset:
        assert dataset[1][0].tolist() == [2, 3] and not dataset[1][1]


def test_anndata_groups_are_unreadable_with_the_way_out(adata):
    columns, unreadable = listed(adata)
    assert columns == {"X": "float32 (2,)"} and "use the option `group: obs`" in unreadable["obs"]
    columns, unreadable = listed(adata, group="obs")
    assert columns == {"_index": "str", "age": "float64", "note": "str", "ok": "bool"}
    assert "`stored_as: obs/kind/codes`" in unreadable["kind"] and "`obs/count/mask` marks" in unreadable["count"]
    refused(adata, "obsm/sparse", "sparse matrix of anndata.*toarray")
    with pytest.raises(UnsupportedStoreError, match=r"'X' is a sparse matrix of anndata.*adata.X.toarray\(\)"):
        kd.load_dataset(adata.with_name("sparse.zarr"), X="X")
