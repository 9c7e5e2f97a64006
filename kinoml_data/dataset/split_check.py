"""What leaks from one split into another: the values that two splits share, column by column."""

from __future__ import annotations

import itertools
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from kinoml_data.columns import Indexed, keys_by_content
from kinoml_data.dataset.binding import Binding
from kinoml_data.dataset.forms import as_arrays
from kinoml_data.dataset.labels import NONE, shared_values
from kinoml_data.errors import SpecError, count_of, unknown
from kinoml_data.spec.dataset_spec import CompleteSpec
from kinoml_data.spec.parts import ColumnLabels, ComputedSplits

RowNumbers = NDArray[np.int64]
INPUTS = "X"


@dataclass(frozen=True)
class SharedValues:
    """The values of a column that two splits share.

    Attributes:
        column: the column, or "X" for all columns in X together.
        splits: the names of the two splits.
        values: the number of different values that both have.
        rows: the number of rows of each of the two splits that have one of these values.
        sizes: the number of all rows of each of the two splits.
    """

    column: str
    splits: tuple[str, str]
    values: int
    rows: tuple[int, int]
    sizes: tuple[int, int]

    def __str__(self) -> str:
        one, other = self.splits
        percents = [100 * rows / size for rows, size in zip(self.rows, self.sizes, strict=True)]
        shares = f"{percents[0]:.1f} % of {one} and {percents[1]:.1f} % of {other}"
        return f"{self.column}: {one} and {other} share {count_of(self.values, 'value')} ({shares})"


@dataclass(frozen=True)
class SplitCheck:
    """What the splits of a dataset share. Printing it shows a table.

    Attributes:
        sizes: the number of rows of each split.
        in_no_split: the number of rows that are in no split.
        columns: the columns that were compared.
        shared: one entry for each column and pair of splits that share a value.
    """

    sizes: dict[str, int]
    in_no_split: int
    columns: tuple[str, ...]
    shared: tuple[SharedValues, ...]

    def __str__(self) -> str:
        sizes = ", ".join(f"{name} {size:,}" for name, size in self.sizes.items()) or "none"
        lines = [f"splits: {sizes}" + (f"; {count_of(self.in_no_split, 'row')} in none" if self.in_no_split else "")]
        lines += map(str, self.shared)
        apart = [name for name in self.columns if name not in {found.column for found in self.shared}]
        lines += [f"{name}: no two splits share a value" for name in apart]
        return "\n".join(lines)


def compared_columns(binding: Binding, spec: CompleteSpec) -> list[str]:
    """The columns that `check_splits` compares by default; see `XyDataset.check_splits`."""
    texts = [name for name in spec.meta if spec.columns[name].is_string]
    keyed = [name for name in spec.columns if binding.keys(name) is not None]
    labels = spec.splits.labels if isinstance(spec.splits, ComputedSplits) else None
    names = dict.fromkeys([*spec.split_columns, *texts, *keyed])
    return [name for name in names if not isinstance(labels, ColumnLabels) or name != labels.column]


def check_splits(
    binding: Binding,
    spec: CompleteSpec,
    rows: RowNumbers,
    splits: Mapping[str, RowNumbers],
    columns: Sequence[str] | None,
) -> SplitCheck:
    """See `XyDataset.check_splits`; `splits` are positions in `rows`."""
    if columns is None:
        columns = compared_columns(binding, spec)
    elif isinstance(columns, str):
        columns = [columns]
    of_row = np.full(len(rows), NONE, np.int64)
    for number, positions in enumerate(splits.values()):
        of_row[positions] = number
    sizes = {name: len(positions) for name, positions in splits.items()}
    shared: list[SharedValues] = []
    for column in columns:
        if column not in spec.columns and column != INPUTS:
            raise SpecError(unknown(column, list({**spec.columns, INPUTS: None}), "column"))
        compared = (column,) if column in spec.columns else spec.X_names
        keys = np.stack([_keys(binding, name, rows) for name in compared], axis=1)
        shared += _shared(column, keys, of_row, sizes)
    return SplitCheck(sizes, len(rows) - sum(sizes.values()), tuple(columns), tuple(shared))


def _shared(
    column: str, keys: NDArray[np.int64], of_row: NDArray[np.int64], sizes: Mapping[str, int]
) -> Iterator[SharedValues]:
    _, rows_of = shared_values(keys[:, 0] if keys.shape[1] == 1 else keys, of_row, len(sizes))
    for (one, split), (other, other_split) in itertools.combinations(enumerate(sizes), 2):
        both = (rows_of[:, one] > 0) & (rows_of[:, other] > 0)
        if both.any():
            rows = int(rows_of[both, one].sum()), int(rows_of[both, other].sum())
            splits = split, other_split
            yield SharedValues(column, splits, int(both.sum()), rows, (sizes[split], sizes[other_split]))


def _keys(binding: Binding, name: str, rows: RowNumbers) -> NDArray[np.int64]:
    """The number of each row's value, by content: `(rows,)`."""
    column = binding.read_batch(rows, [name])[name]
    if not isinstance(column, Indexed):
        return keys_by_content(as_arrays(column))
    return keys_by_content(as_arrays(column.values))[column.index]  # different keys may have equal values
