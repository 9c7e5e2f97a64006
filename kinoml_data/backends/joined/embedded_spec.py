"""The spec of joined tables, made of the specs that are embedded in them."""

from __future__ import annotations

import json
from collections.abc import Sequence
from typing import Any

from kinoml_data.backends.joined.storage import Join
from kinoml_data.contracts.backend import Storage
from kinoml_data.errors import SpecError, quoted
from kinoml_data.layouts.flat_arrays import stored_splits
from kinoml_data.spec import config
from kinoml_data.spec.array import Array
from kinoml_data.spec.dataset_spec import DatasetSpec
from kinoml_data.spec.roles import named_X, named_y

STORAGE = {"storage": {"backend": "joined"}}  # completes the embedded spec of a part, which names no storage


def embedded_spec(source: Storage, joins: Sequence[Join]) -> str | None:
    """The joined dataset's spec as JSON, from the specs that are embedded in the source and in the tables.

    It is the source's spec without columns of row numbers, and the columns of the tables with the roles of the tables'
    specs. Columns of ids are meta. It is None if neither the source nor a table contains a spec. If an embedded spec is
    not valid, that spec is returned unchanged, and the caller rejects it.

    Raises:
        SpecError: two columns have the same name.
    """
    embedded: dict[str | None, dict[str, Any]] = {}
    for part in (source, *(join.storage for join in joins)):
        try:
            embedded[part.spec] = _embedded(part)
        except SpecError:
            return part.spec
    if not any(embedded):
        return None
    own = embedded[source.spec] if source.spec is not None else _embedded(source)
    keys = {join.index: join.key for join in joins}
    stored = {name: array.stored_as or name for name, array in own["columns"].items()}
    ids = [name for name in stored if keys.get(stored[name]) is not None]
    remaining = {name: array for name, array in own["columns"].items() if name in ids or stored[name] not in keys}
    joined: dict[str, Array] = {}
    X: list[str] = []
    for join in joins:
        table = embedded[join.storage.spec] if join.storage.spec is not None else _embedded(join.storage)
        names = {array.stored_as or name: name for name, array in table["columns"].items()}
        for name, theirs in join.columns.items():
            array = table["columns"].get(names.get(theirs), join.storage.columns[theirs])
            joined[name] = array.model_copy(update={"stored_as": None})
            X += [name] if names.get(theirs) in table["X"] else []
    if repeated := sorted(joined.keys() & remaining.keys()):
        raise SpecError(
            f"the source and a table both have a column {quoted(repeated[0])}; rename the table's in `columns`"
        )
    X += [name for name in own["X"] if name in remaining and name not in ids]
    y = [name for name in own["y"] if name in remaining and name not in ids]
    meta = [name for name in dict.fromkeys((*joined, *own["meta"], *ids)) if name in {**joined, **remaining}]
    spec_dict = {
        **own,
        "columns": joined | remaining,
        "X": _role(X),
        "y": _role(y),
        "meta": [name for name in meta if name not in (*X, *y)],
    }
    spec_dict.pop("fingerprint", None)
    if isinstance(spec_dict.get("collate"), dict):
        spec_dict["collate"] = {name: form for name, form in spec_dict["collate"].items() if name in (*X, *y)}
    spec = DatasetSpec.parse({key: value for key, value in spec_dict.items() if value is not None})
    return json.dumps(spec.to_mapping())


def _role(names: list[str]) -> str | list[str] | None:
    return names[0] if len(names) == 1 else names or None


def _embedded(storage: Storage) -> dict[str, Any]:
    """The spec of the source or of a table as a mapping, in which all roles are sequences.

    Without an embedded spec, it has the columns and the splits of the store, and the roles that their names imply.
    """
    if storage.spec is not None:
        spec = DatasetSpec.parse(config.parse(storage.spec.encode(), ".json") | STORAGE)
    else:
        X, y = named_X(storage.columns), named_y(storage.columns)
        parts = {"columns": dict(storage.columns), "X": X, "y": y, "splits": stored_splits(storage.arrays)}
        spec = DatasetSpec.parse({key: part for key, part in parts.items() if part is not None} | STORAGE)
    roles = {"X": spec.X_names, "y": spec.y_names, "meta": spec.meta}
    return {**spec.to_mapping(), "columns": dict(spec.columns or {}), **roles}
