"""From a name to a class: built-ins first, then plugins by entry point, each loaded on its own.

A broken plugin breaks nobody else: it is kept with its distribution, version and error, and reported
when it is asked for or an unknown name is.
"""

from __future__ import annotations

import os
import time
import warnings
from collections.abc import Mapping
from dataclasses import dataclass, field
from importlib.metadata import EntryPoint, entry_points, version
from threading import RLock, Thread
from typing import Any, TypeVar, cast

import pluggy

from kinoml_data import observation
from kinoml_data.backends import BUILT_IN as BUILT_IN_BACKENDS
from kinoml_data.contracts import hookspecs
from kinoml_data.contracts.backend import Backend
from kinoml_data.contracts.batch_form import BatchForm
from kinoml_data.contracts.featurizer import Featurizer
from kinoml_data.contracts.observation_model import ObservationModel
from kinoml_data.errors import PluginConflictError, PluginLoadError, UnknownNameError, format_error, quoted, unknown
from kinoml_data.spec.parts import FORMS

GROUP = hookspecs.PROJECT
COLLATE_FORM = "collate form"
KINDS: Mapping[str, tuple[str, type]] = {
    "backend": ("register_backends", Backend),
    "featurizer": ("register_featurizers", Featurizer),
    "observation model": ("register_observation_models", ObservationModel),
    COLLATE_FORM: ("register_collate_forms", BatchForm),
}
RESERVED: Mapping[str, tuple[str, ...]] = {COLLATE_FORM: FORMS}  # built in, but no classes
T = TypeVar("T")
PATIENCE = 0.15  # seconds that a listing waits for imports
SLOW = 5.0  # seconds an import may take without a warning


@dataclass
class Plugin:
    """An installed plugin, loaded or not.

    Attributes:
        entry_point: its name in the entry-point group.
        distribution, version: the package it comes from.
        api: the version of the hooks it says it is made for.
        error: why it could not be loaded; None if it was, or was not tried.
        names: what it registers, `{kind: {name: class}}`; empty until it is loaded.
        seconds: how long its import took.
    """

    entry_point: str
    distribution: str
    version: str
    loader: EntryPoint | None = None
    api: Any = hookspecs.API
    error: BaseException | None = None
    loaded: bool = False
    names: dict[str, dict[str, type]] = field(default_factory=dict)
    seconds: float = 0.0
    _module: Any = None
    _begun: bool = False
    _importing: Any = field(default_factory=RLock, repr=False, compare=False)
    _thread: Thread | None = None

    def __str__(self) -> str:
        return f"{self.distribution} {self.version}"

    @property
    def importing(self) -> bool:
        """True while a listing that did not wait for it left it importing."""
        return self._thread is not None and self._thread.is_alive()

    def begin(self) -> Thread:
        """Import it in a thread."""
        if self._thread is None:
            self._thread = Thread(target=self._import, name=f"import of {self.entry_point}", daemon=True)
            self._thread.start()
        return self._thread

    def module(self) -> Any:
        """What the entry point names, imported once; None where that failed, or is under way further up the stack.

        Waits for another thread that imports it.
        """
        self._import()
        return self._module

    def _import(self) -> None:
        assert self.loader is not None
        with self._importing:
            if self._begun:
                return
            start, self._begun = time.perf_counter(), True
            try:
                self._module = self.loader.load()
            except KeyboardInterrupt:
                self._begun = False
                raise
            except BaseException as error:  # a plugin may fail in any way at all, SystemExit included
                self.error = error
            self.seconds = time.perf_counter() - start


class BuiltinPlugin:
    """The built-ins, registered through the same hooks as everyone else's."""

    @hookspecs.hookimpl
    def register_backends(self) -> tuple[type[Backend], ...]:
        return BUILT_IN_BACKENDS

    @hookspecs.hookimpl
    def register_observation_models(self) -> tuple[type[ObservationModel], ...]:
        return observation.BUILT_IN


class Registry:
    """All classes by kind and name. One serves the process; tests make their own."""

    def __init__(self) -> None:
        self._lock = RLock()
        self.refresh()

    def refresh(self) -> None:
        """Forget every plugin and look again, for a notebook in which one was installed or repaired."""
        with self._lock:
            self._manager = pluggy.PluginManager(hookspecs.PROJECT)
            self._manager.add_hookspecs(hookspecs)
            self._built_in = Plugin("built-in", "kinoml-data", version("kinoml-data"))
            self._register(self._built_in, BuiltinPlugin())
            self.plugins = [Plugin(ep.name, *_distribution(ep), ep) for ep in entry_points(group=GROUP) if _allowed(ep)]

    def get(self, kind: str, name: str) -> type:
        """The class registered under `name`.

        A plugin whose entry point is called `name` is asked first, and owns the name; no other one is imported then.

        Raises:
            UnknownNameError: nobody registers it; names what there is, and plugins that could not be loaded.
            PluginLoadError: the plugin that is named like it could not be loaded.
            PluginConflictError: two distributions register it.
        """
        if found := self._built_in.names[kind].get(name):
            return found
        plugins = self.plugins
        first = [plugin for plugin in plugins if plugin.entry_point == name]
        for plugin in first:
            self._load(plugin)
        owners = self.owners(kind, name)
        if not owners:
            if broken := [plugin for plugin in first if plugin.error]:
                raise PluginLoadError(_why(kind, name, broken[0])) from broken[0].error
            for plugin in plugins:
                self._load(plugin)
            owners = self.owners(kind, name)
        if len(owners) > 1:
            both = " and ".join(map(str, owners))
            raise PluginConflictError(f"{kind} {name!r} is registered by {both}; uninstall one of them")
        if not owners:
            known = sorted({*self._built_in.names[kind], *(n for p in plugins for n in p.names.get(kind, {}))})
            said = unknown(name, known, kind)
            if "; known: " not in said:  # it names the nearest only
                said += _all(known)
            raise UnknownNameError("; ".join([said, *self.failures()]))
        return owners[0].names[kind][name]

    def all(self, kind: str, *, patience: float | None = None) -> dict[str, tuple[type, Plugin]]:
        """Every class of a kind with the plugin it comes from; of two with one name, the owner or else the first.

        Args:
            kind: one of `KINDS`.
            patience: seconds to wait for plugins that are still to be imported; those that take longer are left
                out, and go on in the background. None waits for all.
        """
        if patience is not None:
            deadline = time.perf_counter() + patience
            for thread in [plugin.begin() for plugin in self.plugins if not plugin.loaded and plugin.loader]:
                thread.join(max(0.0, deadline - time.perf_counter()))
        for plugin in self.plugins:
            if not (patience is not None and plugin.importing):
                self._load(plugin)
        found: dict[str, tuple[type, Plugin]] = {}
        for plugin in (self._built_in, *self.plugins):
            for name, cls in plugin.names.get(kind, {}).items():
                if plugin is self._built_in or plugin is self.owners(kind, name)[0]:
                    found[name] = (cls, plugin)
        return found

    def owners(self, kind: str, name: str) -> list[Plugin]:
        """The loaded plugins that a name is taken from: one, or two distributions in conflict."""
        found = [plugin for plugin in self.plugins if name in plugin.names.get(kind, {})]
        return [plugin for plugin in found if plugin.entry_point == name] or found

    def broken(self) -> list[Plugin]:
        """The plugins that were tried and could not be loaded, or not wholly."""
        return [plugin for plugin in self.plugins if plugin.error]

    def failures(self) -> list[str]:
        """A sentence for each of these."""
        return list(map(_failure, self.broken()))

    def _load(self, plugin: Plugin) -> None:
        """Import and register a plugin; no lock is held while it is imported, as it may come back here."""
        if plugin.loaded or plugin.loader is None:
            return
        module = plugin.module()
        if module is None and plugin.error is None:
            return
        with self._lock:
            if plugin.loaded:
                return
            if plugin.error is None:
                try:
                    self._register(plugin, module)
                except KeyboardInterrupt:
                    raise
                except BaseException as error:  # so may its hooks
                    plugin.error = error
            plugin.loaded = True
        if plugin.seconds > SLOW:
            warnings.warn(
                f"importing plugin {plugin.entry_point!r} of {plugin} took {plugin.seconds:.0f} s", stacklevel=2
            )

    def _register(self, plugin: Plugin, module: Any) -> None:
        if self._manager.is_registered(module):  # two entry points, each named as a backend of one module
            return
        plugin.api = getattr(module, "KINOML_DATA_API", hookspecs.API)
        if plugin.api != hookspecs.API:
            raise ImportError(f"it is made for API {quoted(plugin.api)} of kinoml_data, which has {hookspecs.API}")
        handle = f"{plugin.distribution}:{plugin.entry_point}"
        self._manager.register(module, handle)
        try:
            self._manager.check_pending()  # a hook that is none, most likely misspelled
            for kind, (hook, base) in KINDS.items():
                # One plugin's hook alone, so that no other plugin's wrapper or ordering plays a part.
                others = [p for p in self._manager.get_plugins() if p is not module]
                classes = [c for found in self._manager.subset_hook_caller(hook, others)() for c in found]
                for cls in classes:
                    _check(cls, base, hook)
                    built_in = (*RESERVED.get(kind, ()), *self._built_in.names.get(kind, ()))
                    if plugin is not self._built_in and cls.name in built_in:
                        raise PluginConflictError(f"{kind} {cls.name!r} is built in and cannot be replaced")
                plugin.names[kind] = {cls.name: cls for cls in classes}
                if len(plugin.names[kind]) < len(set(classes)):
                    raise TypeError(f"{hook} returned two classes of one name")
        except BaseException:
            plugin.names.clear()
            self._manager.unregister(module)
            raise


def _check(cls: Any, base: type, hook: str) -> None:
    if not (isinstance(cls, type) and issubclass(cls, base)):
        raise TypeError(f"{hook} returned {quoted(cls)}, which is no subclass of {base.__name__}")
    if not isinstance(getattr(cls, "name", None), str):
        raise TypeError(f"{cls.__name__} has no `name`")
    if missing := getattr(cls, "__abstractmethods__", None):
        raise TypeError(f"{cls.__name__} does not define {', '.join(sorted(missing))}")


def _distribution(entry_point: EntryPoint) -> tuple[str, str]:
    """Name and version of the package; "?" where its metadata was lost."""
    try:
        found = entry_point.dist
        return (found.name or "?", found.version or "?") if found is not None else ("?", "?")
    except Exception:
        return "?", "?"


def _allowed(entry_point: EntryPoint) -> bool:
    listed = os.environ.get("KINOML_DATA_PLUGINS")
    if listed is None:
        return True
    names = {name.strip() for name in listed.split(",")}
    return entry_point.name in names or _distribution(entry_point)[0] in names


def _why(kind: str, name: str, plugin: Plugin) -> str:
    return f"{kind} {name!r}: {_failure(plugin)}"


def _failure(plugin: Plugin) -> str:
    return f"plugin {plugin.entry_point!r} of {plugin} could not be loaded: {format_error(plugin.error)}"


def _all(known: list[str]) -> str:
    return f" (installed: {', '.join(known)})" if known else ""


_registry: Registry | None = None
_making = RLock()


def registry() -> Registry:
    """The registry of this process, made on first use."""
    global _registry
    with _making:
        if _registry is None:
            _registry = Registry()
        return _registry


def backend(name: str) -> type[Backend]:
    """The backend class of that name; raises as `Registry.get`."""
    return cast(type[Backend], registry().get("backend", name))


def featurizer(name: str) -> type[Featurizer]:
    """The featurizer class of that name; raises as `Registry.get`."""
    return cast(type[Featurizer], registry().get("featurizer", name))


def observation_model(name: str) -> type[ObservationModel]:
    """The observation model class of that name; raises as `Registry.get`."""
    return cast(type[ObservationModel], registry().get("observation model", name))


def collate_form(name: str) -> type[BatchForm] | None:
    """The collate form of that name, of a plugin; None where there is none, else raises as `Registry.get`."""
    try:
        return cast(type[BatchForm], registry().get(COLLATE_FORM, name))
    except UnknownNameError:
        return None


def list_backends(*, wait: bool = False) -> dict[str, type[Backend]]:
    """Every installed backend by name, built-in and third-party.

    Args:
        wait: also for plugins whose import takes long; otherwise they are left out, with a warning.
    """
    known = registry()
    found = known.all("backend", patience=None if wait else PATIENCE)
    for plugin in known.plugins:
        if plugin.importing:
            warnings.warn(f"plugin {plugin.entry_point!r} of {plugin} is still being imported", stacklevel=2)
    return {name: cls for name, (cls, _) in found.items()}


def backend_for(suffix: str) -> str | None:
    """The name of the backend that opens bare files of that suffix; built-ins come first."""
    built_in = {s: cls.name for cls in reversed(BUILT_IN_BACKENDS) for s in cls.suffixes}
    if suffix in built_in:
        return built_in[suffix]
    return next((name for name, cls in list_backends(wait=True).items() if suffix in cls.suffixes), None)
