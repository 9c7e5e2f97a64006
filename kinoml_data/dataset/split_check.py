"""What leaks from one split into another: the values that two splits share, column by column."""

from __future__ import annotations

import itertools
from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass
from html import escape

import numpy as np
from numpy.typing import NDArray

from kinoml_data.columns import Indexed, distinct_keys, keys_by_content
from kinoml_data.dataset.binding import Binding
from kinoml_data.dataset.forms import as_arrays
from kinoml_data.dataset.labels import NONE, comparable, rows_of_values
from kinoml_data.errors import SpecError, count_of, unknown
from kinoml_data.spec.dataset_spec import CompleteSpec
from kinoml_data.spec.html import MANY, code_html, details_html, long_html, page_html, rows_html
from kinoml_data.spec.parts import ColumnLabels, ComputedSplits

RowNumbers = NDArray[np.int64]
INPUTS = "X"
COLORS = ("#4e79a7", "#f28e2b", "#59a14f", "#b07aa1", "#edc948", "#76b7b2", "#9c755f", "#e15759")


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

    @property
    def percents(self) -> tuple[float, float]:
        """The share of `rows` in `sizes`, in percent."""
        one, other = (100 * rows / size for rows, size in zip(self.rows, self.sizes, strict=True))
        return one, other

    def __str__(self) -> str:
        one, other = self.splits
        shares = f"{self.percents[0]:.1f} % of {one} and {self.percents[1]:.1f} % of {other}"
        return f"{self.column}: {one} and {other} share {count_of(self.values, 'value')} ({shares})"

    def _repr_html_(self) -> str:
        """The two splits as a table for a notebook."""
        return page_html(type(self).__name__, None, "", [leaks_html([self])])


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
        lines += [f"{name}: no two splits share a value" for name in self.apart if self.sizes]
        return "\n".join(lines)

    @property
    def apart(self) -> list[str]:
        """The columns of which no two splits share a value."""
        return [name for name in self.columns if name not in {found.column for found in self.shared}]

    def _repr_html_(self) -> str:
        """Sizes and shared values as tables for a notebook."""
        compared = f"{count_of(len(self.columns), 'column')} compared"
        title = f"Splits ({len(self.sizes):,})"
        parts = [details_html(title, sizes_html(self.sizes, self.in_no_split), is_open=True)] if self.sizes else []
        parts.append(leaks_html(self.shared, self.apart) if self.sizes else "<p>There are no splits.</p>")
        return page_html(type(self).__name__, None, compared, parts)


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
    of_row, sizes = _of_row(len(rows), splits), {name: len(positions) for name, positions in splits.items()}
    shared: list[SharedValues] = []
    known = [*spec.columns, *([INPUTS] if spec.X is not None and INPUTS not in spec.columns else [])]
    for column in columns:
        if column not in known:
            raise SpecError(unknown(column, known, "column"))
        compared = (column,) if column in spec.columns else spec.X_names
        keys = [_keys(binding, name, rows) for name in compared]
        numbers = keys[0] if len(keys) == 1 else keys_by_content(np.stack(keys, axis=1))
        shared += _shared(column, numbers, of_row, sizes)
    return SplitCheck(sizes, len(rows) - sum(sizes.values()), tuple(columns), tuple(shared))


def known_leaks(
    binding: Binding,
    spec: CompleteSpec,
    rows: RowNumbers,
    splits: Mapping[str, RowNumbers],
    without: Collection[str] = (),
) -> list[SharedValues]:
    """The values that two splits share according to the keys of the storage; no rows are read.

    Different keys may have equal values, so splits may share more than this. Columns with the same keys have one entry.

    Args:
        binding: the open storage.
        spec: the spec of the dataset.
        rows: the row numbers of the dataset.
        splits: positions in `rows`.
        without: columns to leave out.
    """
    of_row, sizes = _of_row(len(rows), splits), {name: len(positions) for name, positions in splits.items()}
    names: dict[int, list[str]] = {}
    keys_of_names = {name: binding.keys(name) for name in spec.columns if name not in without}
    for name, keys in keys_of_names.items():
        if keys is not None:
            names.setdefault(id(keys), []).append(name)
    shared: list[SharedValues] = []
    for columns in names.values():
        keys = keys_of_names[columns[0]]
        assert keys is not None
        shared += _shared(", ".join(columns), distinct_keys(keys[rows])[1], of_row, sizes)
    return shared


def _of_row(count: int, splits: Mapping[str, RowNumbers]) -> RowNumbers:
    """The number of the split of each of so many rows, or `NONE`."""
    of_row = np.full(count, NONE, np.int64)
    for number, positions in enumerate(splits.values()):
        of_row[positions] = number
    return of_row


def _shared(
    column: str, keys: NDArray[np.int64], of_row: NDArray[np.int64], sizes: Mapping[str, int]
) -> Iterator[SharedValues]:
    rows_of = rows_of_values(keys, of_row, len(sizes))
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
        return keys_by_content(comparable(as_arrays(column)))
    return keys_by_content(comparable(as_arrays(column.values)))[column.index]  # different keys may have equal values


def sizes_html(sizes: Mapping[str, int], rest: int) -> str:
    """The sizes of splits as a bar and its key; `rest` is the number of rows in no split."""
    total = max(1, sum(sizes.values()) + rest)
    colors = itertools.cycle(COLORS)
    styles = [f'style="flex:{size} 0 0;background:{next(colors)}"' for size in sizes.values()]
    shares = {**sizes, **({"in no split": rest} if rest > 0 else {})}
    styles += [f'class="blank" style="flex:{rest} 0 0"'] if rest > 0 else []
    bar = "".join(f"<i {style}></i>" for style, size in zip(styles, shares.values(), strict=True) if size)
    keys = "".join(
        f'<span class="key"><i {style}></i>{escape(name)} {size:,} <small>({100 * size / total:.1f} %)</small></span>'
        for style, (name, size) in zip(styles, shares.items(), strict=True)
    )
    return f'<div class="bar">{bar}</div>{keys}'


def leaks_html(shared: Sequence[SharedValues], apart: Sequence[str] = (), *, is_open: bool = True) -> str:
    """What splits share: a section for each column, and the columns of which no two splits share a value."""
    parts = []
    for column, group in itertools.groupby(shared, lambda entry: entry.column):
        pairs = list(group)
        most, split = max(max(zip(entry.percents, entry.splits, strict=True)) for entry in pairs)
        number = "1 pair of splits shares" if len(pairs) == 1 else f"{len(pairs)} pairs of splits share"
        title = f"{column}: {number} values, up to {most:.1f} % of {split}"
        table = rows_html(
            ("rows of one split", "rows of the other", "shared values"),
            [(_part_html(entry, 0), _part_html(entry, 1), f"{entry.values:,}") for entry in pairs],
            numeric=("shared values",),
        )
        parts.append(details_html(title, table, is_open=is_open and len(shared) <= MANY))
    names = ", ".join(map(code_html, apart))
    return "".join(parts) + (f"<p>No two splits share a value of {names}.</p>" if apart else "")


def _part_html(entry: SharedValues, part: int) -> str:
    percent = entry.percents[part]
    text = f"{entry.splits[part]} {entry.rows[part]:,} of {entry.sizes[part]:,} ({percent:.1f} %)"
    return f'{long_html(text)}<div class="share" style="background-size:{percent:.1f}% 100%"></div>'
