"""The built-in backends keep the contract."""

from __future__ import annotations

import re
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from kinoml_data import Backend, XyDataset, from_arrays, load_dataset, registry
from kinoml_data.backends.featurize_on_access import FeaturizeOnAccess
from kinoml_data.backends.in_memory import InMemory
from kinoml_data.backends.joined.backend import Joined, Table
from kinoml_data.backends.npz.backend import NpzLazy, NpzReopen
from kinoml_data.backends.parquet.backend import ParquetAwkward
from kinoml_data.contracts.backend import SpecContext
from kinoml_data.errors import SpecError
from kinoml_data.spec.array import Array
from kinoml_data.spec.parts import FeaturizerRef
from kinoml_data.testing import BackendTests, Example
from tests.builders import FORK_OR_SPAWN, Size, values_of


class Main(BackendTests):
    """The usual form of a backend. In the quick run, tests/loading/test_workers.py reads it in new processes."""

    @FORK_OR_SPAWN
    def test_workers_read_what_was_stored(self, shared, method):
        super().test_workers_read_what_was_stored(shared, method)


class TestNpzLazy(Main):
    def make_backend(self, folder):
        return NpzLazy(path=folder / "data.npz")


class Variant(BackendTests):
    """Another form of a backend whose spawned workers, which start slowly, are tested already."""

    @pytest.mark.parametrize("method", ["fork"])
    def test_workers_read_what_was_stored(self, shared, method):
        super().test_workers_read_what_was_stored(shared, method)


class TestNpzLazyCompressed(Variant):
    def make_backend(self, folder):
        return NpzLazy(path=folder / "data.npz", compress=True, verify="always")


class TestNpzReopen(Main):
    def make_backend(self, folder):
        return NpzReopen(path=folder / "data.npz")


class TestParquetAwkward(Main):
    def make_backend(self, folder):
        return ParquetAwkward(path=folder / "data.parquet")


class OverPythonValues(Main):
    """`in-memory`, or what wraps it, over values that are passed in Python."""

    def can(self, backend: Backend, capability: str) -> bool:
        return capability not in ("keeps_arrays", "keeps_spec") and super().can(backend, capability)

    def dataset(self, stored: Backend, example: Example) -> XyDataset:
        return load_dataset(self.spec(stored, example), data=values_of(example))


class TestInMemory(OverPythonValues):
    def make_backend(self, folder):
        return InMemory()

    def store(self, backend, example):
        return InMemory().with_objects(data=values_of(example))


class TestInMemoryOverNpz(Variant):
    def make_backend(self, folder):
        return InMemory(source=NpzLazy(path=folder / "data.npz"))

    def store(self, backend, example):
        super().store(backend.source, example)
        return backend


class TestFeaturizeOnAccess(OverPythonValues):
    """The columns that are passed through. The backend computes one more, from the first column."""

    @pytest.fixture(autouse=True)
    def _featurizer(self, monkeypatch):
        register(monkeypatch, "featurizer", Size)

    def make_backend(self, folder):
        return featurizing(InMemory(), "X")

    def store(self, backend, example):
        return featurizing(InMemory().with_objects(data=values_of(example)), next(iter(example.columns)))


class WithItsOwnSpec(Variant):
    """A backend whose spec differs from the spec in the store of its source, which has other columns."""

    def can(self, backend: Backend, capability: str) -> bool:
        return capability != "keeps_spec" and super().can(backend, capability)


class TestFeaturizeOnAccessOverNpz(WithItsOwnSpec):
    @pytest.fixture(autouse=True)
    def _featurizer(self, monkeypatch):
        register(monkeypatch, "featurizer", Size)

    def make_backend(self, folder):
        return featurizing(NpzLazy(path=folder / "data.npz"), "X")

    def store(self, backend, example):
        super().store(backend.source, example)
        return featurizing(backend.source, next(iter(example.columns)))


class TestJoinedByRowNumber(WithItsOwnSpec):
    """Half of the columns come through row numbers, from a table whose rows are in another order."""

    by_key = False

    def make_backend(self, folder):
        return joining(folder, Table(source=NpzLazy(path=folder / "table.npz"), columns={"X": "X"}, key="id-of-row"))

    def store(self, backend, example):
        names = list(example.columns)[::2]
        source = backend.tables["where"].source
        order = np.random.default_rng(3).permutation(len(example))
        table = example.only(names)
        columns = {"id-of-row": Array("str"), **table.columns}
        rows = {"id-of-row": [f"é{row}" for row in order]}
        rows |= {name: [table.rows[name][row] for row in order] for name in names}
        super().store(source, replace(table, columns=columns, rows=rows, arrays={}))
        where = rows["id-of-row"] if self.by_key else list(np.arange(len(order), dtype=np.int32))
        where = [where[row] for row in np.argsort(order)]
        own = [name for name in example.columns if name not in names]
        columns = {"where": Array("str" if self.by_key else "int32"), **example.only(own).columns}
        thin = replace(example, columns=columns, rows={"where": where, **example.only(own).rows})
        super().store(backend.source, thin)
        table = Table(source=source, columns={name: name for name in names}, key="id-of-row" if self.by_key else None)
        digest = None if self.by_key else table.current_digest()
        return joining(backend.source.path.parent, table.model_copy(update={"digest": digest}))


class TestJoinedByKey(TestJoinedByRowNumber):
    by_key = True


def joining(folder: Path, table: Table) -> Joined:
    return Joined(source=NpzLazy(path=folder / "thin.npz"), tables={"where": table})


def featurizing(source: Backend, column: str) -> FeaturizeOnAccess:
    options = {"source": source, "featurizer": FeaturizerRef(name=Size.name, inputs=(column,))}
    context = SpecContext(base=Path(), root=None, backend=lambda options: source, featurizer=lambda ref: Size())
    return FeaturizeOnAccess.model_validate(options, context=context)


def register(monkeypatch: pytest.MonkeyPatch, kind: str, cls: Any) -> None:
    known = registry.registry()
    plugin = registry.Plugin("test", "test", "0", loaded=True, names={kind: {cls.name: cls}})
    monkeypatch.setattr(known, "plugins", [*known.plugins, plugin])


@pytest.mark.parametrize("name", ["_spec", "atoms.values", "atoms.shapes", "id.utf8", "train.index", "y.crc32"])
def test_a_name_that_the_layout_uses_itself_is_refused_for_a_column(name):
    with pytest.raises(SpecError, match=re.escape(repr(name))):
        from_arrays({name: np.arange(3), "other": np.arange(3)})
