"""The backends `npz-lazy`, which keeps the file open, and `npz-reopen`, which opens it for each read."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from typing import Any, ClassVar, Literal

from numpy.typing import NDArray

from kinoml_data.backends.npz import writer
from kinoml_data.backends.npz.storage import NpzStorage
from kinoml_data.columns import Columns
from kinoml_data.contracts.backend import Backend, DataPath, Storage
from kinoml_data.spec.array import Array


class NpzLazy(Backend):
    """An NPZ file in one of KinoML's layouts or in the packed one, read by position.

    Attributes:
        path: the file.
        io: "pread" reads by position; "mmap" maps the file, which is faster, and safe only while nobody shortens it.
        verify: when checksums are checked: "first" time a row or member is read in a process, "always", "never".
        compress: write compressed members; they can only be read whole, and are held in memory.
    """

    name = "npz-lazy"
    suffixes: ClassVar[tuple[str, ...]] = (".npz",)
    can_write = True
    path: DataPath
    io: Literal["pread", "mmap"] = "pread"
    verify: Literal["first", "always", "never"] = "first"
    compress: bool = False

    def open(self, columns: Mapping[str, Array] | None) -> Storage:
        return NpzStorage(self.path, columns, io="mmap" if self.io == "mmap" else "hold", verify=self.verify)

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
        writer.write(
            self.path,
            columns,
            batches,
            arrays=arrays or {},
            spec=spec,
            overwrite=overwrite,
            compress=self.compress,
            check=check,
        )


class NpzReopen(NpzLazy):
    """The same files, opened for each read and closed after it.

    For many files, or file systems that dislike held handles. The directory is parsed once, and a file that
    changed in between is noticed. A file that is not held is not mapped either.
    """

    name = "npz-reopen"
    suffixes = ()
    io: Literal["pread"] = "pread"

    def open(self, columns: Mapping[str, Array] | None) -> Storage:
        return NpzStorage(self.path, columns, io="reopen", verify=self.verify)
