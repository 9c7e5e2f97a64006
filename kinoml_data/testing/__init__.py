"""The conformance suite for backends; `docs/writing-a-backend.md` shows how a plugin uses it. It needs pytest and
hypothesis."""

import pytest

for module in ("backend_tests", "comparing", "machine"):
    pytest.register_assert_rewrite(f"kinoml_data.testing.{module}")

from kinoml_data.testing.backend_tests import BackendTests  # noqa: E402 - only from here on are its asserts rewritten
from kinoml_data.testing.examples import EXAMPLES, Example  # noqa: E402

__all__ = ["EXAMPLES", "BackendTests", "Example"]
