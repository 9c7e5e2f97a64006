"""Sends batches from worker processes to their parent through shared memory that is allocated once.

torch sends each tensor in its own shared-memory segment with its own file descriptor, which costs 0.4 ms. Here a worker
copies all buffers of a batch into one slot of a shared mapping, and sends the remaining few hundred bytes through the
pipe. The parent copies the buffers out and frees the slot. If no slot is free or a batch does not fit into one, torch
sends it in its own way.

The mapping is anonymous memory (`memfd_create`), so nothing is left behind if a worker or the parent is killed.
"""

from __future__ import annotations

import io
import itertools
import mmap
import os
import pickle
from collections.abc import Callable
from contextlib import suppress
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
INTEGERS = {1: torch.int8, 2: torch.int16, 4: torch.int32, 8: torch.int64}  # by the size of a value in bytes
LOCK_TIMEOUT = 1.0  # seconds; a worker may have been killed while it held the lock

_rings: WeakValueDictionary[int, Ring] = WeakValueDictionary()
_numbers = itertools.count()


class Ring:
    """Slots of shared memory, which workers claim and the process that created the ring frees.

    Args:
        slots: the number of batches that may be in transit at once.
        slot_size: bytes per slot, rounded up to full pages.
        context: the multiprocessing context of the workers.
    """

    def __init__(self, slots: int, slot_size: int, context: BaseContext) -> None:
        self.number = next(_numbers)
        self.slots, self.slot_size = slots, -(-slot_size // PAGE) * PAGE
        self._context, self._lock = context, context.Lock()
        self._fd = os.memfd_create("kinoml_data", os.MFD_CLOEXEC)
        os.ftruncate(self._fd, PAGE + slots * self.slot_size)
        self._map()
        _rings[self.number] = self

    def new(self) -> Ring:
        """A ring like this one, without batches."""
        return Ring(self.slots, self.slot_size, self._context)

    def _map(self) -> None:
        # The first page contains one byte per slot, which is 1 while there is a batch in the slot.
        self._memory = memoryview(mmap.mmap(self._fd, PAGE + self.slots * self.slot_size))
        self._taken = self._memory[: self.slots]

    def __reduce__(self) -> tuple[Any, ...]:  # for a spawned process; a forked one has the mapping already
        return _mapped, (self.number, self.slots, self.slot_size, self._lock, DupFd(self._fd))

    def __del__(self) -> None:
        if hasattr(self, "_fd") and os is not None:  # at the end of a process, modules are set to None
            os.close(self._fd)

    def put(self, buffers: list[memoryview]) -> tuple[int, list[tuple[int, int]]] | None:
        """Copy buffers into a free slot.

        Returns:
            The number of the slot, and the offset and length of each buffer; None if they fit into no free slot.
        """
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
        """Copy the buffers out of a slot into private, writable memory, and free the slot."""
        start = PAGE + slot * self.slot_size
        size = places[-1][0] + places[-1][1] if places else 0
        data = np.empty(size + ALIGNMENT, np.uint8)
        shift = -data.ctypes.data % ALIGNMENT
        memory = data.data[shift : shift + size]
        memory[:] = self._memory[start : start + size]
        self._taken[slot] = 0
        return [memory[offset : offset + length] for offset, length in places]


def _mapped(number: int, slots: int, slot_size: int, lock: Lock, fd: Any) -> Ring:
    ring = Ring.__new__(Ring)
    ring.number, ring.slots, ring.slot_size, ring._lock, ring._fd = number, slots, slot_size, lock, fd.detach()
    ring._map()
    return ring


class RingCollate:
    """A collate function whose batches leave a worker through a ring. The parent receives equal batches.

    Args:
        collate: the function that makes the batches.
        ring: the ring, created by the process that receives them.
    """

    def __init__(self, collate: Callable[[Any], Any], ring: Ring) -> None:
        self.collate, self.ring = collate, ring

    def with_new_ring(self) -> RingCollate:
        """The same for other workers. Slots of batches that nobody received never become free."""
        return RingCollate(self.collate, self.ring.new())

    def __call__(self, samples: Any) -> Any:
        batch = self.collate(samples)
        info = get_worker_info()
        if info is None or getattr(info, "worker_method", None) == "thread":
            return batch
        return _BatchInTransit.pack(batch, self.ring)


class _BatchInTransit:
    """A batch in transit. Unpickling it returns the batch."""

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
    """Pickles tensors as numpy arrays, whose buffers are kept out of the pickle."""

    def reducer_override(self, value: Any) -> Any:
        plain = type(value) is Tensor and value.layout == torch.strided and value.device.type == "cpu"
        if not plain or value.requires_grad or value.is_conj() or value.is_neg():
            return NotImplemented
        if value.is_nested or value.is_quantized:
            return NotImplemented
        if value.is_contiguous():
            with suppress(TypeError):  # a dtype that numpy does not have
                return torch.from_numpy, (value.numpy(),)
        integers = INTEGERS.get(value.itemsize)
        if integers is None or value.dtype == integers:
            return NotImplemented
        return Tensor.view, (value.view(integers), value.dtype)  # torch cannot unpickle some dtypes, such as uint16


def available() -> bool:
    """True if the operating system has anonymous files, as Linux does."""
    return hasattr(os, "memfd_create")
