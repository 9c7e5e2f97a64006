"""`npz-reopen`: as `npz-lazy`, holding no file between reads."""

from __future__ import annotations

from typing import ClassVar

from kinoml_data.backends.npz_lazy import NpzLazy


class NpzReopen(NpzLazy):
    """The same files, opened for each read and closed after it.

    For many files, or file systems that dislike held handles. The directory is parsed once, and a file that
    changed in between is noticed.
    """

    name = "npz-reopen"
    suffixes = ()
    keep_open: ClassVar[bool] = False
