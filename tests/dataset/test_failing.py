"""Rows that cannot be featurized."""

import numpy as np
import pytest

from kinoml_data.dataset.failing import failing
from kinoml_data.errors import FeaturizationError, StoreReadError


@pytest.mark.parametrize("bad", [[], [3], [0, 1, 29], list(range(30))])
def test_each_row_that_fails_is_found_with_its_reason_and_others_are_read_together(bad, monkeypatch):
    monkeypatch.setattr("kinoml_data.dataset.failing.ROWS_PER_READ", 10)
    reads = []

    def read(rows):
        reads.append(len(rows))
        for row in rows.tolist():
            if row in bad:
                raise FeaturizationError(f"featurizer 'f' failed for row {row}: odd")

    assert list(failing(read, np.arange(30))) == [(row, "featurizer 'f': odd") for row in bad]
    assert reads.count(10) == 3 and reads.count(1) == 10 * len({row // 10 for row in bad})


def test_any_other_error_is_raised():
    def read(rows):
        raise StoreReadError("gone")

    with pytest.raises(StoreReadError, match="gone"):
        list(failing(read, np.arange(3)))
