"""The hooks of a plugin. Each returns classes, which the registry finds by their `name`.

A module that registers a backend, for example::

    @hookimpl
    def register_backends():
        return [NpyFolder]
"""

from __future__ import annotations

from collections.abc import Iterable
from concurrent.futures import Executor

import pluggy

from kinoml_data.contracts.backend import Backend
from kinoml_data.contracts.batch_form import BatchForm
from kinoml_data.contracts.drawing import Drawing
from kinoml_data.contracts.featurizer import Featurizer
from kinoml_data.contracts.observation_model import ObservationModel

PROJECT = "kinoml_data"
hookspec = pluggy.HookspecMarker(PROJECT)
hookimpl = pluggy.HookimplMarker(PROJECT)


@hookspec
def register_backends() -> Iterable[type[Backend]]:  # type: ignore[empty-body]  # a hook has no body
    """Return the storage backends that the plugin adds."""


@hookspec
def register_featurizers() -> Iterable[type[Featurizer]]:  # type: ignore[empty-body]  # a hook has no body
    """Return the featurizers that the plugin adds, for the backend `featurize-on-access`."""


@hookspec
def register_observation_models() -> Iterable[type[ObservationModel]]:  # type: ignore[empty-body]  # a hook has no body
    """Return the observation models that the plugin adds."""


@hookspec
def register_collate_forms() -> Iterable[type[BatchForm]]:  # type: ignore[empty-body]  # a hook has no body
    """Return the collate forms that the plugin adds."""


@hookspec
def register_drawings() -> Iterable[type[Drawing]]:  # type: ignore[empty-body]  # a hook has no body
    """Return the drawings that the plugin adds, for `kinoml-data report`."""


@hookspec
def register_executors() -> Iterable[type[Executor]]:  # type: ignore[empty-body]  # a hook has no body
    """Return the executors that the plugin adds, for `kinoml-data convert --executor NAME --address ADDRESS`.

    Each has a `name` and is created with one argument, `address`, a str or None. At the end of `with executor:`, it
    releases what it opened.
    """
