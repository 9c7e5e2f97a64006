"""Every writer, stopped at every boundary: killed, refused by the system, interrupted, and in a race with another.

`python -m tests.faults writers` traces each writer once, which gives its system calls on files. Then, for each of
them, the writer runs again and strace kills it as it enters the call, lets the call fail, or sends Ctrl-C. Whatever
happens, the target holds what was there before or what was to be written, whole. What that is, is known from memory.
"""

from __future__ import annotations

import gc
import json
import linecache
import mmap
import os
import random
import re
import shutil
import signal
import subprocess
import sys
import tempfile
import time
import traceback
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import yaml

import kinoml_data as kd
from kinoml_data import copied_rows, files
from kinoml_data.backends.npz import backend as npz_lazy
from kinoml_data.backends.npz import writer as npz_write
from kinoml_data.backends.parquet import backend as parquet_awkward
from kinoml_data.layouts import arrow_rows
from tests.faults.report import Report

ROOT = Path(__file__).parents[2]
# Calls that take room on the disk; those that change folders or flush; and those that only look.
SPACE = ("openat", "write", "pwrite64", "writev", "pwritev", "fsync", "fdatasync", "ftruncate", "fallocate", "close")
SPACE = (*SPACE, "rename", "renameat", "renameat2", "link", "linkat", "mkdir", "mkdirat", "copy_file_range", "sendfile")
REMOVE = ("unlink", "unlinkat", "rmdir")
LOOK = ("read", "pread64", "preadv", "preadv2", "lseek", "fstat", "stat", "lstat", "newfstatat", "statx", "getdents64")
LOOK = (*LOOK, "readlink", "fcntl", "ioctl")
CALLS = (*SPACE, *REMOVE, *LOOK, "mmap")
TRACED = ",".join(f"?{call}" for call in CALLS)
CALL = re.compile(r"(\d+) +(\w+)\((.*)")
LEFT = re.compile(r"\..*\.partial", re.DOTALL)
OPEN_FILES = "/proc/self/fd"
ROWS, ROUNDS, SECONDS = 48, 100, 60
VERSIONS = ("old", "new", "other")
# Python code that Ctrl-C may interrupt before any line.
LINES = {
    f"{ROOT}/kinoml_data/{name}.py"
    for name in (
        "files",
        "conversion",
        "copied_rows",
        "backends/npz/backend",
        "backends/npz/writer",
        "backends/parquet/layout",
    )
}
SYSTEM = ("kill", "ENOSPC", "ENOSPC from there on", "EIO", "Ctrl-C")  # what strace does at a call


# -- what is written, known from memory


def rows_of(version: str) -> dict[str, Any]:
    """The columns of one version, as numpy arrays and strings."""
    rng = np.random.default_rng(VERSIONS.index(version))
    lengths = rng.integers(0, 40, ROWS)
    return {
        "coords": [rng.standard_normal((n, 3)).astype(np.float32) for n in lengths],
        "bits": rng.integers(0, 256, (ROWS, 16), dtype=np.uint8),
        "y": rng.standard_normal(ROWS),
        "smiles": ["".join(rng.choice(list("CNO()=1é"), n)) for n in lengths],
    }


MEMORY = {version: rows_of(version) for version in VERSIONS}
SPLITS = {"train": list(range(0, ROWS, 2)), "test": [1, 5, 3]}


def dataset(version: str) -> kd.XyDataset:
    roles = {"X": ["coords", "bits"], "y": "y", "meta": ["smiles"]}
    splits = {name: {"rows": rows} for name, rows in SPLITS.items()}
    return kd.load_dataset(roles | {"splits": splits, "storage": {"backend": "in-memory"}}, data=MEMORY[version])


def differs(path: Path, version: str) -> str | None:
    """What in a store is not what memory has, bit for bit; None if nothing."""
    expected = MEMORY[version]
    with kd.load_dataset(path) as found:
        if len(found) != ROWS or {name: rows.tolist() for name, rows in found.indices.items()} != SPLITS:
            return "rows or splits"
        columns = found.read_stored(np.arange(ROWS), list(found.stored_columns()))
    if columns.keys() != expected.keys():
        return f"columns {sorted(columns)}"
    for name, column in columns.items():
        wanted = expected[name]
        if name == "smiles":
            wanted = [np.frombuffer(text.encode(), np.uint8) for text in wanted]
        for row in range(ROWS):
            a, b = np.asarray(column[row]), np.asarray(wanted[row])
            if (a.dtype, a.shape, a.tobytes()) != (b.dtype, b.shape, b.tobytes()):
                return f"row {row} of {name}"
    return None


# -- the writers


@dataclass(frozen=True)
class Writer:
    """One way to write one file.

    Attributes:
        name: of the writer.
        target: the file's name.
        write: called with the folder, the version to write and whether to overwrite.
        before: the content of every file that is in the folder before.
        text: the content of the file, where it is known byte for byte.
    """

    name: str
    target: str
    write: Callable[[Path, str, bool], None]
    before: dict[str, bytes]
    text: bytes | None = None

    def prepare(self, folder: Path) -> None:
        shutil.rmtree(folder, ignore_errors=True)
        folder.mkdir()
        for name, content in self.before.items():
            (folder / name).write_bytes(content)

    def state(self, folder: Path) -> str:
        """The version in the target, or "absent", or what is wrong."""
        path = folder / self.target
        for name, content in self.before.items():
            if name != self.target and (folder / name).read_bytes() != content:
                return f"{name} changed"
        if not path.exists():
            return "lost" if self.target in self.before else "absent"
        content = path.read_bytes()
        if content == self.before.get(self.target):
            return "old"
        if self.text is not None:
            return "new" if content == self.text else f"corrupt: {content[:40]!r}"
        try:
            problems: list[str | None] = []
            for version in ("new", "other"):
                problems.append(differs(path, version))
                if problems[-1] is None:
                    return version
        except Exception as error:
            return f"corrupt: {error!r}"[:300]
        return f"corrupt: {problems[0]}"

    def left(self, folder: Path) -> list[str]:
        """What is in the folder and has no business there."""
        return sorted({path.name for path in folder.iterdir()} - {*self.before, self.target})


def writers() -> dict[str, Writer]:
    """All writers: each backend's from memory, each pair of them by `convert`, and specs."""
    found: dict[str, Writer] = {}
    stores = {
        "npz": {"backend": "npz-lazy", "path": "d.npz"},
        "npz compressed": {"backend": "npz-lazy", "path": "d.npz", "compress": True},
        "parquet": {"backend": "parquet-awkward", "path": "d.parquet"},
    }

    def add(name: str, target: str, write: Any, before: dict[str, bytes], text: bytes | None = None) -> None:
        found[name] = Writer(name, target, write, before, text)

    with tempfile.TemporaryDirectory() as place:
        files = {}
        for version in ("old", "new"):
            for name, to in stores.items():
                path = Path(place) / to["path"]
                kd.save_dataset(dataset(version), {**to, "path": str(path)}, overwrite=True)
                files[version, name] = path.read_bytes()
        said = {"format": 1, "X": "coords", "y": "y", "storage": {"backend": "npz-lazy", "path": "/elsewhere/d.npz"}}
        spec = kd.DatasetSpec.parse(said)
        texts = {}
        for suffix in (".yaml", ".json"):
            path = Path(place) / f"spec{suffix}"
            spec.to_file(path)
            texts[suffix] = path.read_bytes()
            assert yaml.safe_load(texts[suffix]) == said
    for name, to in stores.items():
        target = str(to["path"])

        def write(folder: Path, version: str, overwrite: bool, to: dict[str, Any] = to) -> None:
            where = {**to, "path": str(folder / to["path"])}
            kd.save_dataset(dataset(version), where, overwrite=overwrite)

        add(f"{name}, fresh", target, write, {})
        add(f"{name}, over an old one", target, write, {target: files["old", name]})
    for source, name in (("npz", "parquet"), ("parquet", "npz"), ("npz compressed", "npz"), ("npz", "npz compressed")):
        target, of = str(stores[name]["path"]), f"source.{str(stores[source]['path'])[2:]}"

        def copy(folder: Path, _: str, overwrite: bool, to: dict[str, Any] = stores[name], of: str = of) -> None:
            kd.convert(folder / of, {**to, "path": str(folder / to["path"])}, overwrite=overwrite)

        before = {of: files["new", source]}
        add(f"{source} to {name}, fresh", target, copy, before)
        add(f"{source} to {name}, over an old one", target, copy, {**before, target: files["old", name]})
    for suffix, text in texts.items():

        def save(folder: Path, _: str, overwrite: bool, suffix: str = suffix) -> None:
            spec.to_file(folder / f"spec{suffix}")

        add(f"spec{suffix}, fresh", f"spec{suffix}", save, {}, text)
        add(f"spec{suffix}, over an old one", f"spec{suffix}", save, {f"spec{suffix}": text + b"\n"}, text)
    return found


# -- one run of a writer, in a process that strace watches


class Point(NamedTuple):
    """Where a run is disturbed: at the `at`-th `call` (strace), batch, line or round."""

    writer: str
    kind: str
    call: str
    at: int

    def __str__(self) -> str:
        return f"{self.writer}: {self.kind} at {self.call} {self.at}"


class Ended(NamedTuple):
    """How a run ended.

    Attributes:
        error: its type; "" after success, "killed" if nothing was said any more.
        text: of the error.
        known: whether it is one of the library's.
        open_files: how many descriptors were left open.
    """

    error: str
    text: str
    known: bool
    open_files: int


def outcome(act: Callable[[], None], before: int) -> Ended:
    said = "", "", True
    try:
        act()
    except BaseException as error:
        said = type(error).__name__, str(error), isinstance(error, kd.errors.KinomlDataError)
    gc.collect()
    after = before
    with suppress(OSError):  # where this call is the one that fails
        after = len(os.listdir(OPEN_FILES))  # noqa: PTH208
    return Ended(*said, after - before)


def child(act: Callable[[], None], shared: mmap.mmap) -> int:
    """Fork a process that stops itself, then acts, then writes how it ended into `shared` by no system call."""
    shared[:] = bytes(len(shared))
    pid = os.fork()
    if pid:
        return pid
    try:
        signal.signal(signal.SIGINT, signal.default_int_handler)
        before = len(os.listdir(OPEN_FILES))  # noqa: PTH208
        os.kill(os.getpid(), signal.SIGSTOP)
        said = json.dumps(outcome(act, before)).encode()
        shared[: len(said)] = said
    except BaseException:
        traceback.print_exc()
    finally:
        os._exit(0)


def ended(pid: int, shared: mmap.mmap) -> Ended:
    try:
        os.waitpid(pid, 0)
    except BaseException:  # it hangs
        os.kill(pid, signal.SIGKILL)
        os.waitpid(pid, 0)
        raise
    said = shared[:].rstrip(b"\0")
    return Ended(*json.loads(said)) if said else Ended("killed", "", False, 0)


def aside(*acts: Callable[[], None]) -> Any:
    """Act in a process of its own, or several at once in as many."""
    with ExitStack() as stack:
        held = [stack.enter_context(mmap.mmap(-1, 1 << 16)) for _ in acts]
        pids = [child(act, shared) for act, shared in zip(acts, held, strict=True)]
        for pid in pids:
            os.waitpid(pid, os.WUNTRACED)
        for pid in pids:
            os.kill(pid, signal.SIGCONT)
        ends = [ended(pid, shared) for pid, shared in zip(pids, held, strict=True)]
    return ends if len(ends) > 1 else ends[0]


def traced(act: Callable[[], None], log: Path, *options: str) -> Ended:
    """Act in a process under strace, from its first call on; what it did is in `log`."""
    with mmap.mmap(-1, 1 << 16) as shared:
        pid = child(act, shared)
        os.waitpid(pid, os.WUNTRACED)
        command = ["strace", "-f", "-o", str(log), *options, "-p", str(pid)]
        with subprocess.Popen(command, stderr=subprocess.PIPE) as strace:
            assert strace.stderr is not None
            said = strace.stderr.readline()
            if b"attached" not in said:
                os.kill(pid, signal.SIGKILL)
                raise RuntimeError(f"strace does not work here: {said!r}")
            os.kill(pid, signal.SIGCONT)
            result = ended(pid, shared)
            strace.stderr.read()
    return result


def counted(log: Path) -> Counter[str]:
    """How often each call was made, at most, by one thread."""
    found: dict[str, Counter[str]] = {}
    for line in log.read_text(errors="replace").partition(OPEN_FILES)[0].splitlines()[:-1]:
        if (match := CALL.match(line)) and not (match[2] == "mmap" and ", -1, 0" in match[3]):
            found.setdefault(match[1], Counter())[match[2]] += 1
    most: Counter[str] = Counter()
    for counter in found.values():
        most |= counter
    return most


# -- the points


def points(every: dict[str, Writer], place: Path) -> list[Point]:
    """Every point, by what each writer does when nothing disturbs it."""
    found: list[Point] = []
    for name, writer in every.items():
        folder = place / "counted"
        writer.prepare(folder)
        act, log = action(writer, folder), place / "counted.log"
        end = traced(act, log, "-e", f"trace={TRACED}")
        if end != Ended("", "", True, 0) or writer.state(folder) != "new" or writer.left(folder):
            raise RuntimeError(f"{name}: undisturbed, {end}, {writer.state(folder)}, {writer.left(folder)}")
        for call, count in counted(log).items():
            kinds = ["kill", "Ctrl-C"]
            kinds += ["EIO"] if call != "mmap" else []
            kinds += ["ENOSPC", "ENOSPC from there on"] if call in SPACE else []
            found += [Point(name, kind, call, at) for kind in kinds for at in range(1, count + 1)]
        found += [Point(name, "line", "line", at) for at in lines(writer, folder)]
        if not name.startswith("spec"):
            found += [Point(name, "batch", error.__name__, at) for error in STOPS for at in range(1, BATCHES + 1)]
        if " to " not in name:
            found += [Point(name, "race", "round", at) for at in range(1, ROUNDS + 1)]
    return found


STOPS = (KeyboardInterrupt, SystemExit, MemoryError)
BATCHES = 3


def action(writer: Writer, folder: Path, version: str = "new") -> Callable[[], None]:
    overwrite = writer.target in writer.before
    return lambda: writer.write(folder, version, overwrite)


def lines(writer: Writer, folder: Path) -> list[int]:
    """The numbers of the line events to stop at: of each line the first, the second and the last time it is run."""
    seen: dict[tuple[str, int], list[int]] = {}
    writer.prepare(folder)
    for number, place in enumerate(_followed(action(writer, folder)), 1):
        # Such a line comes again before `__exit__`, where Python takes no signal.
        if place not in seen or not linecache.getline(*place).lstrip().startswith("with "):
            seen.setdefault(place, []).append(number)
    return sorted({number for numbers in seen.values() for number in (*numbers[:2], numbers[-1])})


def _followed(act: Callable[[], None], stop: int = 0) -> list[tuple[str, int]]:
    """The lines run, in order; before the one numbered `stop` comes Ctrl-C."""
    seen: list[tuple[str, int]] = []

    def follow(frame: Any, event: str, _: Any) -> Any:
        if frame.f_code.co_filename not in LINES:
            return None
        if event == "line":
            seen.append((frame.f_code.co_filename, frame.f_lineno))
            if len(seen) == stop:
                sys.settrace(None)
                raise KeyboardInterrupt
        return follow

    before = sys.gettrace()
    sys.settrace(follow)
    try:
        act()
    finally:
        sys.settrace(before)
    return seen


# -- one point


def attempt(point: Point, writer: Writer, place: Path) -> str | None:
    """Run the writer with what `point` says; what is wrong afterwards, None if nothing.

    Raises:
        LookupError: the point was not reached.
    """
    folder, log = place / "folder", place / "log"
    writer.prepare(folder)
    act = action(writer, folder)
    if point.kind == "race":
        return race(writer, folder)
    if point.kind == "line":
        end = aside(lambda: _followed(act, point.at) and None)
    elif point.kind == "batch":
        end = aside(lambda: _stopped(act, point))
    else:
        end = traced(act, log, "-e", f"trace={point.call}", "-e", _injection(point))
        if not re.search(r"\(INJECTED\)|killed by SIGKILL|--- SIGINT", log.read_text(errors="replace")):
            raise LookupError(f"{point} was not reached")
    return judge(point, writer, folder, end)


def _injection(point: Point) -> str:
    error, _, more = point.kind.partition(" ")
    what = {"kill": "signal=KILL", "Ctrl-C": "signal=INT"}.get(point.kind, f"error={error}")
    return f"inject={point.call}:{what}:when={point.at}{'+' if more else ''}"


def _stopped(act: Callable[[], None], point: Point) -> None:
    """Act, with a source that stops after so many batches."""
    error = next(error for error in STOPS if error.__name__ == point.call)
    read, calls = kd.XyDataset.read_stored, 0

    def stops(self: Any, *args: Any) -> Any:
        nonlocal calls
        calls += 1
        if calls == point.at:
            raise error
        return read(self, *args)

    kd.XyDataset.read_stored = stops  # type: ignore[method-assign]
    try:
        act()
    finally:
        kd.XyDataset.read_stored = read  # type: ignore[method-assign]


def judge(point: Point, writer: Writer, folder: Path, end: Ended) -> str | None:
    state, left = writer.state(folder), writer.left(folder)
    before = "old" if writer.target in writer.before else "absent"
    if state not in (before, "new"):
        return f"{state}; {end}"
    if point.kind == "kill":
        if end.error != "killed" or not all(map(LEFT.fullmatch, left)):
            return f"{end}, left {left}"
        writer.write(folder, "new", True)
        again, still = writer.state(folder), writer.left(folder)
        return None if again == "new" and set(still) <= set(left) else f"the next write: {again}, left {still}"
    if left and not (point.call in REMOVE and point.kind == "EIO"):  # the removal itself was refused
        return f"left {left}; {end}"
    # Of a call that strace lets fail nothing is done, a file stays open. Ctrl-C may come right after one was opened.
    if end.open_files and point.call not in ("close", "line") and point.kind != "Ctrl-C":
        return f"{end.open_files} files left open; {end}"
    if not end.error:
        return None if state == "new" else f"success, and {state}"
    expected = {"Ctrl-C": "KeyboardInterrupt", "line": "KeyboardInterrupt", "batch": point.call}.get(point.kind)
    if expected not in (None, end.error) or (expected is None and not end.known):
        return f"ended in {end}"
    if point.kind == "batch" and state == "new":
        return "stopped in the middle, and new"
    if "nothing was changed" in end.text and state != before:
        return f"{state}, and says {end.text!r}"
    if end.error == "StoreWriteError" and state == "new" and "was written" not in end.text:
        return f"new, and says {end.text!r}"
    return None


def race(writer: Writer, folder: Path) -> str | None:
    """Two processes write the same target at once."""
    ends = aside(*(action(writer, folder, version) for version in ("new", "other")))
    state, left = writer.state(folder), writer.left(folder)
    good = [end.error for end in ends].count("")
    if state not in ("new", "other") or left or not all(end.known for end in ends) or not good:
        return f"{state}, left {left}; {ends}"
    if writer.target in writer.before or writer.target.startswith("spec"):
        return None
    first = ("new", "other")[[end.error for end in ends].index("")]
    others = [end.error for end in ends if end.error]
    return None if others == ["StoreExistsError"] and state == first else f"{state}; {ends}"


# -- all of them, in processes of their own


def run(cases: int | None = None, seed: int = 0, jobs: int = 2, *, only: str = "", weaken: str = "") -> Report:
    """Every point, or `cases` of them, of those whose text begins with `only`.

    `weaken` takes away one protection, see `WEAKEN`, which has to be noticed.
    """
    return in_processes(Report("writers", seed, 0), __name__, [cases, seed, jobs, only, weaken], jobs)


def in_processes(report: Report, module: str, given: list[Any], jobs: int) -> Report:
    """Run a module in processes of its own, which say what they tried and found."""
    began, kinds = time.perf_counter(), Counter[str]()
    command = [sys.executable, "-m", module, json.dumps(given)]
    with ExitStack() as stack:
        said = [stack.enter_context(tempfile.TemporaryFile("w+")) for _ in range(jobs)]
        workers = [
            subprocess.Popen([*command, str(job)], cwd=ROOT, stdout=file, stderr=subprocess.STDOUT)
            for job, file in enumerate(said)
        ]
        try:
            ends = [worker.wait() for worker in workers]
        finally:
            for worker in workers:
                worker.kill()
        for end, file in zip(ends, said, strict=True):
            file.seek(0)
            lines = file.read().splitlines()
            for line in lines:
                word, _, rest = line.partition(" ")
                if word == "claimed":
                    report.claimed += int(rest)
                elif word == "tried":
                    kinds[rest] += 1
                elif word == "problem":
                    report.problems.append(rest)
            if end:
                report.problems.append(f"a process ended with {end}: {' '.join(lines[-20:])}")
    report.executed = kinds.total()
    report.seconds = time.perf_counter() - began
    print(f"{report.name}: {', '.join(f'{count:,} {kind}' for kind, count in sorted(kinds.items()))}")
    return report


def warm(place: Path, only: str = "") -> dict[str, Writer]:
    """The writers, ready: what is imported or opened only once is no boundary."""
    # Small parts, so that little data is read and written in many calls.
    copied_rows.ROWS_PER_BATCH = ROWS // BATCHES
    npz_write.COPY_BYTES, npz_write.SEGMENT_BYTES, arrow_rows.TABLE_BYTES = 2048, 4096, 4096
    every = {name: writer for name, writer in writers().items() if name.startswith(only)}
    for writer in every.values():
        writer.prepare(place / "warm")
        action(writer, place / "warm")()
    gc.collect()
    gc.freeze()  # a fork need not look through all this again
    return every


def main(cases: int | None, seed: int, jobs: int, only: str, weaken: str, job: int) -> None:
    """In a process of its own: a line per point tried, and one per problem."""
    with tempfile.TemporaryDirectory(prefix="writers-") as folder:
        place = Path(folder)
        every = warm(place, only.partition(":")[0])
        found = [point for point in points(every, place) if str(point).startswith(only)]
        if cases is not None:
            found = random.Random(seed).sample(found, min(cases, len(found)))
        found = found[job::jobs]
        print("claimed", len(found))
        if weaken:
            WEAKEN[weaken]()
        signal.signal(signal.SIGALRM, _late)
        for point in found:
            signal.alarm(SECONDS)
            try:
                problem = attempt(point, every[point.writer], place)
            except Exception as error:
                problem = f"{error!r}"
            signal.alarm(0)
            print("tried", point.kind)
            if problem:
                print(f"problem {point}: {problem}".replace("\n", " "))


def _late(*_: Any) -> None:
    raise TimeoutError(f"hangs: nothing after {SECONDS} s")


def _in_place() -> None:
    @contextmanager
    def replacing(target: Path, *, overwrite: bool) -> Iterator[Path]:
        target.unlink(missing_ok=True)
        yield target

    for module in (npz_lazy, parquet_awkward, files):
        module.replacing = replacing  # type: ignore[attr-defined]


def _no_cleaning() -> None:
    Path.unlink = lambda *_, **__: None  # type: ignore[assignment, method-assign]


def _last_wins() -> None:
    files._rename_new = os.replace


WEAKEN: dict[str, Callable[[], None]] = {
    "in place": _in_place,
    "no cleaning": _no_cleaning,
    "last wins": _last_wins,
}


if __name__ == "__main__":
    main(*json.loads(sys.argv[1]), int(sys.argv[2]))
