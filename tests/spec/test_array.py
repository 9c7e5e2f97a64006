"""`Array`: dtypes, axes, and what is refused."""

import numpy as np
import pytest

from kinoml_data import Array, DatasetSpec
from kinoml_data.spec.array import DTYPES
from tests.spec.specs import DTYPE_NAMES, SMALL, SUFFIXES, refused, spec


@pytest.mark.parametrize("name", DTYPE_NAMES)
def test_every_dtype_has_its_numpy_name(name):
    assert Array(name).dtype == name
    assert spec(columns={"a": {}, "b": {"dtype": name}}).columns["b"].dtype == name
    assert Array(name).numpy == (np.uint8 if name == "str" else np.dtype(name))


def test_no_dtype_was_forgotten():
    assert set(DTYPES) == set(DTYPE_NAMES)


@pytest.mark.parametrize(
    ("given_dtype", "name"),
    [
        (np.float32, "float32"),
        (np.dtype("f2"), "float16"),
        (np.dtype(">i8"), "int64"),
        (float, "float64"),
        (int, "int64"),
        (bool, "bool"),
        (complex, "complex128"),
        (str, "str"),
        (np.bool_, "bool"),
    ],
)
def test_in_python_a_dtype_may_be_numpys_or_pythons_type(given_dtype, name):
    assert Array(given_dtype) == Array(name)


@pytest.mark.parametrize(
    "value",
    [
        *("float", "f4", "FLOAT32", "float128", "object", "O", "S5", "datetime64", "void", "", " float32"),
        *(None, 5, True, 1.5, [], ["float32"], {"name": "float32"}, object, np.dtype("M8[s]"), np.longdouble, "\n"),
    ],
    ids=repr,
)
def test_another_dtype_is_refused(value):
    with pytest.raises(ValueError, match="dtype"):
        Array(value)
    if value is None or isinstance(value, (str, bool, int, float, list, dict)):
        assert refused(SMALL | {"columns": {"a": {"dtype": value}}}).startswith("columns.a.dtype: unknown dtype")


def test_a_ragged_axis_is_None_a_star_or_null(tmp_path):
    assert Array("float32", (53, None)) == Array("float32", (53, "*")) == Array("float32", [53, "*"])
    (tmp_path / "a.yaml").write_text("columns: {a: {shape: [53, null]}}\nX: a\nstorage: {backend: x}\n")
    (tmp_path / "b.yaml").write_text("columns: {a: {shape: [53, ~]}}\nX: a\nstorage: {backend: x}\n")
    (tmp_path / "c.yaml").write_text("columns: {a: {shape: [53, '*']}}\nX: a\nstorage: {backend: x}\n")
    (tmp_path / "d.json").write_text('{"columns": {"a": {"shape": [53, null]}}, "X": "a", "storage": {"backend": "x"}}')
    (tmp_path / "e.toml").write_text('X = "a"\n[columns.a]\nshape = [53, "*"]\n[storage]\nbackend = "x"')
    found = [DatasetSpec.from_file(path) for path in sorted(tmp_path.iterdir())]
    assert len(set(found)) == 1 and found[0].columns["a"].shape == (53, None)
    for suffix in SUFFIXES:
        found[0].to_file(tmp_path / f"out{suffix}")
        assert '"*"' in (tmp_path / f"out{suffix}").read_text()


@pytest.mark.parametrize(
    ("shape", "ragged"), [((), False), ((3,), False), ((0,), False), ((None,), True), ((2, None), True)]
)
def test_a_column_is_ragged_where_an_axis_is(shape, ragged):
    assert Array("int8", shape).ragged is ragged
    assert Array("int8", shape).shape == shape


def test_the_axes_may_be_numpys_ints():
    assert Array("int8", (np.int64(3), None)) == Array("int8", (3, None))
    assert type(Array("int8", (np.int64(3),)).shape[0]) is int


def test_the_default_array_is_one_float32_per_row():
    assert Array() == Array("float32", ()) == Array(dtype="float32", shape=())
    assert (Array().stored_as, Array().cast, Array().packbits) == (None, "round", False)


@pytest.mark.parametrize(
    ("said", "expected"),
    [
        ({"shape": [-1]}, "cannot be negative"),
        ({"shape": [3.0]}, "columns.a.shape.0: must be an integer"),
        ({"shape": [True]}, "columns.a.shape.0"),
        ({"shape": ["3"]}, "columns.a.shape.0"),
        ({"shape": ["**"]}, "columns.a.shape.0"),
        ({"shape": [[3]]}, "columns.a.shape.0"),
        ({"shape": 3}, "columns.a.shape"),
        ({"shape": "*"}, "columns.a.shape"),
        ({"shape": None}, "columns.a.shape"),
        ({"shape": {"0": 3}}, "columns.a.shape"),
        ({"dtype": "str", "shape": [3]}, "strings cannot have axes"),
        ({"packbits": True}, "packbits needs a last axis of fixed length"),
        ({"packbits": True, "shape": [3, "*"]}, "packbits needs a last axis of fixed length"),
        ({"packbits": 1, "shape": [3]}, "columns.a.packbits"),
        ({"packbits": "true", "shape": [3]}, "columns.a.packbits"),
        ({"cast": "unsafe"}, "columns.a.cast: must be 'round' or 'exact'"),
        ({"stored_as": 3}, "columns.a.stored_as: give the name of one stored column, a list of names, or {glob"),
        ({"stored_as": []}, "columns.a.stored_as: give the name of one stored column"),
        ({"stored_as": ["a", 1]}, "columns.a.stored_as: give the name of one stored column"),
        ({"stored_as": {"glb": "f*"}}, "columns.a.stored_as: give the name of one stored column"),
        ({"stored_as": {"glob": ""}}, "columns.a.stored_as"),
        ({"stored_as": {"glob": 3}}, "columns.a.stored_as"),
        ({"stored_as": ["f", "f"]}, "stored_as contains a name more than once"),
        ({"stored_as": ["f", "g"], "shape": [3]}, "a column made of 2 stored columns has the shape [2]"),
        ({"stored_as": {"glob": "f*"}, "shape": [3, 2]}, "a column made of several stored columns has one axis"),
        ({"stored_as": ["f", "g"], "dtype": "str"}, "only a column of numbers"),
        ({"stored_as": ["f", "g"], "packbits": True, "shape": [2]}, "only a column of numbers"),
        ({"missing": 0}, "columns.a.missing"),
        ({"missing": "nan", "dtype": "int64"}, "missing needs a floating-point dtype, text or `values`, not int64"),
        ({"missing": "nan", "dtype": "complex64"}, "missing needs a floating-point dtype, text or `values`, not comp"),
        ({"missing": "", "dtype": "float32"}, "a missing number can only become nan, not ''"),
        ({"missing": ">", "dtype": "int8", "values": ["=", "<"]}, "'>' is not one of the `values`; add it to them"),
        ({"values": ["a"]}, "values needs an integer dtype"),
        ({"values": ["a"], "dtype": "int8", "shape": [2]}, "values needs an integer dtype and one value per row"),
        ({"values": [], "dtype": "int8"}, "values must be a list of different texts"),
        ({"values": ["a", "a"], "dtype": "int8"}, "values must be a list of different texts"),
        ({"values": [1], "dtype": "int8"}, "columns.a.values"),
        ({"values": "ab", "dtype": "int8"}, "columns.a.values"),
        ({"values": [str(i) for i in range(129)], "dtype": "int8"}, "values has 129 texts, whose places do not fit"),
        ({"range": [0, 1], "dtype": "str"}, "range needs a column of real numbers"),
        ({"range": [0, 1], "dtype": "bool"}, "range needs a column of real numbers"),
        ({"range": [0, 1], "dtype": "int8", "values": ["a"]}, "range needs a column of real numbers"),
        ({"range": [1, 0]}, "range must be [least, greatest]"),
        ({"range": [None, None]}, "range must be [least, greatest]"),
        ({"range": [0]}, "columns.a.range"),
        ({"range": 3}, "columns.a.range"),
    ],
)
def test_a_wrong_column_is_refused_with_its_path(said, expected):
    assert expected in refused(SMALL | {"columns": {"a": said}})
