"""From the columns of a batch to tensors.

Fixed columns are stacked. A ragged column takes one of the forms `list`, `pad`, `pad-mask`, `packed` and `nested`; the
form `unique` gives the distinct rows of any column in one of these. The form of a plugin (`BatchForm`) takes the whole
batch. A batch is the same with and without worker processes.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from pydantic import ValidationError
from torch import Tensor
from torch.utils.data._utils.collate import default_collate_fn_map

from kinoml_data import registry
from kinoml_data.columns import Column, Indexed, Ragged
from kinoml_data.contracts.batch_form import BatchForm
from kinoml_data.dataset.forms import Form, as_tensor, formed, of_distinct, torch_dtype
from kinoml_data.errors import SpecError, quoted, unknown
from kinoml_data.spec.array import Array
from kinoml_data.spec.dataset_spec import CompleteSpec
from kinoml_data.spec.parts import FORMS, CollateForm
from kinoml_data.spec.validation import spec_error


class Sample(tuple[Any, ...]):
    """One `(X, y)`. torch's default collate function recognizes it, so a plain `DataLoader` works on ragged rows."""

    collater: Collater

    def __reduce__(self) -> tuple[Any, ...]:
        return tuple, (tuple(self),)


class Batch:
    """The columns of rows that were read together. To torch it looks like a list of samples.

    It is not a `collections.abc.Sequence`, because torch would then iterate over it.
    """

    def __init__(self, columns: Mapping[str, Column | Indexed], rows: NDArray[np.int64], collater: Collater) -> None:
        self.columns, self.rows, self.collater = columns, rows, collater

    def __len__(self) -> int:
        return len(self.rows)

    def __getitem__(self, index: int) -> Sample:
        # A negative index counts from the end; this raises IndexError if it is out of range.
        index = range(len(self))[index]
        return self.collater.sample(
            {name: np.array(column[index]) for name, column in self.columns.items()}, int(self.rows[index])
        )


class Collater:
    """Makes X and y from columns, as a spec describes them.

    Args:
        spec: a complete spec.
        collate: a form for all ragged columns in X and y, a mapping of columns to forms, or a `BatchForm`. By default
            the spec's own.
        with_rows: True if samples and batches end with their row numbers in the store.

    Raises:
        SpecError: a form or column is unknown, a form cannot represent its column, or a padding value is missing.
        PluginLoadError: the plugin that provides the form is broken.
        PluginConflictError: several plugins provide the form.
    """

    def __init__(self, spec: CompleteSpec, collate: Any = None, *, with_rows: bool = False) -> None:
        self.with_rows = with_rows
        self.X, self.y = spec.X, spec.y
        self.names = (*spec.X_names, *spec.y_names)
        self.arrays = dict(spec.columns)
        collate = spec.collate if collate is None else collate
        self._batch_form = _batch_form(spec, collate)
        if self._batch_form is not None:
            unique = CollateForm(form="unique", of="packed")
            collate = {name: unique if name in self._batch_form.unique else "packed" for name in self.names}
        self._forms = _column_forms(spec, collate)

    @property
    def has_nested(self) -> bool:
        """True if a column in X or y takes the form nested."""
        return any(self.arrays[name].ragged and of_distinct(self._forms[name]).form == "nested" for name in self.names)

    def __call__(self, samples: Batch | Sequence[Any]) -> Any:
        """Collate a batch, or a list of `(X, y)` samples, to `(X, y)` or to the object that a plugin's form makes.

        Anything else is what a loader with `batch_size=None` passes on: a sample, or a batch that is collated already.
        """
        if not isinstance(samples, (Batch, list)):
            return tuple(samples) if isinstance(samples, Sample) else samples
        if isinstance(samples, Batch):
            columns = samples.columns
            return self._batch({name: self.formed(name, columns[name]) for name in self.names}, samples.rows)
        parts_of: dict[str, list[Tensor]] = {name: [] for name in self.names}
        for sample in samples:
            for names, part in ((self.X, sample[0]), (self.y, sample[1])):
                for name in (names,) if isinstance(names, str) else names or ():
                    parts_of[name].append(part if isinstance(names, str) else part[name])
        rows = np.array([sample[2] for sample in samples], np.int64) if self.with_rows else None
        joined = {name: _joined(parts_of[name], self.arrays[name]) for name in self.names}
        return self._batch({name: self.formed(name, joined[name]) for name in self.names}, rows)

    def _batch(self, tensors: Mapping[str, Form], rows: NDArray[np.int64] | None) -> Any:
        parts = self.parts(tensors)
        if self._batch_form is not None:
            batch = self._batch_form(*parts)
            return (batch, as_tensor(rows)) if self.with_rows else batch
        return (*parts, as_tensor(rows)) if self.with_rows else parts

    def sample(self, arrays: Mapping[str, NDArray[Any]], row: int) -> Sample:
        """`(X, y)` of one row as plain tensors, regardless of the form; `(X, y, row)` with row numbers."""
        parts = self.parts({name: as_tensor(arrays[name]) for name in self.names})
        sample = Sample((*parts, torch.tensor(row)) if self.with_rows else parts)
        sample.collater = self
        return sample

    def parts(self, tensors: Mapping[str, Any]) -> tuple[Any, Any]:
        """`(X, y)` from the tensors of all columns, of one row or of a batch."""
        return _part(self.X, tensors), _part(self.y, tensors)

    def formed(self, name: str, column: Column | Indexed) -> Form:
        """A column in its collate form."""
        return formed(self._forms[name], column, self.arrays[name])


def _part(names: str | tuple[str, ...] | None, tensors: Mapping[str, Any]) -> Any:
    if type(names) is str or names is None:
        return None if names is None else tensors[names]
    return {name: tensors[name] for name in names}


def _joined(rows: list[Tensor], array: Array) -> Any:
    """The column that consists of these rows: a tensor if it is fixed, a `Ragged` of a tensor if it is ragged."""
    if not array.ragged:
        return torch.stack(rows) if rows else torch.empty((0, *array.row_shape), dtype=torch_dtype(array))
    shapes = np.array([row.shape for row in rows], np.int64).reshape(len(rows), len(array.shape))
    values: Any = torch.cat([row.reshape(-1) for row in rows]) if rows else torch.empty(0, dtype=torch_dtype(array))
    return Ragged(values, shapes)


def _batch_form(spec: CompleteSpec, collate: Any) -> BatchForm | None:
    """The form of a plugin that is requested; None if forms of single columns are requested."""
    if isinstance(collate, str) and collate not in FORMS and (cls := registry.collate_form(collate)):
        return cls(spec)
    return collate if isinstance(collate, BatchForm) else None


def _column_forms(spec: CompleteSpec, collate: Any) -> dict[str, CollateForm]:
    columns = spec.columns
    requested: dict[str, Any] = dict.fromkeys(columns, "list")
    if collate is None or isinstance(collate, (str, CollateForm)):
        requested |= dict.fromkeys((*spec.X_names, *spec.y_names), "list" if collate is None else collate)
    elif isinstance(collate, Mapping):
        if strangers := [name for name in collate if name not in columns]:
            raise SpecError(f"collate: {unknown(strangers[0], columns, 'column')}")
        requested |= collate
    else:
        raise SpecError(f"collate: {quoted(collate)} is neither a form nor a mapping of columns to forms")
    forms = {}
    for name, value in requested.items():
        form = _parse_form(name, value)
        if columns[name].ragged:
            _check_form(name, form, columns[name])
        elif not isinstance(collate, Mapping):
            form = CollateForm(form="list")  # one form for all columns is meant for ragged ones
        forms[name] = form
    return forms


def _parse_form(name: str, value: Any) -> CollateForm:
    if isinstance(value, Mapping):
        if strangers := set(value) - set(CollateForm.model_fields):
            raise SpecError(f"collate.{name}: {unknown(min(strangers), list(CollateForm.model_fields))}")
        try:
            value = CollateForm(**value)
        except ValidationError as error:
            raise spec_error(error, CollateForm, f"collate.{name}") from None
    form = CollateForm(form=value) if isinstance(value, str) else value
    if not isinstance(form, CollateForm) or form.form not in FORMS:
        raise SpecError(f"collate.{name}: {_unknown_form(getattr(form, 'form', value))}")
    if form.of is not None and form.form != "unique":
        raise SpecError(f"collate.{name}: only the form unique takes `of`; the form {form.form} does not")
    if form.of is not None and form.of not in FORMS[:-1]:
        raise SpecError(f"collate.{name}.of: {_unknown_form(form.of) if form.of != form.form else _NESTED_UNIQUE}")
    return form


_NESTED_UNIQUE = "the form of the distinct rows cannot be unique; for example {form: unique, of: pad}"


def _unknown_form(value: Any) -> str:
    plugins = registry.registry()
    installed = plugins.all(registry.COLLATE_FORM)
    if isinstance(value, str) and value in installed:
        return f"the form {value} takes the whole batch, not one column; write `collate: {value}`"
    return "; ".join([unknown(value, [*FORMS, *installed], "form"), *(plugin.failure() for plugin in plugins.broken())])


def _check_form(name: str, form: CollateForm, array: Array) -> None:
    form = of_distinct(form)
    if form.form == "nested" and array.shape.count(None) != 1:
        raise SpecError(
            f"collate.{name}: the form nested needs exactly one ragged axis; {name!r} has {array.shape.count(None)}; "
            "use the form packed instead"
        )
    if form.value is None:
        if form.form == "pad" and array.numpy.kind in "iu":
            raise SpecError(
                f"collate.{name}: padding integers needs a value, because 0 may be a real one; "
                "for example {form: pad, value: -1}"
            )
    elif form.form not in ("pad", "pad-mask"):
        raise SpecError(f"collate.{name}: the form {form.form} does not take a value")
    elif not _fits(form.value, array.numpy):
        raise SpecError(f"collate.{name}: the padding value {form.value} does not fit {array.dtype}")


def _fits(value: float, dtype: np.dtype[Any]) -> bool:
    if dtype.kind == "b":
        return value in (0, 1)
    if dtype.kind in "iu":
        return isinstance(value, int) and np.iinfo(dtype).min <= value <= np.iinfo(dtype).max
    return abs(value) <= float(np.finfo(dtype).max)


def _collate_samples(samples: Batch | Sequence[Sample], *, collate_fn_map: Any = None) -> Any:
    collater = samples.collater if isinstance(samples, Batch) else samples[0].collater
    return collater(samples)


default_collate_fn_map[Sample] = _collate_samples
