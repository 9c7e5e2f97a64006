"""The rules for datasets over a backend: samples, worker processes and conversion."""

from __future__ import annotations

import json
import pickle
from dataclasses import replace
from html import escape
from pathlib import Path
from typing import Any

import pytest

from kinoml_data.backends.npz.backend import NpzLazy
from kinoml_data.contracts.backend import Backend
from kinoml_data.conversion import convert
from kinoml_data.dataset.dataset import XyDataset
from kinoml_data.doctor.advice import Origin
from kinoml_data.doctor.examination import examine
from kinoml_data.errors import UnsupportedStoreError
from kinoml_data.factory import load_dataset
from kinoml_data.spec.parts import ComputedSplits
from kinoml_data.testing import examples
from kinoml_data.testing.comparing import fingerprint_of, same_batch, same_list, same_rows, same_sample, same_store
from kinoml_data.testing.example import Example
from kinoml_data.testing.suite import EACH_EXAMPLE, Shared, Suite

SPLITS: dict[str, dict[str, Any]] = {  # of the rows of `examples.labelled`
    "chance": {"ratios": {"train": 0.7, "val": 0.1, "test": 0.2}, "seed": 1},
    "texts": {"folds": 3, "ratios": {"test": 0.1}, "by": "ligand", "seed": 2},
    "numbers": {"folds": 3, "by": "kinase"},
    "two-sides": {"folds": 2, "by": ["atoms", "kinase"]},
    "order-of-numbers": {"ratios": {"train": 0.6, "test": 0.4}, "order": "year"},
    "order-of-texts": {"ratios": {"train": 0.6, "test": 0.4}, "order": "id", "apart": "id"},
    "labels": {"labels": {"column": "subset"}, "folds": 4},
    "range": {"labels": {"test": {"range": [3, 9]}}, "ratios": {"train": 0.8, "val": 0.2}},
}


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

    @EACH_EXAMPLE
    def test_the_fingerprint_is_that_of_the_rows(self, shared: Shared, example: Example) -> None:
        example, stored = shared(example)
        arrays = example.arrays if self.can(stored, "keeps_arrays") else {}
        with self.dataset(stored, example) as dataset:
            splits = {name: rows for name, rows in arrays.items() if name.startswith("idx_")}
            assert dataset.fingerprint() == fingerprint_of(example, splits)

    @pytest.mark.parametrize("splits", SPLITS.values(), ids=SPLITS.keys())
    def test_splits_do_not_depend_on_the_backend(
        self, backend: Backend, shared: Shared, splits: dict[str, Any], tmp_path: Path
    ) -> None:
        example, stored = shared(examples.labelled())
        if not set(ComputedSplits.model_validate_json(json.dumps(splits)).columns) <= set(example.columns):
            pytest.skip("the backend does not support the columns that the splits are made from")
        example, elsewhere = replace(example, splits=splits), NpzLazy(path=tmp_path / "elsewhere.npz")
        elsewhere.write(example.columns, example.batches(), spec=example.spec)
        with load_dataset(self.spec(elsewhere, example)) as expected, self.dataset(stored, example) as dataset:
            _same_splits(dataset, expected)
            _same_splits(load_dataset(convert(dataset, tmp_path / "copy.npz")), expected)
            if self.can(backend, "can_write") and self.can(backend, "keeps_arrays"):
                options = backend.model_dump(mode="json", exclude_defaults=True)
                _same_splits(load_dataset(convert(expected, options)), expected)

    @EACH_EXAMPLE
    def test_a_notebook_shows_a_dataset_without_reading_rows(
        self, shared: Shared, example: Example, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        example, stored = shared(example)
        with self.dataset(stored, example) as dataset:
            monkeypatch.setattr(type(dataset._session.binding.storage), "read", None)
            html = dataset._repr_html_()
            assert f"{len(example):,} row" in html
            for name in dataset.spec.columns:
                assert f"<code>{escape(name)}</code>" in html, name

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

    @pytest.mark.parametrize("name", ["mixed", "no-rows"])
    def test_a_report_shows_every_column(self, shared: Shared, name: str, tmp_path: Path) -> None:
        pytest.importorskip("matplotlib", reason="a report needs matplotlib")
        example, stored = shared(next(example for example in examples.EXAMPLES if example.name == name))
        with self.dataset(stored, example) as dataset:
            dataset.report(tmp_path / "report.html")
        page = (tmp_path / "report.html").read_text("utf-8")
        assert f"{len(example):,} rows" in page
        for column in example.columns:
            assert f"<code>{escape(column)}</code>" in page, column

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


def _same_splits(dataset: XyDataset, expected: XyDataset) -> None:
    assert list(dataset.indices) == list(expected.indices)
    for name, positions in expected.indices.items():
        same_list(dataset.indices[name].tolist(), positions.tolist(), name)
    assert dataset.fingerprint() == expected.fingerprint()
