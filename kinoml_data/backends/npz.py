"""The columns of an NPZ file, for `npz-lazy` and `npz-reopen`: KinoML's three layouts and the packed one.

| layout | members |
| --- | --- |
| one array | `X`: `(rows, ...)` |
| one per row | `X_s{row}` or `X_s{row}_` |
| several per row | `X_s{row}_a{array}` or `X_s{row}_a{array}_` |
| packed | see `arrays`; besides `<column>.crc32`: uint32 `(rows,)`, over each row's bytes as stored |

The first three have `y` and, where there are splits, `idx_train`, `idx_test` and `idx_val` beside them.
"""

from __future__ import annotations

import re
import threading
import zlib
from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from kinoml_data.backend import Storage
from kinoml_data.backends.arrays import CRC, INDEX, SHAPES, SPEC, UTF8, VALUES, common_length, native, ragged_array
from kinoml_data.backends.npz_archive import Archive
from kinoml_data.columns import Column, Columns, Ragged, offsets_of
from kinoml_data.errors import CorruptStoreError, SpecError, UnsupportedStoreError, quoted
from kinoml_data.spec import Array, unknown

_PER_ROW = re.compile(r"X_s([0-9]{1,18})(?:_a([0-9]{1,9}))?_?")
_PER_ROW_LINES = re.compile(rf"^{_PER_ROW.pattern}\.npy$", re.MULTILINE)
SMALL_ROW = 16  # bytes; a column of smaller rows is held in memory once it was read
MAX_ARRAYS = 1024  # per row; each is a column, and opening takes time by their square


def row_seed(dtype: np.dtype[Any], shape: tuple[int, ...]) -> int:
    """Where the CRC-32 of each row begins: at that of the type, such as `<f4(3,)`, which the npy header alone says.

    Args:
        dtype, shape: of one row as stored; no shape for ragged rows, which have theirs in a member of its own.
    """
    return zlib.crc32(f"{dtype.str}{shape}".encode())


def row_and_array(key: str) -> tuple[int, int | None] | None:
    """What `X_s{row}_a{array}_` names, `X_s{row}_` with None for the array; None for any other key."""
    match = _PER_ROW.fullmatch(key)
    if match is None:
        return None
    row, array = match.groups()
    return int(row), None if array is None else int(array)


class NpzStorage(Storage):
    """An NPZ file opened for reading.

    Args:
        path: the file.
        columns: what the spec asks for; None to find out.
        io: "hold", "reopen" or "mmap", see `Directory`; nothing is parsed again.
        verify: "first", "always" or "never", see `Archive`.

    Raises:
        StoreNotFoundError, CorruptStoreError, UnsafeStoreError, UnsupportedStoreError: as their names say.
        SpecError: no columns are asked for and there are members of no known layout.
    """

    checked = True

    def __init__(
        self, path: Path, columns: Mapping[str, Array] | None, *, io: str = "hold", verify: str = "first"
    ) -> None:
        self._archive = archive = Archive(path, io=io, verify=verify)
        try:
            self._open(columns)
        except BaseException:
            archive.close()
            raise
        self.identity = archive.identity

    def _open(self, columns: Mapping[str, Array] | None) -> None:
        archive = self._archive
        self._columns: dict[str, _Column] = {}
        arrays: dict[str, NDArray[Any]] = {}
        plain: dict[str, int] = {}
        names = archive.names
        per_row = [member for member, name in enumerate(names) if name.startswith("X_s")]
        found = _PER_ROW_LINES.findall("\n".join([names[member] for member in per_row]))
        if len(found) < len(per_row):  # other names that begin alike: one of our own columns, or a stranger's
            own = {name[: -len(CRC + ".npy")] for name in names if name.endswith(CRC + ".npy")}
            per_row = [m for m in per_row if _PER_ROW.fullmatch(names[m][:-4]) and names[m][:-4] not in own]
            found = _PER_ROW_LINES.findall("\n".join([names[member] for member in per_row]))
        other = np.ones(len(names), bool)
        other[per_row] = False
        others = np.flatnonzero(other).tolist()
        members = {names[member][:-4]: member for member in others}
        # Our own columns have checksums beside them, whatever they are called.
        own = {key.removesuffix(CRC) for key in members if key.endswith(CRC)}
        for key, member in members.items():
            if key in own:
                plain[key] = member
            elif key == SPEC:
                self.spec = archive.array(member).tobytes().decode("utf-8", "replace")
            elif key.endswith(INDEX):
                arrays[key.removesuffix(INDEX)] = archive.array(member)
            elif key.startswith("idx_"):
                arrays[key] = archive.array(member)
            elif key.endswith((VALUES, UTF8)):
                name = key.removesuffix(VALUES).removesuffix(UTF8)
                if name + SHAPES not in members:
                    raise archive.corrupt(f"{quoted(key)} has no {quoted(name + SHAPES)} beside it")
                crc = self._row_checks(members, name)
                self._columns[name] = _PackedColumn(
                    archive, member, archive.array(members[name + SHAPES]), crc, name, is_string=key.endswith(UTF8)
                )
            elif not key.endswith((SHAPES, CRC)):
                plain[key] = member
        self._open_per_row(per_row, found)
        foreign = columns is None and self.spec is None
        if foreign and (strange := sorted(set(plain) - {"X", "y"} - own)):
            raise SpecError(
                f"{archive.path}: the members {', '.join(map(quoted, strange[:8]))} are of no known layout; "
                "where no name is damaged, list the columns in a spec, under `columns` with dtype and shape"
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
        try:
            self._length = common_length({name: len(column) for name, column in self._columns.items()})
        except CorruptStoreError as error:
            raise CorruptStoreError(f"{archive.path}: {error}") from None

    def _open_per_row(self, members: list[int], found: list[tuple[str, str]]) -> None:
        archive = self._archive
        rows = np.array([int(row) for row, _ in found], np.int64)
        arrays = np.array([int(array or -1) for _, array in found], np.int64)
        numbers = sorted(set(arrays.tolist()))
        if -1 in numbers and len(numbers) > 1:
            raise archive.corrupt("it mixes X_s{row} and X_s{row}_a{array}")
        if len(numbers) > MAX_ARRAYS:
            raise UnsupportedStoreError(f"{archive.path}: {len(numbers)} arrays per row, at most {MAX_ARRAYS} are read")
        for number in numbers:
            name = "X" if len(numbers) == 1 else f"X{number}"
            held = np.array(members, np.int64)[arrays == number]
            self._columns[name] = _MembersColumn(archive, name, rows[arrays == number], held)

    def _row_checks(self, members: Mapping[str, int], name: str) -> NDArray[np.uint32] | None:
        if name + CRC not in members:
            return None
        checks = self._archive.array(members[name + CRC])
        if checks.dtype != np.uint32 or checks.ndim != 1:
            raise self._archive.corrupt(f"{quoted(name + CRC)} is {checks.dtype} {checks.shape}, no CRC-32 of each row")
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


class _Column(ABC):
    """One column of an NPZ file, however it is laid out."""

    array: Array

    @abstractmethod
    def __len__(self) -> int: ...

    @abstractmethod
    def read(self, rows: NDArray[np.int64]) -> Column: ...

    @abstractmethod
    def row(self, row: int) -> NDArray[Any]: ...

    def shapes(self) -> NDArray[np.int64] | None:
        return None


class _Rows:
    """The bytes of rows that lie in one member, each checked against its CRC-32 when it is first read.

    Without CRCs by row the member's own is checked before its first row is read. A compressed member is
    held in memory once it was read. `row_bytes` is the length that every row has, or None.
    """

    def __init__(
        self, archive: Archive, member: int, crc: NDArray[np.uint32] | None, name: str, *, row_bytes: int | None
    ) -> None:
        self._archive, self._member, self._crc, self._name = archive, member, crc, name
        self._row_bytes = row_bytes
        small = row_bytes is not None and row_bytes <= SMALL_ROW
        header = archive.header(member)
        self._seed = row_seed(header.dtype, header.shape[1:])
        # Rows of a Fortran-ordered array are not contiguous in the file.
        self._hold = small or header.fortran or not archive.is_stored(member)
        self._held: NDArray[np.uint8] | None = None
        self._lock = threading.Lock()
        self._checked = np.zeros(0 if crc is None else len(crc), bool)
        self._skip = archive.verify == "never"

    def read(self, rows: NDArray[np.int64], starts: NDArray[np.int64], sizes: NDArray[np.int64]) -> NDArray[np.uint8]:
        if self._hold:
            held = self.held()
            if self._row_bytes:
                table: NDArray[np.uint8] = held.reshape(-1, self._row_bytes)
                return table[rows].reshape(-1)
            parts = [held[a : a + n] for a, n in zip(starts.tolist(), sizes.tolist(), strict=True)]
            return np.concatenate(parts) if parts else np.empty(0, np.uint8)
        if self._crc is None:
            self._archive.check(np.array([self._member]))
            return self._archive.extents(self._member, starts, sizes)
        out = self._archive.extents(self._member, starts, sizes)
        if not self._skip:
            self._check(rows, sizes, out)
        return out

    def row(self, row: int, start: int, out: NDArray[Any]) -> NDArray[Any]:
        """Fill `out` with the bytes of one row, as `read` does; returns it."""
        if self._hold:
            out.reshape(-1).view(np.uint8)[:] = self.held()[start : start + out.nbytes]
            return out
        if self._crc is None:
            self._archive.check(np.array([self._member]))
        self._archive.extent(self._member, start, out)
        if self._crc is not None and not (self._skip or self._checked[row]):
            self._check(np.array([row]), np.array([out.nbytes]), out.reshape(-1).view(np.uint8))
        return out

    def held(self) -> NDArray[np.uint8]:
        """The bytes of all rows, read once and kept."""
        if self._held is not None:
            return self._held
        with self._lock:
            held = self._held
            if held is None:
                self._held = held = self._archive.array(self._member).reshape(-1).view(np.uint8)
            return held

    def _check(self, rows: NDArray[np.int64], sizes: NDArray[np.int64], out: NDArray[np.uint8]) -> None:
        assert self._crc is not None
        always = self._archive.verify == "always"
        if self._checked[rows].all():
            return
        view, ends, seed = out.data, np.cumsum(sizes).tolist(), self._seed
        for row, size, end in zip(rows.tolist(), sizes.tolist(), ends, strict=True):
            if not self._checked[row] and (found := zlib.crc32(view[end - size : end], seed)) != self._crc[row]:
                said = int(self._crc[row])
                raise self._archive.corrupt(
                    f"column {quoted(self._name)}, row {row}: its CRC-32 is {found:#010x}, stored is {said:#010x}"
                )
            self._checked[row] = not always


class _WholeColumn(_Column):
    """A fixed column in one member, `(rows, *shape)`."""

    def __init__(self, archive: Archive, member: int, crc: NDArray[np.uint32] | None, name: str) -> None:
        header = archive.header(member)
        if not header.shape:
            raise archive.corrupt(f"member {quoted(name)} has no axis of rows")
        self.array = Array(header.dtype, header.shape[1:])
        self._shape = header.shape[1:]
        self._dtype, self._length = header.dtype, header.shape[0]
        self._row_bytes = header.nbytes // max(1, self._length)
        if crc is not None and crc.shape != (self._length,):
            raise archive.corrupt(f"column {quoted(name)} has {self._length} rows and {len(crc)} checksums")
        self._scalars: NDArray[Any] | None = None  # small rows as an array, once they are held
        small = self._row_bytes <= SMALL_ROW
        self._rows = _Rows(archive, member, crc, name, row_bytes=self._row_bytes)
        if small or header.fortran or not archive.is_stored(member):
            self._dtype = header.dtype.newbyteorder("=")  # `Archive.array` gives native order

    def __len__(self) -> int:
        return self._length

    def row(self, row: int) -> NDArray[Any]:
        if self._scalars is not None:
            return self._scalars[row, ...].copy()
        out = self._rows.row(row, row * self._row_bytes, np.empty(self._shape, self._dtype))
        if self._row_bytes <= SMALL_ROW:
            self._scalars = self._rows.held().view(self._dtype).reshape(self._length, *self._shape)
        return native(out)

    def read(self, rows: NDArray[np.int64]) -> Column:
        shape = self._shape
        size = np.full(len(rows), self._row_bytes, np.int64)
        data = self._rows.read(rows, rows * self._row_bytes, size)
        return native(data.view(self._dtype).reshape(len(rows), *shape))


class _PackedColumn(_Column):
    """A ragged column or strings: `<column>.values` or `.utf8`, and `<column>.shapes`."""

    def __init__(
        self,
        archive: Archive,
        member: int,
        shapes: NDArray[Any],
        crc: NDArray[np.uint32] | None,
        name: str,
        *,
        is_string: bool,
    ) -> None:
        header = archive.header(member)
        if shapes.dtype.kind not in "iu":
            raise archive.corrupt(f"column {quoted(name)}: its shapes are {shapes.dtype}")
        self._shapes = shapes.astype(np.int64, copy=False)
        self.array = ragged_array(name, header.dtype, self._shapes, is_string=is_string)
        self._offsets = offsets_of(self._shapes)
        self._ends = self._offsets.data
        self._dtype = header.dtype
        if header.shape != (int(self._offsets[-1]),):
            raise archive.corrupt(
                f"column {quoted(name)} holds {header.shape} values, its shapes say {int(self._offsets[-1])}"
            )
        if crc is not None and crc.shape != (len(shapes),):
            raise archive.corrupt(f"column {quoted(name)} has {len(shapes)} rows and {len(crc)} checksums")
        if not archive.is_stored(member):
            self._dtype = header.dtype.newbyteorder("=")
        self._rows = _Rows(archive, member, crc, name, row_bytes=None)

    def __len__(self) -> int:
        return len(self._shapes)

    def row(self, row: int) -> NDArray[Any]:
        # As a list: an array for a shape costs numpy more than making the array.
        out = np.empty(self._shapes[row].tolist(), self._dtype)
        return native(self._rows.row(row, self._ends[row] * self._dtype.itemsize, out))

    def read(self, rows: NDArray[np.int64]) -> Column:
        starts, size = self._offsets[rows], self._dtype.itemsize
        data = self._rows.read(rows, starts * size, (self._offsets[rows + 1] - starts) * size)
        values = native(data.view(self._dtype))
        if self.array.ragged or self.array.is_string:
            return Ragged(values, self._shapes[rows])
        return values.reshape(len(rows), *(axis or 0 for axis in self.array.shape))

    def shapes(self) -> NDArray[np.int64]:
        return self._shapes


class _MembersColumn(_Column):
    """A column of one member per row, as KinoML writes them."""

    def __init__(self, archive: Archive, name: str, rows: NDArray[np.int64], members: NDArray[np.int64]) -> None:
        self._archive = archive
        self._members = np.empty(len(rows), np.int64)
        if len(rows) != rows.max() + 1 or np.bincount(rows).max() > 1:
            missing = np.setdiff1d(np.arange(int(rows.max()) + 1 if rows.max() < 10 * len(rows) else len(rows)), rows)
            said = f"row {int(missing[0])} is missing" if len(missing) else "a row stands twice"
            raise archive.corrupt(f"column {quoted(name)}: {said}")
        self._members[rows] = members
        kinds = archive.resolve(self._members)
        used = np.flatnonzero(np.bincount(kinds))
        headers = [archive.headers[kind] for kind in used.tolist()]
        dtypes = {header.dtype for header in headers}
        ranks = {len(header.shape) for header in headers}
        if len(dtypes) > 1 or len(ranks) > 1:
            said = f"dtypes {sorted(map(str, dtypes))} and ranks {sorted(ranks)}"
            raise UnsupportedStoreError(f"{archive.path}: the rows of column {quoted(name)} have {said}")
        self._dtype, self._ndim = dtypes.pop(), ranks.pop()
        self._fortran = any(header.fortran for header in headers) and self._ndim > 1
        # The shape of each header of the archive; only this column's are of its rank.
        self._table = self._shape_table()
        self.array = ragged_array(name, self._dtype, self._table[used])

    def _shape_table(self) -> NDArray[np.int64]:
        table = np.zeros((len(self._archive.headers), self._ndim), np.int64)
        for kind, header in enumerate(self._archive.headers):
            if len(header.shape) == self._ndim:
                table[kind] = header.shape
        return table

    def __len__(self) -> int:
        return len(self._members)

    def row(self, row: int) -> NDArray[Any]:
        member = self._members.item(row)
        data, header = self._archive.member(member)
        values = data.view(self._dtype).reshape(header.shape, order="F" if header.fortran else "C")
        return np.ascontiguousarray(values, self._dtype.newbyteorder("=")) if header.fortran else native(values)

    def read(self, rows: NDArray[np.int64]) -> Column:
        members = self._members[rows]
        kinds = self._archive.resolve(members)
        values = native(self._archive.gather(members).view(self._dtype))
        shapes = self._table[kinds].reshape(len(rows), self._ndim)
        if self._fortran:
            values = self._in_c_order(values, shapes, kinds)
        if self.array.ragged:
            return Ragged(values, shapes)
        return values.reshape(len(rows), *(axis or 0 for axis in self.array.shape))

    def _in_c_order(self, values: NDArray[Any], shapes: NDArray[np.int64], kinds: NDArray[np.int32]) -> NDArray[Any]:
        ends = offsets_of(shapes).tolist()
        for row, kind in enumerate(kinds.tolist()):
            if self._archive.headers[kind].fortran:
                part = values[ends[row] : ends[row + 1]]
                part[:] = part.reshape(shapes[row], order="F").copy().reshape(-1)
        return values

    def shapes(self) -> NDArray[np.int64]:
        return self._table[self._archive.resolve(self._members)]
