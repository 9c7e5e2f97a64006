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

_SPACE = rb"[ \t\r\n]*"
_BEGIN, _NEXT = re.compile(rb"[ \t]*\{"), re.compile(rb",")
_KEY = re.compile(_SPACE + rb"""u?(['"])(descr|fortran_order|shape)\1""" + _SPACE + rb":" + _SPACE)
_VALUES = {
    b"descr": re.compile(rb"""u?(['"])(?P<value>[<>|=]?\w{1,16}(?:\[\w{1,8}\])?)\1""" + _SPACE),
    b"fortran_order": re.compile(rb"(?P<value>True|False)" + _SPACE),
    b"shape": re.compile(rb"\((?P<value>[0-9L, \t\r\n]{0,1000})\)" + _SPACE),
}
_END = re.compile(rb",?\s*\}\s*")
_DTYPE = re.compile(r"[<>|=]?[biufcmMOSUV]\d{0,9}(?:\[\w{1,8}\])?")
_AXES = re.compile(rb"\s*(?:\d{1,19}L?\s*,\s*)*(?:\d{1,19}L?\s*)?")  # Python 2 wrote 3L
_OBJECT = re.compile(rb"""['"]\|?O\d?['"]""")


@dataclass(frozen=True)
class NpyHeader:
    """A parsed npy header.

    Attributes:
        dtype: the dtype of the array, with its byte order.
        shape: the shape of the array.
        fortran: True if the values are in Fortran order, False if they are in C order.
        length: the length of the header in bytes.
        problem: why the array is not read, and the way out; None if it contains numbers, booleans or text of fixed
            width. Without a subject, for the caller to put the name of the array in front of it.
    """

    dtype: np.dtype[Any]
    shape: tuple[int, ...]
    fortran: bool
    length: int
    problem: str | None = None

    @property
    def is_text(self) -> bool:
        """True if the array contains text of fixed width."""
        return self.dtype.kind in "US"

    def refusal(self, where: str) -> UnsafeStoreError | UnsupportedStoreError:
        """The error for an array that has a `problem`; `where` is the name of the array."""
        kind = UnsafeStoreError if self.dtype.hasobject else UnsupportedStoreError
        return kind(f"{where} {self.problem}")

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

    It is the text of a Python dict, whose keys numpy accepts in any order, with any quotes and spaces. An array that is
    not read has a header with a `problem`. The messages of the errors lack a subject; the caller puts the name of the
    file or the member in front of them.

    Raises:
        CorruptStoreError: the header is not one that numpy reads.
    """
    fields = _fields(text, 10 if text[6] == 1 else 12)
    broken = CorruptStoreError("has a broken npy header")
    if fields is None and _OBJECT.search(text):
        return NpyHeader(np.dtype(object), (), False, len(text), _way_out(np.dtype(object)))
    if fields is None and b"[(" in text:
        records = "is a structured array; store each field as an array of its own"
        return NpyHeader(np.dtype([("", "u1")]), (), False, len(text), records)
    if fields is None or not _AXES.fullmatch(shape := fields[b"shape"]):
        raise broken
    descr = fields[b"descr"].decode()
    if descr not in DTYPES and not _DTYPE.fullmatch(descr):
        raise broken
    try:
        dtype = np.dtype(descr)
    except (TypeError, ValueError):
        raise CorruptStoreError("has an unknown dtype in its npy header") from None
    axes = tuple(int(part) for part in shape.replace(b"L", b"").split(b",") if part.strip())
    if len(axes) > 32 or (len(axes) == 1 and b"," not in shape):
        raise broken
    if math.prod(axis or 1 for axis in axes) * dtype.itemsize >= (MAX_EMPTY if 0 in axes else MAX_BYTES):
        raise CorruptStoreError("has a shape that is too large for any file")
    return NpyHeader(dtype, axes, fields[b"fortran_order"] == b"True", len(text), _way_out(dtype))


def _fields(text: bytes, start: int) -> dict[bytes, bytes] | None:
    """The values of the three keys of a header's dict, as they are written; None if it is not such a dict."""
    fields: dict[bytes, bytes] = {}
    before = _BEGIN.match(text, start)
    while before is not None:
        key = _KEY.match(text, before.end())
        value = None if key is None or key[2] in fields else _VALUES[key[2]].match(text, key.end())
        if key is None or value is None:
            return None
        fields[key[2]] = value["value"]
        if len(fields) == 3:
            return fields if _END.fullmatch(text, value.end()) else None
        before = _NEXT.match(text, value.end())
    return None


def _way_out(dtype: np.dtype[Any]) -> str | None:
    """Why an array of this dtype is not read, and the way out; None if it is read."""
    kind, size = dtype.kind, dtype.itemsize
    if size if kind in "US" else dtype.name in DTYPES:
        return None
    if kind == "O":
        return "is an object array, which would need unpickling; store it as numbers or as text of fixed width"
    if kind in "mM":
        return f'contains {dtype.name}, which is not supported; store it as .astype("int64")'
    if kind == "V" and size in (1, 2):
        reason = f"contains values of {size} bytes without a type, as numpy stores bfloat16 and float8"
        return f'{reason}; store it as .astype("float32")'
    if kind in "fc":
        smaller = "float64" if kind == "f" else "complex128"
        return f'contains {dtype.name}, which is not supported; store it as .astype("{smaller}")'
    return f"has dtype {dtype}, which is not supported; store it as numbers"


def read(path: Path) -> NDArray[Any]:
    """Read a `.npy` file without unpickling anything.

    Raises:
        StoreNotFoundError: the file does not exist or is not a regular file.
        StoreReadError: the operating system failed to read.
        CorruptStoreError: the file is not an npy array, or is longer or shorter than its header specifies.
        UnsafeStoreError: the array contains Python objects, or its header is longer than `MAX_HEADER`.
        UnsupportedStoreError: the array contains neither numbers, booleans nor text of fixed width.
    """
    file = PositionedFile(path)
    try:
        head = bytes(file.read(0, min(file.size, MAX_HEADER)))
        length = header_length(head)
        if length > file.size:
            raise CorruptStoreError("is shorter than its npy header")
        header = parse(head[:length])
        if header.problem:
            raise header.refusal(str(path))
        if file.size - length != header.nbytes:
            raise CorruptStoreError(f"has {file.size - length} bytes, but its npy header specifies {header.nbytes}")
        data = np.empty(header.nbytes, np.uint8)  # not a bytearray, which would be filled with zeros first
        file.read_into(length, data)
        values = np.frombuffer(data, header.dtype)
    except CorruptStoreError as error:
        raise type(error)(f"{path} {error}") from None
    finally:
        file.close()
    return values.reshape(header.shape, order="F" if header.fortran else "C")
