"""Files: reading at given positions, noticing changes, and writing a new file or folder completely or not at all.

Linux and macOS have all the system calls that are used. If a system lacks one, such as `preadv` on Windows, a slower
replacement with the same result is used.
"""

from __future__ import annotations

import errno
import functools
import mmap
import operator
import os
import secrets
import shutil
import stat
import threading
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from itertools import repeat
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from kinoml_data import columns
from kinoml_data.errors import (
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
_seek_lock = threading.Lock()


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

    Args:
        path: the file.
        keep_open: False opens the file for each read and closes it afterwards, for very many files or for file systems
            on which files should not stay open.

    Raises:
        StoreNotFoundError: there is no such regular file.
        StoreReadError: the operating system failed to open it.
    """

    def __init__(self, path: Path, *, keep_open: bool = True) -> None:
        self.path = path
        self._keep_open = keep_open
        self._fd: int | None = None
        self._lock = threading.Lock()
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
            with self._descriptor() as opened:
                self._fill(opened, offset, memoryview(out).cast("B") if out.nbytes else memoryview(b""))
            return
        try:
            count = getattr(os, "preadv", _preadv)(fd, [out], offset)
        except OSError:
            count = 0
        if count != out.nbytes:  # `_fill` reads the rest or raises the error
            self._fill(fd, offset, memoryview(out).cast("B") if out.nbytes else memoryview(b""))
        self.check()  # after the read, so that a change before it and a change during it are both noticed

    def gather(self, offsets: NDArray[np.int64], sizes: NDArray[np.int64]) -> NDArray[np.uint8]:
        """Read many extents, end to end, into a new uint8 array; extents that adjoin in the file need one call.

        Args:
            offsets, sizes: int64 `(n,)`, in bytes.

        Raises:
            StoreChangedError: the file is no longer the one that was opened.
            StoreReadError: the operating system failed to read, or the file was closed.
        """
        if len(offsets) == 0:
            return np.empty(0, np.uint8)
        ends = np.cumsum(sizes)
        # The next extent needs a call of its own if it does not adjoin the one before it.
        first = np.flatnonzero(np.r_[True, offsets[1:] != offsets[:-1] + sizes[:-1]])
        starts, stops, total = (ends - sizes)[first], ends[np.r_[first[1:] - 1, -1]], int(ends[-1])
        positions = offsets[first].tolist()
        with self._descriptor() as fd:
            if total <= min(SMALL * len(first), MANY_SMALL):
                with suppress(OSError):  # a second copy within the processor's cache costs less than a loop in Python
                    parts = map(getattr(os, "pread", _pread), repeat(fd), (stops - starts).tolist(), positions)
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

    def read_prefixes(self, offsets: NDArray[np.int64], width: int) -> bytes:
        """Read `width` bytes from each offset, end to end; past the end of the file they are zeros.

        Raises:
            StoreChangedError: the file is no longer the one that was opened.
            StoreReadError: the operating system failed to read, or the file was closed.
        """
        with self._descriptor() as fd:
            try:
                parts = list(map(getattr(os, "pread", _pread), repeat(fd), repeat(width), offsets.tolist()))
            except OSError as error:
                raise StoreReadError(f"{self.path} cannot be read: {error}") from None
        joined = b"".join(parts)
        if len(joined) == width * len(offsets):
            return joined
        for i in [i for i, part in enumerate(parts) if len(part) != width]:
            if offsets[i] + len(parts[i]) < self.size:
                parts[i] = bytes(self.read(int(offsets[i]), min(width, self.size - int(offsets[i]))))
            parts[i] = parts[i].ljust(width, b"\0")
        return b"".join(parts)

    def check(self) -> None:
        """Raise `StoreChangedError` if the file was altered or truncated since it was opened."""
        fd = self._fd
        if fd is None:
            with self._descriptor():
                return
        try:
            status = os.fstat(fd)  # an open file keeps its device and inode
        except OSError as error:
            raise StoreReadError(f"{self.path} cannot be read: {error}") from None
        if status.st_mtime_ns != self.stat[3] or status.st_size != self.stat[2]:
            self._compare(_fingerprint(status))

    def close(self) -> None:
        """Close the file; a second call does nothing."""
        with self._lock:
            fd, self._fd = self._fd, None
            if fd is not None:
                _close(fd)

    def __del__(self) -> None:
        with suppress(Exception):
            self.close()

    @contextmanager
    def _descriptor(self) -> Iterator[int]:
        """The descriptor of the open file, which at the end of the block must still be the file that was opened."""
        if self._keep_open:
            if self._fd is None:
                raise StoreReadError(f"{self.path} was closed; load the dataset again")
            yield self._fd
            self.check()
            return
        fd = self._open()
        try:
            self._compare(self._identity(fd))
            yield fd
            self._compare(self._identity(fd))
        finally:
            _close(fd)

    def _identity(self, fd: int) -> tuple[int, int, int, int]:
        try:
            return _fingerprint(os.fstat(fd))
        except OSError as error:
            raise StoreReadError(f"{self.path} cannot be read: {error}") from None

    def _compare(self, fingerprint: tuple[int, int, int, int]) -> None:
        if fingerprint != self.stat:
            raise StoreChangedError(f"{self.path} was changed after it was opened; load the dataset again")

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
            raise StoreReadError(f"cannot open {quoted(str(self.path))}: {error}") from None
        if not regular:
            _close(fd)
            raise StoreNotFoundError(f"{quoted(str(self.path))} is not a regular file")
        return fd

    def _fill(self, fd: int, offset: int, view: memoryview) -> None:
        done = 0
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
        self.check()
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


def _close(fd: int) -> None:
    with suppress(OSError):  # a file that was only read has nothing to lose
        os.close(fd)


def _fingerprint(status: os.stat_result) -> tuple[int, int, int, int]:
    return status.st_dev, status.st_ino, status.st_size, status.st_mtime_ns


@contextmanager
def replacing(target: Path, *, overwrite: bool) -> Iterator[Path]:
    """Write a file or a folder completely or not at all: yields a temporary path next to `target`, renamed at the end.

    The block creates a file or a folder at the temporary path. What it wrote is flushed to disk before the rename, and
    the folder around it afterwards. After any exception, including Ctrl-C, the temporary file is removed and `target`
    is unchanged. A folder never replaces a folder that is not empty.

    Raises:
        StoreExistsError: the target exists and `overwrite` is False, or it appeared while the block ran.
        StoreWriteError: the operating system failed to write. If the disk is full, the error specifies the free space.
    """
    if not overwrite and os.path.lexists(target):
        how = "pass overwrite=True (--overwrite on the command line) to replace it"
        raise StoreExistsError(f"{quoted(str(target))} already exists; {how}")
    temporary: Path | None = None
    try:
        try:
            if not target.parent.is_dir():
                raise StoreWriteError(f"there is no folder {quoted(str(target.parent))}; create it first")
            # A symbolic link stays a link: what it points to is replaced.
            final = Path(os.path.realpath(target)) if target.is_symlink() else target
            # 40 characters are at most 160 bytes: with the rest, less than the 255 that a name may have.
            temporary = final.with_name(f".{final.name[:40]}.{os.getpid()}.{secrets.token_hex(4)}.partial")
            yield temporary
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
