"""Columns in memory, which are passed to worker processes in shared memory."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from multiprocessing.reduction import ForkingPickler
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from kinoml_data.errors import StoreReadError, one_line
from kinoml_data.layouts.flat_arrays import KEYS, SHAPES, UTF8, VALUES, ArrayStorage, to_native_order

if TYPE_CHECKING:
    import torch

SMALL = 1 << 16  # bytes; a smaller array is pickled, which costs less than a file descriptor


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
        self._flat |= {name + KEYS: keys for name, keys in self._keys.items()}  # equal ones are one array
        self.arrays = dict(arrays or {})
        self.device, self.devices = device, {} if device is None else dict.fromkeys(self.columns, device)
        # Indexing a memoryview returns Python ints, as fast as indexing a list, which would take more memory.
        self._ends = {name: offsets.data for name, offsets in self._offsets.items()}

    def read_row(self, row: int, columns: Sequence[str]) -> Mapping[str, NDArray[Any]]:
        values = {}
        for name in columns:
            ends, at = self._ends.get(name), self._keys[name].item(row) if name in self._keys else row
            if ends is None:
                values[name] = self._values[name][at, ...].copy()
            else:
                shape = self._shapes[name][at].tolist()
                values[name] = self._values[name][ends[at] : ends[at + 1]].reshape(shape).copy()
        return values

    def __reduce__(self) -> tuple[Any, ...]:
        state = dict(self._flat), dict(self.arrays), self.spec, self.identity, self.device
        return _restored, state

    def shared(self) -> SharedArrays:
        """Move every array to shared memory; returns the arrays there, by the names of the flat layout."""
        self._flat = flat = SharedArrays(self._flat)
        self._values = {name: flat.get(name, flat.get(name + VALUES, flat.get(name + UTF8))) for name in self._values}
        self._shapes = {name: flat[name + SHAPES] for name in self._shapes}
        self._keys = {name: flat[name + KEYS] for name in self._keys}
        return flat

    def row_arrays(self) -> Mapping[str, NDArray[Any]]:
        return self._offsets  # shapes and keys are among the arrays that are shared anyway

    def share_row_arrays(self, arrays: Mapping[str, NDArray[Any]]) -> None:
        self._offsets = dict(arrays)
        self._ends = {name: offsets.data for name, offsets in self._offsets.items()}


class SharedArrays(dict[str, NDArray[Any]]):
    """Arrays by name in shared memory, which spawned processes map instead of getting copies of them.

    Args:
        arrays: the arrays to move. Those in shared memory are not moved again, and small ones are pickled instead.

    Raises:
        StoreReadError: there is not enough shared memory.
    """

    def __init__(self, arrays: Mapping[str, NDArray[Any]]) -> None:
        super().__init__(_each_once(_in_shared_memory, arrays))


def _each_once(function: Callable[[Any], Any], parts: Mapping[str, Any]) -> dict[str, Any]:
    """What the function returns for each part. An object that several names have is passed to it once."""
    results = {id(part): function(part) for part in {id(part): part for part in parts.values()}.values()}
    return {name: results[id(part)] for name, part in parts.items()}


def _tensor_of(array: NDArray[Any]) -> torch.Tensor | None:
    """The tensor in shared memory that the array is a view of; None if there is none."""
    import torch

    tensor: Any = array.base
    is_whole = isinstance(tensor, torch.Tensor) and tensor.shape == array.shape and tensor.is_shared()  # type: ignore[no-untyped-call]  # torch's
    return tensor if is_whole else None


def _in_shared_memory(array: NDArray[Any]) -> NDArray[Any]:
    import torch

    if array.nbytes < SMALL or _tensor_of(array) is not None:
        return array
    # The dtype comes from an empty array, because torch warns about arrays that are not writable, such as Arrow's.
    dtype = torch.from_numpy(np.empty(0, array.dtype)).dtype
    try:
        tensor = torch.empty(array.shape, dtype=dtype).share_memory_()  # type: ignore[no-untyped-call]  # torch's
    except RuntimeError as error:
        raise StoreReadError(
            f"the {array.nbytes:,} bytes of a column do not fit into shared memory, which spawned processes need: "
            f"{one_line(error, 200)}; give it more room, for example with `docker run --shm-size`, or use num_workers=0"
        ) from None
    shared: NDArray[Any] = tensor.numpy()
    shared[...] = array
    return shared


def _reduce_arrays(arrays: SharedArrays) -> tuple[Any, ...]:
    return _mapped, (
        {name: array if (tensor := _tensor_of(array)) is None else tensor for name, array in arrays.items()},
    )


def _mapped(parts: dict[str, Any]) -> SharedArrays:
    return SharedArrays(_each_once(lambda part: part if isinstance(part, np.ndarray) else part.numpy(), parts))


def _reduce_shared(storage: MemoryStorage) -> tuple[Any, ...]:
    return _rebuild, (storage.shared(), dict(storage.arrays), storage.spec, storage.identity)


def _rebuild(
    flat: SharedArrays, arrays: dict[str, NDArray[Any]], spec: str | None, identity: str | None
) -> MemoryStorage:
    return MemoryStorage(flat, arrays=arrays, spec=spec, identity=identity)


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
ForkingPickler.register(SharedArrays, _reduce_arrays)
