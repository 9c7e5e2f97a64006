"""What a strict reader of NPZ files still has to read, and what it finds at the edges; `tests/faults` has the rest."""

from __future__ import annotations

import os
import struct
import threading
import time
from contextlib import closing

import numpy as np
import pytest

import kinoml_data as kd
from kinoml_data.backends.npz.storage import NpzStorage
from kinoml_data.errors import CorruptStoreError, UnsafeStoreError
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
    with pytest.raises(UnsafeStoreError, match=r"'X_s59999\.npy' occurs more than once"):
        kd.load_dataset(tmp_path / "data.npz")
    assert time.process_time() - start < 20
