"""The columns of an NPZ file, one class for each way in which a column can be stored."""

from __future__ import annotations

import sys
import threading
from abc import ABC, abstractmethod
from collections.abc import Mapping
from functools import cached_property
from typing import Any

import numpy as np
from numpy.typing import NDArray

from kinoml_data.backends.npz.archive import Archive
from kinoml_data.columns import Column, Ragged, offsets_of
from kinoml_data.errors import UnsupportedStoreError, error_prefix, one_line, quoted
from kinoml_data.layouts.checksums import row_difference
from kinoml_data.layouts.flat_arrays import CRC, SHAPES, VALUES, ragged_array, ragged_layout, to_native_order
from kinoml_data.layouts.npy import NpyHeader
from kinoml_data.spec.array import STRING, Array

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

    def row_arrays(self) -> dict[str, NDArray[Any]]:
        """See `Storage.row_arrays`; the names are suffixes."""
        return {}

    def share_row_arrays(self, arrays: Mapping[str, NDArray[Any]]) -> None:  # noqa: B027 - there may be none
        """See `Storage.share_row_arrays`."""


class _RowBytes:
    """The bytes of rows that one member contains, with the checksums of the rows.

    Without checksums of the rows, the member is compared with its own CRC-32 before its first row is read.

    Attributes:
        in_memory: True if the member is read whole when its first row is read, and is then kept in memory.
        crc: uint32 `(rows,)`, the checksums to compare rows with; None if none are compared.
        dtype: the dtype of the values, with the byte order of the bytes.

    Args:
        length: the number of rows.
        what: what their numbers count, for messages: "distinct row" if the column has keys.
        small: True if the rows are so small that they are kept in memory.
    """

    def __init__(
        self,
        archive: Archive,
        member: int,
        crc: NDArray[np.uint32] | None,
        name: str,
        *,
        length: int,
        what: str = "row",
        small: bool = False,
    ) -> None:
        if crc is not None and crc.shape != (length,):
            raise archive.corrupt(f"column {quoted(name)} has {length} rows, but {len(crc)} checksums")
        self._archive, self._member, self._name, self._what = archive, member, name, what
        header = archive.header(member)
        # Rows of a Fortran-ordered array are not contiguous in the file.
        self.in_memory = small or header.fortran or not archive.is_stored(member)
        # `Archive.array` gives native order.
        self.dtype = header.dtype.newbyteorder("=") if self.in_memory else header.dtype
        self._content: NDArray[np.uint8] | None = None
        self._lock = threading.Lock()
        self._by_member = crc is None
        self.crc = None if self.in_memory or archive.verify == "never" else crc

    @property
    def checked(self) -> NDArray[np.bool_]:
        """Marks the rows that were compared with their checksums.

        It is another array after the file was rechecked, so take it before a read and pass it to `check`.
        """
        by_column = self._archive.checked_rows
        checked = by_column.get(self._name)
        if checked is None:
            checked = by_column.setdefault(self._name, np.zeros(0 if self.crc is None else len(self.crc), bool))
        return checked

    def read(self, starts: NDArray[np.int64], sizes: NDArray[np.int64]) -> NDArray[np.uint8]:
        if self.in_memory:
            content = self.content()
            parts = [content[a : a + n] for a, n in zip(starts.tolist(), sizes.tolist(), strict=True)]
            return np.concatenate(parts) if parts else np.empty(0, np.uint8)
        if self._by_member:
            return self._archive.checked(self._member, lambda: self._archive.extents(self._member, starts, sizes))
        return self._archive.extents(self._member, starts, sizes)

    def row(self, start: int, out: NDArray[Any]) -> NDArray[Any]:
        """Fill `out` with the bytes of one row, as `read` does; returns it."""
        if self.in_memory:
            out.reshape(-1).view(np.uint8)[:] = self.content()[start : start + out.nbytes]
            return out
        if self._by_member:
            self._archive.checked(self._member, lambda: self._archive.extent(self._member, start, out))
        else:
            self._archive.extent(self._member, start, out)
        return out

    def content(self) -> NDArray[np.uint8]:
        """The bytes of all rows. They are read at the first call."""
        if self._content is not None:
            return self._content
        with self._lock:
            content = self._content
            if content is None:
                self._content = content = self._archive.array(self._member).reshape(-1).view(np.uint8)
            return content

    def check_row(self, row: int, values: NDArray[Any], checked: NDArray[np.bool_], *, is_string: bool) -> None:
        """Compare one row with its checksum after reading it, unless it was compared before."""
        if self.crc is not None and not (checked is self.checked and checked[row]):
            self.check(np.array([row]), values[None], checked, is_string=is_string)

    def check(self, rows: NDArray[np.int64], column: Column, checked: NDArray[np.bool_], *, is_string: bool) -> None:
        """Compare rows with their checksums after reading them, unless they were compared before."""
        if self.crc is None:
            return
        if checked is self.checked and (known := checked[rows]).any():
            if known.all():
                return
            new = np.flatnonzero(~known)
            rows, column = rows[new], column.take(new) if isinstance(column, Ragged) else column[new]
        if problem := row_difference(column, rows, self.crc[rows], is_string=is_string, what=self._what):
            raise self._archive.corrupt(f"column {quoted(self._name)}, {problem}")
        checked[rows] = self._archive.verify == "first"


def _require_rows(archive: Archive, member: int, header: NpyHeader) -> None:
    if not header.shape:
        raise UnsupportedStoreError(
            f"{archive.where(member)} is a single value, not a sequence of rows; store it with one entry per row"
        )


class _WholeColumn(_Column):
    """A fixed column in one member, `(rows, *shape)`."""

    def __init__(
        self, archive: Archive, member: int, crc: NDArray[np.uint32] | None, name: str, what: str = "row"
    ) -> None:
        header = archive.header(member)
        _require_rows(archive, member, header)
        self.array = Array(header.dtype, header.shape[1:])
        self._shape, self._length = header.shape[1:], header.shape[0]
        self._row_bytes = header.nbytes // max(1, self._length)
        small = self._row_bytes <= SMALL_ROW
        self._rows = _RowBytes(archive, member, crc, name, length=self._length, what=what, small=small)

    def __len__(self) -> int:
        return self._length

    def row_arrays(self) -> dict[str, NDArray[Any]]:
        return {} if self._rows.crc is None else {CRC: self._rows.crc}

    def share_row_arrays(self, arrays: Mapping[str, NDArray[Any]]) -> None:
        self._rows.crc = arrays.get(CRC)

    @cached_property
    def _table(self) -> NDArray[Any]:
        """All rows, if they are kept in memory."""
        return self._rows.content().view(self._rows.dtype).reshape(self._length, *self._shape)

    def row(self, row: int) -> NDArray[Any]:
        if self._rows.in_memory:
            return self._table[row, ...].copy()
        checked = self._rows.checked
        out = to_native_order(self._rows.row(row * self._row_bytes, np.empty(self._shape, self._rows.dtype)))
        self._rows.check_row(row, out, checked, is_string=False)
        return out

    def read(self, rows: NDArray[np.int64]) -> Column:
        if self._rows.in_memory:
            return self._table[rows]
        checked = self._rows.checked
        data = self._rows.read(rows * self._row_bytes, np.full(len(rows), self._row_bytes, np.int64))
        column = to_native_order(data.view(self._rows.dtype).reshape(len(rows), *self._shape))
        self._rows.check(rows, column, checked, is_string=False)
        return column


class _TextColumn(_Column):
    """Text of fixed width in one member, `(rows,)`: numpy's `<U`, or the UTF-8 bytes of `|S`."""

    array = Array(STRING)

    def __init__(self, archive: Archive, member: int, name: str) -> None:
        header = archive.header(member)
        _require_rows(archive, member, header)
        if len(header.shape) > 1:
            raise UnsupportedStoreError(
                f"{archive.where(member)} contains text with {len(header.shape)} axes; store one text per row"
            )
        self._where, self._length = archive.where(member), header.shape[0]
        self._rows = _RowBytes(archive, member, None, name, length=self._length)

    def __len__(self) -> int:
        return self._length

    def row(self, row: int) -> NDArray[Any]:
        return self.read(np.array([row])).values

    def read(self, rows: NDArray[np.int64]) -> Ragged:
        size = self._rows.dtype.itemsize
        data = self._rows.read(rows * size, np.full(len(rows), size, np.int64)).view(self._rows.dtype)
        try:
            return _utf8(data)
        except ValueError:
            for row, text in zip(rows.tolist(), data[:, None], strict=True):
                try:
                    _utf8(text)
                except ValueError as error:
                    raise UnsupportedStoreError(
                        f"{self._where}, row {row} is not valid text: {one_line(error)}; store it as valid Unicode, "
                        'or decode bytes first, as with np.char.decode(values, "latin-1")'
                    ) from None
            raise


def _utf8(texts: NDArray[Any]) -> Ragged:
    """The UTF-8 bytes of an array of text `(n,)`.

    Raises:
        ValueError: a text is not valid UTF-8 or Unicode.
    """
    if texts.dtype.kind == "S":
        return Ragged.from_strings([item.decode() for item in texts.tolist()])
    texts = np.ascontiguousarray(to_native_order(texts))
    if texts.view(np.uint32).max(initial=0) > sys.maxunicode:
        raise ValueError("it contains a number beyond Unicode")
    return Ragged.from_strings(texts.tolist())  # numpy leaves out the NULs that fill an item


class _FlatColumn(_Column):
    """A ragged column or strings: `<column>.values` or `.utf8`, and `<column>.shapes`."""

    def __init__(
        self,
        archive: Archive,
        member: int,
        shapes: NDArray[Any],
        crc: NDArray[np.uint32] | None,
        name: str,
        what: str = "row",
        *,
        is_string: bool,
    ) -> None:
        header = archive.header(member)
        with error_prefix(f"{archive.path}: "):
            self.array, self._shapes, self._offsets = ragged_layout(name, header, shapes, is_string=is_string)
        self._ends = self._offsets.data
        self._rows = _RowBytes(archive, member, crc, name, length=len(shapes), what=what)
        self._dtype = self._rows.dtype

    def __len__(self) -> int:
        return len(self._shapes)

    def row(self, row: int) -> NDArray[Any]:
        # The shape is a list, because numpy takes longer to convert an array to a shape than to make the result.
        checked, out = self._rows.checked, np.empty(self._shapes[row].tolist(), self._dtype)
        out = to_native_order(self._rows.row(self._ends[row] * self._dtype.itemsize, out))
        self._rows.check_row(row, out, checked, is_string=self.array.is_string)
        return out

    def read(self, rows: NDArray[np.int64]) -> Column:
        checked, size = self._rows.checked, self._dtype.itemsize
        layout = Ragged(_NO_VALUES, self._shapes[rows])
        data = self._rows.read(self._offsets[rows] * size, np.diff(layout.offsets) * size)
        values = to_native_order(data.view(self._dtype))
        column: Column = layout.with_values(values)
        if not self.array.rows_differ:  # stored as ragged, but all rows have one shape
            column = values.reshape(len(rows), *self.array.row_shape)
        self._rows.check(rows, column, checked, is_string=self.array.is_string)
        return column

    def shapes(self) -> NDArray[np.int64]:
        return self._shapes

    def row_arrays(self) -> dict[str, NDArray[Any]]:
        crc = {} if self._rows.crc is None else {CRC: self._rows.crc}
        return {SHAPES: self._shapes, VALUES: self._offsets, **crc}

    def share_row_arrays(self, arrays: Mapping[str, NDArray[Any]]) -> None:
        self._shapes, self._offsets, self._rows.crc = arrays[SHAPES], arrays[VALUES], arrays.get(CRC)
        self._ends = self._offsets.data


class _MembersColumn(_Column):
    """A column that is stored as one member per row, as KinoML writes it."""

    def __init__(self, archive: Archive, name: str, rows: NDArray[np.int64], members: NDArray[np.int64]) -> None:
        self._archive = archive
        self._members = np.empty(len(rows), np.int64)
        if len(rows) != rows.max() + 1 or np.bincount(rows).max() > 1:
            missing = np.setdiff1d(np.arange(int(rows.max()) + 1 if rows.max() < 10 * len(rows) else len(rows)), rows)
            problem = f"row {int(missing[0])} is missing" if len(missing) else "a row is stored twice"
            raise archive.corrupt(f"column {quoted(name)}: {problem}")
        self._members[rows] = members
        kinds = archive.resolve(self._members)
        used = np.flatnonzero(np.bincount(kinds))
        headers = [archive.headers[kind] for kind in used.tolist()]
        for kind, header in zip(used.tolist(), headers, strict=True):
            if header.problem or header.is_text:
                where = archive.where(int(self._members[int((kinds == kind).argmax())]))
                if header.problem:
                    raise header.refusal(where)
                raise UnsupportedStoreError(f"{where} contains text; store the texts of all rows in one array")
        dtypes = {header.dtype for header in headers}
        ranks = {len(header.shape) for header in headers}
        if len(dtypes) > 1 or len(ranks) > 1:
            raise UnsupportedStoreError(
                f"{archive.path}: the rows of column {quoted(name)} differ in dtype or number of axes: "
                f"dtypes {sorted(map(str, dtypes))}, numbers of axes {sorted(ranks)}"
            )
        self._dtype, self._ndim = dtypes.pop(), ranks.pop()
        self._fortran = any(header.fortran for header in headers) and self._ndim > 1
        # The shape in each npy header of the archive; headers with another number of axes belong to other columns.
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
        # Not `ascontiguousarray`, which gives a single value an axis.
        return np.asarray(values, self._dtype.newbyteorder("="), order="C")

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
