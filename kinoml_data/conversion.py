"""Copying a dataset into another store: each row is read once, written once, and compared before the rename."""

from __future__ import annotations

import os
import secrets
import tempfile
import warnings
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from concurrent.futures import Executor
from contextlib import ExitStack
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from pydantic import ValidationError

from kinoml_data import registry
from kinoml_data.backends.featurize_on_access import FeaturizeOnAccess
from kinoml_data.backends.in_memory import InMemory
from kinoml_data.contracts.backend import Backend, Storage
from kinoml_data.copied_rows import CopiedRows, Digests, digests_of
from kinoml_data.dataset import splits
from kinoml_data.dataset.binding import Binding
from kinoml_data.dataset.dataset import XyDataset
from kinoml_data.dataset.session import open_storage
from kinoml_data.errors import CorruptStoreError, FeaturizationError, SpecError, UnsupportedStoreError, quoted, unknown
from kinoml_data.factory import open_to_copy
from kinoml_data.featurizing import cached, executor_of, failures, featurize_ahead, with_id, write_failures
from kinoml_data.files import check_target
from kinoml_data.spec import config
from kinoml_data.spec.array import Array
from kinoml_data.spec.dataset_spec import CompleteSpec
from kinoml_data.spec.parts import BackendRef, ComputedSplits
from kinoml_data.spec.roles import names_of
from kinoml_data.spec.validation import plain_json, spec_error
from kinoml_data.spec_objects import make_backend
from kinoml_data.spec_sources import BACKEND_OF, as_spec

LARGE = 1 << 20  # bytes; a smaller copy needs no warning
Progress = Callable[[str, int, int], None]


def convert(
    source: Any,
    target: str | os.PathLike[str] | Mapping[str, Any],
    *,
    overwrite: bool = False,
    progress: Progress | None = None,
    share: Sequence[str] = (),
    failed: str | os.PathLike[str] | None = None,
    workers: int = 0,
    executor: Executor | None = None,
) -> CompleteSpec:
    """Copy a dataset into another store, together with its splits and its spec.

    The columns are copied as they are stored, without the casts of the spec. The spec is copied too, so what is loaded
    from the copy equals the source bit for bit. If the source is a view, its rows are copied and its splits are
    renumbered. The copy is read back and compared with the source before it replaces an existing store.

    What rows share is read once, so each distinct input is featurized once, and stored once if the backend keeps keys.
    If it does not and the copy becomes at least twice as large, a warning says so before anything is written.

    Args:
        source: a dataset, or anything that `load_dataset` accepts.
        target: a path whose suffix belongs to a backend that can write, or `{backend: name, ...options}`.
        overwrite: True replaces an existing store.
        progress: called with the stage, "featurizing" with `workers` or `executor`, "copying" and then "comparing", the
            number of rows, or of distinct inputs, that are done in this stage, and the number of all.
        share: columns whose equal rows are found by comparing them bit for bit, and stored once.
        failed: a CSV file to which each row is written that cannot be featurized, with its row number, id, stage and
            reason; such rows are left out of the copy, and the splits keep the others. Without it, the first of them
            is an error.
        workers: the number of processes that featurize. They write into the cache of the featurizer, or into a
            temporary one beside the target.
        executor: runs the same tasks elsewhere, such as that of Dask; its workers need the folder of the cache.

    Returns:
        The spec of the copy.

    Raises:
        SpecError: the target or another argument is not valid. Opening the source raises the errors of `load_dataset`.
        FeaturizationError: a row cannot be featurized, and `failed` is not given.
        UnsupportedStoreError: the backend cannot write, cannot overwrite, or cannot store a column or the splits.
        StoreExistsError: the target exists and `overwrite` is False.
        StoreWriteError: the operating system failed to write; an existing store is unchanged.
        CorruptStoreError: the copy differs from the source; an existing store is unchanged.
    """
    reference, base = _target(target)
    with ExitStack() as opened:
        if isinstance(source, XyDataset):
            dataset = source
        else:
            once = registry.backend(reference.backend).keeps_keys
            dataset = opened.enter_context(_opened(source, once=once, omits_failures=failed is not None))
        plan = _plan(dataset, reference, base, overwrite=overwrite, share=share)
        pool = opened.enter_context(executor_of(workers, executor))
        try:
            if pool is not None or failed is not None:
                path = getattr(plan.backend, "path", None)
                if isinstance(path, Path):  # what can be refused is refused before hours of work
                    check_target(path, overwrite=overwrite)
                opened.enter_context(cached(dataset, _folder_beside(path)))
            if pool is not None:
                featurize_ahead(dataset, pool, progress, keeps_going=failed is not None)
            if failed is not None:
                dataset = _without_failures(dataset, Path(failed))
            return _copy(dataset, plan, progress)
        except FeaturizationError as error:
            raise with_id(dataset, error) from error


def save_dataset(
    dataset: XyDataset, target: str | os.PathLike[str] | Mapping[str, Any], *, overwrite: bool = False
) -> CompleteSpec:
    """Write an open dataset to a store, as `convert` does; `overwrite=True` replaces an existing store."""
    return convert(dataset, target, overwrite=overwrite)


def to_copy(spec: Any) -> Any:
    """What to open in place of a spec to copy it: the sources of `in-memory`, which would first load all rows."""
    described = as_spec(spec)
    storage: Any = described.storage.model_dump(mode="json")
    sources = _sources(storage)
    return spec if sources == storage else described.with_storage(BackendRef.model_validate_json(plain_json(sources)))


def _sources(options: Any) -> Any:
    """Options of a backend in which each `in-memory` is replaced by its source, at any depth."""
    if not isinstance(options, Mapping):
        return options
    is_wrapper = options.get("backend") == InMemory.name and "source" in options and options.get("device") is None
    return _sources(options["source"]) if is_wrapper else {key: _sources(value) for key, value in options.items()}


def _opened(source: Any, *, once: bool, omits_failures: bool) -> XyDataset:
    """The dataset to copy, whose features are not remembered if each distinct input is read once."""
    spec = to_copy(source)
    forgets = once and as_spec(spec).storage.backend == FeaturizeOnAccess.name
    options: dict[str, Any] = {"memory_budget": 0} if forgets else {}
    dataset = open_to_copy(spec, omits_failures=omits_failures, **options)
    unreadable = dataset._session.binding.storage.unreadable
    if unreadable and dataset.spec.X is None:  # all columns are copied
        dataset.close()
        name, reason = next(iter(unreadable.items()))
        raise UnsupportedStoreError(
            f"column {quoted(name)} cannot be copied: {reason}; to copy the others, name them in a spec"
        )
    return dataset


def _folder_beside(path: Path | None) -> Path:
    """A folder that does not exist, beside the target if it has a path."""
    name = f"{'kinoml-data' if path is None else path.name}.{secrets.token_hex(4)}.features"
    return (Path(tempfile.gettempdir()) if path is None else path.parent) / f".{name}"


def _without_failures(dataset: XyDataset, file: Path) -> XyDataset:
    """The rows that can be featurized; the others are listed in a CSV file.

    Raises:
        FeaturizationError: no row can be featurized.
    """
    found = failures(dataset, list(dataset.spec.columns))
    write_failures(file, dataset, found)
    if not found:
        return dataset
    if len(found) == len(dataset):
        raise FeaturizationError(f"all {len(dataset):,} rows failed, such as row {found[0].row}: {found[0].reason}")
    kept = np.ones(len(dataset), bool)
    kept[[failure.position for failure in found]] = False
    return dataset.select(kept)


class _Plan(NamedTuple):
    """What is written, and where to.

    Attributes:
        spec: the spec of the copy.
        embedded: the spec to embed in the copy, as JSON.
        backend: writes the copy.
        columns: how each column is stored.
        share: see `convert`.
        overwrite: see `convert`.
    """

    spec: CompleteSpec
    embedded: str
    backend: Backend
    columns: Mapping[str, Array]
    share: Sequence[str]
    overwrite: bool


def _plan(dataset: XyDataset, reference: BackendRef, base: Path, *, overwrite: bool, share: Sequence[str]) -> _Plan:
    """Plan a copy, and refuse what the backend cannot do.

    Raises:
        SpecError: the target or `share` is not valid.
        UnsupportedStoreError: see `_refuse`.
    """
    columns = dataset.stored_columns()
    if strangers := [name for name in share if name not in columns]:
        raise SpecError(f"share: {unknown(strangers[0], columns, 'column')}")
    spec_dict = dataset.spec.to_mapping()
    for column in spec_dict["columns"].values():
        column.pop("stored_as", None)
    splits_of_copy = _stored_splits(dataset.spec, dataset.indices)
    spec_dict["splits"] = splits_of_copy
    for key in ("storage", "fingerprint"):  # a fingerprint is that of the source, of which this may be a view
        spec_dict.pop(key, None)
    spec = CompleteSpec.parse(spec_dict | {"storage": reference.model_dump(mode="json")}, base)
    backend = make_backend(spec)
    _refuse(backend, columns, overwrite=overwrite, has_splits=bool(splits_of_copy), shares=bool(share))
    return _Plan(spec, plain_json(spec_dict).decode(), backend, columns, share, overwrite)


def _copy(dataset: XyDataset, plan: _Plan, progress: Progress | None) -> CompleteSpec:
    spec, backend, columns, indices = plan.spec, plan.backend, plan.columns, dataset.indices
    rows = CopiedRows(dataset, columns, plan.share, keeps_keys=backend.keeps_keys)
    if not backend.keeps_keys:
        _warn_of_size(backend, rows)
    source, compared = Digests(columns), False

    def batches() -> Iterator[Any]:
        for batch in rows:
            source.add(batch)
            yield batch
            if progress is not None:
                progress("copying", source.rows, len(dataset))

    def compare(copy: Storage) -> None:
        nonlocal compared
        stored = splits.resolve(spec, Binding(spec, copy), np.arange(len(copy)))
        differing = [
            f"split {quoted(name)}"
            for name, positions in stored.items()
            if not np.array_equal(positions, indices[name])
        ]
        report = None if progress is None else lambda done: progress("comparing", done, len(copy))
        digests = digests_of(copy, columns, source.keyed, report)
        differing += [f"column {quoted(name)}" for name in columns if digests.of(name) != source.of(name)]
        if digests.rows != source.rows:
            differing = [f"the number of rows, which is {digests.rows} instead of {source.rows}"]
        if differing:
            raise CorruptStoreError(
                f"the copy that the backend {backend.name!r} wrote differs from its source in {', '.join(differing)}"
            )
        compared = True

    arrays = {f"idx_{name}": positions for name, positions in indices.items()}
    backend.write(columns, batches(), arrays=arrays, spec=plan.embedded, overwrite=plan.overwrite, check=compare)
    if not compared:  # the backend does not call `check`
        with open_storage(backend, spec.requested_columns) as copy:
            compare(copy)
    return spec


def _warn_of_size(backend: Backend, rows: CopiedRows) -> None:
    if all(group.keys is None for group in rows.groups):
        return
    expanded, shared = rows.sizes()
    if expanded >= max(2 * shared, LARGE):
        warnings.warn(
            f"the backend {backend.name!r} cannot store once what rows share, so the copy becomes about "
            f"{expanded:,} bytes large instead of {shared:,}; .npz, Zarr and HDF5 files can",
            stacklevel=4,
        )


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


def _refuse(backend: Backend, columns: Mapping[str, Array], *, overwrite: bool, has_splits: bool, shares: bool) -> None:
    """Refuse what the backend declares that it cannot do, before any row is read.

    Raises:
        UnsupportedStoreError: the backend cannot write, cannot overwrite, or cannot store the splits, a column, or once
            what rows share.
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
    if shares and not backend.keeps_keys:
        raise UnsupportedStoreError(
            f"share: the backend {name!r} cannot store once what rows share; .npz, Zarr and HDF5 files can"
        )
