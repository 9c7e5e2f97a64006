"""Featurizers that break one rule each. `test_suite` runs this file and expects every test in it to fail."""

from __future__ import annotations

import threading
from typing import Any, ClassVar

import numpy as np
from pydantic import ConfigDict, PrivateAttr

from kinoml_data import Array, Featurizer
from kinoml_data.testing import FeaturizerTests


class Sound(Featurizer):
    """The number and the codes of the letters of a text, and the sum of some numbers.

    Attributes:
        rule: the name of the test that must fail.
        scale: a factor for the number and the sum.
    """

    rule: ClassVar[str]
    name = "sound"
    inputs = ("text", "numbers")
    scale: float = 1.0

    @property
    def outputs(self):
        return {"size": Array("float32", (2,)), "codes": Array("uint32", (None,))}

    def featurize(self, *raw: Any) -> Any:
        text, numbers = raw
        if not text:
            raise ValueError("the text is empty")
        size = np.array([self.scale * len(text), self.scale * numbers.sum()], np.float32)
        return size, np.array([ord(letter) for letter in text], np.uint32)


class Text(Featurizer):
    """A text in capitals."""

    name = "text-in-capitals"
    inputs = ("text",)

    @property
    def outputs(self):
        return {"capitals": Array("str")}

    def featurize(self, *raw: Any) -> Any:
        return (raw[0].upper(),)


def data() -> dict[str, list[Any]]:
    numbers = [np.array([3.0, 1.0, 2.0]), np.array([5.0, 4.0]), np.array([6.0])]
    return {"text": ["CCO", "c1ccccc1", "N"], "numbers": numbers}


# -- what it declares


class NamesAnInputTwice(Sound):
    rule = "test_its_name_inputs_and_outputs_are_valid"
    inputs = ("text", "numbers", "numbers")


class ReturnsAnotherDtype(Sound):
    rule = "test_it_returns_what_outputs_declare"

    def featurize(self, *raw):
        size, codes = super().featurize(*raw)
        return size.astype(np.float64), codes


class ReturnsAnotherShape(Sound):
    rule = "test_it_returns_what_outputs_declare"

    def featurize(self, *raw):
        size, codes = super().featurize(*raw)
        return size, codes[None]


class ReturnsOneArrayTooFew(Sound):
    rule = "test_it_returns_what_outputs_declare"

    def featurize(self, *raw):
        return super().featurize(*raw)[:1]


class ReturnsAList(Sound):
    rule = "test_it_returns_what_outputs_declare"

    def featurize(self, *raw):
        return list(super().featurize(*raw))


class ReturnsNumbersForAText(Sound):
    rule = "test_it_returns_what_outputs_declare"

    @property
    def outputs(self):
        return super().outputs | {"codes": Array("str")}


# -- the same values give the same arrays


class CountsItsCalls(Sound):
    rule = "test_the_same_values_give_the_same_arrays_in_any_order"
    _calls: Any = PrivateAttr(default_factory=list)

    def featurize(self, *raw):
        self._calls.append(raw)
        size, codes = super().featurize(*raw)
        return size + np.float32(len(self._calls)), codes


class RemembersTheFirstTextOfEachThread(Sound):
    rule = "test_threads_get_the_same_arrays"

    def featurize(self, *raw):
        if not hasattr(_OF_THREAD, "text"):
            _OF_THREAD.text = raw[0]
        size, codes = super().featurize(*raw)
        return size + np.float32(len(_OF_THREAD.text)), codes


_OF_THREAD = threading.local()


class HashesItsText(Sound):
    rule = "test_a_spawned_process_gets_the_same_arrays"

    def featurize(self, *raw):
        size, codes = super().featurize(*raw)
        return size, codes + np.uint32(hash(raw[0]) % 1000003)


class ForgetsThatARowRepeats(Sound):
    rule = "test_many_rows_at_once_get_the_same_arrays"

    def featurize_many(self, *columns):
        distinct = {raw[0]: raw for raw in zip(*columns, strict=True)}
        return super().featurize_many(*zip(*distinct.values(), strict=True))


class ReturnsRowsOfABatch(Sound):
    rule = "test_many_rows_at_once_get_the_same_arrays"

    def featurize_many(self, *columns):
        return tuple(self.featurize(*raw) for raw in zip(*columns, strict=True))


class DependsOnTheOtherRowsOfABatch(Sound):
    rule = "test_many_rows_at_once_get_the_same_arrays"

    def featurize_many(self, *columns):
        size, codes = super().featurize_many(*columns)
        return np.stack(size) - np.mean(size, axis=0, dtype=np.float32), codes


# -- arrays belong to the caller


class ReusesItsBuffer(Sound):
    rule = "test_arrays_stay_as_they_are_when_other_rows_are_featurized"
    _buffer: Any = PrivateAttr(default_factory=lambda: np.empty(2, np.float32))

    def featurize(self, *raw):
        size, codes = super().featurize(*raw)
        self._buffer[:] = size
        return self._buffer, codes


class GivesAwayItsCache(Sound):
    rule = "test_changing_an_array_does_not_change_the_next_one"
    _cache: Any = PrivateAttr(default_factory=dict)

    def featurize(self, *raw):
        if raw[0] not in self._cache:
            self._cache[raw[0]] = super().featurize(*raw)
        return self._cache[raw[0]]


class SortsItsInput(Sound):
    rule = "test_raw_values_stay_as_they_are"

    def featurize(self, *raw):
        raw[1].sort()
        return super().featurize(*raw)


# -- odd values


class LeavesOnAnEmptyText(Sound):
    rule = "test_an_odd_text_gives_valid_arrays_or_an_exception"

    def featurize(self, *raw):
        if not raw[0]:
            raise SystemExit("the text is empty")
        return super().featurize(*raw)


class GivesNothingForAnEmptyText(Sound):
    rule = "test_an_odd_text_gives_valid_arrays_or_an_exception"

    def featurize(self, *raw):
        return super().featurize(*raw) if raw[0] else None


class CutsALongText(Sound):
    rule = "test_an_odd_text_gives_valid_arrays_or_an_exception"

    def featurize(self, *raw):
        size, codes = super().featurize(*raw)
        return size, codes if len(codes) < 1000 else codes.reshape(2, -1)


class RefusesAnOddTextOnlyOnce(Sound):
    rule = "test_an_odd_text_gives_valid_arrays_or_an_exception"
    _refused: Any = PrivateAttr(default_factory=set)

    def featurize(self, *raw):
        if not raw[0].isascii() and raw[0] not in self._refused:
            self._refused.add(raw[0])
            raise ValueError("the text is not ASCII")
        return super().featurize(*raw)


# -- its options


class CannotBePickled(Sound):
    rule = "test_it_pickles_also_after_use"
    _handle: Any = PrivateAttr(default=None)

    def featurize(self, *raw):
        self.__pydantic_private__["_handle"] = threading.Lock()
        return super().featurize(*raw)


class HasAnOptionThatIsNotJson(Sound):
    rule = "test_its_options_survive_a_spec_file"
    function: Any = len


class ForgetsAnOptionInASpecFile(Sound):
    rule = "test_its_options_survive_a_spec_file"
    letters: tuple[str, ...] = ("C",)

    def model_dump(self, **options):
        return super().model_dump(**options, exclude={"letters"})


class TakesAnyOption(Sound):
    rule = "test_an_unknown_option_is_refused"
    model_config = ConfigDict(extra="ignore")


class HasAHiddenOption(Sound):
    rule = "test_a_spec_computes_what_it_returns"
    _offset: Any = PrivateAttr(default=np.float32(0))

    def featurize(self, *raw):
        size, codes = super().featurize(*raw)
        return size + self._offset, codes


def made(cls: type[Sound]) -> Sound:
    """The featurizer to test, with options that a spec does or does not name."""
    if cls is HasAnOptionThatIsNotJson:
        return cls(function=max)
    if cls is ForgetsAnOptionInASpecFile:
        return cls(letters=("N",))
    featurizer = cls()
    if cls is HasAHiddenOption:
        featurizer._offset = np.float32(1)
    return featurizer


def suite_of(cls: type[Sound]) -> type[FeaturizerTests]:
    """The one test of the suite that the featurizer must fail."""
    others = {name: None for name in dir(FeaturizerTests) if name.startswith("test_") and name != cls.rule}
    return type(f"Test{cls.__name__}", (FeaturizerTests,), {"featurizers": [made(cls)], "data": data(), **others})


BROKEN = {cls.__name__: cls for cls in Sound.__subclasses__()}
globals().update({f"Test{name}": suite_of(cls) for name, cls in BROKEN.items()})
