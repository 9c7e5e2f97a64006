"""The plugin `kinoml-data-pyg`: the collate form `pyg`, and KinoML's dataset of graphs."""

from typing import TYPE_CHECKING, Any

from kinoml_data import BatchForm, hookimpl

from kinoml_data_pyg.graph_batch import GraphBatch

if TYPE_CHECKING:
    from kinoml_data_pyg.geometric_dataset import AwkwardArrayGeometricDataset

__all__ = ["AwkwardArrayGeometricDataset", "GraphBatch", "register_collate_forms"]


@hookimpl
def register_collate_forms() -> tuple[type[BatchForm], ...]:
    """The collate form of this plugin."""
    return (GraphBatch,)


def __getattr__(name: str) -> Any:
    if name == "AwkwardArrayGeometricDataset":  # imports torch, which a list of plugins does not need
        from kinoml_data_pyg.geometric_dataset import AwkwardArrayGeometricDataset

        return AwkwardArrayGeometricDataset
    raise AttributeError(f"module 'kinoml_data_pyg' has no attribute {name!r}")
