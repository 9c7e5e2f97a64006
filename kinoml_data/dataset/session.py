"""A spec and its backend, opened once in each process that reads from them."""

from __future__ import annotations

import os
import threading
from collections.abc import Mapping
from contextlib import suppress
from functools import partial
from multiprocessing.reduction import ForkingPickler
from typing import Any

import numpy as np
from numpy.typing import NDArray
from torch.utils.data import get_worker_info

from kinoml_data.contracts.backend import Backend, Storage
from kinoml_data.dataset import splits
from kinoml_data.dataset.binding import Binding
from kinoml_data.dataset.failing import failing
from kinoml_data.errors import SpecError, StoreChangedError, StoreReadError
from kinoml_data.files import os_errors
from kinoml_data.layouts.memory_storage import MemoryStorage, SharedArrays
from kinoml_data.spec.array import Array
from kinoml_data.spec.dataset_spec import CompleteSpec
from kinoml_data.spec.parts import ComputedSplits, FileSplit


class Session:
    """The spec, the backend and the storage opened in this process, which a dataset and all its views share.

    A session is pickled as its spec and its backend. The process that unpickles it opens the storage again on first
    use, and notices if the content has changed. Rows that were made from Python objects are pickled themselves. A
    shareable storage is not opened again: it survives a fork, and is sent to spawned workers as shared memory.

    Args:
        spec: the complete spec.
        backend: opens the storage.
        storage: the storage that was opened in this process.
        omits_failures: True if a row is in no split if a column that the splits are made from cannot be featurized
            for it; otherwise such a row is an error.

    Raises:
        FeaturizationError: see `omits_failures`.
        SpecError: the spec and the storage do not fit together.
        SplitError: a split of the spec does not fit the storage.
    """

    def __init__(
        self, spec: CompleteSpec, backend: Backend | None, storage: Storage, *, omits_failures: bool = False
    ) -> None:
        self.spec, self.backend = spec, backend
        self.identity = storage.identity
        self._splits: dict[str, splits.RowNumbers] | None = None
        self._row_arrays: Mapping[str, NDArray[Any]] = {}  # of the process that this one was started from
        self._closed = False
        self._reset(None)
        self._bind(storage)
        if not _is_random(spec):  # random splits are always valid, and are drawn when needed
            self._splits = self._resolved(omits_failures=omits_failures)

    def _reset(self, storage: Storage | None) -> None:
        self._lock = threading.Lock()
        self._storage, self._pid = storage, os.getpid()
        self._binding: Binding | None = None

    @property
    def binding(self) -> Binding:
        """The spec bound to the storage of this process.

        Raises:
            StoreChangedError: the content is no longer the same as when the dataset was made.
            StoreReadError: the session was closed.
            Exception: whatever the backend raises if it cannot open the store again.
        """
        binding = self._binding
        if binding is not None and self._pid == os.getpid():
            return binding
        return self._open()

    @property
    def splits(self) -> dict[str, NDArray[np.int64]]:
        """The row numbers of every split; raises the errors of `binding`."""
        if self._splits is None:
            self._splits = self._resolved()
        return self._splits

    def _resolved(self, *, omits_failures: bool = False) -> dict[str, NDArray[np.int64]]:
        binding = self.binding
        rows = np.arange(binding.length)
        if omits_failures:
            columns = self.spec.split_columns
            rows = np.delete(rows, [row for row, _ in failing(partial(binding.read, names=columns), rows)])
        return splits.resolve(self.spec, binding, rows)

    def refuse_workers(self) -> None:
        """Raise if worker processes cannot read the data.

        Raises:
            SpecError: the data is kept on a device.
        """
        _refuse_workers(self.binding.storage)

    def close(self) -> None:
        """Close the storage of this process. Reading afterwards raises an error."""
        with self._lock:
            if self._storage is not None and self._pid == os.getpid():
                self._storage.close()
            self._storage = self._binding = None
            self._closed = True

    def _open(self) -> Binding:
        if self._pid != os.getpid():  # forked: the lock may be held by a thread that does not exist here
            self._row_arrays = self._storage.row_arrays() if self._storage is not None else self._row_arrays
            self._reset(self._storage if self._storage is not None and self._storage.shareable else None)
        with self._lock:
            if self._closed:
                raise StoreReadError("the dataset was closed; load it again")
            if self._binding is None:
                self._bind(self._storage if self._storage is not None else self._reopened())
            assert self._binding is not None
            return self._binding

    def _reopened(self) -> Storage:
        assert self.backend is not None
        storage = open_storage(self.backend, self.spec.requested_columns).loaded(self.spec.stored_names)
        if storage.identity != self.identity:
            storage.close()
            raise StoreChangedError(
                f"{self.backend.name}: the store has changed since this dataset was made from it; load it again"
            )
        self._share_row_arrays(storage)
        return storage

    def _share_row_arrays(self, storage: Storage) -> None:
        """Let the storage use the arrays of the process that this one was started from, in place of equal copies.

        There may be more of them than the storage has, because it has not needed the others yet.
        """
        own, shared = storage.row_arrays(), self._row_arrays
        if all(name in shared and np.array_equal(own[name], shared[name]) for name in own):
            storage.share_row_arrays(shared)

    def _bind(self, storage: Storage) -> None:
        if get_worker_info() is not None:
            _refuse_workers(storage)
        self._binding = Binding(self.spec, storage)
        self._storage, self._pid = storage, os.getpid()

    def __getstate__(self) -> dict[str, Any]:
        state: dict[str, Any] = {
            "spec": self.spec,
            "backend": self.backend,
            "identity": self.identity,
            "closed": self._closed,
        }
        is_source = isinstance(self._storage, MemoryStorage) and self._storage.is_source
        if is_source or self.backend is None:  # a worker has no backend if it was sent the storage
            state |= {"storage": self._storage, "backend": None}
        return state | {"splits": self._splits if _keeps_splits(self.spec) else None}

    def __setstate__(self, state: dict[str, Any]) -> None:
        self.spec, self.backend, self.identity = state["spec"], state["backend"], state["identity"]
        self._splits, self._closed = state["splits"], state["closed"]
        self._row_arrays = state.get("row_arrays", {})
        self._reset(state.get("storage"))
        if self._storage is not None:
            self._share_row_arrays(self._storage)


def _is_random(spec: CompleteSpec) -> bool:
    return isinstance(spec.splits, ComputedSplits) and spec.splits.is_random


def _keeps_splits(spec: CompleteSpec) -> bool:
    """True if another process gets the rows of the splits, because it might find others or takes long to find them.

    The identity of the store does not cover the files of splits, which may have changed since they were read.
    """
    if isinstance(spec.splits, ComputedSplits):
        return not spec.splits.is_random
    return any(isinstance(split, FileSplit) for split in spec.splits.values())


def _refuse_workers(storage: Storage | None) -> None:
    if storage is not None and storage.devices:
        device = next(iter(storage.devices.values()))
        raise SpecError(f"the dataset is kept on {device!r}, which workers cannot read; use num_workers=0")


def _reduce_for_worker(session: Session) -> tuple[Any, ...]:
    """How a session is pickled for a spawned process. With a shareable storage, it needs no backend there."""
    storage = session._storage
    _refuse_workers(storage)
    state = session.__getstate__()
    with suppress(StoreReadError):  # too little shared memory: each worker gets copies, or makes its own
        if state["splits"] is not None:
            state["splits"] = session._splits = SharedArrays(state["splits"])
        if storage is not None:
            state["row_arrays"] = SharedArrays(storage.row_arrays())
            storage.share_row_arrays(state["row_arrays"])
    if storage is not None and storage.shareable:
        state |= {"storage": storage, "backend": None}
    return object.__new__, (Session,), state


ForkingPickler.register(Session, _reduce_for_worker)


def open_storage(backend: Backend, columns: Mapping[str, Array | None] | None) -> Storage:
    """Open a store for reading; see `Backend.open`.

    Raises:
        StoreReadError: the operating system failed, and the backend raised no error of its own.
    """
    with os_errors(str(getattr(backend, "path", backend.name))):
        return backend.open(columns)
