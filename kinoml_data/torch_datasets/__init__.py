"""KinoML's five dataset classes under their own names: change the import, and code written for KinoML works."""

from kinoml_data.torch_datasets.datasets import (
    AwkwardArrayDataset,
    MultiXTorchDataset,
    PrefeaturizedTorchDataset,
    TorchDataset,
    XyTorchDataset,
    _accessor_to_indices,
)

__all__ = [
    "AwkwardArrayDataset",
    "MultiXTorchDataset",
    "PrefeaturizedTorchDataset",
    "TorchDataset",
    "XyTorchDataset",
    "_accessor_to_indices",
]
