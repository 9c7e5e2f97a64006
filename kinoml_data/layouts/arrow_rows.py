"""The library's layout of rows in Arrow tables, version 1. Parquet files and Lance datasets contain such tables.

Each column of the dataset is two or three columns of the table. No value is null.

| column of the dataset | columns of the table |
| --- | --- |
| one value per row | `<column>`: the value |
| fixed shape | `<column>`: fixed-size list of the values of the row, in C order |
| fixed shape without elements | `<column>`: large list, which is empty |
| ragged | `<column>`: large list of the values of the row, in C order; `<column>:shape`: fixed-size list of int64 |
| string | `<column>`: large string |
| every column | `<column>:crc32`: uint32, the checksum of the row as `checksums.py` defines it |

The metadata of the schema contains:

| key | value |
| --- | --- |
| `kinoml_data.format` | `1` |
| `kinoml_data.columns` | JSON: `{column: {"dtype": "float32", "shape": [2, "*"]}}` |
| `kinoml_data.arrays` | JSON: `{array: {"dtype": "<i8", "shape": [800], "data": base64 of the bytes in C order}}` |
| `kinoml_data.spec` | the embedded spec as JSON, if there is one |
| `kinoml_data.digest` | hex: 16-byte BLAKE2b digest of all other such keys and their values, as JSON with sorted keys |

A container may add keys of its own.
"""

from __future__ import annotations

import base64
import hashlib
import json
import math
import re
from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from kinoml_data.columns import Column, Columns, Ragged, concatenate
from kinoml_data.errors import CorruptStoreError, SpecError, UnsupportedStoreError, one_line, quoted
from kinoml_data.layouts.arrow import dtype_of, rows_of_chunks
from kinoml_data.layouts.checksums import row_checksums, row_difference
from kinoml_data.layouts.flat_arrays import mismatch, to_native_order
from kinoml_data.spec.array import DTYPES, NAME_PATTERN, Array

VERSION, SHAPE, CRC, PREFIX = "1", ":shape", ":crc32", "kinoml_data."
FORMAT, COLUMNS, ARRAYS, SPEC, DIGEST = (PREFIX + key for key in ("format", "columns", "arrays", "spec", "digest"))
TABLE_BYTES = 32 << 20
MAX_METADATA_BYTES = 32 << 20
MAX_LIST_SIZE = 2**31 - 1  # values in a fixed-size list of Arrow


@dataclass(frozen=True)
class ArrowLayout:
    """A dataset in this layout.

    Attributes:
        columns: the columns of the dataset, by name.
        arrays: the arrays that are not per row.
        spec: the embedded spec, as JSON.
        extra: the values of the keys that the container adds to the metadata, by key without `kinoml_data.`.
    """

    columns: Mapping[str, Array]
    arrays: Mapping[str, NDArray[Any]] = field(default_factory=dict)
    spec: str | None = None
    extra: Mapping[str, str] = field(default_factory=dict)

    @staticmethod
    def claims(metadata: Mapping[bytes, bytes], names: Collection[str]) -> bool:
        """True if a table has this layout, or had it before it was damaged or rewritten.

        Args:
            metadata: the metadata of the schema.
            names: the columns of the table.
        """
        marked = any(key.startswith(PREFIX.encode()) for key in metadata)
        return marked or any(name + CRC in names for name in names)

    @classmethod
    def parse(cls, metadata: Mapping[bytes, bytes], names: Collection[str], where: str) -> ArrowLayout:
        """The layout of a stored table.

        Args:
            metadata: the metadata of the schema.
            names: the columns of the table.
            where: the file or folder, for errors.

        Raises:
            CorruptStoreError: the metadata is missing or differs from what was written, or a column is missing.
            UnsupportedStoreError: a later version of the library wrote the table.
        """
        decoded = {key.decode("utf-8", "replace"): value.decode("utf-8", "replace") for key, value in metadata.items()}
        text = {key: value for key, value in decoded.items() if key.startswith(PREFIX)}
        if text.get(FORMAT, VERSION) != VERSION:
            raise UnsupportedStoreError(
                f"{where} has version {quoted(text[FORMAT])} of the layout; "
                f"this version of kinoml_data reads version {VERSION!r}"
            )
        if FORMAT not in text or text.pop(DIGEST, None) != _digest(text):
            raise CorruptStoreError(
                f"{where}: its metadata differs from what was written; the data is damaged, or another program "
                "changed it"
            )
        try:
            columns = {name: Array(a["dtype"], a["shape"]) for name, a in json.loads(text[COLUMNS]).items()}
            arrays = {name: _decode_array(array) for name, array in json.loads(text[ARRAYS]).items()}
        except (ValueError, TypeError, LookupError, AttributeError, RecursionError) as error:
            raise CorruptStoreError(f"{where}: its metadata cannot be read: {one_line(error)}") from None
        layout = cls(columns, arrays, text.get(SPEC), {key.removeprefix(PREFIX): text[key] for key in text})
        if missing := [name for name in layout.stored_names(columns) if name not in names]:
            raise CorruptStoreError(f"{where}: column {quoted(missing[0])} is missing")
        return layout

    def stored_names(self, columns: Iterable[str]) -> list[str]:
        """The columns of the table that store some columns of the dataset."""
        ragged = {name for name in columns if self.columns[name].ragged}
        return [part for name in columns for part in (name, *([name + SHAPE] if name in ragged else ()), name + CRC)]

    def schema(self) -> Any:
        """The `pyarrow.Schema` of the table, without metadata.

        Raises:
            UnsupportedStoreError: Arrow has no type for a dtype, or for rows of so many values.
            SpecError: the name of a column is not valid, or there is no column.
        """
        fields = []
        for name, array in self.columns.items():
            if not re.fullmatch(NAME_PATTERN, name):
                raise SpecError(
                    f"the column name {quoted(name)} contains characters other than A-Z a-z 0-9 _ -; rename the column"
                )
            _check_dtype(f"column {quoted(name)}", array.dtype)
            type_ = pa.large_string() if array.is_string else pa.from_numpy_dtype(array.numpy)
            if array.shape:
                size = 0 if array.ragged else math.prod(array.row_shape)
                if size > MAX_LIST_SIZE:
                    raise UnsupportedStoreError(
                        f"column {quoted(name)}: a row of {size:,} values cannot be stored in an Arrow table, which "
                        f"has room for {MAX_LIST_SIZE:,}; use npz-lazy"
                    )
                # Arrow writes a fixed-size list of size 0 as a list of one null.
                type_ = _list(type_, size) if size else pa.large_list(pa.field("element", type_, nullable=False))
            fields.append((name, type_))
            if array.ragged:
                fields.append((name + SHAPE, _list(pa.int64(), len(array.shape))))
            fields.append((name + CRC, pa.uint32()))
        if not fields:
            raise SpecError("there is no column to write; name at least one")
        return pa.schema([pa.field(name, type_, nullable=False) for name, type_ in fields])

    def metadata(self, extra: Mapping[str, str] | None = None) -> dict[str, str]:
        """The metadata of the schema, including the keys that the container adds.

        Raises:
            UnsupportedStoreError: Arrow has no type for an array, or the arrays and the spec are too large.
        """
        columns = {n: array.model_dump(mode="json", include={"dtype", "shape"}) for n, array in self.columns.items()}
        arrays = {name: _encode_array(name, array) for name, array in self.arrays.items()}
        metadata = {FORMAT: VERSION, COLUMNS: json.dumps(columns), ARRAYS: json.dumps(arrays)}
        if self.spec is not None:
            metadata[SPEC] = self.spec
        metadata |= {PREFIX + key: value for key, value in (extra or {}).items()}
        if (size := sum(map(len, metadata.values()))) > MAX_METADATA_BYTES:
            raise UnsupportedStoreError(
                f"the arrays and the spec take {size} bytes, which is more than the {MAX_METADATA_BYTES} that fit into "
                "the metadata; use npz-lazy"
            )
        return metadata | {DIGEST: _digest(metadata)}

    def tables(self, batches: Iterable[Columns]) -> Iterator[Any]:
        """The rows of `batches` as tables of pyarrow of about `TABLE_BYTES`: small batches are merged, large ones cut.

        Raises:
            SpecError: a batch does not match `columns`, or a string is not UTF-8.
        """
        schema, first = self.schema(), 0
        for data in self._parts(batches):
            table = self._table(data, schema, first)
            first += len(table)
            yield table

    def _parts(self, batches: Iterable[Columns]) -> Iterator[dict[str, Column]]:
        pending: list[dict[str, Column]] = []
        size = 0
        for batch in batches:
            data = {name: _checked(name, array, batch[name]) for name, array in self.columns.items()}
            lengths = {len(column) for column in data.values()}
            if len(lengths) > 1:
                raise SpecError(f"the columns of a batch differ in their number of rows: {sorted(lengths)}")
            rows = lengths.pop()
            step = max(1, rows * TABLE_BYTES // max(1, _nbytes(data)))
            for start in range(0, rows, step):
                pending.append({name: column[start : start + step] for name, column in data.items()})
                size += _nbytes(pending[-1])
                if size >= TABLE_BYTES:
                    yield _merged(pending)
                    pending, size = [], 0
        if pending:
            yield _merged(pending)

    def _table(self, data: Mapping[str, Column], schema: Any, first: int) -> Any:
        arrays = []
        for name, array in self.columns.items():
            column, type_ = data[name], schema.field(name).type
            if isinstance(column, Ragged):
                offsets, values = column.offsets, np.ascontiguousarray(column.values)
                if array.is_string:
                    buffers = pa.py_buffer(offsets), pa.py_buffer(values)
                    arrays.append(pa.LargeStringArray.from_buffers(len(column), *buffers))
                else:
                    arrays.append(pa.LargeListArray.from_arrays(offsets, pa.array(values), type=type_))
                    shapes = pa.array(np.ascontiguousarray(column.shapes).reshape(-1))
                    arrays.append(pa.FixedSizeListArray.from_arrays(shapes, type=schema.field(name + SHAPE).type))
            elif not array.shape:
                arrays.append(pa.array(column))
            elif pa.types.is_fixed_size_list(type_):
                arrays.append(pa.FixedSizeListArray.from_arrays(pa.array(column.reshape(-1)), type=type_))
            else:
                offsets = np.zeros(len(column) + 1, np.int64)
                arrays.append(pa.LargeListArray.from_arrays(offsets, pa.array(column.reshape(-1)), type=type_))
            rows = np.arange(first, first + len(column))
            arrays.append(pa.array(row_checksums(column, rows, is_string=array.is_string)))
        table = pa.Table.from_arrays(arrays, schema=schema)
        try:
            table.validate(full=True)
        except pa.ArrowInvalid as error:
            raise SpecError(f"the rows cannot be written: {one_line(error)}") from None
        return table

    def read(
        self, chunks: Mapping[str, Sequence[Any]], columns: Iterable[str], rows: NDArray[np.int64], where: str
    ) -> dict[str, Column]:
        """Decode some rows of some columns and compare each row with its checksum. The arrays may not be writable.

        Args:
            chunks: by name, the columns of the table that `stored_names` lists: valid arrays of pyarrow in order.
            columns: columns of the dataset.
            rows: int64 `(n,)`, the number of each row.
            where: the file or folder, for errors.

        Raises:
            CorruptStoreError: a row differs from what was written; the message names the column and the row.
        """
        return {name: self._column(name, chunks, rows, f"{where}: column {quoted(name)}") for name in columns}

    def shapes(self, column: str, chunks: Sequence[Any], where: str) -> NDArray[np.int64]:
        """int64 `(rows, ndim)`: the shapes of a ragged column; `chunks` are those of `<column>:shape`.

        Raises:
            CorruptStoreError: the chunks have a type other than the one that was written.
        """
        values, _ = _flat(chunks, 1, "int64", where, 0)
        return values.reshape(-1, len(self.columns[column].shape))

    def _column(self, name: str, chunks: Mapping[str, Sequence[Any]], rows: NDArray[np.int64], where: str) -> Column:
        array, first = self.columns[name], int(rows[0]) if len(rows) else 0
        if len(rows) == 0:
            return array.empty()
        values, lengths = _flat(chunks[name], int(bool(array.shape)), array.dtype, where, first)
        stored, _ = _flat(chunks[name + CRC], 0, "uint32", where, first)
        column: Column
        if array.is_string:
            column = Ragged(values, lengths.reshape(-1, 1))
        else:
            shapes = np.tile(np.array(array.row_shape, np.int64), (len(rows), 1))
            if array.ragged:
                shapes = self.shapes(name, chunks[name + SHAPE], where)
            # In floating point, the product of made-up lengths does not wrap around.
            if (wrong := (shapes < 0).any(axis=1) | (shapes.prod(axis=1, dtype=np.float64) != lengths)).any():
                row, at = rows[wrong][0], np.argmax(wrong)
                shape = quoted(tuple(shapes[at].tolist()))
                raise CorruptStoreError(f"{where}, row {row}: its shape {shape} does not fit its {lengths[at]} values")
            column = Ragged(values, shapes) if array.ragged else values.reshape(len(rows), *array.row_shape)
        if problem := row_difference(column, rows, stored, is_string=array.is_string):
            raise CorruptStoreError(f"{where}, {problem}; the data is damaged")
        if problem := mismatch(array, column):
            raise CorruptStoreError(f"{where} contains {problem}; the data is damaged")
        return column


def _digest(metadata: Mapping[str, str]) -> str:
    return hashlib.blake2b(json.dumps(metadata, sort_keys=True).encode(), digest_size=16).hexdigest()


def _flat(
    chunks: Sequence[Any], depth: int, dtype: str, where: str, first: int
) -> tuple[NDArray[Any], NDArray[np.int64]]:
    """The values of all rows end to end, and the number of values of each row.

    Raises:
        CorruptStoreError: the chunks have another type, or contain a null.
    """
    if any(dtype_of(chunk.type, where) != (depth, dtype) for chunk in chunks):
        raise CorruptStoreError(f"{where}: its type differs from what was written; the data is damaged")
    try:
        parts = rows_of_chunks(chunks, where, first)
    except (SpecError, UnsupportedStoreError) as error:  # nothing like that was written
        raise CorruptStoreError(f"{error}; the data is damaged") from None
    lengths = [part.shapes.prod(axis=1) for part in parts]  # 1 for a value without lists
    if len(parts) == 1:
        return parts[0].values, lengths[0]
    values = np.concatenate([np.empty(0, Array(dtype).numpy), *(part.values for part in parts)])
    return values, np.concatenate([np.empty(0, np.int64), *lengths])


def _checked(name: str, array: Array, column: Column) -> Column:
    """The column in native byte order, with bools that are 0 or 1.

    Raises:
        SpecError: the column does not match `array`.
    """
    values = to_native_order(column.values if isinstance(column, Ragged) else np.asarray(column))
    if array.dtype == "bool" and values.dtype == np.bool_:
        values = np.ascontiguousarray(values).view(np.uint8) != 0
    native = Ragged(values, np.asarray(column.shapes, np.int64)) if isinstance(column, Ragged) else values
    if problem := mismatch(array, native):
        raise SpecError(f"column {quoted(name)}: a batch contains {problem}")
    return native


def _nbytes(data: Mapping[str, Column]) -> int:
    return sum(column.nbytes for column in data.values())


def _merged(parts: Sequence[Mapping[str, Column]]) -> dict[str, Column]:
    return {name: concatenate([part[name] for part in parts]) for name in parts[0]}


def _list(type_: Any, size: int) -> Any:
    return pa.list_(pa.field("element", type_, nullable=False), size)


def _check_dtype(where: str, dtype: str) -> None:
    if dtype not in DTYPES or dtype.startswith("complex"):
        raise UnsupportedStoreError(f"{where}: {dtype} cannot be stored in an Arrow table; use npz-lazy")


def _encode_array(name: str, array: NDArray[Any]) -> dict[str, Any]:
    _check_dtype(f"array {quoted(name)}", array.dtype.name)
    little = np.ascontiguousarray(array, array.dtype.newbyteorder("<"))
    data = base64.b64encode(little.tobytes()).decode()
    return {"dtype": little.dtype.str, "shape": list(array.shape), "data": data}


def _decode_array(encoded: Mapping[str, Any]) -> NDArray[Any]:
    dtype = np.dtype(encoded["dtype"])
    array = np.frombuffer(base64.b64decode(encoded["data"], validate=True), dtype).reshape(encoded["shape"])
    return array.astype(dtype.newbyteorder("="))
