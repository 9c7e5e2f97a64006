"""`npz-lazy`: the arrays of an NPZ file, each row read when it is asked for."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any, ClassVar, Literal

from numpy.typing import NDArray

from kinoml_data.backend import Backend, DataPath, Storage
from kinoml_data.backends import npz_write
from kinoml_data.backends.npz import NpzStorage
from kinoml_data.columns import Columns
from kinoml_data.spec import Array


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
    path: DataPath
    io: Literal["pread", "mmap"] = "pread"
    verify: Literal["first", "always", "never"] = "first"
    compress: bool = False

    def open(self, columns: Mapping[str, Array] | None) -> Storage:
        return NpzStorage(self.path, columns, io="mmap" if self.io == "mmap" else "hold", verify=self.verify)

    def checking(self) -> Backend:
        """See `Backend.checking`."""
        return self.model_copy(update={"verify": "first"})

    def write(
        self,
        columns: Mapping[str, Array],
        batches: Iterable[Columns],
        *,
        arrays: Mapping[str, NDArray[Any]] | None = None,
        spec: str | None = None,
        overwrite: bool = False,
    ) -> None:
        npz_write.write(
            self.path, columns, batches, arrays=arrays, spec=spec, overwrite=overwrite, compress=self.compress
        )
