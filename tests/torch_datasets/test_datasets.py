"""KinoML's classes: each as its documentation says, without its faults."""

from __future__ import annotations

import multiprocessing
import operator
import pickle
from collections.abc import Iterator
from concurrent.futures import ProcessPoolExecutor
from itertools import product
from pathlib import Path
from typing import Any

import awkward as ak
import numpy as np
import pytest
import torch
from torch.utils.data import DataLoader, SubsetRandomSampler

from kinoml_data.errors import FeaturizationError, SpecError
from kinoml_data.observation import PIC50
from kinoml_data.torch_datasets import (
    AwkwardArrayDataset,
    MultiXTorchDataset,
    PrefeaturizedTorchDataset,
    TorchDataset,
    XyTorchDataset,
    _null_observation_model,
)
from tests.builders import equal_tensors

ROWS = 11
RNG = np.random.default_rng(7)
SMILES = [RNG.normal(size=(5, int(n))) for n in RNG.integers(1, 9, ROWS)]
EDGES = [RNG.integers(0, 9, (2, int(n))) for n in RNG.integers(0, 6, ROWS)]
FIXED = RNG.normal(size=(ROWS, 4))
Y = RNG.normal(size=ROWS)
IDX = {"train": np.arange(6), "test": np.array([8, 7]), "val": np.array([6, 9, 10])}


class System:
    """What KinoML hands to a featurizer."""

    def __init__(self, number: int) -> None:
        self.number = number
        self.featurizations: dict[str, Any] = {}


class FillsOne:
    """A featurizer called with a system."""

    name = "one"

    def __init__(self) -> None:
        self.calls = 0

    def __call__(self, system: System) -> System:
        self.calls += 1
        system.featurizations[self.name] = np.full(3, system.number)
        return system


class FillsMany:
    """A featurizer called with a list of systems."""

    name = "many"

    def __call__(self, systems: list[System]) -> list[System]:
        for system in systems:
            system.featurizations[self.name] = np.full((2, system.number + 1), 0.5)
        return systems


def equal(a: torch.Tensor, b: Any) -> bool:
    b = torch.as_tensor(b)
    return a.dtype == b.dtype and a.shape == b.shape and torch.equal(a, b)


def test_prefeaturized_gives_float32_samples() -> None:
    ds = PrefeaturizedTorchDataset(FIXED, Y, observation_model=PIC50())
    X, y = ds[2]
    assert equal(X, FIXED[2].astype(np.float32))
    assert equal(y, np.float32(Y[2]))
    assert not X.requires_grad
    assert not y.requires_grad
    assert len(ds) == ROWS
    assert ds.estimate_input_size() == (4,)
    assert ds.device == ("cuda" if torch.cuda.is_available() else "cpu")
    assert ds.systems is FIXED
    assert ds.measurements is Y
    assert isinstance(ds.observation_model, PIC50)
    assert equal(ds[3:5][0], FIXED[3:5].astype(np.float32))


def test_prefeaturized_has_the_identity_as_observation_model_and_takes_ragged_lists() -> None:
    ds = PrefeaturizedTorchDataset(SMILES, Y.tolist())
    assert torch.equal(ds.observation_model(torch.ones(2)), torch.ones(2))
    assert equal(ds[1][0], SMILES[1].astype(np.float32))
    assert ds.estimate_input_size() == SMILES[0].shape


def test_prefeaturized_refuses_different_lengths() -> None:
    with pytest.raises(SpecError, match="11 systems, but 10 measurements"):
        PrefeaturizedTorchDataset(FIXED, Y[:-1])


@pytest.mark.parametrize("context", [None, "fork", pytest.param("spawn", marks=pytest.mark.slow)])
def test_prefeaturized_loads_with_its_own_and_a_plain_dataloader(context: str | None) -> None:
    ds = PrefeaturizedTorchDataset(FIXED, Y)
    workers = {"num_workers": 2, "multiprocessing_context": context} if context else {}
    for loader in (ds.as_dataloader(batch_size=4, **workers), DataLoader(ds, batch_size=4, **workers)):
        X, y = (torch.cat(parts) for parts in zip(*loader, strict=True))
        assert X.device.type == "cpu" or not context
        assert equal(X.cpu(), FIXED.astype(np.float32))
        assert equal(y.cpu(), Y.astype(np.float32))


def test_torch_dataset_featurizes_on_access_and_remembers() -> None:
    featurizer = FillsOne()
    ds = TorchDataset([System(i) for i in range(ROWS)], Y, featurizer)
    assert featurizer.calls == 0
    first = [ds[4], ds[4], ds[[4, 4]]]
    assert featurizer.calls == 2  # the first system tells the rank
    assert equal(first[0][0], np.full(3, 4, np.float32))
    assert equal(first[2][0], np.full((2, 3), 4, np.float32))
    assert not first[0][0].requires_grad
    assert ds.estimate_input_size() == (3,)


def test_torch_dataset_takes_a_featurizer_of_lists_and_a_plain_callable() -> None:
    ds = TorchDataset([System(i) for i in range(ROWS)], Y, FillsMany())
    assert equal(ds[3][0], np.full((2, 4), 0.5, np.float32))
    plain = TorchDataset(list(range(ROWS)), Y, np.arange)
    assert equal(plain[5][0], np.arange(5, dtype=np.float32))
    assert [len(x) for x in plain[[1, 2]][0]] == [1, 2]


def test_torch_dataset_needs_a_featurizer_and_names_the_row_that_fails() -> None:
    with pytest.raises(ValueError, match="featurizer"):
        TorchDataset([1], [1.0], None)
    ds = TorchDataset([1, 2, 0], Y[:3], lambda k: np.ones(3) / (1 if k else [][0]))
    with pytest.raises(FeaturizationError, match=r"row 2.*IndexError"):
        ds[2]


@pytest.mark.parametrize("indices", [None, *({k: IDX[k] for k in keys} for keys in (["test"], ["train", "val"], IDX))])
def test_xy_keeps_any_combination_of_indices(indices: dict[str, Any] | None, tmp_path: Path) -> None:
    ds = XyTorchDataset(FIXED, Y, indices)
    np.savez(tmp_path / "a.npz", X=FIXED, y=Y, **{f"idx_{k}": v for k, v in (indices or {}).items()})
    for found in (ds, XyTorchDataset.from_npz(tmp_path / "a.npz")):
        assert equal(found.data_X, FIXED)
        assert equal(found.data_y, Y)
        assert equal(found[2][0], FIXED[2])
        assert equal(found[-2:][1], Y[-2:])
        assert found.input_size() == 4
        if indices is None:
            assert list(found.indices) == ["train"]
            assert equal(found[found.indices["train"]][0], FIXED)
            assert equal(found.data_X[found.indices["train"]], FIXED)
        else:
            assert {k: list(v) for k, v in found.indices.items()} == {k: list(v) for k, v in indices.items()}


def write_npz(
    path: Path, arrays: list[list[np.ndarray]], *, compressed: bool, idx: bool, underscore: str
) -> dict[str, Any]:
    several = len(arrays) > 1
    members = {
        f"X_s{row}" + (f"_a{a}" if several else "") + underscore: values[row]
        for a, values in enumerate(arrays)
        for row in range(ROWS)
    }
    members |= {"y": Y} | ({f"idx_{k}": v for k, v in IDX.items()} if idx else {})
    (np.savez_compressed if compressed else np.savez)(path, **members)
    return members


def kinoml_files() -> Iterator[Any]:
    """How KinoML may have written a file, and how it is opened; the quick run takes two ways of writing of eight."""
    arrays = {"one": [SMILES], "two": [SMILES, EDGES], "fixed": [list(FIXED)]}
    for compressed, idx, underscore in product([False, True], [False, True], ["", "_"]):
        for (name, values), mode in product(arrays.items(), ["dict", "lazy", "preloaded", "closed"]):
            marks = [] if (idx, underscore) == (compressed, "_" * (not compressed)) else [pytest.mark.slow]
            about = f"{mode}-{name}{underscore}-{'compressed' if compressed else 'stored'}-{'idx' if idx else 'no idx'}"
            yield pytest.param(values, compressed, idx, underscore, mode, marks=marks, id=about)


@pytest.mark.parametrize(("arrays", "compressed", "idx", "underscore", "mode"), [*kinoml_files()])
def test_multi_x_gives_lists_of_tensors(
    arrays: list[list[np.ndarray]], compressed: bool, idx: bool, underscore: str, mode: str, tmp_path: Path
) -> None:
    members = write_npz(tmp_path / "a.npz", arrays, compressed=compressed, idx=idx, underscore=underscore)
    if mode == "dict":
        indices = {key: members[f"idx_{key}"] for key in IDX} if idx else None
        ds = MultiXTorchDataset({k: v for k, v in members.items() if not k.startswith("idx")}, indices)
    else:
        ds = MultiXTorchDataset.from_npz(
            tmp_path / "a.npz", lazy=mode != "preloaded", close_filehandle=mode == "closed"
        )
    assert ds.shape_X == torch.Size([ROWS, 2] if len(arrays) == 2 else [ROWS])
    assert ds.shape_y == torch.Size([ROWS])
    assert ds.data_X is None
    assert equal(ds.data_y, Y)
    assert not ds.is_single_X()
    assert set(ds.indices) == ({"train", "test", "val"} if idx else {"train"})
    X, y = ds[3]
    assert len(X) == len(arrays)
    assert all(equal(x, values[3]) for x, values in zip(X, arrays, strict=True))
    assert equal(y, Y[3])
    for rows in ([4, 0, 4], slice(-2, None), np.array([True] + [False] * (ROWS - 1)), []):
        X, y = ds[rows]
        expected = np.arange(ROWS)[rows] if len(np.arange(ROWS)[rows]) else []
        assert len(X) == len(expected)
        assert equal(y, Y[expected] if len(expected) else Y[:0])
        for row, found in zip(expected, X, strict=True):
            assert all(equal(x, values[row]) for x, values in zip(found, arrays, strict=True))


@pytest.mark.parametrize("lazy", [False, True])
def test_multi_x_over_one_array_gives_tensors(lazy: bool, tmp_path: Path) -> None:
    np.savez(tmp_path / "a.npz", X=FIXED, y=Y)
    for ds in (MultiXTorchDataset.from_npz(tmp_path / "a.npz", lazy=lazy), MultiXTorchDataset({"X": FIXED, "y": Y})):
        assert ds.is_single_X()
        assert ds.shape_X == torch.Size([ROWS, 4])
        assert ds.data_X is not None
        assert equal(ds.data_X, FIXED)
        assert equal(ds[1:3][0], FIXED[1:3])


def records(fields: list[list[np.ndarray]]) -> ak.Array:
    return ak.zip([*(ak.Array(field) for field in fields), Y], depth_limit=1)


@pytest.mark.parametrize("source", ["array", "parquet", "parquet with arguments"])
def test_awkward_consolidates_rows_of_one_shape(source: str, tmp_path: Path) -> None:
    data = records([SMILES, list(FIXED), EDGES])
    if source == "array":
        ds = AwkwardArrayDataset(data)
    else:
        ak.to_parquet(data, tmp_path / "a.parquet")
        ds = AwkwardArrayDataset.from_parquet(
            tmp_path / "a.parquet", **({} if source == "parquet" else {"columns": ["0", "1", "2", "3"]})
        )
    assert len(ds) == ROWS
    assert ds.data.fields == ["0", "1", "2", "3"]
    X, y = ds[2]
    assert equal(X[0], SMILES[2])
    assert equal(X[1], FIXED[2])
    assert equal(X[2], EDGES[2])
    assert equal(y, Y[2])
    X, y = ds[[1, 0, 1]]
    assert isinstance(X[1], torch.Tensor)
    assert equal(X[1], FIXED[[1, 0, 1]])
    assert isinstance(X[0], list)
    assert all(equal(x, SMILES[row]) for x, row in zip(X[0], [1, 0, 1], strict=True))
    assert equal(y, Y[[1, 0, 1]])
    assert isinstance(ds[[1, 1]][0][0], torch.Tensor)  # a ragged field, rows of one shape
    assert "11 rows" in repr(ds)


def test_awkward_needs_records() -> None:
    with pytest.raises(SpecError, match="records"):
        AwkwardArrayDataset(ak.Array([[1, 2], [3]]))


def every_class(folder: Path) -> dict[str, Any]:
    np.savez(folder / "x.npz", X=FIXED, y=Y)
    write_npz(folder / "multi.npz", [SMILES, EDGES], compressed=False, idx=True, underscore="_")
    ak.to_parquet(records([SMILES]), folder / "a.parquet")
    return {
        "prefeaturized": PrefeaturizedTorchDataset(SMILES, Y),
        "featurized": TorchDataset([System(i) for i in range(ROWS)], Y, FillsMany()),
        "xy": XyTorchDataset.from_npz(folder / "x.npz"),
        "multi lazy": MultiXTorchDataset.from_npz(folder / "multi.npz"),
        "multi preloaded": MultiXTorchDataset.from_npz(folder / "multi.npz", lazy=False),
        "multi closed": MultiXTorchDataset.from_npz(folder / "multi.npz", close_filehandle=True),
        "awkward": AwkwardArrayDataset(records([SMILES, EDGES])),
        "awkward parquet": AwkwardArrayDataset.from_parquet(folder / "a.parquet"),
    }


def test_every_class_pickles(tmp_path: Path) -> None:
    for name, ds in every_class(tmp_path).items():
        copy = pickle.loads(pickle.dumps(ds))
        assert len(copy) == ROWS
        assert equal_tensors(ds[[3, 1]], copy[[3, 1]]), name
        assert equal_tensors(ds[3], copy[3]), name


@pytest.mark.parametrize("method", ["forkserver", pytest.param("spawn", marks=pytest.mark.slow)])
def test_every_class_reads_in_a_new_process(method: str, tmp_path: Path) -> None:
    with ProcessPoolExecutor(1, multiprocessing.get_context(method)) as pool:
        for name, ds in every_class(tmp_path).items():
            assert equal_tensors(pool.submit(operator.getitem, ds, [3, 1]).result(), ds[[3, 1]]), name


@pytest.mark.parametrize("context", ["fork", pytest.param("spawn", marks=pytest.mark.slow)])
def test_every_class_gives_the_same_from_workers(context: str, tmp_path: Path) -> None:
    for name, ds in every_class(tmp_path).items():
        alone = list(DataLoader(ds, batch_size=4))
        workers = list(DataLoader(ds, batch_size=4, num_workers=1, multiprocessing_context=context))
        assert len(alone) == len(workers) == 3
        assert all(equal_tensors(a, b) for a, b in zip(alone, workers, strict=True)), name


def test_systems_changed_in_a_worker_arrive_changed(tmp_path: Path) -> None:
    write_npz(tmp_path / "multi.npz", [SMILES, EDGES], compressed=False, idx=False, underscore="_")
    ds = MultiXTorchDataset.from_npz(tmp_path / "multi.npz")

    def doubled(batch: Any) -> Any:
        X, y = ds.core.collate_fn(batch)
        for system in X:
            system[0] = system[0] * 2
        return X, y

    loader = DataLoader(ds, batch_size=ROWS, num_workers=1, multiprocessing_context="fork", collate_fn=doubled)
    ((X, _),) = loader
    assert all(torch.equal(system[0], torch.as_tensor(2 * smiles)) for system, smiles in zip(X, SMILES, strict=True))


def test_the_data_path_of_the_published_training_notebook(tmp_path: Path) -> None:
    """One Parquet file per measurement type; a sampler, a collate function and an observation model for each."""
    models = {"pIC50": PIC50(), "pKd": lambda dG: -dG / np.log(10)}
    datasets, loaders = {}, {}
    for name in models:
        ak.to_parquet(records([SMILES]), tmp_path / f"{name}.parquet")
    for path in sorted(tmp_path.glob("*.parquet")):
        ds = datasets[path.stem] = AwkwardArrayDataset.from_parquet(path)
        indices = np.random.default_rng(0).permutation(len(ds))
        train, test = indices[3:], indices[:3]

        def collate(batch: Any) -> Any:
            X = torch.nn.utils.rnn.pad_sequence([x[0].T for x, _ in batch], batch_first=True)
            return X, torch.stack([y for _, y in batch])

        loaders[path.stem] = {
            "train": DataLoader(ds, batch_size=4, sampler=SubsetRandomSampler(train), collate_fn=collate),
            "test": DataLoader(ds, batch_size=4, sampler=SubsetRandomSampler(test), collate_fn=collate),
        }
    weight = torch.zeros(5, requires_grad=True)
    seen = dict.fromkeys(models, 0)
    for name, by_split in loaders.items():
        for X, y in by_split["train"]:
            loss = ((models[name]((X.float() @ weight).sum(1)) - y) ** 2).mean()
            loss.backward()
            seen[name] += len(y)
    assert seen == {"pIC50": ROWS - 3, "pKd": ROWS - 3}
    assert weight.grad is not None
    loader = loaders["pKd"]["test"]
    X, y = loader.dataset[loader.batch_sampler.sampler.indices]  # type: ignore[attr-defined]
    expected = np.random.default_rng(0).permutation(ROWS)[:3]
    assert equal(y, Y[expected])
    assert all(equal(x, SMILES[row]) for x, row in zip(X[0], expected, strict=True))


# -- what KinoML's own code and the experiments built on it use

PADDED = [RNG.normal(size=(5, 9)) for _ in range(ROWS)]


@pytest.mark.parametrize("workers", [0, 1])
@pytest.mark.parametrize("mode", ["dict", "lazy", "preloaded"])
def test_a_plain_loader_gives_the_batches_of_kinoml_if_rows_have_one_shape(
    mode: str, workers: int, tmp_path: Path
) -> None:
    members = write_npz(tmp_path / "a.npz", [PADDED, list(FIXED)], compressed=False, idx=False, underscore="_")
    ds = (
        MultiXTorchDataset(members)
        if mode == "dict"
        else MultiXTorchDataset.from_npz(tmp_path / "a.npz", mode == "lazy")
    )
    for loader in (DataLoader(ds, batch_size=4, num_workers=workers), ds.as_dataloader(batch_size=4)):
        batches = list(loader)
        assert [tuple(y.shape) for _, y in batches] == [(4, 1), (4, 1), (3, 1)]
        (one_hot, fixed), y = batches[1]
        assert equal(one_hot, np.stack(PADDED[4:8])) and equal(fixed, FIXED[4:8]) and equal(y, Y[4:8, None])


def test_a_plain_loader_gives_systems_if_rows_differ_in_shape(tmp_path: Path) -> None:
    members = write_npz(tmp_path / "a.npz", [PADDED, SMILES], compressed=False, idx=False, underscore="_")
    ((X, y),) = DataLoader(MultiXTorchDataset(members), batch_size=ROWS)
    assert equal(y, Y) and len(X) == ROWS
    for row, (one, two) in enumerate(X):
        assert equal(one, PADDED[row]) and equal(two, SMILES[row])


def test_a_collate_function_of_kinoml_gets_samples_with_y_as_they_are(tmp_path: Path) -> None:
    members = write_npz(tmp_path / "a.npz", [PADDED], compressed=False, idx=False, underscore="")
    wide = {**members, "y": np.stack([Y, Y], 1)}
    for arrays, shape in ((members, ()), (wide, (2,))):
        (samples,) = DataLoader(MultiXTorchDataset(arrays), batch_size=ROWS, collate_fn=list)
        assert all(equal(X[0], PADDED[row]) and y.shape == shape for row, (X, y) in enumerate(samples))


def test_all_rows_are_an_index_of_the_dataset_and_of_its_tensors(tmp_path: Path) -> None:
    write_npz(tmp_path / "a.npz", [SMILES], compressed=False, idx=False, underscore="_")
    np.savez(tmp_path / "x.npz", X=FIXED, y=Y)
    for ds in (
        MultiXTorchDataset.from_npz(tmp_path / "a.npz"),
        MultiXTorchDataset.from_npz(tmp_path / "x.npz"),
        XyTorchDataset(FIXED, Y, {"train": True, "test": False}),
    ):
        train = ds.indices["train"]
        assert equal(ds[train][1], Y) and equal(ds.data_y[train], Y)
        if ds.data_X is not None:
            assert equal(ds.data_X[train], FIXED)
        loader = DataLoader(ds, batch_size=ROWS, sampler=SubsetRandomSampler(train))
        assert sum(len(y) for _, y in loader) == ROWS
    assert len(ds.data_X[ds.indices["test"]]) == 0  # type: ignore[index]


def test_records_that_are_assigned_are_the_dataset(tmp_path: Path) -> None:
    ak.to_parquet(records([SMILES, EDGES]), tmp_path / "a.parquet")
    for ds in (AwkwardArrayDataset(records([SMILES, EDGES])), AwkwardArrayDataset.from_parquet(tmp_path / "a.parquet")):
        ds.data = ds.data[:5]
        assert len(ds) == len(ds.data) == 5 and equal(ds[4][0][0], SMILES[4])
        assert sum(len(y) for _, y in ds.as_dataloader(batch_size=2)) == 5
        ds.data = records([list(FIXED)])
        assert len(ds) == ROWS and equal(ds[-1][0][0], FIXED[-1])
        with pytest.raises(SpecError, match="records"):
            ds.data = ak.Array([1, 2])
        assert len(ds) == ROWS


@pytest.mark.parametrize("mode", ["dict", "lazy", "preloaded"])
@pytest.mark.parametrize("several", [False, True])
def test_the_names_that_kinoml_documents_exist(mode: str, several: bool, tmp_path: Path) -> None:
    arrays = [SMILES, EDGES] if several else [SMILES]
    members = write_npz(tmp_path / "a.npz", arrays, compressed=False, idx=mode != "dict", underscore="_")
    ds = (
        MultiXTorchDataset(members)
        if mode == "dict"
        else MultiXTorchDataset.from_npz(tmp_path / "a.npz", mode == "lazy")
    )
    assert set(ds._data) == set(members) and all(np.array_equal(ds._data[key], members[key]) for key in members)
    assert "X_s99_" not in ds._data
    assert ds._is_npz is None
    assert mode == "dict" or Path(ds._path) == tmp_path / "a.npz"
    assert ds._shape_X() == ds.shape_X == torch.Size([ROWS, 2] if several else [ROWS])
    key = "X_s3_a1_" if several else "X_s3_"
    assert ds._fast_key_access[3][int(several)] == key and list(ds._fast_key_access) == list(range(ROWS))
    assert ds._fast_key_access[10] == (["X_s10_a0_", "X_s10_a1_"] if several else ["X_s10_"])
    assert ds._str_keys_to_nested_dict(["X_s1_a1", "y", "X_s1_a0", "X_s0_"]) == {
        0: ["X_s0_"],
        1: ["X_s1_a0", "X_s1_a1"],
    }
    assert equal_tensors(ds._getitem_multi_X([2, 0]), ds[[2, 0]])


def test_the_names_exist_for_one_array_too(tmp_path: Path) -> None:
    np.savez(tmp_path / "x.npz", X=FIXED, y=Y)
    for ds in (MultiXTorchDataset.from_npz(tmp_path / "x.npz"), MultiXTorchDataset({"X": FIXED, "y": Y})):
        assert ds._fast_key_access == {} and np.array_equal(ds._data["X"], FIXED)
        assert equal_tensors(ds._getitem_single_X(2), ds[2]) and ds._shape_X() == torch.Size([ROWS, 4])


def test_one_array_in_the_layout_of_two_numbers_has_an_axis_of_arrays(tmp_path: Path) -> None:
    members = {f"X_s{row}_a0_": x for row, x in enumerate(SMILES)} | {"y": Y}
    np.savez(tmp_path / "a.npz", **members)
    for ds in (MultiXTorchDataset(members), MultiXTorchDataset.from_npz(tmp_path / "a.npz")):
        assert ds.shape_X == torch.Size([ROWS, 1])


def test_a_dataset_without_an_observation_model_has_a_function_with_a_name() -> None:
    ds = PrefeaturizedTorchDataset(FIXED, Y)
    assert ds.observation_model is _null_observation_model and ds.observation_model.__qualname__
    assert _null_observation_model(Y) is Y
