"""Every advice that makes something smaller gives, if it is followed as printed, at least half of what it promised."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

import kinoml_data as kd
from tests.builders import tensors_of
from tests.doctor.work import examined, follow, only, ragged

ROWS = 400


def bits(rows: int, dtype: str = "float64") -> Any:
    return (np.random.default_rng(0).random((rows, 512)) < 0.3).astype(dtype)


def batch_bytes(loader: Any) -> float:
    """The mean number of bytes of the tensors of a row in all batches."""
    return sum(tensor.nbytes for batch in loader for tensor in tensors_of(batch))


@pytest.mark.parametrize("dtype", ["float64", "float32", "int64", "bool", "uint8"])
def test_zeros_and_ones_become_bits(dtype: str) -> None:
    rows = 8 * ROWS if dtype in ("bool", "uint8") else ROWS * 2
    np.savez("x.npz", X=bits(rows, dtype), y=np.arange(rows) * 1.5, idx_train=np.arange(9))
    found = examined("x.npz")
    advice = only(found, "bytes on disk")
    assert (
        found.on_disk == Path("x.npz").stat().st_size
        and f"X contains only 0 and 1, but is stored as {dtype}" in advice.problem
    )
    follow(advice.change)
    assert found.on_disk / Path("x-smaller.npz").stat().st_size >= max(advice.gain / 2, 2)
    with kd.load_dataset("x.npz") as before, kd.load_dataset("x-smaller.npz") as after:
        assert before.fingerprint() == after.fingerprint() and after.spec.columns["X"].packbits


def test_zeros_and_ones_of_different_lengths_become_bytes() -> None:
    data = {"X": [(row < 0.5).astype("float32") for row in ragged(1, ROWS, 30, 200)], "y": np.arange(ROWS) * 1.5}
    roles = {"X": "X", "y": "y", "storage": {"backend": "in-memory"}}
    kd.save_dataset(kd.load_dataset(roles, data=data), "x.npz")
    advice = only(examined("x.npz"), "bytes on disk")
    assert "as_bytes" in advice.change
    follow(advice.change)
    assert Path("x.npz").stat().st_size / Path("x-smaller.npz").stat().st_size >= max(advice.gain / 2, 2)
    with kd.load_dataset("x.npz") as before, kd.load_dataset("x-smaller.npz") as after:
        assert before.fingerprint() == after.fingerprint()
        assert after.stored_columns()["X"] == kd.Array("uint8", (20, None))


def test_a_value_that_the_sample_does_not_contain_is_not_lost(monkeypatch: pytest.MonkeyPatch) -> None:
    X = bits(ROWS * 2)
    np.savez("x.npz", X=X, y=np.arange(ROWS * 2.0))
    change = only(examined("x.npz"), "bytes on disk").change
    X[5, 7] = 0.5
    np.savez("x.npz", X=X, y=np.arange(ROWS * 2.0))
    with pytest.raises(kd.errors.FeaturizationError, match=r"row 5.*neither 0 nor 1"):
        follow(change)
    assert not Path("x-smaller.npz").exists()


@pytest.mark.parametrize("stored", [{"stored_as": "raw"}, {"stored_as": "raw", "shape": [512]}])
def test_a_column_with_another_name_in_the_store_is_rewritten_under_it(stored: dict[str, Any]) -> None:
    np.savez("x.npz", raw=bits(ROWS), y=np.arange(ROWS * 1.0), text=["a"] * ROWS)
    spec = {
        "columns": {"bits": {"dtype": "float32", "shape": [512]} | stored, "y": {}, "text": {"dtype": "str"}},
        "X": "bits",
        "y": "y",
        "meta": ["text"],
        "storage": {"backend": "npz-lazy", "path": "x.npz"},
        "splits": {"ratios": {"train": 0.5, "test": 0.5}},
    }
    kd.DatasetSpec.parse(spec).to_file("x.yaml")
    advice = only(examined("x.yaml"), "bytes on disk")
    follow(advice.change)
    with kd.load_dataset("x.yaml") as before, kd.load_dataset("x-smaller.npz") as after:
        assert before.fingerprint() == after.fingerprint()
    assert Path("x.npz").stat().st_size / Path("x-smaller.npz").stat().st_size >= advice.gain / 2


@pytest.mark.parametrize(
    "columns",
    [
        {"bits": {"stored_as": "a", "shape": [512]}, "same": {"stored_as": "a", "shape": [512], "dtype": "float64"}},
        {"bits": {"stored_as": ["b", "c"]}},
    ],
    ids=["one stored column for two", "two stored columns for one"],
)
def test_stored_columns_that_are_not_one_column_of_the_spec_are_left_alone(columns: dict[str, Any]) -> None:
    np.savez("x.npz", a=bits(ROWS), b=np.ones(ROWS), c=np.zeros(ROWS), y=np.arange(ROWS * 1.0))
    spec = {
        "columns": columns | {"y": {}},
        "X": list(columns),
        "y": "y",
        "storage": {"backend": "npz-lazy", "path": "x.npz"},
    }
    kd.DatasetSpec.parse(spec).to_file("x.yaml")
    assert not [advice for advice in examined("x.yaml").advice if advice.of == "bytes on disk"]


def test_zeros_and_ones_as_float64_in_a_batch_become_float32() -> None:
    np.savez("x.npz", X=bits(ROWS), y=np.arange(ROWS))
    advice = only(examined("x.npz"), "bytes of a batch")
    before = batch_bytes(kd.load_dataset("x.npz").as_dataloader(batch_size=128))
    after = follow(advice.change)["dataset"]
    assert before / batch_bytes(after.as_dataloader(batch_size=128)) == pytest.approx(advice.gain, rel=1e-3)


def test_rows_that_repeat_are_stored_once() -> None:
    rows = ROWS * 4
    values = np.random.default_rng(0).random((40, 256))
    ids = [f"{'protein ' * 20}{row % 7}" for row in range(rows)]
    data = {"X": values[np.arange(rows) % 40], "y": np.arange(rows * 1.0), "id": ids}
    spec = {"X": "X", "y": "y", "meta": ["id"], "storage": {"backend": "in-memory"}}
    kd.save_dataset(kd.load_dataset(spec, data=data), "x.npz")
    advice = only(examined("x.npz"), "bytes on disk")
    assert advice.change == "kinoml-data convert x.npz x-shared.npz --share X --share id"
    assert "column X has 40 distinct values in" in advice.problem
    follow(advice.change)
    assert Path("x.npz").stat().st_size / Path("x-shared.npz").stat().st_size >= max(advice.gain / 2, 2)
    assert not [each for each in examined("x-shared.npz").advice if each.of == "bytes on disk"]


@pytest.mark.parametrize("form", ["pad", "pad-mask"])
def test_padding_is_avoided_by_batches_of_similar_length_or_by_another_form(form: str) -> None:
    rows = ragged(0, ROWS, 1, 60) + ragged(1, ROWS, 200, 400)
    data = {"X": rows, "other": ragged(2, len(rows), 1, 3), "y": np.arange(len(rows))}
    spec = {
        "X": ["X", "other"],
        "y": "y",
        "storage": {"backend": "in-memory"},
        "collate": {"X": form, "other": "packed"},
    }
    kd.save_dataset(kd.load_dataset(spec, data=data), "x.npz")
    found = examined("x.npz", batch_size=32)
    advice = {"packed" in each.change: each for each in found.advice if each.of == "bytes of a batch"}
    assert len(advice) == 2 and "is padding" in advice[False].problem
    before = batch_bytes(kd.load_dataset("x.npz").as_dataloader(batch_size=32, shuffle=True, seed=0))
    torch.manual_seed(0)
    grouped, packed = follow(advice[False].change)["loader"], follow(advice[True].change)["dataset"]
    assert before / batch_bytes(grouped) >= max(advice[False].gain / 2, 1.2)
    assert before / batch_bytes(packed.as_dataloader(batch_size=32)) >= max(advice[True].gain / 2, 1.2)
    assert packed.collate_fn._forms["other"].form == "packed"
