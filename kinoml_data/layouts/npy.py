"""Reading the npy format of numpy: headers and whole `.npy` files, without evaluating or unpickling anything.

Format: numpy's NEP 1, versions 1.0 to 3.0.
"""

from __future__ import annotations

import math
import re
import struct
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from kinoml_data.errors import CorruptStoreError, UnsafeStoreError, UnsupportedStoreError
from kinoml_data.files import PositionedFile
from kinoml_data.spec.array import DTYPES

MAX_HEADER = 10_000  # bytes; numpy has the same limit
MAX_BYTES = 1 << 62  # larger than any file; smaller sizes, and sums of two of them, fit into int64
MAX_EMPTY = 1 << 28  # the same for an array without elements, whose long axes no bytes in the file confirm

_HEADER = re.compile(
    rb"\{'descr': '([<>|=]?)([biufcmMOSUV])(\d{0,5}(?:\[\w{1,8}\])?)', 'fortran_order': (True|False), "
    rb"'shape': \(((?:\d{1,19}, ?)*(?:\d{1,19},?)?)\), ?\} *\n"
)


@dataclass(frozen=True)
class NpyHeader:
    """A parsed npy header.

    Attributes:
        dtype: the dtype of the array, with its byte order.
        shape: the shape of the array.
        fortran: True if the values are in Fortran order, False if they are in C order.
        length: the length of the header in bytes.
    """

    dtype: np.dtype[Any]
    shape: tuple[int, ...]
    fortran: bool
    length: int

    @cached_property
    def nbytes(self) -> int:
        """The size of the array in bytes."""
        return math.prod(self.shape) * self.dtype.itemsize


def header_length(head: bytes) -> int:
    """The length in bytes of the npy header that begins with `head`; the first 12 bytes are enough.

    Raises:
        CorruptStoreError: `head` is not the beginning of an npy header.
        UnsafeStoreError: the header is longer than `MAX_HEADER`.
    """
    form = "<H" if head[6:7] == b"\1" else "<I"
    begin = 8 + struct.calcsize(form)
    if len(head) < begin or head[:6] != b"\x93NUMPY" or head[6:8] not in (b"\1\0", b"\2\0", b"\3\0"):
        raise CorruptStoreError("is not an npy array")
    length: int = begin + struct.unpack_from(form, head, 8)[0]
    if length > MAX_HEADER:
        raise UnsafeStoreError(f"has an npy header of {length} bytes; the limit is {MAX_HEADER}")
    return length


def parse(text: bytes) -> NpyHeader:
    """Parse the bytes of an npy header.

    The messages of the errors lack a subject; the caller puts the name of the file or the member in front of them.

    Raises:
        CorruptStoreError: the header is not one that numpy writes.
        UnsafeStoreError: the array contains Python objects.
        UnsupportedStoreError: the array contains neither numbers nor booleans.
    """
    match = _HEADER.fullmatch(text, 10 if text[6] == 1 else 12)
    if (match is None and (b"'|O'" in text or b"'O'" in text)) or (match is not None and match[2] == b"O"):
        raise UnsafeStoreError("is an object array, which would need unpickling; store it as numbers")
    if match is None:
        if b"[(" in text:
            raise UnsupportedStoreError("is a structured array; store each field as an array of its own")
        raise CorruptStoreError("has a broken npy header")
    order, kind, size, fortran, shape = (part.decode("latin-1") for part in match.groups())
    try:
        dtype = np.dtype(f"{order}{kind}{size}")
    except (TypeError, ValueError):
        raise CorruptStoreError("has an unknown dtype in its npy header") from None
    if dtype.name not in DTYPES:
        raise UnsupportedStoreError(f"has dtype {dtype}, which is not supported")
    axes = tuple(int(part) for part in shape.replace(" ", "").split(",") if part)
    if len(axes) > 32 or (len(axes) == 1 and "," not in shape):
        raise CorruptStoreError("has a broken npy header")
    if math.prod(axis or 1 for axis in axes) * dtype.itemsize >= (MAX_EMPTY if 0 in axes else MAX_BYTES):
        raise CorruptStoreError("has a shape that is too large for any file")
    return NpyHeader(dtype, axes, fortran == "True", len(text))


def read(path: Path) -> NDArray[Any]:
    """Read a `.npy` file without unpickling anything.

    Raises:
        StoreNotFoundError: there is no such regular file.
        StoreReadError: the operating system failed to read.
        CorruptStoreError: the file is not an npy array, or is longer or shorter than its header specifies.
        UnsafeStoreError: the array contains Python objects.
        UnsupportedStoreError: the array contains neither numbers nor booleans.
    """
    file = PositionedFile(path)
    try:
        head = bytes(file.read(0, min(file.size, MAX_HEADER)))
        length = header_length(head)
        if length > file.size:
            raise CorruptStoreError("is shorter than its npy header")
        header = parse(head[:length])
        if file.size - length != header.nbytes:
            raise CorruptStoreError(f"has {file.size - length} bytes, but its npy header specifies {header.nbytes}")
        values = np.frombuffer(file.read(length, header.nbytes), header.dtype)
    except (CorruptStoreError, UnsupportedStoreError) as error:
        raise type(error)(f"{path} {error}") from None
    finally:
        file.close()
    return values.reshape(header.shape, order="F" if header.fortran else "C")
