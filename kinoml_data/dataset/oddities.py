"""What is odd about a stored column, in words for a message: a text among numbers, a missing value."""

from __future__ import annotations

from collections.abc import Collection, Mapping

import numpy as np

from kinoml_data.columns import Ragged
from kinoml_data.contracts.backend import Storage
from kinoml_data.errors import KinomlDataError, count_of, one_line, quoted
from kinoml_data.spec.array import Array
from kinoml_data.spec.roles import named_y

ROWS = 10_000  # that are looked at


def roles_example(columns: Mapping[str, Array], path: object, indexes: Collection[str] = ()) -> str:
    """A call of `load_dataset` that names some of these columns as X and y, to show how roles are named.

    Args:
        columns: the columns of the table.
        path: the file, as the caller wrote it; None if there is none.
        indexes: the columns that are an index.
    """
    numeric = [name for name, array in columns.items() if not array.is_string and name not in indexes]
    measured = [name for name in numeric if not columns[name].shape]  # y is mostly one number per row
    y_name = named_y(numeric) or (measured[-1] if measured and len(numeric) > 1 else None)
    X = [name for name in numeric if name != y_name] or ["..."]
    more = ", ..." if len(X) > 3 else ""
    X, y = X[:3], f", y={y_name!r}" if y_name is not None else ""
    call = "..." if path is None else repr(str(path))
    return f"load_dataset({call}, X=[{', '.join(map(repr, X))}{more}]{y})"


def of_texts(columns: Mapping[str, Array]) -> str:
    """A sentence about X that is computed from text, and a space; empty if no column is text."""
    is_any = any(array.is_string for array in columns.values())
    return "To compute X from a column of text, such as SMILES, name a featurizer in a spec. " if is_any else ""


def oddity(storage: Storage, name: str) -> str | None:
    """What is odd about the first 10,000 rows of a column; None if nothing is."""
    if name in storage.indexes:
        return "an index that another program stored"
    if storage.columns[name].is_string:
        return text_among_numbers(storage, name)
    try:
        for rows in np.array_split(np.arange(min(len(storage), ROWS)), 10):  # a row may take much memory
            storage.read(rows, [name])
    except KinomlDataError as error:
        return one_line(error, 300)
    return None


def text_among_numbers(storage: Storage, name: str, least: float = 0.5) -> str | None:
    """What a column of text contains, such as `1,203 numbers, and '>10000' in row 17`, within its first 10,000 rows.

    Args:
        storage: the open store.
        name: the stored column.
        least: the share of numbers from which they are worth a note.

    Returns:
        None if the column contains no text other than numbers, fewer numbers than `least`, or cannot be read.
    """
    if not storage.columns[name].is_string:
        return None
    try:
        column = storage.read(np.arange(min(len(storage), ROWS)), [name])[name]
    except KinomlDataError:
        return None
    assert isinstance(column, Ragged)
    texts = column.strings()
    others = [row for row, text in enumerate(texts) if not _is_number(text)]
    count = len(texts) - len(others)
    if not others or count < least * len(texts):
        return None
    numbers = count_of(count, "number") if count else "no numbers"
    more = f" and {len(others) - 1:,} more texts" if len(others) > 1 else ""
    return f"{numbers}, and {quoted(texts[others[0]], 40)} in row {others[0]}{more}"


def _is_number(text: str) -> bool:
    try:
        float(text)
    except ValueError:
        return False
    return "_" not in text
