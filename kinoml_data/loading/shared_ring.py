"""How a batch gets from a worker process to its parent: through shared memory that is allocated once.

torch sends every tensor in a shared-memory segment and a file descriptor of its own, at 0.4 ms each. Here a worker
copies all buffers of a batch into one slot of a shared mapping and sends the rest, a few hundred bytes, through the
pipe; the parent copies them out and frees the slot. Where no slot is free, or a batch does not fit, it goes as torch
sends it.

The mapping is anonymous memory (`memfd_create`): nothing is left behind when a worker or the parent is killed.
"""

from __future__ import annotations

import io
import itertools
import mmap
import os
import pickle
from collections.abc import Callable
from multiprocessing.context import BaseContext
from multiprocessing.reduction import DupFd
from multiprocessing.synchronize import Lock
from typing import Any
from weakref import WeakValueDictionary

import numpy as np
import torch
from torch import Tensor
from torch.utils.data import get_worker_info

ALIGNMENT = 64
PAGE = mmap.PAGESIZE
LOCK_TIMEOUT = 1.0  # seconds; a worker that was killed may have held it

_rings: WeakValueDictionary[int, Ring] = WeakValueDictionary()
_numbers = itertools.count()


class Ring:
    """Slots of shared memory, claimed by workers and freed by the process that made it.

    Args:
        slots: how many batches may be on their way at once.
        slot_size: bytes each, rounded up to pages.
        context: the multiprocessing context of the workers.
    """

    def __init__(self, slots: int, slot_size: int, context: BaseContext) -> None:
        self.number = next(_numbers)
        self.slots, self.slot_size = slots, -(-slot_size // PAGE) * PAGE
        self._lock: Lock = context.Lock()
        self._fd = os.memfd_create("kinoml_data", os.MFD_CLOEXEC)
        os.ftruncate(self._fd, PAGE + slots * self.slot_size)
        self._map()
        _rings[self.number] = self

    def _map(self) -> None:
        # The first page holds one byte per slot: 1 while a batch is in it.
        self._memory = memoryview(mmap.mmap(self._fd, PAGE + self.slots * self.slot_size))
        self._taken = self._memory[: self.slots]

    def __reduce__(self) -> tuple[Any, ...]:  # into a spawned process: forked ones have the mapping already
        return _mapped, (self.number, self.slots, self.slot_size, self._lock, DupFd(self._fd))

    def __del__(self) -> None:
        if hasattr(self, "_fd"):
            os.close(self._fd)

    def put(self, buffers: list[memoryview]) -> tuple[int, list[tuple[int, int]]] | None:
        """Copy buffers into a free slot: its number, and offset and length of each; None if there is no place."""
        places, at = [], 0
        for buffer in buffers:
            places.append((at, buffer.nbytes))
            at += -(-buffer.nbytes // ALIGNMENT) * ALIGNMENT
        slot = self._claim() if at <= self.slot_size else None
        if slot is None:
            return None
        start = PAGE + slot * self.slot_size
        for buffer, (offset, size) in zip(buffers, places, strict=True):
            self._memory[start + offset : start + offset + size] = buffer
        return slot, places

    def _claim(self) -> int | None:
        if not self._lock.acquire(timeout=LOCK_TIMEOUT):
            return None
        try:
            for slot in range(self.slots):
                if not self._taken[slot]:
                    self._taken[slot] = 1
                    return slot
            return None
        finally:
            self._lock.release()

    def take(self, slot: int, places: list[tuple[int, int]]) -> list[memoryview]:
        """The buffers in a slot, as private writable memory; frees the slot."""
        start = PAGE + slot * self.slot_size
        size = places[-1][0] + places[-1][1] if places else 0
        data = np.empty(size + ALIGNMENT, np.uint8)
        shift = -data.ctypes.data % ALIGNMENT
        whole = data.data[shift : shift + size]
        whole[:] = self._memory[start : start + size]
        self._taken[slot] = 0
        return [whole[offset : offset + length] for offset, length in places]


def _mapped(number: int, slots: int, slot_size: int, lock: Lock, fd: Any) -> Ring:
    ring = Ring.__new__(Ring)
    ring.number, ring.slots, ring.slot_size, ring._lock, ring._fd = number, slots, slot_size, lock, fd.detach()
    ring._map()
    return ring


class RingCollate:
    """A collate function whose batches leave a worker through a ring, and are the same on the other side.

    Args:
        collate: the collate function itself.
        ring: made by the process that reads the batches.
    """

    def __init__(self, collate: Callable[[Any], Any], ring: Ring) -> None:
        self.collate, self.ring = collate, ring

    def __call__(self, samples: Any) -> Any:
        batch = self.collate(samples)
        return batch if get_worker_info() is None else _BatchInTransit.pack(batch, self.ring)


class _BatchInTransit:
    """A batch on its way; unpickling it gives the batch."""

    def __init__(self, number: int, payload: bytes, slot: int, places: list[tuple[int, int]]) -> None:
        self._parts = (number, payload, slot, places)

    def __reduce__(self) -> tuple[Any, ...]:
        return _received, self._parts

    @classmethod
    def pack(cls, batch: Any, ring: Ring) -> Any:
        buffers: list[pickle.PickleBuffer] = []
        stream = io.BytesIO()
        _Pickler(stream, protocol=5, buffer_callback=buffers.append).dump(batch)
        placed = ring.put([buffer.raw() for buffer in buffers])
        return batch if placed is None else cls(ring.number, stream.getvalue(), *placed)


def _received(number: int, payload: bytes, slot: int, places: list[tuple[int, int]]) -> Any:
    return pickle.loads(payload, buffers=_rings[number].take(slot, places))


class _Pickler(pickle.Pickler):
    """Tensors leave as numpy arrays, whose buffers stay out of the pickle."""

    def reducer_override(self, value: Any) -> Any:
        plain = type(value) is Tensor and value.layout == torch.strided and value.device.type == "cpu"
        if not plain or value.requires_grad or not value.is_contiguous() or value.is_conj() or value.is_neg():
            return NotImplemented
        try:
            array = value.numpy()
        except TypeError:  # a dtype that numpy does not have
            return NotImplemented
        return torch.from_numpy, (array,)


def available() -> bool:
    """True where the operating system has anonymous files."""
    return hasattr(os, "memfd_create")
