import inspect
import math
import re
import textwrap
from collections.abc import Callable
from types import ModuleType
from typing import Any

import numpy as np
import pytest
import torch

from kinoml_data import errors, plugin


@pytest.fixture
def example() -> Callable[[type | ModuleType, str], Any]:
    """Runs the example in a docstring and returns what it defines under a name."""

    def run(documented: type | ModuleType, name: str) -> Any:
        blocks = re.findall(r"::\n\n((?:    .*\n|\n)+)", (inspect.getdoc(documented) or "") + "\n")
        namespace = {public: getattr(plugin, public) for public in plugin.__all__}
        namespace |= {**vars(errors), "np": np, "torch": torch, "math": math, "__name__": "example"}
        for block in blocks:
            exec(compile(textwrap.dedent(block), documented.__name__, "exec", dont_inherit=True), namespace)
        return namespace[name]

    return run
