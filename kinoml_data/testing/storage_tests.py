"""The rules for everything but rows: how a storage describes itself and closes, and the options of a backend."""

from __future__ import annotations

import pickle
import re
import time
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path
from typing import Any, get_args

import numpy as np
import pytest

from kinoml_data.contracts.backend import Backend, Storage
from kinoml_data.errors import SpecError
from kinoml_data.spec.array import DTYPES, NAME_PATTERN
from kinoml_data.spec.dataset_spec import DatasetSpec
from kinoml_data.spec_objects import make_backend
from kinoml_data.testing import examples
from kinoml_data.testing.comparing import contents, same_array, same_keys, same_rows, same_shapes, same_store
from kinoml_data.testing.example import Example
from kinoml_data.testing.suite import DECLARED_OR_NOT, EACH_EXAMPLE, Shared, Suite


class StorageTests(Suite):
    """A storage describes its rows, and closes."""

    @DECLARED_OR_NOT
    @EACH_EXAMPLE
    def test_the_columns_are_those_of_the_rows(self, shared: Shared, example: Example, declared: bool) -> None:
        example, stored = shared(example)
        with stored.open(example.columns if declared else None) as storage:
            assert len(storage) == len(example)
            assert set(example.columns) <= set(storage.columns)
            for name, written in example.columns.items():
                array = storage.columns[name]
                assert array.dtype == written.dtype, name
                assert len(array.shape) == len(written.shape), name
                for axis, length in enumerate(array.shape):
                    lengths = {row.shape[axis] for row in example.rows[name]} | {written.shape[axis]} - {None}
                    assert length is None or lengths <= {length}, f"{name}: axis {axis} is not always {length}"

    @EACH_EXAMPLE
    def test_shapes_are_those_of_the_rows(self, shared: Shared, example: Example) -> None:
        example, stored = shared(example)
        with stored.open(example.columns) as storage:
            same_shapes(storage, example)

    @EACH_EXAMPLE
    def test_rows_are_the_same_with_the_row_arrays_of_another_process(self, shared: Shared, example: Example) -> None:
        example, stored = shared(example)
        with stored.open(example.columns) as storage:
            arrays = {name: np.array(array) for name, array in storage.row_arrays().items()}
            for array in arrays.values():
                array.flags.writeable = False
            storage.share_row_arrays(arrays)
            assert all(array is arrays[name] for name, array in storage.row_arrays().items())
            same_rows(storage, example, range(len(example)))
            same_shapes(storage, example)
            same_keys(storage, example)

    @EACH_EXAMPLE
    def test_blocks_divide_the_rows(self, shared: Shared, example: Example) -> None:
        """Rows that are in no block would be missing from a shuffled epoch."""
        example, stored = shared(example)
        with stored.open(example.columns) as opened, opened.loaded(list(example.columns)) as storage:
            assert storage.blocks is None or storage.blocks.problem(len(example)) is None

    def test_split_arrays_and_the_spec_come_back(self, shared: Shared) -> None:
        example, stored = shared(examples.mixed())
        with stored.open(None) as storage:
            assert set(storage.arrays) == (set(example.arrays) if self.can(stored, "keeps_arrays") else set())
            for name, array in storage.arrays.items():
                same_array(array, example.arrays[name], name)
            if self.can(stored, "keeps_spec"):
                assert storage.spec == example.spec
            elif self.can(stored, "can_write"):
                assert storage.spec is None

    def test_a_store_without_arrays_and_spec_has_none(self, backend: Backend) -> None:
        self.needs(backend, "can_write")
        example = self.usable(backend, examples.mixed())
        backend.write(example.columns, example.batches())
        with backend.open(None) as storage:
            assert dict(storage.arrays) == {} and storage.spec is None
            same_rows(storage, example, range(len(example)))

    def test_a_storage_is_a_context_manager_that_closes_it(
        self, shared: Shared, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        _, stored = shared(examples.mixed())
        storage = stored.open(None)
        closed: list[Storage] = []
        close = type(storage).close

        def recorded(self: Storage) -> None:
            closed.append(self)
            close(self)

        monkeypatch.setattr(type(storage), "close", recorded)
        with storage as entered:
            assert entered is storage
            assert not any(each is storage for each in closed)
        assert any(each is storage for each in closed)

    def test_closing_twice_does_nothing(self, shared: Shared) -> None:
        example, stored = shared(examples.mixed())
        storage = stored.open(example.columns)
        same_rows(storage, example, [0])
        storage.close()
        storage.close()

    def test_closing_one_reader_leaves_another_open(self, shared: Shared) -> None:
        example, stored = shared(examples.mixed())
        one = stored.open(example.columns)
        with stored.open(example.columns) as two:
            one.close()
            same_rows(two, example, range(len(example)))

    def test_closing_lets_go_of_files(self, shared: Shared) -> None:
        """No file stays open after closing; a backend may close it a moment later, in a thread of its own."""
        example, stored = shared(examples.mixed())

        def open_and_close(times: int) -> None:
            for _ in range(times):
                with stored.open(example.columns) as storage:
                    storage.read(np.array([0]), list(example.columns))

        open_and_close(2)  # what a library keeps open for good, such as an event loop, is open now
        before = _open_files()
        open_and_close(4)
        deadline = time.monotonic() + 5
        while _open_files() - before and time.monotonic() < deadline:
            time.sleep(0.01)
        assert _open_files() - before == set(), "a closed storage keeps files open"

    def test_reading_leaves_the_store_unchanged(self, backend: Backend, tmp_path: Path) -> None:
        example = self.usable(backend, examples.mixed())
        stored = self.store(backend, example)
        before = contents(tmp_path)
        same_store(stored, example)
        assert contents(tmp_path) == before

    def test_the_identity_changes_only_with_the_content(self, backend: Backend) -> None:
        example = self.usable(backend, examples.mixed())
        stored = self.store(backend, example)
        first = _identity(stored)
        assert _identity(stored) == first
        if first is not None and self.can(backend, "can_write") and self.can(backend, "can_overwrite"):
            second = self.usable(backend, examples.other())
            backend.write(second.columns, second.batches(), overwrite=True)
            assert _identity(backend) not in (first, None)


class OptionTests(Suite):
    """The class variables of a backend are true, and its options survive a config and a pickle."""

    def test_the_name_and_the_suffixes_are_valid(self, backend: Backend) -> None:
        cls = type(backend)
        assert re.fullmatch(NAME_PATTERN, cls.name)
        assert isinstance(cls.suffixes, tuple)
        for suffix in cls.suffixes:
            assert suffix.startswith(".") and suffix == suffix.lower()
        assert not cls.suffixes or "path" in cls.model_fields

    def test_the_class_variables_are_true(self, backend: Backend) -> None:
        """The writing tests check that a backend refuses whatever these variables exclude."""
        cls = type(backend)
        defined = cls.write is not Backend.write
        assert cls.can_write == defined, "can_write must be True if the class defines `write`, and False otherwise"
        assert cls.can_write or not cls.keeps_keys, "a backend that does not write cannot keep keys"
        assert set(cls.unsupported_dtypes) <= set(DTYPES)

    def test_options_that_are_paths_are_named_path(self, backend: Backend) -> None:
        """`to_file` rewrites the paths only in options with these names."""
        for name, field in type(backend).model_fields.items():
            if any(isinstance(part, type) and issubclass(part, Path) for part in _parts(field.annotation)):
                assert name == "path" or name.endswith("_path"), f"rename the option {name!r} to '{name}_path'"

    def test_options_survive_the_config_round_trip(self, backend: Backend, tmp_path: Path) -> None:
        spec = self.spec(backend, self.usable(backend, examples.mixed()))
        for suffix in (".yaml", ".json", ".toml"):
            file = tmp_path / f"spec{suffix}"
            spec.to_file(file)
            again = make_backend(DatasetSpec.from_file(file))
            assert type(again) is type(backend)
            assert again.model_dump(mode="json") == backend.model_dump(mode="json")

    def test_an_unknown_option_is_refused(self, backend: Backend) -> None:
        options = backend.model_dump(mode="json", exclude_defaults=True) | {"no_such_option": 1}
        storage: Any = DatasetSpec.parse({"storage": options}).storage
        with pytest.raises(SpecError, match="no_such_option"):
            make_backend(self.spec(backend, self.usable(backend, examples.mixed())).with_storage(storage))

    def test_a_backend_pickles(self, shared: Shared) -> None:
        example, stored = shared(examples.mixed())
        same_store(pickle.loads(pickle.dumps(stored)), example, example.columns)


def _parts(annotation: Any) -> Iterator[Any]:
    """A type and all types that it is made of."""
    yield annotation
    for part in get_args(annotation):
        yield from _parts(part)


def _identity(backend: Backend) -> str | None:
    with backend.open(None) as storage:
        return storage.identity


def _open_files() -> set[tuple[Path, Path]]:
    """The number and the target of each open file of this process, if the operating system lists them."""
    files = set()
    folder = Path("/proc/self/fd")
    for file in folder.iterdir() if folder.is_dir() else ():
        with suppress(FileNotFoundError):  # closed meanwhile, as the descriptor that lists them is
            files.add((file, file.readlink()))
    return files
