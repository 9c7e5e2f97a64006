"""The whole contract for the author of a backend: `Backend` opens, `Storage` reads."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Annotated, Any, ClassVar

import numpy as np
from numpy.typing import NDArray
from pydantic import AfterValidator, BeforeValidator, SerializeAsAny, Strict, ValidationInfo, model_serializer

from kinoml_data.columns import Columns
from kinoml_data.errors import SpecError, UnsupportedStoreError, quoted
from kinoml_data.spec.array import Array, Model


class Storage(ABC):
    """An open dataset: named columns of rows, read a batch at a time.

    A storage belongs to the process that opened it. It is never pickled and needs no care for fork,
    unless `shareable` says that its buffers may be shared.

    Attributes:
        columns: what is really stored, by name.
        arrays: named arrays that are not per row, such as split indices.
        spec: the spec embedded in the store, as JSON, where there is one.
        identity: a text that changes when the content changes, where that can be told cheaply.
        checked: True if checksums cover all that is read, so that damage is an error.
        shareable: True if it is immutable buffers that may cross into worker processes.
    """

    columns: Mapping[str, Array]
    arrays: Mapping[str, NDArray[Any]] = {}
    spec: str | None = None
    identity: str | None = None
    checked: bool = False
    shareable: bool = False

    @abstractmethod
    def __len__(self) -> int:
        """The number of rows."""

    @abstractmethod
    def read(self, rows: NDArray[np.int64], columns: Sequence[str]) -> Columns:
        """The given rows of the given columns.

        Args:
            rows: row numbers in `[0, len)`, in any order; they may repeat, and may be none.
            columns: names out of `self.columns`; no other is to be read.

        Returns:
            A column each, row i of it being `rows[i]`: an array `(len(rows), *shape)`, a `Ragged` where
            the shape is ragged, the UTF-8 bytes as `Ragged` for strings. New, writable arrays.

        This is called from several threads at once and answers the same every time.
        """

    def read_row(self, row: int, columns: Sequence[str]) -> Mapping[str, NDArray[Any]]:
        """One row, each column as a new array in its own shape. Optional, where there is a shorter way than `read`."""
        return {name: np.array(column[0]) for name, column in self.read(np.array([row]), columns).items()}

    def shapes(self, column: str) -> NDArray[np.int64] | None:
        """int64 `(rows, ndim)` of a ragged column without reading its values; None if not known."""
        return None

    def close(self) -> None:  # noqa: B027 - nothing to do is a good default
        """Let go of files. Called once; nothing is read afterwards."""


class Backend(Model, ABC):
    """A way to store columns. Its fields are its options in the config.

    Attributes:
        name: what a spec calls it.
        suffixes: bare files it opens, such as `(".npz",)`; it then has an option `path`.
    """

    name: ClassVar[str]
    suffixes: ClassVar[tuple[str, ...]] = ()

    @abstractmethod
    def open(self, columns: Mapping[str, Array] | None) -> Storage:
        """Open for reading. Import heavy packages here, not at the top of the module.

        Args:
            columns: what the spec asks for, by the name in the store; None to find out from the store.

        Raises:
            StoreNotFoundError, CorruptStoreError, UnsupportedStoreError: as their names say.
        """

    def write(
        self,
        columns: Mapping[str, Array],
        batches: Iterable[Columns],
        *,
        arrays: Mapping[str, NDArray[Any]] | None = None,
        spec: str | None = None,
        overwrite: bool = False,
    ) -> None:
        """Write all rows, in order, or leave everything as it was. Optional.

        Args:
            columns: what to store.
            batches: the rows, each batch holding every column.
            arrays: named arrays that are not per row.
            spec: JSON to embed, given back as `Storage.spec`.
            overwrite: replace an existing store; without it one is a `StoreExistsError`.

        Raises:
            StoreExistsError, StoreWriteError, UnsupportedStoreError: as their names say.
        """
        raise UnsupportedStoreError(f"backend {self.name!r} cannot write")

    def checking(self) -> Backend:
        """The same with checksums compared and nothing decoded before it is read, for `verify`. Optional."""
        return self

    @model_serializer(mode="wrap")
    def _named(self, handler: Any) -> dict[str, Any]:
        options: dict[str, Any] = handler(self)
        return {"backend": self.name} | options


def _resolve(value: Any, info: ValidationInfo) -> Backend:
    if isinstance(value, Backend):
        return value
    if not isinstance(value, Mapping) or "backend" not in value:
        raise ValueError(f"{quoted(value)} is not a backend; write {{backend: name, ...options}}")
    if not info.context or "resolve" not in info.context:
        raise ValueError("give a Backend here; names are looked up only in a spec")
    found: Backend = info.context["resolve"](value, info.context)
    return found


AnyBackend = Annotated[SerializeAsAny[Backend], BeforeValidator(_resolve)]
"""A field that holds another backend: `{backend: name, ...options}` in the config."""


def _located(path: Path, info: ValidationInfo) -> Path:
    context = info.context or {}
    full = path if path.is_absolute() else Path(context.get("base") or Path.cwd()) / path
    check_inside(full, context.get("root"))
    return full


def check_inside(path: Path, root: Path | None) -> None:
    """Refuse a path outside `root`, symbolic links followed; a root of None allows every path.

    Raises:
        SpecError: naming both.
    """
    if root is not None and not path.resolve().is_relative_to(root.resolve()):
        raise SpecError(f"the path {quoted(str(path))} leaves the dataset's folder {quoted(str(root))}")


def _usable(value: Any) -> Any:
    if isinstance(value, str) and (not value or "\0" in value):
        raise ValueError("a path is not empty and has no NUL")
    return value


DataPath = Annotated[Path, Strict(False), BeforeValidator(_usable), AfterValidator(_located)]
"""A field that holds a path, relative to the spec file. Name it `path` or `..._path`: `to_file` moves those."""
