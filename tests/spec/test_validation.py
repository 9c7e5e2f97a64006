"""What a spec may contain, and the errors that list all of its problems with their paths."""

import json
from pathlib import Path
from types import MappingProxyType

import numpy as np
import pytest

from kinoml_data import Array, DatasetSpec
from kinoml_data.spec.parts import RangeSplit
from tests.spec.specs import SMALL, refused, spec


@pytest.mark.parametrize(
    ("mapping", "expected"),
    [
        (SMALL | {"colums": {}}, "colums: unknown key 'colums'; did you mean 'columns'?"),
        (SMALL | {"split": {}}, "split: unknown key 'split'; did you mean 'splits'?"),
        (SMALL | {"observation-model": "pKd"}, "did you mean 'observation_model'?"),
        (SMALL | {"storge": {}}, "did you mean 'storage'?"),
        (SMALL | {"x": "a"}, "x: unknown key 'x'; did you mean 'X'?"),
        (SMALL | {"self": 1}, "self: unknown key 'self'"),
        (SMALL | {"zzz": 1}, "known: format, name, columns, X, y, meta, storage, splits, observation_model, collate"),
        (SMALL | {"columns": {"a": {"dtpye": "int8"}}}, "columns.a.dtpye: unknown key 'dtpye'; did you mean 'dtype'?"),
        (SMALL | {"columns": {"a": {"self": 1}}}, "columns.a.self: unknown key 'self'"),
        (SMALL | {"splits": {"t": {"range": [0, 1], "x": 1}}}, "splits.t.x: unknown key 'x'"),
        (SMALL | {"splits": {"ratios": {"a": 1.0}, "sed": 1}}, "splits.sed: unknown key 'sed'; did you mean 'seed'?"),
        (
            SMALL | {"splits": {"folds": 5, "test": 0.1}},
            "labels, by, order, apart, seed; shares belong in `ratios: {test",
        ),
        (SMALL | {"collate": {"a": {"form": "pad", "vlue": 1}}}, "collate.a.vlue: unknown key 'vlue'"),
    ],
)
def test_an_unknown_key_is_refused_with_its_path_and_a_suggestion(mapping, expected):
    assert expected in refused(mapping)


def test_a_key_in_the_way_of_python_is_just_an_unknown_key():
    for key in ("self", "cls", "data", "__init__", "model_config", "_base", "_root", "_objects"):
        assert f"unknown key {key!r}" in refused(SMALL | {key: 1})


def test_all_problems_are_listed_at_once_each_with_its_path():
    said = refused(
        {
            "format": 2,
            "nme": "x",
            "columns": {"a": {"dtype": "flaot32", "shape": [-1.5], "cst": "safe"}, "rows": {"dtype": "int"}},
            "X": 5,
            "y": {"a": 1},
            "meta": "id",
            "storage": {"path": "x"},
            "splits": {"file": {"range": [0, "x"]}, "name": {"rows": [True]}, "two": {"rows": [0], "range": [0, 1]}},
            "observation_model": {"substrate_conc": 1},
            "collate": {"each": {"form": 1}, "all": {"form": "pad", "value": "0"}},
        }
    ).split("; ")
    expected = [
        "format: ",
        "nme: unknown key 'nme'",
        "columns.a.dtype: unknown dtype 'flaot32'",
        "columns.a.shape.0: ",
        "columns.a.cst: unknown key 'cst'",
        "columns.rows.dtype: unknown dtype 'int'",
        "X: give the name of one column",
        "y: give the name of one column",
        "meta: ",
        "storage.backend: this key is missing",
        "splits.file.range.1: ",
        "splits.name.rows.0: ",
        "splits.two: a split is ",
        "observation_model.name: this key is missing",
        "collate.each.form: ",
        "collate.all.value: ",
    ]
    for text in expected:
        assert any(line.startswith(text) for line in said), (text, said)


@pytest.mark.parametrize(
    ("changes", "path"),
    [
        ({"format": True}, "format"),
        ({"format": 1.0}, "format"),
        ({"format": "1"}, "format"),
        ({"format": 0}, "format"),
        ({"format": 2}, "format"),
        ({"format": None}, "format"),
        ({"name": 5}, "name"),
        ({"name": True}, "name"),
        ({"columns": []}, "columns"),
        ({"columns": {"a": "float32"}}, "columns.a"),
        ({"columns": {"a": None}}, "columns.a"),
        ({"X": 1}, "X"),
        ({"X": True}, "X"),
        ({"X": ["a", 1]}, "X.1"),
        ({"X": {"a": "a"}}, "X"),
        ({"y": 1}, "y"),
        ({"y": [None]}, "y.0"),
        ({"meta": "a"}, "meta"),
        ({"meta": [1]}, "meta.0"),
        ({"meta": None}, "meta"),
        ({"storage": "npz-lazy"}, "storage"),
        ({"storage": None}, "storage"),
        ({"storage": {}}, "storage.backend"),
        ({"storage": {"backend": None}}, "storage.backend"),
        ({"storage": {"backend": 5}}, "storage.backend"),
        ({"splits": []}, "splits"),
        ({"splits": "idx"}, "splits"),
        ({"splits": {"a": None}}, "splits.a"),
        ({"splits": {"a": 5}}, "splits.a"),
        ({"splits": {"a": [0, 1]}}, "splits.a"),
        ({"splits": {"a": {}}}, "splits.a"),
        ({"splits": {"a": {"range": [0, 1], "rows": [1]}}}, "splits.a"),
        ({"splits": {"a": {"range": [0]}}}, "splits.a.range.1"),
        ({"splits": {"a": {"range": [0, 1, 2]}}}, "splits.a.range"),
        ({"splits": {"a": {"range": [False, True]}}}, "splits.a.range.0"),
        ({"splits": {"a": {"range": ["0", "12"]}}}, "splits.a.range.0"),
        ({"splits": {"a": {"range": [0, 1.5]}}}, "splits.a.range.1"),
        ({"splits": {"a": {"range": "0-5"}}}, "splits.a.range"),
        ({"splits": {"a": {"rows": ["12"]}}}, "splits.a.rows.0"),
        ({"splits": {"a": {"rows": [True]}}}, "splits.a.rows.0"),
        ({"splits": {"a": {"rows": [1.0]}}}, "splits.a.rows.0"),
        ({"splits": {"a": {"rows": [[1]]}}}, "splits.a.rows.0"),
        ({"splits": {"a": {"rows": 3}}}, "splits.a.rows"),
        ({"splits": {"a": {"file": 3}}}, "splits.a.file"),
        ({"splits": {"ratios": {"a": "0.5", "b": "0.5"}}}, "splits.ratios.a"),
        ({"splits": {"ratios": {"a": True}}}, "splits.ratios.a"),
        ({"splits": {"ratios": {"a": -0.5, "b": 1.5}}}, "splits.ratios.a"),
        ({"splits": {"ratios": {"a": 0.5, "b": 0.4}}}, "split ratios must sum to 1; these sum to 0.9"),
        ({"splits": {"ratios": {}}}, "splits need `ratios`, `folds` or `labels`"),
        ({"splits": {"ratios": [0.8, 0.2]}}, "splits.ratios"),
        ({"splits": {"ratios": {"a": 1.0}, "seed": True}}, "splits.seed"),
        ({"splits": {"ratios": {"a": 1.0}, "seed": "0"}}, "splits.seed"),
        ({"splits": {"ratios": {"a": 1.0}, "seed": 1.0}}, "splits.seed"),
        ({"splits": {"ratios": {"a": 1.0}, "seed": -1}}, "splits.seed"),
        ({"splits": {"ratios": {"a": 1.0}, "seed": None}}, "splits.seed"),
        ({"observation_model": 5}, "observation_model"),
        ({"observation_model": {}}, "observation_model.name"),
        ({"observation_model": {"name": 1}}, "observation_model.name"),
        ({"collate": 5}, "collate"),
        ({"collate": ["pad"]}, "collate"),
        ({"collate": {"a": 5}}, "collate.a"),
        ({"collate": {"a": {"value": 0}}}, "collate.a.form"),
        ({"collate": {"a": {"form": "pad", "value": True}}}, "collate.a.value"),
        ({"collate": {"a": {"form": "pad", "value": "0"}}}, "collate.a.value"),
        ({"collate": {"a": {"form": "pad", "value": [0]}}}, "collate.a.value"),
    ],
    ids=lambda value: json.dumps(value)[:50],
)
def test_values_of_another_type_are_refused_instead_of_converted(changes, path):
    assert path in refused(SMALL | changes)


@pytest.mark.parametrize(
    "nan", [float("nan"), float("inf"), -float("inf"), np.float32("nan"), np.float64("inf")], ids=str
)
@pytest.mark.parametrize(
    "changes",
    [
        lambda nan: {"storage": {"backend": "x", "threshold": nan}},
        lambda nan: {"storage": {"backend": "x", "deep": [{"a": nan}]}},
        lambda nan: {"splits": {"ratios": {"a": nan, "b": 1.0}}},
        lambda nan: {"observation_model": {"name": "pIC50", "substrate_conc": nan}},
        lambda nan: {"collate": {"a": {"form": "pad", "value": nan}}},
    ],
)
def test_nan_and_infinity_are_refused_everywhere(changes, nan):
    assert "NaN or infinity" in refused(SMALL | changes(nan))


def test_the_words_nan_and_infinity_are_just_words():
    found = spec(name="NaNoparticles", storage={"backend": "x", "note": "to Infinity"})
    assert found.name == "NaNoparticles" and found.storage.options == {"note": "to Infinity"}


@pytest.mark.parametrize(
    "value", [object(), print, np.zeros(2), Array, lambda: 0], ids=lambda value: type(value).__name__
)
def test_a_python_object_is_refused_and_the_way_in_named(value):
    said = refused(SMALL | {"storage": {"backend": "x", "thing": value}})
    assert "a spec cannot contain" in said and "load_dataset(data=, featurizer=)" in said


def test_python_values_become_the_plain_values_of_a_file():
    found = spec(
        storage={"backend": "x", "path": Path("a/b"), "n": np.int64(3), "f": np.float32(0.5), "b": np.bool_(True)},
        splits={"a": {"rows": [np.int64(1), np.uint8(2)]}, "b": RangeSplit(range=(3, 4))},
        columns={"a": Array("float32")},
    )
    assert found == spec(
        storage={"backend": "x", "path": "a/b", "n": 3, "f": 0.5, "b": True},
        splits={"a": {"rows": [1, 2]}, "b": {"range": [3, 4]}},
    )


def test_circular_and_very_deep_values_are_refused():
    loop = {}
    loop["again"] = loop
    assert "Circular" in refused(SMALL | {"storage": {"backend": "x", "loop": loop}})
    deep = []
    for _ in range(2000):
        deep = [deep]
    refused(SMALL | {"storage": {"backend": "x", "deep": deep}})


def test_text_that_is_no_unicode_is_refused():
    assert "surrogates" in refused(SMALL | {"name": "\ud800"})


@pytest.mark.parametrize("key", [0, np.int64(0), "0"])
def test_an_int_as_a_key_is_its_text(key):
    assert DatasetSpec.parse({"columns": {key: {}}, "X": "0", "storage": {"backend": "x"}}).columns == {"0": Array()}


def test_an_error_about_5000_columns_is_short():
    columns = {f"descriptor_{i}": {} for i in range(5000)}
    assert len(refused({"columns": columns, "X": "??", "storage": {"backend": "x"}})) < 600


def test_any_mapping_will_do_inside_a_spec():
    storage = MappingProxyType({"backend": "npz-lazy", "path": "a.npz", "more": MappingProxyType({"a": np.int8(1)})})
    spec = DatasetSpec(storage=storage)
    assert spec == DatasetSpec(storage={"backend": "npz-lazy", "path": "a.npz", "more": {"a": 1}})


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"splits": {"train": 0.8, "test": 0.2}}, "for random splits, write `splits: {ratios: {train: 0.8, ...}}`"),
        ({"splits": {"ratio": {"train": 1.0}}}, "unknown key 'ratio'; did you mean 'ratios'?"),
        ({"splits": {"a": {"rows": ["0"]}}}, "splits.a.rows.0: must be an integer, not '0'"),
        ({"splits": {"a": {"range": 5}}}, "splits.a.range: must be a list, not 5"),
        ({"name": 5}, "name: must be text, not 5"),
        ({"columns": 5}, "columns: must be a mapping, not 5"),
        ({"storage": "x.npz"}, "storage: must be a mapping, not 'x.npz'"),
        ({"storage": None}, "storage: must be a mapping, not None"),
        ({"observation_model": {}}, "observation_model.name: this key is missing"),
        ({"splits": {"ratios": {"a": -1.0, "b": 2.0}}}, "must be greater than or equal to 0, not -1.0"),
    ],
    ids=str,
)
def test_messages_are_in_the_words_of_a_spec(changes, said):
    message = refused(SMALL | changes)
    assert said in message
    assert "Input should" not in message and "Field required" not in message
