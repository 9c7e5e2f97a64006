"""Keys and accessors of KinoML's classes."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch

from kinoml_data.errors import SampleIndexError, SpecError, SplitError
from kinoml_data.torch_datasets import MultiXTorchDataset, XyTorchDataset
from kinoml_data.torch_datasets.samples import accessor_to_indices, columns_of_dict

SMILES = [np.ones((5, 2)), np.ones((5, 3))]


def test_indices_that_overlap_are_refused() -> None:
    with pytest.raises(SplitError, match="share"):
        XyTorchDataset(np.ones((11, 4)), np.ones(11), {"train": slice(0, 8), "test": slice(7, 9)})
    with pytest.raises(SpecError, match="holdout"):
        XyTorchDataset(np.ones((11, 4)), np.ones(11), {"holdout": [1]})


def test_keys_are_parsed() -> None:
    assert MultiXTorchDataset._key_to_ints("X_s12_a3_") == [12, 3]
    assert MultiXTorchDataset._key_to_ints("X_s12") == [12]
    with pytest.raises(SpecError, match="idx_train"):
        MultiXTorchDataset._key_to_ints("idx_train")
    with pytest.raises(SpecError, match="keys"):
        MultiXTorchDataset({"X_s0_": SMILES[0], "X_s2_": SMILES[1], "y": np.ones(2)})
    with pytest.raises(SpecError, match="do not contain y"):
        MultiXTorchDataset({"X_s0_": SMILES[0]})


@pytest.mark.parametrize(
    ("accessor", "expected"),
    [
        (True, (list(range(6)), False)),
        (False, ([], False)),
        (3, ([3], True)),
        (-1, ([5], True)),
        (np.int64(2), ([2], True)),
        (slice(-2, None), ([4, 5], False)),
        (slice(None, 0), ([], False)),
        (slice(None, None, -2), ([5, 3, 1], False)),
        ([0, 0, -1], ([0, 0, 5], False)),
        ((1, 2), ([1, 2], False)),
        ([], ([], False)),
        ([True, False, True, False, False, True], ([0, 2, 5], False)),
        (np.array([4, 1]), ([4, 1], False)),
        (torch.tensor([2]), ([2], False)),
        (range(3), ([0, 1, 2], False)),
    ],
)
def test_accessors_are_those_of_numpy(accessor: Any, expected: tuple[list[int], bool]) -> None:
    assert accessor_to_indices(accessor, 6) == expected


def test_accessors_out_of_range_are_errors() -> None:
    for accessor in (6, [0, 6], [True, False], 1.0, "1"):
        with pytest.raises(SampleIndexError):
            accessor_to_indices(accessor, 6)


def test_arrays_of_each_layout_become_the_columns_of_x() -> None:
    y = np.ones(2)
    assert columns_of_dict({"X": SMILES, "y": y}) == ({"X": SMILES, "y": y}, "X")
    assert columns_of_dict({"X_s1_": SMILES[1], "X_s0_": SMILES[0], "y": y}) == ({"X": SMILES, "y": y}, "X")
    several = {f"X_s{row}_a{array}_": SMILES[row] for row in (1, 0) for array in (1, 0)}
    assert columns_of_dict(several | {"y": y}) == ({"X0": SMILES, "X1": SMILES, "y": y}, ["X0", "X1"])
    with pytest.raises(SpecError, match="for each of the 2 rows of y"):
        columns_of_dict({"X_s0_": SMILES[0], "X_s0_a1_": SMILES[0], "X_s1_": SMILES[1], "y": y})
