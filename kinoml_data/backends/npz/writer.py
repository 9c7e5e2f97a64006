"""Writing the flat NPZ layout, completely or not at all, batch by batch.

A zip file contains its members one after another, but each batch of rows contains all columns. Each array is
therefore written to temporary files first, in segments. A segment is deleted as soon as it has been copied into the zip
file, so that the disk needs room for the file and for one segment, not for the data twice.
"""

from __future__ import annotations

import shutil
import tempfile
import zipfile
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import IO, Any

import numpy as np
from numpy.typing import NDArray

from kinoml_data.columns import Columns
from kinoml_data.layouts.flat_writing import FlatBatches
from kinoml_data.spec.array import Array

COPY_BYTES = 1 << 22
SEGMENT_BYTES = 1 << 26
SEGMENTS = 12  # a segment takes up to 1/12 of what was written before it, so that a terabyte needs about 100 files


def write(
    path: Path,
    columns: Mapping[str, Array],
    batches: Iterable[Columns],
    others: Mapping[str, NDArray[Any]],
    *,
    compress: bool,
) -> None:
    """Write a new NPZ file with the rows of `batches` and with other arrays.

    `compress` deflates every member, which can then only be read whole.
    """
    with ExitStack() as stack:
        spools, keys = _spool(path, columns, batches, stack)
        with zipfile.ZipFile(path, "x", zipfile.ZIP_DEFLATED if compress else zipfile.ZIP_STORED) as file:
            for name, spool in spools.items():
                with _member(file, name, spool.dtype, (spool.length, *spool.row_shape)) as member:
                    spool.move_into(member)
            for name, array in (keys | dict(others)).items():
                with _member(file, name, array.dtype, array.shape) as member:
                    member.write(np.ascontiguousarray(array).data)


class _Spool:
    """One array of the file, to which rows are appended. It is kept in segments, which are files without a name.

    The system removes a file without a name as soon as it is closed, even if the process is killed.
    """

    def __init__(self, dtype: np.dtype[Any], row_shape: tuple[int, ...]) -> None:
        self.dtype, self.row_shape, self.length = dtype, row_shape, 0
        self.segments: list[IO[bytes]] = []
        self._room = 0

    def append(self, array: NDArray[Any], segment: Callable[[], tuple[IO[bytes], int]]) -> int:
        """Write rows at the end, into a new `segment` if the last one is full; returns their number of bytes."""
        if self._room <= 0:
            file, self._room = segment()
            self.segments.append(file)
        self.segments[-1].write(np.ascontiguousarray(array, self.dtype).data)
        self._room -= array.nbytes
        self.length += len(array)
        return array.nbytes

    def move_into(self, member: IO[bytes]) -> None:
        """Copy the array, and close each segment once it is copied."""
        for segment in self.segments:
            segment.seek(0)
            shutil.copyfileobj(segment, member, COPY_BYTES)
            segment.close()


def _spool(
    path: Path, columns: Mapping[str, Array], batches: Iterable[Columns], stack: ExitStack
) -> tuple[dict[str, _Spool], dict[str, NDArray[Any]]]:
    """The arrays of all columns and those of keys, by their names in the file; `stack` closes remaining segments."""
    flat = FlatBatches(columns, batches)
    spools = {key: _Spool(dtype, row_shape) for key, (dtype, row_shape) in flat.layout.items()}
    written = 0

    def segment() -> tuple[IO[bytes], int]:
        # Some systems give the file a name for a moment; the name then tells what it is.
        file = tempfile.TemporaryFile(dir=path.parent, prefix=path.stem, suffix=".partial")  # noqa: SIM115
        return stack.enter_context(file), max(SEGMENT_BYTES, written // SEGMENTS)

    for batch in flat:
        for key, part in batch.items():
            written += spools[key].append(part, segment)
    return spools, flat.keys()


@contextmanager
def _member(file: zipfile.ZipFile, name: str, dtype: np.dtype[Any], shape: tuple[int, ...]) -> Iterator[IO[bytes]]:
    """Open a new member of the file, in which the npy header is already written; close it at the end of the block."""
    info = zipfile.ZipInfo(f"{name}.npy")  # dated 1980, so that the same content gives the same file
    info.compress_type = file.compression
    header = {"descr": np.lib.format.dtype_to_descr(dtype), "fortran_order": False, "shape": shape}
    # Opened by the `with` itself: if Ctrl-C came in between, the zip file could not be closed.
    with file.open(info, "w", force_zip64=True) as member:
        np.lib.format.write_array_header_1_0(member, header)
        yield member
