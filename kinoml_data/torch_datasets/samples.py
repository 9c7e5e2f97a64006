"""How KinoML's classes hand out samples, take dicts of arrays and call featurizers; see `torch_datasets`."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from functools import cached_property
from typing import Any, cast

import numpy as np
from numpy.typing import NDArray
from torch import Tensor
from torch.utils.data import DataLoader, Dataset, get_worker_info

from kinoml_data.backends.npz.storage import row_and_array
from kinoml_data.columns import Ragged
from kinoml_data.dataset.collate import Batch, Collater
from kinoml_data.dataset.dataset import XyDataset
from kinoml_data.dataset.forms import Form, as_tensor, built_list
from kinoml_data.dataset.indexing import normalize_index
from kinoml_data.errors import SpecError
from kinoml_data.spec.dataset_spec import CompleteSpec

SPLITS = ("train", "test", "val")


class StackIfUniform(Collater):
    """Rows of a ragged column that happen to have one shape become one tensor, others a list."""

    def __init__(self, spec: CompleteSpec) -> None:
        super().__init__(spec, "list")

    def ragged(self, name: str, column: Ragged) -> Form:
        if len(column) and (column.shapes == column.shapes[0]).all():
            return as_tensor(column.values).reshape(len(column), *column.shapes[0].tolist())
        return super().ragged(name, column)


class ToDeviceCollater(StackIfUniform):
    """Tensors land on a device, but for those made in worker processes."""

    def __init__(self, spec: CompleteSpec, *, device: str) -> None:
        super().__init__(spec)
        self.device = device

    def parts(self, tensors: Mapping[str, Any]) -> tuple[Any, Any]:
        if self.device != "cpu" and get_worker_info() is None:
            tensors = {
                name: [row.to(self.device) for row in t] if isinstance(t, list) else t.to(self.device)
                for name, t in tensors.items()
            }
        return super().parts(tensors)


class ByField(StackIfUniform):
    """X is a list with one entry per column."""

    def parts(self, tensors: Mapping[str, Any]) -> tuple[Any, Any]:
        return [tensors[name] for name in self.names if name != self.y], tensors[str(self.y)]


def _systems(columns: Sequence[Any]) -> list[list[Tensor]]:
    return list(map(list, zip(*columns, strict=True)))


class BySystem(ByField):
    """X is a list with one list of tensors per system."""

    def ragged(self, name: str, column: Ragged) -> Form:
        return Collater.ragged(self, name, column)

    def parts(self, tensors: Mapping[str, Any]) -> tuple[Any, Any]:
        X, y = super().parts(tensors)
        one_system = isinstance(X[0], Tensor) and X[0].ndim == len(self.arrays[self.names[0]].shape)
        if one_system:
            return X, y
        return built_list(_systems, X), y


class Featurize:
    """Calls a featurizer of either protocol; the features of a system as an array."""

    def __init__(self, featurizer: Callable[..., Any]) -> None:
        self.featurizer = featurizer
        self.__name__ = str(getattr(featurizer, "name", type(featurizer).__name__))

    def __call__(self, system: Any) -> NDArray[Any]:
        if not hasattr(system, "featurizations"):
            return np.asarray(self.featurizer(system))
        try:
            found = self.featurizer(system)
        except TypeError:  # newer featurizers take a list of systems
            found = self.featurizer([system])
        if isinstance(found, (list, tuple)) and len(found) == 1 and hasattr(found[0], "featurizations"):
            found = found[0]
        return np.asarray(found.featurizations[self.__name__] if hasattr(found, "featurizations") else found)


def columns_of_dict(arrays: Mapping[str, Any]) -> tuple[dict[str, Any], str | list[str]]:
    """The columns of a dict in one of KinoML's layouts, and the names of X.

    Raises:
        SpecError: no y, a key of no such layout, or a row that is missing.
    """
    if "y" not in arrays:
        raise SpecError("there is no y")
    if "X" in arrays:
        return {"X": arrays["X"], "y": arrays["y"]}, "X"
    found: dict[int, dict[int, Any]] = {}
    for key, values in arrays.items():
        if (numbers := row_and_array(key)) is not None:
            found.setdefault(-1 if numbers[1] is None else numbers[1], {})[numbers[0]] = values
    rows = len(arrays["y"])
    if (
        not found
        or any(sorted(held) != list(range(rows)) for held in found.values())
        or (-1 in found and len(found) > 1)
    ):
        raise SpecError(
            f"the keys are not those of {rows} systems: X, X_s{{row}}_ or X_s{{row}}_a{{array}}_ for each row"
        )
    names = ["X"] if len(found) == 1 else [f"X{number}" for number in sorted(found)]
    columns = {name: [found[n][row] for row in range(rows)] for name, n in zip(names, sorted(found), strict=True)}
    return columns | {"y": arrays["y"]}, names[0] if len(names) == 1 else names


def accessor_to_indices(accessor: Any, full_size: int) -> tuple[list[int], bool]:
    """The positions an index selects, and whether it is a single one; True means all, False none."""
    if accessor is True or accessor is False:
        return list(range(full_size)) if accessor else [], False
    found, single = normalize_index(list(accessor) if isinstance(accessor, tuple) else accessor, full_size)
    return found.tolist(), single


class CoreDataset(Dataset[Any]):
    """A torch dataset whose rows come from the core."""

    core: XyDataset

    def __len__(self) -> int:
        return len(self.core)

    def __getitem__(self, index: Any) -> Any:
        return self.core[index]

    def __getitems__(self, indices: list[int]) -> Batch:
        return self.core.__getitems__(indices)

    def as_dataloader(self, **kwargs: Any) -> DataLoader[Any]:
        """A `DataLoader` over this dataset; `kwargs` are its arguments."""
        return DataLoader(self, **{"collate_fn": self.core.collate_fn, **kwargs})


class WithIndices(CoreDataset):
    """One with row selectors under train, test and val."""

    indices: dict[str, Any]

    def take_indices(self, indices: Mapping[str, Any] | None, length: int) -> dict[str, Any]:
        """Keep the indices as they were given; returns the splits of a spec, for the core to check."""
        self.indices = dict(indices) if indices else {"train": True}
        if wrong := sorted(set(self.indices) - set(SPLITS)):
            raise SpecError(f"indices are train, test and val; {', '.join(wrong)} is none of them")
        return {name: {"rows": accessor_to_indices(rows, length)[0]} for name, rows in self.indices.items()}

    @cached_property
    def data_y(self) -> Tensor:
        """All of y: `(rows, ...)`."""
        return cast(Tensor, self.core.column("y"))
