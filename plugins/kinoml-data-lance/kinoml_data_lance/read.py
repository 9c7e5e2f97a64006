"""Reading: one version of a Lance dataset as a `Storage`."""

from __future__ import annotations

import hashlib
import json
import math
import os
import warnings
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
from kinoml_data import Array, Storage
from kinoml_data.backends.parquet import layout as layout
from kinoml_data.columns import Column, Columns, Ragged
from kinoml_data.errors import CorruptStoreError, UnsupportedStoreError, quoted
from kinoml_data.layouts.arrow import NOT_SHOWN, NULL, column_of, dtype_of, rows_of, select_columns
from kinoml_data.layouts.flat_arrays import CRC, mismatch
from numpy.typing import NDArray

from kinoml_data_lance.dataset import CHANGED, FILES, ROWS, colon, digest, files_of, lance_errors, numbered, tail

_kept: list[Any] = []  # see `LanceStorage.__del__`
_said: set[str] = set()


class LanceStorage(Storage):
    """One version of a Lance dataset, whatever versions come later.

    Args:
        dataset: a `lance.LanceDataset`.
        where: its place, for errors.
        columns: what is asked for, or None for everything.
        folder: the place, where it is a local one.

    Raises:
        CorruptStoreError: our layout, but not as it was written.
        UnsupportedStoreError: a later layout, or a column of a type that is not read.
    """

    def __init__(
        self, dataset: Any, where: str, columns: Mapping[str, Array] | None, *, folder: Path | None = None
    ) -> None:
        self._dataset, self._where, self._pid = dataset, where, os.getpid()
        self._length: int = dataset.count_rows()
        self._lengths: dict[str, NDArray[np.int64]] = {}
        self._asked = columns or {}
        schema = dataset.schema
        text = {k.decode("utf-8", "replace"): v.decode("utf-8", "replace") for k, v in (schema.metadata or {}).items()}
        said = {key: value for key, value in text.items() if key.startswith(layout.PREFIX)}
        self.has_checksums = bool(said) or any(colon(name + CRC) in schema.names for name in schema.names)
        if self.has_checksums:
            held = self._own(said, schema.names, folder)
            names = select_columns(Path(where), list(held), columns)
        else:
            names = select_columns(Path(where), schema.names, columns)
            held = {name: _array(schema.field(name).type, f"{where}: column {quoted(name)}") for name in names}
            self._asked = {n: a for n, a in self._asked.items() if n in held and len(a.shape) == len(held[n].shape)}
            _say_once(f"{where} has no checksums by row: its integrity is unknown")
        self.columns = {name: held[name] for name in names}
        state = [dataset.version, [(field.name, str(field.type)) for field in schema], text]
        state += [fragment.metadata.to_json() for fragment in dataset.get_fragments()]
        self.identity = hashlib.blake2b(json.dumps(state, sort_keys=True).encode(), digest_size=16).hexdigest()

    def _own(self, said: Mapping[str, str], names: Sequence[str], folder: Path | None) -> dict[str, Array]:
        """The columns of our layout, once what the metadata says has been checked."""
        if said.get(layout.FORMAT, layout.VERSION) != layout.VERSION:
            held = quoted(said[layout.FORMAT])
            raise UnsupportedStoreError(f"{self._where} has the layout {held}; this version reads {layout.VERSION!r}")
        if said.get(layout.DIGEST) != digest(said):
            raise CorruptStoreError(f"{self._where}: its metadata is not as it was written; {CHANGED}")
        if int(said[ROWS]) != self._length:
            raise CorruptStoreError(f"{self._where} has {self._length} rows, {said[ROWS]} were written; {CHANGED}")
        files = json.loads(said[FILES])
        for name in files_of(self._dataset) if folder is not None else ():
            # What Lance has rewritten, as when it joins small files, is not among them.
            if folder is not None and name in files and tail(folder / "data" / name, files[name][0]) != files[name]:
                raise CorruptStoreError(f"{folder / 'data' / name} is not as it was written; it is damaged")
        columns = {name: Array(a["dtype"], a["shape"]) for name, a in json.loads(said[layout.COLUMNS]).items()}
        self.arrays = {name: layout.stored_array(held) for name, held in json.loads(said[layout.ARRAYS]).items()}
        self.spec = said.get(layout.SPEC)
        parts = [colon(part) for name, array in columns.items() for part in layout.parts_of(name, array)]
        if missing := [part for part in parts if part not in names]:
            raise CorruptStoreError(f"{self._where}: column {quoted(missing[0])} is missing; {CHANGED}")
        return columns

    def __len__(self) -> int:
        return self._length

    def read(self, rows: NDArray[np.int64], columns: Sequence[str]) -> Columns:
        try:
            return self._read(rows, columns)
        except CorruptStoreError as error:
            if "CRC-32" not in str(error):  # that names its row; for the others one is read at a time
                for row in rows if len(rows) > 1 else ():
                    self._read(np.array([row]), columns)
            raise

    def _read(self, rows: NDArray[np.int64], columns: Sequence[str]) -> Columns:
        if not columns:
            return {}
        where = self._where if len(rows) != 1 else f"{self._where}, row {rows[0]}"
        with lance_errors(f"{where}: it cannot be read"):
            held = {name: self.columns[name] for name in columns}
            parts = [colon(part) for name, array in held.items() for part in layout.parts_of(name, array)]
            table = self._dataset.take(rows, columns=parts if self.has_checksums else list(held))
            table.validate(full=True)  # offsets that lead out of their values
            if len(table) != len(rows):
                raise CorruptStoreError(f"{where}: {len(table)} rows came for {len(rows)}")
            if self.has_checksums:
                return {name: self._own_column(table, name, array, rows) for name, array in held.items()}
            first = int(rows[0]) if len(rows) == 1 else 0
            return {name: self._decoded(table, name, array, first) for name, array in held.items()}

    def _own_column(self, table: Any, name: str, array: Array, rows: NDArray[np.int64]) -> Column:
        where = f"{self._where}: column {quoted(name)}"
        first = int(rows[0]) if len(rows) == 1 else 0
        column: Any
        if array.ragged:
            values: Any = self._decoded(table, name, Array(array.dtype, (None,)), first)
            shapes: Any = self._decoded(table, colon(name + layout.SHAPE), Array("int64", (len(array.shape),)), first)
            column = Ragged(values.values, shapes)
        elif array.shape:
            flat: Any = self._decoded(table, name, Array(array.dtype, (math.prod(a or 0 for a in array.shape),)), first)
            column = flat.reshape(len(rows), *array.shape)
        else:
            column = self._decoded(table, name, array, first)
        if problem := mismatch(array, column):
            raise CorruptStoreError(f"{where}: it holds {problem}; {CHANGED}")
        stored: Any = self._decoded(table, colon(name + CRC), Array("uint32"), first)
        found = numbered(layout.checksums(column, is_string=array.is_string), rows)
        if (wrong := found != stored).any():
            row, was, said = rows[wrong][0], found[wrong][0], stored[wrong][0]
            raise CorruptStoreError(f"{where}, row {row}: its CRC-32 is {was:#010x}, stored {said:#010x}; {CHANGED}")
        checked: Column = column
        return checked

    def _decoded(self, table: Any, part: str, array: Array, first: int) -> Column:
        """One column of `table`, which must be of the type of `array`, as new arrays."""
        held, where = table.column(part), f"{self._where}: column {quoted(part)}"
        if dtype_of(held.type, where) != (len(array.shape), array.dtype):
            raise CorruptStoreError(f"{where} has another type than was written; {CHANGED}")
        parts = [rows_of(chunk, where, first) for chunk in held.chunks]
        asked = self._asked[part].shape if not self.has_checksums and part in self._asked else ()
        for axis, length in enumerate(asked):  # a row of no lists does not show how long these would be
            for rows in parts:
                rows.shapes[rows.shapes[:, axis] == NOT_SHOWN, axis] = length or 0
        column = column_of(array, parts)
        return Ragged(_own(column.values), column.shapes) if isinstance(column, Ragged) else _own(column)

    def shapes(self, column: str) -> NDArray[np.int64] | None:
        array, part = self.columns[column], colon(column + ".shape")
        if not (self.has_checksums and array.ragged):
            return None
        if column not in self._lengths:
            with lance_errors(f"{self._where}: column {quoted(part)} cannot be read"):
                table = self._dataset.to_table(columns=[part])
                held: Any = self._decoded(table, part, Array("int64", (len(array.shape),)), 0)
                self._lengths[column] = held.reshape(self._length, len(array.shape))
        return self._lengths[column]

    def close(self) -> None:
        self._dataset = None

    def __del__(self, getpid: Callable[[], int] = os.getpid, kept: list[Any] = _kept) -> None:
        # As arguments: when Python ends, the names of modules may be gone before the last storage is.
        if getattr(self, "_pid", None) not in (None, getpid()):
            kept.append(self._dataset)  # what Lance does to free it may hang in a forked process


def _own(array: NDArray[Any]) -> NDArray[Any]:
    return array if array.flags.writeable else array.copy()  # Arrow's memory is not ours to give away


def _array(type_: Any, where: str) -> Array:
    """What a column of another origin holds: lists are ragged, fixed-size lists are not."""
    _, dtype = dtype_of(type_, where)
    if dtype == NULL:
        raise UnsupportedStoreError(f"{where} holds nothing but nulls, which are not read")
    axes: list[int | None] = []
    while hasattr(type_, "value_type"):
        axes.append(type_.list_size if pa.types.is_fixed_size_list(type_) else None)
        type_ = type_.value_type
    return Array(dtype, tuple(axes))


def _say_once(text: str) -> None:
    if text not in _said:
        _said.add(text)
        warnings.warn(text, stacklevel=4)
