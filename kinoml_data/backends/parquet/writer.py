"""Writing the Parquet layout of `parquet_layout.py`, a row group at a time."""

from __future__ import annotations

import base64
import hashlib
import json
import math
import re
import secrets
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from numpy.typing import NDArray

from kinoml_data.backends.parquet.container import MAX_FOOTER_BYTES, seal
from kinoml_data.backends.parquet.layout import (
    ARRAYS,
    COLUMNS,
    CONTENT,
    DIGEST,
    FORMAT,
    SHAPE,
    SPEC,
    VERSION,
    checksums,
)
from kinoml_data.columns import Column, Columns, Ragged, concatenate, sizes_of
from kinoml_data.errors import SpecError, UnsupportedStoreError, one_line, quoted
from kinoml_data.layouts.flat_arrays import CRC
from kinoml_data.spec.array import DTYPES, NAME_PATTERN, STRING, Array

ROW_GROUP_BYTES = 32 << 20
STORABLE = tuple(name for name in DTYPES if name != STRING and not name.startswith("complex"))


def schema_of(columns: Mapping[str, Array], backend: str) -> Any:
    """The Arrow schema that stores `columns`.

    Raises:
        UnsupportedStoreError: a dtype that Parquet does not hold bit for bit.
        SpecError: a name that is not allowed, or no column.
    """
    fields = []
    for name, array in columns.items():
        if not re.fullmatch(NAME_PATTERN, name):
            raise SpecError(f"the column name {quoted(name)} has characters other than A-Z a-z 0-9 _ -")
        if array.dtype not in (*STORABLE, STRING):
            raise UnsupportedStoreError(
                f"column {quoted(name)}: {array.dtype} cannot be stored in {backend}; use npz-lazy"
            )
        type_ = pa.large_string() if array.is_string else pa.from_numpy_dtype(array.numpy)
        if array.shape:
            size = 0 if array.ragged else math.prod(axis or 0 for axis in array.shape)
            # Arrow writes a fixed-size list of size 0 as a list of one null.
            type_ = _list(type_, size) if size else pa.large_list(pa.field("element", type_, nullable=False))
        fields.append((name, type_))
        if array.ragged:
            fields.append((name + SHAPE, _list(pa.int64(), len(array.shape))))
        fields.append((name + CRC, pa.uint32()))
    if not fields:
        raise SpecError("there is no column to write")
    return pa.schema([pa.field(name, type_, nullable=False) for name, type_ in fields])


def _list(type_: Any, size: int) -> Any:
    return pa.list_(pa.field("element", type_, nullable=False), size)


def metadata_of(
    columns: Mapping[str, Array], arrays: Mapping[str, NDArray[Any]], spec: str | None, backend: str
) -> dict[str, str]:
    """The key-value metadata that is known before the rows are.

    Raises:
        UnsupportedStoreError: an array of something other than numbers, or more than a footer may hold.
    """
    axes = {name: ["*" if axis is None else axis for axis in array.shape] for name, array in columns.items()}
    held = {}
    for name, values in arrays.items():
        if values.dtype.name not in STORABLE:
            raise UnsupportedStoreError(
                f"array {quoted(name)}: {values.dtype} cannot be stored in {backend}; use npz-lazy"
            )
        little = np.ascontiguousarray(values, values.dtype.newbyteorder("<"))
        data = base64.b64encode(little.tobytes()).decode()
        held[name] = {"dtype": little.dtype.str, "shape": list(values.shape), "data": data}
    metadata = {
        FORMAT: VERSION,
        COLUMNS: json.dumps({name: {"dtype": columns[name].dtype, "shape": axes[name]} for name in columns}),
        ARRAYS: json.dumps(held),
        **({SPEC: spec} if spec is not None else {}),
    }
    if (size := sum(map(len, metadata.values()))) > MAX_FOOTER_BYTES // 2:
        raise UnsupportedStoreError(f"the arrays and the spec take {size} bytes, too many for {backend}; use npz-lazy")
    return metadata


def write(
    path: Path, columns: Mapping[str, Array], batches: Iterable[Columns], schema: Any, metadata: Mapping[str, str]
) -> None:
    """Write the rows of `batches` to a new file, in row groups of about `ROW_GROUP_BYTES`.

    Raises:
        SpecError: rows that are not what `columns` says.
    """
    # The digest is over the footer that holds it, so that a mark keeps its place until the footer is there.
    mark, content = secrets.token_hex(16), hashlib.blake2b(digest_size=16)
    strings = [name for name, array in columns.items() if array.is_string]
    with pq.ParquetWriter(path, schema, compression="zstd", use_dictionary=strings, write_page_checksum=True) as writer:
        for data in row_groups(columns, batches):
            table = table_of(columns, data, schema)
            for name in columns:
                content.update(table.column(name + CRC).chunk(0).to_numpy().astype("<u4"))
            writer.write_table(table, row_group_size=len(table))
        writer.add_key_value_metadata({**metadata, CONTENT: content.hexdigest(), DIGEST: mark})
    seal(path, mark)


def row_groups(columns: Mapping[str, Array], batches: Iterable[Columns]) -> Iterator[dict[str, Column]]:
    """The rows of `batches` in parts of about `ROW_GROUP_BYTES`: small batches merged, large ones cut."""
    held: list[dict[str, Column]] = []
    size = 0
    for batch in batches:
        data = {name: _checked(name, array, batch[name]) for name, array in columns.items()}
        lengths = {len(column) for column in data.values()}
        if len(lengths) > 1:
            raise SpecError(f"the columns of a batch differ in their number of rows: {sorted(lengths)}")
        rows = lengths.pop()
        step = max(1, rows * ROW_GROUP_BYTES // max(1, _nbytes(data)))
        for start in range(0, rows, step):
            part = {name: _rows(column, start, start + step) for name, column in data.items()}
            held.append(part)
            size += _nbytes(part)
            if size >= ROW_GROUP_BYTES:
                yield {name: concatenate([part[name] for part in held]) for name in columns}
                held, size = [], 0
    if held:
        yield {name: concatenate([part[name] for part in held]) for name in columns}


def _nbytes(data: Mapping[str, Column]) -> int:
    return sum(c.values.nbytes + c.shapes.nbytes if isinstance(c, Ragged) else c.nbytes for c in data.values())


def _rows(column: Column, start: int, stop: int) -> Column:
    if not isinstance(column, Ragged):
        return column[start:stop]
    stop = min(stop, len(column))
    return Ragged(column.values[column.offsets[start] : column.offsets[stop]], column.shapes[start:stop])


def _checked(name: str, array: Array, column: Column) -> Column:
    """The column in native byte order and C order, its bools 0 or 1.

    Raises:
        SpecError: it is not what `array` says.
    """
    ragged = array.ragged or array.is_string
    axes: tuple[int | None, ...] = (None,) if array.is_string else array.shape
    if isinstance(column, Ragged):
        values, shapes = column.values, np.asarray(column.shapes, np.int64)
        fits = ragged and values.ndim == 1 and shapes.ndim == 2 and shapes.shape[1] == len(axes)
        fits = fits and all(axis is None or (shapes[:, i] == axis).all() for i, axis in enumerate(axes))
        fits = fits and bool((shapes >= 0).all()) and int(sizes_of(shapes).sum()) == len(values)
    else:
        values = np.asarray(column)
        fits = not ragged and values.shape[1:] == axes
    if not fits or values.dtype.newbyteorder("=") != array.numpy:
        raise SpecError(f"column {quoted(name)}: a batch does not hold {array.dtype} of the shape {array.shape}")
    values = np.ascontiguousarray(values, array.numpy)
    if array.dtype == "bool":
        values = values.view(np.uint8) != 0
    return Ragged(values, shapes) if isinstance(column, Ragged) else values


def table_of(columns: Mapping[str, Array], data: Mapping[str, Column], schema: Any) -> Any:
    """Some rows as a `pyarrow.Table` of the layout, checksums included."""
    arrays = []
    for name, array in columns.items():
        column, type_ = data[name], schema.field(name).type
        if array.is_string:
            assert isinstance(column, Ragged)
            buffers = pa.py_buffer(column.offsets), pa.py_buffer(np.ascontiguousarray(column.values))
            arrays.append(pa.LargeStringArray.from_buffers(len(column), *buffers))
        elif isinstance(column, Ragged):
            arrays.append(pa.LargeListArray.from_arrays(column.offsets, pa.array(column.values), type=type_))
            shapes = pa.array(np.ascontiguousarray(column.shapes).reshape(-1))
            arrays.append(pa.FixedSizeListArray.from_arrays(shapes, type=schema.field(name + SHAPE).type))
        elif not array.shape:
            arrays.append(pa.array(column))
        elif pa.types.is_fixed_size_list(type_):
            arrays.append(pa.FixedSizeListArray.from_arrays(pa.array(column.reshape(-1)), type=type_))
        else:
            no_values = pa.array(column.reshape(-1))
            arrays.append(pa.LargeListArray.from_arrays(np.zeros(len(column) + 1, np.int64), no_values, type=type_))
        arrays.append(pa.array(checksums(column, is_string=array.is_string)))
    table = pa.Table.from_arrays(arrays, schema=schema)
    try:
        table.validate(full=True)
    except pa.ArrowInvalid as error:
        raise SpecError(f"the rows cannot be written: {one_line(error)}") from None
    return table
