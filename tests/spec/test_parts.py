"""The parts of a spec: splits, collate forms, and references to plugins with their options."""

import pytest
from pydantic import ValidationError

from kinoml_data import DatasetSpec
from kinoml_data.spec.parts import BackendRef, ComputedSplits
from tests.spec.specs import SMALL, spec


def test_random_splits_are_read_in_the_order_written():
    found = spec(splits={"ratios": {"train": 0.7, "val": 0.2, "test": 0.1}, "seed": 3}).splits
    assert isinstance(found, ComputedSplits) and found.seed == 3
    assert list(found.ratios.items()) == [("train", 0.7), ("val", 0.2), ("test", 0.1)]
    assert spec(splits={"ratios": {"all": 1}}).splits.seed == 0


@pytest.mark.parametrize("name", ["ratios", "range", "rows", "file", "path", "named", "seed", "X", "0", "fold 1"])
def test_a_split_may_have_any_name(name):
    assert spec(splits={"a": "x"} | {name: "idx"} if name != "ratios" else {"a": "x"}).splits["a"] == "x"
    assert spec(splits={name: {"rows": [1]}} if name != "ratios" else {}).splits is not None


@pytest.mark.parametrize("form", ["list", "pad", "pad-mask", "packed", "nested", {"a": "pad"}, {"a": {"form": "pad"}}])
def test_collate_is_a_form_or_forms_by_column(form):
    assert spec(collate=form).to_mapping()["collate"] == form


@pytest.mark.parametrize("value", [0, -1, 0.5, 1e-3, 2**63, None])
def test_a_padding_value_keeps_its_type(value):
    found = spec(collate={"a": {"form": "pad", "value": value}}).collate["a"].value
    assert found == value and type(found) is type(value)


def test_no_ratio_and_no_column_of_a_spec_can_be_changed():
    found = spec(splits={"ratios": {"a": 1.0}})
    with pytest.raises(TypeError):
        found.splits.ratios["a"] = 0.5
    with pytest.raises(ValidationError):
        found.columns["a"].dtype = "int8"


def test_the_options_of_a_reference_are_a_copy():
    found = spec()
    found.storage.options["path"] = "other"
    assert found.storage.options == {}


def test_references_with_different_options_are_not_equal():
    assert BackendRef(backend="x", a=1) == BackendRef(backend="x", a=1) != BackendRef(backend="x", a=2)
    assert DatasetSpec.parse(SMALL).base.is_absolute()


def test_ratios_in_another_order_are_another_spec():
    a, b = (
        DatasetSpec(X="x", columns={"x": {}}, storage={"backend": "b"}, splits={"ratios": ratios})
        for ratios in ({"train": 0.5, "test": 0.5}, {"test": 0.5, "train": 0.5})
    )
    assert a != b
    assert a == DatasetSpec.parse(a.to_mapping())
    assert hash(a) == hash(DatasetSpec.parse(a.to_mapping()))
