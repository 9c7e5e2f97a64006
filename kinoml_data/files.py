"""Files: positioned reads, the identity of a file, and writing all or nothing."""

from __future__ import annotations

import errno
import mmap
import os
import secrets
import stat
import threading
from collections.abc import Iterator
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

SMALL = 8192  # bytes of an extent up to which reading it apart and joining it is faster than reading it into place
MANY_SMALL = 1 << 20  # bytes read so at once, which stay in the processor's cache


class PositionedFile:
    """A regular file read by position, so that threads and forked processes never share an offset.

    Args:
        path: the file.
        keep_open: False opens it for each read, for many files or file systems that dislike held handles.

    Raises:
        StoreNotFoundError: there is no such regular file.
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
        """`size` bytes from `offset`.

        Raises:
            StoreChangedError: the file is no longer the one that was opened.
            StoreReadError: the operating system failed to read.
        """
        out = bytearray(size)
        self.read_into(offset, memoryview(out))
        return out

    def read_into(self, offset: int, out: Any) -> None:
        """Fill a writable, contiguous array or memoryview from `offset`; raises as `read`."""
        fd = self._fd
        if fd is None:
            with self._descriptor() as opened:
                self._fill(opened, offset, memoryview(out).cast("B") if out.nbytes else memoryview(b""))
            return
        try:
            count = os.preadv(fd, [out], offset)
        except OSError:
            count = 0
        if count != out.nbytes:  # the rest, or the error, by the longer way
            self._fill(fd, offset, memoryview(out).cast("B") if out.nbytes else memoryview(b""))
        self.check()  # afterwards: what was changed before and what is changed meanwhile are noticed alike

    def gather(self, offsets: NDArray[np.int64], sizes: NDArray[np.int64]) -> NDArray[np.uint8]:
        """Many extents end to end in a new uint8 array; neighbours in the file are read in one call.

        Args:
            offsets, sizes: int64 `(n,)`, in bytes.

        Raises:
            StoreChangedError, StoreReadError: as `read`.
        """
        if len(offsets) == 0:
            return np.empty(0, np.uint8)
        ends = np.cumsum(sizes)
        # A new call wherever the next extent does not follow on directly in the file.
        first = np.flatnonzero(np.r_[True, offsets[1:] != offsets[:-1] + sizes[:-1]])
        starts, stops, total = (ends - sizes)[first], ends[np.r_[first[1:] - 1, -1]], int(ends[-1])
        where = offsets[first].tolist()
        with self._descriptor() as fd:
            if total <= min(SMALL * len(first), MANY_SMALL):
                with suppress(OSError):  # a second copy within the processor's cache costs less than a loop in Python
                    parts = map(os.pread, repeat(fd), (stops - starts).tolist(), where)
                    if len(joined := bytearray().join(parts)) == total:
                        return np.frombuffer(joined, np.uint8)
            out = np.empty(total, np.uint8)
            view, preadv = out.data, os.preadv
            for offset, start, stop in zip(where, starts.tolist(), stops.tolist(), strict=True):
                part = view[start:stop]
                try:
                    whole = preadv(fd, [part], offset) == stop - start
                except OSError:
                    whole = False
                if not whole:  # the rest, or the error, by the longer way
                    self._fill(fd, offset, part)
        return out

    def read_prefixes(self, offsets: NDArray[np.int64], width: int) -> bytes:
        """`width` bytes from each offset, end to end; zeros past the end of the file.

        Raises:
            StoreChangedError, StoreReadError: as `read`.
        """
        with self._descriptor() as fd:
            try:
                found = list(map(os.pread, repeat(fd), repeat(width), offsets.tolist()))
            except OSError as error:
                raise StoreReadError(f"{self.path}: cannot read: {error}") from None
        joined = b"".join(found)
        if len(joined) == width * len(offsets):
            return joined
        for i in [i for i, head in enumerate(found) if len(head) != width]:
            if offsets[i] + len(found[i]) < self.size:
                found[i] = bytes(self.read(int(offsets[i]), min(width, self.size - int(offsets[i]))))
            found[i] = found[i].ljust(width, b"\0")
        return b"".join(found)

    def check(self) -> None:
        """Raise `StoreChangedError` if the file was altered or truncated since it was opened."""
        fd = self._fd
        if fd is None:
            with self._descriptor():
                return
        try:
            found = os.fstat(fd)  # an open file keeps its device and inode
        except OSError as error:
            raise StoreReadError(f"{self.path}: cannot read: {error}") from None
        if found.st_mtime_ns != self.stat[3] or found.st_size != self.stat[2]:
            self._compare(_fingerprint(found))

    def close(self) -> None:
        with self._lock:
            fd, self._fd = self._fd, None
            if fd is not None:
                _close(fd)

    def __del__(self) -> None:
        with suppress(Exception):
            self.close()

    @contextmanager
    def _descriptor(self) -> Iterator[int]:
        """The open file; at the end of the block it must still be the one that was opened first."""
        if self._keep_open:
            if self._fd is None:
                raise StoreReadError(f"{self.path} was closed")
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
            raise StoreReadError(f"{self.path}: cannot read: {error}") from None

    def _compare(self, found: tuple[int, int, int, int]) -> None:
        if found != self.stat:
            raise StoreChangedError(f"{self.path} was changed after it was opened; load the dataset again")

    def _open(self) -> int:
        fd = None
        try:
            # O_NONBLOCK: opening a FIFO must not wait for a writer.
            fd = os.open(self.path, os.O_RDONLY | os.O_CLOEXEC | os.O_NONBLOCK)
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
                count = os.preadv(fd, [view[done:]], offset + done)
            except OSError as error:
                raise StoreReadError(f"{self.path}: cannot read at byte {offset + done}: {error}") from None
            if count == 0:
                raise StoreChangedError(f"{self.path} ends at byte {offset + done}; it was truncated or is damaged")
            done += count


class MappedFile(PositionedFile):
    """A regular file mapped into memory: no call to the operating system per row, and no copy but the one returned.

    A file that became shorter would kill the process that touches what is gone; so its size is looked at before each
    read, and one that changes during a read is still the caller's risk. For local files that nobody rewrites.
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
        """Close the file; the mapping goes with the last array over it."""
        super().close()
        self._bytes, self._view = np.empty(0, np.uint8), memoryview(b"")

    def _require(self, end: int) -> None:
        if end > len(self._bytes):
            raise StoreChangedError(f"{self.path} ends at byte {len(self._bytes)}; it is damaged, or was closed")


def _close(fd: int) -> None:
    with suppress(OSError):  # a file that was only read has nothing to lose
        os.close(fd)


def _fingerprint(found: os.stat_result) -> tuple[int, int, int, int]:
    return found.st_dev, found.st_ino, found.st_size, found.st_mtime_ns


@contextmanager
def replacing(target: Path, *, overwrite: bool) -> Iterator[Path]:
    """Write a file all or nothing: yields a temporary path beside `target`, renamed when the block ends well.

    The content is flushed to disk before the rename and the folder after it. Any exception, Ctrl-C too,
    removes the temporary file and leaves what was there.

    Raises:
        StoreExistsError: the target exists and `overwrite` is False; also if it appeared meanwhile.
        StoreWriteError: the operating system refused.
    """
    if not overwrite and os.path.lexists(target):
        how = "pass overwrite=True (--overwrite on the command line) to replace it"
        raise StoreExistsError(f"{quoted(str(target))} exists; {how}")
    temporary: Path | None = None
    try:
        try:
            if not target.parent.is_dir():
                raise StoreWriteError(f"there is no folder {quoted(str(target.parent))}")
            # A symbolic link stays one: what it points to is replaced.
            final = Path(os.path.realpath(target)) if target.is_symlink() else target
            # 40 characters are at most 160 bytes: with the rest, less than the 255 that a name may have.
            temporary = final.with_name(f".{final.name[:40]}.{os.getpid()}.{secrets.token_hex(4)}.partial")
            yield temporary
            _sync(temporary)
            if overwrite:
                temporary.replace(final)
            else:
                _rename_new(temporary, final)
        finally:
            _remove(temporary)
    except KinomlDataError:  # some of these are OSErrors too, such as a source that could not be read
        raise
    except OSError as error:
        raise StoreWriteError(f"cannot write {quoted(str(target))}: {error}; nothing was changed") from error
    finally:
        _remove(temporary)  # once more, where Ctrl-C came in the midst of it
    try:
        _sync(final.parent)
    except OSError as error:
        raise StoreWriteError(
            f"{quoted(str(target))} was written, but may not survive a power loss: {error}"
        ) from error


def _remove(temporary: Path | None) -> None:
    if temporary is not None:
        with suppress(OSError):
            temporary.unlink(missing_ok=True)


def _rename_new(temporary: Path, final: Path) -> None:
    try:
        os.link(temporary, final)
        return
    except FileExistsError:
        pass
    except OSError as error:
        if error.errno not in (errno.EPERM, errno.ENOTSUP, errno.ENOSYS):
            raise
        if not os.path.lexists(final):  # a file system without hard links, such as exFAT
            temporary.rename(final)
            return
    raise StoreExistsError(f"{quoted(str(final))} appeared while it was being written")


def _sync(path: Path) -> None:
    fd = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
    try:
        os.fsync(fd)
    finally:
        os.close(fd)


def replace_text(path: Path, text: str) -> None:
    """Write a small text file all or nothing, over an existing one."""
    with replacing(path, overwrite=True) as temporary:
        temporary.write_text(text, encoding="utf-8")
