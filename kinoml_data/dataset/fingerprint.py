"""The fingerprint of a dataset: a digest of its columns as they come out and of its splits, from any backend."""

from __future__ import annotations

import hashlib
import json
from typing import TYPE_CHECKING, Any

import numpy as np

from kinoml_data.columns import Indexed, Ragged
from kinoml_data.dataset.forms import as_arrays, expanded

if TYPE_CHECKING:
    from kinoml_data.dataset.dataset import XyDataset

ROWS_PER_READ = 1024


def fingerprint(dataset: XyDataset) -> str:
    """See `XyDataset.fingerprint`.

    It is a BLAKE2b digest of 16 bytes in hexadecimal digits, of the JSON of: the number of rows; for each column in the
    order of their names its name, dtype, and the digests of the shapes and of the values of all rows, in little-endian
    order; and for each split in the order of their names its name and the digest of its positions.
    """
    columns = [[name, array.dtype, *_digests(dataset, name)] for name, array in sorted(dataset.spec.columns.items())]
    splits = [[name, _digest(rows.astype("<i8").data)] for name, rows in sorted(dataset.indices.items())]
    return _digest(json.dumps([len(dataset), columns, splits]).encode())


def _digests(dataset: XyDataset, name: str) -> list[str]:
    """The digests of the shapes and of the values of all rows of a column."""
    binding, rows = dataset._session.binding, dataset.rows
    shapes, values = hashlib.blake2b(digest_size=16), hashlib.blake2b(digest_size=16)
    for start in range(0, len(rows), ROWS_PER_READ):
        column = binding.read_batch(rows[start : start + ROWS_PER_READ], [name])[name]
        if isinstance(column, Indexed):
            column = expanded(column)
        column = as_arrays(column)
        if isinstance(column, Ragged):
            shape, flat = column.shapes, column.values
        else:  # rows of one shape have the digest that they have if they are ragged
            shape, flat = np.tile(np.array(column.shape[1:], np.int64), (len(column), 1)), column
        shapes.update(shape.astype("<i8").tobytes())
        values.update(flat.astype(flat.dtype.newbyteorder("<"), copy=False).tobytes())
    return [shapes.hexdigest(), values.hexdigest()]


def _digest(data: Any) -> str:
    return hashlib.blake2b(data, digest_size=16).hexdigest()
