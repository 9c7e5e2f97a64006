"""Writing the packed NPZ layout: streaming, all or nothing, read back before it takes its name."""

from __future__ import annotations

import tempfile
import zipfile
from collections.abc import Iterable, Mapping
from contextlib import ExitStack
from pathlib import Path
from typing import IO, Any

import numpy as np
from numpy.typing import NDArray

from kinoml_data.backends.npz.storage import NpzStorage
from kinoml_data.columns import Columns
from kinoml_data.errors import SpecError, quoted
from kinoml_data.files import replacing
from kinoml_data.layouts.checksums import row_checksums
from kinoml_data.layouts.flat_arrays import CRC, INDEX, SHAPES, SPEC, UTF8, VALUES, flatten, mismatch
from kinoml_data.spec.array import Array

CHUNK = 1 << 22


ROWS_PER_READ = 4096


class _Spool:
    """One array of the file to be, written piece by piece beside it into a file without a name.

    The system removes such a file when nobody has it open any more, even after the process was killed.
    """

    def __init__(self, file: IO[bytes], dtype: np.dtype[Any], shape: tuple[int, ...]) -> None:
        self.file = file
        self.dtype, self.row_shape, self.length = dtype, shape, 0

    def append(self, array: NDArray[Any]) -> None:
        self.file.write(np.ascontiguousarray(array, self.dtype).data)
        self.length += len(array)


def write(
    path: Path,
    columns: Mapping[str, Array],
    batches: Iterable[Columns],
    *,
    arrays: Mapping[str, NDArray[Any]] | None,
    spec: str | None,
    overwrite: bool,
    compress: bool,
) -> None:
    """See `Backend.write`; `compress` deflates every member, which then can only be read whole."""
    with replacing(path, overwrite=overwrite) as temporary:
        with ExitStack() as stack:
            spools = _spools(path, columns, stack)
            _spool(spools, columns, batches)
            with zipfile.ZipFile(temporary, "x", zipfile.ZIP_DEFLATED if compress else zipfile.ZIP_STORED) as file:
                for name, spool in spools.items():
                    _member(file, name, spool)
                for name, array in (arrays or {}).items():
                    _array(file, name + INDEX, array)
                if spec is not None:
                    _array(file, SPEC, np.frombuffer(spec.encode(), np.uint8))
        _read_back(temporary)


def _spools(path: Path, columns: Mapping[str, Array], stack: ExitStack) -> dict[str, _Spool]:
    spools: dict[str, _Spool] = {}
    for name, array in columns.items():
        parts: dict[str, tuple[np.dtype[Any], tuple[int, ...]]] = {}
        if array.ragged or array.is_string:
            parts[name + (UTF8 if array.is_string else VALUES)] = array.numpy, ()
            parts[name + SHAPES] = np.dtype(np.int64), (max(1, len(array.shape)),)
        else:
            parts[name] = array.numpy, tuple(axis for axis in array.shape if axis is not None)
        parts[name + CRC] = np.dtype(np.uint32), ()
        for key, (dtype, shape) in parts.items():
            # Where a file has to have a name for a moment, it is one that says what it is.
            unnamed = tempfile.TemporaryFile(  # noqa: SIM115 - `stack` closes it
                dir=path.parent, prefix=f".{path.name[:40]}.", suffix=".partial"
            )
            spools[key] = _Spool(stack.enter_context(unnamed), dtype, shape)
    return spools


def _spool(spools: Mapping[str, _Spool], columns: Mapping[str, Array], batches: Iterable[Columns]) -> None:
    for batch in batches:
        for name, array in columns.items():
            column = batch[name]
            if problem := mismatch(array, column):
                raise SpecError(f"column {quoted(name)}: a batch holds {problem}")
            for key, part in flatten({name: array}, {name: column}).items():
                spools[key].append(part)
            crc = spools[name + CRC]
            rows = np.arange(crc.length, crc.length + len(column))
            crc.append(row_checksums(column, rows, is_string=array.is_string))


def _member(file: zipfile.ZipFile, name: str, spool: _Spool) -> None:
    spool.file.seek(0)
    with file.open(_info(file, name), "w", force_zip64=True) as member:
        _header(member, spool.dtype, (spool.length, *spool.row_shape))
        while chunk := spool.file.read(CHUNK):
            member.write(chunk)


def _array(file: zipfile.ZipFile, name: str, array: NDArray[Any]) -> None:
    with file.open(_info(file, name), "w", force_zip64=True) as member:
        _header(member, array.dtype, array.shape)
        member.write(np.ascontiguousarray(array).data)


def _info(file: zipfile.ZipFile, name: str) -> zipfile.ZipInfo:
    info = zipfile.ZipInfo(f"{name}.npy")  # dated 1980, so that the same content gives the same file
    info.compress_type = file.compression
    return info


def _header(member: IO[bytes], dtype: np.dtype[Any], shape: tuple[int, ...]) -> None:
    said = {"descr": np.lib.format.dtype_to_descr(dtype), "fortran_order": False, "shape": shape}
    np.lib.format.write_array_header_1_0(member, said)


def _read_back(path: Path) -> None:
    storage = NpzStorage(path, None, verify="always")
    try:
        for a in range(0, len(storage), ROWS_PER_READ):
            storage.read(np.arange(a, min(a + ROWS_PER_READ, len(storage))), list(storage.columns))
    finally:
        storage.close()
