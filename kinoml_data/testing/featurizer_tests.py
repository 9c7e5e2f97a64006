"""`FeaturizerTests`: the contract of `Featurizer` as tests, one test per rule."""

from __future__ import annotations

import multiprocessing
import os
import pickle
import re
import threading
from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import ProcessPoolExecutor, ThreadPoolExecutor
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
import pytest
from pydantic import ValidationError

from kinoml_data.contracts.featurizer import Featurizer
from kinoml_data.factory import load_dataset
from kinoml_data.spec.array import NAME_PATTERN, Array
from kinoml_data.spec.dataset_spec import DatasetSpec
from kinoml_data.spec.parts import NamedRef
from kinoml_data.spec.validation import plain_json
from kinoml_data.testing.suite import register

THREADS = 8
ROW = "row-number"  # a column beside the features


class FeaturizerTests:
    """Every rule of the contract of `Featurizer`. The author of a plugin subclasses it::

        class TestMorganFingerprint(FeaturizerTests):
            featurizers = (MorganFingerprint(), MorganFingerprint(radius=3))
            data = {"smiles": ["CCO", "c1ccccc1", "[Na+].[Cl-]"]}

    The suite compares dtype, shape and bytes. It does not know what the arrays should contain; test that separately.

    Attributes:
        featurizers: the featurizers to test, each with some of its options.
        data: the raw values of at least two rows that every one of them can featurize, by input; a text is a str.
        odd_texts: replace the text of an input, one after the other; a featurizer gives valid arrays for each of them,
            or raises an exception.
    """

    featurizers: ClassVar[Sequence[Featurizer]] = ()
    data: ClassVar[Mapping[str, Sequence[Any]]] = {}
    odd_texts: ClassVar[Sequence[str]] = ("", " ", "\n", "\0", "\u00c4", "\u5206\u5b50", "\U0001f9ec", "-" * 10_000)

    def pytest_generate_tests(self, metafunc: pytest.Metafunc) -> None:
        """Run each test once for each featurizer."""
        rows = {len(values) for values in self.data.values()}
        if not self.featurizers or len(rows) != 1 or min(rows) < 2:
            raise TypeError(f"{type(self).__name__} must define `featurizers`, and `data` with two or more rows")
        if "featurizer" in metafunc.fixturenames:
            metafunc.parametrize("featurizer", self.featurizers, ids=repr)

    @pytest.fixture(autouse=True)
    def _registered(self, monkeypatch: pytest.MonkeyPatch) -> None:
        """Register the featurizers for the test, unless an installed plugin does."""
        for cls in dict.fromkeys(map(type, self.featurizers)):
            register("featurizer", cls, monkeypatch)

    def rows(self, featurizer: Featurizer) -> list[tuple[Any, ...]]:
        """The raw values of each row, as the featurizer is called with them."""
        return list(zip(*(self.data[name] for name in featurizer.inputs), strict=True))

    # -- what it declares

    def test_its_name_inputs_and_outputs_are_valid(self, featurizer: Featurizer) -> None:
        inputs: Any = type(featurizer).inputs
        outputs: Any = featurizer.outputs
        assert re.fullmatch(NAME_PATTERN, featurizer.name)
        assert isinstance(inputs, tuple) and inputs, "`inputs` must be a tuple of names, such as ('smiles',)"
        assert len(set(inputs)) == len(inputs)
        assert all(isinstance(name, str) and name for name in (*inputs, *outputs))
        assert outputs and all(isinstance(array, Array) for array in outputs.values())
        assert list(featurizer.outputs.items()) == list(outputs.items()), "`outputs` must not change"
        assert set(inputs) <= set(self.data), "`data` must contain every input"

    def test_it_returns_what_outputs_declare(self, featurizer: Featurizer) -> None:
        for raw in self.rows(featurizer):
            _check(featurizer.featurize(*raw), featurizer)

    # -- the same values give the same arrays

    def test_the_same_values_give_the_same_arrays_in_any_order(self, featurizer: Featurizer) -> None:
        rows = self.rows(featurizer)
        first = [_bits(featurizer.featurize(*raw)) for raw in rows]
        for i in (*reversed(range(len(rows))), 0, 0, *range(len(rows))):
            _same(featurizer.featurize(*rows[i]), first[i], f"row {i} of `data`, featurized again")

    def test_threads_get_the_same_arrays(self, featurizer: Featurizer) -> None:
        rows = self.rows(featurizer)
        expected = [_bits(featurizer.featurize(*raw)) for raw in rows]
        together = threading.Barrier(THREADS)

        def work(thread: int) -> None:
            together.wait()
            for i in range(4 * len(rows)):
                i = (i + thread) % len(rows)
                _same(featurizer.featurize(*rows[i]), expected[i], f"row {i} of `data`, featurized in a thread")

        with ThreadPoolExecutor(THREADS) as pool:
            list(pool.map(work, range(THREADS)))

    def test_a_spawned_process_gets_the_same_arrays(self, monkeypatch: pytest.MonkeyPatch) -> None:
        # Hashes of texts and the order of sets differ there, and so may products of matrices that use several threads.
        monkeypatch.setenv("OMP_NUM_THREADS", "1")
        monkeypatch.setenv("PYTHONHASHSEED", "2" if os.environ.get("PYTHONHASHSEED") == "1" else "1")
        with ProcessPoolExecutor(1, multiprocessing.get_context("spawn")) as pool:
            for featurizer in self.featurizers:
                for raw in self.rows(featurizer):
                    there = pool.submit(featurizer.featurize, *raw).result()
                    _same(there, _bits(featurizer.featurize(*raw)), f"{featurizer!r} in a spawned process")

    def test_many_rows_at_once_get_the_same_arrays(self, featurizer: Featurizer) -> None:
        rows = self.rows(featurizer)
        expected = [_bits(featurizer.featurize(*raw)) for raw in rows]
        order = [*reversed(range(len(rows))), 0, 0]
        for some in (order, order[:1]):
            inputs = ([rows[i][place] for i in some] for place in range(len(featurizer.inputs)))
            columns = featurizer.featurize_many(*inputs)
            assert [len(column) for column in columns] == [len(some)] * len(featurizer.outputs)
            for position, i in enumerate(some):
                result = tuple(column[position] for column in columns)
                _check(result, featurizer)
                _same(result, expected[i], f"row {i} of `data`, featurized in a batch")

    # -- arrays belong to the caller

    def test_arrays_stay_as_they_are_when_other_rows_are_featurized(self, featurizer: Featurizer) -> None:
        results = [featurizer.featurize(*raw) for raw in self.rows(featurizer)]
        expected = [_bits(featurizer.featurize(*raw)) for raw in self.rows(featurizer)]
        for i, (result, bits) in enumerate(zip(results, expected, strict=True)):
            _same(result, bits, f"row {i} of `data`, after other rows; return a new array each time")

    def test_changing_an_array_does_not_change_the_next_one(self, featurizer: Featurizer) -> None:
        for raw in self.rows(featurizer):
            result = featurizer.featurize(*raw)
            bits = _bits(result)
            for array in result:
                if isinstance(array, np.ndarray) and array.flags.writeable:
                    array[...] = ~array if array.dtype == bool else array + 1
            _same(featurizer.featurize(*raw), bits, "the same values, after the arrays of an earlier call were changed")

    def test_raw_values_stay_as_they_are(self, featurizer: Featurizer) -> None:
        for raw in self.rows(featurizer):
            before = _bits(raw)
            featurizer.featurize(*raw)
            _same(raw, before, "the raw values, after they were featurized")

    # -- odd values

    def test_an_odd_text_gives_valid_arrays_or_an_exception(self, featurizer: Featurizer) -> None:
        for raw in self._odd_rows(featurizer):
            outcomes = []
            for _ in range(2):
                try:
                    result = featurizer.featurize(*raw)
                except Exception as error:  # a featurizer may raise any
                    outcomes.append([type(error).__name__])
                except BaseException as error:  # such as SystemExit
                    pytest.fail(f"{type(error).__name__} would end the process; raise a ValueError for {raw!r:.200}")
                else:
                    _check(result, featurizer)
                    outcomes.append(_bits(result))
            if outcomes[0] != outcomes[1]:
                pytest.fail(f"the second call gave something else for {raw!r:.200}")

    def _odd_rows(self, featurizer: Featurizer) -> Iterator[tuple[Any, ...]]:
        first = self.rows(featurizer)[0]
        for place, value in enumerate(first):
            for text in (*self.odd_texts, 30 * value) if isinstance(value, str) else ():
                yield (*first[:place], text, *first[place + 1 :])

    # -- its options

    def test_it_pickles_also_after_use(self, featurizer: Featurizer) -> None:
        rows = self.rows(featurizer)
        expected = [_bits(featurizer.featurize(*raw)) for raw in rows]
        again = pickle.loads(pickle.dumps(featurizer))
        assert type(again) is type(featurizer) and again == featurizer
        for raw, bits in zip(rows, expected, strict=True):
            _same(again.featurize(*raw), bits, "the same values, featurized by a pickled copy")

    def test_its_options_survive_a_spec_file(self, featurizer: Featurizer, tmp_path: Path) -> None:
        for suffix in (".yaml", ".json", ".toml"):
            file = tmp_path / f"spec{suffix}"
            DatasetSpec.parse({"storage": _storage(featurizer)}).to_file(file)
            storage = DatasetSpec.from_file(file).storage
            assert storage is not None
            options = NamedRef.model_validate(storage.options["featurizer"]).options
            again = type(featurizer).model_validate_json(plain_json(options))
            assert again == featurizer and again.outputs == featurizer.outputs

    def test_an_unknown_option_is_refused(self, featurizer: Featurizer) -> None:
        options = featurizer.model_dump(mode="json") | {"no_such_option": 1}
        with pytest.raises(ValidationError, match="no_such_option"):
            type(featurizer).model_validate_json(plain_json(options))

    def test_a_spec_computes_what_it_returns(self, featurizer: Featurizer) -> None:
        rows, outputs = self.rows(featurizer), dict(featurizer.outputs)
        texts = [name for name, array in outputs.items() if array.is_string]
        X = [ROW, *(name for name in outputs if name not in texts)]
        columns = {ROW: Array("int64"), **outputs}
        spec = {"columns": columns, "X": X, "meta": texts, "storage": _storage(featurizer)}
        with load_dataset(spec, data={**self.data, ROW: np.arange(len(rows))}) as dataset:
            assert len(dataset) == len(rows)
            strings = {name: dataset.column(name) for name in texts}
            for i, raw in enumerate(rows):
                values = {name: tensor.numpy() for name, tensor in dataset[i][0].items()}
                values |= {name: column[i] for name, column in strings.items()}
                result = tuple(values[name] for name in outputs)
                _same(result, _bits(featurizer.featurize(*raw)), f"row {i} of `data`, computed by a spec")


def _storage(featurizer: Featurizer) -> dict[str, Any]:
    """The storage of a spec that names the featurizer with its options."""
    options = featurizer.model_dump(mode="json", exclude_defaults=True)
    return {"backend": "featurize-on-access", "featurizer": {"name": featurizer.name, **options}}


def _check(result: Any, featurizer: Featurizer) -> None:
    """Compare what `featurize` returned with the declared outputs."""
    outputs = featurizer.outputs
    assert isinstance(result, tuple), f"return a tuple, not {type(result).__name__}"
    assert len(result) == len(outputs), f"return {len(outputs)} arrays, not {len(result)}"
    for value, (name, declared) in zip(result, outputs.items(), strict=True):
        if declared.is_string:
            assert isinstance(value, str), f"{name}: return a str, not {type(value).__name__}"
            continue
        assert isinstance(value, (np.ndarray, np.generic)), f"{name}: return an array, not {type(value).__name__}"
        assert value.dtype == declared.numpy, f"{name}: the dtype is {value.dtype}, not {declared.dtype}"
        fits = len(value.shape) == len(declared.shape) and all(
            axis in (None, length) for axis, length in zip(declared.shape, value.shape, strict=True)
        )
        assert fits, f"{name}: the shape is {value.shape}, not {declared.shape}"


def _bits(values: Sequence[Any]) -> list[Any]:
    """Values in a form that does not change with them and compares bit for bit: arrays by dtype, shape and bytes."""
    return [
        (value.dtype.str, value.shape, value.tobytes()) if isinstance(value, (np.ndarray, np.generic)) else value
        for value in values
    ]


def _same(values: Sequence[Any], expected: list[Any], what: str) -> None:
    if _bits(values) != expected:  # pytest would print all bytes
        raise AssertionError(f"{what}: {tuple(values)} differs from what was there before")
