"""Small stores of every layout, and what they hold, kept in memory as numpy arrays."""

from __future__ import annotations

import io
import os
import struct
import threading
import zipfile
from collections.abc import Mapping
from contextlib import closing
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from kinoml_data import Array, Backend, Ragged, from_arrays, load_dataset, save_dataset
from kinoml_data.backends.npz.backend import NpzLazy
from kinoml_data.backends.parquet.backend import ParquetAwkward
from kinoml_data.columns import Indexed

Held = Mapping[str, list[np.ndarray[Any, Any]]]


@dataclass(frozen=True)
class Seed:
    """A store.

    Attributes:
        name: what it is.
        suffix: of its file.
        data: its bytes.
        columns: the rows of every column.
        arrays: the arrays that are not per row.
    """

    name: str
    suffix: str
    data: bytes
    columns: Held
    arrays: Mapping[str, np.ndarray[Any, Any]]

    def backend(self, path: Path, **options: Any) -> Backend:
        return (NpzLazy if self.suffix == ".npz" else ParquetAwkward)(path=path, **options)

    def mismatch(self, backend: Backend) -> str | None:
        """How what the backend reads differs from what was stored, None where it does not; its errors pass."""
        with closing(backend.open(None)) as storage:
            storage.read(np.arange(len(storage)), list(storage.columns))  # the file may be another one until here
            # What cannot be read is listed with the reason, and is an error if it is asked for: nothing is silent then.
            listed = bool(storage.unreadable)
            if set(storage.columns) - set(self.columns) or (set(storage.columns) != set(self.columns) and not listed):
                return f"columns {sorted(storage.columns)}"
            if set(storage.arrays) - set(self.arrays) or (set(storage.arrays) != set(self.arrays) and not listed):
                return f"arrays {sorted(storage.arrays)}"
            for name, array in storage.arrays.items():
                if not same(array, self.arrays[name]):
                    return f"array {name}"
            count = len(next(iter(self.columns.values())))
            if len(storage) != count:
                return f"{len(storage)} rows"
            found = storage.read(np.arange(count), list(storage.columns))
            for name, column in found.items():
                rows = self.columns[name]
                for row, expected in enumerate(rows):
                    if not same(np.asarray(column[row]), expected):
                        return f"column {name}, row {row}"
                if isinstance(column, Ragged) and len(column.values) != sum(row.size for row in rows):
                    return f"column {name}: more values"
        return None


def same(found: np.ndarray[Any, Any], expected: np.ndarray[Any, Any]) -> bool:
    return found.dtype == expected.dtype and found.shape == expected.shape and found.tobytes() == expected.tobytes()


RNG = np.random.default_rng(7)
RAGGED = [RNG.normal(size=(3, n)).astype(np.float32) for n in (2, 5, 1, 3)]
EDGES = [RNG.integers(0, 9, (2, n)) for n in (4, 1, 2, 6)]
FIXED = RNG.normal(size=(4, 3)).astype(np.float64)
Y = np.arange(4, dtype=np.float32) + 0.5
TEXTS = ["CCO", "", "c1ccccc1", "N\u2192O"]
SPLITS = {"idx_train": np.array([0, 1, 3]), "idx_test": np.array([2])}


def _rows(values: Any) -> list[np.ndarray[Any, Any]]:
    return [np.asarray(row) for row in values]


def seeds(folder: Path) -> list[Seed]:
    """All of them; `folder` is for what is written on the way."""
    return [*npz_seeds(folder), *parquet_seeds(folder)]


def npz_seeds(folder: Path) -> list[Seed]:
    per_row = {f"X_s{row}_": array for row, array in enumerate(RAGGED)} | {"y": Y} | SPLITS
    several = {f"X_s{row}_a0_": array for row, array in enumerate(RAGGED)}
    several |= {f"X_s{row}_a1_": array for row, array in enumerate(EDGES)} | {"y": Y}
    ragged = {"X": RAGGED, "y": _rows(Y)}
    return [
        Seed("one array", ".npz", _npz({"X": FIXED, "y": Y, **SPLITS}), {"X": _rows(FIXED), "y": _rows(Y)}, SPLITS),
        Seed("a member per row", ".npz", _npz(per_row), ragged, SPLITS),
        Seed("compressed", ".npz", _npz(per_row, compressed=True), ragged, SPLITS),
        Seed("several members per row", ".npz", _npz(several), {"X0": RAGGED, "X1": EDGES, "y": _rows(Y)}, {}),
        Seed("without zip64", ".npz", _npz(per_row, zip64=False), ragged, SPLITS),
        Seed("written to a pipe", ".npz", _piped(per_row), ragged, SPLITS),
        _by_another_tool(),
        *(_ours(folder, ".npz", name, options) for name, options in (("packed", {}), ("deflated", {"compress": True}))),
        *(_keyed(folder, name, options) for name, options in (("keys", {}), ("deflated keys", {"compress": True}))),
    ]


def parquet_seeds(folder: Path) -> list[Seed]:
    return [_ours(folder, ".parquet", "Parquet", {}), _plain(folder)]


def _ours(folder: Path, suffix: str, name: str, options: dict[str, Any]) -> Seed:
    """A file that this library wrote, with columns of every kind."""
    path = folder / f"{name}{suffix}"
    data = {"atoms": RAGGED, "edges": EDGES, "fixed": FIXED, "name": TEXTS}
    splits = {name.removeprefix("idx_"): rows for name, rows in SPLITS.items()}
    target = {"backend": "npz-lazy" if suffix == ".npz" else "parquet-awkward", "path": str(path), **options}
    said = {"X": ["atoms", "edges", "fixed"], "y": "y", "meta": ["name"], "storage": {"backend": "in-memory"}}
    said["splits"] = {name: {"rows": rows.tolist()} for name, rows in splits.items()}
    save_dataset(load_dataset(said, data={**data, "y": Y}), target)
    texts = [np.frombuffer(text.encode(), np.uint8) for text in TEXTS]
    columns = {"atoms": RAGGED, "edges": EDGES, "fixed": _rows(FIXED), "name": texts, "y": _rows(Y)}
    return Seed(name, suffix, path.read_bytes(), columns, SPLITS)


KEYS = np.array([0, 1, 2, 0, 1, 3, 2, 1])
DISTINCT = {"atoms": RAGGED, "fixed": _rows(FIXED), "name": [np.frombuffer(text.encode(), np.uint8) for text in TEXTS]}


def _keyed(folder: Path, name: str, options: dict[str, Any]) -> Seed:
    """A file that this library wrote, whose rows share values; a flipped key gives the values of another row."""
    path, numbers = folder / f"{name}.npz", np.arange(8, dtype=np.float32)
    arrays = {"atoms": Array("float32", (3, None)), "fixed": Array("float64", (3,)), "name": Array("str")}
    values = {"atoms": Ragged.from_rows(RAGGED, "f4", 2), "fixed": FIXED, "name": Ragged.from_strings(TEXTS)}
    columns = {n: Indexed(values[n], KEYS if n != "fixed" else KEYS[::-1].copy()) for n in arrays}
    NpzLazy(path=path, **options).write(arrays | {"y": Array("float32")}, [columns | {"y": numbers}], arrays=SPLITS)
    rows = {n: [DISTINCT[n][key] for key in columns[n].index] for n in arrays} | {"y": _rows(numbers)}
    return Seed(name, ".npz", path.read_bytes(), rows, SPLITS)


def _plain(folder: Path) -> Seed:
    path = folder / "plain.parquet"
    save_dataset(from_arrays({"a": FIXED, "b": np.arange(4, dtype=np.int16)}, Y), path)
    columns = {"a": _rows(FIXED), "b": _rows(np.arange(4, dtype=np.int16)), "y": _rows(Y)}
    return Seed("Parquet without ragged columns", ".parquet", path.read_bytes(), columns, {})


def _npz(arrays: Mapping[str, Any], *, compressed: bool = False, zip64: bool = True) -> bytes:
    out = io.BytesIO()
    if zip64:  # numpy's own way, whatever the size
        (np.savez_compressed if compressed else np.savez)(out, **arrays)
        return out.getvalue()
    with zipfile.ZipFile(out, "w") as file:
        for name, array in arrays.items():
            with file.open(f"{name}.npy", "w", force_zip64=False) as member:
                np.lib.format.write_array(member, array)
    return out.getvalue()


def _by_another_tool() -> Seed:
    """As Info-ZIP and 7-Zip write: extra fields, comments, and members that are no arrays. There is text, too."""
    out, texts = io.BytesIO(), np.array(TEXTS)
    with zipfile.ZipFile(out, "w") as file:
        file.comment = b"a comment of the file"
        for number, (name, array) in enumerate({"X": FIXED, "name": texts, "y": Y, **SPLITS}.items()):
            content = io.BytesIO()
            np.lib.format.write_array(content, array)
            info = zipfile.ZipInfo(f"{name}.npy", (2020, 2, 2, 2, 2, 2))
            info.extra, info.comment = struct.pack("<HHBI", 0x5455, 5, 1, number), b"a comment"
            file.writestr(info, content.getvalue(), (zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED)[number % 2])
        file.writestr("README.txt", "no array")
    rows = [np.frombuffer(text.encode(), np.uint8) for text in TEXTS]
    return Seed("by another tool", ".npz", out.getvalue(), {"X": _rows(FIXED), "name": rows, "y": _rows(Y)}, SPLITS)


def _piped(arrays: Mapping[str, Any]) -> bytes:
    """As numpy writes where it cannot seek: sizes and checksum follow each member."""
    source, target = os.pipe()
    parts: list[bytes] = []

    def drain() -> None:
        with os.fdopen(source, "rb") as file:
            parts.append(file.read())

    thread = threading.Thread(target=drain)
    thread.start()
    with os.fdopen(target, "wb") as file:
        np.savez(_Unseekable(file), **arrays)
    thread.join()
    return parts[0]


class _Unseekable:
    def __init__(self, file: Any) -> None:
        self.write, self.flush = file.write, file.flush
        self._file = file

    def read(self, *_: Any) -> bytes:
        raise io.UnsupportedOperation

    def seek(self, *_: Any) -> int:
        raise io.UnsupportedOperation

    def tell(self) -> int:
        raise io.UnsupportedOperation

    def close(self) -> None:
        self._file.close()
