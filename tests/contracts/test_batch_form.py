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


class Distinct(kd.BatchForm):
    """The distinct rows of X, and y."""

    name = "distinct"

    def __init__(self, spec):
        super().__init__(spec)
        self.unique = spec.X_names

    def __call__(self, X, y):
        return X, y


@pytest.mark.parametrize("workers", [0, 1])
def test_a_form_takes_the_distinct_rows_of_the_columns_that_it_names(workers):
    rows = [np.arange(2.0), np.arange(3.0), np.arange(2.0)]
    dataset = kd.from_arrays({"ragged": rows, "fixed": np.array([[1, 2], [1, 2], [3, 4]])}, np.array([5, 5, 6]))
    loader = dataset.as_dataloader(batch_size=3, collate=Distinct(dataset.spec), num_workers=workers)
    ((X, y),) = loader
    assert y.tolist() == [5, 5, 6]
    assert isinstance(X["ragged"], kd.Unique) and isinstance(X["ragged"].values, kd.Packed)
    assert X["ragged"].values.values.tolist() == [0, 1, 0, 1, 2] and X["ragged"].index.tolist() == [0, 1, 0]
    assert X["fixed"].values.tolist() == [[1, 2], [3, 4]] and X["fixed"].index.tolist() == [0, 0, 1]
