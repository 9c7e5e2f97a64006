"""`BackendTests`: what every backend promises, as tests. A plugin's author subclasses it with one fixture."""

from __future__ import annotations

import hashlib
import pickle
import re
import shutil
import sys
import threading
import time
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import closing, contextmanager, suppress
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
import pytest
from hypothesis import HealthCheck, Phase, settings
from hypothesis.stateful import run_state_machine_as_test
from numpy.typing import NDArray
from torch import Tensor

from kinoml_data import registry
from kinoml_data.backends.npz.backend import NpzLazy
from kinoml_data.columns import Column, Columns, Ragged
from kinoml_data.contracts.backend import Backend, Storage
from kinoml_data.conversion import convert
from kinoml_data.dataset.dataset import XyDataset
from kinoml_data.errors import (
    SpecError,
    StoreChangedError,
    StoreExistsError,
    StoreNotFoundError,
    StoreWriteError,
    UnknownNameError,
    UnsupportedStoreError,
)
from kinoml_data.factory import load_dataset, open_backend
from kinoml_data.spec.array import DTYPES, NAME_PATTERN, Array
from kinoml_data.spec.dataset_spec import DatasetSpec
from kinoml_data.testing import examples, machine
from kinoml_data.testing.comparing import same_array, same_column, same_list
from kinoml_data.testing.examples import Example

EACH_EXAMPLE = pytest.mark.parametrize("example", examples.EXAMPLES, ids=lambda example: example.name)
EACH_DTYPE = pytest.mark.parametrize("dtype", DTYPES)
SAID_OR_NOT = pytest.mark.parametrize("said", [True, False], ids=["columns-said", "columns-found-out"])


class BackendTests:
    """The contract of `Backend` and `Storage`, one test per rule.

    A backend that can write needs one fixture; the suite then writes its own examples::

        class TestZarr(BackendTests):
            @pytest.fixture
            def backend(self, tmp_path):
                return Zarr(path=tmp_path / "data.zarr")

    Any other overrides `store` too, and `dataset` if Python objects belong to it. What is compared is always
    dtype, shape and bytes of rows that the suite keeps in memory.

    Attributes:
        can_write: False for a backend without `write`.
        can_overwrite: False for one that refuses `overwrite=True`.
        keeps_arrays: False for one that does not give back the arrays that are not per row.
        keeps_spec: False for one that does not give back the embedded spec.
        survives_fork: False for one whose library does not, and which refuses to be opened in a forked process.
        unsupported_dtypes: those it refuses to write.
        machine_examples: how many random datasets are used in random ways.
    """

    can_write: ClassVar[bool] = True
    can_overwrite: ClassVar[bool] = True
    keeps_arrays: ClassVar[bool] = True
    keeps_spec: ClassVar[bool] = True
    survives_fork: ClassVar[bool] = True
    unsupported_dtypes: ClassVar[tuple[str, ...]] = ()

    machine_examples: ClassVar[int] = 40

    # -- what a subclass gives

    @pytest.fixture
    def backend(self) -> Backend:
        """The backend to test, over a store that does not exist yet."""
        raise NotImplementedError(f"{type(self).__name__} needs a fixture named `backend`")

    def store(self, backend: Backend, example: Example) -> Backend:
        """A backend that holds the rows of `example`; by default `backend`, which writes them."""
        backend.write(example.columns, example.batches(), arrays=example.arrays, spec=example.spec)
        return backend

    def supports(self, array: Array) -> bool:
        """False for a column that the backend refuses to write; by default by its dtype alone."""
        return array.dtype not in self.unsupported_dtypes

    def dataset(self, stored: Backend, example: Example) -> XyDataset:
        """The dataset over `stored`, which holds `example`."""
        return load_dataset(self.spec(stored, example))

    def spec(self, stored: Backend, example: Example) -> DatasetSpec:
        """What a config says of that dataset."""
        splits = {name: name for name in example.arrays if name.startswith("idx_")} if self.keeps_arrays else {}
        return DatasetSpec.parse(
            {
                "columns": dict(example.columns),
                "X": example.numeric,
                "meta": example.strings,
                "splits": splits,
                "storage": stored.model_dump(mode="json", exclude_defaults=True),
            }
        )

    @pytest.fixture(autouse=True)
    def _found_by_name(self, backend: Backend, monkeypatch: pytest.MonkeyPatch) -> None:
        """Register the backend for the test if no installed plugin does."""
        known = registry.registry()
        try:
            found = known.get("backend", backend.name)
        except UnknownNameError:
            plugin = registry.Plugin("test", "test", "0", loaded=True)
            plugin.names["backend"] = {backend.name: type(backend)}
            monkeypatch.setattr(known, "plugins", [*known.plugins, plugin])
        else:
            assert found is type(backend), f"another class is registered as {backend.name!r}"

    def usable(self, example: Example) -> Example:
        """The columns of `example` that the backend supports; where there are none the test is skipped."""
        names = [name for name, array in example.columns.items() if self.supports(array)]
        if not any(name in example.numeric for name in names):
            pytest.skip("the backend supports none of its columns")
        return example.only(names)

    def needs(self, *capabilities: str) -> None:
        """Skip the test if the backend declares that it lacks one of these."""
        for capability in capabilities:
            if not getattr(self, capability):
                pytest.skip(f"the backend declares {capability} = False")

    # -- rows

    @SAID_OR_NOT
    @EACH_EXAMPLE
    def test_rows_come_back_bit_for_bit(self, backend: Backend, example: Example, said: bool) -> None:
        example = self.usable(example)
        stored = self.store(backend, example)
        with closing(stored.open(example.columns if said else None)) as storage:
            same_rows(storage, example, range(len(example)))

    @EACH_DTYPE
    def test_each_dtype_comes_back_in_every_rank(self, backend: Backend, dtype: str) -> None:
        example = self.usable(examples.of_dtype(dtype))
        stored = self.store(backend, example)
        with closing(stored.open(None)) as storage:
            same_rows(storage, example, range(len(example)))

    @SAID_OR_NOT
    @EACH_EXAMPLE
    def test_the_columns_are_those_of_the_rows(self, backend: Backend, example: Example, said: bool) -> None:
        example = self.usable(example)
        stored = self.store(backend, example)
        with closing(stored.open(example.columns if said else None)) as storage:
            assert len(storage) == len(example)
            assert set(example.columns) <= set(storage.columns)
            for name, written in example.columns.items():
                held = storage.columns[name]
                assert held.dtype == written.dtype, name
                assert len(held.shape) == len(written.shape), name
                for axis, length in enumerate(held.shape):
                    found = {row.shape[axis] for row in example.rows[name]} | {written.shape[axis]} - {None}
                    assert length is None or found <= {length}, f"{name}: axis {axis} is not always {length}"

    def test_rows_come_in_the_order_asked_and_may_repeat(self, backend: Backend) -> None:
        example = self.usable(examples.mixed())
        stored = self.store(backend, example)
        with closing(stored.open(example.columns)) as storage:
            for rows in ([6, 5, 4, 3, 2, 1, 0], [3, 3, 3], [0, 6, 0], [2, 3, 4, 3, 2], [6, 6, 0, 1, 2, 5]):
                same_rows(storage, example, rows)

    @EACH_EXAMPLE
    def test_one_row_at_a_time_gives_the_same(self, backend: Backend, example: Example) -> None:
        example = self.usable(example)
        stored = self.store(backend, example)
        with closing(stored.open(example.columns)) as storage:
            for row in range(min(len(example), 10)):
                same_rows(storage, example, [row])
                found = storage.read_row(row, list(example.columns))
                assert set(found) == set(example.columns)
                for name, array in found.items():
                    expected = example.rows[name][row]
                    if isinstance(expected, str):
                        expected = np.frombuffer(expected.encode(), np.uint8)
                    same_array(array, expected, name)

    def test_rows_in_any_order_of_a_large_store(self, backend: Backend) -> None:
        example = self.usable(next(e for e in examples.EXAMPLES if e.name == "many-rows"))
        stored = self.store(backend, example)
        rng = np.random.Generator(np.random.PCG64(0))
        with closing(stored.open(example.columns)) as storage:
            for _ in range(5):
                same_rows(storage, example, rng.integers(0, len(example), 300).tolist())

    @EACH_EXAMPLE
    def test_reading_no_rows_gives_empty_columns_of_the_right_dtype(self, backend: Backend, example: Example) -> None:
        example = self.usable(example)
        stored = self.store(backend, example)
        with closing(stored.open(example.columns)) as storage:
            same_rows(storage, example, [])

    def test_only_the_columns_asked_for_are_returned(self, backend: Backend) -> None:
        example = self.usable(examples.mixed())
        stored = self.store(backend, example)
        names = list(example.columns)
        with closing(stored.open(example.columns)) as storage:
            for chosen in ([names[0]], [names[-1]], names[::-1], names[1::2]):
                found = storage.read(np.array([1, 0]), chosen)
                assert set(found) == set(chosen)
                for name in chosen:
                    same_column(found[name], storage.columns[name], example.taken([1, 0], name))

    def test_a_store_opens_for_some_of_its_columns(self, backend: Backend) -> None:
        example = self.usable(examples.mixed())
        stored = self.store(backend, example)
        for name in example.columns:
            part = example.only([name])
            with closing(stored.open(part.columns)) as storage:
                assert len(storage) == len(part)
                same_rows(storage, part, [2, 0])

    def test_changing_a_batch_does_not_change_the_store(self, backend: Backend) -> None:
        example = self.usable(examples.mixed())
        stored = self.store(backend, example)
        with closing(stored.open(example.columns)) as storage:
            for rows in (list(range(len(example))), [2, 0, 2], [4]):
                found = storage.read(np.array(rows), list(example.columns))
                for column in found.values():
                    for array in (column.values, column.shapes) if isinstance(column, Ragged) else (column,):
                        assert array.flags.writeable
                        array[...] = 1
                same_rows(storage, example, rows)
            for array in storage.read_row(3, list(example.columns)).values():
                array[...] = 1
            same_rows(storage, example, [3])

    def test_the_row_numbers_are_left_as_they_were(self, backend: Backend) -> None:
        example = self.usable(examples.mixed())
        stored = self.store(backend, example)
        rows = np.array([5, 0, 5])
        rows.setflags(write=False)
        with closing(stored.open(example.columns)) as storage:
            storage.read(rows, list(example.columns))
        assert rows.tolist() == [5, 0, 5]

    def test_eight_threads_read_the_same(self, backend: Backend) -> None:
        example = self.usable(examples.mixed())
        stored = self.store(backend, example)
        names = list(example.columns)
        failures: list[BaseException] = []
        together = threading.Barrier(8)
        with closing(stored.open(example.columns)) as storage:

            def work(seed: int) -> None:
                rng = np.random.Generator(np.random.PCG64(seed))
                asked = [(names[i % len(names)], rng.integers(0, len(example), 1 + i % 3)) for i in range(2000)]
                found = []
                try:
                    together.wait(60)
                    end = time.monotonic() + 1
                    for name, rows in asked:
                        found.append(storage.read(rows, [name])[name])
                        if time.monotonic() > end and len(found) > 20:
                            break
                    for column, (name, rows) in zip(found, asked, strict=False):
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

    # -- what else a storage says

    @EACH_EXAMPLE
    def test_shapes_are_those_of_the_rows(self, backend: Backend, example: Example) -> None:
        example = self.usable(example)
        stored = self.store(backend, example)
        with closing(stored.open(example.columns)) as storage:
            for name, array in example.columns.items():
                shapes = storage.shapes(name)
                if shapes is None or array.is_string:
                    continue
                assert shapes.dtype == np.int64 and shapes.shape == (len(example), len(array.shape)), name
                same_list([tuple(shape) for shape in shapes.tolist()], [row.shape for row in example.rows[name]], name)

    def test_split_arrays_and_the_spec_come_back(self, backend: Backend) -> None:
        example = self.usable(examples.mixed())
        stored = self.store(backend, example)
        with closing(stored.open(None)) as storage:
            if self.keeps_arrays:
                assert set(storage.arrays) == set(example.arrays)
                for name, written in example.arrays.items():
                    same_array(storage.arrays[name], written, name)
            if self.keeps_spec:
                assert storage.spec == example.spec

    def test_a_store_without_arrays_and_spec_has_none(self, backend: Backend) -> None:
        self.needs("can_write")
        example = self.usable(examples.mixed())
        backend.write(example.columns, example.batches())
        with closing(backend.open(None)) as storage:
            assert dict(storage.arrays) == {} and storage.spec is None
            same_rows(storage, example, range(len(example)))

    def test_closing_one_reader_leaves_another_open(self, backend: Backend) -> None:
        example = self.usable(examples.mixed())
        stored = self.store(backend, example)
        one = stored.open(example.columns)
        with closing(stored.open(example.columns)) as two:
            one.close()
            same_rows(two, example, range(len(example)))

    def test_closing_lets_go_of_files(self, backend: Backend) -> None:
        example = self.usable(examples.mixed())
        stored = self.store(backend, example)
        held = []
        for _ in range(3):
            with closing(stored.open(example.columns)) as storage:
                storage.read(np.array([0]), list(example.columns))
            held.append(_open_files())
        assert held[1] == held[2], "a closed storage keeps files open"

    def test_reading_leaves_the_store_as_it_was(self, backend: Backend, tmp_path: Path) -> None:
        example = self.usable(examples.mixed())
        stored = self.store(backend, example)
        before = _contents(tmp_path)
        with closing(stored.open(None)) as storage:
            same_rows(storage, example, range(len(example)))
        assert _contents(tmp_path) == before

    def test_the_identity_stays_and_changes_with_the_content(self, backend: Backend) -> None:
        example = self.usable(examples.mixed())
        stored = self.store(backend, example)
        first = _identity(stored)
        assert _identity(stored) == first
        if first is not None and self.can_write and self.can_overwrite:
            second = self.usable(examples.other())
            backend.write(second.columns, second.batches(), overwrite=True)
            assert _identity(backend) not in (first, None)

    # -- options

    def test_it_has_a_name_and_suffixes_as_the_contract_says(self, backend: Backend) -> None:
        cls = type(backend)
        assert re.fullmatch(NAME_PATTERN, cls.name)
        assert isinstance(cls.suffixes, tuple)
        for suffix in cls.suffixes:
            assert suffix.startswith(".") and suffix == suffix.lower()
        assert not cls.suffixes or "path" in cls.model_fields

    def test_options_survive_the_config_round_trip(self, backend: Backend, tmp_path: Path) -> None:
        example = self.usable(examples.mixed())
        spec = self.spec(backend, example)
        for suffix in (".yaml", ".json", ".toml"):
            file = tmp_path / f"spec{suffix}"
            spec.to_file(file)
            read = DatasetSpec.from_file(file)
            again = open_backend(read)
            assert type(again) is type(backend)
            assert again.model_dump(mode="json") == backend.model_dump(mode="json")

    def test_an_unknown_option_is_refused(self, backend: Backend) -> None:
        options = backend.model_dump(mode="json", exclude_defaults=True) | {"no_such_option": 1}
        with pytest.raises(SpecError, match="no_such_option"):
            open_backend(self.spec(backend, self.usable(examples.mixed())).with_storage(_component(options)))

    def test_a_backend_pickles(self, backend: Backend) -> None:
        example = self.usable(examples.mixed())
        stored = self.store(backend, example)
        again = pickle.loads(pickle.dumps(stored))
        with closing(again.open(example.columns)) as storage:
            same_rows(storage, example, range(len(example)))

    # -- writing

    @pytest.mark.parametrize("size", [1, 2, 3, 100])
    def test_the_batches_written_do_not_matter(self, backend: Backend, size: int) -> None:
        self.needs("can_write")
        example = self.usable(examples.mixed())
        none = next(example.batches(1))
        nothing = {name: _no_rows(column) for name, column in none.items()}
        batches = [batch for written in example.batches(size) for batch in (nothing, written)]
        backend.write(example.columns, iter([*batches, nothing]))
        with closing(backend.open(example.columns)) as storage:
            same_rows(storage, example, range(len(example)))

    def test_no_batch_makes_a_store_of_no_rows(self, backend: Backend) -> None:
        self.needs("can_write")
        example = self.usable(next(e for e in examples.EXAMPLES if e.name == "no-rows"))
        backend.write(example.columns, iter(()), arrays={}, spec=example.spec)
        with closing(backend.open(example.columns)) as storage:
            assert len(storage) == 0
            same_rows(storage, example, [])

    def test_an_unsupported_column_is_refused_before_anything_is_written(
        self, backend: Backend, tmp_path: Path
    ) -> None:
        self.needs("can_write")
        before = _contents(tmp_path)
        for dtype in DTYPES:
            for name, array in examples.of_dtype(dtype).columns.items():
                if not self.supports(array):
                    with pytest.raises(UnsupportedStoreError):
                        backend.write({"y": Array("float32"), name: array}, _untouched())
        assert _contents(tmp_path) == before

    @pytest.mark.parametrize("written", [0, 1, 2])
    def test_a_failing_writer_leaves_nothing(self, backend: Backend, written: int, tmp_path: Path) -> None:
        self.needs("can_write")
        example = self.usable(examples.mixed())
        before = _contents(tmp_path)
        with pytest.raises(_Interrupted):
            backend.write(example.columns, _failing(example, written), arrays=example.arrays)
        assert _contents(tmp_path) == before
        with pytest.raises(StoreNotFoundError):
            backend.open(None)
        stored = self.store(backend, example)
        with closing(stored.open(example.columns)) as storage:
            same_rows(storage, example, range(len(example)))

    @pytest.mark.parametrize("written", [0, 1, 2])
    def test_a_failing_writer_leaves_the_old_data(self, backend: Backend, written: int, tmp_path: Path) -> None:
        self.needs("can_write", "can_overwrite")
        example, second = self.usable(examples.mixed()), self.usable(examples.other())
        stored = self.store(backend, example)
        before = _contents(tmp_path)
        with pytest.raises(_Interrupted):
            backend.write(second.columns, _failing(second, written), overwrite=True)
        assert _contents(tmp_path) == before
        with closing(stored.open(example.columns)) as storage:
            same_rows(storage, example, range(len(example)))

    def test_rows_that_are_not_what_was_announced_are_refused(self, backend: Backend, tmp_path: Path) -> None:
        self.needs("can_write")
        before = _contents(tmp_path)
        for announced, held in _mismatches():
            if self.supports(announced) and self.supports(held):
                rows = [examples.bits(held.dtype, tuple(axis or 2 for axis in held.shape), i) for i in range(2)]
                with pytest.raises(SpecError):
                    backend.write({"X": announced}, iter([{"X": examples.packed(rows, held)}]))
        assert _contents(tmp_path) == before

    def test_an_existing_store_is_not_overwritten(self, backend: Backend, tmp_path: Path) -> None:
        self.needs("can_write")
        example, second = self.usable(examples.mixed()), self.usable(examples.other())
        stored = self.store(backend, example)
        before = _contents(tmp_path)
        with pytest.raises(StoreExistsError):
            backend.write(second.columns, second.batches(), arrays=second.arrays, spec=second.spec)
        assert _contents(tmp_path) == before
        with closing(stored.open(example.columns)) as storage:
            same_rows(storage, example, range(len(example)))

    def test_overwriting_replaces_everything_or_is_refused(self, backend: Backend, tmp_path: Path) -> None:
        self.needs("can_write")
        example, second = self.usable(examples.mixed()), self.usable(examples.other())
        second = second.only(list(second.columns)[1:])
        stored = self.store(backend, example)
        before = _contents(tmp_path)
        if not self.can_overwrite:
            with pytest.raises(UnsupportedStoreError):
                backend.write(second.columns, _untouched(), overwrite=True)
            assert _contents(tmp_path) == before
            second = example
        else:
            backend.write(second.columns, second.batches(), arrays=second.arrays, overwrite=True)
        with closing(stored.open(None)) as storage:
            assert set(storage.columns) == set(second.columns)
            same_rows(storage, second, range(len(second)))
            if self.keeps_arrays:
                assert set(storage.arrays) == set(second.arrays)

    def test_overwriting_a_store_that_is_not_there_writes_it(self, backend: Backend) -> None:
        self.needs("can_write", "can_overwrite")
        example = self.usable(examples.mixed())
        backend.write(example.columns, example.batches(), overwrite=True)
        with closing(backend.open(None)) as storage:
            same_rows(storage, example, range(len(example)))

    def test_overwriting_leaves_an_open_reader_consistent(self, backend: Backend) -> None:
        self.needs("can_write", "can_overwrite")
        example, second = self.usable(examples.mixed()), self.usable(examples.other())
        stored = self.store(backend, example)
        with closing(stored.open(example.columns)) as reader:
            same_rows(reader, example, [1])
            backend.write(second.columns, second.batches(), arrays=second.arrays, overwrite=True)
            for rows in ([1], list(range(len(example)))):
                with suppress(StoreChangedError):  # to notice is as good as to go on with the old rows
                    same_rows(reader, example, rows)
            with closing(backend.open(second.columns)) as storage:
                same_rows(storage, second, range(len(second)))

    def test_a_folder_that_is_not_there_is_a_write_error(self, backend: Backend, tmp_path: Path) -> None:
        self.needs("can_write")
        path = getattr(backend, "path", None)
        if isinstance(path, Path):
            example = self.usable(examples.mixed())
            elsewhere = backend.model_copy(update={"path": path.parent / "none" / path.name})
            with pytest.raises(StoreWriteError):
                elsewhere.write(example.columns, example.batches())
            assert not (path.parent / "none").exists()

    def test_a_file_that_is_cut_or_missing_is_an_error_or_harmless(self, backend: Backend, tmp_path: Path) -> None:
        self.needs("can_write")
        example = self.usable(examples.mixed())
        stored = self.store(backend, example)
        for file in sorted(path for path in tmp_path.rglob("*") if path.is_file()):
            content = file.read_bytes()
            for left in (None, b"", content[: len(content) // 2], content[:-1]):
                if left is None:
                    file.unlink()
                else:
                    file.write_bytes(left)
                found = _still_there(stored, example)
                for name, (array, column) in found.items():
                    same_column(column, array, example.taken(range(len(example)), name), f"{file.name}: {name}")
                file.write_bytes(content)

    def test_a_store_that_is_not_there_is_not_found(self, backend: Backend) -> None:
        self.needs("can_write")
        for columns in (None, {"y": Array("float32")}):
            with pytest.raises(StoreNotFoundError):
                backend.open(columns)

    def test_a_backend_that_cannot_write_says_so(self, backend: Backend) -> None:
        if self.can_write:
            pytest.skip("the backend declares can_write = True")
        example = self.usable(examples.mixed())
        with pytest.raises(UnsupportedStoreError, match=backend.name):
            backend.write(example.columns, _untouched())

    # -- datasets over it

    @EACH_EXAMPLE
    def test_a_dataset_gives_what_the_store_holds(self, backend: Backend, example: Example) -> None:
        example = self.usable(example)
        stored = self.store(backend, example)
        with self.dataset(stored, example) as dataset:
            assert len(dataset) == len(example)
            for row in range(min(len(example), 20)):
                same_sample(dataset[row][0], example, row)
            if len(example):
                same_batch(dataset[:][0], example, range(len(example)))
            for name in example.strings:
                same_list(dataset.column(name), example.rows[name], name)
            if self.keeps_arrays:
                for name, rows in example.arrays.items():
                    if name.startswith("idx_"):
                        same_list(dataset.split(name).rows.tolist(), rows.tolist(), name)

    @pytest.mark.filterwarnings("ignore:This DataLoader will create:UserWarning")  # more workers than cores
    @pytest.mark.parametrize("method", ["fork", "spawn"])
    def test_workers_read_what_the_store_holds(self, backend: Backend, method: str) -> None:
        example = self.usable(examples.mixed())
        stored = self.store(backend, example)
        order = [6, 0, 3, 3, 1, 5, 2, 4]
        with self.dataset(stored, example) as dataset:
            dataset[0]  # what is open in this process must not matter to the workers
            loader = dataset.as_dataloader(
                batch_size=3, sampler=order, num_workers=2, multiprocessing_context=method, timeout=120
            )
            if method == "fork" and not self.survives_fork:
                with pytest.raises(UnsupportedStoreError, match="spawn"):
                    list(loader)
                return
            found = [X for X, _ in loader]
            for number, X in enumerate(found):
                same_batch(X, example, order[3 * number : 3 * number + 3])
            assert len(found) == 3

    def test_a_dataset_over_it_pickles(self, backend: Backend) -> None:
        example = self.usable(examples.mixed())
        stored = self.store(backend, example)
        with self.dataset(stored, example) as dataset:
            again = pickle.loads(pickle.dumps(dataset))
            with again:
                same_batch(again[:][0], example, range(len(example)))

    @EACH_EXAMPLE
    def test_conversion_to_npz_lazy_is_lossless(self, backend: Backend, example: Example, tmp_path: Path) -> None:
        example = self.usable(example)
        stored = self.store(backend, example)
        copy = NpzLazy(path=tmp_path / "converted.npz")
        with self.dataset(stored, example) as dataset:
            convert(dataset, copy.path)
        with closing(copy.open(None)) as storage:
            same_rows(storage, example, range(len(example)))

    @EACH_EXAMPLE
    def test_conversion_from_npz_lazy_is_lossless(self, backend: Backend, example: Example, tmp_path: Path) -> None:
        self.needs("can_write")
        example = self.usable(example)
        source = NpzLazy(path=tmp_path / "source.npz")
        source.write(example.columns, example.batches(), arrays=example.arrays, spec=example.spec)
        convert(source.path, backend.model_dump(mode="json", exclude_defaults=True))
        with closing(backend.open(None)) as storage:
            same_rows(storage, example, range(len(example)))
            assert storage.spec is not None or not self.keeps_spec

    # -- anything else, at random

    def test_any_use_of_any_dataset_gives_what_was_stored(self, backend: Backend, tmp_path: Path) -> None:
        def store(example: Example) -> Backend:
            for path in tmp_path.iterdir():
                shutil.rmtree(path) if path.is_dir() else path.unlink()
            return self.store(backend, example)

        dtypes = [name for name in examples.NUMERIC if self.supports(Array(name))]
        drawn = machine.examples(dtypes, self.supports)
        overwrite = self.can_write and self.can_overwrite
        run_state_machine_as_test(
            lambda: machine.Reader(store, drawn, overwrite=overwrite),  # type: ignore[arg-type]
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


# -- comparing, with nothing but numpy


def same_rows(storage: Storage, example: Example, rows: Sequence[int]) -> None:
    """Read some rows of all columns and compare them bit for bit."""
    found = storage.read(np.array(rows, np.int64), list(example.columns))
    for name in example.columns:
        same_column(found[name], storage.columns[name], example.taken(rows, name), name)


def same_sample(found: Any, example: Example, row: int) -> None:
    """One X of a dataset whose X is all columns, `{name: tensor}`."""
    assert list(found) == example.numeric
    for name, tensor in found.items():
        _same_tensor(tensor, example.rows[name][row], name)


def same_batch(found: Any, example: Example, rows: Sequence[int]) -> None:
    """A batch of such X, ragged columns as lists."""
    assert list(found) == example.numeric
    for name, column in found.items():
        assert len(column) == len(rows), name
        for i, row in enumerate(rows):
            _same_tensor(column[i], example.rows[name][row], name)


def _same_tensor(found: Tensor, expected: NDArray[Any], name: str) -> None:
    assert not found.requires_grad and found.is_contiguous(), name
    same_array(found.numpy(), expected, name)


# -- writers that go wrong, and what is left behind


def _still_there(stored: Backend, example: Example) -> dict[str, tuple[Array, Column]]:
    """All rows of the columns that can be read of a damaged store; nothing where it says that it is damaged."""
    try:
        with closing(stored.open(example.columns)) as storage:
            names = [name for name in example.columns if name in storage.columns]
            found = storage.read(np.arange(len(example)), names) if len(storage) >= len(example) else None
            held = len(storage), dict(storage.columns)
    except Exception:  # what kind of error is up to the backend; that there is one is not
        return {}
    assert held[0] == len(example) and found is not None, f"{held[0]} rows of {len(example)}, and no error"
    return {name: (held[1][name], found[name]) for name in names}


class _Interrupted(Exception):
    """What a writer's source of rows fails with."""


def _failing(example: Example, batches: int) -> Iterator[Columns]:
    for number, batch in enumerate(example.batches(2)):
        if number == batches:
            raise _Interrupted
        yield batch
    raise AssertionError("the example has fewer batches")


def _untouched() -> Iterable[Columns]:
    raise AssertionError("rows were asked for")
    yield {}


def _mismatches() -> Iterator[tuple[Array, Array]]:
    """Columns announced, and what the batch then holds."""
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


def _no_rows(column: Column) -> Column:
    return Ragged(column.values[:0], column.shapes[:0]) if isinstance(column, Ragged) else column[:0]


def _component(options: Mapping[str, Any]) -> Any:
    return DatasetSpec.parse({"storage": options}).storage


def _identity(backend: Backend) -> str | None:
    with closing(backend.open(None)) as storage:
        return storage.identity


def _contents(folder: Path) -> dict[str, str]:
    """Every file and folder below, with a digest of its bytes."""
    return {
        str(path.relative_to(folder)): hashlib.sha256(path.read_bytes()).hexdigest() if path.is_file() else "folder"
        for path in folder.rglob("*")
    }


def _open_files() -> int:
    folder = Path("/proc/self/fd")
    return len(list(folder.iterdir())) if folder.is_dir() else 0


@contextmanager
def _switching_often() -> Iterator[None]:
    """Let threads interrupt each other at almost every step."""
    before = sys.getswitchinterval()
    sys.setswitchinterval(1e-6)
    try:
        yield
    finally:
        sys.setswitchinterval(before)
