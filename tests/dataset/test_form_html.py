"""What terminals and notebooks show for a batch in a collate form."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch

import kinoml_data as kd
from kinoml_data.dataset.forms import PadMask, Unique


def batch(form: Any, lengths: tuple[int, ...] = (1, 3, 3)) -> Any:
    """The rows of a ragged column whose second and third rows are equal."""
    rows = [np.full((length, 2), length, np.float32) for length in lengths]
    dataset = kd.load_dataset(
        {
            "columns": {"a": {"dtype": "float32", "shape": ["*", 2]}},
            "X": "a",
            "collate": form,
            "storage": {"backend": "in-memory"},
        },
        data={"a": rows},
    )
    return dataset[:][0]


@pytest.mark.parametrize(
    ("form", "text"),
    [
        (
            "packed",
            "<Packed: 3 rows; 22.2 % padding if padded; 136 B; "
            "values float32 (14); offsets int64 (4); shapes int64 (3, 2)>",
        ),
        ("pad-mask", "<PadMask: 3 rows; 22.2 % padding; 90 B; values float32 (3, 3, 2); mask bool (3, 3, 2)>"),
        (
            {"form": "unique", "of": "pad"},
            "<Unique: 3 rows; 2 distinct; 72 B; values float32 (2, 3, 2); index int64 (3)>",
        ),
        ("unique", "<Unique: 3 rows; 2 distinct; 56 B; values float32 2 tensors (1-3, 2); index int64 (3)>"),
        (
            {"form": "unique", "of": "pad-mask"},
            "<Unique: 3 rows; 2 distinct; 33.3 % padding; 84 B; "
            "values.values float32 (2, 3, 2); values.mask bool (2, 3, 2); index int64 (3)>",
        ),
        (
            {"form": "unique", "of": "packed"},
            "<Unique: 3 rows; 2 distinct; 33.3 % padding if padded; 112 B; values.values float32 (8); "
            "values.offsets int64 (3); values.shapes int64 (2, 2); index int64 (3)>",
        ),
        (
            {"form": "unique", "of": "nested"},
            "<Unique: 3 rows; 2 distinct; 56 B; values float32 (2, *, 2); index int64 (3)>",
        ),
    ],
)
def test_a_form_tells_its_rows_padding_size_and_tensors(form: Any, text: str) -> None:
    shown = batch({"a": form})
    assert repr(shown) == text and text in repr((shown, None))
    html = shown._repr_html_()
    for fact in text.removeprefix(f"<{type(shown).__name__}: ").partition("; values")[0].split("; "):
        assert fact in html, fact
    assert html.count("<code>") == len(text.partition("; values")[2].split("; "))


def test_a_form_without_rows_has_no_share_of_padding() -> None:
    for form, size in (("packed", "8 B"), ("pad-mask", "0 B"), ("unique", "0 distinct; 0 B")):
        shown = batch({"a": form}, ())
        assert f": 0 rows; {size}; " in repr(shown) and size.split("; ")[-1] in shown._repr_html_()


def test_rows_without_values_have_no_share_of_padding() -> None:
    for form in ("packed", "pad-mask"):
        assert ": 2 rows; " in repr(batch({"a": form}, (0, 0))) and "padding" not in repr(batch({"a": form}, (0, 0)))


def test_a_form_of_other_things_than_tensors_is_shown_as_the_tuple_that_it_is() -> None:
    shapes = PadMask(torch.Size([2]), "<b>")  # type: ignore[arg-type]  # as after a map over its tensors
    assert repr(shapes) == "PadMask(values=torch.Size([2]), mask='<b>')"
    assert "<code>mask</code></td><td>str</td>" in shapes._repr_html_() and "<b>" not in shapes._repr_html_()
    assert repr(Unique(shapes, None)).startswith("Unique(values=PadMask(values=")  # type: ignore[arg-type]  # as above


def test_a_tensor_on_another_device_names_it() -> None:
    values = torch.zeros(2, 3, device="meta")
    assert repr(PadMask(values, values.bool())) == (
        "<PadMask: 2 rows; 30 B; values float32 on meta (2, 3); mask bool on meta (2, 3)>"
    )
