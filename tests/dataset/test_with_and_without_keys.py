"""A dataset gives the same tensors with and without keys, in every way of reading."""

from __future__ import annotations

import math
import pickle
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any, cast

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from torch.utils.data import ConcatDataset, DataLoader, Subset

import kinoml_data as kd
from kinoml_data import Array, Backend
from kinoml_data.backends.in_memory import InMemory
from kinoml_data.backends.npz.backend import NpzLazy, NpzReopen
from kinoml_data.errors import SpecError
from kinoml_data.testing import Example
from tests.builders import FORK_OR_SPAWN, FORMS
from tests.keyed import Keyed, facts, memory_is_its_own, without_index

LENGTHS = (3, 0, 1, 3)


def numbers(dtype: str, *shapes: tuple[int, ...]) -> list[Any]:
    """Rows of small whole numbers, which every dtype represents exactly; no two rows are equal."""
    return [(np.arange(math.prod(shape)) + 10 * i).astype(dtype).reshape(shape) for i, shape in enumerate(shapes)]


def packed(order: Any, *shapes: tuple[int, ...]) -> list[Any]:
    """Rows of 11 packed bits; no two rows are equal."""
    rows = [[[n >> bit & 1 for bit in range(11)] for n in row.reshape(-1)] for row in numbers("int64", *shapes)]
    return [
        np.packbits(np.array(row, bool).reshape(*shape, 11), axis=-1, bitorder=order)
        for row, shape in zip(rows, shapes, strict=True)
    ]


# By stored column, what is stored, and its four distinct rows.
STORED: dict[str, tuple[Array, list[Any]]] = {
    "cast": (Array("float64", (None, 2)), numbers("float64", *((n, 2) for n in LENGTHS))),
    "ragged": (Array("float32", (None,)), numbers("float32", *((n,) for n in LENGTHS))),
    "square": (Array("int16", (None, None)), numbers("int16", (1, 2), (2, 1), (0, 0), (2, 3))),
    "fixed": (Array("float32", (3,)), numbers("float32", *[(3,)] * 4)),
    "bits": (Array("uint8", (2,)), packed("big", *[()] * 4)),
    "rows-of-bits": (Array("uint8", (None, 2)), packed("little", *((n,) for n in LENGTHS))),
    "relation": (Array("str"), ["=", "<", ">", "~"]),
    "f0": (Array("int32"), numbers("int32", *[()] * 4)),
    "f1": (Array("float64"), numbers("float64", *[()] * 4)),
    "f2": (Array("float32"), numbers("float32", *[()] * 4)),
    "limited": (Array("float64"), numbers("float64", *[()] * 4)),
    "matrix": (Array("int32", (2, 3)), numbers("int32", *[(2, 3)] * 4)),
    "alike": (Array("float32", (None,)), numbers("float32", *[(2,)] * 4)),
    "text": (Array("str"), ["", "a", "\N{GREEK SMALL LETTER ALPHA}", "a\0"]),
}
COLUMNS: dict[str, dict[str, Any]] = {
    "cast": {"dtype": "float32", "shape": ["*", 2]},
    "ragged": {"dtype": "float32", "shape": ["*"]},
    "square": {"dtype": "int64", "shape": ["*", "*"]},
    "fixed": {"dtype": "float32", "shape": [3]},
    "bits": {"dtype": "bool", "shape": [11], "packbits": True},
    "rows-of-bits": {"dtype": "float32", "shape": ["*", 11], "packbits": "little"},
    "relation": {"dtype": "int8", "values": ["~", "=", "<", ">"]},
    "stacked": {"dtype": "float32", "shape": [3], "stored_as": ["f0", "f1", "f2"]},
    "limited": {"dtype": "float32", "range": [0, 100]},
    "matrix": {"dtype": "int64", "shape": ["*", 3]},
    "alike": {"dtype": "float64", "shape": [2]},
    "text": {"dtype": "str"},
    "y": {"dtype": "float32"},
}
X = [name for name in COLUMNS if name not in ("text", "y")]
RAGGED = [name for name in X if "*" in COLUMNS[name].get("shape", ())]


def stored(orders: dict[str, list[int]]) -> Example:
    """The columns of `STORED`, each with its four values in an order, and y, which is the number of the row."""
    rows = {name: [values[i] for i in orders[name]] for name, (_, values) in STORED.items()}
    count = len(next(iter(orders.values())))
    arrays = {name: array for name, (array, _) in STORED.items()} | {"y": Array("float64")}
    return Example("keyed", arrays, {**rows, "y": [np.array(float(i)) for i in range(count)]})


def dataset(source: Backend, keys: str, dtype: str = "int64", count: int = 0) -> kd.XyDataset:
    splits = {"train": {"rows": list(range(count))[::-2]}, "rest": {"rows": list(range(count))[-2::-2]}}
    spec = {"columns": COLUMNS, "X": X, "y": "y", "meta": ["text"], "splits": splits, "storage": {"backend": "keyed"}}
    return kd.load_dataset(spec, backend=Keyed(source=source, keys=keys, dtype=dtype))


@st.composite
def forms(draw: st.DrawFn) -> dict[str, Any]:
    """A form for each column, one of the built-in ones or `unique` of it."""
    collate: dict[str, Any] = {}
    for name in X:
        form = draw(st.sampled_from([f for f in FORMS if f != "nested" or name != "square"]))
        value = {"value": 1} if form in ("pad", "pad-mask") else {}
        if draw(st.booleans()):
            collate[name] = {"form": "unique", "of": form, **value} if name in RAGGED else "unique"
        elif name in RAGGED:
            collate[name] = {"form": form, **value}
    return collate


def ways(ds: kd.XyDataset, collate: dict[str, Any], rows: list[int]) -> Iterator[tuple[str, Any]]:
    """The content of a dataset in every way of reading, with labels; `rows` are positions, which may repeat."""
    yield "facts", (len(ds), ds.rows, ds.indices, ds.estimate_input_size() if len(ds) else None)
    yield from ((f"sample {row}", ds[row]) for row in range(-len(ds), len(ds)))
    yield "list", ds[rows]
    yield "array", ds[np.array(rows, np.int64)]
    yield "slice", ds[::-2]
    yield "mask", ds[np.arange(len(ds)) % 3 > 0]
    yield "loader", list(ds.as_dataloader(batch_size=4, collate=collate))
    shuffled = ds.as_dataloader(batch_size=3, collate=collate, shuffle=True, seed=1, prefetch=2)
    yield "shuffled, with prefetch", [list(shuffled) for _ in range(2)]
    yield "by length", list(ds.as_dataloader(batch_size=3, collate=collate, group_by_length="square", seed=2))
    yield "without batches", list(ds.as_dataloader(batch_size=None, collate=collate))
    yield "plain loader", list(DataLoader(ds, batch_size=3))
    yield "plain loader without batches", list(DataLoader(ds, batch_size=None))
    yield "subset", list(DataLoader(Subset(ds, rows), batch_size=4))
    yield "concatenated", list(DataLoader(ConcatDataset([ds, ds.select(rows)]), batch_size=4)) if rows else None
    yield from ((f"column {name}", ds.column(name)) for name in COLUMNS)
    yield "table", {name: series.to_numpy() for name, series in ds.to_pandas().items()}
    yield "as stored", ds.read_stored(np.array(rows, np.int64), list(COLUMNS))


def same(one: kd.XyDataset, other: kd.XyDataset, collate: dict[str, Any], rows: list[int], exact: bool) -> None:
    """Compare two datasets; with `exact`, also how the form `unique` divides a batch into values and index."""
    for (way, a), (_, b) in zip(ways(one, collate, rows), ways(other, collate, rows), strict=True):
        if exact:
            assert facts(a) == facts(b), way
        assert facts(without_index(a)) == facts(without_index(b)), way
        assert memory_is_its_own(a), way


ORDERS = st.integers(0, 9).flatmap(
    lambda count: st.tuples(*[st.lists(st.integers(0, 3), min_size=count, max_size=count)] * 2)
)


@given(
    orders=ORDERS,
    second=st.lists(st.sampled_from(sorted(STORED)), unique=True),
    keys=st.sampled_from(["content", "finer"]),
    dtype=st.sampled_from(["uint8", "int16", "int64", "uint64"]),
    collate=forms(),
    data=st.data(),
)
def test_any_dataset_is_the_same_with_and_without_keys(
    orders: tuple[list[int], list[int]], second: list[str], keys: str, dtype: str, collate: dict[str, Any], data: Any
) -> None:
    example = stored({name: orders[name in second] for name in STORED})
    count = len(orders[0])
    given = {name: list(rows) for name, rows in example.rows.items()}
    source = InMemory().with_objects(data=given)
    plain, keyed = dataset(source, "none", count=count), dataset(source, keys, dtype, count)
    rows = data.draw(st.lists(st.integers(0, count - 1), max_size=6) if count else st.just([]), label="rows")
    same(keyed, plain, collate, rows, keys == "content")
    view = data.draw(st.sampled_from(["split", "selection", "split of a selection", "pickled"]))
    pair = [_viewed(ds, view, rows) for ds in (keyed, plain)]
    positions = st.lists(st.integers(0, len(pair[0]) - 1), max_size=6) if len(pair[0]) else st.just([])
    same(pair[0], pair[1], collate, data.draw(positions, label="positions"), keys == "content")


def _viewed(ds: kd.XyDataset, view: str, rows: list[int]) -> kd.XyDataset:
    if view == "pickled":
        again: kd.XyDataset = pickle.loads(pickle.dumps(ds))
        return again
    return (
        ds.split("train") if view == "split" else (ds := ds.select(rows)) if view == "selection" else ds.split("rest")
    )


ORDER = [2, 0, 2, 1, 0, 2, 1, 3, 3, 3, 0]
EACH_FORM = {
    name: {"form": form, **({"value": 1} if form in ("pad", "pad-mask") else {})}
    for name, form in zip(
        ("cast", "ragged", "square", "rows-of-bits", "matrix"),
        ("nested", "list", "packed", "pad", "pad-mask"),
        strict=True,
    )
}
EACH_UNIQUE = {name: {**form, "form": "unique", "of": form["form"]} for name, form in EACH_FORM.items()}


def in_file(source: Any, *, indexed: bool = False) -> Backend:
    """Write the columns, in two orders; with `indexed`, each of their values once, with keys."""
    example = stored({name: ORDER if i % 2 else ORDER[::-1] for i, name in enumerate(STORED)})
    example = replace(example, shared=tuple(STORED))
    source.write(example.columns, example.batches(3, indexed=indexed))
    return cast(Backend, source)


@FORK_OR_SPAWN
@pytest.mark.parametrize("collate", [EACH_FORM, EACH_UNIQUE | {"fixed": "unique", "bits": "unique"}])
def test_workers_give_the_same_with_and_without_keys(tmp_path: Path, method: str, collate: dict[str, Any]) -> None:
    source = in_file(NpzLazy(path=tmp_path / "rows.npz"))
    plain, keyed = dataset(source, "none"), dataset(source, "content")
    options: dict[str, Any] = {"num_workers": 2, "multiprocessing_context": method}
    for view in (keyed, keyed.select([10, 2, 2, 0, 7])):
        expected = plain.select(view.rows)
        for size in (4, None):
            a = list(view.as_dataloader(batch_size=size, collate=collate, shuffle=True, seed=3, **options))
            b = list(expected.as_dataloader(batch_size=size, collate=collate, shuffle=True, seed=3))
            assert facts(a) == facts(b) and memory_is_its_own(a)
            assert facts(list(DataLoader(view, batch_size=size, **options))) == facts(
                list(DataLoader(expected, batch_size=size))
            )


@pytest.mark.parametrize("name", ["cast", "limited", "relation", "f1"])
def test_an_error_names_the_same_row_with_and_without_keys(name: str) -> None:
    example = stored(dict.fromkeys(STORED, ORDER))
    wrong = {"cast": np.full((1, 2), 1e39), "limited": np.array(101.0), "relation": "?", "f1": np.array(-1e300)}
    rows = [wrong[name] if number == 3 else row for number, row in zip(ORDER, example.rows[name], strict=True)]
    source = InMemory().with_objects(data={**example.rows, name: rows})
    messages = []
    for keys in ("none", "content", "finer"):
        with pytest.raises(SpecError, match="row 9") as raised:
            dataset(source, keys)[[0, 9, 1, 7, 8]]
        messages.append(str(raised.value))
    assert len(set(messages)) == 1


KEPT: dict[str, Callable[[Path], Backend]] = {
    "npz-lazy": lambda folder: in_file(NpzLazy(path=folder / "keys.npz"), indexed=True),
    "npz-lazy, compressed": lambda folder: in_file(NpzLazy(path=folder / "keys.npz", compress=True), indexed=True),
    "npz-reopen": lambda folder: NpzReopen(path=in_file(NpzLazy(path=folder / "keys.npz"), indexed=True).path),
    "in-memory": lambda folder: InMemory(source=KEPT["npz-lazy"](folder)),
    "in-memory over keys by content": lambda folder: InMemory(
        source=Keyed(source=in_file(NpzLazy(path=folder / "a.npz")))
    ),
    "on a device": lambda folder: InMemory(source=KEPT["npz-lazy"](folder), device="cpu"),
}


@pytest.mark.parametrize("collate", [EACH_FORM, EACH_UNIQUE | {"fixed": "unique", "bits": "unique"}])
@pytest.mark.parametrize("name", KEPT)
def test_keys_that_a_backend_keeps_change_nothing(tmp_path: Path, name: str, collate: dict[str, Any]) -> None:
    plain = dataset(in_file(NpzLazy(path=tmp_path / "rows.npz")), "none")
    kept = kd.load_dataset(plain.spec, backend=KEPT[name](tmp_path))
    assert any(kept._session.binding.keys(column) is not None for column in COLUMNS)
    rows = [3, 3, 0, 10, 7, 2, 3]
    same(kept, plain, collate, rows, True)
    same(kept.select(rows), plain.select(rows), collate, [5, 1, 1], True)
    same(pickle.loads(pickle.dumps(kept)), plain, collate, rows, True)


@pytest.mark.parametrize("name", KEPT)
def test_samples_that_need_no_change_are_the_same_with_keys(tmp_path: Path, name: str) -> None:
    """A storage may have a shorter way to them."""
    spec = {"X": ["ragged", "fixed"], "y": "y", "meta": [], "storage": {"backend": "keyed"}}
    plain = kd.load_dataset(spec, backend=in_file(NpzLazy(path=tmp_path / "rows.npz")))
    kept = kd.load_dataset(spec, backend=KEPT[name](tmp_path))
    for row in range(len(ORDER)):
        assert facts(kept[row]) == facts(plain[row])
