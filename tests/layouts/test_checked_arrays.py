"""Flat arrays with checksums, over the plainest container there is: a folder of .npy files."""

from __future__ import annotations

import json
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from kinoml_data import Array, Backend, DataPath, Ragged
from kinoml_data.errors import (
    CorruptStoreError,
    StoreChangedError,
    StoreNotFoundError,
    UnsupportedStoreError,
)
from kinoml_data.files import replacing
from kinoml_data.layouts.checked_arrays import CheckedArrayStorage, check_names, own_arrays, write_rows
from kinoml_data.testing import BackendTests, mixed, same_rows
from tests.builders import FORK_OR_SPAWN, keyed_batches

EXAMPLE = mixed()


class Npy:
    """A container that is read; and an array that grows in memory until it is saved."""

    def __init__(self, folder: Path, key: str = "", dtype: Any = None, shape: tuple[int, ...] = ()) -> None:
        self.file, self.folder = folder / f"{key}.npy", folder
        self.parts = [np.empty((0, *shape), dtype)]

    def array(self, key: str) -> Any:
        return np.load(self.folder / f"{key}.npy", mmap_mode="r")

    def whole(self, key: str) -> Any:
        return np.load(self.folder / f"{key}.npy")

    def append(self, rows: Any) -> None:
        self.parts.append(rows)

    def finish(self) -> None:
        np.save(self.file, np.concatenate(self.parts))


class Folder(Backend):
    """See the module."""

    name = "checked-folder"
    can_write = True
    keeps_keys = True
    can_overwrite = False
    path: DataPath
    verify: str = "first"

    def open(self, columns: Any) -> CheckedArrayStorage:
        if not self.path.is_dir():
            raise StoreNotFoundError(f"there is no folder {self.path}")
        about = json.loads((self.path / "about.json").read_text())
        arrays, checks = own_arrays(about, Npy(self.path), columns, str(self.path))
        return CheckedArrayStorage(arrays, checks, str(self.path), verify=self.verify)

    def write(self, columns, batches, *, arrays=None, spec=None, overwrite=False, check=None):
        check_names("folder", columns, arrays or {}, lambda name: name == "about")
        if overwrite:
            raise UnsupportedStoreError("a folder is not replaced")
        with replacing(self.path, overwrite=False) as folder:
            folder.mkdir()

            def create(key: str, dtype: Any, shape: tuple[int, ...]) -> Npy:
                return Npy(folder, key, dtype, shape)

            about = write_rows(columns, batches, arrays=arrays or {}, spec=spec, create=create)
            (folder / "about.json").write_text(json.dumps(about))
            if check is not None:
                with Folder(path=folder).open(columns) as storage:
                    check(storage)


class TestCheckedFolder(BackendTests):
    def make_backend(self, folder):
        return Folder(path=folder / "data")

    @FORK_OR_SPAWN
    def test_workers_read_what_was_stored(self, shared, method):
        super().test_workers_read_what_was_stored(shared, method)


def read_all(storage: CheckedArrayStorage) -> None:
    for _ in storage.batches():
        pass


@pytest.fixture
def stored(tmp_path: Path) -> Folder:
    backend = Folder(path=tmp_path / "data")
    backend.write(EXAMPLE.columns, EXAMPLE.batches(), arrays=EXAMPLE.arrays, spec=EXAMPLE.spec)
    return backend


KEYS = np.array([0, 1, 1, 2, 0, 3])
TEXTS = Ragged.from_strings(["CCO", "", "c1ccccc1", "N"])
KEYED = {"X": np.arange(12.0).reshape(4, 3)[KEYS], "name": TEXTS.take(KEYS), "y": np.arange(6)}


@pytest.fixture
def keyed(tmp_path: Path) -> Folder:
    """Rows of which some share values."""
    backend = Folder(path=tmp_path / "keyed")
    columns = {"X": Array("float64", (3,)), "name": Array("str"), "y": Array("int64")}
    backend.write(columns, keyed_batches(KEYED, ["X", "name"]))
    return backend


def same_keyed(backend: Folder) -> None:
    """Read all rows, and compare them with those that were written."""
    with closing(backend.open(None)) as storage:
        read = storage.read(np.arange(len(KEYS)), ["X", "name", "y"])
        assert read["X"].tolist() == KEYED["X"].tolist() and read["y"].tolist() == KEYED["y"].tolist()
        assert read["name"].strings() == KEYED["name"].strings()
        assert storage.keys("X") is storage.keys("name") and storage.keys("X").tolist() == KEYS.tolist()


def flipped(file: Path, start: int) -> Iterator[None]:
    """Flip each bit of a file from an offset on, one at a time."""
    content = file.read_bytes()
    for bit in range(8 * start, 8 * len(content)):
        damaged = bytearray(content)
        damaged[bit // 8] ^= 1 << bit % 8
        file.write_bytes(damaged)
        yield
    file.write_bytes(content)


def test_every_flipped_bit_of_keys_is_an_error(keyed):
    same_keyed(keyed)
    assert np.load(keyed.path / "X.keys.npy").dtype == np.uint8 and len(np.load(keyed.path / "X.npy")) == 4
    for file in keyed.path.glob("*.keys.npy"):
        for _ in flipped(file, file.stat().st_size - len(KEYS)):
            with pytest.raises(CorruptStoreError, match="differs from what was written"):
                keyed.open(None)
    same_keyed(keyed)


def test_no_flipped_bit_of_the_metadata_gives_rows_other_values(keyed):
    errors = 0
    for _ in flipped(keyed.path / "about.json", 0):
        try:
            same_keyed(keyed)
        except AssertionError:
            raise
        except Exception:  # whatever damaged JSON raises: see `own_arrays`
            errors += 1
    assert errors > 1000  # the shapes in the metadata are for other programs only


def test_damage_of_a_shared_row_names_the_distinct_row_as_often_as_it_is_read(keyed):
    values = np.load(keyed.path / "X.npy")
    values[1, 2] += 1
    np.save(keyed.path / "X.npy", values)
    for verify in ("first", "always"):
        with closing(keyed.model_copy(update={"verify": verify}).open(None)) as storage:
            assert storage.read(np.array([0, 3, 0, 4]), ["X"])["X"].tolist() == KEYED["X"][[0, 3, 0, 4]].tolist()
            for rows in ([1], [2, 0], [2, 1]):
                with pytest.raises(CorruptStoreError, match="column 'X', distinct row 1: its CRC-32"):
                    storage.read(np.array(rows), ["X"])


def test_every_flipped_byte_of_an_array_is_an_error(stored, request):
    step = 3 if request.config.getoption("--all") else 10
    for file in stored.path.glob("*.npy"):
        content = file.read_bytes()
        header = len(content) - np.load(file).nbytes
        for at in range(header, len(content), step):
            file.write_bytes(content[:at] + bytes([content[at] ^ 16]) + content[at + 1 :])
            with pytest.raises(CorruptStoreError, match=r"CRC-32|differs from what was written"):
                read_all(stored.open(None))
        file.write_bytes(content)
    with closing(stored.open(EXAMPLE.columns)) as storage:
        same_rows(storage, EXAMPLE, range(len(EXAMPLE)))
        assert storage.has_checksums


def damage(stored: Folder) -> int:
    """Flip a byte in the last row of one column, in place; returns the row."""
    name = next(name for name, a in EXAMPLE.columns.items() if a.ragged and np.asarray(EXAMPLE.rows[name][-1]).size)
    with (stored.path / f"{name}.values.npy").open("r+b") as file:
        file.seek(-1, 2)
        byte = file.read(1)[0]
        file.seek(-1, 2)
        file.write(bytes([byte ^ 1]))
    return len(EXAMPLE) - 1


@pytest.mark.parametrize("verify", ["first", "always", "never"])
def test_checksums_are_compared_as_asked(stored, verify):
    storage, late = (stored.model_copy(update={"verify": verify}).open(None) for _ in range(2))
    read_all(storage)
    names, row = list(EXAMPLE.columns), damage(stored)
    late.read(np.arange(row), names)
    for opened, compared in ((storage, verify == "always"), (late, verify != "never")):
        for rows in ([row], [0, row, row]):
            if compared:
                with pytest.raises(CorruptStoreError, match=f"row {row}: its CRC-32 is 0x"):
                    opened.read(np.array(rows), names)
            else:
                opened.read(np.array(rows), names)


def test_a_change_is_told_from_damage(stored, monkeypatch):
    row = damage(stored)

    def changed(self):
        raise StoreChangedError("changed")

    monkeypatch.setattr(CheckedArrayStorage, "notice_change", changed)
    with pytest.raises(StoreChangedError):
        stored.open(None).read(np.array([row]), list(EXAMPLE.columns))


def test_a_later_layout_is_refused(stored):
    about = json.loads((stored.path / "about.json").read_text())
    (stored.path / "about.json").write_text(json.dumps(about | {"format": 2}))
    with pytest.raises(UnsupportedStoreError, match="has version 2 of the layout"):
        stored.open(None)


@pytest.mark.parametrize("name", ["_spec", "a.values", "a.crc32", "about"])
def test_names_with_a_meaning_are_refused(name):
    with pytest.raises(UnsupportedStoreError, match=name):
        check_names("folder", {name: 1}, {}, lambda name: name == "about")


def test_arrays_that_do_not_fit_together_name_the_store():
    with pytest.raises(CorruptStoreError, match=r"^here: the columns differ"):
        CheckedArrayStorage({"a": np.ones(2), "b": np.ones(3)}, None, "here")
