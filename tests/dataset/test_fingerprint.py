"""The fingerprint of a dataset: the same from every backend, and another one after any change."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest

import kinoml_data as kd
from kinoml_data.cli.main import main
from kinoml_data.errors import StoreChangedError

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
