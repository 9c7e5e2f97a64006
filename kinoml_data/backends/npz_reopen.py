"""`npz-reopen`: as `npz-lazy`, holding no file between reads."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Literal

from kinoml_data.backend import Storage
from kinoml_data.backends.npz import NpzStorage
from kinoml_data.backends.npz_lazy import NpzLazy
from kinoml_data.spec import Array


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
