"""Spec files as plain data. Equivalent YAML, JSON and TOML files give the same mapping.

YAML follows the 1.2 core schema (`1e-3` is a number, `on` a string), so that it agrees with JSON. Duplicate keys,
aliases, tags, dates, NaN, deep nesting and huge files are refused in all three formats.
"""

from __future__ import annotations

import json
import math
import os
import re
import tomllib
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import yaml

from kinoml_data.errors import KinomlDataError, SpecError, StoreNotFoundError, StoreReadError, one_line, quoted

SUFFIXES = (".yaml", ".yml", ".json", ".toml")
MAX_BYTES = 1 << 20
MAX_DEPTH = 32
MAX_NODES = 200_000
MAX_DOTS = 1_000  # on one line of TOML


def expanded(path: str | os.PathLike[str], base: Path | None = None) -> Path:
    """A path in which a leading `~` and environment variables are replaced, unless it exists as it is written.

    Args:
        path: the path as the user wrote it.
        base: the folder that a relative path starts from; by default the working directory.

    Raises:
        SpecError: a variable is not set, or the path is a URL.
    """
    text = os.fspath(path)
    is_url = re.match(r"[A-Za-z][A-Za-z0-9+.-]+:/", text)
    if not (is_url or "$" in text or text.startswith("~")) or os.path.lexists((base or Path()) / text):
        return Path(text)
    if is_url:
        raise SpecError(
            f"{quoted(text)} is a URL, and only the backend 'zarr' reads from one, with its option `url`; download the "
            "file, and give its path"
        )
    for plain, braced in re.findall(r"\$(?:([A-Za-z_]\w*)|\{(\w+)\})", text):
        if (name := plain or braced) not in os.environ:
            raise SpecError(f"the path {quoted(text)} contains the environment variable {name!r}, which is not set")
    return Path(os.path.expandvars(os.path.expanduser(text)))  # noqa: PTH111 - Path.expanduser raises for unknown users


def read(path: Path) -> dict[str, Any]:
    """The mapping that a spec file contains.

    Raises:
        StoreNotFoundError: the file does not exist.
        StoreReadError: the operating system could not read the file.
        SpecError: the file is not valid YAML, JSON or TOML, does not contain a mapping, or exceeds a limit.
    """
    try:
        if not path.is_file():
            raise StoreNotFoundError(f"there is no spec file {quoted(str(path))}")
        if path.stat().st_size > MAX_BYTES:
            raise SpecError(f"a spec file may have at most {MAX_BYTES} bytes")
        return parse(path.read_bytes(), path.suffix.lower())
    except SpecError as error:
        raise error.prefixed(f"{path}: ") from None
    except KinomlDataError:
        raise
    except OSError as error:
        raise StoreReadError(f"cannot read {quoted(str(path))}: {error}") from None


def parse(data: bytes, suffix: str) -> dict[str, Any]:
    """The mapping that the bytes of a spec file contain; `suffix` tells the format.

    Raises:
        SpecError: the text is not valid YAML, JSON or TOML, does not contain a mapping, or exceeds a limit.
    """
    readers: dict[str, Callable[[str], Any]] = {".json": _json, ".toml": _toml, ".yaml": _yaml, ".yml": _yaml}
    try:
        if suffix not in readers:
            raise SpecError(f"a spec is a {', '.join(SUFFIXES[:-1])} or {SUFFIXES[-1]} file, not {quoted(suffix)}")
        mapping = readers[suffix](data.decode("utf-8-sig"))  # without the byte order mark that some editors write
    except (UnicodeDecodeError, RecursionError) as error:
        raise SpecError(f"the spec cannot be read as {suffix[1:]}: {one_line(error)}") from None
    if not isinstance(mapping, dict):
        raise SpecError("a spec must be a mapping of keys to values")
    check_plain(mapping)
    return mapping


def dump(mapping: dict[str, Any], suffix: str) -> str:
    """The text of a spec file; `mapping` may contain strings, numbers, booleans, lists and dicts."""
    if suffix == ".json":
        return json.dumps(mapping, indent=2) + "\n"
    if suffix == ".toml":
        return "".join(f"{_toml_text(key)} = {_toml_value(value)}\n" for key, value in mapping.items())
    return yaml.dump(mapping, Dumper=_Dumper, sort_keys=False, width=120, allow_unicode=True)


def with_entry(text: str, key: str, value: str, suffix: str) -> str:
    """The text of a spec file with one more text at its top level, or another one in place of it; all else is kept.

    Raises:
        SpecError: the text is not that of a spec file, or the line of the entry cannot be told from others.
    """
    mapping = parse(text.encode(), suffix)
    if suffix == ".json":
        return dump(mapping | {key: value}, suffix)
    sign = " = " if suffix == ".toml" else ": "
    line = f'{key}{sign}"{value}"'
    lines = text.splitlines()
    places = [number for number, old in enumerate(lines) if re.match(rf"{key}\s*{sign.strip()}", old)]
    # In TOML, what follows a table belongs to it, so that the entry must be first.
    changed = [old for number, old in enumerate(lines) if number not in places]
    changed.insert(places[0] if places else 0 if suffix == ".toml" else len(changed), line)
    result = "\n".join(changed) + "\n"
    if parse(result.encode(), suffix) != mapping | {key: value}:
        raise SpecError(f"the spec has an unusual form; add this line to its top level yourself: {line}")
    return result


def check_plain(value: Any) -> None:
    """Refuse values that JSON cannot represent, and trees that are too deep or too large.

    Raises:
        SpecError: the value contains a date, NaN, infinity or another Python object, or exceeds a limit.
    """
    budget = MAX_NODES
    stack = [(value, 1)]
    while stack:
        item, depth = stack.pop()
        budget -= 1
        if depth > MAX_DEPTH or budget < 0:
            raise SpecError(f"the spec is nested deeper than {MAX_DEPTH} levels, or has more than {MAX_NODES} values")
        if isinstance(item, dict):
            stack += [(child, depth + 1) for child in item.values()]
        elif isinstance(item, (list, tuple)):
            stack += [(child, depth + 1) for child in item]
        elif isinstance(item, float) and not math.isfinite(item):
            raise SpecError("a spec cannot contain NaN or infinity")
        elif not isinstance(item, (str, int, float, bool, type(None))):
            raise SpecError(f"{quoted(item)} is a {type(item).__name__}; write it as a string")


def _json(text: str) -> Any:
    def unique(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
        mapping: dict[str, Any] = {}
        for key, value in pairs:
            if key in mapping:
                raise SpecError(f"duplicate key {quoted(key)}")
            mapping[key] = value
        return mapping

    try:
        return json.loads(text, object_pairs_hook=unique)
    except SpecError:
        raise
    except ValueError as error:
        raise SpecError(f"the spec is not valid JSON: {one_line(error)}") from None


def _toml(text: str) -> Any:
    # The time and memory that tomllib takes grow with the square of the parts of a dotted key: 100,000 take 40 GB.
    if any(line.count(".") > MAX_DOTS for line in text.split("\n")):
        raise SpecError(f"a line of the spec has more than {MAX_DOTS} dots")
    try:
        return tomllib.loads(text)
    except ValueError as error:
        raise SpecError(f"the spec is not valid TOML: {one_line(error)}") from None


def _yaml(text: str) -> Any:
    try:
        return _Composer(yaml.parse(text, Loader=_PARSER)).document()
    except (yaml.YAMLError, ValueError) as error:  # a ValueError: a number of thousands of digits
        if "'\\t' that cannot start any token" in str(error) or re.search(r"^ *\t", text, re.MULTILINE):
            raise SpecError("the spec is not valid YAML: a line begins with a tab; indent it with spaces") from None
        raise SpecError(f"the spec is not valid YAML: {one_line(error)}") from None


# Only the events of PyYAML are used; those of libyaml, if it is installed, are ten times as fast.
_PARSER: Any = getattr(yaml, "CSafeLoader", yaml.SafeLoader)
_WORDS = {
    **dict.fromkeys(("", "~", "null", "Null", "NULL"), None),
    **dict.fromkeys(("true", "True", "TRUE"), True),
    **dict.fromkeys(("false", "False", "FALSE"), False),
}
_INTEGER = re.compile(r"[-+]?[0-9]+|0o[0-7]+|0x[0-9a-fA-F]+")
_FLOAT = re.compile(r"[-+]?(\.[0-9]+|[0-9]+(\.[0-9]*)?)([eE][-+]?[0-9]+)?|[-+]?\.(inf|Inf|INF)|\.(nan|NaN|NAN)")


class _Composer:
    """Builds values from the events of a YAML parser, with the types of the YAML 1.2 core schema."""

    def __init__(self, events: Iterator[Any]) -> None:
        self._events, self._nodes = events, 0

    def document(self) -> Any:
        next(self._events)
        event = next(self._events)
        if isinstance(event, yaml.StreamEndEvent):
            return None
        value = self._value(next(self._events), 1)
        next(self._events)
        if not isinstance(event := next(self._events), yaml.StreamEndEvent):
            raise yaml.YAMLError(f"a second document begins, {event.start_mark}")
        return value

    def _value(self, event: Any, depth: int) -> Any:
        self._check(event, depth)
        if isinstance(event, yaml.ScalarEvent):
            return _scalar(event.value) if event.implicit[0] else event.value
        if isinstance(event, yaml.SequenceStartEvent):
            items = []
            while not isinstance(event := next(self._events), yaml.SequenceEndEvent):
                items.append(self._value(event, depth + 1))
            return items
        mapping: dict[str, Any] = {}
        while not isinstance(event := next(self._events), yaml.MappingEndEvent):
            self._check(event, depth + 1)
            if not isinstance(event, yaml.ScalarEvent):
                raise yaml.YAMLError(f"a key must be a string, {event.start_mark}")
            key = event.value  # as written: `0:` is the key "0", as in JSON and TOML
            if key in mapping:
                raise yaml.YAMLError(f"duplicate key {key!r}, {event.start_mark}")
            mapping[key] = self._value(next(self._events), depth + 1)
        return mapping

    def _check(self, event: Any, depth: int) -> None:
        if isinstance(event, yaml.AliasEvent):
            raise yaml.YAMLError(f"aliases are not supported; write the value out, {event.start_mark}")
        if event.tag is not None:
            raise yaml.YAMLError(f"tags are not supported; remove the tag, {event.start_mark}")
        self._nodes += 1
        if depth > MAX_DEPTH or self._nodes > 2 * MAX_NODES:  # keys are nodes too
            raise yaml.YAMLError(f"it is nested deeper than {MAX_DEPTH} levels, or has more than {MAX_NODES} values")


def _scalar(text: str) -> Any:
    if text in _WORDS:
        return _WORDS[text]
    if _INTEGER.fullmatch(text):
        return int(text, 0) if text.startswith(("0o", "0x")) else int(text)
    if _FLOAT.fullmatch(text):
        return float(text.lower().replace(".inf", "inf").replace(".nan", "nan"))
    return text


class _Dumper(yaml.SafeDumper):
    """Quotes every string that a reader of YAML 1.1 or 1.2 would not read as one; writes one line per column."""

    depth = 0

    def ignore_aliases(self, data: Any) -> bool:
        return True

    def represent_mapping(self, tag: str, mapping: Any, flow_style: bool | None = None) -> yaml.MappingNode:
        self.depth += 1
        node = super().represent_mapping(tag, mapping, flow_style=self.depth > 2)
        self.depth -= 1
        return node

    def represent_sequence(self, tag: str, sequence: Any, flow_style: bool | None = None) -> yaml.SequenceNode:
        return super().represent_sequence(tag, sequence, flow_style=True)


def _represent_text(dumper: yaml.SafeDumper, text: str) -> yaml.ScalarNode:
    # Other readers follow YAML 1.1, this one 1.2: only strings that both read as strings go without quotes.
    plain = re.fullmatch(r"[A-Za-z_][A-Za-z0-9_./-]*", text) and not re.fullmatch(
        r"(?i)y|n|yes|no|on|off|true|false|null|nan|inf", text
    )
    return dumper.represent_scalar("tag:yaml.org,2002:str", text, style=None if plain else '"')


_Dumper.add_representer(str, _represent_text)


def _toml_text(text: str) -> str:
    return json.dumps(text, ensure_ascii=False).replace("\x7f", "\\u007f")  # TOML has the escapes of JSON


def _toml_value(value: Any) -> str:
    if isinstance(value, dict):
        return "{" + ", ".join(f"{_toml_text(k)} = {_toml_value(v)}" for k, v in value.items()) + "}"
    if isinstance(value, list):
        return "[" + ", ".join(map(_toml_value, value)) + "]"
    if isinstance(value, str):
        return _toml_text(value)
    if value is None:
        raise SpecError("TOML has no null; leave the key out")
    return json.dumps(value)
