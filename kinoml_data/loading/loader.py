"""`as_dataloader`: a torch `DataLoader` with the defaults that suit this library's datasets."""

from __future__ import annotations

import inspect
import multiprocessing
import operator
from collections.abc import Callable
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch.utils.data import DataLoader, Dataset
from torch.utils.data._utils.pin_memory import pin_memory

from kinoml_data.contracts.blocks import Blocks
from kinoml_data.errors import SpecError, one_line, quoted, unknown
from kinoml_data.loading import shared_ring
from kinoml_data.loading.prefetch import PrefetchLoader
from kinoml_data.loading.samplers import ArrayLoader, BlockBatchSampler, LengthBatchSampler, RandomSampler
from kinoml_data.loading.workers import WorkerLoader

WORKER_TIMEOUT = 300.0
SLOT_BYTES = 16 << 20  # bytes of address space; only the parts that batches fill take memory


def make(
    dataset: Dataset[Any],
    collate_fn: Callable[[Any], Any],
    *,
    seed: int | None,
    prefetch: int,
    rows: NDArray[np.int64] | None,
    blocks: Blocks | None,
    lengths: NDArray[np.int64] | None,
    nested: Callable[[], Any] | None,
    kwargs: dict[str, Any],
) -> DataLoader[Any]:
    """The loader of `XyDataset.as_dataloader`.

    Args:
        dataset: the dataset.
        collate_fn, seed, prefetch, kwargs: see `XyDataset.as_dataloader`.
        rows: int64 `(len(dataset),)`, the row in the storage of each position; None if each position is its row.
        blocks: the blocks of the storage; None if a row can be read by itself.
        lengths: int64 `(len(dataset),)`, by which rows are grouped; None if they are not.
        nested: makes a batch without rows; None if batches contain no nested tensors.

    Raises:
        SpecError: arguments cannot be combined, `DataLoader` does not have an argument of this name, or several
            processes train together and rows are shuffled without a sampler.
    """
    known = list(inspect.signature(DataLoader.__init__).parameters)[2:]
    for name in kwargs:
        if name not in known:
            raise SpecError(unknown(name, [*known, "seed", "prefetch", "group_by_length", "collate"], "argument"))
    own_order = {name for name in ("sampler", "batch_sampler") if kwargs.get(name) is not None}
    if kwargs.get("shuffle") and not own_order and (ranks := _ranks()) > 1:
        raise SpecError(
            f"shuffle: {ranks} processes train together, and each of them would read all rows; "
            + (
                "group_by_length cannot distribute them"
                if lengths is not None
                else "write `sampler=torch.utils.data.DistributedSampler(dataset)`, or `sampler=torch.utils.data."
                "RandomSampler(dataset)` if another library distributes the rows"
            )
        )
    if seed is not None:
        seed = _checked_seed(seed)
        if kwargs.get("generator") is not None:
            raise SpecError("give either seed or generator, and not both")
        kwargs["generator"] = torch.Generator().manual_seed(seed)
    if kwargs.get("shuffle") and not own_order and lengths is None and blocks is None:
        length = len(dataset)  # type: ignore[arg-type]  # torch's Dataset declares no length, ours has one
        # The seeded order has a generator of its own, because DataLoader also draws from its generator, and at other
        # times with workers than without.
        generator = kwargs.get("generator") if seed is None else torch.Generator().manual_seed(seed)
        kwargs["sampler"] = RandomSampler(length, generator)
        del kwargs["shuffle"]
    if lengths is not None:
        kwargs["batch_sampler"] = _length_sampler(lengths, seed, kwargs)
    else:
        kwargs = shuffled_by_blocks(blocks, rows, seed, kwargs)
    kwargs = {"collate_fn": collate_fn} | kwargs
    if kwargs.get("pin_memory") and nested and torch.cuda.is_available():
        _require_pinnable(nested())
    if kwargs.get("num_workers"):
        if prefetch:
            raise SpecError("prefetch is for loading without workers; use prefetch_factor with num_workers")
        return WorkerLoader(dataset, **_with_worker_defaults(kwargs))
    if not prefetch:
        return ArrayLoader(dataset, **kwargs)
    loader = PrefetchLoader(dataset, **kwargs)
    loader.prefetch = prefetch
    return loader


def _require_pinnable(batch: Any) -> None:
    try:
        pin_memory(batch)  # type: ignore[no-untyped-call]  # torch's
    except (ValueError, RuntimeError) as error:
        raise SpecError(
            f"pin_memory: torch cannot pin these nested tensors ({one_line(error)}); use the form packed"
        ) from None


def shuffled_by_blocks(
    blocks: Blocks | None, rows: NDArray[np.int64] | None, seed: int | None, kwargs: dict[str, Any]
) -> dict[str, Any]:
    """The arguments of a `DataLoader`, with a sampler of blocks if the storage has blocks and all rows are shuffled.

    Raises:
        SpecError: the batch size is neither None nor an integer of at least 1.
    """
    own_order = any(kwargs.get(name) is not None for name in ("sampler", "batch_sampler"))
    if blocks is None or own_order or not kwargs.get("shuffle"):
        return kwargs
    kwargs = {name: value for name, value in kwargs.items() if name not in ("shuffle", "sampler", "batch_sampler")}
    size = kwargs.pop("batch_size", 1)
    if size is not None and (not isinstance(size, int) or size < 1):
        raise SpecError(f"batch_size: {quoted(size)} is not an integer of at least 1")
    order = BlockBatchSampler(
        blocks,
        rows,
        size,
        drop_last=bool(kwargs.pop("drop_last", False)),
        generator=kwargs.get("generator") if seed is None else torch.Generator().manual_seed(seed),
    )
    return kwargs | ({"sampler": order, "batch_size": None} if size is None else {"batch_sampler": order})


def _ranks() -> int:
    """The number of processes that `torch.distributed` trains with."""
    distributed = torch.distributed
    return distributed.get_world_size() if distributed.is_available() and distributed.is_initialized() else 1


def _checked_seed(seed: Any) -> int:
    """The seed as an int that torch takes.

    Raises:
        SpecError: the seed is not an integer of 64 bits.
    """
    try:
        number = operator.index(seed)
    except TypeError:
        raise SpecError(f"seed: {quoted(seed)} is not an integer") from None
    if not -(2**63) <= number < 2**64:
        raise SpecError(f"seed: {number} does not fit into 64 bits")
    return number


def _with_worker_defaults(kwargs: dict[str, Any]) -> dict[str, Any]:
    kwargs = {"persistent_workers": True, "timeout": WORKER_TIMEOUT} | kwargs
    if shared_ring.available():
        context = kwargs.get("multiprocessing_context")
        if context is None or isinstance(context, str):
            context = kwargs["multiprocessing_context"] = multiprocessing.get_context(context)
        slots = kwargs["num_workers"] * ((kwargs.get("prefetch_factor") or 2) + 1)
        ring = shared_ring.Ring(slots, SLOT_BYTES, context)
        kwargs["collate_fn"] = shared_ring.RingCollate(kwargs["collate_fn"], ring)
    return kwargs


def _length_sampler(lengths: NDArray[np.int64], seed: int | None, kwargs: dict[str, Any]) -> LengthBatchSampler:
    if samplers := [name for name in ("sampler", "batch_sampler") if kwargs.pop(name, None) is not None]:
        raise SpecError(
            f"group_by_length cannot be combined with {samplers[0]}; leave one of them out. If a Lightning trainer put "
            "it in, write `Trainer(use_distributed_sampler=False)`"
        )
    size = kwargs.get("batch_size", 1)
    if not isinstance(size, int) or size < 1:
        raise SpecError(f"group_by_length needs a batch_size of at least 1, not {quoted(size)}")
    return LengthBatchSampler(
        lengths,
        kwargs.pop("batch_size", 1),
        shuffle=bool(kwargs.pop("shuffle", False)),
        drop_last=bool(kwargs.pop("drop_last", False)),
        generator=kwargs.get("generator") if seed is None else torch.Generator().manual_seed(seed),
    )
