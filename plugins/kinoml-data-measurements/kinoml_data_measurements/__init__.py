"""The plugin `kinoml-data-measurements`: the backend `measurements`, and the list of the rows that it rejects."""

from kinoml_data.plugin import Backend, hookimpl

from kinoml_data_measurements.backend import Measurements
from kinoml_data_measurements.rejected import rejected, write_rejected

__all__ = ["Measurements", "register_backends", "rejected", "write_rejected"]


@hookimpl
def register_backends() -> tuple[type[Backend], ...]:
    """The backend of this plugin."""
    return (Measurements,)
