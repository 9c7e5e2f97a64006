"""The whole contract for the author of a backend: `Backend` opens and writes, `Storage` reads.

Three methods make a backend: `Backend.open`, `Storage.__len__` and `Storage.read`. A backend that writes adds
`Backend.write`. Appending, streaming and asynchronous reads are not part of the contract.

A folder of `.npy` files, one per column, is a backend in five lines::

    class NpyFolder(Backend):
        name = "npy-folder"
        path: DataPath

        def open(self, columns):
            return ArrayStorage({file.stem: np.load(file, mmap_mode="r") for file in self.path.glob("*.npy")})
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any, ClassVar

import numpy as np
from numpy.typing import NDArray
from pydantic import AfterValidator, BeforeValidator, SerializeAsAny, Strict, ValidationInfo, model_serializer

from kinoml_data.columns import Columns, owned
from kinoml_data.contracts.blocks import Blocks
from kinoml_data.contracts.featurizer import Featurizer
from kinoml_data.errors import SpecError, UnsupportedStoreError, quoted
from kinoml_data.spec import config
from kinoml_data.spec.array import Array, Model
from kinoml_data.spec.parts import FeaturizerRef


class Storage(ABC):
    """An open dataset: named columns of rows, read a batch at a time. A context manager that closes itself.

    A storage belongs to the process that opened it. Unless `shareable` is True, it is never pickled and does
    not have to work in a forked process.

    Attributes:
        columns: the stored columns, by name.
        unreadable: the stored columns that cannot be read, each with the reason and the way out. A backend fills it
            when it is opened without `columns`; a column that a spec names is an error instead.
        indexes: those of the columns that another program stored as an index of its rows, which is neither X nor y.
        arrays: named arrays that are not per row, such as split indices.
        spec: the spec embedded in the store, as JSON; None if there is none.
        identity: a text that changes when the content changes; None if the backend cannot tell cheaply.
        has_checksums: True if checksums cover everything that is read, so that damage is always an error.
        shareable: True if the storage consists of immutable buffers that worker processes may share.
        devices: the device of each column that is to be kept on a device for reading, such as `{"graph": "cuda"}`.
        blocks: which rows are decoded together; None if a row can be read by itself. `as_dataloader(shuffle=True)` then
            decodes each block once per epoch.
    """

    columns: Mapping[str, Array]
    unreadable: Mapping[str, str] = {}
    indexes: Collection[str] = ()
    arrays: Mapping[str, NDArray[Any]] = {}
    spec: str | None = None
    identity: str | None = None
    has_checksums: bool = False
    shareable: bool = False
    devices: Mapping[str, str] = {}
    blocks: Blocks | None = None

    @abstractmethod
    def __len__(self) -> int:
        """The number of rows."""

    @abstractmethod
    def read(self, rows: NDArray[np.int64], columns: Sequence[str]) -> Columns:
        """Read some rows of some columns.

        Several threads may call this at once, and the same arguments always give the same result.

        Args:
            rows: int64 `(n,)`, row numbers in `[0, len(self))`, in any order; a number may repeat, and n may be 0.
            columns: names from `self.columns`; no other column may be read.

        Returns:
            One entry per name, whose row i is row `rows[i]` of the store: an array `(n, *shape)`, or a `Ragged` if
            the shape is ragged; strings are a `Ragged` of their UTF-8 bytes. The arrays are new and writable.

        Raises:
            SpecError: a value is missing, and the column is not declared with `missing`; or it does not fit a dtype
                that the backend itself converts to.
            CorruptStoreError: the bytes that were read are not the ones that were written.
            StoreChangedError: the store was altered or replaced after it was opened.
            StoreReadError: the operating system failed to read.
        """

    def read_row(self, row: int, columns: Sequence[str]) -> Mapping[str, NDArray[Any]]:
        """Read one row, each column as a new array in its own shape; raises the errors of `read`.

        Override this if there is a shorter way than `read`.
        """
        return {name: np.array(column[0]) for name, column in self.read(np.array([row]), columns).items()}

    def loaded(self, columns: Sequence[str]) -> Storage:
        """This storage, made ready for many reads of these columns in any order; raises the errors of `read`.

        A backend that decodes large parts of a store at once overrides this to keep them in memory. If it returns
        another storage, that one contains only these columns, and this one has been closed.
        """
        return self

    def shapes(self, column: str) -> NDArray[np.int64] | None:
        """int64 `(rows, ndim)`: the shape of every row of a ragged column; None if that needs reading the values."""
        return None

    def keys(self, column: str) -> NDArray[Any] | None:
        """Integers `(rows,)`: for each row, the number of its distinct value; None if rows share nothing.

        The numbers begin at 0. Rows with one number have the same value, bit for bit; rows with different numbers may
        have the same value, too. With keys, one row per number is read in each batch. Columns whose rows share values
        in the same way return the same array object, so that a batch looks up its numbers once for all of them.
        """
        return None

    def computations(self, rows: NDArray[np.int64], columns: Sequence[str]) -> Iterator[Any]:
        """What featurizers have to compute for some rows of some columns, which `convert` distributes to workers.

        A storage that wraps another one returns that of the other, for the rows and columns that it would read there.
        """
        return iter(())

    def row_arrays(self) -> Mapping[str, NDArray[Any]]:
        """The large arrays that were computed for all rows, such as offsets, by any names; they are read-only.

        Worker processes share them: a worker that has opened the store passes the arrays of the process that started it
        to `share_row_arrays`. The arrays depend only on the content of the store.
        """
        return {}

    def share_row_arrays(self, arrays: Mapping[str, NDArray[Any]]) -> None:  # noqa: B027 - there may be none
        """Use these arrays in place of the storage's own, and of those that it would compute later.

        The arrays of `row_arrays()` are among them, with the same values.
        """

    def batches(self, columns: Sequence[str] | None = None, size: int = 1024) -> Iterator[Columns]:
        """All rows in order, `size` at a time, of some columns or of all; raises the errors of `read`."""
        names = list(self.columns if columns is None else columns)
        for start in range(0, len(self), size):
            yield self.read(np.arange(start, min(start + size, len(self))), names)

    def facts(self) -> Sequence[tuple[str, str]]:
        """What `kinoml-data inspect` shows in addition to the columns: pairs of a label and a short text."""
        return ()

    def close(self) -> None:  # noqa: B027 - a storage without open files has nothing to close
        """Close files and connections. The storage is not used afterwards; a second call does nothing."""

    def __enter__(self) -> Storage:
        return self

    def __exit__(self, *_: Any) -> None:
        self.close()


class Backend(Model, ABC):
    """A way to store columns. Its fields are its options in a spec.

    The class variables declare what the backend can do. `convert` reads them before it reads any row, `kinoml-data
    backends` prints them, and the conformance suite tests the backend accordingly.

    `kinoml-data verify` opens a backend with the option `verify` set to "first", if it has such a field, so that every
    checksum is compared. It does the same to every backend among the fields.

    Attributes:
        name: the name that a spec uses.
        suffixes: the suffixes of bare files that the backend opens, such as `(".npz",)`; it then has a field `path`.
        can_write: True if the backend defines `write`.
        can_overwrite: False if `write` refuses `overwrite=True`.
        keeps_arrays: False if `write` does not store `arrays`.
        keeps_spec: False if `write` does not store `spec`.
        keeps_keys: True if `write` stores the distinct values of a column once, together with the key of each row.
        survives_fork: False if a storage cannot be opened in a process forked from one that used the backend.
        unsupported_dtypes: the dtypes that `write` refuses.
    """

    name: ClassVar[str]
    suffixes: ClassVar[tuple[str, ...]] = ()
    can_write: ClassVar[bool] = False
    can_overwrite: ClassVar[bool] = True
    keeps_arrays: ClassVar[bool] = True
    keeps_spec: ClassVar[bool] = True
    keeps_keys: ClassVar[bool] = False
    survives_fork: ClassVar[bool] = True
    unsupported_dtypes: ClassVar[tuple[str, ...]] = ()

    @abstractmethod
    def open(self, columns: Mapping[str, Array | None] | None) -> Storage:
        """Open the store for reading. Import heavy packages here, not at the top of the module.

        Nothing in a column that is not asked for may raise an error. Values are decoded later, in `Storage.read` or
        `Storage.loaded`.

        Args:
            columns: the columns that are asked for, by their names in the store: each as the spec declares it, or None
                if its dtype and shape are those of the store. If the whole argument is None, the backend finds out
                which columns there are, and lists those that it cannot read in `Storage.unreadable`.

        Raises:
            StoreNotFoundError: there is no store.
            CorruptStoreError: the store is damaged.
            UnsafeStoreError: opening the store would run code, leave its folder or take unbounded memory.
            UnsupportedStoreError: the store, or a column that is asked for, uses a feature that the backend does not
                read.
            StoreReadError: the operating system failed to read.
            SpecError: an option is wrong, or none of `columns` is in the store.
        """

    def write(
        self,
        columns: Mapping[str, Array],
        batches: Iterable[Columns],
        *,
        arrays: Mapping[str, NDArray[Any]] | None = None,
        spec: str | None = None,
        overwrite: bool = False,
        check: Callable[[Storage], object] | None = None,
    ) -> None:
        """Write all rows in order, or leave everything unchanged. Optional; set `can_write` if you define it.

        Args:
            columns: the columns to store.
            batches: the rows; each batch contains every column. If `keeps_keys` is True, a column may be `Indexed` in
                every batch: its `values` are then the distinct values that no earlier batch had, and its `index`
                counts the values of all batches so far; each of these values is that of a row of the batch.
            arrays: named arrays that are not per row.
            spec: JSON to embed, which `Storage.spec` returns.
            overwrite: True replaces an existing store.
            check: called once with the new store, open for reading, before it replaces anything. Whatever it raises
                ends the write, and the old store stays.

        Raises:
            StoreExistsError: the store exists and `overwrite` is False.
            StoreWriteError: the operating system failed to write; the old store is unchanged.
            UnsupportedStoreError: the backend cannot store a column, or cannot overwrite. Raised before any batch is
                read.
            SpecError: a batch does not match `columns`.
        """
        raise UnsupportedStoreError(f"the backend {self.name!r} cannot write; `kinoml-data backends` shows which can")

    def with_objects(self, *, data: Mapping[str, Any]) -> Backend:
        """This backend with the caller's Python objects, which no spec can name.

        A backend with a `source` passes them on to it.

        Args:
            data: values by column, one entry per row.

        Raises:
            SpecError: neither this backend nor its source accepts them.
        """
        source = getattr(self, "source", None)
        if isinstance(source, Backend):
            # The source may be opened again in another process.
            return self.model_copy(update={"source": source.with_objects(data=owned(data))})
        raise SpecError(
            f"the backend {self.name!r} does not take data=; use backend='in-memory' or 'featurize-on-access'"
        )

    @model_serializer(mode="wrap")
    def _named(self, handler: Any) -> dict[str, Any]:
        options: dict[str, Any] = handler(self)
        return {"backend": self.name} | options


@dataclass(frozen=True)
class SpecContext:
    """The parts of a spec that the fields of its backend need: the `context` of pydantic's validation.

    Attributes:
        base: the folder that relative paths start from.
        root: the folder that no path may leave; None if paths may lead anywhere.
        backend: makes a backend from `{backend: name, ...options}`.
        featurizer: makes the featurizer that a reference names, or finds the Python function that it names.
        distribution: the name of the distribution that registers this featurizer; None for a Python object.
    """

    base: Path
    root: Path | None
    backend: Callable[[Mapping[str, Any]], Backend]
    featurizer: Callable[[FeaturizerRef], Featurizer | Callable[..., Any]]
    distribution: Callable[[FeaturizerRef], str | None] = lambda ref: None


def _backend(value: Any, info: ValidationInfo) -> Backend:
    if isinstance(value, Backend):
        return value
    if not isinstance(value, Mapping) or "backend" not in value:
        raise ValueError(f"{quoted(value)} is not a backend; write {{backend: name, ...options}}")
    if not isinstance(info.context, SpecContext):
        raise ValueError("give a Backend object here; names are looked up only in a spec")
    return info.context.backend(value)


AnyBackend = Annotated[SerializeAsAny[Backend], BeforeValidator(_backend)]
"""The type of a field that contains another backend: `{backend: name, ...options}` in a spec."""


def _located(path: Path, info: ValidationInfo) -> Path:
    context = info.context if isinstance(info.context, SpecContext) else None
    base = context.base if context else Path.cwd()
    try:
        full = base / config.expanded(path, base)  # `base` is ignored in front of an absolute path
    except SpecError as error:
        raise ValueError(str(error)) from None
    check_inside(full, context.root if context else None)
    return full


def check_inside(path: Path, root: Path | None) -> None:
    """Refuse a path outside `root` after symbolic links are followed; a root of None allows every path.

    Raises:
        SpecError: the path is outside `root`.
    """
    if root is not None and not path.resolve().is_relative_to(root.resolve()):
        raise SpecError(f"the path {quoted(str(path))} leaves the dataset's folder {quoted(str(root))}")


def _usable(value: Any) -> Any:
    if isinstance(value, str) and (not value or "\0" in value):
        raise ValueError("a path must not be empty or contain a NUL character")
    return value


DataPath = Annotated[Path, Strict(False), BeforeValidator(_usable), AfterValidator(_located)]
"""The type of a field that contains a path, relative to the spec file; `~` and environment variables are replaced.

Name the field `path` or `..._path`: `DatasetSpec.to_file` rewrites the paths in fields of these names.
"""
