"""Copying a dataset into another store: each row is read once, written once, and compared before the rename."""

from __future__ import annotations

import hashlib
import os
from collections.abc import Callable, Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any

import numpy as np
from pydantic import ValidationError

from kinoml_data import registry
from kinoml_data.backends.featurize_on_access import FeaturizeOnAccess
from kinoml_data.columns import Columns
from kinoml_data.contracts.backend import Backend, Storage
from kinoml_data.dataset import splits
from kinoml_data.dataset.binding import Binding
from kinoml_data.dataset.dataset import XyDataset
from kinoml_data.dataset.session import open_storage
from kinoml_data.errors import CorruptStoreError, SpecError, UnsupportedStoreError, quoted
from kinoml_data.factory import BACKEND_OF, as_spec, make_backend, open_to_copy
from kinoml_data.layouts.checksums import row_checksums
from kinoml_data.spec import config
from kinoml_data.spec.array import Array
from kinoml_data.spec.dataset_spec import CompleteSpec
from kinoml_data.spec.parts import BackendRef, ComputedSplits
from kinoml_data.spec.roles import names_of
from kinoml_data.spec.validation import plain_json, spec_error

ROWS_PER_BATCH = 1024
Progress = Callable[[str, int, int], None]


def convert(
    source: Any,
    target: str | os.PathLike[str] | Mapping[str, Any],
    *,
    overwrite: bool = False,
    progress: Progress | None = None,
) -> CompleteSpec:
    """Copy a dataset into another store, together with its splits and its spec.

    The columns are copied as they are stored, without the casts of the spec. The spec is copied too, so what is loaded
    from the copy equals the source bit for bit. If the source is a view, its rows are copied and its splits are
    renumbered. The copy is read back and compared with the source before it replaces an existing store.

    Args:
        source: a dataset, or anything that `load_dataset` accepts.
        target: a path whose suffix belongs to a backend that can write, or `{backend: name, ...options}`.
        overwrite: True replaces an existing store.
        progress: called with the stage, "copying" and then "comparing", the number of rows that are done in this
            stage, and the number of all rows.

    Returns:
        The spec of the copy.

    Raises:
        SpecError: the target is not valid. Opening the source raises the errors of `load_dataset`.
        UnsupportedStoreError: the backend cannot write, cannot overwrite, or cannot store a column or the splits.
        StoreExistsError: the target exists and `overwrite` is False.
        StoreWriteError: the operating system failed to write; an existing store is unchanged.
        CorruptStoreError: the copy differs from the source; an existing store is unchanged.
    """
    if isinstance(source, XyDataset):
        return _copy(source, target, overwrite, progress)
    # Each row is read once, so that features need not be remembered.
    once: dict[str, Any] = {"memory_budget": 0} if as_spec(source).storage.backend == FeaturizeOnAccess.name else {}
    with open_to_copy(source, **once) as dataset:
        unreadable = dataset._session.binding.storage.unreadable
        if unreadable and dataset.spec.X is None:  # all columns are copied
            name, reason = next(iter(unreadable.items()))
            raise UnsupportedStoreError(
                f"column {quoted(name)} cannot be copied: {reason}; to copy the others, name them in a spec"
            )
        return _copy(dataset, target, overwrite, progress)


def save_dataset(
    dataset: XyDataset, target: str | os.PathLike[str] | Mapping[str, Any], *, overwrite: bool = False
) -> CompleteSpec:
    """Write an open dataset to a store; the same as `convert(dataset, target)`."""
    return convert(dataset, target, overwrite=overwrite)


def _copy(dataset: XyDataset, target: Any, overwrite: bool, progress: Progress | None) -> CompleteSpec:
    reference, base = _target(target)
    columns = dataset.stored_columns()
    indices = dataset.indices
    spec_dict = dataset.spec.to_mapping()
    for column in spec_dict["columns"].values():
        column.pop("stored_as", None)
    spec_dict["splits"] = _stored_splits(dataset.spec, indices)
    for key in ("storage", "fingerprint"):  # a fingerprint is that of the source, of which this may be a view
        spec_dict.pop(key, None)
    spec = CompleteSpec.parse(spec_dict | {"storage": reference.model_dump(mode="json")}, base)
    backend = make_backend(spec)
    _refuse(backend, columns, overwrite=overwrite, has_splits=bool(indices))
    source, compared = _Digests(columns), False

    def rows() -> Iterator[Columns]:
        for start in range(0, len(dataset), ROWS_PER_BATCH):
            stop = min(start + ROWS_PER_BATCH, len(dataset))
            batch = dataset.read_stored(np.arange(start, stop), list(columns))
            source.add(batch)
            yield batch
            if progress is not None:
                progress("copying", stop, len(dataset))

    def compare(copy: Storage) -> None:
        nonlocal compared
        binding, all_rows = Binding(spec, copy), np.arange(len(copy))
        stored = splits.resolve(spec, copy.arrays, len(copy), lambda name: binding.read(all_rows, [name])[name])
        differing = [
            f"split {quoted(name)}"
            for name, positions in stored.items()
            if not np.array_equal(positions, indices[name])
        ]
        digests = _Digests(columns)
        for batch in copy.batches(list(columns), ROWS_PER_BATCH):
            digests.add(batch)
            if progress is not None:
                progress("comparing", digests.rows, len(copy))
        differing += [f"column {quoted(name)}" for name in columns if digests.of(name) != source.of(name)]
        if digests.rows != source.rows:
            differing = [f"the number of rows, which is {digests.rows} instead of {source.rows}"]
        if differing:
            raise CorruptStoreError(
                f"the copy that the backend {backend.name!r} wrote differs from its source in {', '.join(differing)}"
            )
        compared = True

    arrays = {f"idx_{name}": positions for name, positions in indices.items()}
    text = plain_json(spec_dict).decode()
    backend.write(columns, rows(), arrays=arrays, spec=text, overwrite=overwrite, check=compare)
    if not compared:  # the backend does not call `check`
        with open_storage(backend, spec.requested_columns) as copy:
            compare(copy)
    return spec


def _stored_splits(spec: CompleteSpec, names: Iterable[str]) -> dict[str, Any]:
    """The splits of the copy, each the array of its row numbers, with what the source's spec promises of them."""
    arrays = {name: f"idx_{name}" for name in names}
    apart = (*names_of(spec.splits.by), *names_of(spec.splits.apart)) if isinstance(spec.splits, ComputedSplits) else ()
    return {"labels": arrays, "apart": list(dict.fromkeys(apart))} if apart and arrays else arrays


def _target(target: Any) -> tuple[BackendRef, Path]:
    if isinstance(target, Mapping):
        try:
            return BackendRef.model_validate_json(plain_json(dict(target))), Path.cwd()
        except ValidationError as error:
            raise spec_error(error, BackendRef, "target") from None
    if not isinstance(target, (str, os.PathLike)):
        raise SpecError(f"{quoted(target)} is not a target; give a path, or {{backend: name, ...options}}")
    path = config.expanded(target)
    name = registry.backend_for(path.name)
    if name is None:
        how = "name one: {backend: name, path: ...} (--backend NAME on the command line)"
        plugin = BACKEND_OF.get(path.suffix.lower())
        if plugin is not None and plugin not in registry.list_backends():
            how = f"pip install kinoml-data-{plugin}"
        raise SpecError(f"no backend writes bare {quoted(path.suffix)} files; {how}")
    return BackendRef(backend=name, path=path.name), path.absolute().parent


def _refuse(backend: Backend, columns: Mapping[str, Array], *, overwrite: bool, has_splits: bool) -> None:
    """Refuse what the backend declares that it cannot do, before any row is read.

    Raises:
        UnsupportedStoreError: the backend cannot write, cannot overwrite, or cannot store the splits or a column.
    """
    name = backend.name
    if not backend.can_write:
        raise UnsupportedStoreError(f"the backend {name!r} cannot write; `kinoml-data backends` shows which can")
    if overwrite and not backend.can_overwrite:
        raise UnsupportedStoreError(f"the backend {name!r} cannot replace a store; write to a new path")
    if has_splits and not backend.keeps_arrays:
        raise UnsupportedStoreError(f"the backend {name!r} cannot store splits; convert a dataset without splits")
    for column, array in columns.items():
        if array.dtype in backend.unsupported_dtypes:
            raise UnsupportedStoreError(f"the backend {name!r} cannot store column {quoted(column)} of {array.dtype}")


class _Digests:
    """A digest of the row checksums of each column, updated as the rows pass in order."""

    def __init__(self, columns: Mapping[str, Array]) -> None:
        self.rows = 0
        self._columns = columns
        self._hashes = {name: hashlib.blake2b(digest_size=16) for name in columns}

    def add(self, batch: Columns) -> None:
        for name, array in self._columns.items():
            numbers = np.arange(self.rows, self.rows + len(batch[name]))
            checksums = row_checksums(batch[name], numbers, is_string=array.is_string)
            self._hashes[name].update(checksums.tobytes())
        self.rows += len(next(iter(batch.values())))

    def of(self, name: str) -> bytes:
        return self._hashes[name].digest()
