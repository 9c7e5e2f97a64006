"""Which members of a container are columns of one table, and what the attributes of CF make of numbers."""

from __future__ import annotations

import numpy as np
import pytest

from kinoml_data import Array
from kinoml_data.columns import Ragged
from kinoml_data.errors import SpecError, UnsafeStoreError, UnsupportedStoreError
from kinoml_data.layouts.flat_arrays import ArrayStorage
from kinoml_data.layouts.foreign_arrays import (
    WholeColumn,
    column_of,
    foreign_arrays,
    group_problem,
    missing_groups,
    refuse_scaling,
    scaled_column,
    strings_of,
)


class Rows:
    """An array that can only be sliced, as one in a file."""

    def __init__(self, values: np.ndarray) -> None:
        self._values, self.dtype, self.shape = values, values.dtype, values.shape

    def __getitem__(self, part: slice) -> np.ndarray:
        return self._values[part]


def scaled(values, attributes, declared=None, *, rows=None, fill=None):
    for array in (np.array(values), Rows(np.array(values))):
        column = scaled_column("X", array, attributes, declared, ArrayStorage.slices, "a.h5", fill=fill)
        with ArrayStorage({"X": column}) as storage:
            found = storage.read(np.arange(len(values)) if rows is None else np.array(rows), ["X"])["X"]
            assert storage.columns["X"] == Array(found.dtype, found.shape[1:])
    return found


def make_from(arrays, wrong):
    def make(name):
        if name in wrong:
            raise wrong[name](f"{name} is odd")
        return arrays[name]

    return make


def test_what_is_odd_is_listed_and_is_an_error_only_if_it_is_asked_for():
    arrays = {"a": {"a": np.zeros(3)}, "b": {"b.values": np.zeros(9), "b.shapes": np.zeros((3, 1), np.int64)}}
    make = make_from(arrays | {"m": {"m": np.zeros(7)}}, {"o": UnsupportedStoreError, "p": UnsafeStoreError})
    flat, unreadable = foreign_arrays(["o", "a", "m", "b", "p"], None, make, "a.h5")
    assert set(flat) == {"a", "b.values", "b.shapes"}
    assert unreadable == {
        "o": "o is odd",
        "p": "p is odd",
        "m": "a.h5: 'm' has 7 rows, but the others have 3",
    }
    for name, error in (("o", UnsupportedStoreError), ("p", UnsafeStoreError)):
        with pytest.raises(error, match=f"{name} is odd"):
            foreign_arrays([name, "a"], {name: None, "a": None}, make, "a.h5")
        with pytest.raises(error, match=f"{name} is odd"):
            foreign_arrays([name], None, make, "a.h5")
    with pytest.raises(
        SpecError, match=r"a\.h5: the columns differ in their number of rows: a has 3, m has 7, b has 3; name"
    ):
        foreign_arrays(["a", "m", "b"], {"a": None, "m": None, "b": None}, make, "a.h5")
    with pytest.raises(SpecError, match="name columns of one table"):
        foreign_arrays(["a", "m"], None, make, "a.h5")


def test_the_rows_of_X_and_y_are_those_of_the_table():
    def rows(**lengths):
        make = make_from({name: {name: np.zeros(length)} for name, length in lengths.items()}, {})
        flat, unreadable = foreign_arrays(lengths, None, make, "a.h5")
        return set(flat), set(unreadable)

    assert rows(a=3, b=3, X=2, y=2, c=3) == ({"X", "y"}, {"a", "b", "c"})
    assert rows(X=2, a=3) == ({"X"}, {"a"})
    assert rows(a=3, b=3, Xyz=2) == ({"a", "b"}, {"Xyz"})
    with pytest.raises(SpecError, match="X has 2, y has 3"):
        rows(X=2, y=3, z=3)


@pytest.mark.parametrize(
    ("key", "keys", "column"),
    [
        ("a.values", {"a.values", "a.shapes"}, "a"),
        ("a.shapes", {"a.utf8", "a.shapes"}, "a"),
        ("a.values", {"a.values"}, "a.values"),
        ("a.shapes", {"a.shapes"}, "a.shapes"),
        ("a", {"a", "a.shapes"}, "a"),
    ],
)
def test_two_arrays_of_the_flat_layout_are_one_column(key, keys, column):
    assert column_of(key, keys) == column


def test_numbers_without_attributes_of_cf_stay_as_they_are():
    for attributes in ({}, {"units": "nM"}):
        assert scaled_column("X", np.zeros(3), attributes, None, ArrayStorage.slices, "a.h5") is None
    for text in (np.zeros(3, bool), np.zeros(3, "c8")):
        assert scaled_column("X", text, {"scale_factor": 2}, None, ArrayStorage.slices, "a.h5") is None


@pytest.mark.parametrize(
    ("values", "attributes", "expected"),
    [
        (np.int16([1, -2]), {"scale_factor": np.float64(0.5), "add_offset": np.float64(10)}, np.float64([10.5, 9])),
        (np.int16([1, -2]), {"scale_factor": np.float32([0.5])}, np.float32([0.5, -1])),
        (np.int8([100, 3]), {"scale_factor": np.int8(100)}, np.float64([10000, 300])),
        (np.int8([-1, 3]), {"_Unsigned": "true", "add_offset": np.float32(1)}, np.float32([256, 4])),
        (np.int8([-1, 3]), {"_Unsigned": "true"}, np.uint8([255, 3])),
        (np.int8([-1, 3]), {"_Unsigned": "false", "add_offset": np.float32(1)}, np.float32([0, 4])),
        (np.float32([1, 2]), {"add_offset": np.float64(0.1)}, np.float64([1.1, 2.1])),
        (np.array([1, 2], ">i2"), {"scale_factor": np.array([2.0], ">f8")}, np.float64([2, 4])),
        (np.int32([[1, 2], [3, 4]]), {"_FillValue": -1}, np.int32([[1, 2], [3, 4]])),
    ],
)
def test_numbers_are_scaled_in_the_dtype_of_their_attributes(values, attributes, expected):
    found = scaled(values, attributes)
    assert found.dtype == expected.dtype and np.array_equal(found, expected)


@pytest.mark.parametrize(
    ("attributes", "fill"),
    [
        ({"_FillValue": np.int16(7)}, None),
        ({"missing_value": [3.0, 7.0]}, None),
        ({"_FillValue": 7, "scale_factor": 2.0}, None),
        ({"valid_range": [0, 6]}, None),
        ({"valid_min": 0, "valid_max": 6}, None),
        ({}, 7),
        ({"_FillValue": 9, "valid_max": 6}, 1),
    ],
)
def test_missing_numbers_are_nan_or_an_error_that_names_the_row(attributes, fill):
    values = np.array([[1, 2], [1, 7], [2, 2]], "i2")
    found = scaled(values, attributes, Array("float32", (2,), missing="nan"), fill=fill)
    factor = attributes.get("scale_factor", 1)
    assert found.dtype == np.float64
    assert np.array_equal(found, np.array([[1, 2], [1, np.nan], [2, 2]]) * factor, equal_nan=True)
    with pytest.raises(SpecError, match=r"a\.h5: column 'X', row 1: a value is missing; .*`missing: nan`"):
        scaled(values, attributes, rows=[2, 1, 0], fill=fill)
    assert scaled(values, attributes, rows=[2, 0], fill=fill).tolist() == (values[[2, 0]] * factor).tolist()


def test_a_fill_value_of_nan_makes_nan_a_missing_value():
    values = [1.0, np.nan]
    for fill in (np.nan, "AAAAAAAA+H8=", "NaN"):
        with pytest.raises(SpecError, match="row 1: a value is missing"):
            scaled(values, {"_FillValue": fill})
    assert np.isnan(scaled(values, {"_FillValue": -1.0})[1])


@pytest.mark.parametrize(
    "attributes", [{"scale_factor": "2"}, {"add_offset": [1, 2]}, {"_FillValue": "x"}, {"valid_range": []}]
)
def test_attributes_that_are_no_numbers_are_refused(attributes):
    with pytest.raises(UnsupportedStoreError, match=f"has the attribute {next(iter(attributes))}, which is not a num"):
        scaled([1.0], attributes)


def test_ragged_columns_are_not_scaled():
    for attributes in ({}, {"units": "nM"}, {"_FillValue": np.nan}, {"_FillValue": np.array([np.nan])}):
        refuse_scaling("X", attributes, "a.h5")
    for attributes in ({"_FillValue": 0.0}, {"_FillValue": "x"}, {"valid_max": [np.nan]}, {"_Unsigned": "true"}):
        with pytest.raises(UnsupportedStoreError, match=f"'X' have the attribute {next(iter(attributes))}, "):
            refuse_scaling("X", attributes, "a.h5")


def test_integers_that_do_not_fit_float64_are_an_error():
    values, declared = np.array([1, -1, 2**53 + 1]), Array("float64", missing="nan")
    assert scaled(values, {"_FillValue": -1}, declared, rows=[0]).tolist() == [1]
    with pytest.raises(SpecError, match="row 2: 9007199254740993 does not fit float64"):
        scaled(values, {"_FillValue": -1}, declared, rows=[0, 2])


def test_a_whole_column_is_decoded_once_and_only_if_it_is_read():
    calls = []

    def decode():
        calls.append(1)
        return Ragged.from_strings(["a", "bc", ""])

    with ArrayStorage({"X": WholeColumn(Array("str"), 3, decode)}) as storage:
        assert len(storage) == 3 and calls == []
        assert storage.read(np.array([2, 1, 1]), ["X"])["X"].strings() == ["", "bc", "bc"]
        assert storage.read(np.array([0]), ["X"])["X"].strings() == ["a"] and calls == [1]


def test_text_that_is_not_valid_names_its_row():
    assert strings_of(["a", b"b", "Zo\xeb"], "a.h5").strings() == ["a", "b", "Zoë"]
    for wrong in (b"\xff", "\ud800"):
        with pytest.raises(UnsupportedStoreError, match=r"a\.h5: 'X', row 1 is not valid text: .*latin-1"):
            strings_of(["a", wrong], "a.h5: 'X'")


@pytest.mark.parametrize(
    ("attributes", "said"),
    [
        ({}, "is a group, which contains a, b; .*`stored_as: g/a`, or use the option `group: g`"),
        ({"pandas_type": "frame"}, "pandas.read_hdf"),
        ({"encoding-type": "csc_matrix"}, r"`\.toarray\(\)`"),
        ({"encoding-type": "categorical"}, "`stored_as: g/codes`"),
        ({"encoding-type": "nullable-boolean"}, "`g/mask` marks"),
        ({"encoding-type": "dict"}, "use the option `group: g`"),
    ],
)
def test_a_group_says_the_way_out_of_the_program_that_wrote_it(attributes, said):
    with pytest.raises(UnsupportedStoreError, match=said):
        raise UnsupportedStoreError(group_problem("a.h5", "g", attributes, ["a", "b"]))
    with pytest.raises(SpecError, match=r"no array of rows in the group '/', but the groups g; .*`group: g`"):
        raise missing_groups("a.h5", "/", {"g": group_problem("a.h5", "g", attributes, ["a", "b"])})


def test_a_group_without_anything_names_the_option():
    with pytest.raises(SpecError, match="no array of rows in the group 'g'; correct the option `group`"):
        raise missing_groups("a.h5", "g", {})
