from __future__ import annotations

import csv
import io
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from kinoml_data.backends.csv.text import TextTable
from kinoml_data.errors import SpecError, UnsupportedStoreError

PATH = Path("t.csv")
CELLS = st.text(st.sampled_from('ab ,"\r\né'), max_size=4)


def table(text: str, **options: object) -> TextTable:
    return TextTable(PATH, text.encode(), **options)  # type: ignore[arg-type]


@given(st.lists(st.tuples(CELLS, CELLS), min_size=1, max_size=6), st.sampled_from(["\n", "\r\n"]))
def test_every_cell_that_the_csv_module_quotes_comes_back_and_each_row_has_its_line(
    rows: list[tuple[str, str]], end: str
) -> None:
    stream = io.StringIO(newline="")
    writer = csv.writer(stream, quoting=csv.QUOTE_ALL, lineterminator=end)
    writer.writerow(("x", "y"))
    lines = []
    for row in rows:
        lines.append(len(stream.getvalue().replace("\r\n", "\n").replace("\r", "\n").split("\n")))
        writer.writerow(row)
    found = table(stream.getvalue())
    assert [tuple(pair) for pair in zip(*(column.to_pylist() for column in found.columns([0, 1])), strict=True)] == rows
    assert [found.line(row) for row in range(len(rows))] == lines
    assert found.line(len(rows)) is None


def test_only_the_columns_at_the_given_places_are_returned() -> None:
    found = table("a,b,c\n1,2,3\n4,,6\n")
    assert [column.to_pylist() for column in found.columns([2, 1])] == [["3", "6"], ["2", None]]
    assert found.columns([]) == []


def test_lines_and_rows_that_are_skipped_count_as_lines_of_the_file() -> None:
    found = table("note\n\na,b\nunits,\n1,2\n", skip_lines=1, skip_rows=1)
    assert found.names == ["a", "b"]
    assert [column.to_pylist() for column in found.columns([0, 1])] == [["1"], ["2"]]
    assert found.line(0) == 5


def test_a_row_of_another_length_is_named_by_its_line() -> None:
    with pytest.raises(UnsupportedStoreError, match=r"t\.csv, line 4: 1 values, but there are 2 columns"):
        table('a,b\n"x\ny",1\n3\n5,6\n').columns([0])


def test_a_header_of_another_length_is_refused() -> None:
    with pytest.raises(SpecError, match="2 columns, but `names` has 3"):
        table("a,b\n", names=("x", "y", "z"))


@pytest.mark.parametrize(("text", "found"), [("a;b\n", "';'"), ("a\tb\n", "'\\t'"), ("a\n", None), ("a;b,c\n", None)])
def test_a_header_of_one_name_may_show_another_delimiter(text: str, found: str | None) -> None:
    way = table(text).other_delimiter()
    assert way is None if found is None else way is not None and f"`delimiter: {found}`" in way


def test_the_text_is_searched_once_for_the_lines_of_all_rows(monkeypatch: pytest.MonkeyPatch) -> None:
    """A table may have as many errors as rows."""
    text, searched = table('x\n1\n"a\nb"\n2\n'), []
    rows = TextTable._rows
    monkeypatch.setattr(TextTable, "_rows", lambda self: searched.append(self) or rows(self))
    assert [text.line(row) for row in range(4)] == [2, 3, 5, None]
    assert len(searched) == 1
