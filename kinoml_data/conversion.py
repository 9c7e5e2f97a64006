"""Copying a dataset from one backend to another: all or nothing, and compared afterwards."""

from __future__ import annotations

import os
import zlib
from collections.abc import Callable, Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any

import numpy as np
from pydantic import ValidationError

from kinoml_data import registry
from kinoml_data.columns import Column, Columns, Ragged
from kinoml_data.contracts.backend import Backend
from kinoml_data.dataset.dataset import XyDataset
from kinoml_data.errors import CorruptStoreError, SpecError, quoted
from kinoml_data.factory import load_dataset, open_backend
from kinoml_data.spec.array import Array
from kinoml_data.spec.dataset_spec import DatasetSpec
from kinoml_data.spec.parts import Component
from kinoml_data.spec.validation import explain, plain_json

ROWS_PER_BATCH = 1024
Progress = Callable[[int, int], None]


def convert(
    source: Any,
    target: str | os.PathLike[str] | Mapping[str, Any],
    *,
    overwrite: bool = False,
    progress: Progress | None = None,
) -> DatasetSpec:
    """Copy a dataset into another store, splits and spec included.

    The columns are copied as they are stored, without the casts of the spec, which travels along: what is
    loaded from the copy equals the source bit for bit. Of a view its rows are copied and its splits renumbered.

    Args:
        source: a dataset, or what `load_dataset` takes.
        target: a file whose suffix a backend claims, or `{backend: name, ...options}`.
        overwrite: replace an existing store.
        progress: called with the rows copied so far and in all.

    Returns:
        The spec of the copy.

    Raises:
        StoreExistsError: the target exists and `overwrite` is False.
        StoreWriteError, UnsupportedStoreError: the target cannot be written, or not hold a column.
        CorruptStoreError: the copy does not equal the source.
        SpecError and others: as `load_dataset` does for the source.
    """
    if isinstance(source, XyDataset):
        return _copy(source, target, overwrite, progress)
    with load_dataset(source) as dataset:
        return _copy(dataset, target, overwrite, progress)


def save_dataset(
    dataset: XyDataset, target: str | os.PathLike[str] | Mapping[str, Any], *, overwrite: bool = False
) -> DatasetSpec:
    """`convert` for a dataset at hand."""
    return convert(dataset, target, overwrite=overwrite)


def _copy(dataset: XyDataset, target: Any, overwrite: bool, progress: Progress | None) -> DatasetSpec:
    storage, base = _target(target)
    spec = dataset.spec
    stored = dataset.stored_columns()
    arrays = {f"idx_{name}": rows for name, rows in dataset.indices.items()}
    said = spec.to_mapping()
    for column in said["columns"].values():
        column.pop("stored_as", None)
    said["splits"] = {name: f"idx_{name}" for name in dataset.indices}
    del said["storage"]
    copy = DatasetSpec.parse(said | {"storage": storage.model_dump(mode="json")}, base)
    backend = open_backend(copy)
    sums = _Sums(stored)
    batches = sums.over(_batches(dataset, list(stored), progress))
    backend.write(stored, batches, arrays=arrays, spec=plain_json(said).decode(), overwrite=overwrite)
    _compare(backend, copy, sums)
    return copy


def _target(target: Any) -> tuple[Component, Path]:
    if isinstance(target, Mapping):
        try:
            return Component.model_validate_json(plain_json(dict(target))), Path.cwd()
        except ValidationError as error:
            raise SpecError(explain(error, Component, "target")) from None
    if not isinstance(target, (str, os.PathLike)):
        raise SpecError(f"{quoted(target)} is no target: give a path, or {{backend: name, ...options}}")
    path = Path(target)
    name = registry.backend_for(path.suffix.lower())
    if name is None:
        how = "name one: {backend: name, path: ...} (--backend NAME on the command line)"
        raise SpecError(f"no backend writes bare {quoted(path.suffix)} files; {how}")
    return Component(backend=name, path=path.name), path.absolute().parent


def _batches(dataset: XyDataset, names: list[str], progress: Progress | None) -> Iterator[Columns]:
    total = len(dataset)
    for start in range(0, total, ROWS_PER_BATCH):
        stop = min(start + ROWS_PER_BATCH, total)
        yield dataset.read_stored(np.arange(start, stop), names)
        if progress is not None:
            progress(stop, total)


class _Sums:
    """A checksum of every column, in the order its rows pass: what the copy has to give back."""

    def __init__(self, columns: Mapping[str, Array]) -> None:
        self.columns = columns
        self.found = dict.fromkeys(columns, 0)
        self.rows = 0

    def over(self, batches: Iterable[Columns]) -> Iterator[Columns]:
        for batch in batches:
            for name, array in self.columns.items():
                self.found[name] = _sum(batch[name], array, self.found[name])
            self.rows += len(next(iter(batch.values())))
            yield batch


def _sum(column: Column, array: Array, start: int) -> int:
    if isinstance(column, Ragged):
        shapes, values = column.shapes, column.values
    else:
        shapes = np.tile(np.array(column.shape[1:], np.int64), (len(column), 1))
        values = column
    if array.dtype != "str":
        start = zlib.crc32(str(values.dtype.newbyteorder("=")).encode(), start)
    start = zlib.crc32(np.ascontiguousarray(shapes).tobytes(), start)
    return zlib.crc32(np.ascontiguousarray(values).reshape(-1).view(np.uint8).data, start)


def _compare(backend: Backend, spec: DatasetSpec, expected: _Sums) -> None:
    with load_dataset(spec) as copy:
        found = _Sums(expected.columns)
        for _ in found.over(_batches(copy, list(expected.columns), None)):
            pass
        if found.rows != expected.rows or found.found != expected.found:
            wrong = [name for name in found.found if found.found[name] != expected.found[name]]
            raise CorruptStoreError(
                f"the copy in backend {backend.name!r} does not equal its source in {', '.join(wrong) or 'rows'}"
            )
