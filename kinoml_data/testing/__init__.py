"""The conformance suites for backends and for featurizers, with helpers for other tests of a backend.

They need pytest and hypothesis: `pip install "kinoml-data[testing]"`. `docs/writing-a-backend.md` and
`docs/writing-a-featurizer.md` show how a plugin uses them.
"""

import pytest

KINDS = ("dataset", "featurizer", "key", "reading", "storage", "writing")
for module in ("comparing", "machine", "suite", *(f"{kind}_tests" for kind in KINDS)):
    pytest.register_assert_rewrite(f"kinoml_data.testing.{module}")

# The imports come second, because pytest rewrites the assert statements of registered modules only.
from kinoml_data.testing.backend_tests import BackendTests  # noqa: E402
from kinoml_data.testing.comparing import same_array, same_column, same_rows  # noqa: E402
from kinoml_data.testing.examples import EXAMPLES, Example, mixed, other  # noqa: E402
from kinoml_data.testing.featurizer_tests import FeaturizerTests  # noqa: E402

__all__ = ["EXAMPLES", "BackendTests", "Example", "FeaturizerTests", "mixed", "other"]
__all__ += ["same_array", "same_column", "same_rows"]
