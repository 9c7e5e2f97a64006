"""The npy format: .npy files are read whole or not at all, and nothing in them is evaluated."""

import os
import pickle
import time
import warnings

import numpy as np
import pytest

from kinoml_data.errors import CorruptStoreError, StoreNotFoundError, UnsafeStoreError
from kinoml_data.layouts import npy
from kinoml_data.spec.array import DTYPES
from tests.builders import Canary


@pytest.mark.parametrize(
    "array",
    [np.arange(5), np.array([], np.int64), np.arange(6.0).reshape(2, 3).T, np.array(3), np.arange(3, dtype=">i2")],
)
def test_a_npy_file_is_read(tmp_path, array):
    np.save(tmp_path / "a.npy", array)
    found = npy.read(tmp_path / "a.npy")
    assert found.dtype == array.dtype and np.array_equal(found, array)


@pytest.mark.parametrize("dtype", sorted({*DTYPES} - {"str"}))
@pytest.mark.parametrize("order", ["<", ">"])
def test_whatever_numpy_writes_is_read_bit_for_bit(tmp_path, dtype, order):
    bits = np.random.default_rng(0).integers(0, 2 if dtype == "bool" else 256, 5 * 3 * 16, dtype=np.uint8)
    for shape in ((), (0,), (3,), (5, 3), (3, 0, 2), (2, 1, 3, 1), (1,) * 32):
        for copy in (np.ascontiguousarray, np.asfortranarray):
            count = int(np.prod(shape))
            typed = np.dtype(dtype).newbyteorder(order)
            array = copy(bits.view(typed)[:count].reshape(shape)).reshape(shape)
            for version in ((1, 0), (2, 0), (3, 0)):
                with (tmp_path / "a.npy").open("wb") as file, warnings.catch_warnings():
                    warnings.simplefilter("ignore")  # numpy says that versions 2 and 3 are young
                    np.lib.format.write_array(file, array, version)
                found = npy.read(tmp_path / "a.npy")
                assert found.dtype == array.dtype and found.shape == shape
                assert found.tobytes() == array.tobytes()


def test_a_npy_file_is_never_unpickled(tmp_path):
    np.save(tmp_path / "a.npy", np.array([Canary(tmp_path / "ran")], object), allow_pickle=True)
    (tmp_path / "b.npy").write_bytes(pickle.dumps(Canary(tmp_path / "ran")))
    with pytest.raises(UnsafeStoreError, match=r"a\.npy"):
        npy.read(tmp_path / "a.npy")
    with pytest.raises(CorruptStoreError):
        npy.read(tmp_path / "b.npy")
    assert not (tmp_path / "ran").exists()


def test_a_npy_file_cut_anywhere_is_damaged(tmp_path):
    np.save(tmp_path / "a.npy", np.arange(10))
    data = (tmp_path / "a.npy").read_bytes()
    for size in range(len(data)):
        (tmp_path / "b.npy").write_bytes(data[:size])
        with pytest.raises(CorruptStoreError, match=r"b\.npy (is|has) "):
            npy.read(tmp_path / "b.npy")
    (tmp_path / "b.npy").write_bytes(data + b"x")
    with pytest.raises(CorruptStoreError, match="has 81 bytes, but its npy header specifies 80"):
        npy.read(tmp_path / "b.npy")


@pytest.mark.parametrize(
    "header",
    [
        b"{'descr': '<i8', 'fortran_order': False, 'shape': (1099511627776,), }",
        b"{'descr': '<i8', 'fortran_order': False, 'shape': (4294967296, 4294967296, 4294967296), }",
        b"{'descr': '<i8', 'fortran_order': False, 'shape': (-1,), }",
        b"{'descr': '<i8', 'fortran_order': False, 'shape': ((((((",
        b"{'descr': 'zz', 'fortran_order': False, 'shape': (1,), }",
        b"{'descr': '<i8', 'fortran_order': 5, 'shape': (1,), }",
        b"-" * 9000,
        b"(" * 9000,
        b"",
    ],
    ids=lambda header: header[:80].decode(),
)
def test_a_npy_header_that_lies_is_damaged(tmp_path, header):
    (tmp_path / "a.npy").write_bytes(b"\x93NUMPY\x01\x00" + len(header).to_bytes(2, "little") + header + bytes(64))
    with pytest.raises(CorruptStoreError):
        npy.read(tmp_path / "a.npy")


def test_a_npz_is_no_npy(tmp_path):
    np.savez(tmp_path / "a.npz", a=np.arange(3))
    with pytest.raises(CorruptStoreError):
        npy.read(tmp_path / "a.npz")


def test_a_missing_npy_file_a_folder_and_a_pipe_are_not_found(tmp_path):
    os.mkfifo(tmp_path / "pipe")
    for path in (tmp_path / "none.npy", tmp_path, tmp_path / "pipe"):
        with pytest.raises(StoreNotFoundError):
            npy.read(path)


HEADERS = {
    "another order": "{'shape': (2, 3), 'descr': '<i2', 'fortran_order': False}",
    "double quotes": '{"descr": "<i2", "fortran_order": False, "shape": (2, 3)}',
    "no spaces": "{'descr':'<i2','fortran_order':False,'shape':(2,3)}",
    "many spaces": "  { 'descr' : '<i2' ,\n\t'fortran_order' : False , 'shape' : ( 2 , 3 , ) , }  ",
    "no padding": "{'descr': '<i2', 'fortran_order': False, 'shape': (2, 3), }",
    "Python 2": "{u'descr': u'<i2', u'fortran_order': False, u'shape': (2L, 3L)}",
    "a name of the type": "{'descr': 'int16', 'fortran_order': False, 'shape': (2, 3)}",
    "a native type": "{'descr': '=i2', 'fortran_order': False, 'shape': (2, 3)}",
}


@pytest.mark.parametrize("end", ["", "\n", "   \n", "\n\n"])
@pytest.mark.parametrize("version", [1, 2, 3])
@pytest.mark.parametrize("text", HEADERS.values(), ids=HEADERS)
def test_a_header_that_numpy_reads_is_read(tmp_path, text, version, end):
    header = (text + end).encode()
    size = len(header).to_bytes(2 if version == 1 else 4, "little")
    path, array = tmp_path / "a.npy", np.arange(6, dtype=np.int16).reshape(2, 3)
    path.write_bytes(b"\x93NUMPY" + bytes([version, 0]) + size + header + array.tobytes())
    if "2L" not in text or version < 3:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # of Python 2
            assert np.load(path).tolist() == array.tolist()
    found = npy.read(path)
    assert found.dtype == np.int16 and found.tolist() == array.tolist()


@pytest.mark.parametrize("digits", [20, 300, 900, 5000])
def test_a_header_that_nearly_matches_is_refused_at_once(tmp_path, digits):
    for shape in (
        "(" + "9" * digits,
        "(" + "9," * digits + "x)",
        "(" + " " * digits + "L)",
        "(" + ",".join("9" * digits),
    ):
        header = f"{{'descr': '<i2', 'fortran_order': False, 'shape': {shape}".encode()[:9000]
        path = tmp_path / "a.npy"
        path.write_bytes(b"\x93NUMPY\2\0" + len(header).to_bytes(4, "little") + header)
        start = time.process_time()
        with pytest.raises(CorruptStoreError, match="has a broken npy header"):
            npy.read(path)
        assert time.process_time() - start < 5
