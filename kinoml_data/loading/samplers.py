"""Batch samplers: in which order rows come, and which of them come together."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
import torch
from numpy.typing import NDArray
from torch.utils.data import Sampler

if TYPE_CHECKING:
    pass


WINDOW = 50  # batches whose rows are sorted by length together: enough to pad little, few enough to stay random


@dataclass(frozen=True)
class Padding:
    """How much of an epoch's padded elements is padding, with rows grouped by length and without.

    Attributes:
        grouped, ungrouped: shares between 0 and 1.
    """

    grouped: float
    ungrouped: float

    def __str__(self) -> str:
        return f"{self.grouped:.1%} of the elements are padding, {self.ungrouped:.1%} without grouping"


class LengthBatchSampler(Sampler[list[int]]):
    """Batches of rows of similar length, in random order.

    Rows are shuffled, sorted by length within windows of 50 batches, cut into batches, and the batches shuffled.
    Each row comes once an epoch; the batches differ from epoch to epoch. After `set_epoch` they are those of the
    generator's seed and of that epoch, whatever was drawn before: for runs that are resumed.

    Args:
        lengths: int64 `(rows,)`.
        batch_size: rows per batch.
        shuffle: False goes through the rows from short to long, always the same.
        drop_last: leave out a last batch that is not full.
        generator: of the random order.

    Attributes:
        padding: what grouping saves in the last epoch begun, or in a first one.
    """

    def __init__(
        self,
        lengths: NDArray[np.int64],
        batch_size: int,
        *,
        shuffle: bool = True,
        drop_last: bool = False,
        generator: torch.Generator | None = None,
    ) -> None:
        self.lengths, self.batch_size, self.shuffle, self.drop_last = lengths, batch_size, shuffle, drop_last
        self.generator = generator
        self.epoch: int | None = None
        self.padding = self._measure(self._batches(np.arange(len(lengths)), np.random.default_rng(0)))

    def __len__(self) -> int:
        rows = len(self.lengths)
        return rows // self.batch_size if self.drop_last else -(-rows // self.batch_size)

    def __iter__(self) -> Iterator[list[int]]:
        # A generator draws when the epoch begins; DataLoader with workers makes two iterators and uses one.
        rows, rng = np.arange(len(self.lengths)), np.random.default_rng(0)
        if self.shuffle:
            rng = np.random.default_rng(self._seed())
            rows = rng.permutation(rows)
        batches = self._batches(rows, rng)
        self.padding = self._measure(batches)
        for batch in batches:
            yield batch.tolist()

    def set_epoch(self, epoch: int) -> None:
        """Take the batches of this epoch, until it is called again."""
        self.epoch = epoch

    def _seed(self) -> int | list[int]:
        if self.epoch is None:
            return int(torch.empty((), dtype=torch.int64).random_(generator=self.generator).item())
        seed = torch.initial_seed() if self.generator is None else self.generator.initial_seed()
        return [seed % 2**64, self.epoch]

    def _batches(self, rows: NDArray[np.int64], rng: np.random.Generator) -> list[NDArray[np.int64]]:
        size = self.batch_size
        window = size * WINDOW if self.shuffle else max(1, len(rows))
        batches: list[NDArray[np.int64]] = []
        for start in range(0, len(rows), window):
            some = rows[start : start + window]
            some = some[np.argsort(self.lengths[some], kind="stable")]
            batches += [some[a : a + size] for a in range(0, len(some), size)]
        full = [batch for batch in batches if len(batch) == size]
        last = [batch for batch in batches if len(batch) < size]
        if self.shuffle:
            full = [full[i] for i in rng.permutation(len(full))]
        return full if self.drop_last else full + last

    def _measure(self, batches: list[NDArray[np.int64]]) -> Padding:
        def share(groups: list[NDArray[np.int64]]) -> float:
            padded = sum(int(self.lengths[group].max()) * len(group) for group in groups)
            return 1 - sum(int(self.lengths[group].sum()) for group in groups) / padded if padded else 0.0

        rows = np.random.default_rng(0).permutation(len(self.lengths))
        ungrouped = [rows[a : a + self.batch_size] for a in range(0, len(rows), self.batch_size)]
        return Padding(share(batches), share(ungrouped))
