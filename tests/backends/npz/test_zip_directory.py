"""What a strict reader of NPZ files still has to read, and what it finds at the edges; `tests/faults` has the rest."""

from __future__ import annotations

import io
import os
import re
import shutil
import struct
import subprocess
import threading
import time
import zipfile
import zlib
from contextlib import closing
from types import SimpleNamespace

import numpy as np
import pytest

import kinoml_data as kd
from kinoml_data import files
from kinoml_data.backends.npz.storage import NpzStorage
from kinoml_data.errors import CorruptStoreError, KinomlDataError, UnsupportedStoreError
from tests.faults.attack_corpus import PLAIN, Member, X, Y, npy, zipped

ROWS = {f"X_s{row}": np.random.default_rng(row).normal(size=(2, row)) for row in range(5)}


def piped(path, save, arrays):
    """What `save` writes where it cannot go back: sizes and checksums come behind each member."""
    reading, writing = os.pipe()
    kept = []

    def keep():
        with open(reading, "rb") as end:  # noqa: PTH123
            kept.append(end.read())

    thread = threading.Thread(target=keep)
    thread.start()
    with open(writing, "wb") as end:  # noqa: PTH123
        save(end, **arrays)
    thread.join()
    path.write_bytes(kept[0])


@pytest.mark.parametrize("io_", ["keep-open", "reopen", "mmap"])
@pytest.mark.parametrize("save", [np.savez, np.savez_compressed], ids=lambda save: save.__name__)
def test_what_numpy_writes_into_a_pipe_is_read(tmp_path, save, io_):
    whole = {"X": np.arange(600.0).reshape(100, 6), "y": np.arange(100)}
    piped(tmp_path / "whole.npz", save, whole)
    piped(tmp_path / "rows.npz", save, ROWS | {"y": np.arange(5)})
    assert struct.unpack_from("<H", (tmp_path / "whole.npz").read_bytes(), 6)[0] & 8  # there are data descriptors
    with closing(NpzStorage(tmp_path / "whole.npz", None, io=io_)) as storage:
        found = storage.read(np.arange(100), ["X", "y"])
        assert found["X"].tobytes() == whole["X"].tobytes() and found["y"].tobytes() == whole["y"].tobytes()
    with closing(NpzStorage(tmp_path / "rows.npz", None, io=io_)) as storage:
        found = storage.read(np.arange(5), ["X"])["X"]
        assert found.values.tobytes() == b"".join(row.tobytes() for row in ROWS.values())
        assert (
            storage.shapes("X").tolist() == [list(row.shape) for row in ROWS.values()] and storage.shapes("y") is None
        )
        for row, array in enumerate(ROWS.values()):
            assert storage.read_row(row, ["X"])["X"].tobytes() == array.tobytes()


def test_a_member_beyond_4_gib_is_read_from_where_it_is(tmp_path):
    rows = 4400  # of a million zeros, which take no space on a disk
    text = b"{'descr': '|u1', 'fortran_order': False, 'shape': (4400, 1000000), }"
    head = b"\x93NUMPY\1\0" + struct.pack("<H", 117) + text.ljust(116) + b"\n"
    y = npy(np.arange(rows))
    sizes = struct.pack("<HHQQ", 1, 16, *[len(head) + rows * 10**6] * 2)
    full = dict.fromkeys(("csize", "usize"), 0xFFFFFFFF)
    # As if the members were nothing but the header of the first and the whole second, with all places said below.
    offset = 30 + 5 + 20 + len(head) + rows * 10**6
    members = (
        Member("X.npy", head, local=full, entry=full, local_extra=sizes, entry_extra=sizes),
        Member("y.npy", y, entry={"offset": 0xFFFFFFFF}, entry_extra=struct.pack("<HHQ", 1, 8, offset)),
    )
    start = offset + 30 + 5 + len(y)
    length = 2 * (46 + 5) + 20 + 12
    content = zipped(*members, end64={"start": start}, locator={"where": start + length}, end={"start": 0xFFFFFFFF})
    begun = 30 + 5 + 20 + len(head)
    with (tmp_path / "large.npz").open("wb") as out:
        out.write(content[:begun])
        out.seek(offset - 5)
        out.write(b"last!" + content[begun:])
    with closing(NpzStorage(tmp_path / "large.npz", None, verify="never")) as storage:
        found = storage.read(np.array([rows - 1, 0]), ["X", "y"])
        assert found["X"][0, -5:].tobytes() == b"last!" and not found["X"][0, :-5].any() and not found["X"][1].any()
        assert found["y"].tolist() == [rows - 1, 0]


# -- files of other writers, which numpy reads

ARRAYS = {
    "X": np.arange(600.0).reshape(100, 6),
    "y": np.arange(100),
    "smiles": np.array(["C" * (i % 9) for i in range(100)]),
}


def written_to(folder):
    for name, array in ARRAYS.items():
        np.save(folder / f"{name}.npy", array)
    return [f"{name}.npy" for name in ARRAYS]


def by_tool(*command):
    """What writes the arrays with a command; the test is skipped if the tool is not installed."""

    def write(folder):
        if shutil.which(command[0]) is None:
            pytest.skip(f"{command[0]} is not installed")
        names = written_to(folder)
        parts = [part for word in command for part in (names if word == "NAMES" else [word])]
        out = subprocess.run(
            parts, cwd=folder, check=True, capture_output=True, input=b"a comment of the file\n"
        ).stdout
        if not (folder / "data.npz").exists():
            (folder / "data.npz").write_bytes(out)

    return write


def by_zipfile(method=zipfile.ZIP_DEFLATED, level=None, *, streamed=False, comment=b"", change=lambda info: None):
    def write(folder):
        out = io.BytesIO()
        target = SimpleNamespace(write=out.write, flush=out.flush) if streamed else out  # one without `seek`, as a pipe
        with zipfile.ZipFile(target, "w", method, compresslevel=level) as file:
            file.comment = comment
            for name in written_to(folder):
                info = zipfile.ZipInfo.from_file(folder / name, name)
                info.compress_type = method
                change(info)
                file.writestr(info, (folder / name).read_bytes(), method, level)
        (folder / "data.npz").write_bytes(out.getvalue())

    return write


def unsigned(folder):
    """Data descriptors without a signature, which the format allows."""
    members = []
    for name in written_to(folder):
        content = (folder / name).read_bytes()
        member = Member(name, content, 8, local={"flags": 8, "crc": 0, "csize": 0, "usize": 0}, entry={"flags": 8})
        deflate = zlib.compressobj(9, zlib.DEFLATED, -15)
        member.stored = deflate.compress(content) + deflate.flush()
        member.after = struct.pack("<III", zlib.crc32(content), len(member.stored), len(content))
        members.append(member)
    (folder / "data.npz").write_bytes(zipped(*members))


def added(folder):
    """Arrays that were added to a file of numpy."""
    np.savez(folder / "data.npz", X=ARRAYS["X"])
    with zipfile.ZipFile(folder / "data.npz", "a") as file:
        for name in written_to(folder)[1:]:
            file.write(folder / name, name)


def ntfs(info):
    info.extra = struct.pack("<HHIHHQQQ", 0x000A, 32, 0, 1, 24, 1, 2, 3)


def attributed(info):
    info.comment, info.external_attr, info.internal_attr, info.create_system = b"a PK\1\2 comment", 0o644 << 16, 1, 19


def uncommon(info):
    info.extra, info.date_time = struct.pack("<HHH", 0xCAFE, 2, 7) + b"x", (2020, 1, 1, 0, 0, 0)


WRITERS = {
    "zip": by_tool("zip", "data.npz", "NAMES"),
    "zip -0": by_tool("zip", "-0", "data.npz", "NAMES"),
    "zip -1": by_tool("zip", "-1", "data.npz", "NAMES"),
    "zip -9": by_tool("zip", "-9", "data.npz", "NAMES"),
    "zip -X": by_tool("zip", "-X", "data.npz", "NAMES"),
    "zip -z": by_tool("zip", "-z", "data.npz", "NAMES"),
    "zip -fz": by_tool("zip", "-fz", "data.npz", "NAMES"),
    "zip -fd": by_tool("zip", "-fd", "data.npz", "NAMES"),
    "zip to a pipe": by_tool("zip", "-", "NAMES"),
    "jar": by_tool("jar", "-c", "-M", "-f", "data.npz", "NAMES"),
    "zipfile": by_zipfile(),
    "zipfile, stored": by_zipfile(zipfile.ZIP_STORED),
    "zipfile, level 1": by_zipfile(level=1),
    "zipfile to a pipe": by_zipfile(streamed=True),
    "zipfile with a comment": by_zipfile(comment=b"no zip64 record: PK\6\7" * 30),
    "zipfile with the longest comment": by_zipfile(comment=bytes(65535)),
    "as 7-Zip": by_zipfile(change=ntfs),
    "attributes and comments of members": by_zipfile(change=attributed),
    "as Java": by_zipfile(change=uncommon),
    "descriptors without a signature": unsigned,
    "added later": added,
}


@pytest.mark.parametrize("io_", ["keep-open", "reopen", "mmap"])
@pytest.mark.parametrize("write", WRITERS.values(), ids=WRITERS)
def test_a_file_of_another_writer_is_read_as_numpy_reads_it(tmp_path, write, io_):
    write(tmp_path)
    with np.load(tmp_path / "data.npz") as file:
        assert all(np.array_equal(file[name], array) for name, array in ARRAYS.items())
    with closing(NpzStorage(tmp_path / "data.npz", None, io=io_)) as storage:
        assert set(storage.columns) == set(ARRAYS) and not storage.unreadable
        found = storage.read(np.arange(100), list(ARRAYS))
        assert found["X"].tobytes() == ARRAYS["X"].tobytes() and found["y"].tobytes() == ARRAYS["y"].tobytes()
        assert found["smiles"].strings() == ARRAYS["smiles"].tolist()
        assert storage.read_row(99, ["X"])["X"].tolist() == ARRAYS["X"][99].tolist()


@pytest.mark.parametrize(
    "name", ["zip", "jar", "zipfile with a comment", "as 7-Zip", "descriptors without a signature"]
)
def test_a_flipped_bit_in_a_file_of_another_writer_is_an_error_or_harmless(tmp_path, monkeypatch, name):
    monkeypatch.setattr("tests.backends.npz.test_zip_directory.ARRAYS", {n: a[:2] for n, a in ARRAYS.items()})
    WRITERS[name](tmp_path)
    whole, bad = (tmp_path / "data.npz").read_bytes(), tmp_path / "bad.npz"
    refused = 0
    for bit in range(0, 8 * len(whole), 7):
        changed = bytearray(whole)
        changed[bit // 8] ^= 1 << bit % 8
        bad.write_bytes(changed)
        try:
            with closing(NpzStorage(bad, None)) as storage:
                found = storage.read(np.arange(2), ["X", "y", "smiles"])
        except KinomlDataError:
            refused += 1
            continue
        assert found["X"].tobytes() == ARRAYS["X"].tobytes() and found["y"].tobytes() == ARRAYS["y"].tobytes()
        assert found["smiles"].strings() == ARRAYS["smiles"].tolist() and not storage.unreadable
    assert refused > len(whole) / 10


def test_rows_that_zip_has_packed_are_read(tmp_path):
    if shutil.which("zip") is None:
        pytest.skip("zip is not installed")
    for name, row in (ROWS | {"y": np.arange(5)}).items():
        np.save(tmp_path / f"{name}.npy", row)
    command = ["zip", "data.npz", *(f"{name}.npy" for name in (*ROWS, "y"))]
    subprocess.run(command, cwd=tmp_path, check=True, capture_output=True)
    with closing(NpzStorage(tmp_path / "data.npz", None)) as storage:
        found = storage.read(np.arange(5), ["X"])["X"]
        assert found.values.tobytes() == b"".join(row.tobytes() for row in ROWS.values())


@pytest.mark.parametrize(
    ("method", "said"), [(zipfile.ZIP_BZIP2, "compression method 12"), (zipfile.ZIP_LZMA, "compression method 14")]
)
def test_what_numpy_reads_and_this_library_does_not_says_how_to_write_it(tmp_path, method, said):
    by_zipfile(method)(tmp_path)
    with pytest.raises(UnsupportedStoreError, match=rf"'X\.npy' has {said}.*write it again with numpy\.savez"):
        kd.load_dataset(tmp_path / "data.npz", X="X")


def test_an_entry_may_need_only_some_of_the_values_of_zip64(tmp_path):
    # As Info-ZIP and others write: all sizes in the extra field, behind one of another kind, and one placeholder.
    size = struct.pack("<HHQQ", 1, 16, len(X), len(X))
    other = struct.pack("<HHI", 0x5455, 4, 9)
    full = {"usize": 0xFFFFFFFF}
    member = Member("X.npy", X, local=full, entry=full, local_extra=other + size, entry_extra=other + size)
    (tmp_path / "data.npz").write_bytes(zipped(member, Member("y.npy", Y)))
    with kd.load_dataset(tmp_path / "data.npz") as dataset:
        assert dataset[:][0].numpy().tobytes() == X[-24:]


def test_a_directory_entry_may_hold_the_bytes_that_entries_begin_with(tmp_path):
    odd = {"external": 0x02014B50}
    (tmp_path / "data.npz").write_bytes(zipped(Member("X.npy", X, entry=odd), Member("y.npy", Y, entry=odd)))
    with kd.load_dataset(tmp_path / "data.npz") as dataset:
        assert dataset[:][0].numpy().tobytes() == X[-24:] and dataset[:][1].numpy().tobytes() == Y[-12:]


@pytest.mark.parametrize("name", ["z.crc32", "z.shapes"])
def test_a_member_that_belongs_to_no_column_is_compared_with_the_directory_too(tmp_path, name):
    rest = Member(f"{name}.npy", Y)
    (tmp_path / "good.npz").write_bytes(zipped(*PLAIN, rest))
    rest.local = {"crc": 5}
    (tmp_path / "bad.npz").write_bytes(zipped(*PLAIN, rest))
    kd.load_dataset(tmp_path / "good.npz").close()
    with pytest.raises(CorruptStoreError, match=f"'{name}.npy': its header disagrees"):
        kd.load_dataset(tmp_path / "bad.npz")


def test_a_repeated_name_is_found_at_once_among_many(tmp_path):
    # To look for it by counting each name would take minutes.
    members = [Member(f"X_s{row}.npy", b"") for row in [*range(60_000), 59_999]]
    (tmp_path / "data.npz").write_bytes(zipped(*members))
    start = time.process_time()
    with pytest.raises(UnsupportedStoreError, match=r"'X_s59999\.npy' occurs more than once"):
        kd.load_dataset(tmp_path / "data.npz")
    assert time.process_time() - start < 20


@pytest.mark.parametrize("between", [0, 2000, 20_000])  # bytes; headers that are close are read together
def test_rows_are_found_in_any_order_and_with_anything_between_the_members(tmp_path, monkeypatch, between):
    monkeypatch.setattr(files, "MANY_SMALL", 3000)  # a header begins in one part that is read, and ends in the next
    path, rng = tmp_path / "data.npz", np.random.default_rng(between)
    rows = [rng.normal(size=(2, int(n))) for n in rng.integers(0, 60, 80)]
    members = {f"X_s{row}_a{array}_.npy": npy(values) for array in (0, 1) for row, values in enumerate(rows)}
    with zipfile.ZipFile(path, "w") as file:
        for name in rng.permutation([*members, "y.npy"]).tolist():
            file.writestr(name, members.get(name, npy(np.arange(80.0))))
            assert file.fp is not None
            file.fp.write(bytes(int(rng.integers(0, between + 1))))
            file.start_dir = file.fp.tell()
        rng.shuffle(file.filelist)
        headers = [(info.filename, info.header_offset) for info in file.filelist]
    with closing(NpzStorage(path, None)) as storage:
        for column in storage.read(np.arange(80), ["X0", "X1"]).values():
            assert [row.tobytes() for row in map(column.__getitem__, range(80))] == [row.tobytes() for row in rows]
    content = path.read_bytes()
    for name, at in headers[::7]:
        for field in (0, 14, 18, 26, 31):  # the signature, the checksum, the size, the length of the name, the name
            path.write_bytes(content[: at + field] + bytes([content[at + field] ^ 1]) + content[at + field + 1 :])
            with pytest.raises(CorruptStoreError, match=f"{re.escape(name)}': its header disagrees"):
                NpzStorage(path, None)
