"""Folders and patterns of Parquet files that are one table."""

from __future__ import annotations

import errno
import os
import pickle
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

import kinoml_data as kd
from kinoml_data.backends.parquet.parts import part_paths
from kinoml_data.errors import StoreChangedError, StoreNotFoundError, StoreReadError, UnsupportedStoreError
from kinoml_data.verify import verify

pytestmark = pytest.mark.filterwarnings("ignore:.*(no checksums of its rows|memory_budget):UserWarning")


def part(first: int, count: int, **others: Any) -> pa.Table:
    rows = range(first, first + count)
    columns = {"i": list(rows), "x": [[float(row)] * (row % 3) for row in rows], "t": [f"m{row}" for row in rows]}
    return pa.table({**columns, **others})


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """Parts of 4, 0 and 5 rows, with notes of another program beside them."""
    found = tmp_path / "p.parquet"
    found.mkdir()
    pq.write_table(part(4, 5), found / "part-1.parquet", row_group_size=2)
    pq.write_table(part(0, 4), found / "part-0.parquet")
    pq.write_table(part(0, 0).cast(part(0, 4).schema), found / "part-0b.parquet")
    (found / "_SUCCESS").touch()
    (found / "notes.txt").touch()
    return found


@pytest.mark.parametrize("pattern", ["*.parquet", "*/*.parquet", "**/*.parquet"])
def test_parts_in_a_folder_that_cannot_be_read_are_not_left_out(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, pattern: str
) -> None:
    for name in ("a", "b"):
        (tmp_path / name).mkdir()
        pq.write_table(part(0, 4), tmp_path / name / f"{name}.parquet")
    scandir, locked = os.scandir, tmp_path / ("b" if "/" in pattern else "")

    def failing(path: Any) -> Any:
        if not isinstance(path, int) and Path(path) == locked:
            raise PermissionError(errno.EACCES, os.strerror(errno.EACCES), str(path))
        return scandir(path)

    monkeypatch.setattr(os, "scandir", failing)
    monkeypatch.setattr(os, "listdir", lambda path: [entry.name for entry in failing(path)])
    with pytest.raises(StoreReadError, match="Permission denied"):
        kd.load_dataset(tmp_path / pattern, X="i", backend="parquet-awkward")
    with pytest.raises(StoreReadError, match="Permission denied"):
        kd.load_datasets({"datasets": str(tmp_path / pattern), "X": "i"})


@pytest.mark.parametrize("budget", [None, 0])
@pytest.mark.parametrize("pattern", ["", "*.parquet", "part-?*.parquet"])
def test_the_rows_are_those_of_the_parts_in_the_order_of_their_names(
    folder: Path, pattern: str, budget: int | None
) -> None:
    path = folder / pattern if pattern else folder
    with kd.load_dataset(path, X=["x", "i"], meta="t", backend="parquet-awkward", memory_budget=budget) as dataset:
        X, _ = dataset[:]
        assert len(dataset) == 9 and X["i"].tolist() == list(range(9))
        assert [row.tolist() for row in X["x"]] == [[float(row)] * (row % 3) for row in range(9)]
        assert dataset.column("t") == [f"m{row}" for row in range(9)]
        assert dataset[[8, 3, 4]][0]["i"].tolist() == [8, 3, 4]
        batches = dataset.as_dataloader(batch_size=4, num_workers=2)
        assert [i for X, _ in batches for i in X["i"].tolist()] == list(range(9))


def test_a_folder_is_opened_by_its_suffix_converted_and_verified(folder: Path, tmp_path: Path) -> None:
    for path in (folder, shutil.copytree(folder, tmp_path / "bare")):
        with kd.load_dataset(path, X="i") as dataset:
            assert len(dataset) == 9
    kd.convert(folder, tmp_path / "copy.npz")
    with kd.load_dataset(tmp_path / "copy.npz", X="i") as dataset:
        assert dataset[:][0].tolist() == list(range(9))
    assert verify(folder).rows == 9 and verify(folder).complete


@pytest.mark.parametrize(
    ("table", "message"),
    [
        (part(9, 2, extra=[1, 2]), "column 'extra' is int64, but in part-0.parquet it is not there"),
        (part(9, 2).drop_columns("i"), "column 'i' is not there, but in part-0.parquet it is int64"),
        (part(9, 2, i=pa.array([1, 2], pa.int32())), "column 'i' is int32, but in part-0.parquet it is int64"),
    ],
)
def test_a_part_with_other_columns_is_named(folder: Path, table: pa.Table, message: str) -> None:
    pq.write_table(table, folder / "part-2.parquet")
    with pytest.raises(UnsupportedStoreError, match=rf"part-2\.parquet: {message}"):
        kd.load_dataset(folder, X="x")


def test_a_part_that_is_added_changed_or_gone_is_a_change(folder: Path) -> None:
    for change in ("added", "changed", "gone"):
        with kd.load_dataset(folder, X="i", memory_budget=0) as dataset:
            sent = pickle.dumps(dataset)
            if change == "gone":
                (folder / "part-0.parquet").unlink()
            else:
                pq.write_table(part(50, 3), folder / ("part-3.parquet" if change == "added" else "part-1.parquet"))
            if change == "changed":
                with pytest.raises(StoreChangedError):
                    dataset[:]
            with pytest.raises(StoreChangedError):
                pickle.loads(sent)[0]


def test_what_is_not_a_folder_of_parts_says_so(folder: Path, tmp_path: Path) -> None:
    assert part_paths(folder / "part-0.parquet") is None
    for path in (tmp_path / "none*.parquet", folder / "x*.parquet"):
        with pytest.raises(StoreNotFoundError, match="contains no Parquet file"):
            kd.load_dataset(path, X="i")
    (tmp_path / "empty.parquet").mkdir()
    with pytest.raises(StoreNotFoundError, match="contains no Parquet file"):
        kd.load_dataset(tmp_path / "empty.parquet", X="i")
    (folder / "year=2020").mkdir()
    with pytest.raises(UnsupportedStoreError, match="contains folders, such as 'year=2020'"):
        kd.load_dataset(folder, X="i")


def test_files_of_this_library_are_not_parts(folder: Path) -> None:
    kd.save_dataset(kd.from_arrays(np.zeros((2, 2))), folder / "part-9.parquet")
    with pytest.raises(UnsupportedStoreError, match="has splits and a spec of its own"):
        kd.load_dataset(folder, X="i")
