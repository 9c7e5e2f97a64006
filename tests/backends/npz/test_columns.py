"""Columns of NPZ files: every damaged row is an error, as often as `verify` says."""

from __future__ import annotations

import tracemalloc
import zipfile
from contextlib import closing

import numpy as np
import pytest

import kinoml_data as kd
from kinoml_data.backends.npz.backend import NpzLazy, NpzReopen
from kinoml_data.backends.npz.storage import NpzStorage
from kinoml_data.errors import CorruptStoreError, UnsupportedStoreError
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


@pytest.mark.parametrize("compress", [False, True])
def test_the_bytes_that_are_returned_are_those_that_are_compared(tmp_path, monkeypatch, compress):
    path, rows = tmp_path / "kinoml.npz", [np.full((2, i + 1), i) for i in range(4)]
    (np.savez_compressed if compress else np.savez)(path, y=np.arange(4), **{f"X_s{i}": x for i, x in enumerate(rows)})
    with closing(NpzStorage(path, None)) as storage:
        file = storage._archive.file
        gather = file.gather

        def damaged(offsets, sizes):
            data = gather(offsets, sizes)
            data[int(sizes[0]) + 5] ^= 1
            return data

        monkeypatch.setattr(file, "gather", damaged)
        with pytest.raises(CorruptStoreError, match="X_s2"):
            storage.read(np.array([1, 2, 3]), ["X"])
        monkeypatch.undo()
        found = storage.read(np.array([1, 2, 3]), ["X"])["X"]
        assert found.values.tobytes() == b"".join(x.tobytes() for x in rows[1:])


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


# -- text

TEXTS = ["CCO", "", "c1ccccc1", "N\u2192O", "\U0001f600", " a", "b "]


@pytest.mark.parametrize("save", [np.savez, np.savez_compressed])
@pytest.mark.parametrize("dtype", ["<U", ">U", "S", "<U50"])
def test_text_of_fixed_width_is_a_column_of_strings(tmp_path, dtype, save):
    texts = np.array([t.encode() for t in TEXTS]) if dtype == "S" else np.array(TEXTS).astype(dtype)
    save(tmp_path / "a.npz", X=np.arange(7.0), name=texts)
    for io in ("pread", "mmap"):
        with NpzLazy(path=tmp_path / "a.npz", io=io).open({"name": kd.Array("str")}) as storage:
            assert storage.columns == {"name": kd.Array("str")} and len(storage) == 7
            assert storage.read(np.array([4, 0, 1, 3]), ["name"])["name"].strings() == [TEXTS[i] for i in (4, 0, 1, 3)]
            assert storage.read(np.array([], np.int64), ["name"])["name"].strings() == []
            for row, text in enumerate(TEXTS):
                assert storage.read_row(row, ["name"])["name"].tobytes() == text.encode()
    with kd.load_dataset(tmp_path / "a.npz", X="X", meta="name") as dataset:
        assert dataset.column("name") == TEXTS
        kd.save_dataset(dataset, tmp_path / "b.npz")
    with kd.load_dataset(tmp_path / "b.npz") as dataset:
        assert dataset.column("name") == TEXTS


def test_trailing_nuls_of_text_are_what_numpy_takes_them_for(tmp_path):
    held = {"a": np.array(["a\0b\0", "\0"]), "b": np.array([b"a\0b\0", b"\0"])}
    np.savez(tmp_path / "a.npz", **held)
    with NpzLazy(path=tmp_path / "a.npz").open(None) as storage:
        for name in held:
            assert storage.read(np.arange(2), [name])[name].strings() == ["a\0b", ""]


def test_no_rows_of_text_are_no_strings(tmp_path):
    np.savez(tmp_path / "a.npz", X=np.zeros((0, 2)), name=np.array([], "U5"))
    with NpzLazy(path=tmp_path / "a.npz").open(None) as storage:
        assert len(storage) == 0 and storage.read(np.array([], np.int64), ["name"])["name"].strings() == []


@pytest.mark.parametrize(
    ("texts", "said"),
    [
        (np.array([b"a", b"\xff"]), "can't decode byte 0xff.*latin-1"),
        (np.array(["a", "\ud800"]), "surrogates not allowed"),
        (np.array([97, 0x110000], "<u4"), "beyond Unicode; store it as valid Unicode"),
    ],
    ids=["latin-1", "surrogate", "beyond Unicode"],
)
def test_text_that_is_not_unicode_is_named_by_row_and_is_no_damage(tmp_path, texts, said):
    texts = texts.view("<U1") if texts.dtype == "u4" else texts  # which pytest could not show
    np.savez(tmp_path / "a.npz", X=np.arange(2.0), name=texts)
    with NpzLazy(path=tmp_path / "a.npz").open({"name": None}) as storage:
        assert storage.read(np.array([0]), ["name"])["name"].strings() == ["a"]
        with pytest.raises(UnsupportedStoreError, match=rf"'name\.npy', row 1 is not valid text: .*{said}"):
            storage.read(np.array([0, 1]), ["name"])


def test_damaged_text_is_an_error(tmp_path):
    np.savez(tmp_path / "a.npz", X=np.arange(7.0), name=np.array(TEXTS))
    flip(tmp_path / "a.npz", "name", 5)
    storage = NpzLazy(path=tmp_path / "a.npz").open({"name": None})
    with closing(storage), pytest.raises(CorruptStoreError, match=r"'name\.npy': its CRC-32"):
        storage.read(np.array([3]), ["name"])


def test_a_row_of_wide_text_takes_memory_for_that_row(tmp_path):
    # One long text makes every row wide: 40 MB here.
    np.savez(tmp_path / "a.npz", X=np.arange(100.0), name=np.array(["x" * 100_000, *["y"] * 99]))
    with NpzLazy(path=tmp_path / "a.npz").open({"name": None}) as storage:
        storage.read(np.array([0]), ["name"])
        tracemalloc.start()
        assert storage.read(np.array([5, 6]), ["name"])["name"].strings() == ["y", "y"]
        peak = tracemalloc.get_traced_memory()[1]
        tracemalloc.stop()
    assert peak < 4_000_000
