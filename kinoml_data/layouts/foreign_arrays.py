"""Columns that other programs stored in a container of arrays, such as an HDF5 file or a Zarr group.

What the two containers have in common is here: which of their members are columns of one table, the conventions of
netCDF (CF) for scaled and missing numbers, and strings and lists that are decoded as a whole.
"""

from __future__ import annotations

import base64
import re
import struct
import threading
from collections import Counter
from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from kinoml_data.columns import Column, Ragged, cast
from kinoml_data.errors import SpecError, UnsafeStoreError, UnsupportedStoreError, missing_value, one_line, quoted
from kinoml_data.layouts.flat_arrays import SHAPES, UTF8, VALUES, DecodedColumn, to_native_order
from kinoml_data.spec.array import Array

Slices = Callable[[Any, NDArray[np.int64], NDArray[np.int64]], NDArray[Any]]
SCALING = ("scale_factor", "add_offset", "_FillValue", "missing_value", "valid_range", "valid_min", "valid_max")
"""The attributes of CF that change what the numbers of an array mean."""


def foreign_arrays(
    names: Iterable[str],
    columns: Mapping[str, Array | None] | None,
    make: Callable[[str], Mapping[str, Any]],
    where: str,
) -> tuple[dict[str, Any], dict[str, str]]:
    """The arrays of the columns that can be read, and the reasons why others cannot.

    If no columns are asked for and they differ in their number of rows, those are left out whose number is not that of
    X and y, or not that of most columns if there is neither.

    Args:
        names: the columns that are in the container, of those that are asked for.
        columns: the columns that are asked for; None for all.
        make: the arrays of one column, by the names that `ArrayStorage` expects.
        where: the file or folder, for messages.

    Raises:
        UnsupportedStoreError: a column that is asked for cannot be read, or no column can.
        UnsafeStoreError: the same, if reading it is never safe.
        SpecError: the columns differ in their number of rows.
    """
    parts: dict[str, Mapping[str, Any]] = {}
    unreadable: dict[str, str] = {}
    errors: list[UnsupportedStoreError | UnsafeStoreError] = []
    for name in names:
        try:
            parts[name] = make(name)
        except (UnsupportedStoreError, UnsafeStoreError) as error:
            if columns is not None:
                raise
            unreadable[name] = str(error)
            errors.append(error)
    if errors and not parts:
        raise errors[0]
    rows = {name: _rows(name, arrays) for name, arrays in parts.items()}
    # Columns that are called X or y decide, as they do in an NPZ file.
    known = [name for name in rows if re.fullmatch("X[0-9]*|y", name)] if columns is None else []
    counts = Counter(rows[name] for name in known or rows).most_common(2)
    if len({*rows.values()}) > 1:
        if columns is not None or (len(counts) > 1 and (known or counts[0][1] == counts[1][1])):
            listed = one_line(", ".join(f"{name} has {count}" for name, count in list(rows.items())[:8]))
            raise SpecError(
                f"{where}: the columns differ in their number of rows: {listed}; "
                "name columns of one table, as with X=... and y=..."
            )
        for name in [name for name, count in rows.items() if count != counts[0][0]]:
            unreadable[name] = f"{where}: {quoted(name)} has {rows[name]} rows, but the others have {counts[0][0]}"
            del parts[name]
    return {key: array for arrays in parts.values() for key, array in arrays.items()}, unreadable


def column_of(key: str, keys: Collection[str]) -> str:
    """The column that one of the arrays of a container belongs to: in the flat layout, a column may have two."""
    for suffix in (VALUES, UTF8, SHAPES):
        name = key.removesuffix(suffix)
        if key.endswith(suffix) and name + SHAPES in keys and (name + VALUES in keys or name + UTF8 in keys):
            return name
    return key


def _rows(name: str, arrays: Mapping[str, Any]) -> int:
    if name + SHAPES in arrays:
        return len(arrays[name + SHAPES])
    array = next(iter(arrays.values()))
    return len(array) if isinstance(array, DecodedColumn) else int(array.shape[0])


def group_problem(where: str, path: str, attributes: Mapping[str, Any], members: Sequence[str]) -> str:
    """Why a group is not a column, and the way out, which depends on the program that wrote it.

    Args:
        where: the file or folder.
        path: the path of the group, as a spec names it.
        attributes: the attributes of the group.
        members: the names of what it contains.
    """
    encoding, place = str(attributes.get("encoding-type", "")), f"{where}: {quoted(path)}"
    if "pandas_type" in attributes:
        read = f"pandas.read_hdf({where!r}, {path!r})"
        return f"{place} is a table that pandas.to_hdf wrote; convert it with `{read}.to_parquet('data.parquet')`"
    if encoding in ("csr_matrix", "csc_matrix"):
        return (
            f"{place} is a sparse matrix of anndata, which is not supported; "
            "store it as an array with `.toarray()`, as in `adata.X = adata.X.toarray()`"
        )
    if encoding == "categorical":
        return (
            f"{place} contains categories; name it with `stored_as: {path}/codes`, which contains the places of "
            f"the categories in `{path}/categories`, and -1 for a missing one"
        )
    if encoding.startswith("nullable-"):
        return (
            f"{place} may have missing values, which `{path}/mask` marks; store it as floating-point numbers, or name "
            f"`stored_as: {path}/values` if none is missing"
        )
    example = f"{path}/{members[0]}" if members else f"{path}/..."
    listed = one_line(", ".join(members), 200)
    return (
        f"{place} is a group, which contains {listed or 'nothing'}; name what it contains, as in "
        f"`stored_as: {example}`, or use the option `group: {path}`"
    )


def missing_groups(where: str, group: str, problems: Mapping[str, str]) -> SpecError:
    """The error for a group without arrays: which groups there are instead, each with the `group_problem`."""
    shown = f"{where} contains no array of rows in the group {quoted(group)}"
    if not problems:
        return SpecError(f"{shown}; correct the option `group`")
    listed = one_line(", ".join(problems), 300)
    example = next(iter(problems))
    path = f"{group.strip('/')}/{example}".strip("/")
    return SpecError(
        f"{shown}, but the groups {listed}; use the option `group`, as in `group: {path}`, or name a column by its "
        f"path, as in `stored_as: {example}/...`. {problems[example]}"
    )


class WholeColumn(DecodedColumn):
    """A column that is decoded as a whole when its first row is read, and is then kept in memory.

    Args:
        array: the dtype and the shape of the rows.
        length: the number of rows.
        decode: returns all rows.
    """

    def __init__(self, array: Array, length: int, decode: Callable[[], Ragged]) -> None:
        self.array, self._length, self._decode = array, length, decode
        self._rows: Ragged | None = None
        self._lock = threading.Lock()

    def __len__(self) -> int:
        return self._length

    def read(self, rows: NDArray[np.int64]) -> Column:
        with self._lock:
            if self._rows is None:
                self._rows = self._decode()
        return self._rows.take(rows)


def strings_of(items: Sequence[str | bytes], where: str) -> Ragged:
    """A column of strings, from text or from UTF-8 bytes.

    Raises:
        UnsupportedStoreError: an item is not valid text.
    """
    try:
        return Ragged.from_strings([item.decode() if isinstance(item, bytes) else item for item in items])
    except UnicodeError:
        for row, item in enumerate(items):
            try:
                item.decode() if isinstance(item, bytes) else item.encode()
            except UnicodeError as error:
                raise UnsupportedStoreError(
                    f"{where}, row {row} is not valid text: {one_line(error)}; store it as UTF-8, "
                    "or decode bytes first, as with `.decode('latin-1')`"
                ) from None
        raise


@dataclass(frozen=True)
class _Scaling:
    """What the attributes of CF specify about the numbers of an array.

    Attributes:
        raw: the dtype in which the numbers are compared, which is unsigned if the attribute `_Unsigned` is true.
        dtype: the dtype of the scaled numbers.
        missing: the numbers that stand for a missing value.
        low, high: the least and the greatest number that is not missing.
    """

    raw: np.dtype[Any]
    dtype: np.dtype[Any]
    scale: Any
    offset: Any
    missing: NDArray[Any]
    low: Any
    high: Any

    def is_missing(self, values: NDArray[Any]) -> NDArray[np.bool_]:
        mask = np.isin(values, self.missing)
        if self.missing.dtype.kind == "f" and np.isnan(self.missing).any():
            mask |= np.isnan(values)
        if self.low is not None:
            mask |= values < self.low
        if self.high is not None:
            mask |= values > self.high
        return mask

    def scaled(self, values: NDArray[Any]) -> NDArray[Any]:
        scaled = values.astype(self.dtype)
        if self.scale is not None:
            scaled = scaled * self.scale
        return (scaled if self.offset is None else scaled + self.offset).astype(self.dtype, copy=False)


def scaled_column(
    name: str,
    values: Any,
    attributes: Mapping[str, Any],
    declared: Array | None,
    slices: Slices,
    where: str,
    *,
    fill: Any = None,
) -> DecodedColumn | None:
    """The column of an array whose attributes scale its numbers or mark some as missing; None if they do neither.

    Args:
        name: the column.
        values: the array, as `ArrayStorage` reads it.
        attributes: the attributes of the array.
        declared: the column as the spec declares it; None if it does not.
        slices: `ArrayStorage.slices` of the storage.
        where: the file or folder, for messages.
        fill: the number that stands for a missing value if no attribute specifies one.

    Raises:
        UnsupportedStoreError: an attribute is not a number.
    """
    raw = values.dtype.newbyteorder("=")
    if raw.kind not in "iuf" or (fill is None and not any(key in attributes for key in (*SCALING, "_Unsigned"))):
        return None
    numbers = {key: _numbers(key, attributes[key], raw, where, name) for key in SCALING if key in attributes}
    unsigned = str(attributes.get("_Unsigned", "false")).strip("b'\"").lower() == "true" and raw.kind == "i"
    compared = np.dtype(f"u{raw.itemsize}") if unsigned else raw
    if fill is not None and "_FillValue" not in numbers:
        numbers["_FillValue"] = np.array([fill])
    raw_numbers = {key: array.astype(raw).view(compared) for key, array in numbers.items() if key in SCALING[2:]}
    missing = [raw_numbers[key] for key in ("_FillValue", "missing_value") if key in raw_numbers]
    limits = raw_numbers.get("valid_range")
    low = raw_numbers["valid_min"][0] if "valid_min" in raw_numbers else None if limits is None else limits[0]
    high = raw_numbers["valid_max"][0] if "valid_max" in raw_numbers else None if limits is None else limits[-1]
    scale, offset = (numbers[key][0] if key in numbers else None for key in SCALING[:2])
    used = [factor for factor in (scale, offset) if factor is not None]
    dtype = np.result_type(compared, *(factor.dtype for factor in used))
    if used and dtype.kind != "f":
        dtype = np.dtype(np.float64)  # an integer that is scaled by integers might overflow
    nothing = np.empty(0, compared)
    scaling = _Scaling(compared, dtype, scale, offset, np.concatenate([nothing, *missing]), low, high)
    nan = declared is not None and declared.fills_numbers
    return _ScaledColumn(values, scaling, slices, f"{where}: column {quoted(name)}", nan=nan)


def refuse_scaling(name: str, attributes: Mapping[str, Any], where: str) -> None:
    """Refuse a ragged column whose attributes scale its numbers or mark some as missing, which is not applied to it.

    Raises:
        UnsupportedStoreError: there is such an attribute. A `_FillValue` of NaN changes nothing.
    """
    for key in (*SCALING, "_Unsigned"):
        value = attributes.get(key)
        if value is None or (key == "_FillValue" and str(np.asarray(value).reshape(-1)[:1]) == "[nan]"):
            continue
        raise UnsupportedStoreError(
            f"{where}: the values of {quoted(name)} have the attribute {key}, which is applied only to columns whose "
            "rows have one shape; store the numbers that are meant, without the attribute"
        )


def _numbers(key: str, value: Any, raw: np.dtype[Any], where: str, name: str) -> NDArray[Any]:
    if isinstance(value, str) and key == "_FillValue" and raw.kind == "f":  # as xarray writes it into Zarr
        value = _from_base64(value)
    array = np.atleast_1d(np.asarray(value)).reshape(-1)
    if array.dtype.kind not in "iuf" or array.size == 0 or (key in SCALING[:2] and array.size > 1):
        raise UnsupportedStoreError(
            f"{where}: {quoted(name)} has the attribute {key}, which is not a number: {quoted(value)}; "
            "correct it in the file, or leave the column out"
        )
    return to_native_order(array)


def _from_base64(text: str) -> Any:
    try:
        return struct.unpack("<d", base64.b64decode(text, validate=True))[0]
    except (ValueError, struct.error):
        return float(text) if text in ("NaN", "Infinity", "-Infinity") else text


class _ScaledColumn(DecodedColumn):
    def __init__(self, values: Any, scaling: _Scaling, slices: Slices, where: str, *, nan: bool) -> None:
        self._values, self._scaling, self._slices, self._where, self._nan = values, scaling, slices, where, nan
        dtype = scaling.dtype if scaling.dtype.kind == "f" or not nan else np.dtype(np.float64)
        self.array = Array(dtype, tuple(values.shape[1:]))

    def __len__(self) -> int:
        return int(self._values.shape[0])

    def read(self, rows: NDArray[np.int64]) -> Column:
        values, dtype = self._values, self.array.numpy
        raw = values[rows] if isinstance(values, np.ndarray) else self._slices(values, rows, rows + 1)
        raw = to_native_order(raw).view(self._scaling.raw)
        missing = self._scaling.is_missing(raw)
        if missing.any() and not self._nan:
            first = int(missing.reshape(len(rows), -1).any(axis=1).argmax())
            raise missing_value(self._where, int(rows[first]))
        if self._scaling.dtype == dtype:
            result = self._scaling.scaled(raw)
        else:  # integers, which become floating-point numbers only because a missing one is NaN
            result, lost = cast(np.where(missing, raw.dtype.type(0), raw), dtype)
            if lost is not None:
                row, value = int(rows[lost // (raw.size // len(rows))]), raw.reshape(-1)[lost]
                raise SpecError(f"{self._where}, row {row}: {value} does not fit {dtype}")
        if missing.any():
            result[missing] = np.nan
        return result
