"""`in-memory`: the caller's Python arrays, or all rows of another backend, which are read once."""

from __future__ import annotations

import copy
from collections.abc import Iterable, Mapping, Sequence
from typing import TYPE_CHECKING, Any, TypeGuard, TypeVar

import numpy as np
from numpy.typing import NDArray
from pydantic import PrivateAttr

from kinoml_data.columns import Column, Columns, Indexed, Ragged, cast, concatenate, distinct_keys
from kinoml_data.contracts.backend import AnyBackend, Backend, Storage
from kinoml_data.errors import SpecError, UnsupportedStoreError, missing_value, quoted
from kinoml_data.layouts.flat_arrays import flatten, is_reserved, ragged_array, to_native_order
from kinoml_data.layouts.foreign import is_missing, refusal, rows_of
from kinoml_data.layouts.keys import keys_of
from kinoml_data.layouts.memory_storage import MemoryStorage
from kinoml_data.spec.array import DTYPES, STRING, Array

if TYPE_CHECKING:
    import torch

ROWS_PER_READ = 4096
T = TypeVar("T")


class InMemory(Backend):
    """Keeps all columns in memory.

    Attributes:
        source: the backend to read; without one, the columns come from `load_dataset(data=...)`.
        device: the device on which to keep X and y, such as "cuda". A loader with worker processes is then refused.
        progress: True shows a progress bar while the source is read.
    """

    name = "in-memory"
    source: AnyBackend | None = None
    device: str | None = None
    progress: bool = False
    _data: Mapping[str, Any] | None = PrivateAttr(default=None)

    def with_objects(self, *, data: Mapping[str, Any]) -> Backend:
        if self.source is not None:
            return super().with_objects(data=data)
        backend = self.model_copy()
        backend._data = data
        return backend

    def open(self, columns: Mapping[str, Array | None] | None) -> Storage:
        _check_device(self.device)
        if self.source is not None:
            return _Source(self.source.open(columns), self.device, progress=self.progress)
        if self._data is None:
            raise SpecError("the backend 'in-memory' needs a source, or data={'column': values} in Python")
        data = requested_data(self._data, columns)
        data, unreadable = _readable(data) if columns is None else (data, {})
        arrays, values = columns_of(data, columns)
        storage = MemoryStorage(flatten(arrays, values), device=self.device)
        storage.unreadable, storage.is_source = unreadable, True
        return storage


class _Source(Storage):
    """The storage of the source, which is read into memory when the dataset is loaded."""

    def __init__(self, source: Storage, device: str | None, *, progress: bool) -> None:
        self._source, self._device, self._progress = source, device, progress
        self.columns, self.unreadable, self.arrays = source.columns, source.unreadable, source.arrays
        self.indexes = source.indexes
        self.spec, self.identity, self.has_checksums = source.spec, source.identity, source.has_checksums

    def __len__(self) -> int:
        return len(self._source)

    def read(self, rows: NDArray[np.int64], columns: Sequence[str]) -> Columns:
        return self._source.read(rows, columns)

    def shapes(self, column: str) -> NDArray[np.int64] | None:
        return self._source.shapes(column)

    def keys(self, column: str) -> NDArray[Any] | None:
        return self._source.keys(column)

    def loaded(self, columns: Sequence[str]) -> Storage:
        with self._source.loaded(columns) as source:
            if isinstance(source, MemoryStorage) and self._device is None:
                return source
            arrays = {name: source.columns[name] for name in source.columns if name in columns}
            flat = flatten(arrays, self._values(source, arrays))
            extra = {name: np.array(array) for name, array in source.arrays.items()}
            return MemoryStorage(flat, arrays=extra, spec=self.spec, identity=self.identity, device=self._device)

    def _values(self, source: Storage, arrays: Mapping[str, Array]) -> dict[str, Column | Indexed]:
        """All rows of some columns. Of rows that share a key, one is read."""
        groups: dict[int, tuple[NDArray[Any] | None, list[str]]] = {}  # by the identity of the keys
        for name in arrays:
            keys = keys_of(source, name)
            groups.setdefault(id(keys), (keys, []))[1].append(name)
        indexes: dict[str, NDArray[np.int64]] = {}
        reads: list[tuple[list[str], NDArray[np.int64]]] = []
        for keys, names in groups.values():
            rows = np.arange(len(source))
            if keys is not None:
                rows, index = distinct_keys(keys)
                indexes |= dict.fromkeys(names, index)
            reads += [(names, rows[start : start + ROWS_PER_READ]) for start in range(0, len(rows), ROWS_PER_READ)]
        parts = {name: [array.empty()] for name, array in arrays.items()}
        for names, rows in self._with_progress(reads):
            batch = source.read(rows, names)
            for name in names:
                parts[name].append(batch[name])
        values = {name: concatenate(some) for name, some in parts.items()}
        return {name: Indexed(column, indexes[name]) if name in indexes else column for name, column in values.items()}

    def _with_progress(self, items: list[T]) -> Iterable[T]:
        if not self._progress:
            return items
        from rich.progress import track

        return track(items, "reading", transient=True)

    def close(self) -> None:
        self._source.close()


def _readable(data: Mapping[str, Any]) -> tuple[dict[str, Any], dict[str, str]]:
    """The values of the columns that can be read, and for every other column the reason."""
    unreadable: dict[str, str] = {}
    for name, values in data.items():
        try:
            columns_of({name: values}, None)
        except (SpecError, UnsupportedStoreError) as error:
            unreadable[name] = str(error)
    return {name: values for name, values in data.items() if name not in unreadable}, unreadable


def requested_data(data: Mapping[str, Any], columns: Mapping[str, Array | None] | None) -> Mapping[str, Any]:
    """The caller's values of the columns that are asked for; all of them if one is unknown, for the error to list."""
    known = columns is not None and all(name in data for name in columns)
    return {name: data[name] for name in columns or ()} if known else data


def _check_device(device: str | None) -> None:
    if device is None:
        return
    import torch

    try:
        torch.empty(0, device=device)
    except (RuntimeError, AssertionError) as error:
        raise SpecError(f"device {quoted(device)} cannot be used: {error}") from None


def columns_of(
    data: Mapping[str, Any], columns: Mapping[str, Array | None] | None
) -> tuple[dict[str, Array], dict[str, Column]]:
    """Convert Python values to columns: arrays, tensors, Series, Arrow and awkward arrays, lists of arrays of
    any shapes, or strings.

    Args:
        data: the values by column, one entry per row.
        columns: the columns that the spec asks for; needed for the dtype and shape of a list without rows.

    Returns:
        The `Array` and the values of each column.

    Raises:
        SpecError: the columns have different numbers of rows; values are not arrays or strings; the rows of a column
            have different numbers of axes; or the layout reserves the name of a column.
    """
    arrays: dict[str, Array] = {}
    values_by_name: dict[str, Column] = {}
    for name, values in data.items():
        if is_reserved(name):
            raise SpecError(f"the column name {quoted(name)} is reserved; rename the column")
        arrays[name], values_by_name[name] = _column_of(name, values, (columns or {}).get(name))
    lengths = {name: len(column) for name, column in values_by_name.items()}
    if len(set(lengths.values())) > 1:
        counts = ", ".join(f"{name} has {count}" for name, count in lengths.items())
        raise SpecError(f"the columns of data differ in their number of rows: {counts}")
    return arrays, values_by_name


def _column_of(name: str, values: Any, requested: Array | None) -> tuple[Array, Column]:
    if isinstance(values, Ragged):
        array, flat = ragged_array(name, values.values.dtype, values.shapes), to_native_order(values.values.copy())
        if array.ragged:
            return array, Ragged(flat, values.shapes.copy())
        return array, flat.reshape(len(values), *array.row_shape)
    where = f"column {quoted(name)}"
    gaps, text = (False, None) if requested is None else (requested.fills_numbers, requested.missing_text)
    values = rows_of(where, values, requested)
    package = type(values).__module__.partition(".")[0]
    if package == "awkward":
        values = _awkward_as_arrow(where, values)
    if package in ("awkward", "pyarrow"):
        return _arrow_column(name, values, requested)
    if _is_tensor(values):
        values = list(values.unbind()) if values.is_nested else _as_numpy(where, values)
    if not isinstance(values, np.ndarray):
        values = list(values)
        if not values and requested is not None:
            return requested.as_stored, requested.as_stored.empty()
        if any(isinstance(value, str) for value in values) or (text is not None and all(map(is_missing, values))):
            return Array(STRING), _encoded(where, _texts(where, values, text))
        rows = _stacked(name, [_row(f"{where}, row {i}", i, value, gaps) for i, value in enumerate(values)], requested)
        return _column_of(name, rows, requested)
    if values.dtype.kind in "UT" or (
        values.dtype == object and values.size and any(isinstance(v, str) for v in values.flat)
    ):
        if values.ndim != 1:
            raise SpecError(f"{where}: an array of strings must have one axis")
        return Array(STRING), _encoded(where, _texts(where, values.tolist(), text))
    if values.dtype == object and values.ndim == 1 and len(values):
        return _column_of(name, list(values), requested)
    if values.ndim == 0:
        raise SpecError(f"{where} is a single value, not a sequence of rows")
    if values.dtype.name not in DTYPES:
        raise refusal(where, values)
    return Array(values.dtype, values.shape[1:]), np.array(values, dtype=values.dtype.newbyteorder("="), order="C")


def _awkward_as_arrow(where: str, values: Any) -> Any:
    import awkward as ak

    if values.fields:
        raise SpecError(f"{where} contains records; give each of their fields as a column, such as `values[name]`")
    return ak.to_arrow(values, extensionarray=False)


def _arrow_column(name: str, values: Any, requested: Array | None) -> tuple[Array, Column]:
    from kinoml_data.layouts.arrow import column_from_arrow

    chunks = getattr(values, "chunks", [values])
    described, column = column_from_arrow(name, values.type, chunks, f"column {quoted(name)}", requested)
    return described, copy.deepcopy(column)  # the values may be those of the caller


def _encoded(where: str, texts: list[str]) -> Ragged:
    try:
        return Ragged.from_strings(texts)
    except UnicodeEncodeError:
        row = next(row for row, text in enumerate(texts) if any("\ud800" <= c <= "\udfff" for c in text))
        raise SpecError(
            f"{where}, row {row}: {quoted(texts[row])} contains half of a character, which UTF-8 cannot have; decode "
            "the text with the encoding that it was written in"
        ) from None


def _texts(where: str, values: Sequence[Any], missing: str | None) -> list[str]:
    if missing is not None:
        values = [missing if is_missing(value) else value for value in values]
    for row, value in enumerate(values):
        if is_missing(value):
            raise missing_value(where, row, kind="text")
        if not isinstance(value, str):
            raise SpecError(f"{where} contains text, but row {row} has {quoted(value)}; convert it with `str()`")
    return [str(value) for value in values]


def _row(where: str, row: int, value: Any, gaps: bool) -> NDArray[Any]:
    if value is None or (is_missing(value) and not isinstance(value, (float, np.floating))):
        if not gaps:
            raise missing_value(where.rpartition(",")[0], row)
        value = np.nan
    if _is_tensor(value):
        value = _as_numpy(where, value)
    if isinstance(value, np.ma.MaskedArray):
        raise SpecError(f"{where} is a masked array; fill in its missing values first, such as with `.filled(0)`")
    try:
        array = np.asarray(value)
    except ValueError:
        raise SpecError(
            f"{where}: {quoted(value)} is not an array; give rows whose axes have one length each"
        ) from None
    if array.dtype.name not in DTYPES:
        raise refusal(where, array)
    return array


def _is_tensor(value: Any) -> TypeGuard[torch.Tensor]:
    import torch

    return isinstance(value, torch.Tensor)


def _as_numpy(where: str, tensor: torch.Tensor) -> NDArray[Any]:
    import torch

    try:
        array: NDArray[Any] = tensor.detach().cpu().resolve_conj().resolve_neg().numpy()
    except (TypeError, NotImplementedError):
        if tensor.is_meta:
            raise SpecError(f"{where}: a tensor on the device meta has no values") from None
        remedy = "write `.to_dense()`" if tensor.layout != torch.strided else "write `.float()`"
        raise SpecError(
            f"{where}: a tensor of {tensor.dtype} and {tensor.layout} has no numpy form; {remedy}"
        ) from None
    return array


def _stacked(name: str, rows: Sequence[NDArray[Any]], requested: Array | None) -> NDArray[Any] | Ragged:
    if not rows:
        raise SpecError(f"column {quoted(name)} has no rows; specify its dtype and shape in `columns`")
    if wrong := [i for i, row in enumerate(rows) if row.ndim != rows[0].ndim]:
        raise SpecError(
            f"column {quoted(name)}: row {wrong[0]} has {rows[wrong[0]].ndim} axes, but row 0 has {rows[0].ndim}"
        )
    rows = [to_native_order(row) for row in rows]
    dtype = np.result_type(*{row.dtype for row in rows})
    dtypes = {row.dtype for row in rows}
    if dtype not in dtypes:
        raise SpecError(f"column {quoted(name)}: its rows have different dtypes; convert them to the same dtype")
    if len(dtypes) > 1:  # integers and floating-point numbers, as in Python lists; every integer has to be exact
        targets = (dtype,) if requested is None or requested.numpy.kind != "f" else (requested.numpy, dtype)
        for number, row in enumerate(rows):
            for target in targets if row.dtype.kind in "iu" else ():
                if (lost := cast(row, target)[1]) is not None:
                    where = f"column {quoted(name)}, row {number}"
                    raise SpecError(f"{where}: {row.reshape(-1)[lost]} does not fit {target}")
    if len({row.shape for row in rows}) == 1:
        return np.stack(rows).astype(dtype, copy=False)
    return Ragged.from_rows(rows, dtype, rows[0].ndim)
