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
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from kinoml_data.backends.npz.archive import Archive
from kinoml_data.backends.npz.columns import _Column, _FlatColumn, _MembersColumn, _WholeColumn
from kinoml_data.backends.npz.zip_directory import Io
from kinoml_data.columns import Columns
from kinoml_data.contracts.backend import Storage
from kinoml_data.errors import SpecError, UnsupportedStoreError, error_prefix, quoted, unknown
from kinoml_data.layouts.flat_arrays import CRC, INDEX, SHAPES, SPEC_KEY, UTF8, VALUES, common_length
from kinoml_data.spec.array import Array

_PER_ROW = re.compile(r"X_s([0-9]{1,18})(?:_a([0-9]{1,9}))?_?")


_PER_ROW_LINES = re.compile(rf"^{_PER_ROW.pattern}\.npy$", re.MULTILINE)


MAX_ARRAYS = 1024  # per row; each is a column, and opening takes time in proportion to the square of their number


def row_and_array(key: str) -> tuple[int, int | None] | None:
    """The row and array numbers in `X_s{row}_a{array}_`, or the row number and None in `X_s{row}_`; None otherwise."""
    match = _PER_ROW.fullmatch(key)
    if match is None:
        return None
    row, array = match.groups()
    return int(row), None if array is None else int(array)


class NpzStorage(Storage):
    """An NPZ file opened for reading.

    Args:
        path: the file.
        columns: the columns that the spec asks for; None to infer them.
        io: see `Io`.
        verify: "first", "always" or "never", see `Archive`.

    Raises:
        StoreNotFoundError: there is no such regular file.
        CorruptStoreError: the file is damaged, or its arrays do not fit together.
        UnsafeStoreError: reading the file would run code or take unbounded memory.
        UnsupportedStoreError: a member contains neither numbers nor booleans, or there are too many arrays per row.
        SpecError: `columns` is None and a member does not belong to a known layout.
    """

    has_checksums = True

    def __init__(
        self, path: Path, columns: Mapping[str, Array | None] | None, *, io: Io = "keep-open", verify: str = "first"
    ) -> None:
        self._archive = archive = Archive(path, io=io, verify=verify)
        try:
            self._open(columns)
        except BaseException:
            archive.close()
            raise
        self.identity = archive.identity

    def _open(self, columns: Mapping[str, Array | None] | None) -> None:
        archive = self._archive
        self._columns: dict[str, _Column] = {}
        arrays: dict[str, NDArray[Any]] = {}
        plain: dict[str, int] = {}
        names = archive.names
        # A column that this library wrote has checksums, and may have any name.
        own = {name.removesuffix(f"{CRC}.npy") for name in names if name.endswith(f"{CRC}.npy")}
        per_row = [member for member, name in enumerate(names) if name.startswith("X_s")]
        row_keys = _PER_ROW_LINES.findall("\n".join([names[member] for member in per_row]))
        if len(row_keys) < len(per_row):  # others begin with X_s too: columns of ours, or members of an unknown layout
            per_row = [m for m in per_row if _PER_ROW.fullmatch(names[m][:-4]) and names[m][:-4] not in own]
            row_keys = _PER_ROW_LINES.findall("\n".join([names[member] for member in per_row]))
        other = np.ones(len(names), bool)
        other[per_row] = False
        others = np.flatnonzero(other).tolist()
        members = {names[member][:-4]: member for member in others}
        for key, member in members.items():
            if key in own:
                plain[key] = member
            elif key == SPEC_KEY:
                self.spec = archive.array(member).tobytes().decode("utf-8", "replace")
            elif key.endswith(INDEX):
                arrays[key.removesuffix(INDEX)] = archive.array(member)
            elif key.startswith("idx_"):
                arrays[key] = archive.array(member)
            elif key.endswith((VALUES, UTF8)):
                name = key.removesuffix(VALUES).removesuffix(UTF8)
                if name + SHAPES not in members:
                    raise archive.corrupt(f"{quoted(key)} is stored without {quoted(name + SHAPES)}")
                crc = self._row_checks(members, name)
                self._columns[name] = _FlatColumn(
                    archive, member, archive.array(members[name + SHAPES]), crc, name, is_string=key.endswith(UTF8)
                )
            elif not key.endswith((SHAPES, CRC)):
                plain[key] = member
        self._open_per_row(per_row, row_keys)
        foreign = columns is None and self.spec is None
        if foreign and (unrecognized := sorted(set(plain) - {"X", "y"} - own)):
            raise SpecError(
                f"{archive.path}: the members {', '.join(map(quoted, unrecognized[:8]))} do not belong to a known "
                "layout; if their names are not damaged, list them with dtype and shape under `columns` in a spec"
            )
        for name in sorted(plain, key=lambda n: n == "y"):
            if columns is not None and name not in columns and name not in own:
                if len(archive.header(plain[name]).shape) == 1:
                    arrays.setdefault(name, archive.array(plain[name]))
                continue
            self._columns[name] = _WholeColumn(archive, plain[name], self._row_checks(members, name), name)
        if columns and plain and not self._columns:
            raise SpecError(f"{archive.path}: {unknown(next(iter(columns)), plain, 'stored column')}")
        self.columns = {name: column.array for name, column in self._columns.items()}
        self.arrays = arrays
        if per_row:
            archive.forget_names()
        else:
            archive.compare_rest()
        with error_prefix(f"{archive.path}: "):
            self._length = common_length({name: len(column) for name, column in self._columns.items()})

    def _open_per_row(self, members: list[int], row_keys: list[tuple[str, str]]) -> None:
        archive = self._archive
        rows = np.array([int(row) for row, _ in row_keys], np.int64)
        arrays = np.array([int(array or -1) for _, array in row_keys], np.int64)
        numbers = sorted(set(arrays.tolist()))
        if -1 in numbers and len(numbers) > 1:
            raise archive.corrupt("members are named X_s{row} as well as X_s{row}_a{array}, which cannot be mixed")
        if len(numbers) > MAX_ARRAYS:
            raise UnsupportedStoreError(
                f"{archive.path}: there are {len(numbers)} arrays per row; the limit is {MAX_ARRAYS}"
            )
        for number in numbers:
            name = "X" if len(numbers) == 1 else f"X{number}"
            column_members = np.array(members, np.int64)[arrays == number]
            self._columns[name] = _MembersColumn(archive, name, rows[arrays == number], column_members)

    def _row_checks(self, members: Mapping[str, int], name: str) -> NDArray[np.uint32] | None:
        if name + CRC not in members:
            return None
        checks = self._archive.array(members[name + CRC])
        if checks.dtype != np.uint32 or checks.ndim != 1:
            raise self._archive.corrupt(
                f"{quoted(name + CRC)} is {checks.dtype} of shape {checks.shape}; it must be uint32 with one axis"
            )
        return checks

    def __len__(self) -> int:
        return self._length

    def read(self, rows: NDArray[np.int64], columns: Sequence[str]) -> Columns:
        return {name: self._columns[name].read(rows) for name in columns}

    def read_row(self, row: int, columns: Sequence[str]) -> Mapping[str, NDArray[Any]]:
        return {name: self._columns[name].row(row) for name in columns}

    def shapes(self, column: str) -> NDArray[np.int64] | None:
        return self._columns[column].shapes()

    def close(self) -> None:
        self._archive.close()
