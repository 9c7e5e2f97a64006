"""The plugin `kinoml-data-pyg`: the collate forms `pyg` and `pyg-unique`, and KinoML's dataset of graphs."""

from typing import TYPE_CHECKING, Any

from kinoml_data import BatchForm, hookimpl

from kinoml_data_pyg.graph_batch import GraphBatch, UniqueGraphBatch

if TYPE_CHECKING:
    from kinoml_data_pyg.geometric_dataset import AwkwardArrayGeometricDataset

__all__ = ["AwkwardArrayGeometricDataset", "GraphBatch", "UniqueGraphBatch", "register_collate_forms"]


@hookimpl
def register_collate_forms() -> tuple[type[BatchForm], ...]:
    """The collate forms of this plugin."""
    return (GraphBatch, UniqueGraphBatch)


def __getattr__(name: str) -> Any:
    if name == "AwkwardArrayGeometricDataset":  # imports torch, which a list of plugins does not need
        from kinoml_data_pyg.geometric_dataset import AwkwardArrayGeometricDataset

        return AwkwardArrayGeometricDataset
    raise AttributeError(f"module 'kinoml_data_pyg' has no attribute {name!r}")
