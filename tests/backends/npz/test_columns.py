"""Columns of NPZ files: every damaged row is an error, as often as `verify` says."""

from __future__ import annotations

import zipfile
from contextlib import closing

import numpy as np
import pytest

import kinoml_data as kd
from kinoml_data.backends.npz.backend import NpzLazy, NpzReopen
from kinoml_data.backends.npz.storage import NpzStorage
from kinoml_data.errors import CorruptStoreError
from tests.backends.npz.files import EXAMPLE, flip, written
from tests.faults.attack_corpus import Member, described, headed, npy, zipped


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


def test_checksums_are_compared_at_each_read_only_if_verify_is_always(tmp_path):
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


ROWS = {f"X_s{row}": np.random.default_rng(row).normal(size=(2, row)) for row in range(5)}


@pytest.mark.parametrize("verify", ["never", "first", "always"])
def test_members_are_checked_as_verify_says(tmp_path, verify):
    held = {f"X_s{row}.npy": npy(array) for row, array in ROWS.items() for row in [row[3:]]}
    damaged = [Member(name, content, local={"crc": 7}, entry={"crc": 7}) for name, content in held.items()]
    (tmp_path / "data.npz").write_bytes(zipped(*damaged))
    with closing(NpzStorage(tmp_path / "data.npz", None, verify=verify)) as storage:
        for read in (lambda: storage.read(np.arange(5), ["X"])["X"].values, lambda: storage.read_row(3, ["X"])["X"]):
            if verify == "never":
                assert read().tobytes() in {b"".join(a.tobytes() for a in ROWS.values()), ROWS["X_s3"].tobytes()}
            else:
                with pytest.raises(CorruptStoreError, match="its CRC-32 is"):
                    read()


@pytest.mark.parametrize("column", ["atoms.values", "fixed"])
def test_another_byte_order_in_the_header_of_a_flat_column_is_damage(tmp_path, column):
    path = tmp_path / "flat.npz"
    rows = [np.arange(n, dtype=np.float32) for n in (5, 3)]
    kd.save_dataset(kd.from_arrays({"atoms": rows, "fixed": np.ones((2, 9), np.float32)}), path)
    data = path.read_bytes()
    at = data.index(b"<f4", data.index(f"{column}.npy".encode()))
    path.write_bytes(data[:at] + b">" + data[at + 1 :])
    dataset = kd.load_dataset(path)
    with pytest.raises(CorruptStoreError, match="row 0: its CRC-32"):
        dataset[0]


@pytest.mark.parametrize("compression", [zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED])
@pytest.mark.parametrize("fortran", [False, True])
@pytest.mark.parametrize("order", ["<", ">"])
def test_values_in_any_byte_and_memory_order_are_read_as_they_were_written(tmp_path, order, fortran, compression):
    arrays = {
        "X.values": np.arange(6, dtype=f"{order}f4"),
        "X.shapes": np.array([[2], [4]], f"{order}i8"),
        "wide": np.arange(40, dtype=f"{order}f8").reshape(2, 20),
        "y": np.arange(2, dtype=f"{order}i4"),
    }
    path = tmp_path / "a.npz"
    with zipfile.ZipFile(path, "w", compression) as file:
        for name, array in arrays.items():
            header = {"descr": array.dtype.str, "fortran_order": fortran and name != "X.shapes", "shape": array.shape}
            with file.open(f"{name}.npy", "w") as member:
                np.lib.format.write_array_header_1_0(member, header)
                member.write(array.tobytes("F" if header["fortran_order"] else "C"))
    columns = {"X": kd.Array("float32", (None,)), "wide": kd.Array("float64", (20,)), "y": kd.Array("int32")}
    with NpzLazy(path=path).open(columns) as storage:
        batch = storage.read(np.array([1, 0]), list(columns))
        assert batch["X"].values.tolist() == [2, 3, 4, 5, 0, 1]
        assert batch["wide"].tolist() == arrays["wide"][::-1].tolist()
        assert batch["y"].tolist() == [1, 0]
        row = storage.read_row(1, list(columns))
        assert [row[name].tolist() for name in columns] == [[2, 3, 4, 5], arrays["wide"][1].tolist(), 1]


def test_single_values_marked_as_fortran_order_are_rows_without_axes(tmp_path):
    content = headed(described("'<f8'", "True", "()"), np.float64(5).tobytes())
    (tmp_path / "a.npz").write_bytes(zipped(*(Member(f"X_s{row}.npy", content) for row in range(2))))
    with NpzLazy(path=tmp_path / "a.npz").open(None) as storage:
        assert storage.read(np.array([0, 1]), ["X"])["X"].shape == (2,)
        assert storage.read_row(1, ["X"])["X"].shape == ()
