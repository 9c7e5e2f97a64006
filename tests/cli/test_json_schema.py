"""The JSON Schema of spec files accepts what can be loaded, and refuses what cannot."""

from __future__ import annotations

import re
from collections.abc import Callable
from typing import Any

import pytest

import kinoml_data as kd
from kinoml_data.cli.json_schema import json_schema
from kinoml_data.registry import BUILT_IN
from kinoml_data.spec.array import DTYPES
from kinoml_data.spec.parts import FORMS
from tests.builders import Size


def test_schema_knows_the_options_of_every_backend() -> None:
    schema = json_schema()
    assert schema["$schema"].endswith("2020-12/schema")
    assert schema["properties"]["storage"] == {"$ref": "#/$defs/Backend"}
    named = {}
    for choice in schema["$defs"]["Backend"]["anyOf"]:
        found = resolve(schema, choice)
        named[found["properties"]["backend"]["const"]] = found
    assert set(kd.list_backends()) == set(named)
    for name, cls in kd.list_backends().items():
        assert set(named[name]["properties"]) == {"backend", *cls.model_fields}
        assert named[name]["additionalProperties"] is False and "backend" in named[name]["required"]
        assert named[name]["description"]
    lazy = named["npz-lazy"]["properties"]
    assert lazy["verify"]["enum"] == ["first", "always", "never"] and lazy["verify"]["description"]
    assert {"$ref": "#/$defs/Backend"} in named["in-memory"]["properties"]["source"]["anyOf"]


def test_every_reference_in_the_schema_has_a_definition() -> None:
    schema = json_schema()
    seen = [0]

    def walk(value: Any) -> None:
        if isinstance(value, dict):
            if "$ref" in value:
                assert resolve(schema, value)
                seen[0] += 1
            for item in value.values():
                walk(item)
        elif isinstance(value, list):
            for item in value:
                walk(item)

    walk(schema)
    assert seen[0] > 20


GOOD: dict[str, Any] = {
    "format": 1,
    "columns": {
        "edge_index": {"dtype": "int64", "shape": [2, "*"], "stored_as": "X0"},
        "atoms": {"dtype": "float32", "shape": [None, 33], "cast": "exact"},
        "pIC50": {"dtype": "float32"},
    },
    "X": ["edge_index", "atoms"],
    "y": "pIC50",
    "storage": {"backend": "npz-lazy", "path": "egfr.npz"},
    "splits": {"train": "idx_train", "val": {"range": [0, 5]}, "test": {"rows": [7]}, "later": {"file": "later.npy"}},
    "observation_model": {"name": "pIC50", "substrate_conc": 1.0e-6},
    "collate": {"edge_index": "list", "atoms": {"form": "pad", "value": 0}},
}


@pytest.mark.parametrize(
    "change",
    [
        {},
        {"columns": None, "X": "a"},
        {"observation_model": "pKd", "collate": "packed"},
        {"observation_model": None, "splits": None, "collate": None},
        {"observation_model": {"name": "percent-displacement", "inhibitor_conc": {"column": "conc"}, "value": "p"}},
        {"observation_model": {"name": "mixed", "kind": "k", "models": {"pIC50": {"substrate_conc": 1}, "pKd": {}}}},
        {"splits": {"ratios": {"train": 0.5, "test": 0.5}, "seed": 3}},
        {"storage": {"backend": "in-memory", "source": {"backend": "csv", "path": "x.csv", "delimiter": ";"}}},
        {"storage": {"backend": "in-memory", "source": {"backend": "in-memory", "source": None}}},
    ],
)
def test_the_schema_accepts_what_a_spec_accepts(change: dict[str, Any]) -> None:
    spec = GOOD | change
    kd.DatasetSpec.parse(spec)
    schema = json_schema()
    assert valid(schema, schema, spec)


@pytest.mark.parametrize(
    "change",
    [
        {"format": 2},
        {"colums": {}},
        {"columns": {"a": {"dtype": "float"}}},
        {"columns": {"a": {"shape": ["?"]}}},
        {"columns": {"a b": {"dtype": "int64"}}},
        {"X": 3},
        {"storage": {"backend": "npz-lazi", "path": "x"}},
        {"storage": {"backend": "npz-lazy"}},
        {"storage": {"backend": "npz-lazy", "path": "x", "verify": "sometimes"}},
        {"storage": {"backend": "in-memory", "source": {"backend": "nope"}}},
        {"splits": {"train": {"range": [0]}}},
        {"splits": {"ratios": {"train": "half"}}},
        {"observation_model": "pIC5O"},
        {"observation_model": "percent-displacement"},
        {"observation_model": {"name": "pIC50", "substrate": 1}},
        {"observation_model": {"name": "pIC50", "substrate_conc": {"colum": "conc"}}},
        {"observation_model": {"name": "mixed", "kind": "k", "models": {"pIC50": 1}}},
        {"collate": "stack"},
        {"collate": {"atoms": {"form": "pad", "fill": 0}}},
    ],
)
def test_the_schema_refuses_what_cannot_be_loaded(change: dict[str, Any]) -> None:
    schema = json_schema()
    assert not valid(schema, schema, GOOD | change)


COMPUTED: dict[str, tuple[Any, bool]] = {
    "a name": ("size", True),
    "options": ({"name": "size", "inputs": ["a"], "outputs": {"size": "n"}}, True),
    "a list": (["size", {"name": "size", "inputs": ["a", "b"]}], True),
    "a function": ({"inputs": ["a"], "outputs": {"n": {"dtype": "int64"}}}, True),
    "none": (None, True),
    "another name": ("sizes", False),
    "an unknown option": ({"name": "size", "nbits": 5}, False),
    "no inputs": ({"name": "size", "inputs": []}, False),
    "one input as text": ({"name": "size", "inputs": "a"}, False),
    "a wrong dtype": ({"outputs": {"n": {"dtype": "int"}}}, False),
    "an empty list": ([], False),
}


@pytest.mark.parametrize(("featurizer", "is_valid"), COMPUTED.values(), ids=COMPUTED)
def test_the_schema_knows_featurizers_and_their_inputs_and_outputs(
    featurizer: Any, is_valid: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(BUILT_IN["featurizer"], "size", Size)
    schema = json_schema()
    storage = {"backend": "featurize-on-access", "source": {"backend": "csv", "path": "a.csv"}}
    assert valid(schema, schema, GOOD | {"storage": {**storage, "featurizer": featurizer}}) == is_valid


def test_the_schema_lists_dtypes_and_forms() -> None:
    schema = json_schema()
    assert schema["$defs"]["Array"]["properties"]["dtype"]["enum"] == list(DTYPES)
    forms = schema["properties"]["collate"]["anyOf"][0]["enum"]
    assert forms[: len(FORMS)] == list(FORMS)  # then those of plugins that are installed


def resolve(schema: dict[str, Any], value: dict[str, Any]) -> dict[str, Any]:
    found: dict[str, Any] = schema["$defs"][value["$ref"].removeprefix("#/$defs/")]
    return found


TYPES: dict[str, tuple[type, ...]] = {
    "object": (dict,),
    "array": (list,),
    "string": (str,),
    "integer": (int,),
    "number": (int, float),
    "boolean": (bool,),
    "null": (type(None),),
}


def valid(root: dict[str, Any], schema: dict[str, Any], value: Any) -> bool:
    """As much of a JSON Schema validator as these schemas need; an unknown keyword fails the test."""
    fields: dict[str, Any] = value if isinstance(value, dict) else {}
    items: list[Any] = value if isinstance(value, list) else []
    for keyword, said in schema.items():
        ok = True
        if keyword == "$ref":
            ok = valid(root, resolve(root, schema), value)
        elif keyword == "type":
            ok = isinstance(value, TYPES[said]) and isinstance(value, bool) <= (said == "boolean")
        elif keyword in ("anyOf", "oneOf"):
            count = sum(valid(root, choice, value) for choice in said)
            ok = count == 1 if keyword == "oneOf" else count > 0
        elif keyword in ("enum", "const"):
            ok = value in (said if keyword == "enum" else [said])
        elif keyword == "properties":
            ok = all(valid(root, said[key], item) for key, item in fields.items() if key in said)
        elif keyword == "additionalProperties":
            rest = [item for key, item in fields.items() if key not in schema.get("properties", {})]
            ok = all(valid(root, said, item) for item in rest) if isinstance(said, dict) else said or not rest
        elif keyword == "required":
            ok = not isinstance(value, dict) or set(said) <= set(value)
        elif keyword == "pattern":
            ok = not isinstance(value, str) or re.search(said, value) is not None
        elif keyword == "propertyNames":
            ok = all(valid(root, said, key) for key in fields)
        elif keyword == "prefixItems":
            ok = all(valid(root, *pair) for pair in zip(said, items, strict=False))
        elif keyword == "items":
            ok = all(valid(root, said, item) for item in items)
        elif keyword in ("minItems", "minLength"):
            ok = not isinstance(value, (list, str)) or len(value) >= said
        elif keyword == "minProperties":
            ok = not isinstance(value, dict) or len(value) >= said
        elif keyword in ("maxItems", "maxLength"):
            ok = not isinstance(value, (list, str)) or len(value) <= said
        elif keyword in ("minimum", "exclusiveMinimum"):
            ok = not isinstance(value, (int, float)) or (value >= said if keyword == "minimum" else value > said)
        else:
            assert keyword in ("$schema", "$defs", "title", "description", "default", "format"), keyword
        if not ok:
            return False
    return True


def test_a_class_whose_options_have_no_schema_accepts_any_options(monkeypatch: pytest.MonkeyPatch) -> None:
    class Odd(kd.ObservationModel):
        name = "odd"
        convert: Any = None
        function: Callable[[int], int]

        def predict(self, dG_over_kT: Any, **conditions: Any) -> Any:
            return dG_over_kT

    monkeypatch.setitem(BUILT_IN["observation model"], "odd", Odd)
    schema = json_schema()
    assert valid(schema, schema, GOOD | {"observation_model": {"name": "odd", "function": "anything"}})
    assert not valid(schema, schema, GOOD | {"observation_model": {"name": "even", "function": "anything"}})
