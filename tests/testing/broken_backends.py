"""Backends that break one rule each. `test_suite` runs this file and expects every test in it to fail."""

from __future__ import annotations

import math
import shutil
from pathlib import Path
from typing import Any

import numpy as np
from pydantic import ConfigDict, PrivateAttr

from kinoml_data import ArrayStorage, Backend, Ragged
from kinoml_data.columns import Indexed
from kinoml_data.errors import CorruptStoreError, StoreExistsError, StoreWriteError, UnsupportedStoreError
from tests.testing.sound import Sound, Wrapped, suite_of

# -- class variables and options


class DeclaresThatItCannotWrite(Sound):
    rule = "test_the_class_variables_are_true"
    can_write = False


class DeclaresThatItWrites(Sound):
    rule = "test_the_class_variables_are_true"
    write = Backend.write


class KeepsKeysThoughItDoesNotWrite(Sound):
    rule = "test_the_class_variables_are_true"
    can_write = False
    write = Backend.write


class DeclaresAnUnknownDtype(Sound):
    rule = "test_the_class_variables_are_true"
    unsupported_dtypes = ("float31",)


class DeclaresThatItCannotOverwrite(Sound):
    rule = "test_overwriting_replaces_everything_or_is_refused"
    can_overwrite = False


class WritesUnsupportedDtypes(Sound):
    rule = "test_an_unsupported_column_is_refused_before_anything_is_read_or_written"
    unsupported_dtypes = ("complex64",)


class RefusesUnsupportedDtypesLate(Sound):
    rule = "test_an_unsupported_column_is_refused_before_anything_is_read_or_written"
    unsupported_dtypes = ("complex64",)

    def write(self, columns, batches, **options):
        batches = list(batches)
        if any(array.dtype == "complex64" for array in columns.values()):
            raise UnsupportedStoreError("complex64 cannot be stored")
        super().write(columns, batches, **options)


class OpensOnlyDeclaredColumns(Sound):
    rule = "test_a_store_opens_for_columns_that_are_not_declared"

    def open(self, columns):
        for array in (columns or {}).values():
            assert array.dtype
        return super().open(columns)


class KeepsArraysThoughItDeclaresOtherwise(Sound):
    rule = "test_split_arrays_and_the_spec_come_back"
    keeps_arrays = False


class KeepsTheSpecThoughItDeclaresOtherwise(Sound):
    rule = "test_split_arrays_and_the_spec_come_back"
    keeps_spec = False


class HasAPathOfAnotherName(Sound):
    rule = "test_options_that_are_paths_are_named_path"
    indices: tuple[Path, ...] | None = None


class HasASuffixWithoutADot(Sound):
    rule = "test_the_name_and_the_suffixes_are_valid"
    suffixes = ("npy",)


class TakesAnyOption(Sound):
    rule = "test_an_unknown_option_is_refused"
    model_config = ConfigDict(extra="ignore")


class CannotBePickled(Sound):
    rule = "test_a_backend_pickles"
    _handle: Any = PrivateAttr(default_factory=lambda: lambda: None)


# -- opening


class OpensAnEmptyStoreWhereThereIsNone(Sound):
    rule = "test_a_store_that_does_not_exist_is_not_found"

    def open(self, columns):
        if not self.path.exists():
            return ArrayStorage({"X": np.empty((0, 1), np.float32)})
        return super().open(columns)


class ReportsDamageWhereThereIsNoStore(Sound):
    rule = "test_a_store_that_does_not_exist_is_not_found"

    def open(self, columns):
        if not self.path.exists():
            raise CorruptStoreError("there is no store")
        return super().open(columns)


class TouchesTheStoreOnOpening(Sound):
    rule = "test_reading_leaves_the_store_unchanged"

    def open(self, columns):
        storage = super().open(columns)
        (self.path / "last-read").touch()
        return storage


class SharesOneStorage(Sound):
    """Opens once and returns the same storage to everybody, closed or not."""

    rule = "test_closing_one_reader_leaves_another_open"

    def open(self, columns):
        return _OPEN.setdefault(self.path, _Closable(super().open(columns)))


_OPEN: dict[Path, _Closable] = {}


class _Closable(Wrapped):
    closed = False

    def read(self, rows, columns):
        if self.closed:
            raise ValueError("closed")
        return super().read(rows, columns)

    def close(self):
        self.closed = True


class FillsWhatIsMissing(Sound):
    """Reads zeros where a file was cut."""

    rule = "test_a_file_that_is_cut_or_missing_is_an_error_or_harmless"

    def open(self, columns):
        arrays = {}
        for path in sorted(self.path.glob("*.npy")):
            with path.open("rb") as file:
                np.lib.format.read_magic(file)
                shape, _, dtype = np.lib.format.read_array_header_1_0(file)
                data = file.read().ljust(dtype.itemsize * math.prod(shape), b"\0")
            arrays[path.stem] = np.frombuffer(data, dtype).reshape(shape)
        return self.wrapped(ArrayStorage(arrays)) if arrays else super().open(columns)


# -- writing


class ForgetsTheLastBatch(Sound):
    rule = "test_rows_come_back_bit_for_bit"

    def write(self, columns, batches, **options):
        super().write(columns, list(batches)[:-1], **options)


class NeedsRows(Sound):
    rule = "test_no_batch_makes_a_store_of_no_rows"

    def write(self, columns, batches, **options):
        batches = list(batches)
        if not sum(len(next(iter(batch.values()))) for batch in batches):
            raise ValueError("no rows")
        super().write(columns, batches, **options)


class SkipsBatchesAfterAnEmptyOne(Sound):
    rule = "test_the_size_of_the_batches_does_not_matter"

    def write(self, columns, batches, **options):
        batches = list(batches)
        sizes = [len(next(iter(batch.values()))) for batch in batches]
        super().write(columns, batches[: sizes.index(0)] if 0 in sizes else batches, **options)


class LeavesAHalfWrittenStore(Sound):
    rule = "test_a_failing_source_leaves_nothing"

    def write(self, columns, batches, **options):
        if not self.path.exists():
            self.path.mkdir()
            (self.path / "begun.npy").write_bytes(b"")
            batches = list(batches)
            shutil.rmtree(self.path)
        super().write(columns, batches, **options)


class ReplacesWithoutBeingTold(Sound):
    rule = "test_an_existing_store_is_not_overwritten"

    def write(self, columns, batches, *, overwrite=False, **options):
        super().write(columns, batches, overwrite=True, **options)


class DeletesTheOldStoreFirst(Sound):
    rule = "test_a_failing_source_leaves_the_old_store"

    def write(self, columns, batches, *, overwrite=False, **options):
        if overwrite and self.path.exists():
            shutil.rmtree(self.path)
        super().write(columns, batches, **options)


class NeverReplaces(Sound):
    rule = "test_overwriting_replaces_everything_or_is_refused"

    def write(self, columns, batches, *, overwrite=False, **options):
        if overwrite and self.path.exists():
            raise UnsupportedStoreError("a folder is not replaced")
        super().write(columns, batches, **options)


class KeepsOldFilesOnReplacing(Sound):
    rule = "test_overwriting_replaces_everything_or_is_refused"

    def replace(self, folder):
        if self.path.exists():
            for file in self.path.iterdir():
                if not (folder / file.name).exists():
                    file.rename(folder / file.name)
        super().replace(folder)


class OverwritesOnlyWhatExists(Sound):
    rule = "test_overwrite_also_writes_where_there_is_no_store"

    def write(self, columns, batches, *, overwrite=False, **options):
        if overwrite and not self.path.exists():
            raise StoreExistsError("there is nothing to overwrite")
        super().write(columns, batches, overwrite=overwrite, **options)


class OverwritesFilesInPlace(Sound):
    """An open reader sees some of the new rows."""

    rule = "test_overwriting_leaves_an_open_reader_consistent"

    def open(self, columns):
        return self.wrapped(_Unmapped(self.path, super().open(columns)))


class _Unmapped(Wrapped):
    """Opens the files for every read."""

    def __init__(self, path, storage):
        super().__init__(storage)
        self.path = path

    def read(self, rows, columns):
        return ArrayStorage({file.stem: np.load(file) for file in self.path.glob("*.npy")}).read(rows, columns)


class TakesBatchesOfAnotherDtype(Sound):
    rule = "test_rows_that_differ_from_their_columns_are_refused"

    def write(self, columns, batches, **options):
        fitting = (
            {
                name: column if isinstance(column, Ragged) else column.astype(columns[name].numpy)
                for name, column in batch.items()
            }
            for batch in batches
        )
        super().write(columns, fitting, **options)


class RaisesTheErrorsOfTheSystem(Sound):
    rule = "test_a_folder_that_does_not_exist_is_a_write_error"

    def write(self, columns, batches, **options):
        try:
            super().write(columns, batches, **options)
        except StoreWriteError as error:
            if isinstance(error.__cause__, OSError):
                raise error.__cause__ from None
            raise


# -- writing what rows share


class WithAnotherIndex(Sound):
    """Changes the index of each batch in which columns are `Indexed`."""

    rule = "test_what_rows_share_comes_back_with_its_keys"

    def write(self, columns, batches, **options):
        counts = dict.fromkeys(columns, 0)

        def changed():
            for batch in batches:
                batch = dict(batch)
                for name, column in batch.items():
                    if isinstance(column, Indexed):
                        counts[name] += len(column.values)
                        batch[name] = Indexed(column.values, self.changed(column, counts[name]))
                yield batch

        super().write(columns, changed(), **options)

    def changed(self, column: Indexed, count: int) -> Any:
        """The index of a batch, if there are so many values up to this batch. Here it is ignored."""
        return np.arange(len(column)) % max(1, count)


class CountsTheValuesOfEachBatchAnew(WithAnotherIndex):
    rule = "test_what_rows_share_comes_back_with_its_keys"

    def changed(self, column, count):
        return (column.index + count - len(column.values)) % max(1, count)


class ForgetsTheValuesOfLaterBatches(Sound):
    rule = "test_what_rows_share_comes_back_with_its_keys"

    def write(self, columns, batches, **options):
        counts = {}

        def changed():
            for batch in batches:
                batch = dict(batch)
                for name, column in batch.items():
                    if isinstance(column, Indexed) and len(column):
                        values = column.values[:0] if name in counts else column.values
                        last = counts.setdefault(name, len(column.values)) - 1
                        batch[name] = Indexed(values, np.minimum(column.index, last))
                yield batch

        super().write(columns, changed(), **options)


class CountsValuesInOneByte(WithAnotherIndex):
    rule = "test_values_beyond_what_a_small_integer_counts_keep_their_rows"

    def changed(self, column, count):
        return column.index.astype(np.uint8).astype(np.int64)


class CountsFromTheEnd(WithAnotherIndex):
    """Takes a negative number as numpy does."""

    rule = "test_what_is_indexed_wrongly_is_refused"

    def changed(self, column, count):
        return np.where(column.index < 0, column.index + count, column.index)


class TakesTheNextValue(WithAnotherIndex):
    """Takes the last value in place of one that does not exist."""

    rule = "test_what_is_indexed_wrongly_is_refused"

    def changed(self, column, count):
        return np.minimum(column.index, count - 1)


class RoundsAnIndex(WithAnotherIndex):
    rule = "test_what_is_indexed_wrongly_is_refused"

    def changed(self, column, count):
        return column.index.astype(np.int64)


class StoresWhatRowsShareForEachRow(Sound):
    rule = "test_what_rows_share_is_stored_once"

    def write(self, columns, batches, **options):
        super().write(columns, ({name: _expanded(column) for name, column in batch.items()} for batch in batches))


def _expanded(column):
    return column.expanded if isinstance(column, Indexed) else column


class TakesRowsAmongWhatIsIndexed(Sound):
    rule = "test_what_is_indexed_wrongly_is_refused"

    def write(self, columns, batches, **options):
        batches = list(batches)
        kinds = {name: {isinstance(batch[name], Indexed) for batch in batches} for name in columns}
        mixed = [name for name, found in kinds.items() if len(found) > 1]
        for batch in batches:
            batch.update({name: _expanded(batch[name]) for name in mixed})
        super().write(columns, batches, **options)


# -- the check of a new store


class NeverChecks(Sound):
    rule = "test_the_check_runs_once_with_the_new_store"

    def check(self, folder, check):
        pass


class ChecksTwice(Sound):
    rule = "test_the_check_runs_once_with_the_new_store"

    def check(self, folder, check):
        super().check(folder, check)
        super().check(folder, check)


class ChecksAClosedStorage(Sound):
    rule = "test_the_check_runs_once_with_the_new_store"

    def check(self, folder, check):
        if check:
            storage = _Closable(self.model_copy(update={"path": folder}).open(None))
            storage.close()
            check(storage)


class ChecksAfterReplacing(Sound):
    rule = "test_the_check_runs_before_the_old_store_is_replaced"

    def check(self, folder, check):
        self._check = check

    _check: Any = PrivateAttr(None)

    def replace(self, folder):
        super().replace(folder)
        super().check(self.path, self._check)


class ChecksTheOldStore(Sound):
    rule = "test_the_check_runs_before_the_old_store_is_replaced"

    def check(self, folder, check):
        super().check(self.path if self.path.exists() else folder, check)


class ReplacesThoughTheCheckFails(Sound):
    rule = "test_a_failing_check_leaves_the_old_store"

    def check(self, folder, check):
        try:
            super().check(folder, check)
        except Exception:
            self.replace(folder)
            raise


class IgnoresAFailingCheck(Sound):
    rule = "test_a_failing_check_leaves_nothing"

    def check(self, folder, check):
        try:
            super().check(folder, check)
        except Exception:
            return


class LeavesTheStoreThatFailedTheCheck(Sound):
    rule = "test_a_failing_check_leaves_nothing"

    def check(self, folder, check):
        try:
            super().check(folder, check)
        except Exception:
            folder.rename(self.path.with_name("refused"))
            raise


# -- the backend that refuses to write


class WritesThoughItCannot(Sound):
    rule = "test_a_backend_that_cannot_write_refuses_to"
    can_write = False

    def write(self, columns, batches, **options):
        pass


BROKEN = {
    name: cls
    for name, cls in list(globals().items())
    if isinstance(cls, type) and issubclass(cls, Sound) and cls.__module__ == __name__
}
globals().update({f"Test{name}": suite_of(cls) for name, cls in BROKEN.items()})
