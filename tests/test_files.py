"""Reading by position, noticing that a file is no longer the same, and writing all or nothing."""

import errno
import gc
import os
import re
import threading
import time

import numpy as np
import pytest

from kinoml_data import files
from kinoml_data.backends.npz.backend import NpzLazy
from kinoml_data.errors import StoreChangedError, StoreExistsError, StoreNotFoundError, StoreReadError, StoreWriteError
from kinoml_data.files import PositionedFile, replacing
from kinoml_data.testing import mixed, same_rows

CONTENT = bytes(np.random.default_rng(0).integers(0, 256, 100_000, dtype=np.uint8))
READERS = {
    "open": PositionedFile,
    "reopening": lambda path: PositionedFile(path, keep_open=False),
    "mapped": files.MappedFile,
}


@pytest.fixture
def path(tmp_path):
    path = tmp_path / "data.bin"
    path.write_bytes(CONTENT)
    return path


@pytest.fixture(params=READERS.values(), ids=READERS)
def make(request):
    return request.param


@pytest.fixture
def file(path, make):
    file = make(path)
    yield file
    file.close()


def extents(*pairs):
    return (np.array([a for a, _ in pairs], np.int64), np.array([b for _, b in pairs], np.int64))


def gathered(file, *pairs):
    offsets, sizes = extents(*pairs)
    return file.gather(offsets, sizes).tobytes()


def age(path):
    """Make the file look older, so that any later write shows in its time."""
    os.utime(path, ns=(1, 1))


# -- reading


@pytest.mark.parametrize(("offset", "size"), [(0, 10), (99_990, 10), (5, 0), (0, 100_000), (100_000, 0), (4095, 4098)])
def test_bytes_are_read_from_where_they_are(file, offset, size):
    assert file.size == len(CONTENT)
    assert bytes(file.read(offset, size)) == CONTENT[offset : offset + size]
    out = np.zeros(size, np.uint8)
    file.read_into(offset, out)
    assert out.tobytes() == CONTENT[offset : offset + size]


@pytest.mark.parametrize(
    "pairs",
    [
        [],
        [(0, 5)],
        [(0, 5), (5, 7), (12, 3)],
        [(50, 5), (0, 5), (5, 5), (50, 5), (99_999, 1)],
        [(7, 0), (7, 0), (3, 2), (5, 0)],
        [(10, 5), (12, 5)],
        [(100_000, 0)],
    ],
    ids=str,
)
def test_extents_are_gathered_in_the_order_asked(file, pairs):
    assert gathered(file, *pairs) == b"".join(CONTENT[a : a + n] for a, n in pairs)


def test_heads_past_the_end_are_zeros(file):
    offsets = np.array([0, 99_990, 100_000, 17], np.int64)
    expected = b"".join(CONTENT[a : a + 32].ljust(32, b"\0") for a in offsets.tolist())
    assert file.read_prefixes(offsets, 32).tobytes() == expected


@pytest.mark.parametrize("close", [0, 10_000])  # bytes: each is read on its own, or all are read together
@pytest.mark.parametrize("part", [1, 300, 1 << 20])
def test_heads_at_any_offsets_equal_the_bytes_kept_in_memory(file, monkeypatch, close, part):
    monkeypatch.setattr(files, "CLOSE", close)
    monkeypatch.setattr(files, "MANY_SMALL", part)
    rng = np.random.default_rng(2)
    for width in (1, 60, 500):
        offsets = np.concatenate([rng.integers(0, len(CONTENT) + 1, 70), [7, 7, 8, len(CONTENT) - 1]])
        expected = b"".join(CONTENT[a : a + width].ljust(width, b"\0") for a in offsets.tolist())
        assert file.read_prefixes(offsets, width).tobytes() == expected


@pytest.mark.parametrize("close", [0, 10_000])
def test_heads_of_a_file_that_ends_early_are_an_error(path, monkeypatch, close):
    monkeypatch.setattr(files, "CLOSE", close)
    file = PositionedFile(path)
    os.truncate(path, 5000)
    with pytest.raises(StoreChangedError):
        file.read_prefixes(np.array([0, 4990, 5000]), 64)
    file.close()


def test_neighbours_are_read_in_one_call(path, monkeypatch):
    file, calls = PositionedFile(path), []
    for name in ("pread", "preadv"):
        read = getattr(os, name)
        monkeypatch.setattr(os, name, lambda *arguments, read=read: calls.append(arguments[2:]) or read(*arguments))
    pairs = [(10, 50), (60, 50), (115, 50), (3000, 50), (3020, 9), (1000, 20_000), (21_001, 20_000)]
    assert gathered(file, *pairs[:5]) == b"".join(CONTENT[a : a + n] for a, n in pairs[:5])
    assert [offset for offset, *flags in calls if not flags] == [10, 3000, 3020]
    calls.clear()
    assert gathered(file, *pairs[5:]) == CONTENT[1000:21_000] + CONTENT[21_001:41_001]
    assert [offset for offset, *flags in calls if not flags] == [1000, 21_001]  # nothing is copied twice
    file.close()


# -- what the system is asked to read ahead


@pytest.fixture
def cache(monkeypatch):
    """The system's cache: `error` is what it answers to a look; `looks` and `asked` are what it was asked."""

    class Cache:
        error: OSError | None = None
        looks: list[int]
        asked: list[tuple[int, int]]

    cache, preadv = Cache(), getattr(os, "preadv", files._preadv)
    cache.looks, cache.asked = [], []

    def looked(fd, buffers, offset, flags=0):
        if not flags:
            return preadv(fd, buffers, offset)
        cache.looks.append(offset)
        if cache.error is not None:
            raise cache.error
        return 1

    monkeypatch.setattr(os, "preadv", looked, raising=False)
    monkeypatch.setattr(os, "RWF_NOWAIT", 8, raising=False)
    monkeypatch.setattr(os, "POSIX_FADV_WILLNEED", 3, raising=False)
    asks = lambda fd, offset, size, advice: cache.asked.append((offset, size))  # noqa: E731
    monkeypatch.setattr(os, "posix_fadvise", asks, raising=False)
    return cache


def test_a_batch_that_is_not_in_the_cache_is_asked_for_as_a_whole_before_it_is_read(file, cache):
    cache.error = BlockingIOError()
    pairs = [(90_000, 50), (90_050, 20), *((10_000 * n, 9000) for n in range(3)), (40_000, 0)]
    for _ in range(2):
        cache.asked.clear()
        assert gathered(file, *pairs) == b"".join(CONTENT[a : a + n] for a, n in pairs)
        assert cache.asked == [(90_000, 70), (0, 9000), (10_000, 9000), (20_000, 9000)]
    cache.asked.clear()
    assert gathered(file, (0, 7000), (7000, 8000)) == CONTENT[:15_000]
    assert cache.asked == []  # one read is what it is


def test_heads_that_are_not_in_the_cache_are_asked_for(path, cache):
    cache.error = BlockingIOError()
    file = PositionedFile(path)
    file.read_prefixes(np.array([50_000, 100]), 30)
    assert cache.asked == [(100, 30), (50_000, 30)]
    file.close()


@pytest.mark.parametrize("error", [None, OSError(errno.EOPNOTSUPP, "not supported")], ids=str)
def test_what_is_in_the_cache_is_not_asked_for_and_rarely_looked_at(file, cache, error):
    cache.error = error
    pairs = [(1400 * n, 600) for n in range(64)]
    for _ in range(files.LOOKS + 1 + files.UNSEEN + 1):
        assert gathered(file, *pairs) == b"".join(CONTENT[a : a + n] for a, n in pairs)
    assert cache.asked == []
    assert len(cache.looks) == ((files.LOOKS + 2) * files.PROBES if error is None else 1)


def test_what_is_no_longer_in_the_cache_is_asked_for_soon_and_then_always(path, cache):
    file = PositionedFile(path)
    cached, cold = [(0, 10), (50, 10)], [(5000, 10), (9000, 10)]
    for _ in range(files.LOOKS):
        gathered(file, *cached)
    for _ in range(3 * files.UNSEEN):  # two columns by turns, one of which is in the cache
        for pairs, cache.error in ((cached, None), (cold, BlockingIOError())):
            gathered(file, *pairs)
    assert set(cache.asked) == set(cold) and len(cache.asked) >= 2 * 2 * files.UNSEEN
    file.close()


def test_what_the_system_does_not_read_ahead_is_read_all_the_same(file, cache, monkeypatch):
    def fails(*_):
        raise OSError(errno.EINVAL, "no")

    cache.error = BlockingIOError()
    monkeypatch.setattr(os, "posix_fadvise", fails)
    assert gathered(file, (5, 10), (50_000, 10)) == CONTENT[5:15] + CONTENT[50_000:50_010]


def test_random_extents_equal_the_bytes_kept_in_memory(file):
    rng = np.random.default_rng(1)
    for _ in range(50):
        offsets = rng.integers(0, 99_000, 40)
        sizes = rng.integers(0, 1000, 40)
        assert gathered(file, *zip(offsets, sizes, strict=True)) == b"".join(
            CONTENT[a : a + n] for a, n in zip(offsets, sizes, strict=True)
        )


def test_threads_share_no_offset(file):
    failures = []

    def work(seed):
        rng = np.random.default_rng(seed)
        for _ in range(300):
            a = int(rng.integers(0, 90_000))
            n = int(rng.integers(1, 5000))
            if bytes(file.read(a, n)) != CONTENT[a : a + n]:
                failures.append((a, n))

    threads = [threading.Thread(target=work, args=(seed,)) for seed in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert failures == []


def test_a_forked_child_and_its_parent_read_side_by_side(file):
    child = os.fork()
    if child == 0:  # no pytest in here
        good = all(bytes(file.read(a, 100)) == CONTENT[a : a + 100] for a in range(0, 50_000, 7))
        os._exit(0 if good else 1)
    good = all(bytes(file.read(a, 100)) == CONTENT[a : a + 100] for a in range(0, 50_000, 11))
    assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 0
    assert good


def test_an_empty_file_has_no_bytes(tmp_path, make):
    (tmp_path / "empty").touch()
    file = make(tmp_path / "empty")
    assert file.size == 0 and file.read(0, 0) == b"" and gathered(file) == b""
    file.close()


def test_short_reads_are_continued(path, monkeypatch):
    file = PositionedFile(path)
    full, calls = os.preadv, []

    def short(fd, buffers, offset, *flags):
        calls.append(offset)
        return full(fd, [memoryview(buffers[0])[:999]], offset, *flags)

    monkeypatch.setattr(os, "preadv", short)
    assert bytes(file.read(3, 5000)) == CONTENT[3:5003]
    assert len(calls) > 5
    assert gathered(file, (9, 2000), (0, 1500)) == CONTENT[9:2009] + CONTENT[:1500]
    monkeypatch.setattr(os, "pread", lambda fd, n, offset, read=os.pread: read(fd, min(n, 3), offset))
    assert file.read_prefixes(np.array([8, 99_999]), 64).tobytes() == CONTENT[8:72] + CONTENT[99_999:].ljust(64, b"\0")


@pytest.mark.parametrize("calls", range(1, 4))
def test_a_file_that_cannot_be_looked_at_is_a_read_error(path, monkeypatch, calls):
    file, fstat, count = PositionedFile(path, keep_open=False), os.fstat, 0

    def failing(fd: int) -> os.stat_result:  # in opening, before the read, or after it
        nonlocal count
        count += 1
        if count == calls:
            raise OSError(errno.EIO, "no")
        return fstat(fd)

    monkeypatch.setattr(os, "fstat", failing)
    with pytest.raises(StoreReadError, match=r"cannot (open|be read).*no"):
        file.read(0, 5)
    assert count == calls


@pytest.mark.parametrize("keep_open", [True, False])
def test_what_the_system_cannot_read_is_a_read_error_with_path_and_place(path, monkeypatch, keep_open):
    file = PositionedFile(path, keep_open=keep_open)

    def broken(*_):
        raise OSError(errno.EIO, "Input/output error")

    monkeypatch.setattr(os, "preadv", broken)
    monkeypatch.setattr(os, "pread", broken)
    for read in (
        lambda: file.read(7, 5),
        lambda: gathered(file, (7, 5)),
        lambda: file.read_prefixes(np.array([7]), 5),
        lambda: file.read_into(7, np.empty(5, np.uint8)),
    ):
        with pytest.raises(StoreReadError, match=r"data\.bin.*Input/output error") as caught:
            read()
        assert isinstance(caught.value, OSError)


def test_reading_past_the_end_is_an_error_and_never_zeros(file):
    for read in (lambda: file.read(99_990, 11), lambda: gathered(file, (100_001, 1)), lambda: file.read(10**12, 1)):
        with pytest.raises(StoreChangedError, match="ends at byte 1000"):
            read()


def test_a_closed_file_is_a_read_error(path):
    file = PositionedFile(path)
    file.close()
    file.close()
    with pytest.raises(StoreReadError, match="was closed"):
        file.read(0, 1)


def test_no_descriptor_is_left_open(path):
    def count():
        gc.collect()  # what earlier tests left
        return len(os.listdir("/proc/self/fd"))  # noqa: PTH208

    before = count()
    for _ in range(50):
        for make in READERS.values():
            file = make(path)
            file.read(0, 5)
            file.close()
            del file  # a mapping lives as long as what shows it
        PositionedFile(path)  # collected
    assert count() == before


# -- what is no file


def quick(limit=5):  # seconds; a pipe would be waited for for ever
    began = time.perf_counter()
    return lambda: time.perf_counter() - began < limit


@pytest.mark.parametrize("kind", ["none", "folder", "pipe", "device", "dangling", "socket folder"])
def test_what_is_no_regular_file_is_not_found_and_nothing_hangs(tmp_path, kind, make):
    path = tmp_path / "thing"
    if kind == "folder":
        path.mkdir()
    elif kind == "pipe":
        os.mkfifo(path)
    elif kind == "device":
        path.symlink_to("/dev/zero")
    elif kind == "dangling":
        path.symlink_to(tmp_path / "nowhere")
    elif kind == "socket folder":
        path = path / "deeper"
    in_time = quick()
    with pytest.raises(StoreNotFoundError, match="thing") as caught:
        make(path)
    assert isinstance(caught.value, FileNotFoundError) and in_time()


def test_a_name_that_cannot_be_one_is_a_read_error(tmp_path, make):
    for name in ("a\0b", "x" * 300):
        with pytest.raises(StoreReadError, match="cannot open"):
            make(tmp_path / name)


# -- changes


def test_another_time_of_writing_is_a_change(path, file):
    age(path)
    with pytest.raises(StoreChangedError):
        file.read(0, 5)


def test_truncation_is_noticed_before_anything_is_returned(path, make):
    file = make(path)
    os.truncate(path, 50_000)
    for read in (lambda: file.read(0, 5), lambda: gathered(file, (0, 5)), lambda: file.read(60_000, 5), file.check):
        with pytest.raises(StoreChangedError, match=r"data\.bin"):
            read()
    file.close()


def test_a_change_in_place_of_the_same_size_is_noticed(path, make):
    age(path)
    file = make(path)
    with path.open("r+b") as other:
        other.write(b"x")
    for read in (
        lambda: file.read(0, 5),
        lambda: gathered(file, (500, 5)),
        lambda: file.read_prefixes(np.array([3]), 5),
    ):
        with pytest.raises(StoreChangedError, match="changed after it was opened; load the dataset again"):
            read()
    file.close()


def test_rows_that_were_appended_are_noticed(path, make):
    file = make(path)
    file.check()
    with path.open("ab") as other:
        other.write(b"x")
    with pytest.raises(StoreChangedError):
        file.read(0, 5)
    file.close()


@pytest.mark.parametrize("name", ["open", "mapped"])
def test_a_held_file_that_is_replaced_still_gives_the_old_bytes(path, tmp_path, name):
    file = READERS[name](path)
    (tmp_path / "new").write_bytes(bytes(len(CONTENT)))
    (tmp_path / "new").replace(path)
    assert bytes(file.read(100, 50)) == CONTENT[100:150]
    path.unlink()
    assert bytes(file.read(100, 50)) == CONTENT[100:150]
    file.close()


def test_a_reopened_file_that_is_replaced_is_noticed(path, tmp_path):
    file = PositionedFile(path, keep_open=False)
    stat = path.stat()
    (tmp_path / "new").write_bytes(bytes(len(CONTENT)))
    os.utime(tmp_path / "new", ns=(stat.st_atime_ns, stat.st_mtime_ns))
    (tmp_path / "new").replace(path)  # same size, same time
    with pytest.raises(StoreChangedError):
        file.read(100, 50)
    with pytest.raises(StoreChangedError):
        file.check()
    path.unlink()
    with pytest.raises(StoreNotFoundError):
        file.read(100, 50)


class Content:
    """The content that was opened, which `same` compares with that of a file."""

    def __init__(self, path):
        self.content, self.rechecks = path.read_bytes(), 0

    def same(self, file):
        self.rechecks += 1
        return file.read(0, file.size) == self.content


READS = {
    "read": lambda file: bytes(file.read(100, 50)) == CONTENT[100:150],
    "gather": lambda file: gathered(file, (100, 50), (9000, 1)) == CONTENT[100:150] + CONTENT[9000:9001],
    "read_prefixes": lambda file: file.read_prefixes(np.array([100]), 50).tobytes() == CONTENT[100:150],
    "check": lambda file: file.check() in (True, False),
}


@pytest.mark.parametrize("read", READS.values(), ids=READS)
def test_only_another_time_of_writing_is_no_change_if_the_content_is_rechecked(path, file, read):
    content = Content(path)
    file.recheck_with(content.same)
    for stamp in (1, 2):
        os.utime(path, ns=(stamp, stamp))
        assert read(file) and read(file) and content.rechecks == stamp


@pytest.mark.parametrize("read", READS.values(), ids=READS)
def test_another_content_is_a_change_and_is_compared_only_once(path, file, read):
    content = Content(path)
    file.recheck_with(content.same)
    path.write_bytes(CONTENT[:-1] + b"x" if CONTENT[-1:] != b"x" else CONTENT[:-1] + b"y")
    for _ in range(3):
        with pytest.raises(StoreChangedError, match="load the dataset again"):
            read(file)
    assert content.rechecks == 1


def test_another_size_is_a_change_without_a_look_at_the_content(path, file):
    content = Content(path)
    file.recheck_with(content.same)
    with path.open("ab") as other:
        other.write(b"x")
    with pytest.raises(StoreChangedError):
        file.read(0, 5)
    assert content.rechecks == 0


def test_what_is_read_while_the_file_is_written_again_is_read_once_more(path, monkeypatch):
    file, content, full = PositionedFile(path), Content(path), os.preadv
    file.recheck_with(content.same)

    def between(fd, buffers, offset):  # as if a program wrote zeros, and then the old content
        count = full(fd, buffers, offset)
        if content.rechecks == 0:
            memoryview(buffers[0])[:] = bytes(count)
            age(path)
            monkeypatch.setattr(os, "preadv", full)
        return count

    monkeypatch.setattr(os, "preadv", between)
    assert bytes(file.read(100, 50)) == CONTENT[100:150] and content.rechecks == 1


def test_a_reopened_file_may_be_replaced_by_one_of_the_same_content(path, tmp_path):
    file, content = PositionedFile(path, keep_open=False), Content(path)
    file.recheck_with(content.same)
    (tmp_path / "new").write_bytes(CONTENT)
    (tmp_path / "new").replace(path)
    assert bytes(file.read(100, 50)) == CONTENT[100:150] and content.rechecks == 1
    (tmp_path / "new").write_bytes(bytes(len(CONTENT)))
    (tmp_path / "new").replace(path)
    with pytest.raises(StoreChangedError):
        file.read(100, 50)


def test_an_open_file_that_was_written_to_and_replaced_is_a_change(path, tmp_path):
    file, content = PositionedFile(path), Content(path)
    file.recheck_with(content.same)
    old = tmp_path / "old"
    path.rename(old)
    path.write_bytes(CONTENT)
    age(old)  # what is open can no longer be opened by its path
    with pytest.raises(StoreChangedError):
        file.read(100, 50)
    path.unlink()
    os.utime(old, ns=(2, 2))
    with pytest.raises(StoreChangedError):
        file.read(100, 50)
    assert content.rechecks == 0


def test_content_is_compared_when_a_later_change_must_show_in_the_time_stamp(path, monkeypatch):
    waited, now = [], 1_000_000_000.5
    monkeypatch.setattr(time, "time", lambda: now)
    monkeypatch.setattr(time, "sleep", waited.append)
    file, content = PositionedFile(path), Content(path)
    file.recheck_with(content.same)
    for stamp, expected in {
        now - 0.02: [pytest.approx(files.TICK - 0.02)],  # a later change may still have the same time stamp
        now + 0.02: [pytest.approx(files.TICK + 0.02)],
        now - 0.5: [pytest.approx(files.COARSE_TICK - 0.5)],  # whole seconds, so there may be nothing finer
        now - 3.25: [],
        now + 3600: [],
    }.items():
        os.utime(path, ns=(0, round(stamp * 1e9)))
        file.read(0, 5)
        assert waited == expected
        waited.clear()


def test_content_is_compared_when_nothing_is_written_any_more(path, monkeypatch):
    file, content, stamps = PositionedFile(path), Content(path), iter([5, 6, 7])
    file.recheck_with(content.same)

    def writing(_):
        if stamp := next(stamps, None):
            os.utime(path, ns=(stamp, stamp))

    monkeypatch.setattr(files, "_wait_for_tick", writing)
    age(path)
    assert bytes(file.read(100, 50)) == CONTENT[100:150] and content.rechecks == 1
    stamps = iter(range(1000, 2000))
    age(path)
    with pytest.raises(StoreChangedError):
        file.read(100, 50)


def test_a_recheck_does_not_keep_anything_alive(path):
    file = PositionedFile(path)
    file.recheck_with(Content(path).same)
    age(path)
    with pytest.raises(StoreChangedError):
        file.read(0, 5)


def test_one_of_many_threads_rechecks_the_content(path):
    file, content, failures = PositionedFile(path), Content(path), []
    file.recheck_with(content.same)
    age(path)

    def read():
        if bytes(file.read(100, 50)) != CONTENT[100:150]:
            failures.append("other bytes")

    threads = [threading.Thread(target=read) for _ in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert failures == [] and content.rechecks == 1


# -- writing


def names(folder):
    return sorted(path.name for path in folder.iterdir())


def test_a_file_appears_whole(tmp_path):
    target = tmp_path / "out"
    with replacing(target, overwrite=False) as temporary:
        assert temporary.parent == tmp_path and temporary != target
        temporary.write_bytes(b"new")
        assert not target.exists()
    assert target.read_bytes() == b"new" and names(tmp_path) == ["out"]


def test_an_existing_file_is_replaced_only_when_asked(tmp_path):
    target = tmp_path / "out"
    target.write_bytes(b"old")
    with (
        pytest.raises(StoreExistsError, match="exists; pass overwrite=True") as caught,
        replacing(target, overwrite=False),
    ):
        pytest.fail("the block must not run")
    assert isinstance(caught.value, FileExistsError)
    assert target.read_bytes() == b"old"
    with replacing(target, overwrite=True) as temporary:
        temporary.write_bytes(b"new")
        assert target.read_bytes() == b"old"
    assert target.read_bytes() == b"new" and names(tmp_path) == ["out"]


class Stop(BaseException):
    """Neither an Exception nor known to anyone."""


@pytest.mark.parametrize(
    "error", [RuntimeError("x"), KeyboardInterrupt(), SystemExit(3), GeneratorExit(), Stop()], ids=repr
)
@pytest.mark.parametrize("overwrite", [False, True])
def test_whatever_goes_wrong_leaves_what_was_there(tmp_path, error, overwrite):
    target = tmp_path / "out"
    if overwrite:
        target.write_bytes(b"old")
    with pytest.raises(type(error)) as caught, replacing(target, overwrite=overwrite) as temporary:
        temporary.write_bytes(b"half")
        raise error
    assert caught.value is error
    assert names(tmp_path) == (["out"] if overwrite else [])
    assert not overwrite or target.read_bytes() == b"old"


@pytest.mark.parametrize("step", ["fsync", "replace", "link"])
@pytest.mark.parametrize("code", [errno.ENOSPC, errno.EIO, errno.EDQUOT])
def test_what_the_system_refuses_is_a_write_error_and_changes_nothing(tmp_path, monkeypatch, step, code):
    target = tmp_path / "out"
    if step != "link":
        target.write_bytes(b"old")

    def broken(*_, **__):
        raise OSError(code, os.strerror(code))

    monkeypatch.setattr(os, step, broken)
    with (
        pytest.raises(StoreWriteError, match=f"{os.strerror(code)}.*; nothing was changed") as caught,
        replacing(target, overwrite=step != "link") as temporary,
    ):
        temporary.write_bytes(b"new")
    assert isinstance(caught.value, OSError)
    room = re.search(r"it needs more than the [\d,]+ bytes that are free in '.+';", str(caught.value))
    assert (room is not None) == (code != errno.EIO)
    monkeypatch.undo()
    assert names(tmp_path) == ([] if step == "link" else ["out"])
    assert step == "link" or target.read_bytes() == b"old"


def test_a_folder_that_cannot_be_flushed_is_said_after_the_file_is_there(tmp_path, monkeypatch):
    real, calls = os.fsync, []

    def second_fails(fd):
        calls.append(fd)
        if len(calls) == 2:
            raise OSError(errno.EIO, "Input/output error")
        real(fd)

    monkeypatch.setattr(os, "fsync", second_fails)
    with (
        pytest.raises(StoreWriteError, match="was written, but may not survive a power loss"),
        replacing(tmp_path / "out", overwrite=False) as temporary,
    ):
        temporary.write_bytes(b"new")
    assert (tmp_path / "out").read_bytes() == b"new"


def test_file_and_folder_are_flushed_around_the_rename(tmp_path, monkeypatch):
    log = []
    fsync, replace = os.fsync, os.replace
    monkeypatch.setattr(os, "fsync", lambda fd: (log.append(os.readlink(f"/proc/self/fd/{fd}")), fsync(fd)))  # noqa: PTH115
    monkeypatch.setattr(os, "replace", lambda a, b: (log.append("rename"), replace(a, b)))
    with replacing(tmp_path / "out", overwrite=True) as temporary:
        temporary.write_bytes(b"new")
    assert log == [str(temporary), "rename", str(tmp_path)]


def test_a_library_error_from_within_keeps_its_type(tmp_path):
    # Some are OSErrors too: a source that vanished is not a target that cannot be written.
    for error in (StoreReadError("source"), StoreNotFoundError("source"), StoreChangedError("source")):
        with pytest.raises(type(error), match="source") as caught, replacing(tmp_path / "out", overwrite=True):
            raise error
        assert caught.value is error
    assert names(tmp_path) == []


def test_a_target_that_appears_meanwhile_is_not_overwritten(tmp_path):
    target = tmp_path / "out"
    with pytest.raises(StoreExistsError, match="appeared while"), replacing(target, overwrite=False) as temporary:
        temporary.write_bytes(b"mine")
        target.write_bytes(b"theirs")
    assert target.read_bytes() == b"theirs" and names(tmp_path) == ["out"]


@pytest.mark.parametrize("code", [errno.EPERM, errno.ENOTSUP])
def test_a_file_is_written_on_a_file_system_without_hard_links(tmp_path, monkeypatch, code):
    def no_links(*_):
        raise OSError(code, os.strerror(code))

    monkeypatch.setattr(os, "link", no_links)
    with replacing(tmp_path / "out", overwrite=False) as temporary:
        temporary.write_bytes(b"new")
    assert (tmp_path / "out").read_bytes() == b"new" and names(tmp_path) == ["out"]
    with (
        pytest.raises(StoreExistsError, match="appeared while"),
        replacing(tmp_path / "two", overwrite=False) as temporary,
    ):
        temporary.write_bytes(b"mine")
        (tmp_path / "two").write_bytes(b"theirs")
    assert (tmp_path / "two").read_bytes() == b"theirs" and names(tmp_path) == ["out", "two"]


def test_a_symbolic_link_stays_one(tmp_path):
    (tmp_path / "real").mkdir()
    (tmp_path / "real" / "file").write_bytes(b"old")
    (tmp_path / "link").symlink_to(tmp_path / "real" / "file")
    with pytest.raises(StoreExistsError), replacing(tmp_path / "link", overwrite=False):
        pass
    with replacing(tmp_path / "link", overwrite=True) as temporary:
        temporary.write_bytes(b"new")
    assert (tmp_path / "link").is_symlink() and (tmp_path / "real" / "file").read_bytes() == b"new"
    assert names(tmp_path) == ["link", "real"] and names(tmp_path / "real") == ["file"]


def test_a_dangling_link_counts_as_existing(tmp_path):
    (tmp_path / "link").symlink_to(tmp_path / "later")
    with pytest.raises(StoreExistsError), replacing(tmp_path / "link", overwrite=False):
        pass
    with replacing(tmp_path / "link", overwrite=True) as temporary:
        temporary.write_bytes(b"new")
    assert (tmp_path / "later").read_bytes() == b"new"


def test_a_missing_folder_is_a_write_error(tmp_path):
    for target in (tmp_path / "none" / "out", tmp_path / "file" / "out"):
        (tmp_path / "file").touch()
        with pytest.raises(StoreWriteError, match="there is no folder"), replacing(target, overwrite=True):
            pass


def test_a_folder_in_the_place_of_the_target_is_a_write_error(tmp_path):
    (tmp_path / "out").mkdir()
    with pytest.raises(StoreWriteError), replacing(tmp_path / "out", overwrite=True) as temporary:
        temporary.write_bytes(b"new")
    assert names(tmp_path) == ["out"] and names(tmp_path / "out") == []


def test_a_block_that_writes_nothing_is_a_write_error(tmp_path):
    with pytest.raises(StoreWriteError, match="cannot write"), replacing(tmp_path / "out", overwrite=True):
        pass
    assert names(tmp_path) == []


@pytest.mark.parametrize(
    "name", ["x" * 255, "\N{CJK UNIFIED IDEOGRAPH-4E00}" * 85, "\N{GRINNING FACE}" * 63, ".x", "a b\n"]
)
def test_the_longest_and_oddest_names_can_be_written(tmp_path, name):
    with replacing(tmp_path / name, overwrite=False) as temporary:
        temporary.write_bytes(b"new")
    assert names(tmp_path) == [name]


def test_many_writers_of_one_target_leave_one_whole_file(tmp_path):
    target, errors = tmp_path / "out", []

    def write(number):
        try:
            with replacing(target, overwrite=False) as temporary:
                temporary.write_bytes(bytes([number]) * 100_000)
        except StoreExistsError:
            errors.append(number)

    threads = [threading.Thread(target=write, args=(number,)) for number in range(16)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(set(target.read_bytes())) == 1 and len(errors) == 15 and names(tmp_path) == ["out"]


@pytest.fixture(params=["pread", "preadv"])
def windows(request, monkeypatch):
    """A system that lacks the calls and flags that Windows lacks, and one that lacks only one of the two calls."""
    for name in {request.param, "preadv"}:
        monkeypatch.delattr(os, name)
    for name in ("O_NONBLOCK", "O_CLOEXEC", "O_DIRECTORY", "link", "memfd_create", "posix_fadvise", "RWF_NOWAIT"):
        monkeypatch.delattr(os, name)


@pytest.mark.usefixtures("windows")
def test_files_are_read_and_written_without_the_calls_that_windows_lacks(tmp_path):
    target = tmp_path / "out"
    with replacing(target, overwrite=False) as temporary:
        temporary.write_bytes(CONTENT)
    with pytest.raises(StoreExistsError, match="appeared"), replacing(tmp_path / "two", overwrite=False) as temporary:
        temporary.write_bytes(b"mine")
        (tmp_path / "two").write_bytes(b"theirs")
    assert names(tmp_path) == ["out", "two"] and (tmp_path / "two").read_bytes() == b"theirs"
    for keep_open in (True, False):
        file = PositionedFile(target, keep_open=keep_open)
        test_threads_share_no_offset(file)
        assert (
            gathered(file, (9, 2000), (0, 15), (60_000, 20_000))
            == CONTENT[9:2009] + CONTENT[:15] + CONTENT[60_000:80_000]
        )
        prefixes = file.read_prefixes(np.array([8, 99_999]), 64)
        assert prefixes.tobytes() == CONTENT[8:72] + CONTENT[99_999:].ljust(64, b"\0")
        test_reading_past_the_end_is_an_error_and_never_zeros(file)
        target.write_bytes(CONTENT[:50])
        with pytest.raises(StoreChangedError):
            file.read(0, 10)
        target.write_bytes(CONTENT)
        file.close()


@pytest.mark.usefixtures("windows")
@pytest.mark.parametrize("options", [{}, {"io": "mmap"}, {"compress": True}], ids=str)
def test_npz_files_are_written_and_read_without_the_calls_that_windows_lacks(tmp_path, options):
    example = mixed()
    backend = NpzLazy(path=tmp_path / "data.npz", **options)
    for overwrite in (False, True):
        backend.write(
            example.columns, example.batches(), arrays=example.arrays, spec=example.spec, overwrite=overwrite, check=len
        )
        with backend.open(None) as storage:
            same_rows(storage, example, range(len(example)))
    assert names(tmp_path) == ["data.npz"]


def test_a_system_that_lacks_only_preadv_moves_no_offset(tmp_path, monkeypatch):
    (tmp_path / "data").write_bytes(CONTENT)
    file = PositionedFile(tmp_path / "data")
    monkeypatch.delattr(os, "preadv")
    monkeypatch.delattr(os, "lseek")
    assert file.read(9, 2000) == CONTENT[9:2009]
    assert gathered(file, (60_000, 20_000)) == CONTENT[60_000:80_000]
    file.close()


def test_too_many_open_files_name_the_way_out(tmp_path, monkeypatch):
    (tmp_path / "a").write_bytes(b"abc")

    def fails(*_):
        raise OSError(errno.EMFILE, "Too many open files")

    monkeypatch.setattr(os, "open", fails)
    with pytest.raises(StoreReadError, match=r"Too many open files; the backend npz-reopen.*ulimit -n"):
        PositionedFile(tmp_path / "a")
