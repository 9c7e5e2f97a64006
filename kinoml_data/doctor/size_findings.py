"""Why a file or a batch is large: each function measures one reason, and yields an advice if a change is worth it."""

from __future__ import annotations

import itertools
from collections.abc import Iterator, Mapping
from typing import Any

from kinoml_data.columns import Ragged, distinct_keys, keys_by_content
from kinoml_data.doctor.advice import Advice, saves
from kinoml_data.doctor.case import Case, row_sizes
from kinoml_data.errors import count_of, format_size
from kinoml_data.loading.padding import padded_sizes
from kinoml_data.spec.array import Array
from kinoml_data.spec.parts import CollateForm

# What a change has to save, so that it is worth the effort.
BYTES_ON_DISK = 1 << 20
BYTES_OF_BATCH = 10_000
MIN_ROW = 64  # bytes; sharing smaller values saves little
KEY = 4  # bytes of a key


def repeated_rows(case: Case) -> Iterator[Advice]:
    """Columns whose rows repeat, but are stored one by one."""
    if case.calls or case.storage.blocks is not None:
        return
    saved, repeated = 0.0, dict[str, str]()
    for name, column in case.columns.items():
        sizes, rows = row_sizes(column), len(column)
        if sizes.mean() < MIN_ROW or case.dataset._session.binding.keys(name) is not None:
            continue
        first, _ = distinct_keys(keys_by_content(column))
        gain = case.rows / rows * (sizes.sum() - sizes[first].sum() - KEY * rows)
        if gain > 0:
            saved += gain
            repeated[name] = f"column {name} has {len(first):,} distinct values in {rows:,} rows"
    before, after = case.own_on_disk, case.flat_on_disk - saved
    if repeated and saves(before, after, BYTES_ON_DISK):
        yield Advice(
            f"{', '.join(repeated.values())}, but each row is stored on its own, in {format_size(round(before))}",
            case.origin.command("shared", *itertools.chain.from_iterable(("--share", name) for name in repeated)),
            before / after,
            "bytes on disk",
        )


def zeros_and_ones(case: Case) -> Iterator[Advice]:
    """Numbers that are only 0 and 1, but take more than a bit or a byte each."""
    spec, names = case.dataset.spec, [name for name in case.columns if _is_binary(case, name)]
    if spec.X is None:
        return
    wide = [name for name in names if name in case.names and spec.columns[name].dtype == "float64"]
    before = sum(case.batch_nbytes.values())
    after = before - sum(case.batch_nbytes[name] / 2 for name in wide)
    if wide and saves(before, after, BYTES_OF_BATCH):
        yield Advice(
            f"{_only_bits(wide, 'float64')} in a batch, which takes {format_size(round(before))}",
            case.origin.code(case.dataset, dtype=dict.fromkeys(wide, "float32")),
            before / after,
            "bytes of a batch",
        )
    smaller = {name: array for name in names if (array := _smaller(case, name)) is not None}
    saved = sum(case.stored_nbytes(name) * (1 - _share(case, name, array)) for name, array in smaller.items())
    before, after = case.own_on_disk, case.flat_on_disk - saved
    if smaller and not case.calls and saves(before, after, BYTES_ON_DISK):
        dtypes = ", ".join(sorted({case.dataset.stored_columns()[name].dtype for name in smaller}))
        yield Advice(
            f"{_only_bits(list(smaller), f'stored as {dtypes}')}, in {format_size(round(before))}",
            _rewritten(case, smaller),
            before / after,
            "bytes on disk",
        )


def padding(case: Case) -> Iterator[Advice]:
    """Batches that consist of padding to a large part."""
    binding, forms = case.view._session.binding, case.dataset.collate_fn._forms
    for name in case.names:
        array, form = case.dataset.spec.columns[name], forms[name].form
        if not array.ragged or form not in ("pad", "pad-mask"):
            continue
        if (shapes := binding.shapes(name)) is not None:
            shapes = shapes[case.dataset.rows]
        else:
            column = binding.read(case.view.rows, [name])[name]
            assert isinstance(column, Ragged)
            shapes = column.shapes
        values, now, grouped = padded_sizes(array, shapes, case.batch_size)
        if not values:
            continue
        share = f"{1 - values / now:.0%} of column {name} in a batch of {count_of(case.batch_size, 'row')} is padding"
        rest = sum(nbytes for other, nbytes in case.batch_nbytes.items() if other != name)
        item, per_batch = array.numpy.itemsize, case.batch_size / len(shapes)
        padded_item = item + (form == "pad-mask")
        before = rest + now * padded_item * per_batch
        for text, after, code in (
            (
                f"{1 - values / grouped:.0%} if rows of similar length share a batch",
                grouped * padded_item,
                case.loader_code(group_by_length=name),
            ),
            ("none in the form packed, which a model has to support", values * item, _packed(case, name)),
        ):
            if saves(before, rest + after * per_batch, BYTES_OF_BATCH):
                yield Advice(f"{share}; {text}", code, before / (rest + after * per_batch), "bytes of a batch")


def _only_bits(names: list[str], but: str) -> str:
    if len(names) == 1:
        return f"column {names[0]} contains only 0 and 1, but is {but}"
    return f"the columns {', '.join(names)} contain only 0 and 1, but are {but}"


def _is_binary(case: Case, name: str) -> bool:
    """True if a column of the sample contains several numbers per row, and only 0 and 1."""
    column = case.columns[name]
    values = column.values if isinstance(column, Ragged) else column
    array = case.dataset.spec.columns[name]
    if array.is_string or array.packbits or not array.shape or not values.size or values.dtype.kind not in "biuf":
        return False
    return bool(((values == 0) | (values == 1)).all())


def _smaller(case: Case, name: str) -> Array | None:
    """How a column of 0 and 1 is stored in fewer bytes: as bits, or as bytes if its last axis is ragged."""
    columns = case.dataset.spec.columns
    stored, array = case.dataset.stored_columns()[name], columns[name]
    names = [stored_name for other in columns for stored_name in columns[other].stored_names(other)]
    if isinstance(array.stored_as, tuple) or names.count(array.stored_names(name)[0]) > 1:
        return None  # the stored column is not this column alone
    last = stored.shape[-1]
    if last is not None and last == array.shape[-1] and last >= 8:
        return Array("uint8", (*stored.shape[:-1], -(-last // 8)))
    return Array("uint8", stored.shape) if stored.numpy.itemsize > 1 else None


def _share(case: Case, name: str, array: Array) -> float:
    """The part of its bytes that a column takes if it is stored as `array`."""
    stored = case.dataset.stored_columns()[name]
    values = 1.0 if array.shape == stored.shape else (array.shape[-1] or 0) / (stored.shape[-1] or 1)
    return values / stored.numpy.itemsize


def _packed(case: Case, name: str) -> str:
    """The code that opens the dataset with one column in the form packed, and the others in their forms."""
    forms: Mapping[str, CollateForm] = case.dataset.collate_fn._forms
    collate: dict[str, Any] = {
        column: form.form if form == CollateForm(form=form.form) else form.model_dump(exclude_none=True)
        for column, form in forms.items()
        if column in case.names and form.form != "list"
    }
    return case.origin.code(case.dataset, collate=collate | {name: "packed"})


PACK = """\
def {name}(row):
    exact = row.astype(bool)
    if (exact != row).any():
        raise ValueError("a value is neither 0 nor 1")
    return {result}


"""
RESULTS = {"as_bits": "np.packbits(exact, axis=-1)", "as_bytes": 'exact.astype("uint8")'}


def _rewritten(case: Case, smaller: Mapping[str, Array]) -> str:
    """The code that writes a copy in which columns of 0 and 1 are stored in fewer bytes."""
    columns, stored = case.dataset.spec.columns, case.dataset.stored_columns()
    packed = [name for name, array in smaller.items() if array.shape != stored[name].shape]
    function = {name: "as_bits" if name in packed else "as_bytes" for name in smaller}
    used = sorted(set(function.values()))
    featurizers = []
    for name, array in smaller.items():
        (stored_name,) = columns[name].stored_names(name)
        shape = ["*" if length is None else length for length in array.shape]
        outputs = {stored_name: {"dtype": "uint8", "shape": shape}}
        featurizers.append({"name": function[name], "inputs": [stored_name], "outputs": outputs})
    lines = ["import numpy as np", case.origin.code(case.dataset), "\n"]
    lines += [
        "".join(PACK.format(name=name, result=RESULTS[name]) for name in used) + "spec = dataset.spec.to_mapping()"
    ]
    lines += [f'spec["columns"][{name!r}]["packbits"] = True' for name in packed]
    lines += ["featurizers = [", *(f"    {featurizer!r}," for featurizer in featurizers), "]"]
    lines += ['storage = {"backend": "featurize-on-access", "source": spec["storage"], "featurizer": featurizers}']
    functions = ", ".join(f'"{name}": {name}' for name in used)
    lines += ["smaller = kd.load_dataset("]
    lines += [f'    spec | {{"storage": storage}}, base=dataset.spec.base, featurizer={{{functions}}}', ")"]
    return "\n".join([*lines, f"kd.save_dataset(smaller, {case.origin.target('smaller')!r})"])
