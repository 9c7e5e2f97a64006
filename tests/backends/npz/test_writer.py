"""The NPZ files that are written."""

from __future__ import annotations

import hashlib
import zipfile

import numpy as np
import pytest

from kinoml_data.backends.npz.backend import NpzReopen
from kinoml_data.columns import Ragged
from kinoml_data.layouts.checksums import row_checksums
from kinoml_data.spec.array import Array
from tests.backends.npz.files import EXAMPLE, written
from tests.builders import keyed_batches


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


def test_both_backends_write_the_same_file_for_the_same_content(tmp_path):
    one, two = written(tmp_path / "one.npz"), NpzReopen(path=tmp_path / "two.npz")
    two.write(EXAMPLE.columns, EXAMPLE.batches(1), arrays=EXAMPLE.arrays, spec=EXAMPLE.spec)
    assert one.path.read_bytes() == two.path.read_bytes()


def test_a_file_without_keys_is_the_one_that_earlier_versions_wrote(tmp_path):
    columns = {"X": Array("float32", (2,)), "s": Array("str"), "r": Array("int8", (None, 2))}
    lists = Ragged.from_rows([np.ones((n, 2), np.int8) for n in (1, 0, 2)], "int8", 2)
    data = {"X": np.arange(6, dtype="f4").reshape(3, 2), "s": Ragged.from_strings(["a", "", "é"]), "r": lists}
    NpzReopen(path=tmp_path / "a.npz").write(columns, [data], arrays={"idx": np.arange(2)}, spec="{}")
    with zipfile.ZipFile(tmp_path / "a.npz") as file:  # what is around the members depends on the version of Python
        members = b"".join(name.encode() + b"\0" + file.read(name) for name in file.namelist())
    digest = hashlib.sha256(members).hexdigest()
    assert digest == "25fd32fb23752c175a12795c5a28e92c3176e1149ff2795389f15799d0b0fd55"


@pytest.mark.parametrize("compress", [False, True])
def test_rows_that_share_a_value_are_stored_once_with_their_keys(tmp_path, compress):
    keys = np.arange(3000) % 300
    data = {"X": np.arange(300)[keys], "y": np.arange(3000)}
    backend = NpzReopen(path=tmp_path / "a.npz", compress=compress)
    backend.write({"X": Array("int64"), "y": Array("int64")}, keyed_batches(data, ["X"], 128), arrays={"i": keys})
    with np.load(backend.path, allow_pickle=False) as file:
        assert set(file.files) == {"X", "X.crc32", "X.keys", "y", "y.crc32", "i.index"}
        assert file["X"].tolist() == list(range(300)) and file["X.crc32"].shape == (300,)
        assert file["X.keys"].dtype == np.uint16 and file["X.keys"].tolist() == keys.tolist()
