"""A Lightning `DataModule` made from a spec."""

from kinoml_data_lightning.data_module import DataModule

__all__ = ["DataModule"]
