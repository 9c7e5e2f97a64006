"""The parts that reading and writing share: Lance, its errors, and a digest of the end of each data file."""

from __future__ import annotations

import hashlib
import os
import struct
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from kinoml_data.errors import CorruptStoreError, KinomlDataError, UnsupportedStoreError, format_error

# Two keys that this backend adds to the metadata of the layout. ROWS is the number of rows. FILES contains for each
# data file the offset of its own metadata and the digest of the file from there on: Lance trusts the counts in there,
# and ends the process if they need more memory than there is.
ROWS, FILES = "rows", "files"
FOOTER = struct.Struct("<QQQ16x")  # of a data file: the offsets of its column metadata and of the tables after it
_lance_pid: int | None = None  # the process in which Lance has threads


@contextmanager
def lance_errors(what: str, raised: type[KinomlDataError] = CorruptStoreError) -> Iterator[None]:
    """Turn every error of Lance and Arrow, including Rust panics, into an error of this library, on one line."""
    try:
        yield
    except (KinomlDataError, MemoryError):
        raise
    except BaseException as error:
        # A panic is a BaseException, of a class that cannot be imported.
        if not isinstance(error, Exception) and type(error).__name__ != "PanicException":
            raise
        raise raised(f"{what}: {format_error(error)}") from None


def import_lance() -> Any:
    """The module `lance`, if this process can use it.

    Raises:
        UnsupportedStoreError: this process was forked from one that used Lance. The threads of Lance do not exist here,
            and it might wait for them forever.
    """
    global _lance_pid
    if _lance_pid not in (None, os.getpid()):
        raise UnsupportedStoreError(
            "Lance cannot be used in a forked process; pass multiprocessing_context='spawn' (or 'forkserver')"
        )
    _lance_pid = os.getpid()
    import lance

    return lance


def file_names(dataset: Any) -> set[str]:
    """The names of the data files of a version, which are in the folder `data`."""
    return {file.path for fragment in dataset.get_fragments() for file in fragment.data_files()}


def file_digest(path: Path, start: int | None = None) -> list[Any]:
    """The offset of the metadata of a data file, and the BLAKE2b of the file from there on.

    Args:
        path: the data file.
        start: the offset, if it is known.
    """
    with path.open("rb") as file:
        if start is None:
            file.seek(-FOOTER.size, os.SEEK_END)
            start = min(FOOTER.unpack(file.read()))
        file.seek(start)
        return [start, hashlib.blake2b(file.read(), digest_size=16).hexdigest()]
