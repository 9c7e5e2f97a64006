"""NPZ files of the example with all kinds of columns, and damage to one bit of a member."""

from __future__ import annotations

import os
import struct
import zipfile
from pathlib import Path

import numpy as np

from kinoml_data.backends.npz.backend import NpzLazy
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
