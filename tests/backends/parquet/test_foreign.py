"""Parquet files of KinoML and of other programs."""

from __future__ import annotations

import decimal
from pathlib import Path
from typing import Any

import awkward as ak
import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

import kinoml_data as kd
from kinoml_data.backends.parquet.backend import ParquetAwkward
from kinoml_data.errors import SpecError, UnsupportedStoreError
from kinoml_data.spec.array import Array
from tests.backends.parquet.tables import NUMBERS, assert_rows, content, opened, ragged, random_values, read_all


def kinoml(path: Path, *columns: Any) -> Path:
    """Write a file as KinoML does."""
    ak.to_parquet(ak.zip([ak.Array(column) for column in columns], depth_limit=1), path)
    return path


def nested(rows: list[np.ndarray]) -> Any:
    """An awkward array of these rows that keeps their dtype, which `ak.Array` of a list does not."""
    if rows[0].ndim == 0:
        return ak.Array(np.array(rows))
    inner = ak.Array(np.concatenate([row.reshape(-1) for row in rows]))
    for axis in reversed(range(1, rows[0].ndim)):
        inner = ak.unflatten(
            inner, np.concatenate([np.full(int(np.prod(r.shape[:axis])), r.shape[axis]) for r in rows])
        )
    return ak.unflatten(inner, np.array([len(row) for row in rows]))


@pytest.mark.parametrize("dtype", NUMBERS)
@pytest.mark.parametrize(
    ("shapes", "expected"),
    [
        ([(5,), (5,), (5,)], (5,)),
        ([(5,), (0,), (2,)], (None,)),
        ([(53, 3), (53, 7), (53, 1)], (53, None)),
        ([(4, 33), (1, 33), (9, 33)], (None, 33)),
        ([(3, 3), (5, 5), (1, 1)], (None, None)),
        ([(2, 3, 4), (2, 3, 4)], (2, 3, 4)),
        ([(2, 3, 4), (2, 1, 4)], (2, None, 4)),
        ([(2, 4), (2, 0), (2, 1)], (2, None)),
    ],
)
def test_a_kinoml_column_comes_back_bit_for_bit(
    tmp_path: Path, dtype: str, shapes: list[tuple[int, ...]], expected: tuple[int | None, ...]
) -> None:
    rng = np.random.default_rng(7)
    column = ragged(dtype, shapes, rng)
    rows = [column[i] for i in range(len(shapes))]
    y = rng.normal(size=len(shapes))
    path = kinoml(tmp_path / "k.parquet", nested(rows), y)

    storage = opened(path, None)

    assert dict(storage.columns) == {"0": Array(dtype, expected), "1": Array("float64")}
    found = storage.read(np.arange(len(rows)), ["0", "1"])
    assert_rows(found["0"], rows)
    assert content(found["1"]) == content(y)


def test_several_x_of_a_kinoml_file_keep_their_names_and_their_order(tmp_path: Path) -> None:
    rng = np.random.default_rng(0)
    edges = [rng.integers(0, 9, (2, n)) for n in (4, 0, 3)]
    atoms = [rng.normal(size=(n, 33)) for n in (3, 1, 2)]
    y = np.array([6.5, 7.0, 5.25])
    path = kinoml(tmp_path / "k.parquet", edges, atoms, y)

    found = read_all(path)

    assert list(found) == ["0", "1", "2"]
    assert_rows(found["0"], edges)
    assert_rows(found["1"], atoms)
    assert found["2"].tobytes() == y.tobytes()


def test_rows_that_repeat_come_in_the_order_asked_for_and_are_writable(tmp_path: Path) -> None:
    rows = [np.arange(n, dtype=np.int64) for n in (3, 0, 5)]
    storage = ParquetAwkward(path=kinoml(tmp_path / "k.parquet", nested(rows), np.arange(3.0))).open(None)

    found = storage.read(np.array([2, 0, 2, 1]), ["0"])["0"]

    assert_rows(found, [rows[2], rows[0], rows[2], rows[1]])
    assert found.values.flags.writeable


def test_a_row_that_does_not_show_an_axis_has_the_length_the_others_agree_on(tmp_path: Path) -> None:
    rows = [[[1.0, 2.0]], [], [[3.0, 4.0], [5.0, 6.0]]]
    found = read_all(kinoml(tmp_path / "k.parquet", rows, [1.0, 2.0, 3.0]))["0"]
    assert found.shapes.tolist() == [[1, 2], [0, 2], [2, 2]]


def test_a_row_that_does_not_show_a_ragged_axis_has_length_0_there(tmp_path: Path) -> None:
    rows = [[[1.0, 2.0]], [], [[3.0]]]
    found = read_all(kinoml(tmp_path / "k.parquet", rows, [1.0, 2.0, 3.0]))["0"]
    assert found.shapes.tolist() == [[1, 2], [0, 0], [1, 1]]


def test_an_axis_that_no_row_shows_has_length_0_or_what_the_spec_says(tmp_path: Path) -> None:
    table = pa.table({"X": pa.array([[], []], pa.list_(pa.list_(pa.float32()))), "y": [1.0, 2.0]})
    pq.write_table(table, tmp_path / "t.parquet")
    backend = ParquetAwkward(path=tmp_path / "t.parquet")

    assert backend.open(None).columns["X"] == Array("float32", ("*", "*"))
    assert opened(backend.path).columns["X"] == Array("float32", (0, 0))
    assert opened(backend.path, {"X": Array("float32", ("*", 33))}).columns["X"] == Array("float32", (0, 33))


def test_a_type_that_no_row_shows_is_asked_for_and_taken_from_the_spec(tmp_path: Path) -> None:
    path = kinoml(tmp_path / "k.parquet", [np.zeros((0, 3)), np.zeros((0, 3))], [1.0, 2.0])

    reason = ParquetAwkward(path=path).open(None).unreadable["0"]
    assert "column '0': no row shows its type" in reason and "`columns`" in reason
    for wrong in (None, Array("str"), Array("float32")):
        with pytest.raises(SpecError, match="no row shows its type"):
            opened(path, {"0": wrong})

    found = read_all(path, {"0": Array("int16", ("*", 3)), "1": Array("float64")})
    assert_rows(found["0"], [np.zeros((0, 3), "i2")] * 2)


def test_packed_bits_that_no_row_shows_have_their_packed_length(tmp_path: Path) -> None:
    path = kinoml(tmp_path / "k.parquet", [[], []], [1.0, 2.0])
    storage = opened(path, {"0": Array("float32", ("*", 12), packbits=True)})
    assert storage.columns["0"] == Array("uint8", (0, 2))


def test_a_kinoml_file_of_no_rows_keeps_its_types(tmp_path: Path) -> None:
    schema = pa.schema({"0": pa.large_list(pa.list_(pa.float32())), "1": pa.float64()})
    pq.write_table(schema.empty_table(), tmp_path / "k.parquet")
    backend = ParquetAwkward(path=tmp_path / "k.parquet")

    assert dict(opened(backend.path).columns) == {"0": Array("float32", ("*", "*")), "1": Array("float64")}
    asked = {"0": Array("float32", (53, 4)), "1": Array("float64")}
    assert dict(opened(backend.path, asked).columns) == asked


def test_rows_that_are_not_rectangular_are_named(tmp_path: Path) -> None:
    path = kinoml(tmp_path / "k.parquet", [[[1], [2]], [[3, 4], [5]]], [1.0, 2.0])
    with pytest.raises(UnsupportedStoreError, match=r"k\.parquet: column '0', row 1: its lists on axis 1 differ"):
        opened(path, None)


def test_rows_that_are_not_rectangular_deep_inside_are_named(tmp_path: Path) -> None:
    rows = [[[[1], [2]], [[3], [4]]], [[[1, 1]], [[2]]]]
    path = kinoml(tmp_path / "k.parquet", rows, [1.0, 2.0])
    with pytest.raises(UnsupportedStoreError, match="row 1: its lists on axis 2 differ"):
        opened(path, None)


def test_a_table_of_numbers_bools_and_strings_is_read(tmp_path: Path) -> None:
    smiles = ["CCO", "", "N#N", "\N{GRINNING FACE}é"]
    table = pa.table(
        {
            "smiles": pa.array(smiles),
            "kinase": pa.array(["EGFR", "ABL1", "EGFR", "EGFR"]).dictionary_encode(),
            "active": [True, False, True, True],
            "fp": pa.array([[1, 0], [0, 1], [1, 1], [0, 0]], pa.list_(pa.uint8(), 2)),
            "pIC50": pa.array([1.5, 2.5, 3.5, -0.0], pa.float32()),
        }
    )
    pq.write_table(table, tmp_path / "t.parquet", row_group_size=3)

    found = read_all(tmp_path / "t.parquet")

    assert found["smiles"].strings() == smiles
    assert found["kinase"].strings() == ["EGFR", "ABL1", "EGFR", "EGFR"]
    assert content(found["active"]) == content(np.array([True, False, True, True]))
    assert content(found["fp"]) == content(np.array([[1, 0], [0, 1], [1, 1], [0, 0]], "u1"))
    assert content(found["pIC50"]) == content(np.array([1.5, 2.5, 3.5, -0.0], "f4"))


@pytest.mark.parametrize("dtype", NUMBERS)
@pytest.mark.parametrize("row_group_size", [3, 1000])
def test_a_plain_column_of_every_dtype_comes_back_bit_for_bit(tmp_path: Path, dtype: str, row_group_size: int) -> None:
    values = random_values(dtype, 20, np.random.default_rng(3))
    pq.write_table(pa.table({"x": values}), tmp_path / "t.parquet", row_group_size=row_group_size)
    assert content(read_all(tmp_path / "t.parquet")["x"]) == content(values)


def test_columns_whose_names_have_dots_are_not_mixed_up(tmp_path: Path) -> None:
    table = pa.table({"a": [1, 2], "a.b": [3, 4], "c": pa.array([{"d": 1}, {"d": 2}]), "c.d": [5, 6]})
    pq.write_table(table, tmp_path / "t.parquet")
    found = read_all(tmp_path / "t.parquet", {name: Array("int64") for name in ("a", "a.b", "c.d")})
    assert {name: column.tolist() for name, column in found.items()} == {"a": [1, 2], "a.b": [3, 4], "c.d": [5, 6]}


def test_only_the_columns_asked_for_are_decoded(tmp_path: Path) -> None:
    table = pa.table({"x": [1.0, 2.0], "when": pa.array([1, 2], pa.timestamp("s")), "holes": [1, None]})
    pq.write_table(table, tmp_path / "t.parquet")
    assert list(read_all(tmp_path / "t.parquet", {"x": Array("float64"), "no such": Array()})) == ["x"]
    with pytest.raises(SpecError, match="unknown stored column 'y'; known: x, when, holes"):
        read_all(tmp_path / "t.parquet", {"y": Array()})


@pytest.mark.parametrize(
    "values",
    [
        pa.array([1, 2], pa.timestamp("us")),
        pa.array([1, 2], pa.duration("s")),
        pa.array([[1], [2]], pa.list_(pa.duration("s"))),
        pa.array([b"a", b"b"]),
        pa.array([["a"], ["b"]]),
        pa.array([[("a", 1)], []], pa.map_(pa.string(), pa.int64())),
        pa.array([{"a": 1, "b": 2}, {"a": 3, "b": 4}]),
        pa.array([[{"a": 1}], [{"a": 3}]]),
    ],
    ids=lambda values: str(values.type),
)
def test_a_type_that_is_no_tensor_is_refused_by_name(tmp_path: Path, values: Any) -> None:
    pq.write_table(pa.table({"x": [1.0, 2.0], "odd": values}), tmp_path / "t.parquet")
    for declared in (None, Array("float64")):
        with pytest.raises(UnsupportedStoreError, match=r"column 'odd' has the type .*(leave it out|of its own)"):
            opened(tmp_path / "t.parquet", {"odd": declared})
    found = opened(tmp_path / "t.parquet")
    assert list(found.columns) == ["x"] and len(found) == 2
    assert "column 'odd' has the type" in found.unreadable["odd"]
    with pytest.raises(UnsupportedStoreError, match="column 'odd'"):
        kd.load_dataset(tmp_path / "t.parquet", X="odd")
    assert kd.load_dataset(tmp_path / "t.parquet", X="x")[1][0] == 2


@pytest.mark.parametrize(
    ("values", "row"),
    [
        (pa.array([1.0, float("nan"), 2.0, None]), 3),
        (pa.array(["a", None, "b", "c"]), 1),
        (pa.array([[1], [2, 2], None, [3]]), 2),
        (pa.array([[1], [], [2, None], [3]]), 2),
        (pa.array([[[1]], [], [[2]], [None]], pa.list_(pa.list_(pa.int64()))), 3),
        (pa.array([[[1]], [[2], [None]], [[2]], []]), 1),
    ],
    ids=str,
)
@pytest.mark.parametrize("row_group_size", [2, 4])
def test_a_null_anywhere_is_named_with_its_row(tmp_path: Path, values: Any, row: int, row_group_size: int) -> None:
    pq.write_table(pa.table({"x": values}), tmp_path / "t.parquet", row_group_size=row_group_size)
    with pytest.raises(
        SpecError, match=rf"t\.parquet: column 'x', row {row}: a (value|text) is missing; leave the column"
    ):
        opened(tmp_path / "t.parquet", None)


@pytest.mark.parametrize("row_group_size", [1, 4])
@pytest.mark.parametrize(
    "values",
    [
        pa.array(["a", None, ""]),
        pa.array(["a", None, ""], pa.large_string()).slice(0, 3),
        pa.array(["a", None, ""]).dictionary_encode(),
        pa.nulls(3),
    ],
    ids=str,
)
def test_a_null_is_the_text_that_the_spec_names(tmp_path: Path, values: Any, row_group_size: int) -> None:
    pq.write_table(pa.table({"x": [1, 2, 3], "t": values}), tmp_path / "t.parquet", row_group_size=row_group_size)
    columns = {"x": {"dtype": "float32"}, "t": {"dtype": "str", "missing": "?"}}
    storage = {"backend": "parquet-awkward", "path": str(tmp_path / "t.parquet")}
    with kd.load_dataset({"storage": storage, "columns": columns, "X": "x", "meta": ["t"]}) as dataset:
        assert dataset.column("t") == ["?" if text is None else text for text in values.to_pylist()]
        assert dataset.column("t", rows=[2, 1]) == dataset.column("t")[:0:-1]


@pytest.mark.parametrize("row_group_size", [1, 4])
@pytest.mark.parametrize(
    ("values", "expected"),
    [
        (pa.array([1.5, None, float("nan")], pa.float32()), [1.5, np.nan, np.nan]),
        (pa.array([1.5, None, 2], pa.float16()), [1.5, np.nan, 2]),
        (pa.array([1, None, -3], pa.int8()), [1, np.nan, -3]),
        (pa.array([True, None, False]), [1, np.nan, 0]),
        (pa.array([1, None, 3]).dictionary_encode(), [1, np.nan, 3]),
        (pa.array(["1.10", None, "-2.35"]).cast(pa.decimal128(5, 2)), [1.1, np.nan, -2.35]),
        (pa.nulls(3), [np.nan, np.nan, np.nan]),
        (pa.array([[1, None], [None, None], [2, 3]]), [[1, np.nan], [np.nan, np.nan], [2, 3]]),
        (pa.array([[1.5, None], [2, 3], [4, 5]], pa.list_(pa.float32())), [[1.5, np.nan], [2, 3], [4, 5]]),
    ],
    ids=str,
)
@pytest.mark.filterwarnings("ignore:.*takes more than half of its memory_budget:UserWarning")
def test_a_null_is_nan_if_the_spec_says_so(
    tmp_path: Path, values: Any, expected: list[Any], row_group_size: int
) -> None:
    pq.write_table(pa.table({"x": values}), tmp_path / "t.parquet", row_group_size=row_group_size)
    shape = np.shape(expected)[1:]
    columns = {"x": {"dtype": "float32", "shape": list(shape), "missing": "nan"}}
    spec = {"columns": columns, "X": "x", "storage": {"backend": "parquet-awkward", "path": "t.parquet"}}
    for budget in (None, 0):
        storage = {**spec["storage"], "memory_budget": budget}
        with kd.load_dataset({**spec, "storage": storage}, base=tmp_path) as dataset:
            np.testing.assert_array_equal(dataset[:][0].numpy(), np.array(expected, "f4"))
    del columns["x"]["missing"]
    with pytest.raises(SpecError, match=r"a value is missing|shows its type"):
        kd.load_dataset(spec, base=tmp_path)[:]


@pytest.mark.parametrize("value", [2**24 + 1, 2**53 + 1])
def test_an_integer_among_nulls_is_exact_or_an_error(tmp_path: Path, value: int) -> None:
    pq.write_table(pa.table({"x": [None, value]}), tmp_path / "t.parquet")
    columns = {"x": {"dtype": "float32", "missing": "nan"}}
    spec = {"columns": columns, "X": "x", "storage": {"backend": "parquet-awkward", "path": "t.parquet"}}
    with pytest.raises(SpecError, match=f"column 'x', row 1: {value} does not fit float32"):
        kd.load_dataset(spec, base=tmp_path)
    columns["x"]["dtype"] = "float64"
    if value < 2**53:
        assert kd.load_dataset(spec, base=tmp_path)[1][0] == value
    else:
        with pytest.raises(SpecError, match="does not fit float64"):
            kd.load_dataset(spec, base=tmp_path)


@pytest.mark.parametrize("type_", [pa.decimal128(38, 20), pa.decimal256(60, 20)], ids=str)
def test_a_decimal_is_the_nearest_float64(tmp_path: Path, type_: Any) -> None:
    texts = ["0.1", "46.10000000000000000001", "-1234567890123456.7", "9007199254740993"]
    values = pa.array([decimal.Decimal(text) for text in texts], type_)
    pq.write_table(pa.table({"x": values}), tmp_path / "t.parquet")
    assert content(read_all(tmp_path / "t.parquet")["x"]) == content(np.array([float(text) for text in texts]))


TENSORS = np.arange(24, dtype="f4").reshape(2, 3, 4)


@pytest.mark.parametrize("order", [None, (1, 0)])
def test_a_tensor_of_arrow_is_read_in_its_own_order_of_axes(tmp_path: Path, order: tuple[int, ...] | None) -> None:
    flat = pa.array(TENSORS.reshape(2, 12).tolist(), pa.list_(pa.float32(), 12))
    type_ = pa.fixed_shape_tensor(pa.float32(), (3, 4), permutation=order)
    array = pa.ExtensionArray.from_storage(type_, flat)
    pq.write_table(pa.table({"t": array, "y": [1.0, 2.0]}), tmp_path / "t.parquet", row_group_size=1)
    expected = TENSORS if order is None else TENSORS.transpose(0, 2, 1)
    np.testing.assert_array_equal(array.to_numpy_ndarray(), expected)
    columns = ParquetAwkward(path=tmp_path / "t.parquet").open(None).columns
    assert columns["t"] == Array("float32", expected.shape[1:])
    assert content(read_all(tmp_path / "t.parquet")["t"]) == content(np.ascontiguousarray(expected))
    assert list(read_all(tmp_path / "t.parquet", {"y": Array("float64")})) == ["y"]


def test_a_tensor_that_is_missing_is_a_missing_value(tmp_path: Path) -> None:
    flat = pa.array([[1.0, 2.0], None], pa.list_(pa.float32(), 2))
    array = pa.ExtensionArray.from_storage(pa.fixed_shape_tensor(pa.float32(), (2, 1)), flat)
    pq.write_table(pa.table({"t": array}), tmp_path / "t.parquet")
    with pytest.raises(SpecError, match="column 't', row 1: a value is missing"):
        read_all(tmp_path / "t.parquet")


@pytest.mark.parametrize("type_", [pa.uuid(), pa.bool8(), pa.json_()], ids=str)
def test_another_extension_type_matters_only_if_it_is_asked_for(tmp_path: Path, type_: Any) -> None:
    values = {"uuid": [bytes(16)], "bool8": [1], "json": ["{}"]}[type_.extension_name.removeprefix("arrow.")]
    array = pa.ExtensionArray.from_storage(type_, pa.array(values, type_.storage_type))
    pq.write_table(pa.table({"odd": array, "y": [1.0]}), tmp_path / "t.parquet")
    found = opened(tmp_path / "t.parquet")
    assert list(found.columns) == ["y"] and "extension type 'arrow." in found.unreadable["odd"]
    with pytest.raises(UnsupportedStoreError, match="has the extension type 'arrow"):
        opened(tmp_path / "t.parquet", {"odd": None})


def test_a_missing_record_is_a_missing_value(tmp_path: Path) -> None:
    records = pa.array([{"a": 1.0, "b": 2}, None])
    pq.write_table(pa.table({"": records}), tmp_path / "t.parquet")
    with pytest.raises(SpecError, match="column 'a', row 1: a value is missing"):
        opened(tmp_path / "t.parquet", None)


def test_an_index_that_pandas_wrote_is_read_only_where_it_is_asked_for(tmp_path: Path) -> None:
    pd = pytest.importorskip("pandas")
    pd.DataFrame({"x": [1.0, 2.0, 3.0]}, index=[4, 0, 7]).to_parquet(tmp_path / "t.parquet")
    assert list(read_all(tmp_path / "t.parquet")) == ["x"]
    asked = read_all(tmp_path / "t.parquet", {"__index_level_0__": Array("int64")})
    assert asked["__index_level_0__"].tolist() == [4, 0, 7]


@pytest.mark.parametrize("name", ["x.values", "x.shapes", "idx.index", "_spec"])
def test_a_column_named_as_a_part_of_the_layout_is_refused(tmp_path: Path, name: str) -> None:
    pq.write_table(pa.table({name: [1, 2]}), tmp_path / "t.parquet")
    assert "rename" in ParquetAwkward(path=tmp_path / "t.parquet").open(None).unreadable[name]
    with pytest.raises(UnsupportedStoreError, match="rename"):
        opened(tmp_path / "t.parquet", {name: None})
