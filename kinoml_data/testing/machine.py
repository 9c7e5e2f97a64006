"""Datasets and uses of them that nobody thought of, made by Hypothesis."""

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
from kinoml_data.testing.comparing import same_array, same_column, same_list
from kinoml_data.testing.examples import NUMERIC, Example, bits


def arrays(dtypes: Sequence[str] = NUMERIC) -> st.SearchStrategy[Array]:
    """What a column may hold: any dtype, rank 0 to 4, any axis ragged or empty, or strings."""
    axes = st.lists(st.one_of(st.none(), st.integers(0, 3)), max_size=4).map(tuple)
    return st.builds(Array, st.sampled_from(list(dtypes)), axes)


@st.composite
def examples(
    draw: st.DrawFn, dtypes: Sequence[str] = NUMERIC, supports: Callable[[Array], bool] = lambda array: True
) -> Example:
    """A dataset of random shape and content, bit patterns included; its first column is numeric."""
    count = draw(st.integers(0, 12), label="rows")
    numeric = arrays(dtypes).filter(supports)
    texts = st.just(Array("str")).filter(supports) if supports(Array("str")) else numeric
    held = [draw(numeric), *draw(st.lists(st.one_of(numeric, texts), max_size=3))]
    columns = {f"c{number}": array for number, array in enumerate(held)}
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
    split = {"idx_train": np.arange(0, count, 2)} if draw(st.booleans()) else {}
    return Example("drawn", columns, rows, split)


def _shape(array: Array, lengths: Sequence[int]) -> tuple[int, ...]:
    left = iter(lengths)
    return tuple(next(left) if axis is None else axis for axis in array.shape)


class Reader(RuleBasedStateMachine):
    """Opens, reads, reopens, pickles and replaces a store in any order, and compares all it gets with memory.

    Args:
        store: stores an example and returns the backend over it; called for a new store each time.
        drawn: what to draw the examples from.
        overwrite: whether the backend can replace what is there.
    """

    def __init__(
        self, store: Callable[[Example], Backend], drawn: st.SearchStrategy[Example], *, overwrite: bool
    ) -> None:
        super().__init__()
        self._store, self._drawn, self._overwrite = store, drawn, overwrite
        self._storage: Storage | None = None

    @initialize(data=st.data())
    def begin(self, data: st.DataObject) -> None:
        """Store a dataset and open it."""
        self._example = data.draw(self._drawn, label="dataset")
        self._backend = self._store(self._example)
        self._open(said=True)

    def _open(self, *, said: bool) -> None:
        self.teardown()
        self._storage = self._backend.open(self._example.columns if said else None)

    @property
    def _held(self) -> Storage:
        assert self._storage is not None
        return self._storage

    @rule(said=st.booleans())
    def reopen(self, said: bool) -> None:
        """Close and open it, with and without saying the columns."""
        self._open(said=said)

    @rule()
    def pickle(self) -> None:
        """Send the backend to another process, as it were."""
        self._backend = pickle.loads(pickle.dumps(self._backend))
        self._open(said=True)

    @precondition(lambda self: self._overwrite)
    @rule(data=st.data())
    def replace(self, data: st.DataObject) -> None:
        """Put another dataset in its place."""
        self.teardown()
        self._example = example = data.draw(self._drawn, label="replaced by")
        self._backend.write(
            example.columns, example.batches(), arrays=example.arrays, spec=example.spec, overwrite=True
        )
        self._open(said=True)

    @precondition(lambda self: len(self._example) > 0)
    @rule(data=st.data())
    def read(self, data: st.DataObject) -> None:
        """Read some rows, in any order and repeated, of some columns."""
        rows = data.draw(st.lists(st.integers(0, len(self._example) - 1), max_size=20), label="rows")
        names = data.draw(st.lists(st.sampled_from(sorted(self._example.columns)), unique=True), label="columns")
        found = self._held.read(np.array(rows, np.int64), names)
        assert set(found) == set(names)
        for name in names:
            same_column(found[name], self._held.columns[name], self._example.taken(rows, name), name)
            column = found[name]
            values = column.values if isinstance(column, Ragged) else column
            assert values.flags.writeable
            values.reshape(-1).view(np.uint8)[:] = 7  # whose array is it?

    @precondition(lambda self: len(self._example) > 0)
    @rule(data=st.data())
    def read_row(self, data: st.DataObject) -> None:
        """Read one row by the shorter way."""
        row = data.draw(st.integers(0, len(self._example) - 1), label="row")
        for name, found in self._held.read_row(row, list(self._example.columns)).items():
            expected = self._example.rows[name][row]
            if isinstance(expected, str):
                expected = np.frombuffer(expected.encode(), np.uint8)
            same_array(found, expected, name)

    @rule()
    def shapes(self) -> None:
        """Ask for the shapes of all rows, where the store knows them."""
        for name, array in self._example.columns.items():
            found = self._held.shapes(name) if array.ragged else None
            if found is not None:
                expected = [row.shape for row in self._example.rows[name]]
                assert found.shape == (len(expected), len(array.shape)), name
                same_list([tuple(shape) for shape in found.tolist()], expected, name)

    @invariant()
    def length(self) -> None:
        """The number of rows is as it was stored."""
        if self._storage is not None:
            assert len(self._storage) == len(self._example)

    def teardown(self) -> None:
        """Close what is open."""
        if self._storage is not None:
            self._storage.close()
            self._storage = None
