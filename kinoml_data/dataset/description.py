"""Facts about a dataset for people: its columns, sizes, splits, and the first values of a sample of rows."""

from __future__ import annotations

import math
import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

from kinoml_data.columns import Column, Ragged, concatenate, distinct_keys, sizes_of
from kinoml_data.dataset.oddities import of_texts, roles_example, text_among_numbers
from kinoml_data.dataset.session import Session
from kinoml_data.dataset.stored_paths import size_of, stored_paths
from kinoml_data.errors import KinomlDataError, count_of, format_size, one_line, quoted
from kinoml_data.spec.array import Array
from kinoml_data.spec.dataset_spec import CompleteSpec
from kinoml_data.spec.html import plain_text
from kinoml_data.spec.parts import ComputedSplits

ROWS_PER_READ = 256
BATCH = 128  # rows, of which `facts` tells the size
SHOWN = 3  # first values
FILES = 5  # that are named
TEXT = 24  # characters of a text that are shown


class Described(Protocol):
    """What a dataset has to have to be described."""

    _session: Session
    _rows: NDArray[np.int64] | None
    observation_model: Callable[..., Any]

    @property
    def spec(self) -> CompleteSpec: ...

    @property
    def rows(self) -> NDArray[np.int64]: ...

    @property
    def indices(self) -> dict[str, NDArray[np.int64]]: ...

    def _split_sizes(self) -> dict[str, int]: ...

    def __len__(self) -> int: ...


@dataclass(frozen=True)
class ColumnFacts:
    """Facts about one column.

    Attributes:
        name: the name of the column.
        role: "X", "y", "meta", or empty.
        dtype: the dtype in a batch.
        stored_as: the stored name and dtype if they differ, and "packed bits".
        shape: the shape of a row, such as `(53, 24-96)`, with the least and the greatest length of a ragged axis; for
            a string its number of bytes.
        first: the values at the beginning of the sample.
        range: the least and the greatest number in the sample, such as `0.5 to 9.2`.
        missing: the number of values in the sample that are NaN.
        note: what is odd, or why the sample cannot be read; empty if nothing is.
        nbytes: the number of bytes of all its values as they are stored, before compression.
        batch_nbytes: the number of bytes of an average row in a batch.
        exact: False if `nbytes` and the lengths in `shape` are those of the sample.
        values: the number of values that the rows share, if the storage contains each one once; `nbytes` is the size
            of these. None if rows share nothing.
    """

    name: str
    role: str
    dtype: str
    stored_as: str
    shape: str
    first: str
    range: str
    missing: int
    note: str
    nbytes: int
    batch_nbytes: float
    exact: bool
    values: int | None = None


def facts(dataset: Described, columns: Sequence[ColumnFacts]) -> list[tuple[str, str]]:
    """Pairs of a label and a text about the dataset as a whole."""
    spec = dataset.spec
    roles = [column for column in columns if column.role in ("X", "y")]
    batch = sum(column.batch_nbytes for column in roles) * min(BATCH, len(dataset))
    text = _size(batch, roles, "about ")
    return [
        ("dataset", spec.name or "(no name)"),
        ("rows", f"{len(dataset):,}"),
        ("backend", _chain(spec.storage.model_dump(mode="json"))),
        ("stored", _stored(stored_paths(spec))),
        ("in memory", _size(sum(column.nbytes for column in columns), columns)),
        (f"a batch of {BATCH}", f"{text} of X and y" if roles else "no X and y yet"),
        ("splits", _splits(dataset)),
        ("observation model", _model(dataset)),
        ("collate", plain_text(spec.to_mapping().get("collate", "list"))),
        *dataset._session.binding.storage.facts(),
    ]


def _size(count: float, columns: Sequence[ColumnFacts], exact: str = "") -> str:
    """The number of bytes of some columns, of which some may be known from a sample only, or not at all."""
    known = all(column.exact or column.nbytes for column in columns)
    word = "at least " if not known else exact if all(column.exact for column in columns) else "about "
    return word + format_size(round(count))


def columns(
    dataset: Described, sample: int = 0, progress: Callable[[int, int], None] = lambda done, total: None
) -> list[ColumnFacts]:
    """Facts about each column.

    Args:
        dataset: the dataset.
        sample: the number of rows to read for first values, ranges, and shapes that the store does not know.
        progress: called with the number of columns that are done, and of all columns.
    """
    found = []
    for name in dataset.spec.columns:
        found.append(_column(dataset, name, sample))
        progress(len(found), len(dataset.spec.columns))
    return found


def unreadable(dataset: Described) -> Mapping[str, str]:
    """The columns of the store that cannot be read, each with the reason; empty if a spec names the columns."""
    return dataset._session.binding.storage.unreadable


def is_computed(dataset: Described, name: str) -> bool:
    """True if featurizers compute a column as it is read."""
    stored = dataset.spec.columns[name].stored_names(name)
    return next(iter(dataset._session.binding.storage.computations(dataset.rows[:1], stored)), None) is not None


def roles_hint(dataset: Described) -> str:
    """The line that names X and y if neither the data nor a spec does; empty if X is known."""
    spec = dataset.spec
    if spec.X is not None:
        return ""
    indexes = dataset._session.binding.storage.indexes
    columns = {array.stored_names(name)[0]: array for name, array in spec.columns.items()}
    example = roles_example(columns, spec.storage.options.get("path"), indexes)
    what = "X" if spec.y_names else "X and y"
    return f"Neither the data nor a spec specifies {what}. {of_texts(columns)}Name them, for example: {example}"


def _stored(paths: Sequence[Path]) -> str:
    """Where a dataset is stored: the first files and folders with their sizes, and the size of all."""
    if not paths:
        return "in no file"
    sizes = list(map(size_of, paths))
    shown = [f"{_near(path)} {format_size(size)}" for path, size in zip(paths[:FILES], sizes, strict=False)]
    rest = len(paths) - len(shown)
    return ", ".join(shown) + (f", and {count_of(rest, 'more file')}: {format_size(sum(sizes))}" if rest else "")


def _near(path: Path) -> Path:
    """A path from the current folder if it is in it."""
    return path.relative_to(Path.cwd()) if path.is_relative_to(Path.cwd()) else path


def _column(dataset: Described, name: str, sample: int) -> ColumnFacts:
    spec, array = dataset.spec, dataset.spec.columns[name]
    binding = dataset._session.binding
    stored = binding.stored(name)
    role = "X" if name in spec.X_names else "y" if name in spec.y_names else "meta" if name in spec.meta else ""
    note, column = "", None
    try:
        column = _sampled(dataset, name, min(sample, len(dataset)))
    except KinomlDataError as error:
        note = re.sub(r"^.*?column '[^']*', (?=row )", "", one_line(error, 300))
    storage = binding.storage
    if array.stored_names(name)[0] in storage.indexes:
        note = "an index that another program stored"
    elif column is not None and array.is_string and not is_computed(dataset, name):
        note = text_among_numbers(storage, array.stored_names(name)[0]) or ""
    shapes, keys = binding.shapes(name) if stored.rows_differ else None, binding.keys(name)
    if dataset._rows is not None:
        shapes, keys = (None if of_all is None else of_all[dataset._rows] for of_all in (shapes, keys))
    first = None if keys is None else distinct_keys(keys)[0]
    exact = shapes is not None or not stored.rows_differ
    if shapes is None and isinstance(column, Ragged):
        shapes, exact = column.shapes, len(column) == len(dataset)
    count = _values_per_row(stored, shapes)
    total = count * len(dataset)
    if first is not None:
        of_first = shapes[first] if shapes is not None and len(shapes) == len(dataset) else shapes
        total = _values_per_row(stored, of_first) * len(first)
    names = array.stored_names(name)
    stored_as = [", ".join(names) if names != (name,) else "", stored.dtype if stored.dtype != array.dtype else ""]
    stored_as.append("packed bits" if array.packbits else "")
    in_batch = count if array.ragged or array.is_string else math.prod(array.row_shape)  # packed bits are unpacked
    return ColumnFacts(
        name=name,
        role=role,
        dtype=array.dtype,
        stored_as=" ".join(filter(None, stored_as)),
        shape=_shape(array, stored, shapes),
        first="" if column is None else _first(array, column),
        range="" if column is None else _range_of(array, column),
        missing=0 if column is None else missing_in(column),
        note=note,
        nbytes=round(total) * stored.numpy.itemsize,
        batch_nbytes=in_batch * array.numpy.itemsize,
        exact=exact,
        values=None if first is None or len(first) == len(dataset) else len(first),
    )


def _sampled(dataset: Described, name: str, rows: int) -> Column | None:
    """The first rows of a column as they are in a batch; None for no rows."""
    if not rows:
        return None
    first = dataset.rows[:rows]  # `rows` is a new array of all row numbers
    parts = [
        dataset._session.binding.read(first[start : start + ROWS_PER_READ], [name])[name]
        for start in range(0, rows, ROWS_PER_READ)
    ]
    return concatenate(parts)


def _values_per_row(stored: Array, shapes: NDArray[np.int64] | None) -> float:
    if shapes is None:
        return math.prod(stored.row_shape)
    return float(sizes_of(shapes).sum()) / max(1, len(shapes))


def _shape(array: Array, stored: Array, shapes: Any) -> str:
    """A shape as text, such as `(53, 24-96)`, with the least and the greatest length of a ragged axis."""
    known = shapes is not None and len(shapes) > 0
    if array.is_string:
        lengths = _lengths(shapes) if known else ""
        return lengths and f"{lengths} byte{'' if lengths == '1' else 's'}"
    axes = []
    for axis, length in enumerate(array.shape):
        fixed = stored.shape[axis] if axis < len(stored.shape) else length
        lengths = _lengths(shapes[:, axis]) if known else "*" if fixed is None else str(fixed)
        axes.append(lengths if length is None else str(length))
    return f"({', '.join(axes)})" if axes else ""


def _lengths(lengths: Any) -> str:
    least, most = int(lengths.min()), int(lengths.max())
    return str(least) if least == most else f"{least}-{most}"


def _first(array: Array, column: Column) -> str:
    """The first values of a column, or of its first row if a row has several."""
    if isinstance(column, Ragged) and array.is_string:
        texts = column[: SHOWN + 1].strings()
        return _listed([quoted(text, TEXT) for text in texts])
    values = (column.values if isinstance(column, Ragged) else column).reshape(-1)[: SHOWN + 1]
    return _listed([_number(value) for value in values.tolist()])


def _listed(texts: list[str]) -> str:
    return ", ".join(texts[:SHOWN]) + (", ..." if len(texts) > SHOWN else "")


def _range_of(array: Array, column: Column) -> str:
    values = column.values if isinstance(column, Ragged) else column
    if array.is_string or values.dtype.kind not in "iuf" or not values.size:
        return ""
    numbers = values[~np.isnan(values)] if values.dtype.kind == "f" else values
    missing = f", {gaps:,} NaN" if (gaps := values.size - numbers.size) else ""
    missing += f": {one_line(', '.join(array.values), 40)}" if array.values else ""
    return f"{_number(numbers.min().item())} to {_number(numbers.max().item())}{missing}" if numbers.size else "NaN"


def missing_in(column: Column) -> int:
    """The number of values that are NaN."""
    values = column.values if isinstance(column, Ragged) else column
    return int(np.count_nonzero(np.isnan(values))) if values.dtype.kind in "fc" else 0


def _number(value: Any) -> str:
    return f"{value:.4g}" if isinstance(value, float) else str(value)


def _chain(storage: Mapping[str, Any]) -> str:
    """A storage and its sources as text, such as `in-memory over npz-lazy (path: x.npz)`."""
    options = ", ".join(f"{k}: {plain_text(value)}" for k, value in storage.items() if k not in ("backend", "source"))
    text = storage["backend"] + (f" ({options})" if options else "")
    source = storage.get("source")
    return f"{text} over {_chain(source)}" if isinstance(source, Mapping) else text


def _splits(dataset: Described) -> str:
    counts = dataset._split_sizes()
    if not counts:
        return "none"
    splits = ", ".join(f"{name} {count:,}" for name, count in counts.items())
    rest = len(dataset) - sum(counts.values())
    computed = (
        f" (computed, seed {dataset.spec.splits.seed})" if isinstance(dataset.spec.splits, ComputedSplits) else ""
    )
    return splits + (f"; {count_of(rest, 'row')} in none" if rest else "") + computed


def _model(dataset: Described) -> str:
    model = dataset.observation_model
    dump = model.model_dump(mode="json", exclude_none=True) if hasattr(model, "model_dump") else {}
    options = ", ".join(f"{name}: {plain_text(value)}" for name, value in dump.items())
    return getattr(model, "name", type(model).__name__) + (f" ({options})" if options else "")
