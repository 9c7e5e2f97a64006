import pluggy

from kinoml_data.contracts import hookspecs
from kinoml_data.registry import KINDS


def test_every_kind_of_class_has_its_hook_and_every_hook_its_kind():
    assert {hook for hook, _ in KINDS.values()} == {name for name in vars(hookspecs) if name.startswith("register_")}


def test_a_function_marked_as_a_hook_is_found_by_pluggy():
    class Plugin:
        @hookspecs.hookimpl
        def register_backends(self):
            return ["a class"]

    manager = pluggy.PluginManager(hookspecs.PROJECT)
    manager.add_hookspecs(hookspecs)
    manager.register(Plugin())
    assert manager.hook.register_backends() == [["a class"]]
