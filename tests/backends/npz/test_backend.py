"""What is particular to NPZ files: the layout on disk, checksums, how many files are held open."""

from __future__ import annotations

import os
import struct
import zipfile
from contextlib import closing
from pathlib import Path

import numpy as np
import pytest

from kinoml_data import Array, load_dataset
from kinoml_data.backends.npz.backend import NpzLazy, NpzReopen
from kinoml_data.columns import Ragged
from kinoml_data.errors import CorruptStoreError
from kinoml_data.layouts.checksums import row_checksums
from kinoml_data.testing.examples import mixed

EXAMPLE = mixed()


def written(path: Path, **options: object) -> NpzLazy:
    backend = NpzLazy(path=path, **options)
    backend.write(EXAMPLE.columns, EXAMPLE.batches(), arrays=EXAMPLE.arrays, spec=EXAMPLE.spec)
    return backend


def flip(path: Path, member: str, at: int) -> None:
    """Change one bit of a stored member's data, leaving the file's times as they were."""
    with zipfile.ZipFile(path) as file:
        info = file.getinfo(member + ".npy")
        header = len(file.read(info)) - data_bytes(file, member)
    before = path.stat()
    with path.open("r+b") as target:
        target.seek(info.header_offset + 26)
        name, extra = struct.unpack("<HH", target.read(4))
        place = info.header_offset + 30 + name + extra + header + at
        target.seek(place)
        byte = target.read(1)[0]
        target.seek(place)
        target.write(bytes([byte ^ 4]))
    os.utime(path, ns=(before.st_atime_ns, before.st_mtime_ns))


def data_bytes(file: zipfile.ZipFile, member: str) -> int:
    with file.open(member + ".npy") as stream:
        return np.lib.format.read_array(stream).nbytes


# -- the layout


@pytest.mark.parametrize("compress", [False, True])
def test_any_numpy_opens_what_is_written(tmp_path, compress):
    path = written(tmp_path / "data.npz", compress=compress).path
    with np.load(path, allow_pickle=False) as file:
        found = {name: file[name] for name in file.files}
    expected = {"_spec", *(f"{name}.index" for name in EXAMPLE.arrays)}
    for name, array in EXAMPLE.columns.items():
        rows = EXAMPLE.rows[name]
        expected |= {f"{name}.crc32"}
        if array.is_string:
            expected |= {f"{name}.utf8", f"{name}.shapes"}
            assert found[f"{name}.utf8"].tobytes().decode() == "".join(rows)
            assert found[f"{name}.shapes"].tolist() == [[len(text.encode())] for text in rows]
            column = Ragged.from_strings(rows)
        elif array.ragged:
            expected |= {f"{name}.values", f"{name}.shapes"}
            assert found[f"{name}.values"].tobytes() == b"".join(row.tobytes() for row in rows)
            assert found[f"{name}.shapes"].tolist() == [list(row.shape) for row in rows]
            column = Ragged.from_rows(rows, array.numpy, len(array.shape))
        else:
            expected |= {name}
            assert found[name].tobytes() == b"".join(row.tobytes() for row in rows)
            column = np.stack(rows)
        checksums = row_checksums(column, np.arange(len(rows)), is_string=array.is_string)
        assert found[f"{name}.crc32"].dtype == np.uint32 and found[f"{name}.crc32"].tolist() == checksums.tolist()
    assert found.keys() == expected
    assert found["_spec"].tobytes().decode() == EXAMPLE.spec


def test_members_are_compressed_only_if_asked(tmp_path):
    for compress in (False, True):
        path = written(tmp_path / f"{compress}.npz", compress=compress).path
        with zipfile.ZipFile(path) as file:
            kinds = {info.compress_type for info in file.infolist()}
        assert kinds == {zipfile.ZIP_DEFLATED if compress else zipfile.ZIP_STORED}


def test_the_same_content_gives_the_same_file(tmp_path):
    one, two = written(tmp_path / "one.npz"), NpzReopen(path=tmp_path / "two.npz")
    two.write(EXAMPLE.columns, EXAMPLE.batches(1), arrays=EXAMPLE.arrays, spec=EXAMPLE.spec)
    assert one.path.read_bytes() == two.path.read_bytes()


def test_the_flat_layout_may_come_from_numpy_and_without_checksums(tmp_path):
    rows = [np.full((2, n), n, np.int16) for n in (3, 0, 1)]
    np.savez(
        tmp_path / "data.npz",
        **{
            "X.values": np.concatenate([row.reshape(-1) for row in rows]),
            "X.shapes": np.array([row.shape for row in rows], np.uint8),
            "y": np.arange(3.0),
        },
    )
    ds = load_dataset(tmp_path / "data.npz")
    assert ds.spec.columns == {"X": Array("int16", (2, None)), "y": Array("float64")}
    for found, row in zip(ds[:][0], rows, strict=True):
        assert found.tolist() == row.tolist()


# -- checksums


@pytest.mark.parametrize("verify", ["first", "always"])
def test_a_damaged_row_is_an_error_and_the_others_are_read(tmp_path, verify):
    backend = written(tmp_path / "data.npz", verify=verify)
    row = 3
    flip(backend.path, "atoms.values", sum(r.nbytes for r in EXAMPLE.rows["atoms"][:row]))
    others = np.array([r for r in range(len(EXAMPLE)) if r != row])
    with closing(backend.open(None)) as storage:
        storage.read(others, ["atoms"])
        for read in (lambda: storage.read(np.array([0, row]), ["atoms"]), lambda: storage.read_row(row, ["atoms"])):
            with pytest.raises(CorruptStoreError, match=f"'atoms', row {row}: its CRC-32"):
                read()


def test_checksums_can_be_switched_off(tmp_path):
    backend = written(tmp_path / "data.npz", verify="never")
    flip(backend.path, "atoms.values", 0)
    with closing(backend.open(None)) as storage:
        found = storage.read(np.array([0]), ["atoms"])["atoms"]
    assert found.values.tobytes() != EXAMPLE.rows["atoms"][0].tobytes()


def test_always_means_each_time(tmp_path):
    for verify in ("first", "always"):
        backend = written(tmp_path / f"{verify}.npz", verify=verify)
        with closing(backend.open(None)) as storage:
            storage.read(np.array([0]), ["atoms"])
            flip(backend.path, "atoms.values", 0)
            if verify == "first":
                storage.read(np.array([0]), ["atoms"])
            else:
                with pytest.raises(CorruptStoreError):
                    storage.read(np.array([0]), ["atoms"])


@pytest.mark.parametrize("backend", [NpzLazy, NpzReopen])
def test_a_damaged_member_of_kinoml_is_an_error_and_the_others_are_read(tmp_path, backend):
    path = tmp_path / "kinoml.npz"
    np.savez(path, y=np.arange(4), **{f"X_s{i}_": np.full((2, i + 1), i) for i in range(4)})
    flip(path, "X_s2_", 5)
    with closing(backend(path=path).open(None)) as storage:
        storage.read(np.array([0, 1, 3]), ["X"])
        for _ in range(2):
            with pytest.raises(CorruptStoreError, match="X_s2_"):
                storage.read(np.array([1, 2]), ["X"])


# -- open files


def open_files(path: Path) -> int:
    folder = Path("/proc/self/fd")
    if not folder.is_dir():
        pytest.skip("the operating system does not list open files")
    return sum(1 for fd in folder.iterdir() if fd.is_symlink() and fd.readlink() == path)


@pytest.mark.parametrize(("backend", "held"), [(NpzLazy, 1), (NpzReopen, 0)])
def test_one_file_is_held_open_or_none(tmp_path, backend, held):
    path = written(tmp_path / "data.npz").path
    storage = backend(path=path).open(None)
    storage.read(np.array([1]), list(EXAMPLE.columns))
    assert open_files(path) == held
    storage.close()
    assert open_files(path) == 0
