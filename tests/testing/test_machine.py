"""Random datasets: they fit their columns, and the random uses of a store find a storage that is wrong."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from hypothesis import HealthCheck, Phase, given, settings
from hypothesis.stateful import run_state_machine_as_test

from kinoml_data import ArrayStorage, Backend, Storage
from kinoml_data.layouts.flat_writing import flat_arrays
from kinoml_data.testing.comparing import same_rows
from kinoml_data.testing.example import Example
from kinoml_data.testing.machine import Reader, examples


def storage_of(example: Example) -> ArrayStorage:
    return ArrayStorage(flat_arrays(example.columns, example.batches(), arrays=example.arrays))


@settings(max_examples=20, deadline=None)
@given(examples(["int8", "float64"], lambda array: len(array.shape) < 3))
def test_a_random_dataset_fits_its_columns_and_the_limits(example: Example) -> None:
    assert example.numeric and next(iter(example.columns)) in example.numeric
    assert {example.columns[name].dtype for name in example.numeric} <= {"int8", "float64"}
    assert all(len(array.shape) < 3 for array in example.columns.values())
    if len(example):
        storage = storage_of(example)
        same_rows(storage, example, range(len(example)))


SETTINGS = settings(
    max_examples=20,
    stateful_step_count=8,
    deadline=None,
    database=None,
    report_multiple_bugs=False,
    phases=[Phase.generate],
    derandomize=True,
    suppress_health_check=list(HealthCheck),
)


class Memory(Backend):
    """Opens a storage over the example that was stored last."""

    name = "memory-of-machine"
    storage: Any = None

    def open(self, columns: Any) -> Storage:
        return self.storage


class ForgetsOrder(ArrayStorage):
    """Gives the rows in the order of the store."""

    def read(self, rows: Any, columns: Any) -> Any:
        return super().read(np.sort(rows), columns)


@pytest.mark.parametrize("storage_class", [ArrayStorage, ForgetsOrder])
def test_random_uses_find_rows_in_another_order(storage_class: type[ArrayStorage]) -> None:
    def store(example: Example) -> Backend:
        flat = flat_arrays(example.columns, example.batches(), arrays=example.arrays)
        return Memory(storage=storage_class(flat))

    def run() -> None:
        run_state_machine_as_test(
            lambda: Reader(store, examples(["int16"]), overwrite=False),
            settings=SETTINGS,
        )

    if storage_class is ArrayStorage:
        run()
    else:
        with pytest.raises(AssertionError):
            run()
