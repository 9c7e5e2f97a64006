"""`verify`: everything is read with every check on, and damage is named."""

from __future__ import annotations

import re
import warnings
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import kinoml_data as kd
from kinoml_data.backends.npz.backend import NpzLazy
from kinoml_data.cli.main import main
from kinoml_data.errors import SpecError, StoreNotFoundError
from kinoml_data.verify import MAX_PLACES, verify
from tests.builders import keyed_batches

ROWS = 3000
ATOMS = [np.full((n % 5 + 5, 3), n, np.float32) for n in range(ROWS)]
Y = np.arange(ROWS, dtype=np.int32)


def stored(path: Path, **options: Any) -> Path:
    splits = {"train": np.arange(100), "test": np.arange(200, 300)}
    backend = {".npz": "npz-lazy", ".parquet": "parquet-awkward"}[path.suffix]
    kd.save_dataset(kd.from_arrays({"atoms": ATOMS}, Y, splits), {"backend": backend, "path": str(path), **options})
    return path


def flip(path: Path, *places: int) -> None:
    data = bytearray(path.read_bytes())
    for place in places:
        data[place] ^= 4
    path.write_bytes(data)


def place_of(path: Path, row: int) -> int:
    """The offset of a byte of a row of atoms in a flat NPZ file."""
    data = path.read_bytes()
    at = data.index(ATOMS[row].tobytes())
    assert row > 0 and data.count(ATOMS[row].tobytes()) == 1
    return at + 7


@pytest.mark.parametrize("name", ["a.npz", "a.parquet"])
def test_an_intact_store_is_intact(tmp_path, name):
    found = verify(stored(tmp_path / name))
    assert found.intact and found.unchecked is None and (found.rows, found.columns, found.damaged) == (ROWS, 2, 0)
    assert found.nbytes == sum(row.nbytes for row in ATOMS) + Y.nbytes


def test_the_damaged_rows_are_named_and_no_other(tmp_path):
    path = stored(tmp_path / "a.npz")
    flip(path, *(place_of(path, row) for row in (7, 1500, 1501, 2999)))
    found = verify(path)
    assert [(damage.column, damage.first, damage.last) for damage in found.damage] == [
        ("atoms", row, row) for row in (7, 1500, 1501, 2999)
    ]
    assert found.damaged == 4 and "CRC-32" in found.damage[0].reason and not found.intact


@pytest.mark.parametrize("wrapped", ["in-memory", "joined", "verify"])
def test_a_backend_over_a_damaged_store_is_damaged_in_the_same_rows(tmp_path, wrapped):
    path = stored(tmp_path / "a.npz")
    flip(path, place_of(path, 41))
    storage: dict[str, Any] = {"backend": "npz-lazy", "path": "a.npz"}
    if wrapped == "in-memory":
        storage = {"backend": "in-memory", "source": storage}
    elif wrapped == "verify":
        storage["verify"] = "never"
    else:
        kd.save_dataset(kd.from_arrays({"row": np.array([40, 41, 42, 41])}), tmp_path / "thin.npz")
        table = {"row": {"key": "y", "columns": {"atoms": "atoms"}, "source": storage}}
        storage = {"backend": "joined", "source": {"backend": "npz-lazy", "path": "thin.npz"}, "tables": table}
    spec = kd.DatasetSpec.parse({"storage": storage}, tmp_path)
    (damage,) = verify(spec).damage
    assert (damage.first, damage.count) == ((1, 2) if wrapped == "joined" else (41, 1))  # rows 1 and 3 share the value


def test_damage_of_a_member_names_all_of_its_rows(tmp_path):
    np.savez(tmp_path / "a.npz", X=np.ones((500, 30), np.float32), y=np.arange(500))
    flip(tmp_path / "a.npz", 5000)
    (damage,) = verify(tmp_path / "a.npz").damage
    assert (damage.column, damage.first, damage.last) == ("X", 0, 499) and "rows 0 to 499" in str(damage)


def test_a_row_group_of_parquet_is_damaged_as_one(tmp_path):
    path = stored(tmp_path / "a.parquet")
    flip(path, path.stat().st_size // 3)
    found = verify(path)
    assert found.damage and {damage.column for damage in found.damage} <= {"atoms", "y"}


@pytest.mark.parametrize("name", ["a.npz", "a.parquet"])
def test_a_store_that_does_not_open_is_damaged(tmp_path, name):
    path = stored(tmp_path / name)
    path.write_bytes(path.read_bytes()[:-100])
    (damage,) = verify(path).damage
    assert damage.column is None and damage.count == 0 and name in str(damage)


def test_a_spec_that_does_not_fit_an_intact_store_is_an_error_and_not_damage(tmp_path):
    stored(tmp_path / "a.npz")
    said = {"columns": {"atoms": {"shape": ["*", 4]}, "y": {}}, "X": "atoms", "y": "y"}
    for wrong, error in ((said, "the spec asks for"), ({"splits": {"train": "train"}}, "did you mean 'idx_train'")):
        spec = kd.DatasetSpec.parse({**wrong, "storage": {"backend": "npz-lazy", "path": "a.npz"}}, tmp_path)
        with pytest.raises(SpecError, match=error):
            verify(spec)


def test_a_spec_in_the_store_that_does_not_fit_it_is_damage(tmp_path):
    arrays = {"X": np.ones((3, 2)), "_spec": np.frombuffer(b'{"X": "Z", "storage": {"backend": "npz-lazy"}}', np.uint8)}
    np.savez(tmp_path / "a.npz", **arrays)
    (damage,) = verify(tmp_path / "a.npz").damage
    assert damage.column is None and "SpecError" in str(damage)


def test_a_store_without_checksums_is_reported_as_unchecked(tmp_path):
    (tmp_path / "a.csv").write_text("x,y\n1,2\n3,4\n")
    found = verify(tmp_path / "a.csv")
    assert found.intact and "csv does not have checksums" in str(found.unchecked)


def test_foreign_parquet_opens_and_says_once_that_its_integrity_is_unknown(tmp_path):
    import pyarrow as pa
    import pyarrow.parquet as pq

    pq.write_table(pa.table({"x": [1.0, 2.0], "y": [3.0, 4.0]}), tmp_path / "foreign.parquet")
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("default")
        kd.load_dataset(tmp_path / "foreign.parquet", X="x", y="y")
        kd.load_dataset(tmp_path / "foreign.parquet", X="x", y="y")
    (warning,) = caught
    assert re.search(r"foreign\.parquet .*integrity is unknown", str(warning.message))
    assert verify(tmp_path / "foreign.parquet").unchecked is not None


def test_verifying_stops_after_very_many_damaged_places(tmp_path):
    path = stored(tmp_path / "a.npz")
    flip(path, *(place_of(path, row) for row in range(1, 2500, 2)))
    found = verify(path)
    assert MAX_PLACES <= len(found.damage) < 1250


def test_verifying_a_missing_store_is_an_error(tmp_path):
    with pytest.raises(StoreNotFoundError):
        verify(tmp_path / "none.npz")
    with pytest.raises(SpecError):
        verify({"storage": {"backend": "npz-lazy"}})


def test_the_command_exits_with_one_if_anything_is_damaged(tmp_path, capsys):
    path = stored(tmp_path / "a.npz")
    for damaged, code in ((False, 0), (True, 1)):
        if damaged:
            flip(path, *(place_of(path, row) for row in range(100, 200)[::2]))
        with pytest.raises(SystemExit) as left:
            main(["verify", str(path)])
        said = capsys.readouterr().out
        assert (left.value.code or 0) == code
    assert "column 'atoms', row 100: CorruptStoreError" in said and "and 30 more places" in said
    assert "DAMAGED, 50 values" in said


def test_progress_is_reported_to_the_end(tmp_path):
    seen: list[tuple[int, int]] = []
    verify(stored(tmp_path / "a.npz"), progress=lambda done, total: seen.append((done, total)))
    assert seen == [(1024, ROWS), (2048, ROWS), (ROWS, ROWS)]


def test_values_that_do_not_fit_the_spec_are_listed_and_are_not_damage(tmp_path):
    np.savez(tmp_path / "a.npz", X=np.arange(10.0), y=np.array([1, 300, 2, 3, 4, 5, 6, 700, 8, 9]), z=np.arange(10))
    columns = {"X": {"dtype": "float32", "range": [0, 8]}, "y": {"dtype": "uint8"}, "z": {"dtype": "int64"}}
    storage = {"backend": "npz-lazy", "path": "a.npz"}
    spec = kd.DatasetSpec.parse({"columns": columns, "X": "X", "y": "y", "storage": storage}, tmp_path)
    found = verify(spec)
    assert found.intact and not found.complete and found.columns == 3
    assert [(place.column, place.first, place.damaged) for place in found.unread] == [
        ("X", 9, False),
        ("y", 1, False),
        ("y", 7, False),
    ]
    assert "outside of the range" in found.unread[0].reason and "300 does not fit uint8" in found.unread[1].reason


def test_a_value_that_rows_share_is_read_once_and_its_damage_names_all_of_its_rows(tmp_path):
    path, keys = tmp_path / "a.npz", np.arange(ROWS) % 1100
    distinct = np.arange(11000.0).reshape(1100, 10)
    columns = {"X": kd.Array("float64", (10,)), "y": kd.Array(Y.dtype)}
    NpzLazy(path=path).write(columns, keyed_batches({"X": distinct[keys], "y": Y}, ["X"], 500))
    spec: dict[str, Any] = {"storage": {"backend": "npz-lazy", "path": str(path)}, "X": "X", "y": "y"}
    for dtype in ("float64", "float32"):  # as it is stored, and cast
        spec["columns"] = {"X": {"dtype": dtype, "shape": [10]}, "y": {}}
        found = verify(spec)
        assert found.intact and found.nbytes == 11000 * np.dtype(dtype).itemsize + Y.nbytes
    flip(path, *(path.read_bytes().index(distinct[key].tobytes()) + 5 for key in (7, 799, 801, 1050)))
    found = verify(spec)
    assert [(place.first, place.last, place.count) for place in found.damage] == [
        *((7, 7, 3), (799, 799, 3), (801, 801, 2), (1050, 1050, 2)),
    ]
    assert found.damaged == 10
    assert "column 'X', row 7 and those with the same values, 3 rows in all: " in str(found.damage[0])
    assert "distinct row 7: its CRC-32" in str(found.damage[0])


def test_damaged_keys_are_damage(tmp_path, capsys):
    path, keys = tmp_path / "a.npz", np.arange(ROWS) % 7
    NpzLazy(path=path).write({"X": kd.Array("int64")}, keyed_batches({"X": np.arange(7)[keys]}, ["X"]))
    flip(path, path.read_bytes().index(keys.astype(np.uint8).tobytes()) + 1001)
    (damage,) = verify(path).damage
    assert damage.column is None and "'X.keys.npy'" in str(damage)
    with pytest.raises(SystemExit) as ended:
        main(["verify", str(path)])
    assert ended.value.code == 1
    assert "DAMAGED" in capsys.readouterr().out
