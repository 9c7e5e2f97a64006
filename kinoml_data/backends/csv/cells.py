"""The cells of a text column, and how they become numbers, bools or strings."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from kinoml_data.columns import Column, Ragged, cast
from kinoml_data.errors import SpecError, missing_value, quoted
from kinoml_data.spec.array import STRING, Array

# A number with leading zeros, such as 0042, is most likely an identifier; it is a number only if the spec says so.
INTEGER = r"^[+-]?(0|[1-9][0-9]*)$"
FLOAT = r"(?i)^[+-]?((0|[1-9][0-9]*)(\.[0-9]*)?(e[+-]?[0-9]+)?|\.[0-9]+(e[+-]?[0-9]+)?|nan|inf|infinity)$"
ANY_INTEGER, ANY_FLOAT = INTEGER.replace("(0|[1-9][0-9]*)", "[0-9]+"), FLOAT.replace("(0|[1-9][0-9]*)", "[0-9]+")
BOOL = "(?i)^(true|false)$"
MISSING = ("", "na", "n/a", "#n/a", "<na>", "null", "none")


class Cells:
    """The cells of a column, and the dtype that they are converted to.

    Attributes:
        dtype: the dtype of what `read` returns.

    Args:
        texts: a `pyarrow.LargeStringArray` with one cell per row; null for a cell that is empty and not quoted.
        where: the file and the column, for errors.
        line: gives the line on which a row begins, for errors.
        declared: the column as the spec declares it.
        missing: texts that are missing values, besides the usual ones.
        decimal: the character in front of the decimals of a number.

    Raises:
        SpecError: there are no rows to infer the dtype from.
    """

    def __init__(
        self,
        texts: Any,
        where: str,
        line: Callable[[int], int | None],
        declared: Array | None = None,
        *,
        missing: Sequence[str] = (),
        decimal: str = ".",
    ) -> None:
        self._texts, self._where, self._line, self._declared = texts, where, line, declared
        self._missing, self._decimal = list(missing), decimal
        if declared is None and len(texts) == 0:
            raise SpecError(f"{self._where}: there are no rows to infer its dtype from; specify its dtype in `columns`")
        self._fills = declared is not None and declared.fills_numbers
        self._are_bools = False
        self.dtype = self._dtype()

    def read(self, rows: NDArray[np.int64]) -> Column:
        """The values of some rows.

        Raises:
            SpecError: a value is missing, is not of this dtype, or does not fit it.
        """
        texts = self._texts.take(rows)
        if self.dtype == STRING:
            return self._strings(texts, rows)
        trimmed, absent = self._trimmed(texts)
        if not absent.any():
            return self._values(trimmed, rows)
        if not self._fills:
            row = int(rows[absent.argmax()])
            raise missing_value(self._where, row, self._line(row))
        result = np.full(len(rows), np.nan)
        result[~absent] = self._values(trimmed.filter(~absent), rows[~absent])
        return result

    def _dtype(self) -> str:
        declared = self._declared and self._declared.as_stored.dtype
        if declared in (STRING, "bool"):
            self._are_bools = declared == "bool"
            return declared
        trimmed, absent = self._trimmed(self._texts)
        present = trimmed.filter(~absent)
        integer, number = (INTEGER, FLOAT) if declared is None else (ANY_INTEGER, ANY_FLOAT)
        if declared is None and len(present) == 0:
            return "float64" if _match(self._texts, r"^\s*$").all() else STRING
        if _match(present, integer).all():
            return "float64" if self._fills and absent.any() else _integer_dtype(present)
        if len(present) and _match(present, BOOL).all():  # also where the spec asks for numbers, which are 0 and 1
            self._are_bools = True
            return "float64" if self._fills and absent.any() else "bool"
        return "float64" if declared is not None or _match(present, number).all() else STRING

    def _trimmed(self, texts: Any) -> tuple[Any, NDArray[np.bool_]]:
        """The cells as numbers are written, and which of them are missing values."""
        import pyarrow as pa
        import pyarrow.compute as pc

        trimmed = pc.fill_null(pc.utf8_trim_whitespace(texts), "")
        absent = pc.is_in(pc.utf8_lower(trimmed), pa.array(MISSING, texts.type))
        absent = pc.or_(absent, pc.is_in(trimmed, pa.array(self._missing, texts.type)))
        if self._decimal != ".":  # a point is not part of a number then
            trimmed = pc.replace_substring(pc.replace_substring(trimmed, ".", "'"), self._decimal, ".")
        return trimmed, np.asarray(absent)

    def _values(self, trimmed: Any, rows: NDArray[np.int64]) -> NDArray[Any]:
        """The numbers or bools that the cells of these rows contain, none of which is missing."""
        import pyarrow.compute as pc

        declared = self._declared.dtype if self._declared is not None else self.dtype
        if self._are_bools:
            true = _match(trimmed, "(?i)^(true|1)$")
            self._refuse(~(true | _match(trimmed, "(?i)^(false|0)$")), rows, "is not a valid bool")
            return true
        numbers = pc.replace_substring_regex(trimmed, r"^\+", "")
        if np.dtype(self.dtype).kind in "iu":
            return self._integers(numbers, rows, self.dtype)
        self._refuse(~_match(numbers, ANY_FLOAT), rows, f"is not a valid {declared}")
        values = np.asarray(numbers.cast("float64")).copy()
        # Arrow reads a finite number that is too large as infinity.
        self._refuse(np.isinf(values) & _match(numbers, "[0-9]"), rows, "does not fit float64")
        if np.dtype(declared).kind in "iu":  # a whole number with a fraction, such as 3.0
            with np.errstate(invalid="ignore"):
                wrong = ~(np.abs(values) < 2**53) | (values != np.trunc(values))
            self._refuse(wrong, rows, f"is not a valid {declared}")
        elif self._fills and _match(numbers, ANY_INTEGER).all():  # as exact as integers without gaps are
            lost = cast(self._integers(numbers, rows, "int64"), np.dtype(declared))[1]
            self._refuse(np.arange(len(rows)) == lost, rows, f"does not fit {declared}")
        return values

    def _integers(self, numbers: Any, rows: NDArray[np.int64], dtype: str) -> NDArray[Any]:
        try:
            return np.asarray(numbers.cast(dtype)).copy()
        except ValueError:  # of Arrow; every cell is an integer
            low, high = np.iinfo(dtype).min, np.iinfo(dtype).max
            outside = np.array([not low <= int(number) <= high for number in numbers.to_pylist()])
            self._refuse(outside, rows, f"does not fit {dtype}")
            raise

    def _strings(self, texts: Any, rows: NDArray[np.int64]) -> Ragged:
        absent = np.asarray(texts.is_null())
        if self._missing:
            absent |= np.isin(np.array(texts.to_pylist(), object), self._missing)
        if not absent.any():
            return Ragged.from_strings(texts.to_pylist())
        fill = None if self._declared is None else self._declared.missing_text
        if fill is None:
            row = int(rows[absent.argmax()])
            raise missing_value(self._where, row, self._line(row), kind="text")
        return Ragged.from_strings(np.where(absent, fill, np.array(texts.to_pylist(), object)).tolist())

    def _refuse(self, wrong: NDArray[np.bool_], rows: NDArray[np.int64], problem: str) -> None:
        """Raise an error that quotes the first cell that is marked.

        Raises:
            SpecError: `wrong` is true for a row.
        """
        if wrong.any():
            row = int(rows[wrong.argmax()])
            cell = quoted(self._texts[row].as_py())
            raise SpecError(f"{self._where}, row {row} (line {self._line(row)}): {cell} {problem}")


def _match(texts: Any, pattern: str) -> NDArray[np.bool_]:
    """Which texts match a regular expression; a null matches as the empty text."""
    import pyarrow.compute as pc

    return np.asarray(pc.match_substring_regex(pc.fill_null(texts, ""), pattern))


def _integer_dtype(numbers: Any) -> str:
    """uint64 if some of the integers need it and none is negative, int64 otherwise."""
    import pyarrow.compute as pc

    long = numbers.filter(pc.greater(pc.binary_length(numbers), 18)).to_pylist()
    if any(int(number) > np.iinfo(np.int64).max for number in long):
        return "int64" if _match(numbers, "^-").any() else "uint64"
    return "int64"
