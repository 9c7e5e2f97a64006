"""Arrow's tensors of one shape, compared with the description of the format and with Arrow itself."""

from __future__ import annotations

import itertools
import json

import numpy as np
import pyarrow as pa
import pytest

from kinoml_data.backends.parquet.tensors import METADATA, Tensor
from kinoml_data.errors import CorruptStoreError
from kinoml_data.layouts.arrow import rows_of

STORED = pa.large_list(pa.int16())


def described(text: str) -> pa.Field:
    return pa.field("t", STORED, metadata={METADATA: text})


@pytest.mark.parametrize("order", [None, *itertools.permutations(range(3))], ids=str)
def test_the_axes_are_those_of_the_format(order: tuple[int, ...] | None) -> None:
    shape = (2, 3, 4)
    flat = np.arange(5 * 24, dtype=np.int16).reshape(5, 24)
    axes = range(3) if order is None else order
    expected = flat.reshape(5, *shape).transpose(0, *(axis + 1 for axis in axes))
    if [axes[axis] for axis in axes] == [0, 1, 2]:  # for others, Arrow 26 returns strides that overlap
        type_ = pa.fixed_shape_tensor(pa.int16(), shape, permutation=order)
        array = pa.ExtensionArray.from_storage(type_, pa.array(flat.tolist(), type_.storage_type))
        np.testing.assert_array_equal(array.to_numpy_ndarray(), expected)

    tensor = Tensor.of(described(json.dumps({"shape": shape, "permutation": order})), STORED)

    assert tensor is not None
    found = rows_of(tensor.nested(pa.array(flat.tolist(), STORED).slice(1, 3)), "t")
    np.testing.assert_array_equal(found.values.reshape(3, *found.shapes[0]), expected[1:4])
    assert tensor.nested(pa.array(flat.tolist(), STORED)).type == tensor.type


@pytest.mark.parametrize(
    "text",
    ["", "[]", "{}", '{"shape": []}', '{"shape": [0, 2]}', '{"shape": [2], "permutation": [1]}', '{"shape": "ab"}'],
)
def test_a_description_that_is_not_valid_is_not_a_tensor(text: str) -> None:
    assert Tensor.of(described(text), STORED) is None
    assert Tensor.of(described('{"shape": [2]}'), pa.int16()) is None


def test_a_row_of_another_number_of_values_is_an_error() -> None:
    tensor = Tensor.of(described('{"shape": [2, 2]}'), STORED)
    assert tensor is not None
    with pytest.raises(CorruptStoreError, match="does not have 4 values"):
        tensor.nested(pa.array([[1, 2, 3]], STORED))
