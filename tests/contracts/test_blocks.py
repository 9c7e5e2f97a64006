"""Blocks that do not fit their storage are an error, because rows in no block would never be read."""

from __future__ import annotations

import numpy as np
import pytest

import kinoml_data as kd
from kinoml_data.errors import StoreReadError
from kinoml_data.plugin import Blocks

WRONG = {
    "rows at the end": Blocks(np.array([0, 4, 9])),
    "rows at the start": Blocks(np.array([1, 4, 10])),
    "too many rows": Blocks(np.array([0, 11])),
    "an empty block": Blocks(np.array([0, 4, 4, 10])),
    "not in order": Blocks(np.array([0, 6, 4, 10])),
    "no blocks": Blocks(np.array([0])),
    "none kept": Blocks(np.array([0, 10]), kept=0),
    "one mark too few": Blocks(np.array([0, 4, 10]), follows=np.array([False])),
}


@pytest.mark.parametrize("case", WRONG)
def test_blocks_that_do_not_divide_the_rows_are_an_error(case: str) -> None:
    dataset = kd.from_arrays(np.arange(10.0))
    dataset._session.binding.storage.blocks = WRONG[case]
    with pytest.raises(StoreReadError, match="MemoryStorage is wrong: its blocks"):
        dataset.as_dataloader(shuffle=True)


def test_blocks_that_divide_the_rows_have_no_problem() -> None:
    assert Blocks(np.array([0, 4, 10]), 3, np.array([False, True])).problem(10) is None
    assert Blocks(np.array([0, 10])).problem(10) is None
