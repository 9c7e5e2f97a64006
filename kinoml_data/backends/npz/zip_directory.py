"""Reading the directory of a zip file strictly: every inconsistency is an error, and none is repaired by a guess.

Format: PKWARE's APPNOTE 6.3.10, with zip64 and data descriptors. The directory is parsed once, into numpy arrays with
one entry per member.
"""

from __future__ import annotations

import hashlib
import struct
from collections import Counter
from pathlib import Path
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from kinoml_data.errors import CorruptStoreError, UnsafeStoreError, UnsupportedStoreError, quoted
from kinoml_data.files import MappedFile, PositionedFile

MAX_MEMBER = 1 << 34  # bytes of a compressed member after decompression, because it is kept in memory
MAX_RATIO = 1032  # the highest ratio that deflate can reach
MAX_DIRECTORY = 1 << 30  # bytes; enough for about ten million members
MAX_NAME = 1024  # bytes

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
_DESCRIPTOR, _UTF8 = 0x0008, 0x0800
_FULL = 0xFFFFFFFF


class Directory:
    """The members of a zip file, numbered in the order of its directory.

    Args:
        path: the file.
        io: how the file is read; see `Io`.

    Attributes:
        names: the names of the members; empty after `forget_names`.
        identity: a text that changes when the directory changes, and so when the checksum of any member changes.

    Raises:
        StoreNotFoundError: there is no such regular file.
        CorruptStoreError: the directory is inconsistent or truncated.
        UnsafeStoreError: members overlap, two have the same name, or a name or the directory is too long.
        UnsupportedStoreError: a member is encrypted, or is compressed with a method other than deflate.
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

    def forget_names(self) -> None:
        """Drop the names from memory; call this only after `compare_headers` was called for all members.

        If there is one member per row, the names take most of the memory.
        """
        self.names = []
        self._raw, self._name_at = np.empty(0, np.uint8), np.empty(0, np.int64)

    def _read_directory(self) -> None:
        size = self.file.size
        if size < 22:
            raise self.corrupt(f"a file of {size} bytes is too short for an NPZ file")
        tail = bytes(self.file.read(max(0, size - 98), min(size, 98)))
        end = tail[-22:]
        if end[:4] != b"PK\5\6" or end[20:] != b"\0\0":
            raise self.corrupt(
                "it does not end with a zip directory: "
                "it is not an NPZ file, is truncated, or is followed by other bytes"
            )
        disk, first_disk, here, count, length, start = struct.unpack("<4xHHHHII2x", end)
        directory_end = size - 22
        if tail[-42:-38] == b"PK\6\7" and len(tail) == 98:
            disk, first_disk, here, count, length, start = self._zip64(
                tail, (disk, first_disk, here, count, length, start)
            )
            directory_end = size - 98
        if disk or first_disk or here != count or start + length != directory_end:
            raise self.corrupt("the end record of its directory does not match the position of the directory")
        if length > MAX_DIRECTORY:
            raise UnsafeStoreError(f"{self.path}: its directory has {length} bytes; the limit is {MAX_DIRECTORY}")
        raw = np.frombuffer(self.file.read(start, length), np.uint8)
        self.identity = f"npz:{size}:{hashlib.blake2b(raw.tobytes() + tail, digest_size=16).hexdigest()}"
        entry = self._entries(raw, count)
        head = raw[entry[:, None] + np.arange(46)].view(_ENTRY).reshape(-1) if count else np.empty(0, _ENTRY)
        self._check_entries(head)
        self._flags, self._method = head["flags"].astype(np.uint16), head["method"].astype(np.uint8)
        self._crc = head["crc"].astype(np.uint32)
        self._csize, self._usize, self._offset = (head[n].astype(np.int64) for n in ("csize", "usize", "offset"))
        self._long_sizes(raw, entry, head)
        self._name_length = head["name_length"].astype(np.uint16)
        self._raw, self._name_at = raw, entry + 46
        self.names = self._decode_names((head["flags"] & _UTF8) != 0)
        order = np.argsort(self._offset, kind="stable")
        ordered = self._offset[order]
        if count and (ordered[0] != 0 or (np.diff(ordered) < 30).any() or ordered[-1] >= start):
            raise UnsafeStoreError(f"{self.path}: members overlap, or the first one is not at the start of the file")
        if not count and start:
            raise self.corrupt("there are bytes before its directory")
        # Every member must end where the next member or the directory begins.
        self._next = np.empty(count, np.int64)
        self._next[order] = np.r_[ordered[1:], start]
        if (self._csize > self._next - self._offset - 30).any():
            raise UnsafeStoreError(f"{self.path}: members overlap")

    def _zip64(self, tail: bytes, short: tuple[int, ...]) -> tuple[int, ...]:
        disk, where, disks = struct.unpack("<4xIQI", tail[-42:-22])
        signature, size, _, _, this, first, here, count, length, start = struct.unpack("<IQHHIIQQQQ", tail[:56])
        if signature != 0x06064B50 or size != 44 or disk or disks != 1 or this or first or where != self.file.size - 98:
            raise self.corrupt("the zip64 directory record is broken, or is not where its locator specifies")
        expected = (0, 0, min(here, 0xFFFF), min(count, 0xFFFF), min(length, _FULL), min(start, _FULL))
        if short != expected:
            raise self.corrupt("its two directory records disagree")
        return this, first, here, count, length, start

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

    def _check_entries(self, head: NDArray[Any]) -> None:
        if (head["comment_length"] != 0).any() or (head["disk"] != 0).any():
            raise self.corrupt("a directory entry has a comment, or refers to another disk")
        if (head["name_length"] > MAX_NAME).any():
            raise UnsafeStoreError(f"{self.path}: the name of a member is longer than {MAX_NAME} bytes")
        if (head["flags"] & 1).any():
            raise UnsupportedStoreError(
                f"{self.path}: a member is encrypted, which is not supported; store it without encryption"
            )
        if (head["flags"] & ~np.uint16(_DESCRIPTOR | _UTF8)).any():
            raise UnsupportedStoreError(
                f"{self.path}: a member has flags that numpy never sets; save the file with numpy"
            )
        if (unknown := ~np.isin(head["method"], (0, 8))).any():
            raise UnsupportedStoreError(
                f"{self.path}: a member has compression method {head['method'][unknown][0]}, which is not supported; "
                "use deflate, or no compression"
            )

    def _long_sizes(self, raw: NDArray[np.uint8], entry: NDArray[np.int64], head: NDArray[Any]) -> None:
        """Replace the placeholders of zip64 with the values in its extra field, and refuse any other extra field."""
        fields = [self._usize, self._csize, self._offset]
        marked = np.stack([field == _FULL for field in fields]) if len(head) else np.zeros((3, 0), bool)
        if (head["extra_length"] != np.where(marked.any(axis=0), 4 + 8 * marked.sum(axis=0), 0)).any():
            raise self.corrupt("a directory entry has an extra field other than zip64's")
        for combination in range(1, 8):
            marks = [i for i in range(3) if combination >> i & 1]
            members = np.flatnonzero((marked == [[i in marks] for i in range(3)]).all(axis=0))
            if not len(members):
                continue
            at = entry[members] + 46 + head["name_length"][members]
            extra = raw[at[:, None] + np.arange(4 + 8 * len(marks))]
            if (extra[:, :4].copy().view("<u2") != [1, 8 * len(marks)]).any():
                raise self.corrupt("a directory entry has an extra field other than zip64's")
            values = extra[:, 4:].copy().view("<u8")
            if (values >= np.uint64(1 << 62)).any():
                raise self.corrupt("the size of a member is larger than any file")
            for column, i in enumerate(marks):
                fields[i][members] = values[:, column]

    def _decode_names(self, utf8: NDArray[np.bool_]) -> list[str]:
        data = self._raw.tobytes()
        ends = self._name_at + self._name_length
        blob = b"\n".join([data[a:b] for a, b in zip(self._name_at.tolist(), ends.tolist(), strict=True)])
        if b"\0" in blob or blob.count(b"\n") != max(0, len(ends) - 1):
            raise UnsafeStoreError(f"{self.path}: the name of a member contains a control character")
        try:
            if not blob.isascii() and not all(
                flag or name.isascii() for name, flag in zip(blob.split(b"\n"), utf8.tolist(), strict=True)
            ):
                raise self.corrupt("the name of a member is not UTF-8")
            names = blob.decode().split("\n") if len(ends) else []
        except UnicodeDecodeError:
            raise self.corrupt("the name of a member is not UTF-8") from None
        if len(set(names)) != len(names):
            duplicate = Counter(names).most_common(1)[0][0]
            raise UnsafeStoreError(f"{self.path}: the member {quoted(duplicate)} occurs more than once")
        return names

    def is_stored(self, member: int) -> bool:
        """True if the member is stored without compression, so that parts of it can be read."""
        return bool(self._method[member] == 0)

    def start(self, members: Any) -> Any:
        """Where the content of some members begins in the file; call `compare_headers` for these members first."""
        gap = self._next[members] - self._offset[members] - 30 - self._name_length[members] - self._csize[members]
        # A data descriptor takes 16 bytes after a plain header, and 24 after one with the 20 bytes of zip64.
        streamed = (self._flags[members] & _DESCRIPTOR) != 0
        return self._next[members] - self._csize[members] - np.where(streamed, np.where(gap == 16, 16, 24), 0)

    def compare_headers(self, members: NDArray[np.int64], extra_width: int) -> tuple[bytes, int, NDArray[np.int64]]:
        """Read the local headers of some members and compare them with the directory.

        Args:
            members: the numbers of the members.
            extra_width: the number of bytes that are read in addition, from the start of each member's content.

        Returns:
            The bytes that were read, `len(members)` parts of the same size; the size of a part; and int64
            `(len(members),)`, where the content of each member begins in its part.

        Raises:
            CorruptStoreError: a header disagrees with the directory.
            UnsafeStoreError: a member would decompress to more than `MAX_MEMBER` bytes, or further than deflate can
                compress.
        """
        offset, names = self._offset[members], self._name_length[members].astype(np.int64)
        width = 30 + int(names.max()) + 20 + extra_width
        blob = self.file.read_prefixes(offset, width)
        heads = np.frombuffer(blob, np.uint8).reshape(len(members), width)
        local = heads[:, :30].copy().view(_LOCAL).reshape(-1)
        extra = local["extra_length"].astype(np.int64)
        streamed = (self._flags[members] & _DESCRIPTOR) != 0
        length = 30 + names + extra + self._csize[members] + np.where(streamed, np.where(extra > 0, 24, 16), 0)
        wrong = (
            (local["signature"] != 0x04034B50)
            | (local["flags"] != self._flags[members])
            | (local["method"] != self._method[members])
            | (local["name_length"] != names)
            | ~np.isin(extra, (0, 20))
            | (offset + length != self._next[members])
        )
        fields = np.stack([local[name].astype(np.uint64) for name in ("crc", "csize", "usize")])
        for key in set((names * 32 + extra).tolist()):
            same = np.flatnonzero((names * 32 + extra == key) & ~wrong)
            if not len(same):
                continue
            size, more = divmod(key, 32)
            stored_name = self._raw[self._name_at[members[same]][:, None] + np.arange(size)]
            wrong[same] |= (heads[same, 30 : 30 + size] != stored_name).any(axis=1)
            if more:
                zip64 = heads[same, 30 + size : 50 + size].copy().view(_ZIP64).reshape(-1)
                wrong[same] |= (zip64["f0"] != 1) | (zip64["f1"] != 16) | (fields[1:, same] != _FULL).any(axis=0)
                fields[1, same], fields[2, same] = zip64["f3"], zip64["f2"]
        for i in np.flatnonzero(streamed & ~wrong).tolist():
            wrong[i] = fields[:, i].any()
            fields[:, i] = self._descriptor(int(self._next[members[i]]), bool(extra[i]))
        csize, usize = self._csize[members], self._usize[members]
        wrong |= (fields != np.stack([self._crc[members], csize, usize]).astype(np.uint64)).any(axis=0)
        stored = self._method[members] == 0
        wrong |= stored & (csize != usize)
        if wrong.any():
            name = quoted(self.name(int(members[wrong][0])))
            raise self.corrupt(f"member {name}: its header disagrees with the directory")
        if (large := (usize > MAX_RATIO * csize + 64) | (~stored & (usize > MAX_MEMBER))).any():
            name, size = quoted(self.name(int(members[large][0]))), int(usize[large][0])
            raise UnsafeStoreError(f"{self.path}: member {name} would expand to {size} bytes, which is not allowed")
        return blob, width, 30 + names + extra

    def _descriptor(self, end: int, long: bool) -> tuple[int, int, int]:
        form = "<4sIQQ" if long else "<4sIII"
        size = struct.calcsize(form)
        mark, crc, csize, usize = struct.unpack(form, self.file.read(end - size, size))
        if mark != b"PK\7\x08":
            raise self.corrupt("a data descriptor is broken")
        return crc, csize, usize
