"""The cache of features on disk: what it finds, who may use it at once, damage, kills, full disks and its budget."""

import errno
import multiprocessing
import os
import pickle
import random
import signal
import time
import warnings

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from kinoml_data import Array
from kinoml_data.backends import feature_cache
from kinoml_data.backends.feature_cache import FeatureCache, open_cache
from kinoml_data.errors import StoreWriteError
from tests.builders import Canary

OUTPUTS = {
    "letters": Array("float32", (None, 2)),
    "text": Array("str"),
    "count": Array("int16"),
    "bit": Array("bool", (3,)),
}
IDENTITY = {"featurizer": "codes", "versions": {"codes": "1.0"}}
BUDGET = 1 << 30


def features(number):
    """What the featurizer of these tests computes for the input of this number."""
    letters = np.arange(2 * (number % 4), dtype=np.float32).reshape(-1, 2) + number
    text = np.frombuffer(f"é{number}".encode(), np.uint8)
    return letters, text, np.array(number, np.int16), np.array([number % 2, 1, 0], bool)


def digest(number):
    return number.to_bytes(8, "little") + bytes(24)


def digests(numbers):
    return [digest(number) for number in numbers]


@pytest.fixture
def new(tmp_path):
    """A function that opens the cache of this test, as another process would."""
    return lambda **options: opened(tmp_path / "cache", **options)


def opened(folder, identity=IDENTITY, budget=BUDGET, outputs=OUTPUTS):
    return FeatureCache(folder, budget, identity, outputs)


def fill(cache, numbers, flush=True):
    for number in numbers:
        cache.put(digest(number), features(number))
    if flush:
        cache.flush()


def assert_right(found, numbers):
    """Everything that was found is what the featurizer computes, bit for bit."""
    numbers = list(numbers)
    for position, arrays in found.items():
        expected = features(numbers[position])
        assert [(a.dtype, a.shape, a.tobytes()) for a in arrays] == [(e.dtype, e.shape, e.tobytes()) for e in expected]


def found_in(cache, numbers):
    """The numbers that the cache finds, after a comparison of their features."""
    numbers = list(numbers)
    found = cache.get_many(digests(numbers))
    assert_right(found, numbers)
    return {numbers[position] for position in found}


def parts_of(cache):
    return sorted(cache.folder.glob("part-*.npz"))


# -- what it finds


def test_what_was_written_is_found_by_another_opening(new):
    fill(new(), range(10))
    cache = new()
    assert found_in(cache, [3, 11, 0, 3, 9, 20]) == {3, 0, 9}
    assert (cache.hits, cache.misses, cache.size) == (4, 2, 10)
    assert cache.nbytes == sum(part.stat().st_size for part in parts_of(cache)) > 0
    assert cache.get_many([]) == {}


def test_what_waits_to_be_written_is_found_too(new):
    cache = new()
    fill(cache, range(3), flush=False)
    assert found_in(cache, range(4)) == {0, 1, 2} and cache.size == 3 and parts_of(cache) == []


def test_arrays_that_were_found_are_new_and_writable(new):
    fill(new(), [5])
    cache = new()
    for array in cache.get_many([digest(5)])[0]:
        if array.size:
            array[...] = 0
    assert found_in(cache, [5]) == {5}


def test_many_parts_are_searched(new):
    cache = new()
    numbers = random.Random(0).sample(range(1000), 300)
    for start in range(0, 300, 7):
        fill(cache, numbers[start : start + 7])
    for searched in (cache, new()):
        assert found_in(searched, range(1000)) == set(numbers)


def test_two_digests_that_begin_with_the_same_bytes_are_told_apart(new):
    cache = new()
    other = digest(7)[:8] + b"another input".ljust(24)
    fill(cache, [7])
    assert cache.get_many([other]) == {} and found_in(cache, [7]) == {7}
    cache.put(other, features(8))
    cache.flush()
    for searched in (cache, new()):
        assert_right(searched.get_many([digest(7)]), [7])
        assert_right(searched.get_many([other]), [8])


def test_many_features_are_written_without_a_flush(new, monkeypatch):
    monkeypatch.setattr(feature_cache, "PART_BYTES", 2000)
    cache = new()
    fill(cache, range(30), flush=False)
    assert len(parts_of(cache)) > 2 and found_in(cache, range(30)) == set(range(30))


def test_features_that_have_waited_for_long_are_written(new, monkeypatch):
    monkeypatch.setattr(feature_cache, "WAIT", 0.0)
    cache = new()
    fill(cache, [1], flush=False)
    assert len(parts_of(cache)) == 1


def test_parts_that_others_add_are_found_later(new, monkeypatch):
    cache = new()
    assert found_in(cache, range(4)) == set()
    fill(new(), range(4))
    monkeypatch.setattr(feature_cache, "RESCAN", 0.0)
    assert found_in(cache, range(5)) == set(range(4))


@pytest.mark.parametrize(
    "change",
    [
        {"identity": IDENTITY | {"versions": {"codes": "1.1"}}},
        {"identity": IDENTITY | {"featurizer": "other"}},
        {"identity": IDENTITY | {"options": {"radius": 3}}},
        {"outputs": OUTPUTS | {"count": Array("int32")}},
        {"outputs": OUTPUTS | {"letters": Array("float32", (None, 2), cast="exact")}},
        {"outputs": dict(reversed(OUTPUTS.items()))},
        {"outputs": {("n" if name == "count" else name): array for name, array in OUTPUTS.items()}},
    ],
    ids=str,
)
def test_features_of_another_version_option_or_output_are_not_found(new, change):
    fill(new(), range(3))
    cache = new(**change)
    assert cache.get_many(digests(range(3))) == {} and cache.size == 0
    assert new().size == 3


def test_features_of_another_layout_are_not_found(new, monkeypatch):
    fill(new(), range(3))
    monkeypatch.setattr(feature_cache, "LAYOUT", feature_cache.LAYOUT + 1)
    assert found_in(new(), range(3)) == set()


def test_a_part_of_another_featurizer_is_never_used(new):
    other = new(identity=IDENTITY | {"options": {"radius": 3}})
    fill(other, range(3))
    cache = new()
    fill(cache, [7])
    (part,) = parts_of(other)
    part.rename(cache.folder / part.name)
    assert found_in(new(), [0, 1, 2, 7]) == {7}
    assert len(parts_of(cache)) == 1


def test_an_output_may_have_any_name(new):
    cache = new(outputs={name: Array("int16") for name in ("digest", "a.values", "../x", "é")})
    cache.put(digest(1), tuple(np.array(i, np.int16) for i in range(4)))
    cache.close()
    cache = new(outputs={name: Array("int16") for name in ("digest", "a.values", "../x", "é")})
    assert [int(a) for a in cache.get_many([digest(1)])[0]] == [0, 1, 2, 3]


@given(st.lists(st.tuples(st.sampled_from("pgfodr"), st.lists(st.integers(0, 30), max_size=6))))
def test_whatever_is_done_to_a_cache_it_gives_only_what_was_computed(tmp_path_factory, steps):
    folder, dice = tmp_path_factory.mktemp("cache"), random.Random(0)
    cache, computed = opened(folder), set()
    for step, numbers in steps:
        if step == "p":
            fill(cache, numbers, flush=False)
            computed.update(numbers)
        elif step == "g":
            assert found_in(cache, numbers) <= computed
        elif step == "f":
            cache.flush()
        elif step == "o":
            cache.close()
            cache = opened(folder)
            assert found_in(cache, numbers) <= computed
        elif parts := parts_of(cache):
            part = dice.choice(parts)
            if step == "d":
                part.unlink()
            else:
                flip(part, dice.randrange(8 * part.stat().st_size))


# -- processes and threads


def test_unpickled_caches_are_one_object_until_it_is_closed(tmp_path):
    arguments = tmp_path / "cache", BUDGET, IDENTITY, OUTPUTS
    cache = open_cache(*arguments)
    assert pickle.loads(pickle.dumps(cache)) is cache is open_cache(*arguments)
    fill(cache, range(3), flush=False)
    cache.close()
    other = open_cache(*arguments)
    assert other is not cache and found_in(other, range(4)) == {0, 1, 2}
    other.close()


def in_processes(*targets):
    """Run functions in forked processes at once; each must succeed."""
    context = multiprocessing.get_context("fork")
    processes = [context.Process(target=target) for target in targets]
    for process in processes:
        process.start()
    for process in processes:
        process.join()
    assert [process.exitcode for process in processes] == [0] * len(processes)


def test_processes_write_at_once(new):
    def write(numbers):
        cache = new()
        for number in numbers:
            if number not in found_in(cache, range(number, number + 5)):
                fill(cache, [number], flush=number % 3 == 0)

    in_processes(*(lambda start=start: write(range(start, start + 40)) for start in (0, 20, 20)))
    assert found_in(new(), range(100)) == set(range(60))


def test_a_process_that_ends_writes_what_waits(new):
    in_processes(lambda: fill(new(), range(5), flush=False))
    assert found_in(new(), range(6)) == set(range(5))


def test_a_forked_process_does_not_write_what_its_parent_has_computed(new):
    cache = new()
    fill(cache, range(5), flush=False)
    in_processes(lambda: (fill(cache, range(5, 8), flush=False), cache.close()))
    assert found_in(new(), range(9)) == {5, 6, 7}
    cache.flush()
    assert found_in(new(), range(9)) == set(range(8)) and new().size == 8


def test_threads_share_a_cache(new, monkeypatch):
    monkeypatch.setattr(feature_cache, "PART_BYTES", 2000)
    cache, failures = new(), []

    def use(start):
        try:
            for number in range(start, start + 60):
                fill(cache, [number], flush=False)
                assert number in found_in(cache, [number, 0, 30, 90])
        except BaseException as error:  # whatever it is, it fails the test instead of only ending its thread
            failures.append(error)

    threads = [feature_cache.threading.Thread(target=use, args=(start,)) for start in (0, 30, 60)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert failures == []
    cache.flush()
    assert found_in(new(), range(130)) == set(range(120))


@pytest.mark.parametrize("seed", [*range(3), *(pytest.param(seed, marks=pytest.mark.slow) for seed in range(3, 30))])
def test_a_writer_that_is_killed_leaves_only_whole_parts_and_the_next_one_goes_on(new, seed):
    dice = random.Random(seed)

    def write():
        cache = new()
        for number in range(500):
            fill(cache, [number])
        time.sleep(600)  # until it is killed

    process = multiprocessing.get_context("fork").Process(target=write, daemon=True)
    process.start()
    enough = dice.randrange(1, 20)
    while len(parts_of(new())) < enough:
        assert process.is_alive()
        time.sleep(0.001)
    time.sleep(dice.random() / 100)
    os.kill(process.pid, signal.SIGKILL)
    process.join()
    cache = new()
    numbers = found_in(cache, range(1000))
    assert numbers == set(range(len(parts_of(cache)))) and len(numbers) >= enough
    fill(cache, [2000])
    assert found_in(new(), [*numbers, 2000]) == numbers | {2000}


def test_what_a_killed_writer_left_long_ago_is_removed_and_other_files_are_not(new):
    cache = new()
    fill(cache, [1])
    old, young = (cache.folder / f".part-{16 * digit}.npz.123.abcd.partial" for digit in "ab")
    others = [
        cache.folder / "notes.txt",
        cache.folder / "part-1.npz",
        cache.folder.parent / "part-aaaaaaaaaaaaaaaa.npz",
    ]
    for file in (old, young, *others):
        file.write_bytes(b"x")
    os.utime(old, (0, 0))
    for file in others:
        os.utime(file, (0, 0))
    (cache.folder.parent / "folder").mkdir()
    fill(cache, [2])
    assert not old.exists() and young.exists() and all(file.read_bytes() == b"x" for file in others)
    assert found_in(new(), range(4)) == {1, 2}


# -- damage


def flip(part, bit):
    data = bytearray(part.read_bytes())
    data[bit // 8] ^= 1 << bit % 8
    part.write_bytes(data)


def bits_of(part, count):
    total = 8 * part.stat().st_size
    return random.Random(0).sample(range(total), min(count, total))


@pytest.mark.parametrize("count", [200, pytest.param(20_000, marks=pytest.mark.slow)])
def test_no_flipped_bit_gives_a_wrong_feature(new, count):
    fill(new(), range(4))
    (part,) = parts_of(new())
    data = part.read_bytes()
    for bit in bits_of(part, count):
        part.write_bytes(data)
        flip(part, bit)
        assert found_in(new(), range(4)) == (set(range(4)) if part.exists() else set())


@pytest.mark.parametrize("count", [100, pytest.param(20_000, marks=pytest.mark.slow)])
def test_no_bit_that_is_flipped_while_the_part_is_in_use_gives_a_wrong_feature(new, count):
    fill(new(), range(4))
    (part,) = parts_of(new())
    data, times, noticed = part.read_bytes(), part.stat(), 0
    for bit in bits_of(part, count):
        cache = new()
        assert found_in(cache, range(4)) == set(range(4))
        with part.open("r+b") as file:
            file.seek(bit // 8)
            file.write(bytes([data[bit // 8] ^ 1 << bit % 8]))
        os.utime(part, ns=(times.st_atime_ns, times.st_mtime_ns))
        noticed += found_in(cache, range(4)) != set(range(4))
        part.write_bytes(data)
        os.utime(part, ns=(times.st_atime_ns, times.st_mtime_ns))
    assert noticed


def test_a_part_with_python_objects_runs_no_code_and_is_removed(new, tmp_path):
    cache = new()
    fill(cache, [1])
    mark = tmp_path / "mark"
    hostile = cache.folder / f"part-{16 * 'a'}.npz"
    np.savez(hostile, digest=np.array([Canary(mark)]), output0=np.array([Canary(mark)]))
    assert found_in(new(), [1, 2]) == {1} and not mark.exists() and not hostile.exists()


def test_a_damaged_part_is_removed(new):
    fill(new(), range(4))
    (part,) = parts_of(new())
    part.write_bytes(part.read_bytes()[:-1])
    assert found_in(new(), range(4)) == set() and not part.exists()


@pytest.mark.parametrize("size", [0, 0.5, 0.99])
def test_a_part_that_becomes_shorter_while_in_use_is_removed(new, size):
    cache = new()
    fill(cache, range(4))
    assert found_in(cache, range(4)) == set(range(4))
    (part,) = parts_of(cache)
    os.truncate(part, int(size * part.stat().st_size))
    assert found_in(cache, range(4)) == set() and not part.exists()
    fill(cache, [1])
    assert found_in(cache, range(4)) == {1}


def test_a_part_that_vanishes_while_in_use_is_forgotten(new):
    cache = new()
    fill(cache, [1])
    fill(cache, [2])
    assert found_in(cache, [1, 2]) == {1, 2}
    parts_of(cache)[0].unlink()
    assert len(found_in(cache, [1, 2])) == 1 and cache.size == 1


def test_a_part_that_is_replaced_by_one_with_fewer_rows_is_not_used(new):
    cache = new()
    fill(cache, range(4))
    (part,) = parts_of(cache)
    other = new(identity=IDENTITY | {"x": 1})
    fill(other, [9])
    parts_of(other)[0].replace(part)
    assert found_in(cache, range(4)) == set()


def test_a_part_without_rows_is_empty(new):
    cache = new()
    fill(cache, [1])
    empty = {name: array.empty() for name, array in cache._columns.items()}
    cache._write("part-aaaaaaaaaaaaaaaa.npz", empty)
    assert found_in(new(), [1, 2]) == {1}


def test_a_part_that_cannot_be_read_stays(new, monkeypatch):
    fill(new(), [1])

    def failing(*_, **__):
        raise OSError(errno.EIO, "no disk")

    with monkeypatch.context() as patch:
        patch.setattr(feature_cache, "NpzStorage", failing)
        assert found_in(new(), [1]) == set()
    assert found_in(new(), [1]) == {1}


# -- writing


def test_a_full_disk_is_a_warning_and_nothing_else(new, monkeypatch):
    def full(*_, **__):
        raise OSError(errno.ENOSPC, "No space left on device")

    fill(new(), [1])
    cache = new()
    monkeypatch.setattr(feature_cache.writer, "write", full)
    with pytest.warns(UserWarning, match="no longer written to the cache: cannot write .*No space left"):
        fill(cache, [2])
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        fill(cache, [3])
    assert found_in(cache, range(4)) == {1} and len(parts_of(cache)) == 1


def test_what_waits_is_written_later_if_control_c_interrupts_the_writing(new, monkeypatch):
    def interrupted(*_, **__):
        raise KeyboardInterrupt

    cache = new()
    with monkeypatch.context() as patch, pytest.raises(KeyboardInterrupt):
        patch.setattr(feature_cache.writer, "write", interrupted)
        fill(cache, range(3))
    cache.close()
    assert found_in(new(), range(4)) == {0, 1, 2} and len(parts_of(cache)) == 1


def test_a_folder_that_cannot_be_listed_is_an_empty_cache(new, monkeypatch):
    fill(new(), [1])

    def failing(*_):
        raise PermissionError(errno.EACCES, "Permission denied")

    with monkeypatch.context() as patch:
        patch.setattr(feature_cache.os, "scandir", failing)
        cache = new()
        assert found_in(cache, [1]) == set() and cache.nbytes == 0
        fill(cache, [2])
    assert found_in(new(), [1, 2]) == {1, 2}


def test_a_folder_that_cannot_be_written_to_is_only_read(new, monkeypatch):
    fill(new(), [1])
    monkeypatch.setattr(feature_cache.os, "access", lambda path, mode: False)
    cache = new()
    fill(cache, [2])
    assert found_in(cache, [1, 2]) == {1} and len(parts_of(cache)) == 1


def test_a_folder_that_cannot_be_created_is_an_error(tmp_path):
    (tmp_path / "file").write_text("")
    for folder in (tmp_path / "file", tmp_path / "file" / "folder"):
        with pytest.raises(StoreWriteError, match=r"cannot create the folder .*file.* of the cache"):
            opened(folder)


def test_the_parts_that_were_not_used_for_longest_are_deleted(new):
    cache, other = new(), new(identity=IDENTITY | {"x": 1})
    for number in range(6):
        fill(cache if number % 2 else other, [number])
    parts = {number_in(part): part for part in (*parts_of(cache), *parts_of(other))}
    os.utime(parts[1], (1000, 1000))
    assert found_in(new(), [1]) == {1}  # it is used now
    for number in (0, 2, 3, 4, 5):
        os.utime(parts[number], (1000 + number, 1000 + number))
    size = max(part.stat().st_size for part in parts.values())
    fill(new(budget=4 * size), [100])
    assert sorted(number for number, part in parts.items() if part.exists()) == [1, 4, 5]
    assert cache.folder.parent.exists() and found_in(new(), [1, 3, 5, 100]) == {1, 5, 100}


def number_in(part):
    """The number of the only input whose features a part contains."""
    storage = feature_cache.NpzStorage(part, {"digest": None})
    return int(storage.read(np.array([0]), ["digest"])["digest"][0, 0])


def test_whatever_is_written_the_parts_stay_within_the_budget(new):
    cache = new(budget=10_000)
    for start in range(0, 200, 10):
        fill(cache, range(start, start + 10))
        assert cache.nbytes <= 10_000
    kept = found_in(cache, range(200))
    assert set(range(190, 200)) <= kept < set(range(200))


def test_a_part_that_exceeds_the_budget_alone_is_not_kept(new):
    cache = new(budget=1)
    fill(cache, range(3))
    assert parts_of(cache) == [] and found_in(cache, range(3)) == set()


def test_a_use_does_not_change_the_time_of_modification(new):
    fill(new(), [1])
    (part,) = parts_of(new())
    os.utime(part, (1000, 1000))
    using = new()
    assert found_in(using, [1]) == {1}
    assert part.stat().st_mtime == 1000 and part.stat().st_atime > 1000
    assert found_in(using, [1]) == {1}
