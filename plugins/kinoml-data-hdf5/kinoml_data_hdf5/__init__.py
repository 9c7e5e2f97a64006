"""The plugin `kinoml-data-hdf5`: the backend `hdf5`."""

from kinoml_data.plugin import Backend, hookimpl

from kinoml_data_hdf5.backend import Hdf5
from kinoml_data_hdf5.layout import RaggedLayout

__all__ = ["Hdf5", "RaggedLayout", "register_backends"]


@hookimpl
def register_backends() -> tuple[type[Backend], ...]:
    """The backend of this plugin."""
    return (Hdf5,)
