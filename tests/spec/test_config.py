"""Config files as plain data: what YAML, JSON and TOML mean, and what is refused in all three."""

import json
import math
import os
import time
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from kinoml_data.errors import SpecError, StoreNotFoundError, StoreReadError
from kinoml_data.spec import config

SUFFIXES = (".yaml", ".json", ".toml")


def read(text, suffix=".yaml"):
    return config.parse(text.encode() if isinstance(text, str) else text, suffix)


# What a plain scalar is in YAML 1.2's core schema (https://yaml.org/spec/1.2.2/#1032-tag-resolution).
SCALARS = {
    "1e-3": 1e-3,
    "1E3": 1000.0,
    "1.0e-6": 1e-6,
    "1.5E+3": 1500.0,
    "-2.5": -2.5,
    ".5": 0.5,
    "5.": 5.0,
    "+.5e1": 5.0,
    "1.e5": 1e5,
    "0": 0,
    "-0": 0,
    "+1": 1,
    "012": 12,
    "-19": -19,
    "0x1F": 31,
    "0xff": 255,
    "0o17": 15,
    "18446744073709551616": 2**64,
    "true": True,
    "True": True,
    "TRUE": True,
    "false": False,
    "~": None,
    "null": None,
    "Null": None,
    "NULL": None,
    "": None,
    # Strings here, and something else in YAML 1.1.
    "on": "on",
    "off": "off",
    "Off": "Off",
    "yes": "yes",
    "NO": "NO",
    "y": "y",
    "n": "n",
    "tRUE": "tRUE",
    "nULL": "nULL",
    "1_000": "1_000",
    "0b11": "0b11",
    "1:30": "1:30",
    "190:20:30.15": "190:20:30.15",
    "2001-12-14": "2001-12-14",
    "2001-12-14t21:59:43.10-05:00": "2001-12-14t21:59:43.10-05:00",
    "=": "=",
    "<<": "<<",
    # Nearly numbers.
    "0x": "0x",
    "-0x1F": "-0x1F",
    "0o9": "0o9",
    "1e": "1e",
    "e5": "e5",
    ".": ".",
    "-.nan": "-.nan",
    "1.2.3": "1.2.3",
    "nan": "nan",
    "inf": "inf",
    "None": "None",
}


@pytest.mark.parametrize("text", SCALARS, ids=lambda text: repr(text))
def test_a_plain_yaml_value_is_what_yaml_1_2_says(text):
    found = read(f"a: {text}")["a"]
    assert type(found) is type(SCALARS[text]) and found == SCALARS[text]


@pytest.mark.parametrize("text", SCALARS, ids=lambda text: repr(text))
def test_a_quoted_yaml_value_is_a_string(text):
    assert read(f"a: '{text}'") == {"a": text}
    assert read(f'a: "{text}"') == {"a": text}


def test_a_version_directive_does_not_bring_the_types_of_yaml_1_1():
    assert read("%YAML 1.1\n---\na: on\nb: 012") == {"a": "on", "b": 12}


@pytest.mark.parametrize("key", ["0", "1e3", "true", "null", "~", "on", "012", "2001-12-14", "<<"])
def test_a_yaml_key_is_a_string_as_written(key):
    assert read(f"{key}: 1") == {key: 1}


TWINS = {
    "numbers": (
        "a: 1\nb: 1.5\nc: 1e-3\nd: -7",
        '{"a": 1, "b": 1.5, "c": 1e-3, "d": -7}',
        "a = 1\nb = 1.5\nc = 1e-3\nd = -7",
    ),
    "texts": ("a: x\nb: 'é \"'\nc: ''", '{"a": "x", "b": "\\u00e9 \\"", "c": ""}', "a = 'x'\nb = 'é \"'\nc = ''"),
    "flags": ("a: true\nb: false", '{"a": true, "b": false}', "a = true\nb = false"),
    "nested": (
        "a: {b: [1, {c: x}]}\nd:\n  e:\n  - [f]",
        '{"a": {"b": [1, {"c": "x"}]}, "d": {"e": [["f"]]}}',
        'a = {b = [1, {c = "x"}]}\n[d]\ne = [["f"]]',
    ),
    "empty": ("a: {}\nb: []", '{"a": {}, "b": []}', "b = []\n[a]"),
    "digits as keys": ("0: 1\na: {1: 2}", '{"0": 1, "a": {"1": 2}}', "0 = 1\na.1 = 2"),
}


@pytest.mark.parametrize("texts", TWINS.values(), ids=TWINS)
def test_twins_read_to_the_same_mapping(texts):
    yaml, js, toml = (read(text, suffix) for text, suffix in zip(texts, SUFFIXES, strict=True))
    assert json.dumps(yaml) == json.dumps(js)
    assert json.dumps(toml, sort_keys=True) == json.dumps(js, sort_keys=True)


def test_a_yml_file_is_read_as_yaml():
    assert read("a: 1e-3", ".yml") == {"a": 1e-3}


REFUSED = {
    # duplicate keys
    ("a: 1\na: 2", ".yaml"): "duplicate key 'a'.*line 2",
    ("a: {b: 1, b: 1}", ".yaml"): "duplicate key 'b'",
    ("1: x\n'1': y", ".yaml"): "duplicate key '1'",
    ('{"a": 1, "a": 2}', ".json"): "duplicate key 'a'",
    ('{"a": [{"b": 1, "b": 1}]}', ".json"): "duplicate key 'b'",
    ("a = 1\na = 2", ".toml"): "not valid TOML",
    ("a = {b = 1, b = 2}", ".toml"): "not valid TOML",
    ("[a]\nb = 1\n[a]\nc = 2", ".toml"): "not valid TOML",
    # aliases and tags
    ("a: &x 1\nb: *x", ".yaml"): "aliases are not supported.*line 2",
    ("a: &x [1]\nb: {<<: *x}", ".yaml"): "aliases",
    ("a: &a [*a]", ".yaml"): "aliases",
    ("a: !!str 5", ".yaml"): "tags are not supported.*line 1",
    ("a: !!int '5'", ".yaml"): "tags",
    ("a: !!float nan", ".yaml"): "tags",
    ("a: !!binary aGk=", ".yaml"): "tags",
    ("a: !!set {b}", ".yaml"): "tags",
    ("a: !!omap [b: 1]", ".yaml"): "tags",
    ("a: !!timestamp 2001-12-14", ".yaml"): "tags",
    ("a: !!python/object/apply:os.system [id]", ".yaml"): "tags",
    ("a: !!python/name:os.system", ".yaml"): "tags",
    ("a: !mine {b: 1}", ".yaml"): "tags",
    ("a: ! 5", ".yaml"): "tags",
    ("!!map {a: 1}", ".yaml"): "tags",
    ("!!str a: 1", ".yaml"): "tags",
    # values that JSON has not
    ("a: .nan", ".yaml"): "NaN",
    ("a: [-.inf]", ".yaml"): "NaN or infinity",
    ("a: 1e400", ".yaml"): "infinity",
    ('{"a": NaN}', ".json"): "NaN",
    ('{"a": [-Infinity]}', ".json"): "infinity",
    ('{"a": 1e400}', ".json"): "infinity",
    ("a = nan", ".toml"): "NaN",
    ("a = [-inf]", ".toml"): "infinity",
    ("a = 1e400", ".toml"): "infinity",
    ("a = 1979-05-27", ".toml"): "is a date; write it as a string",
    ("a = 07:32:00", ".toml"): "is a time; write it as a string",
    ("a = 1979-05-27T07:32:00Z", ".toml"): "is a datetime; write it as a string",
    # keys that are no strings
    ("? [a]\n: 1", ".yaml"): "a key must be a string",
    ("? {a: b}\n: 1", ".yaml"): "a key must be a string",
    # no mapping
    ("", ".yaml"): "a spec must be a mapping",
    ("# nothing", ".yaml"): "a spec must be a mapping",
    ("- a", ".yaml"): "a spec must be a mapping",
    ("a", ".yaml"): "a spec must be a mapping",
    ("[1]", ".json"): "a spec must be a mapping",
    ('"a"', ".json"): "a spec must be a mapping",
    ("null", ".json"): "a spec must be a mapping",
    ("", ".json"): "not valid JSON",
    # broken
    ("a: [1, 2", ".yaml"): "not valid YAML.*line 1",
    ("a: 'x", ".yaml"): "not valid YAML",
    ("a: b: c", ".yaml"): "not valid YAML",
    ("\ta: 1", ".yaml"): "not valid YAML",
    ("a: 1\n---\nb: 2", ".yaml"): "not valid YAML.*document",
    ('{"a": 1,}', ".json"): "not valid JSON.*line 1",
    ("{'a': 1}", ".json"): "not valid JSON",
    ('{"a": 1} {}', ".json"): "not valid JSON",
    ("a", ".toml"): "not valid TOML",
    ("a = yes", ".toml"): "not valid TOML.*line 1",
    # NUL
    ("a: \0", ".yaml"): "not valid YAML",
    ('{"a": "\0"}', ".json"): "not valid JSON",
    ('a = "\0"', ".toml"): "not valid TOML",
    # long numbers
    ("a: " + "9" * 5000, ".yaml"): "digits",
    ('{"a": ' + "9" * 5000 + "}", ".json"): "digits",
    ("a = " + "9" * 5000, ".toml"): "digits",
}


@pytest.mark.parametrize(("file", "said"), REFUSED.items(), ids=lambda value: repr(value)[:40])
def test_values_that_one_format_cannot_express_are_refused_with_their_place(file, said):
    text, suffix = file
    with pytest.raises(SpecError, match=f"(?s){said}") as caught:
        read(text, suffix)
    assert len(str(caught.value)) < 600 and str(caught.value).isprintable()


DEEP = {
    "yaml flow": ("a: " + "[" * 40 + "]" * 40, ".yaml"),
    "yaml flow unclosed": ("[" * 500_000, ".yaml"),
    "yaml maps unclosed": ("{a: " * 200_000, ".yaml"),
    "yaml keys": ("? " * 300_000, ".yaml"),
    "yaml blocks": ("\n".join(" " * i + "a:" for i in range(50)), ".yaml"),
    "json": ('{"a": ' + "[" * 40 + "]" * 40 + "}", ".json"),
    "json lists": ("[" * 500_000, ".json"),
    "json maps": ('{"a":' * 150_000, ".json"),
    "toml": ("a = " + "[" * 40 + "]" * 40, ".toml"),
    "toml lists": ("a = " + "[" * 500_000, ".toml"),
    "toml maps": ("a = " + "{a = " * 200_000, ".toml"),
    "toml dotted key": (".".join("a" * 40) + " = 1", ".toml"),
    "toml long dotted key": (".".join("a" * 400_000) + " = 1", ".toml"),
    "toml long dotted table": ("[" + ".".join("a" * 400_000) + "]", ".toml"),
    "toml dotted key behind other line ends": ('"\\u2028".' * 100 + ("'\u2028'." * 100_000) + "a = 1", ".toml"),
}


@pytest.mark.parametrize(("text", "suffix"), DEEP.values(), ids=DEEP)
def test_deep_nesting_is_refused_quickly(text, suffix):
    began = time.perf_counter()
    with pytest.raises(SpecError, match=r"nested deeper|cannot be read as|not valid|dots"):
        read(text, suffix)
    assert time.perf_counter() - began < 5


def test_nesting_up_to_the_limit_is_read():
    text = '{"a": ' + "[" * (config.MAX_DEPTH - 2) + "1" + "]" * (config.MAX_DEPTH - 2) + "}"
    assert json.dumps(read(text, ".json")) == json.dumps(read(text, ".yaml"))
    with pytest.raises(SpecError, match="nested deeper"):
        read('{"a": ' + "[" * config.MAX_DEPTH + "]" * config.MAX_DEPTH + "}", ".json")


def test_too_many_values_are_refused():
    with pytest.raises(SpecError, match="more than"):
        read('{"a": [' + "1," * config.MAX_NODES + "1]}", ".json")


@pytest.mark.parametrize("suffix", SUFFIXES)
def test_a_huge_file_is_refused_unread(tmp_path, suffix):
    path = tmp_path / f"spec{suffix}"
    with path.open("wb") as file:
        file.truncate(10 << 30)
    began = time.perf_counter()
    with pytest.raises(SpecError, match="at most 1048576 bytes"):
        config.read(path)
    assert time.perf_counter() - began < 5  # reading it would take longer


@pytest.mark.parametrize(
    ("text", "suffix"), [("a: é", ".yaml"), ('{"a": "é"}', ".json"), ('a = "é"', ".toml")], ids=SUFFIXES
)
def test_a_byte_order_mark_at_the_start_is_no_content(text, suffix):
    # Windows editors write one; YAML allows it, and twins have to stay twins.
    assert read(text.encode("utf-8-sig"), suffix) == read(text, suffix) == {"a": "é"}


@pytest.mark.parametrize("coding", ["utf-16", "utf-16-le", "utf-16-be", "utf-32", "utf-32-le", "latin-1"])
@pytest.mark.parametrize(
    ("text", "suffix"), [("a: é", ".yaml"), ('{"a": "é"}', ".json"), ('a = "é"', ".toml")], ids=SUFFIXES
)
def test_another_encoding_than_utf_8_is_refused(text, suffix, coding):
    with pytest.raises(SpecError, match=f"cannot be read as {suffix[1:]}|not valid"):
        read(text.encode(coding), suffix)


@pytest.mark.parametrize("coding", ["utf-16-le", "utf-16-be"])
@pytest.mark.parametrize(
    ("text", "suffix"), [("a: b", ".yaml"), ('{"a": "b"}', ".json"), ('a = "b"', ".toml")], ids=SUFFIXES
)
def test_ascii_in_utf_16_is_refused_for_its_nul_bytes(text, suffix, coding):
    with pytest.raises(SpecError, match=r"not valid|mapping"):
        read(text.encode(coding), suffix)


def test_a_missing_file_a_folder_and_a_pipe_are_not_found(tmp_path):
    os.mkfifo(tmp_path / "pipe.yaml")
    (tmp_path / "folder.yaml").mkdir()
    for name in ("none.yaml", "pipe.yaml", "folder.yaml"):
        with pytest.raises(StoreNotFoundError, match=name):
            config.read(tmp_path / name)


def test_what_the_system_refuses_to_read_is_a_read_error(tmp_path):
    with pytest.raises(StoreReadError, match="cannot read"):
        config.read(tmp_path / ("a" * 300 + ".yaml"))


def test_an_error_names_the_file(tmp_path):
    path = tmp_path / "mine.yaml"
    path.write_text("a: [")
    with pytest.raises(SpecError, match=r"mine\.yaml: the spec is not valid YAML"):
        config.read(path)


texts = st.text(st.characters(codec="utf-8"), max_size=12) | st.sampled_from(
    [
        *SCALARS,
        "a: b",
        "- x",
        "#",
        "'",
        '"',
        "\\",
        "\n",
        "\t",
        "\x7f",
        "\x85",
        "\u2028",
        "\ufeff",
        "{}",
        "[",
        "&a",
        "*a",
    ]
)
scalars = st.booleans() | st.integers(-(2**70), 2**70) | st.floats(allow_nan=False, allow_infinity=False) | texts
values = st.recursive(
    scalars, lambda inner: st.lists(inner, max_size=4) | st.dictionaries(texts, inner, max_size=4), max_leaves=12
)


def same(a, b):
    """Equal with equal types, and -0.0 not 0.0."""
    if isinstance(a, dict):
        return isinstance(b, dict) and list(a) == list(b) and all(same(a[key], b[key]) for key in a)
    if isinstance(a, list):
        return isinstance(b, list) and len(a) == len(b) and all(map(same, a, b))
    return type(a) is type(b) and a == b and (not isinstance(a, float) or math.copysign(1, a) == math.copysign(1, b))


@given(st.dictionaries(texts, values, max_size=5), st.sampled_from(SUFFIXES))
def test_whatever_is_written_reads_back_the_same(mapping, suffix):
    found = read(config.dump(mapping, suffix), suffix)
    assert same(found, mapping)


@pytest.mark.parametrize("suffix", [".yaml", ".json"])
def test_null_is_written_where_the_format_has_it(suffix):
    assert read(config.dump({"a": None}, suffix), suffix) == {"a": None}


def test_null_cannot_be_written_to_toml():
    with pytest.raises(SpecError, match="TOML has no null"):
        config.dump({"a": {"b": None}}, ".toml")


def test_yaml_is_written_so_that_yaml_1_1_readers_agree():
    import yaml

    mapping = {text: text for text in SCALARS if text != "="}
    assert yaml.safe_load(config.dump(mapping, ".yaml")) == mapping


def test_a_written_yaml_spec_has_one_line_per_column():
    columns = {"a": {"dtype": "float32", "shape": ["*", 3]}, "b": {"dtype": "int64"}}
    assert config.dump({"format": 1, "columns": columns}, ".yaml").splitlines() == [
        "format: 1",
        "columns:",
        '  a: {dtype: float32, shape: ["*", 3]}',
        "  b: {dtype: int64}",
    ]


def test_a_path_is_expanded_unless_it_exists_as_written(tmp_path, monkeypatch):
    monkeypatch.setenv("DATA", "/data")
    (tmp_path / "$DATA").mkdir()
    assert config.expanded("$DATA/x") == Path("/data/x")
    assert config.expanded("$DATA", tmp_path) == Path("$DATA")
    assert config.expanded("cost$5.npz") == Path("cost$5.npz")
    assert config.expanded("C:/x.npz") == Path("C:/x.npz")
    assert config.expanded("~no-such-user-here/x") == Path("~no-such-user-here/x")
    for path in ("${UNKNOWN_HERE}/x", "a/$UNKNOWN_HERE"):
        with pytest.raises(SpecError, match="'UNKNOWN_HERE', which is not set"):
            config.expanded(path)


@pytest.mark.parametrize("text", ["a:\n\tb: 1\n", "\ta: 1\n", "a:\n  b: 1\n \tc: 2\n"], ids=repr)
def test_a_tab_in_YAML_is_called_a_tab(text):
    with pytest.raises(SpecError, match="a line begins with a tab; indent it with spaces"):
        config.parse(text.encode(), ".yaml")
