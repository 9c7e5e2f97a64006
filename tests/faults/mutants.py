"""Damaged copies of small stores, opened in processes whose death is noticed: what comes back is right or an error."""

from __future__ import annotations

import faulthandler
import io
import multiprocessing
import random
import signal
import tempfile
import time
import traceback
import warnings
import zipfile
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from kinoml_data.errors import KinomlDataError
from tests.faults.report import Report
from tests.faults.stores import Seed

HANG = 1.0  # seconds of a processor
SHOWN = 50  # problems kept per job
Case = Callable[[int], tuple[Seed, bytes, bool, str]]
"""From its number: the seed, the bytes of the mutant, whether it was made on purpose, and how it came about."""


class Hang(BaseException):
    """A case took too long."""


def run(name: str, cases: int, seed: int, jobs: int, case: Case, options: dict[str, Any] | None = None) -> Report:
    """Execute cases 0 to `cases` - 1, divided among `jobs` processes."""
    report = Report(name, seed, cases)
    start = time.perf_counter()
    context = multiprocessing.get_context("fork")
    with tempfile.TemporaryDirectory(dir="/dev/shm" if Path("/dev/shm").is_dir() else None) as folder:
        parts = [range(job, cases, jobs) for job in range(jobs)]
        results = context.Queue()
        running = [
            _Job(context, part, case, Path(folder) / str(n), results, options or {}) for n, part in enumerate(parts)
        ]
        while any(job.alive() for job in running):
            while not results.empty():
                report.problems.append(results.get())
            for job in running:
                if death := job.died():
                    report.problems.append(death)
            time.sleep(0.02)
        while not results.empty():
            report.problems.append(results.get())
        report.executed = sum(job.executed.value for job in running)
    report.seconds = time.perf_counter() - start
    return report


class _Job:
    """One process over a part of the cases, started again after the case that killed it."""

    def __init__(self, context: Any, part: range, case: Case, folder: Path, results: Any, options: Any) -> None:
        self._context, self._part, self._case, self._results, self._options = context, part, case, results, options
        self._folder = folder
        folder.mkdir()
        self.executed = context.Value("q", 0)
        self._at = context.Value("q", 0)  # of the part
        self._start()

    def _start(self) -> None:
        arguments = (self._part, self._at, self.executed, self._case, self._folder, self._results, self._options)
        self._process = self._context.Process(target=_work, args=arguments)
        self._process.start()

    def alive(self) -> bool:
        return self._process is not None

    def died(self) -> str | None:
        if self._process is None or self._process.is_alive():
            return None
        code, self._process = self._process.exitcode, None
        if code == 0:
            return None
        number = self._part[self._at.value]
        self._at.value += 1
        self.executed.value += 1
        if self._at.value < len(self._part):
            self._start()
        return f"case {number}: the process died, exit code {code}: {self._case(number)[3]}"


def _work(part: range, at: Any, executed: Any, case: Case, folder: Path, results: Any, options: Any) -> None:
    warnings.simplefilter("error")
    faulthandler.disable()  # a death is a problem of its own line
    signal.signal(signal.SIGPROF, _hang)
    shown = 0
    while at.value < len(part):
        number = part[at.value]
        problem = _one(case, number, folder, options)
        if problem is not None and shown < SHOWN:
            results.put(f"case {number}: {problem}")
            shown += 1
        at.value += 1
        executed.value += 1
    results.close()
    results.join_thread()


def _hang(*_: Any) -> None:
    raise Hang


def _one(case: Case, number: int, folder: Path, options: Any) -> str | None:
    seed, data, hostile, how = case(number)
    path = folder / f"mutant{seed.suffix}"
    path.write_bytes(data)
    what = f"{seed.name}, {how}"
    try:
        signal.setitimer(signal.ITIMER_PROF, HANG)
        try:
            found = seed.mismatch(seed.backend(path, **options))
        finally:
            signal.setitimer(signal.ITIMER_PROF, 0)
    except KinomlDataError:
        return None
    except Hang:
        return f"{what}: more than {HANG} s"
    except BaseException:
        return f"{what}: {traceback.format_exc(limit=-3)}"
    return f"{what}: silently different: {found}" if found and not hostile else None


# -- what happens to files


def damaged(data: bytes, other: bytes, rng: random.Random) -> tuple[bytes, str]:
    """An accident: one to three of those that happen to files, most of them one."""
    how = []
    for _ in range(rng.choice((1, 1, 1, 2, 3))):
        data, text = rng.choice(ACCIDENTS)(data or b"\0", other, rng)
        how.append(text)
    return data, "; ".join(how)


def _flip(data: bytes, other: bytes, rng: random.Random) -> tuple[bytes, str]:
    out, bits = bytearray(data), [rng.randrange(8 * len(data)) for _ in range(rng.choice((1, 1, 1, 2, 8)))]
    for bit in bits:
        out[bit // 8] ^= 1 << bit % 8
    return bytes(out), f"bits {bits} flipped"


def _set(data: bytes, other: bytes, rng: random.Random) -> tuple[bytes, str]:
    at, value = rng.randrange(len(data)), rng.choice((0, 1, 0x7F, 0x80, 0xFF, rng.randrange(256)))
    return data[:at] + bytes([value]) + data[at + 1 :], f"byte {at} set to {value}"


def _cut(data: bytes, other: bytes, rng: random.Random) -> tuple[bytes, str]:
    at = rng.randrange(len(data))
    return data[:at], f"cut at {at}"


def _cut_front(data: bytes, other: bytes, rng: random.Random) -> tuple[bytes, str]:
    at = rng.randrange(1, len(data) + 1)
    return data[at:], f"the first {at} bytes lost"


def _insert(data: bytes, other: bytes, rng: random.Random) -> tuple[bytes, str]:
    at, size = rng.randrange(len(data) + 1), rng.choice((1, 2, 4, 16, 100))
    return data[:at] + rng.randbytes(size) + data[at:], f"{size} bytes inserted at {at}"


def _delete(data: bytes, other: bytes, rng: random.Random) -> tuple[bytes, str]:
    at, size = rng.randrange(len(data)), rng.choice((1, 2, 4, 16, 100))
    return data[:at] + data[at + size :], f"{size} bytes lost at {at}"


def _block(data: bytes, other: bytes, rng: random.Random) -> tuple[bytes, str]:
    size = rng.choice((8, 64, 512))
    at, source = rng.randrange(len(data)), rng.randrange(len(data))
    kind = rng.choice(("zeros", "ones", "noise", "copy", "other"))
    size = min(size, len(data) - at)
    new = {
        "zeros": bytes(size),
        "ones": b"\xff" * size,
        "noise": rng.randbytes(size),
        "copy": (data[source : source + size] + bytes(size))[:size],
        "other": (other[at : at + size] + bytes(size))[:size],
    }[kind]
    return data[:at] + new + data[at + size :], f"{size} bytes at {at}: {kind}"


def _swap(data: bytes, other: bytes, rng: random.Random) -> tuple[bytes, str]:
    size = rng.choice((4, 64, 128))
    a, b = sorted(rng.randrange(max(1, len(data) - size)) for _ in range(2))
    if b < a + size:
        return _flip(data, other, rng)
    swapped = data[:a] + data[b : b + size] + data[a + size : b] + data[a : a + size] + data[b + size :]
    return swapped, f"{size} bytes at {a} and {b} swapped"


def _splice(data: bytes, other: bytes, rng: random.Random) -> tuple[bytes, str]:
    at, to = rng.randrange(1, len(data) + 1), rng.randrange(1, len(other))
    return data[:at] + other[to:], f"cut at {at}, then another file from {to}"


ACCIDENTS: Sequence[Callable[[bytes, bytes, random.Random], tuple[bytes, str]]] = (
    *(_flip, _flip, _flip, _set, _set, _cut, _cut_front, _insert, _delete, _block, _block, _swap, _splice),
)


NAMES = (
    *("X.npy", "X_s1_.npy", "X_s99999999_.npy", "../y.npy", "y", "a\nb.npy", "y.crc32.npy", "_spec.npy"),
    *("X.shapes.npy", "atoms.values.npy", "name.utf8.npy", "y.keys.npy", "idx_train.npy", "train.index.npy"),
)


def rewritten(data: bytes, rng: random.Random) -> tuple[bytes, str]:
    """An NPZ written anew, by somebody who sets sizes and checksums right, with one thing in it changed."""
    source = zipfile.ZipFile(io.BytesIO(data))
    members = [(info.filename, source.read(info)) for info in source.infolist()]
    n = rng.randrange(len(members))
    name, content = members[n]
    kind = rng.choice(("header", "payload", "name", "twice", "missing", "cut", "longer", "shape"))
    if kind == "header":
        at = rng.randrange(min(128, len(content)))
        content = content[:at] + rng.randbytes(1) + content[at + 1 :]
    elif kind == "payload":
        at = rng.randrange(len(content))
        content = content[:at] + rng.randbytes(1) + content[at + 1 :]
    elif kind == "name":
        name = rng.choice(NAMES)
    elif kind == "cut":
        content = content[: rng.randrange(len(content))]
    elif kind == "longer":
        content += rng.randbytes(rng.choice((1, 4, 64)))
    elif kind == "shape":
        begin, end = content.find(b"("), content.find(b")")
        shape = rng.choice((b"(-1,", b"(0,", b"(9999999999999,", b"(3, 4, 5,", b"(4,", b"(2, 2, 2, 2,"))
        content = content[:begin] + shape.ljust(end - begin)[: end - begin] + content[end:]
    members[n] = name, content
    if kind == "missing":
        del members[n]
    if kind == "twice":
        members.append(members[n])
    out = io.BytesIO()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of duplicate names
        with zipfile.ZipFile(out, "w", rng.choice((zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED))) as file:
            for held, text in members:
                file.writestr(held, text)
    return out.getvalue(), f"{kind} of member {n} rewritten"
