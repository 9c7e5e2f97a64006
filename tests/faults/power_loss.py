"""Power loss at any moment of every writer: whatever may be on the disk then is rebuilt, and opened.

`python -m tests.faults power_loss` records the calls of each writer that change files, their bytes too. A call that was
made is certain to be on the disk only when an fsync of its file, or of its folder, came after it. Of the others any may
be missing: a folder has some of its new names or none, in any order, and a file has any part of what was written, zeros
for the rest, or ends earlier. The target is old or new and whole in each such state, and new once success was returned.
"""

from __future__ import annotations

import json
import os
import random
import re
import shutil
import sys
import tempfile
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from itertools import product
from pathlib import Path
from typing import NamedTuple

from kinoml_data import files
from tests.faults.report import Report
from tests.faults.writers import LEFT, Writer, action, in_processes, traced, warm

SAMPLES = 24  # contents tried of each file that was not flushed
CALLS = "openat,write,lseek,fsync,close,rename,link,unlink,mkdir,rmdir"
# Calls that change files too, which nobody makes: of these there is no model.
OTHERS = "pwrite64,writev,pwritev,pwritev2,ftruncate,fallocate,fdatasync,copy_file_range,sendfile,dup,dup2,dup3"
LINE = re.compile(r"\d+ +(\w+)\((.*)\) += (-?\d+)")
TEXT = re.compile(r'"((?:\\x[0-9a-f]{2})*)"')


@dataclass
class File:
    """An inode: what was written to it, and how much of that is certain to be on the disk."""

    certain: bytes = b""
    doubtful: list[tuple[int, bytes]] = field(default_factory=list)  # offset and bytes, in order

    def flush(self) -> None:
        self.certain, self.doubtful = self.having(["all"] * len(self.doubtful)), []

    def having(self, fates: list[str]) -> bytes:
        """What is on the disk when each doubtful write has that fate."""
        content = bytearray(self.certain)
        for (offset, data), fate in zip(self.doubtful, fates, strict=True):
            if fate == "none":
                continue
            held = {"all": data, "zeros": bytes(len(data)), "half": data[: len(data) // 2]}[fate]
            content += bytes(max(0, offset + len(held) - len(content)))
            content[offset : offset + len(held)] = held
        return bytes(content)

    def contents(self, rng: random.Random) -> Iterator[bytes]:
        """Some of the contents that may be on the disk: nothing, everything, and others at random."""
        count = len(self.doubtful)
        yield self.having(["all"] * count)
        if count:
            yield self.certain
            for _ in range(SAMPLES - 2):
                yield self.having(rng.choices(["all", "none", "zeros", "half"], k=count))


# What is done to a folder: "make", a name, its inode; "link" or "rename", a name, the other; "remove", a name.
Change = tuple[str, str, str | int]


class Call(NamedTuple):
    """A system call, its arguments as strace writes them."""

    name: str
    arguments: str
    result: str


@dataclass
class Disk:
    """The folder of a writer as the calls leave it: inodes, the names that are certain, and changes that are not."""

    inodes: list[File]
    names: dict[str, int]
    changes: list[Change] = field(default_factory=list)

    def states(self, rng: random.Random) -> Iterator[dict[str, bytes]]:
        """Folders that may be there after a power loss."""
        subsets = list(product((True, False), repeat=len(self.changes)))
        for kept in subsets if len(subsets) <= 64 else rng.sample(subsets, 64):
            names = dict(self.names)
            for change, there in zip(self.changes, kept, strict=True):
                if there:
                    apply(change, names, self.changes)
            contents = {name: list(self.inodes[inode].contents(rng)) for name, inode in names.items()}
            for index in range(max(map(len, contents.values()), default=1)):
                yield {name: choices[index % len(choices)] for name, choices in contents.items()}


def apply(change: Change, names: dict[str, int], changes: list[Change]) -> None:
    """Do one change to a folder; a new name brings its inode along, whether or not the old name is there."""
    what, name, to = change
    if what == "remove":
        names.pop(name, None)
    elif isinstance(to, int):
        names[name] = to
    else:
        made = [inode for _, new, inode in changes if new == name and isinstance(inode, int)]
        names[to] = names[name] if name in names else made[0]
        if what == "rename":
            names.pop(name, None)


def recorded(writer: Writer, folder: Path, log: Path) -> list[Call]:
    """The calls of an undisturbed run that may change a file."""
    writer.prepare(folder)
    end = traced(action(writer, folder), log, "-xx", "-s", str(1 << 20), "-e", f"trace={CALLS},{OTHERS}")
    said = log.read_text()
    if end.error or writer.state(folder) != "new" or "unfinished" in said:
        raise RuntimeError(f"{writer.name}: {end}, {writer.state(folder)}, {said[-500:]}")
    return [Call(*match.groups()) for line in said.splitlines() if (match := LINE.match(line))]


def moments(writer: Writer, folder: Path, calls: list[Call]) -> Iterator[tuple[bool, Disk]]:
    """The disk after each call, the same object changed each time; the last time after success was returned."""
    disk = Disk([], {})
    for name, content in writer.before.items():
        disk.names[name] = len(disk.inodes)
        disk.inodes.append(File(content))
    now = dict(disk.names)
    opened: dict[str, tuple[int | None, int]] = {}  # descriptor: inode, None for the folder; position
    yield False, disk
    for call, arguments, result in calls:
        if int(result) < 0:
            continue
        texts = [bytes.fromhex(text.replace("\\x", "")) for text in TEXT.findall(arguments)]
        fd = arguments.partition(",")[0]
        if call == "openat":
            path = Path(os.fsdecode(texts[0]))
            opened.pop(result, None)
            if "O_TMPFILE" in arguments:
                pass  # a file without a name is gone after a power loss
            elif path == folder:
                opened[result] = None, 0
            elif path.parent == folder:
                if path.name not in now:
                    now[path.name] = len(disk.inodes)
                    disk.changes.append(("make", path.name, len(disk.inodes)))
                    disk.inodes.append(File())
                elif "O_TRUNC" in arguments:
                    raise NotImplementedError(f"{call}({arguments}")
                opened[result] = now[path.name], 0
        elif call in ("rename", "link", "unlink"):
            paths = [Path(os.fsdecode(text)) for text in texts]
            if any(path.parent != folder for path in paths):
                raise NotImplementedError(f"{call}({arguments}")
            to = 0 if call == "unlink" else paths[1].name
            disk.changes.append(("remove" if call == "unlink" else call, paths[0].name, to))
            apply(disk.changes[-1], now, disk.changes)
        elif fd in opened:
            inode, position = opened[fd]
            if call == "close":
                del opened[fd]
            elif call == "lseek":
                opened[fd] = inode, int(result)
            elif call == "fsync" and inode is None:
                disk.names, disk.changes = dict(now), []
            elif call == "fsync" and inode is not None:
                disk.inodes[inode].flush()
            elif call == "write" and inode is not None and len(texts[0]) >= int(result):
                disk.inodes[inode].doubtful.append((position, texts[0][: int(result)]))
                opened[fd] = inode, position + int(result)
            else:
                raise NotImplementedError(f"{call}({arguments[:80]}")
        elif call in ("mkdir", "rmdir"):
            raise NotImplementedError(f"{call}({arguments}")
        if call not in ("lseek", "close"):
            yield False, disk
    yield True, disk


def states(writer: Writer, folder: Path, calls: list[Call], seed: int) -> Iterator[tuple[bool, dict[str, bytes]]]:
    """Every state once, and whether success was returned before."""
    rng, seen = random.Random(seed), set()
    for success, disk in moments(writer, folder, calls):
        for state in disk.states(rng):
            key = success, *sorted((name, hash(content)) for name, content in state.items())
            if key not in seen:
                seen.add(key)
                yield success, state


def problem_of(writer: Writer, folder: Path, success: bool, state: dict[str, bytes]) -> str | None:
    """Rebuild a state; what is wrong with it, None if nothing."""
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir()
    for name, content in state.items():
        (folder / name).write_bytes(content)
    found, left = writer.state(folder), writer.left(folder)
    before = "old" if writer.target in writer.before else "absent"
    if found not in (("new",) if success else (before, "new")):
        return f"{'success was returned, and the target' if success else 'the target'} is {found}"
    if not all(map(LEFT.fullmatch, left)):
        return f"left {left}"
    if left:
        writer.write(folder, "new", True)
        if (again := writer.state(folder)) != "new":
            return f"with {left} there, the next write leaves {again}"
    return None


def run(cases: int | None = None, seed: int = 0, jobs: int = 2, *, only: str = "", weaken: str = "") -> Report:
    """All states, or `cases` of them, of the writers whose name begins with `only`.

    `weaken` takes away a protection, see `WEAKEN`, which has to be noticed.
    """
    return in_processes(Report("power_loss", seed, 0), __name__, [cases, seed, jobs, only, weaken], jobs)


def main(cases: int | None, seed: int, jobs: int, only: str, weaken: str, job: int) -> None:
    """In a process of its own: a line per state tried, and one per problem."""
    with tempfile.TemporaryDirectory(prefix="power-loss-") as place:
        every = warm(Path(place), only)
        if weaken:
            WEAKEN[weaken]()
        for number, writer in enumerate(every.values()):
            folder = Path(place) / "folder"
            calls = recorded(writer, folder, Path(place) / "log")
            late = [success for success, _ in states(writer, folder, calls, seed)]
            whole = next(state for success, state in states(writer, folder, calls, seed) if success)
            if whole != {path.name: path.read_bytes() for path in folder.iterdir()}:
                raise RuntimeError(f"{writer.name}: the calls do not explain what is in the folder")
            share: Sequence[int] = range(len(late))
            if cases is not None:  # what is there after success always among them
                part = min(cases // len(every) + (number < cases % len(every)), len(late))
                after = [index for index in share if late[index]][: part // 2]
                share = [*after, *random.Random(seed).sample(range(late.count(False)), part - len(after))]
            chosen = set(share[job::jobs])
            print("claimed", len(chosen))
            for index, (success, state) in enumerate(states(writer, folder, calls, seed)):
                if index in chosen:
                    try:
                        problem = problem_of(writer, folder, success, state)
                    except Exception as error:
                        problem = repr(error)
                    print("tried", "after success" if success else "before")
                    if problem:
                        about = {name: len(content) for name, content in state.items()}
                        print(f"problem {writer.name}, state {index} of {about}: {problem}"[:500].replace("\n", " "))


def _no_flush() -> None:
    files._sync = lambda *_: None


def _no_flush_of_folders() -> None:
    files._sync_folder = lambda _: None


WEAKEN: dict[str, Callable[[], None]] = {"no flush": _no_flush, "no flush of folders": _no_flush_of_folders}


if __name__ == "__main__":
    main(*json.loads(sys.argv[1]), int(sys.argv[2]))
