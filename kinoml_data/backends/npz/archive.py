"""The arrays of an NPZ file, each compared with its header and its CRC-32.

Format: npy arrays inside a zip file. Members are described by numpy arrays and not by one Python object each, because
there may be one member per row.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, TypeVar

import numpy as np
from numpy.lib.stride_tricks import sliding_window_view
from numpy.typing import NDArray

from kinoml_data.backends.npz.zip_directory import Directory, Io
from kinoml_data.errors import CorruptStoreError, UnsafeStoreError, UnsupportedStoreError, quoted
from kinoml_data.files import PositionedFile
from kinoml_data.layouts import npy
from kinoml_data.layouts.checksums import part_checksums, zlib
from kinoml_data.layouts.npy import NpyHeader

NPY_WIDTH = 128  # bytes in which most npy headers fit
CHUNK = 1 << 22
_NPY_1_0 = int.from_bytes(b"\x93NUMPY\1\0", "little")
T = TypeVar("T")


class Archive(Directory):
    """The members of an NPZ file.

    Args:
        path: the file.
        io: see `Io`.
        verify: "first" compares a member with its CRC-32 when it is first read, "always" compares each time, "never"
            does not compare.

    Raises:
        CorruptStoreError, UnsafeStoreError, UnsupportedStoreError, StoreNotFoundError, StoreReadError: see `Directory`.
    """

    def __init__(self, path: Path, *, io: Io = "keep-open", verify: str = "first") -> None:
        super().__init__(path, io=io)
        self.verify = verify
        # Where each array begins: in the file if its member is stored, in the inflated content if it is compressed.
        self._payload = np.full(len(self), -1, np.int64)
        self._kind = np.full(len(self), -1, np.int32)
        self._checked = np.zeros(len(self), bool)  # a new array after each change of the file's time stamp
        self.checked_rows: dict[str, NDArray[np.bool_]] = {}  # by column; a new dict after such a change
        if verify != "never":  # without comparisons, nothing shows that the content is the same
            self.file.recheck_with(self.same_content)
        self.headers: list[NpyHeader] = []
        self._known: dict[bytes, int] = {}
        self._crcs: list[int] = []  # of the bytes of each header
        self._sizes = np.empty((0, 2), np.int64)  # length and nbytes of each header

    def same_content(self, file: PositionedFile) -> bool:
        """See `PositionedFile.recheck_with`. Everything that is read afterwards is compared again."""
        self._checked, self.checked_rows = np.zeros(len(self), bool), {}
        return Directory.of(file).identity == self.identity

    # -- headers

    def resolve(self, members: NDArray[np.int64]) -> NDArray[np.int32]:
        """Read and compare the headers of some members; returns the position of each npy header in `headers`.

        An array whose header has a `problem` cannot be read.

        Raises:
            CorruptStoreError: a member is not an npy array, or its headers disagree.
            UnsupportedStoreError, UnsafeStoreError: see `Directory.check_supported`.
        """
        kinds = self._kind[members]
        if (kinds < 0).any():
            unresolved = np.zeros(len(self), bool)
            unresolved[members] = self._kind[members] < 0
            todo = np.flatnonzero(unresolved)
            for a in range(0, len(todo), 1 << 15):
                self._resolve(todo[a : a + (1 << 15)])
            kinds = self._kind[members]
        return kinds

    def compare_rest(self) -> None:
        """Compare the local headers of members that were not resolved, so that no damaged name hides a member."""
        todo = np.flatnonzero(self._kind < 0)
        for a in range(0, len(todo), 1 << 15):
            self.compare_headers(todo[a : a + (1 << 15)], 0)

    def _resolve(self, members: NDArray[np.int64]) -> None:
        heads, at = self.compare_headers(members, NPY_WIDTH)
        self.check_supported(members)
        width, stored = heads.shape[1], self._method[members] == 0
        kinds = np.full(len(members), -1, np.int32)
        # Most headers have version 1.0 and one of a few lengths. Each distinct header is parsed once.
        read = np.flatnonzero(stored & (at + NPY_WIDTH <= width))
        begun = sliding_window_view(heads.reshape(-1), NPY_WIDTH)[read * width + at[read]]
        plain = np.ascontiguousarray(begun[:, :8]).view("<u8")[:, 0] == _NPY_1_0
        lengths = np.where(plain, 10 + begun[:, 8].astype(np.int64) + 256 * begun[:, 9].astype(np.int64), 0)
        lengths[lengths > np.minimum(NPY_WIDTH, self._usize[members[read]])] = 0
        for length in np.flatnonzero(np.bincount(lengths[lengths > 0])).tolist():
            same = np.flatnonzero(lengths == length)
            texts = np.ascontiguousarray(begun[same, :length]).view(f"V{length}").reshape(-1).tolist()
            for text in [text for text in dict.fromkeys(texts) if text not in self._known]:
                self._header_number(text, int(members[read[same[texts.index(text)]]]))
            kinds[read[same]] = list(map(self._known.__getitem__, texts))
        for i in np.flatnonzero(kinds < 0).tolist():
            kinds[i] = self._header_number(self._whole_header(int(members[i])), int(members[i]))
        # The size of an array that is not read may not be known.
        shown = [(header.length, -1 if header.problem else header.nbytes) for header in self.headers]
        self._sizes = np.array(shown, np.int64).reshape(-1, 2)
        sizes = self._sizes[kinds]
        if (wrong := (sizes.sum(axis=1) != self._usize[members]) & (sizes[:, 1] >= 0)).any():
            i = int(wrong.argmax())
            size = int(self._usize[members[i]]) - int(sizes[i, 0])
            name = quoted(self.name(int(members[i])))
            raise self.corrupt(f"member {name} has {size} bytes, but its npy header specifies {int(sizes[i, 1])}")
        self._payload[members] = sizes[:, 0] + np.where(stored, self._offset[members] + at, 0)
        self._kind[members] = kinds

    def _whole_header(self, member: int) -> bytes:
        """The bytes of the npy header of a member, if it is compressed or its header is an unusual one."""
        compressed = bool(self._method[member])
        size, start = int(self._usize[member]), int(self.start(member))
        if compressed:
            head = self._inflated(start, min(int(self._csize[member]), 4096), member)
        else:
            head = bytes(self.file.read(start, min(size, NPY_WIDTH)))
        head = head[:size]
        try:
            length = npy.header_length(head)
        except CorruptStoreError as error:
            raise self._named_error(member, error) from None
        if length > size:
            raise self.corrupt(f"member {quoted(self.name(member))} is shorter than its npy header")
        if length > len(head):
            head = bytes(self._content(member)) if compressed else bytes(self.file.read(start, length))
        return head[:length]

    def _inflated(self, start: int, size: int, member: int) -> bytes:
        try:
            begun: bytes = zlib.decompressobj(-15).decompress(bytes(self.file.read(start, size)), 512)
            return begun
        except zlib.error as error:
            raise self.corrupt(f"member {quoted(self.name(member))}: {error}") from None

    def _header_number(self, text: bytes, member: int) -> int:
        kind = self._known.get(text)
        if kind is None:
            try:
                self.headers.append(npy.parse(text))
            except CorruptStoreError as error:
                raise self._named_error(member, error) from None
            self._crcs.append(zlib.crc32(text))
            kind = self._known[text] = len(self.headers) - 1
        return kind

    def _named_error(self, member: int, error: CorruptStoreError) -> Exception:
        return type(error)(f"{self.where(member)} {error}")

    def where(self, member: int) -> str:
        """The file and the name of a member, for messages."""
        return f"{self.path}: member {quoted(self.name(member))}"

    def are_resolved(self, members: NDArray[np.int64]) -> bool:
        """True if the headers of all these members are known."""
        return bool((self._kind[members] >= 0).all())

    # -- content

    def header(self, member: int) -> NpyHeader:
        """The npy header of one member, whose array can be read; raises the errors of `resolve`.

        Raises:
            UnsupportedStoreError: the array cannot be read, see `NpyHeader.problem`.
            UnsafeStoreError: the array contains Python objects.
        """
        header = self.headers[int(self.resolve(np.array([member]))[0])]
        if header.problem:
            raise header.refusal(self.where(member))
        return header

    @contextmanager
    def unless_damaged(self, members: NDArray[np.int64]) -> Iterator[None]:
        """Let the block raise that members cannot be read only if their CRC-32 shows that they are not damaged.

        Of several members with the same npy header, one is compared.

        Raises:
            CorruptStoreError: the content of a member does not match its checksum.
        """
        try:
            yield
        except (UnsupportedStoreError, UnsafeStoreError):
            known = members[self._kind[members] >= 0]
            for member in known[np.unique(self._kind[known], return_index=True)[1]]:
                if self.is_stored(member):
                    self.checked(int(member), lambda: None)
                else:
                    self._content(member)
            raise

    def array(self, member: int) -> NDArray[Any]:
        """The array of one member, in native byte order and C order, compared with its CRC-32 according to `verify`.

        Raises:
            CorruptStoreError: the content does not match its checksum or its header.
        """
        header = self.header(member)
        data = self._content(member)
        values = np.frombuffer(data, header.dtype, offset=header.length)
        shaped = values.reshape(header.shape, order="F" if header.fortran else "C")
        return np.asarray(shaped, header.dtype.newbyteorder("="), order="C")

    def checked(self, member: int, read: Callable[[], T]) -> T:
        """What `read` returns, after a stored member was compared with its CRC-32 according to `verify`.

        If the file was rechecked meanwhile, the member is compared and read again.
        """
        while True:
            checked = self._checked
            if self._is_compared(member, checked):
                start, left, crc = int(self.start(member)), int(self._csize[member]), 0
                while left:
                    size = min(left, CHUNK)
                    crc = zlib.crc32(self.file.read(start, size), crc)
                    start, left = start + size, left - size
                self._compare(member, crc, checked)
            result = read()
            if checked is self._checked:
                return result

    def gather(self, members: NDArray[np.int64]) -> NDArray[np.uint8]:
        """The bytes of the arrays of some resolved members, end to end, as they are stored."""
        kinds, checked = self.resolve(members), self._checked
        sizes = self._sizes[kinds, 1]
        if (self._method[members] == 0).all():
            arrays = self.file.gather(self._payload[members], sizes)
            self._compare_arrays(members, kinds, arrays, sizes, checked)
            return arrays
        stored_sizes = self._csize[members]
        raw, ends = self.file.gather(self.start(members), stored_sizes).data, np.cumsum(stored_sizes)
        parts = []
        for member, size, start, end in zip(
            members.tolist(), sizes.tolist(), (ends - stored_sizes).tolist(), ends.tolist(), strict=True
        ):
            data = self._inflated_content(member, raw[start:end], checked)
            parts.append(memoryview(data)[len(data) - size :])
        return np.frombuffer(bytearray().join(parts), np.uint8)

    def member(self, member: int) -> tuple[NDArray[np.uint8], NpyHeader]:
        """The bytes of the array of one resolved member as they are stored, and its npy header."""
        header = self.headers[self._kind.item(member)]
        if self._method[member]:
            return np.frombuffer(self._content(member), np.uint8)[header.length :].copy(), header
        out, checked = np.empty(header.nbytes, np.uint8), self._checked
        self.file.read_into(self._payload.item(member), out)
        if self._is_compared(member, checked):
            self._compare(member, zlib.crc32(out, self._crcs[self._kind.item(member)]), checked)
        return out, header

    def extent(self, member: int, offset: int, out: NDArray[np.uint8]) -> None:
        """Fill `out` from a byte offset in the array of a resolved, stored member, without comparing its CRC-32."""
        self.file.read_into(self._payload.item(member) + offset, out)

    def extents(self, member: int, offsets: NDArray[np.int64], sizes: NDArray[np.int64]) -> NDArray[np.uint8]:
        """Read byte ranges of a stored member's array, end to end, without comparing its CRC-32."""
        self.resolve(np.array([member]))
        return self.file.gather(self._payload[member] + offsets, sizes)

    def _content(self, member: int) -> memoryview | bytes:
        """The content of one member, compared according to `verify`."""
        checked = self._checked  # before the read: it is another one if the file is rechecked during the read
        raw = np.empty(self._csize[member], np.uint8).data  # for a large array, numpy asks for large pages
        self.file.read_into(int(self.start(member)), raw)
        return self._inflated_content(member, raw, checked)

    def _inflated_content(self, member: int, raw: memoryview, checked: NDArray[np.bool_]) -> memoryview | bytes:
        """The content of one member, compared according to `verify`, from its stored bytes."""
        data = self._inflate(member, raw) if self._method[member] else raw
        if self._is_compared(member, checked):
            self._compare(member, zlib.crc32(data), checked)
        return data

    def _inflate(self, member: int, raw: memoryview) -> bytes:
        inflater, size = zlib.decompressobj(-15), int(self._usize[member])
        try:
            data: bytes = inflater.decompress(raw, size + 1)
        except zlib.error as error:
            raise self.corrupt(f"member {quoted(self.name(member))}: {error}") from None
        if len(data) != size or not inflater.eof or inflater.unused_data or inflater.unconsumed_tail:
            raise self.corrupt(f"member {quoted(self.name(member))} does not expand to the size in its header")
        return data

    def _is_compared(self, member: int, checked: NDArray[np.bool_]) -> bool:
        """True if a member that was just read has to be compared; `checked` is what `_checked` was before."""
        return self.verify == "always" or (
            self.verify == "first" and not (checked is self._checked and checked.item(member))
        )

    def _compare_arrays(
        self,
        members: NDArray[np.int64],
        kinds: NDArray[np.int32],
        data: NDArray[np.uint8],
        sizes: NDArray[np.int64],
        checked: NDArray[np.bool_],
    ) -> None:
        """Compare the arrays of some stored members, which were read end to end, according to `verify`.

        In its member, an array follows its npy header, whose CRC-32 is known.
        """
        if self.verify == "never":
            return
        known = checked[members] & (self.verify == "first" and checked is self._checked)
        if known.all():
            return
        new, stops = np.flatnonzero(~known), np.cumsum(sizes)
        headers = map(self._crcs.__getitem__, kinds[new].tolist())
        crcs = part_checksums(data, (stops - sizes)[new], stops[new], headers)
        if (wrong := np.flatnonzero(crcs != self._crc[members[new]])).size:
            self._compare(int(members[new[wrong[0]]]), int(crcs[wrong[0]]), checked)
        checked[members[new]] = True

    def _compare(self, member: int, crc: int, checked: NDArray[np.bool_]) -> None:
        if crc != self._crc[member]:
            name, stored = quoted(self.name(member)), int(self._crc[member])
            raise self.corrupt(f"member {name}: its CRC-32 is {crc:#010x}, but {stored:#010x} is stored")
        checked[member] = True
