"""A cache of a bounded number of bytes."""

from __future__ import annotations

import threading
from collections import OrderedDict
from collections.abc import Hashable, Iterable
from typing import Generic, TypeVar

K = TypeVar("K", bound=Hashable)
V = TypeVar("V")


class LruCache(Generic[K, V]):
    """Keeps values up to a number of bytes, and drops the least recently used first. Threads may share it.

    Args:
        budget: the number of bytes to keep.
        keep: how many of the most recently used values stay even if they exceed the budget.
    """

    def __init__(self, budget: int, keep: int = 0) -> None:
        self.budget, self.keep = budget, keep
        self.nbytes = 0
        self._entries: OrderedDict[K, tuple[V, int]] = OrderedDict()
        self._lock = threading.Lock()

    def __len__(self) -> int:
        return len(self._entries)

    def get_all(self, keys: Iterable[K]) -> dict[K, V]:
        """The values of those keys that are in the cache."""
        values = {}
        entries = self._entries
        with self._lock:
            for key in keys:
                if key in entries:
                    entries.move_to_end(key)
                    values[key] = entries[key][0]
        return values

    def put(self, key: K, value: V, nbytes: int) -> None:
        """Add a value of `nbytes` bytes, unless the key is there already or the value alone exceeds the budget."""
        with self._lock:
            if key in self._entries or (nbytes > self.budget and not self.keep):
                return
            self._entries[key] = value, nbytes
            self.nbytes += nbytes
            while self.nbytes > self.budget and len(self._entries) > self.keep:
                _, (_, dropped) = self._entries.popitem(last=False)
                self.nbytes -= dropped
