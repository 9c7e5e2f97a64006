"""Sends batches from worker processes to their parent through shared memory that is allocated once.

torch sends each tensor in its own shared-memory segment with its own file descriptor, which costs 0.4 ms. Here a worker
copies all buffers of a batch into one slot of a shared mapping, and sends the remaining few hundred bytes through the
pipe. The parent uses the buffers where they are, and the slot becomes free when no tensor refers to it any more. If the
caller keeps many batches, further ones are copied out, so that slots stay free. If no slot is free or a batch does not
fit into one, torch sends it in its own way.

The mapping is anonymous memory (`memfd_create`), so nothing is left behind if a worker or the parent is killed.
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
from weakref import WeakValueDictionary, finalize

import numpy as np
import torch
from torch import Tensor
from torch.utils.data import get_worker_info

ALIGNMENT = 64
PAGE = mmap.PAGESIZE
LENT_SLOTS = 3  # that the batches of the caller may occupy: the current one, the next one and one more
LOCK_TIMEOUT = 1.0  # seconds; a worker may have been killed while it held the lock

_rings: WeakValueDictionary[int, Ring] = WeakValueDictionary()
_numbers = itertools.count()


class Ring:
    """Slots of shared memory, which workers claim and the process that created the ring frees.

    Args:
        slots: the number of batches that may be in transit at once. There are `LENT_SLOTS` more.
        slot_size: bytes per slot, rounded up to full pages.
        context: the multiprocessing context of the workers.
    """

    def __init__(self, slots: int, slot_size: int, context: BaseContext) -> None:
        self.number = next(_numbers)
        self.slots, self.slot_size = slots + LENT_SLOTS, -(-slot_size // PAGE) * PAGE
        self._lent: set[int] = set()
        self._lock: Lock = context.Lock()
        self._fd = os.memfd_create("kinoml_data", os.MFD_CLOEXEC)
        os.ftruncate(self._fd, PAGE + self.slots * self.slot_size)
        self._map()
        _rings[self.number] = self

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
        """The buffers in a slot, as writable memory that belongs to the caller."""
        start = PAGE + slot * self.slot_size
        size = places[-1][0] + places[-1][1] if places else 0
        content = np.frombuffer(self._memory, np.uint8, size, start)
        if len(self._lent) < LENT_SLOTS:
            self._lent.add(slot)
            finalize(content, self._take_back, slot, os.getpid()).atexit = False
        else:
            shared, data = content, np.empty(size + ALIGNMENT, np.uint8)
            shift = -data.ctypes.data % ALIGNMENT
            content = data[shift : shift + size]
            content[:] = shared
            self._taken[slot] = 0
        memory = content.data
        return [memory[offset : offset + length] for offset, length in places]

    def _take_back(self, slot: int, taker: int) -> None:
        if os.getpid() == taker:  # not in a process forked from it, which drops only its copy of the references
            self._lent.discard(slot)
            self._taken[slot] = 0


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
        if not plain or value.requires_grad or not value.is_contiguous() or value.is_conj() or value.is_neg():
            return NotImplemented
        try:
            array = value.numpy()
        except TypeError:  # a dtype that numpy does not have
            return NotImplemented
        return torch.from_numpy, (array,)


def available() -> bool:
    """True if the operating system has anonymous files, as Linux does."""
    return hasattr(os, "memfd_create")
