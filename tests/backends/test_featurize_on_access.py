"""`featurize-on-access`: what a featurizer is called with and how often, and what happens when it fails."""

import pickle
import threading
import tracemalloc

import numpy as np
import pytest
import torch

import kinoml_data as kd
from kinoml_data import Array, DataPath, Featurizer, ObservationModel, registry
from kinoml_data.backends.featurize_on_access import FeaturizeOnAccess
from kinoml_data.errors import FeaturizationError, KinomlDataError, SampleIndexError, SpecError

SMILES = ["C", "CC", "", "CCO", "c1ccccc1", "N"]
Y = np.arange(6, dtype=np.float32)


def codes(smiles):
    """The feature of these tests: (2, length) of the character codes and their squares."""
    letters = np.frombuffer(smiles.encode(), np.uint8).astype(np.float32)
    return np.stack([letters, letters**2])


class Counting:
    """A featurizer that counts its calls."""

    def __init__(self, call=codes):
        self.call, self.calls = call, []
        self.__name__ = "counting"

    def __call__(self, *raw):
        self.calls.append(raw[0] if len(raw) == 1 else raw)
        return self.call(*raw)


SPEC = {
    "columns": {"X": {"dtype": "float32", "shape": [2, "*"]}, "y": {"dtype": "float32"}},
    "X": "X",
    "y": "y",
    "storage": {"backend": "featurize-on-access"},
}


def load(function, data=None, spec=SPEC, inputs=None, **options):
    if inputs is not None:
        spec = spec | {"storage": spec["storage"] | {"featurizer": {"inputs": inputs}}}
    return kd.load_dataset(
        spec, data={"smiles": SMILES, "y": Y} if data is None else data, featurizer=function, **options
    )


def assert_rows(batch, rows):
    X, y = batch
    assert [x.numpy().tobytes() for x in X] == [codes(SMILES[row]).tobytes() for row in rows]
    assert [tuple(x.shape) for x in X] == [codes(SMILES[row]).shape for row in rows]
    assert all(x.dtype == torch.float32 for x in X)
    assert y.tolist() == [Y[row] for row in rows]


# -- what it gives


def test_rows_are_the_features_of_the_raw_rows_in_the_order_asked():
    dataset = load(codes)
    assert_rows(dataset[:], range(6))
    assert_rows(dataset[[4, 0, 4, -1]], [4, 0, 4, 5])
    assert_rows(dataset[[]], [])
    X, y = dataset[3]
    assert torch.equal(X, torch.from_numpy(codes("CCO"))) and y == 3
    assert_rows(dataset.select([5, 1])[:], [5, 1])
    assert [tuple(x.shape) for x in dataset.column("X")] == [(2, len(s)) for s in SMILES]


def test_no_row_is_featurized_before_it_is_read():
    count = Counting()
    dataset = load(count)
    assert len(dataset) == 6 and dataset.shape_X == (6, 2, None) and count.calls == []
    repr(dataset.select([1, 2]))
    assert count.calls == []


def test_a_column_that_needs_no_featurizer_calls_none():
    count = Counting()
    dataset = load(count)
    assert dataset.column("y").tolist() == Y.tolist() and count.calls == []


def test_an_index_out_of_range_calls_no_featurizer():
    count = Counting()
    with pytest.raises(SampleIndexError):
        load(count)[[0, 6]]
    assert count.calls == []


# -- memory


def test_a_row_is_computed_once_and_remembered():
    count = Counting()
    dataset = load(count)
    for _ in range(3):
        assert_rows(dataset[:], range(6))
        dataset[2]
    assert sorted(count.calls) == sorted(SMILES)


def test_rows_asked_for_twice_at_once_are_computed_once():
    count = Counting()
    dataset = load(count, memory_budget=0)
    assert_rows(dataset[[3, 3, 0, 3]], [3, 3, 0, 3])
    assert count.calls == ["CCO", "C"]


def test_without_a_budget_nothing_is_remembered():
    count = Counting()
    dataset = load(count, memory_budget=0)
    for _ in range(3):
        dataset[0]
    assert count.calls == ["C"] * 3


def test_the_least_recently_used_rows_are_forgotten_first():
    # Equal rows, and a budget of three of them and a half.
    count = Counting(lambda i: np.full((2, 100), i, np.float32))
    spec = SPEC | {"columns": SPEC["columns"] | {"X": {"dtype": "float32", "shape": [2, 100]}}}
    dataset = load(count, {"i": list(range(6)), "y": Y}, spec, memory_budget=int(3.5 * (800 + 200)))
    for row in (0, 1, 2):
        dataset[row]
    assert count.calls == [0, 1, 2]
    dataset[0]  # now 1 is the least recently used
    dataset[3]
    assert count.calls == [0, 1, 2, 3]
    dataset[[0, 2, 3]]
    assert count.calls == [0, 1, 2, 3]
    dataset[1]
    assert count.calls == [0, 1, 2, 3, 1]
    dataset[0]  # forgotten for 1
    assert count.calls == [0, 1, 2, 3, 1, 0]


def test_a_row_beyond_the_budget_is_given_and_forgotten():
    count = Counting(lambda i: np.full((2, 1000 if i == 0 else 1), i, np.float32))
    dataset = load(count, {"i": list(range(6)), "y": Y}, memory_budget=1000)
    dataset[1]
    assert dataset[0][0].shape == (2, 1000)
    dataset[[0, 1]]
    assert count.calls == [1, 0, 0]


def test_the_memory_in_use_stays_within_the_budget():
    budget = 50_000
    dataset = load(
        lambda i: np.full((2, i * 10), i, np.float32),
        {"i": list(range(300)), "y": np.zeros(300, "f4")},
        memory_budget=budget,
    )
    tracemalloc.start()
    before = tracemalloc.get_traced_memory()[0]
    for start in range(0, 300, 7):
        dataset[start : start + 7]
        assert tracemalloc.get_traced_memory()[0] - before < 2 * budget  # all rows together take 3.6 MB
    tracemalloc.stop()


@pytest.mark.parametrize("budget", [-1, 1.5, True, "1 GB", None])
def test_a_budget_is_a_number_of_bytes(budget):
    with pytest.raises(SpecError, match=r"storage\.memory_budget"):
        load(codes, memory_budget=budget)


def test_changing_a_returned_row_does_not_change_the_remembered_row():
    dataset = load(codes)
    for _ in range(2):
        X, _ = dataset[3]
        assert torch.equal(X, torch.from_numpy(codes("CCO")))
        X.zero_()
        for x in dataset[[3, 3]][0]:
            x.zero_()
    assert_rows(dataset[[3]], [3])


def test_a_featurizer_may_use_its_buffer_again():
    buffer = np.zeros((2, 3), np.float32)

    def reuse(i):
        buffer[:] = i
        return buffer

    spec = SPEC | {"columns": SPEC["columns"] | {"X": {"dtype": "float32", "shape": [2, 3]}}}
    dataset = load(reuse, {"i": list(range(6)), "y": Y}, spec)
    assert dataset[:][0][:, 0, 0].tolist() == [0, 1, 2, 3, 4, 5]
    buffer[:] = 77
    assert dataset[:][0][:, 0, 0].tolist() == [0, 1, 2, 3, 4, 5]


def test_threads_get_the_right_rows():
    dataset, failures = load(codes, memory_budget=1500), []

    def work(seed):
        rng = np.random.default_rng(seed)
        for _ in range(100):
            rows = rng.integers(0, 6, 4).tolist()
            if [x.numpy().tobytes() for x in dataset[rows][0]] != [codes(SMILES[r]).tobytes() for r in rows]:
                failures.append(rows)

    threads = [threading.Thread(target=work, args=(seed,)) for seed in range(6)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert failures == []


# -- what it is called with


class Molecule:
    """An object of the caller's own; it says what was done with it."""

    def __init__(self, smiles):
        self.smiles = smiles

    def __array__(self, *_, **__):
        raise AssertionError("nobody may look inside")


def test_python_objects_come_to_the_featurizer_as_they_are():
    molecules = [Molecule(s) for s in SMILES]
    count = Counting(lambda molecule: codes(molecule.smiles))
    dataset = load(count, {"mol": molecules, "y": Y})
    assert_rows(dataset[:], range(6))
    assert all(a is b for a, b in zip(count.calls, molecules, strict=True))


def test_objects_that_are_not_requested_are_not_read():
    data = {"mol": [Molecule(s) for s in SMILES], "smiles": SMILES, "y": Y}
    dataset = load(codes, data, inputs=["smiles"])
    assert_rows(dataset[:], range(6))


class Lazy:
    """A sequence with nothing but a length and []."""

    def __init__(self, values):
        self.values, self.read = values, []

    def __len__(self):
        return len(self.values)

    def __getitem__(self, i):
        self.read.append(i)
        return self.values[i]


class Labelled:
    """As a pandas Series that was shuffled: iterated by position, but indexed by label."""

    iloc = None

    def __init__(self, values):
        self.values = values

    def __len__(self):
        return len(self.values)

    def __iter__(self):
        return iter(self.values)

    def __getitem__(self, label):
        return self.values[-1 - label]


@pytest.mark.parametrize(
    "make",
    [list, tuple, np.array, lambda s: np.array(s, object), iter, lambda s: (x for x in s), Lazy, Labelled],
    ids=["list", "tuple", "array", "object array", "iterator", "generator", "lazy", "by label"],
)
def test_raw_rows_may_be_any_sequence_and_are_taken_by_position(make):
    assert_rows(load(codes, {"smiles": make(SMILES), "y": Y})[[4, 1]], [4, 1])


def test_a_lazy_sequence_is_read_only_where_needed():
    lazy = Lazy(SMILES)
    dataset = load(codes, {"smiles": lazy, "y": Y})
    dataset[[4, 1, 4]]
    assert lazy.read == [4, 1]


@pytest.mark.parametrize(
    "values", [5, None, {"a": "C"}, {"C", "CC"}, "CCO", b"CCO"], ids=["int", "None", "mapping", "set", "text", "bytes"]
)
def test_raw_values_that_are_not_a_sequence_of_rows_are_refused(values):
    with pytest.raises(SpecError, match="column 'smiles' of data is not a sequence of rows"):
        load(codes, {"smiles": values, "y": Y})


def test_by_default_the_one_column_not_asked_for_is_the_input():
    count = Counting()
    assert_rows(load(count)[[1]], [1])
    assert count.calls == ["CC"] and type(count.calls[0]) is str


def test_one_of_several_raw_columns_must_be_named_as_the_input():
    data = {"smiles": SMILES, "name": SMILES, "y": Y}
    with pytest.raises(SpecError, match=r"specify in `inputs` .*known: .*smiles, name"):
        load(codes, data)
    with pytest.raises(SpecError, match=r"specify in `inputs`"):
        load(codes, {"y": Y})
    with pytest.raises(SpecError, match="featurizer 'codes' reads unknown raw column 'smile'; did you mean 'smiles'"):
        load(codes, data, inputs=["smile"])


def test_several_inputs_come_in_the_order_written():
    count = Counting(lambda n, smiles, y: codes(smiles) * n + y * 0)
    data = {"smiles": SMILES, "n": np.ones(6, np.float32), "y": Y}
    dataset = load(count, data, inputs=["n", "smiles", "y"])
    assert_rows(dataset[[3, 1]], [3, 1])
    assert [(float(n), s, float(y)) for n, s, y in count.calls] == [(1, "CCO", 3), (1, "CC", 1)]


def test_a_source_gives_text_numbers_and_arrays(tmp_path):
    raw = {
        "columns": {
            "smiles": {"dtype": "str"},
            "n": {"dtype": "int64"},
            "g": {"dtype": "float32", "shape": ["*", 2]},
            "y": {},
        },
        "X": ["n", "g"],
        "y": "y",
        "meta": ["smiles"],
        "storage": {"backend": "in-memory"},
    }
    grids = [np.full((i, 2), i, np.float32) for i in range(6)]
    n = np.arange(6)
    kd.save_dataset(kd.load_dataset(raw, data={"smiles": SMILES, "n": n, "g": grids, "y": Y}), tmp_path / "raw.npz")
    seen = []

    def featurize(smiles, number, grid):
        seen.append((smiles, number, grid.shape, type(smiles), np.asarray(number).dtype, grid.dtype))
        return codes(smiles)

    storage = {
        "backend": "featurize-on-access",
        "source": {"backend": "npz-lazy", "path": "raw.npz"},
        "featurizer": {"inputs": ["smiles", "n", "g"]},
    }
    with kd.load_dataset(SPEC | {"storage": storage}, featurizer=featurize, base=tmp_path) as dataset:
        assert_rows(dataset[[4, 0, 4]], [4, 0, 4])
        assert seen == [
            ("c1ccccc1", 4, (4, 2), str, np.int64, np.float32),
            ("C", 0, (0, 2), str, np.int64, np.float32),
        ]
        again = pickle.loads(pickle.dumps(dataset.spec))
        assert again == dataset.spec


def test_splits_of_the_source_are_splits_of_the_features(tmp_path):
    raw = {
        "columns": {"smiles": {"dtype": "str"}, "y": {}},
        "X": "y",
        "meta": ["smiles"],
        "storage": {"backend": "in-memory"},
        "splits": {"train": {"rows": [5, 2]}, "test": {"range": [0, 2]}},
    }
    kd.save_dataset(kd.load_dataset(raw, data={"smiles": SMILES, "y": Y}), tmp_path / "raw.npz")
    storage = {"backend": "featurize-on-access", "source": {"backend": "npz-lazy", "path": "raw.npz"}}
    with kd.load_dataset(
        SPEC | {"storage": storage, "splits": {"train": "idx_train"}}, featurizer=codes, base=tmp_path
    ) as dataset:
        assert_rows(dataset.split("train")[:], [5, 2])


# -- what it returns

TWO = SPEC | {
    "columns": {"X": {"dtype": "float32", "shape": [2, "*"]}, "n": {"dtype": "int64"}, "y": {"dtype": "float32"}},
    "X": ["X", "n"],
}
GOOD = {
    "a tuple": lambda s: (codes(s), np.int64(len(s))),
    "a dict": lambda s: {"X": codes(s), "n": len(s)},
    "a dict in another order": lambda s: {"n": len(s), "X": codes(s)},
    "lists": lambda s: (codes(s), [len(s)][0]),
    "tensors": lambda s: (torch.from_numpy(codes(s)), torch.tensor(len(s))),
    "a smaller type": lambda s: (codes(s).astype(np.float16), np.uint8(len(s))),
    "other layouts": lambda s: (np.asfortranarray(codes(s)), np.array(len(s), ">i8")),
    "read-only": lambda s: (np.broadcast_to(codes(s), codes(s).shape), len(s)),
}


@pytest.mark.parametrize("featurizer", GOOD.values(), ids=GOOD)
def test_several_columns_come_as_a_tuple_or_by_name(featurizer):
    # Codes up to 116 and their squares up to 13456 are exact in float16 only as far as 2048.
    smiles = ["\x01", "\x02\x03", "", "\x04"]
    dataset = load(featurizer, {"smiles": smiles, "y": Y[:4]}, TWO)
    X, _ = dataset[[1, 2]]
    assert [x.numpy().tobytes() for x in X["X"]] == [codes(s).tobytes() for s in smiles[1:3]]
    assert X["n"].tolist() == [2, 0] and X["n"].dtype == torch.int64


BAD = {
    "a number too large": (
        lambda s: codes(s).astype(np.float64) + 1e39,
        "column 'X' contains .*, which does not fit float32",
    ),
    "another kind": (lambda s: codes(s).astype(np.complex64), "column 'X' has dtype complex64, not float32"),
    "text": (lambda s: s, "column 'X' has dtype <U3, not float32"),
    "objects": (lambda s: np.array([[None], [None]], object), "column 'X' has dtype object, not float32"),
    "None": (lambda s: None, "column 'X' has dtype object, not float32"),
    "too few axes": (lambda s: codes(s)[0], r"column 'X' has shape \(3,\), not \(2, None\)"),
    "too many axes": (lambda s: codes(s)[None], r"column 'X' has shape \(1, 2, 3\), not \(2, None\)"),
    "another fixed axis": (lambda s: np.zeros((3, 3), np.float32), r"column 'X' has shape \(3, 3\), not \(2, None\)"),
    "a scalar": (lambda s: np.float32(1), r"column 'X' has shape \(\), not \(2, None\)"),
    "two arrays": (lambda s: (codes(s), codes(s)), r"it returned 2 arrays, not 1"),
    "none": (lambda s: (), r"it returned 0 arrays, not 1"),
    "another name": (lambda s: {"Z": codes(s)}, r"it returned \['Z'\], not \['X'\]"),
    "a name too many": (lambda s: {"X": codes(s), "Z": 1}, r"it returned \['X', 'Z'\], not \['X'\]"),
    "uneven lists": (lambda s: [[1.0], [1.0, 2.0]], "ValueError"),
    "a masked array": (lambda s: np.ma.masked_equal(codes(s), 67), "masked array"),
    "a tensor with a gradient": (lambda s: torch.zeros(2, 3, requires_grad=True), "RuntimeError"),
}


@pytest.mark.parametrize(("featurizer", "said"), BAD.values(), ids=BAD)
def test_another_result_than_declared_is_an_error_naming_featurizer_and_row(featurizer, said):
    featurizer.__name__ = "mine"
    dataset = load(featurizer)
    for read in (lambda: dataset[3], lambda: dataset[[3]]):
        with pytest.raises(FeaturizationError, match="featurizer 'mine'.*row 3.*" + said):
            read()


def test_same_kind_narrows_and_checks():
    spec = SPEC | {"columns": SPEC["columns"] | {"X": {"dtype": "float32", "shape": [2, "*"]}}}
    assert_rows(load(lambda s: codes(s).astype(np.float64), spec=spec)[[1, 3]], [1, 3])
    with pytest.raises(FeaturizationError, match=r"row 3: column 'X' contains 1e\+300, which does not fit float32"):
        load(lambda s: np.full((2, 1), 1e300), spec=spec)[3]


# -- what it raises


class Odd(BaseException):
    """Neither an Exception nor known to anyone."""


ERRORS = [
    ValueError("bad valence"),
    RuntimeError("two\nlines"),
    KeyError("key"),
    StopIteration("over"),
    StopAsyncIteration(),
    GeneratorExit(),
    SystemExit(3),
    IndexError("list index out of range"),
    MemoryError(),
    AssertionError("wrong"),
    OSError(2, "No such file"),
    Odd("odd"),
    SampleIndexError("from another dataset"),
    SpecError("from another spec"),
]


@pytest.mark.parametrize("error", ERRORS, ids=lambda error: type(error).__name__)
def test_any_exception_of_a_featurizer_names_row_featurizer_and_cause(error):
    def picky(smiles):
        if smiles == "CCO":
            raise error
        return codes(smiles)

    dataset = load(picky)
    assert_rows(dataset[[0, 1]], [0, 1])
    for read in (
        lambda: dataset[3],
        lambda: dataset[[0, 3]],
        lambda: list(dataset),
        lambda: list(dataset.as_dataloader(batch_size=2, num_workers=0)),
        lambda: dataset.column("X"),
        lambda: dataset.select([3])[0],
    ):
        with pytest.raises(
            FeaturizationError, match=f"featurizer 'picky' failed for row 3: {type(error).__name__}"
        ) as caught:
            read()
        assert caught.value.__cause__ is error
        assert isinstance(caught.value, RuntimeError) and isinstance(caught.value, KinomlDataError)
        assert len(str(caught.value)) < 600 and str(caught.value).isprintable()
    assert_rows(dataset[[4]], [4])


def test_control_c_in_a_featurizer_is_not_wrapped():
    def stopped(smiles):
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        load(stopped)[0]


def test_a_raw_row_that_cannot_be_read_is_a_failure_of_that_row():
    class Failing(Lazy):
        def __getitem__(self, i):
            if i == 3:
                raise StopIteration
            return super().__getitem__(i)

    dataset = load(codes, {"smiles": Failing(SMILES), "y": Y})
    assert_rows(dataset[[0]], [0])
    with pytest.raises(FeaturizationError, match="row 3: StopIteration"):
        list(dataset)


def test_a_failed_row_is_tried_again():
    state = {"fail": True}

    def flaky(smiles):
        if state["fail"]:
            raise OSError("network")
        return codes(smiles)

    dataset = load(flaky)
    with pytest.raises(FeaturizationError):
        dataset[1]
    state["fail"] = False
    assert_rows(dataset[[1]], [1])


@pytest.mark.parametrize(
    ("make", "label"),
    [
        (lambda: codes, "codes"),
        (lambda: Counting(codes), "counting"),
        (lambda: __import__("functools").partial(codes), "partial"),
        (lambda: lambda smiles: codes(smiles), "<lambda>"),
    ],
)
def test_errors_of_a_callable_contain_the_name_of_the_callable(make, label):
    with pytest.raises(FeaturizationError, match=f"featurizer '{label}'"):
        load(make(), {"smiles": [5], "y": Y[:1]})[0]


# -- what is missing


def test_without_a_featurizer_or_raw_rows_an_error_says_what_is_missing():
    with pytest.raises(SpecError, match="needs a featurizer: by name in the spec, or featurizer=function"):
        kd.load_dataset(SPEC, data={"smiles": SMILES, "y": Y})
    with pytest.raises(SpecError, match="needs a source, or data="):
        kd.load_dataset(SPEC, featurizer=codes)
    with pytest.raises(SpecError, match="needs `columns` in the spec"):
        kd.load_dataset({"storage": {"backend": "featurize-on-access"}}, data={"smiles": SMILES}, featurizer=codes)
    with pytest.raises(SpecError, match="nothing to featurize"):
        load(codes, {"X": [codes(s) for s in SMILES], "y": Y}, inputs=["y"])
    with pytest.raises(SpecError, match="featurizer= needs the backend 'featurize-on-access'"):
        kd.load_dataset(SPEC | {"storage": {"backend": "in-memory"}}, data={"X": [], "y": []}, featurizer=codes)


def test_raw_columns_of_different_length_are_refused():
    with pytest.raises(SpecError, match=r"differ in their number of rows: \[5, 6\]"):
        load(codes, {"smiles": SMILES[:5], "y": Y})


def test_featurizing_no_rows_gives_empty_columns():
    dataset = load(codes, {"smiles": [], "y": np.zeros(0, np.float32)})
    assert len(dataset) == 0 and dataset[:][0] == [] and dataset[:][1].shape == (0,)


# -- named featurizers


class Codes(Featurizer):
    name = "codes"
    inputs = ("smiles",)
    scale: float = 1.0

    @property
    def outputs(self):
        return {"X": Array("float32", (2, None)), "n": Array("int64")}

    def featurize(self, smiles):
        return codes(smiles) * np.float32(self.scale), np.int64(len(smiles))


class Plus(ObservationModel):
    name = "plus"

    def predict(self, dG_over_kT, **conditions):
        return dG_over_kT + 1


@pytest.fixture
def named(monkeypatch):
    classes = {"featurizer": {Codes.name: Codes}, "observation model": {Plus.name: Plus}}
    plugins = registry.Registry()
    plugins.plugins.append(registry.Plugin("codes", "codes-dist", "1.0", loaded=True, names=classes))
    monkeypatch.setattr(registry, "_registry", plugins)
    return plugins


def test_a_named_featurizer_says_its_inputs_and_outputs_itself(named):
    spec = {"X": ["X", "n"], "y": "y", "storage": {"backend": "featurize-on-access", "featurizer": {"name": "codes"}}}
    dataset = kd.load_dataset(spec, data={"smiles": SMILES, "y": Y})
    assert dataset.spec.columns["X"] == Array("float32", (2, None)) and dataset.spec.columns["n"] == Array("int64")
    X, y = dataset[[3, 1]]
    assert_rows((X["X"], y), [3, 1])
    assert X["n"].tolist() == [3, 2]


def test_converting_a_spec_remembers_no_features(named, tmp_path, monkeypatch):
    budgets = []
    opened = FeaturizeOnAccess.open

    def recorded(backend, columns):
        budgets.append(backend.memory_budget)
        return opened(backend, columns)

    monkeypatch.setattr(FeaturizeOnAccess, "open", recorded)
    (tmp_path / "a.csv").write_text("smiles,y\nC,1\nCC,2\n")
    source = {"backend": "csv", "path": str(tmp_path / "a.csv")}
    storage = {"backend": "featurize-on-access", "featurizer": {"name": "codes"}, "source": source}
    kd.convert({"X": ["X", "n"], "y": "y", "storage": storage}, tmp_path / "a.npz")
    assert budgets == [0]
    with kd.load_dataset(tmp_path / "a.npz") as copy:
        assert copy[:][0]["n"].tolist() == [1, 2]


def test_a_spec_without_columns_takes_the_columns_in_its_roles_from_the_source_and_the_featurizer(named):
    spec = {"storage": {"backend": "featurize-on-access", "featurizer": {"name": "codes"}}}
    dataset = kd.load_dataset(spec, data={"smiles": SMILES, "y": Y, "gaps": [None] * 6})
    assert dataset.spec.y == "y" and dataset.spec.X == "X"
    dataset = kd.load_dataset(spec, X=["n", "X"], y="y", data={"smiles": SMILES, "y": Y, "gaps": [None] * 6})
    assert dataset.spec.y == "y" and dataset.spec.X == ("n", "X")


def test_a_spec_may_name_some_outputs_of_a_featurizer_in_other_dtypes(named):
    spec = {
        "columns": {"length": {"dtype": "float32", "stored_as": "n"}},
        "X": "length",
        "storage": {"backend": "featurize-on-access", "featurizer": {"name": "codes", "scale": 2.0}},
    }
    dataset = kd.load_dataset(spec, data={"smiles": SMILES})
    assert dataset[:][0].tolist() == [len(s) for s in SMILES] and dataset[0][0].dtype == torch.float32


def test_a_spec_may_name_other_inputs_of_a_featurizer(named):
    storage = {"backend": "featurize-on-access", "featurizer": {"name": "codes", "inputs": ["canonical"]}}
    dataset = kd.load_dataset({"X": ["X", "n"], "storage": storage}, data={"canonical": SMILES, "smiles": ["?"] * 6})
    assert dataset[:][0]["n"].tolist() == [len(s) for s in SMILES]
    with pytest.raises(SpecError, match=r"reads unknown raw column 'smiles'.*`inputs: \[canonical\]`"):
        kd.load_dataset({"X": ["X", "n"], "storage": storage | {"featurizer": "codes"}}, data={"canonical": SMILES})


def test_a_featurizer_without_options_may_be_a_bare_name(named):
    storage = {"backend": "featurize-on-access", "featurizer": "codes"}
    dataset = kd.load_dataset({"X": ["X"], "storage": storage}, data={"smiles": SMILES})
    assert torch.equal(dataset[1][0]["X"], torch.from_numpy(codes("CC")))
    assert kd.load_dataset(dataset.spec, data={"smiles": SMILES}).spec.storage == dataset.spec.storage
    with pytest.raises(SpecError, match=r"storage\.featurizer: must be a mapping, not 5"):
        kd.load_dataset({"X": ["X"], "storage": storage | {"featurizer": 5}}, data={"smiles": SMILES})


def test_options_of_a_featurizer_are_checked_and_reach_the_featurizer(named):
    storage = {"backend": "featurize-on-access", "featurizer": {"name": "codes", "scale": 3.0}}
    dataset = kd.load_dataset({"X": ["X"], "storage": storage}, data={"smiles": SMILES})
    assert torch.equal(dataset[1][0]["X"], torch.from_numpy(codes("CC") * 3))
    for wrong, said in (({"scal": 1.0}, "did you mean 'scale'"), ({"scale": "3"}, "must be a number")):
        storage = {"backend": "featurize-on-access", "featurizer": {"name": "codes"} | wrong}
        with pytest.raises(SpecError, match=said):
            kd.load_dataset({"X": ["X"], "storage": storage}, data={"smiles": SMILES})


class Table(Featurizer):
    name = "table"
    inputs = ("smiles",)
    table_path: DataPath

    @property
    def outputs(self):
        return {"X": Array("int64")}

    def featurize(self, smiles):
        return (np.int64(self.table_path.read_text().split().index(smiles)),)


def test_a_path_of_a_featurizer_is_relative_to_the_spec_and_moves_with_the_spec(named, tmp_path, monkeypatch):
    named.plugins[-1].names["featurizer"]["table"] = Table
    (tmp_path / "a" / "b").mkdir(parents=True)
    (tmp_path / "a" / "table.txt").write_text("N C CC")
    storage = {"backend": "featurize-on-access", "featurizer": {"name": "table", "table_path": "table.txt"}}
    spec = kd.DatasetSpec.parse({"X": "X", "storage": storage}, tmp_path / "a")
    monkeypatch.chdir(tmp_path)
    assert kd.load_dataset(spec, data={"smiles": ["CC", "N"]})[:][0].tolist() == [2, 0]
    spec.to_file(tmp_path / "a" / "b" / "s.yaml")
    assert kd.load_dataset(tmp_path / "a" / "b" / "s.yaml", data={"smiles": ["C"]})[:][0].tolist() == [1]


def test_errors_of_a_featurizer_contain_the_name_of_the_featurizer(named):
    storage = {"backend": "featurize-on-access", "featurizer": {"name": "codes"}}
    dataset = kd.load_dataset({"X": ["X"], "storage": storage}, data={"smiles": ["C", None]})
    with pytest.raises(FeaturizationError, match="featurizer 'codes' failed for row 1: AttributeError"):
        dataset[1]


def test_a_function_replaces_a_featurizer_of_its_name_and_no_other(named):
    spec = SPEC | {"storage": {"backend": "featurize-on-access", "featurizer": {"name": "codes"}}}
    count = Counting()
    assert_rows(load({"codes": count}, spec=spec)[[1]], [1])
    assert count.calls == ["CC"]
    with pytest.raises(SpecError, match=r"has a name; to replace 'codes', give `featurizer=\{'codes': function\}`"):
        load(codes, spec=spec)
    with pytest.raises(SpecError, match="featurizer=: unknown featurizer of the spec 'code'; did you mean 'codes'"):
        load({"code": codes}, spec=spec)


# -- several featurizers, and where their columns come from


PAIRS = {
    "smiles": ["C", "CCO", "C", "N", "CCO", "C"],
    "kinase": ["AK", "AK", "B", "B", "AK", "AK"],
    "y": Y,
}
LENGTHS = {"X": ["X", "k"], "y": "y", "storage": {"backend": "featurize-on-access"}}


def over_pairs(featurizer, function=None, data=PAIRS, **changes):
    storage = {"backend": "featurize-on-access", "featurizer": featurizer}
    return kd.load_dataset(LENGTHS | {"storage": storage} | changes, data=data, featurizer=function)


K = {"k": {"dtype": "int64"}}
BOTH = [{"name": "codes", "outputs": {"n": "letters"}}, {"name": "length", "inputs": ["kinase"], "outputs": K}]


def test_a_list_of_featurizers_computes_columns_from_one_source(named):
    count = Counting(len)
    dataset = over_pairs(BOTH, {"length": count}, X=["X", "letters", "k"])
    assert dataset.spec.columns["letters"] == dataset.spec.columns["k"] == Array("int64")
    X, y = dataset[[4, 2]]
    assert [x.numpy().tobytes() for x in X["X"]] == [codes("CCO").tobytes(), codes("C").tobytes()]
    assert X["letters"].tolist() == [3, 1] and X["k"].tolist() == [2, 1] and y.tolist() == [4, 2]
    assert count.calls == ["AK", "B"]


def test_each_distinct_input_is_featurized_once_over_epochs_views_and_orders(named):
    smiles, kinase = Counting(), Counting(len)
    both = [
        {"name": "s", "inputs": ["smiles"], "outputs": {"X": {"shape": [2, "*"]}}},
        {"name": "k", "inputs": ["kinase"], "outputs": K},
    ]
    dataset = over_pairs(both, {"s": smiles, "k": kinase})
    for _ in range(2):
        for X, y in dataset.as_dataloader(batch_size=4, shuffle=True, num_workers=0):
            rows = y.long().tolist()
            assert [x.numpy().tobytes() for x in X["X"]] == [codes(PAIRS["smiles"][r]).tobytes() for r in rows]
            assert X["k"].tolist() == [len(PAIRS["kinase"][row]) for row in rows]
    dataset.select([5, 0, 3])[:], dataset[2], dataset.column("X"), dataset.to_pandas()
    for loader in (dataset.as_dataloader(batch_size=2, prefetch=2), dataset.as_dataloader(batch_size=None)):
        list(loader)
    assert sorted(smiles.calls) == ["C", "CCO", "N"] and sorted(kinase.calls) == ["AK", "B"]


def test_a_batch_contains_shared_features_once_in_the_form_unique(named):
    X, _ = over_pairs(BOTH, {"length": len}, collate={"X": {"form": "unique", "of": "list"}})[:]
    assert [x.shape[1] for x in X["X"].values] == [1, 3, 1] and X["X"].index.tolist() == [0, 1, 0, 2, 1, 0]


def test_two_featurizers_that_compute_a_column_of_one_name_are_an_error(named):
    said = r"featurizers 'codes' and 'codes' both compute a column 'X'; rename .*`outputs: \{X: X_2\}`"
    with pytest.raises(SpecError, match=said):
        over_pairs(["codes", {"name": "codes", "inputs": ["kinase"]}])
    renamed = {"name": "codes", "inputs": ["kinase"], "outputs": {"X": "X_2", "n": "k"}}
    X, _ = over_pairs(["codes", renamed], X=["X", "k", "X_2"])[[1]]
    assert X["k"].tolist() == [2] and torch.equal(X["X_2"][0], torch.from_numpy(codes("AK")))
    with pytest.raises(SpecError, match="both compute a column 'n'"):
        over_pairs([{"name": "codes", "outputs": {"X": "n"}}], X="n")


@pytest.mark.parametrize(
    ("featurizer", "said"),
    [
        ({"name": "codes", "outputs": {"Y": "Z"}}, "featurizer 'codes': unknown output 'Y'; known: X, n"),
        ({"name": "codes", "outputs": {"X": {"dtype": "float64"}}}, "featurizer 'codes' declares 'X' itself"),
        ({"name": "f", "outputs": {"X": "Z"}}, "featurizer 'f' is a function; declare in `outputs`"),
        ({"name": "f", "nbits": 5}, "featurizer f: unknown key 'nbits'.*a Python object takes no options"),
        ({"name": "codes", "outputs": {"X": 5}}, r"storage\.featurizer\.outputs\.X: must be a mapping, not 5"),
        ({"name": "codes", "inputs": []}, r"storage\.featurizer\.inputs: .*at least 1"),
        ({"name": "codes", "inputs": "smiles"}, r"storage\.featurizer\.inputs: must be a list, not 'smiles'"),
        ([], r"storage\.featurizer: .*at least 1"),
        (
            [{"name": "codes", "outputs": {"X": {"dtype": "float"}}}],
            r"storage\.featurizer\.0\.outputs\.X\.dtype: unknown",
        ),
        (["codes", {"name": "f", "inputs": ["no"], "outputs": K}], "featurizer 'f' reads unknown raw column 'no'"),
    ],
)
def test_a_featurizer_in_a_spec_that_is_not_valid_is_an_error(named, featurizer, said):
    functions = {"f": len} if "'f'" in repr(featurizer) else None
    with pytest.raises(SpecError, match=said):
        over_pairs(featurizer, functions)


def test_functions_declare_what_they_compute_in_their_outputs_or_one_of_them_in_columns():
    both = [{"name": "s", "inputs": ["smiles"]}, {"name": "k", "inputs": ["kinase"]}]
    functions = {"s": codes, "k": len}
    columns = SPEC["columns"] | {"k": {"dtype": "float32"}}
    with pytest.raises(SpecError, match="featurizer 'k' is not the only function; declare in `outputs`"):
        over_pairs(both, functions, columns=columns)
    both[1]["outputs"] = K
    X, _ = over_pairs(both, functions, columns=columns)[[3, 1]]
    assert X["k"].tolist() == [1, 2] and X["k"].dtype == torch.float32
    assert [tuple(x.shape) for x in X["X"]] == [(2, 1), (2, 3)]
    with pytest.raises(SpecError, match=r"featurizer 's' needs `columns` in the spec.*or declare in `outputs`"):
        over_pairs(both, functions)
    both[0]["outputs"] = {"X": {"shape": [2, "*"]}}
    assert over_pairs(both, functions).spec.columns["X"] == Array("float32", (2, None))


def test_outputs_that_a_function_returns_packed_are_declared_packed():
    outputs = {"bits": {"dtype": "float32", "shape": [10], "packbits": True}}
    spec = {"X": "bits", "columns": outputs, "storage": {"backend": "featurize-on-access", "featurizer": {}}}
    spec["storage"]["featurizer"] = {"inputs": ["smiles"], "outputs": outputs}
    dataset = kd.load_dataset(spec, data=PAIRS, featurizer=lambda smiles: np.array([len(smiles), 128], np.uint8))
    assert dataset[1][0].tolist() == [0, 0, 0, 0, 0, 0, 1, 1, 1, 0]


def test_a_featurizer_object_brings_its_inputs_and_outputs(named):
    for given, featurizer in ((Codes(scale=2.0), None), ({"mine": Codes(scale=2.0)}, {"name": "mine"})):
        X, _ = over_pairs(featurizer, given, X=["X", "n"])[[1]]
        assert torch.equal(X["X"][0], torch.from_numpy(codes("CCO") * 2)) and X["n"].tolist() == [3]
    with pytest.raises(SpecError, match="featurizer=: 5 is neither a function nor a Featurizer object"):
        over_pairs(None, 5)


def test_text_that_a_featurizer_computes_may_be_meta_or_categories():
    outputs = {"upper": {"dtype": "str"}, "k": {"dtype": "int64"}}
    columns = {
        "upper": {"dtype": "str"},
        "place": {"dtype": "int64", "values": ["C", "CCO", "N"], "stored_as": "upper"},
    }
    spec = {"columns": columns, "X": "place", "meta": ["upper"]}
    spec["storage"] = {"backend": "featurize-on-access", "featurizer": {"inputs": ["smiles"], "outputs": outputs}}
    data = {"smiles": [smiles.lower() for smiles in PAIRS["smiles"]]}
    dataset = kd.load_dataset(spec, data=data, featurizer=lambda smiles: (smiles.upper(), 5))
    assert dataset.column("upper") == PAIRS["smiles"] and dataset[:][0].tolist() == [0, 1, 0, 2, 1, 0]


@pytest.fixture
def asked(monkeypatch):
    """The columns that the backend csv is asked for."""
    asked, opened = [], kd.list_backends()["csv"].open

    def recorded(backend, columns):
        asked.append(None if columns is None else list(columns))
        return opened(backend, columns)

    monkeypatch.setattr(kd.list_backends()["csv"], "open", recorded)
    return asked


def test_the_source_is_asked_only_for_what_is_needed(named, tmp_path, asked):
    (tmp_path / "pairs.csv").write_text("smiles,kinase,y,notes\nC,AK,1,a\nC,,2,\n")
    storage = {"backend": "featurize-on-access", "source": {"backend": "csv", "path": "pairs.csv"}, "featurizer": BOTH}
    count = Counting(len)
    with kd.load_dataset(
        {"X": "X", "y": "y", "storage": storage}, featurizer={"length": count}, base=tmp_path
    ) as dataset:  # no kinase is read: one is missing
        assert [x.shape[1] for x in dataset[:][0]] == [1, 1] and asked == [["smiles", "y"]] and count.calls == []
    with kd.load_dataset({"X": "y", "storage": storage}, featurizer={"length": count}, base=tmp_path) as dataset:
        assert dataset[:][0].tolist() == [1, 2] and asked[1:] == [["y"]]


def test_a_function_that_only_the_spec_declares_is_asked_which_columns_the_source_has(tmp_path, asked):
    (tmp_path / "raw.csv").write_text("smiles,y,notes\nC,,a\nCC,2,\n")
    storage = {"backend": "featurize-on-access", "source": {"backend": "csv", "path": "raw.csv"}}
    storage["featurizer"] = {"inputs": ["smiles"]}
    columns = SPEC["columns"] | {"y": {"dtype": "float32", "missing": "nan"}}
    with kd.load_dataset(SPEC | {"columns": columns, "storage": storage}, featurizer=codes, base=tmp_path) as dataset:
        X, y = dataset[:]
        assert [x.shape[1] for x in X] == [1, 2] and y.isnan().tolist() == [True, False]
        assert asked == [None, ["smiles", "y"]]


# -- over and under others


@pytest.mark.parametrize("method", ["fork", "spawn"])
def test_a_function_inside_a_joined_table_is_found_by_its_name_and_reaches_workers(tmp_path, method):
    (tmp_path / "ligands.csv").write_text("id,smiles\n0,C\n1,CCO\n2,C\n")
    (tmp_path / "thin.csv").write_text("id,y\n1,0\n0,1\n2,2\n1,3\n")
    outputs = {"X": {"dtype": "float32", "shape": [2, "*"]}}
    table = {
        "backend": "featurize-on-access",
        "source": {"backend": "csv", "path": "ligands.csv"},
        "featurizer": [{"name": "codes", "inputs": ["smiles"], "outputs": outputs}],
    }
    joined = {"source": {"backend": "csv", "path": "thin.csv"}}
    joined |= {"backend": "joined", "tables": {"id": {"source": table, "key": "id", "columns": {"ligand": "X"}}}}
    for storage in (joined, {"backend": "in-memory", "source": joined}):
        spec = {"X": "ligand", "y": "y", "storage": storage}
        with kd.load_dataset(spec, featurizer={"codes": codes}, base=tmp_path) as dataset:
            loader = dataset.as_dataloader(batch_size=3, num_workers=1, multiprocessing_context=method)
            (first, _), (last, _) = loader
            assert [x.shape[1] for x in first] == [3, 1, 1] and torch.equal(last[0], torch.from_numpy(codes("CCO")))


def test_features_that_rows_share_can_be_saved_and_read_as_they_are(named, tmp_path):
    dataset = over_pairs(BOTH, {"length": len})
    kd.save_dataset(dataset, tmp_path / "pairs.npz")
    with kd.load_dataset(tmp_path / "pairs.npz") as copy:
        for rows in (slice(None), [5, 1]):
            (X, y), (copied, copied_y) = dataset[rows], copy[rows]
            assert all(map(torch.equal, X["X"], copied["X"])) and torch.equal(X["k"], copied["k"])
            assert torch.equal(y, copied_y)


def test_in_memory_over_a_featurizer_computes_every_row_once_while_loading():
    count = Counting()
    spec = SPEC | {"storage": {"backend": "in-memory", "source": {"backend": "featurize-on-access"}}}
    dataset = kd.load_dataset(spec, data={"smiles": SMILES, "y": Y}, featurizer=count)
    assert sorted(count.calls) == sorted(SMILES)
    for _ in range(2):
        assert_rows(dataset[:], range(6))
        assert_rows(dataset[[4, 4, 0]], [4, 4, 0])
    assert len(count.calls) == 6


def test_backend_in_memory_computes_all_features_while_loading():
    count = Counting()
    dataset = load(count, backend="in-memory")
    assert len(count.calls) == 6 and repr(dataset).endswith("in-memory>")
    assert_rows(dataset[[2, 3]], [2, 3])
    assert len(count.calls) == 6


def test_featurize_on_access_wraps_any_other_backend(tmp_path):
    raw = {
        "columns": {"smiles": {"dtype": "str"}, "y": {}},
        "X": "y",
        "meta": ["smiles"],
        "storage": {"backend": "in-memory"},
    }
    source = kd.load_dataset(raw, data={"smiles": SMILES, "y": Y})
    kd.save_dataset(source, tmp_path / "raw.npz")
    kd.save_dataset(source, tmp_path / "raw.parquet")
    for storage in (
        {"backend": "npz-lazy", "path": "raw.npz"},
        {"backend": "npz-reopen", "path": "raw.npz"},
        {"backend": "parquet-awkward", "path": "raw.parquet"},
        {"backend": "in-memory", "source": {"backend": "npz-lazy", "path": "raw.npz"}},
    ):
        spec = SPEC | {"storage": {"backend": "featurize-on-access", "source": storage}}
        with kd.load_dataset(spec, featurizer=codes, base=tmp_path) as dataset:
            assert_rows(dataset[[5, 0, 3]], [5, 0, 3])


def test_computed_features_can_be_saved(tmp_path):
    spec = load(codes).spec
    kd.save_dataset(load(codes), tmp_path / "features.npz")
    with kd.load_dataset(tmp_path / "features.npz") as dataset:
        assert_rows(dataset[:], range(6))
        assert dataset.spec.columns == spec.columns


def test_a_failing_row_leaves_no_file(tmp_path):
    def picky(smiles):
        if smiles == "CCO":
            raise StopIteration
        return codes(smiles)

    with pytest.raises(FeaturizationError, match="row 3"):
        kd.save_dataset(load(picky), tmp_path / "features.npz")
    assert list(tmp_path.iterdir()) == []


def test_a_dataset_with_a_featurizer_that_pickles_pickles():
    dataset = load(codes)
    again = pickle.loads(pickle.dumps(dataset))
    assert_rows(again[[3, 1]], [3, 1])


def test_a_spec_with_a_featurizer_object_cannot_be_written_to_a_file(tmp_path):
    with pytest.raises(SpecError, match=r"Python objects.*save_dataset"):
        load(codes).spec.to_file(tmp_path / "s.yaml")


@pytest.mark.parametrize("workers", [0, 1])
def test_values_that_are_changed_later_do_not_change_what_is_computed(workers):
    raw, y, rows = np.arange(4.0), np.arange(4.0) + 1, [np.full(2, i) for i in range(4)]
    columns = {"f": {"dtype": "float64", "shape": [1]}, "y": {"dtype": "float64"}}
    storage = {"backend": "featurize-on-access", "featurizer": {"inputs": ["raw", "rows"]}}
    spec = {"columns": columns, "X": "f", "y": "y", "storage": storage}
    data = {"raw": raw, "y": y, "rows": rows}
    dataset = kd.load_dataset(spec, data=data, featurizer=sum_of)
    raw += 100
    y -= y.mean()
    rows[0][:] = 50
    rows.reverse()
    ((X, found),) = dataset.as_dataloader(batch_size=4, num_workers=workers)
    assert X[:, 0].tolist() == [0, 3, 6, 9] and found.tolist() == [1, 2, 3, 4]


def sum_of(raw, row):
    return np.array([raw + row.sum()], np.float64)


def test_the_column_of_a_table_that_a_featurizer_may_mean_is_suggested(named, tmp_path):
    (tmp_path / "t.csv").write_text("ID,SMILES,y\n1,CCO,5\n")
    source = {"backend": "csv", "path": str(tmp_path / "t.csv")}
    spec = {"X": ["X", "n"], "y": "y", "storage": {"backend": "featurize-on-access", "source": source}}
    spec["storage"]["featurizer"] = "codes"
    with pytest.raises(SpecError, match=r"'smiles'; did you mean 'SMILES'\?.*`inputs: \[SMILES\]`"):
        kd.load_dataset(spec)
