"""A spec over a storage that does not keep the contract: an error, never other rows."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest

from kinoml_data import Array, DatasetSpec, Storage
from kinoml_data.columns import Ragged
from kinoml_data.dataset.binding import Binding
from kinoml_data.errors import StoreReadError

COLUMNS = {"atoms": Array("float32", (None, 3)), "y": Array("float64"), "id": Array("str")}
SPEC = DatasetSpec.parse(
    {"columns": COLUMNS, "X": "atoms", "y": "y", "meta": ["id"], "storage": {"backend": "in-memory"}}
)
ATOMS = [np.full((i % 4, 3), i, np.float32) for i in range(20)]


class WrongRows(Storage):
    """Gives what `change` makes of the right columns."""

    columns = COLUMNS

    def __init__(self, change: Callable[[dict[str, Any]], Any]) -> None:
        self.change = change

    def __len__(self) -> int:
        return 20

    def read(self, rows: Any, columns: Any) -> Any:
        found = {
            "atoms": Ragged.from_rows([ATOMS[row] for row in rows], "float32", 2),
            "y": rows.astype("float64"),
            "id": Ragged.from_strings([str(row) for row in rows]),
        }
        self.change(found)
        return {name: found[name] for name in columns}

    def close(self) -> None:
        """Nothing is held."""


def change(name: str, make: Callable[[Any], Any]) -> Callable[[dict[str, Any]], None]:
    return lambda found: found.__setitem__(name, make(found[name]))


WRONG = {
    "a row too few": (change("y", lambda y: y[1:]), r"3 rows of column 'y', and gave 2 rows"),
    "a ragged row too few": (change("atoms", lambda a: a.take(np.array([0, 1]))), r"'atoms', and gave 2 rows"),
    "a row too many": (change("y", lambda y: np.append(y, 0)), r"and gave 4 rows"),
    "all rows": (change("y", lambda y: np.arange(20.0)), r"and gave 20 rows"),
    "another dtype": (change("y", lambda y: y.astype("f4")), r"gave float32 instead of float64"),
    "another byte order": (change("y", lambda y: y.astype(">f8")), r"gave >f8 instead of float64"),
    "another shape": (change("y", lambda y: y[:, None]), r"gave rows of shape \(1,\) instead of float64"),
    "rows of one shape": (change("atoms", lambda a: np.zeros((3, 2, 3), "f4")), r"gave rows of one shape"),
    "values too few": (change("atoms", lambda a: Ragged(a.values[:-1], a.shapes)), r"gave \(8,\) values.* up to 9"),
    "another axis": (change("atoms", lambda a: Ragged(a.values, a.shapes[:, ::-1])), r"gave a row of shape \(3, 1\)"),
    "strings too few": (change("id", lambda a: a.take(np.array([2]))), r"'id', and gave 1 rows"),
}


@pytest.mark.parametrize(("wrong", "said"), WRONG.values(), ids=WRONG)
def test_other_rows_than_were_asked_for_are_an_error(wrong, said):
    binding = Binding(SPEC, WrongRows(wrong))
    rows = np.array([1, 1, 1])
    for read in (binding.read, binding.read_stored):
        with pytest.raises(StoreReadError, match=said):
            read(rows, list(COLUMNS))


@pytest.mark.parametrize("name", ["a row too few", "all rows", "another dtype", "values too few"])
def test_another_row_than_the_requested_one_is_an_error(name):
    with pytest.raises(StoreReadError, match="WrongRows is wrong"):
        Binding(SPEC, WrongRows(WRONG[name][0])).read_row(7, ("atoms", "y"))


def test_right_rows_are_given_on():
    found = Binding(SPEC, WrongRows(lambda found: None)).read_row(7, ("atoms", "y"))
    assert found["atoms"].tolist() == ATOMS[7].tolist() and found["y"] == 7
