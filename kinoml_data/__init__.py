"""From a description of a dataset to a PyTorch dataset, no matter how the data is stored."""

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from kinoml_data import errors, torch_datasets
    from kinoml_data.columns import Columns, Ragged
    from kinoml_data.contracts.backend import AnyBackend, Backend, DataPath, Storage
    from kinoml_data.contracts.batch_form import BatchForm
    from kinoml_data.contracts.drawing import Drawing
    from kinoml_data.contracts.featurizer import Featurizer
    from kinoml_data.contracts.hookspecs import hookimpl
    from kinoml_data.contracts.observation_model import ObservationModel
    from kinoml_data.conversion import convert, save_dataset
    from kinoml_data.dataset.dataset import XyDataset
    from kinoml_data.dataset.forms import Packed, PadMask, Unique
    from kinoml_data.factory import from_arrays, infer_spec, load_dataset
    from kinoml_data.layouts.flat_arrays import ArrayStorage
    from kinoml_data.registry import list_backends
    from kinoml_data.several import load_datasets
    from kinoml_data.spec.array import Array
    from kinoml_data.spec.dataset_spec import CompleteSpec, DatasetSpec

__version__ = "0.2.0"

# The public names of each module, imported on first use: `kinoml-data --help` needs no torch.
_NAMES = {
    "columns": ("Columns", "Ragged"),
    "contracts.backend": ("AnyBackend", "Backend", "DataPath", "Storage"),
    "contracts.batch_form": ("BatchForm",),
    "contracts.drawing": ("Drawing",),
    "contracts.featurizer": ("Featurizer",),
    "contracts.hookspecs": ("hookimpl",),
    "contracts.observation_model": ("ObservationModel",),
    "conversion": ("convert", "save_dataset"),
    "dataset.dataset": ("XyDataset",),
    "dataset.forms": ("Packed", "PadMask", "Unique"),
    "factory": ("from_arrays", "infer_spec", "load_dataset"),
    "layouts.flat_arrays": ("ArrayStorage",),
    "registry": ("list_backends",),
    "several": ("load_datasets",),
    "spec.array": ("Array",),
    "spec.dataset_spec": ("CompleteSpec", "DatasetSpec"),
}
_MODULES = {name: module for module, names in _NAMES.items() for name in names}
_PUBLIC_MODULES = ("errors", "torch_datasets")

__all__ = ["convert", "from_arrays", "infer_spec", "list_backends", "load_dataset", "load_datasets", "save_dataset"]
__all__ += ["Array", "CompleteSpec", "DatasetSpec", "XyDataset"]
__all__ += ["ArrayStorage", "Columns", "Packed", "PadMask", "Ragged", "Unique"]
__all__ += ["AnyBackend", "Backend", "BatchForm", "DataPath", "Drawing", "Featurizer", "ObservationModel", "Storage"]
__all__ += ["hookimpl"]
__all__ += ["errors", "torch_datasets"]


def __getattr__(name: str) -> Any:
    if name in _PUBLIC_MODULES:
        return import_module(f"kinoml_data.{name}")
    if name not in _MODULES:
        raise AttributeError(f"module 'kinoml_data' has no attribute {name!r}")
    value = getattr(import_module(f"kinoml_data.{_MODULES[name]}"), name)
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
