"""`import kinoml_data` is cheap: what is heavy comes when it is needed."""

import json
import os
import subprocess
import sys

import pytest

import kinoml_data as kd

# Each of these takes longer to import than this library does, or is somebody else's.
HEAVY = ("rdkit", "matplotlib", "typer", "rich", "pandas", "awkward", "pyarrow", "omegaconf", "scipy", "sklearn")
SCRIPT = """
import json, sys
import torch
before = set(sys.modules)
import kinoml_data
imported = set(sys.modules) - before
import numpy as np
dataset = kinoml_data.from_arrays([np.zeros(2), np.zeros(3)], np.zeros(2))
next(iter(dataset.as_dataloader(batch_size=2, num_workers=0)))
kinoml_data.save_dataset(dataset, sys.argv[1])
kinoml_data.load_dataset(sys.argv[1]).close()
used = set(sys.modules) - before
# What is installed brings its modules along; the names are those of the distributions that have our entry points.
from importlib.metadata import entry_points
plugins = [entry_point.module for entry_point in entry_points(group="kinoml_data")]
json.dump({"imported": sorted(imported), "used": sorted(used), "plugins": plugins}, sys.stdout)
"""


@pytest.fixture(scope="module")
def modules(tmp_path_factory):
    folder = tmp_path_factory.mktemp("import")
    info = folder / "site" / "someone-1.0.dist-info"
    info.mkdir(parents=True)
    (info / "METADATA").write_text("Metadata-Version: 2.1\nName: someone\nVersion: 1.0\n")
    (info / "entry_points.txt").write_text("[kinoml_data]\nsomeone = someone_elses\n")
    (folder / "site" / "someone_elses.py").write_text("")
    environment = {k: v for k, v in os.environ.items() if k != "KINOML_DATA_PLUGINS"}
    path = [str(folder / "site"), *filter(None, [environment.get("PYTHONPATH")])]
    run = subprocess.run(
        [sys.executable, "-c", SCRIPT, str(folder / "x.npz")],
        env=environment | {"PYTHONPATH": os.pathsep.join(path)},
        capture_output=True,
        text=True,
        timeout=120,
    )
    assert run.returncode == 0, run.stderr
    return json.loads(run.stdout)


def top_level(names):
    return {name.split(".")[0] for name in names}


@pytest.mark.parametrize("name", HEAVY)
def test_importing_kinoml_data_imports_no_heavy_package(modules, name):
    assert name not in top_level(modules["imported"])


@pytest.mark.parametrize("name", ["rdkit", "matplotlib", "typer", "pandas", "awkward", "omegaconf"])
def test_using_arrays_and_npz_files_imports_no_heavy_package(modules, name):
    assert name not in top_level(modules["used"])


def test_importing_the_library_and_using_built_ins_imports_no_plugin(modules):
    assert "someone_elses" in modules["plugins"]
    assert top_level(modules["plugins"]) & top_level(modules["used"]) == set()


def test_importing_the_library_does_not_import_the_command_or_the_suite(modules):
    late = {"kinoml_data.cli", "kinoml_data.testing", "kinoml_data.layouts.arrow"}
    assert late & set(modules["imported"]) == set()


def test_every_public_name_exists_and_has_a_docstring():
    for name in (*kd.__all__, "__version__"):
        assert getattr(kd, name) is not None
    for name in kd.__all__:
        assert getattr(kd, name).__doc__, name


def test_the_promised_names_are_public():
    promised = {
        *(
            "load_dataset",
            "from_arrays",
            "convert",
            "save_dataset",
            "list_backends",
            "DatasetSpec",
            "Array",
            "XyDataset",
        ),
        *("Backend", "Storage", "ArrayStorage", "Ragged", "Columns", "DataPath", "AnyBackend", "Featurizer"),
        *("ObservationModel", "hookimpl", "errors", "Packed", "PadMask"),
    }
    assert promised <= set(kd.__all__)


def test_every_error_is_also_a_built_in_one_and_can_be_made_from_one_string():
    import builtins
    import inspect
    import pickle

    found = [c for _, c in inspect.getmembers(kd.errors, inspect.isclass) if issubclass(c, kd.errors.KinomlDataError)]
    assert {c.__name__ for c in found} == {
        *("KinomlDataError", "SpecError", "SplitError", "UnknownNameError", "PluginLoadError", "PluginConflictError"),
        *("StoreNotFoundError", "CorruptStoreError", "UnsafeStoreError", "UnsupportedStoreError", "StoreChangedError"),
        *("StoreReadError", "StoreWriteError", "StoreExistsError", "SampleIndexError", "FeaturizationError"),
    }
    kinds = {
        "SpecError": ValueError,
        "SplitError": ValueError,
        "UnknownNameError": LookupError,
        "PluginLoadError": ImportError,
        "PluginConflictError": ValueError,
        "StoreNotFoundError": FileNotFoundError,
        "CorruptStoreError": ValueError,
        "UnsafeStoreError": ValueError,
        "UnsupportedStoreError": NotImplementedError,
        "StoreChangedError": RuntimeError,
        "StoreReadError": OSError,
        "StoreWriteError": OSError,
        "StoreExistsError": FileExistsError,
        "SampleIndexError": IndexError,
        "FeaturizationError": RuntimeError,
    }
    for kind in found:
        error = kind("one text")  # as torch makes it again from a worker's
        assert str(error) == "one text" and not isinstance(error, KeyError) and not hasattr(error, "message")
        again = pickle.loads(pickle.dumps(error))
        assert type(again) is kind and str(again) == "one text"
        if kind is not kd.errors.KinomlDataError:
            assert issubclass(kind, kinds[kind.__name__])
            assert any(base.__module__ == builtins.__name__ for base in kind.__mro__[1:-3])


def test_quoted_text_is_one_printable_line():
    import numpy as np

    for value in ("a\nb\x1b[31m\0", "x" * 10_000, np.zeros((3, 3)), ["a\n"], 10**4000):
        assert kd.errors.quoted(value).isprintable() and len(kd.errors.quoted(value)) <= 120
        assert kd.errors.one_line(value).isprintable() and len(kd.errors.one_line(value)) <= 400
