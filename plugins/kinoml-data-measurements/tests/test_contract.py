"""The backend against the contract of the library, over a table in which every second row is rejected."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import kinoml_data as kd
import numpy as np
import pytest
from kinoml_data.plugin import Backend
from kinoml_data.testing import BackendTests, Example

from kinoml_data_measurements import Measurements

RAW = "raw_value"


class TestMeasurements(BackendTests):
    """The columns that are passed on, of which every second row is kept."""

    def can(self, backend: Backend, capability: str) -> bool:
        return capability not in ("keeps_arrays", "keeps_spec") and super().can(backend, capability)

    def supports(self, backend: Any, array: kd.Array) -> bool:
        return array.dtype not in type(backend.source).unsupported_dtypes

    def make_backend(self, folder: Path) -> Backend:
        source = kd.list_backends()["npz-lazy"](path=folder / "raw.npz")  # type: ignore[call-arg]  # its option
        return Measurements(source=source, by=(), value=RAW, unit="nM", kind="Ki", relation="=")

    def store(self, backend: Any, example: Example) -> Backend:
        rows = {name: [row for row in rows for _ in range(2)] for name, rows in example.rows.items()}
        rows[RAW] = [np.array(value) for value in (1.0, -1.0)] * len(example)
        columns = {**example.columns, RAW: kd.Array("float64")}
        super().store(backend.source, Example(example.name, columns, rows, example.arrays, example.shared))
        return backend

    @pytest.mark.parametrize("method", ["fork"])
    def test_workers_read_what_was_stored(self, shared: Any, method: str) -> None:
        super().test_workers_read_what_was_stored(shared, method)


class TestMeasurementsOverParquet(TestMeasurements):
    """Over a source that decodes blocks of rows, and loads its columns."""

    def make_backend(self, folder: Path) -> Backend:
        source = kd.list_backends()["parquet-awkward"](path=folder / "raw.parquet")  # type: ignore[call-arg]  # its option
        return Measurements(source=source, by=(), value=RAW, unit="nM", kind="Ki", relation="=")
