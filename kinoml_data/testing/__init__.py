"""The conformance suite for backends, with helpers for other tests of a backend.

It needs pytest and hypothesis: `pip install "kinoml-data[testing]"`. `docs/writing-a-backend.md` shows how a plugin
uses it.
"""

import pytest

KINDS = ("dataset", "key", "reading", "storage", "writing")
for module in ("comparing", "machine", "suite", *(f"{kind}_tests" for kind in KINDS)):
    pytest.register_assert_rewrite(f"kinoml_data.testing.{module}")

# The imports come second, because pytest rewrites the assert statements of registered modules only.
from kinoml_data.testing.backend_tests import BackendTests  # noqa: E402
from kinoml_data.testing.comparing import same_array, same_column, same_rows  # noqa: E402
from kinoml_data.testing.examples import EXAMPLES, Example, mixed, other  # noqa: E402

__all__ = ["EXAMPLES", "BackendTests", "Example", "mixed", "other", "same_array", "same_column", "same_rows"]
