"""From stored columns to tensors: the five collate forms, and the casts between what is stored and what comes out."""

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch.utils.data import ConcatDataset, DataLoader, Subset, default_collate
from torch.utils.data._utils.pin_memory import pin_memory

import kinoml_data as kd
from kinoml_data import Packed, PadMask
from kinoml_data.errors import SpecError
from kinoml_data.spec.parts import CollateForm
from tests.builders import FORMS, padded

NUMBERS = [
    *("bool", "uint8", "uint16", "uint32", "uint64", "int8", "int16", "int32", "int64"),
    *("float16", "float32", "float64", "complex64", "complex128"),
]


def filled(shape, dtype="float32", start=1):
    """Values that are all different, and none of them 0 (but for bool)."""
    values = np.arange(start, start + int(np.prod(shape))).reshape(shape)
    return (values % 2 if dtype == "bool" else values).astype(dtype)


def load(rows, shape, collate=None, dtype="float32", **more):
    """A dataset of one ragged (or fixed) column `a` as X."""
    spec = {
        "columns": {"a": {"dtype": dtype, "shape": list(shape)}},
        "X": "a",
        "storage": {"backend": "in-memory"},
    }
    return kd.load_dataset(spec | more, data={"a": rows}, collate=collate)


def assert_same(tensor, array):
    assert isinstance(tensor, torch.Tensor) and tensor.layout is torch.strided
    array = np.asarray(array)
    assert tensor.dtype == torch.from_numpy(np.empty(0, array.dtype)).dtype
    assert tuple(tensor.shape) == array.shape
    assert tensor.numpy().tobytes() == np.ascontiguousarray(array).tobytes()
    assert tensor.is_contiguous() and not tensor.requires_grad and tensor.device.type == "cpu"


def assert_form(found, form, rows, dtype, shape, value=0):
    """`found` is what `form` makes of these rows."""
    if form == "list":
        assert type(found) is list and len(found) == len(rows)
        for tensor, row in zip(found, rows, strict=True):
            assert_same(tensor, row)
    elif form == "pad":
        assert_same(found, padded(rows, dtype, shape, value)[0])
    elif form == "pad-mask":
        assert type(found) is PadMask
        for tensor, array in zip(found, padded(rows, dtype, shape, value), strict=True):
            assert_same(tensor, array)
    elif form == "packed":
        assert type(found) is Packed
        flat = [row.reshape(-1) for row in rows]
        assert_same(found.values, np.concatenate(flat) if flat else np.empty(0, dtype))
        assert_same(found.offsets, np.cumsum([0, *(row.size for row in rows)]).astype(np.int64))
        assert_same(found.shapes, np.array([row.shape for row in rows], np.int64).reshape(len(rows), len(shape)))
    else:
        assert form == "nested" and found.is_nested and found.layout is torch.jagged
        assert found.size(0) == len(rows) and found.dim() == len(shape) + 1 and not found.requires_grad
        for axis, length in enumerate(shape):
            assert length is None or found.size(axis + 1) == length
        assert found.dtype == torch.from_numpy(np.empty(0, dtype)).dtype
        lengths = [row.shape[shape.index(None)] for row in rows]
        assert found.offsets().tolist() == np.cumsum([0, *lengths]).tolist()
        if rows:
            for tensor, row in zip(found.unbind(), rows, strict=True):
                assert_same(tensor.contiguous(), row)


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


# -- which column takes which form


@pytest.fixture
def graphs():
    edges = [filled((2, n), "int64") for n in (3, 0, 1)]
    atoms = [filled((n, 4)) for n in (2, 1, 3)]
    fixed = filled((3, 5))
    y = np.array([1.0, 2.0, 3.0])
    return kd.from_arrays({"edges": edges, "atoms": atoms, "fixed": fixed}, y), edges, atoms, fixed, y


def test_several_columns_are_a_mapping_in_the_order_of_the_spec(graphs):
    dataset, edges, atoms, fixed, y = graphs
    X, found_y = dataset[[2, 0]]
    assert type(X) is dict and list(X) == ["edges", "atoms", "fixed"]
    assert_form(X["edges"], "list", [edges[2], edges[0]], "int64", (2, None))
    assert_form(X["atoms"], "list", [atoms[2], atoms[0]], "float32", (None, 4))
    assert_same(X["fixed"], fixed[[2, 0]])
    assert_same(found_y, y[[2, 0]])
    sample, one = dataset[1]
    assert list(sample) == ["edges", "atoms", "fixed"]
    assert_same(sample["edges"], edges[1])
    assert_same(one, y[1])


def test_each_column_may_have_its_own_form(graphs):
    dataset, edges, atoms, fixed, _ = graphs
    collate = {"edges": {"form": "pad", "value": -1}, "atoms": "packed", "fixed": "nested"}
    loader = dataset.as_dataloader(batch_size=3, collate=collate)
    for X, _ in (next(iter(loader)), kd.load_dataset(dataset.spec, data=data_of(graphs), collate=collate)[:]):
        assert_form(X["edges"], "pad", edges, "int64", (2, None), -1)
        assert_form(X["atoms"], "packed", atoms, "float32", (None, 4))
        assert_same(X["fixed"], fixed)


def data_of(graphs):
    _, edges, atoms, fixed, y = graphs
    return {"edges": edges, "atoms": atoms, "fixed": fixed, "y": y}


def test_a_column_without_a_form_of_its_own_is_a_list(graphs):
    dataset = graphs[0]
    X, _ = next(iter(dataset.as_dataloader(batch_size=3, collate={"atoms": "packed"})))
    assert type(X["edges"]) is list and type(X["atoms"]) is Packed


def test_the_form_given_goes_before_that_of_the_spec():
    rows = [filled((n,)) for n in (1, 2)]
    spec = {
        "columns": {"a": {"dtype": "float32", "shape": ["*"]}},
        "X": "a",
        "storage": {"backend": "in-memory"},
        "collate": "packed",
    }
    dataset = kd.load_dataset(spec, data={"a": rows})
    assert type(dataset[:][0]) is Packed
    assert type(kd.load_dataset(spec, data={"a": rows}, collate="pad-mask")[:][0]) is PadMask
    assert type(next(iter(dataset.as_dataloader(batch_size=2, collate="list")))[0]) is list
    assert type(next(iter(dataset.as_dataloader(batch_size=2)))[0]) is Packed
    assert type(kd.load_dataset(spec | {"collate": {"a": "list"}}, data={"a": rows})[:][0]) is list
    assert dataset.spec.collate == "packed"


@pytest.mark.parametrize("form", FORMS)
def test_a_ragged_y_and_several_y_take_forms_too(form):
    rows = [filled((n,)) for n in (1, 0, 3)]
    dataset = kd.from_arrays(np.zeros((3, 2)), {"r": rows, "s": np.arange(3.0)})
    _, y = next(iter(dataset.as_dataloader(batch_size=3, collate=form)))
    assert list(y) == ["r", "s"]
    assert_form(y["r"], form, rows, "float32", (None,))
    assert_same(y["s"], np.arange(3.0))


def test_without_y_it_is_none():
    dataset = kd.from_arrays([filled((n,)) for n in (1, 0, 3)])
    assert dataset[0][1] is None and dataset[:][1] is None and next(iter(dataset.as_dataloader()))[1] is None


def test_a_whole_ragged_column_comes_in_its_form(graphs):
    dataset, edges, atoms, fixed, _ = graphs
    assert_form(dataset.column("edges"), "list", edges, "int64", (2, None))
    assert_form(dataset.select([2, 1]).column("atoms"), "list", [atoms[2], atoms[1]], "float32", (None, 4))
    assert_same(dataset.column("fixed"), fixed)
    packed = kd.load_dataset(dataset.spec, data=data_of(graphs), collate="packed")
    assert_form(packed.column("atoms"), "packed", atoms, "float32", (None, 4))


# -- padding values


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


@pytest.mark.parametrize(
    "given_form",
    [
        CollateForm(form="pad", value=-1.0),
        {"a": CollateForm(form="pad", value=-1.0)},
        {"a": {"form": "pad", "value": -1}},
    ],
)
def test_a_form_may_be_given_as_an_object(given_form):
    rows = [filled((n,)) for n in (2, 0)]
    assert_form(load(rows, (None,), given_form)[:][0], "pad", rows, "float32", (None,), -1)


@pytest.mark.parametrize("dtype", ["int8", "int64", "uint8", "uint64"])
def test_padding_integers_needs_a_value_as_0_may_be_one(dtype):
    rows = [filled((n,), dtype) for n in (2, 0)]
    with pytest.raises(SpecError, match=r"collate\.a: padding integers needs a value.*\{form: pad, value: -1\}"):
        load(rows, (None,), "pad", dtype)
    assert_form(load(rows, (None,), "pad-mask", dtype)[:][0], "pad-mask", rows, dtype, (None,))


WRONG_VALUES = [
    *(("int64", 0.0), ("int64", 0.5), ("int64", 2**63), ("int64", -(2**63) - 1), ("uint8", 256), ("uint8", -1)),
    *(("int8", 128), ("uint64", 2**64), ("bool", 2), ("bool", 0.5), ("bool", -1), ("float16", 65520.0)),
    *(("float16", 10**6), ("float32", 1e39), ("float32", 2**200), ("float64", 10**400), ("complex64", 1e39)),
]


@pytest.mark.parametrize(("dtype", "value"), WRONG_VALUES, ids=lambda v: str(v)[:25])
@pytest.mark.parametrize("form", ["pad", "pad-mask"])
def test_a_padding_value_the_dtype_cannot_hold_is_refused(dtype, value, form):
    rows = [filled((n,), dtype) for n in (2, 0)]
    with pytest.raises(SpecError, match=rf"collate\.a: the padding value .* does not fit {dtype}"):
        load(rows, (None,), {"a": {"form": form, "value": value}}, dtype)


@pytest.mark.parametrize("form", ["list", "packed", "nested"])
def test_a_form_that_pads_nothing_takes_no_value(form):
    with pytest.raises(SpecError, match=f"collate.a: the form {form} does not take a value"):
        load([filled((2,))], (None,), {"a": {"form": form, "value": 0}})


WRONG_FORMS = [
    ("padd", "collate.a: unknown form 'padd'; did you mean 'pad'"),
    ("padmask", "did you mean 'pad-mask'"),
    ("stack", "unknown form 'stack'; known: list, pad, pad-mask, packed, nested"),
    ("", "unknown form ''"),
    ({"a": "paked"}, "collate.a: unknown form 'paked'; did you mean 'packed'"),
    ({"a": None}, "collate.a: unknown form None"),
    ({"a": 5}, "collate.a: unknown form 5"),
    ({"a": ["pad"]}, r"collate.a: unknown form \['pad'\]"),
    ({"b": "pad"}, "collate: unknown column 'b'; known: a"),
    ({"a": {"form": "pad", "vlaue": 0}}, "collate.a: unknown key 'vlaue'; did you mean 'value'"),
    ({"a": {"value": 0}}, "collate.a.form: Field required"),
    ({"a": {"form": 5}}, "collate.a.form"),
    ({"a": {"form": "pad", "value": "0"}}, "collate.a.value"),
    ({"a": {"form": "pad", "value": True}}, "collate.a.value"),
    ({"a": {"form": "pad", "value": float("nan")}}, "collate.a.value"),
    ({"a": {"form": "pad", "value": float("inf")}}, "collate.a.value"),
    (5, "collate: 5 is neither a form nor a mapping of columns to forms"),
    (["pad"], "is neither a form nor a mapping"),
    (True, "is neither a form"),
]


@pytest.mark.parametrize(("collate", "said"), WRONG_FORMS, ids=lambda v: str(v)[:30])
def test_what_is_no_form_is_refused_with_a_suggestion(collate, said):
    with pytest.raises(SpecError, match=said):
        load([filled((2,))], (None,), collate)
    with pytest.raises(SpecError, match=said):
        load([filled((2,))], (None,)).as_dataloader(collate=collate)


def test_an_unknown_form_in_the_spec_is_refused_when_it_opens():
    with pytest.raises(SpecError, match=r"collate\.a: unknown form 'padd'"):
        kd.load_dataset(
            {"columns": {"a": {"shape": ["*"]}}, "X": "a", "storage": {"backend": "in-memory"}, "collate": "padd"},
            data={"a": [filled((1,))]},
        )


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


# -- what a tensor is made of


def tensors_of(part):
    if isinstance(part, torch.Tensor):
        return [part.values() if part.is_nested else part]
    if isinstance(part, dict):
        return [t for item in part.values() for t in tensors_of(item)]
    return [t for item in part for t in tensors_of(item)] if part is not None else []


BACKENDS = {"in-memory": lambda path: path, "npz-lazy": lambda path: path, "npz-reopen": lambda path: path}


@pytest.mark.parametrize("backend", BACKENDS)
@pytest.mark.parametrize("form", FORMS)
def test_a_batch_owns_its_memory_and_shares_none_with_the_store(tmp_path, backend, form):
    rows, fixed = [filled((2, n)) for n in (2, 0, 3)], filled((3, 4))
    kd.save_dataset(kd.from_arrays({"r": rows, "f": fixed}, np.arange(3.0)), tmp_path / "x.npz")
    with kd.load_dataset(tmp_path / "x.npz", backend=backend, collate=form) as dataset:
        for index in ([0, 1, 2], [2, 2], [1]):
            for tensor in tensors_of(dataset[index]):
                assert tensor.is_contiguous() and not tensor.requires_grad and tensor.is_leaf
                tensor.fill_(77) if tensor.numel() else None
        for i in range(3):
            for tensor in tensors_of(dataset[i]):
                tensor.fill_(77)
        for tensor in (*tensors_of(dataset.column("r")), dataset.column("f")):
            tensor.fill_(77)
        X, y = dataset[:]
        assert_form(X["r"], form, rows, "float32", (2, None))
        assert_same(X["f"], fixed)
        assert_same(y, np.arange(3.0))


@pytest.mark.parametrize("index", [[0, 0], slice(0, 2), [1, 0]], ids=str)
def test_rows_of_a_batch_do_not_share_memory_with_each_other(index):
    rows = [filled((3,)), filled((3,), start=50)]
    found = load(rows, (None,), "list")[index][0]
    before = found[1].clone()
    found[0].zero_()
    assert torch.equal(found[1], before)


def test_a_row_as_a_tensor_can_be_changed_and_learned_from():
    X, y = kd.from_arrays(filled((4, 3)), np.arange(4, dtype=np.float32))[:]
    X.requires_grad_(True)
    ((X.sum(dim=1) - y) ** 2).sum().backward()
    assert X.grad.shape == (4, 3)


@pytest.mark.parametrize("form", FORMS)
def test_pinning_reaches_every_tensor_and_keeps_the_form(monkeypatch, form):
    rows = [filled((2, n)) for n in (2, 0, 3)]
    dataset = kd.from_arrays({"r": rows, "f": filled((3, 4))}, np.arange(3.0))
    batch = next(iter(dataset.as_dataloader(batch_size=3, collate=form)))
    pinned = []
    monkeypatch.setattr(torch.Tensor, "pin_memory", lambda self, *_: (pinned.append(id(self)), self)[1])
    X, y = pin_memory(batch)
    expected = tensors_of(batch) if form != "nested" else [batch[0]["r"], batch[0]["f"], batch[1]]
    assert set(map(id, expected)) <= set(pinned)
    assert type(X) is dict
    assert_form(X["r"], form, rows, "float32", (2, None))
    assert_same(y, np.arange(3.0))


@pytest.mark.parametrize("form", FORMS)
def test_torchs_own_loader_collates_the_same_without_being_told(form):
    rows = [filled((2, n)) for n in (2, 0, 3, 1)]
    dataset = load(rows, (2, None), form)
    assert_form(next(iter(DataLoader(dataset, batch_size=4)))[0], form, rows, "float32", (2, None))
    subset = Subset(dataset, [3, 1])
    assert_form(next(iter(DataLoader(subset, batch_size=2)))[0], form, [rows[3], rows[1]], "float32", (2, None))
    both = ConcatDataset([dataset.select([0, 1]), dataset.select([2, 3])])
    assert_form(next(iter(DataLoader(both, batch_size=4)))[0], form, rows, "float32", (2, None))
    assert_form(default_collate([dataset[1], dataset[2]])[0], form, rows[1:3], "float32", (2, None))
    assert_same(next(iter(DataLoader(dataset, batch_size=None)))[0], rows[0])


def test_samples_unpack_compare_and_pickle_as_pairs():
    import pickle

    dataset = kd.from_arrays([filled((n,)) for n in (1, 2)], np.arange(2.0))
    sample = dataset[1]
    X, y = sample
    assert isinstance(sample, tuple) and len(sample) == 2 and sample[0] is X and sample[1] is y
    again = pickle.loads(pickle.dumps(sample))
    assert type(again) is tuple and torch.equal(again[0], X) and torch.equal(again[1], y)


def test_a_packed_batch_can_be_taken_apart_again():
    rows = [filled((n, 2)) for n in (2, 0, 3)]
    values, offsets, shapes = load(rows, (None, 2), "packed")[:][0]
    for i, row in enumerate(rows):
        assert_same(values[offsets[i] : offsets[i + 1]].reshape(tuple(shapes[i])), row)


ragged_rows = st.lists(st.tuples(st.integers(0, 4), st.integers(0, 3)), max_size=6)


@settings(max_examples=100, deadline=None)
@given(ragged_rows, st.sampled_from(["list", "pad", "pad-mask", "packed"]), st.data())
def test_any_batch_of_any_rows_is_what_a_loop_would_make(sizes, form, data):
    rows = [filled(size, start=1 + 100 * i) for i, size in enumerate(sizes)]
    chosen = data.draw(st.lists(st.integers(0, len(rows) - 1), max_size=6)) if rows else []
    dataset = load(rows, (None, None), form)
    assert_form(dataset[chosen][0], form, [rows[i] for i in chosen], "float32", (None, None))


def test_the_rows_of_a_ragged_column_are_counted_from_the_end_too():
    rows = [filled((n, 2)) for n in (2, 0, 3)]
    ragged = kd.Ragged.from_rows(rows, np.float32, 2)
    for i in range(-3, 3):
        assert ragged[i].shape == rows[i].shape and ragged[i].tobytes() == rows[i].tobytes()
    assert [row.shape for row in ragged] == [row.shape for row in rows]
    for i in (3, -4):
        with pytest.raises(IndexError):
            ragged[i]


# -- what is stored and what comes out


def cast(values, dtype, how="same_kind", **more):
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


@pytest.mark.parametrize(
    ("stored", "wanted"), [(a, b) for a in NUMBERS for b in NUMBERS if a != b and fits(a, b)], ids=str
)
def test_a_smaller_type_may_be_stored(stored, wanted):
    values = filled((4, 3), stored)
    assert_same(cast(values, wanted, "safe"), values.astype(wanted))
    rows = [filled((n,), stored) for n in (2, 0, 3)]
    found = cast(rows, wanted, "safe")
    for tensor, row in zip(found, rows, strict=True):
        assert_same(tensor, row.astype(wanted))


@pytest.mark.parametrize(
    ("stored", "wanted"),
    [(a, b) for a in NUMBERS for b in NUMBERS if not np.can_cast(a, b, "safe")],
    ids=str,
)
def test_anything_else_needs_same_kind_or_is_refused(stored, wanted):
    values = filled((4,), stored)
    with pytest.raises(SpecError, match=f"columns.a: the store has {stored}, but the spec asks for {wanted}") as caught:
        cast(values, wanted, "safe")
    allowed = np.can_cast(stored, wanted, "same_kind")
    assert ("`cast: same_kind` allows this" in str(caught.value)) == allowed
    if allowed:
        assert_same(cast(values, wanted), values.astype(wanted))
    else:
        with pytest.raises(SpecError, match="but the spec asks for"):
            cast(values, wanted)


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
def test_dtype_changes_what_comes_out_in_one_line(dtype, a, n, y):
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
        ({"a": "int64"}, "the store has float64, but the spec asks for int64"),
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
    "far from any": ({"zzz": {}}, "columns.zzz: unknown stored column 'zzz'; known: atms, grid, text"),
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
    "dtype": ({"atms": {"dtype": "int64"}}, "the store has float32, but the spec asks for int64"),
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


def test_all_misfits_are_said_at_once():
    spec = {
        "columns": {"a": {"dtype": "int64"}, "b": {"shape": [3]}, "c": {}},
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
            "b": {"dtype": "float32", "stored_as": "q", "cast": "same_kind"},
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
