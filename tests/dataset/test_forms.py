"""The collate forms of a ragged column: every shape and dtype, and the values of padding."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

import kinoml_data as kd
from kinoml_data.errors import SpecError
from tests.builders import FORMS
from tests.dataset.tensors import NUMBERS, assert_form, assert_same, filled, load

SHAPES = {
    "one-hot (53, L)": ((53, None), [(53, 2), (53, 0), (53, 5), (53, 1)]),
    "edges (2, E)": ((2, None), [(2, 3), (2, 1), (2, 0)]),
    "atoms (N, F)": ((None, 33), [(2, 33), (0, 33), (7, 33)]),
    "sequence (L,)": ((None,), [(2,), (0,), (0,), (3,)]),
    "maps (4, N, 3)": ((4, None, 3), [(4, 2, 3), (4, 0, 3), (4, 1, 3)]),
    "frames (T, 2, 3)": ((None, 2, 3), [(2, 2, 3), (1, 2, 3)]),
    "tail (2, 3, L)": ((2, 3, None), [(2, 3, 4), (2, 3, 0)]),
    "no features (N, 0)": ((None, 0), [(2, 0), (0, 0)]),
    "no channels (0, L)": ((0, None), [(0, 2), (0, 3)]),
    "all alike (N, 2)": ((None, 2), [(3, 2), (3, 2)]),
    "all empty (L,)": ((None,), [(0,), (0,)]),
    "all empty (3, L)": ((3, None), [(3, 0), (3, 0)]),
    "one row (2, E)": ((2, None), [(2, 4)]),
    "one empty row (N, 2)": ((None, 2), [(0, 2)]),
    "distances (L, L)": ((None, None), [(2, 2), (0, 0), (4, 4)]),
    "two ragged axes (A, 3, B)": ((None, 3, None), [(2, 3, 1), (1, 3, 5), (0, 3, 2)]),
}

CASES = [
    pytest.param(shape, sizes, form, id=f"{name} {form}")
    for name, (shape, sizes) in SHAPES.items()
    for form in FORMS
    if form != "nested" or shape.count(None) == 1
]


@pytest.mark.parametrize(("shape", "sizes", "form"), CASES)
def test_every_form_of_every_shape_is_what_a_loop_would_make(shape, sizes, form):
    rows = [filled(size, start=1 + 1000 * i) for i, size in enumerate(sizes)]
    dataset = load(rows, shape, form)
    chosen = [*range(len(rows)), 0, len(rows) - 1]
    assert_form(dataset[chosen][0], form, [rows[i] for i in chosen], "float32", shape)
    assert_form(dataset[:][0], form, rows, "float32", shape)
    assert_form(dataset[[0]][0], form, rows[:1], "float32", shape)
    assert_form(dataset[[]][0], form, [], "float32", shape)


@pytest.mark.parametrize(("shape", "sizes", "form"), CASES)
def test_a_list_of_samples_collates_as_the_batch_does(shape, sizes, form):
    rows = [filled(size, start=1 + 1000 * i) for i, size in enumerate(sizes)]
    dataset = load(rows, shape, form)
    assert_form(dataset.collate_fn([dataset[i] for i in range(len(rows))])[0], form, rows, "float32", shape)
    assert_form(dataset.collate_fn([dataset[-1]])[0], form, rows[-1:], "float32", shape)
    assert_form(dataset.collate_fn([])[0], form, [], "float32", shape)


@pytest.mark.parametrize(("shape", "sizes"), SHAPES.values(), ids=SHAPES)
def test_a_sample_is_a_plain_tensor_whatever_the_form(shape, sizes):
    rows = [filled(size, start=1 + 1000 * i) for i, size in enumerate(sizes)]
    for form in FORMS:
        if form == "nested" and shape.count(None) != 1:
            continue
        dataset = load(rows, shape, form)
        for i, row in enumerate(rows):
            assert_same(dataset[i][0], row)
            assert_same(dataset[i - len(rows)][0], row)


@pytest.mark.parametrize(("shape", "sizes"), SHAPES.values(), ids=SHAPES)
def test_a_dataset_without_rows_gives_every_form_of_no_rows(shape, sizes):
    for form in FORMS:
        if form == "nested" and shape.count(None) != 1:
            continue
        dataset = load([], shape, form)
        assert len(dataset) == 0
        assert_form(dataset[:][0], form, [], "float32", shape)


@pytest.mark.parametrize("dtype", NUMBERS)
@pytest.mark.parametrize("form", FORMS)
def test_every_dtype_comes_out_as_it_is(dtype, form):
    rows = [filled((n, 2), dtype) for n in (2, 0, 3)]
    collate = {"a": {"form": form, "value": 0}} if form == "pad" else form
    dataset = load(rows, (None, 2), collate, dtype)
    assert_form(dataset[:][0], form, rows, dtype, (None, 2))
    assert_form(dataset.collate_fn([dataset[i] for i in range(3)])[0], form, rows, dtype, (None, 2))


@pytest.mark.parametrize("dtype", NUMBERS)
def test_the_extremes_of_every_dtype_survive(dtype):
    kind = np.dtype(dtype).kind
    if kind in "iu":
        extremes = [np.iinfo(dtype).min, 0, np.iinfo(dtype).max]
    elif kind == "b":
        extremes = [False, True]
    else:
        info = np.finfo(dtype)
        extremes = [0.0, -0.0, info.max, info.min, info.smallest_subnormal, np.inf, -np.inf, np.nan, -np.nan]
    rows = [np.array(extremes, dtype), np.array(extremes[:1], dtype)]
    assert_form(load(rows, (None,), "list", dtype)[:][0], "list", rows, dtype, (None,))
    assert_form(load(rows, (None,), "packed", dtype)[:][0], "packed", rows, dtype, (None,))
    fixed = np.array(extremes, dtype)
    assert_same(load(fixed, (), None, dtype)[:][0], fixed)


@pytest.mark.parametrize("shape", [(), (3,), (2, 3), (0,), (2, 0, 3)], ids=str)
@pytest.mark.parametrize("form", FORMS)
def test_a_fixed_column_always_stacks(shape, form):
    rows = filled((5, *shape))
    dataset = load(rows, shape, form)
    assert_same(dataset[:][0], rows)
    assert_same(dataset[[4, 4, 0]][0], rows[[4, 4, 0]])
    assert_same(dataset[[]][0], rows[:0])
    assert_same(dataset.collate_fn([dataset[i] for i in range(5)])[0], rows)
    assert_same(dataset.collate_fn([])[0], rows[:0])
    assert_same(dataset[2][0], rows[2])


@pytest.mark.parametrize(
    ("dtype", "value"),
    [
        ("float32", 0.5),
        ("float32", -1),
        ("float32", 2**70),
        ("float32", float(np.finfo("float32").max)),
        ("float16", 65504.0),
        ("float64", 1e300),
        ("complex64", 2.5),
        ("int64", -1),
        ("int64", 2**63 - 1),
        ("int64", -(2**63)),
        ("uint64", 2**64 - 1),
        ("uint8", 255),
        ("int8", -128),
        ("bool", 1),
        ("bool", 0),
    ],
)
@pytest.mark.parametrize("form", ["pad", "pad-mask"])
def test_padding_has_the_value_given(dtype, value, form):
    rows = [filled((n,), dtype) for n in (2, 0, 3)]
    dataset = load(rows, (None,), {"a": {"form": form, "value": value}}, dtype)
    assert_form(dataset[:][0], form, rows, dtype, (None,), value)


@pytest.mark.parametrize("dtype", ["int8", "int64", "uint8", "uint64"])
def test_padding_integers_needs_a_value_as_0_may_be_one(dtype):
    rows = [filled((n,), dtype) for n in (2, 0)]
    with pytest.raises(SpecError, match=r"collate\.a: padding integers needs a value.*\{form: pad, value: -1\}"):
        load(rows, (None,), "pad", dtype)
    assert_form(load(rows, (None,), "pad-mask", dtype)[:][0], "pad-mask", rows, dtype, (None,))


@pytest.mark.parametrize("shape", [(None, None), (None, 3, None), (None, None, None)], ids=str)
def test_nested_holds_one_ragged_axis_only(shape):
    rows = [filled(tuple(n or 3 for n in shape)), filled(tuple(4 if n is None else n for n in shape))]
    count = shape.count(None)
    with pytest.raises(SpecError, match=f"collate.a: the form nested needs exactly one ragged axis; 'a' has {count}"):
        load(rows, shape, "nested")
    with pytest.raises(SpecError, match="nested needs exactly one ragged axis"):
        load(rows, shape, {"a": "nested"})
    # A column that is neither X nor y is nobody's batch.
    spec = {
        "columns": {"a": {"shape": ["*" if n is None else n for n in shape]}, "b": {}},
        "X": "b",
        "meta": ["a"],
        "storage": {"backend": "in-memory"},
    }
    assert len(kd.load_dataset(spec, data={"a": rows, "b": np.zeros(2, np.float32)}, collate="nested")) == 2


def test_a_packed_batch_can_be_taken_apart_again():
    rows = [filled((n, 2)) for n in (2, 0, 3)]
    values, offsets, shapes = load(rows, (None, 2), "packed")[:][0]
    for i, row in enumerate(rows):
        assert_same(values[offsets[i] : offsets[i + 1]].reshape(tuple(shapes[i])), row)


ragged_rows = st.lists(st.tuples(st.integers(0, 4), st.integers(0, 3)), max_size=6)


@given(ragged_rows, st.sampled_from(["list", "pad", "pad-mask", "packed"]), st.data())
def test_any_batch_of_any_rows_is_what_a_loop_would_make(sizes, form, data):
    rows = [filled(size, start=1 + 100 * i) for i, size in enumerate(sizes)]
    chosen = data.draw(st.lists(st.integers(0, len(rows) - 1), max_size=6)) if rows else []
    dataset = load(rows, (None, None), form)
    assert_form(dataset[chosen][0], form, [rows[i] for i in chosen], "float32", (None, None))
