"""`LruCache`: what stays and what is dropped."""

from __future__ import annotations

import threading

from kinoml_data.lru import LruCache


def test_the_least_recently_used_values_are_dropped_first():
    cache: LruCache[str, int] = LruCache(30)
    for i, key in enumerate("abc"):
        cache.put(key, i, 10)
    assert cache.get_all("a") == {"a": 0}  # used again, so that b is now the oldest
    cache.put("d", 3, 10)
    assert cache.get_all("abcd") == {"a": 0, "c": 2, "d": 3}
    assert (len(cache), cache.nbytes) == (3, 30)


def test_a_large_value_drops_as_many_small_ones_as_it_needs():
    cache: LruCache[int, int] = LruCache(100)
    for i in range(10):
        cache.put(i, i, 10)
    cache.put(10, 10, 35)
    assert cache.get_all(range(11)) == {i: i for i in (4, 5, 6, 7, 8, 9, 10)}
    assert cache.nbytes == 95


def test_a_value_larger_than_the_budget_is_not_kept_and_drops_nothing():
    cache: LruCache[str, int] = LruCache(10)
    cache.put("a", 0, 5)
    cache.put("b", 1, 11)
    assert cache.get_all("ab") == {"a": 0} and cache.nbytes == 5


def test_the_most_recent_values_may_exceed_the_budget_if_some_are_to_be_kept():
    cache: LruCache[str, int] = LruCache(10, keep=2)
    for i, key in enumerate("abc"):
        cache.put(key, i, 100)
    assert cache.get_all("abc") == {"b": 1, "c": 2} and cache.nbytes == 200


def test_a_key_that_is_there_already_keeps_its_value_and_its_size():
    cache: LruCache[str, int] = LruCache(100)
    cache.put("a", 0, 10)
    cache.put("a", 1, 20)
    assert cache.get_all("a") == {"a": 0} and cache.nbytes == 10


def test_the_budget_holds_while_threads_share_the_cache():
    cache: LruCache[int, int] = LruCache(500)

    def use(start: int) -> None:
        for i in range(start, start + 2000):
            cache.put(i % 97, i % 97, 10 + i % 5)
            for key, value in cache.get_all((i % 97, i % 13)).items():
                assert key == value

    threads = [threading.Thread(target=use, args=(n * 31,)) for n in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    sizes = cache.nbytes
    assert 0 < sizes <= 500 and len(cache) * 10 <= sizes <= len(cache) * 14
