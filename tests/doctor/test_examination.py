"""Every backend, with and without rows and roles, can be examined; nothing is left behind."""

from __future__ import annotations

import tempfile
from functools import partial
from pathlib import Path

import numpy as np
import pytest

import kinoml_data as kd
from kinoml_data import registry
from kinoml_data.doctor import time_findings
from kinoml_data.doctor.advice import Origin
from kinoml_data.doctor.examination import examine
from kinoml_data.errors import CorruptStoreError
from kinoml_data.factory import open_to_copy
from kinoml_data.testing.examples import Example
from kinoml_data.testing.suite import EACH_EXAMPLE
from tests import slow_features
from tests.backends.npz.files import flip, written
from tests.doctor.work import examined, ragged


@pytest.fixture(autouse=True)
def temporary(folder: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder for temporary files. Workers are left out, as they take time."""
    monkeypatch.setattr(time_findings, "SECONDS_PER_BATCH", 1e9)
    (folder / "tmp").mkdir()
    monkeypatch.setattr(tempfile, "tempdir", str(folder / "tmp"))
    return folder / "tmp"


@pytest.mark.parametrize("suffix", [".npz", ".parquet"])
@EACH_EXAMPLE
def test_every_kind_of_column_can_be_examined_with_and_without_roles(
    example: Example, suffix: str, folder: Path, temporary: Path
) -> None:
    """The conformance suite examines a store of every other backend."""
    cls = kd.list_backends()[registry.backend_for(suffix) or ""]
    example = example.only([n for n, array in example.columns.items() if array.dtype not in cls.unsupported_dtypes])
    stored = cls.model_validate({"path": folder / f"x{suffix}"})
    splits = {name: rows for name, rows in example.arrays.items() if name.startswith("idx_")}
    stored.write(example.columns, example.batches(indexed=cls.keeps_keys), arrays=splits)
    spec = {"storage": stored.model_dump(mode="json", exclude_defaults=True)}
    for roles in ({}, {"X": example.numeric, "meta": example.strings} if example.numeric else {}):
        found = examine(partial(open_to_copy, spec | roles), Origin("x"), seconds=0.0)
        assert found.rows == len(example) and found.on_disk > 0
        assert found.rows > 0 or found.advice == ()
    assert not list(temporary.iterdir())


def test_sources_tables_and_features_can_be_examined(small_batches: None, folder: Path) -> None:
    texts = [f"C{row}" for row in range(30)]
    assert examined_spec(slow_features.table(folder, texts)) == 30
    assert examined_spec({"storage": {"backend": "csv", "path": "t.csv"}, "X": "y"}) == 30
    assert examined_spec({"storage": {"backend": "csv", "path": "t.csv"}}) == 30
    in_memory = {"backend": "in-memory", "source": {"backend": "csv", "path": "t.csv"}}
    assert examined_spec({"storage": in_memory, "X": "y"}) == 30
    data = {"id": [f"r{row}" for row in range(30)], "size": np.arange(30.0)}
    kd.save_dataset(
        kd.load_dataset({"storage": {"backend": "in-memory"}, "X": "size", "meta": ["id"]}, data=data), "s.npz"
    )
    tables = {"id": {"source": {"backend": "npz-lazy", "path": "s.npz"}, "columns": {"size": "size"}, "key": "id"}}
    joined = {"backend": "joined", "source": {"backend": "csv", "path": "t.csv"}, "tables": tables}
    assert examined_spec({"storage": joined, "X": "size", "y": "y"}) == 30


def examined_spec(spec: dict[str, object]) -> int:
    return examine(lambda: open_to_copy(spec), Origin("x"), seconds=0.1, batch_size=8).rows


# The small budget is what the test is about.
@pytest.mark.filterwarnings("ignore:.*takes more than half of its memory_budget:UserWarning")
def test_rows_that_are_decoded_in_blocks_are_examined_block_by_block() -> None:
    rows = 3000
    np.savez("x.npz", X=np.random.default_rng(0).random((rows, 300)), y=np.arange(rows))
    kd.convert("x.npz", "x.parquet")
    spec = {"storage": {"backend": "parquet-awkward", "path": "x.parquet", "memory_budget": 10_000_000}}
    found = examine(lambda: open_to_copy(spec, loads=True), Origin("x"), seconds=0.1)
    assert found.rows == rows and 3 <= found.sample <= rows


def test_nothing_is_worth_changing_in_a_flat_file() -> None:
    data = {"X": ragged(0, 300, 20, 22), "y": np.arange(300.0)}
    kd.save_dataset(kd.from_arrays(data["X"], data["y"]), "x.npz")
    found = examined("x.npz")
    assert found.advice == () and found.batch_nbytes == pytest.approx(128 * (20 * 20.5 * 8 + 8), rel=0.02)


def test_a_damaged_store_is_an_error_and_leaves_nothing_behind(folder: Path, temporary: Path) -> None:
    written(folder / "x.npz")
    flip(folder / "x.npz", "atoms.values", 5)
    with pytest.raises(CorruptStoreError, match="atoms"):
        examined("x.npz")
    assert not list(temporary.iterdir())


def test_the_advice_with_the_largest_gain_comes_first() -> None:
    rows = 1500
    X = (np.random.default_rng(0).random((rows, 512)) < 0.3) * 1.0
    X[::2] = X[0]
    np.savez("x.npz", X=X, y=np.arange(rows))
    gains = [advice.gain for advice in examined("x.npz").advice]
    assert len(gains) >= 3 and gains == sorted(gains, reverse=True)
