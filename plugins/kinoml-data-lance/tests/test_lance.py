"""The backend against the contract of the library, and what is special about Lance."""

from __future__ import annotations

import hashlib
import pickle
import random
import re
import shutil
import subprocess
import sys
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path
from typing import Any

import kinoml_data as kd
import lance
import numpy as np
import pyarrow as pa
import pytest
from kinoml_data.columns import Ragged
from kinoml_data.contracts.backend import Backend, Storage
from kinoml_data.errors import (
    CorruptStoreError,
    KinomlDataError,
    SpecError,
    StoreChangedError,
    StoreExistsError,
    StoreNotFoundError,
    StoreWriteError,
    UnsupportedStoreError,
)
from kinoml_data.testing import BackendTests
from kinoml_data.verify import verify

from kinoml_data_lance import Lance

pytestmark = pytest.mark.filterwarnings("ignore:lance is not fork-safe:UserWarning")


class TestLance(BackendTests):
    def make_backend(self, folder: Path) -> Backend:
        return Lance(path=folder / "data.lance")


rng = np.random.default_rng(0)
ROWS = 40
DATA = {
    "onehot": [(rng.random((5, n)) < 0.2).astype(np.float32) for n in rng.integers(0, 30, ROWS)],
    "edges": [rng.integers(0, 9, (2, n)) for n in rng.integers(0, 12, ROWS)],
    "fingerprint": rng.integers(0, 256, (ROWS, 8)).astype(np.uint8),
    "label": ["", "é", *(str(i) * 5 for i in range(ROWS - 2))],
    "y": rng.random(ROWS),
}
SPEC = {
    "X": ["onehot", "edges", "fingerprint"],
    "y": "y",
    "meta": ["label"],
    "storage": {"backend": "in-memory"},
    "splits": {"train": {"rows": list(range(30))}, "test": {"rows": list(range(30, ROWS))}},
}


@pytest.fixture
def dataset() -> kd.XyDataset:
    return kd.load_dataset(SPEC, data=DATA)


@pytest.fixture
def store(dataset: kd.XyDataset, tmp_path: Path) -> Path:
    kd.save_dataset(dataset, tmp_path / "data.lance")
    return tmp_path / "data.lance"


def content(storage: Storage) -> dict[str, Any]:
    """All that a storage gives, as bytes."""
    found: dict[str, Any] = {"spec": storage.spec, "columns": dict(storage.columns)}
    for name, column in storage.read(np.arange(len(storage)), list(storage.columns)).items():
        arrays = (column.values, column.shapes) if isinstance(column, Ragged) else (column,)
        found[name] = [(a.dtype, a.shape, a.tobytes()) for a in arrays]
    return found | {name: (a.dtype, a.shape, a.tobytes()) for name, a in storage.arrays.items()}


def opened(path: Path, **options: Any) -> dict[str, Any]:
    with closing(Lance(path=path, **options).open(None)) as storage:
        return content(storage)


def files_of(folder: Path) -> list[Path]:
    return sorted(path for path in folder.rglob("*") if path.is_file())


def digests(folder: Path) -> dict[str, str]:
    return {str(p.relative_to(folder)): hashlib.sha256(p.read_bytes()).hexdigest() for p in files_of(folder)}


# -- damage


def test_a_changed_byte_anywhere_is_an_error_or_changes_nothing(store: Path, tmp_path: Path) -> None:
    written, seen, chosen = opened(store), set(), random.Random(0)
    for file in files_of(store):
        data = bytearray(file.read_bytes())
        tail = range(max(0, len(data) - 80), len(data))
        for at in {*chosen.choices(range(len(data)), k=60), *tail}:
            mask = chosen.choice([1, 128, 255])
            data[at] ^= mask
            file.write_bytes(data)
            try:
                assert opened(store) == written, f"{file.name}: byte {at} ^ {mask}"
                seen.add("nothing")
            except KinomlDataError as error:
                seen.add(type(error).__name__)
                assert str(store) in str(error)
            data[at] ^= mask
        file.write_bytes(data)
    assert "CorruptStoreError" in seen
    assert opened(store) == written


def test_a_shortened_or_missing_file_is_an_error_or_changes_nothing(store: Path) -> None:
    written = opened(store)
    for file in files_of(store):
        data, needed = file.read_bytes(), file.suffix in (".lance", ".manifest")
        for length in (None, 0, 1, len(data) // 2, len(data) - 1):
            file.unlink(missing_ok=True)
            if length is not None:
                file.write_bytes(data[:length])
            if needed:
                with pytest.raises((CorruptStoreError, StoreNotFoundError)):
                    opened(store)
            else:
                assert opened(store) == written
        file.write_bytes(data)
    assert opened(store) == written


def test_a_damaged_value_is_named(store: Path) -> None:
    (file,) = store.glob("data/*")
    data = bytearray(file.read_bytes())
    at = data.index(np.float64(DATA["y"][7]).tobytes())
    data[at] ^= 1
    file.write_bytes(data)
    with closing(Lance(path=store).open(None)) as storage:
        storage.read(np.array([1, 2, 8]), list(storage.columns))
        with pytest.raises(CorruptStoreError, match=r"column 'y', row 7: its CRC-32 is 0x"):
            storage.read(np.array([1, 7, 2]), list(storage.columns))


def rewritten(store: Path, change: Any) -> None:
    """Another program's new version of the rows, with the metadata kept."""
    table = lance.dataset(str(store)).to_table()
    lance.write_dataset(change(table), str(store), mode="overwrite", schema=table.schema)


def test_rows_in_the_place_of_others_are_noticed(store: Path) -> None:
    rewritten(store, lambda table: table.take([1, 0, *range(2, ROWS)]))
    with closing(Lance(path=store).open(None)) as storage:
        storage.read(np.array([2]), ["y"])
        with pytest.raises(CorruptStoreError, match="row 0"):
            storage.read(np.array([2, 0]), ["y"])


@pytest.mark.parametrize(
    ("change", "says"),
    [
        (lambda store: lance.dataset(str(store)).delete("y < 0.5"), "rows, but 40 were written"),
        (lambda store: rewritten(store, lambda table: table.slice(0, 7)), "has 7 rows, but 40 were written"),
        (lambda store: lance.dataset(str(store)).drop_columns(["edges:shape"]), "column 'edges:shape' is missing"),
        (
            lambda store: rewritten(store, lambda t: t.replace_schema_metadata({})),
            "its metadata differs from what was written",
        ),
        (lambda store: lance.dataset(str(store)).update({"y": "1.0"}), "its CRC-32|rows"),
        (
            lambda store: lance.dataset(str(store)).update_schema_metadata({"kinoml_data.format": "2"}),
            "version '2' of the layout",
        ),
    ],
    ids=["rows deleted", "rows left out", "a column dropped", "metadata lost", "values changed", "a later layout"],
)
def test_what_other_programs_changed_is_refused(store: Path, change: Any, says: str) -> None:
    change(store)
    with pytest.raises((CorruptStoreError, UnsupportedStoreError), match=says):
        opened(store)


def test_adding_columns_and_compacting_files_changes_no_row(store: Path) -> None:
    written = opened(store)
    lance.dataset(str(store)).add_columns({"double": "y * 2"})
    assert opened(store) == written
    lance.dataset(str(store)).optimize.compact_files()
    assert opened(store) == written


# -- versions


def test_overwriting_adds_a_version(dataset: kd.XyDataset, store: Path) -> None:
    first = opened(store)
    with closing(Lance(path=store).open(None)) as reader, kd.load_dataset(store) as before:
        elsewhere = pickle.dumps(before)
        kd.save_dataset(dataset.split("test"), store, overwrite=True)
        assert content(reader) == first  # which was open before
        with pytest.raises(StoreChangedError):
            pickle.loads(elsewhere)[0]
    second = opened(store)
    assert second != first and opened(store, version=1) == first and opened(store, version=2) == second
    with kd.load_dataset({"storage": {"backend": "lance", "path": str(store), "version": 1}}) as fixed:
        kd.save_dataset(dataset, store, overwrite=True)
        assert len(pickle.loads(pickle.dumps(fixed))) == ROWS
    with pytest.raises(StoreNotFoundError, match="no version 9"):
        opened(store, version=9)
    with pytest.raises(SpecError, match="version"):
        Lance(path=store, version=1).write({"y": kd.Array("float32")}, iter(()), overwrite=True)


def test_a_store_in_the_place_of_another_is_noticed(dataset: kd.XyDataset, store: Path) -> None:
    with kd.load_dataset(store) as before:
        shutil.rmtree(store)
        kd.save_dataset(dataset, store)
        with pytest.raises(StoreChangedError):
            pickle.loads(pickle.dumps(before))[0]


@pytest.mark.parametrize("exists", [True, False])
def test_a_failing_commit_leaves_everything_as_it_was(
    dataset: kd.XyDataset, store: Path, monkeypatch: pytest.MonkeyPatch, exists: bool
) -> None:
    def fail(*_: Any, **__: Any) -> None:
        raise OSError("disk full")

    target = store if exists else store.with_name("new.lance")
    before = digests(store.parent)
    monkeypatch.setattr(lance.LanceDataset, "commit", fail)
    with pytest.raises(StoreWriteError, match="disk full"):
        kd.save_dataset(dataset, target, overwrite=exists)
    assert digests(store.parent) == before and sorted(p.name for p in store.parent.iterdir()) == ["data.lance"]


@pytest.mark.parametrize("exists", [True, False])
def test_the_new_rows_are_checked_before_they_become_a_dataset(store: Path, exists: bool) -> None:
    target = store if exists else store.with_name("new.lance")
    columns, before = {"y": kd.Array("float64")}, digests(store.parent)
    batches = [{"y": np.arange(5.0)}]

    def refuse(written: Storage) -> None:
        assert written.spec == "{}" and written.read(np.arange(5), ["y"])["y"].tolist() == [0, 1, 2, 3, 4]
        raise CorruptStoreError("the copy differs")

    with pytest.raises(CorruptStoreError, match="the copy differs"):
        Lance(path=target).write(columns, batches, spec="{}", overwrite=exists, check=refuse)
    assert digests(store.parent) == before and [p.name for p in store.parent.iterdir()] == ["data.lance"]

    seen: list[int] = []
    Lance(path=target).write(columns, batches, overwrite=exists, check=lambda written: seen.append(len(written)))
    assert seen == [5] and list(opened(target)["columns"]) == ["y"]


def test_only_lance_datasets_are_overwritten(dataset: kd.XyDataset, tmp_path: Path) -> None:
    (tmp_path / "folder.lance").mkdir()
    (tmp_path / "folder.lance" / "thesis.txt").write_text("precious")
    (tmp_path / "file.lance").write_text("precious")
    before = digests(tmp_path)
    for name in ("folder.lance", "file.lance"):
        with pytest.raises(StoreExistsError, match="not a Lance dataset"):
            kd.save_dataset(dataset, tmp_path / name, overwrite=True)
        with pytest.raises(StoreNotFoundError):
            opened(tmp_path / name)
    assert digests(tmp_path) == before
    with pytest.raises(StoreWriteError, match="no folder"):
        kd.save_dataset(dataset, tmp_path / "missing" / "data.lance")


def test_a_symbolic_link_stays_one(dataset: kd.XyDataset, store: Path, tmp_path: Path) -> None:
    link = tmp_path / "link.lance"
    link.symlink_to(store)
    kd.save_dataset(dataset.split("test"), link, overwrite=True)
    assert link.is_symlink() and opened(link) == opened(store)
    assert lance.dataset(str(store)).version == 2


@pytest.mark.parametrize("name", ["a b", "50%", "%20", "a#b", "a?b", "é", "a:b", "it's"])
def test_a_folder_may_have_any_name(dataset: kd.XyDataset, tmp_path: Path, name: str) -> None:
    path = tmp_path / name / f"{name}.lance"
    path.parent.mkdir()
    kd.save_dataset(dataset, path)
    assert sorted(p.name for p in tmp_path.rglob("*.lance") if p.is_dir()) == [path.name]
    kd.save_dataset(dataset.split("test"), path, overwrite=True)
    with kd.load_dataset(path) as found:
        assert len(found) == 10


# -- datasets of other programs


def foreign(path: Path, columns: dict[str, Any], **options: Any) -> Path:
    lance.write_dataset(pa.table(columns), str(path), **options)
    return path


def test_a_dataset_of_another_program_is_read(tmp_path: Path) -> None:
    embedding = np.arange(24, dtype=np.float32).reshape(6, 4)
    nested = pa.FixedSizeListArray.from_arrays(pa.FixedSizeListArray.from_arrays(np.arange(24), 2), 2)
    path = foreign(
        tmp_path / "theirs.lance",
        {
            "id": ["a", "bb", "", "d", "e", "f"],
            "embedding": pa.FixedSizeListArray.from_arrays(embedding.reshape(-1), 4),
            "half": pa.FixedSizeListArray.from_arrays(np.arange(12, dtype=np.float16), 2),
            "pairs": nested,
            "tokens": [[1], [2, 3], [], [4], [5, 6, 7], [8]],
            "matrix": [[[1.0, 2.0]], [[3.0, 4.0], [5.0, 6.0]], [], [[7.0, 8.0]], [[9.0, 10.0]], [[0.0, 0.0]]],
            "good": [True, False, True, True, False, False],
            "when": pa.array([0] * 6, pa.timestamp("s")),
        },
        max_rows_per_file=4,
    )
    lance.dataset(str(path)).delete("id = 'bb'")
    assert "column 'when' has the type timestamp[s]" in Lance(path=path).open(None).unreadable["when"]
    with pytest.raises(UnsupportedStoreError, match=r"column 'when' has the type timestamp\[s\]"):
        Lance(path=path).open({"when": None})
    columns = {
        "id": "str", "embedding": ("float32", 4), "half": ("float16", 2), "pairs": ("int64", 2, 2),
        "tokens": ("int64", None), "matrix": ("float64", None, 2), "good": "bool",
    }  # fmt: skip
    asked = {n: kd.Array(c) if isinstance(c, str) else kd.Array(c[0], c[1:]) for n, c in columns.items()}
    spec = {"columns": asked, "X": [*columns][1:], "meta": ["id"], "storage": {"backend": "lance", "path": str(path)}}
    with kd.load_dataset(spec) as found:
        left = np.array([0, 2, 3, 4, 5])
        assert found.column("id") == ["a", "", "d", "e", "f"]
        X, _ = found[[4, 1, 1, 0]]
        assert np.array_equal(X["embedding"], embedding[left[[4, 1, 1, 0]]])
        assert np.array_equal(X["pairs"], np.arange(24).reshape(6, 2, 2)[left[[4, 1, 1, 0]]])
        assert [row.tolist() for row in X["tokens"]] == [[8], [], [], [1]]
        assert [tuple(row.shape) for row in X["matrix"]] == [(1, 2), (0, 2), (0, 2), (1, 2)]
        assert X["good"].tolist() == [False, True, True, True] and X["half"].dtype.itemsize == 2
        assert "not have checksums" in str(verify(found.spec).unchecked)


def test_what_a_tensor_cannot_hold_is_named(tmp_path: Path) -> None:
    columns = {
        "missing": [1, 2, None, 4],
        "hole": [[1], [2, None], [3], []],
        "uneven": [[[1], [2]], [[1], [2, 3]], [], [[4]]],
        "struct": [{"a": 1}] * 4,
        "nothing": pa.nulls(4),
        "words": [["a"], ["b"], [], ["c"]],
    }
    for name, values in columns.items():
        path = foreign(tmp_path / f"{name}.lance", {name: values})
        error = SpecError if name in ("missing", "hole") else UnsupportedStoreError
        with (
            pytest.raises(error, match=f"column '{name}'") as caught,
            closing(Lance(path=path).open({name: None})) as storage,
        ):
            content(storage)
        expected = {"missing": "row 2", "hole": "row 1", "uneven": "row 1"}.get(name, "column")
        assert expected in str(caught.value), name


def test_a_null_is_nan_if_the_spec_says_so_and_a_decimal_is_the_nearest_float64(tmp_path: Path) -> None:
    values = {"gap": [1, 2, None, 4], "half": pa.array([0.5, None, None, 1.5], pa.float32())}
    path = foreign(tmp_path / "t.lance", {**values, "price": pa.array(["0.10"] * 4).cast(pa.decimal128(5, 2))})
    columns = {name: {"dtype": "float32", "missing": "nan"} for name in values} | {"price": {"dtype": "float64"}}
    storage = {"backend": "lance", "path": str(path)}
    with kd.load_dataset({"columns": columns, "X": [*columns], "storage": storage}) as ds:
        X = ds[[3, 2, 0]][0]
    assert np.array_equal(X["gap"], np.array([4, np.nan, 1], "f4"), equal_nan=True)
    assert np.array_equal(X["half"], np.array([1.5, np.nan, 0.5], "f4"), equal_nan=True)
    assert X["price"].tolist() == [0.1] * 3


def test_a_missing_value_is_named_by_its_row_in_any_order_of_rows(tmp_path: Path) -> None:
    path = foreign(tmp_path / "t.lance", {"x": [*range(9), None]})
    storage = Lance(path=path).open({"x": None})
    with storage, pytest.raises(SpecError, match="column 'x', row 9: a value is missing"):
        storage.read(np.array([3, 9, 1]), ["x"])


def test_a_spec_that_does_not_fit_is_refused(tmp_path: Path) -> None:
    path = foreign(tmp_path / "theirs.lance", {"tokens": [[1, 2], [3, 4], [5]]})
    columns = {"tokens": {"dtype": "int64", "shape": [2]}}
    with kd.load_dataset(
        {"columns": columns, "X": "tokens", "storage": {"backend": "lance", "path": str(path)}}
    ) as found:
        assert found[[1, 0]][0].tolist() == [[3, 4], [1, 2]]
        with pytest.raises(SpecError, match="row 2"):
            found[2]
    with pytest.raises(SpecError, match="tokens"):
        Lance(path=path).open({"tokenz": kd.Array("int64", (2,))})


# -- options, specs and processes


@pytest.mark.parametrize(
    ("options", "says"),
    [
        ({}, "give either `path` or `uri`"),
        ({"path": "a.lance", "uri": "s3://b/a.lance"}, "give either `path` or `uri`"),
        ({"uri": "a.lance"}, "names a remote store"),
        ({"uri": "file:///etc/a.lance"}, "names a remote store"),
        ({"path": "a.lance", "version": 0}, "version"),
    ],
)
def test_options_that_make_no_sense_are_refused(options: dict[str, Any], says: str) -> None:
    with pytest.raises(SpecError, match=says):
        kd.load_dataset({"storage": {"backend": "lance", **options}})


def test_a_uri_goes_to_lance_as_it_is(store: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    asked, local = [], lance.dataset

    def remote(uri: str, **options: Any) -> Any:
        asked.append((uri, options))
        return local(str(store))

    monkeypatch.setattr(lance, "dataset", remote)
    options = {"uri": "s3://bucket/data.lance", "storage_options": {"region": "eu-west-1"}}
    with kd.load_dataset({"storage": {"backend": "lance", **options}}) as found:
        assert found[[3, 1]][1].tolist() == DATA["y"][[3, 1]].tolist() and len(found.split("test")) == 10
        assert len(pickle.loads(pickle.dumps(found))[:][1]) == ROWS
    uri = options.pop("uri")
    assert asked == [(uri, {**options, "version": None})] * len(asked)


def test_a_spec_that_may_not_leave_its_folder_has_no_uri(tmp_path: Path) -> None:
    spec = {"storage": {"backend": "lance", "uri": "s3://bucket/data.lance"}}
    with pytest.raises(SpecError, match="cannot have a `uri`"):
        kd.load_dataset(kd.DatasetSpec.parse(spec, tmp_path, tmp_path))


def test_a_remote_dataset_is_not_written() -> None:
    def untouched() -> Iterator[Any]:
        raise AssertionError("rows were asked for")
        yield

    with pytest.raises(UnsupportedStoreError, match="give a `path`"):
        Lance(uri="s3://bucket/data.lance").write({"y": kd.Array("float32")}, untouched())


def test_to_npz_and_back_gives_the_same_bytes(dataset: kd.XyDataset, tmp_path: Path) -> None:
    kd.save_dataset(dataset, tmp_path / "one.npz")
    kd.convert(tmp_path / "one.npz", tmp_path / "data.lance")
    kd.convert(tmp_path / "data.lance", tmp_path / "two.npz")
    assert (tmp_path / "one.npz").read_bytes() == (tmp_path / "two.npz").read_bytes()


def test_a_spec_file_opens_a_lance_dataset(store: Path) -> None:
    spec = store.with_name("spec.yaml")
    spec.write_text("storage: {backend: lance, path: data.lance}\nX: onehot\ny: y\ncollate: pad\n")
    with kd.load_dataset(spec) as found:
        X, y = found.split("test")[:3]
        assert X.shape[:2] == (3, 5) and y.tolist() == DATA["y"][30:33].tolist()


PROGRAM = """
import sys, warnings
import kinoml_data as kd
import kinoml_data_lance
assert "lance" not in sys.modules, "importing the plugin imports lance"

if __name__ == "__main__":
    dataset = kd.load_dataset(sys.argv[1])
    whole = dataset[:][1].tolist()
    for method in ("spawn", "forkserver"):
        options = {"multiprocessing_context": method, "timeout": 100, "persistent_workers": False}
        batches = iter(dataset.as_dataloader(batch_size=16, num_workers=1, **options))
        workers = list(batches._workers)
        assert [y for _, batch in batches for y in batch.tolist()] == whole
        for worker in workers:
            worker.join(60)
        print(method, [worker.exitcode for worker in workers])
"""


def test_workers_that_read_lance_end_without_errors(store: Path, tmp_path: Path) -> None:
    program = tmp_path / "program.py"
    program.write_text(PROGRAM)
    ran = subprocess.run(
        [sys.executable, "-W", "ignore", program, store], capture_output=True, text=True, timeout=300, check=False
    )
    assert (ran.returncode, ran.stderr) == (0, "")
    assert ran.stdout.splitlines() == ["spawn [0]", "forkserver [0]"]


def test_the_readme_runs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    text = (Path(__file__).parents[1] / "README.md").read_text("utf-8")
    names: dict[str, Any] = {}
    for code in re.findall(r"^```python\n(.*?)^```", text, re.MULTILINE | re.DOTALL):
        exec(compile(code, "README.md", "exec"), names)
    (spec,) = re.findall(r"^```yaml\n(.*?)^```", text, re.MULTILINE | re.DOTALL)
    Path("spec.yaml").write_text(spec)
    with kd.load_dataset("spec.yaml") as found:
        assert len(found) == 1000


@pytest.mark.parametrize("overwrite", [True, False])
def test_a_dataset_that_appears_meanwhile_is_replaced_if_overwriting_is_allowed(tmp_path, overwrite):
    backend = Lance(path=tmp_path / "d.lance")

    def batches():
        kd.save_dataset(kd.from_arrays(np.zeros(3)), backend.path)
        yield {"X": np.arange(4.0)}

    with closing(batches()) as rows:
        if overwrite:
            backend.write({"X": kd.Array("float64")}, rows, overwrite=True)
        else:
            with pytest.raises(StoreExistsError, match="appeared while this store was being written"):
                backend.write({"X": kd.Array("float64")}, rows)
    with backend.open(None) as storage:
        assert len(storage) == (4 if overwrite else 3)
    assert [path.name for path in tmp_path.iterdir()] == ["d.lance"]
