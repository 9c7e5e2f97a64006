"""The objects that a spec names, with their options checked: its backend, featurizers and observation model."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any, TypeAlias, TypeVar

from pydantic import ValidationError

from kinoml_data import registry
from kinoml_data.contracts.backend import Backend, SpecContext
from kinoml_data.contracts.featurizer import Featurizer
from kinoml_data.contracts.observation_model import ObservationModel
from kinoml_data.errors import SpecError, error_prefix, quoted, unknown
from kinoml_data.spec.array import Model
from kinoml_data.spec.dataset_spec import DatasetSpec
from kinoml_data.spec.parts import FeaturizerRef
from kinoml_data.spec.validation import plain_json, spec_error

M = TypeVar("M", bound=Model)
PythonFeaturizer: TypeAlias = Featurizer | Callable[..., Any]
PythonFeaturizers: TypeAlias = PythonFeaturizer | Mapping[str, PythonFeaturizer]


def make_backend(
    spec: DatasetSpec,
    data: Mapping[str, Any] | None = None,
    featurizer: PythonFeaturizers | None = None,
    given: Backend | None = None,
) -> Backend:
    """The backend that a spec names, with its options checked. It is not opened.

    Args:
        spec: names the backend.
        data, featurizer: Python objects for the backend; see `load_dataset`.
        given: the backend itself, if the caller has one.

    Raises:
        SpecError: an option is not valid, or the backend does not take the objects.
        UnknownNameError: no backend or featurizer of that name is installed.
        PluginLoadError, PluginConflictError: the plugin of such a name is broken, or two plugins register the name.
    """
    functions: dict[Any, Any] = {} if featurizer is None else {None: featurizer}
    if isinstance(featurizer, Mapping):
        functions = dict(featurizer)
    names: list[str | None] = []  # of the featurizers of the spec

    def featurizer_of(ref: FeaturizerRef) -> Any:
        names.append(ref.name)
        if ref.name in functions:
            return _function_of(ref, functions[ref.name])
        if ref.name is None:
            raise SpecError(
                "the backend 'featurize-on-access' needs a featurizer: by name in the spec, or featurizer=function in "
                "Python"
            )
        return _checked(registry.featurizer(ref.name), ref.options, context, f"featurizer {ref.name}")

    context = SpecContext(
        base=spec.base,
        root=spec.root,
        backend=lambda options: _backend(options, context),
        featurizer=featurizer_of,
        distribution=lambda ref: None if ref.name in functions else registry.distribution("featurizer", str(ref.name)),
    )
    backend = given or _backend(spec.storage.model_dump(mode="json"), context, "storage")
    if None in functions and None not in names:
        if not names:
            raise SpecError("featurizer= needs the backend 'featurize-on-access'")
        raise SpecError(
            f"featurizer=: every featurizer of the spec has a name; to replace {names[0]!r}, give "
            f"`featurizer={{{names[0]!r}: function}}`"
        )
    if unused := [name for name in functions if name not in names]:
        known = [name for name in names if name is not None]
        raise SpecError(f"featurizer=: {unknown(unused[0], known, 'featurizer of the spec')}")
    return backend if data is None else backend.with_objects(data=data)


def _function_of(ref: FeaturizerRef, featurizer: Any) -> Any:
    """The caller's featurizer for a reference.

    Raises:
        SpecError: it is not a featurizer, or the spec has options for it.
    """
    if not isinstance(featurizer, Featurizer) and not callable(featurizer):
        raise SpecError(f"featurizer=: {quoted(featurizer)} is neither a function nor a Featurizer object")
    if ref.options:
        problem = unknown(next(iter(ref.options)), ["name", "inputs", "outputs"])
        raise SpecError(f"featurizer {ref.name}: {problem}; a Python object takes no options from a spec")
    return featurizer


def _backend(options: Mapping[str, Any], context: SpecContext, where: str = "") -> Backend:
    options = dict(options)
    with error_prefix("storage: "):
        cls = registry.backend(options.pop("backend"))
    return _checked(cls, options, context, where)


def _checked(cls: type[M], options: Mapping[str, Any], context: Any, where: str) -> M:
    """An object of a registered class, with its options validated."""
    try:
        return cls.model_validate_json(plain_json(options), context=context)
    except ValidationError as error:
        raise spec_error(error, cls, where) from None


def made_observation_model(spec: DatasetSpec) -> ObservationModel | None:
    """The observation model that a spec names, bound to the columns of the spec; None if it names none.

    Raises:
        SpecError: an option is not valid, or does not fit the columns.
        UnknownNameError: no model of that name is installed.
        PluginLoadError, PluginConflictError: the plugin of the name is broken, or two plugins register it.
    """

    def model(name: str, options: Mapping[str, Any], where: str) -> ObservationModel:
        return _checked(registry.observation_model(name), options, model, where)

    ref = spec.observation_model
    if ref is None:
        return None
    name, options = (ref, {}) if isinstance(ref, str) else (ref.name, ref.options)
    return model(name, options, "observation_model").bound_to(spec)
