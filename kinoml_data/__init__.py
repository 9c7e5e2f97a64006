"""From a description of a dataset to a PyTorch dataset, whatever holds the data."""

from kinoml_data import errors, torch_datasets
from kinoml_data.backend import AnyBackend, Backend, DataPath, Storage
from kinoml_data.backends.arrays import ArrayStorage
from kinoml_data.batch_form import BatchForm
from kinoml_data.collate import Packed, PadMask
from kinoml_data.columns import Columns, Ragged
from kinoml_data.convert import convert, save_dataset
from kinoml_data.dataset import XyDataset
from kinoml_data.factory import from_arrays, load_dataset, load_datasets
from kinoml_data.featurizer import Featurizer
from kinoml_data.hookspecs import hookimpl
from kinoml_data.observation import ObservationModel
from kinoml_data.registry import backends
from kinoml_data.spec import Array, DatasetSpec

__version__ = "0.1.0"

__all__ = [
    "AnyBackend",
    "Array",
    "ArrayStorage",
    "Backend",
    "BatchForm",
    "Columns",
    "DataPath",
    "DatasetSpec",
    "Featurizer",
    "ObservationModel",
    "Packed",
    "PadMask",
    "Ragged",
    "Storage",
    "XyDataset",
    "backends",
    "convert",
    "errors",
    "from_arrays",
    "hookimpl",
    "load_dataset",
    "load_datasets",
    "save_dataset",
    "torch_datasets",
]
