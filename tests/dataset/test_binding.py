"""A spec over a storage: casts, shapes and stored names; and an error, never other rows, from a wrong storage."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch

import kinoml_data as kd
from kinoml_data import Array, DatasetSpec, Storage
from kinoml_data.columns import Ragged
from kinoml_data.dataset.binding import Binding
from kinoml_data.errors import SpecError, StoreReadError
from tests.dataset.tensors import NUMBERS, assert_form, assert_same, filled, load

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
    "a row too few": (change("y", lambda y: y[1:]), r"3 rows of column 'y', but returned 2 rows"),
    "a ragged row too few": (change("atoms", lambda a: a.take(np.array([0, 1]))), r"'atoms', but returned 2 rows"),
    "a row too many": (change("y", lambda y: np.append(y, 0)), r"but returned 4 rows"),
    "all rows": (change("y", lambda y: np.arange(20.0)), r"but returned 20 rows"),
    "another dtype": (change("y", lambda y: y.astype("f4")), r"returned float32 instead of float64"),
    "another byte order": (change("y", lambda y: y.astype(">f8")), r"returned >f8 instead of float64"),
    "another shape": (change("y", lambda y: y[:, None]), r"returned rows of shape \(1,\) instead of float64"),
    "rows of one shape": (change("atoms", lambda a: np.zeros((3, 2, 3), "f4")), r"returned rows of one shape"),
    "values too few": (change("atoms", lambda a: Ragged(a.values[:-1], a.shapes)), r"returned \(8,\) values.* up to 9"),
    "another axis": (
        change("atoms", lambda a: Ragged(a.values, a.shapes[:, ::-1])),
        r"returned a row of shape \(3, 1\)",
    ),
    "strings too few": (change("id", lambda a: a.take(np.array([2]))), r"'id', but returned 1 rows"),
}


@pytest.mark.parametrize(("wrong", "said"), WRONG.values(), ids=WRONG)
def test_a_storage_that_returns_wrong_columns_is_an_error(wrong, said):
    binding = Binding(SPEC, WrongRows(wrong))
    rows = np.array([1, 1, 1])
    for read in (binding.read, binding.read_stored):
        with pytest.raises(StoreReadError, match=said):
            read(rows, list(COLUMNS))


@pytest.mark.parametrize("name", ["a row too few", "all rows", "another dtype", "values too few"])
def test_another_row_than_the_requested_one_is_an_error(name):
    with pytest.raises(StoreReadError, match="WrongRows is wrong"):
        Binding(SPEC, WrongRows(WRONG[name][0])).read_row(7, ("atoms", "y"))


def test_right_rows_of_a_storage_pass_the_binding():
    found = Binding(SPEC, WrongRows(lambda found: None)).read_row(7, ("atoms", "y"))
    assert found["atoms"].tolist() == ATOMS[7].tolist() and found["y"] == 7


def cast(values, dtype, how="round", **more):
    """The column `values` as `dtype`."""
    shape = list(values.shape[1:]) if isinstance(values, np.ndarray) else ["*"] * values[0].ndim
    spec = {
        "columns": {"a": {"dtype": dtype, "shape": shape, "cast": how}},
        "X": "a",
        "storage": {"backend": "in-memory"},
    }
    return kd.load_dataset(spec, data={"a": values}, **more)[:][0]


def fits(stored, wanted):
    """True if every value of `stored` is a value of `wanted`; numpy calls int64 to float64 safe, which it is not."""
    kinds = {"b": 0, "u": 1, "i": 1, "f": 2, "c": 3}
    a, b = np.dtype(stored), np.dtype(wanted)
    return np.can_cast(a, b, "safe") and (kinds[a.kind] == kinds[b.kind] or a.kind == "b" or a.itemsize < 8)


@pytest.mark.parametrize("how", ["round", "exact"])
@pytest.mark.parametrize(
    ("stored", "wanted"), [(a, b) for a in NUMBERS for b in NUMBERS if a != b and fits(a, b)], ids=str
)
def test_a_smaller_type_may_be_stored(stored, wanted, how):
    values = filled((4, 3), stored)
    assert_same(cast(values, wanted, how), values.astype(wanted))
    rows = [filled((n,), stored) for n in (2, 0, 3)]
    found = cast(rows, wanted, how)
    for tensor, row in zip(found, rows, strict=True):
        assert_same(tensor, row.astype(wanted))


@pytest.mark.parametrize("how", ["round", "exact"])
@pytest.mark.parametrize("wanted", NUMBERS)
@pytest.mark.parametrize("stored", NUMBERS)
def test_whole_numbers_that_every_dtype_has_are_converted_whatever_the_dtypes(stored, wanted, how):
    values = np.array([0, 1, 1, 0], stored)
    if np.dtype(stored).kind == "c" and np.dtype(wanted).kind != "c":
        with pytest.raises(SpecError, match=f"columns.a: the store has {stored}, but the spec asks for {wanted}"):
            cast(values, wanted, how)
    else:
        assert_same(cast(values, wanted, how), values.astype(wanted))


LOSSES = {
    "int64 to float32": (np.array([1, 2**24 + 1], np.int64), "float32", "16777217"),
    "int64 to float16": (np.array([1, 2049], np.int64), "float16", "2049"),
    "int64 to float16, too large": (np.array([1, 70000], np.int64), "float16", "70000"),
    "int64 to float64": (np.array([1, 2**53 + 1], np.int64), "float64", "9007199254740993"),
    "uint64 to float64": (np.array([1, 2**64 - 1], np.uint64), "float64", "18446744073709551615"),
    "int64 max to float32": (np.array([1, 2**63 - 1], np.int64), "float32", "9223372036854775807"),
    "int64 to int32": (np.array([1, 2**31], np.int64), "int32", "2147483648"),
    "int64 to int8": (np.array([1, -129], np.int64), "int8", "-129"),
    "uint8 to int8": (np.array([1, 200], np.uint8), "int8", "200"),
    "uint64 to int64": (np.array([1, 2**63], np.uint64), "int64", "9223372036854775808"),
    "uint64 to uint8": (np.array([1, 256], np.uint64), "uint8", "256"),
    "int64 to complex64": (np.array([1, 2**24 + 1], np.int64), "complex64", "16777217"),
    "int64 to complex128": (np.array([1, 2**53 + 1], np.int64), "complex128", "9007199254740993"),
    "float64 to float32": (np.array([1, 1e300]), "float32", "1e\\+300"),
    "float64 to float16": (np.array([1, 65520.0]), "float16", "65520.0"),
    "float64 to int64": (np.array([1, 12.5]), "int64", "12.5"),
    "float64 to int64, too large": (np.array([1, 2.0**63]), "int64", "9.2233720368547[0-9]*e\\+18"),
    "float64 to uint64": (np.array([1, 2.0**64]), "uint64", "1.844674407370955[0-9]*e\\+19"),
    "negative float64 to uint8": (np.array([1, -1.0]), "uint8", "-1.0"),
    "float32 to int32": (np.array([1, 2**31], np.float32), "int32", "2147483648.0"),
    "float16 to int8": (np.array([1, 128], np.float16), "int8", "128.0"),
    "nan to int64": (np.array([1, np.nan]), "int64", "nan"),
    "infinity to int32": (np.array([1, -np.inf]), "int32", "-inf"),
    "int64 to bool": (np.array([1, 2], np.int64), "bool", "2"),
    "float32 to bool": (np.array([1, 0.5], np.float32), "bool", "0.5"),
    "nan to bool": (np.array([1, np.nan]), "bool", "nan"),
    "negative float64 to float32": (np.array([1, -1e39]), "float32", "-1e\\+39"),
    "complex128 to complex64": (np.array([1, 1e300j]), "complex64", "1e\\+300j"),
}


@pytest.mark.parametrize(("values", "dtype", "said"), LOSSES.values(), ids=LOSSES)
def test_a_value_that_does_not_fit_is_an_error_naming_column_and_row(values, dtype, said):
    expected = rf"column 'a', row 1: .*{said}.* does not fit {dtype}"
    with pytest.raises(SpecError, match=expected):
        cast(values, dtype)
    with pytest.raises(SpecError, match=expected.replace("row 1", "row 2")):
        cast([values[:1], values[:0], values[::-1]], dtype)
    with pytest.raises(SpecError, match=r"column 'a', row 3: "):
        cast(np.stack([values[:1]] * 3 + [values[1:]]), dtype)


def test_the_row_named_is_that_of_the_store():
    values = np.ones(100, np.int64)
    values[42] = 2**24 + 1
    dataset = kd.from_arrays(values)
    floats = kd.load_dataset(dataset.spec, data={"X": values}, dtype={"X": "float32"})
    assert floats[[41, 43]][0].tolist() == [1, 1]
    for read in (
        lambda: floats[[1, 42]],
        lambda: floats[42],
        lambda: floats.select([5, 42])[:],
        lambda: floats.column("X"),
    ):
        with pytest.raises(SpecError, match="column 'X', row 42: 16777217 does not fit float32"):
            read()


ROUNDED = {
    "float64 to float32": (np.array([1.5, 0.1]), "float32", "0.1"),
    "float64 to float16": (np.array([1.5, 2049.0]), "float16", "2049.0"),
    "float32 to float16": (np.array([1.5, 1e-10], np.float32), "float16", "1.0[0-9]*e-10"),
    "complex128 to complex64": (np.array([1.5, 0.1j]), "complex64", "0.1j"),
}


@pytest.mark.parametrize(("values", "dtype", "said"), ROUNDED.values(), ids=ROUNDED)
def test_rounding_is_an_error_only_if_the_cast_is_exact(values, dtype, said):
    assert_same(cast(values, dtype), values.astype(dtype))
    assert_same(cast(values[:1], dtype, "exact"), values[:1].astype(dtype))
    with pytest.raises(SpecError, match=rf"column 'a', row 1: .*{said}.* does not fit {dtype}"):
        cast(values, dtype, "exact")


@pytest.mark.parametrize("dtype", ["float16", "float32"])
def test_an_exact_cast_keeps_nan_and_infinity(dtype):
    values = np.array([np.nan, np.inf, -np.inf, -0.0])
    assert cast(values, dtype, "exact").numpy().tobytes() == values.astype(dtype).tobytes()


@pytest.mark.parametrize("stored", ["float16", "float32", "float64"])
@pytest.mark.parametrize("dtype", [name for name in NUMBERS if np.dtype(name).kind in "iu"])
def test_the_least_and_the_greatest_integers_that_a_float_has_come_out_exact(stored, dtype):
    info = np.iinfo(dtype)
    largest = int(np.finfo(stored).max)
    greatest, least = np.array(min(info.max + 1, largest), stored), np.array(max(info.min, -largest), stored)
    if info.max < largest:
        greatest = np.nextafter(greatest, np.array(0, stored))
    values = np.array([least, np.trunc(greatest)], stored)
    assert cast(values, dtype).tolist() == [int(value) for value in values.tolist()]


def test_nan_infinity_and_rounding_are_no_loss():
    values = np.array([np.nan, np.inf, -np.inf, 0.1, 1e-300, -0.0])
    found = cast(values, "float32")
    assert found.numpy().tobytes() == values.astype(np.float32).tobytes()


@pytest.mark.parametrize(
    ("dtype", "a", "n", "y"),
    [
        ("float32", "float32", "int64", "float32"),
        ({"X": "float32"}, "float32", "float32", "float64"),
        ({"y": "float32"}, "float64", "int64", "float32"),
        ({"n": "float64"}, "float64", "float64", "float64"),
        ({"X": "float32", "y": "float16"}, "float32", "float32", "float16"),
        ({}, "float64", "int64", "float64"),
    ],
    ids=str,
)
def test_the_argument_dtype_changes_the_dtypes_of_tensors(dtype, a, n, y):
    data = {"a": [np.array([1.5]), np.array([2.5, 3.5])], "n": np.array([1, 2]), "y": np.array([0.1, 0.2])}
    spec = {
        "columns": {
            "a": {"dtype": "float64", "shape": ["*"]},
            "n": {"dtype": "int64"},
            "y": {"dtype": "float64"},
        },
        "X": ["a", "n"],
        "y": "y",
        "storage": {"backend": "in-memory"},
    }
    dataset = kd.load_dataset(spec, data=data, dtype=dtype)
    X, found = dataset[:]
    for tensor, row in zip(X["a"], data["a"], strict=True):
        assert_same(tensor, row.astype(a))
    assert_same(X["n"], data["n"].astype(n))
    assert_same(found, data["y"].astype(y))
    assert [dataset.spec.columns[name].dtype for name in ("a", "n", "y")] == [a, n, y]
    assert_same(dataset[0][1], data["y"].astype(y)[0])


@pytest.mark.parametrize(
    ("dtype", "said"),
    [
        ("flot32", "unknown dtype 'flot32'; did you mean 'float32'"),
        ({"b": "float32"}, "unknown column 'b'"),
        ({"a": "f4"}, "unknown dtype 'f4'"),
        ({"y": "float32"}, "y"),
        ({"a": "str"}, "column 'a' contains strings"),
        (5, "dtype"),
        (["float32"], "dtype"),
        ({"a": None}, "dtype"),
    ],
    ids=str,
)
def test_a_dtype_that_is_none_or_does_not_fit_is_refused(dtype, said):
    spec = {"columns": {"a": {"dtype": "float64"}}, "X": "a", "storage": {"backend": "in-memory"}}
    with pytest.raises(SpecError, match=said):
        kd.load_dataset(spec, data={"a": np.zeros(2)}, dtype=dtype)


@pytest.mark.parametrize("shape", [(13,), (16,), (1,), (3, 13), (2, 3, 7)], ids=str)
@pytest.mark.parametrize("dtype", ["bool", "uint8", "float32"])
def test_packed_bits_come_out_as_the_bits_that_were_packed(shape, dtype):
    bits = np.random.default_rng(0).random((5, *shape)) > 0.5
    spec = {
        "columns": {"a": {"dtype": dtype, "shape": list(shape), "packbits": True}},
        "X": "a",
        "storage": {"backend": "in-memory"},
    }
    dataset = kd.load_dataset(spec, data={"a": np.packbits(bits, axis=-1)})
    assert_same(dataset[:][0], bits.astype(dtype))
    assert_same(dataset[[]][0], bits[:0].astype(dtype))
    for _ in range(3):
        assert_same(dataset[3][0], bits[3].astype(dtype))
    assert_same(dataset.column("a"), bits.astype(dtype))


def test_packed_bits_of_ragged_rows_keep_their_rows():
    bits = [np.random.default_rng(n).random((n, 13)) > 0.5 for n in (2, 0, 3)]
    spec = {
        "columns": {"a": {"dtype": "bool", "shape": ["*", 13], "packbits": True}},
        "X": "a",
        "storage": {"backend": "in-memory"},
    }
    dataset = kd.load_dataset(spec, data={"a": [np.packbits(b, axis=-1) for b in bits]})
    assert_form(dataset[:][0], "list", bits, "bool", (None, 13))
    assert_same(dataset[2][0], bits[2])


def test_packed_bits_are_ragged_or_fixed_as_the_spec_says_not_as_the_rows_happen_to_be():
    bits = np.random.default_rng(0).random((4, 3, 13)) > 0.5
    packed = np.packbits(bits, axis=-1)
    columns = {"a": {"dtype": "bool", "shape": ["*", 13], "packbits": True}}
    spec = {"columns": columns, "X": "a", "storage": {"backend": "in-memory"}}
    assert_form(kd.load_dataset(spec, data={"a": packed})[:][0], "list", list(bits), "bool", (None, 13))


MISFITS = {
    "missing": ({"atoms": {}}, "columns.atoms: unknown stored column 'atoms'; did you mean 'atms'"),
    "missing under its stored name": (
        {"x": {"stored_as": "atmos"}},
        "columns.x: unknown stored column 'atmos'; did you mean 'atms'",
    ),
    "far from any": ({"zzz": {}}, "columns.zzz: unknown stored column 'zzz'; known: atms, grid, cplx, text"),
    "rank too small": (
        {"grid": {"dtype": "float64"}},
        r"columns.grid: the store has float64 \(3, 4\), but the spec asks for float64",
    ),
    "rank too large": (
        {"atms": {"shape": [3]}},
        r"columns.atms: the store has float32, but the spec asks for float32 \(3,\)",
    ),
    "axis": (
        {"grid": {"dtype": "float64", "shape": [3, 5]}},
        r"the store has float64 \(3, 4\), but the spec asks for float64 \(3, 5\)",
    ),
    "other axis": ({"grid": {"dtype": "float64", "shape": ["*", 5]}}, r"the spec asks for float64 \(\*, 5\)"),
    "fixed where rows differ": (
        {"rag": {"shape": [2]}},
        r"the store has float32 \(\*,\), but the spec asks for float32 \(2,\)",
    ),
    "dtype": ({"cplx": {"dtype": "float64"}}, "the store has complex128, but the spec asks for float64"),
    "text for numbers": ({"text": {"dtype": "float32"}}, "the store has str, but the spec asks for float32"),
    "numbers for text": (
        {"atms": {"dtype": "str"}, "grid": {"dtype": "float64", "shape": [3, 4]}},
        "the spec asks for str",
    ),
    "not packed": (
        {"grid": {"dtype": "bool", "shape": [3, 32], "packbits": True}},
        "packbits of 32 needs uint8 rows of 4",
    ),
}


@pytest.mark.parametrize(("columns", "said"), MISFITS.values(), ids=MISFITS)
def test_what_the_store_does_not_hold_is_found_before_any_row_is_read(columns, said):
    data = {
        "atms": np.zeros(2, np.float32),
        "grid": np.zeros((2, 3, 4)),
        "cplx": np.zeros(2, complex),
        "text": ["a", "b"],
        "rag": [np.zeros(2, np.float32), np.zeros(1, np.float32)],
    }
    names = [name for name, column in columns.items() if column.get("dtype") != "str"]
    meta = [name for name in columns if name not in names]
    spec = {"columns": columns, "X": names or meta, "storage": {"backend": "in-memory"}}
    if names:
        spec |= {"meta": meta}
    else:
        spec |= {"columns": columns | {"grid": {"dtype": "float64", "shape": [3, 4]}}, "X": "grid", "meta": meta}
    with pytest.raises(SpecError, match="the spec does not fit the store: .*" + said):
        kd.load_dataset(spec, data=data)


def test_all_misfits_of_a_spec_are_listed_at_once():
    spec = {
        "columns": {"a": {"dtype": "int64", "shape": [2]}, "b": {"shape": [3]}, "c": {}},
        "X": ["a", "b", "c"],
        "storage": {"backend": "in-memory"},
    }
    with pytest.raises(SpecError) as caught:
        kd.load_dataset(spec, data={"a": np.zeros(2), "b": np.zeros(2, np.float32)})
    for name in "abc":
        assert f"columns.{name}: " in str(caught.value)


def test_a_column_may_have_another_name_in_the_store_and_come_out_twice():
    spec = {
        "columns": {
            "a": {"dtype": "float64", "stored_as": "q"},
            "b": {"dtype": "float32", "stored_as": "q"},
            "q": {"dtype": "float64", "stored_as": "a"},
        },
        "X": ["a", "b", "q"],
        "storage": {"backend": "in-memory"},
    }
    data = {"q": np.array([1.5, 2.5]), "a": np.array([7.0, 8.0])}
    dataset = kd.load_dataset(spec, data=data)
    for X in (dataset[:][0], {name: torch.stack([s[0][name] for s in dataset]) for name in "abq"}):
        assert_same(X["a"], data["q"])
        assert_same(X["b"], data["q"].astype(np.float32))
        assert_same(X["q"], data["a"])


def test_a_ragged_axis_in_the_spec_makes_a_fixed_column_ragged():
    rows = filled((4, 3, 2))
    dataset = load(rows, (None, 2), "list")
    assert_form(dataset[:][0], "list", list(rows), "float32", (None, 2))
    assert_form(load(rows, (None, 2), "packed")[:][0], "packed", list(rows), "float32", (None, 2))
    assert_same(dataset[1][0], rows[1])


def test_a_fixed_shape_in_the_spec_makes_a_ragged_column_fixed_where_all_rows_agree(tmp_path):
    rows = [filled((3, 2), start=1 + 10 * i) for i in range(4)]
    spec = {"columns": {"a": {"shape": ["*", 2]}}, "X": "a", "storage": {"backend": "in-memory"}}
    kd.save_dataset(kd.load_dataset(spec, data={"a": rows}), tmp_path / "x.npz")
    fixed = {"columns": {"a": {"shape": [3, 2]}}, "X": "a", "storage": {"backend": "npz-lazy", "path": "x.npz"}}
    with kd.load_dataset(fixed, base=tmp_path) as dataset:
        assert_same(dataset[:][0], np.stack(rows))
        assert_same(dataset[2][0], rows[2])
        assert_same(dataset[[]][0], np.zeros((0, 3, 2), np.float32))


def test_an_integer_that_does_not_fit_float32_is_an_error_naming_column_and_row(tmp_path):
    values = np.array([1, 2, 2**24 + 1, 4])
    kd.save_dataset(kd.from_arrays(values), tmp_path / "x.npz")
    with kd.load_dataset(tmp_path / "x.npz", dtype={"X": "float32"}) as dataset:
        assert dataset[[0, 3]][0].tolist() == [1, 4]
        with pytest.raises(SpecError, match="column 'X', row 2: 16777217 does not fit float32"):
            list(dataset)


# -- columns made of several, texts by their place, ranges


def bound(column, data, name="a", **more):
    """The column that a spec makes of `data`."""
    spec = {"columns": {name: column}, "X": name, "storage": {"backend": "in-memory"}}
    return kd.load_dataset(spec, data=data, **more)


MANY = {"f0": np.array([1, 2, 3]), "f1": np.array([0.5, np.nan, -1.0]), "f2": np.array([True, False, True])}


@pytest.mark.parametrize("stored_as", [["f2", "f0", "f1"], {"glob": "f*"}], ids=str)
@pytest.mark.parametrize("dtype", ["float32", "float64"])
def test_several_stored_columns_are_stacked_in_the_order_of_the_list_or_of_the_store(stored_as, dtype):
    dataset = bound({"dtype": dtype, "stored_as": stored_as}, MANY)
    names = stored_as if isinstance(stored_as, list) else list(MANY)
    expected = np.stack([MANY[name] for name in names], axis=1).astype(dtype)
    assert dataset.spec.columns["a"].shape == (3,) and dataset.shape_X == (3, 3)
    assert_same(dataset[:][0], expected)
    assert_same(dataset[[2, 0]][0], expected[[2, 0]])
    assert_same(dataset[1][0], expected[1])
    assert_same(dataset[[]][0], expected[:0])
    assert dataset.stored_columns() == {"a": Array("float64", (3,))}
    stored = dataset.read_stored(np.array([1, 2]), ["a"])["a"]
    assert stored.dtype == np.float64 and stored.tobytes() == expected.astype("f8")[1:].tobytes()


def test_a_value_of_a_stacked_column_that_does_not_fit_is_named_by_its_stored_column():
    with pytest.raises(SpecError, match=r"column 'f1', row 0: 0\.5 does not fit int64"):
        bound({"dtype": "int64", "stored_as": ["f0", "f1"]}, MANY)[:]
    with pytest.raises(SpecError, match="column 'f0', row 1: 300 does not fit uint8"):
        bound({"dtype": "uint8", "stored_as": ["f0"]}, {"f0": np.array([1, 300])})[:]


STACKS = {
    "ragged": (["f0", "r"], r"the stored column 'r' contains float64 \(\*,\), not one number per row"),
    "vectors": (["v", "f0"], r"the stored column 'v' contains float64 \(2,\), not one number per row"),
    "text": (["f0", "t"], "the stored column 't' contains str, .*it contains no numbers, and 'a' in row 0"),
    "missing": (["f0", "nope"], "unknown stored column 'nope'"),
}


@pytest.mark.parametrize(("stored_as", "problem"), STACKS.values(), ids=STACKS)
def test_only_columns_of_one_number_per_row_are_stacked(stored_as, problem):
    data = MANY | {"r": [np.zeros(1), np.zeros(2), np.zeros(0)], "v": np.zeros((3, 2)), "t": list("abc")}
    with pytest.raises(SpecError, match=f"columns.a: {problem}"):
        bound({"stored_as": stored_as}, data)


def test_texts_become_their_places_in_the_list():
    column = {"dtype": "int64", "values": ["=", "<", ">"]}
    dataset = bound(column, {"a": ["<", "=", ">", "<"]})
    assert_same(dataset[:][0], np.array([1, 0, 2, 1]))
    assert_same(dataset[3][0], np.array(1))
    assert dataset.stored_columns() == {"a": Array(str)}
    with pytest.raises(SpecError, match="column 'a', row 2: unknown value '~'; known: =, <, >"):
        bound(column, {"a": ["<", "=", "~", "?"]})[[0, 2]]
    with pytest.raises(SpecError, match="`values` translates texts, but the store has int64"):
        bound(column, {"a": [0, 1]})
    with pytest.raises(SpecError, match="unknown value 'Ki'; did you mean 'pKi'"):
        bound({"dtype": "uint8", "values": ["pIC50", "pKi"]}, {"a": ["pKi", "Ki"]})[:]


@pytest.mark.parametrize(
    ("limits", "value", "said"),
    [
        ([0, 15], -0.5, "-0.5 is outside of the range that the spec allows, 0 to 15"),
        ([0, 15], 15.001, "15.001 is outside"),
        ([0, None], -1.0, "-1.0 is outside of the range that the spec allows, at least 0"),
        ([None, 15], 16.0, "16.0 is outside of the range that the spec allows, at most 15"),
        ([0, 15], np.nan, "nan is outside"),
        ([0, None], np.inf, None),
        ([0, 15], 0.0, None),
        ([0, 15], 15.0, None),
    ],
    ids=str,
)
def test_a_value_outside_of_the_range_is_an_error_naming_column_and_row(limits, value, said):
    column = {"dtype": "float64", "range": limits}
    flat, ragged = np.array([1.0, 1.0, value]), [np.ones(2), np.ones(0), np.array([1.0, value])]
    for data, shape in ((flat, []), (flat.reshape(3, 1), [1]), (ragged, ["*"])):
        dataset = bound(column | {"shape": shape}, {"a": data})
        if said is None:
            dataset[:]
        else:
            assert dataset[[0, 1]]
            with pytest.raises(SpecError, match=f"column 'a', row 2: {said}"):
                dataset[[1, 2]]


def test_nan_is_in_every_range_if_missing_values_are_nan():
    column = {"dtype": "float32", "range": [0, 1], "missing": "nan"}
    assert np.isnan(bound(column, {"a": [0.5, np.nan]})[:][0].numpy()).tolist() == [False, True]
    with pytest.raises(SpecError, match="row 1: inf is outside"):
        bound(column, {"a": [0.5, np.inf]})[:]


def test_the_range_is_that_of_the_values_in_the_batch():
    data = {"a": np.array([255, 3], np.uint8)}
    with pytest.raises(SpecError, match="row 0: 255 is outside"):
        bound({"dtype": "int64", "range": [0, 9]}, data)[:]
    assert bound({"dtype": "int64", "range": [0, 255]}, data)[:][0].tolist() == [255, 3]


@pytest.mark.parametrize("bits", [1, 8, 13])
def test_packed_bits_may_begin_with_the_least_significant_one(bits):
    values = np.random.default_rng(0).random((5, bits)) > 0.5
    for order in ("little", "big"):
        packed = np.packbits(values, axis=-1, bitorder=order)
        dataset = bound({"dtype": "uint8", "shape": [bits], "packbits": order}, {"a": packed})
        assert_same(dataset[:][0], values.astype(np.uint8))
        assert_same(dataset[3][0], values[3].astype(np.uint8))


def test_a_stored_column_that_is_read_in_two_dtypes_loses_nothing(tmp_path):
    (tmp_path / "t.csv").write_text("q\n0.1\n0.2\n")
    columns = {"a": {"dtype": "float64", "stored_as": "q"}, "b": {"dtype": "float32", "stored_as": "q"}}
    for order in (list(columns), list(columns)[::-1]):
        spec = {"columns": {n: columns[n] for n in order}, "X": order, "storage": {"backend": "csv", "path": "t.csv"}}
        X, _ = kd.load_dataset(spec, base=tmp_path)[:]
        assert_same(X["a"], np.array([0.1, 0.2]))
        assert_same(X["b"], np.array([0.1, 0.2], np.float32))
