"""`featurize-on-access` with a cache on disk: what is computed again and what is not, and who may use the cache."""

import functools
import importlib.metadata
import os
import pickle
import subprocess
import sys

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

import kinoml_data as kd
from kinoml_data import Array, Featurizer, registry
from kinoml_data.backends import cached_call, feature_cache
from kinoml_data.backends.cached_call import CachedCall, input_digests
from kinoml_data.backends.featurizer_call import FeaturizerCall
from kinoml_data.cli.main import main
from kinoml_data.errors import FeaturizationError, SpecError
from tests.builders import FORK_OR_SPAWN

SMILES = ["C", "CC", "", "CCO", "CC", "N"]
OUTPUTS = {"codes": Array("float32", (None,)), "size": Array("int64")}


class Codes(Featurizer):
    """The codes of the characters times a factor, and their number. It fails for "x"."""

    name = "codes"
    inputs = ("smiles",)
    factor: float = 1.0

    @property
    def outputs(self):
        return OUTPUTS

    def featurize(self, smiles):
        CALLS.append(smiles)
        if smiles == "x":
            raise ValueError("no molecule")
        return self.factor * np.frombuffer(smiles.encode(), np.uint8), len(smiles)


CALLS = []


@pytest.fixture(autouse=True)
def _no_calls():
    CALLS.clear()


VERSIONS = {"codes-dist": "1.0", "rdkit": "2023.9", "numpy": "2.0"}


@pytest.fixture
def plugin(monkeypatch):
    """The featurizer as one of a plugin, whose distribution requires two others; versions by name, to change them."""
    plugins = registry.Registry()
    names = {"featurizer": {"codes": Codes}}
    plugins.plugins.append(registry.Plugin("codes", "codes-dist", "1.0", loaded=True, names=names))
    monkeypatch.setattr(registry, "_registry", plugins)
    versions = dict(VERSIONS)

    def version(name):
        if name not in versions:
            raise importlib.metadata.PackageNotFoundError(name)
        return versions[name]

    monkeypatch.setattr(cached_call, "version", version)
    requirements = ["rdkit>=2023.9", 'numpy; python_version > "3"', "pytest>=9; extra == 'test'", "pywin32 (>1)"]
    monkeypatch.setattr(cached_call, "requires", lambda name: requirements if name == "codes-dist" else None)
    return versions


def spec(folder, featurizer=None, **storage):
    return {
        "X": "codes",
        "y": "size",
        "storage": {
            "backend": "featurize-on-access",
            "featurizer": {"name": "codes"} if featurizer is None else featurizer,
            "cache_path": str(folder / "cache"),
            **storage,
        },
    }


def read(folder, smiles=SMILES, function=None, **storage):
    """All rows of a dataset that is opened for it, and the calls of the featurizer."""
    CALLS.clear()
    with kd.load_dataset(spec(folder, **storage), data={"smiles": smiles}, featurizer=function) as dataset:
        X, y = dataset[:]
    assert [x.numpy().tolist() for x in X] == [list(text.encode()) for text in smiles]
    assert y.tolist() == [len(text) for text in smiles]
    return sorted(CALLS)


# -- what is computed again


def test_what_one_opening_has_computed_the_next_one_does_not_compute(plugin, tmp_path):
    assert read(tmp_path) == sorted(set(SMILES))
    assert read(tmp_path) == [] == read(tmp_path, SMILES[::-1]) == read(tmp_path, memory_budget=0)
    assert read(tmp_path, [*SMILES, "O", "O"]) == ["O"]


@pytest.mark.parametrize("name", VERSIONS)
def test_another_version_of_the_distribution_or_of_what_it_requires_computes_again(plugin, tmp_path, name):
    read(tmp_path)
    plugin[name] = "9"
    assert read(tmp_path) == sorted(set(SMILES))
    plugin[name] = VERSIONS[name]
    assert read(tmp_path) == []


def test_another_option_or_cache_version_computes_again(plugin, tmp_path):
    read(tmp_path)
    with kd.load_dataset(spec(tmp_path, {"name": "codes", "factor": 2.0}), data={"smiles": SMILES}) as dataset:
        assert [x.tolist() for x in dataset[:][0]] == [[2 * code for code in text.encode()] for text in SMILES]
    for version in ("", "1", "2"):
        assert read(tmp_path, cache_version=version) == sorted(set(SMILES))
    assert read(tmp_path) == [] == read(tmp_path, cache_version="1")


def test_other_names_for_columns_compute_nothing_again(plugin, tmp_path):
    read(tmp_path)
    CALLS.clear()
    featurizer = {"name": "codes", "inputs": ["text"], "outputs": {"codes": "letters"}}
    renamed = spec(tmp_path, featurizer) | {"X": "letters"}
    with kd.load_dataset(renamed, data={"text": SMILES}) as dataset:
        assert [x.tolist() for x in dataset[:][0]] == [list(text.encode()) for text in SMILES]
    assert CALLS == []


def test_errors_are_not_remembered_and_what_was_computed_before_is(plugin, tmp_path):
    smiles = ["C", "N", "x", "O"]
    for calls in (["C", "N", "x"], ["x"]):
        with (
            kd.load_dataset(spec(tmp_path), data={"smiles": smiles}) as dataset,
            pytest.raises(FeaturizationError, match="failed for row 2: ValueError: no molecule"),
        ):
            dataset[:]
        assert calls == CALLS
        CALLS.clear()


def test_a_dataset_that_is_not_closed_writes_when_its_process_ends(plugin, tmp_path):
    if (child := os.fork()) == 0:
        code = 1
        try:
            dataset = kd.load_dataset(spec(tmp_path), data={"smiles": SMILES})
            dataset[:]
            feature_cache.multiprocessing.util._exit_function()
            code = 0
        finally:
            os._exit(code)  # the child never goes on with the tests of its parent
    assert os.waitpid(child, 0)[1] == 0
    assert read(tmp_path) == []


# -- Python functions


def function_of(factor=1.0, shift=0):
    def codes(smiles):
        CALLS.append(smiles)
        return factor * np.frombuffer(smiles.encode(), np.uint8) + shift, len(smiles)

    return codes


class Callable:
    def __init__(self, factor=1.0):
        self.factor = factor

    def __call__(self, smiles):
        return function_of(self.factor)(smiles)

    def method(self, smiles):
        return self(smiles)


def with_default(smiles, factor=1.0):
    return function_of(factor)(smiles)


def with_keyword(smiles, *, factors=(1.0,)):
    return function_of(*factors)(smiles)


FUNCTION = {
    "inputs": ["smiles"],
    "outputs": {"codes": {"dtype": "float32", "shape": ["*"]}, "size": {"dtype": "int64"}},
}


def test_a_python_function_needs_a_version(tmp_path):
    for function in (function_of(), Callable()):
        with pytest.raises(SpecError, match=r"has no version.* write `cache_version: '1'` beside `cache_path`"):
            read(tmp_path, function=function, featurizer=FUNCTION)
    with pytest.raises(SpecError, match="featurizer 'codes' has no version"):
        read(tmp_path, function=Codes(), featurizer={"inputs": ["smiles"]})
    read(tmp_path, function=function_of(), featurizer=FUNCTION, cache_version="1")
    assert read(tmp_path, function=function_of(), featurizer=FUNCTION, cache_version="1") == []
    assert read(tmp_path, function=function_of(), featurizer=FUNCTION, cache_version="2") != []


def test_a_plugin_without_a_version_needs_one(plugin, tmp_path):
    del plugin["codes-dist"]
    with pytest.raises(SpecError, match="featurizer 'codes' has no version"):
        read(tmp_path)


def cache_of(folder, featurizer, distribution=None):
    call = FeaturizerCall(featurizer, OUTPUTS, "codes")
    return CachedCall.of(call, folder, 1 << 30, "1", distribution).cache.folder


class Doubled(Codes):
    factor: float = 2.0


class Changed(Codes):
    def featurize(self, smiles):
        return super().featurize(smiles[::-1])


def edited(smiles):
    return with_default(smiles)


first = edited


def edited(smiles):
    return with_default(smiles + "")


def looped(smiles):
    return None if smiles in {"a", "b", "c"} else with_default(smiles)


@pytest.mark.parametrize(
    ("one", "other"),
    [
        (function_of(1), function_of(2)),
        (function_of(np.ones(3)), function_of(np.zeros(3))),
        (function_of([1, {"a": Callable(1)}]), function_of([1, {"a": Callable(2)}])),
        (functools.partial(with_default, factor=1), functools.partial(with_default, factor=2)),
        (functools.partial(with_default), functools.partial(with_keyword)),
        (Callable(1), Callable(2)),
        (Callable(1).method, Callable(2).method),
        (lambda smiles: (smiles, 1), lambda smiles: (smiles, 2)),
        (lambda smiles: smiles.upper(), lambda smiles: smiles.lower()),
        (lambda smiles: [c + "1" for c in smiles], lambda smiles: [c + "2" for c in smiles]),
        (lambda smiles, n=1: n, lambda smiles, n=2: n),
        (lambda smiles, *, n=1: n, lambda smiles, *, n=2: n),
        (first, edited),
        (len, sum),
        (function_of(len), function_of(sum)),
        (function_of(Codes), function_of(Doubled)),
        (function_of(os), function_of(pickle)),
        (Codes(), Codes(factor=2.0)),
        (Codes(), Doubled(factor=1.0)),
        (Codes(), Changed()),
    ],
)
def test_python_objects_that_compute_something_else_share_no_features(tmp_path, one, other):
    assert cache_of(tmp_path, one) == cache_of(tmp_path, one) != cache_of(tmp_path, other)


def test_a_python_object_that_refers_to_itself_is_described():
    loop = Callable()
    loop.factor = loop
    assert cached_call._facts(loop, cached_call.DEPTH)


def test_a_python_function_is_described_alike_in_every_process(tmp_path):
    names = set()
    for seed in ("1", "2"):
        code = (
            "from pathlib import Path; from tests.backends import test_cached_call as t\n"
            f"print(*(t.cache_of(Path({str(tmp_path)!r}), f).name for f in (t.looped, t.Codes())))"
        )
        names.add(run_python(code, PYTHONHASHSEED=seed))
    assert len(names) == 1 and cache_of(tmp_path, looped).name in names.pop()


def run_python(code, **environment):
    done = subprocess.run([sys.executable, "-c", code], env=os.environ | environment, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    return done.stdout


# -- digests of inputs


DIFFERENT = [
    ("ab", "c"),
    ("a", "bc"),
    ("abc",),
    ("abc", ""),
    ("", "abc"),
    (b"abc",),
    (("abc",),),
    (["abc"],),
    (["ab", "c"],),
    ([["ab"], "c"],),
    ([["ab", "c"]],),
    ("\ud800",),
    (None,),
    ("None",),
    (1,),
    (True,),
    ("1",),
    (1.0,),
    (1 + 0j,),
    (0.0,),
    (-0.0,),
    (float("nan"),),
    (np.float64(1),),
    (np.float32(1),),
    (np.int64(1),),
    (np.array(1),),
    (np.array([1]),),
    (np.array([[1]]),),
    (np.array([1, 2, 3, 4]),),
    (np.array([[1, 2], [3, 4]]),),
    (np.array([1, 2, 3, 4], ">i8"),),
    (np.array([1, 2, 3, 4], np.float64),),
    (np.zeros((0, 2)),),
    (np.zeros((2, 0)),),
    (np.str_("abc"),),
    (np.array(["abc"]),),
    (np.datetime64("2020-01-01"),),
    (np.datetime64("2020-01-01", "s"),),
]


def test_different_inputs_have_different_digests():
    digests = [input_digests([[value] for value in values])[0] for values in DIFFERENT]
    assert len(set(digests)) == len(DIFFERENT) and {len(digest) for digest in digests} == {feature_cache.DIGEST}
    assert digests == [input_digests([[value] for value in values])[0] for values in DIFFERENT]


def test_the_order_of_an_array_in_memory_does_not_matter():
    array = np.arange(6).reshape(2, 3)
    strided = np.repeat(array, 2, axis=1)[:, ::2]
    assert len(set(input_digests([[array, np.asfortranarray(array), strided]]))) == 1


class Molecule:
    """An object of another library."""


WITHOUT_DIGEST = [Molecule(), np.array([Molecule()]), {"a": 1}, [Molecule()], np.zeros(2, "i4,f4"), np.ma.zeros(2)]


@pytest.mark.parametrize("value", WITHOUT_DIGEST, ids="abcdef")
def test_an_object_without_a_digest_is_an_error(value):
    with pytest.raises(SpecError, match=r"has no digest for the cache; .*text, numbers, arrays and lists"):
        input_digests([["C"], [value]])


VALUES = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text() | st.binary(), lambda v: st.lists(v, max_size=3)
)


@given(st.lists(st.tuples(VALUES, st.sampled_from(SMILES)), max_size=8), st.integers(1, 4))
def test_with_a_cache_featurizers_give_what_they_give_without(tmp_path_factory, rows, size):
    folder = tmp_path_factory.mktemp("cache")

    def function(value, smiles):
        return np.frombuffer(f"{value!r} {smiles}".encode("utf-8", "replace"), np.uint8), len(smiles)

    plain = FeaturizerCall(function, OUTPUTS, "codes")
    for _ in range(2):
        cached = CachedCall.of(plain, folder, 1 << 30, "1", None)
        for start in range(0, len(rows), size):
            inputs = list(zip(*rows[start : start + size], strict=True))
            numbers = list(range(start, min(start + size, len(rows))))
            for one, other in zip(plain.attempts(inputs, numbers), cached.attempts(inputs, numbers), strict=True):
                assert [(a.dtype, a.shape, a.tobytes()) for a in one] == [
                    (a.dtype, a.shape, a.tobytes()) for a in other
                ]
        cached.close()


def test_only_inputs_without_features_are_passed_on_in_one_batch(tmp_path):
    class Many(Codes):
        def featurize_many(self, smiles):
            BATCHES.append(list(smiles))
            return super().featurize_many(smiles)

    BATCHES.clear()
    call = CachedCall.of(FeaturizerCall(Many(), OUTPUTS, "codes"), tmp_path, 1 << 30, "1", None)
    results = [list(call.attempts([smiles], range(len(smiles)))) for smiles in (["C", "N"], ["O", "N", "C", "CC"])]
    assert [int(size) for _, size in results[1]] == [1, 1, 1, 2]
    assert BATCHES == [["C", "N"], ["O", "CC"]]


BATCHES = []


def test_a_call_with_a_cache_can_be_sent_to_another_process(tmp_path):
    call = CachedCall.of(FeaturizerCall(Codes(), OUTPUTS, "codes"), tmp_path, 1 << 30, "1", None)
    list(call.attempts([["C"]], [0]))
    copy = pickle.loads(pickle.dumps(call))
    assert copy.cache is call.cache
    call.flush()
    assert len(list(call.cache.folder.glob("part-*.npz"))) == 1
    call.close()
    CALLS.clear()
    list(pickle.loads(pickle.dumps(call)).attempts([["C"]], [0]))
    assert CALLS == []


# -- where it is used


@FORK_OR_SPAWN
def test_workers_share_a_cache(tmp_path, method):
    options = {"featurizer": FUNCTION, "cache_version": "1"}
    smiles = [f"{'C' * number}O" for number in range(40)]
    with kd.load_dataset(spec(tmp_path, **options), data={"smiles": smiles}, featurizer=with_default) as dataset:
        loader = dataset.as_dataloader(batch_size=4, num_workers=2, multiprocessing_context=method)
        assert [size for _, y in loader for size in y.tolist()] == [len(text) for text in smiles]
        del loader  # its workers end, which writes what they have computed
    assert CALLS == []
    assert read(tmp_path, smiles, function=with_default, **options) == []


def test_convert_uses_and_fills_the_cache(plugin, tmp_path):
    (tmp_path / "smiles.csv").write_text("smiles,n\n" + "".join(f"{text or '.'},1\n" for text in SMILES))
    source = spec(tmp_path, source={"backend": "csv", "path": str(tmp_path / "smiles.csv")})
    for calls in ({"C", "CC", ".", "CCO", "N"}, set()):
        CALLS.clear()
        kd.convert(source, tmp_path / "out.npz", overwrite=True)
        assert set(CALLS) == calls and len(CALLS) == len(calls)
        with kd.load_dataset(tmp_path / "out.npz") as dataset:
            assert [x.numpy().astype(np.uint8).tobytes().decode() for x in dataset[:][0]] == [t or "." for t in SMILES]


def test_inspect_shows_what_the_cache_contains(plugin, tmp_path, capsys):
    (tmp_path / "smiles.csv").write_text("smiles\n" + "".join(f"{text or '.'}\n" for text in SMILES))
    table = {"backend": "csv", "path": "smiles.csv"}
    path = tmp_path / "spec.yaml"
    kd.DatasetSpec.parse(spec(tmp_path, source=table, cache_path="cache"), tmp_path).to_file(path)
    for found in ("0 of 5", "5 of 5"):
        with pytest.raises(SystemExit):
            main(["inspect", str(path)])
        shown = " ".join(capsys.readouterr().out.split())
        assert "cache of codes 5 inputs in " in shown and f"{found} inputs found since it was opened" in shown


def test_a_storage_shows_the_caches_of_its_source_too(plugin, tmp_path):
    (tmp_path / "smiles.csv").write_text("smiles\nC\n")
    inner = spec(tmp_path, source={"backend": "csv", "path": str(tmp_path / "smiles.csv")})["storage"]
    other = {"name": "codes", "outputs": {"codes": "codes2", "size": "size2"}}
    outer = spec(tmp_path, other, source=inner, cache_version="1") | {"X": ["codes", "codes2"]}
    with kd.load_dataset(outer) as dataset:
        dataset[:]
        facts = dataset._session.binding.storage.facts()
    assert [label for label, _ in facts] == ["cache of codes", "cache of codes"]
    assert all(text.startswith("1 input in ") for _, text in facts)


def test_a_joined_dataset_shows_the_caches_of_its_tables(plugin, tmp_path):
    (tmp_path / "smiles.csv").write_text("id,smiles\na,C\nb,N\n")
    (tmp_path / "pairs.csv").write_text("ligand,y\nb,1\na,2\nb,3\n")
    tables = {
        "ligand": {
            "key": "id",
            "columns": {"codes": "codes"},
            "source": spec(tmp_path, source={"backend": "csv", "path": str(tmp_path / "smiles.csv")})["storage"],
        }
    }
    source = {"backend": "csv", "path": str(tmp_path / "pairs.csv")}
    joined = {"X": "codes", "y": "y", "storage": {"backend": "joined", "source": source, "tables": tables}}
    with kd.load_dataset(joined) as dataset:
        assert [x.tolist() for x in dataset[:][0]] == [[78], [67], [78]]
        ((label, text),) = dataset._session.binding.storage.facts()
    assert label == "cache of codes" and text.startswith("2 inputs in ")


def test_the_folder_of_the_cache_moves_with_the_spec(tmp_path):
    (tmp_path / "other").mkdir()
    here = kd.DatasetSpec.parse(spec(tmp_path, cache_path="cache"), tmp_path)
    here.to_file(tmp_path / "other" / "spec.yaml")
    assert kd.DatasetSpec.from_file(tmp_path / "other" / "spec.yaml").storage.options["cache_path"] == "../cache"


@pytest.mark.parametrize("option", [{"cache_budget": 0}, {"cache_path": ""}, {"cache_version": 1}], ids=str)
def test_options_of_the_cache_are_checked(plugin, tmp_path, option):
    with pytest.raises(SpecError, match=next(iter(option))):
        read(tmp_path, **option)
