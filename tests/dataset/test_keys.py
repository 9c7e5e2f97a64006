"""Columns whose rows share values: each value is read once per batch, and batches are those of a store without keys."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from pydantic import PrivateAttr

import kinoml_data as kd
from kinoml_data.columns import Column, Indexed, Ragged
from kinoml_data.contracts.backend import Backend, Storage
from kinoml_data.dataset.forms import Unique, formed
from kinoml_data.errors import SpecError, StoreReadError
from kinoml_data.spec.array import Array
from kinoml_data.spec.parts import CollateForm

KEYS = np.array([2, 0, 2, 1, 0, 2, 1, 3], np.uint8)
GRAPHS = [np.arange(2.0 * n, dtype=np.float32).reshape(n, 2) for n in (3, 1, 2, 0)]
LIST, PAD, MASK, PACKED, NESTED = ({"graph": form} for form in ("list", "pad", "pad-mask", "packed", "nested"))


class Shared(Backend):
    """Four graphs and four fingerprints, which eight rows share."""

    name = "shared"
    _keys: Any = PrivateAttr(default=None)
    _reads: list[int] = PrivateAttr(default_factory=list)

    def open(self, columns: Mapping[str, Array | None] | None) -> Storage:
        return SharedStorage(self._keys, self._reads)


class SharedStorage(Storage):
    def __init__(self, keys: Any, reads: list[int]) -> None:
        self._keys, self.reads = keys, reads
        self.columns = {"graph": Array("float32", (None, 2)), "bits": Array("uint8", (1,)), "y": Array("float64")}

    def __len__(self) -> int:
        return len(KEYS)

    def keys(self, column: str) -> NDArray[Any] | None:
        return self._keys if column != "y" else None

    def read(self, rows: NDArray[np.int64], columns: Sequence[str]) -> dict[str, Column]:
        if "graph" in columns:
            self.reads.append(len(rows))
        columns_of = {
            "graph": lambda: Ragged.from_rows([GRAPHS[key] for key in KEYS[rows]], np.float32, 2),
            "bits": lambda: KEYS[rows][:, None] * np.uint8(17),
            "y": lambda: rows.astype(np.float64),
        }
        return {name: columns_of[name]() for name in columns}


def load(keys: Any = KEYS, **changes: Any) -> kd.XyDataset:
    backend = Shared()
    backend._keys = keys
    bits = {"dtype": "bool", "shape": [8], "packbits": True}
    spec = {"columns": {"graph": {"dtype": "float64", "shape": [None, 2]}, "bits": bits, "y": {"dtype": "float32"}}}
    spec |= {"X": ["graph", "bits"], "y": "y", "storage": {"backend": "shared"}} | changes
    return kd.load_dataset(spec, backend=backend)


def equal(one: Any, other: Any) -> bool:
    if isinstance(one, torch.Tensor):
        if one.is_nested:
            return all(map(torch.equal, one.unbind(), other.unbind()))
        return torch.equal(one, other) and one.dtype == other.dtype
    if isinstance(one, Mapping):
        return one.keys() == other.keys() and all(equal(one[name], other[name]) for name in one)
    return type(one) is type(other) and len(one) == len(other) and all(map(equal, one, other))


@pytest.mark.parametrize("collate", [LIST, PAD, MASK, PACKED, NESTED])
@pytest.mark.parametrize("rows", [[0], [0, 2, 5], [7, 1, 1, 3, 0, 2], [], [3, 1, 0]])
def test_every_form_gives_the_same_batch_as_without_keys(collate: Any, rows: list[int]) -> None:
    shared, plain = load(collate=collate), load(None, collate=collate)
    assert equal(shared[rows], plain[rows])
    assert all(equal(shared[row], plain[row]) for row in rows)


def test_a_value_that_rows_share_is_read_once_per_batch() -> None:
    dataset = load(collate=PACKED)
    reads = dataset._session.binding.storage.reads  # type: ignore[attr-defined]  # of SharedStorage
    dataset[[0, 2, 5, 1, 4]]
    assert reads == [2]


@pytest.mark.parametrize("of", ["list", "pad", "pad-mask", "packed", "nested"])
@pytest.mark.parametrize("keys", [KEYS, None])
def test_unique_gives_the_distinct_rows_in_the_form_that_is_named(of: str, keys: Any) -> None:
    (X, _), rows = load(keys, collate={"graph": {"form": "unique", "of": of}})[[0, 1, 2, 7, 4]], [0, 1, 7]
    values, index = X["graph"]
    assert isinstance(X["graph"], Unique) and index.tolist() == [0, 1, 0, 2, 1]
    assert equal(values, load(None, collate={"graph": of})[rows][0]["graph"])


def test_unique_of_a_fixed_column_gives_a_tensor_of_its_distinct_rows() -> None:
    X, _ = load(collate={"bits": "unique"})[[0, 1, 2, 4]]
    assert X["bits"].values.shape == (2, 8) and X["bits"].index.tolist() == [0, 1, 0, 1]
    assert torch.equal(X["bits"].values[X["bits"].index], load(None)[[0, 1, 2, 4]][0]["bits"])


@pytest.mark.parametrize("workers", [0, 1])
def test_unique_is_the_same_through_workers_and_a_plain_loader(workers: int) -> None:
    data = {"graph": [GRAPHS[key] for key in KEYS], "n": KEYS}
    dataset = kd.from_arrays(data)
    batches = list(
        dataset.as_dataloader(
            batch_size=8, num_workers=workers, collate={"graph": {"form": "unique", "of": "packed"}, "n": "unique"}
        )
    )
    X, _ = batches[0]
    assert X["graph"].index.tolist() == X["n"].index.tolist() == [0, 1, 0, 2, 1, 0, 2, 3]
    assert X["n"].values.tolist() == [2, 0, 1, 3]
    assert X["graph"].values.shapes.tolist() == [
        [2, 2],
        [3, 2],
        [1, 2],
        [0, 2],
    ]


def test_unique_of_samples_that_were_read_one_by_one() -> None:
    dataset = load(collate={"graph": {"form": "unique", "of": "packed"}})
    together, one_by_one = dataset[[0, 1, 2]], dataset.collate_fn([dataset[0], dataset[1], dataset[2]])
    assert equal(together, one_by_one)


def test_whole_columns_and_tables() -> None:
    shared, plain = load(), load(None)
    assert equal(shared.column("graph"), plain.column("graph")) and equal(shared.column("bits"), plain.column("bits"))
    for name, column in shared.to_pandas().items():
        assert all(map(np.array_equal, column, plain.to_pandas()[name]))


@pytest.mark.parametrize(
    "keys", [KEYS[:-1], KEYS.astype(np.float32), KEYS.astype(np.int64) - 1, np.zeros((8, 1), np.int64)]
)
def test_keys_that_cannot_be_those_of_the_rows_are_refused(keys: Any) -> None:
    with pytest.raises(StoreReadError, match="the keys of column 'graph'"):
        load(keys)[[0, 1]]


@pytest.mark.parametrize(
    ("collate", "message"),
    [
        ({"graph": {"form": "pad", "of": "pad"}}, "only the form unique takes `of`"),
        ({"graph": {"form": "unique", "of": "unique"}}, "cannot be unique"),
        ({"graph": {"form": "unique", "of": "padded"}}, "pad"),
        ({"graph": {"form": "unique", "of": "packed", "value": 1}}, "does not take a value"),
    ],
)
def test_forms_that_cannot_be_combined(collate: Any, message: str) -> None:
    with pytest.raises(SpecError, match=message):
        load(collate=collate)


def test_one_name_for_all_columns_leaves_fixed_ones_stacked() -> None:
    X, y = load(collate="unique")[[0, 2]]
    assert isinstance(X["graph"], Unique) and X["bits"].shape == (2, 8) and y.shape == (2,)


@pytest.mark.parametrize("form", ["pad", "pad-mask"])
@pytest.mark.parametrize("shape", [(None,), (None, 3), (2, None), (9, None), (None, None), (2, None, 3)], ids=str)
@pytest.mark.parametrize("index", [[0, 1, 0, 2, 2, 1, 0], [0], []], ids=str)
def test_rows_that_share_values_are_padded_as_if_each_had_its_own(form: str, shape: Any, index: list[int]) -> None:
    array = Array("float32", shape)
    lengths = [[2 + i if axis is None else axis for axis in shape] for i in (0, 3, 1)]
    rows = [np.random.default_rng(i).random(each, np.float32) for i, each in enumerate(lengths)]
    distinct = Ragged.from_rows(rows[: len(set(index))], np.float32, len(shape))
    indexed = Indexed(distinct, np.array(index, np.int64))
    padded = CollateForm(form=form, value=-1)
    found, expected = formed(padded, indexed, array), formed(padded, indexed.expanded, array)
    assert equal(found, expected)
