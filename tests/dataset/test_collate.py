"""From stored columns to tensors: the five collate forms, and the casts between what is stored and what comes out."""

import numpy as np
import pytest
import torch
from torch.utils.data import ConcatDataset, DataLoader, Subset, default_collate
from torch.utils.data._utils.pin_memory import pin_memory

import kinoml_data as kd
from kinoml_data import Packed, PadMask
from kinoml_data.errors import SpecError
from kinoml_data.spec.parts import CollateForm
from tests.builders import FORMS
from tests.dataset.tensors import assert_form, assert_same, filled, load

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


def test_y_is_none_if_the_spec_has_no_y():
    dataset = kd.from_arrays([filled((n,)) for n in (1, 0, 3)])
    assert dataset[0][1] is None and dataset[:][1] is None and next(iter(dataset.as_dataloader()))[1] is None


def test_a_whole_ragged_column_comes_in_its_form(graphs):
    dataset, edges, atoms, fixed, _ = graphs
    assert_form(dataset.column("edges"), "list", edges, "int64", (2, None))
    assert_form(dataset.select([2, 1]).column("atoms"), "list", [atoms[2], atoms[1]], "float32", (None, 4))
    assert_same(dataset.column("fixed"), fixed)
    packed = kd.load_dataset(dataset.spec, data=data_of(graphs), collate="packed")
    assert_form(packed.column("atoms"), "packed", atoms, "float32", (None, 4))


# -- forms that are refused


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
    ({"a": {"value": 0}}, "collate.a.form: this key is missing"),
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
def test_an_invalid_form_is_refused_with_a_suggestion(collate, said):
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


@pytest.mark.parametrize("workers", [0, 1])
def test_a_loader_without_batches_gives_each_sample_as_it_is(workers):
    dataset = kd.from_arrays(np.arange(4.0).reshape(2, 2), 10 + np.arange(4.0).reshape(2, 2))
    found = list(dataset.as_dataloader(batch_size=None, num_workers=workers))
    assert [(X.tolist(), y.tolist()) for X, y in found] == [([0, 1], [10, 11]), ([2, 3], [12, 13])]
    batches = list(dataset.as_dataloader(batch_size=None, sampler=[[1, 0], [0]], num_workers=workers))
    assert [X.tolist() for X, _ in batches] == [[[2, 3], [0, 1]], [[0, 1]]]


@pytest.mark.parametrize("dtype", ["uint64", "uint16", "bool", "float16", "int8"])
def test_a_subset_in_a_plain_loader_has_numbers_of_every_dtype(dtype):
    values = np.array([1, 0, 1]).astype(dtype)
    subset = Subset(kd.from_arrays(values), [2, 1])
    ((X, _),) = DataLoader(subset, batch_size=2, collate_fn=kd.from_arrays(values).collate_fn)
    assert X.numpy().dtype == dtype and X.tolist() == [1, 0]


def test_a_form_of_the_whole_batch_is_not_that_of_meta():
    columns = {
        "X": {"dtype": "float32", "shape": ["*"]},
        "pairs": {"dtype": "float32", "shape": ["*", "*"]},
        "ids": {"dtype": "int64", "shape": ["*"]},
    }
    spec = {"columns": columns, "X": "X", "meta": ["pairs", "ids"], "storage": {"backend": "in-memory"}}
    data = {
        "X": [np.ones(1, np.float32), np.ones(2, np.float32)],
        "pairs": [np.ones((1, 2), np.float32), np.ones((2, 3), np.float32)],
        "ids": [np.arange(2), np.arange(1)],
    }
    for form in ("nested", "pad", "packed"):
        dataset = kd.load_dataset(spec, data=data, collate=form)
        assert [tuple(row.shape) for row in dataset.column("pairs")] == [(1, 2), (2, 3)]
        assert [row.tolist() for row in dataset.column("ids")] == [[0, 1], [0]]
    padded = kd.load_dataset(spec, data=data, collate={"ids": {"form": "pad", "value": -1}})
    assert padded.column("ids").tolist() == [[0, 1], [0, -1]]
