"""`kinoml_data.plugin`: every name that a plugin may import."""

import kinoml_data as kd
from kinoml_data import plugin


def test_every_name_that_the_page_announces_can_be_imported():
    for name in plugin.__all__:
        assert getattr(plugin, name) is not None, name


def test_names_that_users_and_plugins_share_are_the_same_objects():
    for name in set(kd.__all__) & set(plugin.__all__):
        assert getattr(plugin, name) is getattr(kd, name), name
