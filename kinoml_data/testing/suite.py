"""The base class of the parts of `BackendTests`: it makes the backend, and the stores that tests share."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any, ClassVar

import pytest

from kinoml_data import registry
from kinoml_data.contracts.backend import Backend
from kinoml_data.dataset.dataset import XyDataset
from kinoml_data.errors import UnknownNameError
from kinoml_data.factory import load_dataset
from kinoml_data.spec.array import DTYPES, Array
from kinoml_data.spec.dataset_spec import DatasetSpec
from kinoml_data.testing.examples import EXAMPLES, Example

EACH_EXAMPLE = pytest.mark.parametrize("example", EXAMPLES, ids=lambda example: example.name)
EACH_DTYPE = pytest.mark.parametrize("dtype", DTYPES)
DECLARED_OR_NOT = pytest.mark.parametrize("declared", [True, False], ids=["columns-declared", "columns-inferred"])

Shared = Callable[[Example], tuple[Example, Backend]]
"""Takes an example; returns the part of it that the backend supports, and a backend over its store."""

_stores: dict[type, dict[str, tuple[Example, Backend]]] = {}


class Suite:
    """The methods that a subclass overrides, and the fixtures that all tests use."""

    machine_examples: ClassVar[int] = 20

    def make_backend(self, folder: Path) -> Backend:
        """The backend to test, over a store inside `folder` that does not exist yet."""
        raise NotImplementedError(f"{type(self).__name__} must define `make_backend(self, folder)`")

    def store(self, backend: Backend, example: Example) -> Backend:
        """Store the rows of `example` and return a backend over them; by default `backend`, which writes them."""
        batches = example.batches(indexed=self.can(backend, "keeps_keys"))
        backend.write(example.columns, batches, arrays=example.arrays, spec=example.spec)
        return backend

    def can(self, backend: Backend, capability: str) -> bool:
        """The class variable of the backend; override this if an instance can do less, such as one over a URL."""
        return bool(getattr(type(backend), capability))

    def needs(self, backend: Backend, *capabilities: str) -> None:
        """Skip the test if the backend lacks one of these capabilities."""
        for capability in capabilities:
            if not self.can(backend, capability):
                pytest.skip(f"the backend declares {capability} = False")

    def supports(self, backend: Backend, array: Array) -> bool:
        """False for a column that the backend refuses to write; by default this depends only on its dtype."""
        return array.dtype not in type(backend).unsupported_dtypes

    def usable(self, backend: Backend, example: Example) -> Example:
        """The columns of `example` that the backend supports; the test is skipped if there are none."""
        names = [name for name, array in example.columns.items() if self.supports(backend, array)]
        if not any(name in example.numeric for name in names):
            pytest.skip("the backend supports none of the columns")
        return example.only(names)

    def spec(self, stored: Backend, example: Example) -> DatasetSpec:
        """The spec of the dataset over `stored`, which contains `example`."""
        splits = [name for name in example.arrays if name.startswith("idx_") and self.can(stored, "keeps_arrays")]
        return DatasetSpec.parse(
            {
                "columns": dict(example.columns),
                "X": example.numeric,
                "meta": example.strings,
                "splits": {name: name for name in splits} if example.splits is None else example.splits,
                "storage": stored.model_dump(mode="json", exclude_defaults=True),
            }
        )

    def dataset(self, stored: Backend, example: Example) -> XyDataset:
        """The dataset over `stored`, which contains `example`."""
        return load_dataset(self.spec(stored, example))

    @pytest.fixture
    def backend(self, tmp_path: Path) -> Backend:
        """A backend whose store the test may write, replace and damage."""
        return self.make_backend(tmp_path)

    @pytest.fixture
    def shared(self, tmp_path_factory: pytest.TempPathFactory) -> Shared:
        """The store of an example, written once for all tests of the class that only read it."""
        stores = _stores.setdefault(type(self), {})

        def store_of(example: Example) -> tuple[Example, Backend]:
            if example.name not in stores:
                backend = self.make_backend(tmp_path_factory.mktemp(example.name))
                usable = self.usable(backend, example)
                stores[example.name] = usable, self.store(backend, usable)
            return stores[example.name]

        return store_of

    @pytest.fixture(autouse=True)
    def _registered(self, backend: Backend, monkeypatch: pytest.MonkeyPatch) -> None:
        """Register the backend for the test, unless an installed plugin does."""
        register("backend", type(backend), monkeypatch)


def register(kind: str, cls: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    """Register a class of a kind of `registry.KINDS` until `monkeypatch` is undone, unless an installed plugin does."""
    known = registry.registry()
    try:
        registered = known.get(kind, cls.name)
    except UnknownNameError:
        plugin = registry.Plugin("test", "test", "0", loaded=True)
        plugin.names[kind] = {cls.name: cls}
        monkeypatch.setattr(known, "plugins", [*known.plugins, plugin])
    else:
        assert registered is cls, f"another class is registered as {cls.name!r}"
