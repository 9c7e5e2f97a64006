"""Why a batch takes long: each function measures one reason, and yields an advice if a change is worth it."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from functools import partial
from typing import Any

from pydantic import BaseModel

from kinoml_data.backends.npz.backend import NpzLazy
from kinoml_data.doctor.advice import Advice, saves
from kinoml_data.doctor.case import Case, least_times
from kinoml_data.errors import count_of, format_size
from kinoml_data.factory import IN_MEMORY

# What a change has to save, so that it is worth the effort.
SECONDS_PER_BATCH = 1e-3
SECONDS_TO_FIRST_BATCH = 0.5
SECONDS_IN_FIRST_EPOCH = 0.5


def computed_features(case: Case) -> Iterator[Advice]:
    """Features that each run computes anew, or even each epoch if they are not remembered."""
    now, flat = case.times["now"], case.times["flat"]
    before = now + case.compute * len(case.batches[0])
    is_cached = '"cache_path"' in case.dataset.spec.storage.model_dump_json()
    if case.calls and not is_cached and saves(before, flat, SECONDS_PER_BATCH):
        each, when = ("run", " in the first epoch") if now < before / 2 else ("epoch", "")
        yield Advice(
            f"each {each} computes the features of {count_of(case.calls, 'distinct input')}: {_batch(case)} takes "
            f"{_time(before)} on average{when}, and {_time(flat)} from a file with the features",
            case.origin.command("features", "--workers", "2"),
            before / flat,
            f"time of a batch{when}",
        )


def layout(case: Case) -> Iterator[Advice]:
    """A container from which a batch takes long: one member per row, or compressed."""
    now, flat = case.times["now"], case.times["flat"]
    is_flat = case.dataset.spec.storage.backend == NpzLazy.name and "layout" not in dict(case.storage.facts())
    if case.calls or is_flat:
        return
    if saves(now, flat, SECONDS_PER_BATCH):
        yield Advice(
            f"{_batch(case)} takes {_time(now)} from {_container(case)}, and "
            f"{_time(flat)} from a flat NPZ file with the same rows",
            case.origin.command("flat"),
            now / flat,
            "time of a batch",
        )
    elif (
        case.first is not None
        and len(case.sample) >= case.batch_size
        and saves(case.first, case.first_flat, SECONDS_TO_FIRST_BATCH)
    ):
        yield Advice(
            f"it takes {_time(case.first)} to open {_container(case)} and to read a first batch, and "
            f"{_time(case.first_flat)} from a flat NPZ file",
            case.origin.command("flat"),
            case.first / case.first_flat,
            "time to the first batch",
        )


def in_memory(case: Case) -> Iterator[Advice]:
    """A store from which each batch takes long, or the first read of each row, although all rows fit into memory."""
    is_there = case.storage.shareable or case.storage.devices
    if case.dataset.spec.X is None or is_there or case.calls or not case.fits_in_memory:
        return
    now, memory, code = case.times["now"], case.times["memory"], case.origin.code(case.dataset, backend=IN_MEMORY)
    size, loaded, batches = format_size(case.nbytes), case.in_order + memory, case.rows / len(case.batches[0])
    if saves(now, memory, SECONDS_PER_BATCH):
        yield Advice(
            f"{_batch(case)} takes {_time(now)} from {_container(case)}, and {_time(memory)} from memory, in which all "
            f"rows take {size}",
            code,
            now / memory,
            "time of a batch",
        )
    elif saves(case.cold, loaded, max(SECONDS_PER_BATCH, SECONDS_IN_FIRST_EPOCH / batches)):
        yield Advice(
            f"{_batch(case)} takes {_time(case.cold)} when its rows are first read from {_container(case)}, and "
            f"{_time(now)} later; as many rows in the order of the store take {_time(case.in_order)}, and all rows "
            f"take {size} in memory",
            code,
            case.cold / loaded,
            "time of a batch in the first epoch",
        )


def workers(case: Case) -> Iterator[Advice]:
    """Worker processes that cost more than they give, or the reverse."""
    backend = case.dataset._session.backend
    if case.dataset.spec.X is None or case.calls or case.storage.devices or not _survives_fork(backend):
        return
    if not case.workers and case.times["now"] < SECONDS_PER_BATCH:
        return
    numbers = (case.workers, 0) if case.workers else (0, 2)
    loaders = [case.view.as_dataloader(batch_size=len(case.batches[0]), num_workers=number) for number in numbers]
    epochs = {str(number): partial(_epoch, loader) for number, loader in zip(numbers, loaders, strict=True)}
    times = least_times(epochs, [None], case.seconds / 4)
    now, other = (seconds / len(loaders[0]) for seconds in times.values())
    if saves(now, other, 0 if case.workers else SECONDS_PER_BATCH):
        yield Advice(
            f"{_batch(case)} takes {_time(now)} with {count_of(numbers[0], 'worker')}, "
            f"and {_time(other)} with {count_of(numbers[1], 'worker')}",
            case.loader_code(num_workers=numbers[1]),
            now / other,
            "time of a batch",
        )


def _survives_fork(backend: Any) -> bool:
    """True if a forked process can open a backend and every backend among its fields."""
    if isinstance(backend, BaseModel):
        parts = [getattr(backend, name) for name in type(backend).model_fields]
        return getattr(backend, "survives_fork", True) and all(map(_survives_fork, parts))
    return not isinstance(backend, Mapping) or all(map(_survives_fork, backend.values()))


def _epoch(loader: Any, _: None) -> None:
    for _ in loader:
        pass  # reading the batches is what is measured


def _time(seconds: float) -> str:
    return f"{seconds:.1f} s" if seconds >= 1 else f"{seconds * 1e3:.3g} ms"


def _batch(case: Case) -> str:
    return f"a batch of {count_of(len(case.batches[0]), 'row')}"


def _container(case: Case) -> str:
    """The store and its layout, as part of a sentence."""
    facts = dict(case.storage.facts())
    backend = f"the backend {case.dataset.spec.storage.backend}"
    return f"{backend} ({facts['layout']})" if "layout" in facts else backend
