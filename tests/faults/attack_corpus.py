"""Hostile files and configs, made by code: what each is, and the error it has to end in."""

from __future__ import annotations

import io
import os
import pickle
import socket
import struct
import zlib
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from kinoml_data.errors import (
    CorruptStoreError,
    SpecError,
    SplitError,
    StoreNotFoundError,
    StoreReadError,
    UnknownNameError,
    UnsafeStoreError,
    UnsupportedStoreError,
)
from kinoml_data.layouts.checksums import row_checksums

TEXT = "kinoml_attack"  # in all that an attacker wants imported, compiled or run
RAN = "ran"  # the folder that appears where it was

Source = Path | Mapping[str, Any]


@dataclass(frozen=True)
class Attack:
    """A hostile file or config.

    Attributes:
        name: what it is.
        make: writes it into an empty folder; returns what `load_dataset` is given.
        error: the error it ends in; None where it is harmless, and is read.
        said: a part of the error's text.
    """

    name: str
    make: Callable[[Path], Source]
    error: type[Exception] | None
    said: str = ""


class Payload:
    """Whoever unpickles it makes the folder `RAN`."""

    def __init__(self, folder: Path) -> None:
        self.path = folder / RAN

    def __reduce__(self) -> Any:
        return os.mkdir, (str(self.path),)


def attacks() -> list[Attack]:
    """All of them."""
    groups = (harmless, zip_files, npy_headers, layouts, parquet_files, paths, configs, python_names)
    found = [attack for group in groups for attack in group()]
    assert len({attack.name for attack in found}) == len(found)
    return found


# -- zip files, with any field of any header telling something else

LOCAL = (
    "signature",
    "needs",
    "flags",
    "method",
    "time",
    "date",
    "crc",
    "csize",
    "usize",
    "name_length",
    "extra_length",
)
ENTRY = ("signature", "made_by", *LOCAL[1:], "comment_length", "disk", "internal", "external", "offset")
END = ("signature", "disk", "first_disk", "here", "count", "length", "start", "comment_length")
END64 = ("signature", "size", "made_by", "needs", "disk", "first_disk", "here", "count", "length", "start")
LOCATOR = ("signature", "disk", "where", "disks")


@dataclass
class Member:
    """A member of a zip file; `local`, `entry` and the rest replace what would be true."""

    name: str | bytes = "X.npy"
    content: bytes = b""
    method: int = 0
    local: Mapping[str, int] = field(default_factory=dict)
    entry: Mapping[str, int] = field(default_factory=dict)
    stored: bytes | None = None  # the bytes in the file, where they are not those that `method` makes
    local_name: bytes | None = None
    local_extra: bytes = b""
    entry_extra: bytes = b""
    comment: bytes = b""
    before: bytes = b""
    after: bytes = b""


def zipped(
    *members: Member,
    before_directory: bytes = b"",
    tail: bytes = b"",
    end: Mapping[str, int] | None = None,
    end64: Mapping[str, int] | None = None,
    locator: Mapping[str, int] | None = None,
) -> bytes:
    """A zip file; with zip64 records where `end64` is given."""
    out, directory = bytearray(), bytearray()
    for member in members:
        name = member.name.encode() if isinstance(member.name, str) else member.name
        stored = member.stored if member.stored is not None else _stored(member.content, member.method)
        out += member.before
        flags = 0 if name.isascii() else 0x800
        true: dict[str, int] = {
            **{"signature": 0x04034B50, "made_by": 20, "needs": 20, "flags": flags, "method": member.method},
            **{"time": 0, "date": 33, "crc": zlib.crc32(member.content), "csize": len(stored)},
            **{"usize": len(member.content), "offset": len(out)},
            **dict.fromkeys(("disk", "internal", "external"), 0),
        }
        local_name = name if member.local_name is None else member.local_name
        said = true | {"name_length": len(local_name), "extra_length": len(member.local_extra)} | dict(member.local)
        out += struct.pack("<IHHHHHIIIHH", *(said[key] for key in LOCAL)) + local_name + member.local_extra
        out += stored + member.after
        lengths = {"name_length": len(name), "extra_length": len(member.entry_extra)}
        said = true | lengths | {"signature": 0x02014B50, "comment_length": len(member.comment)} | dict(member.entry)
        directory += struct.pack("<IHHHHHHIIIHHHHHII", *(said[key] for key in ENTRY))
        directory += name + member.entry_extra + member.comment
    out += before_directory
    true = {
        **{"signature": 0x06054B50, "disk": 0, "first_disk": 0, "here": len(members), "count": len(members)},
        **{"length": len(directory), "start": len(out), "comment_length": 0},
    }
    out += directory
    if end64 is not None:
        said = true | {"signature": 0x06064B50, "size": 44, "made_by": 45, "needs": 45} | dict(end64)
        where = len(out)
        out += struct.pack("<IQHHIIQQQQ", *(said[key] for key in END64))
        said = {"signature": 0x07064B50, "disk": 0, "where": where, "disks": 1} | dict(locator or {})
        out += struct.pack("<IIQI", *(said[key] for key in LOCATOR))
    said = true | dict(end or {})
    return bytes(out) + struct.pack("<IHHHHIIH", *(said[key] for key in END)) + tail


def _stored(content: bytes, method: int) -> bytes:
    if method != 8:
        return content
    deflate = zlib.compressobj(9, zlib.DEFLATED, -15)
    return deflate.compress(content) + deflate.flush()


def npy(array: Any) -> bytes:
    """An array as numpy writes it; objects are pickled."""
    out = io.BytesIO()
    np.lib.format.write_array(out, np.asarray(array), allow_pickle=True)
    return out.getvalue()


def headed(header: bytes | str, payload: bytes = bytes(24), *, version: int = 1, length: int | None = None) -> bytes:
    """An npy array with any text for a header."""
    text = header.encode() if isinstance(header, str) else header
    size = struct.pack("<H" if version == 1 else "<I", len(text) + 1 if length is None else length)
    return b"\x93NUMPY" + bytes([version, 0]) + size + text + b"\n" + payload


def described(descr: str = "'<f4'", fortran: str = "False", shape: str = "(3, 2)") -> str:
    return f"{{'descr': {descr}, 'fortran_order': {fortran}, 'shape': {shape}, }}"


X = npy(np.arange(6, dtype="<f4").reshape(3, 2))
Y = npy(np.arange(3, dtype="<f4"))
PLAIN = (Member("X.npy", X), Member("y.npy", Y))


def file(content: bytes | Callable[[Path], bytes], name: str = "data.npz") -> Callable[[Path], Source]:
    """What writes one file."""

    def make(folder: Path) -> Source:
        (folder / name).write_bytes(content(folder) if callable(content) else content)
        return folder / name

    return make


def config(text: str | bytes, name: str = "data.yaml", beside: bytes = b"") -> Callable[[Path], Source]:
    """What writes a config, and a good NPZ file beside it."""

    def make(folder: Path) -> Source:
        (folder / "data.npz").write_bytes(beside or zipped(*PLAIN))
        said = text.replace("FOLDER", str(folder)) if isinstance(text, str) else text
        (folder / name).write_bytes(said.encode() if isinstance(said, str) else said)
        return folder / name

    return make


def harmless() -> Iterator[Attack]:
    """What the builders give with nothing wrong: every attack differs from one of these in what its name says."""
    deflated = [Member(m.name, m.content, 8) for m in PLAIN]
    yield Attack("harmless: stored", file(zipped(*PLAIN)), None)
    yield Attack("harmless: deflated", file(zipped(*deflated)), None)
    yield Attack("harmless: zip64", file(zipped(*PLAIN, end64={})), None)
    yield Attack("harmless: data descriptors", file(zipped(*map(streamed, PLAIN))), None)
    yield Attack("harmless: data descriptors of zip64", file(zipped(*(streamed(m, long=True) for m in PLAIN))), None)
    yield Attack("harmless: sizes in the extra field", file(zipped(*map(long, PLAIN))), None)
    yield Attack("harmless: a header of our own", file(zipped(Member("X.npy", headed(described())))), None)
    yield Attack("harmless: Fortran order", file(zipped(Member("X.npy", headed(described(fortran="True"))))), None)
    yield Attack("harmless: npy 2.0", file(zipped(Member("X.npy", headed(described(), version=2)))), None)
    extended = b"UT\x05\0\3abcdux\x0b\0\1" + bytes(10)
    info_zip = [Member(m.name, m.content, 8, local_extra=extended, entry_extra=extended[:9]) for m in PLAIN]
    yield Attack("harmless: the extra fields of Info-ZIP", file(zipped(*info_zip)), None)
    padded = [Member(m.name, m.content, local_extra=bytes(300), entry_extra=b"x") for m in PLAIN]
    yield Attack("harmless: extra fields that are none", file(zipped(*padded)), None)
    yield Attack("harmless: a comment", file(zipped(*PLAIN, tail=b"hi", end={"comment_length": 2})), None)
    commented = [Member(m.name, m.content, comment=b"PK\1\2" * 20, entry={"disk": 1, "internal": 1}) for m in PLAIN]
    yield Attack("harmless: comments and attributes of members", file(zipped(*commented)), None)
    apart = [PLAIN[0], Member("y.npy", Y, before=b"gap")]
    yield Attack("harmless: gaps", file(zipped(*apart, before_directory=b"gap")), None)
    hidden = zipped(PLAIN[0], Member("z.npy", X, before=b"hidden"))
    spec = b'{"X": "X", "columns": {"X": {"shape": [2]}}, "storage": {"backend": "npz-lazy", "path": "data.npz"}}'
    yield Attack("harmless: a gap that nobody reads", config(spec, "b.json", hidden), None)
    beside = [Member("run.py", b"print()"), Member("sub/", b""), Member("__MACOSX/._X.npy", b"\0\5\x16\7")]
    yield Attack("harmless: members that are no arrays", file(zipped(*PLAIN, *beside)), None)
    objects = lambda folder: zipped(*PLAIN, Member("z.npy", npy(np.array([Payload(folder)], object))))  # noqa: E731
    yield Attack("harmless: a pickled object that nobody reads", file(objects), None)
    encrypted = Member("z.npy", X, 99, local={"flags": 1}, entry={"flags": 1})
    yield Attack("harmless: a member that is encrypted, and nobody reads", file(zipped(*PLAIN, encrypted)), None)
    python_2 = headed("{'shape': (3L, 2L), u\"fortran_order\":False,\n 'descr' : 'float32'}")
    yield Attack("harmless: a header with other keys, quotes and spaces", file(zipped(Member("X.npy", python_2))), None)
    yield Attack("harmless: a config", config("storage: {backend: npz-lazy, path: data.npz}"), None)
    yield Attack("harmless: JSON", config('{"storage": {"backend": "npz-lazy", "path": "data.npz"}}', "a.json"), None)
    yield Attack("harmless: TOML", config('storage = {backend = "npz-lazy", path = "data.npz"}', "a.toml"), None)
    yield Attack("harmless: Parquet", file(lambda _: parquet({"X": [1.0, 2.0], "y": [3.0, 4.0]}), "a.parquet"), None)
    yield Attack("harmless: CSV", file(b"X,y\n1,2\n", "a.csv"), None)
    # What a store says of its own place is not followed.
    elsewhere = b'{"X": "X", "columns": {"X": {"shape": [2]}}, "storage": {"backend": "csv", "path": "/etc/passwd"}}'
    yield Attack("harmless: a spec in the store that names another file", file(with_spec(elsewhere)), None)


def streamed(member: Member, long: bool = False, **lies: int) -> Member:
    """A member as numpy writes it into a pipe: sizes and checksum behind the content."""
    said = {"crc": zlib.crc32(member.content), "csize": len(member.content), "usize": len(member.content)} | lies
    after = b"PK\7\x08" + struct.pack("<IQQ" if long else "<III", said["crc"], said["csize"], said["usize"])
    sizes = dict.fromkeys(("csize", "usize"), 0xFFFFFFFF if long else 0)
    extra = struct.pack("<HHQQ", 1, 16, 0, 0) if long else b""
    flags = {"flags": 8}
    return Member(
        member.name, member.content, local=flags | {"crc": 0} | sizes, entry=flags, after=after, local_extra=extra
    )


def long(member: Member, local: tuple[int, int, int, int] | None = None, entry: bytes | None = None) -> Member:
    """A member whose sizes are in zip64's extra field, both times."""
    size, full = len(member.content), dict.fromkeys(("csize", "usize"), 0xFFFFFFFF)
    extra = struct.pack("<HHQQ", *(local or (1, 16, size, size)))
    return Member(
        member.name,
        member.content,
        local=full,
        entry=full,
        local_extra=extra,
        entry_extra=struct.pack("<HHQQ", 1, 16, size, size) if entry is None else entry,
    )


def with_spec(text: bytes, **beside: bytes) -> bytes:
    crc = row_checksums(np.arange(6, dtype="<f4").reshape(3, 2), np.arange(3))
    held = {"X": X, "X.crc32": npy(crc), "_spec": npy(np.frombuffer(text, np.uint8)), **beside}
    return zipped(*(Member(f"{name}.npy", content) for name, content in held.items()))


def zip_files() -> Iterator[Attack]:
    corrupt, unsafe, unsupported = CorruptStoreError, UnsafeStoreError, UnsupportedStoreError
    x, y = PLAIN
    zeros = npy(np.zeros(1 << 20, "<f4"))
    nothing = npy(np.zeros((0, 2), "<f4"))

    def of(name: str, error: type[Exception], said: str, content: Any) -> Attack:
        return Attack(f"zip: {name}", file(content), error, said)

    # Bytes that belong to nothing.
    yield of("no bytes", corrupt, "0 bytes is too short for an NPZ file", b"")
    yield of("no members", unsupported, "contains no array of rows", zipped())
    yield of(
        "bytes before the first member",
        unsupported,
        "2 bytes before its first member; write it again",
        zipped(Member("X.npy", X, before=b"#!")),
    )
    yield of("bytes before the file", unsupported, "2 bytes before the zip file; write it again", b"#!" + zipped(x))
    yield of("bytes after the end", corrupt, "does not end with a zip directory", zipped(x, tail=b"x"))
    for length in (1, 3):
        lie = zipped(x, tail=b"hi", end={"comment_length": length})
        yield of(f"a comment of 2 bytes that is said to have {length}", corrupt, "does not end with a zip", lie)
    inner = zipped(y)
    lie = zipped(x, tail=inner, end={"comment_length": len(inner)})
    yield of("a comment that is a zip file", unsupported, "bytes before the zip file; write it again", lie)
    yield of(
        "a second zip file behind", unsupported, "bytes before the zip file; write it again", zipped(x) + zipped(y)
    )
    yield of("bytes instead of members", corrupt, "bytes before its directory", zipped(before_directory=b"gap"))
    yield of(
        "a directory longer than its members",
        corrupt,
        "0 members, but contains some",
        zipped(x, end={"here": 0, "count": 0}),
    )

    # Members that share bytes.
    second = zipped(y)[: 30 + 5 + len(Y)]
    quoting = Member("X.npy", X, entry={"csize": len(X) + len(second), "usize": len(X) + len(second)})
    yield of("a member that quotes the next", unsafe, "overlap", zipped(quoting, y))
    yield of("a member inside another", unsafe, "overlap", zipped(x, Member("y.npy", Y, entry={"offset": 40})))
    same = Member("z.npy", X, entry={"offset": 0})
    yield of("two entries for one member", unsafe, "overlap", zipped(x, same))
    yield of("a member in the directory", unsafe, "overlap", zipped(x, Member("y.npy", Y, entry={"offset": 1 << 20})))

    # Bombs.
    said = {"usize": len(X)}
    bomb = Member("X.npy", X, 8, local=said, entry=said, stored=_stored(X + zeros, 8))
    yield of("a bomb that says it is small", corrupt, "does not expand to the size in its header", zipped(bomb))
    small = {"usize": 1000}
    bomb = Member("X.npy", zeros, 8, local=small, entry=small)
    yield of("a bomb whose header is right", corrupt, "872 bytes, but its npy header specifies 4194304", zipped(bomb))
    small = Member("X.npy", X, 8, local={"usize": 1 << 30}, entry={"usize": 1 << 30})
    yield of("a small member that says it is a bomb", unsafe, "would expand to 1073741824 bytes", zipped(small))
    yield Attack("zip: a bomb beyond the limit", bomb_beyond_the_limit, unsafe, "would expand to 17179869185 bytes")
    yield of("a zip file in a zip file", corrupt, "not an npy array", zipped(Member("X.npy", zipped(x), 8)))
    many = [Member("X.npy", b"") for _ in range(60_000)]
    yield of("60,000 members of one name", unsupported, "occurs more than once", lambda _: zipped(*many))
    names = [Member(f"{i}".encode() + b"n" * 60_000 * (i == 0) + b".npy", nothing) for i in range(2000)]
    yield of("one name that all others are read as wide as", unsafe, "longer than 1024 bytes", lambda _: zipped(*names))
    yield Attack("zip: a directory of 2 GiB of nothing", sparse_directory, unsafe, "its directory has 2147483648 bytes")
    yield of(
        "a directory of 2**60 members",
        corrupt,
        "too short",
        zipped(x, end64={"here": 1 << 60, "count": 1 << 60}, end={"here": 0xFFFF, "count": 0xFFFF}),
    )

    # Local header and directory, field by field.
    disagrees = "disagrees with the directory"
    for key in ("signature", "flags", "crc", "csize", "usize", "name_length", "extra_length"):
        lie = Member("X.npy", X, local={key: {"flags": 1, "name_length": 6}.get(key, 7)})
        yield of(f"another {key} in the local header", corrupt, disagrees, zipped(lie))
    yield of("another method in the local header", corrupt, disagrees, zipped(Member("X.npy", X, local={"method": 8})))
    yield of("another name in the local header", corrupt, disagrees, zipped(Member("X.npy", X, local_name=b"y.npy")))
    lie = Member("ä.npy", X, local={"flags": 0})
    yield of("another encoding of the name in the local header", corrupt, disagrees, zipped(lie))
    checksum = Member("X.npy", X, local={"crc": 7}, entry={"crc": 7})
    yield of("a checksum that both headers lie about", corrupt, "its CRC-32 is", zipped(checksum))
    both = {"usize": len(X) + 1}
    yield of("a stored member of two sizes", corrupt, disagrees, zipped(Member("X.npy", X, local=both, entry=both)))
    unread = (x, Member("z.npy", X, local={"crc": 7}))
    spec = b'{"X": "X", "columns": {"X": {"shape": [2]}}, "storage": {"backend": "npz-lazy", "path": "data.npz"}}'
    yield Attack("zip: a lie about a member nobody reads", config(spec, "a.json", zipped(*unread)), corrupt, disagrees)
    yield of(
        "deflate with bytes behind",
        corrupt,
        "does not expand",
        zipped(Member("X.npy", X, 8, stored=_stored(X, 8) + b"x")),
    )
    yield of("deflate cut short", corrupt, "does not expand", zipped(Member("X.npy", X, 8, stored=_stored(X, 8)[:-3])))
    yield of("deflate that is none", corrupt, "'X.npy'", zipped(Member("X.npy", X, 8, stored=b"\xff" * 99)))

    # The directory itself.
    lie = Member("X.npy", X, comment=b"hi", entry={"comment_length": 3})
    yield of("an entry with a comment that is longer than said", corrupt, "directory is broken", zipped(lie, y))
    lie = Member("X.npy", X, entry_extra=b"UT\1\0x", entry={"extra_length": 4})
    yield of("an extra field that is shorter than said", corrupt, "directory is broken", zipped(lie, y))
    yield of("a broken entry", corrupt, "directory is broken", zipped(Member("X.npy", X, entry={"signature": 7})))
    for key in ("disk", "first_disk", "here", "length", "start"):
        yield of(
            f"another {key} at the end",
            corrupt,
            "does not match the position",
            zipped(*PLAIN, end={key: 1}),
        )
    yield of(
        "fewer members than there are",
        corrupt,
        "1 members, but contains 2",
        zipped(*PLAIN, end={"here": 1, "count": 1}),
    )
    yield of(
        "more members than there are", corrupt, "too short for 9 members", zipped(*PLAIN, end={"here": 9, "count": 9})
    )
    for key, value in {"signature": 7, "size": 45, "disk": 1, "first_disk": 1}.items():
        yield of(
            f"zip64 with another {key}", corrupt, "is not where its locator specifies", zipped(x, end64={key: value})
        )
    for key in ("disk", "where"):
        yield of(
            f"a zip64 locator with another {key}",
            corrupt,
            "is not where its locator specifies",
            zipped(x, end64={}, locator={key: 2}),
        )
    yield of(
        "zip64 and zip disagree", corrupt, "directory records disagree", zipped(*PLAIN, end64={"count": 1, "here": 1})
    )
    sentinel = Member("X.npy", X, entry={"usize": 0xFFFFFFFF})
    yield of("a size for zip64 without zip64", corrupt, "lacks the extra field of zip64", zipped(sentinel))
    other = struct.pack("<HHQQ", 2, 16, len(X), len(X))
    yield of("an extra field of another kind", corrupt, "lacks the extra field of zip64", zipped(long(x, entry=other)))
    short = struct.pack("<HHQ", 1, 8, len(X))
    yield of("zip64 with one size of two", corrupt, "lacks the extra field of zip64", zipped(long(x, entry=short)))
    beyond = struct.pack("<HHQQ", 1, 16, 1 << 63, 1 << 63)
    yield of("a size beyond any file", corrupt, "is larger than any file", zipped(long(x, entry=beyond)))
    yield of("zip64 in the local header alone lies", corrupt, disagrees, zipped(long(x, local=(1, 16, 7, 7))))
    yield of(
        "zip64 of another kind in the local header", corrupt, disagrees, zipped(long(x, local=(2, 16, len(X), len(X))))
    )
    for key in ("crc", "csize", "usize"):
        yield of(f"a data descriptor with another {key}", corrupt, disagrees, zipped(streamed(x, **{key: 7})))
    broken = streamed(x)
    broken.after = b"PK\7\7" + broken.after[4:]
    yield of("a data descriptor that is none", corrupt, "data descriptor disagrees", zipped(broken))

    # Features, by name.
    flagged = {"flags": 1}
    yield of("encrypted", unsupported, "is encrypted", zipped(Member("X.npy", X, local=flagged, entry=flagged)))
    for flag in (0x20, 0x40, 0x2000):
        flagged = {"flags": flag}
        yield of(
            f"the flag {flag:#x}",
            unsupported,
            "flags that numpy never sets",
            zipped(Member("X.npy", X, local=flagged, entry=flagged)),
        )
    for method in (1, 9, 12, 14, 93, 99):
        yield of(
            f"the method {method}", unsupported, f"compression method {method},", zipped(Member("X.npy", X, method))
        )

    # Names.
    yield of("two members of one name", unsupported, "'X.npy' occurs more than once", zipped(x, x))
    yield of("a name with NUL", unsafe, "a control character", zipped(Member(b"X.npy\0.npy", X)))
    yield of("a name of two lines", unsafe, "a control character", zipped(Member(b"X\n.npy", X)))
    yield of("a name that paints", SpecError, r"'a\x1b[31mred'", zipped(Member(b"a\x1b[31mred.npy", X)))
    yield of("a name that is no UTF-8", corrupt, "not UTF-8", zipped(Member(b"\xff.npy", X)))
    named = "does not specify which columns are X"
    yield of("a name that is a path", SpecError, named, zipped(Member(f"../../{TEXT}.npy", X)))
    yield of("a name that is a path from the root", SpecError, named, zipped(Member("/etc/passwd.npy", X)))
    yield of("a folder", unsupported, "contains no array of rows", zipped(Member("X/", b"")))
    yield of("no member that is an array", unsupported, "contains no array", zipped(Member("run.py", b"print()")))
    lie = (x, Member("run.py", b"print()", local={"crc": 7}))
    yield of("a lie about a member that is no array", corrupt, disagrees, zipped(*lie))
    yield of("a member without a name", unsupported, "contains no array of rows", zipped(Member("", X)))
    yield of("a very long name", unsafe, "longer than 1024 bytes", zipped(Member("n" * 65_000 + ".npy", X)))


def bomb_beyond_the_limit(folder: Path) -> Source:
    """A compressed member of 17 GiB, which 17 MiB of deflate could hold."""
    size, stored = (1 << 34) + 1, 18 << 20
    full = {"usize": 0xFFFFFFFF}
    member = Member(
        "X.npy",
        b"",
        8,
        local=full | {"csize": 0xFFFFFFFF, "crc": 7},
        entry=full | {"csize": stored, "crc": 7},
        stored=bytes(stored),
        local_extra=struct.pack("<HHQQ", 1, 16, size, stored),
        entry_extra=struct.pack("<HHQ", 1, 8, size),
    )
    (folder / "data.npz").write_bytes(zipped(member))
    return folder / "data.npz"


def sparse_directory(folder: Path) -> Source:
    """A file that takes no space on a disk and says that 2 GiB of it are its directory."""
    end = zipped(end={"length": 1 << 31, "start": 0, "count": 9, "here": 9})
    with (folder / "data.npz").open("wb") as out:
        out.seek(1 << 31)
        out.write(end)
    return folder / "data.npz"


# -- npy headers


def npy_headers() -> Iterator[Attack]:
    corrupt, unsafe, unsupported = CorruptStoreError, UnsafeStoreError, UnsupportedStoreError
    code = f"__import__('{TEXT}')"
    broken = "broken npy header"
    plain = described().encode()
    cases: dict[str, tuple[type[Exception], str, bytes]] = {
        "code for a header": (corrupt, broken, headed(f"{code} or {described()}")),
        "code for a shape": (corrupt, broken, headed(described(shape=f"({code}, 2)"))),
        "code for a dtype": (corrupt, broken, headed(described(descr=code))),
        "a header of 512 MiB": (unsafe, "npy header of 536870924 bytes", headed(plain, version=2, length=1 << 29)),
        "a header of 60,000 bytes": (unsafe, "npy header of 60", headed(plain + b" " * 60_000)),
        "a header longer than the file": (corrupt, "is shorter than its npy header", headed(plain, length=5000)),
        "brackets in brackets": (corrupt, broken, headed("(" * 9000)),
        "9,000 signs": (corrupt, broken, headed("-" * 9000 + "1")),
        "a number of 5,000 digits": (corrupt, broken, headed(described(shape=f"({'9' * 5000},)"))),
        "a number of 19 digits": (
            corrupt,
            "too large for any",
            headed(described(shape=f"({'9' * 19}, {'9' * 19})")),
        ),
        "a negative axis": (corrupt, broken, headed(described(shape="(-3, -2)"))),
        "a long of Python 3": (corrupt, broken, headed(described(shape="(3l, 2l)"))),
        "many digits without an end": (corrupt, broken, headed(described(shape="(" + "9" * 5000))),
        "many commas": (corrupt, broken, headed(described(shape="(3" + "," * 900 + ")"))),
        "quotes that differ": (corrupt, broken, headed(described(descr="'<f4\""))),
        "a bool for an axis": (corrupt, broken, headed(described(shape="(True, 6)"))),
        "a float for an axis": (corrupt, broken, headed(described(shape="(3.0, 2)"))),
        "no comma behind one axis": (corrupt, broken, headed(described(shape="(6)"))),
        "a list for a shape": (corrupt, broken, headed(described(shape="[3, 2]"))),
        "65 axes": (corrupt, broken, headed(described(shape=f"({'1, ' * 64}6)"))),
        "a shape whose product wraps around to 0": (
            corrupt,
            "too large for any",
            headed(described(shape="(4294967296, 4294967296)"), b""),
        ),
        "10**18 rows of nothing": (
            corrupt,
            "too large for any",
            headed(described(shape="(1000000000000000000, 0)"), b""),
        ),
        "a header that is not a mapping": (corrupt, broken, headed("['<f4', False, (3, 2)]")),
        "a key twice": (corrupt, broken, headed("{'descr': '<f4', " + described()[1:])),
        "a key too many": (corrupt, broken, headed(described()[:-1] + "'x': 1, }")),
        "a header that is not ASCII": (corrupt, broken, headed(described().replace("descr", "d\xe9scr"))),
        "a number in another script": (corrupt, broken, headed(described(shape="(\N{ARABIC-INDIC DIGIT THREE}, 2)"))),
        "fortran_order neither true nor false": (corrupt, broken, headed(described(fortran="5"))),
        "too few bytes": (corrupt, "20 bytes, but its npy header specifies 24", headed(plain, bytes(20))),
        "too many bytes": (corrupt, "28 bytes, but its npy header specifies 24", headed(plain, bytes(28))),
        "another magic": (corrupt, "not an npy array", b"\x93NUMPX" + X[6:]),
        "npy 4.0": (corrupt, "not an npy array", headed(plain, version=4)),
        "npy 1.1": (corrupt, "not an npy array", X[:7] + b"\1" + X[8:]),
        "seven bytes": (corrupt, "not an npy array", X[:7]),
        "no bytes": (corrupt, "not an npy array", b""),
        "a structure": (unsupported, "structured array", headed(described(descr="[('a', '<f4'), ('b', '<f4')]"))),
        "a structure with an object": (unsafe, "would need unpickling", headed(described(descr="[('a', '|O')]"))),
        "a subarray": (corrupt, broken, headed(described(descr="('<f4', (2,))"))),
        "a void of 2**62 rows": (
            unsupported,
            "has dtype |V0",
            headed(described("'|V0'", shape="(4611686018427387904,)"), b""),
        ),
        "text of no width": (unsupported, "has dtype <U0", headed(described(descr="'<U0'", shape="(3,)"), b"")),
        "an old name for bytes": (corrupt, broken, headed(described(descr="'|a4'"))),
        "dates": (
            unsupported,
            'datetime64[ns], which is not supported; store it as .astype("int64")',
            headed(described(descr="'<M8[ns]'", shape="(3,)")),
        ),
        "dates of no unit": (corrupt, "has an unknown dtype", headed(described(descr="'<M8[zz]'", shape="(3,)"))),
        "a long double": (unsupported, 'store it as .astype("float64")', headed(described(descr="'<f16'"), bytes(96))),
        "a float of 3 bytes": (corrupt, "has an unknown dtype", headed(described(descr="'<f3'"))),
        "a name of no type": (corrupt, broken, headed(described(descr="'float33'"))),
        "code for a name of a type": (corrupt, broken, headed(described(descr=f"'{TEXT}'"))),
        "an object of 8 bytes": (unsafe, "would need unpickling", headed(described(descr="'|O8'"))),
    }
    for name, (error, said, content) in cases.items():
        # With nothing else in the file, the file is refused as a whole for what is not read.
        in_zip = unsupported if "unpickling" in said else error
        yield Attack(f"npy in a zip file: {name}", file(zipped(Member("X.npy", content))), in_zip, said)
        yield Attack(f"npy by name in a zip file: {name}", by_name(Member("X.npy", content)), error, said)
        yield Attack(f"npy: {name}", split(content), error, said)
    yield Attack(
        "npy deflated: a header of 512 MiB",
        file(zipped(Member("X.npy", cases["a header of 512 MiB"][2], 8))),
        unsafe,
        "npy header of 536870924 bytes",
    )
    yield Attack("npy deflated: no array", file(zipped(Member("X.npy", b"no array", 8))), corrupt, "not an npy array")
    yield Attack(
        "npy: a pickled object", split(lambda folder: npy(np.array([Payload(folder)], object))), unsafe, "unpickling"
    )
    yield Attack("npy: a pickle", split(lambda folder: pickle.dumps(Payload(folder))), corrupt, "not an npy array")
    yield Attack("npy: an NPZ file", split(zipped(*PLAIN)), corrupt, "not an npy array")
    of_objects = lambda folder: zipped(Member("X.npy", npy(np.array([Payload(folder)], object))))  # noqa: E731
    yield Attack(
        "npz: a pickled object",
        file(of_objects),
        unsupported,
        "'X.npy' is an object array, which would need unpickling",
    )
    bare = lambda folder: zipped(Member("X.npy", pickle.dumps(Payload(folder))))  # noqa: E731
    yield Attack("npz: a pickle in a zip file", file(bare), corrupt, "'X.npy' is not an npy array")
    yield Attack(
        "npz: a pickle",
        file(lambda folder: pickle.dumps(Payload(folder))),
        corrupt,
        "does not end with a zip directory",
    )


def by_name(member: Member) -> Callable[[Path], Source]:
    """What writes an NPZ file, and a config that names its column X."""
    spec = '{"X": "X", "columns": {"X": {"shape": [2]}}, "storage": {"backend": "npz-lazy", "path": "data.npz"}}'
    return config(spec, "a.json", zipped(member))


SPLIT = "storage: {backend: npz-lazy, path: data.npz}\nsplits: {train: {file: rows.npy}}\n"


def split(content: bytes | Callable[[Path], bytes]) -> Callable[[Path], Source]:
    """What writes a config whose split is a .npy file."""

    def make(folder: Path) -> Source:
        (folder / "rows.npy").write_bytes(content(folder) if callable(content) else content)
        return config(SPLIT)(folder)

    return make


# -- arrays that are each in order, and do not fit together


def layouts() -> Iterator[Attack]:
    corrupt, unsupported = CorruptStoreError, UnsupportedStoreError

    def of(name: str, error: type[Exception], said: str, **held: Any) -> Attack:
        members = [Member(f"{key.replace('__', '.')}.npy", npy(array)) for key, array in held.items()]
        return Attack(f"layout: {name}", file(zipped(*members)), error, said)

    flat, two = np.arange(6.0), np.array([[2], [4]])
    yield of(
        "another number of rows in y", SpecError, "differ in their number of rows", X=np.zeros((3, 2)), y=np.zeros(4)
    )
    yield of("values without shapes", corrupt, "is stored without 'v.shapes'", v__values=flat)
    yield of(
        "shapes that add up to less", corrupt, "its shapes add up to 5", v__values=flat, v__shapes=two - [[0], [1]]
    )
    yield of("negative shapes", corrupt, "negative length", v__values=flat, v__shapes=np.array([[8], [-2]]))
    yield of("shapes with a point", corrupt, "its shapes have dtype float64", v__values=flat, v__shapes=two * 1.0)
    yield of("shapes of one axis", corrupt, "1 axes instead of 2", v__values=flat, v__shapes=np.array([2, 4]))
    huge = np.array([[2**32, 2**32], [2, 3]])
    yield of(
        "shapes whose product wraps around to 0",
        corrupt,
        "more values than any store contains",
        v__values=flat,
        v__shapes=huge,
    )
    huge = np.array([[0, 2**62], [2, 3]])
    yield of(
        "an empty row of a huge axis", corrupt, "more values than any store contains", v__values=flat, v__shapes=huge
    )
    huge = np.array([[2**64 - 1], [7]], np.uint64)
    yield of("shapes beyond int64", corrupt, "negative length", v__values=flat, v__shapes=huge)
    checks = np.zeros(3, np.uint32)
    yield of("checksums that are not the rows'", corrupt, "its CRC-32 is", X=np.ones((3, 9)), X__crc32=checks)
    yield of("too few checksums", corrupt, "3 rows, but 2 checksums", X=np.ones((3, 9)), X__crc32=checks[:2])
    checked = {"v__values": flat, "v__shapes": two, "v__crc32": checks}
    yield of("too few checksums of ragged rows", corrupt, "2 rows, but 3 checksums", **checked)
    yield of(
        "one checksum for all rows", corrupt, "must be uint32 with one axis", X=np.ones((3, 9)), X__crc32=checks[0]
    )
    yield of(
        "checksums that are no numbers",
        corrupt,
        "must be uint32 with one axis",
        X=np.ones((3, 9)),
        X__crc32=checks * np.nan,
    )
    crc = row_checksums(np.ones((3, 9)), np.arange(3))
    for name, said, keys in (
        ("beyond the distinct rows", "row 1: its key is 3, but the number of distinct rows is 3", np.array([0, 3, 2])),
        ("that are negative", "row 0: its key is -1", np.array([-1, 2], np.int8)),
        ("beyond int64", "row 1: its key is 18446744073709551615", np.array([0, 2**64 - 1], np.uint64)),
        ("with a point", r"its keys are float64 (2,), not integers", np.zeros(2)),
        ("that are bools", r"its keys are bool (2,), not integers", np.zeros(2, bool)),
        ("of two axes", r"its keys are int64 (2, 1), not integers", np.zeros((2, 1), int)),
        ("of no axis", r"its keys are int64 (), not integers", np.array(1)),
        ("of another number of rows", "differ in their number of rows", np.zeros(2, int)),
    ):
        others = {"y": np.zeros(4)} if "number" in name else {}
        yield of(f"keys {name}", corrupt, said, X=np.ones((3, 9)), X__crc32=crc, X__keys=keys, **others)
    yield of("a column of no axis", unsupported, "is a single value, not a sequence of rows", X=np.float32(1))
    yield of("text of two axes", unsupported, "contains text with 2 axes", X=np.array([["a"], ["b"]]))
    yield of("text for a row", unsupported, "contains text; store the texts of all rows", X_s0=np.array(["a"]))
    yield of("a row that is missing", corrupt, "row 1 is missing", X_s0=flat, X_s2=flat)
    yield of("a row twice", corrupt, "a row is stored twice", X_s0=flat, X_s0_=flat)
    yield of("a row of a number of 18 digits", corrupt, "row 0 is missing", **{f"X_s{'9' * 18}": flat})
    yield of("both ways to name rows", corrupt, "X_s{row} as well as X_s{row}_a{array}", X_s0=flat, X_s0_a0=flat)
    yield of("rows of different dtypes", unsupported, "dtypes", X_s0=flat, X_s1=np.arange(6))
    arrays = {f"X_s0_a{i}": np.zeros(i % 60, "<f4") for i in range(3000)}
    yield of("thousands of arrays in a row", unsupported, "3000 arrays per row", **arrays)
    yield of(
        "a spec that is a number of bytes",
        corrupt,
        "embedded in the store is not valid",
        _spec=np.array(10**12),
        X=np.ones(3),
    )

    def embedded(name: str, error: type[Exception], said: str, text: str) -> Attack:
        return Attack(f"embedded spec: {name}", file(with_spec(text.encode())), error, said)

    invalid = "embedded in the store is not valid"
    begun = '"X": "X", "columns": {"X": {"shape": [2]}}, "storage": {"backend": "npz-lazy"}'
    yield embedded("no text", corrupt, invalid, "")
    yield embedded("no mapping", corrupt, invalid, "[1]")
    yield embedded("deeply nested", corrupt, invalid, "[" * 100_000)
    yield embedded("a key twice", corrupt, "duplicate key", f'{{"name": "a", "name": "b", {begun}}}')
    yield embedded("NaN", corrupt, invalid, f'{{"name": NaN, {begun}}}')
    yield embedded(
        "a key that nobody knows", corrupt, "unknown key '_target_'", f'{{"_target_": "{TEXT}.run", {begun}}}'
    )
    yield embedded(
        "a model by its import path",
        UnknownNameError,
        "unknown observation model",
        f'{{"observation_model": "{TEXT}.run", {begun}}}',
    )
    for path in ("../outside.npy", "/etc/passwd", "rows/../../outside.npy"):
        text = f'{{"splits": {{"train": {{"file": "{path}"}}}}, {begun}}}'
        yield embedded(f"a split in {path}", SpecError, "leaves the dataset's folder", text)

    def by_a_link(folder: Path) -> Source:
        (folder / "rows.npy").symlink_to("/etc/passwd")
        text = f'{{"splits": {{"train": {{"file": "rows.npy"}}}}, {begun}}}'
        return file(with_spec(text.encode()))(folder)

    yield Attack("embedded spec: a split behind a link", by_a_link, SpecError, "leaves the dataset's folder")


# -- Parquet


def parquet(columns: Any, metadata: Mapping[bytes, bytes] | None = None) -> bytes:
    import pyarrow as pa
    import pyarrow.parquet as pq

    out = io.BytesIO()
    table = columns if isinstance(columns, pa.Table) else pa.table(columns)
    pq.write_table(table.replace_schema_metadata(metadata) if metadata else table, out)
    return out.getvalue()


def with_rows(count: int, said: int) -> bytes:
    """A foreign Parquet file of `count` rows whose footer says `said`."""

    def varint(number: int) -> bytes:
        number, out = number << 1, bytearray()
        while number >= 128:
            out.append(number & 127 | 128)
            number >>= 7
        return bytes([*out, number])

    data = parquet({"X": np.zeros(count)})
    size = int.from_bytes(data[-8:-4], "little")
    footer = data[-8 - size : -8].replace(varint(count), varint(said))
    return data[: -8 - size] + footer + struct.pack("<I", len(footer)) + b"PAR1"


def extension(name: bytes, metadata: bytes) -> Callable[[Path], Source]:
    """What writes a table that says its column is of an extension type."""

    def content(_: Path) -> bytes:
        import pyarrow as pa

        said = {b"ARROW:extension:name": name, b"ARROW:extension:metadata": metadata}
        fields = [pa.field("X", pa.float64(), metadata=said), pa.field("y", pa.float64())]
        return parquet(pa.table([[1.0], [2.0]], schema=pa.schema(fields)))

    return file(content, "a.parquet")


def parquet_files() -> Iterator[Attack]:
    corrupt, unsafe, unsupported = CorruptStoreError, UnsafeStoreError, UnsupportedStoreError

    def of(name: str, error: type[Exception], said: str, content: Callable[[], bytes]) -> Attack:
        return Attack(f"Parquet: {name}", file(lambda _: content(), "a.parquet"), error, said)

    def good() -> bytes:
        return parquet({"X": [1.0, 2.0], "y": [3.0, 4.0]})

    pickled = pickle.dumps(Payload(Path(f"/{TEXT}")))
    for name in ("arrow.py_extension_type", "ray.data.arrow_tensor", TEXT):
        make = extension(name.encode(), pickled)
        yield Attack(f"Parquet: the extension type {name}", make, unsupported, f"has the extension type '{name}'")
    yield Attack(
        "Parquet: a pickle", file(lambda folder: pickle.dumps(Payload(folder)), "a.parquet"), corrupt, "Parquet file"
    )
    yield of("no bytes", corrupt, "too short for a Parquet file", lambda: b"")
    yield of("cut short", corrupt, "does not begin and end", lambda: good()[:-100])
    yield of("bytes behind", corrupt, "does not begin and end", lambda: good() + b"x")
    yield of("encrypted", unsupported, "is encrypted", lambda: good()[:-4] + b"PARE")
    yield of(
        "a footer longer than the file",
        corrupt,
        "does not begin and end",
        lambda: good()[:-8] + b"\xff\xff\xff\x7fPAR1",
    )
    yield of("a footer of nothing", corrupt, "", lambda: good()[:-8] + bytes(4) + b"PAR1")
    yield of(
        "a footer of 100 MB",
        unsafe,
        "the limit is 67108864",
        lambda: b"PAR1" + bytes(10**8) + struct.pack("<I", 10**8) + b"PAR1",
    )
    yield of("100 billion rows", unsafe, "bytes decoded", lambda: with_rows(100_003, 10**11))
    yield of("a billion rows", corrupt, "lacks rows in row group 0", lambda: with_rows(100_003, 10**9))
    yield of(
        "only the checksums of our layout",
        corrupt,
        "another program changed it",
        lambda: parquet({"X": [1.0], "X:crc32": [1]}),
    )
    later = {b"kinoml_data.format": b"2"}
    yield of("a layout of the future", unsupported, "version '2' of the layout", lambda: parquet({"X": [1.0]}, later))
    unsealed = {b"kinoml_data.format": b"1", b"kinoml_data.columns": b"{}"}
    yield of(
        "our layout without its digest",
        corrupt,
        "its metadata differs from what was written",
        lambda: parquet({"X": [1.0]}, unsealed),
    )
    spec = "columns: {Z: {}}\nX: Z\nstorage: {backend: parquet-awkward, path: a.parquet}"

    def without(folder: Path) -> Source:
        (folder / "a.parquet").write_bytes(good())
        return config(spec)(folder)

    yield Attack("Parquet: a column that is not there", without, SpecError, "unknown stored column 'Z'")

    def painted(folder: Path) -> Source:
        (folder / "a.parquet").write_bytes(parquet({"a\x1b[31m": [None, 1.0]}))
        return config('X: "a\\e[31m"\nstorage: {backend: parquet-awkward, path: a.parquet}')(folder)

    yield Attack("Parquet: a name that paints", painted, SpecError, r"a\x1b[31m")
    yield of("values that are missing", SpecError, "row 1", lambda: parquet({"X": [1.0, None]}))


# -- what is no file


def paths() -> Iterator[Attack]:
    def special(
        name: str, make: Callable[[Path], Any], error: type[Exception] = StoreNotFoundError
    ) -> Iterator[Attack]:
        for suffix in ("npz", "parquet", "csv", "yaml", "npy"):

            def placed(folder: Path, suffix: str = suffix) -> Source:
                path = folder / f"rows.{suffix}"
                make(path)
                return config(SPLIT)(folder) if suffix == "npy" else path

            # A config that is no file is not looked at any further.
            yield Attack(f"{suffix}: {name}", placed, StoreNotFoundError if suffix == "yaml" else error, "rows")

    def listening(path: Path) -> None:
        here = Path.cwd()
        os.chdir(path.parent)  # the address of a socket is short
        try:
            with socket.socket(socket.AF_UNIX) as end:
                end.bind(path.name)
        finally:
            os.chdir(here)

    def loop(path: Path) -> None:
        path.symlink_to(path.with_name("other"))
        path.with_name("other").symlink_to(path)

    yield from special("a pipe nobody writes to", os.mkfifo)
    yield from special("a device without end", lambda path: path.symlink_to("/dev/zero"))
    yield from special("a folder", Path.mkdir)
    yield from special("a link to nothing", lambda path: path.symlink_to("nowhere"))
    yield from special("links in a circle", loop, StoreReadError)
    yield from special("a socket", listening, StoreReadError)

    def of(name: str, error: type[Exception], said: str, path: str) -> Attack:
        return Attack(f"path: {name}", lambda _: {"storage": {"backend": "npz-lazy", "path": path}}, error, said)

    yield of("NUL", SpecError, "NUL", "a\0.npz")
    yield of("empty", SpecError, "a path must not be empty", "")
    yield of("300 characters", StoreReadError, "cannot open", "n" * 300 + ".npz")
    yield of("a name that paints", StoreNotFoundError, r"\x1b[31m", "a\x1b[31m.npz")
    yield of("two lines", StoreNotFoundError, r"a\nb", "a\nb.npz")
    yield of("a URL", SpecError, "is a URL", f"http://{TEXT}.example/a.npz")
    yield of("a number", SpecError, "path", 5)
    painted = "a\x1b[31mred\x1b]0;title\x07.npz"
    yield Attack(
        "path: a file whose name paints",
        file(b"no zip file, but of some bytes", painted),
        CorruptStoreError,
        r"a\x1b[31mred\x1b]0;title\x07",
    )
    yield Attack("path: a config whose name paints", config("a: [", "a\x1b[31m.yaml"), SpecError, r"a\x1b[31m.yaml")


# -- configs


def configs() -> Iterator[Attack]:
    def of(
        name: str, said: str, text: str | bytes, suffix: str = ".yaml", error: type[Exception] = SpecError
    ) -> Attack:
        return Attack(f"{suffix[1:]}: {name}", config(text, f"data{suffix}"), error, said)

    storage = "storage: {backend: npz-lazy, path: data.npz}\n"
    tags = {
        "a call": f"!!python/object/apply:os.mkdir [FOLDER/{RAN}]",
        "a call of another kind": f"!!python/object/new:os.mkdir [FOLDER/{RAN}]",
        "an object": f"!!python/object:{TEXT}.Thing {{}}",
        "a function": "!!python/name:os.system",
        "a module": f"!!python/module:{TEXT}",
        "bytes": "!!binary aGk=",
        "a set": "!!set {a, b}",
        "a tag of no one": "!thing 5",
        "text": "!!str 5",
    }
    for name, value in tags.items():
        yield of(f"the tag of {name}", "tags are not supported", f"{storage}name: {value}\n")
    yield of("a tag on the whole", "tags are not supported", f"!!python/object:{TEXT}.Thing\n{storage}")
    laughs = "a: &a [x, x, x, x, x, x, x, x]\n" + "".join(
        f"{b}: &{b} [{', '.join([f'*{a}'] * 8)}]\n" for a, b in zip("abcdefgh", "bcdefghi", strict=True)
    )
    yield of("a billion laughs", "aliases are not supported", laughs + storage)
    yield of("a list that holds itself", "aliases are not supported", f"{storage}meta: &x [*x]\n")
    yield of("a merge key", "aliases are not supported", f"a: &a {{x: 1}}\n{storage}b:\n  <<: *a\n")
    yield of("a merge key without an alias", "unknown key '<<'", f"{storage}<<: {{name: x}}\n")
    yield of("a key twice", "duplicate key", f"{storage}name: a\nname: b\n")
    yield of("an option twice", "duplicate key", "storage: {backend: npz-lazy, path: data.npz, path: b.npz}\n")
    yield of("100,000 brackets", "nest", f"{storage}meta: {'[' * 100_000}")
    yield of("1,000 steps", "nested deeper", storage + "\n".join(" " * i + "a:" for i in range(1000)))
    yield of("2 MiB", "at most 1048576 bytes", storage + "#" * (2 << 20))
    yield of("UTF-16", "cannot be read as yaml", storage.encode("utf-16"))
    yield of("NUL", "not valid YAML", storage + "name: \0\n")
    yield of("a control character", "not valid YAML", storage + "name: \x1b[31m\n")
    yield of("two documents", "not valid YAML", f"{storage}---\n{storage}")
    yield of("a directive", "YAML", f"%TAG ! tag:yaml.org,2002:python/\n---\n{storage}name: !name:os.system\n")
    yield of("a key that is a list", "a key must be a string", f"{storage}? [a, b]\n: c\n")
    yield of("infinity", "NaN or infinity", f"{storage}name: .inf\n")
    yield of("a number of 5,000 digits", "not valid YAML", f"{storage}name: {'9' * 5000}\n")
    yield of("a list", "a spec must be a mapping", "- a\n")
    yield of("nothing", "a spec must be a mapping", "")
    yield of("a pickle", "cannot be read as yaml", pickle.dumps(Payload(Path("/x")), protocol=4))
    yield of("format 2", "reads format 1", f"format: 2\n{storage}")
    yield of("a key that paints", r"\x1b[31m", f'{storage}"a\\x1b[31m": 1\n')
    begun = '{"storage": {"backend": "npz-lazy", "path": "data.npz"}'
    yield of("a key twice", "duplicate key", begun + ', "name": "a", "name": "b"}', ".json")
    yield of("an option twice", "duplicate key", '{"storage": {"backend": "a", "backend": "b"}}', ".json")
    yield of("NaN", "NaN or infinity", begun + ', "name": NaN}', ".json")
    yield of("100,000 brackets", "cannot be read as json", "[" * 100_000, ".json")
    yield of("40 brackets", "nested deeper", f'{begun}, "meta": {"[" * 40}{"]" * 40}}}', ".json")
    yield of("a number of 5,000 digits", "not valid JSON", f'{begun}, "name": {"9" * 5000}}}', ".json")
    yield of("half a character", "", begun + ', "name": "\\ud800"}', ".json")
    begun = 'storage = {backend = "npz-lazy", path = "data.npz"}\n'
    yield of("a key of 100,000 parts", "dots", f"{'a.' * 100_000}b = 1\n{begun}", ".toml")
    yield of("a key twice", "not valid TOML", begun + "name = 'a'\nname = 'b'\n", ".toml")
    yield of("a date", "write it as a string", begun + "name = 1979-05-27\n", ".toml")
    yield of("10,000 brackets", "cannot be read as toml", f"{begun}meta = {'[' * 10_000}", ".toml")
    yield of("infinity", "NaN or infinity", begun + "name = inf\n", ".toml")
    columns = storage + "columns: {X: {shape: [2]}}\n"
    yield of("an object dtype", "unknown dtype 'object'", f"{storage}X: X\ncolumns: {{X: {{dtype: object}}}}\n")
    yield of(
        "a dtype of 2**40 bytes",
        "unknown dtype 'V1099511627776'",
        f"{storage}X: X\ncolumns: {{X: {{dtype: V1099511627776}}}}\n",
    )
    yield of(
        "a split of 10**18 rows",
        "outside the 3 rows",
        f"{storage}splits: {{a: {{range: [0, {10**18}]}}}}\n",
        error=SplitError,
    )
    yield of(
        "a row of 10**30", "outside the 3 rows", f"{storage}splits: {{a: {{rows: [{10**30}]}}}}\n", error=SplitError
    )
    yield of(
        "a column whose name is a path", "contains characters other than", columns.replace("X", "../X") + "X: ../X\n"
    )
    yield of("a column of 10**18 values", "", columns.replace("[2]", f"[{10**18}]") + "X: X\n")


# -- configs that name Python's own


def python_names() -> Iterator[Attack]:
    def of(name: str, error: type[Exception], said: str, **spec: Any) -> Attack:
        def make(folder: Path) -> Source:
            path = config("")(folder).with_name("data.npz")
            return {"storage": {"backend": "npz-lazy", "path": str(path)}} | spec

        return Attack(f"names: {name}", make, error, said)

    unknown = UnknownNameError
    for name in (
        "os.system",
        "builtins:eval",
        f"{TEXT}",
        f"{TEXT}:run",
        "../plugin.py",
        "__import__('os')",
        "a\x1b[31m",
    ):
        shown = repr(name)
        yield of(f"the backend {shown}", unknown, f"unknown backend {shown}", storage={"backend": name})
        yield of(f"the model {shown}", unknown, f"unknown observation model {shown}", observation_model={"name": name})
        computed = {
            "backend": "featurize-on-access",
            "featurizer": {"name": name},
            "source": {"backend": "csv", "path": "a.csv"},
        }
        yield of(
            f"the featurizer {shown}",
            unknown,
            f"unknown featurizer {shown}",
            storage=computed,
            columns={"X": {}},
            X="X",
        )
    yield of("_target_", SpecError, "unknown key '_target_'", _target_=f"{TEXT}.run")
    yield of(
        "_target_ of the storage", SpecError, "_target_", storage={"backend": "npz-lazy", "path": "a", "_target_": "x"}
    )
    yield of("__class__", SpecError, "unknown key '__class__'", __class__=TEXT)
    yield of("_partial_ of a column", SpecError, "unknown key", columns={"X": {"_partial_": True}}, X="X")
    yield of(
        "interpolation", StoreNotFoundError, "oc.env:HOME", storage={"backend": "npz-lazy", "path": "${oc.env:HOME}"}
    )
    yield of("a form by its import path", SpecError, "os.system", collate="os.system")
    yield of(
        "a source that is no backend", SpecError, "source", storage={"backend": "in-memory", "source": "os.system"}
    )
