"""KinoML's five dataset classes under the same names: to migrate code written for KinoML, change the import."""

from kinoml_data.torch_datasets.datasets import (
    AwkwardArrayDataset,
    MultiXTorchDataset,
    PrefeaturizedTorchDataset,
    TorchDataset,
    XyTorchDataset,
    _accessor_to_indices,
    _null_observation_model,
)

__all__ = [
    "AwkwardArrayDataset",
    "MultiXTorchDataset",
    "PrefeaturizedTorchDataset",
    "TorchDataset",
    "XyTorchDataset",
    "_accessor_to_indices",
    "_null_observation_model",
]
