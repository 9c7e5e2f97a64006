"""The summary of a dataset that `kinoml-data inspect` prints."""

from __future__ import annotations

import json
import math
from collections.abc import Iterator, Mapping
from typing import Any

import numpy as np

from kinoml_data.cli.terminal import files, format_size, progress
from kinoml_data.columns import Ragged, sizes_of
from kinoml_data.contracts.observation_model import ObservationModel
from kinoml_data.dataset.dataset import XyDataset
from kinoml_data.spec.array import Array
from kinoml_data.spec.parts import RatioSplits

COLUMNS = ("column", "role", "dtype", "stored as", "shape", "bytes")
ROWS_PER_READ = 256


def facts(dataset: XyDataset) -> list[tuple[str, str]]:
    """Pairs of a label and a text about the dataset as a whole."""
    spec = dataset.spec
    return [
        ("dataset", spec.name or "(no name)"),
        ("rows", f"{len(dataset):,}"),
        ("backend", _chain(spec.storage.model_dump(mode="json"))),
        ("on disk", ", ".join(f"{file} {format_size(file.stat().st_size)}" for file in files(dataset)) or "nothing"),
        ("splits", _splits(dataset)),
        ("observation model", _model(dataset)),
        ("collate", _plain(spec.to_mapping().get("collate", "list"))),
    ]


def columns(dataset: XyDataset, sample: int) -> Iterator[tuple[tuple[str, ...], bool]]:
    """For each column, its line of the table `COLUMNS`, and whether that line describes all rows.

    Args:
        dataset: the dataset.
        sample: the number of rows to read if the store does not know the shapes of a column.
    """
    spec = dataset.spec
    for name, array in spec.columns.items():
        role = "X" if name in spec.X_names else "y" if name in spec.y_names else "meta" if name in spec.meta else ""
        stored = dataset.stored_columns()[name]
        shapes, complete = _shapes(dataset, name, stored, sample)
        names = array.stored_names(name)
        stored_as = [", ".join(names) if names != (name,) else "", stored.dtype if stored.dtype != array.dtype else ""]
        stored_as.append("packed bits" if array.packbits else "")
        nbytes = _bytes(stored, shapes, len(dataset))
        shape = _shape(array, stored, shapes)
        line = name, role, array.dtype, " ".join(filter(None, stored_as)), shape, nbytes if complete else f"~{nbytes}"
        yield line, complete


def _plain(value: Any) -> str:
    return json.dumps(value).replace('"', "")


def _chain(storage: Mapping[str, Any]) -> str:
    """A storage and its sources as text, such as `in-memory over npz-lazy (path: x.npz)`."""
    options = ", ".join(f"{k}: {_plain(value)}" for k, value in storage.items() if k not in ("backend", "source"))
    text = storage["backend"] + (f" ({options})" if options else "")
    source = storage.get("source")
    return f"{text} over {_chain(source)}" if isinstance(source, Mapping) else text


def _splits(dataset: XyDataset) -> str:
    counts = {name: len(rows) for name, rows in dataset.indices.items()}
    if not counts:
        return "none"
    splits = ", ".join(f"{name} {count:,}" for name, count in counts.items())
    rest = len(dataset) - sum(counts.values())
    computed = f" (computed, seed {dataset.spec.splits.seed})" if isinstance(dataset.spec.splits, RatioSplits) else ""
    return splits + (f"; {rest:,} rows in none" if rest else "") + computed


def _model(dataset: XyDataset) -> str:
    model = dataset.observation_model
    assert isinstance(model, ObservationModel)
    options = ", ".join(f"{name}: {value}" for name, value in model.model_dump().items())
    return model.name + (f" ({options})" if options else "")


def _shapes(dataset: XyDataset, name: str, stored: Array, sample: int) -> tuple[Any, bool]:
    """int64 `(rows, ndim)`, and whether these are all rows; None if the rows of the column do not differ in shape."""
    if not stored.rows_differ:
        return None, True
    known = dataset._session.binding.shapes(name)
    if known is not None:
        return known, True
    stop = min(sample, len(dataset))
    parts = [np.empty((0, len(stored.axes)), np.int64)]
    with progress(f"reading {name}") as report:
        for start in range(0, stop, ROWS_PER_READ):
            rows = np.arange(start, min(start + ROWS_PER_READ, stop))
            column = dataset.read_stored(rows, [name])[name]
            assert isinstance(column, Ragged)
            parts.append(column.shapes)
            report(int(rows[-1]) + 1, stop)
    return np.concatenate(parts), stop == len(dataset)


def _shape(array: Array, stored: Array, shapes: Any) -> str:
    """A shape as text, such as `(53, 24-96)`, with the shortest and the longest length of a ragged axis."""
    known = shapes is not None and len(shapes) > 0
    if array.is_string:
        return f"{_range(shapes)} bytes" if known else ""
    axes = []
    for axis, length in enumerate(array.shape):
        fixed = stored.shape[axis]
        lengths = _range(shapes[:, axis]) if known else "*" if fixed is None else f"{fixed}-{fixed}"
        axes.append(lengths if length is None else str(length))
    return f"({', '.join(axes)})" if axes else ""


def _range(lengths: Any) -> str:
    return f"{lengths.min()}-{lengths.max()}"


def _bytes(stored: Array, shapes: Any, rows: int) -> str:
    """The size of a column's values before compression, extrapolated if `shapes` is a sample."""
    if shapes is None:
        items = rows * math.prod(stored.row_shape)
    else:
        items = round(int(sizes_of(shapes).sum()) * rows / max(1, len(shapes)))
    return f"{items * stored.numpy.itemsize:,}"
