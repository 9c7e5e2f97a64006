"""Calls a featurizer, and checks what it returns."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np
from numpy.typing import NDArray

from kinoml_data.columns import Column, Ragged, cast
from kinoml_data.contracts.featurizer import Featurizer
from kinoml_data.errors import FeaturizationError, format_error, quoted
from kinoml_data.spec.array import Array

Arrays = tuple[NDArray[Any], ...]


class _WrongResultError(Exception):
    """A featurizer returned something that differs from its outputs."""


@dataclass(frozen=True)
class FeaturizerCall:
    """A featurizer and what it computes. It can be pickled if the featurizer can.

    Attributes:
        featurizer: a `Featurizer`, or a Python function of the raw values of one row.
        outputs: the columns that it computes, by its own names for them, in the order in which it returns them.
        label: its name in errors.
    """

    featurizer: Featurizer | Callable[..., Any]
    outputs: Mapping[str, Array]
    label: str

    def attempts(self, inputs: Sequence[Sequence[Any]], rows: Sequence[int]) -> Iterator[Arrays | FeaturizationError]:
        """The features of n rows, computed one after the other while they are asked for, or all at once.

        Args:
            inputs: for each input, its n raw values.
            rows: n row numbers, for errors.

        Returns:
            For each row, one array for each of `outputs`, in memory of its own; text is UTF-8 in uint8. If the
            featurizer failed for a row or returned something else, the entry of the row is an error that names it.

        Raises:
            FeaturizationError: `featurize_many` failed for all rows at once, but for none of them alone.
        """
        singles = (self._attempt(row, raw) for row, *raw in zip(rows, *inputs, strict=True))
        if not self._has_batches or len(rows) < 2:
            yield from singles
            return
        results: list[Arrays | FeaturizationError]
        try:
            results = [*self._batch(inputs, len(rows))]
        except KeyboardInterrupt:
            raise
        except BaseException as error:  # as in `_attempt`
            results = list(singles)  # which row is it?
            if not any(isinstance(result, FeaturizationError) for result in results):
                raise FeaturizationError(
                    f"featurizer {self.label!r} failed for {len(rows)} rows at once, such as row {rows[0]}, but for "
                    f"none of them alone: {_reason(error)}"
                ) from error
        yield from results

    def facts(self) -> Sequence[tuple[str, str]]:
        """See `Storage.facts`."""
        return ()

    def flush(self) -> None:
        """Write the features that are not yet in a cache on disk, if there is one."""

    def close(self) -> None:
        """Do the same, and forget what is known of the cache."""

    def failure(self, row: int, error: BaseException) -> FeaturizationError:
        """The error for a row for which the featurizer failed, or whose raw values cannot be read."""
        wrong = isinstance(error, _WrongResultError)
        where = f", row {row}" if wrong else f" failed for row {row}"
        failure = FeaturizationError(f"featurizer {self.label!r}{where}: {_reason(error)}")
        failure.__cause__, failure.row = None if wrong else error, row
        return failure

    def _attempt(self, row: int, raw: Sequence[Any]) -> Arrays | FeaturizationError:
        try:
            if self._has_batches:
                return self._batch([[value] for value in raw], 1)[0]
            function = self.featurizer.featurize if isinstance(self.featurizer, Featurizer) else self.featurizer
            return self._checked(self._by_output(function(*raw)))
        except KeyboardInterrupt:
            raise
        # StopIteration would silently end an epoch, SystemExit a worker: both are failures of this row.
        except BaseException as error:
            return self.failure(row, error)

    @cached_property
    def _has_batches(self) -> bool:
        of_class = getattr(type(self.featurizer), "featurize_many", None)
        return isinstance(self.featurizer, Featurizer) and of_class is not Featurizer.featurize_many

    def _batch(self, inputs: Sequence[Sequence[Any]], count: int) -> list[Arrays]:
        assert isinstance(self.featurizer, Featurizer)
        columns = self._by_output(self.featurizer.featurize_many(*inputs))
        for name, column in zip(self.outputs, columns, strict=True):
            if len(column) != count:
                raise _WrongResultError(f"it returned {len(column)} rows of column {quoted(name)}, not {count}")
        return [self._checked(row) for row in zip(*columns, strict=True)]

    def _by_output(self, result: Any) -> tuple[Any, ...]:
        """What the featurizer returned, as one entry per output."""
        names = list(self.outputs)
        if isinstance(result, Mapping):
            if set(result) != set(names):
                raise _WrongResultError(f"it returned {sorted(result)}, not {names}")
            return tuple(result[name] for name in names)
        values: tuple[Any, ...] = result if isinstance(result, tuple) else (result,)
        if len(values) != len(names):
            raise _WrongResultError(f"it returned {len(values)} arrays, not {len(names)}")
        return values

    def _checked(self, values: tuple[Any, ...]) -> Arrays:
        pairs = zip(self.outputs.items(), values, strict=True)
        return tuple(_array(name, value, declared) for (name, declared), value in pairs)


def _reason(error: BaseException) -> str:
    return str(error) if isinstance(error, _WrongResultError) else format_error(error)


def _array(name: str, value: Any, declared: Array) -> NDArray[Any]:
    """Copy one output to its declared dtype and shape. A copy is needed because the featurizer may reuse its buffer."""
    if declared.is_string:
        if not isinstance(value, str):
            raise _WrongResultError(f"column {quoted(name)} contains {quoted(value)}, which is not a text")
        return np.frombuffer(value.encode(), np.uint8)
    if isinstance(value, np.ma.MaskedArray):
        raise _WrongResultError(f"column {quoted(name)} is a masked array; fill in its missing values first")
    array = np.asarray(value)
    if array.dtype.kind not in "biufc" or (array.dtype.kind == "c" and declared.numpy.kind != "c"):
        raise _WrongResultError(f"column {quoted(name)} has dtype {array.dtype}, not {declared.dtype}")
    shape = tuple(None if axis is None else length for axis, length in zip(declared.shape, array.shape, strict=False))
    if array.ndim != len(declared.shape) or shape != declared.shape:
        raise _WrongResultError(f"column {quoted(name)} has shape {array.shape}, not {declared.shape}")
    result, lost = cast(np.ascontiguousarray(array), declared.numpy, exact=declared.cast == "exact")
    if lost is not None:
        value = array.reshape(-1)[lost]
        raise _WrongResultError(f"column {quoted(name)} contains {value}, which does not fit {declared.dtype}")
    return result.reshape(array.shape)


def column_of_rows(rows: Sequence[NDArray[Any]], array: Array) -> Column:
    """The column that consists of some rows, which are arrays as `FeaturizerCall` makes them."""
    if not rows:
        return array.empty()
    return Ragged.from_rows(rows, array.numpy, len(array.axes)) if array.rows_differ else np.stack(rows)
