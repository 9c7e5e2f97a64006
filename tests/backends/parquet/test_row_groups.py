"""A Parquet file over its memory budget: the same rows, one row group at a time."""

from __future__ import annotations

import os
import pickle
import subprocess
import sys
import warnings
from pathlib import Path
from typing import Any

import awkward as ak
import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

import kinoml_data as kd
from kinoml_data.backends.parquet import foreign
from kinoml_data.backends.parquet.backend import ParquetAwkward
from kinoml_data.backends.parquet.container import ParquetContainer
from kinoml_data.backends.parquet.row_groups import RowGroups
from kinoml_data.errors import CorruptStoreError, StoreChangedError
from kinoml_data.layouts import arrow_rows
from tests.builders import equal_tensors

ROWS = 60
RNG = np.random.default_rng(11)
# Within a row group all rows may agree on an axis that differs in the file.
X = [RNG.normal(size=(3, 2 if row < 20 else 1 + row % 5)) for row in range(ROWS)]
FIXED = RNG.normal(size=(ROWS, 4))
Y = np.arange(ROWS)


@pytest.fixture(params=["KinoML's", "ours", "table"])
def path(request: pytest.FixtureRequest, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    found = tmp_path / "a.parquet"
    if request.param == "KinoML's":
        records = ak.to_arrow_table(ak.zip([ak.Array(X), ak.Array(FIXED), Y], depth_limit=1), extensionarray=False)
        pq.write_table(records, found, row_group_size=20)
    elif request.param == "ours":
        monkeypatch.setattr(arrow_rows, "TABLE_BYTES", 1000)
        kd.save_dataset(kd.from_arrays({"a": X, "b": FIXED}, Y, splits={"train": range(30)}), found)
    else:
        table = pa.table({"name": [f"m{row}" for row in range(ROWS)], "a": FIXED[:, 0], "y": Y})
        pq.write_table(table, found, row_group_size=7)
    assert pq.ParquetFile(found).num_row_groups > 2
    return found


def by_group(path: Path, budget: int = 0) -> kd.XyDataset:
    with pytest.warns(UserWarning, match="takes more than half of its memory_budget"):
        ds = kd.load_dataset(path, **roles(path), memory_budget=budget)
    return ds


def roles(path: Path) -> dict[str, Any]:
    """The roles of the columns: our own files say them."""
    columns = ParquetAwkward(path=path).open(None)
    columns.close()
    *X, y = [name for name in columns.columns if name != "name"]
    return {} if columns.spec else {"X": X, "y": y, "meta": [name for name in columns.columns if name == "name"]}


def test_a_file_over_the_budget_is_not_decoded_when_it_opens(path: Path) -> None:
    storage = ParquetAwkward(path=path, memory_budget=0).open(None)
    with pytest.warns(UserWarning, match="takes more than half of its memory_budget"):
        storage = storage.loaded(list(storage.columns))
    with storage:
        assert isinstance(storage, RowGroups)
        assert len(storage) == ROWS


@pytest.mark.parametrize("budget", [0, 1000])
def test_rows_read_by_group_are_those_of_the_whole_file(path: Path, budget: int) -> None:
    whole, groups = kd.load_dataset(path, **roles(path)), by_group(path, budget)
    assert groups.spec.columns == whole.spec.columns
    assert groups.indices.keys() == whole.indices.keys()
    for rows in (list(range(ROWS)), [59, 0, 30, 0], [], RNG.permutation(ROWS).tolist()):
        assert equal_tensors(groups[rows], whole[rows])
    assert all(equal_tensors(groups[row], whole[row]) for row in range(ROWS))
    assert len(groups) == ROWS
    if whole.spec.meta:
        assert groups.column("name") == whole.column("name")


def test_row_groups_are_decoded_again_if_they_exceed_the_budget(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    decoded: list[int] = []
    read = ParquetContainer.read

    def counted(file: ParquetContainer, group: int, columns: Any, *rows: int) -> Any:
        decoded.append(group)
        return read(file, group, columns, *rows)

    monkeypatch.setattr(ParquetContainer, "read", counted)
    groups = by_group(path, 0)
    last = pq.ParquetFile(path).num_row_groups - 1
    for rows, expected in (([0, 1], [0]), ([1], []), ([59], [last]), ([59, 58], []), ([0], [0])):
        decoded.clear()
        groups[rows]
        assert decoded == expected


def test_workers_and_unpickled_datasets_read_the_same_rows_by_group(path: Path) -> None:
    whole, groups = kd.load_dataset(path, **roles(path)), by_group(path)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", UserWarning)
        assert equal_tensors(pickle.loads(pickle.dumps(groups))[[3, 1]], whole[[3, 1]])
        batches = list(groups.as_dataloader(batch_size=16, num_workers=2, multiprocessing_context="fork"))
    assert all(equal_tensors(a, b) for a, b in zip(batches, whole.as_dataloader(batch_size=16), strict=True))


def test_another_time_stamp_is_a_change_only_of_a_file_without_checksums(path: Path) -> None:
    sealed = ParquetContainer(path).sealed
    with by_group(path) as dataset:
        sent, expected = pickle.dumps(dataset), dataset[[3, 50]]
        for stamp in (1, 2):
            os.utime(path, ns=(stamp, stamp))
            if sealed:
                assert equal_tensors(dataset[[3, 50]], expected)
            else:
                with pytest.raises(StoreChangedError):
                    dataset[[3, 50]]
        with pytest.warns(UserWarning, match="takes more than half of its memory_budget"):
            assert equal_tensors(pickle.loads(sent)[[3, 50]], expected)


def test_a_file_that_was_altered_in_place_is_an_error(path: Path) -> None:
    with by_group(path) as dataset:
        dataset[[3, 50]]
        data = path.read_bytes()
        contents = {
            data[:4] + bytes(200) + data[204:]: (CorruptStoreError, StoreChangedError),
            data[:-200] + bytes(196) + data[-4:]: StoreChangedError,
        }
        for stamp, (content, error) in enumerate(contents.items()):
            path.write_bytes(content)
            os.utime(path, ns=(stamp, stamp))
            with pytest.raises(error):
                dataset[:]


@pytest.mark.parametrize("budget", [0, 40_000])
def test_a_large_row_group_is_decoded_in_slices(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, budget: int) -> None:
    monkeypatch.setattr(foreign, "LEAST_SLICE", 10_000)
    lists = [RNG.normal(size=row % 7).tolist() for row in range(1_000)]
    table = pa.table({"i": np.arange(1_000), "x": lists, "t": [f"m{row}" * (row % 9) for row in range(1_000)]})
    pq.write_table(table, tmp_path / "t.parquet", row_group_size=700)
    storage = ParquetAwkward(path=tmp_path / "t.parquet", memory_budget=budget).open(None)
    whole = ParquetAwkward(path=tmp_path / "t.parquet").open(None).loaded(["i", "x", "t"])
    assert isinstance(storage, RowGroups)
    with storage, whole:
        for rows in (np.arange(1_000), RNG.permutation(1_000), np.array([999, 0, 350, 0, 699, 700])):
            found, expected = storage.read(rows, ["i", "x", "t"]), whole.read(rows, ["i", "x", "t"])
            np.testing.assert_array_equal(found["i"], expected["i"])
            for name in ("x", "t"):
                np.testing.assert_array_equal(found[name].values, expected[name].values)
                np.testing.assert_array_equal(found[name].shapes, expected[name].shapes)


OPERATIONS = {
    "open": "kd.load_dataset(spec)[:10]",
    "read the middle": "kd.load_dataset(spec)[100_000:100_100]",
    "verify": "assert verify(spec).intact",
    "convert": "kd.convert(spec, target)",
    "inspect": "columns(open_to_copy(spec, loads=False), 1000)",
}


@pytest.mark.slow
@pytest.mark.parametrize("operation", OPERATIONS)
def test_one_large_row_group_of_many_columns_takes_no_more_than_the_budget(tmp_path: Path, operation: str) -> None:
    rows, budget = 200_000, 60_000_000
    rng = np.random.default_rng(0)
    table = {f"f{i}": rng.random(rows) for i in range(60)}  # 96 MB
    for path, data in (("large", pa.table(table)), ("small", pa.table(table)[:10])):
        pq.write_table(data, tmp_path / path)
    program = f"""
import warnings
warnings.simplefilter("ignore")
import kinoml_data as kd
from kinoml_data.dataset.description import columns
from kinoml_data.factory import open_to_copy
from kinoml_data.verify import verify

def peak():
    return next(int(line.split()[1]) << 10 for line in open("/proc/self/status") if line.startswith("VmHWM"))

columns_of_spec = {{"X": {{"dtype": "float64", "stored_as": {{"glob": "f*"}}}}}}
for path in ("small", "large"):
    storage = {{"backend": "parquet-awkward", "path": f"{tmp_path}/{{path}}", "memory_budget": {budget}}}
    spec, target = {{"columns": columns_of_spec, "storage": storage}}, f"{tmp_path}/{{path}}.npz"
    before = peak()
    {OPERATIONS[operation]}
print(peak() - before)
"""
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)
    assert int(done.stdout) < budget, done.stdout


@pytest.mark.slow
def test_no_thread_is_left_after_a_large_row_group_was_read(tmp_path: Path) -> None:
    values = np.random.default_rng(0).random(2_000_000)
    table = pa.table({"a": values, "b": values})
    pq.write_table(table[:10], tmp_path / "small.parquet")
    pq.write_table(table, tmp_path / "large.parquet")
    program = f"""
import os, warnings
warnings.simplefilter("ignore")
import kinoml_data as kd
counts = []
for path in ("small", "large"):
    kd.load_dataset(f"{tmp_path}/{{path}}.parquet", X="a", y="b")
    counts.append(len(os.listdir("/proc/self/task")))
print(counts[1] - counts[0])
"""
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)
    assert int(done.stdout) <= 0


@pytest.mark.parametrize("origin", ["ours", "another program's"])
@pytest.mark.slow
def test_the_budget_is_what_reading_in_order_takes(tmp_path: Path, origin: str) -> None:
    path, rows, width = tmp_path / "a.parquet", 200_000, 100
    values = np.random.default_rng(0).random((rows, width))  # 160 MB
    if origin == "ours":
        kd.save_dataset(kd.from_arrays(values), path)
    else:
        pq.write_table(pa.table({"X": pa.FixedSizeListArray.from_arrays(values.reshape(-1), width)}), path)
    program = f"""
import resource, warnings
warnings.simplefilter("ignore")
import kinoml_data as kd, numpy as np, pyarrow.parquet, awkward
from kinoml_data.backends.parquet.backend import ParquetAwkward
def peak(): return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss << 10
small = peak()
with ParquetAwkward(path={str(path)!r}, memory_budget=20_000_000).open(None) as storage:
    opened = peak() - small
    for batch in storage.batches(["X"]):
        assert len(batch["X"])
print(opened, peak() - small)
"""
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)
    opened, read = map(int, done.stdout.split())
    assert opened < 20_000_000 and read < 80_000_000, done.stdout
