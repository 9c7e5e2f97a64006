"""Each rule of the README, and properties of all tables."""

from __future__ import annotations

import csv
import math
import statistics
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import kinoml_data as kd
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from kinoml_data.errors import SpecError, StoreChangedError

from kinoml_data_measurements import rejected, write_rejected

OPTIONS = {"by": ["id"], "kinds": {"IC50": "pIC50", "Ki": "pKi", "Inhibition": "percent-displacement"}}
COLUMNS = ("id", "value", "unit", "kind", "relation")
Row = tuple[str, Any, str, str, str]


def spec_of(**options: Any) -> dict[str, Any]:
    storage = {"backend": "measurements", "source": {"backend": "in-memory"}, **OPTIONS, **options}
    outputs = storage.get("outputs", {})
    names = [outputs.get(name, name) for name in ("kind", "relation")]
    return {"X": outputs.get("value", "value"), "meta": [*names, "id"], "storage": storage}


def table_of(rows: Sequence[Row]) -> dict[str, list[Any]]:
    return {name: [row[i] for row in rows] for i, name in enumerate(COLUMNS)}


def kept(rows: Sequence[Row], **options: Any) -> list[tuple[str, float, str, str]]:
    """The id, the value, the kind and the relation of each measurement."""
    with kd.load_dataset(spec_of(**options), data=table_of(rows)) as dataset:
        columns = {name: dataset.column(name) for name in (dataset.spec.X, *dataset.spec.meta)}
        value, kind, relation, ids = columns.values()
        return list(zip(ids, np.asarray(value).tolist(), kind, relation, strict=True))


def reasons(rows: Sequence[Row], **options: Any) -> dict[int, str]:
    return {row["row"]: row["reason"] for row in rejected(spec_of(**options), data=table_of(rows))}


def one(value: Any, unit: str, kind: str = "IC50", relation: str = "=") -> Row:
    return ("CCO", value, unit, kind, relation)


# -- units and scales


@pytest.mark.parametrize(
    ("unit", "factor"),
    [
        *(("M", 1.0), ("mM", 1e-3), ("uM", 1e-6), ("\N{MICRO SIGN}M", 1e-6), ("\N{GREEK SMALL LETTER MU}M", 1e-6)),
        *(("nM", 1e-9), (" nM ", 1e-9), ("pM", 1e-12)),
    ],
)
@settings(deadline=None)
@given(value=st.floats(1e-3, 1e3))
def test_a_concentration_becomes_minus_its_decimal_logarithm_in_mol_per_litre(
    unit: str, factor: float, value: float
) -> None:
    ((_, p, kind, relation),) = kept([one(value, unit)], ranges={"pIC50": [-5, 20]})
    assert p == pytest.approx(-math.log10(value * factor), abs=1e-12)
    assert (kind, relation) == ("pIC50", "=")


def test_ten_micromolar_is_five_exactly() -> None:
    assert kept([one(10, "uM"), ("CCN", 10_000, "nM", "Ki", "=")]) == [
        ("CCO", 5.0, "pIC50", "="),
        ("CCN", 5.0, "pKi", "="),
    ]


@pytest.mark.parametrize(("unit", "expected"), [("-log10(M)", 6.5), ("-log10(nM)", 15.5), ("-log10(uM)", 12.5)])
def test_a_logarithm_is_passed_through_or_moved_to_mol_per_litre(unit: str, expected: float) -> None:
    assert kept([one(6.5, unit, relation="<")], ranges={"pIC50": [0, 20]}) == [("CCO", expected, "pIC50", "<")]


def test_a_percentage_stays_as_it_is_with_its_relation() -> None:
    assert kept([one(63, "%", "Inhibition", ">")]) == [("CCO", 63.0, "percent-displacement", ">")]


def test_all_rows_may_have_one_unit_one_kind_and_no_relation() -> None:
    data = {"id": ["a", "b"], "value": [1.0, 10.0]}
    spec = spec_of(unit="nM", kind="Ki", relation="=")
    with kd.load_dataset(spec, data=data) as dataset:
        assert dataset.column("value").tolist() == [9.0, 8.0]
        assert (dataset.column("kind"), dataset.column("relation")) == (["pKi"] * 2, ["="] * 2)


# -- relations


@pytest.mark.parametrize(
    ("raw", "turned"), [("=", "="), ("<", ">"), ("<=", ">"), (">", "<"), (">=", "<"), (" > ", "<")]
)
def test_the_relation_of_a_concentration_is_turned(raw: str, turned: str) -> None:
    assert kept([one(10, "uM", relation=raw)]) == [("CCO", 5.0, "pIC50", turned)]


@pytest.mark.parametrize("raw", ["~", "", ">>"])
def test_a_relation_has_no_meaning_unless_it_is_given(raw: str) -> None:
    row = one(10, "uM", relation=raw)
    assert kept([row, one(1, "nM")]) == [("CCO", 9.0, "pIC50", "=")]
    assert reasons([row])[0].startswith("relation: ")
    assert kept([row], relations={raw: ">"}) == [("CCO", 5.0, "pIC50", "<")]


def test_values_may_begin_with_a_relation_if_there_is_no_column_of_relations() -> None:
    rows = [("a", ">10000", "nM", "IC50", "="), ("b", "< 1e3", "nM", "IC50", "="), ("c", "12", "nM", "IC50", "<")]
    assert kept(rows, relation="=") == [
        ("a", 5.0, "pIC50", "<"),
        ("b", 6.0, "pIC50", ">"),
        ("c", pytest.approx(7.920818753952375), "pIC50", "="),
    ]
    assert reasons(rows) == {0: "value: '>10000' is not a number", 1: "value: '< 1e3' is not a number"}


# -- rejected rows

BAD: Mapping[str, tuple[Row, str]] = {
    "a missing value": (one(math.nan, "nM"), "value: missing"),
    "an infinite value": (one(math.inf, "nM"), "value: infinite"),
    "zero": (one(0, "nM"), "value: 0 nM is not more than 0"),
    "a negative concentration": (one(-3, "uM"), "value: -3 uM is not more than 0"),
    "an unknown unit": (one(3, "ug.mL-1"), "unit: 'ug.mL-1' is not a known unit"),
    "a unit in other letters": (one(3, "NM"), "unit: 'NM' is not a known unit"),
    "no unit": (one(3, ""), "unit: missing"),
    "an unknown kind": (one(3, "nM", "Potency"), "kind: 'Potency' is not one of `kinds`"),
    "no kind": (one(3, "nM", ""), "kind: missing"),
    "a percentage of a p-value": (one(3, "%"), "unit: '%' does not fit the kind 'pIC50'"),
    "a concentration of a percentage": (
        one(3, "nM", "Inhibition"),
        "unit: 'nM' does not fit the kind 'percent-displacement'",
    ),
    "a p-value below its range": (one(5, "M"), "range: pIC50 -0.69897 is not in 0 to 15"),
    "a bound outside its range": (one(1e-4, "pM", relation="<"), "range: pIC50 16 is not in 0 to 15"),
    "a percentage above its range": (
        one(104, "%", "Inhibition"),
        "range: percent-displacement 104 is not in 0 to 100",
    ),
    "no relation": (one(3, "nM", relation=""), "relation: missing"),
    "an empty id": (("", 3, "nM", "Ki", "="), "id: missing"),
}


@pytest.mark.parametrize("case", BAD)
def test_a_row_that_is_not_valid_is_rejected_with_a_reason(case: str) -> None:
    row, reason = BAD[case]
    rows = [("CCN", 1.0, "nM", "IC50", "="), row, ("CCC", 1.0, "uM", "Ki", "=")]
    assert reasons(rows) == {1: reason}
    assert kept(rows) == [("CCN", 9.0, "pIC50", "="), ("CCC", 6.0, "pKi", "=")]


@pytest.mark.parametrize("text", ["n.d.", "1,200", "1_000", "0x10", "12 nM", "1e", "nan", "inf", ".", "5%"])
def test_a_text_that_is_not_a_number_is_rejected(text: str) -> None:
    assert reasons([one(text, "nM")]) == {0: f"value: {text!r} is not a number"}


def test_a_range_may_be_wider_or_narrower() -> None:
    rows = [one(104, "%", "Inhibition"), ("b", -8, "%", "Inhibition", "="), ("c", 1, "nM", "Ki", "=")]
    ranges = {"percent-displacement": [-20, 110], "pKi": [4, 8.9]}
    assert [row[:2] for row in kept(rows, ranges=ranges)] == [("CCO", 104.0), ("b", -8.0)]
    assert reasons(rows, ranges=ranges) == {2: "range: pKi 9 is not in 4 to 8.9"}


def test_missing_cells_of_a_csv_file_are_rejected_row_by_row(tmp_path: Path) -> None:
    lines = ["id,value,unit,kind,relation,year", "a,1,nM,Ki,=,2001", ",1,nM,Ki,=,", "b,,nM,Ki,=,", "c,1,,Ki,=,2003"]
    lines += ["d,1,nM,,=,2004", "e,1,nM,Ki,,2005", "f,1,nM,Ki,=,2006"]
    (tmp_path / "raw.csv").write_text("\n".join(lines) + "\n")
    spec = spec_of(source={"backend": "csv", "path": str(tmp_path / "raw.csv")})
    with kd.load_dataset(spec | {"X": "year"}) as dataset:
        assert dataset.column("id") == ["a", "f"] and dataset.column("year").tolist() == [2001, 2006]
    assert {row["row"]: row["reason"] for row in rejected(spec)} == {
        1: "id: missing or not a valid value",
        2: "value: missing",
        3: "unit: missing",
        4: "kind: missing",
        5: "relation: missing",
    }


def test_the_list_of_rejected_rows_contains_what_was_in_the_table(tmp_path: Path) -> None:
    rows = [one(1, "nM"), ("CCN", 3, "ug.mL-1", "Ki", "<"), ("CCC", math.nan, "nM", "", "=")]
    (first, second) = rejected(spec_of(), data=table_of(rows))
    assert first == {
        "row": 1,
        "ids": "id=CCN",
        "value": "3.0",
        "unit": "ug.mL-1",
        "kind": "Ki",
        "relation": "<",
        "reason": "unit: 'ug.mL-1' is not a known unit",
    }
    assert (second["row"], second["value"], second["kind"]) == (2, "", "")
    assert write_rejected(spec_of(), tmp_path / "rejected.csv", data=table_of(rows)) == 2
    with (tmp_path / "rejected.csv").open(encoding="utf-8", newline="") as file:
        assert list(csv.DictReader(file)) == [{k: str(v) for k, v in row.items()} for row in (first, second)]


def test_the_backend_may_be_the_source_of_another_one() -> None:
    inner = spec_of()["storage"]
    spec = {"X": "value", "storage": {"backend": "in-memory", "source": inner}}
    table = table_of([one(1, "nM"), one(2, "?")])
    with kd.load_dataset(spec, data=table) as dataset:
        assert dataset.column("value").tolist() == [9.0]
    assert [row["row"] for row in rejected(spec, data=table)] == [1]


@pytest.mark.parametrize(
    "storage", [{"backend": "in-memory"}, {"backend": "joined", "tables": [spec_of()["storage"]] * 2}]
)
def test_the_list_is_refused_unless_there_is_one_such_backend(storage: Any) -> None:
    with pytest.raises(SpecError, match="with the backend 'measurements', not 1"):
        rejected({"X": "value", "storage": storage})


# -- repeated measurements

REPEATED = [("a", 1, "nM", "Ki", "="), ("b", 1, "nM", "Ki", "="), ("a", 10, "nM", "Ki", "="), ("a", 1, "uM", "Ki", "=")]


@pytest.mark.parametrize(("replicates", "value"), [("first", 9.0), ("median", 8.0), ("mean", 23 / 3)])
def test_repeated_measurements_become_one_on_the_scale_of_the_result(replicates: str, value: float) -> None:
    assert kept(REPEATED, replicates=replicates) == [
        ("a", pytest.approx(value), "pKi", "="),
        ("b", 9.0, "pKi", "="),
    ]
    assert reasons(REPEATED, replicates=replicates) == {}


def test_repeated_measurements_are_an_error_by_default() -> None:
    with pytest.raises(SpecError, match="rows 0 and 2 of the source are the same measurement"):
        kept(REPEATED)


def test_rows_of_other_kinds_or_ids_are_not_repeated() -> None:
    rows = [("a", 1, "nM", "Ki", "="), ("a", 1, "nM", "IC50", "="), ("a ", 1, "nM", "Ki", "=")]
    assert len(kept(rows)) == 3
    assert len(kept(REPEATED, by=[])) == 4


def test_other_columns_are_those_of_the_first_row() -> None:
    table = table_of(REPEATED) | {"year": [2001, 2002, 2003, 2004]}
    with kd.load_dataset(spec_of(replicates="mean") | {"X": "year"}, data=table) as dataset:
        assert dataset.column("year").tolist() == [2001, 2002]


@pytest.mark.parametrize("replicates", ["first", "median", "mean"])
def test_a_bound_beside_an_exact_value_is_rejected_and_never_merged(replicates: str) -> None:
    rows = [("a", 1, "uM", "Ki", ">"), ("a", 2, "uM", "Ki", "="), ("a", 3, "uM", "Ki", ">"), ("a", 2, "uM", "Ki", "<")]
    ((_, value, _, relation),) = kept(rows, replicates=replicates)
    assert (value, relation) == (pytest.approx(6 - math.log10(2)), "=")
    assert reasons(rows, replicates=replicates) == {
        0: "bound: it adds nothing to the exact value 5.69897 of row 1",
        2: "bound: it contradicts the exact value 5.69897 of row 1",
        3: "bound: it adds nothing to the exact value 5.69897 of row 1",
    }


def test_of_bounds_alone_the_tightest_on_each_side_is_kept() -> None:
    rows = [("a", 1, "nM", "Ki", ">"), ("a", 1, "uM", "Ki", "<"), ("a", 10, "nM", "Ki", ">"), ("a", 5, "uM", "Ki", "<")]
    assert kept(rows, replicates="median") == [("a", 6.0, "pKi", ">"), ("a", 8.0, "pKi", "<")]
    assert reasons(rows, replicates="median") == {}
    assert kept(rows, replicates="first") == [("a", 9.0, "pKi", "<"), ("a", 6.0, "pKi", ">")]


def test_bounds_that_contradict_each_other_are_all_rejected() -> None:
    rows = [("a", 1, "uM", "Ki", ">"), ("a", 5, "uM", "Ki", ">"), ("a", 1, "nM", "Ki", "<"), ("b", 1, "nM", "Ki", "<")]
    assert kept(rows, replicates="mean") == [("b", 9.0, "pKi", ">")]
    reason = "bound: rows 1 and 2 of one measurement contradict each other"
    assert reasons(rows, replicates="mean") == {0: reason, 1: reason, 2: reason}


def test_a_missing_condition_is_a_condition_of_its_own(tmp_path: Path) -> None:
    lines = ["id,conc,assay,value", "a,1e-6,x,10", "a,,x,20", "a,0.0,x,30", "a,-0.0,x,30", "a,,x,20", "a,nan,x,20"]
    (tmp_path / "raw.csv").write_text("\n".join([*lines, "a,,,20", 'a,,"",20', "a,,y,20"]) + "\n")
    options = {"unit": "%", "kind": "Inhibition", "relation": "=", "replicates": "mean"}
    spec = spec_of(source={"backend": "csv", "path": str(tmp_path / "raw.csv")}, **options)
    expected = {(): [1e-6], ("conc",): [1e-6, math.nan, 0.0], ("conc", "assay"): [1e-6, math.nan, 0.0] + [math.nan] * 2}
    columns: dict[str, Any] = {"value": {"dtype": "float64"}, "conc": {"dtype": "float64", "missing": "nan"}}
    for conditions, conc in expected.items():
        storage = spec["storage"] | {"conditions": list(conditions)}
        with kd.load_dataset({"X": "value", "columns": columns, "storage": storage}) as dataset:
            np.testing.assert_array_equal(dataset.column("conc"), conc)
        assert rejected({"X": "value", "storage": storage}) == []
    storage = spec["storage"] | {"by": ["id", "conc"]}
    assert [row["reason"] for row in rejected({"X": "value", "storage": storage})] == [
        "conc: missing or not a valid value",
        "conc: missing or not a valid value",
        "conc: missing",
        *["conc: missing or not a valid value"] * 3,
    ]


def test_which_rows_are_kept_does_not_depend_on_the_columns_of_the_spec(tmp_path: Path) -> None:
    (tmp_path / "raw.csv").write_text("id,value,unit\n7,1,nM\n,2,nM\n8,,nM\n9,4,nM\n")
    options = {"kind": "Ki", "relation": "=", "outputs": {"value": "pActivity"}}
    spec = {
        "X": "pActivity",
        "storage": spec_of(source={"backend": "csv", "path": str(tmp_path / "raw.csv")}, **options)["storage"],
    }
    declared: dict[str, Any] = {"pActivity": {"dtype": "float32"}, "id": {"dtype": "float64", "missing": "nan"}}
    declared["value"] = {"dtype": "float32", "missing": "nan"}
    for columns in (None, {"pActivity": {"dtype": "float64"}}, declared, {**declared, "id": {"dtype": "str"}}):
        with kd.load_dataset(spec | ({"columns": columns} if columns else {})) as dataset:
            np.testing.assert_allclose(dataset.column("pActivity"), [9, 9 - math.log10(4)], rtol=1e-6)
            if columns == declared:
                assert dataset.column("id").tolist() == [7, 9] and dataset.column("value").tolist() == [1, 4]


@pytest.mark.parametrize("number", [1, 2])
def test_a_source_that_changes_while_it_is_opened_is_an_error(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, number: int
) -> None:
    path = tmp_path / "raw.csv"
    path.write_text("id,value\na,1\n")
    csv_backend, opened = kd.list_backends()["csv"], []
    open_csv = csv_backend.open

    def changing(self: Any, columns: Any) -> Any:
        opened.append(open_csv(self, columns))
        if len(opened) == number:
            path.write_text("id,value\na,2\n")
        return opened[-1]

    monkeypatch.setattr(csv_backend, "open", changing)
    spec = spec_of(source={"backend": "csv", "path": str(path)}, unit="nM", kind="Ki", relation="=")
    with pytest.raises(StoreChangedError, match="was changed while it was opened"):
        kd.load_dataset(spec)
    assert len(opened) == number + 1


def test_a_dataset_is_the_same_after_it_was_converted(tmp_path: Path) -> None:
    table = table_of(REPEATED)
    (tmp_path / "raw.csv").write_text(
        "\n".join([",".join(table), *(",".join(map(str, row)) for row in REPEATED)]) + "\n"
    )
    spec = spec_of(source={"backend": "csv", "path": str(tmp_path / "raw.csv")}, replicates="mean")
    kd.convert(kd.DatasetSpec.parse(spec), tmp_path / "copy.npz")
    with kd.load_dataset(spec) as dataset, kd.load_dataset(tmp_path / "copy.npz") as copy:
        for name in ("value", "kind", "relation", "id"):
            assert list(dataset.column(name)) == list(copy.column(name))
        assert len(copy) == 2


def length(text: str) -> np.ndarray[Any, Any]:
    if text == "?":
        raise ValueError("not a molecule")
    return np.array(len(text))


def test_ids_may_be_computed_and_a_row_without_one_is_rejected() -> None:
    computed = {"backend": "featurize-on-access", "source": {"backend": "in-memory"}}
    computed["featurizer"] = {"name": "length", "inputs": ["id"], "outputs": {"size": {"dtype": "int64"}}}
    spec = spec_of(source=computed, by=["size"], replicates="mean")
    rows = [("aa", 1, "nM", "Ki", "="), ("?", 1, "nM", "Ki", "="), ("bb", 100, "nM", "Ki", "=")]
    with kd.load_dataset(spec, data=table_of(rows), featurizer={"length": length}) as dataset:
        assert dataset.column("value").tolist() == [8.0] and dataset.column("id") == ["aa"]
    (row,) = rejected(spec, data=table_of(rows), featurizer={"length": length})
    assert row["row"] == 1 and row["reason"].startswith("size: ") and "not a molecule" in row["reason"]


def test_a_copy_leaves_out_measurements_whose_features_cannot_be_computed(tmp_path: Path) -> None:
    computed = {"backend": "featurize-on-access", "source": {"backend": "in-memory"}}
    computed["featurizer"] = {"name": "length", "inputs": ["id"], "outputs": {"size": {"dtype": "int64"}}}
    spec = spec_of(source=computed, by=["id"], replicates="mean") | {"meta": ["id", "size"]}
    rows = [("aa", 1, "nM", "Ki", "="), ("?", 1, "nM", "Ki", "="), ("bb", 100, "nM", "Ki", "=")]
    with kd.load_dataset(spec, data=table_of(rows), featurizer={"length": length}) as dataset:
        kd.convert(dataset, tmp_path / "copy.npz", failed=tmp_path / "failed.csv")
    assert kd.load_dataset(tmp_path / "copy.npz").column("id") == ["aa", "bb"]
    assert "not a molecule" in (tmp_path / "failed.csv").read_text()


def test_rows_are_not_rejected_for_an_error_that_is_about_all_of_them(tmp_path: Path) -> None:
    """`featurize-on-access` compares all inputs, so one that is missing fails every row."""
    (tmp_path / "raw.csv").write_text("id,value\naa,1\n,1\nbbb,100\n")
    computed: dict[str, Any] = {"backend": "featurize-on-access", "source": {"backend": "csv", "path": "raw.csv"}}
    computed["featurizer"] = {"name": "length", "inputs": ["id"], "outputs": {"size": {"dtype": "int64"}}}
    storage = spec_of(source=computed, by=["size"], unit="nM", kind="Ki", relation="=")["storage"]
    spec = kd.DatasetSpec.parse({"X": "value", "storage": storage}, tmp_path)
    with pytest.raises(SpecError, match="a text is missing"):
        kd.load_dataset(spec, featurizer={"length": length})
    (tmp_path / "raw.csv").write_text('id,value\naa,1\n"?",1\nbbb,100\n')
    with kd.load_dataset(spec, featurizer={"length": length}) as dataset:
        assert dataset.column("value").tolist() == [9.0, 7.0]
    assert [row["row"] for row in rejected(spec, featurizer={"length": length})] == [1]


def test_a_table_without_rows_has_no_measurements() -> None:
    data = {"id": np.empty(0, "U1"), "value": np.empty(0)}
    spec = spec_of(unit="nM", kind="Ki", relation="=")
    with kd.load_dataset(spec, data=data) as dataset:
        assert len(dataset) == 0
    assert rejected(spec, data=data) == []


# -- properties of all tables

VALUES = st.one_of(st.none(), st.sampled_from([0.0, -1.0, 1.0, 10.0, 50.0, 1e5, 1e30]), st.floats(1e-3, 1e6))
ROWS = st.lists(
    st.tuples(
        st.sampled_from(["a", "b", ""]),
        VALUES,
        st.sampled_from(["nM", "uM", "M", "%", "-log10(M)", "?", ""]),
        st.sampled_from(["IC50", "Ki", "Inhibition", "Potency", ""]),
        st.sampled_from(["=", "=", "<", ">", "<=", ">=", "~", ""]),
    ),
    min_size=1,
    max_size=30,
)


@settings(deadline=None)
@given(rows=ROWS, replicates=st.sampled_from(["first", "median", "mean"]), by=st.sampled_from([["id"], []]))
def test_each_row_is_kept_rejected_or_merged(rows: list[Row], replicates: str, by: list[str]) -> None:
    data = table_of(rows) | {"value": [math.nan if value is None else float(value) for _, value, *_ in rows]}
    data["row"] = list(range(len(rows)))
    spec = spec_of(replicates=replicates, by=by, relations={"~": "="}) | {"X": "value"}
    spec["meta"] = [*spec["meta"], "row"]
    wrong = {row["row"] for row in rejected(spec, data=data)}
    with kd.load_dataset(spec, data=data) as dataset:
        right = np.asarray(dataset.column("row")).tolist()
        kinds, relations, values = dataset.column("kind"), dataset.column("relation"), dataset.column("value").tolist()
        ids = dataset.column("id")
    merged = set(range(len(rows))) - wrong - set(right)
    assert right == sorted(right) and not wrong & set(right)
    assert not merged or by
    of_row = dict(zip(right, zip(ids, kinds, relations, strict=True), strict=True))
    assert not by or len(set(of_row.values())) == len(right), "one row for each id, kind and relation"
    turned = {"<": ">", "<=": ">", ">": "<", ">=": "<", "=": "=", "~": "="}
    for row, value in zip(right, values, strict=True):
        _, raw, unit, kind, relation = rows[row]
        is_concentration = unit in ("nM", "uM", "M")
        expected = turned[relation] if is_concentration else {"<=": "<", ">=": ">", "~": "="}.get(relation, relation)
        assert of_row[row][2] == expected
        assert {"IC50": "pIC50", "Ki": "pKi", "Inhibition": "percent-displacement"}[kind] == of_row[row][1]
        if not by:
            factor = {"nM": 1e-9, "uM": 1e-6, "M": 1}.get(unit, 1)
            assert value == pytest.approx(-math.log10(raw * factor) if is_concentration else raw, abs=1e-9)
    for row in merged:  # a row of the same measurement and relation is kept in its place
        id_, _, unit, kind, relation = rows[row]
        assert any(rows[other][0] == id_ and rows[other][3] == kind for other in right)


@settings(deadline=None)
@given(values=st.lists(st.floats(1e-3, 1e6), min_size=1, max_size=9))
def test_replicates_agree_with_the_statistics_of_python(values: list[float]) -> None:
    rows = [one(value, "nM") for value in values]
    p = [9 - math.log10(value) for value in values]
    for replicates, function in (("median", statistics.median), ("mean", statistics.fmean), ("first", lambda v: v[0])):
        assert kept(rows, replicates=replicates) == [("CCO", pytest.approx(function(p), abs=1e-12), "pIC50", "=")]


# -- the spec


@pytest.mark.parametrize(
    ("options", "match"),
    [
        ({"value": "valeu"}, "value: unknown column of the source 'valeu'; did you mean 'value'"),
        ({"by": ["id", "kinase"]}, "by: unknown column of the source 'kinase'"),
        ({"unit": "value"}, "unit: column 'value' contains int64, not one text per row"),
        ({"kinds": {}}, "kinds"),
        ({"ranges": {"pKd": [0, 9]}}, "ranges: unknown kind 'pKd'"),
        ({"ranges": {"pKi": [9, 0]}}, "ranges.pKi: the least value, 9, is above the greatest, 0"),
        ({"relations": {"~": "about"}}, "relations"),
        ({"replicates": "max"}, "replicates"),
        ({"outputs": {"value": "id", "kind": "id"}}, "outputs: two of the columns id, id, relation have the same name"),
    ],
)
def test_options_that_do_not_fit_are_refused(options: dict[str, Any], match: str) -> None:
    spec = {"X": "value", "storage": spec_of(**options)["storage"]}
    with pytest.raises(SpecError, match=match):
        kd.load_dataset(spec, data=table_of([one(1, "nM")]))


def test_columns_that_come_out_may_have_other_names() -> None:
    outputs = {"value": "pActivity", "relation": "sign"}
    assert kept([one(1, "nM", relation="<")], outputs=outputs) == [("CCO", 9.0, "pIC50", ">")]


def test_facts_count_all_rows(capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    lines = ["id,value,unit,kind,relation", "a,1,nM,Ki,=", "a,2,nM,Ki,=", "b,1,kg,Ki,=", "c,1,g,Ki,=", "d,0,nM,Ki,="]
    (tmp_path / "raw.csv").write_text("\n".join(lines) + "\n")
    spec = spec_of(source={"backend": "csv", "path": str(tmp_path / "raw.csv")}, replicates="mean")
    backends = kd.list_backends()
    source = backends["csv"](path=tmp_path / "raw.csv")  # type: ignore[call-arg]  # its option
    backend = backends["measurements"](source=source, by=("id",), replicates="mean")  # type: ignore[call-arg]  # its options
    with backend.open(None) as storage:
        assert dict(storage.facts()) == {
            "measurements": "1 of 5 rows kept, 3 rejected, 1 merged",
            "rejected": "unit 2, value 1",
        }
        assert set(storage.columns) == {"id", "value", "kind", "relation"}
    assert len(rejected(spec)) == 3
