"""The JSON Schema of a spec file, for editors, with the options of every class that is installed.

A name that is not installed does not match the schema, just as it is an error when the dataset is loaded.
"""

from __future__ import annotations

import inspect
import re
from contextlib import suppress
from typing import Any, Literal

from pydantic import BaseModel, ConfigDict, Field, create_model
from pydantic.json_schema import models_json_schema

from kinoml_data.contracts.backend import Backend
from kinoml_data.registry import COLLATE_FORM, registry
from kinoml_data.spec.array import DTYPES, NAME_PATTERN, Array
from kinoml_data.spec.dataset_spec import DatasetSpec
from kinoml_data.spec.parts import FORMS, BackendRef, CollateForm, FeaturizerRef, NamedRef

DIALECT = "https://json-schema.org/draft/2020-12/schema"
Schema = dict[str, Any]
Variants = dict[type[BaseModel], Any]  # a model to describe, and the class that documents it


def json_schema() -> Schema:
    """A JSON Schema (2020-12) of the spec files that this installation can load.

    Plugins are imported, and broken ones are left out. If the options of a class have no schema, any options match.
    """
    backends, featurizers = _variants("backend", "backend"), _variants("featurizer", "name")
    observation_models = _variants("observation model", "name")
    documented = backends | featurizers | observation_models
    documented |= {cls: cls for cls in (Array, CollateForm, FeaturizerRef)}
    models: list[type[BaseModel]] = [DatasetSpec, Backend, BackendRef, NamedRef, *documented]
    all_refs, schema = models_json_schema([(model, "validation") for model in models], ref_template="#/$defs/{model}")
    refs = {model: ref for (model, _), ref in all_refs.items()}
    defs: Schema = schema["$defs"]

    def definition(model: type[BaseModel]) -> Schema:
        result: Schema = defs[refs[model]["$ref"].removeprefix("#/$defs/")]
        return result

    for model, cls in documented.items():
        _add_docs(definition(model), cls)

    def names_of(variants: Variants) -> Schema:
        """The names that need no options."""
        return {"enum": [c.name for model, c in variants.items() if {*definition(model)["required"]} <= {"name"}]}

    # A field that contains a backend or a featurizer accepts each of those that are installed.
    columns = {key: definition(FeaturizerRef)["properties"][key] for key in ("inputs", "outputs")}
    for model in featurizers:
        definition(model)["properties"] |= columns
    function = {"type": "object", "properties": columns, "additionalProperties": False}
    choices: dict[type[BaseModel], list[Schema]] = {
        Backend: [refs[model] for model in backends],
        FeaturizerRef: [names_of(featurizers), *(refs[model] for model in featurizers), function],
    }
    for model, of_model in choices.items():
        definition(model).clear()
        definition(model).update(_any_of(of_model))
    definition(Array)["properties"]["dtype"]["enum"] = list(DTYPES)
    axis = {"anyOf": [{"type": "integer", "minimum": 0}, {"const": "*"}, {"type": "null"}]}
    definition(Array)["properties"]["shape"]["items"] = axis
    definition(CollateForm)["properties"]["form"]["enum"] = list(FORMS)
    definition(CollateForm)["properties"]["of"] |= {"enum": [*FORMS[:-1], None]}

    root = definition(DatasetSpec)
    fields = root["properties"]
    fields["storage"] = refs[Backend]
    fields["columns"]["anyOf"][0]["propertyNames"] = {"pattern": NAME_PATTERN}
    fields["observation_model"] = _any_of(
        [names_of(observation_models), *(refs[model] for model in observation_models), {"type": "null"}]
    )
    forms = {"enum": [*FORMS, *sorted(registry().all(COLLATE_FORM))]}
    by_column = {"type": "object", "additionalProperties": _any_of([{"enum": list(FORMS)}, refs[CollateForm]])}
    fields["collate"] = _any_of([forms, by_column, {"type": "null"}])
    fields["datasets"] = _several(fields)
    one_or_several = [{"required": sorted({*root.pop("required", ()), "storage"})}, {"required": ["datasets"]}]
    unused = [definition(model) for model in (DatasetSpec, BackendRef, NamedRef)]
    defs = {name: each for name, each in defs.items() if not any(each is one for one in unused)}
    return {"$schema": DIALECT, **root, "anyOf": one_or_several, "title": "kinoml_data dataset spec", "$defs": defs}


def _several(fields: Schema) -> Schema:
    """The schema of the key `datasets`, which `load_datasets` reads."""
    storage = _any_of([fields["storage"], {"type": "object", "required": ["path"]}])
    each = {"type": "object", "properties": {**fields, "storage": storage}, "additionalProperties": False}
    description = (
        "Several datasets: a glob of data files, or for each name the fields that differ from those next to this key."
    )
    return {
        "description": description,
        **_any_of([{"type": "string"}, {"type": "object", "additionalProperties": each}]),
    }


def _variants(kind: str, key: str) -> Variants:
    """For each registered class of a kind, sorted by name: a model of its options, with its name under `key`."""
    return {_variant(name, cls, key): cls for name, (cls, _) in sorted(registry().all(kind).items())}


def _variant(name: str, cls: Any, key: str) -> type[BaseModel]:
    fields: Any = {"registered_name": (Literal[name], Field(alias=key))}
    with suppress(Exception):  # a field of another author's class may have no schema
        variant: type[BaseModel] = create_model(name, __base__=cls, **fields)
        variant.model_json_schema()
        return variant
    return create_model(name, __config__=ConfigDict(extra="allow"), **fields)


def _add_docs(schema: Schema, cls: type) -> None:
    """Describe a class by the first paragraph of its docstring, and its fields by the section `Attributes`."""
    schema["description"] = inspect.cleandoc(cls.__doc__ or "").partition("\n\n")[0]
    docstrings = [inspect.cleandoc(base.__doc__ or "") for base in cls.__mro__]  # fields may be those of a base class
    attributes = "\n".join(text.partition("\nAttributes:\n")[2] for text in docstrings)
    for names, text in re.findall(r"^    ([\w, ]+): (.*(?:\n {5,}.*)*)", attributes, re.MULTILINE):
        for name in names.split(", "):
            if name in schema["properties"]:
                schema["properties"][name].setdefault("description", " ".join(text.split()))


def _any_of(choices: list[Schema]) -> Schema:
    return {"anyOf": choices} if choices else {"not": {}}
