"""The rules for keys, which tell what rows share a value."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from kinoml_data.columns import Indexed
from kinoml_data.contracts.backend import Backend
from kinoml_data.errors import SpecError
from kinoml_data.spec.array import Array
from kinoml_data.testing import examples
from kinoml_data.testing.comparing import contents, first_with_key, same_array, same_keys, same_list, same_store
from kinoml_data.testing.example import Example, column_of, content_of
from kinoml_data.testing.suite import DECLARED_OR_NOT, EACH_EXAMPLE, Shared, Suite

FIXED, RAGGED = Array("float32", (2,)), Array("float32", (None,))
EACH_KIND = pytest.mark.parametrize("array", [FIXED, RAGGED], ids=["fixed", "ragged"])


def _values(count: int, array: Array) -> Any:
    return column_of([examples.bits(array.dtype, (2,), i) for i in range(count)], array)


def _indexed(values: Any, *index: Any) -> Indexed:
    return Indexed(values, np.array(index))


MISFITS: dict[str, Callable[[Any, Array], list[Any]]] = {
    "a value that does not exist": lambda two, _: [_indexed(two, 1, 0, 1), _indexed(two[:0], 2)],
    "a value of a later batch": lambda two, _: [_indexed(two[:1], 0, 1), _indexed(two[1:], 1)],
    "a negative number": lambda two, _: [_indexed(two, 1, 0, -1)],
    "numbers that are not integers": lambda two, _: [_indexed(two, 1.0, 0.0)],
    "numbers in two axes": lambda two, _: [_indexed(two, [1, 0], [0, 1])],
    "values of another dtype": lambda two, array: [_indexed(_values(2, Array("float64", array.shape)), 0, 1)],
    "values of another kind": lambda two, array: [_indexed(_values(2, RAGGED if array is FIXED else FIXED), 0, 1)],
    "fewer rows than another column": lambda two, _: [_indexed(two, 0, 1, 0)],
    "rows after it was indexed": lambda two, _: [_indexed(two, 0, 1), two],
    "rows before it was indexed": lambda two, _: [two, _indexed(two, 0, 1)],
}


class KeyTests(Suite):
    """`Storage.keys` is None, or tells truly which rows share a value."""

    @DECLARED_OR_NOT
    @EACH_EXAMPLE
    def test_rows_with_one_key_have_the_same_value(self, shared: Shared, example: Example, declared: bool) -> None:
        example, stored = shared(example)
        with stored.open(example.columns if declared else None) as storage:
            same_keys(storage, example)

    @EACH_EXAMPLE
    def test_keys_are_the_same_every_time(self, shared: Shared, example: Example) -> None:
        example, stored = shared(example)
        with stored.open(example.columns) as one, stored.open(example.columns) as other:
            for name in example.columns:
                keys = one.keys(name)
                for again in (one.keys(name), other.keys(name)):
                    assert (again is None) == (keys is None), name
                    if keys is not None and again is not None:
                        same_array(again, keys, name)

    def test_columns_that_share_values_in_the_same_way_have_one_array_of_keys(self, shared: Shared) -> None:
        example, stored = shared(examples.sharing())
        with stored.open(example.columns) as storage:
            arrays = [(name, keys) for name in example.columns if (keys := storage.keys(name)) is not None]
            for name, keys in arrays:
                alike = [other for other, array in arrays if np.array_equal(array, keys) and array is not keys]
                assert alike == [], f"{name} has equal keys, but in another array"


class KeyWritingTests(Suite):
    """A backend that declares `keeps_keys` stores what rows share once, and returns the keys."""

    @pytest.mark.parametrize("size", [1, 2, 3, 100])
    def test_what_rows_share_comes_back_with_its_keys(self, backend: Backend, size: int) -> None:
        self.needs(backend, "keeps_keys")
        example = self.usable(backend, examples.sharing())
        empty: dict[str, Any] = {name: column[:0] for name, column in next(example.batches(1)).items()}
        empty |= {name: Indexed(empty[name], np.arange(0)) for name in example.shared}
        batches = [batch for written in example.batches(size, indexed=True) for batch in (empty, written)]
        backend.write(example.columns, iter([*batches, empty]))
        same_store(backend, example)
        _same_sharing(backend, example)

    @pytest.mark.parametrize("name", examples.sharing().shared)
    def test_one_column_may_share_values_and_another_not(self, backend: Backend, name: str) -> None:
        self.needs(backend, "keeps_keys")
        example = self.usable(backend, examples.sharing())
        if name not in example.columns:
            pytest.skip("the backend does not support the column")
        both = example.only([name, next(each for each in example.numeric if each != name)])
        both = Example(both.name, both.columns, both.rows, shared=(name,))
        backend.write(both.columns, both.batches(5, indexed=True))
        same_store(backend, both, both.columns)
        _same_sharing(backend, both)

    def test_no_rows_share_no_values(self, backend: Backend) -> None:
        self.needs(backend, "keeps_keys")
        example = self.usable(backend, next(each for each in examples.EXAMPLES if each.name == "no-rows"))
        empty = {name: column_of([], array) for name, array in example.columns.items()}
        batch: dict[str, Any] = {name: Indexed(column, np.arange(0)) for name, column in empty.items()}
        backend.write(example.columns, iter([batch, batch]))
        same_store(backend, example, example.columns)
        with backend.open(example.columns) as storage:
            same_keys(storage, example)

    @pytest.mark.parametrize("count", [257, 65_537])
    def test_values_beyond_what_a_small_integer_counts_keep_their_rows(self, backend: Backend, count: int) -> None:
        """Keys are stored as small integers, and only the last batch shows how many values there are."""
        self.needs(backend, "keeps_keys")
        if not self.supports(backend, Array("int32")):
            pytest.skip("the backend does not support the column")
        values, order = np.arange(count, dtype=np.int32), np.arange(count)[::-1]
        parts = (values[:9], np.arange(9)), (values[9:], order), (values[:0], order[:9])
        batches: list[Any] = [{"X": Indexed(*part)} for part in parts]
        backend.write({"X": Array("int32")}, iter(batches))
        with backend.open(None) as storage:
            read = storage.read(np.arange(len(storage)), ["X"])["X"]
            assert isinstance(read, np.ndarray)
            same_array(read, np.concatenate([values[:9], values[::-1], values[::-1][:9]]))

    @EACH_KIND
    def test_what_rows_share_is_stored_once(self, backend: Backend, array: Array, tmp_path: Path) -> None:
        self.needs(backend, "keeps_keys")
        if not self.supports(backend, array):
            pytest.skip("the backend does not support the column")
        # A compressor does not look back as far as to the row before.
        values = [examples.bits("float32", (20_000,), i) for i in range(2)]
        columns = {"X": Array("float32", (20_000,)) if array is FIXED else RAGGED}
        index = np.arange(40) % 2
        batch: Any = {"X": Indexed(column_of(values, columns["X"]), index)}
        backend.write(columns, iter([batch]))
        stored = sum(path.stat().st_size for path in tmp_path.rglob("*") if path.is_file())
        assert stored < 400_000, f"40 rows share 2 values of 80,000 bytes, and take {stored} bytes"
        same_store(backend, Example("large", columns, {"X": [values[i] for i in index]}))

    @EACH_KIND
    @pytest.mark.parametrize("wrong", MISFITS)
    def test_what_is_indexed_wrongly_is_refused(
        self, backend: Backend, array: Array, wrong: str, tmp_path: Path
    ) -> None:
        self.needs(backend, "keeps_keys")
        if not self.supports(backend, array):
            pytest.skip("the backend does not support the column")
        before = contents(tmp_path)
        batches = MISFITS[wrong](_values(2, array), array)
        batches = [{"X": X, "y": _values(len(X), FIXED)} for X in batches]
        if wrong == "fewer rows than another column":
            batches[-1]["y"] = _values(9, FIXED)
        with pytest.raises(SpecError):
            backend.write({"X": array, "y": FIXED}, iter(batches))
        assert contents(tmp_path) == before


def _same_sharing(backend: Backend, example: Example) -> None:
    """Compare which rows share a value, whatever the keys are."""
    with backend.open(example.columns) as storage:
        same_keys(storage, example)
        for name in example.shared:
            keys, first = storage.keys(name), dict[Any, int]()
            assert keys is not None, f"the keys of {name} are lost"
            expected = [first.setdefault(content_of(row), i) for i, row in enumerate(example.rows[name])]
            same_list(first_with_key(keys).tolist(), expected, name)
