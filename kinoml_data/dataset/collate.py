"""Columns to tensors: how the rows of a batch are put together.

Fixed columns always stack. A ragged column takes one of five forms: `list`, `pad`, `pad-mask`, `packed`
and `nested`. A plugin's form (`BatchForm`) takes the whole batch. Every form comes out the same with and without
workers.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple, TypeAlias

import numpy as np
import torch
from numpy.typing import NDArray
from pydantic import ValidationError
from torch import Tensor
from torch.utils.data import get_worker_info
from torch.utils.data._utils.collate import default_collate_fn_map

from kinoml_data import registry
from kinoml_data.columns import Column, Ragged, offsets_of
from kinoml_data.contracts.batch_form import BatchForm
from kinoml_data.errors import SpecError, quoted, unknown
from kinoml_data.spec.array import Array
from kinoml_data.spec.dataset_spec import DatasetSpec
from kinoml_data.spec.parts import FORMS, CollateForm
from kinoml_data.spec.validation import explain


class Packed(NamedTuple):
    """A ragged column end to end.

    Attributes:
        values: 1-D, every element of every row in C order.
        offsets: int64 `(rows + 1,)`, where each row begins and the last one ends.
        shapes: int64 `(rows, ndim)`, the shape of each row.
    """

    values: Tensor
    offsets: Tensor
    shapes: Tensor

    def __reduce__(self) -> tuple[Any, ...]:
        # Between processes a tensor costs a file descriptor and 0.4 ms, an array of shapes next to nothing.
        return (_packed, (self.values, self.shapes.cpu().numpy()))


class PadMask(NamedTuple):
    """A padded ragged column.

    Attributes:
        values: `(rows, *longest)`.
        mask: bool, shaped like `values`, True where there is data.
    """

    values: Tensor
    mask: Tensor


class ListOfRows(list[Tensor]):
    """A list of tensors that crosses to another process as one tensor and its shapes."""

    def __init__(self, values: Tensor, shapes: NDArray[np.int64]) -> None:
        super().__init__(_rows(values, shapes))
        self._whole = (values, shapes, tuple(self))

    def __reduce__(self) -> tuple[Any, ...]:
        values, shapes, rows = self._whole
        if len(rows) == len(self) and all(a is b for a, b in zip(self, rows, strict=True)):
            return _rows, (values, shapes)
        return list, (list(self),)  # somebody put other tensors in


Form: TypeAlias = Tensor | list[Tensor] | Packed | PadMask
Part: TypeAlias = Form | dict[str, Form] | None


class Sample(tuple[Any, ...]):
    """One `(X, y)`. torch's default collate function knows it, so a plain `DataLoader` works on ragged rows."""

    collater: Collater

    def __reduce__(self) -> tuple[Any, ...]:
        return tuple, (tuple(self),)


class Batch:
    """RowNumbers that were read together: looks like a list of samples, holds columns.

    It is not a `collections.abc.Sequence`: torch would take one apart.
    """

    def __init__(self, columns: Mapping[str, Column], length: int, collater: Collater) -> None:
        self.columns, self.collater = columns, collater
        self._length = length

    def __len__(self) -> int:
        return self._length

    def __getitem__(self, i: int) -> Sample:
        if not -self._length <= i < self._length:
            raise IndexError(i)
        i %= self._length
        return self.collater.sample({name: column[i] for name, column in self.columns.items()})


class Collater:
    """Puts the columns of X and of y together as a spec says.

    Args:
        spec: with its columns.
        collate: a form for all ragged columns, one by column, or a `BatchForm`; None for the spec's own.

    Raises:
        SpecError: an unknown form or column, a form that cannot hold a column, a padding value missing.
        PluginLoadError, PluginConflictError: the plugin of a form is broken, or there are two.
    """

    def __init__(self, spec: DatasetSpec, collate: Any = None) -> None:
        assert spec.columns is not None
        self.X, self.y = spec.X, spec.y
        self.names = (*spec.X_names, *spec.y_names)
        self.arrays = dict(spec.columns)
        collate = spec.collate if collate is None else collate
        self._whole = _batch_form(spec, collate)
        self._forms = _forms(spec, collate if self._whole is None else "packed")

    def __call__(self, samples: Batch | Sequence[Any]) -> Any:
        """`(X, y)` of a batch, or of a list of `(X, y)` samples; what a plugin's form makes of it."""
        if isinstance(samples, Batch):
            return self.batch(samples.columns)
        tensors: dict[str, list[Tensor]] = {name: [] for name in self.names}
        for X, y in samples:
            for names, part in ((self.X, X), (self.y, y)):
                for name in (names,) if isinstance(names, str) else names or ():
                    tensors[name].append(part if isinstance(names, str) else part[name])
        return self._together({name: self._from_list(name, rows) for name, rows in tensors.items()})

    def batch(self, columns: Mapping[str, Column]) -> Any:
        """As `__call__`, of columns as they were read."""
        return self._together({name: self._column(name, columns[name]) for name in self.names})

    def _together(self, tensors: Mapping[str, Form]) -> Any:
        parts = self.parts(tensors)
        return parts if self._whole is None else self._whole(*parts)

    def sample(self, arrays: Mapping[str, NDArray[Any]]) -> Sample:
        """`(X, y)` of one row, plain tensors whatever the form."""
        sample = Sample(self.parts({name: as_tensor(arrays[name]) for name in self.names}))
        sample.collater = self
        return sample

    def parts(self, tensors: Mapping[str, Any]) -> tuple[Any, Any]:
        """`(X, y)` out of the tensors of all columns, of one row or of many."""

        return _part(self.X, tensors), _part(self.y, tensors)

    def ragged(self, name: str, column: Ragged) -> Form:
        """A ragged column in the form chosen for it."""
        return _formed(self._forms[name], as_tensor(column.values), column.shapes, self.arrays[name])

    def _column(self, name: str, column: Column) -> Form:
        return self.ragged(name, column) if isinstance(column, Ragged) else as_tensor(column)

    def _from_list(self, name: str, rows: list[Tensor]) -> Form:
        array = self.arrays[name]
        if not array.ragged:
            return torch.stack(rows) if rows else torch.empty((0, *array.shape), dtype=torch_dtype(array))  # type: ignore[arg-type]
        shapes = np.array([row.shape for row in rows], np.int64).reshape(len(rows), len(array.shape))
        values = torch.cat([row.reshape(-1) for row in rows]) if rows else torch.empty(0, dtype=torch_dtype(array))
        return _formed(self._forms[name], values, shapes, array)


def _part(names: str | tuple[str, ...] | None, tensors: Mapping[str, Any]) -> Any:
    if type(names) is str or names is None:
        return None if names is None else tensors[names]
    return {name: tensors[name] for name in names}


def torch_dtype(array: Array) -> torch.dtype:
    """The dtype of the tensor a column becomes."""
    return torch.from_numpy(np.empty(0, array.numpy)).dtype


def as_tensor(values: Any) -> Tensor:
    """An array as a tensor over the same memory; a tensor (from storage on a device) as it is."""
    return torch.from_numpy(values) if type(values) is np.ndarray else torch.as_tensor(values)


def _batch_form(spec: DatasetSpec, collate: Any) -> BatchForm | None:
    """The form of a plugin that is asked for; None where it is none."""
    if isinstance(collate, str) and collate not in FORMS and (cls := registry.collate_form(collate)):
        return cls(spec)
    return collate if isinstance(collate, BatchForm) else None


def _forms(spec: DatasetSpec, collate: Any) -> dict[str, CollateForm]:
    columns = spec.columns or {}
    if isinstance(collate, (str, CollateForm)) or collate is None:
        chosen = dict.fromkeys(columns, "list" if collate is None else collate)
    elif isinstance(collate, Mapping):
        if wrong := [name for name in collate if name not in columns]:
            raise SpecError(f"collate: {unknown(wrong[0], columns, 'column')}")
        chosen = {name: collate.get(name, "list") for name in columns}
    else:
        raise SpecError(f"collate: {quoted(collate)} is not a form, nor forms by column")
    forms = {}
    for name, given in chosen.items():
        form = _form(name, given)
        if columns[name].ragged and (name in (*spec.X_names, *spec.y_names) or isinstance(collate, Mapping)):
            _check_form(name, form, columns[name])
        forms[name] = form
    return forms


def _form(name: str, given: Any) -> CollateForm:
    if isinstance(given, Mapping):
        if wrong := set(given) - {"form", "value"}:
            raise SpecError(f"collate.{name}: {unknown(min(wrong), ['form', 'value'])}")
        try:
            given = CollateForm(**given)
        except ValidationError as error:
            raise SpecError(explain(error, CollateForm, f"collate.{name}")) from None
    form = CollateForm(form=given) if isinstance(given, str) else given
    if not isinstance(form, CollateForm) or form.form not in FORMS:
        raise SpecError(f"collate.{name}: {_no_form(getattr(form, 'form', given))}")
    return form


def _no_form(given: Any) -> str:
    """What is wrong with a form that is none of a column's."""
    known = registry.registry()
    installed = known.all(registry.COLLATE_FORM)
    if isinstance(given, str) and given in installed:
        return f"{given} takes the whole batch, not a column: collate: {given}"
    return "; ".join([unknown(given, [*FORMS, *installed], "form"), *(plugin.failure() for plugin in known.broken())])


def _check_form(name: str, form: CollateForm, array: Array) -> None:
    if form.form == "nested" and array.shape.count(None) != 1:
        raise SpecError(f"collate.{name}: nested holds one ragged axis, {name!r} has {array.shape.count(None)}")
    if form.value is None:
        if form.form == "pad" and array.numpy.kind in "iu":
            raise SpecError(
                f"collate.{name}: padding integers needs a value, as 0 may be one: {{form: pad, value: -1}}"
            )
    elif form.form not in ("pad", "pad-mask"):
        raise SpecError(f"collate.{name}: {form.form} takes no value")
    elif not _fits(form.value, array.numpy):
        raise SpecError(f"collate.{name}: the value {form.value} is no {array.dtype}")


def _fits(value: float, dtype: np.dtype[Any]) -> bool:
    if dtype.kind == "b":
        return value in (0, 1)
    if dtype.kind in "iu":
        return isinstance(value, int) and np.iinfo(dtype).min <= value <= np.iinfo(dtype).max
    return abs(value) <= float(np.finfo(dtype).max)


def _formed(form: CollateForm, values: Tensor, shapes: NDArray[np.int64], array: Array) -> Form:
    if form.form == "packed":
        return _packed(values, shapes)
    if form.form == "nested":
        return _nested(values, shapes, array)
    if form.form == "list":
        return ListOfRows(values, shapes) if get_worker_info() else _rows(values, shapes)
    padded = _padded(values, shapes, array, 0 if form.value is None else form.value)
    if form.form == "pad":
        return padded
    ones = torch.ones_like(values, dtype=torch.bool)
    return PadMask(padded, _padded(ones, shapes, array, False))


def _packed(values: Tensor, shapes: NDArray[np.int64]) -> Packed:
    offsets = torch.from_numpy(offsets_of(shapes)).to(values.device)
    return Packed(values, offsets, torch.from_numpy(shapes).to(values.device))


def _rows(values: Tensor, shapes: NDArray[np.int64]) -> list[Tensor]:
    ends = offsets_of(shapes).tolist()
    pairs = zip(ends[:-1], ends[1:], shapes.tolist(), strict=True)
    if values.device.type != "cpu":
        return [values[a:b].reshape(shape) for a, b, shape in pairs]
    array = values.numpy()  # slicing in numpy is twice as fast as in torch
    return [torch.from_numpy(array[a:b].reshape(shape)) for a, b, shape in pairs]


def _padded(values: Tensor, shapes: NDArray[np.int64], array: Array, value: float) -> Tensor:
    longest = shapes.max(axis=0).tolist() if len(shapes) else [axis or 0 for axis in array.shape]
    if values.is_floating_point() or values.is_complex():
        value = float(value)  # torch takes no int beyond int64
    size = (len(shapes), *longest)
    source: Any = values
    if values.device.type == "cpu":
        # numpy: indexing costs a third of torch's, and no threads are started that wait for each other.
        source = values.numpy()
        target: Any = np.full(size, value, source.dtype)
        padded = torch.from_numpy(target)
    else:
        target = padded = torch.full(size, value, dtype=values.dtype, device=values.device)
    start = 0
    for row, shape in enumerate(shapes.tolist()):
        stop = start + math.prod(shape)
        target[(row, *map(slice, shape))] = source[start:stop].reshape(shape)
        start = stop
    return padded


def _nested(values: Tensor, shapes: NDArray[np.int64], array: Array) -> Tensor:
    axis = array.shape.index(None)
    lengths = shapes[:, axis]
    offsets = np.zeros(len(lengths) + 1, np.int64)
    np.cumsum(lengths, out=offsets[1:])
    whole = [int(offsets[-1]) if length is None else length for length in array.shape]
    # With the ragged axis first, rows end to end are already joined; so are no values at all.
    joined = values.reshape(whole) if axis == 0 or not len(values) else torch.cat(_rows(values, shapes), dim=axis)
    jagged: Tensor = torch.nested.nested_tensor_from_jagged(
        joined,
        torch.from_numpy(offsets).to(values.device),
        jagged_dim=axis + 1,
        min_seqlen=int(lengths.min()) if len(lengths) else 0,
        max_seqlen=int(lengths.max(initial=0)),
    )
    return jagged


def _collate_samples(samples: Batch | Sequence[Sample], *, collate_fn_map: Any = None) -> Any:
    collater = samples.collater if isinstance(samples, Batch) else samples[0].collater
    return collater(samples)


default_collate_fn_map[Sample] = _collate_samples
