"""The fingerprint of a dataset: the same from every backend, and another one after any change."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

import kinoml_data as kd
from kinoml_data.cli.main import main
from kinoml_data.errors import StoreChangedError
from kinoml_data.testing.example import content_of
from kinoml_data.testing.examples import NUMERIC, Example
from kinoml_data.testing.machine import examples
from tests.builders import values_of

COLUMNS = {"a": {"dtype": "float64"}, "b": {"dtype": "int64"}, "id": {"dtype": "str"}}
SPEC = {
    "X": ["a", "b"],
    "meta": ["id"],
    "splits": {"ratios": {"train": 0.5, "test": 0.5}, "seed": 3},
    "columns": COLUMNS,
}


def table(rows: int = 30) -> dict[str, Any]:
    random = np.random.default_rng(0)
    return {"a": random.random(rows), "b": random.integers(0, 99, rows), "id": [f"id{row}" for row in range(rows)]}


def dataset(data: dict[str, Any] | None = None, **changes: Any) -> kd.XyDataset:
    return kd.load_dataset(
        SPEC | {"storage": {"backend": "in-memory"}} | changes, data=table() if data is None else data
    )


def test_every_backend_gives_the_same_fingerprint(tmp_path: Path) -> None:
    found = {dataset().fingerprint()}
    for suffix in (".npz", ".parquet"):
        kd.save_dataset(dataset(), tmp_path / f"t{suffix}")
        found.add(kd.load_dataset(tmp_path / f"t{suffix}").fingerprint())
    dataset().to_pandas().to_csv(tmp_path / "t.csv", index=False)
    found.add(kd.load_dataset(SPEC | {"storage": {"backend": "csv", "path": str(tmp_path / "t.csv")}}).fingerprint())
    assert len(found) == 1


def test_ragged_rows_that_happen_to_have_one_shape(tmp_path: Path) -> None:
    rows = [np.ones((2, 3), np.float32), np.zeros((2, 3), np.float32)]
    columns = {"X": {"dtype": "float32", "shape": [None, 3]}}
    spec = {"X": "X", "storage": {"backend": "in-memory"}}
    ragged, fixed = (kd.load_dataset(spec | more, data={"X": rows}) for more in ({"columns": columns}, {}))
    assert ragged.spec.columns["X"].ragged and not fixed.spec.columns["X"].ragged
    assert ragged.fingerprint() == fixed.fingerprint()


@pytest.mark.parametrize("row", [0, 13, 29])
@pytest.mark.parametrize("column", ["a", "b", "id"])
def test_one_value_changes_it(row: int, column: str) -> None:
    data = table()
    data[column][row] = {"a": np.nextafter(data["a"][row], 2), "b": data["b"][row] + 1, "id": "Id0"}[column]
    assert dataset(data).fingerprint() != dataset().fingerprint()


def bit_flipped(data: st.DataObject, example: Example) -> Example:
    """One bit of one value differs, which may be one of a NaN, or one text does."""
    name, row = data.draw(st.sampled_from(list(example.columns))), data.draw(st.integers(0, len(example) - 1))
    value = example.rows[name][row]
    if isinstance(value, str):
        value = data.draw(st.text(max_size=6))
    elif value.size:
        value = value.copy()
        place, bit = data.draw(st.integers(0, value.nbytes - 1)), data.draw(st.integers(0, 7))
        value.reshape(-1).view(np.uint8)[place] ^= 1 << (0 if value.dtype == bool else bit)
    changed = [value if number == row else old for number, old in enumerate(example.rows[name])]
    return replace(example, rows={**example.rows, name: changed})


def transposed(data: st.DataObject, example: Example) -> Example:
    """The rows of ragged columns with two axes or more have other shapes and the same bytes."""
    names = [name for name, array in example.columns.items() if array.ragged and array.shape[:2] == (None, None)]
    shapes = {name: [(*r.shape[1::-1], *r.shape[2:]) for r in example.rows[name]] for name in names}
    changed = {n: [r.reshape(s) for r, s in zip(example.rows[n], shapes[n], strict=True)] for n in names}
    return replace(example, rows={**example.rows, **changed})


def in_another_dtype(data: st.DataObject, example: Example) -> Example:
    """The bytes of a column are read as another dtype."""
    name = data.draw(st.sampled_from(example.numeric))
    array, rows = example.columns[name], example.rows[name]
    same_size = [dtype for dtype in NUMERIC if np.dtype(dtype).itemsize == array.numpy.itemsize and dtype != "bool"]
    dtype = data.draw(st.sampled_from(same_size))
    columns = {**example.columns, name: array.model_copy(update={"dtype": dtype})}
    return replace(example, columns=columns, rows={**example.rows, name: [row.view(dtype) for row in rows]})


def reordered(data: st.DataObject, example: Example) -> Example:
    """Some of the rows, in any order."""
    rows = data.draw(st.lists(st.integers(0, len(example) - 1), min_size=len(example) - 1, max_size=len(example) + 1))
    return example if not rows else replace(example, rows={n: example.taken(rows, n) for n in example.columns})


def renamed(data: st.DataObject, example: Example) -> Example:
    """Two columns swap their names."""
    names = data.draw(st.permutations(list(example.columns)))
    pairs = list(zip(example.columns, names, strict=True))
    return replace(
        example, columns={b: example.columns[a] for a, b in pairs}, rows={b: example.rows[a] for a, b in pairs}
    )


def labelled_anew(data: st.DataObject, example: Example) -> Example:
    """The rows are in other splits."""
    labels = st.lists(st.sampled_from(["train", "test", None]), min_size=len(example), max_size=len(example))
    found = data.draw(labels)
    splits = {name: {"rows": [row for row, label in enumerate(found) if label == name]} for name in ("train", "test")}
    return replace(example, splits=splits)


CHANGES = (bit_flipped, transposed, in_another_dtype, reordered, renamed, labelled_anew)


@pytest.mark.parametrize("change", CHANGES, ids=lambda change: change.__name__)
@given(example=examples().filter(len), data=st.data())
def test_datasets_have_one_fingerprint_if_and_only_if_they_are_equal(change: Any, example: Example, data: Any) -> None:
    one = labelled_anew(data, example)
    other = change(data, one)
    if len(other) != len(one):
        one, other = replace(one, splits={}), replace(other, splits={})
    assert (fingerprint_of(one) == fingerprint_of(other)) == (content(one) == content(other))


def fingerprint_of(example: Example) -> str:
    spec = {"columns": dict(example.columns), "X": example.numeric, "meta": example.strings, "splits": example.splits}
    return kd.load_dataset(spec | {"storage": {"backend": "in-memory"}}, data=values_of(example)).fingerprint()


def content(example: Example) -> Any:
    dtypes = {name: array.dtype for name, array in example.columns.items()}
    return dtypes, {name: list(map(content_of, example.rows[name])) for name in dtypes}, example.splits


@pytest.mark.parametrize(
    "changes",
    [
        {"splits": {"ratios": {"train": 0.5, "test": 0.5}, "seed": 4}},
        {"splits": {"ratios": {"train": 0.5, "val": 0.5}, "seed": 3}},
        {"columns": COLUMNS | {"b": {"dtype": "int32"}}},
        {
            "columns": {"a": COLUMNS["a"], "c": {"dtype": "int64", "stored_as": "b"}, "id": COLUMNS["id"]},
            "X": ["a", "c"],
        },
    ],
)
def test_splits_names_and_dtypes_change_it(changes: Any) -> None:
    assert dataset(**changes).fingerprint() != dataset().fingerprint()


def test_texts_are_not_joined_before_they_are_digested() -> None:
    one, other = table(2) | {"id": ["ab", "c"]}, table(2) | {"id": ["a", "bc"]}
    assert dataset(one).fingerprint() != dataset(other).fingerprint()


@pytest.mark.parametrize(
    ("suffix", "text"),
    [
        (".yaml", "# mine\nX: X\nstorage: {backend: npz-lazy, path: t.npz}  # here\n"),
        (".toml", 'X = "X"\n[storage]\nbackend = "npz-lazy"\npath = "t.npz"\n'),
        (".json", '{"X": "X", "storage": {"backend": "npz-lazy", "path": "t.npz"}}'),
    ],
)
def test_a_locked_spec_refuses_other_data(
    tmp_path: Path, suffix: str, text: str, capsys: pytest.CaptureFixture[str]
) -> None:
    path = tmp_path / f"spec{suffix}"
    path.write_text(text)
    kd.save_dataset(kd.from_arrays(np.arange(3.0)), tmp_path / "t.npz")
    for change in ("was not set", "unchanged"):
        with pytest.raises(SystemExit) as end:
            main(["lock", str(path)])
        assert end.value.code == 0 and change in capsys.readouterr().out
    assert kd.load_dataset(path).spec.fingerprint == kd.load_dataset(tmp_path / "t.npz").fingerprint()
    assert suffix != ".yaml" or path.read_text().startswith(text)
    kd.save_dataset(kd.from_arrays(np.array([0.0, 1.0, 3.0])), tmp_path / "t.npz", overwrite=True)
    for use in (kd.load_dataset, lambda path: kd.convert(path, tmp_path / "copy.npz")):
        with pytest.raises(StoreChangedError, match="fingerprint"):
            use(path)
    assert not (tmp_path / "copy.npz").exists()
