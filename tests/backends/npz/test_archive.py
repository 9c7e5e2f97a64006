"""Compressed NPZ files, which Python's zlib wrote."""

import zlib
from contextlib import closing

import numpy as np
import pytest

import kinoml_data as kd
from kinoml_data.backends.npz.storage import NpzStorage
from kinoml_data.errors import CorruptStoreError
from tests.faults.attack_corpus import Member, npy, zipped

ROWS = 7


@pytest.fixture
def source():
    rng = np.random.default_rng(5)
    # The last row is larger than one chunk of a decoder, so that it takes several.
    return [rng.integers(0, 3, (53, n)).astype(np.float32) for n in (20, 1, 37, 100, 60, 20, 9000)]


@pytest.fixture
def path(tmp_path, source):
    path = tmp_path / "data.npz"
    np.savez_compressed(path, y=np.arange(ROWS, dtype=np.float32), **{f"X_s{i}": x for i, x in enumerate(source)})
    return path


def test_rows_of_compressed_members_are_those_that_were_written(path, source):
    dataset = kd.load_dataset(path)
    for i, x in enumerate(source):
        found, y = dataset[i]
        assert found.numpy().tobytes() == x.tobytes() and found.shape == x.shape and float(y) == i


def test_every_damaged_byte_of_a_compressed_member_is_an_error_or_harmless(path, source):
    whole = path.read_bytes()
    start = whole.index(b"X_s1.npy") + 8
    refused = 0
    for at in range(start, whole.index(b"PK\x03\x04", start)):
        path.write_bytes(whole[:at] + bytes([whole[at] ^ 0x10]) + whole[at + 1 :])
        try:
            dataset = kd.load_dataset(path)
            found = dataset[1][0].numpy()
        except CorruptStoreError:
            refused += 1
        else:
            assert found.tobytes() == source[1].tobytes() and found.shape == source[1].shape
    assert refused > 50


def test_damage_within_a_compressed_member_is_found_beyond_its_beginning(tmp_path):
    content = npy(np.random.default_rng(0).integers(0, 99, 50_000))
    deflate = zlib.compressobj(9, zlib.DEFLATED, -15)
    begun = deflate.compress(content[:200_000]) + deflate.flush(zlib.Z_FULL_FLUSH)
    rest = deflate.compress(content[200_000:]) + deflate.flush()
    other = zlib.compressobj(9, zlib.DEFLATED, -15)
    for said, stored in {
        "'X.npy': .*invalid block type": begun + b"\xff" * len(rest),
        "does not expand to the size in its header": begun + rest[:-9],
        "its CRC-32 is": other.compress(content[:-1] + b"x") + other.flush(),
    }.items():
        (tmp_path / "data.npz").write_bytes(zipped(Member("X.npy", content, 8, stored=stored)))
        with closing(NpzStorage(tmp_path / "data.npz", None)) as storage:
            assert storage.columns["X"].dtype == "int64" and len(storage) == 50_000
            with pytest.raises(CorruptStoreError, match=said):
                storage.read(np.arange(9), ["X"])
