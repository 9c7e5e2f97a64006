"""Splits as one label per row: computed from chance, from an order, or from columns and tables of labels."""

from __future__ import annotations

import csv
import hashlib
from collections.abc import Callable, Mapping
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from kinoml_data.columns import Column, Ragged, distinct_keys, keys_by_content
from kinoml_data.errors import CorruptStoreError, SplitError, StoreNotFoundError, count_of, one_line, quoted, unknown
from kinoml_data.files import os_errors
from kinoml_data.spec.parts import ColumnLabels, ComputedSplits, FileLabels
from kinoml_data.spec.roles import names_of

RowNumbers = NDArray[np.int64]
Read = Callable[[str], Column]
NONE = -1  # the label of a row that is in no split


def computed(
    splits: ComputedSplits, rows: RowNumbers, read: Read, labels: Mapping[str, RowNumbers] | Mapping[str, str]
) -> dict[str, RowNumbers]:
    """The row numbers of every split, in ascending order.

    Args:
        splits: how to split.
        rows: the rows that may be in a split: int64 `(n,)`, ascending.
        read: reads these rows of a column.
        labels: what `splits.labels` stands for: the rows of each split, or the label of each id in a file.

    Raises:
        SplitError: a label has no valid value, a file of labels contains no id of the dataset, an order has no place
            for a value, or two splits share a value of a column that `by` or `apart` names.
    """
    columns = cache(lambda name: comparable(read(name)))  # one may be an order or a side, and checked as well
    names, of_row = _labelled(splits, rows, columns, labels)
    if splits.shares:
        divided = np.flatnonzero((of_row == NONE) | (of_row == _number(names, "train")))
        of_row[divided] = NONE
        names += [name for name in splits.shares if name not in names]
        for name, part in _divided(splits, rows, divided, columns).items():
            of_row[part] = names.index(name)
    for column in dict.fromkeys((*names_of(splits.by), *names_of(splits.apart))):
        way_out = f"write `by: {column}`" if splits.labels is None else "change the labels"
        _check_apart(column, columns(column), names, of_row, way_out)
    found = {name: rows[of_row == number] for number, name in enumerate(names)}
    return {name: part for name, part in found.items() if name != "train" or not splits.shares or name in splits.ratios}


def divided_by_chance(shares: Mapping[str, float], rows: RowNumbers, seed: int) -> dict[str, RowNumbers]:
    """Random splits: one permutation of the rows, cut in the order of the shares, by largest remainder.

    The permutation is that of `np.random.Generator(np.random.PCG64(seed))`: the same seed gives the same rows on
    every machine.
    """
    shuffled = rows[np.random.Generator(np.random.PCG64(seed)).permutation(len(rows))]
    return dict(zip(shares, np.split(shuffled, np.cumsum(_sizes(shares, len(rows)))[:-1]), strict=True))


def _sizes(shares: Mapping[str, float], length: int) -> NDArray[np.int64]:
    """The number of rows of each split, by largest remainder."""
    exact = np.array(list(shares.values())) * length
    # 0.7 * 10 is 6.999...: the rounding error is undone before the fraction is dropped.
    sizes = np.floor(exact + 1e-9).astype(np.int64)
    order = np.argsort(-np.round(exact - sizes, 9), kind="stable")
    sizes[order[: length - int(sizes.sum())]] += 1
    return sizes


def _number(names: list[str], name: str) -> int:
    return names.index(name) if name in names else NONE


def _labelled(
    splits: ComputedSplits, rows: RowNumbers, read: Read, labels: Mapping[str, Any]
) -> tuple[list[str], NDArray[np.int64]]:
    """The names of the splits that `splits.labels` gives, and for each row the number of its split, or `NONE`."""
    if splits.labels is None:
        return [], np.full(len(rows), NONE, np.int64)
    if not isinstance(splits.labels, (ColumnLabels, FileLabels)):
        of_row = np.full(len(rows), NONE, np.int64)
        for number, part in enumerate(labels.values()):
            of_row[np.isin(rows, part)] = number
        return list(labels), of_row
    name = splits.labels.column if isinstance(splits.labels, ColumnLabels) else splits.labels.id
    column = read(name)
    keys = keys_by_content(column)
    first, _ = distinct_keys(keys, len(keys))
    texts = values_as_text(column, first)
    if isinstance(splits.labels, FileLabels):
        if texts and labels and not any(text in labels for text in texts):
            raise SplitError(
                f"splits.labels: {quoted(splits.labels.file)} contains no id of column {quoted(name)}: it has "
                f"{quoted(next(iter(labels)))}, and the column has {quoted(texts[0])}"
            )
        texts = [labels.get(text, "") for text in texts]
    elif not isinstance(column, Ragged) or column.shapes.shape[1] != 1:
        raise SplitError(f"splits.labels: column {quoted(name)} does not contain text")
    names = list(dict.fromkeys(text for text in texts if text))
    if wrong := [text for text in names if not text.strip() or not text.isprintable()]:
        raise SplitError(f"splits.labels: {quoted(wrong[0])} is not the name of a split")
    numbers = np.array([_number(names, text) for text in texts], np.int64)
    return names, numbers[keys] if len(keys) else np.empty(0, np.int64)


def values_as_text(column: Column, rows: RowNumbers) -> list[str]:
    """Some rows of a column as texts that do not depend on how a store represents numbers.

    A string is itself, an integer or bool its decimal digits, a floating-point number the shortest text that gives the
    same float64, and an array the list of its values; uint8 with one axis is read as a string.
    """
    values, axes = (column.values, column.shapes.shape[1]) if isinstance(column, Ragged) else (column, column.ndim - 1)
    if values.dtype == np.uint8 and axes == 1:  # a string looks like this, too
        return [bytes(column[row]).decode("utf-8", "surrogateescape") for row in rows.tolist()]
    numbers = (np.asarray(column[row]).tolist() for row in rows.tolist())
    return [str(int(number)) if isinstance(number, bool) else str(number) for number in numbers]


def _divided(splits: ComputedSplits, rows: RowNumbers, divided: RowNumbers, read: Read) -> dict[str, RowNumbers]:
    """The positions in `rows` that are `divided`, by the split that they come to."""
    if splits.order is not None:
        return _in_order(splits, rows, divided, read(splits.order))
    if splits.by is None:
        return divided_by_chance(splits.shares, divided, splits.seed)
    names, of_row = list(splits.shares), None
    for column in names_of(splits.by):
        side = _by_groups(splits, column, _rows_of(read(column), divided))
        of_row = side if of_row is None else np.where(of_row == side, side, NONE)
    assert of_row is not None
    return {name: divided[of_row == number] for number, name in enumerate(names)}


def _by_groups(splits: ComputedSplits, name: str, column: Column) -> NDArray[np.int64]:
    """For each row the number of its split, which rows of one value share: `(rows,)`.

    The groups of equal values are taken in an order that depends on the seed and on their values, not on that of the
    rows. Each goes to the split that lacks the most rows.
    """
    keys = keys_by_content(column)
    first, _ = distinct_keys(keys, len(keys))
    key = f"{splits.seed} {name}".encode()[:64]
    texts = values_as_text(column, first)
    digests = [hashlib.blake2b(text.encode("utf-8", "surrogateescape"), key=key).digest() for text in texts]
    sizes = np.bincount(keys, minlength=len(first)).tolist()
    lacking = (np.array(list(splits.shares.values())) * len(keys)).tolist()
    part = np.empty(len(first), np.int64)
    for group in sorted(range(len(first)), key=digests.__getitem__):
        chosen = lacking.index(max(lacking))
        part[group] = chosen
        lacking[chosen] -= sizes[group]
    return part[keys] if len(keys) else part


def _in_order(splits: ComputedSplits, rows: RowNumbers, divided: RowNumbers, column: Column) -> dict[str, RowNumbers]:
    """Positions cut in the ascending order of a column; those of equal values come to the split of the first."""
    column = _rows_of(column, divided)
    if isinstance(column, Ragged):
        if column.values.dtype != np.uint8 or column.shapes.shape[1] != 1:
            raise SplitError(f"splits.order: column {quoted(str(splits.order))} has rows of different shapes")
        column = np.array([bytes(column[row]) for row in range(len(column))], object)
    if column.ndim != 1 or (column.dtype.kind in "fc" and np.isnan(column).any()):
        row = f", row {rows[divided[np.isnan(column)]][0]}: NaN has no place in an order" if column.ndim == 1 else ""
        raise SplitError(f"splits.order: column {quoted(str(splits.order))}{row or ' has several values per row'}")
    order = np.argsort(column, kind="stable")
    ordered = column[order]
    is_first = np.r_[True, ordered[1:] != ordered[:-1]]
    start_of_tie = np.maximum.accumulate(np.where(is_first, np.arange(len(divided)), 0))
    ends = np.cumsum(_sizes(splits.shares, len(divided)))
    of_row = np.searchsorted(ends, start_of_tie, side="right")
    return {name: np.sort(divided[order[of_row == number]]) for number, name in enumerate(splits.shares)}


def _rows_of(column: Column, rows: RowNumbers) -> Column:
    return column.take(rows) if isinstance(column, Ragged) else column[rows]


def comparable(column: Column) -> Column:
    """The same rows, in which equal numbers have equal bits: -0.0 becomes 0.0, and every NaN becomes the same NaN."""
    values = column.values if isinstance(column, Ragged) else column
    if values.dtype.kind not in "fc":
        return column
    with np.errstate(invalid="ignore"):  # a signalling NaN
        values = values + values.dtype.type(0)
    values[np.isnan(values)] = np.nan
    return column.with_values(values) if isinstance(column, Ragged) else values


def shared_values(column: Column, of_row: NDArray[np.int64], count: int) -> tuple[NDArray[np.int64], NDArray[Any]]:
    """Which values are in which splits.

    Args:
        column: all rows.
        of_row: int64 `(rows,)`, the number of each row's split, or `NONE`.
        count: the number of splits.

    Returns:
        int64 `(rows,)`, the number of each row's value; and int64 `(values, count)`, the number of rows that each
        split has of each value.
    """
    keys = keys_by_content(column)
    return keys, rows_of_values(keys, of_row, count)


def rows_of_values(keys: NDArray[np.int64], of_row: NDArray[np.int64], count: int) -> NDArray[np.int64]:
    """The number of rows that each of `count` splits has of each value: int64 `(values, count)`; see `shared_values`.

    Args:
        keys: int64 `(rows,)`, the number of each row's value.
        of_row: int64 `(rows,)`, the number of each row's split, or `NONE`.
        count: the number of splits.
    """
    values = int(keys.max(initial=-1)) + 1
    inside = of_row != NONE
    rows = np.bincount(keys[inside] * count + of_row[inside], minlength=values * count)
    return rows.reshape(values, count)


def _check_apart(name: str, column: Column, splits: list[str], of_row: NDArray[np.int64], way_out: str) -> None:
    """Check that no two splits have a value in common; `way_out` is what to do if they do.

    Raises:
        SplitError: two splits have one.
    """
    keys, rows = shared_values(column, of_row, len(splits))
    shared = np.flatnonzero((rows > 0).sum(axis=1) > 1)
    if len(shared):
        one, other = np.flatnonzero(rows[shared[0]])[:2].tolist()
        count = int(((rows[:, one] > 0) & (rows[:, other] > 0)).sum())
        value = quoted(values_as_text(column, np.flatnonzero(keys == shared[0])[:1])[0])
        raise SplitError(
            f"splits {splits[one]!r} and {splits[other]!r} share {count_of(count, 'value')} of column {quoted(name)}, "
            f"such as {value}, and must not; {way_out}, or leave the column out of `by` and `apart`"
        )


def labels_in_file(path: Path, labels: FileLabels) -> dict[str, str]:
    """The label of each id in a CSV file.

    Raises:
        StoreNotFoundError: the file does not exist.
        CorruptStoreError: the file is not a CSV file in UTF-8, or a row has another number of cells than the header.
        SplitError: a column is missing, or an id has two labels.
    """
    if not path.exists():
        raise StoreNotFoundError(f"there is no file {quoted(str(path))}")
    try:
        with os_errors(path), path.open(newline="", encoding="utf-8-sig") as file:
            rows = [row for row in csv.reader(file, strict=True) if row]
    except (UnicodeDecodeError, csv.Error) as error:
        raise CorruptStoreError(f"{path}: {one_line(error)}") from None
    header = rows[0] if rows else []
    others = [name for name in header if name != labels.id]
    column = labels.column if labels.column is not None else others[0] if len(others) == 1 else "split"
    for name in (labels.id, column):
        if header.count(name) != 1:
            raise SplitError(f"{path}: {unknown(name, header, 'column')}; name the columns as `id` and `column`")
    id_at, label_at = header.index(labels.id), header.index(column)
    found: dict[str, str] = {}
    for line, row in enumerate(rows[1:], 2):
        if len(row) != len(header):
            raise CorruptStoreError(f"{path}, row {line}: it has {len(row)} cells, but the header has {len(header)}")
        if found.setdefault(row[id_at], row[label_at]) != row[label_at]:
            raise SplitError(
                f"{path}, row {line}: {quoted(row[id_at])} has the labels {found[row[id_at]]!r} and {row[label_at]!r}"
            )
    return found
