"""Columns of different values, datasets of one column, and what a collate form makes of rows."""

import numpy as np
import torch

import kinoml_data as kd
from kinoml_data import Packed, PadMask
from tests.builders import padded

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
