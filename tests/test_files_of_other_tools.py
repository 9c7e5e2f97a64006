"""Files as other programs write them, each written by that program in the test: the right tensors, or the right error.

HDF5 and Zarr files of other programs are tested with their plugins.
"""

from __future__ import annotations

import decimal
import importlib.util
import shutil
import subprocess
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import kinoml_data as kd
from kinoml_data.errors import SpecError, SplitError, UnsupportedStoreError

pytestmark = pytest.mark.filterwarnings("ignore:.*has no checksums of its rows:UserWarning")

MW, IC50, SMILES = [46.07, 45.08, 78.11], [12.0, 10500.0, 0.5], ["CCO", "CCN", "c1ccccc1"]


def opened(path: Path, X: Any, **options: Any) -> tuple[Any, Any]:
    """X and y of all rows."""
    with kd.load_dataset(path, X=X, **options) as dataset:
        batch: tuple[Any, Any] = dataset[:]
        return batch


def with_columns(path: Path, backend: str, columns: dict[str, Any], **options: Any) -> Any:
    """The columns of a spec that declares them."""
    spec = {"columns": columns, "X": [*columns], "storage": {"backend": backend, "path": str(path), **options}}
    with kd.load_dataset(spec) as dataset:
        return {name: tensor.numpy() for name, tensor in dataset[:][0].items()}


def needs_roles(path: Path) -> str:
    """The error for a table whose roles are not named."""
    with pytest.raises(SpecError, match="does not specify which columns are X and which are y") as caught:
        kd.load_dataset(path)
    return str(caught.value)


# -- a published split


def test_the_split_of_pydebiaseddta_is_apart_on_both_sides(tmp_path: Path) -> None:
    package = importlib.util.find_spec("pydebiaseddta")  # it is not imported, and needs much that is not installed
    if package is None or not package.submodule_search_locations:
        pytest.skip("pydebiaseddta is not installed: pip install --no-deps pydebiaseddta==0.1.0")
    folder = Path(next(iter(package.submodule_search_locations))) / "data" / "dta" / "dta_sample_data"
    lines: list[str] = []
    for name in ("train", "val", "test"):
        header, *rows = (folder / f"{name}.csv").read_text("utf-8").splitlines()
        lines += [f"{row},{name}" for row in rows]
    (tmp_path / "all.csv").write_text("\n".join([f"{header},subset", *lines]), "utf-8")
    spec = {"X": "affinity_score", "storage": {"backend": "csv", "path": str(tmp_path / "all.csv")}}
    labels = {"labels": {"column": "subset"}}
    with kd.load_dataset(spec | {"splits": {**labels, "apart": ["ligand_id", "prot_id"]}}) as dataset:
        assert {name: len(rows) for name, rows in dataset.indices.items()} == {"train": 3000, "val": 1000, "test": 1000}
        assert dataset.check_splits().shared == ()
    with pytest.raises(SplitError, match="of column 'affinity_score'"):
        kd.load_dataset(spec | {"splits": {**labels, "apart": "affinity_score"}})


# -- pandas


@pytest.fixture
def frame() -> Any:
    pd = pytest.importorskip("pandas")
    return pd.DataFrame({"smiles": SMILES, "mw": MW, "IC50": IC50}, index=["CHEMBL1", "CHEMBL2", "CHEMBL3"])


def test_a_csv_of_pandas_with_its_index(frame: Any, tmp_path: Path) -> None:
    frame.to_csv(tmp_path / "t.csv")
    X, y = opened(tmp_path / "t.csv", "mw", y="IC50", meta="Unnamed: 0")
    assert X.tolist() == MW and y.tolist() == IC50
    message = needs_roles(tmp_path / "t.csv")
    assert "an index that another program stored" in message and "X=['mw'], y='IC50'" in message


@pytest.mark.parametrize("engine", ["pyarrow", "fastparquet"])
def test_a_parquet_file_of_pandas_with_a_named_index(frame: Any, tmp_path: Path, engine: str) -> None:
    pytest.importorskip(engine)
    frame.rename_axis("chembl_id").to_parquet(tmp_path / "t.parquet", engine=engine)
    with kd.load_dataset(tmp_path / "t.parquet", X="mw", y="IC50", meta=["chembl_id", "smiles"]) as dataset:
        assert dataset[:][0].tolist() == MW and dataset.column("smiles") == SMILES
        assert dataset.column("chembl_id") == ["CHEMBL1", "CHEMBL2", "CHEMBL3"]
    assert "chembl_id  str: an index that another program stored" in needs_roles(tmp_path / "t.parquet")
    frame.set_index(np.array([7, 9, 4])).rename_axis("number").to_parquet(tmp_path / "n.parquet", engine=engine)
    message = needs_roles(tmp_path / "n.parquet")
    assert "number  int64: an index that another program stored" in message.replace("number   ", "number ")
    assert "X=['mw'], y='IC50'" in message


@pytest.mark.parametrize("kind", ["float64", "Int64", "Float32", "boolean"])
def test_gaps_of_every_kind_of_pandas(tmp_path: Path, kind: str) -> None:
    pd = pytest.importorskip("pandas")
    values = pd.array([1, None, 0], dtype=kind)
    pd.DataFrame({"x": [1.0, 2.0, 3.0], "t": values}).to_parquet(tmp_path / "t.parquet")
    pd.DataFrame({"x": [1.0, 2.0, 3.0], "t": values}).to_csv(tmp_path / "t.csv", index=False)
    for name, backend in (("t.parquet", "parquet-awkward"), ("t.csv", "csv")):
        assert opened(tmp_path / name, "x")[0].tolist() == [1, 2, 3]
        found = with_columns(tmp_path / name, backend, {"t": {"dtype": "float32", "missing": "nan"}})
        np.testing.assert_array_equal(found["t"], [1, np.nan, 0])
        if kind != "float64" or backend == "csv":  # pandas writes the gap of a float64 as NaN, which is a number
            with pytest.raises(SpecError, match=r"row 1.*a value is missing"):
                opened(tmp_path / name, "t")


def test_dates_categories_and_objects_of_pandas_beside_the_columns(tmp_path: Path) -> None:
    pd = pytest.importorskip("pandas")
    table = pd.DataFrame({"x": [1.0, 2.0], "when": pd.to_datetime(["2020-01-01", "2021-01-01"])})
    table["kind"] = pd.Categorical(["a", "b"])
    table["period"] = pd.period_range("2020-01", periods=2, freq="M")
    table.to_parquet(tmp_path / "t.parquet")
    with kd.load_dataset(tmp_path / "t.parquet", X="x", meta="kind") as dataset:
        assert dataset[:][0].tolist() == [1, 2] and dataset.column("kind") == ["a", "b"]
    message = needs_roles(tmp_path / "t.parquet")
    assert "when" in message and "not readable" in message and "period" in message
    for name in ("when", "period"):
        with pytest.raises(UnsupportedStoreError, match=f"column '{name}' has the "):
            opened(tmp_path / "t.parquet", name)


def test_many_columns_of_pandas_are_one_tensor(tmp_path: Path) -> None:
    pd = pytest.importorskip("pandas")
    values = np.random.default_rng(0).random((5, 30))
    pd.DataFrame(values).add_prefix("f").assign(y=1.0).to_parquet(tmp_path / "w.parquet")
    columns = {"descriptors": {"dtype": "float32", "stored_as": {"glob": "f*"}}}
    found = with_columns(tmp_path / "w.parquet", "parquet-awkward", columns)
    np.testing.assert_array_equal(found["descriptors"], values.astype("f4"))


# -- polars, DuckDB, datasets, awkward


def test_files_of_polars(tmp_path: Path) -> None:
    pl = pytest.importorskip("polars")
    table = pl.DataFrame({"smiles": SMILES, "mw": MW, "IC50": IC50, "tokens": [[1, 2], [3], []]})
    table = table.with_columns(pl.col("smiles").cast(pl.Categorical).alias("kind"), pl.lit(None).alias("nothing"))
    table.write_parquet(tmp_path / "t.parquet")
    table.drop("tokens").write_csv(tmp_path / "t.csv")
    for name in ("t.parquet", "t.csv"):
        X, y = opened(tmp_path / name, ["mw"], y="IC50", meta=["smiles", "kind"])
        assert X["mw"].tolist() == MW and y.tolist() == IC50
    with kd.load_dataset(tmp_path / "t.parquet", X="tokens") as dataset:
        assert [row.tolist() for row in dataset[:][0]] == [[1, 2], [3], []]


def test_decimals_of_duckdb(tmp_path: Path) -> None:
    duckdb = pytest.importorskip("duckdb")
    query = "select 46.1 as mw, 6.5 as y, 'CCO' as smiles, 170141183460469231731687303715884105727::hugeint as huge"
    for name in ("d.parquet", "d.csv"):
        duckdb.sql(f"copy ({query} union all select 45.25, 7.25, 'CCN', 1) to '{tmp_path / name}'")
        X, y = opened(tmp_path / name, "mw", y="y", meta="smiles")
        assert (X.tolist(), y.tolist()) == ([46.1, 45.25], [6.5, 7.25])


def test_arrays_of_the_package_datasets(tmp_path: Path) -> None:
    datasets = pytest.importorskip("datasets")
    grid = np.arange(12, dtype="f4").reshape(3, 2, 2)
    features = datasets.Features(
        {"grid": datasets.Array2D((2, 2), "float32"), "y": datasets.Value("float32"), "text": datasets.Value("string")}
    )
    table = datasets.Dataset.from_dict({"grid": list(grid), "y": IC50, "text": SMILES}, features=features)
    table.to_parquet(str(tmp_path / "t.parquet"))
    table.save_to_disk(str(tmp_path / "saved"))
    X, y = opened(tmp_path / "t.parquet", "grid", y="y", meta="text")
    np.testing.assert_array_equal(X.numpy(), grid)
    assert y.tolist() == [12, 10500, 0.5]
    with pytest.raises(SpecError, match="the package 'datasets' saved"):
        kd.load_dataset(tmp_path / "saved")


def test_records_of_awkward(tmp_path: Path) -> None:
    ak = pytest.importorskip("awkward")
    data = ak.Array({"atoms": [[{"z": 6, "q": 0.1}], []], "y": [1.0, 2.0], "tokens": [[1, 2], [3]]})
    ak.to_parquet(data, tmp_path / "a.parquet")
    with kd.load_dataset(tmp_path / "a.parquet", X="tokens", y="y") as dataset:
        assert [row.tolist() for row in dataset[:][0]] == [[1, 2], [3]]
    with pytest.raises(UnsupportedStoreError, match=r"column 'atoms' has the type .*ak\.unzip"):
        opened(tmp_path / "a.parquet", "atoms")
    ak.to_parquet(ak.Array({"z": [[[1.0, 2.0], [3.0]], [[5.0]]]}), tmp_path / "uneven.parquet")
    with pytest.raises(UnsupportedStoreError, match="row 0: its lists on axis 1 differ in length"):
        opened(tmp_path / "uneven.parquet", "z")


# -- NPZ by other programs


def zip_of_numpy(path: Path) -> None:
    np.savez(path, X=np.array(MW), y=np.array(IC50), smiles=np.array(SMILES))


def compressed_by_numpy(path: Path) -> None:
    np.savez_compressed(path, X=np.array(MW), y=np.array(IC50), smiles=np.array(SMILES))


def members(path: Path) -> Path:
    folder = path.with_suffix("")
    folder.mkdir()
    for name, values in (("X", np.array(MW)), ("y", np.array(IC50)), ("smiles", np.array(SMILES))):
        np.save(folder / f"{name}.npy", values)
    return folder


def by_info_zip(path: Path) -> None:
    subprocess.run(["zip", "-q", "-r", str(path), "."], cwd=members(path), check=True)


def by_7z(path: Path) -> None:
    subprocess.run(["7z", "a", "-tzip", str(path), "."], cwd=members(path), check=True, stdout=subprocess.DEVNULL)


def by_zipfile(path: Path) -> None:
    folder = members(path)
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive:
        archive.comment = b"packed by hand"
        archive.writestr("README.txt", "what is in here")
        for member in sorted(folder.iterdir()):
            archive.write(member, member.name)


@pytest.mark.parametrize("write", [zip_of_numpy, compressed_by_numpy, by_info_zip, by_7z, by_zipfile])
def test_npz_files_that_numpy_reads(write: Callable[[Path], None], tmp_path: Path) -> None:
    tool = {by_info_zip: "zip", by_7z: "7z"}.get(write)
    if tool is not None and shutil.which(tool) is None:
        pytest.skip(f"{tool} is not installed")
    write(tmp_path / "a.npz")
    with np.load(tmp_path / "a.npz") as archive:
        assert {"X", "y", "smiles"} <= set(archive.files)
    with kd.load_dataset(tmp_path / "a.npz", meta="smiles") as dataset:
        assert dataset[:][0].tolist() == MW and dataset[:][1].tolist() == IC50 and dataset.column("smiles") == SMILES


def test_a_sparse_matrix_of_scipy_says_what_it_is(tmp_path: Path) -> None:
    sparse = pytest.importorskip("scipy.sparse")
    sparse.save_npz(tmp_path / "s.npz", sparse.csr_matrix(np.eye(3)))
    with pytest.raises(UnsupportedStoreError, match=r"a sparse matrix of SciPy.*toarray\(\)"):
        kd.load_dataset(tmp_path / "s.npz")


# -- text tables as spreadsheets and R write them


def test_a_table_of_r(tmp_path: Path) -> None:
    # write.csv(d) quotes texts and row names, has a name "" for the row names, and writes NA for a missing number.
    (tmp_path / "r.csv").write_text('"","smiles","mw","active"\n"1","CCO",46.07,TRUE\n"2","CCN",NA,FALSE\n')
    with kd.load_dataset(tmp_path / "r.csv", X="active", meta=["smiles", "Unnamed: 0"]) as dataset:
        assert dataset[:][0].tolist() == [True, False] and dataset.column("smiles") == ["CCO", "CCN"]
    found = with_columns(tmp_path / "r.csv", "csv", {"mw": {"dtype": "float32", "missing": "nan"}})
    np.testing.assert_array_equal(found["mw"], np.array([46.07, np.nan], "f4"))
    # write.csv2(d) separates by semicolons and writes decimal commas.
    (tmp_path / "r2.csv").write_text('"";"mw"\n"1";46,07\n"2";45,08\n')
    assert opened(tmp_path / "r2.csv", "mw", delimiter=";", decimal=",")[0].tolist() == [46.07, 45.08]


def test_text_tables_of_excel(tmp_path: Path) -> None:
    text = "Name;Größe\r\nA;1,5\r\nB;2,5\r\n"
    options = {"delimiter": ";", "decimal": ","}
    for encoding, option in (("cp1252", "cp1252"), ("utf-8-sig", "utf-8"), ("utf-16", "utf-16")):
        (tmp_path / "e.csv").write_bytes(text.encode(encoding))
        found = opened(tmp_path / "e.csv", "Größe", encoding=option, **options)
        assert found[0].tolist() == [1.5, 2.5]
    (tmp_path / "e.csv").write_bytes(text.encode("cp1252"))
    with pytest.raises(SpecError, match="line 1: the text is not utf-8; write its encoding"):
        opened(tmp_path / "e.csv", "Größe")


def test_a_workbook_is_refused_with_the_way_from_there(tmp_path: Path) -> None:
    openpyxl = pytest.importorskip("openpyxl")
    workbook = openpyxl.Workbook()
    workbook.active.append(["x", "y"])
    workbook.save(tmp_path / "w.xlsx")
    with pytest.raises(SpecError, match=r"pandas\.read_excel"):
        kd.load_dataset(tmp_path / "w.xlsx")


def test_an_assay_table_of_pubchem(tmp_path: Path) -> None:
    text = (
        "PUBCHEM_RESULT_TAG,PUBCHEM_SID,PUBCHEM_ACTIVITY_OUTCOME,Potency\n"
        "RESULT_TYPE,,,FLOAT\nRESULT_DESCR,,,Concentration at half-maximal activity\nRESULT_UNIT,,,MICROMOLAR\n"
        "1,842121,Active,25.1\n2,842122,Inactive,\n"
    )
    (tmp_path / "a.csv").write_text(text)
    columns = {
        "Potency": {"dtype": "float32", "missing": "nan"},
        "outcome": {"dtype": "int8", "stored_as": "PUBCHEM_ACTIVITY_OUTCOME", "values": ["Inactive", "Active"]},
    }
    found = with_columns(tmp_path / "a.csv", "csv", columns, skip_rows=3)
    np.testing.assert_array_equal(found["Potency"], np.array([25.1, np.nan], "f4"))
    assert found["outcome"].tolist() == [1, 0]
    with pytest.raises(SpecError, match=r"column 'Potency', row 4 \(line 6\): a value is missing"):
        with_columns(tmp_path / "a.csv", "csv", {"Potency": {"dtype": "float32"}})


def test_python_objects_that_arrow_writes(tmp_path: Path) -> None:
    pa = pytest.importorskip("pyarrow")
    import pyarrow.parquet as pq

    table = pa.table({"price": [decimal.Decimal("0.10"), decimal.Decimal("2.35")], "raw": [b"a", b"b"], "x": [1, 2]})
    pq.write_table(table, tmp_path / "p.parquet")
    assert opened(tmp_path / "p.parquet", "price")[0].tolist() == [0.10, 2.35]
    with pytest.raises(UnsupportedStoreError, match="column 'raw' has the type"):
        opened(tmp_path / "p.parquet", "raw")
