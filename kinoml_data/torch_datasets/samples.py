"""The samples of KinoML's classes, the layouts of their arrays, and calls of their featurizers."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from functools import cached_property
from typing import Any, cast

import numpy as np
from numpy.typing import NDArray
from torch import Tensor
from torch.utils.data import DataLoader, Dataset, get_worker_info

from kinoml_data.backends.npz.storage import row_and_array
from kinoml_data.columns import Column, Indexed, Ragged
from kinoml_data.dataset.collate import Batch, Collater
from kinoml_data.dataset.dataset import XyDataset
from kinoml_data.dataset.forms import Form, as_tensor, built_list, expanded
from kinoml_data.dataset.indexing import normalize_index
from kinoml_data.errors import SpecError, unknown
from kinoml_data.loading.loader import shuffled_by_blocks
from kinoml_data.spec.dataset_spec import CompleteSpec

SPLITS = ("train", "test", "val")


class StackIfUniform(Collater):
    """Rows of a ragged column become one tensor if they have the same shape, otherwise a list of tensors."""

    def __init__(self, spec: CompleteSpec) -> None:
        super().__init__(spec, "list")

    def formed(self, name: str, column: Column | Indexed) -> Form:
        column = expanded(column)
        if isinstance(column, Ragged) and len(column) and (column.shapes == column.shapes[0]).all():
            return as_tensor(column.values).reshape(len(column), *column.shapes[0].tolist())
        return super().formed(name, column)


class ToDeviceCollater(StackIfUniform):
    """Moves tensors to a device, except in worker processes."""

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

    def formed(self, name: str, column: Column | Indexed) -> Form:
        return Collater.formed(self, name, column)

    def parts(self, tensors: Mapping[str, Any]) -> tuple[Any, Any]:
        X, y = super().parts(tensors)
        one_system = isinstance(X[0], Tensor) and X[0].ndim == len(self.arrays[self.names[0]].shape)
        if one_system:
            return X, y
        return built_list(_systems, X), y


class AsKinoml(BySystem):
    """What KinoML's loaders return: one tensor per column and y with an axis more if all rows have one shape.

    If they have not, KinoML's loaders fail; here, X is then a list with one list of tensors per system.
    """

    def parts(self, tensors: Mapping[str, Any]) -> tuple[Any, Any]:
        fields, y = ByField.parts(self, tensors)
        if all(isinstance(field, Tensor) for field in fields):
            is_batch = fields[0].ndim > len(self.arrays[self.names[0]].shape)
            return fields, y.unsqueeze(1) if is_batch and y.ndim == 1 else y
        return super().parts(
            {name: list(tensor) for name, tensor in tensors.items() if name != self.y}
            | {str(self.y): tensors[str(self.y)]}
        )

    def formed(self, name: str, column: Column | Indexed) -> Form:
        return StackIfUniform.formed(self, name, column)


class Members(Mapping[str, NDArray[Any]]):
    """The arrays of a dataset under the keys of KinoML's layouts; each is read when it is asked for.

    Args:
        core: the dataset.
        keys: the keys, such as `X_s12_a3_` and `y`.
    """

    def __init__(self, core: XyDataset, keys: Sequence[str]) -> None:
        self._core, self._keys = core, dict.fromkeys(keys)

    def __getitem__(self, key: str) -> NDArray[Any]:
        if key not in self._keys:
            raise KeyError(key)
        core, numbers = self._core, row_and_array(key)
        if numbers is not None:
            row, array = numbers
            name = core.spec.X_names[array or 0]
            return np.asarray(core.read_stored(np.array([row]), [name])[name][0])
        if key.startswith("idx_"):
            return core.indices[key.removeprefix("idx_")]
        return np.asarray(core.read_stored(np.arange(len(core)), [key])[key])

    def __iter__(self) -> Iterator[str]:
        return iter(self._keys)

    def __len__(self) -> int:
        return len(self._keys)


class Featurize:
    """Calls a featurizer of either protocol and returns the features of a system as an array."""

    def __init__(self, featurizer: Callable[..., Any]) -> None:
        self.featurizer = featurizer
        self.__name__ = str(getattr(featurizer, "name", type(featurizer).__name__))

    def __call__(self, system: Any) -> NDArray[Any]:
        if not hasattr(system, "featurizations"):
            return np.asarray(self.featurizer(system))
        try:
            result = self.featurizer(system)
        except TypeError:  # newer featurizers take a list of systems
            result = self.featurizer([system])
        if isinstance(result, (list, tuple)) and len(result) == 1 and hasattr(result[0], "featurizations"):
            result = result[0]
        return np.asarray(result.featurizations[self.__name__] if hasattr(result, "featurizations") else result)


def columns_of_dict(arrays: Mapping[str, Any]) -> tuple[dict[str, Any], str | list[str]]:
    """The columns of a mapping in one of KinoML's layouts, and the names of X.

    Raises:
        SpecError: y or a row is missing, or a key does not belong to the layouts.
    """
    if "y" not in arrays:
        raise SpecError("the arrays do not contain y")
    if "X" in arrays:
        return {"X": arrays["X"], "y": arrays["y"]}, "X"
    by_array: dict[int, dict[int, Any]] = {}  # -1 for keys without an array number
    for key, values in arrays.items():
        if (numbers := row_and_array(key)) is not None:
            by_array.setdefault(-1 if numbers[1] is None else numbers[1], {})[numbers[0]] = values
    rows = range(len(arrays["y"]))
    complete = all(sorted(values) == list(rows) for values in by_array.values())
    if not by_array or not complete or (-1 in by_array and len(by_array) > 1):
        raise SpecError(
            f"the keys must be X, or X_s{{row}}_ or X_s{{row}}_a{{array}}_ for each of the {len(rows)} rows of y"
        )
    columns = {f"X{number}": [by_array[number][row] for row in rows] for number in sorted(by_array)}
    if len(columns) == 1:
        columns = {"X": next(iter(columns.values()))}
    return columns | {"y": arrays["y"]}, next(iter(columns)) if len(columns) == 1 else list(columns)


def accessor_to_indices(accessor: Any, full_size: int) -> tuple[list[int], bool]:
    """The positions that an index selects, and whether it is a single int. True selects all rows, False none."""
    if accessor is True or accessor is False:
        return list(range(full_size)) if accessor else [], False
    positions, single = normalize_index(list(accessor) if isinstance(accessor, tuple) else accessor, full_size)
    return positions.tolist(), single


class CoreDataset(Dataset[Any]):
    """A torch dataset over an `XyDataset`, its attribute `core`."""

    core: XyDataset

    def __len__(self) -> int:
        return len(self.core)

    def __getitem__(self, index: Any) -> Any:
        return self.core[index]

    def __getitems__(self, indices: list[int]) -> Batch:
        return self.core.__getitems__(indices)

    def as_dataloader(self, **kwargs: Any) -> DataLoader[Any]:
        """A `DataLoader` over this dataset; `kwargs` are passed to it."""
        kwargs = shuffled_by_blocks(self.core._session.binding.blocks, self.core._rows, None, kwargs)
        return DataLoader(self, **{"collate_fn": self.core.collate_fn, **kwargs})


class WithIndices(CoreDataset):
    """A dataset with row selectors for train, test and val in `indices`."""

    indices: dict[str, Any]

    def take_indices(self, indices: Mapping[str, Any] | None, length: int) -> dict[str, Any]:
        """Set `indices`, and return them as the splits of a spec, which checks them.

        KinoML's True for all rows becomes their numbers, which also index a tensor such as `data_X`.
        """
        self.indices = {
            name: np.array(accessor_to_indices(rows, length)[0], np.int64) if isinstance(rows, bool) else rows
            for name, rows in (indices or {"train": True}).items()
        }
        if strangers := sorted(set(self.indices) - set(SPLITS)):
            raise SpecError(f"indices: {unknown(strangers[0], SPLITS)}")
        return {name: {"rows": accessor_to_indices(rows, length)[0]} for name, rows in self.indices.items()}

    @cached_property
    def data_y(self) -> Tensor:
        """All of y: `(rows, ...)`."""
        return cast(Tensor, self.core.column("y"))
