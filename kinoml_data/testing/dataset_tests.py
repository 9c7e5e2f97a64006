"""The rules for datasets over a backend: samples, worker processes and conversion."""

from __future__ import annotations

import pickle
from pathlib import Path

import pytest

from kinoml_data.backends.npz.backend import NpzLazy
from kinoml_data.contracts.backend import Backend
from kinoml_data.conversion import convert
from kinoml_data.doctor.advice import Origin
from kinoml_data.doctor.examination import examine
from kinoml_data.errors import UnsupportedStoreError
from kinoml_data.testing import examples
from kinoml_data.testing.comparing import same_batch, same_list, same_rows, same_sample, same_store
from kinoml_data.testing.example import Example
from kinoml_data.testing.suite import EACH_EXAMPLE, Shared, Suite


class DatasetTests(Suite):
    """A dataset over the backend contains what was stored."""

    @EACH_EXAMPLE
    def test_a_dataset_contains_what_was_stored(self, shared: Shared, example: Example) -> None:
        example, stored = shared(example)
        with self.dataset(stored, example) as dataset:
            assert len(dataset) == len(example)
            for row in range(min(len(example), 20)):
                same_sample(dataset[row][0], example, row)
            if len(example):
                same_batch(dataset[:][0], example, range(len(example)))
            for name in example.strings:
                same_list(dataset.column(name), example.rows[name], name)
            if self.can(stored, "keeps_arrays"):
                for name, rows in example.arrays.items():
                    if name.startswith("idx_"):
                        same_list(dataset.split(name).rows.tolist(), rows.tolist(), name)

    @pytest.mark.filterwarnings("ignore:This DataLoader will create:UserWarning")  # more workers than cores
    @pytest.mark.parametrize("method", ["fork", "spawn"])
    def test_workers_read_what_was_stored(self, shared: Shared, method: str) -> None:
        example, stored = shared(examples.mixed())
        order = [6, 0, 3, 3, 1, 5, 2, 4]
        with self.dataset(stored, example) as dataset:
            dataset[0]  # files that are open in this process must not affect the workers
            # A spawned process takes seconds to start, so there is one.
            workers = 2 if method == "fork" else 1
            loader = dataset.as_dataloader(
                batch_size=3, sampler=order, num_workers=workers, multiprocessing_context=method, timeout=120
            )
            if method == "fork" and not self.can(stored, "survives_fork"):
                with pytest.raises(UnsupportedStoreError, match="spawn"):
                    list(loader)
                return
            batches = [X for X, _ in loader]
            for number, X in enumerate(batches):
                same_batch(X, example, order[3 * number : 3 * number + 3])
            assert len(batches) == 3

    def test_a_dataset_pickles(self, shared: Shared) -> None:
        example, stored = shared(examples.mixed())
        with self.dataset(stored, example) as dataset, pickle.loads(pickle.dumps(dataset)) as again:
            same_batch(again[:][0], example, range(len(example)))

    @pytest.mark.parametrize("name", ["mixed", "no-rows"])
    def test_the_doctor_examines_what_was_stored(self, shared: Shared, name: str) -> None:
        example, stored = shared(next(example for example in examples.EXAMPLES if example.name == name))
        found = examine(lambda: self.dataset(stored, example), Origin("data"), seconds=0.0)
        assert found.rows == len(example)

    @EACH_EXAMPLE
    def test_conversion_to_npz_lazy_is_lossless(self, shared: Shared, example: Example, tmp_path: Path) -> None:
        example, stored = shared(example)
        copy = NpzLazy(path=tmp_path / "converted.npz")
        with self.dataset(stored, example) as dataset:
            convert(dataset, copy.path)
        same_store(copy, example)

    @EACH_EXAMPLE
    def test_conversion_from_npz_lazy_is_lossless(self, backend: Backend, example: Example, tmp_path: Path) -> None:
        self.needs(backend, "can_write")
        example = self.usable(backend, example)
        source = NpzLazy(path=tmp_path / "source.npz")
        source.write(example.columns, example.batches(), arrays=example.arrays, spec=example.spec)
        convert(source.path, backend.model_dump(mode="json", exclude_defaults=True))
        with backend.open(None) as storage:
            same_rows(storage, example, range(len(example)))
            assert storage.spec is not None or not self.can(backend, "keeps_spec")
