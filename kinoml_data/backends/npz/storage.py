"""The storage of `npz-lazy` and `npz-reopen`: the flat layout and KinoML's three layouts.

| layout | members |
| --- | --- |
| one array | `X`: `(rows, ...)` |
| one per row | `X_s{row}` or `X_s{row}_` |
| several per row | `X_s{row}_a{array}` or `X_s{row}_a{array}_` |
| flat | see `flat_arrays` |

KinoML's layouts also have `y` and, if there are splits, `idx_train`, `idx_test` and `idx_val`.
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from kinoml_data.backends.npz.archive import Archive
from kinoml_data.backends.npz.columns import _Column, _FlatColumn, _MembersColumn, _TextColumn, _WholeColumn
from kinoml_data.backends.npz.zip_directory import Io
from kinoml_data.columns import Columns
from kinoml_data.contracts.backend import Storage
from kinoml_data.errors import (
    SpecError,
    UnsafeStoreError,
    UnsupportedStoreError,
    error_prefix,
    one_line,
    quoted,
    unknown,
)
from kinoml_data.layouts.flat_arrays import CRC, INDEX, KEYS, SHAPES, SPEC_KEY, UTF8, VALUES, common_length
from kinoml_data.layouts.keys import checked_keys, with_equal_shared
from kinoml_data.spec.array import Array

_PER_ROW = re.compile(r"X_s([0-9]{1,18})(?:_a([0-9]{1,9}))?_?")


_PER_ROW_LINES = re.compile(r"^X_s([0-9]{1,18}(?:_a[0-9]{1,9})?)_?\.npy$", re.MULTILINE)


_KNOWN = re.compile("X[0-9]*|y")  # names of columns in KinoML's layouts


_SPARSE = {"format", "shape", "data"}  # members of scipy.sparse.save_npz, besides those of the format


MAX_ARRAYS = 1024  # per row; each is a column, and opening takes time in proportion to the square of their number


def row_and_array(key: str) -> tuple[int, int | None] | None:
    """The row and array numbers in `X_s{row}_a{array}_`, or the row number and None in `X_s{row}_`; None otherwise."""
    match = _PER_ROW.fullmatch(key)
    if match is None:
        return None
    row, array = match.groups()
    return int(row), None if array is None else int(array)


@dataclass(frozen=True)
class _Maker:
    """A column that is not made yet: a function that looks at the members of the column and makes it."""

    members: NDArray[np.int64]
    make: Callable[[], _Column]


class NpzStorage(Storage):
    """An NPZ file opened for reading.

    Only the requested columns are looked at: of any other member, nothing is used but its name. Members that are not
    called `*.npy` are ignored.

    Args:
        path: the file.
        columns: the columns that the spec asks for; None for all.
        io: see `Io`.
        verify: "first", "always" or "never", see `Archive`.

    Raises:
        StoreNotFoundError: the file does not exist or is not a regular file.
        CorruptStoreError: the file is damaged, or its arrays do not fit together.
        UnsafeStoreError: reading the file would run code or take unbounded memory.
        UnsupportedStoreError: a requested column cannot be read, there are too many arrays per row, or the file is of a
            kind that is not read.
        SpecError: the file contains none of the columns, or the columns differ in their number of rows.
    """

    has_checksums = True

    def __init__(
        self, path: Path, columns: Mapping[str, Array | None] | None, *, io: Io = "keep-open", verify: str = "first"
    ) -> None:
        self._archive = archive = Archive(path, io=io, verify=verify)
        try:
            self._open(columns or None)
        except BaseException:
            archive.close()
            raise
        self.identity = archive.identity

    def _open(self, columns: Mapping[str, Array | None] | None) -> None:
        archive = self._archive
        per_row, row_keys = self._per_row_members()
        members = self._members = self._other_members(per_row)
        # A column that this library wrote has checksums, and may have any name.
        own = {key.removesuffix(CRC) for key in members if key.endswith(CRC)}
        self._keyed = {name for name in own if name + KEYS in members and name + KEYS not in own}
        if SPEC_KEY in members:
            self.spec = archive.array(members[SPEC_KEY]).tobytes().decode("utf-8", "replace")
        makers = self._makers(per_row, row_keys, own, columns or ())
        if columns is None and members.keys() >= _SPARSE:
            raise UnsupportedStoreError(
                f"{archive.path} contains a sparse matrix of SciPy, which is not supported; store the matrix that "
                "scipy.sparse.load_npz reads with numpy.savez(path, X=matrix.toarray())"
            )
        if columns and not makers.keys() & columns.keys():
            raise SpecError(f"{archive.path}: {unknown(next(iter(columns)), makers, 'stored column')}")
        self._columns: dict[str, _Column] = {}
        self._keys: dict[str, NDArray[Any]] = {}
        self.unreadable: dict[str, str] = {}
        names = list(makers) if columns is None else [name for name in makers if name in columns]
        with suppress(UnsupportedStoreError, UnsafeStoreError):  # then each column is resolved on its own
            archive.resolve(np.concatenate([np.empty(0, np.int64), *(makers[name].members for name in names)]))
        for name in names:
            try:
                with archive.unless_damaged(makers[name].members):
                    column = makers[name].make()
                    if name in self._keyed:
                        self._keys[name] = self._read_keys(name, len(column))
                    self._columns[name] = column
            except (UnsupportedStoreError, UnsafeStoreError) as error:  # the latter for Python objects
                objects = archive.are_resolved(makers[name].members)
                if columns is not None or (isinstance(error, UnsafeStoreError) and not objects):
                    raise
                self.unreadable[name] = str(error)
        archive.compare_rest()
        if len(per_row):
            archive.forget_names()
        if columns is None and self.spec is None:
            self._leave_out_other_lengths()
        self._keys = with_equal_shared(self._keys)
        self._length = self._common_length(own)
        self.columns = {name: column.array for name, column in self._columns.items()}
        self.arrays = _Arrays(archive, members, {*self._columns, *own})

    def _per_row_members(self) -> tuple[NDArray[np.int64], list[str]]:
        """The members that are one row each, and the row and array numbers in their names, as in `12_a0`."""
        names = self._archive.names
        per_row = self._archive.starting_with(b"X_s")
        row_keys = _PER_ROW_LINES.findall("\n".join(map(names.__getitem__, per_row.tolist())))
        if len(row_keys) < len(per_row):  # others begin with X_s too: columns of ours, or members of an unknown layout
            own = {name.removesuffix(f"{CRC}.npy") for name in names if name.endswith(f"{CRC}.npy")}
            lines = {m: _PER_ROW_LINES.fullmatch(names[m]) for m in per_row.tolist() if names[m][:-4] not in own}
            per_row = np.array([member for member, line in lines.items() if line], np.int64)
            row_keys = [line[1] for line in lines.values() if line]
        return per_row, row_keys

    def _other_members(self, per_row: NDArray[np.int64]) -> dict[str, int]:
        """All other members that are arrays, by their names without `.npy`."""
        other = np.ones(len(self._archive), bool)
        other[per_row] = False
        named = ((self._archive.names[member], member) for member in np.flatnonzero(other).tolist())
        # macOS adds a file `._name` for each file when it makes a zip file.
        arrays = ((n, m) for n, m in named if n.endswith(".npy") and not n.rpartition("/")[2].startswith("._"))
        return {name.removesuffix(".npy"): member for name, member in arrays}

    def _makers(
        self, per_row: NDArray[np.int64], row_keys: list[str], own: Collection[str], requested: Collection[str]
    ) -> dict[str, _Maker]:
        """What makes each column that the names of the members show."""
        flat: dict[str, _Maker] = {}
        plain: dict[str, _Maker] = {}
        for key, member in self._members.items():
            if key.removesuffix(KEYS) in self._keyed and key.endswith(KEYS):
                continue
            if key in own or not (key == SPEC_KEY or key.endswith((INDEX, SHAPES, CRC, VALUES, UTF8))):
                if key in own or key in requested or not key.startswith("idx_"):
                    plain[key] = _Maker(self._members_of(key, member), partial(self._plain_column, key, member))
            elif key.endswith((VALUES, UTF8)):
                name = key.removesuffix(VALUES).removesuffix(UTF8)
                flat[name] = _Maker(self._members_of(name, member), partial(self._flat_column, name, key, member))
        y = {"y": plain.pop("y")} if "y" in plain else {}
        return flat | self._per_row_makers(per_row, row_keys) | plain | y

    def _members_of(self, name: str, member: int) -> NDArray[np.int64]:
        """The member with the values of a column, and those with its shapes, its checksums and its keys."""
        suffixes = (SHAPES, CRC, *((KEYS,) if name in self._keyed else ()))
        others = [self._members[name + suffix] for suffix in suffixes if name + suffix in self._members]
        return np.array([member, *others])

    def _per_row_makers(self, members: NDArray[np.int64], row_keys: list[str]) -> dict[str, _Maker]:
        archive, text = self._archive, " ".join(row_keys)
        if not row_keys:
            return {}
        mixed = text.count("_a") not in (0, len(row_keys))
        values = np.fromstring(text.replace("_a", " "), np.int64, sep=" ")  # a third of the time of a loop in Python
        rows, arrays = values.reshape(-1, 2).T if "_a" in text and not mixed else (values, np.zeros_like(values))
        numbers = np.unique(arrays).tolist()

        def refused() -> _Column:
            if mixed:
                raise archive.corrupt("members are named X_s{row} as well as X_s{row}_a{array}, which cannot be mixed")
            raise UnsupportedStoreError(
                f"{archive.path}: there are {len(numbers)} arrays per row; the limit is {MAX_ARRAYS}"
            )

        if mixed or len(numbers) > MAX_ARRAYS:
            return {"X": _Maker(np.empty(0, np.int64), refused)}
        makers = {}
        for number in numbers:
            name, chosen = "X" if len(numbers) == 1 else f"X{number}", arrays == number
            own_members = members[chosen]
            makers[name] = _Maker(own_members, partial(_MembersColumn, archive, name, rows[chosen], own_members))
        return makers

    def _plain_column(self, name: str, member: int) -> _Column:
        if self._archive.header(member).is_text:
            return _TextColumn(self._archive, member, name)
        return _WholeColumn(self._archive, member, self._row_checks(name), name, self._counted(name))

    def _flat_column(self, name: str, key: str, member: int) -> _Column:
        if name + SHAPES not in self._members:
            raise self._archive.corrupt(f"{quoted(key)} is stored without {quoted(name + SHAPES)}")
        shapes = self._archive.array(self._members[name + SHAPES])
        crc, what = self._row_checks(name), self._counted(name)
        return _FlatColumn(self._archive, member, shapes, crc, name, what, is_string=key.endswith(UTF8))

    def _counted(self, name: str) -> str:
        """What the numbers of the stored rows of a column count."""
        return "distinct row" if name in self._keyed else "row"

    def _read_keys(self, name: str, count: int) -> NDArray[Any]:
        keys = self._archive.array(self._members[name + KEYS])
        with error_prefix(f"{self._archive.path}: "):
            return checked_keys(name, keys, count)

    def _lengths(self) -> dict[str, int]:
        """The number of rows of each column."""
        return {name: len(self._keys.get(name, column)) for name, column in self._columns.items()}

    def _leave_out_other_lengths(self) -> None:
        """Leave out the members of a foreign file whose number of rows is not that of the table."""
        lengths = self._lengths()
        known = [name for name in lengths if _KNOWN.fullmatch(name) or name not in self._members]
        counts = Counter(lengths[name] for name in known or lengths).most_common(2)
        if len(counts) > 1 and counts[0][1] == counts[1][1]:
            return  # no number is that of most columns
        for name, length in lengths.items():
            if name not in known and length != counts[0][0]:
                member = self._members[name]
                problem = f"{self._archive.where(member)} has {length} rows, but the others have {counts[0][0]}"
                try:
                    with self._archive.unless_damaged(np.array([member])):
                        raise UnsupportedStoreError(problem)
                except UnsupportedStoreError as error:
                    self.unreadable[name] = str(error)
                del self._columns[name]

    def _common_length(self, own: Collection[str]) -> int:
        lengths = self._lengths()
        path = self._archive.path
        if not lengths:
            reasons = "; ".join(list(self.unreadable.values())[:3]) or f"{path} contains no array of rows"
            raise UnsupportedStoreError(reasons)
        if own:
            with error_prefix(f"{path}: "):
                return common_length(lengths)
        if len(set(lengths.values())) > 1:
            counts = ", ".join(f"{name} has {count}" for name, count in list(lengths.items())[:8])
            raise SpecError(
                f"{path}: the columns differ in their number of rows: {one_line(counts)}; "
                "name columns of one table, as with X=... and y=..."
            )
        return next(iter(lengths.values()))

    def _row_checks(self, name: str) -> NDArray[np.uint32] | None:
        if name + CRC not in self._members:
            return None
        checks = self._archive.array(self._members[name + CRC])
        if checks.dtype != np.uint32 or checks.ndim != 1:
            raise self._archive.corrupt(
                f"{quoted(name + CRC)} is {checks.dtype} of shape {checks.shape}; it must be uint32 with one axis"
            )
        return checks

    def __len__(self) -> int:
        return self._length

    def read(self, rows: NDArray[np.int64], columns: Sequence[str]) -> Columns:
        distinct = {name: self._keys[name].take(rows).astype(np.int64) for name in columns if name in self._keys}
        return {name: self._columns[name].read(distinct.get(name, rows)) for name in columns}

    def read_row(self, row: int, columns: Sequence[str]) -> Mapping[str, NDArray[Any]]:
        keys = self._keys
        return {name: self._columns[name].row(keys[name].item(row) if name in keys else row) for name in columns}

    def shapes(self, column: str) -> NDArray[np.int64] | None:
        shapes = self._columns[column].shapes()
        return shapes if shapes is None or column not in self._keys else shapes.take(self._keys[column], axis=0)

    def keys(self, column: str) -> NDArray[Any] | None:
        return self._keys.get(column)

    def row_arrays(self) -> Mapping[str, NDArray[Any]]:
        columns, keys = self._columns.items(), {name + KEYS: keys for name, keys in self._keys.items()}
        return {name + end: array for name, column in columns for end, array in column.row_arrays().items()} | keys

    def share_row_arrays(self, arrays: Mapping[str, NDArray[Any]]) -> None:
        for name, column in self._columns.items():
            column.share_row_arrays({suffix: arrays[name + suffix] for suffix in column.row_arrays()})
        self._keys = {name: arrays[name + KEYS] for name in self._keys}

    def facts(self) -> Sequence[tuple[str, str]]:
        per_row = any(isinstance(column, _MembersColumn) for column in self._columns.values())
        parts = {"one member per row": per_row, "compressed": self._archive.is_compressed}
        layout = ", ".join(part for part, applies in parts.items() if applies)
        return [("layout", layout)] if layout else []

    def close(self) -> None:
        self._archive.close()


class _Arrays(Mapping[str, NDArray[Any]]):
    """The arrays that are not per row, each read when it is asked for.

    Those that are meant for splits are listed: `idx_...` and `....index`. Any other member that is not a column can be
    asked for by its name.
    """

    def __init__(self, archive: Archive, members: Mapping[str, int], columns: Collection[str]) -> None:
        self._archive = archive
        self._read: dict[str, NDArray[Any]] = {}
        self._others = {key: m for key, m in members.items() if key not in columns}
        self._listed = {
            key.removesuffix(INDEX): member
            for key, member in self._others.items()
            if key.endswith(INDEX) or (key.startswith("idx_") and not key.endswith((SHAPES, KEYS, CRC, VALUES, UTF8)))
        }

    def __getitem__(self, name: str) -> NDArray[Any]:
        if name not in self._read:
            member = self._listed[name] if name in self._listed else self._others[name]
            with self._archive.unless_damaged(np.array([member])):
                self._read[name] = self._archive.array(member)
        return self._read[name]

    def __contains__(self, name: object) -> bool:
        return name in self._listed or name in self._others

    def __iter__(self) -> Iterator[str]:
        return iter(self._listed)

    def __len__(self) -> int:
        return len(self._listed)
