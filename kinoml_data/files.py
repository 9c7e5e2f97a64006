"""Files: reading at given positions, noticing changes, and writing a new file or folder completely or not at all.

Linux and macOS have all the system calls that are used. If a system lacks one, such as `preadv` on Windows, a slower
replacement with the same result is used.
"""

from __future__ import annotations

import errno
import functools
import itertools
import mmap
import operator
import os
import secrets
import shutil
import stat
import sys
import threading
import time
import weakref
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from glob import glob, has_magic
from itertools import repeat
from pathlib import Path
from typing import Any, TypeVar

import numpy as np
from numpy.lib.stride_tricks import sliding_window_view
from numpy.typing import NDArray

from kinoml_data import columns
from kinoml_data.errors import (
    CorruptStoreError,
    KinomlDataError,
    StoreChangedError,
    StoreExistsError,
    StoreNotFoundError,
    StoreReadError,
    StoreWriteError,
    quoted,
)

SMALL = 8192  # bytes; extents of up to this size are read one by one and joined, which is faster than reading in place
MANY_SMALL = 1 << 20  # bytes that are read in this way at once; they stay in the processor's cache
GAP = 256  # bytes between two small extents; KinoML's NPZ has 200 between two rows
CLOSE = 4096  # bytes; reading the bytes between two extents that are this close costs less than another call
PROBES = 8  # extents of a batch that show whether the system has it in its cache
LOOKS = 64  # batches after one that was not in the cache, which are all looked at
UNSEEN = 16  # batches between two later ones; a prime number less one, so that each column gets its turn
TICK = 0.05  # seconds within which a second change may leave a time stamp as it is; the ticks of Linux are of 10 ms
COARSE_TICK = 2.0  # the same for a file system with time stamps of whole seconds
WRITING_TICKS = 40  # a file whose time stamp still changes after this many ticks has changed
Fingerprint = tuple[int, int, int, int]  # device, inode, size in bytes, time of the last modification in nanoseconds
_seek_lock = threading.Lock()
T = TypeVar("T")


def _pread(fd: int, size: int, offset: int) -> bytes:
    """`os.pread` for a system without it; the lock keeps threads from moving each other's offset."""
    with _seek_lock:
        os.lseek(fd, offset, os.SEEK_SET)
        return os.read(fd, size)


def _preadv(fd: int, buffers: Sequence[Any], offset: int) -> int:
    """`os.preadv` into one buffer for a system without it."""
    buffer = memoryview(buffers[0])
    # macOS before 11 has `pread` without `preadv`, and forks: a process forked during `_pread` would wait for its lock.
    data = getattr(os, "pread", _pread)(fd, buffer.nbytes, offset)
    if data:
        buffer.cast("B")[: len(data)] = data
    return len(data)


def _flags(*names: str) -> int:
    """Flags of `os.open`, without those that the system does not have."""
    return functools.reduce(operator.or_, (getattr(os, name, 0) for name in names))


class PositionedFile:
    """A regular file that is read at given positions, so that threads and forked processes share no offset.

    If the file changes after it was opened, every method raises a `StoreChangedError`. After `recheck_with`, a file
    whose time stamp changed, but whose size and content did not, is still the file that was opened.

    Args:
        path: the file.
        keep_open: False opens the file for each read and closes it afterwards, for very many files or for file systems
            on which files should not stay open.

    Raises:
        StoreNotFoundError: the file does not exist or is not a regular file.
        StoreReadError: the operating system failed to open it.
    """

    def __init__(self, path: Path, *, keep_open: bool = True) -> None:
        self.path = path
        self._keep_open = keep_open
        self._fd: int | None = None
        self._lock, self._recheck_lock = threading.Lock(), threading.Lock()
        self._recheck: weakref.WeakMethod[Callable[[PositionedFile], bool]] | None = None
        self._refused: Fingerprint | None = None
        # See `_announce`: how many of the next batches are not looked at; if negative, how many are.
        self._unseen = -LOOKS
        fd = self._open()
        try:
            self.stat = self._identity(fd)
        finally:
            if keep_open:
                self._fd = fd
            else:
                _close(fd)

    @property
    def size(self) -> int:
        return self.stat[2]

    def recheck_with(self, method: Callable[[PositionedFile], bool]) -> None:
        """Call `method` if the time stamp changes, or the file is replaced by another one of the same size.

        Args:
            method: a bound method, which is not kept alive. It is given the file, newly opened, and returns True if
                its content is the content that was opened. It has to forget every comparison of content with
                checksums, because the content may have been altered in place; reads that are in progress are repeated
                afterwards. If it raises an error about the content, the file counts as changed.
        """
        self._recheck = weakref.WeakMethod(method)

    def read(self, offset: int, size: int) -> bytearray:
        """Read `size` bytes from `offset`.

        Raises:
            StoreChangedError: the file is no longer the one that was opened.
            StoreReadError: the operating system failed to read, or the file was closed.
        """
        out = bytearray(size)
        self.read_into(offset, memoryview(out))
        return out

    def read_into(self, offset: int, out: Any) -> None:
        """Fill a writable, contiguous array or memoryview from `offset`. Raises the same errors as `read`."""
        fd = self._fd
        if fd is None:
            self._reading(lambda fd: self._fill(fd, offset, out))
            return
        try:
            count = getattr(os, "preadv", _preadv)(fd, [out], offset)
        except OSError:
            count = 0
        if count != out.nbytes:  # `_fill` reads the rest or raises the error
            self._fill(fd, offset, out)
        if self.check():  # after the read, so that a change before it and a change during it are both noticed
            self.read_into(offset, out)

    def gather(self, offsets: NDArray[np.int64], sizes: NDArray[np.int64]) -> NDArray[np.uint8]:
        """Read many extents, end to end, into a new uint8 array; neighbouring extents need only one call.

        Args:
            offsets, sizes: int64 `(n,)`, in bytes.

        Raises:
            StoreChangedError: the file is no longer the one that was opened.
            StoreReadError: the operating system failed to read, or the file was closed.
        """
        if len(offsets) == 0:
            return np.empty(0, np.uint8)
        size = int(sizes.sum())
        # Small gaps between small extents are read, too, because this costs less than another call.
        close = max(GAP, size // len(sizes)) if size <= min(SMALL * len(sizes), MANY_SMALL) else 0
        first, lengths = _runs(offsets, sizes, close)
        stops, positions, run_sizes = np.cumsum(lengths), offsets[first].tolist(), lengths.tolist()
        starts, total = stops - lengths, int(stops[-1])

        def gathered(fd: int) -> NDArray[np.uint8]:
            self._announce(fd, offsets, sizes)
            if total <= min(SMALL * len(first), MANY_SMALL):
                with suppress(OSError):  # a second copy within the processor's cache costs less than a loop in Python
                    parts = map(getattr(os, "pread", _pread), repeat(fd), run_sizes, positions)
                    if len(joined := bytearray().join(parts)) == total:
                        return np.frombuffer(joined, np.uint8)
            out = np.empty(total, np.uint8)
            view, preadv = out.data, getattr(os, "preadv", _preadv)
            for offset, start, stop in zip(positions, starts.tolist(), stops.tolist(), strict=True):
                part = view[start:stop]
                try:
                    count = preadv(fd, [part], offset)
                except OSError:
                    count = 0
                if count != stop - start:  # `_fill` reads the rest or raises the error
                    self._fill(fd, offset, part)
            return out

        data = self._reading(gathered)
        if total == size:
            return data
        begins = offsets - np.repeat(offsets[first] - starts, np.diff(first, append=len(offsets)))
        return columns.gather(data, begins, begins + sizes)

    def read_prefixes(self, offsets: NDArray[np.int64], width: int) -> NDArray[np.uint8]:
        """Read `width` bytes from each offset: uint8 `(n, width)`. Past the end of the file they are zeros.

        If the offsets are close to each other, everything between them is read in large parts.

        Args:
            offsets: int64 `(n,)`, at least one, in any order.
            width: at least 1.

        Raises:
            StoreChangedError: the file is no longer the one that was opened.
            StoreReadError: the operating system failed to read, or the file was closed.
        """
        out, order = np.zeros((len(offsets), width), np.uint8), np.argsort(offsets, kind="stable")
        at = offsets[order]

        def together(fd: int) -> NDArray[np.uint8]:
            buffer, begin = np.empty(MANY_SMALL + width, np.uint8), 0
            windows = sliding_window_view(buffer, width)
            while begin < len(at):
                start = int(at[begin])
                end = int(np.searchsorted(at, start + MANY_SMALL, "right"))
                size = int(at[end - 1]) + width - start
                there = max(0, min(size, self.size - start))
                self._fill(fd, start, buffer[:there])
                buffer[there:size] = 0
                out[order[begin:end]] = windows[at[begin:end] - start]
                begin = end
            return out

        def separately(fd: int) -> NDArray[np.uint8]:
            self._announce(fd, at, np.full(len(at), width))
            with suppress(OSError):
                joined = b"".join(map(getattr(os, "pread", _pread), repeat(fd), repeat(width), offsets.tolist()))
                if len(joined) == out.size:
                    return np.frombuffer(joined, np.uint8).reshape(out.shape)
            for line, offset in zip(out, offsets.tolist(), strict=True):
                self._fill(fd, offset, line[: max(0, self.size - offset)])
            return out

        return self._reading(together if at[-1] - at[0] <= CLOSE * len(at) else separately)

    def check(self) -> bool:
        """Raise `StoreChangedError` if the file was altered or truncated since it was opened.

        Returns:
            True if the content was rechecked, see `recheck_with`. What was read before has to be read again.
        """
        fd = self._fd
        if fd is None:
            self._reading(lambda fd: None)
            return False
        try:
            status = os.fstat(fd)  # an open file keeps its device and inode
        except OSError as error:
            raise StoreReadError(f"{self.path} cannot be read: {error}") from None
        if status.st_mtime_ns != self.stat[3] or status.st_size != self.stat[2]:
            return self._compare(_fingerprint(status))
        return False

    def close(self) -> None:
        """Close the file; a second call does nothing."""
        with self._lock:
            fd, self._fd = self._fd, None
            if fd is not None:
                _close(fd)

    def __del__(self) -> None:
        try:  # noqa: SIM105 - when the process ends, `suppress` may be gone already
            self.close()
        except Exception:
            pass

    def _reading(self, read: Callable[[int], T]) -> T:
        """What `read` returns for the descriptor of the file, which afterwards must still be the file that was opened.

        If the content was rechecked meanwhile, it is read again.
        """
        while True:
            if self._keep_open:
                if self._fd is None:
                    raise StoreReadError(f"{self.path} was closed; load the dataset again")
                result = read(self._fd)
                if not self.check():
                    return result
                continue
            fd = self._open()
            try:
                self._compare(self._identity(fd))
                result = read(fd)
                if not self._compare(self._identity(fd)):
                    return result
            finally:
                _close(fd)

    def _identity(self, fd: int) -> Fingerprint:
        try:
            return _fingerprint(os.fstat(fd))
        except OSError as error:
            raise StoreReadError(f"{self.path} cannot be read: {error}") from None

    def _compare(self, fingerprint: Fingerprint) -> bool:
        """Compare the file with the one that was opened; True if its content was rechecked."""
        if fingerprint == self.stat:
            return False
        with self._recheck_lock:
            if fingerprint == self.stat:
                return True  # another thread rechecked the content
            same = None if fingerprint == self._refused else self._same_content(fingerprint)
            if same is None:
                self._refused = fingerprint
                raise StoreChangedError(f"{self.path} was changed after it was opened; load the dataset again")
            self.stat = same
            return True

    def _same_content(self, fingerprint: Fingerprint) -> Fingerprint | None:
        """The fingerprint of the file now, if its content is still the one that was opened, and None otherwise."""
        method = None if self._recheck is None else self._recheck()
        if method is None or fingerprint[2] != self.size:
            return None
        for _ in range(WRITING_TICKS):
            _wait_for_tick(fingerprint[3])
            try:
                file = PositionedFile(self.path)
            except StoreNotFoundError:
                return None
            try:
                if file.stat[:3] != fingerprint[:3]:
                    return None
                if file.stat == fingerprint:
                    same = method(file)
                    file.check()
                    return fingerprint if same else None
            except (CorruptStoreError, StoreChangedError):
                return None
            finally:
                file.close()
            fingerprint = file.stat  # it is still being written
        return None

    def _open(self) -> int:
        fd = None
        try:
            # O_NONBLOCK: opening a FIFO must not wait for a writer.
            fd = os.open(self.path, _flags("O_RDONLY", "O_CLOEXEC", "O_NONBLOCK", "O_BINARY"))
            regular = stat.S_ISREG(os.fstat(fd).st_mode)
        except FileNotFoundError:
            raise StoreNotFoundError(f"there is no file {quoted(str(self.path))}") from None
        except (OSError, ValueError) as error:
            if fd is not None:
                _close(fd)
            way = ""
            if isinstance(error, OSError) and error.errno in (errno.EMFILE, errno.ENFILE):
                way = "; the backend npz-reopen keeps no file open, and `ulimit -n` raises the limit"
            raise StoreReadError(f"cannot open {quoted(str(self.path))}: {error}{way}") from None
        if not regular:
            _close(fd)
            raise StoreNotFoundError(f"{quoted(str(self.path))} is not a regular file")
        return fd

    def _announce(self, fd: int, offsets: NDArray[np.int64], sizes: NDArray[np.int64]) -> None:
        """Let the system read all of these extents at the same time, unless they seem to be in its cache already.

        A disk reads many extents at the same time in little more time than one. After `LOOKS` batches that were in the
        cache, only some batches are looked at.
        """
        if self._unseen > 0:
            self._unseen -= 1
            return
        if not all(hasattr(os, name) for name in ("preadv", "RWF_NOWAIT", "posix_fadvise")):
            self._unseen = sys.maxsize
            return
        first, lengths = _runs(offsets, sizes)
        byte, positions = [bytearray(1)], offsets[first].tolist()
        try:
            for offset in positions[:: -(-len(positions) // PROBES)] if len(positions) > 1 else ():
                os.preadv(fd, byte, offset, os.RWF_NOWAIT)
            self._unseen = self._unseen + 1 if self._unseen < 0 else UNSEEN
        except BlockingIOError:  # it is not in the cache
            self._unseen = -LOOKS
            with suppress(OSError):
                for offset, size in zip(positions, lengths.tolist(), strict=True):
                    if size:  # 0 stands for the rest of the file
                        os.posix_fadvise(fd, offset, size, os.POSIX_FADV_WILLNEED)
        except OSError:  # such as a file system that cannot tell
            self._unseen = sys.maxsize

    def _fill(self, fd: int, offset: int, out: Any) -> None:
        view, done = memoryview(out).cast("B") if out.nbytes else memoryview(b""), 0
        while done < len(view):
            try:
                count = getattr(os, "preadv", _preadv)(fd, [view[done:]], offset + done)
            except OSError as error:
                raise StoreReadError(f"{self.path} cannot be read at byte {offset + done}: {error}") from None
            if count == 0:
                raise StoreChangedError(f"{self.path} ends at byte {offset + done}; it was truncated or is damaged")
            done += count


class MappedFile(PositionedFile):
    """A regular file that is mapped into memory, so that a row costs no system call and only one copy.

    If the file becomes shorter, touching the part that is gone kills the process. The size is therefore compared before
    each read, but a change during a read remains the caller's risk. Use it for local files that are never rewritten.
    """

    def __init__(self, path: Path) -> None:
        super().__init__(path)
        assert self._fd is not None
        self._map = mmap.mmap(self._fd, 0, access=mmap.ACCESS_READ) if self.size else b""
        self._bytes, self._view = np.frombuffer(self._map, np.uint8), memoryview(self._map)

    def read_into(self, offset: int, out: Any) -> None:
        """See `PositionedFile.read_into`."""
        self.check()
        size = out.nbytes
        part = self._view[offset : offset + size]
        if len(part) != size:
            self._require(offset + size)
        if size:
            memoryview(out).cast("B")[:] = part

    def gather(self, offsets: NDArray[np.int64], sizes: NDArray[np.int64]) -> NDArray[np.uint8]:
        """See `PositionedFile.gather`."""
        if len(offsets) == 0:
            return np.empty(0, np.uint8)
        self._reading(lambda fd: self._announce(fd, offsets, sizes))
        ends = offsets + sizes
        self._require(int(ends.max()))
        return columns.gather(self._bytes, offsets, ends)

    def close(self) -> None:
        """Close the file. The mapping lasts until the last array over it is gone."""
        super().close()
        self._bytes, self._view = np.empty(0, np.uint8), memoryview(b"")

    def _require(self, end: int) -> None:
        if end > len(self._bytes):
            raise StoreChangedError(f"{self.path} ends at byte {len(self._bytes)}; it is damaged or was closed")


def _runs(
    offsets: NDArray[np.int64], sizes: NDArray[np.int64], close: int = 0
) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """The runs of extents that follow each other in a file, with gaps of at most `close` bytes.

    Returns:
        Both int64 `(runs,)`: the number of the first extent of each run, and the length of the run in bytes.
    """
    gaps = offsets[1:] - offsets[:-1] - sizes[:-1]
    first = np.flatnonzero(np.concatenate([[True], (gaps < 0) | (gaps > close)]))
    last = np.append(first[1:], len(offsets)) - 1
    return first, offsets[last] + sizes[last] - offsets[first]


def _wait_for_tick(modified: int) -> None:
    """Wait until any later change of a file must give it another time of modification than this one, in ns."""
    tick = TICK if modified % 1_000_000_000 else COARSE_TICK
    age = time.time() - modified / 1e9
    if abs(age) < tick:
        time.sleep(tick - age)


@contextmanager
def os_errors(path: Path | str) -> Iterator[None]:
    """Turn an error of the operating system while looking at a path into a `StoreReadError` that names the path."""
    try:
        yield
    except KinomlDataError:  # some of them are errors of the operating system, too
        raise
    except OSError as error:
        raise StoreReadError(f"{quoted(str(path))} cannot be read: {error}") from None


def matches(pattern: Path | str, folder: Path | None = None) -> list[str]:
    """The paths that match a pattern, sorted. `**` stands for any number of folders.

    Args:
        pattern: the pattern.
        folder: the folder that a relative pattern starts from; by default the working directory.

    Raises:
        StoreReadError: a folder that may contain a match cannot be read, which `glob` would pass over.
    """
    text = str(pattern)
    found = sorted(glob(text, root_dir=folder, recursive=True))  # noqa: PTH207 - Path.glob refuses absolute patterns
    *folders, _ = Path(text).parts
    fixed = list(itertools.takewhile(lambda part: not has_magic(part), folders))
    root = (folder or Path()).joinpath(*fixed)
    with os_errors(root):
        if root.is_dir():
            deque(root.iterdir() if fixed == folders else os.walk(root, onerror=_raise), maxlen=0)
    return found


def _raise(error: OSError) -> None:
    raise error


def _close(fd: int) -> None:
    with suppress(OSError):  # a file that was only read has nothing to lose
        os.close(fd)


def _fingerprint(status: os.stat_result) -> Fingerprint:
    return status.st_dev, status.st_ino, status.st_size, status.st_mtime_ns


def check_target(target: Path, *, overwrite: bool) -> None:
    """Check that a file or a folder can be written to a path, before the work that makes its content.

    Raises:
        StoreExistsError: the target exists and `overwrite` is False.
        StoreWriteError: the folder that the target would be in does not exist, or cannot be looked at.
    """
    if not overwrite and os.path.lexists(target):
        how = "pass overwrite=True (--overwrite on the command line) to replace it"
        raise StoreExistsError(f"{quoted(str(target))} already exists; {how}")
    try:
        has_folder = target.parent.is_dir()
    except OSError as error:
        raise StoreWriteError(f"cannot write {quoted(str(target))}: {error}; nothing was changed") from error
    if not has_folder:
        raise StoreWriteError(f"there is no folder {quoted(str(target.parent))}; create it first")


@contextmanager
def replacing(target: Path, *, overwrite: bool) -> Iterator[Path]:
    """Write a file or a folder completely or not at all: yields a temporary path next to `target`, renamed at the end.

    The block creates a file or a folder at the temporary path. A file that replaces another one gets its mode. What was
    written is flushed to disk before the rename, and the folder around it afterwards. After any exception, including
    Ctrl-C, the temporary file is removed and `target` is unchanged. A folder never replaces a folder that is not empty.

    Raises:
        StoreExistsError: the target exists and `overwrite` is False, or it appeared while the block ran.
        StoreWriteError: the operating system failed to write. If the disk is full, the error specifies the free space.
    """
    check_target(target, overwrite=overwrite)
    temporary: Path | None = None
    try:
        try:
            # A symbolic link stays a link: what it points to is replaced.
            final = Path(os.path.realpath(target)) if target.is_symlink() else target
            # 40 characters are at most 160 bytes: with the rest, less than the 255 that a name may have.
            temporary = final.with_name(f".{final.name[:40]}.{os.getpid()}.{secrets.token_hex(4)}.partial")
            yield temporary
            if overwrite and final.is_file():
                temporary.chmod(stat.S_IMODE(final.stat().st_mode))  # what was private stays private
            _sync_all(temporary)
            if overwrite:
                temporary.replace(final)
            else:
                _rename_new(temporary, final)
        finally:
            _remove(temporary)
    except KinomlDataError:  # some of these are OSErrors too, such as a source that could not be read
        raise
    except OSError as error:
        reason = f"{error}{_room(target.parent) if error.errno in (errno.ENOSPC, errno.EDQUOT) else ''}"
        raise StoreWriteError(f"cannot write {quoted(str(target))}: {reason}; nothing was changed") from error
    finally:
        _remove(temporary)  # once more, in case Ctrl-C interrupted the first time
    try:
        _sync_folder(final.parent)
    except OSError as error:
        raise StoreWriteError(
            f"{quoted(str(target))} was written, but may not survive a power loss: {error}"
        ) from error


def _room(folder: Path) -> str:
    """The end of the message for a full disk: the space that is free after the new store has been removed."""
    try:
        free = shutil.disk_usage(folder).free
    except OSError:
        return ""
    return f"; writing it needs more than the {free:,} bytes that are free in {quoted(str(folder))}"


def _remove(temporary: Path | None) -> None:
    if temporary is not None:
        with suppress(OSError):
            if temporary.is_dir():
                shutil.rmtree(temporary, ignore_errors=True)
            else:
                temporary.unlink(missing_ok=True)


def _rename_new(temporary: Path, final: Path) -> None:
    exists = StoreExistsError(f"{quoted(str(final))} appeared while this store was being written; it was not replaced")
    if hasattr(os, "link") and not temporary.is_dir():
        try:
            os.link(temporary, final)  # unlike a rename, it never replaces anything
            return
        except FileExistsError:
            raise exists from None
        except OSError as error:
            if error.errno not in (errno.EPERM, errno.ENOTSUP, errno.ENOSYS):  # such as exFAT, which has no hard links
                raise
    if os.path.lexists(final):
        raise exists
    temporary.rename(final)


def _sync_all(path: Path) -> None:
    if path.is_dir():
        for folder, _, names in os.walk(path, topdown=False):
            for name in names:
                _sync(Path(folder, name))
            _sync_folder(Path(folder))
    else:
        _sync(path)


def _sync_folder(path: Path) -> None:
    if hasattr(os, "O_DIRECTORY"):  # Windows cannot open a folder, and has no way to flush it
        _sync(path, "O_RDONLY")


def _sync(path: Path, access: str = "O_RDWR") -> None:  # Windows flushes only files that are open for writing
    fd = os.open(path, _flags(access, "O_CLOEXEC"))
    try:
        os.fsync(fd)
    finally:
        os.close(fd)
