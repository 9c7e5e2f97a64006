"""Every file that KinoML writes comes back bit for bit, read by any backend and after any conversion."""

from __future__ import annotations

import io
import pickle
import zipfile
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from itertools import product
from pathlib import Path
from typing import Any

import awkward as ak
import numpy as np
import pytest
import torch

from kinoml_data import XyDataset, convert, infer_spec, load_dataset
from kinoml_data.errors import SampleIndexError, SplitError
from tests.builders import random_bits, same_tensor

ROWS = 9


@dataclass
class Source:
    """What went into a file: by sample the arrays of X, and y."""

    X: list[list[np.ndarray]]
    y: np.ndarray
    splits: dict[str, np.ndarray] = field(default_factory=dict)

    @property
    def names(self) -> list[str]:
        return ["X"] if len(self.X[0]) == 1 else [f"X{i}" for i in range(len(self.X[0]))]


def one_hot(rows: int = ROWS) -> list[list[np.ndarray]]:
    return [[random_bits((5, 1 + (7 * i) % 11), "float32", i)] for i in range(rows)]


def graphs(rows: int = ROWS) -> list[list[np.ndarray]]:
    return [
        [random_bits((2, (5 * i) % 7), "int64", i), random_bits((1 + i % 4, 3), "float32", 99 + i)] for i in range(rows)
    ]


def fingerprints(rows: int = ROWS) -> list[list[np.ndarray]]:
    return [[random_bits((16,), "uint8", i)] for i in range(rows)]


Members = dict[str, np.ndarray]
LAYOUTS: dict[str, tuple[Callable[[], list[list[np.ndarray]]], Callable[[list[list[np.ndarray]]], Members]]] = {
    "X": (fingerprints, lambda X: {"X": np.stack([row[0] for row in X])}),
    "X_s{i}_": (one_hot, lambda X: {f"X_s{i}_": row[0] for i, row in enumerate(X)}),
    "X_s{i}": (one_hot, lambda X: {f"X_s{i}": row[0] for i, row in enumerate(X)}),
    "X_s{i}_ of one shape": (fingerprints, lambda X: {f"X_s{i}_": row[0] for i, row in enumerate(X)}),
    "X_s{i}_a0_": (one_hot, lambda X: {f"X_s{i}_a0_": row[0] for i, row in enumerate(X)}),
    "X_s{i}_a{j}_": (graphs, lambda X: {f"X_s{i}_a{j}_": a for i, row in enumerate(X) for j, a in enumerate(row)}),
    "X_s{i}_a{j}": (graphs, lambda X: {f"X_s{i}_a{j}": a for i, row in enumerate(X) for j, a in enumerate(row)}),
}
SAVE: dict[str, Callable[..., None]] = {"savez": np.savez, "savez_compressed": np.savez_compressed}


def written(path: Path, layout: str, save: str, indices: bool) -> Source:
    make, members = LAYOUTS[layout]
    X = make()
    splits = {"train": [8, 0, 2, 4], "test": [1, 3], "val": [5]} if indices else {}
    source = Source(X, random_bits((ROWS,), "float64", 7), {name: np.array(rows) for name, rows in splits.items()})
    SAVE[save](path, **members(X), y=source.y, **{f"idx_{name}": rows for name, rows in source.splits.items()})
    return source


def same_X(found: Any, expected: list[np.ndarray]) -> None:
    if len(expected) == 1:
        same_tensor(found, expected[0])
    else:
        assert list(found) == [f"X{i}" for i in range(len(expected))]
        for tensor, array in zip(found.values(), expected, strict=True):
            same_tensor(tensor, array)


def same_dataset(ds: XyDataset, source: Source) -> None:
    """Rows one by one, together and through the splits."""
    assert len(ds) == len(source.X)
    for row in range(len(ds)):
        X, y = ds[row]
        same_X(X, source.X[row])
        same_tensor(y, source.y[row])
    order = [len(ds) - 1, 0, 3, 3, 1]
    X, y = ds[order]
    same_tensor(y, source.y[order])
    for i, row in enumerate(order):
        same_X(X[i] if len(source.names) == 1 else {name: X[name][i] for name in source.names}, source.X[row])
    assert ds.indices.keys() == source.splits.keys()
    for name, rows in source.splits.items():
        same_tensor(torch.from_numpy(ds.indices[name]), rows)
        part = ds.split(name)
        assert part.rows.tolist() == rows.tolist()
        same_tensor(part[:][1], source.y[rows])


def readings(path: Path, *backends: str) -> Iterator[XyDataset]:
    """The file by each backend, preloaded, and as two copies."""
    spec = infer_spec(path)
    *X, y = spec.columns
    # The fields of KinoML's Parquet files have numbers as names, which do not say their roles.
    roles: dict[str, Any] = {} if spec.X is not None else {"X": X[0] if len(X) == 1 else X, "y": y}
    for backend in (*backends, "in-memory"):
        with load_dataset(path, **roles, backend=backend) as ds:
            assert ds.spec.storage.backend == backend
            yield ds
    for suffix in (".copy.npz", ".copy.parquet"):
        copy = path.with_suffix(suffix)
        convert(path, copy)
        with load_dataset(copy, **roles) as ds:
            yield ds
        with load_dataset(copy, **roles, backend="in-memory") as ds:
            yield ds


def _files() -> Iterator[Any]:
    """Every layout, compressed or not, with and without splits; in the quick run each layout comes once."""
    for number, layout in enumerate(LAYOUTS):
        for save, indices in product(SAVE, [True, False]):
            quick = (save == "savez") == indices == (number % 2 == 0)
            name = f"{layout}-{save}-{'with' if indices else 'without'}-idx"
            yield pytest.param(layout, save, indices, marks=[] if quick else [pytest.mark.slow], id=name)


@pytest.mark.parametrize(("layout", "save", "indices"), [*_files()])
def test_an_npz_of_kinoml_comes_back_bit_for_bit(tmp_path, layout, save, indices):
    path = tmp_path / "kinoml.npz"
    source = written(path, layout, save, indices)
    for ds in readings(path, "npz-lazy", "npz-reopen"):
        same_dataset(ds, source)


# -- Parquet


def awkward(rows: list[np.ndarray]) -> ak.Array:
    """Rows of one rank and dtype as nested lists, the dtype kept."""
    array = ak.Array(np.concatenate([row.reshape(-1) for row in rows]))
    for axis in reversed(range(1, rows[0].ndim)):
        array = ak.unflatten(array, [row.shape[axis] for row in rows for _ in range(int(np.prod(row.shape[:axis])))])
    return ak.unflatten(array, [row.shape[0] for row in rows])


def random_integers(shape: tuple[int, ...], dtype: str, seed: int) -> np.ndarray:
    return np.asarray(np.random.default_rng(seed).integers(-100, 100, shape), dtype)


PARQUET: dict[str, list[list[np.ndarray]]] = {
    "rank 1": [[random_bits((1 + 3 * i % 7,), "float32", i)] for i in range(ROWS)],
    "rank 2": one_hot(),
    "rank 3": [[random_bits((1 + i % 3, 2, 1 + i % 4), "float64", i)] for i in range(ROWS)],
    "several": [
        [
            random_bits((1 + i % 3,), "uint8", i),
            random_bits((2, 1 + i % 4), "int64", 50 + i),
            random_bits((2, 3, 1 + i % 2), "float32", 99 + i),
        ]
        for i in range(ROWS)
    ],
    "empty rows": [[random_bits((i % 3,), "float32", i), random_bits((i % 2, 4), "int32", i)] for i in range(ROWS)],
}


@pytest.mark.parametrize("X", PARQUET.values(), ids=PARQUET.keys())
def test_a_parquet_file_of_kinoml_comes_back_bit_for_bit(tmp_path, X):
    path = tmp_path / "kinoml.parquet"
    source = Source(X, random_bits((ROWS,), "float64", 7))
    columns = [awkward([row[i] for row in X]) for i in range(len(X[0]))]
    ak.to_parquet(ak.zip([*columns, ak.Array(source.y)], depth_limit=1), path)
    for ds in readings(path, "parquet-awkward"):
        assert ds.spec.y == str(len(columns))
        same_dataset(renamed(ds, source), source)


def test_a_parquet_file_of_equal_rows_comes_back_bit_for_bit(tmp_path):
    path = tmp_path / "kinoml.parquet"
    X = random_bits((ROWS, 3, 4), "float32", 1)
    source = Source([[row] for row in X], random_bits((ROWS,), "float32", 7))
    ak.to_parquet(ak.zip([ak.from_numpy(X, regulararray=True), ak.Array(source.y)], depth_limit=1), path)
    for ds in readings(path, "parquet-awkward"):
        assert ds.shape_X == (ROWS, 3, 4)
        same_dataset(ds, source)


def test_a_parquet_file_of_python_lists_comes_back_bit_for_bit(tmp_path):
    # Lists of Python numbers become int64 and float64, whatever they once were.
    path = tmp_path / "kinoml.parquet"
    X = [[random_integers((2, 1 + i), "int64", i), random_integers((1 + i % 2, 3), "float64", i)] for i in range(ROWS)]
    source = Source(X, random_integers((ROWS,), "float64", 7))
    columns = [ak.Array([row[i].tolist() for row in X]) for i in range(2)]
    ak.to_parquet(ak.zip([*columns, ak.Array(source.y.tolist())], depth_limit=1), path)
    for ds in readings(path, "parquet-awkward"):
        same_dataset(renamed(ds, source), source)


def renamed(ds: XyDataset, source: Source) -> XyDataset:
    """The same dataset with its columns "0", "1", ... called as in an NPZ."""
    if len(source.names) == 1:
        return ds
    said = ds.spec.to_mapping()
    columns = {}
    for old, new in [*((str(i), name) for i, name in enumerate(source.names)), (ds.spec.y, "y")]:
        columns[new] = {"stored_as": old} | said["columns"][old]
    spec = said | {"columns": columns, "X": source.names, "y": "y"}
    return load_dataset(spec, base=ds.spec.base)


# -- how numpy may write the same content


class Pipe(io.RawIOBase):
    """A stream that can only be written to, like a pipe."""

    def __init__(self) -> None:
        self.data = bytearray()

    def writable(self) -> bool:
        return True

    def write(self, data: Any) -> int:
        self.data += data
        return len(data)


@pytest.mark.parametrize("save", SAVE)
def test_a_file_streamed_into_a_pipe_comes_back(tmp_path, save):
    X = graphs()
    y = random_bits((ROWS,), "float32", 3)
    pipe = Pipe()
    SAVE[save](pipe, y=y, **LAYOUTS["X_s{i}_a{j}_"][1](X))
    path = tmp_path / "piped.npz"
    path.write_bytes(pipe.data)
    with zipfile.ZipFile(path) as file:
        assert all(info.flag_bits & 8 for info in file.infolist()), "the sizes stand behind the data"
    for ds in readings(path, "npz-lazy", "npz-reopen"):
        same_dataset(ds, Source(X, y))


@pytest.mark.parametrize("save", ["savez", pytest.param("savez_compressed", marks=pytest.mark.slow)])
@pytest.mark.parametrize(
    "changed",
    [
        np.asfortranarray,
        lambda a: a.astype(a.dtype.newbyteorder(">")),
        lambda a: a.astype(a.dtype.newbyteorder(">"), "F"),
    ],
    ids=["fortran-ordered", "big-endian", "both"],
)
@pytest.mark.parametrize("layout", ["X", "X_s{i}_", "X_s{i}_a{j}_"])
def test_fortran_ordered_and_big_endian_members_come_back(tmp_path, layout, changed, save):
    path = tmp_path / "kinoml.npz"
    make = {"X": lambda: [[random_bits((4, 3), "int32", i)] for i in range(ROWS)]}.get(layout, LAYOUTS[layout][0])
    X = make()
    y = random_integers((ROWS,), ">f8", 3)
    # Every other member, so that some are and some are not.
    members = {
        key: changed(a) if layout == "X" or i % 2 else a for i, (key, a) in enumerate(LAYOUTS[layout][1](X).items())
    }
    if layout != "X" and changed is not np.asfortranarray:
        members = {key: changed(a) for key, a in LAYOUTS[layout][1](X).items()}  # of one dtype
    SAVE[save](path, y=y, **members)
    for ds in readings(path, "npz-lazy", "npz-reopen"):
        same_dataset(ds, Source(X, y))


def test_more_members_than_a_plain_zip_directory_can_count(tmp_path):
    rows = 33_000
    path = tmp_path / "many.npz"
    head = {n: npy(np.zeros((2, n), "int32"))[: -8 * n] for n in (1, 2)}
    values = np.arange(4 * rows, dtype="int32").reshape(rows, 4)
    with zipfile.ZipFile(path, "w") as file:
        for i in range(rows):
            n = 1 + i % 2
            data = values[i, : 2 * n].tobytes()
            file.writestr(zipfile.ZipInfo(f"X_s{i}_a0_.npy"), head[n] + data)
            file.writestr(zipfile.ZipInfo(f"X_s{i}_a1_.npy"), head[1] + data[:8])
        file.writestr("y.npy", npy(np.arange(rows, dtype="float32")))
    assert b"PK\6\6" in path.read_bytes()[-200:], "the directory is zip64's"
    with load_dataset(path) as ds:
        assert len(ds) == rows
        assert (ds[:][1] == torch.arange(rows)).all()
        for row in (0, 1, 32_767, 32_768, rows - 1):
            X, y = ds[row]
            n = 1 + row % 2
            same_X(X, [values[row, : 2 * n].reshape(2, n), values[row, :2].reshape(2, 1)])
            assert y == row


def npy(array: np.ndarray) -> bytes:
    held = io.BytesIO()
    np.save(held, array)
    return held.getvalue()


# -- what KinoML's own classes get wrong


@pytest.fixture(params=["npz-lazy", "npz-reopen", "in-memory"])
def multi(request, tmp_path) -> tuple[XyDataset, Source]:
    path = tmp_path / "kinoml.npz"
    source = written(path, "X_s{i}_", "savez", False)
    return load_dataset(path, backend=request.param), source


def test_the_last_row_is_not_empty(multi):
    ds, source = multi
    same_X(ds[-1][0], source.X[-1])
    same_tensor(ds[-1][1], source.y[-1])


@pytest.mark.parametrize(
    "index", [slice(-2, None), slice(None, 0), slice(2, None, 3), slice(None, None, -1), slice(20)]
)
def test_a_slice_has_as_many_rows_as_a_list_would(multi, index):
    ds, source = multi
    X, y = ds[index]
    expected = source.X[index]
    assert len(X) == len(y) == len(expected)
    same_tensor(y, source.y[index])
    for found, row in zip(X, expected, strict=True):
        same_X(found, row)


def test_a_mask_selects_x_and_y_alike(multi):
    ds, source = multi
    mask = [i % 2 == 1 for i in range(ROWS)]
    for index in (mask, np.array(mask), torch.tensor(mask)):
        X, y = ds[index]
        assert len(X) == len(y) == sum(mask)
        same_tensor(y, source.y[np.array(mask)])
        for found, row in zip(X, np.flatnonzero(mask).tolist(), strict=True):
            same_X(found, source.X[row])
    with pytest.raises(SampleIndexError):
        ds[mask[:-1]]


@pytest.mark.parametrize(
    "one", [np.int64(1), np.uint8(1), torch.tensor(1), np.array(1)], ids=["int64", "uint8", "tensor", "0-d"]
)
def test_an_integer_of_numpy_or_torch_is_an_index(multi, one):
    ds, source = multi
    same_X(ds[one][0], source.X[1])
    same_tensor(ds[one][1], source.y[1])


@pytest.mark.parametrize("layout", LAYOUTS)
def test_a_file_without_idx_has_no_splits(tmp_path, layout):
    path = tmp_path / "kinoml.npz"
    written(path, layout, "savez", False)
    ds = load_dataset(path)
    assert ds.indices == {}
    with pytest.raises(SplitError, match="train"):
        ds.split("train")


def test_a_single_x_opens_with_the_same_call_as_many(tmp_path):
    for layout in ("X", "X_s{i}_"):
        path = tmp_path / f"{len(layout)}.npz"
        source = written(path, layout, "savez", True)
        for backend in ("npz-lazy", "npz-reopen", "in-memory"):
            same_dataset(load_dataset(path, backend=backend), source)


def test_a_lazy_dataset_pickles_after_a_row_was_read(multi):
    ds, source = multi
    ds[0]
    again = pickle.loads(pickle.dumps(ds))
    same_dataset(again, source)


def test_no_tensor_asks_for_a_gradient_or_lies_on_a_device(multi):
    ds, _ = multi
    for X, y in (ds[0], ds[:]):
        for tensor in (*([X] if isinstance(X, torch.Tensor) else X), y):
            assert not tensor.requires_grad and tensor.device.type == "cpu"
