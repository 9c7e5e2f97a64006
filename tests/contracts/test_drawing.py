import pytest

import kinoml_data as kd


def test_the_example_of_a_drawing_draws_the_texts_that_it_says(example):
    drawing = example(kd.Drawing, "Swatch")()
    assert drawing.draws(["#ffffff", "#4e79a7"]) and not drawing.draws(["#ffffff", "white"])
    assert drawing.svg("#4e79a7").startswith("<svg ") and 'fill="#4e79a7"' in drawing.svg("#4e79a7")


def test_a_drawing_without_its_methods_cannot_be_made():
    class Nothing(kd.Drawing):
        name = "nothing"

    with pytest.raises(TypeError, match="draws"):
        Nothing()
