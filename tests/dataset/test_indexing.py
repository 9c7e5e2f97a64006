"""Indexing, against numpy on the same rows."""

import operator
from collections import deque
from functools import reduce

import numpy as np
import omegaconf
import pandas as pd
import pyarrow as pa
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch.utils.data import ConcatDataset, DataLoader, RandomSampler, SequentialSampler, Subset, random_split

import kinoml_data as kd
from kinoml_data.dataset.indexing import normalize_index
from kinoml_data.errors import SampleIndexError

ROWS = 10
FIXED = np.arange(ROWS * 3, dtype=np.float32).reshape(ROWS, 3)
RAGGED = [np.arange(i % 4, dtype=np.int64) + 100 * i for i in range(ROWS)]
Y = np.arange(ROWS, dtype=np.float64) / 7


@pytest.fixture(scope="module")
def dataset():
    return kd.from_arrays({"fixed": FIXED, "ragged": RAGGED}, Y)


def assert_rows(batch, rows):
    """`batch` is what numpy's `rows` of the data are, bit for bit."""
    X, y = batch
    assert list(X) == ["fixed", "ragged"]
    assert X["fixed"].dtype == torch.float32 and X["fixed"].numpy().tobytes() == FIXED[rows].tobytes()
    assert X["fixed"].shape == FIXED[rows].shape
    assert [t.numpy().tolist() for t in X["ragged"]] == [RAGGED[row].tolist() for row in rows]
    assert all(t.dtype == torch.int64 for t in X["ragged"])
    assert y.dtype == torch.float64 and y.numpy().tobytes() == Y[rows].tobytes()


def assert_sample(sample, row):
    X, y = sample
    assert torch.equal(X["fixed"], torch.from_numpy(FIXED[row]))
    assert X["ragged"].tolist() == RAGGED[row].tolist()
    assert y.shape == () and y.item() == Y[row]


@pytest.mark.parametrize("i", range(-ROWS, ROWS))
def test_an_int_in_range_is_one_sample_as_in_numpy(dataset, i):
    assert_sample(dataset[i], int(np.arange(ROWS)[i]))


INTS = [
    *(np.dtype(code).type for code in ("i1", "u1", "i2", "u2", "i4", "u4", "i8", "u8")),
    np.array,
    torch.tensor,
    *(lambda i, t=t: torch.tensor(i, dtype=t) for t in (torch.int8, torch.uint8, torch.int16, torch.int32)),
    lambda i: np.array(i, dtype=">i8"),
]


@pytest.mark.parametrize("make", INTS)
@pytest.mark.parametrize("i", [0, 7, ROWS - 1])
def test_an_int_of_numpy_or_torch_is_one_sample(dataset, make, i):
    assert_sample(dataset[make(i)], i)


@pytest.mark.parametrize("make", [np.int64, np.int8, np.array, torch.tensor])
def test_a_negative_int_of_numpy_or_torch_counts_from_the_end(dataset, make):
    assert_sample(dataset[make(-3)], ROWS - 3)


SLICES = [
    *(slice(None), slice(0), slice(0, 0), slice(3), slice(-2, None), slice(None, -2), slice(2, 8), slice(8, 2)),
    *(slice(None, None, 2), slice(1, None, 3), slice(None, None, -1), slice(None, None, -3), slice(8, 2, -2)),
    *(slice(2, 8, -1), slice(-100, 100), slice(100, None), slice(None, -100), slice(100, -100, -1)),
    *(slice(-(2**70), 2**70), slice(2**70, None, -1), slice(None, None, 2**70), slice(None, None, -(2**70))),
    *(slice(np.int8(1), np.uint64(7), np.int32(2)), slice(torch.tensor(1), torch.tensor(4)), slice(None, None, ROWS)),
]


@pytest.mark.parametrize("index", SLICES, ids=str)
def test_a_slice_gives_the_rows_it_gives_in_numpy(dataset, index):
    # A list knows slices as numpy does, beyond 64 bits too.
    assert_rows(dataset[index], list(range(ROWS))[index])


LISTS = [[], [0], [-1], [3, 1, 2], [5, 5, 5], [0, -ROWS], [9, -1, 0, -10], list(range(ROWS)), list(range(9, -1, -1))]
AS = {
    "list": list,
    "list of numpy ints": lambda rows: [np.int32(i) for i in rows],
    "list of tensors": lambda rows: [torch.tensor(i) for i in rows],
    "int64 array": lambda rows: np.array(rows, np.int64),
    "int8 array": lambda rows: np.array(rows, np.int8),
    "big-endian array": lambda rows: np.array(rows, ">i4"),
    "strided array": lambda rows: np.repeat(np.array(rows, np.int64), 2)[::2],
    "object array": lambda rows: np.array(rows, object),
    "int64 tensor": lambda rows: torch.tensor(rows, dtype=torch.int64),
    "int32 tensor": lambda rows: torch.tensor(rows, dtype=torch.int32),
}


@pytest.mark.parametrize("make", AS.values(), ids=AS)
@pytest.mark.parametrize("rows", LISTS, ids=str)
def test_several_ints_give_their_rows_in_order_with_repeats(dataset, make, rows):
    assert_rows(dataset[make(rows)], [int(i) for i in np.arange(ROWS)[np.array(rows, np.int64)]])


@pytest.mark.parametrize("dtype", [np.uint8, np.uint16, np.uint32, np.uint64])
def test_unsigned_ints_give_their_rows(dataset, dtype):
    assert_rows(dataset[np.array([9, 0, 3], dtype)], [9, 0, 3])


@pytest.mark.parametrize(
    "index", [range(3), range(0), range(8, 2, -2), range(-3, 0), range(2**70, 2**70), range(5, 0)], ids=str
)
def test_a_range_is_the_list_of_its_numbers(dataset, index):
    assert_rows(dataset[index], [int(i) for i in np.arange(ROWS)[np.array(list(index), np.int64)]])


MASKS = {
    "every other": [True, False] * 5,
    "none": [False] * ROWS,
    "all": [True] * ROWS,
    "one": [False] * 9 + [True],
}


@pytest.mark.parametrize(
    "make",
    [list, np.array, torch.tensor, lambda m: [np.bool_(b) for b in m]],
    ids=["list", "array", "tensor", "list of np.bool_"],
)
@pytest.mark.parametrize("mask", MASKS.values(), ids=MASKS)
def test_a_mask_gives_the_rows_where_it_is_true(dataset, make, mask):
    assert_rows(dataset[make(mask)], [int(i) for i in np.arange(ROWS)[np.array(mask)]])


@pytest.mark.parametrize("index", [[], np.array([], np.int64), slice(0, 0), [False] * ROWS, range(0)], ids=str)
def test_no_rows_keep_dtype_and_shape(dataset, index):
    X, y = dataset[index]
    assert X["fixed"].shape == (0, 3) and X["fixed"].dtype == torch.float32
    assert X["ragged"] == []
    assert y.shape == (0,) and y.dtype == torch.float64


OUTSIDE = [ROWS, -ROWS - 1, 2**31, 2**63, -(2**63) - 1, 2**64, -(2**70), 2**70, np.uint64(2**63), np.int64(ROWS)]


@pytest.mark.parametrize("index", OUTSIDE, ids=str)
def test_an_int_out_of_range_is_an_index_error_naming_it_and_the_length(dataset, index):
    with pytest.raises(SampleIndexError, match=f"{int(index)} is out of range for {ROWS} rows") as caught:
        dataset[index]
    assert isinstance(caught.value, IndexError)


@pytest.mark.parametrize(
    "index",
    [
        *([0, ROWS], [-ROWS - 1], [2**63], [0, -(2**70)], np.array([3, ROWS]), torch.tensor([ROWS])),
        *(np.array([2**63], np.uint64), np.array([-128], np.int8), range(ROWS + 1), range(-1, 3 * ROWS)),
        *(range(10**15), range(2**70, 2**70 + 5), range(5, -20, -1), np.array([2**70], object)),
    ],
    ids=lambda index: str(index)[:30],
)
def test_one_of_several_out_of_range_is_an_index_error(dataset, index):
    with pytest.raises(SampleIndexError, match=f"out of range for {ROWS} rows"):
        dataset[index]


@pytest.mark.parametrize("length", [0, ROWS - 1, ROWS + 1, 1])
@pytest.mark.parametrize("make", [list, lambda m: np.array(m, bool), lambda m: torch.tensor(m, dtype=torch.bool)])
def test_a_mask_of_another_length_is_an_error_unless_it_is_an_empty_list(dataset, length, make):
    mask = make([True] * length)
    if isinstance(mask, list) and not mask:
        assert_rows(dataset[mask], [])
        return
    with pytest.raises(SampleIndexError, match=f"the mask has {length} entries, but there are {ROWS} rows"):
        dataset[mask]


NOT_INDEXES = {
    "True": True,
    "False": False,
    "np.bool_": np.bool_(True),
    "0-d bool array": np.array(True),
    "0-d bool tensor": torch.tensor(True),
    "float": 3.0,
    "np.float64": np.float64(3.0),
    "0-d float array": np.array(3.0),
    "0-d float tensor": torch.tensor(3.0),
    "bfloat16 tensor": torch.tensor(1.0, dtype=torch.bfloat16),
    "float8 tensor": torch.tensor([1.0]).to(torch.float8_e4m3fn),
    "complex": 1j,
    "complex tensor": torch.tensor([1j]),
    "sparse tensor": torch.tensor([1, 0]).to_sparse(),
    "meta tensor": torch.empty(2, dtype=torch.int64, device="meta"),
    "nan": float("nan"),
    "str": "3",
    "bytes": b"3",
    "split name": "train",
    "None": None,
    "Ellipsis": ...,
    "tuple": (1, 2),
    "empty tuple": (),
    "set": {1, 2},
    "dict": {0: 1},
    "list of floats": [1.0, 2.0],
    "list of str": ["1"],
    "list of bool and int": [True, 1],
    "list of np.bool_ and int": [np.bool_(True), 1],
    "list with None": [None, 1],
    "list of lists": [[1, 2], [3, 4]],
    "list of tuples": [(1, 2)],
    "list of bool tensors": [torch.tensor(True)] * ROWS,
    "list of 1-element tensors": [torch.tensor([1])],
    "float array": np.array([1.0]),
    "empty float array": np.array([]),
    "empty float tensor": torch.tensor([]),
    "str array": np.array(["1"]),
    "object array of floats": np.array([1.0, None], object),
    "object array of bools": np.array([True, False], object),
    "datetime array": np.array(["2000-01-01"], "M8[D]"),
    "2-d array": np.array([[1, 2]]),
    "2-d tensor": torch.tensor([[1], [2]]),
    "2-d mask": np.ones((ROWS, 1), bool),
    "1 x 1 array": np.array([[3]]),
    "slice of floats": slice(0.0, 2.0),
    "slice of str": slice("a", None),
    "slice with step 0": slice(None, None, 0),
}


@pytest.mark.parametrize("index", NOT_INDEXES.values(), ids=NOT_INDEXES)
def test_an_index_that_does_not_select_rows_is_an_error(dataset, index):
    with pytest.raises(SampleIndexError) as caught:
        dataset[index]
    text = str(caught.value)
    assert len(text) < 600 and text.isprintable()


@pytest.mark.parametrize("index", NOT_INDEXES.values(), ids=NOT_INDEXES)
def test_select_refuses_what_indexing_refuses(dataset, index):
    with pytest.raises(SampleIndexError):
        dataset.select(index)


def test_a_one_element_list_is_a_batch_and_an_int_a_sample(dataset):
    assert dataset[[3]][0]["fixed"].shape == (1, 3)
    assert dataset[torch.tensor([3])][0]["fixed"].shape == (1, 3)
    assert dataset[3][0]["fixed"].shape == (3,)


def test_an_index_is_not_changed_by_indexing(dataset):
    rows = np.array([-1, -2])
    dataset[rows]
    assert rows.tolist() == [-1, -2]


@pytest.mark.parametrize("index", [0, -1, [], [0], slice(None), [True]], ids=str)
def test_an_empty_dataset_indexes_like_an_empty_array(index):
    empty = kd.from_arrays(np.zeros((0, 2), np.float32))
    try:
        expected = np.zeros((0, 2), np.float32)[index]
    except IndexError:
        with pytest.raises(SampleIndexError):
            empty[index]
    else:
        assert empty[index][0].shape == expected.shape


def test_len_is_an_int_and_iteration_ends_there(dataset):
    assert type(len(dataset)) is int and len(dataset) == ROWS
    for row, sample in enumerate(dataset):
        assert_sample(sample, row)
    assert row == ROWS - 1


def test_getitems_is_the_list_of_the_samples(dataset):
    rows = [3, -1, 3, 0]
    batch = dataset.__getitems__(rows)
    assert len(batch) == len(rows)
    for i, row in enumerate(rows):
        assert_sample(batch[i], row % ROWS)
        assert_sample(batch[i - len(rows)], row % ROWS)
    for i in (len(rows), -len(rows) - 1):
        with pytest.raises(IndexError):
            batch[i]
    with pytest.raises(SampleIndexError, match="out of range"):
        dataset.__getitems__([0, ROWS])


@pytest.mark.parametrize("make", [list, np.array, torch.tensor])
def test_getitems_takes_what_a_sampler_may_give(dataset, make):
    assert_rows(dataset.collate_fn(dataset.__getitems__(make([4, 2]))), [4, 2])


def test_torchs_own_subsets_and_samplers_give_the_same_rows(dataset):
    assert_sample(Subset(dataset, [7, 2])[1], 2)
    assert_sample(ConcatDataset([dataset, dataset])[ROWS + 4], 4)
    assert_sample(ConcatDataset([dataset, dataset])[-1], ROWS - 1)
    parts = random_split(dataset, [6, 4], torch.Generator().manual_seed(0))
    found = sorted(round(part[i][1].item() * 7) for part in parts for i in range(len(part)))
    assert found == list(range(ROWS))
    assert_rows(next(iter(DataLoader(dataset, batch_size=ROWS, sampler=SequentialSampler(dataset)))), list(range(ROWS)))
    order = list(RandomSampler(dataset, generator=torch.Generator().manual_seed(3)))
    loader = DataLoader(dataset, batch_size=4, shuffle=True, generator=torch.Generator().manual_seed(3))
    seen = torch.cat([y for _, y in loader])
    assert sorted(seen.tolist()) == Y.tolist() and sorted(order) == list(range(ROWS))


def test_distributed_samplers_share_out_the_rows(dataset):
    from torch.utils.data import DistributedSampler

    seen = [list(DistributedSampler(dataset, num_replicas=2, rank=rank, shuffle=False)) for rank in (0, 1)]
    assert sorted(seen[0] + seen[1]) == list(range(ROWS))
    assert_rows(dataset[seen[1]], [1, 3, 5, 7, 9])


@given(
    st.integers(0, 12),
    st.lists(
        st.one_of(
            st.slices(12),
            st.lists(st.integers(-12, 11), max_size=8),
            st.lists(st.booleans(), max_size=12),
        ),
        max_size=4,
    ),
)
def test_any_chain_of_selections_is_that_of_numpy(length, steps):
    data = np.arange(length)
    view = kd.from_arrays(data)
    for step in steps:
        expected_step = (
            np.array(step, bool if step and isinstance(step[0], bool) else np.int64) if isinstance(step, list) else step
        )
        try:
            data = data[expected_step]
        except IndexError:
            with pytest.raises(SampleIndexError):
                view.select(step)
            return
        view = view.select(step)
        assert view.rows.tolist() == data.tolist() and view.rows.dtype == np.int64
        assert view[:][0].tolist() == data.tolist()


@given(st.integers(-(2**80), 2**80), st.integers(0, 2**40))
def test_any_int_is_a_row_or_an_index_error(index, length):
    if -length <= index < length:
        found, single = normalize_index(index, length)
        assert single and found.tolist() == [index % length] and found.dtype == np.int64
    else:
        with pytest.raises(SampleIndexError, match=f"for {length} rows"):
            normalize_index(index, length)


def test_positions_of_many_rows_do_not_overflow():
    length = 2**40
    assert normalize_index([length - 1, -1, -length], length)[0].tolist() == [length - 1, length - 1, 0]
    assert reduce(operator.add, normalize_index(slice(length - 3, None), length)[0].tolist()) == 3 * length - 6


def test_select_takes_several_rows_and_not_one():
    dataset = kd.from_arrays(np.arange(4.0))
    with pytest.raises(SampleIndexError, match="several rows"):
        dataset.select(2)
    assert dataset.select([2])[0][0] == 2


def test_lists_of_OmegaConf_and_containers_of_other_libraries_are_indexes():
    rows = [2, 0, -1]
    for index in (
        omegaconf.ListConfig(rows),
        deque(rows),
        pd.Series(rows, index=[7, 8, 9]),
        pd.Index(rows),
        pa.array(rows),
    ):
        positions, single = normalize_index(index, 4)
        assert positions.tolist() == [2, 0, 3] and not single
    mask = pd.Series([True, False, False, True], index=[3, 2, 1, 0])
    assert normalize_index(mask, 4)[0].tolist() == [0, 3]
    for index in (omegaconf.ListConfig(["a"]), pd.Series([0.5]), pd.Series(["a"])):
        with pytest.raises(SampleIndexError):
            normalize_index(index, 4)


def test_positions_do_not_share_memory_with_the_index() -> None:
    for index in (np.arange(3), torch.arange(3)):
        positions, _ = normalize_index(index, 4)
        index[0] = 2
        assert positions.tolist() == [0, 1, 2]
