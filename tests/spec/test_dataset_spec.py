"""`DatasetSpec`: every field, what is refused and how it is said, and the three file formats."""

import copy
import json
import pickle
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydantic import ValidationError

import kinoml_data as kd
from kinoml_data import Array, DatasetSpec
from kinoml_data.errors import KinomlDataError, SpecError, StoreNotFoundError
from kinoml_data.spec.parts import CollateForm, FileSplit, NamedRef, RangeSplit, RowsSplit
from tests.spec.specs import DTYPE_NAMES, FULL, SMALL, SUFFIXES, refused, spec

# -- fields


def test_every_field_is_read():
    found = DatasetSpec.parse(FULL)
    assert found.format == 1 and found.name == "egfr"
    assert found.columns == {
        "edge_index": Array("int64", (2, None), stored_as="X0"),
        "atoms": Array("float32", (None, 33), stored_as="X1", cast="exact"),
        "fp": Array("bool", (1024,), packbits=True),
        "pIC50": Array("float32"),
        "id": Array("str"),
    }
    assert found.X == ("edge_index", "atoms", "fp") == found.X_names
    assert found.y == "pIC50" and found.y_names == ("pIC50",)
    assert found.meta == ("id",)
    assert found.storage.backend == "npz-lazy"
    assert found.storage.options == {"path": "egfr.npz", "verify": "always"}
    assert found.splits == {
        "train": "idx_train",
        "val": RangeSplit(range=(0, 5)),
        "test": RowsSplit(rows=(7, 6)),
        "extra": FileSplit(file="rows.npy"),
    }
    assert isinstance(found.observation_model, NamedRef)
    assert found.observation_model.name == "pIC50" and found.observation_model.options == {"substrate_conc": 1e-6}
    assert found.collate == {"edge_index": "list", "atoms": CollateForm(form="pad", value=0)}


def test_only_the_storage_is_required():
    found = DatasetSpec.parse({"storage": {"backend": "somebody-elses"}})
    assert (found.format, found.name, found.columns, found.X, found.y, found.meta) == (1, None, None, None, None, ())
    assert (found.splits, found.observation_model, found.collate) == (None, None, None)
    assert found.X_names == found.y_names == ()
    assert found.to_mapping() == {"format": 1, "storage": {"backend": "somebody-elses"}}


def test_empty_splits_are_not_the_same_as_none():
    # {} says that there are none; left out, they are taken from the store.
    assert spec(splits={}) != spec()
    assert spec(splits={}).to_mapping()["splits"] == {}


def test_y_and_X_may_be_one_name_or_several():
    columns = {"a": {}, "b": {}, "c": {}}
    one = spec(columns=columns, X="a", y=["b", "c"])
    assert one.X == "a" and one.y == ("b", "c")
    assert spec(columns=columns, X=["a"]).X == ("a",)


# -- frozen


def test_a_spec_cannot_be_changed():
    found = DatasetSpec.parse(FULL)
    before = found.to_mapping()
    for field in DatasetSpec.model_fields:
        with pytest.raises((ValidationError, TypeError)):
            setattr(found, field, None)
        with pytest.raises((ValidationError, TypeError, AttributeError)):
            delattr(found, field)
    assert found.to_mapping() == before


NESTED = {
    "columns": lambda s: s.columns,
    "splits": lambda s: s.splits,
    "collate": lambda s: s.collate,
    "options of the storage": lambda s: s.storage.options["nested"],
    "options two deep": lambda s: s.storage.options["nested"]["deep"],
    "the storage's extra fields": lambda s: s.storage.__pydantic_extra__,
    "the observation model's extra fields": lambda s: s.observation_model.__pydantic_extra__,
    "mapping in a list": lambda s: s.storage.options["list"][0],
}
CHANGES = {
    "set": lambda m: m.__setitem__("new", 1),
    "delete": lambda m: m.__delitem__(next(iter(m))),
    "pop": lambda m: m.pop(next(iter(m))),
    "popitem": lambda m: m.popitem(),
    "clear": lambda m: m.clear(),
    "update": lambda m: m.update(new=1),
    "setdefault": lambda m: m.setdefault("new", 1),
    "|=": lambda m: m.__ior__({"new": 1}),
}


@pytest.mark.parametrize("change", CHANGES.values(), ids=CHANGES)
@pytest.mark.parametrize("part", NESTED.values(), ids=NESTED)
def test_no_mapping_inside_a_spec_can_be_changed(part, change):
    storage = {"backend": "x", "nested": {"deep": {"a": 1}}, "list": [{"a": 1}]}
    found = DatasetSpec.parse(FULL | {"storage": storage})
    before = found.to_mapping()
    with pytest.raises(TypeError, match="cannot be changed"):
        change(part(found))
    assert found.to_mapping() == before


def test_a_mapping_may_change_after_a_spec_was_made_from_it():
    mapping = json.loads(json.dumps(FULL))
    found = DatasetSpec.parse(mapping)
    before = found.to_mapping()
    mapping["columns"]["atoms"]["shape"][0] = 5
    mapping["storage"]["path"] = "other"
    found.to_mapping()["columns"].clear()
    assert found.to_mapping() == before


def test_all_contradictions_are_listed_at_once():
    said = refused(
        {
            "columns": {"a": {}, "b b": {}, "s": {"dtype": "str"}},
            "X": ["a", "q", "s"],
            "y": "atoms",
            "meta": ["a", "z"],
            "storage": {"backend": "x"},
        }
    )
    for text in (
        "X, y and meta contain 'a' more than once",
        "the column name 'b b' contains characters",
        "X: unknown column 'q'",
        "X: column 's' contains strings",
        "y: unknown column 'atoms'",
        "meta: unknown column 'z'",
    ):
        assert text in said


@pytest.mark.parametrize(
    ("changes", "expected"),
    [
        ({"X": []}, "X is an empty list"),
        ({"X": ["a", "a"]}, "contain 'a' more than once"),
        ({"y": "a"}, "contain 'a' more than once"),
        ({"meta": ["a"]}, "contain 'a' more than once"),
        ({"X": "b"}, "unknown column 'b'; known: a"),
        ({"columns": {"atoms": {}}, "X": "atom"}, "unknown column 'atom'; did you mean 'atoms'?; `columns` must list"),
        ({"columns": {"a": {"dtype": "str"}}}, "'a' contains strings, which no tensor can have; put it in meta"),
        ({"columns": {"": {}, "a": {}}}, "the column name ''"),
        ({"columns": {"a/b": {}, "a": {}}}, "the column name 'a/b'"),
        ({"columns": {"a.values": {}, "a": {}}}, "the column name 'a.values'"),
        ({"columns": {"é": {}, "a": {}}}, "the column name 'é'"),
        ({"columns": {"a\x00": {}, "a": {}}}, r"the column name 'a\x00'"),
        ({"columns": {"a\n": {}, "a": {}}}, r"the column name 'a\n'"),
    ],
)
def test_a_spec_that_contradicts_itself_is_refused(changes, expected):
    assert expected in refused(SMALL | changes)


def test_keywords_in_python_make_the_spec_that_a_mapping_makes():
    assert DatasetSpec(**FULL) == DatasetSpec.parse(FULL)
    with pytest.raises(SpecError, match=r"storage: this key is missing"):
        DatasetSpec()


def test_spec_errors_are_value_errors_of_the_library():
    for error in (KinomlDataError, ValueError, SpecError):
        with pytest.raises(error):
            DatasetSpec.parse({})


# -- equality, hash, copies


def test_equal_specs_have_equal_hashes_and_lie_anywhere(tmp_path):
    here, there = DatasetSpec.parse(FULL), DatasetSpec.parse(json.loads(json.dumps(FULL)), base=tmp_path)
    assert here == there and hash(here) == hash(there) and len({here, there}) == 1
    assert here.base != there.base


@pytest.mark.parametrize(
    "changes",
    [
        {"name": "other"},
        {"columns": {"a": {"dtype": "float64"}}},
        {"columns": {"a": {"shape": [3]}}},
        {"X": ["a"]},
        {"storage": {"backend": "x"}},
        {"storage": {"backend": "in-memory", "device": "cpu"}},
        {"splits": {"a": "b"}},
        {"splits": {"ratios": {"a": 1.0}}},
        {"observation_model": "pKd"},
        {"collate": "pad"},
    ],
    ids=str,
)
def test_specs_that_say_something_else_are_not_equal(changes):
    assert spec(**changes) != spec()
    assert spec() != "spec" and spec() is not None


@pytest.mark.parametrize(
    "again",
    [
        lambda s: pickle.loads(pickle.dumps(s)),
        lambda s: pickle.loads(pickle.dumps(s, protocol=2)),
        copy.copy,
        copy.deepcopy,
        lambda s: DatasetSpec.parse(s.to_mapping(), s.base, s.root),
        lambda s: s.model_copy(),
    ],
    ids=["pickle", "old pickle", "copy", "deepcopy", "mapping", "model_copy"],
)
def test_a_copy_is_equal_and_frozen_and_knows_its_folder(tmp_path, again):
    for mapping in (FULL, SMALL, SMALL | {"splits": {"ratios": {"a": 0.5, "b": 0.5}, "seed": 2}}):
        found = DatasetSpec.parse(mapping, base=tmp_path, root=tmp_path)
        twin = again(found)
        assert twin == found and hash(twin) == hash(found) and twin.to_mapping() == found.to_mapping()
        assert (twin.base, twin.root) == (tmp_path, tmp_path)
        with pytest.raises(TypeError):
            twin.columns["new"] = Array()


def test_locating_a_spec_elsewhere_leaves_the_first_where_it_was(tmp_path):
    found = DatasetSpec.parse(SMALL, base=tmp_path)
    other = found.located(tmp_path / "sub", root=tmp_path)
    assert found.base == tmp_path and found.root is None
    assert other.base == tmp_path / "sub" and other.root == tmp_path


def test_a_relative_base_does_not_move_with_the_working_directory(tmp_path, monkeypatch):
    (tmp_path / "a" / "data").mkdir(parents=True)
    monkeypatch.chdir(tmp_path / "a")
    found = DatasetSpec.parse(SMALL, base=Path("data"))
    monkeypatch.chdir(tmp_path)
    assert found.base == tmp_path / "a" / "data"


# -- files


@pytest.mark.parametrize("suffix", SUFFIXES)
@pytest.mark.parametrize("mapping", [FULL, SMALL, {"storage": {"backend": "x"}}], ids=["full", "small", "least"])
def test_what_to_file_writes_from_file_reads(tmp_path, mapping, suffix):
    found = DatasetSpec.parse(mapping, base=tmp_path)
    found.to_file(tmp_path / f"spec{suffix}")
    twin = DatasetSpec.from_file(tmp_path / f"spec{suffix}")
    assert twin == found and twin.base == tmp_path and twin.root is None
    assert twin.to_mapping() == found.to_mapping()
    assert list(tmp_path.iterdir()) == [tmp_path / f"spec{suffix}"]


def test_twins_in_three_formats_are_equal(tmp_path):
    (tmp_path / "s.yaml").write_text(
        """
format: 1
name: egfr
columns:
  0:     {dtype: int64, shape: [2, null]}
  atoms: {dtype: float32, shape: ["*", 33], cast: exact}
  pIC50: {dtype: float32}
X: [0x, atoms]
y: pIC50
storage: {backend: npz-lazy, path: on, retries: 012, rate: 1e-3, flags: [yes, no, 2001-01-01]}
splits: {ratios: {train: 8e-1, test: 0.2}, seed: 3}
""".replace("0x", "'0'")
    )
    (tmp_path / "s.json").write_text(
        json.dumps(
            {
                "format": 1,
                "name": "egfr",
                "columns": {
                    "0": {"dtype": "int64", "shape": [2, "*"]},
                    "atoms": {"dtype": "float32", "shape": ["*", 33], "cast": "exact"},
                    "pIC50": {"dtype": "float32"},
                },
                "X": ["0", "atoms"],
                "y": "pIC50",
                "storage": {
                    "backend": "npz-lazy",
                    "path": "on",
                    "retries": 12,
                    "rate": 0.001,
                    "flags": ["yes", "no", "2001-01-01"],
                },
                "splits": {"ratios": {"train": 0.8, "test": 0.2}, "seed": 3},
            }
        )
    )
    (tmp_path / "s.toml").write_text(
        """
format = 1
name = "egfr"
X = ["0", "atoms"]
y = "pIC50"
columns.0 = {dtype = "int64", shape = [2, "*"]}
columns.atoms = {dtype = "float32", shape = ["*", 33], cast = "exact"}
columns.pIC50.dtype = "float32"
[storage]
backend = "npz-lazy"
path = "on"
retries = 12
rate = 1e-3
flags = ["yes", "no", "2001-01-01"]
[splits]
ratios = {train = 0.8, test = 0.2}
seed = 3
"""
    )
    yaml, js, toml = (DatasetSpec.from_file(tmp_path / f"s{suffix}") for suffix in SUFFIXES)
    assert yaml == js == toml
    assert len({yaml, js, toml}) == 1


column_names = st.text("abcXyz019_-", min_size=1, max_size=6)
words = st.text(st.characters(codec="utf-8", exclude_characters="\0"), max_size=8) | st.sampled_from(
    ["on", "012", "1e-3", "null", "~", "*", "a: b", "2001-01-01", "'", '"', "\n", "#", "<<"]
)
plain = st.recursive(
    st.booleans() | st.integers(-(2**63), 2**63) | st.floats(allow_nan=False, allow_infinity=False) | words,
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(words, inner, max_size=3),
    max_leaves=6,
)
axes = st.lists(st.integers(0, 2**40) | st.sampled_from(["*", None]), max_size=4)


@st.composite
def mappings(draw):
    names = draw(st.lists(column_names, min_size=1, max_size=5, unique=True))
    columns = {}
    for name in names:
        dtype = draw(st.sampled_from(DTYPE_NAMES[:-1]))
        columns[name] = {"dtype": dtype, "shape": draw(axes)}
        if draw(st.booleans()):
            columns[name] |= {"cast": draw(st.sampled_from(["round", "exact"])), "stored_as": draw(words)}
    cut = draw(st.integers(1, len(names)))
    found = {"columns": columns, "X": names[:cut] if draw(st.booleans()) or cut > 1 else names[0]}
    if names[cut:]:
        found[draw(st.sampled_from(["y", "meta"]))] = names[cut:]
    options = draw(st.dictionaries(words.filter(lambda w: w != "backend"), plain, max_size=4))
    found["storage"] = options | {"backend": draw(words)}
    if draw(st.booleans()):
        split = (
            words
            | st.builds(lambda a, b: {"range": [a, b]}, st.integers(), st.integers())
            | st.builds(lambda rows: {"rows": rows}, st.lists(st.integers(), max_size=4))
            | st.builds(lambda file: {"file": file}, words)
        )
        found["splits"] = draw(
            st.dictionaries(words.filter(lambda w: w != "ratios"), split, max_size=3)
            | st.just({"ratios": {"train": 0.75, "on": 0.25}, "seed": draw(st.integers(0, 2**63))})
        )
    if draw(st.booleans()):
        found["name"] = draw(words)
    if draw(st.booleans()):
        found["observation_model"] = draw(words | st.builds(lambda w, o: {"x": o, "name": w}, words, plain))
    if draw(st.booleans()):
        form = words | st.builds(lambda f, v: {"form": f, "value": v}, words, st.integers() | st.floats(-1e9, 1e9))
        found["collate"] = draw(words | st.dictionaries(words, form, max_size=2))
    return found


@given(mappings())
def test_any_spec_comes_back_equal_from_all_three_formats(tmp_path_factory, mapping):
    folder = tmp_path_factory.mktemp("specs")
    found = DatasetSpec.parse(mapping, base=folder)
    twins = []
    for suffix in SUFFIXES:
        found.to_file(folder / f"s{suffix}")
        twins.append(DatasetSpec.from_file(folder / f"s{suffix}"))
    assert all(twin == found for twin in twins)
    assert all(repr(twin) == repr(found) for twin in twins)
    assert len({found, *twins}) == 1


@pytest.mark.parametrize("suffix", SUFFIXES)
def test_relative_paths_are_rewritten_to_start_from_the_new_file(tmp_path, suffix):
    storage = {
        "backend": "in-memory",
        "source": {"backend": "npz-lazy", "path": "data/x.npz", "weights_path": "w/../w.pt", "pathway": "a/b"},
        "path": "/absolute/x.npz",
        "list": [{"path": "y.npz"}],
        "file": "not/a/path",
    }
    splits = {
        "train": {"file": "rows/train.npy"},
        "test": {"file": "/absolute/test.npy"},
        "file": "idx_file",
        "my_file": "idx_my_file",
        "path": "idx_path",
    }
    found = DatasetSpec.parse(SMALL | {"storage": storage, "splits": splits, "name": "a/b"}, base=tmp_path / "old")
    (tmp_path / "new" / "deep").mkdir(parents=True)
    path = tmp_path / "new" / "deep" / f"s{suffix}"
    found.to_file(path)
    moved = DatasetSpec.from_file(path)
    assert moved.storage.options == {
        "source": {
            "backend": "npz-lazy",
            "path": "../../old/data/x.npz",
            "weights_path": "../../old/w.pt",
            "pathway": "a/b",
        },
        "path": "/absolute/x.npz",
        "list": ({"path": "../../old/y.npz"},),
        "file": "not/a/path",
    }
    assert moved.splits == {
        "train": FileSplit(file="../../old/rows/train.npy"),
        "test": FileSplit(file="/absolute/test.npy"),
        "file": "idx_file",
        "my_file": "idx_my_file",
        "path": "idx_path",
    }
    assert moved.name == "a/b"
    moved.to_file(tmp_path / f"back{suffix}")
    (tmp_path / "old").mkdir()
    back = DatasetSpec.from_file(tmp_path / f"back{suffix}").storage.options["source"]["path"]
    assert (tmp_path / back).resolve() == tmp_path / "old" / "data" / "x.npz"


def test_a_split_in_the_ratios_may_be_called_file(tmp_path):
    found = DatasetSpec.parse(SMALL | {"splits": {"ratios": {"file": 0.5, "path": 0.5}}}, base=tmp_path / "old")
    found.to_file(tmp_path / "s.yaml")
    assert DatasetSpec.from_file(tmp_path / "s.yaml") == found


def test_a_folder_behind_a_symbolic_link_is_where_the_system_says_it_is(tmp_path):
    (tmp_path / "real" / "deep").mkdir(parents=True)
    (tmp_path / "real" / "x.npz").write_bytes(b"")
    (tmp_path / "link").symlink_to(tmp_path / "real" / "deep")
    found = DatasetSpec.parse({"storage": {"backend": "x", "path": "../x.npz"}}, base=tmp_path / "link")
    found.to_file(tmp_path / "s.yaml")
    assert DatasetSpec.from_file(tmp_path / "s.yaml").storage.options["path"] == "real/x.npz"


def test_a_spec_read_through_a_link_has_its_paths_beside_the_file_itself(tmp_path):
    (tmp_path / "real").mkdir()
    (tmp_path / "real" / "s.yaml").write_text("storage: {backend: x, path: x.npz}")
    (tmp_path / "link.yaml").symlink_to(tmp_path / "real" / "s.yaml")
    assert DatasetSpec.from_file(tmp_path / "link.yaml").base == tmp_path / "real"


def test_to_file_refuses_what_from_file_would_not_read(tmp_path):
    long = spec(splits={"train": {"rows": list(range(200_000))}})
    with pytest.raises(SpecError, match=r"save long lists of rows with `numpy.save`"):
        long.to_file(tmp_path / "a.yaml")
    assert not list(tmp_path.iterdir())


def test_to_file_writes_utf_8(tmp_path):
    for name in ("é", "é2"):
        DatasetSpec(name=name, storage={"backend": "in-memory"}).to_file(tmp_path / "s.yaml")
    assert 'name: "é2"'.encode() in (tmp_path / "s.yaml").read_bytes()
    assert [path.name for path in tmp_path.iterdir()] == ["s.yaml"]


def test_to_file_replaces_what_was_there_and_keeps_a_link(tmp_path):
    (tmp_path / "real.yaml").write_text("old")
    (tmp_path / "s.yaml").symlink_to(tmp_path / "real.yaml")
    spec().to_file(tmp_path / "s.yaml")
    assert (tmp_path / "s.yaml").is_symlink() and DatasetSpec.from_file(tmp_path / "real.yaml") == spec()


@pytest.mark.parametrize("name", ["spec", "spec.txt", "spec.ini", "spec.npz", ".yaml", "spec.yaml.bak"])
def test_another_suffix_is_refused_both_ways(tmp_path, name):
    with pytest.raises(SpecError, match=r"the name of a spec file must end in \.yaml, \.yml, \.json, \.toml"):
        spec().to_file(tmp_path / name)
    (tmp_path / name).write_text("storage: {backend: x}")
    with pytest.raises(SpecError, match="the name of a spec file must end in"):
        DatasetSpec.from_file(tmp_path / name)


def test_the_case_of_a_suffix_does_not_matter(tmp_path):
    for name in ("a.YAML", "b.Json", "c.TOML", "d.Yml"):
        spec().to_file(tmp_path / name)
        assert DatasetSpec.from_file(tmp_path / name) == spec()


def test_a_missing_spec_file_is_not_found(tmp_path):
    with pytest.raises(StoreNotFoundError, match=r"none\.yaml") as caught:
        DatasetSpec.from_file(tmp_path / "none.yaml")
    assert isinstance(caught.value, FileNotFoundError)


def test_an_error_in_a_file_names_the_file_and_the_path_in_it(tmp_path):
    (tmp_path / "mine.yaml").write_text("storage: {backend: x}\ncolumns: {a: {dtype: flaot32}}\nX: a")
    with pytest.raises(SpecError, match=r"mine\.yaml: columns\.a\.dtype: .*'flaot32'; did you mean 'float32'"):
        DatasetSpec.from_file(tmp_path / "mine.yaml")


def test_a_folder_that_is_not_there_is_a_write_error(tmp_path):
    with pytest.raises(kd.errors.StoreWriteError, match="no folder"):
        spec().to_file(tmp_path / "none" / "s.yaml")


def test_a_spec_can_be_read_where_its_plugin_is_not_installed(tmp_path):
    (tmp_path / "s.yaml").write_text("storage: {backend: from-another-galaxy, warp: 9}\nobservation_model: unheard-of")
    found = DatasetSpec.from_file(tmp_path / "s.yaml")
    assert found.storage.backend == "from-another-galaxy" and found.storage.options == {"warp": 9}


def test_the_name_under_which_stores_keep_their_spec_is_no_column():
    with pytest.raises(SpecError, match="_spec"):
        DatasetSpec(columns={"_spec": {}}, X="_spec", storage={"backend": "in-memory"})
