"""What `kinoml-data inspect` shows, for stores that compute their rows."""

from __future__ import annotations

from pathlib import Path

import numpy as np

import kinoml_data as kd
from kinoml_data.cli import summary


def test_shapes_of_computed_columns_are_those_of_a_sample_and_marked_so(tmp_path: Path) -> None:
    (tmp_path / "raw.csv").write_text("text,y\n" + "\n".join(f"{'x' * (1 + i % 5)},{i}" for i in range(50)))
    spec = {
        "columns": {"letters": {"dtype": "uint8", "shape": ["*"]}, "y": {"dtype": "int64"}},
        "X": "letters",
        "y": "y",
        "storage": {"backend": "featurize-on-access", "source": {"backend": "csv", "path": str(tmp_path / "raw.csv")}},
    }
    dataset = kd.load_dataset(spec, featurizer=lambda text: np.frombuffer(text.encode(), np.uint8))
    ((letters, whole), (y, _)) = summary.columns(dataset, 3)
    assert letters[4:] == ("(1-3)", "~100") and not whole
    assert y[4:] == ("", "400")
    ((letters, whole), _) = summary.columns(dataset, 1000)
    assert letters[4:] == ("(1-5)", "150") and whole
    ((letters, whole), _) = summary.columns(dataset, 0)
    assert letters[4] == "(*)" and not whole
