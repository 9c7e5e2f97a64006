"""Backends that break the contract in one way each, as subclasses of one that keeps it. Run by `test_broken_backends`.

They are made from the plugin that `kinoml-data plugins new` writes.
"""

from __future__ import annotations

import json
import math
import os
import shutil
import sys
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from pydantic import ConfigDict, PrivateAttr

import kinoml_data
from kinoml_data import Array, ArrayStorage, Ragged, Storage
from kinoml_data.errors import CorruptStoreError, StoreWriteError
from kinoml_data.testing import BackendTests

sys.path.insert(0, str(Path(kinoml_data.__file__).parent / "cli" / "plugin_template"))
from kinoml_data_npy_folder import NpyFolder

outcomes: list[tuple[str, str, str]] = []
failed: set[str] = set()


@pytest.fixture(autouse=True)
def _leave_at_the_first_failure(request):
    if request.cls.__name__ in failed:
        pytest.skip("failed already, as it should")


class Recorder:
    """Writes down what came of every test."""

    def pytest_runtest_logreport(self, report):
        name = report.nodeid.split("::")[1] if "::" in report.nodeid else ""
        if report.failed:
            failed.add(name)
        if report.failed or (report.when == "call" and report.passed):
            outcomes.append((name, report.nodeid.split("::")[-1], report.outcome))

    def pytest_sessionfinish(self):
        if place := os.environ.get("BROKEN_BACKENDS_REPORT"):
            Path(place).write_text(json.dumps(outcomes))


@pytest.fixture(scope="session", autouse=True)
def _recorder(request):
    recorder = Recorder()
    request.config.pluginmanager.register(recorder)


class Wrapped(Storage):
    """Passes everything on; what is broken overrides a part."""

    def __init__(self, held: Storage) -> None:
        self.held = held
        self.columns, self.arrays, self.spec, self.identity = held.columns, held.arrays, held.spec, held.identity

    def __len__(self):
        return len(self.held)

    def read(self, rows, columns):
        return self.held.read(rows, columns)

    def shapes(self, column):
        return self.held.shapes(column)

    def close(self):
        self.held.close()


class Sound(NpyFolder):
    """The backend that all are made from."""

    def open(self, columns):
        return self.wrapped(super().open(columns))

    def wrapped(self, held: Storage) -> Storage:
        return Wrapped(held)

    def write(self, columns, batches, *, arrays=None, spec=None, overwrite=False):
        if not overwrite or not self.path.exists():
            super().write(columns, batches, arrays=arrays, spec=spec)
            return
        beside = type(self)(path=self.path.with_name("beside"))
        beside.write(columns, batches, arrays=arrays, spec=spec)
        shutil.rmtree(self.path)
        beside.path.rename(self.path)


def over(storage: type[Wrapped]) -> type[Sound]:
    """The sound backend with another storage."""
    return type(storage.__name__, (Sound,), {"__doc__": storage.__doc__, "wrapped": lambda self, held: storage(held)})


def each(found: Mapping[str, Any], change: Any) -> dict[str, Any]:
    """`change` applied to the values of every column."""
    return {
        name: Ragged(change(column.values), column.shapes) if isinstance(column, Ragged) else change(column)
        for name, column in found.items()
    }


# -- rows


class OffByOne(Wrapped):
    def read(self, rows, columns):
        return self.held.read(np.minimum(rows + 1, len(self) - 1) if len(self) else rows, columns)


class Sorted(Wrapped):
    def read(self, rows, columns):
        return self.held.read(np.sort(rows), columns)


class Reversed(Wrapped):
    def read(self, rows, columns):
        return self.held.read(rows[::-1], columns)


class WithoutRepeats(Wrapped):
    def read(self, rows, columns):
        return self.held.read(np.array(list(dict.fromkeys(rows.tolist())), np.int64), columns)


class SortedWhereTheyRepeat(Wrapped):
    def read(self, rows, columns):
        return self.held.read(np.sort(rows) if len(set(rows.tolist())) < len(rows) else rows, columns)


class FirstRowsOnly(Wrapped):
    """A cache of one block that forgets where it begins."""

    def read(self, rows, columns):
        return self.held.read(rows % 256, columns)


class RowByRowDiffers(Wrapped):
    def read_row(self, row, columns):
        return self.held.read_row(max(row - 1, 0), columns)


class RowByRowIsFlat(Wrapped):
    def read_row(self, row, columns):
        return {name: array.reshape(-1) for name, array in self.held.read_row(row, columns).items()}


class OneRowTooMany(Wrapped):
    def __len__(self):
        return len(self.held) + 1


# -- what is returned


class AllColumns(Wrapped):
    def read(self, rows, columns):
        return self.held.read(rows, list(self.columns))


class Widened(Wrapped):
    def read(self, rows, columns):
        return each(self.held.read(rows, columns), lambda v: v.astype(np.float64) if v.dtype == np.float32 else v)


class WidenedWhereEmpty(Wrapped):
    def read(self, rows, columns):
        found = self.held.read(rows, columns)
        return found if len(rows) else each(found, lambda v: v.astype(np.float64))


class BoolAsBytes(Wrapped):
    def read(self, rows, columns):
        return each(self.held.read(rows, columns), lambda v: v.view(np.uint8) if v.dtype == bool else v)


class OtherByteOrder(Wrapped):
    def read(self, rows, columns):
        return each(self.held.read(rows, columns), lambda v: v.astype(v.dtype.newbyteorder()))


class ReadOnly(Wrapped):
    def read(self, rows, columns):
        found = self.held.read(rows, columns)
        for column in found.values():
            (column.values if isinstance(column, Ragged) else column).flags.writeable = False
        return found


class SharedMemory(Wrapped):
    """Returns what it keeps."""

    def __init__(self, held):
        super().__init__(held)
        self.kept: dict[Any, Any] = {}

    def read(self, rows, columns):
        key = (rows.tobytes(), tuple(columns))
        if key not in self.kept:
            self.kept[key] = self.held.read(rows, columns)
        return self.kept[key]


class ListsInsteadOfArrays(Wrapped):
    def read(self, rows, columns):
        found = self.held.read(rows, columns)
        return {n: list(c) if isinstance(c, np.ndarray) else c for n, c in found.items()}


class NegativeZeroLost(Wrapped):
    def read(self, rows, columns):
        return each(self.held.read(rows, columns), lambda v: v + 0 if v.dtype.kind == "f" else v)


class NanMadePlain(Wrapped):
    def read(self, rows, columns):
        def plain(v):
            return np.where(np.isnan(v), v.dtype.type(0), v) if v.dtype.kind == "f" else v

        return each(self.held.read(rows, columns), plain)


class ThroughFloat(Wrapped):
    def read(self, rows, columns):
        def through(v):
            with np.errstate(all="ignore"):
                return v.astype(np.float64).astype(v.dtype) if v.dtype.kind in "iu" else v

        return each(self.held.read(rows, columns), through)


class EmptyRowsLost(Wrapped):
    def read(self, rows, columns):
        found = dict(self.held.read(rows, columns))
        for name, column in found.items():
            if isinstance(column, Ragged):
                found[name] = Ragged(column.values, column.shapes[column.shapes.prod(axis=1) > 0])
        return found


class EmptyShapesFlattened(Wrapped):
    def read(self, rows, columns):
        found = dict(self.held.read(rows, columns))
        for name, column in found.items():
            if isinstance(column, Ragged):
                none = column.shapes.prod(axis=1) == 0
                found[name] = Ragged(column.values, np.where(none[:, None], 0, column.shapes))
        return found


class AxesSwapped(Wrapped):
    def read(self, rows, columns):
        found = dict(self.held.read(rows, columns))
        for name, column in found.items():
            if isinstance(column, Ragged):
                found[name] = Ragged(column.values, column.shapes[:, ::-1])
        return found


class StringsStripped(Wrapped):
    def read(self, rows, columns):
        found = dict(self.held.read(rows, columns))
        for name in columns:
            if self.columns[name].is_string:
                found[name] = Ragged.from_strings([text.strip("\0 ") for text in found[name].strings()])
        return found


class StringsInAscii(Wrapped):
    def read(self, rows, columns):
        found = dict(self.held.read(rows, columns))
        for name in columns:
            if self.columns[name].is_string:
                texts = [text.encode("ascii", "replace").decode() for text in found[name].strings()]
                found[name] = Ragged.from_strings(texts)
        return found


class OneBufferForAllThreads(Wrapped):
    def read(self, rows, columns):
        import time

        self.rows = rows
        time.sleep(0.0005)
        return self.held.read(self.rows, columns)


# -- what is said of it


class ShapesReversed(Wrapped):
    def shapes(self, column):
        found = self.held.shapes(column)
        return None if found is None else found[::-1]


class ShapesFlat(Wrapped):
    def shapes(self, column):
        found = self.held.shapes(column)
        return None if found is None else found.prod(axis=1)


class SaysOtherDtype(Wrapped):
    def __init__(self, held):
        super().__init__(held)
        self.columns = {
            name: Array("float64", array.shape) if array.dtype == "float32" else array
            for name, array in held.columns.items()
        }


class SaysFixed(Wrapped):
    def __init__(self, held):
        super().__init__(held)
        self.columns = {
            name: array if array.is_string else Array(array.dtype, tuple(axis or 1 for axis in array.shape))
            for name, array in held.columns.items()
        }


class ArraysLost(Wrapped):
    def __init__(self, held):
        super().__init__(held)
        self.arrays = {}


class ArraysAsFloats(Wrapped):
    def __init__(self, held):
        super().__init__(held)
        self.arrays = {name: array.astype(np.float64) for name, array in held.arrays.items()}


class SpecLost(Wrapped):
    def __init__(self, held):
        super().__init__(held)
        self.spec = None


class IdentityOfTheMoment(Wrapped):
    def __init__(self, held):
        super().__init__(held)
        self.identity = str(id(self))


# -- the backend


class ForgetsTheLastBatch(Sound):
    def write(self, columns, batches, *, arrays=None, spec=None, overwrite=False):
        super().write(columns, list(batches)[:-1], arrays=arrays, spec=spec, overwrite=overwrite)


class NeedsRows(Sound):
    def write(self, columns, batches, *, arrays=None, spec=None, overwrite=False):
        held = list(batches)
        if not sum(len(next(iter(batch.values()))) for batch in held):
            raise ValueError("no rows")
        super().write(columns, held, arrays=arrays, spec=spec, overwrite=overwrite)


class LeavesHalf(Sound):
    """Writes into place, and leaves it there when a batch fails."""

    def write(self, columns, batches, *, arrays=None, spec=None, overwrite=False):
        if not self.path.exists():
            self.path.mkdir()
            (self.path / "begun.npy").write_bytes(b"")
            held = list(batches)
            shutil.rmtree(self.path)
            super().write(columns, held, arrays=arrays, spec=spec)
        else:
            super().write(columns, batches, arrays=arrays, spec=spec, overwrite=overwrite)


class ReplacesUnasked(Sound):
    def write(self, columns, batches, *, arrays=None, spec=None, overwrite=False):
        super().write(columns, batches, arrays=arrays, spec=spec, overwrite=True)


class DeletesFirst(Sound):
    """Takes the old store away before the new one is whole."""

    def write(self, columns, batches, *, arrays=None, spec=None, overwrite=False):
        if overwrite and self.path.exists():
            shutil.rmtree(self.path)
        super().write(columns, batches, arrays=arrays, spec=spec)


class NeverReplaces(Sound):
    def write(self, columns, batches, *, arrays=None, spec=None, overwrite=False):
        NpyFolder.write(self, columns, batches, arrays=arrays, spec=spec, overwrite=overwrite)


class TakesAnyBatch(Sound):
    """Stores what does not fit what was announced."""

    def write(self, columns, batches, *, arrays=None, spec=None, overwrite=False):
        def fitted() -> Iterable[Any]:
            for batch in batches:
                yield {
                    name: column if isinstance(column, Ragged) else column.astype(columns[name].numpy)
                    for name, column in batch.items()
                }

        super().write(columns, fitted(), arrays=arrays, spec=spec, overwrite=overwrite)


class TakesAnyOption(Sound):
    model_config = ConfigDict(extra="ignore")


class CannotBePickled(Sound):
    _handle: Any = PrivateAttr(default_factory=lambda: lambda: None)


class NoStoreIsEmpty(Sound):
    def open(self, columns):
        if not self.path.exists():
            return ArrayStorage({"X": np.empty((0, 1), np.float32)})
        return super().open(columns)


class NoStoreIsDamage(Sound):
    def open(self, columns):
        if not self.path.exists():
            raise CorruptStoreError("it is not there")
        return super().open(columns)


class OneStorageForAll(Sound):
    """Opens once and hands the same storage to everybody, closed or not."""

    def open(self, columns):
        for other in OPEN:
            if other.of == self.path and other.rows == len(list(self.path.glob("*"))):
                return other
        found = Closable(super().open(columns))
        found.of, found.rows = self.path, len(list(self.path.glob("*")))
        OPEN.append(found)
        return found


OPEN: list[Any] = []


class Closable(Wrapped):
    of: Path
    rows: int
    closed = False

    def read(self, rows, columns):
        if self.closed:
            raise ValueError("closed")
        return self.held.read(rows, columns)

    def close(self):
        self.closed = True


class FillsWhatIsMissing(Sound):
    """Reads zeros where a file was cut."""

    def open(self, columns):
        arrays = {}
        for file in sorted(self.path.glob("*.npy")):
            with file.open("rb") as held:
                np.lib.format.read_magic(held)
                shape, _, dtype = np.lib.format.read_array_header_1_0(held)
                data = held.read().ljust(dtype.itemsize * math.prod(shape), b"\0")
            arrays[file.stem] = np.frombuffer(data, dtype).reshape(shape)
        return self.wrapped(ArrayStorage(arrays)) if arrays else super().open(columns)


class LetsTheSystemsErrorsThrough(Sound):
    """A folder that is not there is a FileNotFoundError."""

    def write(self, columns, batches, *, arrays=None, spec=None, overwrite=False):
        try:
            super().write(columns, batches, arrays=arrays, spec=spec, overwrite=overwrite)
        except StoreWriteError as error:
            if isinstance(error.__cause__, OSError):
                raise error.__cause__ from None
            raise


STORAGES: Sequence[type[Wrapped]] = [
    cls for cls in Wrapped.__subclasses__() if cls.__module__ == __name__ and cls is not Closable
]
BACKENDS: Sequence[type[Sound]] = [Sound, *Sound.__subclasses__(), *map(over, STORAGES)]


def suite(cls: type[Sound]) -> type[BackendTests]:
    class Suite(BackendTests):
        @pytest.fixture
        def backend(self, tmp_path):
            return cls(path=tmp_path / "data")

        @pytest.mark.parametrize("method", ["fork"])
        def test_workers_read_what_the_store_holds(self, backend, method):
            super().test_workers_read_what_the_store_holds(backend, method)

    Suite.__name__ = Suite.__qualname__ = f"Test{cls.__name__}"
    return Suite


for made in BACKENDS:
    globals()[f"Test{made.__name__}"] = suite(made)
    globals().setdefault(made.__name__, made)
