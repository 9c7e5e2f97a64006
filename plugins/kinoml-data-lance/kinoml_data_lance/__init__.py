"""The plugin `kinoml-data-lance`: the backend `lance`."""

from kinoml_data.plugin import Backend, hookimpl

from kinoml_data_lance.backend import Lance


@hookimpl
def register_backends() -> tuple[type[Backend], ...]:
    """The backend of this plugin."""
    return (Lance,)
