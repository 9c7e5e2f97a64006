"""The zip container of an NPZ file, read strictly: what does not add up is an error, never a guess.

Formats: PKWARE's APPNOTE 6.3.10 (zip, zip64, data descriptors) and numpy's NEP 1 (npy 1.0 to 3.0).
The directory is parsed once into flat numpy arrays; nothing per member is kept as a Python object.
"""

from __future__ import annotations

import hashlib
import math
import re
import struct
import threading
import zlib
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from kinoml_data.errors import CorruptStoreError, UnsafeStoreError, UnsupportedStoreError, quoted
from kinoml_data.files import PositionedFile
from kinoml_data.spec import DTYPES

MAX_NPY_HEADER = 10_000  # as numpy's own limit
MAX_MEMBER = 1 << 34  # a compressed member is held whole; more than this is no column of features
MAX_RATIO = 1032  # deflate cannot do better
CHUNK = 1 << 22

_ENTRY = np.dtype(
    "<u4,<u2,<u2,<u2,<u2,<u2,<u2,<u4,<u4,<u4,<u2,<u2,<u2,<u2,<u2,<u4,<u4",
)
_ENTRY.names = (
    *("signature", "made_by", "needs", "flags", "method", "time", "date", "crc", "csize", "usize"),
    *("name_length", "extra_length", "comment_length", "disk", "internal", "external", "offset"),
)
_LOCAL = np.dtype("<u4,<u2,<u2,<u2,<u2,<u2,<u4,<u4,<u4,<u2,<u2")
_LOCAL.names = (
    *("signature", "needs", "flags", "method", "time", "date", "crc", "csize", "usize"),
    *("name_length", "extra_length"),
)
_DESCRIPTOR, _UTF8 = 0x0008, 0x0800
_FULL = 0xFFFFFFFF
_NPY = re.compile(
    rb"\{'descr': '([<>|=]?)([?a-zA-Z])(\d{0,5})', 'fortran_order': (True|False), "
    rb"'shape': \(((?:\d{1,19}, ?)*(?:\d{1,19},?)?)\), ?\} *\n"
)


@dataclass(frozen=True)
class NpyHeader:
    """What an npy header says: dtype (with its byte order), shape, memory order, and its own length in bytes."""

    dtype: np.dtype[Any]
    shape: tuple[int, ...]
    fortran: bool
    length: int

    @property
    def nbytes(self) -> int:
        return math.prod(self.shape) * self.dtype.itemsize


class Archive:
    """The members of an NPZ file.

    Args:
        path: the file.
        keep_open: see `PositionedFile`.
        verify: "first" checks a member's CRC-32 when it is first read, "always" each time, "never" not at all.

    Raises:
        StoreNotFoundError: there is no such regular file.
        CorruptStoreError, UnsafeStoreError, UnsupportedStoreError: the directory is not as zip and numpy say.
    """

    def __init__(self, path: Path, *, keep_open: bool = True, verify: str = "first") -> None:
        self.path, self.verify = path, verify
        self.file = PositionedFile(path, keep_open=keep_open)
        self._lock = threading.Lock()
        try:
            self._read_directory()
        except BaseException:
            self.file.close()
            raise

    def __len__(self) -> int:
        return len(self._offset)

    def corrupt(self, text: str) -> CorruptStoreError:
        return CorruptStoreError(f"{self.path}: {text}; the file is damaged")

    # -- the directory

    def _read_directory(self) -> None:
        size = self.file.size
        if size < 22:
            raise self.corrupt(f"{size} bytes are no NPZ file")
        tail = bytes(self.file.read(max(0, size - 98), min(size, 98)))
        end = tail[-22:]
        if end[:4] != b"PK\5\6" or end[20:] != b"\0\0":
            raise self.corrupt(
                "it does not end with a zip directory: not an NPZ file, truncated, or followed by other bytes"
            )
        disk, first_disk, here, count, length, start = struct.unpack("<4xHHHHII2x", end)
        directory_end = size - 22
        if tail[-42:-38] == b"PK\6\7" and len(tail) == 98:
            disk, first_disk, here, count, length, start = self._zip64(
                tail, (disk, first_disk, here, count, length, start)
            )
            directory_end = size - 98
        if disk or first_disk or here != count or start + length != directory_end:
            raise self.corrupt("its directory does not end where it says")
        raw = np.frombuffer(self.file.read(start, length), np.uint8)
        self.identity = f"npz:{size}:{hashlib.blake2b(raw.tobytes() + tail, digest_size=16).hexdigest()}"
        entry = self._entries(raw, count)
        head = raw[entry[:, None] + np.arange(46)].view(_ENTRY).reshape(-1) if count else np.empty(0, _ENTRY)
        self._check_entries(head)
        self._flags, self._method = head["flags"].astype(np.uint16), head["method"].astype(np.uint8)
        self._crc = head["crc"].astype(np.uint32)
        self._csize, self._usize, self._offset = (head[n].astype(np.int64) for n in ("csize", "usize", "offset"))
        self._long_sizes(raw, entry, head)
        self.names = self._decode_names(raw, entry, head)
        self._name_length = head["name_length"].astype(np.uint16)
        order = np.argsort(self._offset, kind="stable")
        ordered = self._offset[order]
        if count and (ordered[0] != 0 or (np.diff(ordered) < 30).any() or ordered[-1] >= start):
            raise UnsafeStoreError(f"{self.path}: members overlap, or do not begin at the start of the file")
        if not count and start:
            raise self.corrupt("there are bytes before its directory")
        # Where the next member, or the directory, begins: a member has to end there.
        self._next = np.empty(count, np.int64)
        self._next[order] = np.r_[ordered[1:], start]
        if (self._csize > self._next - self._offset - 30).any():
            raise UnsafeStoreError(f"{self.path}: members overlap")
        self._payload = np.full(
            count, -1, np.int64
        )  # where a resolved member's array begins, in the member if compressed
        self._kind = np.full(count, -1, np.int32)
        self._checked = np.zeros(count, bool)
        self.headers: list[NpyHeader] = []
        self._known: dict[bytes, int] = {}

    def _zip64(self, tail: bytes, short: tuple[int, ...]) -> tuple[int, ...]:
        disk, where, disks = struct.unpack("<4xIQI", tail[-42:-22])
        signature, size, _, _, this, first, here, count, length, start = struct.unpack("<IQHHIIQQQQ", tail[:56])
        if signature != 0x06064B50 or size != 44 or disk or disks != 1 or this or first or where != self.file.size - 98:
            raise self.corrupt("its zip64 directory record is not where it says")
        said = (0, 0, min(here, 0xFFFF), min(count, 0xFFFF), min(length, _FULL), min(start, _FULL))
        if short != said:
            raise self.corrupt("its two directory records disagree")
        return this, first, here, count, length, start

    def _entries(self, raw: NDArray[np.uint8], count: int) -> NDArray[np.int64]:
        """Where each directory entry begins: every signature found, if they form a chain; else walked one by one."""
        if len(raw) < 46 * count:
            raise self.corrupt(f"its directory is too short for {count} members")
        if not count:
            if len(raw):
                raise self.corrupt("its directory says 0 members, and holds some")
            return np.empty(0, np.int64)
        hits = np.flatnonzero(raw[:-3] == 0x50)
        for i, byte in enumerate(b"K\1\2", 1):
            hits = hits[raw[hits + i] == byte]
        if len(hits) == count and hits[0] == 0 and hits[-1] + 46 <= len(raw):
            ends = hits + 46 + sum(raw[hits + i] + raw[hits + i + 1] * np.int64(256) for i in (28, 30, 32))
            if np.array_equal(ends, np.r_[hits[1:], len(raw)]):
                return hits.astype(np.int64)
        found: list[int] = []
        at, data = 0, raw.tobytes()
        while at < len(data) and len(found) <= count:
            if at + 46 > len(data) or data[at : at + 4] != b"PK\1\2":
                raise self.corrupt("its directory is broken")
            found.append(at)
            at += 46 + sum(struct.unpack_from("<HHH", data, at + 28))
        if at != len(data) or len(found) != count:
            raise self.corrupt(f"its directory says {count} members and holds {len(found)}")
        return np.array(found, np.int64)

    def _check_entries(self, head: NDArray[Any]) -> None:
        if (head["comment_length"] != 0).any() or (head["disk"] != 0).any():
            raise self.corrupt("a directory entry has a comment or another disk")
        if (head["flags"] & 1).any():
            raise UnsupportedStoreError(f"{self.path}: encrypted members are not supported")
        if (head["flags"] & ~np.uint16(_DESCRIPTOR | _UTF8)).any():
            raise UnsupportedStoreError(f"{self.path}: a member has flags that no numpy writes")
        if (unknown := ~np.isin(head["method"], (0, 8))).any():
            raise UnsupportedStoreError(
                f"{self.path}: compression method {head['method'][unknown][0]} is not supported"
            )

    def _long_sizes(self, raw: NDArray[np.uint8], entry: NDArray[np.int64], head: NDArray[Any]) -> None:
        """Replace the sentinels of zip64 by the values in the extra field; any other extra field is refused."""
        fields = [self._usize, self._csize, self._offset]
        marked = np.stack([field == _FULL for field in fields]) if len(head) else np.zeros((3, 0), bool)
        if (head["extra_length"] != np.where(marked.any(axis=0), 4 + 8 * marked.sum(axis=0), 0)).any():
            raise self.corrupt("a directory entry has an extra field other than zip64's")
        for combination in range(1, 8):
            chosen = [i for i in range(3) if combination >> i & 1]
            members = np.flatnonzero((marked == [[i in chosen] for i in range(3)]).all(axis=0))
            if not len(members):
                continue
            at = entry[members] + 46 + head["name_length"][members]
            extra = raw[at[:, None] + np.arange(4 + 8 * len(chosen))]
            if (extra[:, :4].copy().view("<u2") != [1, 8 * len(chosen)]).any():
                raise self.corrupt("a directory entry has an extra field other than zip64's")
            values = extra[:, 4:].copy().view("<u8")
            if (values >= np.uint64(1 << 62)).any():
                raise self.corrupt("a member's size is beyond any file's")
            for column, i in enumerate(chosen):
                fields[i][members] = values[:, column]

    def _decode_names(self, raw: NDArray[np.uint8], entry: NDArray[np.int64], head: NDArray[Any]) -> list[str]:
        data = raw.tobytes()
        starts = (entry + 46).tolist()
        stops = (entry + 46 + head["name_length"]).tolist()
        names = [data[a:b] for a, b in zip(starts, stops, strict=True)]
        try:
            if (head["flags"] & _UTF8).any():
                utf8 = ((head["flags"] & _UTF8) != 0).tolist()
                decoded = [name.decode("utf-8" if flag else "ascii") for name, flag in zip(names, utf8, strict=True)]
            else:
                decoded = b"\n".join(names).decode("ascii").split("\n") if names else []
        except UnicodeDecodeError:
            raise self.corrupt("a member's name is not text") from None
        if len(decoded) != len(names) or any("\0" in name for name in decoded):
            raise UnsafeStoreError(f"{self.path}: a member's name has control characters")
        for name in decoded:
            if not name.endswith(".npy"):
                raise self.corrupt(f"member {quoted(name)} is not an npy array")
        keys = [name[:-4] for name in decoded]
        if len(set(keys)) != len(keys):
            twice = next(key for key in keys if keys.count(key) > 1)
            raise UnsafeStoreError(f"{self.path}: the member {quoted(twice)} stands twice")
        return keys

    # -- local and npy headers

    def resolve(self, members: NDArray[np.int64]) -> NDArray[np.int32]:
        """Read and check the headers of some members; returns the number of each one's header in `headers`."""
        todo = np.unique(members[self._kind[members] < 0])
        for a in range(0, len(todo), 1 << 15):
            self._resolve(todo[a : a + (1 << 15)])
        return self._kind[members]

    def _resolve(self, members: NDArray[np.int64]) -> None:
        offset, names = self._offset[members], self._name_length[members].astype(np.int64)
        width = int(30 + names.max() + 20 + 256)
        heads = self.file.heads(offset, np.minimum(self._next[members] - offset, width), width)
        local = heads[:, :30].copy().view(_LOCAL).reshape(-1)
        extra = local["extra_length"].astype(np.int64)
        start = offset + 30 + names + extra
        streamed = (self._flags[members] & _DESCRIPTOR) != 0
        descriptor = np.where(streamed, np.where(extra > 0, 24, 16), 0)
        if wrong := np.flatnonzero(
            (local["signature"] != 0x04034B50)
            | (local["flags"] != self._flags[members])
            | (local["method"] != self._method[members])
            | (local["name_length"] != names)
            | ~np.isin(extra, (0, 20))
            | (start + self._csize[members] + descriptor != self._next[members])
        ).tolist():
            raise self.corrupt(
                f"member {quoted(self._name(members[wrong[0]]))}: its header disagrees with the directory"
            )
        blob = heads.tobytes()
        for i, member in enumerate(members.tolist()):
            self._check_local(
                member, local[i], blob[i * width : (i + 1) * width], int(names[i]), int(extra[i]), bool(streamed[i])
            )
            at = 30 + int(names[i]) + int(extra[i])
            if self._method[member] == 8:
                npy = self._inflated_head(member, int(start[i]))
            else:
                npy = blob[i * width + at : (i + 1) * width]
            kind = self._npy(npy, member, int(start[i]))
            self._payload[member] = self.headers[kind].length + (0 if self._method[member] == 8 else int(start[i]))
            self._kind[member] = kind

    def _check_local(self, member: int, local: Any, head: bytes, names: int, extra: int, streamed: bool) -> None:
        key = self._name(member)
        said = (int(self._crc[member]), int(self._csize[member]), int(self._usize[member]))
        crc, csize, usize = int(local["crc"]), int(local["csize"]), int(local["usize"])
        if extra:
            tag, length, long_usize, long_csize = struct.unpack_from("<HHQQ", head, 30 + names)
            if (tag, length, csize, usize) != (1, 16, _FULL, _FULL):
                raise self.corrupt(f"member {quoted(key)}: its header has an extra field other than zip64's")
            csize, usize = long_csize, long_usize
        if streamed:
            end = self._next[member].item()
            form = "<4sIQQ" if extra else "<4sIII"
            size = struct.calcsize(form)
            mark, *found = struct.unpack(form, self.file.read(end - size, size))
            if mark != b"PK\7\x08" or (crc, csize, usize) != (0, 0, 0):
                raise self.corrupt(f"member {quoted(key)}: its data descriptor is broken")
            crc, csize, usize = found
        if head[30 : 30 + names] != (key + ".npy").encode() or (crc, csize, usize) != said:
            raise self.corrupt(f"member {quoted(key)}: its header disagrees with the directory")
        if self._method[member] == 0 and csize != usize:
            raise self.corrupt(f"member {quoted(key)}: it is stored, but its two sizes differ")
        if usize > MAX_RATIO * csize + 64 or (self._method[member] == 8 and usize > MAX_MEMBER):
            raise UnsafeStoreError(f"{self.path}: member {quoted(key)} would expand from {csize} to {usize} bytes")

    def _inflated_head(self, member: int, start: int) -> bytes:
        size = min(int(self._csize[member]), 4096)
        try:
            return zlib.decompressobj(-15).decompress(bytes(self.file.read(start, size)), 512)
        except zlib.error as error:
            raise self.corrupt(f"member {quoted(self._name(member))}: {error}") from None

    def _npy(self, head: bytes, member: int, start: int) -> int:
        version = head[6:7]
        form = "<H" if version == b"\1" else "<I"
        begin = 8 + struct.calcsize(form)
        if len(head) < begin or head[:6] != b"\x93NUMPY" or version not in (b"\1", b"\2", b"\3") or head[7] != 0:
            raise self.corrupt(f"member {quoted(self._name(member))} is not an npy array")
        length = begin + struct.unpack_from(form, head, 8)[0]
        if length > MAX_NPY_HEADER:
            raise UnsafeStoreError(
                f"{self.path}: member {quoted(self._name(member))} has an npy header of {length} bytes"
            )
        if length > len(head):
            size = min(length, int(self._usize[member]))
            head = self._inflate(member)[:size] if self._method[member] == 8 else bytes(self.file.read(start, size))
        text = head[:length]
        kind = self._known.get(text)
        if kind is None:
            kind = len(self.headers)
            self.headers.append(self._parse_npy(text, begin, member))
            self._known[text] = kind
        header = self.headers[kind]
        if header.length + header.nbytes != self._usize[member]:
            held = int(self._usize[member]) - header.length
            raise self.corrupt(
                f"member {quoted(self._name(member))} holds {held} bytes, its header says {header.nbytes}"
            )
        return int(kind)

    def _parse_npy(self, text: bytes, begin: int, member: int) -> NpyHeader:
        match = _NPY.fullmatch(text, begin)
        if match is None:
            key = quoted(self._name(member))
            if b"'|O'" in text or b"'O'" in text:
                raise UnsafeStoreError(f"{self.path}: member {key} is an object array, which would need unpickling")
            if b"[(" in text:
                raise UnsupportedStoreError(f"{self.path}: member {key} is a structured array")
            raise self.corrupt(f"member {key} has a broken npy header")
        order, kind, size, fortran, shape = (part.decode() for part in match.groups())
        if kind == "O":
            raise UnsafeStoreError(
                f"{self.path}: member {quoted(self._name(member))} is an object array, which would need unpickling"
            )
        try:
            dtype = np.dtype(f"{order}{kind}{size}")
        except TypeError:
            raise self.corrupt(f"member {quoted(self._name(member))} has no known dtype") from None
        if dtype.name not in DTYPES:
            raise UnsupportedStoreError(f"{self.path}: member {quoted(self._name(member))} has dtype {dtype}")
        axes = tuple(int(part) for part in shape.replace(" ", "").split(",") if part)
        if len(axes) > 32 or (len(axes) == 1 and "," not in shape):
            raise self.corrupt(f"member {quoted(self._name(member))} has a broken npy header")
        return NpyHeader(dtype, axes, fortran == "True", len(text))

    def _name(self, member: int) -> str:
        if self.names:
            return self.names[member]
        # Once resolved, the local header is known to say the same.
        data = self.file.read(int(self._offset[member]) + 30, int(self._name_length[member]))
        return data.decode("utf-8")[:-4]

    def forget_names(self) -> None:
        """Drop the names, which for one member per row are most of the memory; all are resolved first."""
        self.resolve(np.arange(len(self)))
        self.names = []

    # -- content

    def header(self, member: int) -> NpyHeader:
        """What the npy header of one member says."""
        return self.headers[int(self.resolve(np.array([member]))[0])]

    def is_stored(self, member: int) -> bool:
        """True if the member is not compressed, so that parts of it can be read."""
        return bool(self._method[member] == 0)

    def array(self, member: int) -> NDArray[Any]:
        """One whole member, its CRC-32 checked as `verify` says, in native byte order and C order.

        Raises:
            CorruptStoreError: its content does not fit its checksum or its header.
        """
        header = self.header(member)
        data = self._content(member)
        values = np.frombuffer(data, header.dtype, offset=header.length)
        shaped = values.reshape(header.shape, order="F" if header.fortran else "C")
        return np.ascontiguousarray(shaped, dtype=header.dtype.newbyteorder("="))

    def check(self, members: NDArray[np.int64]) -> None:
        """Check the CRC-32 of stored members that were not checked yet, as `verify` says."""
        if self.verify == "never":
            return
        todo = members if self.verify == "always" else members[~self._checked[members]]
        for member in np.unique(todo).tolist():
            start, left, crc = int(self._start(member)), int(self._csize[member]), 0
            while left:
                size = min(left, CHUNK)
                crc = zlib.crc32(self.file.read(start, size), crc)
                start, left = start + size, left - size
            self._compare(member, crc)

    def gather(self, members: NDArray[np.int64]) -> NDArray[np.uint8]:
        """The array bytes of some resolved members, end to end, as they are stored."""
        kinds = self.resolve(members)
        sizes = np.array([header.nbytes for header in self.headers], np.int64)[kinds]
        out = np.empty(int(sizes.sum()), np.uint8)
        if (self._method[members] == 0).all():
            self.check(members)
            self.file.gather(self._payload[members], sizes, out)
            return out
        at = 0
        for member, size in zip(members.tolist(), sizes.tolist(), strict=True):
            data = self._content(member)
            out[at : at + size] = np.frombuffer(data, np.uint8, offset=len(data) - size)
            at += size
        return out

    def extents(self, member: int, offsets: NDArray[np.int64], sizes: NDArray[np.int64]) -> NDArray[np.uint8]:
        """Byte ranges of a stored member's array, end to end; not checked against its CRC-32."""
        self.resolve(np.array([member]))
        out = np.empty(int(sizes.sum()), np.uint8)
        self.file.gather(self._payload[member] + offsets, sizes, out)
        return out

    def _start(self, member: int) -> int:
        self.resolve(np.array([member]))
        return int(self._payload[member]) - self.headers[int(self._kind[member])].length

    def _content(self, member: int) -> bytes | bytearray:
        if self._method[member] == 8:
            return self._inflate(member)
        data = self.file.read(self._start(member), int(self._csize[member]))
        if self.verify == "always" or (self.verify == "first" and not self._checked[member]):
            self._compare(member, zlib.crc32(data))
        return data

    def _inflate(self, member: int) -> bytes:
        # The local header was checked before, so the directory's sizes are those of the member.
        end = int(self._next[member]) - self._descriptor_length(member)
        raw = self.file.read(end - int(self._csize[member]), int(self._csize[member]))
        inflater = zlib.decompressobj(-15)
        try:
            data = inflater.decompress(raw, int(self._usize[member]) + 1)
        except zlib.error as error:
            raise self.corrupt(f"member {quoted(self._name(member))}: {error}") from None
        if len(data) != self._usize[member] or not inflater.eof or inflater.unused_data or inflater.unconsumed_tail:
            raise self.corrupt(f"member {quoted(self._name(member))} does not expand to the size it says")
        if self.verify == "always" or (self.verify == "first" and not self._checked[member]):
            self._compare(member, zlib.crc32(data))
        return data

    def _descriptor_length(self, member: int) -> int:
        gap = (
            int(self._next[member] - self._offset[member])
            - 30
            - int(self._name_length[member])
            - int(self._csize[member])
        )
        return {16: 16, 44: 24}.get(gap, 0) if self._flags[member] & _DESCRIPTOR else 0

    def _compare(self, member: int, crc: int) -> None:
        if crc != self._crc[member]:
            said = int(self._crc[member])
            raise self.corrupt(
                f"member {quoted(self._name(member))}: its CRC-32 is {crc:#010x}, stored is {said:#010x}"
            )
        self._checked[member] = True

    def close(self) -> None:
        self.file.close()
