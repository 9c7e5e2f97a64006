import numpy as np
import pytest

import kinoml_data as kd
from kinoml_data.errors import SpecError


def test_the_example_of_a_collate_form_makes_the_batches_of_a_loader(example):
    form = example(kd.BatchForm, "RowSums")
    dataset = kd.from_arrays(np.arange(12.0).reshape(4, 3), np.arange(4.0))
    batches = list(dataset.as_dataloader(batch_size=2, collate=form(dataset.spec)))
    assert [sums.tolist() for sums, _ in batches] == [[3, 12], [21, 30]]
    assert [y.tolist() for _, y in batches] == [[0, 1], [2, 3]]


def test_the_example_of_a_collate_form_refuses_columns_that_do_not_suit_it(example):
    ragged = kd.from_arrays([np.zeros(2), np.zeros(3)], np.zeros(2))
    with pytest.raises(SpecError, match="needs X to be a single fixed column"):
        example(kd.BatchForm, "RowSums")(ragged.spec)
