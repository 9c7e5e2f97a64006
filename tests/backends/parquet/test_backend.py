from __future__ import annotations

import base64
import os
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path
from typing import Any

import awkward as ak
import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from kinoml_data.backends.parquet.backend import ParquetAwkward
from kinoml_data.backends.parquet.container import seal
from kinoml_data.columns import Column, Columns, Ragged
from kinoml_data.contracts.backend import Storage
from kinoml_data.errors import (
    CorruptStoreError,
    KinomlDataError,
    SpecError,
    StoreExistsError,
    StoreNotFoundError,
    UnsafeStoreError,
    UnsupportedStoreError,
)
from kinoml_data.layouts import arrow_rows
from kinoml_data.layouts.arrow import NOT_SHOWN, rows_of
from kinoml_data.layouts.memory_storage import MemoryStorage
from kinoml_data.spec.array import DTYPES, Array

NUMBERS = [name for name in DTYPES if name != "str" and not name.startswith("complex")]
EDGES = {
    "float16": np.array([0x7E01, 0xFE00, 0x7C01, 0x8000, 0x0001, 0xFC00, 0x7BFF], "u2").view("f2"),
    "float32": np.array([0x7FC00001, 0xFFC00000, 0x7F800001, 0x80000000, 1, 0xFF800000], "u4").view("f4"),
    "float64": np.array([0x7FF8 << 48 | 1, 0xFFF8 << 48 | 0x123, 0x7FF0 << 48 | 1, 1 << 63, 1], "u8").view("f8"),
}


def random_values(dtype: str, count: int, rng: np.random.Generator) -> np.ndarray:
    """Any bits there are, the special ones first."""
    if dtype == "bool":
        return rng.integers(0, 2, count).astype(bool)
    values = np.frombuffer(rng.bytes(count * np.dtype(dtype).itemsize), dtype).copy()
    special = EDGES[dtype] if dtype in EDGES else np.array([np.iinfo(dtype).min, np.iinfo(dtype).max], dtype)
    values[: len(special)] = special[:count]
    return values


def ragged(dtype: str, shapes: list[tuple[int, ...]], rng: np.random.Generator) -> Ragged:
    lengths = np.array(shapes, np.int64)
    return Ragged(random_values(dtype, int(lengths.prod(axis=1).sum()), rng), lengths)


def content(column: Column) -> tuple[Any, ...]:
    """What two columns have in common if they are the same bits."""
    if isinstance(column, Ragged):
        return column.values.dtype, column.shapes.tolist(), column.values.tobytes()
    return column.dtype, column.shape, column.tobytes()


def read_all(path: Path, columns: dict[str, Array] | None = None) -> dict[str, Column]:
    storage = ParquetAwkward(path=path).open(columns)
    return dict(storage.read(np.arange(len(storage)), list(storage.columns)))


def assert_rows(column: Column, rows: list[np.ndarray]) -> None:
    """The column holds these rows, bit for bit."""
    assert len(column) == len(rows)
    for i, row in enumerate(rows):
        assert (column[i].dtype, column[i].shape, column[i].tobytes()) == (row.dtype, row.shape, row.tobytes()), i


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


# --- KinoML's files -------------------------------------------------------------------------------------


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

    storage = ParquetAwkward(path=path).open(None)

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

    assert backend.open(None).columns["X"] == Array("float32", (0, 0))
    assert backend.open({"X": Array("float32", ("*", 33))}).columns["X"] == Array("float32", (0, 33))


def test_a_type_that_no_row_shows_is_asked_for_and_taken_from_the_spec(tmp_path: Path) -> None:
    path = kinoml(tmp_path / "k.parquet", [np.zeros((0, 3)), np.zeros((0, 3))], [1.0, 2.0])

    with pytest.raises(SpecError, match=r"column '0': no row shows its type.*`columns`"):
        ParquetAwkward(path=path).open(None)

    for wrong in (Array("str"), Array("float32")):
        with pytest.raises(SpecError, match="no row shows its type"):
            ParquetAwkward(path=path).open({"0": wrong})

    found = read_all(path, {"0": Array("int16", ("*", 3)), "1": Array("float64")})
    assert_rows(found["0"], [np.zeros((0, 3), "i2")] * 2)


def test_packed_bits_that_no_row_shows_have_their_packed_length(tmp_path: Path) -> None:
    path = kinoml(tmp_path / "k.parquet", [[], []], [1.0, 2.0])
    storage = ParquetAwkward(path=path).open({"0": Array("float32", ("*", 12), packbits=True)})
    assert storage.columns["0"] == Array("uint8", (0, 2))


def test_a_kinoml_file_of_no_rows_keeps_its_types(tmp_path: Path) -> None:
    schema = pa.schema({"0": pa.large_list(pa.list_(pa.float32())), "1": pa.float64()})
    pq.write_table(schema.empty_table(), tmp_path / "k.parquet")
    backend = ParquetAwkward(path=tmp_path / "k.parquet")

    assert dict(backend.open(None).columns) == {"0": Array("float32", ("*", "*")), "1": Array("float64")}
    asked = {"0": Array("float32", (53, 4)), "1": Array("float64")}
    assert dict(backend.open(asked).columns) == asked


def test_rows_that_are_not_rectangular_are_named(tmp_path: Path) -> None:
    path = kinoml(tmp_path / "k.parquet", [[[1], [2]], [[3, 4], [5]]], [1.0, 2.0])
    with pytest.raises(CorruptStoreError, match=r"k\.parquet: column '0', row 1: its lists on axis 1 differ"):
        ParquetAwkward(path=path).open(None)


def test_rows_that_are_not_rectangular_deep_inside_are_named(tmp_path: Path) -> None:
    rows = [[[[1], [2]], [[3], [4]]], [[[1, 1]], [[2]]]]
    path = kinoml(tmp_path / "k.parquet", rows, [1.0, 2.0])
    with pytest.raises(CorruptStoreError, match="row 1: its lists on axis 2 differ"):
        ParquetAwkward(path=path).open(None)


# --- tables of other programs ---------------------------------------------------------------------------


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
        pa.array([1, 2], pa.decimal128(5, 2)),
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
    with pytest.raises(UnsupportedStoreError, match=r"column 'odd' has the type .*`columns`"):
        ParquetAwkward(path=tmp_path / "t.parquet").open(None)
    assert len(ParquetAwkward(path=tmp_path / "t.parquet").open({"x": Array("float64")})) == 2


@pytest.mark.parametrize(
    ("values", "row"),
    [
        (pa.array([1.0, float("nan"), 2.0, None]), 3),
        (pa.array(["a", None, "b", "c"]), 1),
        (pa.array([[1], [2, 2], None, [3]]), 2),
        (pa.array([[1], [], [2, None], [3]]), 2),
        (pa.array([[[1]], [], [[2]], [None]], pa.list_(pa.list_(pa.int64()))), 3),
        (pa.array([[[1]], [[2], [None]], [[2]], []]), 1),
        (pa.nulls(4), 0),
    ],
    ids=str,
)
@pytest.mark.parametrize("row_group_size", [2, 4])
def test_a_null_anywhere_is_named_with_its_row(tmp_path: Path, values: Any, row: int, row_group_size: int) -> None:
    pq.write_table(pa.table({"x": values}), tmp_path / "t.parquet", row_group_size=row_group_size)
    with pytest.raises(CorruptStoreError, match=rf"t\.parquet: column 'x', row {row}: a value is missing"):
        ParquetAwkward(path=tmp_path / "t.parquet").open(None)


def test_a_missing_record_is_a_missing_value(tmp_path: Path) -> None:
    records = pa.array([{"a": 1.0, "b": 2}, None])
    pq.write_table(pa.table({"": records}), tmp_path / "t.parquet")
    with pytest.raises(CorruptStoreError, match="column 'a', row 1: a value is missing"):
        ParquetAwkward(path=tmp_path / "t.parquet").open(None)


def test_an_index_that_pandas_wrote_is_read_only_where_it_is_asked_for(tmp_path: Path) -> None:
    pd = pytest.importorskip("pandas")
    pd.DataFrame({"x": [1.0, 2.0, 3.0]}, index=[4, 0, 7]).to_parquet(tmp_path / "t.parquet")
    assert list(read_all(tmp_path / "t.parquet")) == ["x"]
    asked = read_all(tmp_path / "t.parquet", {"__index_level_0__": Array("int64")})
    assert asked["__index_level_0__"].tolist() == [4, 0, 7]


@pytest.mark.parametrize("name", ["x.values", "x.shapes", "idx.index", "_spec"])
def test_a_column_named_as_a_part_of_the_layout_is_refused(tmp_path: Path, name: str) -> None:
    pq.write_table(pa.table({name: [1, 2]}), tmp_path / "t.parquet")
    with pytest.raises(UnsupportedStoreError, match="rename"):
        ParquetAwkward(path=tmp_path / "t.parquet").open(None)


@pytest.mark.parametrize("list_type", [pa.list_, pa.large_list, lambda inner: pa.list_(inner, 2)])
def test_a_slice_of_an_arrow_array_gives_its_own_rows_only(list_type: Any) -> None:
    rows = np.arange(24, dtype=np.int32).reshape(6, 2, 2)
    array = pa.array(rows.tolist(), list_type(list_type(pa.int32())))
    found = rows_of(array.slice(2, 3), "x")
    assert found.values.tolist() == rows[2:5].reshape(-1).tolist()
    assert found.shapes.tolist() == [[2, 2]] * 3


@pytest.mark.parametrize("type_", [pa.string(), pa.large_string()])
def test_a_slice_of_arrow_strings_gives_its_own_rows_only(type_: Any) -> None:
    found = rows_of(pa.array(["a", "bc", "", "déf", "g"], type_).slice(1, 3), "x")
    assert Ragged(found.values, found.shapes).strings() == ["bc", "", "déf"]


def test_the_axes_that_an_arrow_row_does_not_show_are_marked() -> None:
    found = rows_of(pa.array([[], [[]], [[[1], [2]]]], pa.list_(pa.list_(pa.list_(pa.int8())))), "x")
    assert found.shapes.tolist() == [[0, NOT_SHOWN, NOT_SHOWN], [1, 0, NOT_SHOWN], [1, 2, 1]]


# --- files that are none, or hostile --------------------------------------------------------------------


def test_a_file_that_is_not_there_is_not_found(tmp_path: Path) -> None:
    with pytest.raises(StoreNotFoundError, match="no file"):
        ParquetAwkward(path=tmp_path / "none.parquet").open(None)


def test_a_folder_and_a_pipe_are_no_files(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "pipe.parquet")
    for path in (tmp_path, tmp_path / "pipe.parquet"):
        with pytest.raises(StoreNotFoundError, match="not a regular file"):
            ParquetAwkward(path=path).open(None)


@pytest.mark.parametrize("data", [b"", b"PAR1", b"PAR1" * 5, b"PK\3\4" + bytes(40), b"PAR1" + b"\xff" * 20 + b"PAR1"])
def test_a_file_that_is_no_parquet_is_corrupt(tmp_path: Path, data: bytes) -> None:
    (tmp_path / "x.parquet").write_bytes(data)
    with pytest.raises(CorruptStoreError, match=r"x\.parquet"):
        ParquetAwkward(path=tmp_path / "x.parquet").open(None)


def test_an_encrypted_file_is_not_supported(tmp_path: Path) -> None:
    (tmp_path / "x.parquet").write_bytes(b"PARE" + bytes(20) + b"PARE")
    with pytest.raises(UnsupportedStoreError, match="encrypted"):
        ParquetAwkward(path=tmp_path / "x.parquet").open(None)


def test_a_footer_too_large_to_be_one_is_not_read(tmp_path: Path) -> None:
    with (tmp_path / "x.parquet").open("wb") as file:
        file.write(b"PAR1")
        file.truncate(200 << 20)
        file.seek(0, os.SEEK_END)
        file.write((100 << 20).to_bytes(4, "little") + b"PAR1")
    with pytest.raises(UnsafeStoreError, match="its footer is"):
        ParquetAwkward(path=tmp_path / "x.parquet").open(None)


class Canary(pa.ExtensionType):
    """An extension type that tells when Arrow builds it from a file."""

    built = False

    def __init__(self) -> None:
        super().__init__(pa.int64(), "test.canary")

    def __arrow_ext_serialize__(self) -> bytes:
        return b"payload"

    @classmethod
    def __arrow_ext_deserialize__(cls, storage_type: Any, serialized: bytes) -> Canary:
        cls.built = True
        return cls()


@pytest.fixture
def canary() -> Iterator[type[Canary]]:
    pa.register_extension_type(Canary())
    Canary.built = False
    yield Canary
    pa.unregister_extension_type("test.canary")


@pytest.mark.parametrize("depth", ["column", "list", "record"])
def test_an_extension_type_is_refused_and_never_built(tmp_path: Path, canary: type[Canary], depth: str) -> None:
    marked = pa.field(
        "odd", pa.int64(), metadata={"ARROW:extension:name": "test.canary", "ARROW:extension:metadata": "x"}
    )
    fields = {
        "column": [pa.field("x", pa.int64()), marked],
        "list": [pa.field("x", pa.int64()), pa.field("odd", pa.list_(marked))],
        "record": [pa.field("", pa.struct([pa.field("x", pa.int64()), marked]))],
    }[depth]
    pq.write_table(pa.schema(fields).empty_table(), tmp_path / "t.parquet")
    pq.read_schema(tmp_path / "t.parquet")
    assert canary.built, "the file does build the type where nobody takes care"
    canary.built = False

    for columns in (None, {"x": Array("int64")}):
        with pytest.raises(UnsafeStoreError, match=r"t\.parquet: the extension type 'test\.canary' is not allowed"):
            ParquetAwkward(path=tmp_path / "t.parquet").open(columns)
    assert not canary.built


@pytest.mark.parametrize("last", [True, False])
def test_an_extension_type_in_one_of_two_schemas_is_never_built(
    tmp_path: Path, canary: type[Canary], last: bool
) -> None:
    schemas = [pa.schema([pa.field("x", type_)]) for type_ in (pa.int64(), Canary())]
    first, second = schemas if last else schemas[::-1]
    with pq.ParquetWriter(tmp_path / "t.parquet", first) as writer:
        writer.add_key_value_metadata({"ARROW:schem@": base64.b64encode(second.serialize()).decode()})
    raw = (tmp_path / "t.parquet").read_bytes()
    (tmp_path / "t.parquet").write_bytes(raw.replace(b"ARROW:schem@", b"ARROW:schema"))
    canary.built = False

    with suppress(UnsafeStoreError):
        assert ParquetAwkward(path=tmp_path / "t.parquet").open(None).columns["x"] == Array("int64")
    assert not canary.built
    pq.read_schema(tmp_path / "t.parquet")
    assert canary.built == last, "Arrow itself builds what the last of them says"


# --- the library's own layout ---------------------------------------------------------------------------

AXES: list[tuple[int | None, ...]] = [
    *((), (3,), (0,), (2, 3), (0, 3), (3, 0), (2, 0, 4), (2, 3, 4), (1, 2, 3, 2)),
    *((None,), (2, None), (None, 33), (None, None), (None, 0), (2, None, 3), (None, 2, None, 2)),
]


def column_of(array: Array, rows: int, rng: np.random.Generator) -> Column:
    """Random rows, the ragged axes from 0 to 3 long."""
    if array.is_string:
        texts = ["", "CCO", "c1ccccc1", "\N{GRINNING FACE}", "e\u0301", "é", "\0", "line\nline"]
        return Ragged.from_strings(texts[int(i)] for i in rng.integers(0, len(texts), rows))
    if array.ragged:
        shapes = [tuple(int(rng.integers(0, 4)) if axis is None else axis for axis in array.shape) for _ in range(rows)]
        if not rows:
            return Ragged(np.empty(0, array.numpy), np.empty((0, len(array.shape)), np.int64))
        return ragged(array.dtype, shapes, rng)
    shape = (rows, *(axis or 0 for axis in array.shape))
    return random_values(array.dtype, int(np.prod(shape)), rng).reshape(shape)


def joined(parts: list[Column]) -> Column:
    if isinstance(parts[0], Ragged):
        return Ragged.concatenate([part for part in parts if isinstance(part, Ragged)])
    return np.concatenate(parts)


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "own.parquet"


def write(path: Path, columns: dict[str, Array], batches: list[Columns], **options: Any) -> None:
    ParquetAwkward(path=path).write(columns, batches, **options)


@pytest.mark.parametrize("axes", AXES, ids=str)
@pytest.mark.parametrize("dtype", NUMBERS)
def test_every_dtype_and_shape_survives_bit_for_bit(path: Path, dtype: str, axes: tuple[int | None, ...]) -> None:
    rng = np.random.default_rng(len(axes))
    array = Array(dtype, axes)
    batches = [{"x": column_of(array, rows, rng)} for rows in (5, 0, 1, 8)]
    write(path, {"x": array}, batches)

    expected = joined([batch["x"] for batch in batches])
    found = read_all(path)["x"]

    assert len(found) == 14
    assert_rows(found, [expected[i] for i in range(14)])


@pytest.mark.parametrize("axes", AXES, ids=str)
@pytest.mark.parametrize("batches", [0, 1])
def test_no_rows_survive_too(path: Path, axes: tuple[int | None, ...], batches: int) -> None:
    array = Array("float32", axes)
    empty = column_of(array, 0, np.random.default_rng(0))
    write(path, {"x": array, "id": Array("str")}, [{"x": empty, "id": Ragged.from_strings([])}] * batches)
    storage = ParquetAwkward(path=path).open(None)
    assert len(storage) == 0
    assert len(storage.columns["x"].shape) == len(axes)
    assert content(storage.read(np.arange(0), ["x"])["x"])[0] == np.float32


def test_strings_survive_whatever_is_in_them(path: Path) -> None:
    texts = ["", "CCO", "\N{GRINNING FACE}", "e\u0301", "é", "\0", "line\nline", "x" * 100_000, ""]
    write(path, {"id": Array("str")}, [{"id": Ragged.from_strings(texts)}])
    assert read_all(path)["id"].strings() == texts


def test_columns_of_several_row_groups_come_back_in_order(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(arrow_rows, "TABLE_BYTES", 1000)
    rng = np.random.default_rng(5)
    columns = {"a": Array("float32", (2, None)), "id": Array("str"), "y": Array("float64"), "z": Array("bool", (3,))}
    batches = [{name: column_of(array, n, rng) for name, array in columns.items()} for n in (1, 300, 0, 2, 2, 90)]
    write(path, columns, batches)

    with pq.ParquetFile(path) as file:
        sizes = [file.metadata.row_group(i).num_rows for i in range(file.num_row_groups)]
    assert len(sizes) > 5 and max(sizes) < 100 and sum(sizes) == 395
    assert list(read_all(path, {"y": Array("float64")})) == ["y"]
    for name, column in read_all(path).items():
        expected = joined([batch[name] for batch in batches])
        assert_rows(column, [expected[i] for i in range(395)])


def test_arrays_and_the_spec_come_back_as_they_were(path: Path) -> None:
    arrays = {
        "idx_train": np.array([5, 0, 3]),
        "idx_test": np.array([], np.int32),
        "mask": np.array([True, False]),
        "weights": np.arange(6, dtype=">f4").reshape(2, 3).T,
    }
    write(path, {"y": Array("float32")}, [{"y": np.arange(6, dtype="f4")}], arrays=arrays, spec='{"name": "é"}')

    storage = ParquetAwkward(path=path).open(None)

    assert storage.spec == '{"name": "é"}'
    assert set(storage.arrays) == set(arrays)
    for name, array in arrays.items():
        found = storage.arrays[name]
        assert found.dtype == array.dtype.newbyteorder("=") and np.array_equal(found, array)


def test_the_same_content_gives_the_same_file_and_other_content_another_identity(tmp_path: Path) -> None:
    backends = [ParquetAwkward(path=tmp_path / f"{i}.parquet") for i in range(3)]
    values = np.random.default_rng(0).integers(0, 256, (100, 64), "u1")
    changed = values.copy()
    changed[50, 30] ^= 1
    for backend, data in zip(backends, (values, values, changed), strict=True):
        backend.write({"x": Array("uint8", (64,))}, [{"x": data}])
    assert backends[0].path.read_bytes() == backends[1].path.read_bytes()
    first, second, third = (backend.open(None).identity for backend in backends)
    assert first == second != third


def test_big_endian_and_strided_batches_are_written_as_their_values(path: Path) -> None:
    values = np.arange(12, dtype=">f8").reshape(3, 4)
    write(path, {"x": Array("float64", (3,))}, [{"x": values.T}])
    assert content(read_all(path)["x"]) == content(np.ascontiguousarray(values.T, "f8"))


def test_a_bool_of_another_byte_is_written_as_true(path: Path) -> None:
    write(path, {"x": Array("bool")}, [{"x": np.array([0, 1, 2, 255], "u1").view(bool)}])
    assert read_all(path)["x"].tobytes() == b"\0\1\1\1"


def test_other_programs_read_the_file(path: Path) -> None:
    pd = pytest.importorskip("pandas")
    columns = {"x": Array("float32", (2, None)), "f": Array("int8", (2, 2)), "id": Array("str"), "y": Array("float64")}
    rng = np.random.default_rng(0)
    data = {name: column_of(array, 7, rng) for name, array in columns.items()}
    write(path, columns, [data])

    frame = pd.read_parquet(path)

    assert frame["id"].tolist() == data["id"].strings()
    for i in range(7):
        row = np.asarray(frame["x"][i], "f4").reshape(frame["x:shape"][i])
        assert (row.shape, row.tobytes()) == (data["x"][i].shape, data["x"][i].tobytes())
        assert np.asarray(frame["f"][i]).tolist() == data["f"][i].reshape(-1).tolist()


@pytest.mark.parametrize("dtype", ["complex64", "complex128"])
def test_a_dtype_that_parquet_cannot_hold_is_refused_before_anything_is_written(path: Path, dtype: str) -> None:
    def batches() -> Iterator[Columns]:
        raise AssertionError("a row was asked for")
        yield {}

    with pytest.raises(UnsupportedStoreError, match=f"'x': {dtype} cannot be stored in an Arrow table; use npz-lazy"):
        ParquetAwkward(path=path).write({"x": Array(dtype)}, batches())
    with pytest.raises(UnsupportedStoreError, match=f"array 'a': {dtype} cannot be stored"):
        ParquetAwkward(path=path).write({"x": Array()}, batches(), arrays={"a": np.zeros(3, dtype)})
    assert not list(path.parent.iterdir())


@pytest.mark.parametrize(
    ("array", "column"),
    [
        (Array("float32"), np.zeros(3)),
        (Array("float32", (2,)), np.zeros((3, 3), "f4")),
        (Array("float32", ("*",)), np.zeros((3, 3), "f4")),
        (Array("float32", (2,)), Ragged(np.zeros(6, "f4"), np.full((3, 1), 2))),
        (Array("float32", (2, "*")), Ragged(np.zeros(6, "f4"), np.full((2, 2), [3, 1]))),
        (Array("float32", ("*",)), Ragged(np.zeros(5, "f4"), np.full((3, 1), 2))),
        (Array("float32", ("*",)), Ragged(np.zeros(2, "f4"), np.array([[4], [-2]]))),
        (Array("str"), Ragged(np.array([0xFF, 0xFE], "u1"), np.array([[1], [1]]))),
        (Array("str"), np.zeros(3, "u1")),
    ],
)
def test_rows_that_are_not_as_announced_are_refused(path: Path, array: Array, column: Column) -> None:
    with pytest.raises(SpecError):
        write(path, {"x": array}, [{"x": column}])
    assert not list(path.parent.iterdir())


def test_columns_of_different_length_or_with_odd_names_are_refused(path: Path) -> None:
    with pytest.raises(SpecError, match="number of rows"):
        write(path, {"x": Array(), "y": Array()}, [{"x": np.zeros(2, "f4"), "y": np.zeros(3, "f4")}])
    with pytest.raises(SpecError, match="column name"):
        write(path, {"x.crc32": Array()}, [])
    with pytest.raises(SpecError, match="no column"):
        write(path, {}, [])
    assert not list(path.parent.iterdir())


def test_an_existing_file_is_replaced_only_if_told_to(path: Path) -> None:
    columns = {"x": Array("int64")}
    write(path, columns, [{"x": np.arange(3)}])
    old = path.read_bytes()
    with pytest.raises(StoreExistsError, match="overwrite=True"):
        write(path, columns, [{"x": np.arange(4)}])
    assert path.read_bytes() == old
    write(path, columns, [{"x": np.arange(4)}], overwrite=True)
    assert read_all(path)["x"].tolist() == [0, 1, 2, 3]
    assert list(path.parent.iterdir()) == [path]


@pytest.mark.parametrize("error", [RuntimeError, KeyboardInterrupt])
def test_batches_that_fail_leave_the_old_file_and_nothing_else(path: Path, error: type[BaseException]) -> None:
    columns = {"x": Array("int64")}
    write(path, columns, [{"x": np.arange(3)}])
    old = path.read_bytes()

    def batches() -> Iterator[Columns]:
        yield {"x": np.arange(5)}
        raise error("in the middle")

    with pytest.raises(error, match="in the middle"):
        ParquetAwkward(path=path).write(columns, batches(), overwrite=True)
    assert path.read_bytes() == old
    assert list(path.parent.iterdir()) == [path]


def test_the_new_file_is_checked_before_it_replaces_the_old_one(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(arrow_rows, "TABLE_BYTES", 1000)
    columns = {"x": Array("int64"), "id": Array("str")}
    data = {"x": np.arange(500), "id": Ragged.from_strings(map(str, range(500)))}
    seen: list[Any] = []

    def check(storage: Storage) -> None:
        assert not isinstance(storage, MemoryStorage), "a file larger than memory could not be checked"
        assert not path.exists()
        seen.append((storage.spec, storage.arrays["a"].tolist()))
        seen.extend(batch["x"] for batch in storage.batches(size=64))

    write(path, columns, [data], arrays={"a": np.arange(3)}, spec="{}", check=check)

    assert seen[0] == ("{}", [0, 1, 2])
    assert np.concatenate(seen[1:]).tolist() == list(range(500))
    assert list(path.parent.iterdir()) == [path]


def test_a_failed_check_leaves_the_old_file_and_nothing_else(path: Path) -> None:
    def refuse(storage: Storage) -> None:
        raise CorruptStoreError("the copy differs")

    columns = {"x": Array("int64")}
    with pytest.raises(CorruptStoreError, match="the copy differs"):
        write(path, columns, [{"x": np.arange(3)}], check=refuse)
    assert not list(path.parent.iterdir())
    write(path, columns, [{"x": np.arange(3)}])
    with pytest.raises(CorruptStoreError, match="the copy differs"):
        write(path, columns, [{"x": np.arange(4)}], overwrite=True, check=refuse)
    assert read_all(path)["x"].tolist() == [0, 1, 2]
    assert list(path.parent.iterdir()) == [path]


# --- damage ---------------------------------------------------------------------------------------------


@pytest.fixture
def own(path: Path) -> Path:
    rng = np.random.default_rng(11)
    columns = {
        "a": Array("float32", (2, None)),
        "f": Array("float16", (2, 2)),
        "b": Array("bool", (None,)),
        "id": Array("str"),
        "none": Array("int8", (0, 3)),
        "y": Array("float64"),
    }
    data = {name: column_of(array, 20, rng) for name, array in columns.items()}
    write(path, columns, [data], arrays={"idx_train": np.arange(9)}, spec='{"format": 1}')
    return path


def everything(path: Path) -> tuple[Any, ...]:
    storage = ParquetAwkward(path=path).open(None)
    found = storage.read(np.arange(len(storage)), list(storage.columns))
    arrays = {name: content(array) for name, array in storage.arrays.items()}
    return {name: content(column) for name, column in found.items()}, arrays, storage.spec, dict(storage.columns)


def assert_noticed(path: Path, raw: bytes, expected: tuple[Any, ...]) -> bool:
    """Opening `raw` raises one of our errors, or gives what it gave before."""
    path.write_bytes(raw)
    try:
        found = everything(path)
    except KinomlDataError as error:
        assert len(str(error)) < 800 and str(error).isprintable()
        return True
    assert found == expected
    return False


def test_a_flipped_bit_is_noticed_or_does_no_harm(own: Path) -> None:
    raw, expected = bytearray(own.read_bytes()), everything(own)
    noticed = 0
    for bit in np.random.default_rng(42).integers(0, 8 * len(raw), 300).tolist():
        raw[bit >> 3] ^= 1 << (bit & 7)
        noticed += assert_noticed(own, raw, expected)
        raw[bit >> 3] ^= 1 << (bit & 7)
    assert noticed > 200


def test_a_truncated_padded_or_overwritten_file_is_noticed_or_does_no_harm(own: Path) -> None:
    raw, expected = own.read_bytes(), everything(own)
    rng = np.random.default_rng(43)
    for end in rng.integers(0, len(raw), 60).tolist():
        assert assert_noticed(own, raw[:end], expected)
    assert assert_noticed(own, raw + b"\0", expected)
    assert assert_noticed(own, b"\0" + raw, expected)
    for start in rng.integers(0, len(raw) - 64, 60).tolist():
        assert_noticed(own, raw[:start] + bytes(64) + raw[start + 64 :], expected)


def rewritten(path: Path, change: Any, metadata: bool = True) -> None:
    """The file as another program writes it back, with the digest of the new footer if its metadata is kept."""
    table = change(pq.read_table(path))
    with pq.ParquetFile(path) as file:
        stored = {k: v for k, v in file.metadata.metadata.items() if k.startswith(b"kinoml_data.")}
    with pq.ParquetWriter(path, table.schema.remove_metadata()) as writer:
        writer.write_table(table)
        if metadata:
            writer.add_key_value_metadata(stored)
    if metadata:
        seal(path)


def test_a_row_that_is_not_what_was_written_is_named_with_both_checksums(own: Path) -> None:
    def change(table: Any) -> Any:
        y = table["y"].to_numpy().copy()
        y[13] += 1
        return table.set_column(table.schema.get_field_index("y"), "y", pa.array(y))

    rewritten(own, change)
    with pytest.raises(
        CorruptStoreError,
        match=r"own\.parquet: column 'y', row 13: its CRC-32 is 0x[0-9a-f]{8}, stored is 0x[0-9a-f]{8}",
    ):
        ParquetAwkward(path=own).open(None)
    assert "id" in read_all(own, {"id": Array("str")})


def test_a_shape_that_is_not_what_was_written_is_named(own: Path) -> None:
    def change(table: Any) -> Any:
        shapes = [[2, 7] if i == 4 else shape for i, shape in enumerate(table["a:shape"].to_pylist())]
        index = table.schema.get_field_index("a:shape")
        return table.set_column(index, "a:shape", pa.array(shapes, pa.list_(pa.int64(), 2)))

    rewritten(own, change)
    with pytest.raises(CorruptStoreError, match=r"column 'a', row 4: its shape \(2, 7\) does not fit"):
        ParquetAwkward(path=own).open(None)


@pytest.mark.parametrize("column", ["a", "a:shape", "y:crc32"])
def test_a_column_that_is_gone_is_named(own: Path, column: str) -> None:
    rewritten(own, lambda table: table.drop_columns([column]))
    with pytest.raises(CorruptStoreError, match=f"column '{column}' is missing"):
        ParquetAwkward(path=own).open(None)


def test_a_row_in_the_place_of_another_is_named(own: Path) -> None:
    def change(table: Any) -> Any:
        return table.take([0, 2, 1, *range(3, 20)])

    rewritten(own, change)
    with pytest.raises(CorruptStoreError, match=r"column '\w+', row 1: its CRC-32"):
        ParquetAwkward(path=own).open(None)


def test_rows_with_checksums_of_their_own_are_not_taken_for_those_that_were_written(own: Path, tmp_path: Path) -> None:
    other = tmp_path / "other.parquet"
    write(other, {"y": Array("float64")}, [{"y": np.arange(20.0)}])

    def change(table: Any) -> Any:
        for name in ("y", "y:crc32"):
            table = table.set_column(table.schema.get_field_index(name), name, pq.read_table(other)[name])
        return table

    rewritten(own, change)
    with pytest.raises(CorruptStoreError, match="column 'y', rows 0 to 19: their checksums are not those"):
        ParquetAwkward(path=own).open(None)


def test_a_file_that_lost_its_metadata_is_not_taken_for_another_one(own: Path) -> None:
    rewritten(own, lambda table: table, metadata=False)
    with pytest.raises(CorruptStoreError, match="its metadata is not what was written"):
        ParquetAwkward(path=own).open(None)


def test_a_file_that_another_program_rewrote_is_not_taken_for_ours(own: Path) -> None:
    with pq.ParquetFile(own) as file:
        table = file.read()
    assert b"kinoml_data.format" in table.schema.metadata
    for again in (table, table.slice(3), table.replace_schema_metadata(None)):
        pq.write_table(again, own)
        with pytest.raises(CorruptStoreError, match=r"another program (rewrote|changed) it"):
            ParquetAwkward(path=own).open(None)


def test_a_later_version_of_the_layout_is_not_supported(own: Path) -> None:
    raw = own.read_bytes()
    at = raw.index(b"kinoml_data.format") + len(b"kinoml_data.format")
    at = raw.index(b"1", at)
    own.write_bytes(raw[:at] + b"2" + raw[at + 1 :])
    with pytest.raises(UnsupportedStoreError, match="has version '2' of the layout"):
        ParquetAwkward(path=own).open(None)
