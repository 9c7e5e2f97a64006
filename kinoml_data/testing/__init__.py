"""The conformance suite for backends; `docs/writing-a-backend.md` shows how a plugin uses it. It needs pytest."""

import pytest

pytest.register_assert_rewrite("kinoml_data.testing.backend_tests")

from kinoml_data.testing.backend_tests import BackendTests  # noqa: E402 - only from here on are its asserts rewritten
from kinoml_data.testing.examples import EXAMPLES, Example  # noqa: E402

__all__ = ["EXAMPLES", "BackendTests", "Example"]
