"""The storage of `measurements`: some rows of the source, and the columns that are computed from it."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from typing import Any, Literal

import numpy as np
from kinoml_data.errors import SpecError
from kinoml_data.plugin import (
    SHAPES,
    STRING,
    UTF8,
    VALUES,
    Array,
    ArrayStorage,
    Blocks,
    Column,
    Columns,
    Ragged,
    Storage,
)
from numpy.typing import NDArray

from kinoml_data_measurements.measuring import Measured
from kinoml_data_measurements.units import RELATIONS


class MeasurementStorage(Storage):
    """Measurements, and other columns of the source at the rows that were measured.

    Args:
        source: the raw table.
        passed: the columns of the source that are passed on.
        measured: the measurements.
        outputs: the names of the columns of the measurements.
    """

    def __init__(
        self,
        source: Storage,
        passed: Sequence[str],
        measured: Measured,
        outputs: Mapping[Literal["value", "kind", "relation"], str],
    ) -> None:
        self._source, self._passed, self._length = source, list(passed), len(measured.rows)
        texts = (Ragged.from_strings(measured.names), Ragged.from_strings(RELATIONS))
        self._texts = dict(zip((outputs["kind"], outputs["relation"]), texts, strict=True))
        self._value = outputs["value"]
        # By the name of the column, the arrays of all measurements; by "", which no column has, the rows of the source.
        self._arrays: Mapping[str, NDArray[Any]] = {
            "": measured.rows,
            self._value: measured.values,
            outputs["kind"]: measured.kinds,
            outputs["relation"]: measured.relations,
        }
        wrong = Counter(reason.partition(":")[0] for reason in measured.reasons.values())
        self._counts = (
            f"{self._length:,} of {self._length + len(measured.reasons) + measured.merged:,} rows kept, "
            f"{len(measured.reasons):,} rejected, {measured.merged:,} merged"
        )
        self._rejected = ", ".join(f"{what} {count:,}" for what, count in wrong.most_common())
        self.unreadable = {n: why for n, why in source.unreadable.items() if n not in self._arrays}
        self._describe()

    def _describe(self) -> None:
        """Set what depends on how the source is loaded."""
        source, known = self._source, self._source.columns
        self.columns = {name: known[name] for name in self._passed if name in known}
        self.columns |= {self._value: Array("float64")} | dict.fromkeys(self._texts, Array(STRING))
        self.indexes = [name for name in source.indexes if name in self.columns]
        self.identity, self.has_checksums = source.identity, source.has_checksums
        self.shareable = source.shareable or not self._passed
        self.blocks = _blocks_of(source.blocks, self._arrays[""])
        # By the array of the source, which is kept so that no other array has its id.
        self._keys: dict[int, tuple[NDArray[Any], NDArray[Any]]] = {}

    def __len__(self) -> int:
        return self._length

    def read(self, rows: NDArray[np.int64], columns: Sequence[str]) -> Columns:
        passed = [name for name in columns if name not in self._arrays]
        result: dict[str, Column] = {}
        if passed:
            result.update(self._source.read(self._arrays[""].take(rows), passed))
        for name in columns:
            if name in self._arrays:
                values = self._arrays[name].take(rows)
                result[name] = self._texts[name].take(values) if name in self._texts else values
        return result

    def loaded(self, columns: Sequence[str]) -> Storage:
        passed = [name for name in columns if name not in self._arrays]
        loaded = self._source
        try:
            if passed:
                loaded = self._source.loaded(passed)
        except SpecError:  # a value of a row that was rejected is missing
            loaded = self._kept_rows(passed)
            self._source.close()
            self._arrays = {**self._arrays, "": np.arange(self._length)}
        self._source, self._passed = loaded, passed
        self._describe()
        return self

    def shapes(self, column: str) -> NDArray[np.int64] | None:
        shapes = None if column in self._arrays else self._source.shapes(column)
        return None if shapes is None else shapes.take(self._arrays[""], axis=0)

    def keys(self, column: str) -> NDArray[Any] | None:
        theirs = None if column in self._arrays else self._source.keys(column)
        if theirs is None:
            return None
        if id(theirs) not in self._keys:
            self._keys[id(theirs)] = theirs, theirs.take(self._arrays[""])
        return self._keys[id(theirs)][1]

    def computations(self, rows: NDArray[np.int64], columns: Sequence[str]) -> Iterator[Any]:
        passed = [name for name in columns if name not in self._arrays]
        return self._source.computations(self._arrays[""].take(rows), passed) if passed else iter(())

    def row_arrays(self) -> Mapping[str, NDArray[Any]]:
        theirs = {f"source.{name}": array for name, array in self._source.row_arrays().items()}
        return {f"own.{name}": array for name, array in self._arrays.items()} | theirs

    def share_row_arrays(self, arrays: Mapping[str, NDArray[Any]]) -> None:
        self._arrays = {name: arrays[f"own.{name}"] for name in self._arrays}
        self._source.share_row_arrays({name: arrays[f"source.{name}"] for name in self._source.row_arrays()})

    def facts(self) -> Sequence[tuple[str, str]]:
        rejected = [("rejected", self._rejected)] if self._rejected else []
        return [*self._source.facts(), ("measurements", self._counts), *rejected]

    def close(self) -> None:
        self._source.close()

    def _kept_rows(self, columns: Sequence[str]) -> Storage:
        """The kept rows of some columns of the source, in memory."""
        flat: dict[str, NDArray[Any]] = {}
        for name, column in self._source.read(self._arrays[""], columns).items():
            if isinstance(column, Ragged):
                is_text = self._source.columns[name].is_string
                flat |= {name + (UTF8 if is_text else VALUES): column.values, name + SHAPES: column.shapes}
            else:
                flat[name] = column
        storage = ArrayStorage(flat, identity=self._source.identity)
        storage.shareable = True
        return storage


def _blocks_of(blocks: Blocks | None, rows: NDArray[np.int64]) -> Blocks | None:
    """The blocks of some rows, which are in ascending order."""
    if blocks is None or len(rows) == 0:
        return None
    bounds = np.searchsorted(rows, blocks.bounds)
    kept = bounds[1:] > bounds[:-1]
    follows = None if blocks.follows is None else blocks.follows[kept]
    return Blocks(np.append(bounds[:-1][kept], len(rows)), blocks.kept, follows)
