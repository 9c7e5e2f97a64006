"""Reading the directory of a zip file strictly: every inconsistency is an error, and none is repaired by a guess.

Format: PKWARE's APPNOTE 6.3.10, with zip64, data descriptors, extra fields and comments. The directory is parsed once,
into numpy arrays with one entry per member. What does not concern the place, the size, the checksum or the name of a
member is ignored, such as times and attributes.
"""

from __future__ import annotations

import hashlib
import struct
from collections import Counter
from pathlib import Path
from typing import Any, Literal

import numpy as np
from numpy.lib.stride_tricks import sliding_window_view
from numpy.typing import NDArray

from kinoml_data.errors import CorruptStoreError, UnsafeStoreError, UnsupportedStoreError, quoted
from kinoml_data.files import MappedFile, PositionedFile

MAX_MEMBER = 1 << 34  # bytes of a compressed member after decompression, because it is kept in memory
MAX_RATIO = 1032  # the highest ratio that deflate can reach
MAX_DIRECTORY = 1 << 30  # bytes; enough for about ten million members
MAX_NAME = 1024  # bytes
MAX_COMMENT = 0xFFFF  # bytes
LOCAL_EXTRA = 32  # bytes in which the extra fields of most local headers fit

Io = Literal["keep-open", "reopen", "mmap"]
"""How a file is read: from one open file, from a file that is opened for each read, or mapped into memory."""

_ENTRY = np.dtype("<u4,<u2,<u2,<u2,<u2,<u2,<u2,<u4,<u4,<u4,<u2,<u2,<u2,<u2,<u2,<u4,<u4")
_ENTRY.names = (
    *("signature", "made_by", "needs", "flags", "method", "time", "date", "crc", "csize", "usize"),
    *("name_length", "extra_length", "comment_length", "disk", "internal", "external", "offset"),
)
_LOCAL = np.dtype("<u4,<u2,<u2,<u2,<u2,<u2,<u4,<u4,<u4,<u2,<u2")
_LOCAL.names = (
    *("signature", "needs", "flags", "method", "time", "date", "crc", "csize", "usize"),
    *("name_length", "extra_length"),
)
_ZIP64 = np.dtype("<u2,<u2,<u8,<u8")
_ENCRYPTED, _DEFLATE, _DESCRIPTOR, _UTF8 = 0x0001, 0x0006, 0x0008, 0x0800  # flags
_FULL = 0xFFFFFFFF
_ZIP64_KIND = 1


class Directory:
    """The members of a zip file, numbered in the order of its directory.

    Args:
        path: the file.
        io: how the file is read; see `Io`.

    Attributes:
        names: the names of the members; empty after `forget_names`.
        identity: a text that changes when the directory changes, and so when the checksum of any member changes.

    Raises:
        StoreNotFoundError: the file does not exist or is not a regular file.
        CorruptStoreError: the directory is inconsistent or truncated.
        UnsafeStoreError: members overlap, or a name or the directory is too long.
        UnsupportedStoreError: two members have the same name, or there are bytes before the first member.
        StoreReadError: the operating system failed to read.
    """

    names: list[str]

    def __init__(self, path: Path, *, io: Io = "keep-open") -> None:
        self.path = path
        self.file = MappedFile(path) if io == "mmap" else PositionedFile(path, keep_open=io == "keep-open")
        try:
            self._read_directory()
        except BaseException:
            self.file.close()
            raise

    @classmethod
    def of(cls, file: PositionedFile) -> Directory:
        """The directory of an open file, which is not closed with it."""
        directory = cls.__new__(cls)
        directory.path, directory.file = file.path, file
        directory._read_directory()
        return directory

    def __len__(self) -> int:
        return len(self._offset)

    def close(self) -> None:
        """Close the file."""
        self.file.close()

    def corrupt(self, text: str) -> CorruptStoreError:
        """An error about this file, to be raised; `text` describes the damage."""
        return CorruptStoreError(f"{self.path}: {text}; the file is damaged")

    def name(self, member: int) -> str:
        """The name of a member; after `forget_names`, it is read from the member's header in the file."""
        if self.names:
            return self.names[member]
        data = self.file.read(int(self._offset[member]) + 30, int(self._name_length[member]))
        return data.decode("utf-8", "replace")

    def starting_with(self, prefix: bytes) -> NDArray[np.int64]:
        """The members whose names begin with `prefix`, which is ASCII; call this before `forget_names`."""
        members = np.flatnonzero(self._name_length >= len(prefix))
        for i, byte in enumerate(prefix):
            members = members[self._raw[self._name_at[members] + i] == byte]
        return members

    def forget_names(self) -> None:
        """Drop the names from memory; call this only after `compare_headers` was called for all members.

        If there is one member per row, the names take most of the memory.
        """
        self.names = []
        self._raw, self._name_at = np.empty(0, np.uint8), np.empty(0, np.int64)

    def again(self, text: str) -> str:
        """The text of an error about this file, which is not damaged; `text` describes what is not read."""
        return f"{self.path}: {text}; write it again with numpy.savez"

    def _read_directory(self) -> None:
        size = self.file.size
        if size < 22:
            raise self.corrupt(f"a file of {size} bytes is too short for an NPZ file")
        directory_end = self._end_record()
        tail = bytes(self.file.read(max(0, directory_end - 76), size - max(0, directory_end - 76)))
        at = min(directory_end, 76)
        numbers = struct.unpack_from("<4xHHHHII", tail, at)
        if at == 76 and tail[56:60] == b"PK\6\7":
            numbers, directory_end = self._zip64(tail, numbers, directory_end), directory_end - 76
        disk, first_disk, here, count, length, start = numbers
        if disk or first_disk or here != count or start + length > directory_end:
            raise self.corrupt("the end record of its directory does not match the position of the directory")
        if before := directory_end - start - length:
            if self.file.read(before, 4) == b"PK\3\4":  # where the first member is, if all is moved by as much
                raise UnsupportedStoreError(self.again(f"there are {before} bytes before the zip file"))
            raise self.corrupt("the end record of its directory does not match the position of the directory")
        if length > MAX_DIRECTORY:
            raise UnsafeStoreError(f"{self.path}: its directory has {length} bytes; the limit is {MAX_DIRECTORY}")
        raw = np.frombuffer(self.file.read(start, length), np.uint8)
        self.identity = f"npz:{size}:{hashlib.blake2b(raw.tobytes() + tail, digest_size=16).hexdigest()}"
        entry = self._entries(raw, count)
        head = np.empty(0, _ENTRY)
        if count:
            head = np.ascontiguousarray(sliding_window_view(raw, 46)[entry]).view(_ENTRY).reshape(-1)
        if (head["name_length"] > MAX_NAME).any():
            raise UnsafeStoreError(f"{self.path}: the name of a member is longer than {MAX_NAME} bytes")
        self._flags, self._method = head["flags"].astype(np.uint16), head["method"].astype(np.uint16)
        self._crc = head["crc"].astype(np.uint32)
        self._csize, self._usize, self._offset = (head[n].astype(np.int64) for n in ("csize", "usize", "offset"))
        self._long_sizes(raw, entry, head)
        self._name_length = head["name_length"].astype(np.uint16)
        self._extra_length = np.zeros(count, np.uint16)  # of the local headers
        self._raw, self._name_at = raw, entry + 46
        self.names = self._decode_names((head["flags"] & _UTF8) != 0)
        order = np.argsort(self._offset, kind="stable")
        ordered = self._offset[order]
        if not count and start:
            raise self.corrupt("there are bytes before its directory")
        if count and ordered[0]:
            raise UnsupportedStoreError(self.again(f"there are {ordered[0]} bytes before its first member"))
        # Every member must end before the next member or the directory begins.
        self._next = np.empty(count, np.int64)
        self._next[order] = np.r_[ordered[1:], start]
        if (self._csize > self._next - self._offset - 30).any():
            raise UnsafeStoreError(f"{self.path}: members overlap")

    def _end_record(self) -> int:
        """Where the end record of the directory begins: 22 bytes, and a comment that ends with the file."""
        size = self.file.size
        for width in (22, 22 + MAX_COMMENT):  # a comment is rare
            tail = bytes(self.file.read(max(0, size - width), min(size, width)))
            at = tail.rfind(b"PK\5\6")
            while at >= 0:
                if at + 22 <= len(tail) and at + 22 + int.from_bytes(tail[at + 20 : at + 22], "little") == len(tail):
                    return size - len(tail) + at
                at = tail.rfind(b"PK\5\6", 0, at + 3)
        raise self.corrupt(
            "it does not end with a zip directory: it is not an NPZ file, is truncated, or is followed by other bytes"
        )

    def _zip64(self, tail: bytes, short: tuple[int, ...], end: int) -> tuple[int, ...]:
        """The numbers of the end record from those of zip64, which `tail` begins with; `short` are its own."""
        disk, where, disks = struct.unpack_from("<4xIQI", tail, 56)
        signature, size, _, _, this, first, here, count, length, start = struct.unpack_from("<IQHHIIQQQQ", tail)
        if signature != 0x06064B50 or size != 44 or disk or disks > 1 or this or first or where != end - 76:
            raise self.corrupt("the zip64 directory record is broken, or is not where its locator specifies")
        full = (0xFFFF, 0xFFFF, 0xFFFF, 0xFFFF, _FULL, _FULL)
        numbers = (this, first, here, count, length, start)
        if any(own not in (number, most) for own, number, most in zip(short, numbers, full, strict=True)):
            raise self.corrupt("its two directory records disagree")
        return numbers

    def _entries(self, raw: NDArray[np.uint8], count: int) -> NDArray[np.int64]:
        """int64 `(count,)`: where each entry begins in `raw`, the bytes of the directory.

        The signatures are searched for all entries at once. If one of them also occurs by chance inside an entry, the
        entries are followed one by one.
        """
        if len(raw) < 46 * count:
            raise self.corrupt(f"its directory is too short for {count} members")
        if not count:
            if len(raw):
                raise self.corrupt("its directory specifies 0 members, but contains some")
            return np.empty(0, np.int64)
        hits = np.flatnonzero(raw[:-3] == 0x50)
        for i, byte in enumerate(b"K\1\2", 1):
            hits = hits[raw[hits + i] == byte]
        if len(hits) == count and hits[0] == 0 and hits[-1] + 46 <= len(raw):
            ends = hits + 46 + sum(raw[hits + i] + raw[hits + i + 1] * np.int64(256) for i in (28, 30, 32))
            if np.array_equal(ends, np.r_[hits[1:], len(raw)]):
                return hits.astype(np.int64)
        entries: list[int] = []
        at, data = 0, raw.tobytes()
        while at < len(data) and len(entries) <= count:
            if at + 46 > len(data) or data[at : at + 4] != b"PK\1\2":
                raise self.corrupt("its directory is broken")
            entries.append(at)
            at += 46 + sum(struct.unpack_from("<HHH", data, at + 28))
        if at != len(data) or len(entries) != count:
            raise self.corrupt(f"its directory specifies {count} members, but contains {len(entries)}")
        return np.array(entries, np.int64)

    def _long_sizes(self, raw: NDArray[np.uint8], entry: NDArray[np.int64], head: NDArray[Any]) -> None:
        """Replace the placeholders of zip64 with the values in its extra field."""
        fields = [self._usize, self._csize, self._offset]
        marked = np.stack([field == _FULL for field in fields])
        at, lengths = entry + 46 + head["name_length"], head["extra_length"].astype(np.int64)
        for combination in range(1, 8):
            marks = [i for i in range(3) if combination >> i & 1]
            members = np.flatnonzero((marked == [[i in marks] for i in range(3)]).all(axis=0))
            if not len(members):
                continue
            values = np.empty((len(members), len(marks)), "<u8")
            plain = lengths[members] == 4 + 8 * len(marks)  # the only extra field is zip64's
            extra = raw[at[members[plain]][:, None] + np.arange(4 + 8 * len(marks))]
            values[plain] = extra[:, 4:].copy().view("<u8")
            plain[plain] = (extra[:, :4].copy().view("<u2") == [_ZIP64_KIND, 8 * len(marks)]).all(axis=1)
            for i in np.flatnonzero(~plain).tolist():
                begin = int(at[members[i]])
                found = _zip64_values(raw[begin : begin + int(lengths[members[i]])].tobytes(), len(marks))
                if found is None:
                    raise self.corrupt("a directory entry lacks the extra field of zip64 with the size of its member")
                values[i] = found
            if (values >= np.uint64(1 << 62)).any():
                raise self.corrupt("the size of a member is larger than any file")
            for column, i in enumerate(marks):
                fields[i][members] = values[:, column]

    def _decode_names(self, utf8: NDArray[np.bool_]) -> list[str]:
        lengths = self._name_length + np.int64(1)  # with a line break after each name
        ends = np.cumsum(lengths)
        text = self._raw.take(
            np.arange(lengths.sum()) + np.repeat(self._name_at - ends + lengths, lengths), mode="clip"
        )
        text[ends - 1] = ord("\n")
        blob = text[:-1].tobytes()
        if b"\0" in blob or blob.count(b"\n") != max(0, len(ends) - 1):
            raise UnsafeStoreError(f"{self.path}: the name of a member contains a control character")
        if blob.isascii():
            names = blob.decode().split("\n") if len(ends) else []
        else:
            encodings = ["utf-8" if flag else "cp437" for flag in utf8.tolist()]  # cp437 is what numpy takes them for
            try:
                names = [name.decode(encoding) for name, encoding in zip(blob.split(b"\n"), encodings, strict=True)]
            except UnicodeDecodeError:
                raise self.corrupt("the name of a member is not UTF-8") from None
        if len(set(names)) != len(names):
            duplicate = Counter(names).most_common(1)[0][0]
            raise UnsupportedStoreError(self.again(f"the member {quoted(duplicate)} occurs more than once"))
        return names

    def is_stored(self, member: int) -> bool:
        """True if the member is stored without compression, so that parts of it can be read."""
        return bool(self._method[member] == 0)

    @property
    def is_compressed(self) -> bool:
        """True if at least one member is compressed."""
        return bool(self._method.any())

    def start(self, members: Any) -> Any:
        """Where the content of some members begins in the file; call `compare_headers` for these members first."""
        return self._offset[members] + 30 + self._name_length[members] + self._extra_length[members]

    def check_supported(self, members: NDArray[np.int64]) -> None:
        """Check that the content of some members can be read.

        Raises:
            UnsupportedStoreError: a member is encrypted, or is compressed with a method other than deflate.
            UnsafeStoreError: a member would decompress to more than `MAX_MEMBER` bytes, or further than deflate can
                compress.
        """
        flags, method = self._flags[members], self._method[members]
        other_flags = (flags & ~np.uint16(_DEFLATE | _DESCRIPTOR | _UTF8)) != 0
        if (refused := other_flags | ~np.isin(method, (0, 8))).any():
            i = int(refused.argmax())
            problem = f"has compression method {method[i]}"
            if flags[i] & _ENCRYPTED:
                problem = "is encrypted"
            elif other_flags[i]:
                problem = "has flags that numpy never sets"
            name = quoted(self.name(int(members[i])))
            raise UnsupportedStoreError(self.again(f"member {name} {problem}, which is not supported"))
        csize, usize = self._csize[members], self._usize[members]
        if (large := (usize > MAX_RATIO * csize + 64) | ((method != 0) & (usize > MAX_MEMBER))).any():
            name, size = quoted(self.name(int(members[large][0]))), int(usize[large][0])
            raise UnsafeStoreError(f"{self.path}: member {name} would expand to {size} bytes, which is not allowed")

    def compare_headers(
        self, members: NDArray[np.int64], extra_width: int
    ) -> tuple[NDArray[np.uint8], NDArray[np.int64]]:
        """Read the local headers of some members and compare them with the directory.

        Args:
            members: the numbers of the members.
            extra_width: the number of bytes that are read in addition, from the start of each member's content.

        Returns:
            The bytes that were read, uint8 `(len(members), width)`; and int64 `(len(members),)`, where the content of
            each member begins in its line. If a local header has extra fields of more than `LOCAL_EXTRA` bytes, the
            content begins beyond its line, or less of it was read.

        Raises:
            CorruptStoreError: a header disagrees with the directory.
        """
        offset, names = self._offset[members], self._name_length[members].astype(np.int64)
        width = 30 + int(names.max()) + LOCAL_EXTRA + extra_width
        heads = self.file.read_prefixes(offset, width)
        local = heads[:, :30].copy().view(_LOCAL).reshape(-1)
        extra = local["extra_length"].astype(np.int64)
        end = offset + 30 + names + extra + self._csize[members]
        differing = local["flags"] ^ self._flags[members]
        wrong = (
            (local["signature"] != 0x04034B50)
            | ((differing & ~np.uint16(_DEFLATE | _DESCRIPTOR | _UTF8)) != 0)
            | (local["method"] != self._method[members])
            | (local["name_length"] != names)
            | (end > self._next[members])
        )
        fields = np.stack([local[name].astype(np.uint64) for name in ("crc", "csize", "usize")])
        for size in np.flatnonzero(np.bincount(names[~wrong])).tolist():
            same = np.flatnonzero((names == size) & ~wrong)
            if self.names:  # otherwise, they were compared before they were forgotten
                stored_name = sliding_window_view(self._raw, size)[self._name_at[members[same]]]
                unequal = heads[same, 30 : 30 + size] != stored_name
                unequal |= ((differing[same] & _UTF8) != 0)[:, None] & (stored_name >= 0x80)
                if unequal.any():
                    wrong[same] |= unequal.any(axis=1)
            long = same[(fields[1:, same] == _FULL).any(axis=0)]
            self._local_sizes(fields, long, heads[:, 30 + size :], extra, members)
        true = np.stack([self._crc[members], self._csize[members], self._usize[members]]).astype(np.uint64)
        # A header that was written before its content contains zeros, and a data descriptor follows the content.
        streamed = (local["flags"] & _DESCRIPTOR) != 0
        unknown = fields != true
        wrong |= (unknown & ~(streamed & (fields == 0))).any(axis=0)
        wrong |= (self._method[members] == 0) & (true[1] != true[2])
        streamed &= unknown.any(axis=0) & ~wrong
        if streamed.any():
            self._compare_descriptors(members[streamed], end[streamed])
        if wrong.any():
            name = quoted(self.name(int(members[wrong][0])))
            raise self.corrupt(f"member {name}: its header disagrees with the directory")
        self._extra_length[members] = extra
        return heads, 30 + names + extra

    def _local_sizes(
        self,
        fields: NDArray[np.uint64],
        long: NDArray[np.int64],
        heads: NDArray[np.uint8],
        extra: NDArray[np.int64],
        members: NDArray[np.int64],
    ) -> None:
        """Replace the placeholders of zip64 in the local headers `long` with the values in its extra field.

        Args:
            fields: uint64 `(3, n)`: the CRC-32, the compressed and the uncompressed size in each header.
            long: which of the headers have a placeholder.
            heads: uint8 `(n, ...)`: the bytes after the name in each header.
            extra: int64 `(n,)`: the length of the extra fields.
            members: int64 `(n,)`: the members.
        """
        zip64 = heads[long, :20].copy().view(_ZIP64).reshape(-1)
        plain = (extra[long] == 20) & (zip64["f0"] == _ZIP64_KIND) & (zip64["f1"] == 16)
        plain &= (fields[1:, long] == _FULL).all(axis=0)
        fields[1, long[plain]], fields[2, long[plain]] = zip64["f3"][plain], zip64["f2"][plain]
        for i in long[~plain].tolist():
            begin = int(self._offset[members[i]] + 30 + self._name_length[members[i]])
            sizes = [field for field in (2, 1) if fields[field, i] == _FULL]
            values = _zip64_values(bytes(self.file.read(begin, int(extra[i]))), len(sizes))
            for field, value in zip(sizes, values or (), strict=False):
                fields[field, i] = value

    def _compare_descriptors(self, members: NDArray[np.int64], ends: NDArray[np.int64]) -> None:
        """Compare the data descriptors of some members, whose content ends at `ends`, with the directory."""
        blob = self.file.read_prefixes(ends, 24).tobytes()
        room = self._next[members] - ends
        for i, member in enumerate(members.tolist()):
            data = blob[24 * i : 24 * i + min(24, int(room[i]))]
            sizes = int(self._crc[member]), int(self._csize[member]), int(self._usize[member])
            # The signature is optional, and the sizes may have 4 or 8 bytes.
            forms = ["<IQQ"] if max(sizes) > _FULL else ["<III", "<IQQ"]
            packed = [mark + struct.pack(form, *sizes) for mark in (b"PK\7\x08", b"") for form in forms]
            if not data.startswith(tuple(packed)):
                name = quoted(self.name(member))
                raise self.corrupt(f"member {name}: its data descriptor disagrees with the directory")


def _zip64_values(extra: bytes, count: int) -> tuple[int, ...] | None:
    """The first `count` values of zip64's among the extra fields of a header; None if they are not there."""
    at = 0
    while at + 4 <= len(extra):
        kind, size = struct.unpack_from("<HH", extra, at)
        if kind == _ZIP64_KIND:
            enough = 8 * count <= size <= len(extra) - at - 4
            return struct.unpack_from(f"<{count}Q", extra, at + 4) if enough else None
        at += 4 + size
    return None
