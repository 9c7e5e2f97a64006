"""Containers of other libraries as rows and as tables: pandas, polars, Arrow, awkward, structured arrays and more."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping, Set
from typing import Any

import numpy as np

from kinoml_data.errors import SpecError, quoted
from kinoml_data.spec.array import Array

REMEDIES = {  # what makes a value of this type, or of this package, a column of numbers
    "bfloat16": 'write `.astype("float32")`, or `.float()` for a tensor',
    "bytes": "decode it to text with `.decode()`",
    "Decimal": 'convert it with `float()`, or `.astype("float64")`',
    "date": "convert it to a number, such as with `.toordinal()`",
    "datetime": "convert it to a number, such as with `.timestamp()`",
    "Timestamp": 'write `.astype("int64")`',
    "times": 'write `.astype("int64")`',
    "date32": 'write `.cast("int32")`',
    "date64": 'write `.cast("int64")`',
    "time32": 'write `.cast("int32")`',
    "time64": 'write `.cast("int64")`',
    "struct": "give each of its fields as a column, such as `.field(name)`",
    "dict": "make a table of the rows, such as with `pandas.DataFrame(rows)`, and give that",
    "decimal": 'write `.cast("float64")`',
    "timestamp": 'write `.cast("int64")`',
    "duration": 'write `.cast("int64")`',
    "longdouble": 'write `.astype("float64")`',
    "records": "give each of its fields as a column, such as `{name: values[name] for name in values.dtype.names}`",
    "scipy": "write `.toarray()`",
    "table": "write `.to_numpy()` to make it one column, or give each of its columns by name",
}


def table_of(data: Any) -> dict[str, Any] | None:
    """The columns of a table by name, or None if `data` is not a table.

    Args:
        data: a mapping, a DataFrame of pandas or polars, an Arrow table or record batch, an awkward array of records,
            or a structured array.

    Raises:
        SpecError: a name is not text, or two columns have the same name.
    """
    names: Iterable[Any] | None = None
    package, kind = _origin(data)
    if isinstance(data, Mapping):
        return dict(data)
    if kind == "DataFrame" and package in ("pandas", "polars"):
        names = list(data.columns)
    elif package == "pyarrow" and kind in ("Table", "RecordBatch"):
        names = list(data.schema.names)
    elif package == "awkward":
        names = data.fields or None
    elif isinstance(data, np.ndarray) and data.dtype.names:
        names = data.dtype.names
    if names is None:
        return None
    names = list(names)
    for name in names:
        if not isinstance(name, str):
            raise SpecError(
                f"the column name {quoted(name)} is not text; rename it, such as with `df.columns.map(str)`"
            )
        if names.count(name) > 1:
            raise SpecError(f"two columns have the name {quoted(name)}; rename one of them")
    return {name: data[name] for name in names}


def rows_of(where: str, values: Any, declared: Array | None) -> Any:
    """The rows of a container: a numpy array, an Arrow array, an awkward array, a tensor or a list.

    Args:
        where: the column, for errors.
        values: any container.
        declared: the column as the spec declares it; without its `missing`, a missing value is an error.

    Raises:
        SpecError: `values` has no rows, its iteration does not give them, or a value of a masked array is missing.
    """
    package, kind = _origin(values)
    gaps = declared is not None and declared.fills_numbers
    if isinstance(values, (str, bytes, bytearray, Mapping, Set)):
        raise SpecError(f"{where}: {quoted(values)} is not a sequence of rows; give a list or an array")
    if kind in ("DataFrame", "LazyFrame", "Table", "RecordBatch") and package in ("pandas", "polars", "pyarrow"):
        raise SpecError(f"{where} is a {kind} of {package}; {REMEDIES['table']}")
    if package == "torch" and not kind.endswith(("Tensor", "Parameter")):
        raise SpecError(
            f"{where} is a {kind}, whose iteration does not give the rows of one column; write "
            "`torch.stack([dataset[i][0] for i in range(len(dataset))])`"
        )
    if hasattr(values, "readline") or isinstance(values, enumerate):
        raise SpecError(f"{where}: {quoted(values)} is not a sequence of rows; give the path of a file to load_dataset")
    if package == "pandas" and hasattr(values, "isna") and hasattr(values, "dtype"):
        return _from_pandas(where, values)
    if package == "polars":
        return _from_arrow(where, values.to_arrow())
    if package == "pyarrow":
        return _from_arrow(where, values)
    if package == "scipy" and hasattr(values, "toarray"):
        raise SpecError(f"{where} is a sparse array; {REMEDIES['scipy']}")
    if package == "datasets" and hasattr(values, "to_pandas"):
        raise SpecError(f"{where} is a {kind} of datasets; write `.to_pandas()` and give each of its columns by name")
    if isinstance(values, np.ma.MaskedArray):
        if not np.ma.is_masked(values):
            return values.data
        if not gaps or values.dtype.kind not in "biuf":
            raise SpecError(f"{where} is a masked array; fill in its missing values first, such as with `.filled(0)`")
        return values.filled(np.nan) if values.dtype.kind == "f" else _arrow_of_masked(values)
    if package in ("torch", "awkward") or isinstance(values, (np.ndarray, list, tuple)):
        return values
    if package == "array" or isinstance(values, memoryview) or hasattr(values, "__array__"):
        return np.asarray(values)
    if not isinstance(values, Iterable):
        rows = "; write `[dataset[i] for i in range(len(dataset))]`" if hasattr(values, "__getitem__") else ""
        raise SpecError(f"{where}: {quoted(values)} is not a sequence of rows{rows}")
    return list(values)


def refusal(where: str, values: Any) -> SpecError:
    """The error for an array that no tensor can be made from, with the remedy for its dtype."""
    dtype = values.dtype
    found, kind = f"dtype {dtype}", {"S": "bytes", "M": "times", "m": "times", "g": "longdouble"}.get(dtype.char)
    if dtype.names:
        kind = "records"
    elif dtype.name.startswith(("bfloat", "float8", "float4", "float6")):
        kind = "bfloat16"
    elif dtype.kind == "O" and values.size:
        kind = type(values.flat[0]).__name__
        found = f"dtype object, with a value of type {kind}"
    remedy = REMEDIES.get(kind or "", "convert it to an array of numbers first")
    return SpecError(f"{where} has {found}, which no tensor can have; {remedy}")


def is_missing(value: Any) -> bool:
    """True for None, pandas' NA and NaT, and a NaN."""
    if value is None or type(value).__name__ in ("NAType", "NaTType"):
        return True
    return isinstance(value, (float, np.floating)) and value != value


def _origin(values: Any) -> tuple[str, str]:
    return type(values).__module__.partition(".")[0], type(values).__name__


def _from_pandas(where: str, values: Any) -> Any:
    import pyarrow as pa

    dtype = values.dtype
    if type(dtype).__name__ == "ArrowDtype":
        return _from_arrow(where, values.array.__arrow_array__())
    missing = np.asarray(values.isna())
    is_category = type(dtype).__name__ == "CategoricalDtype"
    if is_category and missing.any() and dtype.categories.dtype.kind in "iufb":
        return _from_arrow(where, pa.array(values))
    if is_category or type(dtype).__name__ == "StringDtype" or not missing.any():
        number = getattr(dtype, "numpy_dtype", None)  # of a nullable dtype
        plain = np.asarray(values, object) if type(dtype).__name__ == "StringDtype" else values.to_numpy(dtype=number)
        return plain
    if isinstance(dtype, np.dtype) and dtype.kind != "M":
        return values.to_numpy()
    if getattr(dtype, "numpy_dtype", None) is None:
        raise SpecError(f"{where} has dtype {dtype}, which no tensor can have; {REMEDIES['times']}")
    return _from_arrow(where, pa.array(values))


def _arrow_of_masked(values: Any) -> Any:
    """A masked array of integers or bools as an Arrow array, in which masked values are null."""
    import pyarrow as pa

    array = pa.array(values.data.reshape(-1), mask=np.ma.getmaskarray(values).reshape(-1))
    for length in reversed(values.shape[1:]):
        array = pa.FixedSizeListArray.from_arrays(array, length)
    return array


def _from_arrow(where: str, values: Any) -> Any:
    import pyarrow as pa

    array = pa.chunked_array([values] if isinstance(values, pa.Array) else values.chunks, type=values.type)
    if pa.types.is_dictionary(array.type):
        array = array.cast(array.type.value_type)
    if isinstance(array.type, pa.FixedShapeTensorType):
        return array.combine_chunks().to_numpy_ndarray() if len(array) else np.empty((0, *array.type.shape))
    if array.type in (pa.string_view(), pa.binary_view()):
        array = array.cast(pa.large_string())
    kind = re.split(r"[\[(<]", str(array.type))[0]
    kind = "decimal" if kind.startswith("decimal") else kind
    if kind in REMEDIES:
        raise SpecError(f"{where} has the type {array.type}, which no tensor can have; {REMEDIES[kind]}")
    return array
