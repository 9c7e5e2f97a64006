"""Random columns, and the rows of Parquet files, that several test files compare."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow.parquet as pq

from kinoml_data.backends.parquet.backend import ParquetAwkward
from kinoml_data.backends.parquet.container import seal
from kinoml_data.columns import Column, Columns, Ragged
from kinoml_data.contracts.backend import Storage
from kinoml_data.spec.array import DTYPES, Array

NUMBERS = [name for name in DTYPES if name != "str" and not name.startswith("complex")]

EDGES = {
    "float16": np.array([0x7E01, 0xFE00, 0x7C01, 0x8000, 0x0001, 0xFC00, 0x7BFF], "u2").view("f2"),
    "float32": np.array([0x7FC00001, 0xFFC00000, 0x7F800001, 0x80000000, 1, 0xFF800000], "u4").view("f4"),
    "float64": np.array([0x7FF8 << 48 | 1, 0xFFF8 << 48 | 0x123, 0x7FF0 << 48 | 1, 1 << 63, 1], "u8").view("f8"),
}


def random_values(dtype: str, count: int, rng: np.random.Generator) -> np.ndarray:
    """Any bits there are, the special ones first."""
    if dtype == "bool":
        return rng.integers(0, 2, count).astype(bool)
    values = np.frombuffer(rng.bytes(count * np.dtype(dtype).itemsize), dtype).copy()
    special = EDGES[dtype] if dtype in EDGES else np.array([np.iinfo(dtype).min, np.iinfo(dtype).max], dtype)
    values[: len(special)] = special[:count]
    return values


def ragged(dtype: str, shapes: list[tuple[int, ...]], rng: np.random.Generator) -> Ragged:
    lengths = np.array(shapes, np.int64)
    return Ragged(random_values(dtype, int(lengths.prod(axis=1).sum()), rng), lengths)


def content(column: Column) -> tuple[Any, ...]:
    """What two columns have in common if they are the same bits."""
    if isinstance(column, Ragged):
        return column.values.dtype, column.shapes.tolist(), column.values.tobytes()
    return column.dtype, column.shape, column.tobytes()


def opened(path: Path, columns: Mapping[str, Array | None] | None = None, **options: Any) -> Storage:
    """All columns of a file, or those of `columns`, in memory."""
    storage = ParquetAwkward(path=path, **options).open(columns)
    return storage.loaded(list(storage.columns))


def read_all(path: Path, columns: dict[str, Array] | None = None) -> dict[str, Column]:
    storage = opened(path, columns)
    return dict(storage.read(np.arange(len(storage)), list(storage.columns)))


def assert_rows(column: Column, rows: list[np.ndarray]) -> None:
    """The column holds these rows, bit for bit."""
    assert len(column) == len(rows)
    for i, row in enumerate(rows):
        assert (column[i].dtype, column[i].shape, column[i].tobytes()) == (row.dtype, row.shape, row.tobytes()), i


AXES: list[tuple[int | None, ...]] = [
    *((), (3,), (0,), (2, 3), (0, 3), (3, 0), (2, 0, 4), (2, 3, 4), (1, 2, 3, 2)),
    *((None,), (2, None), (None, 33), (None, None), (None, 0), (2, None, 3), (None, 2, None, 2)),
]


def column_of(array: Array, rows: int, rng: np.random.Generator) -> Column:
    """Random rows, the ragged axes from 0 to 3 long."""
    if array.is_string:
        texts = ["", "CCO", "c1ccccc1", "\N{GRINNING FACE}", "e\u0301", "é", "\0", "line\nline"]
        return Ragged.from_strings(texts[int(i)] for i in rng.integers(0, len(texts), rows))
    if array.ragged:
        shapes = [tuple(int(rng.integers(0, 4)) if axis is None else axis for axis in array.shape) for _ in range(rows)]
        if not rows:
            return Ragged(np.empty(0, array.numpy), np.empty((0, len(array.shape)), np.int64))
        return ragged(array.dtype, shapes, rng)
    shape = (rows, *(axis or 0 for axis in array.shape))
    return random_values(array.dtype, int(np.prod(shape)), rng).reshape(shape)


def joined(parts: list[Column]) -> Column:
    if isinstance(parts[0], Ragged):
        return Ragged(np.concatenate([part.values for part in parts]), np.concatenate([part.shapes for part in parts]))
    return np.concatenate(parts)


def write(path: Path, columns: dict[str, Array], batches: list[Columns], **options: Any) -> None:
    ParquetAwkward(path=path).write(columns, batches, **options)


def rewritten(path: Path, change: Any, metadata: bool = True) -> None:
    """The file as another program writes it back, with the digest of the new footer if its metadata is kept."""
    table = change(pq.read_table(path))
    with pq.ParquetFile(path) as file:
        stored = {k: v for k, v in file.metadata.metadata.items() if k.startswith(b"kinoml_data.")}
    with pq.ParquetWriter(path, table.schema.remove_metadata()) as writer:
        writer.write_table(table)
        if metadata:
            writer.add_key_value_metadata(stored)
    if metadata:
        seal(path)
