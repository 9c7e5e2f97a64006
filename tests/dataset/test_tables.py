"""A dataset as a DataFrame."""

from __future__ import annotations

import sys
from typing import Any

import numpy as np
import pytest

import kinoml_data as kd
from kinoml_data.errors import PluginLoadError

DATA: dict[str, Any] = {
    "fp": np.array([[1, 0], [0, 1], [1, 1]], np.uint8),
    "atoms": [np.ones((2, 3)), np.zeros((0, 3)), np.full((1, 3), 7.0)],
    "same": [[1, 2], [3, 4], [5, 6]],
    "name": ["CCO", "", "é"],
    "y": np.array([1.5, np.nan, 2.5], np.float32),
}
SPEC = {
    "X": ["fp", "atoms", "same"],
    "y": "y",
    "meta": ["name"],
    "storage": {"backend": "in-memory"},
    "splits": {"test": {"rows": [2, 0]}},
}


def test_a_frame_has_every_column_with_arrays_in_their_shapes() -> None:
    pd = pytest.importorskip("pandas")
    dataset = kd.load_dataset(SPEC, data=DATA)
    frame = dataset.to_pandas()
    assert isinstance(frame, pd.DataFrame) and list(frame.columns) == ["fp", "atoms", "same", "y", "name"]
    assert frame["y"].dtype == np.float32 and np.isnan(frame["y"][1]) and frame["name"].tolist() == DATA["name"]
    for name in ("fp", "atoms", "same"):
        for row, expected in enumerate(DATA[name]):
            found = frame[name][row]
            assert isinstance(found, np.ndarray)
            np.testing.assert_array_equal(found, expected)
    assert frame["atoms"][1].shape == (0, 3)


def test_the_head_is_the_beginning_of_a_dataset_or_a_view() -> None:
    pytest.importorskip("pandas")
    dataset = kd.load_dataset(SPEC, data=DATA)
    assert dataset.head(2)["name"].tolist() == ["CCO", ""]
    assert len(dataset.head()) == 3 and len(dataset.head(0)) == 0
    assert dataset.split("test").head(1)["name"].tolist() == ["é"]


def test_without_pandas_the_error_says_what_to_install(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "pandas", None)
    with pytest.raises(PluginLoadError, match="pip install pandas"):
        kd.load_dataset(SPEC, data=DATA).head()
