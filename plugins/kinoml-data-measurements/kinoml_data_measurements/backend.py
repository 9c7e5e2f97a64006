"""The backend `measurements`: its options, and how it reads the raw columns of its source."""

from __future__ import annotations

from collections.abc import Mapping
from contextlib import ExitStack
from typing import Annotated, Any, Literal

import numpy as np
from kinoml_data.errors import SpecError, StoreChangedError, quoted, unknown
from kinoml_data.plugin import SHAPES, STRING, UTF8, AnyBackend, Array, ArrayStorage, Backend, Ragged, Storage
from pydantic import BeforeValidator, Field, model_validator

from kinoml_data_measurements import reading
from kinoml_data_measurements.measuring import Measured, RawTable, Texts, measured
from kinoml_data_measurements.storage import MeasurementStorage
from kinoml_data_measurements.units import MEANINGS, is_percent, number_of, unit_of

P_KINDS = ("pIC50", "pEC50", "pKi", "pKd")
KINDS = {kind.removeprefix("p"): kind for kind in P_KINDS} | {kind: kind for kind in P_KINDS}
P_RANGE, PERCENT_RANGE = (0.0, 15.0), (0.0, 100.0)

Output = Literal["value", "kind", "relation"]


def _names(value: Any) -> Any:
    return (value,) if isinstance(value, str) else tuple(value) if isinstance(value, list) else value


Names = Annotated[tuple[str, ...], BeforeValidator(_names)]


class Measurements(Backend):
    """Measurements from the raw values, units, kinds and relations in the columns of a source.

    Concentrations become p-values, -log10 of the concentration in mol/L; percentages stay as they are. A row that is
    not a valid measurement is rejected, with a reason. Rows of one kind with equal values in `by` are one measurement.
    The other columns of the source are passed on, at the rows that are kept. Splits of the source by row number, its
    other arrays and its spec are not passed on, because rows have other numbers here.

    Attributes:
        source: the raw table.
        by: the columns whose values together identify what was measured, such as a ligand and a protein.
            A row without one of the values is rejected. If the list is empty, each row is a measurement of its own.
        conditions: further columns whose values tell the measurements of `by` apart, such as a concentration. A missing
            value is a condition of its own.
        value: the column of the values: numbers, or texts with numbers.
        unit: the column of the units, or the unit of all rows: M, mM, uM, nM, pM, %, or -log10(M), -log10(nM) and so on
            for values that are logarithms already.
        kind: the column of the kinds, or the kind of all rows, which is one of the keys of `kinds`.
        relation: the column of the relations, or "=" if there is none. The texts of the values may then begin with a
            relation, as in ">10000".
        kinds: the kinds that are kept, and their new names. A kind whose new name begins with "percent" is measured in
            percent; any other is a p-value.
        relations: the meaning of other relations, such as `{"~": "=", "": "="}`; "" is a missing relation. Known are
            =, <, >, and <= and >=, which become < and >.
        ranges: the least and the greatest valid value of some kinds, by their new names. By default, they are 0 and 15
            for p-values, and 0 and 100 for percentages.
        replicates: what becomes of several rows of one measurement. "error" refuses them; "first", "median" and "mean"
            make one row of the exact ones, on the scale of the result.
        outputs: other names for the columns `value`, `kind` and `relation`. A column of the source with such a name is
            not passed on.
        rows: "rejected" for a dataset of the rejected rows, which has the columns `row`, `ids`, `value`, `unit`,
            `kind`, `relation` and `reason`.
    """

    name = "measurements"
    source: AnyBackend
    by: Names
    conditions: Names = ()
    value: str = "value"
    unit: str = "unit"
    kind: str = "kind"
    relation: str = "relation"
    kinds: dict[str, str] = Field(KINDS, min_length=1)
    relations: dict[str, Literal["=", "<", ">"]] = {}
    ranges: dict[str, tuple[float, float]] = {}
    replicates: Literal["error", "first", "median", "mean"] = "error"
    outputs: dict[Output, str] = {}
    rows: Literal["kept", "rejected"] = "kept"

    @model_validator(mode="after")
    def _consistent(self) -> Measurements:
        names = list(self._outputs.values())
        if len(set(names)) < len(names):
            raise ValueError(f"outputs: two of the columns {', '.join(names)} have the same name")
        for kind, (low, high) in self.ranges.items():
            if kind not in self.kinds.values():
                raise ValueError(f"ranges: {unknown(kind, list(self.kinds.values()), 'kind')}")
            if low > high:
                raise ValueError(f"ranges.{kind}: the least value, {low:g}, is above the greatest, {high:g}")
        return self

    @property
    def _outputs(self) -> dict[Output, str]:
        """The names of the columns that this backend computes."""
        return {"value": "value", "kind": "kind", "relation": "relation", **self.outputs}

    @property
    def _raw_columns(self) -> dict[str, str]:
        """The columns of the source that contain raw values, units, kinds and relations, by the option."""
        names = {"value": self.value, "unit": self.unit, "kind": self.kind, "relation": self.relation}
        is_constant = {
            "unit": unit_of(self.unit) is not None,
            "kind": self.kind in self.kinds,
            "relation": self.relation in MEANINGS or self.relation in self.relations,
        }
        return {option: name for option, name in names.items() if not is_constant.get(option)}

    def open(self, columns: Mapping[str, Array | None] | None) -> Storage:
        """Read the raw columns of all rows; see `Backend.open`.

        Raises:
            SpecError: the source lacks a column, a column does not contain numbers or texts, or a column of `by`
                cannot be read; or several rows are one measurement, and `replicates` is "error".
            FeaturizationError: a featurizer of the source fails for all rows of a column of `by`.
            UnsupportedStoreError: the source does not read one of the columns.
            StoreChangedError: the source was changed meanwhile.
        """
        passed = None
        if columns is not None:
            passed = {name: array for name, array in columns.items() if name not in self._outputs.values()}
        # The raw columns are opened on their own, so that which rows are kept does not depend on what is asked for.
        texts = {name: Array(STRING, missing="") for option, name in self._raw_columns.items() if option != "value"}
        with ExitStack() as opened:
            table = opened.enter_context(self.source.open(texts | dict.fromkeys((self.value, *self._key_columns))))
            self._check(table)
            raw = self._raw(table)
            result = self._measured(raw)
            if self.rows == "rejected":
                return self._rejected(table, raw, result)
            source = table
            if passed != {}:
                source = opened.enter_context(self._opened_again(passed, table))
            hidden = {*self._outputs.values(), *(self._raw_columns.values() if passed is None else ())}
            names = [n for n in (source.columns if passed is None else passed) if n not in hidden]
            storage = MeasurementStorage(source, names, result, self._outputs)
            opened.pop_all()
            if source is not table:
                table.close()
            return storage

    def _opened_again(self, columns: Mapping[str, Array | None] | None, first: Storage) -> Storage:
        """The source, opened once more for other columns."""
        source = self.source.open(columns)
        if (len(source), source.identity) != (len(first), first.identity):
            source.close()
            raise StoreChangedError(f"{self.name}: the source was changed while it was opened; open it again")
        return source

    def _check(self, source: Storage) -> None:
        """Raise a `SpecError` if a raw column is not in the source, or is of another kind."""
        options = [*self._raw_columns.items(), *(("by", name) for name in self.by)]
        for option, name in (*options, *(("conditions", name) for name in self.conditions)):
            if name not in source.columns:
                with self.source.open(None) as everything:
                    known = list(everything.columns)
                raise SpecError(f"{self.name}.{option}: {unknown(name, known, 'column of the source')}")
            array = source.columns[name]
            is_number = not array.is_string and array.numpy.kind in "iuf"
            fits = array.is_string or option in ("by", "conditions") or (option == "value" and is_number)
            if array.shape or not fits:
                needed = {"value": "one number or text", "by": "one value", "conditions": "one value"}
                what = f"contains {array}, not {needed.get(option, 'one text')} per row"
                raise SpecError(f"{self.name}.{option}: column {quoted(name)} {what}")

    @property
    def _key_columns(self) -> tuple[str, ...]:
        """The columns whose values tell measurements apart."""
        return (*self.by, *self.conditions)

    def _measured(self, raw: RawTable) -> Measured:
        ranges = {kind: PERCENT_RANGE if is_percent(kind) else P_RANGE for kind in self.kinds.values()} | self.ranges
        return measured(raw, kinds=self.kinds, relations=self.relations, ranges=ranges, replicates=self.replicates)

    def _raw(self, source: Storage) -> RawTable:
        columns, count = self._raw_columns, len(source)

        def texts(option: str) -> Texts:
            if option in columns:
                return Texts(*reading.texts_of(source, columns[option]))
            return Texts([getattr(self, option)], np.zeros(count, np.int64))

        value, relations = None, texts("relation")
        if source.columns[self.value].is_string:
            value = texts("value")
            numbers = [number_of(text) for text in value.distinct]
            if "relation" in columns:  # a second relation, in front of a number, makes it invalid
                numbers = [("", np.nan if relation else number) for relation, number in numbers]
            else:
                relations = Texts([relation or self.relation for relation, _ in numbers], value.places)
            values = np.array([number for _, number in numbers])[value.places]
        else:
            with self._opened_again({self.value: Array("float64", missing="nan")}, source) as numeric:
                values = reading.numbers_of(numeric, self.value)
        unidentified: dict[int, str] = {}
        ids = []
        for name in self._key_columns if self.by else ():
            failed: dict[int, str] = {}
            ids.append(reading.ids_of(source, name, failed))
            if name in self.by:
                if len(failed) == count:  # an error that is not about one row, which reading one row raises again
                    source.read(np.arange(min(count, 1)), [name])
                unidentified = {row: f"{name}: {problem}" for row, problem in failed.items()} | unidentified
        return RawTable(values, value, texts("unit"), texts("kind"), relations, ids, unidentified)

    def _rejected(self, source: Storage, raw: RawTable, result: Measured) -> Storage:
        """The rejected rows as a dataset of their own."""
        rows = list(result.reasons)
        ids = [[f"{name}={text}" for text in reading.shown(source, name, rows)] for name in self._key_columns]
        texts = {
            "ids": [", ".join(parts) for parts in zip(*ids, strict=True)] if ids else [""] * len(rows),
            "value": [raw.value_text(row) for row in rows],
            "unit": [raw.units.of(row) for row in rows],
            "kind": [raw.kinds.of(row) for row in rows],
            "relation": [raw.relations.of(row) for row in rows],
            "reason": list(result.reasons.values()),
        }
        flat: dict[str, Any] = {"row": np.array(rows, np.int64)}
        for name, column in texts.items():
            ragged = Ragged.from_strings(column)
            flat |= {name + UTF8: ragged.values, name + SHAPES: ragged.shapes}
        return ArrayStorage(flat, identity=source.identity)
