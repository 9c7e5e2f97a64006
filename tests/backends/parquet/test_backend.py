"""`ParquetAwkward`: what a file is replaced by, and when."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from kinoml_data.backends.parquet.backend import ParquetAwkward
from kinoml_data.columns import Columns, Ragged
from kinoml_data.contracts.backend import Storage
from kinoml_data.errors import CorruptStoreError, StoreExistsError
from kinoml_data.layouts import arrow_rows
from kinoml_data.layouts.memory_storage import MemoryStorage
from kinoml_data.spec.array import Array
from tests.backends.parquet.tables import read_all, write


def test_the_same_content_gives_the_same_file_and_other_content_another_identity(tmp_path: Path) -> None:
    backends = [ParquetAwkward(path=tmp_path / f"{i}.parquet") for i in range(3)]
    values = np.random.default_rng(0).integers(0, 256, (100, 64), "u1")
    changed = values.copy()
    changed[50, 30] ^= 1
    for backend, data in zip(backends, (values, values, changed), strict=True):
        backend.write({"x": Array("uint8", (64,))}, [{"x": data}])
    assert backends[0].path.read_bytes() == backends[1].path.read_bytes()
    first, second, third = (backend.open(None).identity for backend in backends)
    assert first == second != third


def test_an_existing_file_is_replaced_only_if_told_to(path: Path) -> None:
    columns = {"x": Array("int64")}
    write(path, columns, [{"x": np.arange(3)}])
    old = path.read_bytes()
    with pytest.raises(StoreExistsError, match="overwrite=True"):
        write(path, columns, [{"x": np.arange(4)}])
    assert path.read_bytes() == old
    write(path, columns, [{"x": np.arange(4)}], overwrite=True)
    assert read_all(path)["x"].tolist() == [0, 1, 2, 3]
    assert list(path.parent.iterdir()) == [path]


@pytest.mark.parametrize("error", [RuntimeError, KeyboardInterrupt])
def test_batches_that_fail_leave_the_old_file_and_nothing_else(path: Path, error: type[BaseException]) -> None:
    columns = {"x": Array("int64")}
    write(path, columns, [{"x": np.arange(3)}])
    old = path.read_bytes()

    def batches() -> Iterator[Columns]:
        yield {"x": np.arange(5)}
        raise error("in the middle")

    with pytest.raises(error, match="in the middle"):
        ParquetAwkward(path=path).write(columns, batches(), overwrite=True)
    assert path.read_bytes() == old
    assert list(path.parent.iterdir()) == [path]


def test_the_new_file_is_checked_before_it_replaces_the_old_one(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(arrow_rows, "TABLE_BYTES", 1000)
    columns = {"x": Array("int64"), "id": Array("str")}
    data = {"x": np.arange(500), "id": Ragged.from_strings(map(str, range(500)))}
    seen: list[Any] = []

    def check(storage: Storage) -> None:
        assert not isinstance(storage, MemoryStorage), "a file larger than memory could not be checked"
        assert not path.exists()
        seen.append((storage.spec, storage.arrays["a"].tolist()))
        seen.extend(batch["x"] for batch in storage.batches(size=64))

    write(path, columns, [data], arrays={"a": np.arange(3)}, spec="{}", check=check)

    assert seen[0] == ("{}", [0, 1, 2])
    assert np.concatenate(seen[1:]).tolist() == list(range(500))
    assert list(path.parent.iterdir()) == [path]


def test_a_failed_check_leaves_the_old_file_and_nothing_else(path: Path) -> None:
    def refuse(storage: Storage) -> None:
        raise CorruptStoreError("the copy differs")

    columns = {"x": Array("int64")}
    with pytest.raises(CorruptStoreError, match="the copy differs"):
        write(path, columns, [{"x": np.arange(3)}], check=refuse)
    assert not list(path.parent.iterdir())
    write(path, columns, [{"x": np.arange(3)}])
    with pytest.raises(CorruptStoreError, match="the copy differs"):
        write(path, columns, [{"x": np.arange(4)}], overwrite=True, check=refuse)
    assert read_all(path)["x"].tolist() == [0, 1, 2]
    assert list(path.parent.iterdir()) == [path]
