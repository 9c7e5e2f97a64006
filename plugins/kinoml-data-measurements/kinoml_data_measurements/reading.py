"""Reading the columns of a raw table, in which values may be missing."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np
from kinoml_data.errors import FeaturizationError, SpecError, one_line
from kinoml_data.plugin import Column, Ragged, Storage, keys_by_content
from numpy.typing import NDArray

ROWS_PER_READ = 1 << 14
Rows = NDArray[np.int64]


def valid_rows(storage: Storage, name: str, rows: Rows, failed: dict[int, str]) -> Iterator[tuple[Rows, Column]]:
    """The rows of a column that can be read, many at a time.

    Args:
        storage: the raw table.
        name: the column.
        rows: row numbers.
        failed: gets the reason for each row that cannot be read, such as a missing value.

    Raises:
        CorruptStoreError, StoreChangedError, StoreReadError: see `Storage.read`.
    """
    parts = [rows[start : start + ROWS_PER_READ] for start in range(0, len(rows), ROWS_PER_READ)][::-1]
    while parts:
        part = parts.pop()
        try:
            column = storage.read(part, [name])[name]
        except (SpecError, FeaturizationError) as error:  # the error need not say which row it is about
            if len(part) == 1:
                is_missing = isinstance(error, SpecError)
                failed[int(part[0])] = "missing or not a valid value" if is_missing else one_line(error)
            else:
                half = len(part) // 2
                parts += [part[half:], part[:half]]
        else:
            yield part, column


def all_rows(storage: Storage) -> Rows:
    """The row numbers of a table."""
    return np.arange(len(storage))


def texts_of(storage: Storage, name: str) -> tuple[list[str], Rows]:
    """The distinct texts of a column without the spaces around them, and the place of each row's text among them.

    A missing value is an empty text, which is always at place 0.
    """
    places: dict[str, int] = {"": 0}
    result = np.zeros(len(storage), np.int64)
    for rows, column in valid_rows(storage, name, all_rows(storage), {}):
        result[rows] = [places.setdefault(text.strip(), len(places)) for text in _as_texts(column)]
    return list(places), result


def numbers_of(storage: Storage, name: str) -> NDArray[np.float64]:
    """The numbers of a column; NaN for a missing value."""
    result = np.full(len(storage), np.nan)
    for rows, column in valid_rows(storage, name, all_rows(storage), {}):
        result[rows] = column
    return result


def ids_of(storage: Storage, name: str, failed: dict[int, str]) -> Rows:
    """For each row the number of its distinct value in a column; -1 for a row that is added to `failed`.

    NaN and an empty text are missing values. Zeros of both signs are one value.
    """
    numbers: dict[Any, int] = {}
    result = np.full(len(storage), -1, np.int64)
    for rows, column in valid_rows(storage, name, all_rows(storage), failed):
        missing = np.zeros(len(rows), bool)
        if isinstance(column, Ragged):
            missing = column.shapes[:, 0] == 0
        elif column.dtype.kind == "f":
            missing, column = np.isnan(column), column + 0.0
        failed |= dict.fromkeys(rows[missing].tolist(), "missing")
        result[rows] = np.where(missing, -1, keys_by_content(column, numbers))
    return result


def shown(storage: Storage, name: str, rows: Sequence[int]) -> list[str]:
    """The values of some rows of a column as texts; an empty text for a missing value."""
    result = dict.fromkeys(rows, "")
    for part, column in valid_rows(storage, name, np.array(rows, np.int64), {}):
        result |= zip(part.tolist(), _as_texts(column), strict=True)
    return list(result.values())


def _as_texts(column: Column) -> list[str]:
    return column.strings() if isinstance(column, Ragged) else list(map(str, column.tolist()))
