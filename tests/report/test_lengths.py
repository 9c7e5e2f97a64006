"""What a report says about ragged columns: their lengths, and the padding of their batches."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

import kinoml_data as kd
from kinoml_data.dataset import description
from kinoml_data.report import lengths
from kinoml_data.report.lengths import lengths_html
from tests.report.pages import cells, mixed


def shown(dataset: kd.XyDataset, sample: int = 1000) -> str:
    return lengths_html(dataset, description.columns(dataset, sample), sample)


def test_lengths_are_those_of_every_row() -> None:
    header, row, *_ = cells(shown(mixed()))
    found = dict(zip(header, row, strict=True))
    assert (found["column"], found["axis"], found["rows"]) == ("atoms", "axis 0", "6")
    assert (found["least"], found["median"], found["greatest"]) == ("1", "3.5", "10")


def test_the_padding_is_that_of_the_batches_of_a_loader(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(lengths, "BATCH", 4)
    rng = np.random.default_rng(0)
    dataset = kd.from_arrays([np.ones((n, 3), "f4") for n in rng.integers(1, 30, 40)], np.zeros(40))
    *_, header, row = cells(shown(dataset))
    found = dict(zip(header, row, strict=True))
    loader = dataset.as_dataloader(batch_size=4, shuffle=True, seed=0, collate="pad", group_by_length="X")
    batches = [X for X, _ in loader]
    share = 1 - sum(float(X.sum()) for X in batches) / sum(X.numel() for X in batches)
    assert abs(float(found["similar lengths"].rstrip("%")) - 100 * share) < 5
    assert 20 < float(found["random batches"].rstrip("%")) < 70


def test_the_share_of_padding_is_exact() -> None:
    *_, header, row = cells(shown(mixed()))
    found = dict(zip(header, row, strict=True))
    values, padded = (1 + 2 + 3 + 4 + 5 + 10) * 2, 6 * 10 * 2
    assert found["random batches"] == f"{1 - values / padded:.0%}" == found["similar lengths"]
    assert found["a padded batch"] == f"{padded * 4} B"


def test_a_view_shows_its_own_lengths() -> None:
    header, row, *_ = cells(shown(mixed().select([0, 1])))
    assert dict(zip(header, row, strict=True))["greatest"] == "2"


def test_fixed_columns_texts_and_datasets_without_rows_have_no_lengths() -> None:
    assert shown(kd.from_arrays(np.zeros((3, 2)))) == ""
    assert shown(mixed().select([])) == ""


def test_lengths_that_the_store_does_not_know_are_those_of_a_sample(tmp_path: Path) -> None:
    def atoms(text: str) -> tuple[np.ndarray]:
        return (np.zeros(len(text), "f4"),)

    (tmp_path / "t.csv").write_text("y,text\n" + "".join(f"{n},{'C' * n}\n" for n in range(1, 10)))
    featurizer = {"inputs": ["text"], "outputs": {"atoms": {"dtype": "float32", "shape": ["*"]}}}
    storage = {
        "backend": "featurize-on-access",
        "source": {"backend": "csv", "path": "t.csv"},
        "featurizer": featurizer,
    }
    spec = {"X": "atoms", "y": "y", "storage": storage}
    with kd.load_dataset(spec, base=tmp_path, featurizer=atoms) as dataset:
        header, row, *_ = cells(shown(dataset, 3))
        assert shown(dataset, 0) == ""
    found = dict(zip(header, row, strict=True))
    assert (found["rows"], found["least"], found["median"], found["greatest"]) == ("3", "1", "5", "9")


def test_a_padded_batch_contains_the_bits_that_are_unpacked(tmp_path: Path) -> None:
    rows = [np.zeros((n, 2), np.uint8) for n in (1, 3)]
    columns = {"X": {"dtype": "float32", "shape": ["*", 16], "packbits": True}}
    spec = {"X": "X", "columns": columns, "storage": {"backend": "in-memory"}}
    with kd.load_dataset(spec, data={"X": rows}) as dataset:
        *_, header, row = cells(shown(dataset))
        batch = dataset.as_dataloader(batch_size=2, collate="pad")
        assert dict(zip(header, row, strict=True))["a padded batch"] == f"{next(iter(batch))[0].nbytes} B" == "384 B"
