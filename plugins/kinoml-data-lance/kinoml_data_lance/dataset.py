"""What reading and writing a Lance dataset share: Lance itself, its errors, and what our layout says of its files."""

from __future__ import annotations

import hashlib
import json
import os
import struct
import zlib
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
from kinoml_data.errors import CorruptStoreError, KinomlDataError, UnsupportedStoreError, format_error
from numpy.typing import NDArray

# In the metadata, besides what a Parquet file has there: the number of rows; and by the name of a data file, where its
# metadata begins and the BLAKE2b of it. Lance trusts the counts there, and ends the process where memory is too small.
ROWS, FILES = "kinoml_data.rows", "kinoml_data.files"
FOOTER = struct.Struct("<QQQ16x")  # of a data file: where the metadata of the columns and the tables after it begin
CHANGED = "it is damaged, or another program changed it"
_used_in: int | None = None  # the process in which Lance has threads


@contextmanager
def lance_errors(what: str, raised: type[KinomlDataError] = CorruptStoreError) -> Iterator[None]:
    """Whatever Lance and Arrow raise as one of the library's errors, on one line; a panic of Rust too."""
    try:
        yield
    except (KinomlDataError, MemoryError):
        raise
    except BaseException as error:
        # A panic is a BaseException, of a class that cannot be imported.
        if not isinstance(error, Exception) and type(error).__name__ != "PanicException":
            raise
        raise raised(f"{what}: {format_error(error)}") from None


def lance_here() -> Any:
    """Lance, where it is safe to use.

    Raises:
        UnsupportedStoreError: in a process forked from one that used it: its threads are not there, and it may wait
            for them for ever.
    """
    global _used_in
    if _used_in not in (None, os.getpid()):
        raise UnsupportedStoreError(
            "Lance cannot be used in a forked process; pass multiprocessing_context='spawn' (or 'forkserver')"
        )
    _used_in = os.getpid()
    import lance

    return lance


def files_of(dataset: Any) -> set[str]:
    """The names of the data files of a version, under `data`."""
    return {file.path for fragment in dataset.get_fragments() for file in fragment.data_files()}


def tail(path: Path, start: int | None = None) -> list[Any]:
    """Where the metadata at the end of a data file begins, and the BLAKE2b of it; at `start` if that is given."""
    with path.open("rb") as file:
        if start is None:
            file.seek(-FOOTER.size, os.SEEK_END)
            start = min(FOOTER.unpack(file.read()))
        file.seek(start)
        return [start, hashlib.blake2b(file.read(), digest_size=16).hexdigest()]


def colon(part: str) -> str:
    """What a part of a column, such as `X.crc32`, is called in Lance."""
    return part.replace(".", ":")


def digest(said: Mapping[str, str]) -> str:
    """Hex: BLAKE2b, 16 bytes, over the metadata but this digest, as JSON with sorted keys."""
    rest = {key: value for key, value in said.items() if not key.endswith(".digest")}
    return hashlib.blake2b(json.dumps(rest, sort_keys=True).encode(), digest_size=16).hexdigest()


def numbered(crcs: NDArray[np.uint32], rows: NDArray[np.int64]) -> NDArray[np.uint32]:
    """The CRC-32 of each row, continued over the row's number."""
    numbers = rows.astype("<i8").view("V8").tolist()
    return np.array([zlib.crc32(row, crc) for row, crc in zip(numbers, crcs.tolist(), strict=True)], np.uint32)
