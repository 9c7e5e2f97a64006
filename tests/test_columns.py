"""`Ragged`: rows of different shapes, laid end to end; and casts."""

import math
from fractions import Fraction

import numpy as np
import pytest

from kinoml_data.columns import LONG, Ragged, cast, concatenate, keys_by_content, owned, sizes_of
from kinoml_data.spec.array import DTYPES
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


# -- casts, against exact arithmetic

NUMBERS = [name for name in DTYPES if name != "str"]
POWERS = [2**bits for bits in (0, 1, 7, 8, 11, 12, 15, 16, 24, 25, 31, 32, 53, 54, 63, 64)]


def boundary_values(dtype):
    """The limits of a dtype, those of the others that it can represent, and their neighbours."""
    kind = np.dtype(dtype)
    if kind.kind == "b":
        return np.array([False, True])
    if kind.kind in "iu":
        low, high = int(np.iinfo(kind).min), int(np.iinfo(kind).max)
        near = {sign * (power + step) for power in POWERS for sign in (1, -1) for step in (-1, 0, 1)}
        return np.array(sorted(value for value in {low, low + 1, high - 1, high, *near} if low <= value <= high), kind)
    real = np.dtype({"complex64": "float32", "complex128": "float64"}.get(dtype, dtype))
    limits, others = np.finfo(real), [np.finfo(name) for name in ("float16", "float32", "float64")]
    with np.errstate(all="ignore"):
        values = np.array(
            [0.0, 0.5, 1.5, *map(float, POWERS), *(float(other.max) for other in others), float(limits.tiny)], real
        )
        values = np.concatenate([values, np.nextafter(values, real.type(np.inf)), np.nextafter(values, real.type(0))])
        values = np.concatenate([values, -values, [np.inf, -np.inf, np.nan, -0.0]]).astype(real)
    if kind.kind == "f":
        return values
    both = np.zeros((3, len(values)), kind)
    both[0].real, both[1].imag = values, values
    both[2].real, both[2].imag = values, values[::-1]
    return both.reshape(-1)


def nearest(value, dtype):
    """A number rounded to a floating-point dtype by exact arithmetic; None if a finite number becomes infinite."""
    if not math.isfinite(value):
        return dtype.type(value)
    with np.errstate(all="ignore"):
        near = dtype.type(value)
        around = [near, np.nextafter(near, dtype.type(-np.inf)), np.nextafter(near, dtype.type(np.inf))]
    finite = [each for each in around if np.isfinite(each)]
    # A number from half a step above the largest one is infinite.
    limits = np.finfo(dtype)
    step = Fraction(float(limits.max)) - Fraction(float(np.nextafter(limits.max, dtype.type(0))))
    if abs(Fraction(value)) >= Fraction(float(limits.max)) + step / 2:
        return None
    distances = [abs(Fraction(float(each)) - Fraction(value)) for each in finite]
    best = [each for each, distance in zip(finite, distances, strict=True) if distance == min(distances)]
    return near if near in best else best[0]


def converted(value, dtype):
    """What a number becomes in a dtype; None if it does not fit. See `cast`."""
    if dtype.kind == "c":
        part = np.dtype("float32" if dtype == np.complex64 else "float64")
        parts = [converted(each, part) for each in (value.real, value.imag)]
        return None if None in parts else dtype.type(complex(*map(float, parts)))
    if dtype.kind == "f":
        near = nearest(value, dtype)
        return None if near is None or (isinstance(value, int) and int(near) != value) else near
    if isinstance(value, float) and not (math.isfinite(value) and value == int(value)):
        return None
    if dtype.kind == "b":
        return np.bool_(value) if value in (0, 1) else None
    return dtype.type(int(value)) if np.iinfo(dtype).min <= value <= np.iinfo(dtype).max else None


@pytest.mark.parametrize("source", NUMBERS)
@pytest.mark.parametrize("target", NUMBERS)
def test_every_boundary_value_is_cast_as_exact_arithmetic_says(source, target):
    if source.startswith("complex") and not target.startswith("complex"):
        pytest.skip("complex numbers fit complex dtypes only")
    dtype = np.dtype(target)
    for value in boundary_values(source):
        expected = converted(value.item(), dtype)
        result, lost = cast(np.array([value]), dtype)
        said = f"{value!r} as {target}: {result[0]!r}, {lost}; expected {expected!r}"
        assert (lost is not None) == (expected is None), said
        if expected is not None:
            same = np.array_equal(result, np.array([expected]), equal_nan=dtype.kind in "fc")
            assert result.dtype == dtype and same, said
            assert dtype.kind != "f" or np.signbit(result[0]) == np.signbit(expected) or np.isnan(expected), said


def test_values_of_the_caller_are_copied_and_rows_keep_their_type():
    rows = iter([1, 2])
    array, inner = np.arange(3), [np.arange(2), "a"]
    data = {"a": array, "b": [inner, (array,), rows, "text"], "c": iter([array, 1.5])}
    found = owned(data)
    array[:], inner[0][:] = 9, 9
    assert found["a"].tolist() == [0, 1, 2]
    first, second, third, fourth = found["b"]
    assert first[0].tolist() == [0, 1] and first[1] == "a"
    assert type(second) is tuple and second[0].tolist() == [0, 1, 2]
    assert third is rows and fourth == "text"
    assert found["c"][0].tolist() == [0, 1, 2] and found["c"][1] == 1.5


def test_keys_by_content_go_on_counting_in_later_batches():
    long = "A" * LONG
    batches = [["C", long, "C"], [long, "", "C"], [long + "A", long]]
    numbers = {}
    assert [keys_by_content(Ragged.from_strings(texts), numbers).tolist() for texts in batches] == [
        [0, 1, 0],
        [1, 2, 0],
        [3, 1],
    ]
    whole = keys_by_content(Ragged.from_strings([text for texts in batches for text in texts]))
    assert whole.tolist() == [0, 1, 0, 1, 2, 0, 3, 1]
    shapes = Ragged.from_rows([np.zeros((1, 20)), np.zeros((20, 1)), np.zeros((1, 20))], "f8", 2)
    assert keys_by_content(shapes, {}).tolist() == [0, 1, 0]
