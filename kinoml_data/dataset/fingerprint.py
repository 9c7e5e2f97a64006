"""The fingerprint of a dataset: a digest of its columns as they come out and of its splits, from any backend."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from typing import Any

import numpy as np
from numpy.typing import NDArray

from kinoml_data.columns import Ragged
from kinoml_data.dataset.binding import Binding
from kinoml_data.dataset.forms import as_arrays
from kinoml_data.spec.dataset_spec import CompleteSpec

RowNumbers = NDArray[np.int64]
ROWS_PER_READ = 1024


def fingerprint(binding: Binding, spec: CompleteSpec, rows: RowNumbers, splits: Mapping[str, RowNumbers]) -> str:
    """See `XyDataset.fingerprint`.

    It is a BLAKE2b digest of 16 bytes in hexadecimal digits, of the JSON of: the number of rows; for each column in the
    order of their names its name, dtype, and the digests of the shapes and of the values of all rows, in little-endian
    order; and for each split in the order of their names its name and the digest of its positions.
    """
    columns = [[name, array.dtype, *_digests(binding, name, rows)] for name, array in sorted(spec.columns.items())]
    parts = [[name, _digest(positions.astype("<i8").data)] for name, positions in sorted(splits.items())]
    return _digest(json.dumps([len(rows), columns, parts]).encode())


def _digests(binding: Binding, name: str, rows: RowNumbers) -> list[str]:
    """The digests of the shapes and of the values of all rows of a column."""
    shapes, values = hashlib.blake2b(digest_size=16), hashlib.blake2b(digest_size=16)
    for start in range(0, len(rows), ROWS_PER_READ):
        column = as_arrays(binding.read(rows[start : start + ROWS_PER_READ], [name])[name])
        if isinstance(column, Ragged):
            shape, flat = column.shapes, column.values
        else:  # rows of one shape have the digest that they have if they are ragged
            shape, flat = np.tile(np.array(column.shape[1:], np.int64), (len(column), 1)), column
        shapes.update(shape.astype("<i8").tobytes())
        values.update(flat.astype(flat.dtype.newbyteorder("<"), copy=False).tobytes())
    return [shapes.hexdigest(), values.hexdigest()]


def _digest(data: Any) -> str:
    return hashlib.blake2b(data, digest_size=16).hexdigest()
