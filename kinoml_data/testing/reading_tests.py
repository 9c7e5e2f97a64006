"""The rules for reading rows."""

from __future__ import annotations

import errno
import os
import shutil
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import HealthCheck, Phase, settings
from hypothesis.stateful import run_state_machine_as_test

from kinoml_data.columns import Ragged
from kinoml_data.contracts.backend import Backend
from kinoml_data.errors import KinomlDataError
from kinoml_data.spec.array import Array
from kinoml_data.testing import examples, machine
from kinoml_data.testing.comparing import (
    same_array,
    same_column,
    same_columns,
    same_keys,
    same_row,
    same_rows,
    same_shapes,
    same_store,
)
from kinoml_data.testing.example import Example
from kinoml_data.testing.suite import DECLARED_OR_NOT, EACH_DTYPE, EACH_EXAMPLE, Shared, Suite


class ReadingTests(Suite):
    """`Storage.read`, `read_row` and `batches` return what was stored."""

    @DECLARED_OR_NOT
    @EACH_EXAMPLE
    def test_rows_come_back_bit_for_bit(self, shared: Shared, example: Example, declared: bool) -> None:
        example, stored = shared(example)
        same_store(stored, example, example.columns if declared else None)

    @EACH_DTYPE
    def test_each_dtype_comes_back_in_every_rank(self, shared: Shared, dtype: str) -> None:
        example, stored = shared(examples.of_dtype(dtype))
        same_store(stored, example)

    def test_rows_come_in_the_requested_order_and_may_repeat(self, shared: Shared) -> None:
        example, stored = shared(examples.mixed())
        with stored.open(example.columns) as storage:
            for rows in ([6, 5, 4, 3, 2, 1, 0], [3, 3, 3], [0, 6, 0], [2, 3, 4, 3, 2], [6, 6, 0, 1, 2, 5]):
                same_rows(storage, example, rows)

    @EACH_EXAMPLE
    def test_read_row_returns_the_same_as_read(self, shared: Shared, example: Example) -> None:
        example, stored = shared(example)
        with stored.open(example.columns) as storage:
            for row in range(min(len(example), 10)):
                same_rows(storage, example, [row])
                same_row(storage.read_row(row, list(example.columns)), example, row)

    @pytest.mark.parametrize("size", [1, 3, 1000])
    def test_batches_return_all_rows_in_order(self, shared: Shared, size: int) -> None:
        example, stored = shared(examples.mixed())
        names = list(example.columns)[::-2]
        with stored.open(example.columns) as storage:
            for requested in (None, names):
                start = 0
                for columns in storage.batches(requested, size):
                    end = min(start + size, len(example))
                    assert set(columns) == set(requested or storage.columns)
                    same_columns(
                        {name: columns[name] for name in names}, storage, example.only(names), range(start, end)
                    )
                    start = end
                assert start == len(example)

    def test_rows_of_a_large_store_come_in_any_order(self, shared: Shared) -> None:
        example, stored = shared(next(each for each in examples.EXAMPLES if each.name == "many-rows"))
        rng = np.random.Generator(np.random.PCG64(0))
        with stored.open(example.columns) as storage:
            for _ in range(5):
                same_rows(storage, example, rng.integers(0, len(example), 300).tolist())

    @EACH_EXAMPLE
    def test_reading_no_rows_gives_empty_columns_of_the_right_dtype(self, shared: Shared, example: Example) -> None:
        example, stored = shared(example)
        with stored.open(example.columns) as storage:
            same_rows(storage, example, [])

    def test_only_the_requested_columns_are_returned(self, shared: Shared) -> None:
        example, stored = shared(examples.mixed())
        names = list(example.columns)
        with stored.open(example.columns) as storage:
            for requested in ([names[0]], [names[-1]], names[::-1], names[1::2]):
                columns = storage.read(np.array([1, 0]), requested)
                same_columns(columns, storage, example.only(requested), [1, 0])

    def test_a_store_opens_for_some_of_its_columns(self, shared: Shared) -> None:
        example, stored = shared(examples.mixed())
        for name in example.columns:
            part = example.only([name])
            with stored.open(part.columns) as storage:
                assert len(storage) == len(part)
                same_rows(storage, part, [2, 0])

    def test_a_store_opens_for_columns_that_are_not_declared(self, shared: Shared) -> None:
        example, stored = shared(examples.mixed())
        for names in ([name] for name in example.columns):
            part = example.only(names)
            with stored.open(dict.fromkeys(names)) as storage:
                assert len(storage) == len(part)
                same_rows(storage, part, [2, 0])

    @DECLARED_OR_NOT
    @EACH_EXAMPLE
    def test_a_loaded_storage_returns_the_same(self, shared: Shared, example: Example, declared: bool) -> None:
        example, stored = shared(example)
        part = example.only([name for name in example.columns if name not in example.numeric[1:2]])
        storage = stored.open(part.columns if declared else None)
        arrays, spec, identity = dict(storage.arrays), storage.spec, storage.identity
        keys = {name: None if (found := storage.keys(name)) is None else found.tolist() for name in part.columns}
        with storage.loaded(list(part.columns)) as loaded:
            assert len(loaded) == len(part)
            assert set(part.columns) <= set(loaded.columns)
            same_rows(loaded, part, range(len(part)))
            same_rows(loaded, part, range(len(part))[::-2])
            same_shapes(loaded, part)
            same_keys(loaded, part)
            for name, before in keys.items():
                after = loaded.keys(name)
                assert before is None or (after is not None and after.tolist() == before), f"the keys of {name}"
            assert (loaded.spec, loaded.identity, set(loaded.arrays)) == (spec, identity, set(arrays))
            for name, array in loaded.arrays.items():
                same_array(array, arrays[name], name)

    def test_changing_a_batch_does_not_change_the_store(self, shared: Shared) -> None:
        example, stored = shared(examples.mixed())
        with stored.open(example.columns) as storage:
            for rows in (list(range(len(example))), [2, 0, 2], [4]):
                for column in storage.read(np.array(rows), list(example.columns)).values():
                    for array in (column.values, column.shapes) if isinstance(column, Ragged) else (column,):
                        assert array.flags.writeable
                        array[...] = 1
                same_rows(storage, example, rows)
            for array in storage.read_row(3, list(example.columns)).values():
                array[...] = 1
            same_rows(storage, example, [3])

    def test_reading_leaves_the_row_numbers_unchanged(self, shared: Shared) -> None:
        example, stored = shared(examples.mixed())
        rows = np.array([5, 0, 5])
        rows.setflags(write=False)
        with stored.open(example.columns) as storage:
            storage.read(rows, list(example.columns))
        assert rows.tolist() == [5, 0, 5]

    def test_eight_threads_read_the_same(self, shared: Shared) -> None:
        example, stored = shared(examples.mixed())
        names = list(example.columns)
        failures: list[BaseException] = []
        together = threading.Barrier(8)
        with stored.open(example.columns) as storage:

            def work(seed: int) -> None:
                rng = np.random.Generator(np.random.PCG64(seed))
                requests = [(names[i % len(names)], rng.integers(0, len(example), 1 + i % 3)) for i in range(500)]
                columns = []
                try:
                    together.wait(60)
                    end = time.monotonic() + 0.5
                    for name, rows in requests:
                        columns.append(storage.read(rows, [name])[name])
                        if time.monotonic() > end and len(columns) > 20:
                            break
                    for column, (name, rows) in zip(columns, requests, strict=False):
                        same_column(column, storage.columns[name], example.taken(rows.tolist(), name), name)
                except BaseException as error:
                    failures.append(error)

            threads = [threading.Thread(target=work, args=(seed,)) for seed in range(8)]
            with _switching_often():
                for thread in threads:
                    thread.start()
                for thread in threads:
                    thread.join()
        if failures:
            raise failures[0]

    def test_a_path_that_the_system_cannot_look_at_is_an_error_of_the_library(
        self, shared: Shared, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        example, stored = shared(examples.mixed())
        path, stat = getattr(stored, "path", None), os.stat
        if path is None:
            pytest.skip("the backend has no path")

        def failing(target: Any, **options: Any) -> os.stat_result:
            if isinstance(target, (str, os.PathLike)) and Path(target) == path:
                raise OSError(errno.EIO, os.strerror(errno.EIO), str(path))
            return stat(target, **options)

        monkeypatch.setattr(os, "stat", failing)
        with suppress(KinomlDataError), self.dataset(stored, example) as dataset:
            dataset[0]

    def test_any_use_of_any_dataset_gives_what_was_stored(self, backend: Backend, tmp_path: Path) -> None:
        def store(example: Example) -> Backend:
            for path in tmp_path.iterdir():
                shutil.rmtree(path) if path.is_dir() else path.unlink()
            return self.store(backend, example)

        def supports(array: Array) -> bool:
            return self.supports(backend, array)

        drawn = machine.examples([name for name in examples.NUMERIC if supports(Array(name))], supports)
        overwrite = self.can(backend, "can_write") and self.can(backend, "can_overwrite")
        indexed = self.can(backend, "keeps_keys")
        run_state_machine_as_test(
            lambda: machine.Reader(store, drawn, overwrite=overwrite, indexed=indexed),  # type: ignore[arg-type]  # it takes a factory
            settings=settings(
                max_examples=self.machine_examples,
                stateful_step_count=12,
                deadline=None,
                database=None,
                # One small example is enough: looking for more of them takes minutes.
                report_multiple_bugs=False,
                phases=(Phase.generate, Phase.shrink),
                derandomize=True,
                suppress_health_check=list(HealthCheck),
            ),
        )


@contextmanager
def _switching_often() -> Iterator[None]:
    """Let threads interrupt each other at almost every step."""
    before = sys.getswitchinterval()
    sys.setswitchinterval(1e-6)
    try:
        yield
    finally:
        sys.setswitchinterval(before)
