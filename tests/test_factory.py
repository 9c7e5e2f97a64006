"""`load_dataset` and `from_arrays`: every way to open a dataset, and the error of every bad input."""

import json
import os
import pickle
import re
import subprocess
import sys
from contextlib import suppress
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import torch

import kinoml_data as kd
from kinoml_data import ArrayStorage, Backend, DatasetSpec, registry
from kinoml_data.errors import (
    CorruptStoreError,
    SpecError,
    SplitError,
    StoreNotFoundError,
    StoreReadError,
    UnknownNameError,
)
from tests.builders import Canary
from tests.graphs import ATOMS, EDGES, FP, SPEC, N, Y, assert_rows, memory, store_graphs


@pytest.fixture
def stored(tmp_path):
    return store_graphs(tmp_path)


# -- ways in

WAYS = {
    "yaml": lambda p: p / "s.yaml",
    "json": lambda p: p / "s.json",
    "toml": lambda p: p / "s.toml",
    "text": lambda p: str(p / "s.yaml"),
    "spec": lambda p: DatasetSpec.from_file(p / "s.yaml"),
    "bare npz": lambda p: p / "x.npz",
    "bare parquet": lambda p: p / "x.parquet",
    "bare text": lambda p: str(p / "x.npz"),
    "mapping": lambda p: {"storage": {"backend": "npz-lazy", "path": str(p / "x.npz")}},
    "mapping with a Path": lambda p: {"storage": {"backend": "npz-lazy", "path": p / "x.npz"}},
}


@pytest.mark.parametrize("way", WAYS.values(), ids=WAYS)
def test_every_kind_of_description_gives_the_same_dataset(stored, way):
    with kd.load_dataset(way(stored)) as dataset:
        assert_rows(dataset, range(N))
        assert dataset.indices["train"].tolist() == [6, 1, 2]
        assert dataset.spec.X == ("edges", "atoms", "fp") and dataset.spec.y == "y" and dataset.spec.name == "graphs"
        assert dataset.observation_model.substrate_conc == 1e-5
        assert_rows(dataset.split("train"), [6, 1, 2])


def test_a_path_without_a_folder_is_in_the_working_directory(stored, monkeypatch):
    monkeypatch.chdir(stored)
    for name in ("x.npz", "s.yaml", Path("x.parquet")):
        with kd.load_dataset(name) as dataset:
            assert_rows(dataset, range(N))
    with kd.load_dataset({"storage": {"backend": "npz-lazy", "path": "x.npz"}}) as dataset:
        assert_rows(dataset, range(N))


def test_a_dataset_stays_where_it_was_opened_when_the_working_directory_changes(stored, monkeypatch):
    monkeypatch.chdir(stored)
    datasets = [
        kd.load_dataset("x.npz", backend="npz-reopen"),
        kd.load_dataset({"storage": {"backend": "npz-reopen", "path": "x.npz"}}, base="."),
    ]
    monkeypatch.chdir("/")
    for dataset in datasets:
        assert_rows(dataset, range(N))
        assert_rows(pickle.loads(pickle.dumps(dataset)), range(N))


def test_base_is_where_relative_paths_of_a_mapping_start(stored, monkeypatch):
    monkeypatch.chdir(stored.parent)
    spec = {"storage": {"backend": "npz-lazy", "path": "x.npz"}}
    for base in (stored, str(stored), stored.name):
        with kd.load_dataset(spec, base=base) as dataset:
            assert_rows(dataset, range(N))
    with kd.load_dataset("x.npz", base=stored) as dataset:
        assert_rows(dataset, range(N))
    with pytest.raises(StoreNotFoundError):
        kd.load_dataset(spec)


def test_an_omegaconf_config_is_a_mapping(stored):
    omegaconf = pytest.importorskip("omegaconf")
    config = omegaconf.OmegaConf.create(
        {
            "file": "x.npz",
            "spec": {
                "columns": {"atoms": {"dtype": "float32", "shape": ["*", 3]}, "y": {"dtype": "float64"}},
                "X": ["atoms"],
                "y": "y",
                "storage": {"backend": "npz-lazy", "path": "${file}"},
                "splits": {"ratios": {"train": 0.8, "test": 0.2}, "seed": 1},
            },
        }
    )
    with kd.load_dataset(config.spec, base=stored) as dataset:
        assert [t.numpy().tobytes() for t in dataset[:][0]["atoms"]] == [a.tobytes() for a in ATOMS]
        assert sorted(np.concatenate(list(dataset.indices.values())).tolist()) == list(range(N))
    with kd.load_dataset({"X": config.spec.X, "storage": config.spec.storage}, base=stored) as dataset:
        assert dataset.spec.X == ("atoms",)
    with pytest.raises(SpecError, match="did you mean 'columns'"):
        kd.load_dataset(omegaconf.OmegaConf.create({"colums": {}, "storage": {"backend": "x"}}))


def test_a_split_can_be_asked_for_at_once(stored):
    with kd.load_dataset(stored / "x.npz", split="test") as view:
        assert_rows(view, [3, 4])


def open_files(folder):
    """The files in a folder that this process has open."""
    names = []
    for descriptor in Path("/proc/self/fd").iterdir():
        with suppress(OSError):
            names.append(descriptor.readlink())
    return [name.name for name in names if name.parent == folder]


def test_a_dataset_that_was_opened_as_a_split_closes_its_file(stored):
    with kd.load_dataset(stored / "x.npz", split="train") as train:
        assert_rows(train, [6, 1, 2])
        assert open_files(stored) == ["x.npz"]
        train.select([0]).close()
        assert_rows(train, [6, 1, 2])
    assert open_files(stored) == []
    with pytest.raises(StoreReadError, match="the dataset was closed"):
        train[0]


def test_a_view_leaves_the_dataset_open_that_it_was_made_from(stored):
    with kd.load_dataset(stored / "x.npz") as dataset:
        with dataset.split("train") as train:
            assert_rows(train, [6, 1, 2])
        dataset.select([0]).split("test").close()
        assert_rows(train, [6, 1, 2])
        assert_rows(dataset, range(N))
    assert open_files(stored) == []


def test_a_split_that_does_not_exist_closes_the_file_that_was_opened(stored):
    with pytest.raises(SplitError, match="unknown split 'trian'; did you mean 'train'"):
        kd.load_dataset(stored / "x.npz", split="trian")
    assert open_files(stored) == []


def test_the_spec_goes_before_what_the_store_contains(stored):
    storage = {"backend": "npz-lazy", "path": "x.npz"}
    with kd.load_dataset({"storage": storage, "X": "fp", "name": "mine"}, base=stored) as dataset:
        assert (dataset.spec.X, dataset.spec.y, dataset.spec.name) == ("fp", "y", "mine")
        assert set(dataset.spec.meta) == {"edges", "atoms", "id"}
        assert dataset[:][0].numpy().tobytes() == FP.tobytes()
    with kd.load_dataset({"storage": storage, "observation_model": "pKd", "splits": {}}, base=stored) as dataset:
        assert dataset.observation_model.name == "pKd" and dataset.indices == {}


# -- backend= and options


@pytest.mark.parametrize("backend", ["npz-lazy", "npz-reopen", "in-memory"])
def test_another_backend_reads_the_same_data(stored, backend):
    for source in ("x.npz", "s.yaml"):
        with kd.load_dataset(stored / source, backend=backend) as dataset:
            assert_rows(dataset, range(N))
            assert dataset.spec.storage.backend == backend
            assert dataset.indices["train"].tolist() == [6, 1, 2]


def test_a_backend_with_a_source_is_put_around_and_any_other_replaces(stored):
    with kd.load_dataset(stored / "x.npz", backend="in-memory") as dataset:
        assert dataset.spec.storage.options == {"source": {"backend": "npz-lazy", "path": "x.npz"}}
        with kd.load_dataset(dataset.spec, backend="in-memory") as again:
            assert again.spec.storage == dataset.spec.storage
    with kd.load_dataset(stored / "x.npz", backend="npz-reopen", verify="always") as dataset:
        assert dataset.spec.storage.options == {"path": "x.npz", "verify": "always"}


def test_options_go_to_the_outermost_backend(stored):
    with kd.load_dataset(stored / "x.npz", verify="never") as dataset:
        assert dataset.spec.storage.options["verify"] == "never"
    with pytest.raises(SpecError, match=r"storage\.verify: unknown key 'verify'"):
        kd.load_dataset(stored / "x.npz", backend="in-memory", verify="never")
    with pytest.raises(SpecError, match=r"storage\.verfy: unknown key 'verfy'; did you mean 'verify'"):
        kd.load_dataset(stored / "x.npz", verfy="never")
    with pytest.raises(SpecError, match=r"storage\.verify: must be 'first', 'always' or 'never'"):
        kd.load_dataset(stored / "x.npz", verify="sometimes")


def test_an_option_that_the_new_backend_lacks_is_dropped(stored):
    spec = DatasetSpec.parse({"storage": {"backend": "npz-lazy", "path": "x.npz", "verify": "always"}}, stored)
    with kd.load_dataset(spec, backend="npz-reopen") as dataset:
        assert dataset.spec.storage.options["verify"] == "always"
    with pytest.raises(CorruptStoreError):  # no Parquet file; `verify` is not what is wrong
        kd.load_dataset(spec, backend="parquet-awkward")


def test_a_backend_without_a_device_refuses_one(stored):
    with pytest.raises(SpecError, match="give backend='in-memory' as well"):
        kd.load_dataset(stored / "x.npz", device="cpu")


@pytest.mark.parametrize(
    ("keyword", "said"),
    [
        ({"colate": "pad"}, "unknown argument 'colate'; did you mean 'collate'"),
        ({"bakend": "in-memory"}, "unknown argument 'bakend'; did you mean 'backend'"),
        ({"splits": {"ratios": {"a": 1.0}}}, "'splits' is a key of the spec"),
        ({"shuffle": True}, "'shuffle' is an argument of as_dataloader"),
        ({"verfy": "never"}, "storage.verfy: unknown key 'verfy'; did you mean 'verify'"),
        ({"backend": "in-memory", "batch_size": 8}, "'batch_size' is an argument of as_dataloader"),
    ],
)
def test_a_keyword_that_is_no_option_says_what_was_meant(stored, keyword, said):
    with pytest.raises(SpecError, match=re.escape(said)):
        kd.load_dataset(stored / "x.npz", **keyword)


def test_load_dataset_refuses_a_spec_of_several_datasets(stored):
    several = {"datasets": {"a": {"storage": {"path": "x.npz"}}}}
    (stored / "several.json").write_text(json.dumps(several))
    for spec in (several, stored / "several.json"):
        with pytest.raises(SpecError, match="use load_datasets"):
            kd.load_dataset(spec)


# -- bad input, as a user would meet it


@pytest.mark.parametrize(
    "name",
    ["none.npz", "none.yaml", "none.json", "none.toml", "none.parquet", "none.csv", "none", "none.xyz", "no/x.npz"],
)
def test_a_missing_file_is_not_found(tmp_path, name):
    with pytest.raises(StoreNotFoundError, match=r"none|no/x") as caught:
        kd.load_dataset(tmp_path / name)
    assert isinstance(caught.value, FileNotFoundError)


def test_a_folder_and_a_pipe_are_not_found(tmp_path):
    (tmp_path / "d.npz").mkdir()
    os.mkfifo(tmp_path / "p.npz")
    for name in ("d.npz", "p.npz"):
        with pytest.raises(StoreNotFoundError, match="not a regular file"):
            kd.load_dataset(tmp_path / name)


@pytest.mark.parametrize("spec", [None, 5, ["x.npz"], b"x.npz", object(), 1.5, {"x"}], ids=lambda v: type(v).__name__)
def test_values_that_do_not_describe_a_dataset_are_refused(spec):
    with pytest.raises(SpecError, match="is not a spec; give a DatasetSpec, a mapping or a path"):
        kd.load_dataset(spec)


def test_a_file_of_unknown_suffix_is_refused_with_the_known_suffixes(tmp_path):
    for name in ("x.xyz", "x", "x.npz.bak"):
        (tmp_path / name).touch()
        with pytest.raises(SpecError, match=r"known suffixes: .*\.npz.*\.parquet.*\.yaml"):
            kd.load_dataset(tmp_path / name)


def test_an_unknown_key_is_refused_with_a_suggestion():
    with pytest.raises(SpecError, match="unknown key 'colums'; did you mean 'columns'"):
        kd.load_dataset({"colums": {}, "storage": {"backend": "in-memory"}})


def test_an_unknown_backend_is_refused_with_the_list():
    for backend in ({"storage": {"backend": "npz-lasy"}}, SPEC):
        with pytest.raises(UnknownNameError, match=r"npz-lasy'; did you mean 'npz-lazy'.*in-memory.*parquet-awkward"):
            kd.load_dataset(backend, backend=None if backend is not SPEC else "npz-lasy")


@pytest.mark.parametrize(
    ("column", "said"),
    [
        ({"dtype": "float64"}, None),
        ({"dtype": "float32"}, None),
        ({"dtype": "int64"}, None),
        ({"dtype": "str"}, "the store has float64, but the spec asks for str"),
        ({"dtype": "float64", "shape": [3]}, r"the store has float64, but the spec asks for float64 \(3,\)"),
        ({"dtype": "float64", "shape": ["*"]}, r"the store has float64, but the spec asks for float64 \(\*,\)"),
        ({"dtype": "float64", "stored_as": "Y"}, "unknown stored column 'Y'"),
    ],
    ids=str,
)
@pytest.mark.parametrize("name", ["x.npz", "x.parquet"])
def test_a_dtype_or_shape_that_differs_is_refused_when_it_opens(stored, name, column, said):
    backend = "npz-lazy" if name == "x.npz" else "parquet-awkward"
    columns = {"fp": SPEC["columns"]["fp"], "y": column}
    roles = {"X": "fp", "meta": ["y"]} if column["dtype"] == "str" else {"X": "fp", "y": "y"}
    spec = {"columns": columns, "storage": {"backend": backend, "path": name}} | roles
    if said is None:
        kd.load_dataset(spec, base=stored).close()
        return
    with pytest.raises(SpecError, match=said):
        kd.load_dataset(spec, base=stored)


def test_columns_of_different_length_are_refused(tmp_path):
    with pytest.raises(SpecError, match="differ in their number of rows: X has 3, y has 2"):
        kd.from_arrays(np.zeros((3, 2)), np.zeros(2))
    np.savez(tmp_path / "x.npz", X=np.zeros((3, 2)), y=np.zeros(2))
    with pytest.raises(SpecError, match="X has 3, y has 2"):
        kd.load_dataset(tmp_path / "x.npz")
    np.savez(tmp_path / "m.npz", X_s0_=np.zeros(2), X_s1_=np.zeros(3), y=np.zeros(3))
    with pytest.raises(SpecError, match="X has 2, y has 3"):
        kd.load_dataset(tmp_path / "m.npz")


def test_overlapping_or_out_of_range_splits_are_refused(tmp_path):
    np.savez(tmp_path / "a.npz", X=np.zeros(4), idx_train=np.array([0, 1]), idx_test=np.array([1, 2]))
    with pytest.raises(SplitError, match="splits 'train' and 'test' share 1 row, for example row 1"):
        kd.load_dataset(tmp_path / "a.npz")
    np.savez(tmp_path / "b.npz", X=np.zeros(4), idx_train=np.array([0, 4]))
    with pytest.raises(SplitError, match="split 'train': row 4 is outside the 4 rows"):
        kd.load_dataset(tmp_path / "b.npz")


AUDIT = """
import sys
import numpy as np
import kinoml_data as kd
from kinoml_data import errors
kd.load_dataset("good.npz").close()  # what is imported late is imported now
seen = []
WATCHED = ("pickle.find_class", "os.system", "os.exec", "os.posix_spawn", "subprocess.Popen", "socket.connect")
sys.addaudithook(lambda event, args: seen.append(event) if event in WATCHED else None)
for source in sys.argv[1:]:
    try:
        kd.load_dataset(source)
    except errors.KinomlDataError as error:
        print(source, type(error).__name__)
assert seen == [], seen
import pickle
pickle.loads(pickle.dumps(np.zeros(1)))
assert "pickle.find_class" in seen  # the hook works
"""


def test_opening_a_hostile_file_runs_nothing(tmp_path):
    np.savez(tmp_path / "good.npz", X=np.zeros(2))
    np.savez(tmp_path / "objects.npz", X=np.array([Canary(tmp_path / "ran")], object))
    np.savez(tmp_path / "index.npz", X=np.zeros(2), idx_train=np.array([Canary(tmp_path / "ran")], object))
    np.save(tmp_path / "rows.npy", np.array([Canary(tmp_path / "ran")], object), allow_pickle=True)
    storage = "storage: {backend: npz-lazy, path: good.npz}\n"
    (tmp_path / "tag.yaml").write_text(storage + "name: !!python/object/apply:os.system ['touch ran']\n")
    (tmp_path / "name.yaml").write_text("storage: {backend: 'os:system', command: touch ran}\n")
    (tmp_path / "model.yaml").write_text(storage + "observation_model: builtins.eval\n")
    (tmp_path / "split.yaml").write_text(storage + "splits: {train: {file: rows.npy}}\n")
    (tmp_path / "pickle.npz").write_bytes(pickle.dumps(Canary(tmp_path / "ran")))
    hostile = {
        "objects.npz": "UnsupportedStoreError",
        "index.npz": "UnsafeStoreError",
        "tag.yaml": "SpecError",
        "name.yaml": "UnknownNameError",
        "model.yaml": "UnknownNameError",
        "split.yaml": "UnsafeStoreError",
        "pickle.npz": "CorruptStoreError",
    }
    environment = os.environ | {"KINOML_DATA_PLUGINS": ""}
    run = subprocess.run(
        [sys.executable, "-c", AUDIT, *hostile],
        cwd=tmp_path,
        env=environment,
        capture_output=True,
        text=True,
        timeout=120,
    )
    assert run.returncode == 0, run.stderr
    assert dict(line.split() for line in run.stdout.splitlines()) == hostile
    assert not (tmp_path / "ran").exists()


def test_a_failed_open_leaves_no_descriptor_open(tmp_path):
    kd.save_dataset(memory(), tmp_path / "x.npz")
    spec = {"columns": {"zzz": {}}, "X": "zzz", "storage": {"backend": "npz-lazy", "path": "x.npz"}}

    def count():
        return len(os.listdir("/proc/self/fd"))  # noqa: PTH208

    before = count()
    for options in ({}, {"split": "none"}, {"dtype": "x"}, {"collate": "x"}):
        for changes in (spec, {"storage": spec["storage"]}):
            with pytest.raises(SpecError):
                kd.load_dataset(
                    changes if options or changes is spec else {"X": "q"} | changes, base=tmp_path, **options
                )
    with pytest.raises(UnknownNameError):
        kd.load_dataset({"storage": spec["storage"], "observation_model": "zzz"}, base=tmp_path)
    assert count() == before


# -- data=


def test_a_spec_with_python_objects_cannot_be_written_but_its_dataset_saved(tmp_path):
    for dataset in (memory(), kd.from_arrays(FP, Y), memory().split("train")):
        with pytest.raises(SpecError, match="Python objects, which a spec file cannot contain; use save_dataset"):
            dataset.spec.to_file(tmp_path / "s.yaml")
    assert list(tmp_path.iterdir()) == []
    spec = kd.save_dataset(memory(), tmp_path / "x.npz")
    spec.to_file(tmp_path / "s.yaml")
    with kd.load_dataset(tmp_path / "s.yaml") as dataset:
        assert_rows(dataset, range(N))


# -- from_arrays


def test_several_columns_come_as_a_mapping():
    dataset = kd.from_arrays({"edges": EDGES, "fp": FP}, {"a": Y, "b": Y * 2})
    X, y = dataset[3]
    assert list(X) == ["edges", "fp"] and list(y) == ["a", "b"]
    assert dataset.spec.X == ("edges", "fp") and dataset.spec.y == ("a", "b")
    one = kd.from_arrays({"fp": FP})
    assert list(one[0][0]) == ["fp"] and one[0][1] is None


def test_a_name_that_no_column_may_have_is_replaced_by_a_valid_one():
    dataset = kd.from_arrays({"a b": FP, "a.b": FP})
    assert dataset.spec.X == ("a_b", "a_b_2") and list(dataset[0][0]) == ["a_b", "a_b_2"]
    same = pickle.loads(pickle.dumps(dataset))
    assert list(same[0][0]) == ["a_b", "a_b_2"]


def test_columns_may_not_repeat():
    with pytest.raises(SpecError, match="X and y both have a column 'a'"):
        kd.from_arrays({"a": FP}, {"a": Y})
    with pytest.raises(SpecError, match="X is an empty list"):
        kd.from_arrays({}, Y)


@pytest.mark.parametrize(
    ("splits", "found"),
    [
        (
            {"a": [0, 2], "b": np.array([1]), "c": range(3, 5), "d": torch.tensor([6])},
            {"a": [0, 2], "b": [1], "c": [3, 4], "d": [6]},
        ),
        ({"a": (5, 4)}, {"a": [5, 4]}),
        ({"a": []}, {"a": []}),
        ({}, {}),
        (None, {}),
    ],
    ids=str,
)
def test_splits_are_row_numbers_by_name(splits, found):
    dataset = kd.from_arrays(FP, Y, splits=splits)
    assert {name: rows.tolist() for name, rows in dataset.indices.items()} == found


@pytest.mark.parametrize("rows", [np.array([0, 2]), torch.tensor([0, 2]), pd.Index([0, 2]), pd.Series([0, 2])], ids=str)
def test_rows_of_a_split_in_a_spec_may_be_an_array(rows):
    spec = {"X": "X", "splits": {"train": {"rows": rows}}, "storage": {"backend": "in-memory"}}
    assert kd.load_dataset(spec, data={"X": FP}).indices["train"].tolist() == [0, 2]


@pytest.mark.parametrize("dtype", [torch.float32, np.float32, np.dtype("float32")], ids=repr)
def test_a_dtype_may_be_an_object(dtype):
    spec = {"columns": {"X": {"dtype": dtype}}, "X": "X", "storage": {"backend": "in-memory"}}
    assert kd.load_dataset(spec, data={"X": np.ones(3)})[0][0].dtype == torch.float32
    for given in (dtype, {"X": dtype}):
        assert (
            kd.load_dataset(spec | {"columns": None}, data={"X": np.ones(3)}, dtype=given)[0][0].dtype == torch.float32
        )


def test_splits_may_be_computed():
    dataset = kd.from_arrays(FP, splits={"ratios": {"train": 0.7, "test": 0.3}, "seed": 4})
    order = np.random.Generator(np.random.PCG64(4)).permutation(N)
    assert dataset.indices["train"].tolist() == order[:5].tolist()
    assert dataset.indices["test"].tolist() == order[5:].tolist()


@pytest.mark.parametrize(
    ("splits", "kind"),
    [
        ({"a": [0, 1], "b": [1]}, SplitError),
        ({"a": [N]}, SplitError),
        ({"a": [-1]}, SplitError),
        ({"a": [0, 0]}, SplitError),
        ({"a": np.array([0.0, 1.0])}, SpecError),
        ({"a": np.array([[0, 1]])}, SpecError),
        ({"a": np.arange(N) % 3 == 0}, SpecError),
        ({"a": ["0"]}, SpecError),
        ({"a": 1}, SpecError),
        ({"a": np.array(1)}, SpecError),
        ({"a": None}, SpecError),
        ([[0], [1]], SpecError),
        (5, SpecError),
    ],
    ids=str,
)
def test_invalid_splits_are_refused(splits, kind):
    with pytest.raises(kind):
        kd.from_arrays(FP, splits=splits)


# -- paths, files of any suffix, and backends of the caller


@pytest.fixture
def home(tmp_path, monkeypatch):
    np.savez(tmp_path / "x.npz", X=np.arange(4.0), y=np.arange(4.0))
    np.save(tmp_path / "rows.npy", np.array([2]))
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.setenv("DATA", str(tmp_path))
    monkeypatch.chdir(tmp_path)
    return tmp_path


@pytest.mark.parametrize("folder", ["~", "$DATA", "${DATA}"])
def test_home_and_variables_are_replaced_in_every_path(home, folder):
    spec = {"X": "X", "storage": {"backend": "npz-lazy", "path": f"{folder}/x.npz"}}
    spec["splits"] = {"test": {"file": f"{folder}/rows.npy"}}
    (home / "spec.json").write_text(json.dumps(spec))
    for given in (f"{folder}/x.npz", Path(folder) / "x.npz", spec, f"{folder}/spec.json"):
        with kd.load_dataset(given) as dataset:
            assert len(dataset) == 4
    assert kd.load_dataset(spec, base="/").indices["test"].tolist() == [2]
    kd.convert(f"{folder}/x.npz", f"{folder}/copy.npz")
    assert (home / "copy.npz").exists()
    assert list(kd.load_datasets({"datasets": f"{folder}/x.*"})) == ["x"]
    (home / "sub").mkdir()
    kd.DatasetSpec.parse(spec).to_file(f"{folder}/sub/spec.yaml")
    assert len(kd.load_dataset(home / "sub" / "spec.yaml")) == 4


def test_an_existing_name_with_a_dollar_or_a_tilde_is_used_as_it_is(home):
    for name in ("$DATA.npz", "~x.npz", "cost$5.npz"):
        (home / "x.npz").rename(home / name)
        with kd.load_dataset(name) as dataset:
            assert len(dataset) == 4
        (home / name).rename(home / "x.npz")


def test_a_variable_that_is_not_set_is_named(home, monkeypatch):
    monkeypatch.delenv("NOWHERE", raising=False)
    spec = {"X": "X", "storage": {"backend": "npz-lazy", "path": "$NOWHERE/x.npz"}}
    for given in ("$NOWHERE/x.npz", "${NOWHERE}/spec.yaml", spec):
        with pytest.raises(SpecError, match="contains the environment variable 'NOWHERE', which is not set"):
            kd.load_dataset(given)
    with pytest.raises(SpecError, match="'NOWHERE'"):
        kd.convert("x.npz", "$NOWHERE/y.npz")


@pytest.mark.parametrize("url", ["s3://bucket/x.parquet", "https://host/x.npz", "hf://datasets/x/spec.yaml"])
def test_a_URL_is_refused_with_the_backend_that_reads_one(url):
    for given in (url, {"storage": {"backend": "npz-lazy", "path": url}}, Path(url)):
        with pytest.raises(SpecError, match="is a URL, and only the backend 'zarr' reads from one"):
            kd.load_dataset(given)


@pytest.mark.parametrize("suffix", [".txt", ".smi", ".dat", ""])
def test_a_backend_that_is_named_opens_a_file_of_any_suffix(tmp_path, suffix):
    path = tmp_path / f"table{suffix}"
    path.write_text("a\tb\n1\t2\n3\t4\n")
    with kd.load_dataset(path, backend="csv", delimiter="\t", X="a", y="b") as dataset:
        assert dataset[1][0] == 3
    with pytest.raises(SpecError, match='backend="csv"'):
        kd.load_dataset(path)


@pytest.mark.parametrize(
    ("name", "said"),
    [
        ("x.sdf", "SDMolSupplier"),
        ("x.jsonl", r"pandas.read_json\('.*x.jsonl', lines=True\)"),
        ("x.npy", "numpy.load"),
        ("x.xlsx", "pandas.read_excel"),
        ("x.json.gz", "decompress it first"),
        ("x.parq", r"backend='parquet-awkward'"),
        ("x.pkl", "if you trust it"),
        ("x.feather", "pyarrow.feather.read_table"),
        ("x.h5ad", "hdf5"),
        ("x.nc", "hdf5"),
    ],
)
def test_a_file_of_another_kind_is_refused_with_the_way_from_there(tmp_path, name, said):
    (tmp_path / name).touch()
    with pytest.raises(SpecError, match=said):
        kd.load_dataset(tmp_path / name)


def test_a_backend_that_is_not_installed_is_named_by_its_package(tmp_path, monkeypatch):
    monkeypatch.setattr(registry, "list_backends", dict)
    monkeypatch.setattr(registry, "backend_for", lambda suffix: None)
    for name, package in {"x.h5": "hdf5", "x.zarr": "zarr", "x.lance": "lance"}.items():
        (tmp_path / name).mkdir()
        with pytest.raises(SpecError, match=f"pip install kinoml-data-{package}"):
            kd.load_dataset(tmp_path / name)


def test_a_table_is_refused_with_the_reasons_if_no_column_can_be_copied(tmp_path):
    (tmp_path / "t.csv").write_text("smiles,pIC50\n")
    with pytest.raises(SpecError, match=r"no column can be read:\n.*'smiles': there are no rows.*\n.*'pIC50': there"):
        kd.convert(tmp_path / "t.csv", tmp_path / "t.npz")


def test_a_folder_is_called_a_folder(tmp_path):
    with pytest.raises(SpecError, match=r"is a folder; name a file in it, or the backend that opens folders"):
        kd.load_dataset(tmp_path)
    (tmp_path / "state.json").touch()
    with pytest.raises(SpecError, match=r"datasets.load_from_disk\(.*\).to_parquet"):
        kd.load_dataset(tmp_path)


class Squares(Backend):
    name = "squares"
    count: int

    def open(self, columns):
        return ArrayStorage({"n": np.arange(self.count), "square": np.arange(self.count) ** 2})


def test_a_backend_object_needs_no_registration(tmp_path):
    spec = {"X": "n", "y": "square", "storage": {"backend": "npz-lazy", "path": "not-there.npz"}}
    for dataset in (
        kd.load_dataset(spec, backend=Squares(count=4)),
        kd.load_dataset(Squares(count=4), X="n", y="square"),
    ):
        assert dataset[3] == (3, 9)
        assert [y.tolist() for _, y in dataset.as_dataloader(batch_size=2, num_workers=1)] == [[0, 1], [4, 9]]
        assert pickle.loads(pickle.dumps(dataset))[2] == (2, 4)
        with pytest.raises(SpecError, match="Python objects"):
            dataset.spec.to_file(tmp_path / "spec.yaml")
        kd.save_dataset(dataset, tmp_path / "saved.npz", overwrite=True)
        assert kd.load_dataset(tmp_path / "saved.npz")[3] == (3, 9)


def test_a_backend_object_takes_its_options_itself():
    with pytest.raises(SpecError, match="'count': give options to the backend object itself"):
        kd.load_dataset(Squares(count=4), count=5, X="n")
    with pytest.raises(SpecError, match="is neither a name nor a Backend object"):
        kd.load_dataset({"storage": {"backend": "in-memory"}}, backend=Squares)
    with pytest.raises(SpecError, match="does not take data="):
        kd.load_dataset(Squares(count=4), data={"n": [1]}, X="n")


def test_a_moved_file_is_named_with_the_spec_and_the_key(tmp_path):
    (tmp_path / "s.yaml").write_text("X: X\nstorage: {backend: npz-lazy, path: moved.npz}\n")
    with pytest.raises(StoreNotFoundError, match=r"s\.yaml: storage: .*moved\.npz"):
        kd.load_dataset(tmp_path / "s.yaml")


def test_ids_that_are_numbers_and_bits_that_are_not_packed_say_what_to_write():
    spec = {"columns": {"x": {"dtype": "float64"}, "id": {"dtype": "str"}}, "X": "x", "meta": ["id"]}
    with pytest.raises(SpecError, match=r"write `dtype: int64`, or in the backend csv `dtypes: \{id: str\}`"):
        kd.load_dataset(spec | {"storage": {"backend": "in-memory"}}, data={"x": [1.0], "id": [5]})
    spec = {"columns": {"x": {"dtype": "bool", "shape": [16], "packbits": True}}, "X": "x"}
    with pytest.raises(SpecError, match=r"leave `packbits` out, .* `packed: true`"):
        kd.load_dataset(spec | {"storage": {"backend": "in-memory"}}, data={"x": np.zeros((2, 16), np.uint8)})


def test_a_misspelled_argument_of_the_loader_is_recognized(stored):
    with pytest.raises(SpecError, match="unknown argument 'batchsize'; did you mean 'batch_size' of as_dataloader"):
        kd.load_dataset(stored / "x.npz", batchsize=8)


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ({"name": "${nope}"}, "Interpolation key 'nope' not found"),
        ({"name": "${oc.env:NO_SUCH_VARIABLE}"}, "NO_SUCH_VARIABLE"),
        ({"name": "???"}, "Missing mandatory value: name"),
    ],
)
def test_an_omegaconf_config_that_cannot_be_resolved_is_a_spec_error(change, said):
    omegaconf = pytest.importorskip("omegaconf")
    config = omegaconf.OmegaConf.create({"storage": {"backend": "in-memory"}, "X": "X", **change})
    with pytest.raises(SpecError, match=re.escape(said)):
        kd.load_dataset(config)
    with pytest.raises(SpecError, match="is not a spec"):
        kd.load_dataset(omegaconf.OmegaConf.create(["a"]))


def test_a_mapping_that_contains_itself_is_a_spec_error():
    spec = {"X": "X"}
    spec["storage"] = spec
    with pytest.raises(SpecError, match="does a mapping contain itself"):
        kd.load_dataset(spec)


def test_a_process_that_ends_by_an_error_prints_nothing_else(tmp_path):
    kd.save_dataset(kd.from_arrays(np.arange(3.0)), tmp_path / "a.npz")
    program = f"import kinoml_data as kd\nd = kd.load_dataset({str(tmp_path / 'a.npz')!r})\n1 / 0\n"
    run = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=False)
    assert run.stderr.splitlines()[-1] == "ZeroDivisionError: division by zero", run.stderr


@pytest.mark.parametrize("backend", ["csv", "parquet-awkward", "in-memory", "featurize-on-access", "joined"])
@pytest.mark.parametrize("order", [("wide", "narrow"), ("narrow", "wide")])
def test_two_columns_made_from_one_stored_column_have_their_own_dtypes(tmp_path, backend, order):
    table = pd.DataFrame({"x": [16777217.25, 0.1], "n": [0, 1]})
    table.to_csv(tmp_path / "t.csv", index=False)
    table.to_parquet(tmp_path / "t.parquet")
    stored, data, options = {"backend": "csv", "path": str(tmp_path / "t.csv")}, None, {}
    if backend == "parquet-awkward":
        stored = {"backend": backend, "path": str(tmp_path / "t.parquet")}
    elif backend == "in-memory":
        stored, data = {"backend": backend}, {"x": table["x"].to_numpy()}
    elif backend == "featurize-on-access":
        stored = {"backend": backend, "source": stored, "featurizer": {"inputs": ["n"]}}
        options = {"featurizer": np.float64}
    elif backend == "joined":
        table = {"backend": "parquet-awkward", "path": str(tmp_path / "t.parquet")}
        stored = {
            "backend": backend,
            "source": stored,
            "tables": {"n": {"source": table, "key": "n", "columns": {"f": "x"}}},
        }
    dtypes = {"wide": "float64", "narrow": "float32"}
    columns = {name: {"dtype": dtypes[name], "stored_as": "x"} for name in order}
    if backend in ("featurize-on-access", "joined"):
        columns["f"] = {"dtype": "float64"}
    dataset = kd.load_dataset({"columns": columns, "X": list(columns), "storage": stored}, data=data, **options)
    X, _ = dataset[:]
    assert X["wide"].tolist() == [16777217.25, 0.1]
    assert X["narrow"].tolist() == [16777218.0, float(np.float32(0.1))]


def test_the_error_for_an_unknown_column_knows_all_columns(tmp_path):
    (tmp_path / "t.csv").write_text("mw,logp,pIC50\n1,2,5\n")
    with pytest.raises(SpecError, match="unknown column 'pic50'; did you mean 'pIC50'"):
        kd.load_dataset(tmp_path / "t.csv", X="mw", y="pic50")
    with pytest.raises(SpecError, match="unknown column 'zzz'; known: mw, logp, pIC50"):
        kd.load_dataset(tmp_path / "t.csv", X="mw", y="zzz")
