"""The columns of an NPZ file, one class for each way in which a column can be stored."""

from __future__ import annotations

import threading
from abc import ABC, abstractmethod
from typing import Any

import numpy as np
from numpy.typing import NDArray

from kinoml_data.backends.npz.archive import Archive
from kinoml_data.columns import Column, Ragged, offsets_of
from kinoml_data.errors import UnsupportedStoreError, error_prefix, quoted
from kinoml_data.layouts.checksums import row_difference
from kinoml_data.layouts.flat_arrays import ragged_array, ragged_layout, to_native_order
from kinoml_data.spec.array import Array

_NO_VALUES = np.empty(0, np.uint8)
SMALL_ROW = 16  # bytes; a column with rows of up to this size is kept in memory when it is first read


class _Column(ABC):
    """One column of an NPZ file."""

    array: Array

    @abstractmethod
    def __len__(self) -> int: ...

    @abstractmethod
    def read(self, rows: NDArray[np.int64]) -> Column: ...

    @abstractmethod
    def row(self, row: int) -> NDArray[Any]: ...

    def shapes(self) -> NDArray[np.int64] | None:
        return None


class _RowBytes:
    """The bytes of rows that one member contains, with the checksums of the rows.

    Without checksums of the rows, the member is compared with its own CRC-32 before its first row is read.

    Attributes:
        in_memory: True if the member is read whole when its first row is read, and is then kept in memory.

    Args:
        row_bytes: the size of every row; None if rows differ.
    """

    def __init__(
        self,
        archive: Archive,
        member: int,
        crc: NDArray[np.uint32] | None,
        name: str,
        *,
        length: int,
        row_bytes: int | None,
    ) -> None:
        if crc is not None and crc.shape != (length,):
            raise archive.corrupt(f"column {quoted(name)} has {length} rows and {len(crc)} checksums")
        self._archive, self._member, self._crc, self._name = archive, member, crc, name
        self._row_bytes = row_bytes
        small = row_bytes is not None and row_bytes <= SMALL_ROW
        header = archive.header(member)
        # Rows of a Fortran-ordered array are not contiguous in the file.
        self.in_memory = small or header.fortran or not archive.is_stored(member)
        self._content: NDArray[np.uint8] | None = None
        self._lock = threading.Lock()
        self._checked = np.zeros(0 if crc is None else len(crc), bool)
        self._skip = archive.verify == "never"

    def read(self, rows: NDArray[np.int64], starts: NDArray[np.int64], sizes: NDArray[np.int64]) -> NDArray[np.uint8]:
        if self.in_memory:
            content = self.content()
            if self._row_bytes:
                table: NDArray[np.uint8] = content.reshape(-1, self._row_bytes)
                return table[rows].reshape(-1)
            parts = [content[a : a + n] for a, n in zip(starts.tolist(), sizes.tolist(), strict=True)]
            return np.concatenate(parts) if parts else np.empty(0, np.uint8)
        if self._crc is None:
            self._archive.check(np.array([self._member]))
        return self._archive.extents(self._member, starts, sizes)

    def row(self, start: int, out: NDArray[Any]) -> NDArray[Any]:
        """Fill `out` with the bytes of one row, as `read` does; returns it."""
        if self.in_memory:
            out.reshape(-1).view(np.uint8)[:] = self.content()[start : start + out.nbytes]
            return out
        if self._crc is None:
            self._archive.check(np.array([self._member]))
        self._archive.extent(self._member, start, out)
        return out

    def content(self) -> NDArray[np.uint8]:
        """The bytes of all rows, which are read once."""
        if self._content is not None:
            return self._content
        with self._lock:
            content = self._content
            if content is None:
                self._content = content = self._archive.array(self._member).reshape(-1).view(np.uint8)
            return content

    def checked(self, row: int) -> bool:
        """True if nothing is left to compare of one row."""
        return self._crc is None or self._skip or self.in_memory or bool(self._checked[row])

    def check(self, rows: NDArray[np.int64], column: Column, *, is_string: bool) -> None:
        """Compare rows that were read with their checksums, unless they were compared before."""
        if self._crc is None or self._skip or self.in_memory or (checked := self._checked[rows]).all():
            return
        if checked.any():
            new = np.flatnonzero(~checked)
            rows, column = rows[new], column.take(new) if isinstance(column, Ragged) else column[new]
        if problem := row_difference(column, rows, self._crc[rows], is_string=is_string):
            raise self._archive.corrupt(f"column {quoted(self._name)}, {problem}")
        self._checked[rows] = self._archive.verify == "first"


class _WholeColumn(_Column):
    """A fixed column in one member, `(rows, *shape)`."""

    def __init__(self, archive: Archive, member: int, crc: NDArray[np.uint32] | None, name: str) -> None:
        header = archive.header(member)
        if not header.shape:
            raise archive.corrupt(f"member {quoted(name)} is a single value, not a sequence of rows")
        self.array = Array(header.dtype, header.shape[1:])
        self._shape = header.shape[1:]
        self._dtype, self._length = header.dtype, header.shape[0]
        self._row_bytes = header.nbytes // max(1, self._length)
        self._scalars: NDArray[Any] | None = None  # the array of small rows, once they were read
        self._rows = _RowBytes(archive, member, crc, name, length=self._length, row_bytes=self._row_bytes)
        if self._rows.in_memory:
            self._dtype = header.dtype.newbyteorder("=")  # `Archive.array` gives native order

    def __len__(self) -> int:
        return self._length

    def row(self, row: int) -> NDArray[Any]:
        if self._scalars is not None:
            return self._scalars[row, ...].copy()
        out = to_native_order(self._rows.row(row * self._row_bytes, np.empty(self._shape, self._dtype)))
        if self._row_bytes <= SMALL_ROW:
            self._scalars = self._rows.content().view(self._dtype).reshape(self._length, *self._shape)
        if not self._rows.checked(row):
            self._rows.check(np.array([row]), out[None], is_string=False)
        return out

    def read(self, rows: NDArray[np.int64]) -> Column:
        shape = self._shape
        size = np.full(len(rows), self._row_bytes, np.int64)
        data = self._rows.read(rows, rows * self._row_bytes, size)
        column = to_native_order(data.view(self._dtype).reshape(len(rows), *shape))
        self._rows.check(rows, column, is_string=False)
        return column


class _FlatColumn(_Column):
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
        with error_prefix(f"{archive.path}: "):
            self.array, self._shapes, self._offsets = ragged_layout(name, header, shapes, is_string=is_string)
        self._ends = self._offsets.data
        self._dtype = header.dtype
        if not archive.is_stored(member):
            self._dtype = header.dtype.newbyteorder("=")
        self._rows = _RowBytes(archive, member, crc, name, length=len(shapes), row_bytes=None)

    def __len__(self) -> int:
        return len(self._shapes)

    def row(self, row: int) -> NDArray[Any]:
        # As a list: an array for a shape costs numpy more than making the array.
        out = np.empty(self._shapes[row].tolist(), self._dtype)
        out = to_native_order(self._rows.row(self._ends[row] * self._dtype.itemsize, out))
        if not self._rows.checked(row):
            self._rows.check(np.array([row]), out[None], is_string=self.array.is_string)
        return out

    def read(self, rows: NDArray[np.int64]) -> Column:
        size = self._dtype.itemsize
        layout = Ragged(_NO_VALUES, self._shapes[rows])
        data = self._rows.read(rows, self._offsets[rows] * size, np.diff(layout.offsets) * size)
        values = to_native_order(data.view(self._dtype))
        column: Column = layout.with_values(values)
        if not self.array.rows_differ:  # stored as ragged, but all rows agree
            column = values.reshape(len(rows), *self.array.row_shape)
        self._rows.check(rows, column, is_string=self.array.is_string)
        return column

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
        return (
            np.ascontiguousarray(values, self._dtype.newbyteorder("=")) if header.fortran else to_native_order(values)
        )

    def read(self, rows: NDArray[np.int64]) -> Column:
        members = self._members[rows]
        kinds = self._archive.resolve(members)
        values = to_native_order(self._archive.gather(members).view(self._dtype))
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
