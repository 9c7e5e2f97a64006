"""From Python values to the JSON that a spec file could contain, and from validation errors to a `SpecError`."""

from __future__ import annotations

import difflib
import json
from collections.abc import Mapping
from typing import Any

import numpy as np
from pydantic import BaseModel, ValidationError
from pydantic_core import to_json

from kinoml_data.errors import SpecError, one_line, quoted, unknown
from kinoml_data.spec.array import Array
from kinoml_data.spec.parts import TAG_MARK, ComputedSplits

MOST_PROBLEMS = 20  # that one error lists
WORDS = (  # how messages of pydantic begin, and how they begin here
    ("Input should be a valid list", "must be a list"),
    ("Input should be a valid tuple", "must be a list"),
    ("Input should be a valid array", "must be a list"),
    ("Input should be a valid dictionary", "must be a mapping"),
    ("Input should be an object", "must be a mapping"),
    ("Input should be a valid integer", "must be an integer"),
    ("Input should be a valid boolean", "must be true or false"),
    ("Input should be a valid string", "must be text"),
    ("Input should be a valid", "must be a"),
    ("Input should be", "must be"),
)


def plain_json(data: Mapping[str, Any]) -> bytes:
    """Python values as the JSON that a spec file could contain; paths and numpy numbers are converted.

    Raises:
        SpecError: a value cannot be written to a file, such as a Python object, NaN or infinity.
    """
    unsupported: list[Any] = []

    def convert(value: Any) -> Any:
        if isinstance(value, (np.integer, np.floating, np.bool_)):
            return value.item()
        if isinstance(value, Mapping):
            return dict(value)
        if getattr(value, "ndim", 0) == 1 and (np.asarray(value).dtype.kind in "iu" or len(value) == 0):
            return np.asarray(value).tolist()  # row numbers
        if isinstance(name := dtype_name(value), str):
            return name
        unsupported.append(value)
        return None

    def refuse(constant: str) -> None:
        raise ValueError("a spec cannot contain NaN or infinity")

    data = {
        key: value.model_dump(mode="json", exclude_defaults=True) if isinstance(value, BaseModel) else value
        for key, value in data.items()
    }
    try:
        text = to_json(data, fallback=convert, inf_nan_mode="constants")
        if b"NaN" in text or b"Infinity" in text:
            json.loads(text, parse_constant=refuse)
    except ValueError as error:  # also a circular reference, or text that is not valid Unicode
        raise SpecError(one_line(error)) from None
    if unsupported:
        objects = "pass Python objects to load_dataset(data=, featurizer=)"
        raise SpecError(f"a spec cannot contain {quoted(unsupported[0])}; {objects}")
    return text


def _in_our_words(problem: Any, loc: tuple[str, ...]) -> str:
    """The message of one error of pydantic, in the words of a spec and with the value."""
    value, text = problem.get("input"), str(problem["msg"]).removeprefix("Value error, ")
    if problem["type"] == "missing":
        return "this key is missing"
    if problem["type"] == "choice" and loc[:1] == ("splits",):
        if difflib.get_close_matches(loc[-1], ["ratios"], 1, 0.8):
            return f"unknown key {quoted(loc[-1])}; did you mean 'ratios'?"
        if isinstance(value, (int, float)):
            return f"{text}; for random splits, write `splits: {{ratios: {{{loc[-1]}: {value}, ...}}}}`"
    for of_pydantic, ours in WORDS:
        if text.startswith(of_pydantic):
            shown = f", not {quoted(value, 60)}" if isinstance(value, (str, int, float, type(None))) else ""
            return text.replace(of_pydantic, ours, 1) + shown
    return text


def dtype_name(value: Any) -> Any:
    """The name of a dtype of numpy or torch; any other value unchanged."""
    if isinstance(value, np.dtype) or (isinstance(value, type) and issubclass(value, np.generic)):
        return np.dtype(value).name
    if (type(value).__module__, type(value).__name__) == ("torch", "dtype"):  # torch is not imported for this
        return str(value).removeprefix("torch.")
    return value


def spec_error(error: ValidationError, model: type[BaseModel], where: str = "") -> SpecError:
    """All problems that a validation found, each with its path: `columns.atoms.dtype: ...`.

    Args:
        error: the error that pydantic raised.
        model: the class that was validated; its fields are suggested in place of unknown keys.
        where: the path of the validated value itself.
    """
    problems: dict[str, None] = {}  # each once, in order: a union reports what its members share more than once
    errors = error.errors(include_url=False)
    for problem in errors[: 10 * MOST_PROBLEMS]:  # a list of thousands of wrong values has one for each
        loc = tuple(str(part) for part in problem["loc"] if not str(part).startswith(TAG_MARK))
        cause = problem.get("ctx", {}).get("error")
        texts = cause.problems if isinstance(cause, SpecError) else (_in_our_words(problem, loc),)
        if problem["type"] == "extra_forbidden":
            part: type[BaseModel] | None = model if len(loc) == 1 else Array if loc[0] == "columns" else None
            hint = ""
            if loc[0] == "splits" and len(loc) == 2:
                part, value = ComputedSplits, problem["input"]
                hint = f"; shares belong in `ratios: {{{loc[-1]}: {value}}}`" if isinstance(value, float) else ""
            texts = (unknown(loc[-1], part.model_fields if part else {}) + hint,)
        path = ".".join(filter(None, (where, *loc)))
        for text in texts:
            problems[f"{one_line(path, 200)}: {one_line(text)}" if path else one_line(text)] = None
    sentences = list(problems)
    rest = max(0, len(sentences) - MOST_PROBLEMS) + max(0, len(errors) - 10 * MOST_PROBLEMS)
    more = [f"and {rest} more"] if rest else []
    return SpecError(*sentences[:MOST_PROBLEMS], *more)
