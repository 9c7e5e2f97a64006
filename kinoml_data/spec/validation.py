"""From Python values to the JSON that a spec file could contain, and from validation errors to one message."""

from __future__ import annotations

import json
from collections.abc import Mapping
from itertools import islice
from typing import Any

import numpy as np
from pydantic import (
    BaseModel,
    ValidationError,
)
from pydantic_core import to_json

from kinoml_data.errors import SpecError, one_line, quoted, unknown
from kinoml_data.spec.array import Array


def plain_json(data: Mapping[str, Any]) -> bytes:
    """Python values as the JSON a spec file could hold: paths and numpy numbers included.

    Raises:
        SpecError: a value that no file could hold.
    """

    def fallback(value: Any) -> Any:
        if isinstance(value, (np.integer, np.floating, np.bool_)):
            return value.item()
        if isinstance(value, Mapping):
            return dict(value)
        raise SpecError(f"a spec cannot hold {quoted(value)}; pass Python objects to load_dataset(data=, featurizer=)")

    data = {key: _without_unset(value) for key, value in data.items()}

    def refuse(constant: str) -> None:
        raise ValueError("NaN and infinity are not values of a spec")

    try:
        text = to_json(data, fallback=fallback, inf_nan_mode="constants", exclude_none=False)
        if b"NaN" in text or b"Infinity" in text:
            json.loads(text, parse_constant=refuse)
    except ValueError as error:  # pydantic puts its own words before those of `fallback`
        said = one_line(error)
        for prefix in ("Error serializing to JSON: ", "SpecError: ", "ValueError: ", "UnicodeEncodeError: "):
            said = said.removeprefix(prefix)
        raise SpecError(said) from None
    return text


def _without_unset(value: Any) -> Any:
    return value.model_dump(mode="json", exclude_defaults=True) if isinstance(value, BaseModel) else value


def explain(error: ValidationError, model: type[BaseModel], where: str = "") -> str:
    """All problems of a validation, each with its path: `columns.atoms.dtype: ...`."""
    problems: dict[tuple[str, str], None] = {}  # each once, in order: a union reports what its members share twice
    for problem in error.errors(include_url=False, include_context=False, include_input=False):
        loc, text = problem["loc"], problem["msg"].removeprefix("Value error, ")
        if problem["type"] == "extra_forbidden":
            known = model.model_fields if len(loc) == 1 else Array.model_fields if loc[0] == "columns" else {}
            text = unknown(loc[-1], known)
        # Behind the fields that are unions stand tags, which are not the user's words.
        tags = (1, 3) if loc[1:2] in (("named",), ("each",)) else (1,)
        tagged = loc[:1] and loc[0] in getattr(model, "UNIONS", ())
        names = [str(part) for i, part in enumerate(loc) if not (tagged and i in tags)]
        problems[".".join(filter(None, (where, *names))), text] = None
    shown = [
        f"{one_line(path, 200)}: {one_line(text)}" if path else one_line(text)
        for path, text in islice(problems, MOST_PROBLEMS)
    ]
    more = [f"and {len(problems) - MOST_PROBLEMS} more"] if len(problems) > MOST_PROBLEMS else []
    return "; ".join([*shown, *more])


MOST_PROBLEMS = 20  # in one message
