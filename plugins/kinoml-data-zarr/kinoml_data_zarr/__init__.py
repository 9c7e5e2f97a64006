"""The plugin `kinoml-data-zarr`: the backend `zarr`."""

from kinoml_data.plugin import Backend, hookimpl

from kinoml_data_zarr.backend import Zarr


@hookimpl
def register_backends() -> tuple[type[Backend], ...]:
    """The backend of this plugin."""
    return (Zarr,)
