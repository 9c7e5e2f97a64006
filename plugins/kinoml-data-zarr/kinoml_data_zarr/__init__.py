"""The plugin `kinoml-data-zarr`: the backend `zarr`."""

from kinoml_data import Backend, hookimpl

from kinoml_data_zarr.backend import Zarr

KINOML_DATA_API = 1


@hookimpl
def register_backends() -> tuple[type[Backend], ...]:
    """The backend of this plugin."""
    return (Zarr,)
