"""Every exception the library raises.

Each is a `KinomlDataError` and also the built-in exception that a Python programmer would expect. Each can be built
from one string, because torch rebuilds the exception of a worker as `type(text)`; so its type and its text survive.
"""

from __future__ import annotations

import difflib
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any


class KinomlDataError(Exception):
    """Base of every exception raised by kinoml_data.

    Its text contains no control characters other than line ends, even if it quotes names from a file.
    """

    def __str__(self) -> str:
        return "".join(c if c.isprintable() or c == "\n" else repr(c)[1:-1] for c in super().__str__())


class SpecError(KinomlDataError, ValueError):
    """A spec or an option is wrong, or does not agree with the store.

    Attributes:
        problems: the problems, each as one sentence that begins with its path in the spec; the text of the error
            is all of them. An error that was rebuilt from its text has one problem, the whole text.
    """

    def __init__(self, *problems: str) -> None:
        super().__init__("; ".join(map(str, problems)))
        self.problems = problems

    def __reduce__(self) -> tuple[Any, ...]:
        return type(self), self.problems

    def prefixed(self, where: str) -> SpecError:
        """The same error, with `where` in front of the first problem."""
        return type(self)(where + str(self.problems[0]), *self.problems[1:]) if self.problems else self


class SplitError(SpecError):
    """A split is out of range, overlaps another one or does not exist."""


class UnknownNameError(KinomlDataError, LookupError):
    """No backend, featurizer or observation model is registered under this name."""


class PluginLoadError(KinomlDataError, ImportError):
    """A plugin was found but could not be loaded."""


class PluginConflictError(KinomlDataError, ValueError):
    """Two distributions register the same name."""


class StoreNotFoundError(KinomlDataError, FileNotFoundError):
    """The store does not exist, or is not a regular file."""


class CorruptStoreError(KinomlDataError, ValueError):
    """The store is damaged: it does not contain what was written."""


class UnsafeStoreError(CorruptStoreError):
    """Reading the store would need something that is never done: unpickling, leaving its folder, unbounded memory."""


class UnsupportedStoreError(KinomlDataError, NotImplementedError):
    """The store is intact, but uses a feature that this library does not read or write."""


class StoreChangedError(KinomlDataError, RuntimeError):
    """The store was replaced or altered after the dataset was opened."""


class StoreReadError(KinomlDataError, OSError):
    """The operating system could not read the store, or a backend did not return the rows that were requested."""


class StoreWriteError(KinomlDataError, OSError):
    """The store could not be written. An existing store is unchanged unless the message says otherwise."""


class StoreExistsError(StoreWriteError, FileExistsError):
    """The target exists and `overwrite=True` was not given."""


class SampleIndexError(KinomlDataError, IndexError):
    """An index is out of range, or does not select rows."""


class FeaturizationError(KinomlDataError, RuntimeError):
    """A featurizer failed, or returned something that differs from its outputs.

    Attributes:
        row: the row number in the table that the featurizer reads; None if it is not known.
    """

    row: int | None = None


@contextmanager
def error_prefix(where: str) -> Iterator[None]:
    """Put `where` in front of every error that this library raises in the block."""
    try:
        yield
    except SpecError as error:
        raise error.prefixed(where) from error
    except KinomlDataError as error:
        raise type(error)(f"{where}{error}") from error


def missing_value(where: str, row: int, line: int | None = None, *, kind: str = "number") -> SpecError:
    """The error for a missing value that the spec does not allow.

    Args:
        where: the file and the column.
        row: the row, counted from 0.
        line: the line of a text file, counted from 1.
        kind: what is missing: a "number", a "text", or a whole "list".
    """
    place = f"row {row}" if line is None else f"row {row} (line {line})"
    way = "fill it in the file"
    if kind != "list":
        way = f"specify it in `columns` with `missing: {'nan' if kind == 'number' else quoted('')}`"
    missing = "text" if kind == "text" else "value"
    return SpecError(f"{where}, {place}: a {missing} is missing; leave the column out, or {way}")


def quoted(value: object, limit: int = 120) -> str:
    """`value` for an error message: on one line, with control characters escaped, shortened to `limit` characters.

    Of a value that is shown on several lines, such as a table, or cannot be shown, only the type is named.
    """
    try:
        text = repr(value)
    except Exception:
        text = "\n"
    return f"a value of type {type(value).__name__}" if "\n" in text else one_line(text, limit)


def one_line(error: object, limit: int = 400) -> str:
    """The text of another library's error on one line, without control characters, shortened to `limit` characters."""
    try:
        shown = str(error)
    except Exception:  # the text of an exception is another program's code
        shown = f"a {type(error).__name__} without a text"
    text = " ".join("".join(c if c.isprintable() else " " for c in shown).split())
    return text if len(text) <= limit else f"{text[: limit - 3]}..."


def count_of(count: int, thing: str) -> str:
    """A number of things, such as `1 row` or `3,000 rows`."""
    return f"{count:,} {thing}{'' if count == 1 else 's'}"


def format_size(count: int) -> str:
    """A number of bytes as `12.3 kB`."""
    return f"{count} B" if count < 1000 else f"{count / 1e3:.1f} kB" if count < 1e6 else f"{count / 1e6:,.1f} MB"


def format_error(error: BaseException | None) -> str:
    """The type and the text of another library's error, such as `ImportError: no module named x`."""
    return f"{type(error).__name__}: {one_line(error, 200)}"


def unknown(name: object, known: Sequence[str] | Mapping[str, Any], what: str = "key") -> str:
    """A sentence that refuses an unknown name, and suggests the nearest known name or lists all of them."""
    near = nearest(name, known)
    hint = f"; did you mean {near!r}?" if near is not None else ""
    hint = hint or (f"; known: {one_line(', '.join(known), 300)}" if known else "")
    return f"unknown {what} {quoted(name)}{hint}"


def nearest(name: object, known: Iterable[str]) -> str | None:
    """The known name that is most similar to `name`, for which upper and lower case are the same; None without one."""
    folded = {text.casefold(): text for text in known}
    near = difflib.get_close_matches(str(name).casefold(), folded, 1)
    return folded[near[0]] if near else None
