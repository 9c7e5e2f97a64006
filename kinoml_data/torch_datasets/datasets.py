"""KinoML's five dataset classes under the same names, as thin layers over `XyDataset`.

To migrate code written for `kinoml.datasets.torch_datasets`, change the import. For each class, `docs/from-kinoml.md`
shows how to do the same without the class, and lists the faults of the original that are fixed.

All classes raise the errors of `load_dataset`: `SpecError` if arrays, keys or indices do not fit together, `SplitError`
if indices overlap or are out of range, and `StoreNotFoundError` or `CorruptStoreError` for files.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterable, Mapping
from functools import cached_property
from pathlib import Path
from typing import Any, cast

import numpy as np
import torch
from torch import Tensor

from kinoml_data.backends.npz.archive import Archive
from kinoml_data.backends.npz.storage import row_and_array
from kinoml_data.dataset.dataset import XyDataset
from kinoml_data.errors import SpecError, quoted
from kinoml_data.factory import load_dataset, open_to_copy
from kinoml_data.torch_datasets import samples
from kinoml_data.torch_datasets.samples import (
    AsKinoml,
    ByField,
    BySystem,
    CoreDataset,
    Featurize,
    Members,
    ToDeviceCollater,
    WithIndices,
)

IN_MEMORY: dict[str, Any] = {"backend": "in-memory"}
Path_ = str | os.PathLike[str]
_accessor_to_indices = samples.accessor_to_indices


def _null_observation_model(values: Any) -> Any:
    """The observation model of a dataset that has none: its argument."""
    return values


class PrefeaturizedTorchDataset(CoreDataset):
    """Arrays that are already featurized; `ds[i]` is `(X, y)` in float32.

    Args:
        systems: one array per row, of the same shape or of different ones.
        measurements: one number or array per row.
        observation_model: a function from predicted to observed y; by default the identity.

    Attributes:
        device: the device that tensors are moved to: "cuda" if a GPU is available, otherwise "cpu". Worker
            processes return CPU tensors.
    """

    def __init__(self, systems: Any, measurements: Any, observation_model: Callable[..., Any] | None = None) -> None:
        if len(systems) != len(measurements):
            raise SpecError(f"there are {len(systems)} systems, but {len(measurements)} measurements")
        self.device = "cuda" if torch.cuda.is_available() else "cpu"
        self.systems, self.measurements = systems, measurements
        self.observation_model = _null_observation_model if observation_model is None else observation_model
        self._use()

    def _use(self) -> None:
        spec = {"X": "X", "y": "y", "storage": IN_MEMORY}
        data = {"X": self.systems, "y": self.measurements}
        core = load_dataset(spec, data=data, dtype={"X": "float32", "y": "float32"})
        self.core = core.with_collater(ToDeviceCollater(core.spec, device=self.device))

    def estimate_input_size(self) -> tuple[int, ...]:
        """The shape of the first X."""
        return tuple(self[0][0].shape)


class TorchDataset(PrefeaturizedTorchDataset):
    """Systems that are featurized when they are first read. The features are remembered.

    Args:
        systems: KinoML systems, or any other arguments of the featurizer.
        measurements: one number or array per row.
        featurizer: a callable that returns an array; or one of KinoML's, which stores the features in
            `system.featurizations[featurizer.name]` and returns the system, or a list of systems for a list.
        observation_model: a function from predicted to observed y; by default the identity.

    Raises:
        ValueError: `featurizer` is None.
    """

    def __init__(self, systems: Any, measurements: Any, featurizer: Any, observation_model: Any = None) -> None:
        if featurizer is None:
            raise ValueError("TorchDataset needs a featurizer: a callable that returns an array, or one of KinoML's")
        self.featurizer = featurizer
        super().__init__(systems, measurements, observation_model)

    def _use(self) -> None:
        """Do nothing yet: the rank of X is unknown until the first system has been featurized."""

    @cached_property
    def core(self) -> XyDataset:  # type: ignore[override]
        """The same rows as an `XyDataset`. First use featurizes the first system."""
        featurize, y = Featurize(self.featurizer), np.asarray(self.measurements)
        rank = featurize(self.systems[0]).ndim if len(self.systems) else 1
        spec = {
            "columns": {"X": {"shape": ["*"] * rank}, "y": {"shape": list(y.shape[1:])}},
            "X": "X",
            "y": "y",
            "storage": {"backend": "featurize-on-access", "featurizer": {"inputs": ["system"]}},
        }
        core = load_dataset(spec, data={"system": self.systems, "y": y}, featurizer=featurize)
        return core.with_collater(ToDeviceCollater(core.spec, device=self.device))

    def __len__(self) -> int:
        return len(self.systems)


class XyTorchDataset(WithIndices):
    """X and y as one tensor each; `ds[index]` is `(X[index], y[index])` in the dtypes of the arrays.

    Args:
        X, y: arrays `(rows, ...)`.
        indices: a mapping with any of the keys train, test and val to row selectors; by default, all rows are in train.
    """

    def __init__(self, X: Any, y: Any, indices: Mapping[str, Any] | None = None) -> None:
        spec = {"X": "X", "y": "y", "storage": IN_MEMORY, "splits": self.take_indices(indices, len(X))}
        self.core = load_dataset(spec, data={"X": X, "y": y})

    @classmethod
    def from_npz(cls, path: Path_) -> XyTorchDataset:
        """Read a file with the arrays `X` and `y`, and any of `idx_train`, `idx_test` and `idx_val` for its splits."""
        self = cls.__new__(cls)
        self.core = load_dataset(path, backend="in-memory")
        self.take_indices(self.core.indices, len(self.core))
        return self

    @cached_property
    def data_X(self) -> Tensor:
        """All of X, `(rows, ...)`."""
        return cast(Tensor, self.core.column("X"))

    def input_size(self) -> int:
        """The length of the first axis of one X."""
        return int(self.core.estimate_input_size()[0])


class MultiXTorchDataset(WithIndices):
    """One or several tensors per system, of different shapes.

    If X is one array, `ds[index]` is `(X[index], y[index])`. Otherwise `ds[i]` is `([tensor, ...], y)`, and an index of
    several rows returns `([[tensor, ...], ...], y)`.

    In a loader, rows of one shape give what KinoML's loaders give: one stacked tensor per array, and y of the shape
    `(rows, 1)`. Rows of different shapes, on which KinoML's loaders fail, give `([[tensor, ...], ...], y)`.

    Args:
        dict_of_arrays: `y`, and X under the keys `X`, `X_s{row}_` or `X_s{row}_a{array}_`. The last underscore may be
            missing.
        indices: a mapping with any of the keys train, test and val to row selectors; by default, all rows are in train.
    """

    def __init__(self, dict_of_arrays: Mapping[str, Any], indices: Mapping[str, Any] | None = None) -> None:
        data, X = samples.columns_of_dict(dict_of_arrays)
        spec = {"X": X, "y": "y", "storage": IN_MEMORY, "splits": self.take_indices(indices, len(data["y"]))}
        self._data = dict_of_arrays
        self._use(load_dataset(spec, data=data))

    @classmethod
    def from_npz(cls, path: Path_, lazy: bool = True, close_filehandle: bool = False) -> MultiXTorchDataset:
        """Read a file in one of the three layouts.

        Args:
            path: the file.
            lazy: if True, each system is read on access; if False, all are read now, with a progress bar.
            close_filehandle: if True, no file is kept open between reads.
        """
        source = {"backend": "npz-reopen" if close_filehandle else "npz-lazy", "path": os.fspath(path)}
        self = cls.__new__(cls)
        core = load_dataset({"storage": source if lazy else IN_MEMORY | {"source": source, "progress": True}})
        archive = Archive(Path(path))  # `core` does not tell one array per row from one array of all rows
        archive.close()
        self._data = Members(core, [name.removesuffix(".npy") for name in archive.names])
        self._path = path
        self._use(core)
        self.take_indices(core.indices, len(core))
        return self

    _data: Mapping[str, Any]
    _path: Path_
    _is_npz = None  # as in KinoML, which never sets it

    def _use(self, core: XyDataset) -> None:
        self._single = "X" in self._data
        self.core = core if self._single else core.with_collater(AsKinoml(core.spec))
        self._by_system = core if self._single else core.with_collater(BySystem(core.spec))

    @cached_property
    def _fast_key_access(self) -> dict[int, list[str]]:
        return self._str_keys_to_nested_dict(self._data)

    def __getitem__(self, index: Any) -> Any:
        return self._by_system[index]

    def _getitem_single_X(self, index: Any) -> Any:
        """The same as `ds[index]` if X is one array."""
        return self[index]

    def _getitem_multi_X(self, index: Any) -> Any:
        """The same as `ds[index]` if a system has arrays of its own."""
        return self[index]

    def is_single_X(self) -> bool:
        """True if X is one array."""
        return self._single

    @cached_property
    def data_X(self) -> Tensor | None:
        """All of X if it is one array, otherwise None."""
        return cast(Tensor, self.core.column("X")) if self._single else None

    @property
    def shape_X(self) -> torch.Size:
        """The shape of X if it is one array; otherwise `(rows,)`, or `(rows, arrays)` if keys have array numbers."""
        if self._single:
            return torch.Size(self.core.shape_X)
        numbered = any((numbers := row_and_array(key)) and numbers[1] is not None for key in self._data)
        return torch.Size([len(self), len(self.core.spec.X_names)] if numbered else [len(self)])

    def _shape_X(self) -> torch.Size:
        """The same as `shape_X`."""
        return self.shape_X

    @property
    def shape_y(self) -> torch.Size:
        """The shape of y."""
        return torch.Size(self.core.shape_y)

    @staticmethod
    def _key_to_ints(key: str) -> list[int]:
        """The numbers in a key: `X_s12_a3_` gives `[12, 3]`."""
        numbers = row_and_array(key)
        if numbers is None:
            raise SpecError(f"the key {quoted(key)} does not have the form X_s{{row}} or X_s{{row}}_a{{array}}")
        return [number for number in numbers if number is not None]

    @staticmethod
    def _str_keys_to_nested_dict(keys: Iterable[str]) -> dict[int, list[str]]:
        """The keys of each row in the order of their arrays, such as `{12: ["X_s12_a0_", "X_s12_a1_"]}`."""
        numbered = sorted((numbers[0], numbers[1] or 0, key) for key in keys if (numbers := row_and_array(key)))
        nested: dict[int, list[str]] = {}
        for row, _, key in numbered:
            nested.setdefault(row, []).append(key)
        return nested


class AwkwardArrayDataset(CoreDataset):
    """Records of an awkward array with fields "0", "1" and so on; the last field is y.

    `ds[i]` is `([X0, X1, ...], y)`. An index of several rows returns one tensor per field if the rows have the same
    shape, otherwise a list of tensors.

    Args:
        data: an `awkward.Array` of records, one array of numbers per field.
    """

    _path: str
    _data: Any = None

    def __init__(self, data: Any) -> None:
        fields = list(getattr(data, "fields", ()))
        if len(fields) < 2:
            raise SpecError("AwkwardArrayDataset needs an awkward array of records with at least two fields, X and y")
        spec = {"X": fields[:-1], "y": fields[-1], "storage": IN_MEMORY}
        self._use(load_dataset(spec, data={field: data[field] for field in fields}))
        self._data = data

    @classmethod
    def from_parquet(cls, path: Path_, **kwargs: Any) -> AwkwardArrayDataset:
        """Read a Parquet file written by `ak.to_parquet`. If there are `kwargs`, `ak.from_parquet` reads it."""
        if kwargs:
            import awkward as ak

            return cls(ak.from_parquet(path, **kwargs))
        self = cls.__new__(cls)
        self._path = os.fspath(path)
        with open_to_copy(path, backend="parquet-awkward") as table:
            spec, fields = table.spec, list(table.spec.columns)
        X, y = (spec.X, spec.y) if spec.X is not None else (fields[:-1], fields[-1])
        self._use(load_dataset(path, X=X, y=y, backend="parquet-awkward"))
        return self

    def _use(self, core: XyDataset) -> None:
        self.core = core.with_collater(ByField(core.spec))

    @property
    def data(self) -> Any:
        """The records as an `awkward.Array`. Other records may be assigned, which the dataset then contains.

        Raises:
            SpecError: what is assigned is not an array of records with at least two fields.
        """
        if self._data is None:
            import awkward as ak

            self._data = ak.from_parquet(self._path)
        return self._data

    @data.setter
    def data(self, data: Any) -> None:
        AwkwardArrayDataset.__init__(self, data)

    def __repr__(self) -> str:
        return f"<AwkwardArrayDataset over {self.core!r}>"
