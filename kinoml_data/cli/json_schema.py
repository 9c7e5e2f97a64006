"""The JSON Schema of a spec file, for editors: with the options of everything that is installed.

It says more than the models alone: backends, featurizers and observation models are looked up by name, and
a name that is not installed is an error, as it is when the dataset is loaded.
"""

from __future__ import annotations

import inspect
import re
from collections.abc import Callable, Mapping
from typing import Any

from pydantic import BaseModel

from kinoml_data.registry import COLLATE_FORM, registry
from kinoml_data.spec.array import DTYPES, NAME_PATTERN, Array
from kinoml_data.spec.dataset_spec import DatasetSpec
from kinoml_data.spec.parts import FORMS, CollateForm

DIALECT = "https://json-schema.org/draft/2020-12/schema"
STORAGE, FEATURIZER, OBSERVATION = "storage", "featurizer", "observation_model"
Schema = dict[str, Any]


def json_schema() -> Schema:
    """A JSON Schema (2020-12) that accepts the spec files this installation can load.

    Plugins are imported. One that cannot be loaded is left out; a class whose options have no schema is
    accepted with any options.
    """
    defs: Schema = {}
    for kind, key, label in (("backend", "backend", STORAGE), ("featurizer", "name", FEATURIZER)):
        # Whatever a backend looks up by name is a featurizer or another backend.
        defs[label] = _choice(kind, key, defs, {"Backend": STORAGE, "Named": FEATURIZER})
    models = _choice("observation model", "name", defs, {})
    schema = DatasetSpec.model_json_schema(ref_template="#/$defs/{model}")
    defs |= schema.pop("$defs")
    for unused in ("Component", "Named"):
        defs.pop(unused, None)
    _column(defs["Array"])
    _form(defs["CollateForm"])
    bare = [name for name, options in _options("observation model").items() if not options.get("required")]
    fields = schema["properties"]
    fields["columns"] = _or_null({**_mapping_of("Array"), "propertyNames": {"pattern": NAME_PATTERN}})
    fields["storage"] = {"$ref": f"#/$defs/{STORAGE}"}
    fields["observation_model"] = _or_null({"enum": sorted(bare)}, models)
    each = {"type": "object", "additionalProperties": {"anyOf": [{"enum": list(FORMS)}, _ref("CollateForm")]}}
    fields["collate"] = _or_null({"enum": [*FORMS, *sorted(registry().all(COLLATE_FORM))]}, each)
    fields["datasets"] = _several(fields)
    required = [*schema.pop("required", ()), "storage"]
    one_or_several = [{"required": sorted({*required})}, {"required": ["datasets"]}]
    return {"$schema": DIALECT, **schema, "anyOf": one_or_several, "title": "kinoml_data dataset spec", "$defs": defs}


def _several(fields: Schema) -> Schema:
    """The key `datasets`, for `load_datasets`: a glob, or by name what differs from what stands beside it."""
    said = {**fields, "storage": {"anyOf": [fields["storage"], {"type": "object", "required": ["path"]}]}}
    each = {"type": "object", "properties": said, "additionalProperties": False}
    about = "Several datasets: by name what differs from what stands beside, or a glob of data files."
    return {"description": about, "anyOf": [{"type": "string"}, {"type": "object", "additionalProperties": each}]}


def _choice(kind: str, key: str, defs: Schema, known: Mapping[str, str]) -> Schema:
    """`anyOf` over all registered classes of a kind, told apart by `key`; their definitions go to `defs`."""
    names = []
    for name, options in _options(kind).items():
        label = f"{kind.replace(' ', '-')}.{name}"
        for inner, definition in options.pop("$defs", {}).items():
            if inner not in known:
                defs[f"{label}.{inner}"] = _renamed(definition, label, known)
        options = _renamed(options, label, known)
        options["properties"] = {key: {"const": name}, **options.get("properties", {})}
        options["required"] = [key, *options.get("required", ())]
        defs[label] = options
        names.append(label)
    return {"anyOf": [_ref(label) for label in names]} if names else {"not": {}}


def _options(kind: str) -> dict[str, Schema]:
    """The schema of each registered class of a kind by its name."""
    found: dict[str, Schema] = {}
    for name, (cls, _) in sorted(registry().all(kind).items()):
        assert issubclass(cls, BaseModel)
        try:
            found[name] = _with_docs(cls, cls.model_json_schema())
        except Exception:  # somebody else's field may have no schema at all; its author sees that elsewhere
            found[name] = {"type": "object", "description": _summary(cls)}
    return found


def _renamed(schema: Schema, label: str, known: Mapping[str, str]) -> Schema:
    """`schema` with its references pointing to the shared definitions, or to its own under `label`."""

    def rename(reference: str) -> str:
        inner = reference.removeprefix("#/$defs/")
        return f"#/$defs/{known.get(inner, f'{label}.{inner}')}"

    found: Schema = _walk(schema, lambda key, value: rename(value) if key == "$ref" else value)
    return found


def _walk(value: Any, change: Callable[[str, Any], Any]) -> Any:
    if isinstance(value, dict):
        return {key: _walk(change(key, item), change) for key, item in value.items()}
    return [_walk(item, change) for item in value] if isinstance(value, list) else value


def _column(schema: Schema) -> None:
    schema.update(_with_docs(Array, schema))
    fields = schema["properties"]
    fields["dtype"] |= {"enum": list(DTYPES)}
    fields["shape"]["items"] = {"anyOf": [{"type": "integer", "minimum": 0}, {"const": "*"}, {"type": "null"}]}


def _form(schema: Schema) -> None:
    schema.update(_with_docs(CollateForm, schema))
    schema["properties"]["form"] |= {"enum": list(FORMS)}


def _with_docs(cls: type, schema: Schema) -> Schema:
    """`schema` with the class's docstring cut up: its first part, and what it says of each field."""
    section = inspect.cleandoc(cls.__doc__ or "").partition("\nAttributes:\n")[2]
    said = re.findall(r"^    ([\w, ]+): (.*(?:\n {5,}.*)*)", section, re.MULTILINE)
    texts = {name: " ".join(text.split()) for names, text in said for name in names.split(", ")}
    fields = {
        name: {"description": texts[name], **field} if name in texts else field
        for name, field in schema.get("properties", {}).items()
    }
    return {**schema, "description": _summary(cls), "properties": fields}


def _summary(cls: type) -> str:
    return inspect.cleandoc(cls.__doc__ or "").partition("\n\n")[0]


def _ref(name: str) -> Schema:
    return {"$ref": f"#/$defs/{name}"}


def _mapping_of(name: str) -> Schema:
    return {"type": "object", "additionalProperties": _ref(name)}


def _or_null(*schemas: Schema) -> Schema:
    return {"anyOf": [*schemas, {"type": "null"}], "default": None}
