"""`convert` and `save_dataset`: a copy equals its source, or there is none."""

import os
import pickle

import numpy as np
import pytest
import torch

import kinoml_data as kd
from kinoml_data import Array, DatasetSpec, errors, registry
from kinoml_data.backends.npz.backend import NpzLazy
from kinoml_data.errors import (
    CorruptStoreError,
    SpecError,
    StoreChangedError,
    StoreExistsError,
    StoreNotFoundError,
    StoreWriteError,
    UnknownNameError,
    UnsupportedStoreError,
)
from tests.graphs import FP, SPEC, N, Y, assert_rows, memory, store_graphs


@pytest.fixture
def stored(tmp_path):
    return store_graphs(tmp_path)


TARGETS = {
    "npz": lambda p: p / "copy.npz",
    "parquet": lambda p: p / "copy.parquet",
    "text": lambda p: str(p / "copy.npz"),
    "mapping": lambda p: {"backend": "npz-lazy", "path": str(p / "copy.npz")},
    "mapping with a Path": lambda p: {"backend": "parquet-awkward", "path": p / "copy.parquet"},
    "compressed": lambda p: {"backend": "npz-lazy", "path": p / "copy.npz", "compress": True},
    "another reader": lambda p: {"backend": "npz-reopen", "path": p / "copy.npz"},
}


@pytest.mark.parametrize("target", TARGETS.values(), ids=TARGETS)
@pytest.mark.parametrize("source", ["dataset", "x.npz", "x.parquet", "s.yaml", "mapping"])
def test_a_copy_equals_its_source_with_spec_and_splits(stored, source, target):
    sources = {"dataset": memory, "mapping": lambda: {"storage": {"backend": "npz-lazy", "path": stored / "x.npz"}}}
    spec = kd.convert(sources.get(source, lambda: stored / source)(), target(stored))
    assert isinstance(spec, DatasetSpec)
    file = next(stored.glob("copy.*"))
    for again in (spec, file):
        with kd.load_dataset(again) as dataset:
            assert_rows(dataset, range(N))
            assert dataset.indices["train"].tolist() == [6, 1, 2]
            assert (dataset.spec.name, dataset.spec.meta) == ("graphs", ("id",))
            assert dataset.observation_model.substrate_conc == 1e-5
            assert dataset.spec.columns == DatasetSpec.parse(SPEC).columns
    assert sorted(p.name for p in stored.iterdir()) == sorted(
        [file.name, "s.json", "s.toml", "s.yaml", "x.npz", "x.parquet"]
    )


def test_save_dataset_is_convert(tmp_path):
    assert kd.save_dataset(memory(), tmp_path / "a.npz") == kd.convert(memory(), tmp_path / "b.npz").with_storage(
        kd.save_dataset(memory(), tmp_path / "a.npz", overwrite=True).storage
    )
    assert (tmp_path / "a.npz").read_bytes() == (tmp_path / "b.npz").read_bytes()


@pytest.mark.parametrize("suffix", [".npz", ".parquet"])
@pytest.mark.parametrize(
    ("view", "rows", "splits"),
    [
        (lambda d: d.split("train"), [6, 1, 2], {"train": [0, 1, 2], "test": []}),
        (lambda d: d.select([4, 0, 6, 3]), [4, 0, 6, 3], {"train": [2], "test": [0, 3]}),
        (lambda d: d.select([1, 1, 3]), [1, 1, 3], {"train": [0, 1], "test": [2]}),
        (lambda d: d.select([4, 0, 6]).split("test"), [4], {"train": [], "test": [0]}),
        (lambda d: d.select([]), [], {"train": [], "test": []}),
        (lambda d: d.select(slice(None, None, -1)), [6, 5, 4, 3, 2, 1, 0], {"train": [0, 4, 5], "test": [2, 3]}),
    ],
    ids=["split", "select", "repeats", "nested", "none", "reversed"],
)
def test_a_copy_of_a_view_has_the_rows_of_the_view_and_renumbered_splits(tmp_path, suffix, view, rows, splits):
    kd.save_dataset(view(memory()), tmp_path / f"x{suffix}")
    with kd.load_dataset(tmp_path / f"x{suffix}") as dataset:
        assert_rows(dataset, rows)
        assert {name: found.tolist() for name, found in dataset.indices.items()} == splits
        assert dataset.rows.tolist() == list(range(len(rows)))


def test_random_splits_are_written_out(tmp_path):
    source = memory(splits={"ratios": {"train": 0.6, "test": 0.4}, "seed": 5})
    spec = kd.save_dataset(source, tmp_path / "x.npz")
    assert spec.splits == {"train": "idx_train", "test": "idx_test"}
    with kd.load_dataset(tmp_path / "x.npz") as dataset:
        assert dataset.indices["train"].tolist() == source.indices["train"].tolist()
        assert dataset.indices["test"].tolist() == source.indices["test"].tolist()


@pytest.mark.parametrize(
    "name", ["fold 1", "a/b", "é", "idx_train", "x.values", "..", "\N{GRINNING FACE}", "_spec", "a.npy"]
)
def test_a_split_may_have_any_name_in_a_file(tmp_path, name):
    for suffix in (".npz", ".parquet"):
        kd.save_dataset(kd.from_arrays(FP, splits={name: [3, 1]}), tmp_path / f"x{suffix}")
        with kd.load_dataset(tmp_path / f"x{suffix}") as dataset:
            assert {n: rows.tolist() for n, rows in dataset.indices.items()} == {name: [3, 1]}


def test_a_copy_of_a_source_without_splits_has_no_splits(tmp_path):
    kd.save_dataset(kd.from_arrays(FP, Y), tmp_path / "x.npz")
    with kd.load_dataset(tmp_path / "x.npz") as dataset:
        assert dataset.indices == {} and dataset.spec.X == "X" and dataset.spec.y == "y"


@pytest.mark.parametrize("suffix", [".npz", ".parquet"])
def test_casts_and_packed_bits_travel_with_the_spec(tmp_path, suffix):
    bits = np.random.default_rng(0).random((4, 11)) > 0.5
    spec = {
        "columns": {
            "a": {"dtype": "float32", "range": [0, 1], "stored_as": "raw"},
            "b": {"dtype": "uint8", "shape": [11], "packbits": True},
            "n": {"dtype": "float32", "shape": ["*"]},
        },
        "X": ["a", "b", "n"],
        "storage": {"backend": "in-memory"},
    }
    rows = [np.arange(i, dtype=np.uint8) for i in range(4)]
    data = {"raw": np.arange(4) / 3, "b": np.packbits(bits, axis=-1), "n": rows}
    copy = kd.save_dataset(kd.load_dataset(spec, data=data), tmp_path / f"x{suffix}")
    assert copy.columns["a"] == Array("float32", range=(0.0, 1.0))
    with kd.load_dataset(tmp_path / f"x{suffix}") as dataset:
        assert dataset.stored_columns() == {
            "a": Array("float64"),
            "b": Array("uint8", (2,)),
            "n": Array("uint8", (None,)),
        }
        X, _ = dataset[:]
        assert X["a"].numpy().tobytes() == (np.arange(4) / 3).astype(np.float32).tobytes()
        assert X["b"].numpy().tobytes() == bits.astype(np.uint8).tobytes()
        assert [x.tolist() for x in X["n"]] == [row.tolist() for row in rows] and X["n"][0].dtype == torch.float32


@pytest.mark.parametrize("target", TARGETS.values(), ids=TARGETS)
def test_an_existing_target_is_replaced_only_when_asked(stored, target):
    kd.convert(memory(), target(stored))
    file = next(stored.glob("copy.*"))
    before = file.read_bytes()
    with pytest.raises(StoreExistsError, match="exists; pass overwrite=True") as caught:
        kd.convert(memory().select([0]), target(stored))
    assert isinstance(caught.value, FileExistsError) and isinstance(caught.value, StoreWriteError)
    assert file.read_bytes() == before
    kd.convert(memory().select([5, 0]), target(stored), overwrite=True)
    with kd.load_dataset(file) as dataset:
        assert_rows(dataset, [5, 0])


@pytest.mark.parametrize("name", ["x.npz", "x.parquet"])
def test_a_store_can_be_converted_onto_itself(stored, name):
    with pytest.raises(StoreExistsError):
        kd.convert(stored / name, stored / name)
    kd.convert(stored / name, stored / name, overwrite=True)
    with kd.load_dataset(stored / name) as dataset:
        assert_rows(dataset, range(N))
        kd.convert(dataset.select([3, 6]), stored / name, overwrite=True)
    with kd.load_dataset(stored / name) as dataset:
        assert_rows(dataset, [3, 6])
        assert dataset.indices["test"].tolist() == [0]


def test_a_dataset_whose_store_is_overwritten_gives_old_rows_or_an_error_and_never_new_ones(stored):
    lazy, again = kd.load_dataset(stored / "x.npz"), kd.load_dataset(stored / "x.npz", backend="npz-reopen")
    held = kd.load_dataset(stored / "x.npz", backend="in-memory")
    data = pickle.dumps(lazy)
    kd.convert(memory().select([5, 5, 5, 5, 5, 5, 5]), stored / "x.npz", overwrite=True)
    assert_rows(lazy, range(N))  # it holds the old file
    assert_rows(held, range(N))
    with pytest.raises(StoreChangedError, match="load the dataset again"):
        again[0]
    with pytest.raises(StoreChangedError, match="load it again"):
        pickle.loads(data)[0]
    with pytest.raises(StoreChangedError):
        pickle.loads(pickle.dumps(held))[0]
    lazy.close()
    again.close()


@pytest.mark.parametrize(
    ("target", "kind", "said"),
    [
        ("copy.xyz", SpecError, r"no backend writes bare '\.xyz' files; name one"),
        ("copy", SpecError, "no backend writes bare '' files"),
        ("copy.yaml", SpecError, r"no backend writes bare '\.yaml' files"),
        ("none/copy.npz", StoreWriteError, "there is no folder"),
        ({"backend": "in-memory"}, UnsupportedStoreError, "cannot write"),
        ({"backend": "npz-lasy", "path": "copy.npz"}, UnknownNameError, "did you mean 'npz-lazy'"),
        ({"backend": "npz-lazy"}, SpecError, r"storage\.path: this key is missing"),
        ({"backend": "npz-lazy", "path": "copy.npz", "comprss": True}, SpecError, "did you mean 'compress'"),
        ({"path": "copy.npz"}, SpecError, "backend"),
        ({}, SpecError, "backend"),
        (5, SpecError, "target"),
        (None, SpecError, "target"),
    ],
    ids=str,
)
def test_a_target_that_cannot_be_written_is_refused_and_leaves_nothing(tmp_path, monkeypatch, target, kind, said):
    monkeypatch.chdir(tmp_path)
    with pytest.raises(kind, match=said):
        kd.convert(memory(), target)
    assert list(tmp_path.iterdir()) == []


def test_a_source_that_fails_half_way_leaves_nothing(tmp_path):
    values = np.ones(3000, np.float64)
    values[2500] = 1e300
    dataset = kd.load_dataset(kd.from_arrays(values).spec, data={"X": values}, dtype="float32")
    kd.convert(dataset, tmp_path / "whole.npz")  # copied as it is stored
    spec = {"columns": {"f": {}}, "X": "f", "storage": {"backend": "featurize-on-access"}}

    def failing(value):
        if value > 1:
            raise ValueError("too large")
        return np.float32(value)

    for suffix in (".npz", ".parquet"):
        with pytest.raises(errors.FeaturizationError, match="row 2500"):
            kd.convert(kd.load_dataset(spec, data={"v": values}, featurizer=failing), tmp_path / f"x{suffix}")
    assert [p.name for p in tmp_path.iterdir()] == ["whole.npz"]


def test_converting_reports_the_stage_and_the_rows(tmp_path):
    seen = []
    kd.convert(kd.from_arrays(np.zeros(2500)), tmp_path / "x.npz", progress=lambda *report: seen.append(report))
    rows = [1024, 2048, 2500]
    assert seen == [(stage, done, 2500) for stage in ("copying", "comparing") for done in rows]


def test_a_file_that_vanishes_while_it_is_copied_is_an_error_of_reading(stored):
    with kd.load_dataset(stored / "x.npz", backend="npz-reopen") as dataset:
        (stored / "x.npz").unlink()
        with pytest.raises(StoreNotFoundError, match=r"x\.npz"):
            kd.convert(dataset, stored / "copy.npz")
    assert not (stored / "copy.npz").exists()


class Miswriting(NpzLazy):
    """A backend that does not write what it is given."""

    name = "miswriting"
    suffixes = ()
    mistake: str = "value"

    def write(self, columns, batches, **options):
        def changed():
            for batch in batches:
                copies = {name: column.copy() for name, column in batch.items()}
                if self.mistake == "value":
                    copies["X"][1, 0] += 1
                elif self.mistake == "order":
                    copies["X"] = copies["X"][::-1]
                elif self.mistake == "row":
                    copies = {name: column[:-1] for name, column in copies.items()}
                elif self.mistake == "swap":
                    copies["y"] = copies["X"][:, 0].copy()
                yield copies

        if self.mistake == "split":
            options["arrays"] = {"idx_train": options["arrays"]["idx_train"][::-1]}
        elif self.mistake == "column":
            columns = {name: array for name, array in columns.items() if name != "y"}
        super().write(columns, changed(), **options)


@pytest.fixture
def miswriting(monkeypatch):
    found = registry.Registry()
    found.plugins.append(
        registry.Plugin(
            "miswriting", "miswriting-dist", "1.0", loaded=True, names={"backend": {"miswriting": Miswriting}}
        )
    )
    monkeypatch.setattr(registry, "_registry", found)


@pytest.mark.parametrize(
    ("mistake", "differs"),
    [
        ("value", "column 'X'"),
        ("order", "column 'X'"),
        ("row", "the number of rows, which is 2 instead of 3"),
        ("swap", "column 'y'"),
        ("split", "split 'train'"),
    ],
)
def test_a_copy_that_differs_from_its_source_replaces_nothing(tmp_path, miswriting, mistake, differs):
    source = kd.from_arrays(np.arange(6.0).reshape(3, 2), np.array([9.0, 8.0, 7.0]), splits={"train": [0, 1]})
    target = {"backend": "miswriting", "path": str(tmp_path / "x.npz"), "mistake": mistake}
    for old in (None, b"old"):
        if old is not None:
            (tmp_path / "x.npz").write_bytes(old)
        with pytest.raises(
            CorruptStoreError, match=f"the backend 'miswriting' wrote differs from its source in {differs}$"
        ):
            kd.convert(source, target, overwrite=old is not None)
        assert {path.name: path.read_bytes() for path in tmp_path.iterdir()} == ({} if old is None else {"x.npz": old})
    kd.convert(source, target | {"mistake": "none"}, overwrite=True)
    with kd.load_dataset(tmp_path / "x.npz") as dataset:
        assert dataset[:][1].tolist() == [9, 8, 7]


def test_a_copy_that_lacks_a_column_replaces_nothing(tmp_path, miswriting):
    source = kd.from_arrays(np.arange(6.0).reshape(3, 2), np.array([9.0, 8.0, 7.0]))
    (tmp_path / "x.npz").write_bytes(b"old")
    target = {"backend": "miswriting", "path": str(tmp_path / "x.npz"), "mistake": "column"}
    with pytest.raises(SpecError, match=r"the spec does not fit the store: columns\.y: unknown stored column 'y'"):
        kd.convert(source, target, overwrite=True)
    assert [path.read_bytes() for path in tmp_path.iterdir()] == [b"old"]


@pytest.mark.parametrize("suffix", [".npz", ".parquet"])
def test_nan_payloads_and_signed_zeros_are_copied_bit_for_bit(tmp_path, suffix):
    bits = np.array(
        [0x7FF8000000000001, 0xFFF8DEADBEEF0000, 0x7FF4000000000001, 1 << 63, 1, 0x7FF0000000000000], np.uint64
    )
    kd.save_dataset(kd.from_arrays(bits.view(np.float64)), tmp_path / f"x{suffix}")
    with kd.load_dataset(tmp_path / f"x{suffix}") as dataset:
        assert dataset[:][0].numpy().tobytes() == bits.tobytes()


@pytest.mark.parametrize("suffix", [".npz", ".parquet"])
def test_an_empty_view_of_packed_ragged_bits_is_copied(tmp_path, suffix):
    columns = {"f": {"dtype": "float32", "shape": ["*", 16], "packbits": True}}
    spec = {"columns": columns, "X": "f", "storage": {"backend": "in-memory"}, "splits": {"none": {"rows": []}}}
    dataset = kd.load_dataset(spec, data={"f": [np.ones((k, 2), np.uint8) for k in (1, 2)]})
    kd.save_dataset(dataset.split("none"), tmp_path / f"a{suffix}")
    with kd.load_dataset(tmp_path / f"a{suffix}") as copy:
        assert len(copy) == 0 and copy.spec.columns["f"].shape == (None, 16)


@pytest.mark.skipif(os.name == "nt", reason="Windows has no such modes")
def test_a_file_that_is_replaced_keeps_its_mode(tmp_path):
    dataset = kd.from_arrays(np.arange(3.0))
    for name in ("a.npz", "a.parquet"):
        kd.save_dataset(dataset, tmp_path / name)
        (tmp_path / name).chmod(0o600)
        kd.save_dataset(dataset, tmp_path / name, overwrite=True)
        assert (tmp_path / name).stat().st_mode & 0o777 == 0o600


def test_a_backend_that_keeps_no_keys_refuses_to_share(tmp_path):
    dataset = kd.from_arrays(np.zeros((4, 2)))
    with pytest.raises(UnsupportedStoreError, match=r"share: the backend 'parquet-awkward' cannot store once"):
        kd.convert(dataset, tmp_path / "a.parquet", share=["X"])
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("place", ["old.npz", "no-folder/new.npz"])
def test_a_target_that_cannot_be_written_is_refused_before_anything_is_featurized(tmp_path, place):
    calls = []

    def length(text):
        calls.append(text)
        return np.float32(len(text))

    featurizer = {"name": "length", "inputs": ["text"], "outputs": {"n": {"dtype": "float32"}}}
    spec = {"X": "n", "storage": {"backend": "featurize-on-access", "featurizer": featurizer}}
    dataset = kd.load_dataset(spec, data={"text": ["a", "bb"]}, featurizer={"length": length})
    (tmp_path / "old.npz").write_bytes(b"old")
    with pytest.raises(errors.StoreWriteError):
        kd.convert(dataset, tmp_path / place, failed=tmp_path / "failed.csv")
    assert calls == [] and [path.name for path in tmp_path.iterdir()] == ["old.npz"]
