"""`joined`: what is special about rows that point into tables."""

from __future__ import annotations

import copy
import pickle
import tracemalloc
from contextlib import closing
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
import torch

import kinoml_data as kd
from kinoml_data.backends.npz.backend import NpzLazy
from kinoml_data.errors import CorruptStoreError, SpecError, StoreChangedError, StoreNotFoundError

RNG = np.random.default_rng(11)
LIGANDS = [RNG.normal(size=(5, int(n))).astype(np.float32) for n in RNG.integers(1, 9, 6)]
KINASES = RNG.normal(size=(4, 3)).astype(np.float32)
LIGAND = np.array([5, 0, 0, 3, 1, 5, 2, 2], np.int32)
KINASE = np.array([0, 3, 1, 1, 2, 0, 3, 3], np.uint8)
Y = np.arange(8, dtype=np.float32)


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    kd.save_dataset(kd.from_arrays(LIGANDS), tmp_path / "ligands.npz")
    kd.save_dataset(kd.from_arrays(KINASES), tmp_path / "kinases.parquet")
    splits = {"train": [0, 1, 2, 3, 4, 5], "test": [6, 7]}
    kd.save_dataset(kd.from_arrays({"ligand_row": LIGAND, "kinase_row": KINASE}, Y, splits), tmp_path / "thin.npz")
    return tmp_path


def storage(**changes: Any) -> dict[str, Any]:
    return {
        "backend": "joined",
        "source": {"backend": "npz-lazy", "path": "thin.npz"},
        "tables": {
            "ligand_row": {"columns": {"ligand": "X"}, "source": {"backend": "npz-lazy", "path": "ligands.npz"}},
            "kinase_row": {
                "columns": {"kinase": "X"},
                "source": {"backend": "parquet-awkward", "path": "kinases.parquet"},
            },
            **changes,
        },
    }


def load(folder: Path, *, tables: dict[str, Any] | None = None, **said: Any) -> kd.XyDataset:
    return kd.load_dataset({"storage": storage(**(tables or {})), **said}, base=folder)


def test_batches_come_as_if_the_tables_were_one(folder):
    dataset = load(folder)
    assert "X=[ligand float32 (5, *), kinase float32 (3,)]; y=y float32; splits: train 6, test 2" in repr(dataset)
    rows = [7, 0, 0, 3]
    X, y = dataset[rows]
    for found, row in zip(X["ligand"], rows, strict=True):
        assert torch.equal(found, torch.from_numpy(LIGANDS[LIGAND[row]]))
    assert torch.equal(X["kinase"], torch.from_numpy(KINASES[KINASE[rows]]))
    assert y.tolist() == [7, 0, 0, 3]
    assert dataset.split("test")[0][0]["kinase"].tolist() == KINASES[KINASE[6]].tolist()


def test_the_index_is_a_column_where_the_spec_asks_for_it(folder):
    columns = {"ligand": {"shape": [5, "*"]}, "ligand_row": {"dtype": "int32"}, "y": {}}
    dataset = load(folder, columns=columns, X="ligand", y="y", meta=["ligand_row"])
    assert dataset.column("ligand_row").tolist() == LIGAND.tolist()


def test_a_table_that_is_not_asked_for_is_not_opened(folder):
    (folder / "kinases.parquet").unlink()
    columns = {"ligand": {"shape": [5, "*"]}, "y": {}}
    assert len(load(folder, columns=columns, X="ligand", y="y")) == 8
    with pytest.raises(StoreNotFoundError, match=r"kinases\.parquet"):
        load(folder)


def test_a_copy_of_joined_tables_is_dense(folder):
    kd.save_dataset(load(folder), folder / "dense.npz")
    dense, thin = kd.load_dataset(folder / "dense.npz"), load(folder)
    for row in range(8):
        assert torch.equal(dense[row][0]["ligand"], thin[row][0]["ligand"])
        assert torch.equal(dense[row][0]["kinase"], thin[row][0]["kinase"])
    assert {name: rows.tolist() for name, rows in dense.indices.items()} == {
        "train": [0, 1, 2, 3, 4, 5],
        "test": [6, 7],
    }


def test_batches_of_similar_length_know_the_shapes_without_reading(folder):
    loader = load(folder).as_dataloader(batch_size=2, group_by_length="ligand", shuffle=True, seed=0)
    assert sum(len(y) for _, y in loader) == 8


def test_the_spec_of_joined_tables_moves_to_another_folder(folder, tmp_path_factory):
    elsewhere = tmp_path_factory.mktemp("elsewhere") / "spec.yaml"
    dataset = load(folder)
    dataset.spec.to_file(elsewhere)
    assert torch.equal(kd.load_dataset(elsewhere)[4][0]["kinase"], dataset[4][0]["kinase"])


@pytest.mark.parametrize("wrong", [6, -1, 2**31 - 1])
def test_a_row_that_no_table_has_is_named(folder, wrong):
    pointing = LIGAND.copy()
    pointing[3] = wrong
    thin = kd.from_arrays({"ligand_row": pointing, "kinase_row": KINASE}, Y)
    kd.save_dataset(thin, folder / "thin.npz", overwrite=True)
    with pytest.raises(SpecError, match=rf"tables.ligand_row: row 3 .* to row {wrong} of .* 6 rows"):
        load(folder)


TABLE = {"source": {"backend": "npz-lazy", "path": "ligands.npz"}}


@pytest.mark.parametrize(
    ("tables", "message"),
    [
        (
            {"ligand_row": {**TABLE, "columns": {"ligand": "x"}}},
            r"tables\.ligand_row: .*unknown stored column 'x'",
        ),
        ({"ligand_rwo": {**TABLE, "columns": {"other": "X"}}}, "ligand_rwo"),
        ({"y": {**TABLE, "columns": {"other": "X"}}}, "not one integer per row"),
        ({"ligand_row": {**TABLE, "columns": {"y": "X"}}}, "both have a column 'y'"),
        ({"ligand_row": {**TABLE, "columns": {"kinase": "X"}}}, "'kinase' is taken"),
        ({"ligand_row": {**TABLE, "columns": {"kinase_row": "X"}}}, "'kinase_row' is taken"),
        ({"ligand_row": {**TABLE, "columns": {"a": "X", "b": "X"}}}, "joined more than once"),
        ({"ligand_row": {**TABLE, "columns": {}}}, "at least 1"),
    ],
)
def test_an_error_says_why_tables_cannot_be_joined(folder, tables, message):
    with pytest.raises(SpecError, match=message):
        load(folder, tables=tables)


def test_a_table_that_changed_is_noticed_in_another_process(folder):
    text = pickle.dumps(load(folder))
    kd.save_dataset(kd.from_arrays([2 * ligand for ligand in LIGANDS]), folder / "ligands.npz", overwrite=True)
    with pytest.raises(StoreChangedError):
        pickle.loads(text)[0]


def test_200_000_measurements_cost_their_tables_and_two_numbers_each(tmp_path):
    rows, count = 200_000, {"ligand": 600, "kinase": 400}
    features = {name: RNG.normal(size=(n, 1000)).astype(np.float32) for name, n in count.items()}
    for name, table in features.items():
        kd.save_dataset(kd.from_arrays(table), tmp_path / f"{name}s.npz")
    index = {f"{name}_row": RNG.integers(0, n, rows).astype(np.int32) for name, n in count.items()}
    kd.save_dataset(kd.from_arrays(index, RNG.normal(size=rows).astype(np.float32)), tmp_path / "thin.npz")
    tables = {}
    for name in count:
        table = {"backend": "in-memory", "source": {"backend": "npz-lazy", "path": f"{name}s.npz"}}
        tables[f"{name}_row"] = {"columns": {name: "X"}, "source": table}
    said = {"backend": "joined", "source": {"backend": "npz-lazy", "path": "thin.npz"}, "tables": tables}
    spec = {"storage": said, "X": list(count), "y": "y", "columns": {n: {"shape": [1000]} for n in count} | {"y": {}}}
    kd.load_dataset(spec, base=tmp_path).close()  # imports are done
    tracemalloc.start()
    try:
        dataset = kd.load_dataset(spec, base=tmp_path)
        held, _ = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    X, _ = dataset[[3, 199_999, 3]]
    for name, table in features.items():
        assert torch.equal(X[name], torch.from_numpy(table[index[f"{name}_row"][[3, 199_999, 3]]]))
    whole = sum(table.nbytes for table in features.values())
    assert held < whole + 32 * rows  # dense it would be 1.6 GB
    # In the thin table a number and its checksum, of 4 bytes each, three times a row.
    assert sum(file.stat().st_size for file in tmp_path.iterdir()) < whole + 24 * rows + 20_000


def table(source: dict[str, Any], **columns: str) -> dict[str, Any]:
    return {"source": source, "columns": columns}


def test_roles_casts_and_models_are_those_the_parts_carry(tmp_path):
    spec = {
        "columns": {
            "p": {"dtype": "int32"},
            "bits": {"dtype": "float32", "shape": [16], "packbits": True},
            "weight": {"dtype": "float64"},
            "pKd": {"dtype": "float32"},
            "assay": {"dtype": "str"},
        },
        "X": ["p", "bits"],
        "y": "pKd",
        "meta": ["assay", "weight"],
        "splits": {"train": {"rows": [2, 0]}},
        "observation_model": "pKd",
        "storage": {"backend": "in-memory"},
    }
    bits = RNG.integers(0, 256, (3, 2), np.uint8)
    labels = {"weight": [1.0, 2, 3], "pKd": np.float32([7, 8, 9]), "assay": ["a", "b", "c"]}
    data = {"p": np.int32([1, 0, 1]), "bits": bits, **labels}
    kd.save_dataset(kd.load_dataset(spec, data=data), tmp_path / "thin.npz")
    packed = {"X": "X", "columns": {"X": {"dtype": "float32", "shape": [8], "packbits": True}}}
    masks = kd.load_dataset(packed | {"storage": {"backend": "in-memory"}}, data={"X": np.array([[5], [6]], np.uint8)})
    kd.save_dataset(masks, tmp_path / "masks.npz")
    source = {"backend": "npz-lazy", "path": str(tmp_path / "masks.npz")}
    found = kd.load_dataset(tmp_path / "thin.npz", backend="joined", tables={"p": table(source, mask="X")})
    assert found.spec.X == ("mask", "bits") and found.spec.y == "pKd" and found.spec.meta == ("assay", "weight")
    assert (
        found[0][0]["mask"].tolist() == [0, 0, 0, 0, 0, 1, 1, 0] and str(found[0][0]["mask"].dtype) == "torch.float32"
    )
    assert found[:][0]["bits"].numpy().tolist() == np.unpackbits(bits, axis=1).tolist()
    assert found.split("train").column("pKd").tolist() == [9, 7]
    assert found.observation_model.name == "pKd"


def test_joined_tables_have_no_y_if_the_source_has_no_other_numbers(folder, tmp_path):
    np.savez(tmp_path / "a.npz", p=np.array([1, 0, 1]), y=np.ones(3))
    (tmp_path / "thin.csv").write_text("p,name\n1,a\n0,b\n1,c\n")
    source = {"backend": "npz-lazy", "path": str(folder / "ligands.npz")}
    spec = {
        "storage": {
            "backend": "joined",
            "source": {"backend": "csv", "path": str(tmp_path / "thin.csv")},
            "tables": {"p": table(source, ligand="X")},
        }
    }
    found = kd.load_dataset(spec)
    assert found.spec.X == "ligand" and found.spec.y is None and found.spec.meta == ()


def test_a_part_that_cannot_tell_does_not_hide_that_another_changed(folder):
    spec = {"storage": storage(), "X": ["ligand", "kinase"], "y": "y"}
    spec["storage"]["source"] = {"backend": "csv", "path": "thin.csv"}
    rows = zip(LIGAND, KINASE, Y, strict=True)
    (folder / "thin.csv").write_text("ligand_row,kinase_row,y\n" + "".join(f"{a},{b},{c}\n" for a, b, c in rows))
    dataset = kd.load_dataset(spec, base=folder)
    text = pickle.dumps(dataset)
    kd.save_dataset(kd.from_arrays([x + 1 for x in LIGANDS]), folder / "ligands.npz", overwrite=True)
    with pytest.raises(StoreChangedError):
        pickle.loads(text)[0]


def test_a_source_or_table_of_joined_on_a_device_is_refused(folder):
    with pytest.raises(SpecError, match="wrap `joined` in `in-memory`"):
        load(
            folder,
            tables={
                "ligand_row": {**TABLE, "source": {"backend": "in-memory", "device": "cpu"}, "columns": {"a": "X"}}
            },
        )


@pytest.mark.parametrize("part", ["thin", "ligands"])
def test_a_part_with_a_spec_that_is_none_is_refused(folder, part):
    data = dict(np.load(folder / f"{part}.npz"))
    backend = NpzLazy(path=folder / f"{part}.npz")
    with closing(backend.open(None)) as stored:
        rows = stored.read(np.arange(len(stored)), list(stored.columns))
        columns = stored.columns
    assert "_spec" in data
    backend.write(columns, [rows], spec='{"X": 5}', overwrite=True)
    with pytest.raises(CorruptStoreError, match="the spec embedded in the store is not valid"):
        load(folder)


def test_strings_alone_are_no_dataset(folder):
    columns = {"n": {"dtype": "int64"}, "s": {"dtype": "str"}}
    spec = {"columns": columns, "X": "n", "meta": ["s"], "storage": {"backend": "in-memory"}}
    kd.save_dataset(kd.load_dataset(spec, data={"n": [1, 2], "s": ["a", "b"]}), folder / "names.npz")
    (folder / "t.csv").write_text("row\n1\n0\n")
    source = {"backend": "npz-lazy", "path": "names.npz"}
    spec = {
        "storage": {
            "backend": "joined",
            "source": {"backend": "csv", "path": "t.csv"},
            "tables": {"row": table(source, name="s")},
        }
    }
    with pytest.raises(SpecError, match="does not say which columns are X"):
        kd.load_dataset(spec, base=folder)


@pytest.mark.parametrize("rows", [np.arange(4), [0, 1, 2, 3]], ids=["array", "list"])
def test_a_source_of_python_values_is_owned_by_the_dataset(tmp_path, rows):
    kd.save_dataset(kd.from_arrays(np.arange(4.0)), tmp_path / "t.npz")
    table = {"source": {"backend": "npz-lazy", "path": str(tmp_path / "t.npz")}, "columns": {"f": "X"}}
    storage = {"backend": "joined", "source": {"backend": "in-memory"}, "tables": {"r": table}}
    spec = {"X": "f", "y": "y", "columns": {"f": {"dtype": "float64"}, "y": {"dtype": "float64"}}, "storage": storage}
    data = {"r": rows, "y": pd.Series([5.0, 6.0, 7.0, 8.0])}
    dataset = kd.load_dataset(spec, data=data)
    data["r"][:], data["y"][:] = [0, 0, 0, 0], 0.0
    batches = [dataset[:], pickle.loads(pickle.dumps(dataset))[:], copy.deepcopy(dataset)[:]]
    batches += dataset.as_dataloader(batch_size=4, num_workers=1, multiprocessing_context="fork")
    for X, y in batches:
        assert X.tolist() == [0, 1, 2, 3] and y.tolist() == [5, 6, 7, 8]
