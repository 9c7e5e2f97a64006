import pytest
from pydantic import ValidationError

import kinoml_data as kd


def test_the_example_of_a_featurizer_computes_a_column(example):
    length = example(kd.Featurizer, "Length")
    assert length().featurize("CCO") == (3,) and length(scale=2).featurize("CCO") == (6,)
    assert length().outputs == {"length": kd.Array("float32")}


def test_an_unknown_option_of_a_featurizer_is_an_error(example):
    with pytest.raises(ValidationError, match="scales"):
        example(kd.Featurizer, "Length")(scales=2)


def test_a_featurizer_without_featurize_cannot_be_made():
    class Nothing(kd.Featurizer):
        name = "nothing"

    with pytest.raises(TypeError, match="featurize"):
        Nothing()
