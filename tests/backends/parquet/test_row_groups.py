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
import torch

import kinoml_data as kd
from kinoml_data.backends.parquet import row_groups
from kinoml_data.backends.parquet.backend import ParquetAwkward
from kinoml_data.backends.parquet.container import ParquetContainer
from kinoml_data.backends.parquet.row_groups import RowGroups
from kinoml_data.errors import CorruptStoreError, SpecError, StoreChangedError
from kinoml_data.layouts import arrow_rows
from kinoml_data.loading.samplers import BlockBatchSampler, RandomSampler
from kinoml_data.torch_datasets.samples import CoreDataset
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
    monkeypatch.setattr(row_groups, "LEAST_SLICE", 10_000)
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


def decoded_groups(monkeypatch: pytest.MonkeyPatch, log: Path) -> Any:
    """A function that returns and forgets the reads of row groups, those of forked workers included."""
    read = ParquetContainer.read

    def logged(file: ParquetContainer, group: int, columns: Any, *rows: int) -> Any:
        with log.open("a") as lines:
            lines.write(f"{(group, sorted(columns), rows)}\n")
        return read(file, group, columns, *rows)

    monkeypatch.setattr(ParquetContainer, "read", logged)

    def reads() -> list[str]:
        lines = log.read_text().splitlines() if log.exists() else []
        log.unlink(missing_ok=True)
        return lines

    return reads


def rows_in(loader: Any) -> list[int]:
    return [int(row) for _, y in loader for row in y]


@pytest.mark.parametrize("options", [{}, {"prefetch": 2}, {"batch_size": 50}, {"batch_size": 1}], ids=str)
@pytest.mark.parametrize("view", [False, True], ids=["all", "view"])
def test_a_shuffled_epoch_decodes_each_row_group_once(
    path: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, options: dict[str, Any], view: bool
) -> None:
    whole, dataset = kd.load_dataset(path, **roles(path)), by_group(path, 4000)
    if view:
        rows = RNG.permutation(ROWS)[:45]
        whole, dataset = whole.select(rows), dataset.select(rows)
    reads = decoded_groups(monkeypatch, tmp_path / "log")
    loader = dataset.as_dataloader(**{"batch_size": 16, "shuffle": True, "seed": 3, "collate": "list", **options})
    epochs = []
    for _ in range(2):
        epochs.append(rows_in(loader))
        assert sorted(epochs[-1]) == sorted(whole.rows.tolist())
        done = reads()
        assert len(set(done)) == len(done) <= pq.ParquetFile(path).num_row_groups
    assert epochs[0] != epochs[1]
    positions = {row: position for position, row in enumerate(whole.rows.tolist())}
    for batch in dataset.as_dataloader(batch_size=16, shuffle=True, seed=3):
        assert equal_tensors(batch, whole[[positions[int(row)] for row in batch[1]]])


@pytest.mark.filterwarnings("ignore:.*takes more than half of its memory_budget:UserWarning")
def test_workers_shuffle_as_one_process_does_and_share_the_row_groups(
    path: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    dataset = by_group(path)  # a window is one row group
    reads = decoded_groups(monkeypatch, tmp_path / "log")
    options: dict[str, Any] = {"batch_size": 3, "shuffle": True, "seed": 3}
    here, there = (
        dataset.as_dataloader(**options),
        dataset.as_dataloader(**options, num_workers=2, multiprocessing_context="fork"),
    )
    groups = pq.ParquetFile(path).num_row_groups
    for _ in range(3):
        expected = rows_in(here)
        assert len(reads()) <= groups
        assert rows_in(there) == expected
        # The rest of a window belongs to a batch of the next one, so that a worker may need this row group, too.
        assert len(reads()) < 2 * groups
    for (first, _), (second, _) in zip(there, here, strict=False):  # an epoch that is not finished
        assert equal_tensors(first, second)
        break
    assert rows_in(there) == rows_in(here)


def test_a_sampler_of_the_caller_shuffles_all_rows(path: Path) -> None:
    dataset = by_group(path)
    for sampler in (torch.utils.data.RandomSampler(dataset), range(ROWS)):
        assert dataset.as_dataloader(batch_size=4, sampler=sampler).sampler is sampler
    assert dataset.as_dataloader(batch_size=4).batch_sampler.sampler.__class__.__name__ == "SequentialSampler"
    whole = kd.load_dataset(path, **roles(path))
    assert type(whole.as_dataloader(shuffle=True, seed=0).sampler) is RandomSampler
    singles = dataset.as_dataloader(batch_size=None, shuffle=True)
    assert sorted(int(y) for _, y in singles) == list(range(ROWS))
    with pytest.raises(SpecError, match="batch_size: 0 is not an integer of at least 1"):
        dataset.as_dataloader(batch_size=0, shuffle=True)


def test_a_joined_and_a_featurized_dataset_pass_the_blocks_of_their_source_on(path: Path, tmp_path: Path) -> None:
    source = {"backend": "parquet-awkward", "path": str(path), "memory_budget": 0}
    y = by_group(path).spec.y
    pq.write_table(pa.table({"id": np.arange(ROWS), "half": np.arange(ROWS) / 2}), tmp_path / "halves.parquet")
    table = {"source": {"backend": "parquet-awkward", "path": str(tmp_path / "halves.parquet")}}
    joined = {"backend": "joined", "source": source, "tables": {y: {**table, "key": "id", "columns": {"half": "half"}}}}
    featurized = {"backend": "featurize-on-access", "source": source, "featurizer": {"inputs": [y]}}
    columns = {"half": {"dtype": "float64"}, y: {"dtype": "int64"}}
    bounds = by_group(path)._session.binding.blocks.bounds.tolist()
    for storage, function in ((joined, None), (featurized, lambda row: row / 2)):
        spec = {"X": "half", "y": y, "columns": columns, "storage": storage}
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", UserWarning)
            dataset = kd.load_dataset(spec, **({"featurizer": function} if function else {}))
        assert dataset._session.binding.blocks.bounds.tolist() == bounds
        for X, rows in (batches := dataset.as_dataloader(batch_size=7, shuffle=True, seed=0)):
            assert X.tolist() == (rows / 2).tolist()
        assert sorted(rows_in(batches)) == list(range(ROWS))


def test_datasets_of_kinomls_classes_are_shuffled_by_blocks(path: Path) -> None:
    dataset = CoreDataset()
    dataset.core = by_group(path)
    loader = dataset.as_dataloader(batch_size=7, shuffle=True)
    assert isinstance(loader.batch_sampler, BlockBatchSampler)
    assert sorted(rows_in(loader)) == list(range(ROWS))
    assert not isinstance(dataset.as_dataloader(batch_size=7).batch_sampler, BlockBatchSampler)


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
def test_a_shuffled_epoch_takes_no_more_than_twice_the_budget(tmp_path: Path, origin: str) -> None:
    rows, budget = 40_000, 100_000_000
    rng = np.random.default_rng(0)
    lengths = rng.integers(20, 80, rows)
    data = kd.Ragged(rng.random(20 * lengths.sum(), np.float32), np.stack([np.full(rows, 20), lengths], axis=1))
    for name, count in (("large", rows), ("small", 10)):  # large: 160 MB
        if origin == "ours":
            kd.save_dataset(kd.from_arrays(data[:count], np.arange(count)), tmp_path / f"{name}.parquet")
        else:
            lists = pa.LargeListArray.from_arrays(data.offsets[: count + 1], pa.array(data[:count].values))
            table = pa.table({"X": lists, "y": np.arange(count)})
            pq.write_table(table, tmp_path / f"{name}.parquet", row_group_size=7_000)
    program = f"""
import warnings
warnings.simplefilter("ignore")
import kinoml_data as kd, numpy as np

def peak():
    return next(int(line.split()[1]) << 10 for line in open("/proc/self/status") if line.startswith("VmHWM"))

for name, rows, budget in (("small", 10, 0), ("large", {rows}, {budget})):
    before = peak()
    dataset = kd.load_dataset(f"{tmp_path}/{{name}}.parquet", X="X", y="y", memory_budget=budget, collate="packed")
    assert dataset._session.binding.blocks is not None
    found = np.concatenate([y for _, y in dataset.as_dataloader(batch_size=128, shuffle=True, seed=0)])
    assert sorted(found) == list(range(rows))
print(peak() - before)
"""
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)
    assert int(done.stdout) < 2 * budget, done.stdout


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
