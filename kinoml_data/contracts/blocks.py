"""`Blocks`: which rows of a storage are decoded together."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray


@dataclass(frozen=True, eq=False)
class Blocks:
    """Rows that a storage decodes together, such as the row groups of a Parquet file.

    Reading one row of a block decodes the whole block. The blocks that were read last stay decoded. If one call reads
    rows of several blocks, the storage decodes the blocks in the order in which the rows name them.

    Attributes:
        bounds: int64 `(blocks + 1,)`: the first row of each block, and finally the number of rows. No block is empty.
        kept: how many blocks stay decoded at once; at least 1.
        follows: bool `(blocks,)`: True if a block is decoded fastest right after the block before it, because
            decoding cannot begin in the middle. None if that applies to no block.
    """

    bounds: NDArray[np.int64]
    kept: int = 1
    follows: NDArray[np.bool_] | None = None

    def problem(self, rows: int) -> str | None:
        """Why these cannot be the blocks of a storage with this many rows; None if they can."""
        bounds = self.bounds
        if len(bounds) < 2 or bounds[0] != 0 or bounds[-1] != rows or (np.diff(bounds) < 1).any():
            return f"its blocks do not divide its {rows} rows: their bounds must increase from 0 to {rows}"
        if self.kept < 1 or (self.follows is not None and len(self.follows) != len(bounds) - 1):
            return "its blocks need a `kept` of at least 1, and one element of `follows` for each block"
        return None
