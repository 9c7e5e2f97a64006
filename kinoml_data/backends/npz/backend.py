"""The backends `npz-lazy`, which keeps the file open, and `npz-reopen`, which opens it for each read."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from typing import Any, ClassVar, Literal

from numpy.typing import NDArray

from kinoml_data.backends.npz import writer
from kinoml_data.backends.npz.storage import NpzStorage
from kinoml_data.columns import Columns
from kinoml_data.contracts.backend import Backend, DataPath, Storage
from kinoml_data.files import replacing
from kinoml_data.layouts.flat_writing import other_arrays
from kinoml_data.spec.array import Array


class NpzLazy(Backend):
    """An NPZ file in the flat layout or in one of KinoML's layouts; rows are read when they are needed.

    Attributes:
        path: the file.
        io: "pread" reads from the open file; "mmap" maps the file into memory, which is faster, but is safe only while
            no other program shortens the file.
        verify: "first" compares a row or a member with its checksum when it is first read in a process, "always"
            compares each time, "never" does not compare.
        compress: True writes compressed members, which can only be read whole and are then kept in memory.
    """

    name = "npz-lazy"
    suffixes: ClassVar[tuple[str, ...]] = (".npz",)
    can_write = True
    keeps_keys = True
    path: DataPath
    io: Literal["pread", "mmap"] = "pread"
    verify: Literal["first", "always", "never"] = "first"
    compress: bool = False

    def open(self, columns: Mapping[str, Array | None] | None) -> Storage:
        return NpzStorage(self.path, columns, io="mmap" if self.io == "mmap" else "keep-open", verify=self.verify)

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
        with replacing(self.path, overwrite=overwrite) as temporary:
            writer.write(temporary, columns, batches, other_arrays(arrays or {}, spec), compress=self.compress)
            if check is not None:
                with NpzStorage(temporary, columns) as storage:
                    check(storage)


class NpzReopen(NpzLazy):
    """The same files as `npz-lazy`, but a file is opened for each read and closed afterwards.

    Use it for very many files, or on file systems on which files should not stay open. The directory is parsed once,
    and a change between two reads is noticed. Such a file cannot be mapped into memory.
    """

    name = "npz-reopen"
    suffixes = ()
    io: Literal["pread"] = "pread"

    def open(self, columns: Mapping[str, Array | None] | None) -> Storage:
        return NpzStorage(self.path, columns, io="reopen", verify=self.verify)
