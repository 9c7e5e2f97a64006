"""Collate forms for people: one line for a terminal, and a table for a notebook."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from html import escape
from typing import Any

from torch import Tensor

from kinoml_data.errors import count_of, format_size
from kinoml_data.spec.html import code_html, page_html, rows_html


@dataclass(frozen=True)
class Part:
    """A tensor of a form, or a list of tensors."""

    name: str
    dtype: str
    shape: str
    nbytes: int


def form_repr(form: Any) -> str:
    """A form on one line: its rows, the share of padding, its size and its tensors."""
    parts, others = _parts(form)
    if others:  # a form whose tensors were mapped to something else
        return f"{type(form).__name__}({', '.join(f'{name}={getattr(form, name)!r}' for name in form._fields)})"
    tensors = [f"{part.name} {part.dtype} {part.shape}" for part in parts]
    return f"<{type(form).__name__}: {'; '.join([*_facts(form, parts), *tensors])}>"


def form_html(form: Any) -> str:
    """A form as a table of its tensors."""
    parts, others = _parts(form)
    rows = [(code_html(p.name), escape(p.dtype), escape(p.shape), format_size(p.nbytes)) for p in parts]
    rows += [(code_html(name), escape(kind), "", "") for name, kind in others]
    title = "" if others else "; ".join(_facts(form, parts))
    return page_html(
        type(form).__name__, None, title, [rows_html(("part", "dtype", "shape", "size"), rows, numeric=("size",))]
    )


def _parts(form: Any, prefix: str = "") -> tuple[list[Part], list[tuple[str, str]]]:
    """The tensors in a form, and the names and types of its other parts."""
    parts: list[Part] = []
    others: list[tuple[str, str]] = []
    for field in form._fields:
        name, value = prefix + field, getattr(form, field)
        tensors = value if isinstance(value, list) else [value]
        if hasattr(value, "_fields"):
            inner_parts, inner_others = _parts(value, f"{name}.")
            parts += inner_parts
            others += inner_others
        elif all(isinstance(tensor, Tensor) for tensor in tensors):
            parts.append(_part(name, tensors, is_list=isinstance(value, list)))
        else:
            others.append((name, type(value).__name__))
    return parts, others


def _part(name: str, tensors: list[Tensor], *, is_list: bool) -> Part:
    shape = _shape(tensors)
    if not tensors:
        return Part(name, "list", "0 tensors", 0)
    dtype, device = str(tensors[0].dtype).removeprefix("torch."), tensors[0].device
    # The values of a nested tensor are one tensor.
    nbytes = sum((tensor.values() if tensor.is_nested else tensor).nbytes for tensor in tensors)
    return Part(
        name,
        dtype if device.type == "cpu" else f"{dtype} on {device}",
        f"{count_of(len(tensors), 'tensor')} {shape}" if is_list else shape,
        nbytes,
    )


def _shape(tensors: list[Tensor]) -> str:
    """The shape of tensors, such as `(20, 24-96)`, with the least and the greatest length of an axis that differs."""
    axes = []
    for lengths in zip(*(tensor.shape for tensor in tensors), strict=False):
        ragged = any(not isinstance(length, int) for length in lengths)  # an axis of a nested tensor
        least, most = ("*", "*") if ragged else (min(lengths), max(lengths))
        axes.append(str(least) if least == most else f"{least}-{most}")
    return f"({', '.join(axes)})"


def _facts(form: Any, parts: list[Part]) -> Iterator[str]:
    fields = form._fields
    rows = form.shapes if "shapes" in fields else form.index if "index" in fields else form.values
    yield count_of(len(rows), "row")
    if "index" in fields:
        values = form.values
        yield f"{_length(values):,} distinct"
        form = values
    yield from _padding(form)
    yield format_size(sum(part.nbytes for part in parts))


def _length(values: Any) -> int:
    return len(getattr(values, "shapes", values.values)) if hasattr(values, "_fields") else len(values)


def _padding(form: Any) -> Iterator[str]:
    """The share of padding: of a padded form with a mask, and of a packed one as it would be if it were padded."""
    fields = getattr(form, "_fields", ())
    if "mask" in fields and form.mask.numel() and not form.mask.is_meta:
        yield f"{100 * (1 - form.mask.sum().item() / form.mask.numel()):.1f} % padding"
    elif "shapes" in fields and len(form.shapes) and not form.shapes.is_meta:
        sizes = form.shapes.double()
        longest = len(sizes) * sizes.amax(0).prod().item()
        if longest:
            yield f"{100 * (1 - sizes.prod(1).sum().item() / longest):.1f} % padding if padded"
