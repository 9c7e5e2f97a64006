"""What `inspect` and notebooks say about a dataset."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

import kinoml_data as kd
from kinoml_data.dataset import description
from kinoml_data.factory import open_to_copy
from tests.builders import letters_of


def test_shapes_of_computed_columns_are_those_of_a_sample_and_marked_so(tmp_path: Path) -> None:
    (tmp_path / "raw.csv").write_text("text,y\n" + "\n".join(f"{'x' * (1 + i % 5)},{i}" for i in range(50)))
    dataset = letters_of(tmp_path / "raw.csv")
    letters, y = description.columns(dataset, 3)  # 5 texts, which the 50 rows share
    assert (letters.shape, letters.nbytes, letters.exact) == ("(1-3)", 10, False)
    assert (y.shape, y.nbytes, y.exact, y.range) == ("", 400, True, "0 to 2")
    letters, _ = description.columns(dataset, 1000)
    assert (letters.shape, letters.nbytes, letters.exact) == ("(1-5)", 15, True)
    letters, _ = description.columns(dataset, 0)
    assert letters.shape == "(*)" and not letters.exact and not letters.first


def test_shapes_and_sizes_of_a_view_are_those_of_its_rows(tmp_path: Path) -> None:
    rows = [np.zeros(n, np.uint8) for n in (1, 50, 3, 3)]
    kd.save_dataset(kd.from_arrays({"a": rows, "b": rows}), tmp_path / "a.npz")
    kd.convert(tmp_path / "a.npz", tmp_path / "b.npz", share=["b"])
    with kd.load_dataset(tmp_path / "b.npz") as dataset:
        for view, a, b, lengths, values in (
            (dataset, 57, 54, "(1-50)", 3),
            (dataset.select([2, 3]), 6, 3, "(3)", 1),
            (dataset.select([0, 0, 1, 1]), 102, 51, "(1-50)", 2),
            (dataset.select([0, 2]), 4, 4, "(1-3)", None),
            (dataset.select([]), 0, 0, "(*)", None),
        ):
            found = {column.name: column for column in description.columns(view)}
            assert (found["a"].nbytes, found["a"].shape, found["a"].values) == (a, lengths, None)
            assert (found["b"].nbytes, found["b"].shape, found["b"].values) == (b, lengths, values)


def test_a_computed_text_is_computed_for_the_sample_only(tmp_path: Path) -> None:
    computed: list[str] = []

    def shout(text: str) -> str:
        computed.append(text)
        return text.upper()

    (tmp_path / "raw.csv").write_text("text,y\n" + "\n".join(f"a{i},{i}" for i in range(50)))
    storage = {"backend": "featurize-on-access", "source": {"backend": "csv", "path": str(tmp_path / "raw.csv")}}
    storage["featurizer"] = {"inputs": ["text"], "outputs": {"loud": {"dtype": "str"}}}
    with kd.load_dataset({"X": "y", "meta": ["loud"], "storage": storage}, featurizer=shout) as dataset:
        facts = {column.name: column for column in description.columns(dataset, 3)}
        assert description.is_computed(dataset, "loud") and not description.is_computed(dataset, "y")
    assert sorted(computed) == ["a0", "a1", "a2"] and facts["loud"].first == "'A0', 'A1', 'A2'"


def test_missing_numbers_in_the_sample_are_counted() -> None:
    data = {"X": np.array([[1.0, np.nan], [np.nan, 2.0], [np.nan, 3.0]]), "y": [1, 2, 3]}
    dataset = kd.load_dataset({"X": "X", "y": "y", "storage": {"backend": "in-memory"}}, data=data)
    assert [column.missing for column in description.columns(dataset, 2)] == [2, 0]
    assert [column.missing for column in description.columns(dataset, 5)] == [3, 0]


def test_first_values_and_ranges_are_those_of_the_batch() -> None:
    data = {
        "X": np.array([[1.5, np.nan], [-2, 8]], np.float32),
        "tokens": [[1, 2, 3, 4], [5]],
        "name": ["CCO", "C" * 50],
        "ok": [True, False],
        "y": [1, 200],
    }
    spec = {"X": ["X", "tokens", "ok"], "y": "y", "meta": ["name"], "storage": {"backend": "in-memory"}}
    found = {column.name: column for column in description.columns(kd.load_dataset(spec, data=data), 10)}
    assert (found["X"].first, found["X"].range) == ("1.5, nan, -2, ...", "-2 to 8, 1 NaN")
    assert (found["tokens"].first, found["tokens"].range, found["tokens"].shape) == ("1, 2, 3, ...", "1 to 5", "(1-4)")
    assert found["name"].first.startswith("'CCO', '") and len(found["name"].first) < 40 and not found["name"].range
    assert (found["ok"].first, found["ok"].range) == ("True, False", "")
    assert [found[name].role for name in ("X", "y", "name")] == ["X", "y", "meta"]


def test_sizes_are_those_of_the_file_of_memory_and_of_a_batch(tmp_path: Path) -> None:
    np.savez(tmp_path / "a.npz", X=np.zeros((1000, 10), np.uint8), y=np.zeros(1000))
    columns = {"X": {"dtype": "bool", "shape": [77], "packbits": True}, "y": {"dtype": "float32"}}
    spec = {"columns": columns, "X": "X", "y": "y", "storage": {"backend": "npz-lazy", "path": str(tmp_path / "a.npz")}}
    with kd.load_dataset(spec) as dataset:
        found = dict(description.facts(dataset, description.columns(dataset)))
    assert "a.npz 18." in found["stored"] and found["in memory"] == "18.0 kB"
    assert found["a batch of 128"] == "about 10.4 kB of X and y"  # 128 rows of 77 bools and a float32


def test_what_cannot_be_read_is_a_note_and_not_an_error(tmp_path: Path) -> None:
    (tmp_path / "t.csv").write_text("a,b,c,c\n1,>5,1,2\n,6,1,2\n3,7,1,2\n")
    with open_to_copy(tmp_path / "t.csv", loads=False) as dataset:
        a, b = description.columns(dataset, 10)
        assert "row 1 (line 3): a value is missing" in a.note and b.note == "2 numbers, and '>5' in row 0"
        assert list(description.unreadable(dataset)) == ["c"]
        assert "load_dataset('t.csv', X=['a'])" in description.roles_hint(dataset)


def test_the_example_of_roles_can_be_run_as_it_is(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    Path("t.csv").write_text("smiles,IC50 [nM],y,cliff\nCCO,10,8,1\nCCN,100,7,0\n")
    with open_to_copy("t.csv") as dataset:
        hint = description.roles_hint(dataset)
    assert hint.startswith("Neither the data nor a spec specifies X. To compute X from a column of text")
    load = hint.partition("for example: load_dataset")[2]
    with eval(f"kd.load_dataset{load}") as dataset:
        assert dataset.spec.X == ("IC50_nM", "cliff") and dataset.spec.y == "y"


def test_the_range_of_a_column_with_values_names_them(tmp_path: Path) -> None:
    columns = {"x": {}, "relation": {"dtype": "uint8", "values": ["=", "<", ">"]}}
    spec = {"columns": columns, "X": "x", "y": "relation", "storage": {"backend": "in-memory"}}
    dataset = kd.load_dataset(spec, data={"x": [1.0, 2.0], "relation": ["<", "="]})
    assert [column.range for column in description.columns(dataset, 10)] == ["1 to 2", "0 to 1: =, <, >"]
