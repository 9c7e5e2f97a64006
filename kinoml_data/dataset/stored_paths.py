"""The files and folders that a dataset is read from, and their sizes."""

from __future__ import annotations

import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from kinoml_data.files import matches
from kinoml_data.spec import config
from kinoml_data.spec.dataset_spec import CompleteSpec


def stored_paths(spec: CompleteSpec) -> list[Path]:
    """The existing files and folders that the storage of a spec names, its sources and tables included."""
    paths = dict[Path, None]()

    def find(options: Any) -> None:
        if isinstance(options, Mapping):
            if isinstance(path := options.get("path"), str):
                full = spec.base / config.expanded(path, spec.base)
                paths.update(dict.fromkeys([full] if full.exists() else map(Path, matches(full))))
            for value in options.values():
                find(value)

    find(spec.storage.model_dump(mode="json"))
    return list(paths)


def size_of(path: Path) -> int:
    """The number of bytes of a file, or of all files in a folder."""
    if not path.is_dir():
        return path.stat().st_size
    return sum(Path(folder, name).stat().st_size for folder, _, names in os.walk(path) for name in names)
