"""Which rows cannot be featurized, and why."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator
from typing import Any

import numpy as np
from numpy.typing import NDArray

from kinoml_data.errors import FeaturizationError

ROWS_PER_READ = 256


def failing(read: Callable[[NDArray[np.int64]], Any], rows: NDArray[np.int64]) -> Iterator[tuple[int, str]]:
    """Those of some rows that cannot be featurized, each with the reason.

    Args:
        read: reads some of the rows together.
        rows: the rows, as `read` takes them.
    """
    for start in range(0, len(rows), ROWS_PER_READ):
        some = rows[start : start + ROWS_PER_READ]
        try:
            read(some)
        except FeaturizationError:
            for row in some.tolist():
                try:
                    read(np.array([row]))
                except FeaturizationError as error:
                    # Of rows with equal inputs, the message names the one that was tried.
                    yield row, re.sub(r"( failed for|,) row \d+", "", str(error), count=1)
