"""Files of many rows, for `limits.py`."""

from __future__ import annotations

import struct
import zlib
from collections.abc import Iterator
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

import kinoml_data as kd
from benchmarks import workloads


def save(data: workloads.Workload, path: Path) -> None:
    """A flat NPZ."""
    column = data.columns["X"]
    kd.save_dataset(kd.from_arrays(kd.Ragged(column.values, column.shapes), data.y), path)


def many_members(path: Path, rows: int) -> None:
    """KinoML's NPZ with a float32 `(3, L)` member per row, L from 1 to 8; zipfile would take minutes."""
    rng = np.random.default_rng(0)
    lengths = rng.integers(1, 9, rows).tolist()
    values = rng.random((rows, 24), np.float32)
    heads = {length: npy_header((3, length)) for length in range(1, 9)}
    with path.open("wb") as file:
        directory = bytearray()
        offset = count = 0
        for name, content in members(lengths, values, heads):
            fields = (0, 0, 33, zlib.crc32(content), len(content), len(content), len(name))
            local = b"PK\3\4\x14\0" + packed("HHHHIIIHH", 0, *fields, 0) + name
            directory += (
                b"PK\1\2\x14\3\x14\0" + packed("HHHHIIIHHHHHII", 0, *fields, 0, 0, 0, 0, 0o600 << 16, offset) + name
            )
            file.write(local + content)
            offset += len(local) + len(content)
            count += 1
        file.write(directory)
        end = offset + len(directory)
        file.write(b"PK\6\6" + packed("QHHIIQQQQ", 44, 45, 45, 0, 0, count, count, len(directory), offset))
        file.write(b"PK\6\7" + packed("IQI", 0, end, 1))
        file.write(b"PK\5\6" + packed("HHHHIIH", 0, 0, 0xFFFF, 0xFFFF, len(directory), offset, 0))


def members(lengths: list[int], values: NDArray[np.float32], heads: dict[int, bytes]) -> Iterator[tuple[bytes, bytes]]:
    for row, length in enumerate(lengths):
        yield b"X_s%d_.npy" % row, heads[length] + values[row, : 3 * length].tobytes()
    yield b"y.npy", npy_header((len(lengths),)) + values[:, 0].tobytes()


def npy_header(shape: tuple[int, ...]) -> bytes:
    text = f"{{'descr': '<f4', 'fortran_order': False, 'shape': {shape}, }}".encode()
    text = text.ljust(128 - 10 - 1) + b"\n"
    return b"\x93NUMPY\1\0" + packed("H", len(text)) + text


def packed(form: str, *values: int) -> bytes:
    return struct.pack("<" + form, *values)
