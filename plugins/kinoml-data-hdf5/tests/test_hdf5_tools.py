"""Files of other tools, each written here by that tool: what they contain is read, or refused with the way out."""

from __future__ import annotations

import subprocess
import sys
from contextlib import closing
from pathlib import Path

import h5py
import kinoml_data as kd
import numpy as np
import pytest
from kinoml_data.errors import CorruptStoreError, SpecError, StoreReadError, UnsafeStoreError, UnsupportedStoreError
from kinoml_data.verify import verify

from kinoml_data_hdf5 import Hdf5

LISTS = [[1.0, 2.0], [], [3.0]]


def listed(path: Path, **options) -> tuple[dict[str, str], dict[str, str]]:
    """The columns and what is unreadable, in a file that is opened bare."""
    with closing(Hdf5(path=path, **options).open(None)) as storage:
        return {name: str(array) for name, array in storage.columns.items()}, dict(storage.unreadable)


def values(path: Path, name: str, declared: kd.Array | None = None, **options) -> list:
    with closing(Hdf5(path=path, **options).open({name: declared})) as storage:
        column = storage.read(np.arange(len(storage)), [name])[name]
        if storage.columns[name].is_string:
            return column.strings()
        return [np.asarray(column[i]).tolist() for i in range(len(column))]


def refused(path: Path, name: str, said: str, **options) -> None:
    """A column is refused by name, is listed as unreadable, and is no damage."""
    with pytest.raises(UnsupportedStoreError, match=said) as caught:
        Hdf5(path=path, **options).open({name: None})
    assert not isinstance(caught.value, CorruptStoreError)


# -- h5py


def test_h5py_lists_of_numbers_are_a_ragged_column(tmp_path):
    with h5py.File(tmp_path / "a.h5", "w") as file:
        for dtype in ("f8", "<i2", "?"):
            data = file.create_dataset(f"g/{dtype}", (3,), h5py.vlen_dtype(np.dtype(dtype)))
            for i, row in enumerate(LISTS):
                data[i] = np.array(row, dtype)
        file["y"] = np.arange(3.0)
        file["X"] = file["g/f8"]
    for dtype in ("f8", "<i2", "?"):
        assert values(tmp_path / "a.h5", f"g/{dtype}") == [np.array(row, dtype).tolist() for row in LISTS]
    with kd.load_dataset(tmp_path / "a.h5", collate="pad") as dataset:
        assert dataset[[2, 0]][0].tolist() == [[3, 0], [1, 2]] and dataset[[2, 0]][1].tolist() == [2, 0]
        loader = dataset.as_dataloader(batch_size=3, num_workers=1)
        assert next(iter(loader))[0].tolist() == [[1, 2], [0, 0], [3, 0]]
    spec = {"columns": {"X": {"dtype": "float64", "shape": ["*"]}}, "X": "X"}
    kd.convert(spec | {"storage": {"backend": "hdf5", "path": str(tmp_path / "a.h5")}}, tmp_path / "b.h5")
    with kd.load_dataset(tmp_path / "b.h5") as dataset:
        assert [dataset[i][0].tolist() for i in range(3)] == LISTS


def test_h5py_lists_of_lists_texts_and_lists_in_several_axes_are_refused(tmp_path):
    with h5py.File(tmp_path / "a.h5", "w") as file:
        file.create_dataset("lists", (2,), h5py.vlen_dtype(h5py.vlen_dtype("f8")))
        file.create_dataset("texts", (2,), h5py.vlen_dtype(h5py.string_dtype()))
        file.create_dataset("table", (2, 2), h5py.vlen_dtype("f8"))
        file["long"] = np.ones(2, np.longdouble)
        file["empty"] = h5py.Empty("f4")
        file["date"] = np.zeros(2, "M8[s]").astype(h5py.opaque_dtype(np.dtype("M8[s]")))
        file["X"] = np.ones(2)
    columns, unreadable = listed(tmp_path / "a.h5")
    assert columns == {"X": "float64"}
    for name in ("lists", "texts", "table", "long", "empty", "date"):
        assert name in unreadable
        refused(tmp_path / "a.h5", name, "leave it out|one entry per row")


def test_h5py_texts_of_any_form_are_strings(tmp_path):
    with h5py.File(tmp_path / "a.h5", "w") as file:
        file["ascii"] = np.array([b"C", b"CC"])
        file["utf8"] = ["C", "Zoë"]
        kind = h5py.h5t.C_S1.copy()
        kind.set_size(4)
        kind.set_strpad(h5py.h5t.STR_SPACEPAD)  # as Fortran writes it
        data = h5py.h5d.create(file.id, b"padded", kind, h5py.h5s.create_simple((2,)))
        data.write(h5py.h5s.ALL, h5py.h5s.ALL, np.array([b"C   ", b"CC  "]))
    for name, expected in (("ascii", ["C", "CC"]), ("utf8", ["C", "Zoë"]), ("padded", ["C", "CC"])):
        assert values(tmp_path / "a.h5", name) == expected


def test_h5py_scalars_groups_other_lengths_and_damage_do_not_matter_if_they_are_not_named(tmp_path):
    with h5py.File(tmp_path / "a.h5", "w") as file:
        file["X"], file["y"] = np.zeros((5, 2)), np.arange(5.0)
        file["version"] = 3
        file["mean"] = np.zeros(2)
        file["nested/deep/z"] = np.arange(5)
        file["idx_names"] = ["a", "b"]
        file["lost.values"] = np.zeros(5)
    columns, unreadable = listed(tmp_path / "a.h5")
    assert columns == {"X": "float64 (2,)", "y": "float64"}
    assert set(unreadable) == {"version", "mean", "nested", "idx_names", "lost.values"}
    assert "has 2 rows, but the others have 5" in unreadable["mean"]
    with kd.load_dataset(tmp_path / "a.h5") as dataset:
        assert dataset[3][1] == 3
    assert verify(tmp_path / "a.h5").damage == []
    with pytest.raises(SpecError, match="differ in their number of rows: X has 5, mean has 2"):
        kd.load_dataset(tmp_path / "a.h5", X=["X", "mean"])
    for name, said in (("version", "single value"), ("nested", "`stored_as: nested/deep`, or use the option `group")):
        refused(tmp_path / "a.h5", name, said)
    assert values(tmp_path / "a.h5", "nested/deep/z") == [0, 1, 2, 3, 4]


def test_columns_that_tie_in_their_number_of_rows_are_an_error_of_the_spec(tmp_path):
    with h5py.File(tmp_path / "a.h5", "w") as file:
        file["a"], file["b"] = np.zeros(2), np.zeros(3)
    with pytest.raises(SpecError, match="name columns of one table"):
        kd.load_dataset(tmp_path / "a.h5")
    with kd.load_dataset(tmp_path / "a.h5", X="b") as dataset:
        assert len(dataset) == 3


def test_a_file_with_groups_only_says_which_there_are(tmp_path):
    with h5py.File(tmp_path / "a.h5", "w") as file:
        file["mol1/X"], file["mol2/X"] = np.zeros((2, 3)), np.ones((4, 3))
    with pytest.raises(SpecError, match=r"no array of rows in the group '/', but the groups mol1, mol2; .*group: mol1"):
        kd.load_dataset(tmp_path / "a.h5")
    assert verify({"storage": {"backend": "hdf5", "path": str(tmp_path / "a.h5"), "group": "mol2"}}).damage == []
    with kd.load_dataset(tmp_path / "a.h5", group="mol2", X="X") as dataset:
        assert dataset[3][0].tolist() == [1, 1, 1]
    with pytest.raises(SpecError, match="'nothing'; correct the option `group`"):
        kd.load_dataset(tmp_path / "a.h5", group="nothing", X="X")


def test_what_leaves_the_file_does_not_matter_if_it_is_not_named(tmp_path):
    with h5py.File(tmp_path / "a.h5", "w") as file:
        file["X"] = np.zeros((3, 2))
        file["link"] = h5py.ExternalLink("other.h5", "/X")
        file["soft"] = h5py.SoftLink("/nowhere")
        layout = h5py.VirtualLayout((3, 2), "f8")
        layout[:] = h5py.VirtualSource(tmp_path / "other.h5", "X", (3, 2))
        file.create_virtual_dataset("virtual", layout)
    columns, unreadable = listed(tmp_path / "a.h5")
    assert set(columns) == {"X"} and set(unreadable) == {"link", "soft", "virtual"}
    with pytest.raises(UnsafeStoreError, match="other files"):
        Hdf5(path=tmp_path / "a.h5").open({"virtual": None})


def test_options_that_name_nothing_are_errors_of_the_spec(tmp_path):
    with h5py.File(tmp_path / "a.h5", "w") as file:
        file["flat"], file["n"] = np.arange(12.0), [4, 8]
    for layout in ({"values": "flatt", "lengths": "n"}, {"values": "flat", "offsets": "m"}):
        with pytest.raises(SpecError, match="correct the option `ragged`"):
            Hdf5(path=tmp_path / "a.h5", ragged={"X": layout}).open(None)


def test_lists_of_another_byte_order_are_refused_because_h5py_does_not_convert_them(tmp_path):
    with h5py.File(tmp_path / "a.h5", "w") as file:
        other = np.dtype("f4").newbyteorder("S")
        file.create_dataset("X", (2,), h5py.vlen_dtype(other))[0] = np.array([1, 2], "f4")
        file["y"] = np.arange(2.0)
    refused(tmp_path / "a.h5", "X", "byte order h5py does not convert; store them as float32")
    assert list(listed(tmp_path / "a.h5")[0]) == ["y"]


def test_rows_that_all_refer_to_the_same_bytes_do_not_fill_the_memory(tmp_path):
    for name, dtype, row in (
        ("lists", h5py.vlen_dtype(np.dtype("u1")), np.ones(1 << 20, np.uint8)),
        ("texts", h5py.string_dtype(), "x" * (1 << 20)),
    ):
        with h5py.File(tmp_path / f"{name}.h5", "w") as file:
            data = file.create_dataset("X", (20_000,), dtype)
            data[0] = row
            data.flush()
            at = data.id.get_offset()
        content = bytearray((tmp_path / f"{name}.h5").read_bytes())
        content[at : at + 16 * 20_000] = bytes(content[at : at + 16]) * 20_000
        (tmp_path / f"{name}.h5").write_bytes(content)
        with (
            closing(Hdf5(path=tmp_path / f"{name}.h5").open({"X": None})) as storage,
            pytest.raises(UnsafeStoreError, match="bytes in memory; leave it out"),
        ):
            storage.read(np.array([0]), ["X"])


def test_ragged_numbers_that_are_scaled_are_refused(tmp_path):
    with h5py.File(tmp_path / "a.h5", "w") as file:
        lists = file.create_dataset("lists", (2,), h5py.vlen_dtype(np.dtype("f8")))
        lists[0], lists[1] = np.ones(2), np.ones(1)
        file["flat.values"], file["flat.shapes"], file["n"] = np.ones(3), np.array([[2], [1]]), [2, 1]
        for name in ("lists", "flat.values"):
            file[name].attrs["_FillValue"] = np.nan
    ragged = {"ragged": {"X": {"values": "flat.values", "lengths": "n"}}}
    for name, options in (("lists", {}), ("flat", {}), ("X", ragged)):
        assert values(tmp_path / "a.h5", name, **options) == [[1, 1], [1]]
    with h5py.File(tmp_path / "a.h5", "r+") as file:
        for name in ("lists", "flat.values"):
            file[name].attrs["scale_factor"] = 2.0
    for name, options in (("lists", {}), ("flat", {}), ("X", ragged)):
        refused(tmp_path / "a.h5", name, "attribute scale_factor, which is applied only to", **options)


# -- a file that is in use


def test_a_file_that_is_open_for_writing_is_no_damage(tmp_path):
    path = tmp_path / "a.h5"
    with h5py.File(path, "w") as file:
        file["X"] = np.zeros((3, 2))
        for flush in (False, True):
            if flush:
                file.flush()
            with pytest.raises(StoreReadError, match="is open for writing; close it there first"):
                kd.load_dataset(path, X="X")
    with h5py.File(path), kd.load_dataset(path, X="X") as dataset:  # another reader does not matter
        assert len(dataset) == 3
    with h5py.File(path, "r+", libver="latest"), pytest.raises(StoreReadError, match="close it there first"):
        kd.load_dataset(path, X="X")
    assert verify({"X": "X", "storage": {"backend": "hdf5", "path": str(path)}}).damage == []


def test_a_file_that_another_process_writes_or_left_open_is_no_damage(tmp_path):
    code = (
        "import h5py, os, sys\n"
        "file = h5py.File('a.h5', 'w', libver='latest'); file['X'] = [1.0, 2.0]; file.flush()\n"
        "print('open', flush=True); sys.stdin.read(); os._exit(0)"
    )
    writer = subprocess.Popen(
        [sys.executable, "-c", code], cwd=tmp_path, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    )
    assert writer.stdout.readline() == "open\n"
    try:
        with pytest.raises(StoreReadError, match="is open for writing"):
            kd.load_dataset(tmp_path / "a.h5", X="X")
    finally:
        writer.communicate("")
    with pytest.raises(StoreReadError, match="h5clear -s"):  # it ended without closing the file
        kd.load_dataset(tmp_path / "a.h5", X="X")


def test_a_file_that_is_cut_stays_damaged(tmp_path):
    with h5py.File(tmp_path / "a.h5", "w") as file:
        file["X"] = np.zeros((300, 2))
    (tmp_path / "a.h5").write_bytes((tmp_path / "a.h5").read_bytes()[:-1000])
    with pytest.raises(CorruptStoreError, match="damaged"):
        kd.load_dataset(tmp_path / "a.h5", X="X")


# -- PyTables and pandas


@pytest.fixture
def pytables(tmp_path):
    tables = pytest.importorskip("tables")
    with tables.open_file(tmp_path / "t.h5", "w") as file:
        file.create_array("/", "flag", np.array([True, False, True]))
        file.create_carray("/", "mask", obj=np.tile([True, False] * 20, (3, 1)))
        file.create_earray("/", "y", obj=np.arange(3.0))
        for name, atom, rows in (
            ("lists", tables.Float32Atom(), LISTS),
            ("flags", tables.BoolAtom(), [[True], [], [False, True]]),
            ("points", tables.Float32Atom(shape=(3,)), [np.ones((2, 3)), np.zeros((0, 3)), np.ones((1, 3))]),
            ("objects", tables.ObjectAtom(), [{"a": 1}, 2, 3]),
            ("texts", tables.VLUnicodeAtom(), ["a", "b", "c"]),
        ):
            array = file.create_vlarray("/", name, atom)
            for row in rows:
                array.append(row)
        table = file.create_table("/", "table", {"a": tables.Float64Col(), "b": tables.BoolCol()})
        table.append([(1.0, True)] * 3)
        file.create_carray("/", "packed", obj=np.ones((3, 2)), filters=tables.Filters(5, "blosc"))
        file.create_carray("/", "time", tables.Time32Atom(), (3,))
        file.create_carray("/", "bits", obj=np.ones((3, 2), np.uint8))
        file.create_array("/", "version", 3.0)
        file.create_array("/", "names", ["a", "bc", ""])
    return tmp_path / "t.h5"


def test_pytables_bools_and_lists_are_read(pytables):
    assert values(pytables, "flag") == [True, False, True]
    assert values(pytables, "mask") == [[True, False] * 20] * 3
    assert values(pytables, "lists") == LISTS
    assert values(pytables, "flags") == [[True], [], [False, True]]
    assert values(pytables, "points") == [np.ones((2, 3)).tolist(), [], [[1, 1, 1]]]
    assert values(pytables, "names") == ["a", "bc", ""]
    assert values(pytables, "bits") == [[1, 1]] * 3
    columns, _ = listed(pytables)
    assert columns["flag"] == "bool" and columns["mask"] == "bool (40,)" and columns["points"] == "float32 (*, 3)"
    assert columns["flags"] == "bool (*,)" and columns["bits"] == "uint8 (2,)"
    with kd.load_dataset(pytables, X="mask", y="flag") as dataset:
        assert dataset[0][0].dtype.is_floating_point is False and dataset[[1, 2]][1].tolist() == [False, True]


@pytest.mark.parametrize(
    ("name", "said"),
    [
        ("objects", "pickled Python objects, which are never read"),
        ("texts", "store it with h5py as strings"),
        ("table", r"fields a, b, .*file\['a'\] = file\['/table'\]\['a'\]"),
        ("packed", "needs the filter 'blosc' .*h5repack"),
        ("time", "store them as numbers"),
        ("version", "one entry per row"),
    ],
)
def test_pytables_arrays_that_are_not_read_say_the_way_out(pytables, name, said):
    refused(pytables, name, said)
    assert name in listed(pytables)[1]


@pytest.mark.parametrize("form", ["fixed", "table"])
def test_pandas_to_hdf_says_the_way_out(tmp_path, form):
    pytest.importorskip("tables")
    pandas = pytest.importorskip("pandas")
    pandas.DataFrame({"a": [1.0, 2.0], "b": ["x", "y"]}).to_hdf(tmp_path / "p.h5", key="df", format=form)
    way = r"pandas.to_hdf wrote; convert it with `pandas.read_hdf\(.*p.h5', 'df'\).to_parquet\('data.parquet'\)`"
    with pytest.raises(SpecError, match=f"but the groups df; .*{way}"):
        kd.load_dataset(tmp_path / "p.h5")
    with pytest.raises(UnsupportedStoreError, match=way):
        kd.load_dataset(tmp_path / "p.h5", group="df")
    refused(tmp_path / "p.h5", "df", way)


def test_the_numbers_of_pandas_to_hdf_can_be_named(tmp_path):
    pytest.importorskip("tables")
    pandas = pytest.importorskip("pandas")
    pandas.DataFrame({"a": [1.0, 2.0], "c": [3.0, 4.0]}).to_hdf(tmp_path / "p.h5", key="df")
    assert values(tmp_path / "p.h5", "df/block0_values") == [[1, 3], [2, 4]]


# -- netCDF


@pytest.fixture
def netcdf(tmp_path):
    netCDF4 = pytest.importorskip("netCDF4")
    with netCDF4.Dataset(tmp_path / "n.nc", "w") as file:
        file.createDimension("row", 4)
        file.createDimension("letter", 3)
        file.createDimension("more", None)
        packed = file.createVariable("packed", "i2", ("row", "letter"), fill_value=-9)
        packed.scale_factor, packed.add_offset = 0.1, 5.0
        packed[:] = np.ma.array(np.arange(12).reshape(4, 3) / 10 + 5, mask=np.arange(12).reshape(4, 3) == 7)
        whole = file.createVariable("whole", "i2", ("row",))
        whole.scale_factor = np.float32(0.5)
        whole[:] = [1.0, 2.5, -3.0, 0.0]
        count = file.createVariable("count", "i4", ("row",))
        count.missing_value = np.int32(-1)
        count[:] = np.ma.array([1, 2, 3, 4], mask=[0, 0, 1, 0])
        ranged = file.createVariable("ranged", "f8", ("row",))
        ranged.valid_range = [0.0, 10.0]
        ranged.set_auto_mask(False)
        ranged[:] = [1, 11, 3, 4]
        small = file.createVariable("small", "i1", ("row",))
        small.setncattr("_Unsigned", "true")
        small.set_auto_maskandscale(False)
        small[:] = np.array([1, -1, 3, -128], "i1")
        grown = file.createVariable("grown", "f4", ("more",))
        grown[2:4] = 1
        file.createVariable("plain", "f8", ("row",))[:] = np.arange(4.0)
        file.createVariable("text", str, ("row",))[:] = np.array(["a", "b", "", "d"], object)
        file.createVariable("letters", "S1", ("row", "letter"))[:] = np.array([list("abc")] * 4, "S1")
        lists = file.createVariable("lists", file.createVLType("i4", "numbers"), ("row",))
        for i in range(4):
            lists[i] = np.arange(i, dtype="i4")
        file.createVariable("scalar", "f8", ())[:] = 3
        file.createGroup("inner").createVariable("deep", "f8", ("row",))[:] = 1
    return tmp_path / "n.nc"


@pytest.mark.parametrize("name", ["packed", "whole", "count", "ranged", "small", "grown", "plain"])
def test_netcdf_numbers_are_those_that_netcdf_reads(netcdf, name):
    netCDF4 = pytest.importorskip("netCDF4")
    with netCDF4.Dataset(netcdf) as file:
        expected = file[name][:]
    masked = np.ma.getmaskarray(expected)
    declared = kd.Array("float64", expected.shape[1:], missing="nan")
    with closing(Hdf5(path=netcdf).open({name: declared})) as storage:
        found = storage.read(np.arange(4), [name])[name]
        assert storage.columns[name].dtype == found.dtype.name
    assert np.array_equal(np.isnan(found), masked)
    assert np.array_equal(found[~masked], expected.data[~masked])
    with closing(Hdf5(path=netcdf).open({name: None})) as storage:
        if masked.any():
            row = int(np.flatnonzero(masked.reshape(4, -1).any(axis=1))[0])
            with pytest.raises(SpecError, match=rf"column '{name}', row {row}: a value is missing.*missing: nan"):
                storage.read(np.arange(4), [name])
        kept = np.flatnonzero(~masked.reshape(4, -1).any(axis=1))[::-1]
        found = storage.read(kept, [name])[name]
        assert found.dtype == expected.dtype and np.array_equal(found, expected.data[kept])


def test_netcdf_missing_values_reach_the_tensors_as_nan_only_if_the_spec_says_so(netcdf):
    columns = {"packed": {"dtype": "float32", "shape": [3], "missing": "nan"}, "count": {"missing": "nan"}}
    spec = {"columns": columns, "X": "packed", "y": "count", "storage": {"backend": "hdf5", "path": str(netcdf)}}
    with kd.load_dataset(spec) as dataset:
        X, y = dataset[[2, 1]]
        assert X.isnan().tolist() == [[False, True, False], [False] * 3] and y.isnan().tolist() == [True, False]
        assert X[1].tolist() == pytest.approx([5.3, 5.4, 5.5])
    columns["packed"].pop("missing")
    with kd.load_dataset(spec) as dataset, pytest.raises(SpecError, match="row 2: a value is missing"):
        dataset[2]


def test_netcdf_dimensions_and_types_are_no_columns(netcdf):
    columns, unreadable = listed(netcdf)
    assert set(columns) == {"packed", "whole", "count", "ranged", "small", "grown", "plain", "text", "lists"}
    assert set(unreadable) == {"letters", "scalar", "inner"}
    assert "store one of them per row" in unreadable["letters"]
    assert values(netcdf, "text") == ["a", "b", "", "d"]
    assert values(netcdf, "lists") == [[], [0], [0, 1], [0, 1, 2]]
    assert values(netcdf, "inner/deep") == [1, 1, 1, 1]


def test_attributes_that_are_no_numbers_are_refused_with_the_column(tmp_path):
    with h5py.File(tmp_path / "a.h5", "w") as file:
        file["X"], file["y"] = np.arange(3), np.arange(3.0)
        file["X"].attrs["scale_factor"] = "0.1"
        file["y"].attrs["units"] = "nM"
    assert listed(tmp_path / "a.h5")[0] == {"y": "float64"}
    refused(tmp_path / "a.h5", "X", "attribute scale_factor, which is not a number")


def test_integers_that_no_float_can_be_are_an_error(tmp_path):
    with h5py.File(tmp_path / "a.h5", "w") as file:
        file["X"] = np.array([1, -1, 2**53 + 1])
        file["X"].attrs["_FillValue"] = np.int64(-1)
    with closing(Hdf5(path=tmp_path / "a.h5").open({"X": kd.Array("float64", missing="nan")})) as storage:
        assert storage.read(np.array([0]), ["X"])["X"].tolist() == [1]
        with pytest.raises(SpecError, match="row 2: 9007199254740993 does not fit float64"):
            storage.read(np.array([0, 2]), ["X"])


def test_a_classic_netcdf_file_says_how_to_convert_it(tmp_path):
    netCDF4 = pytest.importorskip("netCDF4")
    with netCDF4.Dataset(tmp_path / "n.nc", "w", format="NETCDF3_CLASSIC") as file:
        file.createDimension("row", 2)
        file.createVariable("X", "f8", ("row",))[:] = 1
    with pytest.raises(UnsupportedStoreError, match="nccopy -k netCDF-4"):
        kd.load_dataset(tmp_path / "n.nc", backend="hdf5", X="X")


# -- anndata


@pytest.fixture
def h5ad(tmp_path):
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
    data.write_h5ad(tmp_path / "a.h5ad")
    data.X = sparse.csr_matrix(X)
    data.write_h5ad(tmp_path / "sparse.h5ad")
    return tmp_path / "a.h5ad"


def test_anndata_is_read_by_path(h5ad):
    columns = {
        "pca": {"dtype": "float32", "shape": [2], "stored_as": "obsm/pca"},
        "age": {"dtype": "float32", "stored_as": "obs/age"},
        "note": {"dtype": "str", "stored_as": "obs/note"},
        "kind": {"dtype": "int64", "stored_as": "obs/kind/codes"},
    }
    spec = {"columns": columns, "X": "pca", "y": "age", "meta": ["note", "kind"]}
    with kd.load_dataset(spec | {"storage": {"backend": "hdf5", "path": str(h5ad)}}) as dataset:
        assert dataset[[2, 0]][0].tolist() == [[10, 8], [2, 0]] and dataset[[2, 0]][1].tolist() == [3, 1]
        assert dataset.column("note") == ["q", "r", "s"] and dataset.column("kind").tolist() == [0, 1, 0]
    with kd.load_dataset(h5ad, backend="hdf5", y="obs/ok", X="X") as dataset:
        assert dataset[1][0].tolist() == [2, 3] and not dataset[1][1]


def test_anndata_groups_are_unreadable_with_the_way_out(h5ad):
    columns, unreadable = listed(h5ad)
    assert columns == {"X": "float32 (2,)"} and "use the option `group: obs`" in unreadable["obs"]
    columns, unreadable = listed(h5ad, group="obs")
    assert columns == {"_index": "str", "age": "float64", "note": "str", "ok": "bool"}
    assert "`stored_as: obs/kind/codes`" in unreadable["kind"] and "`obs/count/mask` marks" in unreadable["count"]
    refused(h5ad, "obsm/sparse", "sparse matrix of anndata.*toarray")
    with pytest.raises(UnsupportedStoreError, match=r"'X' is a sparse matrix of anndata.*adata.X.toarray\(\)"):
        kd.load_dataset(h5ad.with_name("sparse.h5ad"), backend="hdf5", X="X")
