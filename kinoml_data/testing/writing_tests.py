"""The rules for writing: everything or nothing, checked before it replaces anything."""

from __future__ import annotations

import shutil
import subprocess
from collections.abc import Iterable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

import numpy as np
import pytest

from kinoml_data.columns import Column, Columns
from kinoml_data.contracts.backend import Backend, Storage
from kinoml_data.errors import (
    SpecError,
    StoreChangedError,
    StoreExistsError,
    StoreNotFoundError,
    StoreWriteError,
    UnsupportedStoreError,
)
from kinoml_data.spec.array import DTYPES, Array
from kinoml_data.testing import examples
from kinoml_data.testing.comparing import contents, same_column, same_rows, same_store
from kinoml_data.testing.example import Example
from kinoml_data.testing.suite import Suite

AFTER_BATCHES = pytest.mark.parametrize("written", [0, 1, 2])


class WritingTests(Suite):
    """`Backend.write` stores all rows at a path that has no store yet, or leaves nothing."""

    @pytest.mark.parametrize("size", [1, 2, 3, 100])
    def test_the_size_of_the_batches_does_not_matter(self, backend: Backend, size: int) -> None:
        self.needs(backend, "can_write")
        example = self.usable(backend, examples.mixed())
        empty = {name: column[:0] for name, column in next(example.batches(1)).items()}
        batches = [batch for written in example.batches(size) for batch in (empty, written)]
        backend.write(example.columns, iter([*batches, empty]))
        same_store(backend, example, example.columns)

    def test_no_batch_makes_a_store_of_no_rows(self, backend: Backend) -> None:
        self.needs(backend, "can_write")
        example = self.usable(backend, next(each for each in examples.EXAMPLES if each.name == "no-rows"))
        backend.write(example.columns, iter(()), arrays={}, spec=example.spec)
        with backend.open(example.columns) as storage:
            assert len(storage) == 0
            same_rows(storage, example, [])

    def test_an_unsupported_column_is_refused_before_anything_is_read_or_written(
        self, backend: Backend, tmp_path: Path
    ) -> None:
        self.needs(backend, "can_write")
        before = contents(tmp_path)
        for dtype in DTYPES:
            for name, array in examples.of_dtype(dtype).columns.items():
                if not self.supports(backend, array):
                    with pytest.raises(UnsupportedStoreError):
                        backend.write({"y": Array("float32"), name: array}, _never_read())
        assert contents(tmp_path) == before

    @AFTER_BATCHES
    def test_a_failing_source_leaves_nothing(self, backend: Backend, written: int, tmp_path: Path) -> None:
        self.needs(backend, "can_write")
        example = self.usable(backend, examples.mixed())
        before = contents(tmp_path)
        with pytest.raises(_Interrupted):
            backend.write(example.columns, _failing(example, written), arrays=example.arrays)
        assert contents(tmp_path) == before
        with pytest.raises(StoreNotFoundError):
            backend.open(None)
        same_store(self.store(backend, example), example, example.columns)

    def test_rows_that_differ_from_their_columns_are_refused(self, backend: Backend, tmp_path: Path) -> None:
        self.needs(backend, "can_write")
        before = contents(tmp_path)
        for announced, actual in _mismatches():
            if self.supports(backend, announced) and self.supports(backend, actual):
                rows = [examples.bits(actual.dtype, tuple(axis or 2 for axis in actual.shape), i) for i in range(2)]
                with pytest.raises(SpecError):
                    backend.write({"X": announced}, iter([{"X": examples.column_of(rows, actual)}]))
        assert contents(tmp_path) == before

    def test_the_check_runs_once_with_the_new_store(self, backend: Backend) -> None:
        self.needs(backend, "can_write")
        example = self.usable(backend, examples.mixed())
        check = _Check(backend, example)
        backend.write(example.columns, example.batches(), arrays=example.arrays, spec=example.spec, check=check)
        assert check.calls == 1
        same_store(backend, example)

    def test_a_failing_check_leaves_nothing(self, backend: Backend, tmp_path: Path) -> None:
        self.needs(backend, "can_write")
        example = self.usable(backend, examples.mixed())
        before = contents(tmp_path)
        with pytest.raises(_Interrupted):
            backend.write(example.columns, example.batches(), check=_refuse)
        assert contents(tmp_path) == before
        with pytest.raises(StoreNotFoundError):
            backend.open(None)

    def test_a_folder_that_does_not_exist_is_a_write_error(self, backend: Backend, tmp_path: Path) -> None:
        self.needs(backend, "can_write")
        path = getattr(backend, "path", None)
        if isinstance(path, Path):
            example = self.usable(backend, examples.mixed())
            elsewhere = backend.model_copy(update={"path": path.parent / "none" / path.name})
            with pytest.raises(StoreWriteError):
                elsewhere.write(example.columns, example.batches())
            assert not (path.parent / "none").exists()

    def test_a_full_disk_is_a_write_error_and_changes_nothing(self, backend: Backend, tmp_path: Path) -> None:
        self.needs(backend, "can_write")
        path, array = getattr(backend, "path", None), Array("float32", (64,))
        if not isinstance(path, Path) or not self.supports(backend, array):
            pytest.skip("the backend has no path, or does not store numbers")
        example = self.usable(backend, examples.mixed())
        rng = np.random.default_rng(0)
        with _small_disk(tmp_path / "disk") as disk:
            stored = backend.model_copy(update={"path": disk / path.name})
            stored.write(example.columns, example.batches())
            before = contents(disk)
            overwrite = self.can(backend, "can_overwrite")
            target = stored if overwrite else backend.model_copy(update={"path": disk / f"second-{path.name}"})
            for _ in range(5):
                batches = ({"X": rng.random((100, 64), np.float32)} for _ in range(120))  # 3 MB
                with pytest.raises(StoreWriteError):
                    target.write({"X": array}, batches, overwrite=overwrite)
                assert contents(disk) == before
            with stored.open(example.columns) as storage:
                same_rows(storage, example, list(range(len(example))))

    def test_a_file_that_is_cut_or_missing_is_an_error_or_harmless(self, backend: Backend, tmp_path: Path) -> None:
        self.needs(backend, "can_write")
        example = self.usable(backend, examples.mixed())
        stored = self.store(backend, example)
        for file in sorted(path for path in tmp_path.rglob("*") if path.is_file()):
            content = file.read_bytes()
            for left in (None, b"", content[: len(content) // 2], content[:-1]):
                if left is None:
                    file.unlink()
                else:
                    file.write_bytes(left)
                for name, (array, column) in _readable(stored, example).items():
                    same_column(column, array, example.taken(range(len(example)), name), f"{file.name}: {name}")
                file.write_bytes(content)

    def test_a_store_that_does_not_exist_is_not_found(self, backend: Backend) -> None:
        self.needs(backend, "can_write")
        for columns in (None, {"y": Array("float32")}):
            with pytest.raises(StoreNotFoundError):
                backend.open(columns)

    def test_a_backend_that_cannot_write_refuses_to(self, backend: Backend) -> None:
        if self.can(backend, "can_write"):
            pytest.skip("the backend declares can_write = True")
        example = self.usable(backend, examples.mixed())
        with pytest.raises(UnsupportedStoreError, match=backend.name):
            backend.write(example.columns, _never_read())


@contextmanager
def _small_disk(folder: Path) -> Iterator[Path]:
    """A file system of 1 MiB at `folder`; the test is skipped if this process may not mount one."""
    folder.mkdir()
    mount = ["mount", "-t", "tmpfs", "-o", "size=1m", "tmpfs", str(folder)]
    if shutil.which("mount") is None or subprocess.run(mount, capture_output=True, check=False).returncode:
        pytest.skip("this process may not mount a file system")
    try:
        yield folder
    finally:
        subprocess.run(["umount", "-l", str(folder)], capture_output=True, check=True)


class OverwritingTests(Suite):
    """`Backend.write` replaces a store only if `overwrite` is True, and then completely or not at all."""

    def test_an_existing_store_is_not_overwritten(self, backend: Backend, tmp_path: Path) -> None:
        self.needs(backend, "can_write")
        example, second = self._examples(backend)
        stored = self.store(backend, example)
        before = contents(tmp_path)
        with pytest.raises(StoreExistsError):
            backend.write(second.columns, second.batches(), arrays=second.arrays, spec=second.spec)
        assert contents(tmp_path) == before
        same_store(stored, example, example.columns)

    def test_overwriting_replaces_everything_or_is_refused(self, backend: Backend, tmp_path: Path) -> None:
        self.needs(backend, "can_write")
        example, second = self._examples(backend)
        second = second.only(list(second.columns)[1:])
        stored = self.store(backend, example)
        before = contents(tmp_path)
        if not self.can(backend, "can_overwrite"):
            with pytest.raises(UnsupportedStoreError):
                backend.write(second.columns, _never_read(), overwrite=True)
            assert contents(tmp_path) == before
            second = example
        else:
            backend.write(second.columns, second.batches(), arrays=second.arrays, overwrite=True)
        with stored.open(None) as storage:
            assert set(storage.columns) == set(second.columns)
            same_rows(storage, second, range(len(second)))
            if self.can(backend, "keeps_arrays"):
                assert set(storage.arrays) == set(second.arrays)

    def test_overwrite_also_writes_where_there_is_no_store(self, backend: Backend) -> None:
        self.needs(backend, "can_write", "can_overwrite")
        example = self.usable(backend, examples.mixed())
        backend.write(example.columns, example.batches(), overwrite=True)
        same_store(backend, example)

    @AFTER_BATCHES
    def test_a_failing_source_leaves_the_old_store(self, backend: Backend, written: int, tmp_path: Path) -> None:
        self.needs(backend, "can_write", "can_overwrite")
        example, second = self._examples(backend)
        stored = self.store(backend, example)
        before = contents(tmp_path)
        with pytest.raises(_Interrupted):
            backend.write(second.columns, _failing(second, written), overwrite=True)
        assert contents(tmp_path) == before
        same_store(stored, example, example.columns)

    def test_the_check_runs_before_the_old_store_is_replaced(self, backend: Backend) -> None:
        self.needs(backend, "can_write", "can_overwrite")
        example, second = self._examples(backend)
        self.store(backend, example)
        check = _Check(backend, second, old=example)
        backend.write(
            second.columns, second.batches(), arrays=second.arrays, spec=second.spec, overwrite=True, check=check
        )
        assert check.calls == 1
        same_store(backend, second)

    def test_a_failing_check_leaves_the_old_store(self, backend: Backend, tmp_path: Path) -> None:
        self.needs(backend, "can_write", "can_overwrite")
        example, second = self._examples(backend)
        stored = self.store(backend, example)
        before = contents(tmp_path)
        with pytest.raises(_Interrupted):
            backend.write(second.columns, second.batches(), overwrite=True, check=_refuse)
        assert contents(tmp_path) == before
        same_store(stored, example, example.columns)

    def test_overwriting_leaves_an_open_reader_consistent(self, backend: Backend) -> None:
        self.needs(backend, "can_write", "can_overwrite")
        example, second = self._examples(backend)
        stored = self.store(backend, example)
        with stored.open(example.columns) as reader:
            same_rows(reader, example, [1])
            backend.write(second.columns, second.batches(), arrays=second.arrays, overwrite=True)
            for rows in ([1], list(range(len(example)))):
                with suppress(StoreChangedError):  # an error is as good as the old rows
                    same_rows(reader, example, rows)
            same_store(backend, second, second.columns)

    def _examples(self, backend: Backend) -> tuple[Example, Example]:
        return self.usable(backend, examples.mixed()), self.usable(backend, examples.other())


class _Check:
    """A check that reads the new store, and the old one if there is one."""

    def __init__(self, backend: Backend, new: Example, old: Example | None = None) -> None:
        self.backend, self.new, self.old, self.calls = backend, new, old, 0

    def __call__(self, storage: Storage) -> None:
        self.calls += 1
        assert len(storage) == len(self.new)
        same_rows(storage, self.new, range(len(self.new)))
        assert set(storage.arrays) == (set(self.new.arrays) if type(self.backend).keeps_arrays else set())
        assert storage.spec == (self.new.spec if type(self.backend).keeps_spec else None)
        if self.old is None:
            with pytest.raises(StoreNotFoundError):
                self.backend.open(None)
        else:
            with self.backend.open(self.old.columns) as before:
                same_rows(before, self.old, range(len(self.old)))


class _Interrupted(Exception):
    """The exception that a failing source of rows or a failing check raises."""


def _refuse(storage: Storage) -> None:
    raise _Interrupted


def _failing(example: Example, batches: int) -> Iterator[Columns]:
    for number, batch in enumerate(example.batches(2)):
        if number == batches:
            raise _Interrupted
        yield batch
    raise AssertionError("the example has fewer batches")


def _never_read() -> Iterable[Columns]:
    raise AssertionError("the backend read a batch, but must refuse before it reads any")
    yield {}


def _mismatches() -> Iterator[tuple[Array, Array]]:
    """Pairs of columns: the one that is announced, and the one that the batch contains."""
    yield Array("float32"), Array("float64")
    yield Array("float32"), Array("int32")
    yield Array("float32"), Array("float32", (2,))
    yield Array("float32", (3,)), Array("float32", (2,))
    yield Array("float32", (3,)), Array("float32", (3, 1))
    yield Array("float32", (3,)), Array("float32", (None,))
    yield Array("float32", (None,)), Array("float32", (2,))
    yield Array("float32", (None,)), Array("int32", (None,))
    yield Array("float32", (None,)), Array("float32", (None, 2))
    yield Array("float32", (3, None)), Array("float32", (2, None))


def _readable(stored: Backend, example: Example) -> dict[str, tuple[Array, Column]]:
    """All rows of the columns of a damaged store that can be read; empty if the backend reports the damage."""
    try:
        with stored.open(example.columns) as storage:
            arrays = {name: storage.columns[name] for name in example.columns if name in storage.columns}
            count = len(storage)
            columns = storage.read(np.arange(len(example)), list(arrays)) if count >= len(example) else None
    except Exception:  # the kind of error is up to the backend, but there must be one
        return {}
    assert count == len(example) and columns is not None, f"{count} rows of {len(example)}, and no error"
    return {name: (array, columns[name]) for name, array in arrays.items()}
