"""From a name to a class: built-ins first, then plugins by entry point, each loaded on its own.

A broken plugin does not affect the others: its distribution, version and error are recorded, and reported if the plugin
or an unknown name is requested.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterable, Mapping
from concurrent.futures import Executor
from dataclasses import dataclass, field
from importlib.metadata import EntryPoint, entry_points, version
from threading import Lock, RLock
from typing import Any, cast

import pluggy

from kinoml_data import observation
from kinoml_data.backends import BUILT_IN as BUILT_IN_BACKENDS
from kinoml_data.contracts import hookspecs
from kinoml_data.contracts.backend import Backend
from kinoml_data.contracts.batch_form import BatchForm
from kinoml_data.contracts.drawing import Drawing
from kinoml_data.contracts.featurizer import Featurizer
from kinoml_data.contracts.observation_model import ObservationModel
from kinoml_data.errors import PluginConflictError, PluginLoadError, UnknownNameError, format_error, quoted, unknown
from kinoml_data.spec.parts import FORMS

GROUP = hookspecs.PROJECT
COLLATE_FORM = "collate form"
ALLOWED = "KINOML_DATA_PLUGINS"  # the environment variable that restricts plugins
KINDS: Mapping[str, tuple[str, type]] = {
    "backend": ("register_backends", Backend),
    "featurizer": ("register_featurizers", Featurizer),
    "observation model": ("register_observation_models", ObservationModel),
    COLLATE_FORM: ("register_collate_forms", BatchForm),
    "drawing": ("register_drawings", Drawing),
    "executor": ("register_executors", Executor),
}
BUILT_IN: Mapping[str, Mapping[str, type]] = {
    "backend": {cls.name: cls for cls in BUILT_IN_BACKENDS},
    "featurizer": {},
    "observation model": {cls.name: cls for cls in observation.BUILT_IN},
    COLLATE_FORM: {},
    "drawing": {},
    "executor": {},
}


@dataclass
class Plugin:
    """An installed plugin.

    Attributes:
        entry_point: its name in the entry-point group.
        distribution, version: the package that it comes from.
        loader: imports it; None for the built-ins.
        error: why it could not be loaded; None if it was loaded or was not tried.
        loaded: True once loading was tried.
        names: the classes that it registers, `{kind: {name: class}}`; empty until it is loaded.
    """

    entry_point: str
    distribution: str
    version: str
    loader: EntryPoint | None = None
    error: BaseException | None = None
    loaded: bool = False
    names: dict[str, dict[str, type]] = field(default_factory=dict)
    module: Any = None

    def __str__(self) -> str:
        return f"{self.distribution} {self.version}"

    def failure(self) -> str:
        """A sentence that names the plugin and its error."""
        return f"plugin {self.entry_point!r} of {self} could not be loaded: {format_error(self.error)}"


class Registry:
    """All classes by kind and name. The process has one; tests make their own."""

    def __init__(self) -> None:
        self._lock = RLock()  # not a Lock: a plugin may list backends while it is imported
        self.refresh()

    def refresh(self) -> None:
        """Forget every plugin and look for plugins again, for a notebook in which one was installed or repaired."""
        with self._lock:
            self.plugins = [Plugin(ep.name, *_distribution(ep), ep) for ep in entry_points(group=GROUP) if _allowed(ep)]

    def get(self, kind: str, name: str) -> type:
        """The class registered under `name`.

        A plugin whose entry point has this name is imported first and owns the name; no other plugin is imported then.

        Raises:
            UnknownNameError: no plugin registers the name. The message lists the known names and the broken plugins.
            PluginLoadError: the plugin whose entry point has this name could not be loaded.
            PluginConflictError: two distributions register the name.
        """
        if cls := BUILT_IN[kind].get(name):
            return cls
        namesakes = [plugin for plugin in self.plugins if plugin.entry_point == name]
        self._load(namesakes)
        if not self.owners(kind, name):
            if broken := [plugin for plugin in namesakes if plugin.error]:
                raise PluginLoadError(f"{kind} {name!r}: {broken[0].failure()}") from broken[0].error
            self._load(self.plugins)
        owners = self.owners(kind, name)
        if len(owners) > 1:
            names = " and ".join(map(str, owners))
            raise PluginConflictError(f"{kind} {name!r} is registered by {names}; uninstall one of them")
        if not owners:
            known = sorted({*BUILT_IN[kind], *(n for p in self.plugins for n in p.names.get(kind, {}))})
            message = unknown(name, known, kind)
            if known and "; known: " not in message:  # only the nearest name was given
                message += f" (installed: {', '.join(known)})"
            if (allowed := os.environ.get(ALLOWED)) is not None:
                message += f"; the environment variable {ALLOWED} allows no plugin other than {quoted(allowed)}"
            raise UnknownNameError("; ".join([message, *(plugin.failure() for plugin in self.broken())]))
        return owners[0].names[kind][name]

    def all(self, kind: str) -> dict[str, tuple[type, Plugin]]:
        """Every class of a kind in `KINDS` with its plugin, by name. If two plugins register a name, its owner's class.

        Imports all plugins, one after the other.
        """
        self._load(self.plugins)
        built_in = Plugin("built-in", "kinoml-data", version("kinoml-data"))
        classes = {name: (cls, built_in) for name, cls in BUILT_IN[kind].items()}
        for plugin in self.plugins:
            for name, cls in plugin.names.get(kind, {}).items():
                if plugin is self.owners(kind, name)[0]:
                    classes[name] = (cls, plugin)
        return classes

    def owners(self, kind: str, name: str) -> list[Plugin]:
        """The loaded plugins that own a name: one, none, or several distributions in conflict."""
        plugins = [plugin for plugin in self.plugins if name in plugin.names.get(kind, {})]
        return [plugin for plugin in plugins if plugin.entry_point == name] or plugins

    def broken(self) -> list[Plugin]:
        """The plugins that could not be loaded, of those that were tried."""
        return [plugin for plugin in self.plugins if plugin.error]

    def _load(self, plugins: Iterable[Plugin]) -> None:
        for plugin in plugins:
            with self._lock:
                if plugin.loaded or plugin.loader is None:
                    continue
                plugin.loaded = True
                try:
                    module = plugin.loader.load()
                    # Two entry points, each named as a backend of one module, register it once.
                    if all(module is not other.module for other in self.plugins):
                        plugin.names, plugin.module = _classes(module), module
                except KeyboardInterrupt:
                    plugin.loaded = False
                    raise
                except BaseException as error:  # a plugin may fail in any way, even with SystemExit
                    plugin.error = error


def _classes(module: Any) -> dict[str, dict[str, type]]:
    """The classes that the hooks of a plugin return, `{kind: {name: class}}`. No other plugin is asked."""
    manager = pluggy.PluginManager(hookspecs.PROJECT)
    manager.add_hookspecs(hookspecs)
    manager.register(module)
    manager.check_pending()  # refuses a hook that does not exist, which is most likely misspelled
    names: dict[str, dict[str, type]] = {}
    for kind, (hook, base) in KINDS.items():
        reserved = FORMS if kind == COLLATE_FORM else BUILT_IN[kind]
        classes = [cls for result in getattr(manager.hook, hook)() for cls in result]
        for cls in classes:
            _check_class(cls, base, hook)
            if cls.name in reserved:
                raise PluginConflictError(f"{kind} {cls.name!r} is built in and cannot be replaced")
        names[kind] = {cls.name: cls for cls in classes}
        if len(names[kind]) < len(set(classes)):
            raise TypeError(f"{hook} returned two classes with the same name")
    return names


def _check_class(cls: Any, base: type, hook: str) -> None:
    if not (isinstance(cls, type) and issubclass(cls, base)):
        raise TypeError(f"{hook} returned {quoted(cls)}, which is not a subclass of {base.__name__}")
    if not isinstance(getattr(cls, "name", None), str):
        raise TypeError(f"{cls.__name__} has no `name`")
    if missing := getattr(cls, "__abstractmethods__", None):
        raise TypeError(f"{cls.__name__} does not define {', '.join(sorted(missing))}")


def _distribution(entry_point: EntryPoint) -> tuple[str, str]:
    """Name and version of the package; "?" if its metadata is missing."""
    try:
        distribution = entry_point.dist
        return (distribution.name or "?", distribution.version or "?") if distribution is not None else ("?", "?")
    except Exception:
        return "?", "?"


def _allowed(entry_point: EntryPoint) -> bool:
    allowed = os.environ.get(ALLOWED)
    if allowed is None:
        return True
    names = {name.strip() for name in allowed.split(",")}
    return entry_point.name in names or _distribution(entry_point)[0] in names


_registry: Registry | None = None
_lock = Lock()


def registry() -> Registry:
    """The registry of this process, made on first use."""
    global _registry
    with _lock:
        _registry = _registry or Registry()
        return _registry


def backend(name: str) -> type[Backend]:
    """The backend class of that name; raises the same errors as `Registry.get`."""
    return cast(type[Backend], registry().get("backend", name))


def featurizer(name: str) -> type[Featurizer]:
    """The featurizer class of that name; raises the same errors as `Registry.get`."""
    return cast(type[Featurizer], registry().get("featurizer", name))


def observation_model(name: str) -> type[ObservationModel]:
    """The observation model class of that name; raises the same errors as `Registry.get`."""
    return cast(type[ObservationModel], registry().get("observation model", name))


def collate_form(name: str) -> type[BatchForm] | None:
    """The collate form of that name, or None if no plugin registers one.

    Raises:
        PluginLoadError: the plugin whose entry point has this name could not be loaded.
        PluginConflictError: two distributions register the name.
    """
    try:
        return cast(type[BatchForm], registry().get(COLLATE_FORM, name))
    except UnknownNameError:
        return None


def distribution(kind: str, name: str) -> str | None:
    """The distribution that registers a class; None if it is built in. Raises the same errors as `Registry.get`."""
    registry().get(kind, name)
    return next((plugin.distribution for plugin in registry().owners(kind, name)), None)


def executor(name: str) -> Callable[[str | None], Executor]:
    """The executor class of that name; raises the same errors as `Registry.get`."""
    return cast(Callable[[str | None], Executor], registry().get("executor", name))


def list_backends() -> dict[str, type[Backend]]:
    """Every installed backend by name, built-in and third-party. Imports all plugins."""
    return {name: cls for name, (cls, _) in registry().all("backend").items()}


def backend_for(file: str) -> str | None:
    """The name of the backend that opens a bare file of this name, built-ins first; None if there is none."""
    # Plugins are imported only if no built-in opens the file.
    return _by_suffix(file, BUILT_IN_BACKENDS) or _by_suffix(file, list_backends().values())


def _by_suffix(file: str, backends: Iterable[type[Backend]]) -> str | None:
    return next((cls.name for cls in backends if file.lower().endswith(cls.suffixes)), None)
