"""`as_dataloader`: a torch `DataLoader` set up for the way a dataset is stored."""

from __future__ import annotations

import multiprocessing
from collections.abc import Callable
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch.utils.data import DataLoader, Dataset, RandomSampler

from kinoml_data.errors import SpecError
from kinoml_data.loading import shared_ring
from kinoml_data.loading.prefetch import PrefetchLoader
from kinoml_data.loading.samplers import LengthBatchSampler

WORKER_TIMEOUT = 300.0
SLOT_BYTES = 16 << 20  # of address space; memory is used as far as batches fill it


def make(
    dataset: Dataset[Any],
    collate_fn: Callable[[Any], Any],
    *,
    seed: int | None,
    prefetch: int,
    lengths: NDArray[np.int64] | None,
    kwargs: dict[str, Any],
) -> DataLoader[Any]:
    """See `XyDataset.as_dataloader`; `lengths` is int64 `(rows,)`, by which rows are grouped."""
    if seed is not None:
        if kwargs.get("generator") is not None:
            raise SpecError("give either a seed or a generator")
        kwargs["generator"] = torch.Generator().manual_seed(seed)
        # Of their own, since DataLoader draws from its generator too, at other times with workers than without.
        if kwargs.get("shuffle") and not {"sampler", "batch_sampler"} & {*kwargs} and lengths is None:
            rows = range(len(dataset))  # type: ignore[arg-type]  # torch's Dataset declares no length, ours has one
            kwargs["sampler"] = RandomSampler(rows, generator=torch.Generator().manual_seed(seed))
            del kwargs["shuffle"]
    if lengths is not None:
        kwargs["batch_sampler"] = _length_sampler(lengths, seed, kwargs)
    kwargs = {"collate_fn": collate_fn} | kwargs
    workers = kwargs.get("num_workers", 0)
    if workers:
        kwargs = _for_workers(kwargs)
    if not prefetch:
        return DataLoader(dataset, **kwargs)
    if workers:
        raise SpecError("prefetch is for loading without workers; theirs is prefetch_factor")
    loader = PrefetchLoader(dataset, **kwargs)
    loader.prefetch = prefetch
    return loader


def _for_workers(kwargs: dict[str, Any]) -> dict[str, Any]:
    defaults: dict[str, Any] = {"persistent_workers": True, "timeout": WORKER_TIMEOUT}
    kwargs = defaults | kwargs
    if shared_ring.available():
        context = kwargs.get("multiprocessing_context")
        if context is None or isinstance(context, str):
            context = kwargs["multiprocessing_context"] = multiprocessing.get_context(context)
        slots = kwargs["num_workers"] * ((kwargs.get("prefetch_factor") or 2) + 1)
        kwargs["collate_fn"] = shared_ring.RingCollate(
            kwargs["collate_fn"], shared_ring.Ring(slots, SLOT_BYTES, context)
        )
    return kwargs


def _length_sampler(lengths: NDArray[np.int64], seed: int | None, kwargs: dict[str, Any]) -> LengthBatchSampler:
    if other := [name for name in ("sampler", "batch_sampler") if kwargs.pop(name, None) is not None]:
        raise SpecError(f"group_by_length makes the batches itself; leave out {other[0]}")
    return LengthBatchSampler(
        lengths,
        kwargs.pop("batch_size", 1),
        shuffle=bool(kwargs.pop("shuffle", False)),
        drop_last=bool(kwargs.pop("drop_last", False)),
        generator=kwargs.get("generator") if seed is None else torch.Generator().manual_seed(seed),
    )
