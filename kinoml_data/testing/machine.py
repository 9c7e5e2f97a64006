"""Random datasets and random uses of them, made by Hypothesis."""

from __future__ import annotations

import pickle
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, precondition, rule

from kinoml_data.columns import Ragged
from kinoml_data.contracts.backend import Backend, Storage
from kinoml_data.spec.array import Array
from kinoml_data.testing.comparing import same_columns, same_keys, same_row, same_shapes
from kinoml_data.testing.examples import NUMERIC, Example, bits


def array_specs(dtypes: Sequence[str] = NUMERIC) -> st.SearchStrategy[Array]:
    """A strategy for columns of these dtypes, with 0 to 4 axes, any of which may be ragged or empty."""
    axes = st.lists(st.one_of(st.none(), st.integers(0, 3)), max_size=4).map(tuple)
    return st.builds(Array, st.sampled_from(list(dtypes)), axes)


@st.composite
def examples(
    draw: st.DrawFn, dtypes: Sequence[str] = NUMERIC, supports: Callable[[Array], bool] = lambda array: True
) -> Example:
    """A strategy for datasets of random shapes and random bit patterns, whose first column is numeric."""
    count = draw(st.integers(0, 12), label="rows")
    numeric = array_specs(dtypes).filter(supports)
    texts = st.just(Array("str")).filter(supports) if supports(Array("str")) else numeric
    arrays = [draw(numeric), *draw(st.lists(st.one_of(numeric, texts), max_size=3))]
    columns = {f"c{number}": array for number, array in enumerate(arrays)}
    rows: dict[str, list[Any]] = {}
    for number, (name, array) in enumerate(columns.items()):
        if array.is_string:
            rows[name] = draw(st.lists(st.text(max_size=6), min_size=count, max_size=count))
            continue
        open_axes = sum(axis is None for axis in array.shape)
        lengths = draw(
            st.lists(st.tuples(*[st.integers(0, 4)] * open_axes), min_size=count, max_size=count), label=f"{name}'s"
        )
        shapes = [_shape(array, each) for each in lengths]
        rows[name] = [bits(array.dtype, shape, 1000 * number + row) for row, shape in enumerate(shapes)]
    shared = draw(st.lists(st.sampled_from(list(columns)), unique=True), label="shared")
    for name in shared if count else ():
        order = draw(st.lists(st.integers(0, count - 1), min_size=count, max_size=count), label=f"the values of {name}")
        rows[name] = [rows[name][value] for value in order]
    split = {"idx_train": np.arange(0, count, 2)} if draw(st.booleans()) else {}
    return Example("drawn", columns, rows, split, tuple(shared))


def _shape(array: Array, lengths: Sequence[int]) -> tuple[int, ...]:
    left = iter(lengths)
    return tuple(next(left) if axis is None else axis for axis in array.shape)


class Reader(RuleBasedStateMachine):
    """Opens, reads, reopens, pickles and replaces a store in any order, and compares all rows with memory.

    Args:
        store: stores an example and returns the backend over it; called for a new store each time.
        drawn: the strategy that the examples come from.
        overwrite: True if the backend can replace a store.
        indexed: True if the backend keeps keys.
    """

    _storage: Storage

    def __init__(
        self,
        store: Callable[[Example], Backend],
        drawn: st.SearchStrategy[Example],
        *,
        overwrite: bool,
        indexed: bool = False,
    ) -> None:
        super().__init__()
        self._store, self._drawn, self._overwrite, self._indexed = store, drawn, overwrite, indexed

    @initialize(data=st.data())
    def begin(self, data: st.DataObject) -> None:
        """Store a dataset and open it."""
        self._example = data.draw(self._drawn, label="dataset")
        self._backend = self._store(self._example)
        self._storage = self._backend.open(self._example.columns)

    @rule(declared=st.booleans())
    def reopen(self, declared: bool) -> None:
        """Close and open the store, with declared or with inferred columns."""
        self._storage.close()
        self._storage = self._backend.open(self._example.columns if declared else None)

    @rule()
    def pickle(self) -> None:
        """Pickle the backend, as if it were sent to another process."""
        self._backend = pickle.loads(pickle.dumps(self._backend))
        self.reopen(True)

    @precondition(lambda self: self._overwrite)
    @rule(data=st.data())
    def replace(self, data: st.DataObject) -> None:
        """Replace the dataset with another one."""
        self._storage.close()
        self._example = example = data.draw(self._drawn, label="replaced by")
        batches = example.batches(indexed=self._indexed)
        self._backend.write(example.columns, batches, arrays=example.arrays, spec=example.spec, overwrite=True)
        self._storage = self._backend.open(example.columns)

    @precondition(lambda self: len(self._example) > 0)
    @rule(data=st.data())
    def read(self, data: st.DataObject) -> None:
        """Read some rows of some columns; the rows may be in any order and may repeat."""
        rows = data.draw(st.lists(st.integers(0, len(self._example) - 1), max_size=20), label="rows")
        names = data.draw(st.lists(st.sampled_from(sorted(self._example.columns)), unique=True), label="columns")
        columns = self._storage.read(np.array(rows, np.int64), names)
        same_columns(columns, self._storage, self._example.only(names), rows)
        for column in columns.values():
            values = column.values if isinstance(column, Ragged) else column
            assert values.flags.writeable
            values.reshape(-1).view(np.uint8)[:] = 7  # later reads must not see this

    @precondition(lambda self: len(self._example) > 0)
    @rule(data=st.data())
    def read_row(self, data: st.DataObject) -> None:
        """Read one row by the shorter way."""
        row = data.draw(st.integers(0, len(self._example) - 1), label="row")
        same_row(self._storage.read_row(row, list(self._example.columns)), self._example, row)

    @rule()
    def shapes_and_keys(self) -> None:
        """Compare the shapes and the keys of all rows, if the store knows them."""
        same_shapes(self._storage, self._example)
        same_keys(self._storage, self._example)

    @invariant()
    def length(self) -> None:
        """The number of rows is the number that was stored."""
        assert len(self._storage) == len(self._example)

    def teardown(self) -> None:
        """Close the storage."""
        if hasattr(self, "_storage"):  # absent if `begin` failed
            self._storage.close()
