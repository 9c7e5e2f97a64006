import math

import numpy as np
import pytest
import torch

from kinoml_data.contracts.y_columns import expanded, inverse
from kinoml_data.errors import SpecError


@pytest.mark.parametrize(
    ("column", "shape"),
    [((3,), (3,)), ((3,), (3, 3)), ((3, 2), (3, 2)), ((), (3,)), ((3,), (3, 2, 4)), ((0,), (0, 5)), ((), ())],
    ids=str,
)
def test_one_entry_per_row_stands_for_all_tasks_of_the_row(column, shape):
    values = torch.arange(math.prod(column)).reshape(column)
    found = expanded("c", values, shape, "cpu")
    assert found.shape == shape
    for index in np.ndindex(shape):
        assert found[index] == values[index[: len(column)]]


@pytest.mark.parametrize(("column", "shape"), [((2,), (3,)), ((3, 1), (3,)), ((1, 3), (3, 3)), ((2,), (3, 2))], ids=str)
def test_a_column_that_does_not_begin_with_the_axes_of_the_energies_is_an_error(column, shape):
    with pytest.raises(SpecError, match=r"c has the shape .* which does not fit"):
        expanded("c", torch.zeros(column), shape, "cpu")


@pytest.mark.parametrize("exponent", [-1, 0, 1, 3, 9, 17])
@pytest.mark.parametrize("sign", [-1.0, 1.0])
def test_the_inverse_of_a_rising_and_of_a_falling_function_is_found(exponent, sign):
    x = sign * torch.tensor([0.1, 1.0, 3.7], dtype=torch.float64) * 10.0**exponent
    for slope in (2.0, -0.5):
        found = inverse(lambda z, m=slope: m * z + 1, slope * x + 1)
        assert found.dtype == torch.float64
        torch.testing.assert_close(found, x, rtol=1e-9, atol=1e-9)


def test_values_that_a_function_does_not_take_have_no_inverse():
    values = torch.tensor([-1.0, 0.0, 0.5, 1.0, 2.0], dtype=torch.float64)
    found = inverse(torch.sigmoid, values)
    assert found.isnan().tolist() == [True, True, False, True, True] and found[2].abs() < 1e-12
