"""From the splits of a spec to row numbers."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
from numpy.typing import NDArray

from kinoml_data.contracts.backend import check_inside
from kinoml_data.errors import SplitError, quoted, unknown
from kinoml_data.layouts import npy
from kinoml_data.spec import config
from kinoml_data.spec.dataset_spec import CompleteSpec
from kinoml_data.spec.parts import FileSplit, RangeSplit, RatioSplits, RowsSplit

RowNumbers = NDArray[np.int64]


def resolve(spec: CompleteSpec, arrays: Mapping[str, NDArray[Any]], length: int) -> dict[str, RowNumbers]:
    """The row numbers of every split.

    Args:
        spec: the complete spec.
        arrays: the arrays of the store that splits may name.
        length: the number of rows in the store.

    Returns:
        int64 `(n,)` row numbers by split, in the order in which they are stored or listed.

    Raises:
        SplitError: a row is out of range, in two splits, or twice in one; or the store lacks the array of a split.
        SpecError: the file of a split is not in the folder that the spec may use.
        StoreNotFoundError, CorruptStoreError: the file of a split does not exist or is damaged.
    """
    if isinstance(spec.splits, RatioSplits):
        return by_ratio(spec.splits, length)
    splits = {}
    for name, split in spec.splits.items():
        if isinstance(split, str):
            if split not in arrays:
                raise SplitError(f"split {name!r}: {unknown(split, list(arrays), 'array of the store')}")
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
            path = spec.base / config.expanded(split.file, spec.base)
            check_inside(path, spec.root)
            rows = _as_rows(npy.read(path), name, length)
        splits[name] = rows
    _check_disjoint(splits, length)
    return splits


def by_ratio(splits: RatioSplits, length: int) -> dict[str, RowNumbers]:
    """Random splits: one permutation of all rows, cut in the order of the ratios, by largest remainder.

    The permutation is that of `np.random.Generator(np.random.PCG64(seed))`: the same seed gives the same rows on
    every machine.
    """
    exact = np.array(list(splits.ratios.values())) * length
    # 0.7 * 10 is 6.999...: the rounding error is undone before the fraction is dropped.
    sizes = np.floor(exact + 1e-9).astype(np.int64)
    order = np.argsort(-np.round(exact - sizes, 9), kind="stable")
    sizes[order[: length - int(sizes.sum())]] += 1
    shuffled = np.random.Generator(np.random.PCG64(splits.seed)).permutation(length)
    return dict(zip(splits.ratios, np.split(shuffled, np.cumsum(sizes)[:-1]), strict=True))


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
            raise SplitError(f"splits {other!r} and {name!r} share {shared.sum()} rows, for example row {row}")
        if (repeated := np.bincount(rows, minlength=length)[rows] > 1).any():
            raise SplitError(f"split {name!r} contains row {rows[repeated][0]} more than once")
        marks[rows] = True
