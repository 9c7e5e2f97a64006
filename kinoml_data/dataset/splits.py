"""From the splits of a spec to row numbers."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from kinoml_data.contracts.backend import check_inside
from kinoml_data.dataset.binding import Binding
from kinoml_data.dataset.labels import computed, divided_by_chance, labels_in_file
from kinoml_data.errors import SplitError, count_of, quoted, unknown
from kinoml_data.layouts import npy
from kinoml_data.spec import config
from kinoml_data.spec.dataset_spec import CompleteSpec
from kinoml_data.spec.parts import ColumnLabels, ComputedSplits, FileLabels, FileSplit, RangeSplit, RowsSplit, Split

RowNumbers = NDArray[np.int64]


def resolve(spec: CompleteSpec, binding: Binding, rows: RowNumbers) -> dict[str, RowNumbers]:
    """The row numbers of every split.

    Args:
        spec: the complete spec.
        binding: the spec bound to its storage.
        rows: int64 `(n,)` ascending, the rows that can be in a split that is made from columns: usually all.

    Returns:
        int64 `(n,)` row numbers by split: in the order in which they are stored or listed, in random order if chance
        alone divides the rows, and otherwise ascending.

    Raises:
        SplitError: a row is out of range, in two splits, or twice in one; the store lacks the array of a split; or
            the splits cannot be computed.
        SpecError: the file of a split is not in the folder that the spec may use.
        StoreNotFoundError, CorruptStoreError: the file of a split does not exist or is damaged.
    """
    arrays, length = binding.storage.arrays, binding.length
    if not isinstance(spec.splits, ComputedSplits):
        return _given(spec, spec.splits, arrays, length)
    labels = spec.splits.labels
    given: Mapping[str, Any] = {}
    if isinstance(labels, FileLabels):
        given = labels_in_file(_path(spec, labels.file), labels)
    elif labels is not None and not isinstance(labels, ColumnLabels):
        given = _given(spec, labels, arrays, length)
    if spec.splits.is_random:
        return divided_by_chance(spec.splits.shares, rows, spec.splits.seed)
    return computed(spec.splits, rows, lambda name: binding.read(rows, [name])[name], given)


def _path(spec: CompleteSpec, file: str) -> Path:
    path = spec.base / config.expanded(file, spec.base)
    check_inside(path, spec.root)
    return path


def _given(
    spec: CompleteSpec, splits: Mapping[str, Split], arrays: Mapping[str, NDArray[Any]], length: int
) -> dict[str, RowNumbers]:
    found = {}
    for name, split in splits.items():
        if isinstance(split, str):
            if split not in arrays:
                hint = f"; for labels in a column, write `labels: {{column: {split}}}`" if name == "labels" else ""
                raise SplitError(f"split {name!r}: {unknown(split, list(arrays), 'array of the store')}{hint}")
            rows = _as_rows(arrays[split], name, length)
        elif isinstance(split, RangeSplit):
            start, stop = split.range
            if not 0 <= start <= stop <= length:
                raise SplitError(f"split {name!r}: range [{start}, {stop}] is outside the {length} rows")
            rows = np.arange(start, stop, dtype=np.int64)
        elif isinstance(split, RowsSplit):
            rows = _as_rows(np.array(split.rows, dtype=object), name, length)
        else:
            assert isinstance(split, FileSplit)
            rows = _as_rows(npy.read(_path(spec, split.file)), name, length)
        found[name] = rows
    _check_disjoint(found, length)
    return found


def _as_rows(array: NDArray[Any], name: str, length: int) -> RowNumbers:
    if array.ndim != 1:
        raise SplitError(f"split {name!r}: row numbers must have one axis, but these have {array.ndim}")
    if len(array) == 0:  # of any dtype: `np.array([])` contains floats
        return np.empty(0, np.int64)
    if array.dtype == bool:
        if len(array) != length:
            raise SplitError(f"split {name!r}: the mask has {len(array)} entries, but there are {length} rows")
        return np.flatnonzero(array)
    if array.dtype.kind not in "iuO":
        fractions = array[array % 1 != 0] if array.dtype.kind == "f" else array[:0]
        example = quoted((fractions if len(fractions) else array)[0].item())
        raise SplitError(
            f"split {name!r}: row numbers must be integers, but these are {array.dtype}, such as {example}"
        )
    if array.min() < 0 or array.max() >= length:
        outside = (array < 0) | (array >= length)
        raise SplitError(f"split {name!r}: row {quoted(int(array[outside][0]))} is outside the {length} rows")
    return array.astype(np.int64, copy=False)


def _check_disjoint(splits: Mapping[str, RowNumbers], length: int) -> None:
    marks = np.zeros(length, bool)
    for rows in splits.values():
        marks[rows] = True
    if np.count_nonzero(marks) == sum(map(len, splits.values())):
        return
    marks[:] = False  # some row occurs twice; start again to name it
    for name, rows in splits.items():
        if (shared := marks[rows]).any():
            row = int(rows[shared][0])
            other = next(other for other, earlier in splits.items() if (earlier == row).any())
            raise SplitError(
                f"splits {other!r} and {name!r} share {count_of(int(shared.sum()), 'row')}, for example row {row}"
            )
        if (repeated := np.bincount(rows, minlength=length)[rows] > 1).any():
            raise SplitError(f"split {name!r} contains row {rows[repeated][0]} more than once")
        marks[rows] = True
