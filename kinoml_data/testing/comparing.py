"""Assertions that compare the rows that a store returns with rows in memory, using nothing but numpy."""

from __future__ import annotations

import hashlib
import json
import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from torch import Tensor

from kinoml_data.columns import Column, Columns, Ragged
from kinoml_data.contracts.backend import Backend, Storage
from kinoml_data.spec.array import Array
from kinoml_data.testing.example import Example


def same_rows(storage: Storage, example: Example, rows: Sequence[int]) -> None:
    """Read some rows of all columns and compare them bit for bit."""
    same_columns(storage.read(np.array(rows, np.int64), list(example.columns)), storage, example, rows)


def same_store(backend: Backend, example: Example, columns: Mapping[str, Array] | None = None) -> None:
    """Open a store for `columns`, or for those that it infers, and compare all rows bit for bit."""
    with backend.open(columns) as storage:
        same_rows(storage, example, range(len(example)))


def same_columns(columns: Columns, storage: Storage, example: Example, rows: Sequence[int]) -> None:
    """Compare all columns of some rows, as `Storage.read` returned them, with the example."""
    assert set(columns) == set(example.columns)
    for name, column in columns.items():
        same_column(column, storage.columns[name], example.taken(rows, name), name)


def same_column(column: Column, array: Array, expected: Sequence[Any], name: str = "") -> None:
    """Compare one column, as `Storage.read` returned it, with the expected rows."""
    assert len(column) == len(expected), name
    if array.is_string:
        expected = [np.frombuffer(text.encode(), np.uint8) for text in expected]
    if array.rows_differ:
        assert isinstance(column, Ragged), f"{name}: the rows differ in shape, so the column must be a Ragged"
        assert column.shapes.dtype == np.int64, name
        assert column.shapes.shape == (len(expected), len(array.axes)), name
        assert column.values.dtype == array.numpy and column.values.dtype.isnative and column.values.ndim == 1, name
        start = 0
        for shape, row in zip(column.shapes.tolist(), expected, strict=True):
            end = start + math.prod(shape)
            same_array(column.values[start:end].reshape(shape), row, name)
            start = end
        assert start == len(column.values), f"{name}: there are {len(column.values) - start} values too many"
    else:
        assert isinstance(column, np.ndarray), f"{name}: all rows have one shape, so the column must be an array"
        assert column.dtype == array.numpy and column.dtype.isnative, name
        assert column.shape == (len(expected), *array.shape), name
        for i, row in enumerate(expected):
            same_array(column[i], row, name)


def same_row(row: Any, example: Example, number: int) -> None:
    """Compare one row, as `Storage.read_row` returned it, with the example."""
    assert set(row) == set(example.columns)
    for name, array in row.items():
        expected = example.rows[name][number]
        if isinstance(expected, str):
            expected = np.frombuffer(expected.encode(), np.uint8)
        same_array(array, expected, name)


def same_shapes(storage: Storage, example: Example) -> None:
    """Compare the shapes of all rows with the example, for the columns whose shapes the storage knows."""
    for name, array in example.columns.items():
        shapes = storage.shapes(name)
        if shapes is not None and not array.is_string:
            assert shapes.dtype == np.int64 and shapes.shape == (len(example), len(array.shape)), name
            same_list([tuple(shape) for shape in shapes.tolist()], [row.shape for row in example.rows[name]], name)


def same_keys(storage: Storage, example: Example) -> None:
    """Check the keys of all columns, and compare every row with the first row of the same key."""
    for name in example.columns:
        keys = storage.keys(name)
        if keys is not None:
            assert keys.dtype.kind in "iu", f"{name}: keys are integers, not {keys.dtype}"
            assert keys.shape == (len(example),), f"{name}: there is one key for each row"
            assert len(keys) == 0 or keys.min() >= 0, f"{name}: keys begin at 0"
            read = storage.read(first_with_key(keys), [name])[name]
            same_column(read, storage.columns[name], example.rows[name], f"{name}, by key")


def first_with_key(keys: NDArray[Any]) -> NDArray[np.int64]:
    """The first row with the key of each row: int64 `(rows,)`. It shows which rows have one key, however numbered."""
    first: dict[int, int] = {}
    return np.array([first.setdefault(key, row) for row, key in enumerate(keys.tolist())], np.int64)


def fingerprint_of(example: Example, splits: Mapping[str, Any]) -> str:
    """The fingerprint of a dataset that contains the example, with these positions by split."""
    columns = []
    for name, array in sorted(example.columns.items()):
        rows = [np.frombuffer(r.encode(), np.uint8) if array.is_string else r for r in example.rows[name]]
        shapes = np.array([row.shape for row in rows], "<i8").tobytes()
        columns.append([name, array.dtype, _digest(shapes), _digest(b"".join(row.tobytes() for row in rows))])
    parts = [[name, _digest(np.array(rows, "<i8").tobytes())] for name, rows in sorted(splits.items())]
    return _digest(json.dumps([len(example), columns, parts]).encode())


def _digest(data: bytes) -> str:
    return hashlib.blake2b(data, digest_size=16).hexdigest()


def same_sample(X: Any, example: Example, row: int) -> None:
    """Compare one X, `{name: tensor}`, with the example; X must contain all numeric columns."""
    assert list(X) == example.numeric
    for name, tensor in X.items():
        _same_tensor(tensor, example.rows[name][row], name)


def same_batch(X: Any, example: Example, rows: Sequence[int]) -> None:
    """Compare the X of a batch, `{name: tensor or list of tensors}`, with the example; see `same_sample`."""
    assert list(X) == example.numeric
    for name, column in X.items():
        assert len(column) == len(rows), name
        for i, row in enumerate(rows):
            _same_tensor(column[i], example.rows[name][row], name)


def _same_tensor(tensor: Tensor, expected: NDArray[Any], name: str) -> None:
    assert not tensor.requires_grad and tensor.is_contiguous(), name
    same_array(tensor.numpy(), expected, name)


def same_array(array: NDArray[Any], expected: NDArray[Any], name: str = "") -> None:
    """Compare dtype, shape and bytes of two arrays."""
    assert array.dtype == expected.dtype, name
    assert array.shape == expected.shape, name
    if array.tobytes() != expected.tobytes():
        raise AssertionError(f"{name}: {array} differs from {expected}")


def same_list(values: Sequence[Any], expected: Sequence[Any], name: str = "") -> None:
    """Compare two lists up to their first difference; pytest would look for all of them, which can take minutes."""
    assert len(values) == len(expected), name
    for i, (one, other) in enumerate(zip(values, expected, strict=True)):
        assert one == other, f"{name}, entry {i}"


def contents(folder: Path) -> dict[str, str]:
    """Every file and folder in `folder`, with a digest of its bytes."""
    return {
        str(path.relative_to(folder)): hashlib.sha256(path.read_bytes()).hexdigest() if path.is_file() else "folder"
        for path in folder.rglob("*")
    }
