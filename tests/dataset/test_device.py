"""Data that is kept on a device."""

import numpy as np
import pytest
import torch

import kinoml_data as kd
from kinoml_data.columns import Ragged
from kinoml_data.dataset.forms import scattered
from tests.builders import padded, same_tensor
from tests.dataset.tensors import NUMBERS, filled
from tests.graphs import DATA, SPEC, N, assert_rows

DEVICE = {
    "fixed": ({"a": np.arange(6, dtype=np.float32).reshape(3, 2)}, {"dtype": "float32", "shape": [2]}),
    "ragged": ({"a": [np.arange(n, dtype=np.float32) for n in (2, 0, 3)]}, {"dtype": "float32", "shape": ["*"]}),
    "ragged, all alike": ({"a": [np.full((2, 3), i, np.float32) for i in range(3)]}, {"shape": ["*", 3]}),
    "fixed, narrowed": ({"a": np.arange(6.0).reshape(3, 2)}, {"dtype": "float32", "shape": [2]}),
    "fixed, widened": ({"a": np.arange(6, dtype=np.uint8).reshape(3, 2)}, {"dtype": "float32", "shape": [2]}),
    "ragged, narrowed": (
        {"a": [np.arange(n, dtype=np.float64) for n in (2, 0, 3)]},
        {"dtype": "float32", "shape": ["*"]},
    ),
    "bits": ({"a": np.packbits(np.eye(3, 9, dtype=bool), axis=-1)}, {"dtype": "bool", "shape": [9], "packbits": True}),
    "no rows": ({"a": np.zeros((0, 2), np.float32)}, {"dtype": "float32", "shape": [2]}),
}


NO_CUDA = pytest.mark.skipif(not torch.cuda.is_available(), reason="there is no CUDA device")
DEVICES = ["cpu", pytest.param("cuda", marks=NO_CUDA)]


def same(found, expected, device):
    return found.device.type == device and found.dtype == expected.dtype and torch.equal(found.cpu(), expected)


@pytest.mark.parametrize("device", DEVICES)
@pytest.mark.parametrize(("data", "column"), DEVICE.values(), ids=DEVICE)
def test_data_kept_on_a_device_is_the_same_data(data, column, device):
    spec = {"columns": {"a": column}, "X": "a", "storage": {"backend": "in-memory"}}
    plain, held = kd.load_dataset(spec, data=data), kd.load_dataset(spec, data=data, device=device)
    assert held.spec.storage.options["device"] == device
    rows = list(range(len(plain)))
    for index in (slice(None), [], rows[::-1], rows[:1] * 3):
        a, b = plain[index][0], held[index][0]
        if isinstance(a, torch.Tensor):
            a, b = [a], [b]
        assert len(a) == len(b) and all(same(y, x, device) for x, y in zip(a, b, strict=True))
    for i in rows:
        x, y = plain[i][0], held[i][0]
        assert same(y, x, device)
        y.zero_()
        assert same(held[i][0], x, device)
    for form in ("packed", "pad-mask"):
        a = next(iter(plain.as_dataloader(batch_size=3, collate=form)), (None,))[0]
        b = next(iter(held.as_dataloader(batch_size=3, collate=form)), (None,))[0]
        assert all(same(y, x, device) for x, y in zip(a, b, strict=True)) if a is not None else b is None


@pytest.mark.parametrize("device", DEVICES)
def test_data_kept_on_a_device_can_be_saved(tmp_path, device):
    kd.save_dataset(kd.load_dataset(SPEC, data=DATA, device=device), tmp_path / "x.npz")
    with kd.load_dataset(tmp_path / "x.npz") as dataset:
        assert_rows(dataset, range(N))


@pytest.mark.parametrize("device", DEVICES)
@pytest.mark.parametrize("dtype", NUMBERS)
@pytest.mark.parametrize("shape", [(None,), (None, 3), (2, None), (None, None), (None, 2, None)], ids=str)
def test_rows_are_padded_and_taken_on_a_device_as_on_the_cpu(dtype, shape, device):
    rng = np.random.default_rng(0)
    lengths = [tuple(int(rng.integers(0, 4)) if axis is None else axis for axis in shape) for _ in range(6)]
    rows = [filled(each, dtype, start=1 + 10 * i) for i, each in enumerate(lengths)]
    value = 1 if dtype == "bool" else np.iinfo(dtype).max if np.dtype(dtype).kind in "iu" else -1.5
    column = Ragged.from_rows(rows, dtype, len(shape))
    for some in (column, column[:1], column[:0]):
        longest = some.shapes.max(axis=0).tolist() if len(some) else [axis or 0 for axis in shape]
        expected = padded(list(some), dtype, shape, value)[0]
        found = scattered(torch.from_numpy(some.values).to(device), some.shapes, longest, value)
        assert found.device.type == device
        same_tensor(found.cpu(), expected)
    spec = {"columns": {"a": {"dtype": dtype, "shape": list(shape)}}, "X": "a", "storage": {"backend": "in-memory"}}
    held = kd.load_dataset(spec, data={"a": rows}, device=device)
    for found, i in zip(held[[5, 0, 5]][0], (5, 0, 5), strict=True):
        same_tensor(found.cpu(), rows[i])
