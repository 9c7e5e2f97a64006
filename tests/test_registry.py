"""Plugins: found by entry point, loaded one by one, and never in each other's way."""

import importlib.metadata
import json
import os
import pickle
import subprocess
import sys
import textwrap
import threading

import numpy as np
import pytest
from torch.utils.data import ConcatDataset, DataLoader

import kinoml_data as kd
from kinoml_data import registry
from kinoml_data.cli.json_schema import json_schema
from kinoml_data.errors import PluginConflictError, PluginLoadError, SpecError, UnknownNameError
from kinoml_data.registry import Registry
from kinoml_data.spec.parts import FORMS

BUILT_IN = {"in-memory", "npz-lazy", "npz-reopen", "parquet-awkward", "featurize-on-access"}

BACKEND = """
import numpy as np
from kinoml_data import Array, ArrayStorage, Backend, hookimpl

class Counting(Backend):
    name = {name!r}
    suffixes = {suffixes!r}
    rows: int = 3
    path: str = ""

    def open(self, columns):
        return ArrayStorage({{"X": np.arange(self.rows, dtype=np.float32)}})

@hookimpl
def register_backends():
    return [Counting]
"""


def backend(name, suffixes=()):
    return BACKEND.format(name=name, suffixes=suffixes)


def install(folder, distribution, entry_points, version="1.0", **modules):
    """What pip leaves behind of a distribution: its modules, its name and version, its entry points."""
    info = folder / f"{distribution.replace('-', '_')}-{version}.dist-info"
    info.mkdir(parents=True)
    (info / "METADATA").write_text(f"Metadata-Version: 2.1\nName: {distribution}\nVersion: {version}\n")
    lines = "".join(f"{name} = {target}\n" for name, target in entry_points.items())
    (info / "entry_points.txt").write_text(f"[kinoml_data]\n{lines}")
    for module, code in modules.items():
        (folder / f"{module}.py").write_text(textwrap.dedent(code))


@pytest.fixture
def site(tmp_path, monkeypatch):
    """A folder on the path to install into; what is imported from there is forgotten afterwards."""
    before = set(sys.modules)
    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.delenv("KINOML_DATA_PLUGINS", raising=False)
    monkeypatch.setattr(registry, "_registry", None)
    yield tmp_path
    for name in set(sys.modules) - before:
        if str(getattr(sys.modules[name], "__file__", "")).startswith(str(tmp_path)):
            del sys.modules[name]


# -- what a plugin brings


def test_a_backend_of_a_plugin_works_by_its_name_in_a_spec(site):
    install(site, "kinoml-data-count", {"counting": "p_count"}, p_count=backend("counting"))
    dataset = kd.load_dataset({"storage": {"backend": "counting", "rows": 4}})
    assert dataset[:][0].tolist() == [0, 1, 2, 3]
    assert kd.list_backends()["counting"].__module__ == "p_count"
    again = pickle.loads(pickle.dumps(dataset))
    assert again[3][0].item() == 3
    wrapped = kd.load_dataset({"storage": {"backend": "in-memory", "source": {"backend": "counting", "rows": 2}}})
    assert wrapped[:][0].tolist() == [0, 1]


def test_the_distribution_of_a_class_is_that_of_its_plugin(site):
    install(site, "counting-dist", {"anything": "counting"}, counting=backend("counting"))
    assert registry.distribution("backend", "counting") == "counting-dist"
    assert registry.distribution("backend", "in-memory") is None
    with pytest.raises(UnknownNameError):
        registry.distribution("backend", "countin")


def test_an_unknown_option_of_a_plugin_backend_is_refused(site):
    install(site, "kinoml-data-count", {"counting": "p_opt"}, p_opt=backend("counting"))
    with pytest.raises(SpecError, match=r"storage\.row: unknown key 'row'; did you mean 'rows'"):
        kd.load_dataset({"storage": {"backend": "counting", "row": 4}})
    with pytest.raises(SpecError, match=r"storage\.rows: must be an integer"):
        kd.load_dataset({"storage": {"backend": "counting", "rows": "4"}})


def test_featurizers_and_observation_models_of_a_plugin_work_by_their_names(site):
    install(
        site,
        "kinoml-data-more",
        {"more": "p_more"},
        p_more="""
        import numpy as np
        from kinoml_data import Array, Featurizer, ObservationModel, hookimpl

        class Length(Featurizer):
            name = "length"
            inputs = ("smiles",)
            scale: float = 1.0

            @property
            def outputs(self):
                return {"length": Array("float32")}

            def featurize(self, smiles):
                return (np.float32(len(smiles) * self.scale),)

        class Twice(ObservationModel):
            name = "twice"
            factor: float = 2.0

            def predict(self, dG_over_kT, **conditions):
                return dG_over_kT * conditions["factor"]

        @hookimpl
        def register_featurizers():
            yield Length

        @hookimpl
        def register_observation_models():
            return (Twice,)
        """,
    )
    spec = {
        "columns": {"length": {"dtype": "float32"}},
        "X": "length",
        "storage": {"backend": "featurize-on-access", "featurizer": {"name": "length", "scale": 10}},
        "observation_model": {"name": "twice", "factor": 3},
    }
    dataset = kd.load_dataset(spec, data={"smiles": ["C", "CC", ""]})
    assert dataset[:][0].tolist() == [10, 20, 0]
    assert dataset.observation_model(dataset[:][0]).tolist() == [30, 60, 0]
    with pytest.raises(SpecError, match=r"featurizer length\.scal: unknown key 'scal'; did you mean 'scale'"):
        kd.load_dataset(
            spec | {"storage": {"backend": "featurize-on-access", "featurizer": {"name": "length", "scal": 10}}},
            data={"smiles": ["C"]},
        )
    with pytest.raises(UnknownNameError, match="unknown featurizer 'lenght'; did you mean 'length'"):
        kd.load_dataset(
            spec | {"storage": {"backend": "featurize-on-access", "featurizer": {"name": "lenght"}}},
            data={"smiles": ["C"]},
        )


FORM = """
from typing import NamedTuple
from torch import Tensor
from kinoml_data import BatchForm, hookimpl
from kinoml_data.errors import SpecError

class Graphs(NamedTuple):
    atoms: object
    size: Tensor
    y: Tensor

class AsGraphs(BatchForm):
    name = {name!r}

    def __init__(self, spec):
        super().__init__(spec)
        if "atoms" not in spec.X_names:
            raise SpecError("there is no column 'atoms'")

    def __call__(self, X, y):
        return Graphs(X["atoms"], X["size"], y)

@hookimpl
def register_collate_forms():
    return [AsGraphs]
"""
FORM_ROWS = {"atoms": [np.full((n, 2), n, "float32") for n in (3, 0, 1, 2)], "size": np.array([3, 0, 1, 2])}


def form_spec(**more):
    columns = {"atoms": {"shape": ["*", 2]}, "size": {"dtype": "int64"}}
    return {"columns": columns, "X": ["atoms", "size"], "storage": {"backend": "in-memory"}} | more


@pytest.mark.parametrize("workers", [0, 2])
@pytest.mark.parametrize("method", ["fork", pytest.param("spawn", marks=pytest.mark.slow)])
def test_a_collate_form_of_a_plugin_makes_whole_batches_with_and_without_workers(site, workers, method):
    install(site, "dist", {"graphs": "p_form"}, p_form=FORM.format(name="graphs"))
    dataset = kd.load_dataset(form_spec(collate="graphs"), data=FORM_ROWS)

    def check(batch, rows):
        assert type(batch).__name__ == "Graphs" and isinstance(batch.atoms, kd.Packed) and batch.y is None
        assert batch.size.tolist() == [FORM_ROWS["size"][row] for row in rows]
        assert batch.atoms.values.tolist() == [n for n in batch.size.tolist() for _ in range(2 * n)]
        assert batch.atoms.shapes.tolist() == [[n, 2] for n in batch.size.tolist()]

    check(dataset[:], range(4))
    check(pickle.loads(pickle.dumps(dataset))[[2, 0]], [2, 0])
    context = method if workers else None
    for loader in (
        dataset.as_dataloader(batch_size=2, num_workers=workers, multiprocessing_context=context),
        DataLoader(dataset, batch_size=2, num_workers=workers, multiprocessing_context=context),
        DataLoader(ConcatDataset([dataset]), batch_size=2, num_workers=workers, multiprocessing_context=context),
    ):
        batches = list(loader)
        assert len(batches) == 2
        for number, batch in enumerate(batches):
            check(batch, [2 * number, 2 * number + 1])
    X, y = dataset[0]
    assert X["atoms"].shape == (3, 2) and y is None  # a sample is plain tensors whatever the form
    (X, _), *_ = kd.load_dataset(form_spec(), data=FORM_ROWS, collate="list").as_dataloader(batch_size=4)
    assert isinstance(X["atoms"], list)


def test_a_collate_form_is_given_by_name_or_as_an_object_and_may_refuse_a_spec(site):
    install(site, "dist", {"graphs": "p_form"}, p_form=FORM.format(name="graphs"))
    dataset = kd.load_dataset(form_spec(), data=FORM_ROWS)
    (by_name,) = dataset.as_dataloader(batch_size=4, collate="graphs")
    form = registry.collate_form("graphs")
    (by_object,) = dataset.as_dataloader(batch_size=4, collate=form(dataset.spec))
    assert by_name.size.tolist() == by_object.size.tolist() == [3, 0, 1, 2]
    with pytest.raises(SpecError, match="there is no column 'atoms'"):
        kd.load_dataset(form_spec(collate="graphs", X="size"), data=FORM_ROWS)
    schema = json_schema()["properties"]["collate"]["anyOf"]
    assert "graphs" in schema[0]["enum"] and "graphs" not in json.dumps(schema[1])


def test_an_unknown_collate_form_is_an_error_that_lists_all_forms_and_broken_plugins(site):
    install(site, "dist", {"graphs": "p_form"}, p_form=FORM.format(name="graphs"))
    install(site, "bad", {"bad": "p_bad"}, p_bad="import no_such_module\n")
    with pytest.raises(SpecError, match=r"unknown form 'stack'; known: list, pad, .*nested, .*graphs.*bad 1\.0"):
        kd.load_dataset(form_spec(collate="stack"), data=FORM_ROWS)
    with pytest.raises(SpecError, match=r"collate\.atoms: unknown form 'graph'; did you mean 'graphs'"):
        kd.load_dataset(form_spec(), data=FORM_ROWS, collate="graph")
    with pytest.raises(SpecError, match=r"collate\.atoms: .*graphs takes the whole batch.* `collate: graphs`"):
        kd.load_dataset(form_spec(collate={"atoms": "graphs"}), data=FORM_ROWS)
    with pytest.raises(PluginLoadError, match=r"collate form 'bad': plugin 'bad' of bad 1\.0 could"):
        kd.load_dataset(form_spec(collate="bad"), data=FORM_ROWS)


@pytest.mark.parametrize("name", FORMS)
def test_a_plugin_cannot_replace_a_built_in_collate_form(site, name):
    install(site, "dist", {name: "p_form"}, p_form=FORM.format(name=name))
    dataset = kd.load_dataset(form_spec(collate=name), data=FORM_ROWS)
    assert isinstance(dataset[:], tuple) and len(dataset[:]) == 2
    found = Registry()
    assert name not in found.all("collate form")
    (plugin,) = found.broken()
    assert str(plugin.error) == f"collate form '{name}' is built in and cannot be replaced"


@pytest.mark.parametrize(
    "result", ["[Counting]", "(Counting,)", "{Counting}", "iter([Counting])", "[Counting, Counting]"]
)
def test_a_hook_returns_its_classes_in_any_iterable(site, result):
    install(site, "dist", {"any": "p_any"}, p_any=backend("any").replace("[Counting]", result))
    assert Registry().get("backend", "any").name == "any"


@pytest.mark.parametrize("result", ["[]", "None", "()"])
def test_a_hook_may_return_none(site, result):
    install(site, "dist", {"none": "p_none"}, p_none=backend("x").replace("[Counting]", result))
    found = Registry()
    with pytest.raises(UnknownNameError):
        found.get("backend", "none")
    assert found.broken() == []


def test_several_entry_points_may_name_one_module(site):
    install(
        site,
        "dist",
        {"one": "p_two", "two": "p_two"},
        p_two=backend("one") + "\nclass Two(Counting):\n    name = 'two'\n\n@hookimpl\ndef register_backends():\n"
        "    return [Counting, Two]\n",
    )
    for order in (("one", "two"), ("two", "one")):
        found = Registry()
        assert [found.get("backend", name).name for name in order] == list(order)
        assert {"one", "two"} <= set(found.all("backend")) and found.broken() == []


def test_a_plugin_opens_bare_files_of_its_suffix_and_never_those_of_a_built_in(site, tmp_path):
    install(site, "dist", {"mine": "p_suffix"}, p_suffix=backend("mine", (".mine", ".npz")))
    (tmp_path / "x.mine").touch()
    assert kd.load_dataset(tmp_path / "x.mine")[:][0].tolist() == [0, 1, 2]
    np.savez(tmp_path / "x.npz", X=np.zeros(7))
    with kd.load_dataset(tmp_path / "x.npz") as dataset:
        assert len(dataset) == 7 and dataset.spec.storage.backend == "npz-lazy"
    (tmp_path / "x.other").touch()
    with pytest.raises(SpecError, match=r"no backend opens files that end in '\.other'; .*; known suffixes: .*\.mine"):
        kd.load_dataset(tmp_path / "x.other")


# -- when it is loaded


IMPORTED = (
    "import sys; sys.modules.setdefault('p_log', type(sys)('p_log')).__dict__.setdefault('log', []).append({!r})\n"
)


def imported():
    return getattr(sys.modules.get("p_log"), "log", [])


@pytest.fixture
def logged(site):
    sys.modules.pop("p_log", None)
    install(site, "a-dist", {"first": "p_first"}, p_first=IMPORTED.format("first") + backend("first"))
    install(site, "b-dist", {"other": "p_other"}, p_other=IMPORTED.format("other") + backend("hidden"))
    yield site
    sys.modules.pop("p_log", None)


def test_built_ins_are_found_without_importing_any_plugin(logged):
    found = Registry()
    for name in BUILT_IN:
        assert found.get("backend", name).name == name
    assert found.get("observation model", "pIC50").name == "pIC50"
    assert kd.from_arrays(np.zeros(2))[:][0].tolist() == [0, 0]
    assert imported() == []


def test_an_entry_point_named_as_the_backend_is_imported_first_and_alone(logged):
    found = Registry()
    assert found.get("backend", "first").name == "first"
    assert imported() == ["first"]
    assert found.get("backend", "hidden").name == "hidden"  # behind an entry point of another name
    assert sorted(imported()) == ["first", "other"]
    found.all("backend")
    found.get("backend", "first")
    assert sorted(imported()) == ["first", "other"]


def test_a_bare_file_of_a_built_in_imports_no_plugin(logged, tmp_path):
    np.savez(tmp_path / "x.npz", X=np.zeros(3))
    kd.load_dataset(tmp_path / "x.npz").close()
    assert imported() == []


# -- what is broken

BROKEN = {
    "ImportError": ("import no_such_library\n", "ModuleNotFoundError: No module named 'no_such_library'"),
    "Exception": ("raise RuntimeError('no licence')\n", "RuntimeError: no licence"),
    "SystemExit": ("import sys; sys.exit('needs Linux')\n", "SystemExit: needs Linux"),
    "BaseException": ("class Odd(BaseException): pass\nraise Odd('odd')\n", "Odd: odd"),
    "syntax": ("def (:\n", "SyntaxError"),
    "no hooks' argument": (
        "from kinoml_data import hookimpl\n@hookimpl\ndef register_backends(wrong): return []\n",
        "wrong",
    ),
    "hook raises": (
        "from kinoml_data import hookimpl\n@hookimpl\ndef register_backends(): raise ValueError('inside')\n",
        "ValueError: inside",
    ),
    "hook exits": (
        "from kinoml_data import hookimpl\n@hookimpl\ndef register_backends(): raise SystemExit(3)\n",
        "SystemExit: 3",
    ),
    "no class": (
        backend("broken").replace("[Counting]", "['broken']"),
        "returned 'broken', which is not a subclass of Backend",
    ),
    "an instance": (backend("broken").replace("[Counting]", "[Counting()]"), "which is not a subclass of Backend"),
    "another class": (backend("broken").replace("[Counting]", "[dict]"), "which is not a subclass of Backend"),
    "not iterable": (backend("broken").replace("[Counting]", "Counting"), "TypeError"),
    "no name": (backend("broken").replace("name = 'broken'", ""), "Counting has no `name`"),
    "a name that is no string": (backend("broken").replace("name = 'broken'", "name = 5"), "Counting has no `name`"),
    "no open": (backend("broken").replace("def open", "def reopen"), "Counting does not define open"),
    "a name twice": (
        backend("broken") + "\nclass Two(Counting): pass\n@hookimpl\ndef register_backends(): return [Counting, Two]\n",
        "two classes with the same name",
    ),
    "a built-in's name": (backend("npz-lazy"), "backend 'npz-lazy' is built in and cannot be replaced"),
    "control characters": ("raise RuntimeError('a\\x1b[31m\\nb' + 'x' * 5000)\n", r"RuntimeError: a \[31m bxxx"),
}


@pytest.fixture(params=BROKEN, ids=lambda name: name)
def broken(request, site):
    code, said = BROKEN[request.param]
    install(site, "Bad-Dist", {"broken": "p_broken"}, version="4.2", p_broken=code)
    install(site, "good-dist", {"good": "p_good"}, p_good=backend("good"))
    return said


def test_a_broken_plugin_does_not_affect_other_plugins(broken):
    for order in (("good",), ("missing", "good")):
        found = Registry()
        for name in order[:-1]:
            with pytest.raises(UnknownNameError):
                found.get("backend", name)
        assert found.get("backend", "good").name == "good"
        assert BUILT_IN | {"good"} <= set(found.all("backend"))
        assert found.get("backend", "npz-lazy").__module__ == "kinoml_data.backends.npz.backend"
        assert found.all("backend")["npz-lazy"][0].__module__ == "kinoml_data.backends.npz.backend"


def test_a_request_for_a_broken_plugin_is_an_error_with_its_reason_and_distribution(broken):
    with pytest.raises(PluginLoadError, match=f"(?s){broken}") as caught:
        kd.load_dataset({"storage": {"backend": "broken"}})
    text = str(caught.value)
    assert "backend 'broken': plugin 'broken' of Bad-Dist 4.2 could not be loaded" in text
    assert isinstance(caught.value, ImportError) and isinstance(caught.value.__cause__, BaseException)
    assert len(text) < 600 and text.isprintable()
    with pytest.raises(PluginLoadError):  # again, and no other error the second time
        kd.load_dataset({"storage": {"backend": "broken"}})


def test_the_error_of_an_unknown_name_lists_broken_plugins(broken):
    with pytest.raises(UnknownNameError, match="(?s)unknown backend 'something'.*Bad-Dist 4.2.*" + broken) as caught:
        kd.load_dataset({"storage": {"backend": "something"}})
    assert isinstance(caught.value, LookupError) and not isinstance(caught.value, KeyError)


def test_a_broken_plugin_is_recorded_with_its_distribution_and_error(broken):
    found = Registry()
    assert found.broken() == []
    found.all("backend")
    (plugin,) = found.broken()
    assert (plugin.entry_point, plugin.distribution, plugin.version) == ("broken", "Bad-Dist", "4.2")
    assert str(plugin) == "Bad-Dist 4.2" and isinstance(plugin.error, BaseException) and plugin.names == {}


def test_control_c_while_a_plugin_is_imported_does_not_mark_it_as_broken(site):
    install(site, "dist", {"slow": "p_slow"}, p_slow="raise KeyboardInterrupt\n")
    found = Registry()
    for _ in range(2):
        with pytest.raises(KeyboardInterrupt):
            found.get("backend", "slow")
    assert found.broken() == []


def test_an_entry_point_to_nothing_is_broken(site):
    install(site, "dist", {"gone": "p_gone", "attribute": "os:no_such_thing"})
    for name in ("gone", "attribute"):
        with pytest.raises(PluginLoadError, match=f"plugin '{name}' of dist 1.0"):
            Registry().get("backend", name)


def test_a_name_of_two_distributions_is_an_error_naming_both_when_it_is_used(site):
    install(site, "dist-a", {"a": "p_a"}, version="1.0", p_a=backend("same"))
    install(site, "dist-b", {"b": "p_b"}, version="2.0", p_b=backend("same"))
    install(site, "dist-c", {"c": "p_c"}, p_c=backend("c"))
    found = Registry()
    assert found.get("backend", "c").name == "c"
    assert "same" in found.all("backend")
    with pytest.raises(PluginConflictError, match=r"dist-a 1\.0.*dist-b 2\.0|dist-b 2\.0.*dist-a 1\.0") as caught:
        found.get("backend", "same")
    assert "'same'" in str(caught.value) and isinstance(caught.value, ValueError)
    assert found.get("backend", "c").name == "c"


def test_the_same_name_for_classes_of_different_kinds_is_not_a_conflict(site):
    code = """
    from kinoml_data import ObservationModel, hookimpl

    class Good(ObservationModel):
        name = "same"
        def predict(self, dG_over_kT, **conditions): return dG_over_kT

    @hookimpl
    def register_observation_models(): return [Good]
    """
    install(site, "dist-a", {"a": "p_kind_a"}, p_kind_a=backend("same"))
    install(site, "dist-b", {"b": "p_kind_b"}, p_kind_b=code)
    found = Registry()
    assert found.get("backend", "same").__module__ == "p_kind_a"
    assert found.get("observation model", "same").__module__ == "p_kind_b"


def test_the_hooks_of_a_plugin_do_not_affect_another_plugin_or_built_ins(site):
    install(
        site,
        "greedy",
        {"greedy": "p_greedy"},
        p_greedy=backend("greedy")
        + """
@hookimpl(tryfirst=True, specname="register_featurizers")
def more():
    return []

@hookimpl(wrapper=True, specname="register_observation_models")
def swallow():
    yield
    return []
""",
    )
    install(site, "modest", {"modest": "p_modest"}, p_modest=backend("modest"))
    found = Registry()
    assert {"greedy", "modest"} | BUILT_IN <= set(found.all("backend"))
    assert {"pIC50", "pKi", "pKd", "percent-displacement", "identity"} <= set(found.all("observation model"))


# -- names


@pytest.mark.parametrize(
    ("name", "said"),
    [
        ("npz-lasy", "unknown backend 'npz-lasy'; did you mean 'npz-lazy'.*installed: .*in-memory"),
        ("nonsense", "unknown backend 'nonsense'; known: .*in-memory.*npz-lazy.*parquet-awkward"),
        ("os.system", "unknown backend 'os.system'; known"),
        ("", "unknown backend ''"),
        ("NPZ-LAZY", "unknown backend 'NPZ-LAZY'"),
        ("x\n\x1b[31m" + "y" * 500, "unknown backend 'x"),
    ],
)
def test_an_unknown_name_is_an_error_with_a_suggestion_and_the_list(site, name, said):
    with pytest.raises(UnknownNameError, match=said) as caught:
        kd.load_dataset({"storage": {"backend": name}})
    text = str(caught.value)
    assert text.startswith("storage: ") and text.count("npz-reopen") == 1 and len(text) < 900 and text.isprintable()


@pytest.mark.parametrize(
    "name", ["os.system", "builtins:eval", "subprocess.Popen", "__import__('os')", "!python/name:eval"]
)
def test_a_python_name_is_never_imported_or_called(site, name):
    before = set(sys.modules)
    spec = {"columns": {"x": {}}, "X": "x", "storage": {"backend": "in-memory"}}
    for changes in (
        {"storage": {"backend": name}},
        {"observation_model": name},
        {"storage": {"backend": "featurize-on-access", "featurizer": {"name": name}}},
    ):
        with pytest.raises(UnknownNameError):
            kd.load_dataset(spec | changes, data={"x": np.zeros(1, np.float32)})
    assert {m for m in set(sys.modules) - before if m.split(".")[0] in ("subprocess", "antigravity")} == set()


# -- the environment variable


@pytest.mark.parametrize(
    ("listed", "found"),
    [
        (None, {"one", "two"}),
        ("", set()),
        ("one", {"one"}),
        ("one,two", {"one", "two"}),
        (" two , three", {"two"}),
        ("dist-two", {"two"}),
        ("ONE", set()),
        ("npz-lazy", set()),
    ],
)
def test_the_environment_restricts_plugins_or_switches_them_off(site, monkeypatch, listed, found):
    install(site, "dist-one", {"one": "p_one"}, p_one=backend("one"))
    install(site, "dist-two", {"two": "p_env"}, p_env=backend("two"))
    if listed is not None:
        monkeypatch.setenv("KINOML_DATA_PLUGINS", listed)
    names = set(Registry().all("backend"))
    assert names & {"one", "two"} == found and names >= BUILT_IN
    if listed == "":
        assert names - BUILT_IN <= {"csv", "joined"} and "p_one" not in sys.modules


def test_an_unknown_name_says_that_the_environment_restricts_plugins(monkeypatch):
    monkeypatch.setenv("KINOML_DATA_PLUGINS", "hdf55")
    with pytest.raises(UnknownNameError, match="KINOML_DATA_PLUGINS allows no plugin other than 'hdf55'"):
        Registry().get("backend", "hdf5")


# -- refresh


def test_refresh_finds_plugins_that_were_installed_or_repaired_meanwhile(site):
    found = Registry()
    with pytest.raises(UnknownNameError):
        found.get("backend", "late")
    install(
        site, "late", {"late": "p_late", "fixed": "p_fixed"}, p_late=backend("late"), p_fixed="import no_such_thing\n"
    )
    with pytest.raises(UnknownNameError):
        found.get("backend", "late")
    found.refresh()
    assert found.get("backend", "late").name == "late"
    with pytest.raises(PluginLoadError):
        found.get("backend", "fixed")
    (site / "p_fixed.py").write_text(backend("fixed") + "# longer than before\n")
    with pytest.raises(PluginLoadError):
        found.get("backend", "fixed")
    found.refresh()
    assert found.get("backend", "fixed").name == "fixed" and found.broken() == []


def test_refresh_forgets_plugins_that_were_uninstalled(site):
    install(site, "gone", {"gone": "p_uninstalled"}, p_uninstalled=backend("gone"))
    found = Registry()
    assert found.get("backend", "gone").name == "gone"
    (site / "gone-1.0.dist-info" / "entry_points.txt").unlink()
    (site / "gone-1.0.dist-info" / "METADATA").unlink()
    (site / "gone-1.0.dist-info").rmdir()
    found.refresh()
    with pytest.raises(UnknownNameError):
        found.get("backend", "gone")


def test_metadata_without_a_name_does_not_affect_other_plugins(site):
    (site / "odd-1.0.dist-info").mkdir()
    (site / "odd-1.0.dist-info" / "entry_points.txt").write_text("[kinoml_data]\nodd = p_odd\n")
    install(site, "good", {"good": "p_beside"}, p_beside=backend("good"))
    found = Registry()
    assert found.get("backend", "good").name == "good"
    with pytest.raises(PluginLoadError, match="plugin 'odd'"):
        found.get("backend", "odd")


def test_a_plugin_whose_metadata_cannot_be_read_still_works(site, monkeypatch):
    class Unreadable:
        @property
        def name(self):
            raise OSError("no such file")

    install(site, "good", {"good": "p_unreadable"}, p_unreadable=backend("good"))
    (entry_point,) = [ep for ep in importlib.metadata.entry_points(group="kinoml_data") if ep.name == "good"]
    vars(entry_point).update(dist=Unreadable())
    monkeypatch.setattr(registry, "entry_points", lambda group: [entry_point])
    found = Registry()
    assert [str(plugin) for plugin in found.plugins] == ["? ?"] and found.get("backend", "good").name == "good"


# -- imports that come back, run in several threads or are interrupted


def test_a_plugin_may_ask_for_backends_while_it_is_imported(site):
    nosy = "import kinoml_data as kd\nfound = sorted(kd.list_backends())\n"
    install(site, "nosy", {"nosy": "p_nosy"}, p_nosy=nosy + backend("nosy"))
    install(site, "other", {"other": "p_other"}, p_other=backend("other"))
    assert kd.load_dataset({"storage": {"backend": "nosy"}})[:][0].tolist() == [0, 1, 2]
    found = sys.modules["p_nosy"].found
    assert BUILT_IN | {"other"} <= set(found) and "nosy" not in found
    assert {"nosy", "other"} <= set(kd.list_backends())


def test_several_threads_that_request_one_plugin_import_it_once(site):
    install(site, "dist", {"one": "p_threads"}, p_threads="import time\ntime.sleep(0.2)\n" + backend("one"))
    found, classes = Registry(), []
    threads = [threading.Thread(target=lambda: classes.append(found.get("backend", "one"))) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(classes) == 4 and len(set(classes)) == 1 and found.broken() == []


def test_control_c_in_a_hook_does_not_mark_the_plugin_as_broken(site):
    hook = backend("held").replace("return [Counting]", "raise KeyboardInterrupt")
    install(site, "dist", {"held": "p_hook"}, p_hook=hook)
    found = Registry()
    for _ in range(2):
        with pytest.raises(KeyboardInterrupt):
            found.get("backend", "held")
    assert found.broken() == []


# -- another process

SCRIPT = """
import json, sys
import kinoml_data as kd
from kinoml_data import errors
found = {"at import": sorted(m for m in sys.modules if m.startswith("p_"))}
found["loaded"] = kd.load_dataset({"storage": {"backend": "counting", "rows": 4}})[:][0].tolist()
found["for one name"] = sorted(m for m in sys.modules if m.startswith("p_"))
found["names"] = sorted(kd.list_backends())
for name in ("import-error", "exit", "twice", "no-class", "no-name", "npz-lazzy"):
    try:
        kd.load_dataset({"storage": {"backend": name}})
    except errors.KinomlDataError as error:
        found[name] = [type(error).__name__, str(error)]
import numpy as np
np.savez("x.npz", X=np.zeros(3))
with kd.load_dataset("x.npz") as dataset:
    found["built-in"] = type(dataset._session.backend).__module__
json.dump(found, sys.stdout)
"""


def test_in_a_new_process_a_plugin_works_with_broken_ones_beside_it(tmp_path):
    site = tmp_path / "site"
    install(site, "good", {"counting": "p_count"}, p_count=backend("counting"))
    install(site, "bad-import", {"import-error": "p_import"}, version="0.1", p_import="import no_such_library\n")
    install(site, "bad-exit", {"exit": "p_exit"}, version="0.2", p_exit="raise SystemExit(7)\n")
    install(site, "twice-a", {"a": "p_twice_a"}, version="0.3", p_twice_a=backend("twice"))
    install(site, "twice-b", {"b": "p_twice_b"}, version="0.4", p_twice_b=backend("twice"))
    install(site, "thief", {"thief": "p_thief"}, version="0.5", p_thief=backend("npz-lazy", (".npz",)))
    install(site, "bad-class", {"no-class": "p_class"}, p_class=backend("x").replace("[Counting]", "[42]"))
    install(site, "bad-name", {"no-name": "p_name"}, p_name=backend("x").replace("name = 'x'", ""))
    # The package itself may be found through the path too, where it is not installed.
    path = os.pathsep.join([str(site), *filter(None, [os.environ.get("PYTHONPATH")])])
    environment = {k: v for k, v in os.environ.items() if k != "KINOML_DATA_PLUGINS"} | {"PYTHONPATH": path}
    run = subprocess.run(
        [sys.executable, "-c", SCRIPT], cwd=tmp_path, env=environment, capture_output=True, text=True, timeout=120
    )
    assert run.returncode == 0, run.stderr
    found = json.loads(run.stdout)
    assert found["at import"] == []
    assert found["loaded"] == [0, 1, 2, 3]
    assert found["for one name"] == ["p_count"]
    assert BUILT_IN | {"counting"} <= set(found["names"])
    assert found["built-in"] == "kinoml_data.backends.npz.backend"
    assert found["import-error"][0] == "PluginLoadError"
    assert "bad-import 0.1" in found["import-error"][1] and "no_such_library" in found["import-error"][1]
    assert found["exit"][0] == "PluginLoadError"
    assert "bad-exit 0.2" in found["exit"][1] and "SystemExit: 7" in found["exit"][1]
    assert found["twice"][0] == "PluginConflictError"
    assert "twice-a 0.3" in found["twice"][1] and "twice-b 0.4" in found["twice"][1]
    assert found["no-class"][0] == found["no-name"][0] == "PluginLoadError"
    assert "42" in found["no-class"][1] and "has no `name`" in found["no-name"][1]
    assert found["npz-lazzy"][0] == "UnknownNameError"
    for text in (
        "did you mean 'npz-lazy'",
        "bad-import 0.1",
        "bad-exit 0.2",
        "thief 0.5",
        "built in and cannot be replaced",
    ):
        assert text in found["npz-lazzy"][1]
