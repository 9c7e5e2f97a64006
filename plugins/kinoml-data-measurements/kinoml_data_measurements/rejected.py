"""The list of the rows that `measurements` rejects."""

from __future__ import annotations

import csv
import os
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import kinoml_data as kd
from kinoml_data.errors import SpecError, count_of
from kinoml_data.plugin import replacing

COLUMNS = ("row", "ids", "value", "unit", "kind", "relation", "reason")


def rejected(spec: kd.DatasetSpec | Mapping[str, Any] | str | os.PathLike[str], **objects: Any) -> list[dict[str, Any]]:
    """Every row that the backend `measurements` of a spec rejects, in the order of its source.

    Args:
        spec: a `DatasetSpec`, a mapping, or a spec file. The backend may be the source of another one.
        objects: the arguments `data` and `featurizer` of `load_dataset`, if the spec needs them.

    Returns:
        One dictionary per row: `row`, its number in the source, counted from 0; `ids`, its values in the columns of
        `by` and `conditions`; its raw `value`, `unit`, `kind` and `relation` as texts, which are empty if they are
        missing; and the `reason`.

    Raises:
        SpecError: the spec is not valid, or does not contain the backend once.
        KinomlDataError: the table cannot be opened; see `load_dataset`.
    """
    if isinstance(spec, Mapping):
        spec = kd.DatasetSpec.parse(spec)
    elif not isinstance(spec, kd.DatasetSpec):
        spec = kd.DatasetSpec.from_file(spec)
    storages = list(_measurements(spec.to_mapping()["storage"]))
    if len(storages) != 1:
        raise SpecError(
            f"the spec contains {count_of(len(storages), 'storage')} with the backend 'measurements', not 1"
        )
    storage = storages[0] | {"rows": "rejected"}
    described = kd.DatasetSpec.parse({"X": COLUMNS[0], "meta": COLUMNS[1:], "storage": storage}, spec.base, spec.root)
    with kd.load_dataset(described, **objects) as dataset:
        columns = [dataset.column(name) for name in COLUMNS]
        columns[0] = columns[0].tolist()
        return [dict(zip(COLUMNS, row, strict=True)) for row in zip(*columns, strict=True)]


def write_rejected(
    spec: kd.DatasetSpec | Mapping[str, Any] | str | os.PathLike[str], path: str | os.PathLike[str], **objects: Any
) -> int:
    """Write the list of the rejected rows to a CSV file, which replaces an existing one; returns their number.

    The arguments and the errors are those of `rejected`.

    Raises:
        StoreWriteError: the operating system failed to write; an existing file is unchanged.
    """
    rows = rejected(spec, **objects)
    with replacing(Path(path), overwrite=True) as temporary, temporary.open("w", newline="", encoding="utf-8") as file:
        writer = csv.DictWriter(file, COLUMNS)
        writer.writeheader()
        writer.writerows(rows)
    return len(rows)


def _measurements(value: Any) -> Iterator[dict[str, Any]]:
    """The storages with the backend `measurements` in a part of a spec."""
    if isinstance(value, dict):
        if value.get("backend") == "measurements":
            yield value
        for part in value.values():
            yield from _measurements(part)
    elif isinstance(value, list):
        for part in value:
            yield from _measurements(part)
