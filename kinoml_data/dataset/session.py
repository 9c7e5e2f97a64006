"""A spec over its backend, opened once in each process that reads from it."""

from __future__ import annotations

import os
import threading
from multiprocessing.reduction import ForkingPickler
from typing import Any

from torch.utils.data import get_worker_info

from kinoml_data.contracts.backend import Backend, Storage
from kinoml_data.dataset import splits
from kinoml_data.dataset.binding import Binding
from kinoml_data.errors import SpecError, StoreChangedError, StoreReadError
from kinoml_data.layouts.memory_storage import MemoryStorage
from kinoml_data.spec.dataset_spec import DatasetSpec


class Session:
    """What a dataset and all its views share.

    It pickles as the spec and the backend, with the Python objects the caller passed in; whoever unpickles
    it opens the storage again, on first use, and finds out if the content is no longer the same. A
    shareable storage is not opened again: it survives fork, and is sent to spawned workers as shared memory.

    Args:
        spec: with its columns.
        backend: what opens the storage.
        storage: the storage, opened in this process.

    Raises:
        SpecError: the spec and the storage differ.
        SplitError: so do its splits.
    """

    def __init__(self, spec: DatasetSpec, backend: Backend | None, storage: Storage) -> None:
        self.spec, self.backend = spec, backend
        self.identity = storage.identity
        self._splits: dict[str, splits.RowNumbers] | None
        self._reset(None)
        self._bind(storage)
        self._splits = splits.resolve(spec, storage.arrays, len(storage))

    def _reset(self, storage: Storage | None) -> None:
        self._lock = threading.Lock()
        self._storage, self._pid = storage, os.getpid()
        self._binding: Binding | None = None
        self._splits = None
        self._closed = False

    @property
    def binding(self) -> Binding:
        """The spec bound to the storage of this process.

        Raises:
            StoreChangedError: the content is not that of the process the dataset was made in.
            StoreReadError: it was closed.
            Exception: whatever the backend raises when it cannot open.
        """
        binding = self._binding
        if binding is not None and self._pid == os.getpid():
            return binding
        return self._open()

    @property
    def splits(self) -> dict[str, splits.RowNumbers]:
        """The rows of every split."""
        if self._splits is None:
            storage = self.binding.storage
            self._splits = splits.resolve(self.spec, storage.arrays, len(storage))
        return self._splits

    def close(self) -> None:
        with self._lock:
            if self._storage is not None and self._pid == os.getpid():
                self._storage.close()
            self._storage = self._binding = None
            self._closed = True

    def _open(self) -> Binding:
        if self._pid != os.getpid():  # forked: the lock may be held by a thread that does not exist here
            storage = self._storage if self._storage is not None and self._storage.shareable else None
            found, closed = self._splits, self._closed
            self._reset(storage)
            self._splits, self._closed = found, closed
        with self._lock:
            if self._closed:
                raise StoreReadError("the dataset was closed")
            if self._binding is None:
                self._bind(self._storage if self._storage is not None else self._again())
            assert self._binding is not None
            return self._binding

    def _again(self) -> Storage:
        assert self.backend is not None and self.spec.columns is not None
        storage = self.backend.open(requested_columns(self.spec))
        if storage.identity != self.identity:
            storage.close()
            raise StoreChangedError(
                f"{self.backend.name}: the store is not the one this dataset was made from; load it again"
            )
        return storage

    def _bind(self, storage: Storage) -> None:
        if get_worker_info() is not None:
            refuse_workers(storage)
        self._binding = Binding(self.spec, storage)
        self._storage, self._pid = storage, os.getpid()

    def __getstate__(self) -> dict[str, Any]:
        return {"spec": self.spec, "backend": self.backend, "identity": self.identity, "closed": self._closed}

    def __setstate__(self, state: dict[str, Any]) -> None:
        self.spec, self.backend, self.identity = state["spec"], state["backend"], state["identity"]
        self._reset(state.get("storage"))
        self._closed = state["closed"]


def requested_columns(spec: DatasetSpec) -> dict[str, Any] | None:
    """The columns of a spec by their names in the store, for `Backend.open`."""
    return None if spec.columns is None else {array.stored_as or name: array for name, array in spec.columns.items()}


def refuse_workers(storage: Storage | None) -> None:
    """Refuse worker processes for data on a device, which they cannot read.

    Raises:
        SpecError: the storage is kept on a device.
    """
    if isinstance(storage, MemoryStorage) and storage.device is not None:
        raise SpecError(f"the dataset is kept on {storage.device!r}; workers cannot read it, use num_workers=0")


def _reduce_for_worker(session: Session) -> tuple[Any, ...]:
    """How it goes to a spawned process: with a shareable storage, which makes the backend unnecessary."""
    refuse_workers(session._storage)
    state = session.__getstate__()
    if session._storage is not None and session._storage.shareable:
        state |= {"storage": session._storage, "backend": None}
    return _restore, (state,)


def _restore(state: dict[str, Any]) -> Session:
    session = Session.__new__(Session)
    session.__setstate__(state)
    return session


ForkingPickler.register(Session, _reduce_for_worker)
