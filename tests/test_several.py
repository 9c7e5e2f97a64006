"""Several datasets from one description."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest

import kinoml_data as kd
from kinoml_data.cli.main import main
from kinoml_data.errors import SpecError, StoreNotFoundError

ROWS = {"egfr": 4, "abl1": 3, "src": 5}


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    (tmp_path / "features").mkdir()
    for name, rows in ROWS.items():
        X = [np.full((2, n + 1), n, np.float32) for n in range(rows)]
        np.savez(tmp_path / "features" / f"{name}.npz", **{f"X_s{n}_": x for n, x in enumerate(X)}, y=np.arange(rows))
    return tmp_path


def test_each_file_of_a_glob_is_a_dataset_named_by_its_stem(folder):
    (folder / "all.yaml").write_text('datasets: "features/*.npz"\nsplits: {ratios: {train: 0.5, test: 0.5}, seed: 1}\n')
    found = kd.load_datasets(folder / "all.yaml")
    assert list(found) == ["abl1", "egfr", "src"]
    assert {name: len(dataset) for name, dataset in found.items()} == ROWS
    assert found["src"].split("train").column("y").dtype == found["src"].column("y").dtype
    assert found["src"][2][0].tolist() == [[2, 2, 2], [2, 2, 2]]


def test_options_apply_to_each_of_several_datasets(folder):
    found = kd.load_datasets({"datasets": "features/*.npz"}, base=folder, backend="in-memory", dtype={"X": "float64"})
    assert {dataset.spec.storage.backend for dataset in found.values()} == {"in-memory"}
    assert str(found["abl1"][0][0].dtype) == "torch.float64"


def test_the_storage_beside_a_glob_gives_each_file_its_options(folder):
    said = {"datasets": "features/*.npz", "storage": {"backend": "npz-reopen"}}
    found = kd.load_datasets(said, base=folder)
    assert {dataset.spec.storage.backend for dataset in found.values()} == {"npz-reopen"}


def test_the_storage_beside_named_specs_gives_each_spec_its_options(folder):
    names = {
        "a": {"storage": {"path": "features/abl1.npz"}},
        "b": {"storage": {"path": "features/src.npz", "verify": "first"}},
        "c": {"storage": {"backend": "npz-lazy", "path": "features/src.npz"}},  # the options of another backend
    }
    found = kd.load_datasets({"datasets": names, "storage": {"backend": "npz-reopen", "verify": "always"}}, base=folder)
    said = [(found[name].spec.storage.backend, found[name].spec.storage.options.get("verify")) for name in names]
    assert said == [("npz-reopen", "always"), ("npz-reopen", "first"), ("npz-lazy", None)]
    found = kd.load_datasets({"datasets": {"a": names["a"]}, "storage": {"verify": "always"}}, base=folder)
    assert found["a"].spec.storage.backend == "npz-lazy" and found["a"].spec.storage.options["verify"] == "always"


@pytest.mark.parametrize("path", ["features/abl1.npz", "features/*.npz", "features"])
def test_values_that_do_not_describe_several_datasets_are_refused(folder, path):
    with pytest.raises(SpecError, match=r"is not a spec file; .*'datasets'"):
        kd.load_datasets(folder / path)


@pytest.mark.parametrize("suffix", [".yaml", ".json", ".toml"])
def test_named_specs_share_what_stands_beside_them(folder, suffix):
    said = {
        "y": "y",
        "X": "X",
        "columns": {"X": {"shape": [2, "*"]}, "y": {"dtype": "int64"}},
        "datasets": {
            "big": {"storage": {"path": "features/src.npz"}},
            "small": {"storage": {"path": "features/abl1.npz", "io": "mmap"}, "splits": {"only": {"rows": [2]}}},
        },
    }
    from kinoml_data.spec import config

    text = json.dumps(said) if suffix == ".json" else config.dump(said, suffix)
    (folder / f"both{suffix}").write_text(text)
    found = kd.load_datasets(folder / f"both{suffix}")
    assert [len(dataset) for dataset in found.values()] == [5, 3]
    assert found["small"].split("only")[0][1] == 2 and not found["big"].indices


@pytest.mark.parametrize(
    ("said", "error", "message"),
    [
        ({"storage": {"backend": "in-memory"}}, SpecError, "use load_dataset"),
        ({"datasets": "features/*.pt"}, StoreNotFoundError, "no file matches 'features/\\*.pt'"),
        ({"datasets": {}}, SpecError, "neither"),
        ({"datasets": ["features/abl1.npz"]}, SpecError, "neither"),
        ({"datasets": {"a": "features/abl1.npz"}}, SpecError, "neither"),
        ({"datasets": {"a": {"storage": {"path": "features/none.npz"}}}}, StoreNotFoundError, "datasets.a: .*none.npz"),
        ({"datasets": {"a": {"storage": {"path": "features/abl1.xyz"}}}}, StoreNotFoundError, "datasets.a: "),
        ({"datasets": {"a": {"storge": {}}}}, SpecError, "datasets.a: .*storge"),
        ({"datasets": "features/*.npz", "X": "Z"}, SpecError, "datasets.abl1: .*Z"),
        ({"datasets": "features/*.npz", "storage": "npz-reopen"}, SpecError, "storage: 'npz-reopen' is not a mapping"),
        ({"datasets": {"a": {}}, "storage": None}, SpecError, "storage: None is not a mapping"),
        ({"datasets": {1: {}, "1": {}}}, SpecError, "the name 1 is not a string"),
    ],
)
def test_an_error_of_one_of_several_datasets_contains_the_name_of_the_dataset(folder, said, error, message):
    with pytest.raises(error, match=message):
        kd.load_datasets(said, base=folder)


def test_two_files_of_one_stem_are_refused(folder):
    np.savez(folder / "abl1.npz", X=np.zeros((2, 2)), y=np.zeros(2))
    with pytest.raises(SpecError, match=r"'abl1.npz' and 'features/abl1.npz' would have the same name"):
        kd.load_datasets({"datasets": "**/*.npz"}, base=folder)


def test_datasets_that_were_opened_are_closed_if_a_later_one_fails(folder):
    (folder / "features" / "zap70.npz").write_bytes(b"no archive")
    before = len(list(Path("/proc/self/fd").iterdir()))
    with pytest.raises(kd.errors.CorruptStoreError, match=r"datasets\.zap70"):
        kd.load_datasets({"datasets": "features/*.npz"}, base=folder)
    assert len(list(Path("/proc/self/fd").iterdir())) == before


def test_inspect_shows_each_of_several(folder, capsys):
    (folder / "all.yaml").write_text('datasets: "features/*.npz"\n')
    with pytest.raises(SystemExit) as left:
        main(["inspect", str(folder / "all.yaml")])
    said = capsys.readouterr().out
    assert left.value.code in (0, None) and [said.index(f"\n{name}\n") for name in ("abl1", "egfr", "src")]
    assert said.count("npz-lazy") == 3


@pytest.mark.parametrize(
    ("settings", "said"),
    [
        (["storage.backend=in-memory"], "in-memory over npz-lazy"),
        (["storage.io=mmap"], "io: mmap"),
        (["splits={ratios: {train: 0.5, test: 0.5}, seed: 1}"], "computed, seed 1"),
        (["y=X", "X=y"], "y       X"),
    ],
)
def test_any_key_can_be_set_on_the_command_line(folder, capsys, settings, said):
    words = [word for setting in settings for word in ("--set", setting)]
    with pytest.raises(SystemExit) as left:
        main(["inspect", str(folder / "features" / "egfr.npz"), *words])
    assert left.value.code in (0, None) and said in capsys.readouterr().out


@pytest.mark.parametrize(
    ("setting", "said"),
    [
        ("storage.backend", "KEY=VALUE"),
        ("=1", "KEY=VALUE"),
        ("a..b=1", "KEY=VALUE"),
        ("storge.io=mmap", "unknown key 'storge'"),
        ("storage.oi=mmap", "unknown key 'oi'; known: path, io"),
        ("format.x=1", "which has no keys"),
        ("X=[", "SpecError"),
    ],
)
def test_a_setting_that_makes_no_sense_is_refused(folder, capsys, setting, said):
    with pytest.raises(SystemExit) as left:
        main(["check", str(folder / "features" / "egfr.npz"), "--set", setting])
    assert left.value.code == 1 and said in capsys.readouterr().err
