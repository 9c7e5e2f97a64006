"""`Ragged`: rows of different shapes, laid end to end."""

import numpy as np
import pytest

from kinoml_data.columns import Ragged, concatenate, sizes_of
from tests.dataset.tensors import filled


def test_a_negative_row_of_a_ragged_column_counts_from_the_end():
    rows = [filled((n, 2)) for n in (2, 0, 3)]
    ragged = Ragged.from_rows(rows, np.float32, 2)
    for i in range(-3, 3):
        assert ragged[i].shape == rows[i].shape and ragged[i].tobytes() == rows[i].tobytes()
    assert [row.shape for row in ragged] == [row.shape for row in rows]
    for i in (3, -4):
        with pytest.raises(IndexError):
            ragged[i]


def ragged(*lengths):
    return Ragged.from_rows([filled((n, 2), start=1 + 100 * i) for i, n in enumerate(lengths)], np.float32, 2)


@pytest.mark.parametrize("rows", [[], [1], [0, 1, 2], [2, 0], [1, 1, 0, 2]], ids=str)
def test_taken_rows_are_new_arrays_in_the_given_order(rows):
    column = ragged(2, 0, 3)
    taken = column.take(np.array(rows, np.int64))
    assert [row.tolist() for row in taken] == [column[row].tolist() for row in rows]
    taken.values[:] = 0
    assert (column.values != 0).all()


@pytest.mark.parametrize("rows", [slice(None), slice(1, 3), slice(2, 1), slice(-1, None), slice(9)], ids=str)
def test_a_slice_of_a_ragged_column_is_a_view_of_neighbouring_rows(rows):
    column = ragged(2, 0, 3, 1)
    part = column[rows]
    assert [row.tolist() for row in part] == [row.tolist() for row in list(column)[rows]]
    assert not len(part.values) or np.shares_memory(part.values, column.values)


def test_columns_without_rows_keep_their_dtype_and_rank():
    empty = Ragged.from_rows([], "int16", 3)
    assert len(empty) == 0 and empty.values.dtype == np.int16 and empty.shapes.shape == (0, 3)
    assert empty.offsets.tolist() == [0]


def test_strings_come_back_from_their_utf_8_bytes():
    texts = ["", "CCO", "\N{GRINNING FACE}é", "\0", ""]
    column = Ragged.from_strings(texts)
    assert column.strings() == texts
    assert column.shapes.tolist() == [[len(text.encode())] for text in texts]
    with pytest.raises(UnicodeDecodeError):
        Ragged(np.array([0xFF], np.uint8), np.array([[1]])).strings()


def test_concatenated_columns_have_the_rows_of_all_parts():
    parts = [ragged(2, 1), ragged(), ragged(3)]
    assert [row.tolist() for row in concatenate(parts)] == [row.tolist() for part in parts for row in part]
    assert concatenate([np.arange(2), np.arange(0), np.arange(3)]).tolist() == [0, 1, 0, 1, 2]
    assert concatenate(parts[1:]) is parts[2], "the only part with rows is not copied"


def test_sizes_of_rows_without_axes_are_1():
    assert sizes_of(np.empty((3, 0), np.int64)).tolist() == [1, 1, 1]
    assert sizes_of(np.array([[2, 3], [0, 4]])).tolist() == [6, 0]
