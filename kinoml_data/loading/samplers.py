"""The order of rows: random with one draw an epoch, by blocks, and batches of rows of similar length."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch.utils.data import BatchSampler, DataLoader, Sampler, SequentialSampler

from kinoml_data.contracts.blocks import Blocks

WINDOW = 50  # batches whose rows are sorted together: enough for little padding, few enough for a random order


class RandomSampler(Sampler[int]):
    """All rows in random order, which is drawn once, as an epoch begins.

    torch's `RandomSampler` draws again as an epoch ends, so that the next order would depend on whether the epoch was
    read to its end, and with workers, which read ahead, on how far. It also keeps a list of all rows as Python ints.

    Args:
        rows: the number of rows.
        generator: the source of the random order; by default torch's own.
    """

    def __init__(self, rows: int, generator: torch.Generator | None = None) -> None:
        self.rows, self.generator = rows, generator

    def __len__(self) -> int:
        return self.rows

    def __iter__(self) -> Iterator[int]:
        # As this is a generator function, it draws only when an epoch begins: DataLoader makes two iterators if it has
        # workers, but uses only one of them.
        yield from map(int, self.order())

    def order(self) -> NDArray[np.int64]:
        """The rows of an epoch: int64 `(rows,)`."""
        return torch.randperm(self.rows, generator=self.generator).numpy()


class ArrayBatches:
    """The batches of a torch `BatchSampler` as int64 arrays, if the sampler is sequential or a `RandomSampler`.

    Such a batch needs no Python int for each row.
    """

    def __init__(self, batches: BatchSampler) -> None:
        self.batches = batches

    def __len__(self) -> int:
        return len(self.batches)

    def __iter__(self) -> Iterator[Any]:
        sampler, size = self.batches.sampler, self.batches.batch_size
        if type(sampler) is SequentialSampler:
            order = np.arange(len(sampler))
        elif type(sampler) is RandomSampler:
            order = sampler.order()
        else:
            yield from self.batches
            return
        stop = len(order) - len(order) % size if self.batches.drop_last else len(order)
        for start in range(0, stop, size):
            yield order[start : start + size]


class ArrayLoader(DataLoader[Any]):
    """A `DataLoader` that asks the dataset for batches by arrays of row numbers if the sampler allows it."""

    @property
    def _index_sampler(self) -> Any:  # torch's, from which the row numbers of each batch come
        batches = super()._index_sampler
        return ArrayBatches(batches) if type(batches) is BatchSampler else batches


class _RandomBatches(Sampler[Any]):
    """Batches in random order. One seed is drawn as an epoch begins.

    Args:
        generator: the source of the random order; by default torch's own.
    """

    def __init__(self, generator: torch.Generator | None) -> None:
        self.generator = generator
        self.epoch: int | None = None

    def set_epoch(self, epoch: int) -> None:
        """Yield the batches of this epoch until `set_epoch` is called again.

        They depend only on the generator's seed and the epoch, not on what was drawn before, so that a run can be
        resumed.
        """
        self.epoch = epoch

    def _rng(self) -> np.random.Generator:
        if self.epoch is None:
            return np.random.default_rng(
                int(torch.empty((), dtype=torch.int64).random_(generator=self.generator).item())
            )
        seed = torch.initial_seed() if self.generator is None else self.generator.initial_seed()
        return np.random.default_rng([seed % 2**64, self.epoch])


class BlockBatchSampler(_RandomBatches):
    """Batches for a storage that decodes blocks of rows, in an order in which each block is decoded once.

    Blocks are shuffled. As many blocks as the storage keeps decoded form a window, whose rows are shuffled together. A
    window begins with one row of each of its blocks, so that they are decoded in their order. Rows that do not fill a
    batch become the first ones of the next window; they are rows of its last block only, or of several blocks if those
    are smaller than a batch.

    Every row occurs once per epoch. After `set_epoch`, the batches depend only on the generator's seed and the epoch.

    Args:
        blocks: the blocks of the storage.
        rows: int64 `(n,)`, the row in the storage of each position; None if each position is its row.
        batch_size: positions per batch; None for single positions instead of batches.
        drop_last: leave out the last batch if it is not full.
        generator: the source of the random order; by default torch's own.

    Attributes:
        window: the number of the window that the latest batch belongs to.
    """

    def __init__(
        self,
        blocks: Blocks,
        rows: NDArray[np.int64] | None,
        batch_size: int | None,
        *,
        drop_last: bool = False,
        generator: torch.Generator | None = None,
    ) -> None:
        super().__init__(generator)
        self.batch_size, self.drop_last, self.window = batch_size, drop_last, 0
        self._kept = blocks.kept
        # The positions of block i are `_positions[_starts[i] : _starts[i + 1]]`, or this range itself.
        self._positions, self._starts = None, blocks.bounds
        if rows is not None:
            block = np.searchsorted(blocks.bounds, rows, side="right") - 1
            self._positions = np.argsort(block, kind="stable")
            self._starts = np.searchsorted(block[self._positions], np.arange(len(blocks.bounds)))
        used = np.flatnonzero(np.diff(self._starts))
        begins = np.ones(len(blocks.bounds) - 1, bool) if blocks.follows is None else ~blocks.follows
        self._chains = np.split(used, np.flatnonzero(np.diff(np.cumsum(begins)[used])) + 1)

    def __len__(self) -> int:
        rows, size = int(self._starts[-1]), self.batch_size or 1
        return rows // size if self.drop_last else -(-rows // size)

    def __iter__(self) -> Iterator[Any]:
        for batch in self._batches(self._rng()):
            yield batch if self.batch_size is not None else int(batch[0])

    def _batches(self, rng: np.random.Generator) -> Iterator[NDArray[np.int64]]:
        size, rest = self.batch_size or 1, np.empty(0, np.int64)
        blocks = np.concatenate([self._chains[i] for i in rng.permutation(len(self._chains))])
        for first in range(0, len(blocks), self._kept):
            self.window = first // self._kept
            parts = [rng.permutation(self._block(block)) for block in blocks[first : first + self._kept]]
            rows = np.concatenate([rest, *(part[:1] for part in parts), *(part[1:] for part in parts)])
            full = len(rows) - len(rows) % size
            rng.shuffle(rows[len(rest) + len(parts) : full])
            yield from rows[:full].reshape(-1, size)
            rest = rows[full:]
        if len(rest) and not self.drop_last:
            yield rest

    def _block(self, block: int) -> NDArray[np.int64]:
        start, stop = self._starts[block], self._starts[block + 1]
        return np.arange(start, stop) if self._positions is None else self._positions[start:stop]


class LengthBatchSampler(_RandomBatches):
    """Batches of rows of similar length, in random order.

    Rows are shuffled, sorted by length within windows of 50 batches and cut into batches, which are then shuffled.
    Every row occurs once per epoch, and the batches differ from epoch to epoch. After `set_epoch`, they depend only on
    the generator's seed and the epoch.

    Args:
        lengths: int64 `(rows,)`, the length of each row.
        batch_size: rows per batch.
        shuffle: if False, rows are sorted from short to long, in the same order in every epoch.
        drop_last: leave out the last batch if it is not full.
        generator: the source of the random order; by default torch's own.
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
        super().__init__(generator)
        self.lengths, self.batch_size, self.shuffle, self.drop_last = lengths, batch_size, shuffle, drop_last

    def __len__(self) -> int:
        rows = len(self.lengths)
        return rows // self.batch_size if self.drop_last else -(-rows // self.batch_size)

    def __iter__(self) -> Iterator[NDArray[np.int64]]:
        # A generator function, for the same reason as that of `RandomSampler`.
        yield from self._batches(self._rng() if self.shuffle else np.random.default_rng(0))

    def _batches(self, rng: np.random.Generator) -> list[NDArray[np.int64]]:
        size, rows = self.batch_size, np.arange(len(self.lengths))
        if self.shuffle:
            rows = rng.permutation(rows)
        window = size * WINDOW if self.shuffle else max(1, len(rows))
        batches: list[NDArray[np.int64]] = []
        for start in range(0, len(rows), window):
            part = rows[start : start + window]
            part = part[np.argsort(self.lengths[part], kind="stable")]
            batches += [part[first : first + size] for first in range(0, len(part), size)]
        full = [batch for batch in batches if len(batch) == size]
        last = [batch for batch in batches if len(batch) < size]
        if self.shuffle:
            full = [full[i] for i in rng.permutation(len(full))]
        return full if self.drop_last else full + last
