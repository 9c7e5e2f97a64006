"""`joined`: what is special about rows that refer to tables."""

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
from kinoml_data.backends.joined.backend import Table
from kinoml_data.backends.npz.backend import NpzLazy
from kinoml_data.backends.npz.storage import NpzStorage
from kinoml_data.errors import CorruptStoreError, SpecError, StoreChangedError, StoreNotFoundError
from tests.builders import FORK_OR_SPAWN

RNG = np.random.default_rng(11)
LIGANDS = [RNG.normal(size=(5, int(n))).astype(np.float32) for n in RNG.integers(1, 9, 6)]
LIGAND_IDS = ["CHEMBL25", "CHEMBL2", "Ünal-7", "", "25", "CHEMBL250"]
KINASES = RNG.normal(size=(4, 3)).astype(np.float32)
KINASE_IDS = np.array([300, 7, 2**40, -1])
LIGAND = np.array([5, 0, 0, 3, 1, 5, 2, 2], np.int32)
KINASE = np.array([0, 3, 1, 1, 2, 0, 3, 3], np.uint8)
Y = np.arange(8, dtype=np.float32)
SPLITS = {"train": {"rows": [0, 1, 2, 3, 4, 5]}, "test": {"rows": [6, 7]}}


def save(path: Path, data: dict[str, Any], **roles: Any) -> None:
    """Write a store that contains these columns, and a spec with these roles."""
    dataset = kd.load_dataset({"storage": {"backend": "in-memory"}, **roles}, data=data)
    kd.save_dataset(dataset, path, overwrite=path.exists())


def save_ligands(path: Path, rows: list[int], ids: Any = None) -> None:
    ids = [LIGAND_IDS[row] for row in rows] if ids is None else ids
    save(path, {"id": ids, "X": [LIGANDS[row] for row in rows]}, X="X", meta=["id"])


def save_thin(path: Path, **changes: Any) -> None:
    ids = {"ligand_id": [LIGAND_IDS[row] for row in LIGAND], "kinase_id": KINASE_IDS[KINASE]}
    data = ids | {"ligand_row": LIGAND, "y": Y} | changes
    save(path, data, X="kinase_id", y="y", meta=["ligand_id", "ligand_row"], splits=SPLITS)


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    save_ligands(tmp_path / "ligands.npz", [0, 1, 2, 3, 4, 5])
    save(tmp_path / "kinases.parquet", {"id": KINASE_IDS, "X": KINASES}, X="X", meta=["id"])
    save_thin(tmp_path / "thin.npz")
    return tmp_path


LIGAND_TABLE = {"key": "id", "columns": {"ligand": "X"}, "source": {"backend": "npz-lazy", "path": "ligands.npz"}}
KINASE_TABLE = {
    "key": "id",
    "columns": {"kinase": "X"},
    "source": {"backend": "parquet-awkward", "path": "kinases.parquet"},
}
BY_KEY = {"ligand_id": LIGAND_TABLE, "kinase_id": KINASE_TABLE}


def load(folder: Path, *, tables: dict[str, Any] | None = None, **options: Any) -> kd.XyDataset:
    storage = {
        "backend": "joined",
        "source": {"backend": "npz-lazy", "path": "thin.npz"},
        "tables": BY_KEY if tables is None else tables,
    }
    return kd.load_dataset({"storage": storage, **options}, base=folder)


def digest(folder: Path, key: str | None = None) -> str:
    """The digest of the ligands."""
    return Table(source=NpzLazy(path=folder / "ligands.npz"), columns={"ligand": "X"}, key=key).current_digest()


def by_number(folder: Path) -> dict[str, Any]:
    """Ligands joined by their row numbers, and kinases by their ids."""
    return {"ligand_row": {**LIGAND_TABLE, "key": None, "digest": digest(folder)}, "kinase_id": KINASE_TABLE}


def check_rows(dataset: kd.XyDataset, ligands: list[Any] = LIGANDS) -> None:
    for rows in ([7, 0, 0, 3], range(8), [4]):
        X, y = dataset[list(rows)]
        for found, row in zip(X["ligand"], rows, strict=True):
            assert torch.equal(found, torch.from_numpy(ligands[LIGAND[row]]))
        assert torch.equal(X["kinase"], torch.from_numpy(KINASES[KINASE[list(rows)]]))
        assert y.tolist() == list(rows)
    for row in range(8):
        assert torch.equal(dataset[row][0]["ligand"], torch.from_numpy(ligands[LIGAND[row]]))


@pytest.mark.parametrize("way", ["key", "number"])
def test_batches_come_as_if_the_tables_were_one(folder, way):
    dataset = load(folder, tables=BY_KEY if way == "key" else by_number(folder))
    assert "X=[ligand float32 (5, *), kinase float32 (3,)]; y=y float32; splits: train 6, test 2" in repr(dataset)
    check_rows(dataset)
    assert dataset.split("test")[0][0]["kinase"].tolist() == KINASES[KINASE[6]].tolist()


def test_ids_are_meta_and_row_numbers_are_not_columns(folder):
    dataset = load(folder)
    assert dataset.spec.X == ("ligand", "kinase") and dataset.spec.meta == ("ligand_id", "ligand_row", "kinase_id")
    assert dataset.column("ligand_id") == [LIGAND_IDS[row] for row in LIGAND]
    columns = load(folder, tables=by_number(folder)).spec.columns
    assert set(columns) == {"ligand", "kinase", "ligand_id", "kinase_id", "y"}


def test_row_numbers_are_a_column_if_the_spec_asks_for_them(folder):
    columns = {"ligand": {"shape": [5, "*"]}, "ligand_row": {"dtype": "int32"}, "y": {}}
    dataset = load(folder, tables=by_number(folder), columns=columns, X="ligand", y="y", meta=["ligand_row"])
    assert dataset.column("ligand_row").tolist() == LIGAND.tolist()


@pytest.mark.parametrize("order", [[5, 4, 3, 2, 1, 0], [2, 0, 1, 5, 3, 4]])
def test_a_table_in_another_order_gives_the_same_rows_by_key(folder, order):
    save_ligands(folder / "ligands.npz", order)
    check_rows(load(folder))


FIRST = LIGANDS[0] + np.float32(np.arange(LIGANDS[0].size) == 3).reshape(LIGANDS[0].shape)
CHANGED: dict[str, tuple[list[int], list[Any] | None]] = {
    "reordered": ([0, 1, 2, 3, 5, 4], None),
    "one row more": ([0, 1, 2, 3, 4, 5, 6], None),
    "one row less, which no row refers to": ([0, 1, 2, 3, 5], None),
    "one value different": ([0, 1, 2, 3, 4, 5], [FIRST, *LIGANDS[1:]]),
    "another dtype": ([0, 1, 2, 3, 4, 5], [ligand.astype(np.float64) for ligand in LIGANDS]),
}


@pytest.mark.parametrize(("rows", "values"), CHANGED.values(), ids=CHANGED)
@pytest.mark.parametrize("way", ["key", "number"])
def test_a_table_that_changed_has_another_digest(folder, rows, values, way):
    tables = by_number(folder)
    if way == "key":
        tables = {"ligand_id": {**LIGAND_TABLE, "digest": digest(folder, "id")}, "kinase_id": KINASE_TABLE}
    check_rows(load(folder, tables=tables))
    ids, ligands = [*LIGAND_IDS, "new"], [*LIGANDS, LIGANDS[0]]
    data = {"id": [ids[row] for row in rows], "X": values or [ligands[row] for row in rows]}
    save(folder / "ligands.npz", data, X="X", meta=["id"])
    index, table = next(iter(tables.items()))
    new = digest(folder, table["key"])
    with pytest.raises(SpecError, match=rf'tables\.{index}: .* rows have changed; .* `digest: "{new}"`'):
        load(folder, tables=tables)
    columns = {"kinase": {"shape": [3]}, "y": {}}
    assert len(load(folder, tables=tables, columns=columns, X="kinase", y="y")) == 8  # the table is not opened


def test_row_numbers_without_a_digest_are_refused_with_both_ways_out(folder):
    tables = by_number(folder)
    expected = tables["ligand_row"].pop("digest")
    with pytest.raises(SpecError, match=rf'tables\.ligand_row: .*ids in `key`, or write `digest: "{expected}"`'):
        load(folder, tables=tables)


def test_the_digest_is_that_of_the_stored_values_whatever_stores_them_and_whatever_the_spec_asks_for(folder):
    kd.convert(folder / "ligands.npz", folder / "ligands.parquet")
    tables = by_number(folder)
    tables["ligand_row"]["source"] = {"backend": "parquet-awkward", "path": "ligands.parquet"}
    check_rows(load(folder, tables=tables))
    columns = {"ligand": {"dtype": "float64", "shape": [5, "*"]}, "y": {}}
    assert load(folder, tables=tables, columns=columns, X="ligand", y="y")[0][0].dtype == torch.float64
    (folder / "t.csv").write_text("id,x\n1,1.1\n2,\n")
    table = {"source": {"backend": "csv", "path": "t.csv"}, "columns": {"x": "x"}, "key": "id", "digest": ""}
    declared = {"x": {"missing": "nan"}, "y": {}}
    save(folder / "thin.npz", {"id": [2, 1, 1], "y": Y[:3]}, X="id", y="y")
    digests = set()
    for dtype in ("float32", "float64"):
        declared["x"]["dtype"] = dtype
        with pytest.raises(SpecError, match="have changed") as caught:
            load(folder, tables={"id": table}, columns=declared, X="x", y="y")
        digests.add(str(caught.value).split('"')[-2])
    (table["digest"],) = digests
    assert load(folder, tables={"id": table}, columns=declared, X="x", y="y")[1:][0].tolist() == [1.1, 1.1]


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
    numbers = LIGAND.copy()
    numbers[3] = wrong
    save_thin(folder / "thin.npz", ligand_row=numbers)
    with pytest.raises(SpecError, match=rf"tables\.ligand_row: row 3 .* to row {wrong} of .* 6 rows"):
        load(folder, tables=by_number(folder))


def test_an_id_that_the_table_does_not_contain_is_named_with_its_row(folder):
    ids = [LIGAND_IDS[row] for row in LIGAND]
    save_thin(folder / "thin.npz", ligand_id=[*ids[:6], "CHEMBL25 ", ids[7]])
    with pytest.raises(
        SpecError, match=r"tables.ligand_id: row 6 of the source has the id 'CHEMBL25 ', .* column 'id'"
    ):
        load(folder)
    save_thin(folder / "thin.npz", kinase_id=[*KINASE_IDS[KINASE][:7], 8])
    with pytest.raises(SpecError, match=r"tables.kinase_id: row 7 of the source has the id 8, which is not in"):
        load(folder)


def test_an_id_that_the_table_contains_twice_is_named_with_its_rows(folder):
    save_ligands(folder / "ligands.npz", [0, 1, 2, 3, 4, 1])
    with pytest.raises(SpecError, match=r"tables.ligand_id: rows 1 and 5 of the table have the same id, 'CHEMBL2'"):
        load(folder)


def test_ids_of_another_kind_are_refused_with_a_value(folder):
    save(folder / "kinases.parquet", {"id": [str(i) for i in KINASE_IDS], "X": KINASES}, X="X", meta=["id"])
    with pytest.raises(
        SpecError, match=r"'kinase_id' of the source contains int64, such as 300 in row 0, but .*'id'.* str"
    ):
        load(folder)
    save_ligands(folder / "ligands.npz", list(range(6)), ids=np.arange(6))
    with pytest.raises(SpecError, match=r"contains str, such as 'CHEMBL250' in row 0, but the ids in .* int64"):
        load(folder)
    with pytest.raises(SpecError, match=r"'ligand_id' .* contains str, .* but row numbers are int64"):
        load(folder, tables={"ligand_id": by_number(folder)["ligand_row"]})
    save_ligands(folder / "ligands.npz", list(range(6)), ids=np.arange(6.0))
    with pytest.raises(SpecError, match="the column 'id' contains float64, not one integer or text per row"):
        load(folder)


@pytest.mark.parametrize("of_table", ["uint64", "int64", "uint8"])
@pytest.mark.parametrize("of_source", ["uint64", "int64", "int16"])
def test_integers_of_different_dtypes_are_compared_exactly(folder, of_table, of_source):
    both = [int(value) for value in (0, 3, 100, 2**53, 2**53 + 1, 2**63 - 1, 2**63, 2**64 - 1)]
    ids = [value for value in both if value <= np.iinfo(of_table).max]
    wanted = [value for value in ids if value <= np.iinfo(of_source).max]
    save(folder / "t.npz", {"id": np.array(ids, of_table), "X": np.arange(len(ids))}, X="X", meta=["id"])
    save(folder / "thin.npz", {"id": np.array(wanted[::-1], of_source)}, X="id")
    table = {"source": {"backend": "npz-lazy", "path": "t.npz"}, "columns": {"place": "X"}, "key": "id"}
    assert load(folder, tables={"id": table})[:][0].tolist() == list(range(len(wanted)))[::-1]


def test_columns_of_a_table_share_keys_in_the_smallest_integers(folder):
    save(folder / "kinases.parquet", {"id": KINASE_IDS, "X": KINASES, "Z": -KINASES}, X=["X", "Z"], meta=["id"])
    tables = {**BY_KEY, "kinase_id": {**KINASE_TABLE, "columns": {"kinase": "X", "other": "Z"}}}
    storage = load(folder, tables=tables)._session.binding.storage
    assert storage.keys("ligand").tolist() == LIGAND.tolist() and storage.keys("ligand").dtype == np.uint8
    assert storage.keys("kinase") is storage.keys("other") and storage.keys("kinase").tolist() == KINASE.tolist()
    assert storage.keys("y") is None


def test_the_keys_of_tables_are_joined_too(folder):
    """Measurements of mutants, which share the kinases of another table."""
    mutants = {"id": ["a", "b", "c"], "kinase": KINASE_IDS[[1, 1, 2]]}
    save(folder / "mutants.npz", {**mutants, "X": np.arange(3)}, X="X", meta=list(mutants))
    save(folder / "thin.npz", {"mutant": ["c", "b", "a", "b"], "X": Y[:4]}, X="X", meta=["mutant"])
    source = {
        "backend": "joined",
        "source": {"backend": "npz-lazy", "path": "mutants.npz"},
        "tables": {"kinase": {**KINASE_TABLE, "columns": {"K": "X"}}},
    }
    dataset = load(folder, tables={"mutant": {"source": source, "key": "id", "columns": {"kinase": "K", "n": "X"}}})
    storage = dataset._session.binding.storage
    assert storage.keys("n").tolist() == [2, 1, 0, 1] and storage.keys("kinase").tolist() == [2, 1, 1, 1]
    assert storage.keys("kinase") is storage.keys("kinase")
    assert dataset[:][0]["kinase"].tolist() == KINASES[[2, 1, 1, 1]].tolist()


@FORK_OR_SPAWN
def test_workers_get_the_same_batches(folder, method):
    tables = {
        n: {**table, "source": {"backend": "in-memory", "source": table["source"]}} for n, table in BY_KEY.items()
    }
    for dataset in (load(folder), load(folder, tables=tables)):
        options = {"batch_size": 3, "num_workers": 1, "multiprocessing_context": method}
        (X, y), *_ = dataset.as_dataloader(shuffle=True, seed=1, **options)
        for ligand, kinase, row in zip(X["ligand"], X["kinase"], y.long().tolist(), strict=True):
            assert torch.equal(ligand, torch.from_numpy(LIGANDS[LIGAND[row]]))
            assert kinase.tolist() == KINASES[KINASE[row]].tolist()


def test_the_source_is_not_read_for_the_columns_of_tables(folder, monkeypatch):
    dataset = load(folder, X=["ligand", "kinase"], columns={"ligand": {"shape": [5, "*"]}, "kinase": {"shape": [3]}})
    (folder / "thin.npz").unlink()
    monkeypatch.setattr(dataset._session.binding.storage._source, "read", None)
    assert torch.equal(dataset[3][0]["ligand"], torch.from_numpy(LIGANDS[LIGAND[3]]))
    assert dataset[[3, 4]][0]["kinase"].tolist() == KINASES[KINASE[3:5]].tolist()


@pytest.mark.parametrize(
    ("tables", "message"),
    [
        (
            {"ligand_id": {**LIGAND_TABLE, "columns": {"ligand": "x"}}},
            r"tables\.ligand_id: .*unknown stored column 'x'",
        ),
        ({"ligand_id": {**LIGAND_TABLE, "key": "ID"}}, r"tables\.ligand_id: .*unknown stored column 'ID'"),
        ({"ligand_di": {**LIGAND_TABLE, "columns": {"other": "X"}}}, "unknown column of the source 'ligand_di'"),
        ({"y": {**LIGAND_TABLE, "columns": {"other": "X"}}}, "not one integer or text per row"),
        ({"ligand_id": {**LIGAND_TABLE, "columns": {"y": "X"}}}, r"tables\.ligand_id: .* both have a column 'y'"),
        ({"ligand_id": {**LIGAND_TABLE, "columns": {"kinase": "X"}}}, "'kinase' is taken"),
        ({"ligand_id": {**LIGAND_TABLE, "columns": {"kinase_id": "X"}}}, "'kinase_id' is taken"),
        ({"ligand_id": {**LIGAND_TABLE, "columns": {"a": "X", "b": "X"}}}, "joined more than once"),
        ({"ligand_id": {**LIGAND_TABLE, "columns": {}}}, "at least 1"),
    ],
)
def test_an_error_says_why_tables_cannot_be_joined(folder, tables, message):
    with pytest.raises(SpecError, match=message):
        load(folder, tables={"kinase_id": KINASE_TABLE, **tables})


def test_a_table_that_changed_is_noticed_in_another_process(folder):
    text = pickle.dumps(load(folder))
    save(folder / "ligands.npz", {"id": LIGAND_IDS, "X": [2 * ligand for ligand in LIGANDS]}, X="X", meta=["id"])
    with pytest.raises(StoreChangedError):
        pickle.loads(text)[0]


def test_200_000_measurements_cost_their_tables_and_two_numbers_each(tmp_path):
    rows, count = 200_000, {"ligand": 600, "kinase": 400}
    features = {name: RNG.normal(size=(n, 1000)).astype(np.float32) for name, n in count.items()}
    row_of = {name: RNG.integers(0, n, rows) for name, n in count.items()}
    for name, table in features.items():
        save(tmp_path / f"{name}s.npz", {"id": np.arange(len(table)) + 7, "X": table}, X="X", meta=["id"])
    ids = {f"{name}_id": (row_of[name] + 7).astype(np.int32) for name in count}
    save(tmp_path / "thin.npz", {**ids, "y": RNG.normal(size=rows).astype(np.float32)}, X=list(ids), y="y")
    tables = {}
    for name in count:
        source = {"backend": "in-memory", "source": {"backend": "npz-lazy", "path": f"{name}s.npz"}}
        tables[f"{name}_id"] = {"key": "id", "columns": {name: "X"}, "source": source}
    columns = {"columns": {n: {"shape": [1000]} for n in count} | {"y": {}}, "X": list(count), "y": "y"}
    load(tmp_path, tables=tables, **columns).close()  # imports are done
    tracemalloc.start()
    try:
        dataset = load(tmp_path, tables=tables, **columns)
        held, _ = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    X, _ = dataset[[3, 199_999, 3]]
    for name, table in features.items():
        assert torch.equal(X[name], torch.from_numpy(table[row_of[name][[3, 199_999, 3]]]))
    whole = sum(table.nbytes for table in features.values())
    assert held < whole + 24 * rows  # dense it would be 1.6 GB
    # In the thin table a number and its checksum, of 4 bytes each, three times a row.
    assert sum(file.stat().st_size for file in tmp_path.iterdir()) < whole + 24 * rows + 40_000


def numbered(path: Path, **columns: str) -> dict[str, Any]:
    """A table in an NPZ file that is joined by row numbers."""
    table = Table(source=NpzLazy(path=path), columns=columns)
    source = {"backend": "npz-lazy", "path": str(path)}
    return {"source": source, "columns": columns, "digest": table.current_digest()}


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
    tables = {"p": numbered(tmp_path / "masks.npz", mask="X")}
    found = kd.load_dataset(tmp_path / "thin.npz", backend="joined", tables=tables)
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
    spec = {
        "storage": {
            "backend": "joined",
            "source": {"backend": "csv", "path": str(tmp_path / "thin.csv")},
            "tables": {"p": numbered(folder / "ligands.npz", ligand="X")},
        }
    }
    found = kd.load_dataset(spec)
    assert found.spec.X == "ligand" and found.spec.y is None and found.spec.meta == ()


def test_a_part_that_cannot_tell_does_not_hide_that_another_changed(folder, monkeypatch):
    cannot_tell = property(lambda storage: None, lambda storage, identity: None)
    monkeypatch.setattr(NpzStorage, "identity", cannot_tell, raising=False)
    dataset = load(folder)
    assert dataset._session.identity.count("null") == 2
    text = pickle.dumps(dataset)
    save(folder / "kinases.parquet", {"id": KINASE_IDS, "X": KINASES + 1}, X="X", meta=["id"])
    with pytest.raises(StoreChangedError):
        pickle.loads(text)[0]


def test_tables_can_be_kept_on_a_device_while_the_source_is_not(folder):
    on_device = {"backend": "in-memory", "device": "cpu", "source": LIGAND_TABLE["source"]}
    dataset = load(folder, tables={**BY_KEY, "ligand_id": {**LIGAND_TABLE, "source": on_device}})
    assert dataset._session.binding.storage.devices == {"ligand": "cpu"}
    check_rows(dataset)
    with pytest.raises(SpecError, match="use num_workers=0"):
        dataset.as_dataloader(num_workers=1)


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
    spec = {
        "storage": {
            "backend": "joined",
            "source": {"backend": "csv", "path": "t.csv"},
            "tables": {"row": numbered(folder / "names.npz", name="s")},
        }
    }
    with pytest.raises(SpecError, match="does not specify which columns are X"):
        kd.load_dataset(spec, base=folder)


@pytest.mark.parametrize("rows", [np.arange(4), [0, 1, 2, 3]], ids=["array", "list"])
def test_a_source_of_python_values_is_owned_by_the_dataset(tmp_path, rows):
    kd.save_dataset(kd.from_arrays(np.arange(4.0)), tmp_path / "t.npz")
    tables = {"r": numbered(tmp_path / "t.npz", f="X")}
    storage = {"backend": "joined", "source": {"backend": "in-memory"}, "tables": tables}
    spec = {"X": "f", "y": "y", "columns": {"f": {"dtype": "float64"}, "y": {"dtype": "float64"}}, "storage": storage}
    data = {"r": rows, "y": pd.Series([5.0, 6.0, 7.0, 8.0])}
    dataset = kd.load_dataset(spec, data=data)
    data["r"][:], data["y"][:] = [0, 0, 0, 0], 0.0
    batches = [dataset[:], pickle.loads(pickle.dumps(dataset))[:], copy.deepcopy(dataset)[:]]
    batches += dataset.as_dataloader(batch_size=4, num_workers=1, multiprocessing_context="fork")
    for X, y in batches:
        assert X.tolist() == [0, 1, 2, 3] and y.tolist() == [5, 6, 7, 8]
