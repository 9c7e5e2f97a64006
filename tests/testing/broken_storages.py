"""Storages that break one rule each. `test_suite` runs this file and expects every test in it to fail."""

from __future__ import annotations

import os
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np

from kinoml_data import Array, Ragged
from kinoml_data.plugin import Blocks
from tests.testing.sound import Wrapped, over, suite_of

PROCESS = os.getpid()


def each(columns: Mapping[str, Any], change: Any) -> dict[str, Any]:
    """`change` applied to the values of every column."""
    return {
        name: Ragged(change(column.values), column.shapes) if isinstance(column, Ragged) else change(column)
        for name, column in columns.items()
    }


# -- rows


class OffByOne(Wrapped):
    rule = "test_rows_come_back_bit_for_bit"

    def read(self, rows, columns):
        return self.storage.read(np.minimum(rows + 1, len(self) - 1) if len(self) else rows, columns)


class Sorted(Wrapped):
    rule = "test_rows_come_in_the_requested_order_and_may_repeat"

    def read(self, rows, columns):
        return self.storage.read(np.sort(rows), columns)


class Reversed(Wrapped):
    rule = "test_rows_come_back_bit_for_bit"

    def read(self, rows, columns):
        return self.storage.read(rows[::-1], columns)


class WithoutRepeats(Wrapped):
    rule = "test_rows_come_in_the_requested_order_and_may_repeat"

    def read(self, rows, columns):
        return self.storage.read(np.array(list(dict.fromkeys(rows.tolist())), np.int64), columns)


class SortedWhereTheyRepeat(Wrapped):
    rule = "test_rows_come_in_the_requested_order_and_may_repeat"

    def read(self, rows, columns):
        return self.storage.read(np.sort(rows) if len(set(rows.tolist())) < len(rows) else rows, columns)


class FirstRowsOnly(Wrapped):
    """A cache of one block that ignores where the block starts."""

    rule = "test_rows_of_a_large_store_come_in_any_order"

    def read(self, rows, columns):
        return self.storage.read(rows % 256, columns)


class RowByRowDiffers(Wrapped):
    rule = "test_read_row_returns_the_same_as_read"

    def read_row(self, row, columns):
        return self.storage.read_row(max(row - 1, 0), columns)


class RowByRowIsFlat(Wrapped):
    rule = "test_read_row_returns_the_same_as_read"

    def read_row(self, row, columns):
        return {name: array.reshape(-1) for name, array in self.storage.read_row(row, columns).items()}


class OneRowTooMany(Wrapped):
    rule = "test_the_columns_are_those_of_the_rows"

    def __len__(self):
        return len(self.storage) + 1


class ReversesACompleteColumn(Wrapped):
    """Splits that are computed from it come out otherwise."""

    rule = "test_splits_do_not_depend_on_the_backend"

    def read(self, rows, columns):
        return self.storage.read(rows[::-1] if len(columns) == 1 and len(rows) == len(self) else rows, columns)


class LosesTheSignOfZero(Wrapped):
    rule = "test_the_fingerprint_is_that_of_the_rows"

    def read(self, rows, columns):
        return each(self.storage.read(rows, columns), lambda v: v + 0 if v.dtype.kind == "f" else v)


# -- the columns that are returned


class AllColumns(Wrapped):
    rule = "test_only_the_requested_columns_are_returned"

    def read(self, rows, columns):
        return self.storage.read(rows, list(self.columns))


class Widened(Wrapped):
    rule = "test_each_dtype_comes_back_in_every_rank"

    def read(self, rows, columns):
        return each(self.storage.read(rows, columns), lambda v: v.astype(np.float64) if v.dtype == np.float32 else v)


class WidenedWhereEmpty(Wrapped):
    rule = "test_reading_no_rows_gives_empty_columns_of_the_right_dtype"

    def read(self, rows, columns):
        read = self.storage.read(rows, columns)
        return read if len(rows) else each(read, lambda v: v.astype(np.float64))


class BoolAsBytes(Wrapped):
    rule = "test_each_dtype_comes_back_in_every_rank"

    def read(self, rows, columns):
        return each(self.storage.read(rows, columns), lambda v: v.view(np.uint8) if v.dtype == bool else v)


class OtherByteOrder(Wrapped):
    rule = "test_each_dtype_comes_back_in_every_rank"

    def read(self, rows, columns):
        return each(self.storage.read(rows, columns), lambda v: v.astype(v.dtype.newbyteorder()))


class ReadOnly(Wrapped):
    rule = "test_changing_a_batch_does_not_change_the_store"

    def read(self, rows, columns):
        read = self.storage.read(rows, columns)
        for column in read.values():
            (column.values if isinstance(column, Ragged) else column).flags.writeable = False
        return read


class SharedMemory(Wrapped):
    """Returns the arrays that it keeps."""

    rule = "test_changing_a_batch_does_not_change_the_store"

    def __init__(self, storage):
        super().__init__(storage)
        self.cache: dict[Any, Any] = {}

    def read(self, rows, columns):
        key = (rows.tobytes(), tuple(columns))
        if key not in self.cache:
            self.cache[key] = self.storage.read(rows, columns)
        return self.cache[key]


class ListsInsteadOfArrays(Wrapped):
    rule = "test_rows_come_back_bit_for_bit"

    def read(self, rows, columns):
        read = self.storage.read(rows, columns)
        return {n: list(c) if isinstance(c, np.ndarray) else c for n, c in read.items()}


class NegativeZeroLost(Wrapped):
    rule = "test_rows_come_back_bit_for_bit"

    def read(self, rows, columns):
        return each(self.storage.read(rows, columns), lambda v: v + 0 if v.dtype.kind == "f" else v)


class NanMadePlain(Wrapped):
    rule = "test_rows_come_back_bit_for_bit"

    def read(self, rows, columns):
        def plain(v):
            return np.where(np.isnan(v), v.dtype.type(0), v) if v.dtype.kind == "f" else v

        return each(self.storage.read(rows, columns), plain)


class ThroughFloat(Wrapped):
    rule = "test_rows_come_back_bit_for_bit"

    def read(self, rows, columns):
        def through(v):
            with np.errstate(all="ignore"):
                return v.astype(np.float64).astype(v.dtype) if v.dtype.kind in "iu" else v

        return each(self.storage.read(rows, columns), through)


class EmptyRowsLost(Wrapped):
    rule = "test_rows_come_back_bit_for_bit"

    def read(self, rows, columns):
        read = dict(self.storage.read(rows, columns))
        for name, column in read.items():
            if isinstance(column, Ragged):
                read[name] = Ragged(column.values, column.shapes[column.shapes.prod(axis=1) > 0])
        return read


class EmptyShapesFlattened(Wrapped):
    rule = "test_rows_come_back_bit_for_bit"

    def read(self, rows, columns):
        read = dict(self.storage.read(rows, columns))
        for name, column in read.items():
            if isinstance(column, Ragged):
                none = column.shapes.prod(axis=1) == 0
                read[name] = Ragged(column.values, np.where(none[:, None], 0, column.shapes))
        return read


class AxesSwapped(Wrapped):
    rule = "test_rows_come_back_bit_for_bit"

    def read(self, rows, columns):
        read = dict(self.storage.read(rows, columns))
        for name, column in read.items():
            if isinstance(column, Ragged):
                read[name] = Ragged(column.values, column.shapes[:, ::-1])
        return read


class StringsStripped(Wrapped):
    rule = "test_rows_come_back_bit_for_bit"

    def read(self, rows, columns):
        read = dict(self.storage.read(rows, columns))
        for name in columns:
            if self.columns[name].is_string:
                read[name] = Ragged.from_strings([text.strip("\0 ") for text in read[name].strings()])
        return read


class StringsInAscii(Wrapped):
    rule = "test_rows_come_back_bit_for_bit"

    def read(self, rows, columns):
        read = dict(self.storage.read(rows, columns))
        for name in columns:
            if self.columns[name].is_string:
                texts = [text.encode("ascii", "replace").decode() for text in read[name].strings()]
                read[name] = Ragged.from_strings(texts)
        return read


class OneBufferForAllThreads(Wrapped):
    rule = "test_eight_threads_read_the_same"

    def read(self, rows, columns):
        self.rows = rows
        time.sleep(0.0005)
        return self.storage.read(self.rows, columns)


# -- what the storage declares


class ShapesReversed(Wrapped):
    rule = "test_shapes_are_those_of_the_rows"

    def shapes(self, column):
        shapes = self.storage.shapes(column)
        return None if shapes is None else shapes[::-1]


class ShapesThatAreRead(Wrapped):
    rule = "test_a_notebook_shows_a_dataset_without_reading_rows"

    def shapes(self, column):
        return self.read(np.arange(len(self)), [column])[column].shapes


class ShapesFlat(Wrapped):
    rule = "test_shapes_are_those_of_the_rows"

    def shapes(self, column):
        shapes = self.storage.shapes(column)
        return None if shapes is None else shapes.prod(axis=1)


class ForgetsTheRowArraysItIsGiven(Wrapped):
    rule = "test_rows_are_the_same_with_the_row_arrays_of_another_process"

    def row_arrays(self):
        return {"numbers": np.arange(len(self))}


class ReversesTheRowArraysItIsGiven(Wrapped):
    rule = "test_rows_are_the_same_with_the_row_arrays_of_another_process"

    def __init__(self, storage):
        super().__init__(storage)
        self.numbers, self.read_rows = np.arange(len(storage)), np.arange(len(storage))

    def row_arrays(self):
        return {"numbers": self.numbers}

    def share_row_arrays(self, arrays):
        self.numbers, self.read_rows = arrays["numbers"], arrays["numbers"][::-1]

    def read(self, rows, columns):
        return self.storage.read(self.read_rows[rows], columns)


class DeclaresAnotherDtype(Wrapped):
    rule = "test_the_columns_are_those_of_the_rows"

    def __init__(self, storage):
        super().__init__(storage)
        self.columns = {
            name: Array("float64", array.shape) if array.dtype == "float32" else array
            for name, array in storage.columns.items()
        }


class DeclaresFixedShapes(Wrapped):
    rule = "test_the_columns_are_those_of_the_rows"

    def __init__(self, storage):
        super().__init__(storage)
        self.columns = {
            name: array if array.is_string else Array(array.dtype, tuple(axis or 1 for axis in array.shape))
            for name, array in storage.columns.items()
        }


class ArraysLost(Wrapped):
    rule = "test_split_arrays_and_the_spec_come_back"

    def __init__(self, storage):
        super().__init__(storage)
        self.arrays = {}


class ArraysAsFloats(Wrapped):
    rule = "test_split_arrays_and_the_spec_come_back"

    def __init__(self, storage):
        super().__init__(storage)
        self.arrays = {name: array.astype(np.float64) for name, array in storage.arrays.items()}


class SpecLost(Wrapped):
    rule = "test_split_arrays_and_the_spec_come_back"

    def __init__(self, storage):
        super().__init__(storage)
        self.spec = None


class BlocksWithoutTheLastRow(Wrapped):
    rule = "test_blocks_divide_the_rows"

    def __init__(self, storage):
        super().__init__(storage)
        self.blocks = Blocks(np.arange(max(len(self), 2)))


class AnEmptyBlock(Wrapped):
    rule = "test_blocks_divide_the_rows"

    def __init__(self, storage):
        super().__init__(storage)
        self.blocks = Blocks(np.array([0, 0, len(self)]))


class NoBlockIsKept(Wrapped):
    rule = "test_blocks_divide_the_rows"

    def __init__(self, storage):
        super().__init__(storage)
        self.blocks = Blocks(np.array([0, len(self)]), kept=0)


class IdentityOfTheMoment(Wrapped):
    rule = "test_the_identity_changes_only_with_the_content"

    def __init__(self, storage):
        super().__init__(storage)
        self.identity = str(id(self))


class ArraysThoughDeclaredLost(Wrapped):
    rule = "test_a_store_without_arrays_and_spec_has_none"

    def __init__(self, storage):
        super().__init__(storage)
        self.arrays = {"idx_train": np.array([0]), **storage.arrays}


# -- the keys


class NegativeKeys(Wrapped):
    rule = "test_rows_with_one_key_have_the_same_value"

    def keys(self, column):
        keys = self.storage.keys(column)
        return None if keys is None else keys.astype(np.int64) - 1


class KeysOfTooFewRows(Wrapped):
    rule = "test_rows_with_one_key_have_the_same_value"

    def keys(self, column):
        keys = self.storage.keys(column)
        return None if keys is None else keys[:-1]


class KeysAsFloats(Wrapped):
    rule = "test_rows_with_one_key_have_the_same_value"

    def keys(self, column):
        keys = self.storage.keys(column)
        return None if keys is None else keys.astype(np.float64)


class KeysOfOtherRows(Wrapped):
    rule = "test_rows_with_one_key_have_the_same_value"

    def keys(self, column):
        keys = self.storage.keys(column)
        return None if keys is None else keys[::-1]


class KeysByNumber(Wrapped):
    """Takes 0.0 and -0.0 for the same value."""

    rule = "test_rows_with_one_key_have_the_same_value"

    def keys(self, column):
        if self.columns[column] != Array("float64"):
            return self.storage.keys(column)
        values = self.storage.read(np.arange(len(self)), [column])[column]
        return np.unique(values, return_inverse=True)[1]


class KeysByBytes(Wrapped):
    """Takes rows of other shapes with the same bytes, such as none, for the same value."""

    rule = "test_rows_with_one_key_have_the_same_value"

    def keys(self, column):
        read, numbers = self.storage.read(np.arange(len(self)), [column])[column], {}
        return np.array([numbers.setdefault(row.tobytes(), len(numbers)) for row in read], np.int64)


class KeysThatChange(Wrapped):
    """Numbers the values in another order each time."""

    rule = "test_keys_are_the_same_every_time"
    calls = 0

    def keys(self, column):
        keys = self.storage.keys(column)
        self.calls += 1
        return keys if keys is None or self.calls % 2 else keys.max(initial=0) - keys


class KeysOfOneOpening(Wrapped):
    """Numbers the values in another order each time the store is opened."""

    rule = "test_keys_are_the_same_every_time"
    opened = 0

    def __init__(self, storage):
        super().__init__(storage)
        type(self).opened += 1
        self.turned = self.opened % 2

    def keys(self, column):
        keys = self.storage.keys(column)
        return keys.max(initial=0) - keys if keys is not None and self.turned else keys


class ACopyOfTheKeysForEachColumn(Wrapped):
    rule = "test_columns_that_share_values_in_the_same_way_have_one_array_of_keys"

    def keys(self, column):
        keys = self.storage.keys(column)
        return None if keys is None else keys.copy()


class KeysLostWhenLoaded(Wrapped):
    rule = "test_a_loaded_storage_returns_the_same"

    def loaded(self, columns):
        storage = Wrapped(self.storage)
        storage.keys = lambda column: None
        return storage


class OtherKeysWhenLoaded(Wrapped):
    rule = "test_a_loaded_storage_returns_the_same"

    def loaded(self, columns):
        return KeysOfOtherRows(self.storage)


class WithoutKeys(Wrapped):
    rule = "test_what_rows_share_comes_back_with_its_keys"

    def keys(self, column):
        return None


class AKeyForEachRow(Wrapped):
    rule = "test_what_rows_share_comes_back_with_its_keys"

    def keys(self, column):
        return np.arange(len(self))


# -- how it is used


class BatchesWithoutTheLast(Wrapped):
    rule = "test_batches_return_all_rows_in_order"

    def batches(self, columns=None, size=1024):
        return list(super().batches(columns, size))[:-1]


class BatchesOfAllColumns(Wrapped):
    rule = "test_batches_return_all_rows_in_order"

    def batches(self, columns=None, size=1024):
        return super().batches(None, size)


class SortsTheRowNumbersInPlace(Wrapped):
    rule = "test_reading_leaves_the_row_numbers_unchanged"

    def read(self, rows, columns):
        order = np.argsort(rows)
        rows.sort()
        read = self.storage.read(rows, columns)
        rows[:] = rows[np.argsort(order)]
        return read


class LoadsOtherRows(Wrapped):
    rule = "test_a_loaded_storage_returns_the_same"

    def loaded(self, columns):
        return OffByOne(self.storage.loaded(columns))


class LosesSplitsWhenLoaded(Wrapped):
    rule = "test_a_loaded_storage_returns_the_same"

    def loaded(self, columns):
        storage = Wrapped(self.storage)
        storage.arrays = {}
        return storage


class HasAnotherIdentityWhenLoaded(Wrapped):
    rule = "test_a_loaded_storage_returns_the_same"

    def loaded(self, columns):
        storage = Wrapped(self.storage)
        storage.identity = f"{self.identity}, loaded"
        return storage


class EntersAsAnother(Wrapped):
    rule = "test_a_storage_is_a_context_manager_that_closes_it"

    def __enter__(self):
        return self.storage


class StaysOpen(Wrapped):
    rule = "test_a_storage_is_a_context_manager_that_closes_it"

    def __exit__(self, *_):
        pass


class ClosesOnce(Wrapped):
    rule = "test_closing_twice_does_nothing"
    closed = False

    def close(self):
        if self.closed:
            raise ValueError("closed already")
        self.closed = True


class KeepsAFileOpen(Wrapped):
    rule = "test_closing_lets_go_of_files"
    files: list[Any] = []

    def __init__(self, storage):
        super().__init__(storage)
        self.files.append(Path(__file__).open())  # noqa: SIM115 - this is what is wrong with it


class WrongInAForkedProcess(Wrapped):
    rule = "test_workers_read_what_was_stored"

    def read(self, rows, columns):
        return self.storage.read(rows if os.getpid() == PROCESS else rows[::-1], columns)


BROKEN = {cls.__name__: over(cls) for cls in Wrapped.__subclasses__() if cls.__module__ == __name__}
globals().update(BROKEN)  # where pickle looks for them
globals().update({f"Test{name}": suite_of(cls) for name, cls in BROKEN.items()})
