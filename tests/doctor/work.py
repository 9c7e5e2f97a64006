"""A clock that counts work in place of seconds, so that what is measured does not depend on the machine."""

from __future__ import annotations

import shlex
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
import pytest

from kinoml_data import AnyBackend, Backend, Storage, registry
from kinoml_data.backends.npz.archive import Archive
from kinoml_data.cli import main as cli
from kinoml_data.doctor import case
from kinoml_data.doctor.advice import Advice, Origin
from kinoml_data.doctor.examination import Examination, examine
from kinoml_data.factory import open_to_copy
from tests import slow_features
from tests.keyed import KeyedStorage

EACH_LOOK = 1e-5  # seconds that a look at the clock takes


class Work:
    """What was done since the clock was made.

    Attributes:
        inflated: bytes that were decompressed.
        reads: what was read from the backend `slow`.
    """

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.inflated = self.reads = self._looks = 0
        inflate = Archive._inflate

        def counted(archive: Archive, member: int, raw: memoryview) -> bytes:
            data = inflate(archive, member, raw)
            self.inflated += len(data)
            return data

        monkeypatch.setattr(Archive, "_inflate", counted)
        monkeypatch.setattr(case, "clock", self.clock)
        slow_features.called.clear()

    def clock(self) -> float:
        """A millisecond for each kilobyte that was decompressed, 10 for each feature, and 5 for each slow read."""
        self._looks += 1
        counted = 1e-6 * self.inflated + 1e-2 * len(slow_features.called) + 5e-3 * self.reads
        return counted + EACH_LOOK * self._looks


class Slow(Backend):
    """Another backend, whose reads are counted: all of them, or each run of rows that are read for the first time."""

    name = "slow"
    source: AnyBackend
    work: ClassVar[Work]
    cold: ClassVar[bool]

    def open(self, columns: Any) -> Storage:
        return SlowStorage(self.source.open(columns), "source", "uint8")

    @classmethod
    def register(cls, monkeypatch: pytest.MonkeyPatch, work: Work, *, cold: bool) -> None:
        cls.work, cls.cold = work, cold
        found = registry.Registry()
        found.plugins.append(registry.Plugin("slow", "slow", "1.0", loaded=True, names={"backend": {"slow": cls}}))
        monkeypatch.setattr(registry, "_registry", found)


class SlowStorage(KeyedStorage):
    def __init__(self, *arguments: Any) -> None:
        super().__init__(*arguments)
        self.unread = np.ones(len(self), bool)

    def read(self, rows: Any, columns: Any) -> Any:
        new = np.unique(rows[self.unread[rows]])
        self.unread[rows] = False
        runs = np.count_nonzero(np.diff(new) > 1) + 1 if len(new) else 0
        Slow.work.reads += runs if Slow.cold else 1
        return super().read(rows, columns)


def examined(path: Path | str, **options: Any) -> Examination:
    """A file, examined as the command does it, with time for all of its rows."""
    return examine(lambda: open_to_copy(path), Origin(str(path)), **({"seconds": 100.0} | options))


def follow(change: str) -> dict[str, Any]:
    """Do what an advice says. Returns the names that its code has defined."""
    if change.startswith("kinoml-data "):
        with pytest.raises(SystemExit) as exit_:
            cli.main(shlex.split(change)[1:])
        assert not exit_.value.code
        return {}
    names: dict[str, Any] = {}
    exec(compile(change, "<change>", "exec", dont_inherit=True), names)
    return names


def ragged(seed: int, rows: int, shortest: int, longest: int) -> list[Any]:
    """Random rows of shape `(20, length)`."""
    rng = np.random.default_rng(seed)
    return [rng.random((20, int(length))) for length in rng.integers(shortest, longest, rows)]


def only(found: Examination, of: str) -> Advice:
    """The advice about this quantity, of which there is one."""
    (advice,) = [advice for advice in found.advice if advice.of == of]
    return advice
