"""Calling featurizers: in batches or one by one, with text or numbers, and how a failing row is found."""

import pickle

import numpy as np
import pytest
import torch

from kinoml_data import Array, Featurizer
from kinoml_data.backends.featurizer_call import FeaturizerCall
from kinoml_data.errors import FeaturizationError

TEXTS = ["C", "CCO", "", "N"]


class Lengths(Featurizer):
    """The letters and the length of a text, computed in batches; it records the sizes of its batches."""

    name = "lengths"
    inputs = ("text",)

    @property
    def outputs(self):
        return {"letters": Array("uint8", (None,)), "length": Array("float32", (1,))}

    def featurize(self, text):
        return np.frombuffer(text.encode(), np.uint8), np.array([len(text)])

    def featurize_many(self, texts):
        BATCHES.append(len(texts))
        return self.many(texts)

    def many(self, texts):
        return super().featurize_many(texts)


BATCHES = []


@pytest.fixture(autouse=True)
def _no_batches():
    BATCHES.clear()


class Upper(Featurizer):
    name = "upper"
    inputs = ("text",)

    @property
    def outputs(self):
        return {"upper": Array("str")}

    def featurize(self, text):
        return (text.upper(),)


def call_of(featurizer):
    return FeaturizerCall(featurizer, dict(featurizer.outputs), featurizer.name)


def results(call, *inputs):
    return list(call.attempts(inputs, [10 * row for row in range(len(inputs[0]))]))


def test_a_batch_is_computed_at_once_and_gives_what_single_rows_give():
    assert [(a.tolist(), b.tolist()) for a, b in results(call_of(Lengths()), TEXTS)] == [
        (list(text.encode()), [len(text)]) for text in TEXTS
    ]
    assert BATCHES == [4]
    assert results(call_of(Lengths()), []) == [] and BATCHES == [4]
    assert results(call_of(Lengths()), ["CCO"])[0][1].tolist() == [3] and BATCHES == [4, 1]


class Stacked(Lengths):
    """One array for all rows in place of a list of arrays, by name."""

    def many(self, texts):
        lengths = torch.tensor([[len(text)] for text in texts])
        return {"length": lengths, "letters": [list(text.encode()) or np.empty(0, int) for text in texts]}


def test_a_batch_may_be_returned_as_one_array_and_by_name():
    assert [b.tolist() for _, b in results(call_of(Stacked()), TEXTS)] == [[1], [3], [0], [1]]


class Reused(Lengths):
    """The rows of a batch are views of a buffer that is used again."""

    def many(self, texts):
        BUFFER[: len(texts), 0] = [len(text) for text in texts]
        return [np.empty(0)] * len(texts), BUFFER[: len(texts)]


BUFFER = np.zeros((9, 1))


def test_rows_of_a_batch_do_not_share_the_memory_of_the_featurizer():
    rows = results(call_of(Reused()), TEXTS)
    BUFFER[:] = 77
    assert [b.tolist() for _, b in rows] == [[1], [3], [0], [1]]


class Picky(Lengths):
    error: str = "ValueError"

    def many(self, texts):
        if "CCO" in texts:
            raise {"ValueError": ValueError, "StopIteration": StopIteration, "SystemExit": SystemExit}[self.error](5)
        return super().many(texts)


@pytest.mark.parametrize("error", ["ValueError", "StopIteration", "SystemExit"])
def test_the_row_that_makes_a_batch_fail_is_found(error):
    good, bad, *others = results(call_of(Picky(error=error)), TEXTS)
    assert good[1].tolist() == [1] and [other[1].tolist() for other in others] == [[0], [1]]
    assert isinstance(bad, FeaturizationError) and type(bad.__cause__).__name__ == error
    assert str(bad) == f"featurizer 'lengths' failed for row 10: {error}: 5"
    assert BATCHES == [4, 1, 1, 1, 1]


class Short(Lengths):
    def many(self, texts):
        letters, lengths = super().many(texts)
        return letters, [length for length in lengths if length != 3]


def test_a_batch_of_another_number_of_rows_is_an_error_that_names_the_row():
    good, bad, *_ = results(call_of(Short()), TEXTS)
    assert good[1].tolist() == [1]
    assert str(bad) == "featurizer 'lengths', row 10: it returned 0 rows of column 'length', not 1"


class Wide(Lengths):
    def many(self, texts):
        letters, lengths = super().many(texts)
        return letters, [np.zeros(2) if length == 3 else length for length in lengths]


def test_each_row_of_a_batch_is_compared_with_what_is_declared():
    _, bad, *_ = results(call_of(Wide()), TEXTS)
    assert str(bad) == "featurizer 'lengths', row 10: column 'length' has shape (2,), not (1,)"


class Large(Lengths):
    def many(self, texts):
        if len(texts) > 1:
            raise MemoryError("too many")
        return super().many(texts)


def test_a_batch_that_fails_although_each_of_its_rows_does_not_is_an_error():
    with pytest.raises(
        FeaturizationError, match=r"failed for 4 rows at once.* none of them alone: MemoryError: too ma"
    ):
        results(call_of(Large()), TEXTS)


def test_control_c_in_a_batch_is_not_wrapped():
    class Stopped(Lengths):
        def many(self, texts):
            raise KeyboardInterrupt

    for texts in (TEXTS, TEXTS[:1]):
        with pytest.raises(KeyboardInterrupt):
            results(call_of(Stopped()), texts)


def test_without_featurize_many_rows_are_computed_when_they_are_asked_for():
    seen = []

    def count(text, number):
        seen.append(text)
        return len(text) * number

    call = FeaturizerCall(count, {"n": Array("int64")}, "count")
    attempts = call.attempts([TEXTS, [1, 2, 3, 4]], [0, 1, 2, 3])
    assert [int(next(attempts)[0]), int(next(attempts)[0])] == [1, 6] and seen == TEXTS[:2]
    assert [int(n) for (n,) in attempts] == [0, 4]


def test_featurize_many_of_the_contract_calls_featurize_for_each_row():
    letters, lengths = Featurizer.featurize_many(Lengths(), TEXTS)
    assert [int(length[0]) for length in lengths] == [1, 3, 0, 1] and len(letters) == 4
    assert Featurizer.featurize_many(Lengths(), []) == ([], [])


def test_a_text_becomes_its_utf8_bytes():
    (upper,), (empty,) = results(call_of(Upper()), ["aé", ""])
    assert upper.tobytes().decode() == "AÉ" and empty.shape == (0,) and upper.dtype == np.uint8


@pytest.mark.parametrize("value", [5, None, b"C", np.array("C"), ["C"]], ids=str)
def test_anything_else_than_a_text_is_refused_for_a_column_of_text(value):
    call = FeaturizerCall(lambda _: value, {"text": Array("str")}, "mine")
    (error,) = results(call, ["C"])
    assert str(error).startswith("featurizer 'mine', row 0: column 'text' contains ")
    assert str(error).endswith("which is not a text")


def test_half_a_character_is_a_failure_of_its_row():
    (error,) = results(FeaturizerCall(lambda _: "\ud800", {"text": Array("str")}, "mine"), ["C"])
    assert "failed for row 0: UnicodeEncodeError" in str(error)


def test_an_error_of_another_featurizer_is_a_failure_of_the_row_too():
    def nested(_):
        raise FeaturizationError("featurizer 'inner' failed for row 7: ...")

    (error,) = results(FeaturizerCall(nested, {"n": Array("int64")}, "outer"), ["C"])
    assert str(error).startswith("featurizer 'outer' failed for row 0: FeaturizationError: featurizer 'inner'")


def test_a_call_and_its_errors_pickle():
    call = pickle.loads(pickle.dumps(call_of(Picky())))
    assert call == call_of(Picky())
    error = pickle.loads(pickle.dumps(results(call, TEXTS)[1]))
    assert isinstance(error, FeaturizationError) and "row 10" in str(error)
