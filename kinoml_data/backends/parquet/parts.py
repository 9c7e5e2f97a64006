"""A folder or a pattern of Parquet files that are the parts of one table."""

from __future__ import annotations

import hashlib
import os
from collections.abc import Iterable, Mapping, Sequence
from contextlib import ExitStack
from glob import has_magic
from pathlib import Path
from typing import Any

from kinoml_data.backends.parquet.container import ParquetContainer
from kinoml_data.errors import StoreNotFoundError, UnsupportedStoreError, one_line, quoted
from kinoml_data.files import matches
from kinoml_data.layouts.arrow_rows import ArrowLayout

SUFFIXES = (".parquet", ".pq", ".parq")


def part_paths(path: Path) -> list[Path] | None:
    """The files that are the parts of a table, in the order of their names; None if the path is that of one file.

    In a folder, files whose names begin with `_` or `.` are not parts, as other programs write notes into them.

    Raises:
        StoreNotFoundError: the folder or the pattern contains no Parquet file.
        OSError: a folder cannot be listed; `open_storage` makes it a `StoreReadError`.
        UnsupportedStoreError: the folder contains folders.
    """
    if path.is_dir():
        inside = sorted(p for p in path.iterdir() if not p.name.startswith(("_", ".")))
        if folders := [p for p in inside if p.is_dir()]:
            raise UnsupportedStoreError(
                f"{quoted(str(path))} contains folders, such as {quoted(folders[0].name)}, whose names may be values "
                "of a column; give a pattern for the files of one table, such as 'folder/**/*.parquet'"
            )
        found = [p for p in inside if p.suffix.lower() in SUFFIXES]
    elif has_magic(str(path)) and not os.path.lexists(path):
        found = [Path(p) for p in matches(path) if Path(p).is_file()]
    else:
        return None
    if not found:
        raise StoreNotFoundError(f"{quoted(str(path))} contains no Parquet file")
    return found


class ParquetParts(ParquetContainer):
    """Several files as one, whose row groups follow one another in the order of the files.

    Args:
        path: the folder or the pattern.
        files: the files.

    Raises:
        UnsupportedStoreError: the files do not have the same columns with the same types, or this library wrote them.
        Exception: whatever opening one of them raises; see `ParquetContainer`.
    """

    def __init__(self, path: Path, files: Sequence[Path]) -> None:
        self.path, self.sealed = path, False
        self._parts: list[ParquetContainer] = []
        with ExitStack() as opened:
            for file in files:
                self._parts.append(ParquetContainer(file))
                opened.callback(self._parts[-1].close)
            self._check()
            opened.pop_all()
        first = self._parts[0]
        self.types, self.refused, self.metadata = first.types, first.refused, first.metadata
        self.groups = [rows for part in self._parts for rows in part.groups]
        self._places = [(part, group) for part in self._parts for group in range(len(part.groups))]
        names = [f"{part.path.name} {part.identity}" for part in self._parts]
        self.identity = hashlib.blake2b("\n".join(names).encode(), digest_size=16).hexdigest()

    def _check(self) -> None:
        first = self._parts[0]
        for part in self._parts:
            if ArrowLayout.claims(part.metadata, part.types):
                raise UnsupportedStoreError(
                    f"{part.path} has splits and a spec of its own; open each file, and join them with "
                    "`torch.utils.data.ConcatDataset(load_datasets(...).values())`"
                )
            differing = [n for n in (*first.types, *part.types) if first.types.get(n) != part.types.get(n)]
            if differing:
                name = differing[0]
                types = [one_line(p.types.get(name, "not there"), 120) for p in (part, first)]
                raise UnsupportedStoreError(
                    f"{part.path}: column {quoted(name)} is {types[0]}, but in {first.path.name} it is {types[1]}; "
                    "the parts of a table need the same columns"
                )

    @property
    def max_readers(self) -> int:
        """See `ParquetContainer`; each file has a part of them."""
        return self._parts[0].max_readers

    @max_readers.setter
    def max_readers(self, count: int) -> None:
        for part in self._parts:
            part.max_readers = max(1, count // len(self._parts))

    def read(self, group: int, columns: Iterable[str], start: int = 0, stop: int | None = None) -> dict[str, list[Any]]:
        part, group_of_part = self._places[group]
        return part.read(group_of_part, columns, start, stop)

    def group_sizes(self, columns: Iterable[str], widths: Mapping[str, int] | None = None) -> list[int]:
        names = list(columns)
        return [size for part in self._parts for size in part.group_sizes(names, widths)]

    def close(self) -> None:
        for part in self._parts:
            part.close()
