"""Columns in memory, which are passed to worker processes in shared memory."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from multiprocessing.reduction import ForkingPickler
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from kinoml_data.errors import StoreReadError, one_line
from kinoml_data.layouts.flat_arrays import UTF8, VALUES, ArrayStorage, to_native_order

if TYPE_CHECKING:
    import torch


class MemoryStorage(ArrayStorage):
    """Columns in memory. Pickling it for a spawned process moves its arrays to shared memory instead of copying them.

    Args:
        flat: arrays with the names of the flat layout.
        arrays: named arrays that are not per row.
        spec: the spec of the data, as JSON; None if there is none.
        identity: see `Storage.identity`.
        device: the device on which the backend keeps a copy of the columns; it is not passed to other processes.

    Attributes:
        is_source: True if the rows are nowhere else, as those from Python objects. A dataset is then pickled with them,
            so that it has the same rows everywhere, whatever happens to the objects.
    """

    shareable = True
    is_source = False

    def __init__(
        self,
        flat: Mapping[str, Any],
        *,
        arrays: Mapping[str, NDArray[Any]] | None = None,
        spec: str | None = None,
        identity: str | None = None,
        device: str | None = None,
    ) -> None:
        self._flat = {name: np.ascontiguousarray(to_native_order(np.asarray(array))) for name, array in flat.items()}
        super().__init__(self._flat, spec=spec, identity=identity)
        self.arrays = dict(arrays or {})
        self.device = device
        # Indexing a memoryview returns Python ints, as fast as indexing a list, which would take more memory.
        self._ends = {name: offsets.data for name, offsets in self._offsets.items()}

    def read_row(self, row: int, columns: Sequence[str]) -> Mapping[str, NDArray[Any]]:
        values = {}
        for name in columns:
            ends = self._ends.get(name)
            if ends is None:
                values[name] = self._values[name][row, ...].copy()
            else:
                shape = self._shapes[name][row].tolist()
                values[name] = self._values[name][ends[row] : ends[row + 1]].reshape(shape).copy()
        return values

    def __reduce__(self) -> tuple[Any, ...]:
        state = dict(self._flat), dict(self.arrays), self.spec, self.identity, self.device
        return _restored, state

    def shared(self) -> dict[str, torch.Tensor]:
        """Move every array to shared memory; returns the tensors there, by the names of the flat layout."""
        tensors = {name: _shared(array) for name, array in self._flat.items()}
        self._flat = {name: tensor.numpy() for name, tensor in tensors.items()}
        self._values = {
            name: self._flat.get(name, self._flat.get(name + VALUES, self._flat.get(name + UTF8)))
            for name in self._values
        }
        return tensors


def _shared(array: NDArray[Any]) -> torch.Tensor:
    import torch

    # The dtype comes from an empty array, because torch warns about arrays that are not writable, such as Arrow's.
    dtype = torch.from_numpy(np.empty(0, array.dtype)).dtype
    try:
        tensor: torch.Tensor = torch.empty(array.shape, dtype=dtype).share_memory_()  # type: ignore[no-untyped-call]
    except RuntimeError as error:
        raise StoreReadError(
            f"the {array.nbytes:,} bytes of a column do not fit into shared memory, which spawned processes need: "
            f"{one_line(error, 200)}; give it more room, as by `docker run --shm-size`, or use num_workers=0"
        ) from None
    tensor.numpy()[...] = array
    return tensor


def _reduce_shared(storage: MemoryStorage) -> tuple[Any, ...]:
    return _rebuild, (storage.shared(), dict(storage.arrays), storage.spec, storage.identity)


def _rebuild(
    tensors: dict[str, torch.Tensor], arrays: dict[str, NDArray[Any]], spec: str | None, identity: str | None
) -> MemoryStorage:
    return MemoryStorage({n: t.numpy() for n, t in tensors.items()}, arrays=arrays, spec=spec, identity=identity)


def _restored(
    flat: dict[str, NDArray[Any]],
    arrays: dict[str, NDArray[Any]],
    spec: str | None,
    identity: str | None,
    device: str | None,
) -> MemoryStorage:
    storage = MemoryStorage(flat, arrays=arrays, spec=spec, identity=identity, device=device)
    storage.is_source = True
    return storage


ForkingPickler.register(MemoryStorage, _reduce_shared)
