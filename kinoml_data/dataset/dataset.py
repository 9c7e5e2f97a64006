"""`XyDataset`: rows, splits and batches of a dataset, regardless of the backend that stores it."""

from __future__ import annotations

import copy
import os
import re
from collections.abc import Callable, Sequence
from contextlib import suppress
from multiprocessing.reduction import ForkingPickler
from typing import Any

import numpy as np
from numpy.typing import NDArray
from torch.utils.data import DataLoader, Dataset

from kinoml_data.columns import Column, Indexed, Ragged, sizes_of
from kinoml_data.dataset.binding import Binding
from kinoml_data.dataset.collate import Batch, Collater
from kinoml_data.dataset.fingerprint import fingerprint
from kinoml_data.dataset.html import dataset_html
from kinoml_data.dataset.indexing import normalize_index
from kinoml_data.dataset.session import Session
from kinoml_data.dataset.split_check import SplitCheck, check_splits
from kinoml_data.dataset.tables import to_pandas
from kinoml_data.errors import SampleIndexError, SpecError, SplitError, StoreReadError, one_line, quoted, unknown
from kinoml_data.layouts.memory_storage import SharedArrays
from kinoml_data.loading import loader
from kinoml_data.observation import Identity
from kinoml_data.report import page
from kinoml_data.spec.array import Array
from kinoml_data.spec.dataset_spec import CompleteSpec
from kinoml_data.spec.roles import names_of

RowNumbers = NDArray[np.int64]


class XyDataset(Dataset[Any]):
    """Samples `(X, y)` as a spec describes them. `load_dataset` makes one.

    `X` is a tensor if the spec names one column, and `{name: tensor}` in the order of the spec if it names a list.
    The same applies to `y`, which is None if the spec has no y. No tensor requires a gradient.

    A dataset is a context manager that closes its files. Views (`split`, `select`) share the files of the dataset that
    they were made from, and leave them open.

    Attributes:
        spec: the complete spec.
        observation_model: converts predicted dG/kT to the measured scale; the identity if the spec names no model.
        collate_fn: collates a batch of this dataset, or a list of its samples.
    """

    def __init__(
        self,
        session: Session,
        collater: Collater,
        observation_model: Callable[..., Any] | None = None,
        selection: tuple[str | RowNumbers, ...] = (),
        *,
        owns_session: bool = True,
    ) -> None:
        self._session, self.collate_fn = session, collater
        self.observation_model = observation_model or Identity()
        self._selection, self._owns_session = selection, owns_session
        self._rows: RowNumbers | None = self._select()

    @property
    def spec(self) -> CompleteSpec:
        return self._session.spec

    def __len__(self) -> int:
        return self._session.binding.length if self._rows is None else len(self._rows)

    def __getitem__(self, index: Any) -> Any:
        """`(X, y)` of one sample if `index` is an int, otherwise a collated batch as a loader returns it.

        Raises:
            SampleIndexError: `index` is out of range, or is not an int, slice, list of ints or mask.
            SpecError: a stored value does not fit the dtype or the shape that the spec specifies.
            CorruptStoreError: a row that was read is damaged.
            StoreChangedError: the store was altered or replaced after it was opened.
            StoreReadError: the operating system failed to read, or the dataset was closed.
        """
        binding = self._session.binding
        length = binding.length if self._rows is None else len(self._rows)
        if type(index) is int and -length <= index < length:
            position = index % length
        else:
            positions, single = normalize_index(index, length)
            if not single:
                return self.collate_fn(self._read(positions))
            position = int(positions[0])
        row = position if self._rows is None else int(self._rows[position])
        return self.collate_fn.sample(binding.read_row(row, self.collate_fn.names), row)

    def __getitems__(self, indices: Sequence[int] | RowNumbers) -> Batch:
        """Samples at several positions, read together. The loaders of torch call this."""
        index = indices if isinstance(indices, np.ndarray) else list(indices)
        return self._read(normalize_index(index, len(self))[0])

    def _read(self, positions: RowNumbers) -> Batch:
        rows = positions if self._rows is None else self._rows[positions]
        names = self.collate_fn.names
        return Batch(self._session.binding.read_batch(rows, names), rows, self.collate_fn)

    # -- views

    def split(self, name: str) -> XyDataset:
        """A view of the rows in a split. If this dataset is a view, only its own rows are kept, in its order.

        Raises:
            SplitError: there is no split of this name.
        """
        return self._view(name)

    def select(self, rows: Any) -> XyDataset:
        """A view of some rows.

        Args:
            rows: positions in this dataset: a slice, a list, range, array or tensor of ints, or a mask.

        Raises:
            SampleIndexError: a position is out of range, or `rows` is an int or does not select rows.
        """
        positions, single = normalize_index(rows, len(self))
        if single:
            raise SampleIndexError(f"select takes several rows, not {quoted(rows)}; index the dataset for one sample")
        return self._view(positions)

    def with_rows(self) -> XyDataset:
        """The same rows, with samples and batches `(X, y, row)`.

        `row` contains the row numbers in the store: an int64 tensor `(rows,)` for a batch, and one without axes for a
        sample. If a form of a plugin makes the batch, it is `(batch, row)`.
        """
        collater = copy.copy(self.collate_fn)
        collater.with_rows = True
        return self.with_collater(collater)

    def fold(self, number: int) -> dict[str, XyDataset]:
        """The parts of one step of a cross-validation over the splits fold0, fold1, and so on.

        Args:
            number: the fold to validate on.

        Returns:
            The view "train" of the rows of all other folds in ascending order of their positions, "val" of the fold
            `number`, and "test" of the split test if there is one.

        Raises:
            SplitError: there is no such fold.
        """
        folds = [name for name in self._session.splits if re.fullmatch(r"fold\d+", name)]
        val = f"fold{number}"
        if isinstance(number, bool) or val not in folds:
            known = f"the folds are {', '.join(folds)}" if folds else "write `splits: {folds: 5, seed: 0}` in the spec"
            raise SplitError(f"there is no fold {quoted(number)}; {known}")
        indices = self.indices
        train = np.sort(np.concatenate([np.empty(0, np.int64), *(indices[name] for name in folds if name != val)]))
        parts = {"train": self.select(train), "val": self.split(val)}
        return parts | ({"test": self.split("test")} if "test" in indices else {})

    def check_splits(self, columns: Sequence[str] | None = None) -> SplitCheck:
        """Count the values that two splits share, and so what leaks from one into the other.

        Args:
            columns: the columns to compare, or "X" for all columns in X together. By default the columns that the
                splits are made from, the columns in meta that contain text, and the columns whose storage has keys.

        Raises:
            SpecError: the spec has no such column.
        """
        return check_splits(self._session.binding, self.spec, self.rows, self.indices, columns)

    def fingerprint(self) -> str:
        """A digest of all columns as they come out, and of the splits; for a view, of its own rows.

        It is the same whichever backend stores the data, and changes with any row, split, name or dtype. With this
        value as `fingerprint` in a spec, `load_dataset` refuses other data. All rows are read.

        Raises:
            KinomlDataError: whatever reading the rows raises.
        """
        return fingerprint(self._session.binding, self.spec, self.rows, self.indices)

    def with_collater(self, collater: Collater) -> XyDataset:
        """The same rows, collated by another collater."""
        return type(self)(
            self._session, collater, self.observation_model, self._selection, owns_session=self._owns_session
        )

    def _view(self, step: str | RowNumbers) -> XyDataset:
        steps = (*self._selection, step)
        return type(self)(self._session, self.collate_fn, self.observation_model, steps, owns_session=False)

    def _select(self) -> RowNumbers | None:
        rows: RowNumbers | None = None
        for step in self._selection:
            if not isinstance(step, str):
                rows = step if rows is None else rows[step]
            elif rows is None:
                rows = self._rows_of_split(step)
            else:
                rows = rows[self._in_split(rows, step)]
        return rows

    def _in_split(self, rows: RowNumbers, name: str) -> NDArray[np.bool_]:
        """Which of these row numbers are in a split: bool `(len(rows),)`."""
        marks = np.zeros(self._session.binding.length, bool)  # one byte a row, and faster than `np.isin`
        marks[self._rows_of_split(name)] = True
        return marks[rows]

    def _rows_of_split(self, name: str) -> RowNumbers:
        splits = self._session.splits
        if name in splits:
            return splits[name]
        text = unknown(name, splits, "split")
        if name in ("train", "val") and "fold0" in splits:
            text += f"; `dataset.fold(0)[{name!r}]` is that of fold 0"
        if not splits:
            text += "; the dataset has no splits"
            if stored := [quoted(key) for key in self._session.binding.storage.arrays if key.startswith("idx_")]:
                text += f". The store contains {', '.join(stored[:8])}; name these in `splits` of the spec"
        raise SplitError(text)

    @property
    def rows(self) -> RowNumbers:
        """The row number in the store of each sample, as int64 `(len,)`."""
        return np.arange(len(self), dtype=np.int64) if self._rows is None else self._rows.copy()

    @property
    def indices(self) -> dict[str, RowNumbers]:
        """By split, the positions in this dataset of its rows, as int64 `(n,)`. Empty if there are no splits."""
        splits = self._session.splits
        if self._rows is None:
            return {name: rows.copy() for name, rows in splits.items()}
        return {name: np.flatnonzero(self._in_split(self._rows, name)) for name in splits}

    def _split_sizes(self) -> dict[str, int]:
        """The number of entries of each array in `indices`, without making the arrays."""
        splits = self._session.splits
        if self._rows is None:
            return {name: len(rows) for name, rows in splits.items()}
        return {name: int(np.count_nonzero(self._in_split(self._rows, name))) for name in splits}

    # -- contents

    def column(self, name: str, *, rows: Any = None) -> Any:
        """All rows of one column: a tensor `(rows, ...)`, a ragged column in its collate form, or a list of strings.

        A ragged column in meta is a list of tensors, unless `collate` names a form for this column.

        Args:
            name: the column.
            rows: the row numbers in the store, such as those of `with_rows()`; by default the rows of this dataset.

        Raises:
            SpecError: the spec has no such column.
            SampleIndexError: a row number is out of range, or `rows` does not contain row numbers.
        """
        if name not in self.spec.columns:
            raise SpecError(unknown(name, self.spec.columns, "column"))
        binding = self._session.binding
        numbers = self.rows if rows is None else normalize_index(rows, binding.length)[0]
        column = binding.read_batch(numbers, [name])[name]
        if self.spec.columns[name].is_string:
            values, index = (column.values, column.index) if isinstance(column, Indexed) else (column, None)
            assert isinstance(values, Ragged)
            texts = values.strings()
            return texts if index is None else [texts[number] for number in index.tolist()]
        return self.collate_fn.formed(name, column)

    def head(self, n: int = 5) -> Any:
        """The first n rows as a pandas DataFrame; see `to_pandas`."""
        return self.select(slice(0, n)).to_pandas()

    def to_pandas(self) -> Any:
        """All rows of all columns, X, y and meta, as a pandas DataFrame.

        A column of one value per row has its dtype in a batch, and a string is a str. Where a row is an array, the cell
        contains it as a numpy array in its own shape. Packed bits are unpacked. The index counts from 0.

        Raises:
            PluginLoadError: pandas is not installed.
            KinomlDataError: whatever reading the rows raises.
        """
        read, rows = self._session.binding.read, self.rows
        return to_pandas({name: read(rows, [name])[name] for name in self.spec.columns}, self.spec)

    def _repr_html_(self) -> str:
        """A table of the columns for a notebook. No rows are read."""
        return dataset_html(self)

    def report(
        self,
        path: str | os.PathLike[str],
        *,
        overwrite: bool = False,
        sample: int = page.SAMPLE,
        fingerprint: bool | None = None,
    ) -> None:
        """Write one page of HTML about the dataset: what it contains, what leaks between splits, where it comes from.

        Args:
            path: the file to write.
            overwrite: True replaces an existing file.
            sample: the number of rows to read of X, of which the page shows first values and ranges. All rows of y and
                meta are read, unless they take more than 128 MiB or featurizers compute them.
            fingerprint: whether to compute the fingerprint, which reads all rows of all columns. By default it is
                computed if they take at most 128 MiB and need no featurizer.

        Raises:
            PluginLoadError: matplotlib is not installed.
            StoreExistsError: the file exists and `overwrite` is False.
            StoreWriteError: the operating system failed to write; an existing file is unchanged.
        """
        target = page.check_report(path, overwrite=overwrite)
        section = page.dataset_html(self, sample=sample, fingerprint=fingerprint)
        page.write(target, self.spec.name or target.stem, [section], overwrite=overwrite)

    def stored_columns(self) -> dict[str, Array]:
        """How each column of the spec is stored, before any cast."""
        return {name: self._session.binding.stored(name) for name in self.spec.columns}

    def read_stored(self, positions: RowNumbers, names: Sequence[str]) -> dict[str, Column]:
        """Read some rows of some columns as numpy arrays, in their stored dtypes and shapes; for copying."""
        rows = positions if self._rows is None else self._rows[positions]
        return self._session.binding.read_stored(rows, names)

    @property
    def shape_X(self) -> Any:
        """`(rows, *shape of one row)` with None for a ragged axis; a mapping from columns to shapes if X is a list."""
        return self._shapes(self.spec.X)

    @property
    def shape_y(self) -> Any:
        """The same for y; None without y."""
        return self._shapes(self.spec.y)

    def _shapes(self, role: str | tuple[str, ...] | None) -> Any:
        shapes = {name: (len(self), *self.spec.columns[name].shape) for name in names_of(role)}
        return shapes if isinstance(role, tuple) else shapes.get(role) if role is not None else None

    def estimate_input_size(self) -> Any:
        """The shape of one X: that of the first sample if shapes differ, and `{column: shape}` if X is a list."""
        shapes: dict[str, tuple[int | None, ...]] = {n: self.spec.columns[n].shape for n in self.spec.X_names}
        if any(None in shape for shape in shapes.values()):
            first = self[0][0]
            shapes = {n: tuple((first[n] if isinstance(first, dict) else first).shape) for n in shapes}
        return shapes[self.spec.X] if isinstance(self.spec.X, str) else shapes

    # -- loading

    def as_dataloader(
        self,
        *,
        collate: Any = None,
        seed: int | None = None,
        prefetch: int = 0,
        group_by_length: str | None = None,
        **kwargs: Any,
    ) -> DataLoader[Any]:
        """A `DataLoader` over this dataset.

        Batches are read in this process unless `num_workers` is given. That is the fastest way for every backend that
        stores features. For a backend that computes features and remembers them, it is the fastest way after
        the first epoch.

        Args:
            collate: a form for all ragged columns, `{column: form}`, or the form of a plugin for the whole batch; by
                default that of the dataset.
            seed: makes the order of `shuffle=True` reproducible: each epoch of the loader has a different order, and
                the orders are the same with and without workers.
            prefetch: the number of batches that may wait to be used while a thread reads the next one; 0 for no thread.
            group_by_length: a ragged column; rows of similar size share a batch, which reduces padding.
            kwargs: arguments of `DataLoader`. If the storage decodes rows in blocks, `shuffle=True` shuffles the
                blocks, and the rows of a few blocks together; a `sampler` overrides this. Workers live as long as the
                loader, and a worker that hangs for `timeout` seconds (300 by default) is an error.

        Raises:
            SpecError: a collate form does not fit a column; the data is kept on a device and `num_workers` is given;
                arguments cannot be combined; `group_by_length` is not a ragged column.
        """
        binding = self._session.binding
        if kwargs.get("num_workers"):
            self._session.refuse_workers()
        collate_fn = (
            self.collate_fn if collate is None else Collater(self.spec, collate, with_rows=self.collate_fn.with_rows)
        )
        lengths = None if group_by_length is None else self._lengths(binding, group_by_length)
        nested = (lambda: collate_fn(self.__getitems__([]))) if collate_fn.has_nested else None
        return loader.make(
            self,
            collate_fn,
            seed=seed,
            prefetch=prefetch,
            rows=self._rows,
            blocks=binding.blocks,
            lengths=lengths,
            nested=nested,
            kwargs=kwargs,
        )

    def _lengths(self, binding: Binding, name: str) -> RowNumbers:
        """The number of values in each row of a ragged column, read from the store only if it does not know them."""
        ragged = [column for column, array in self.spec.columns.items() if array.ragged]
        if name not in ragged:
            raise SpecError(f"group_by_length: {unknown(name, ragged, 'ragged column')}")
        shapes = binding.shapes(name)
        if shapes is None:
            column = binding.read(self.rows, [name])[name]
            assert isinstance(column, Ragged)
            shapes = column.shapes
        elif self._rows is not None:
            shapes = shapes[self._rows]
        lengths: RowNumbers = sizes_of(shapes)
        return lengths

    def close(self) -> None:
        """Close the files. Closing a view does nothing: the dataset that it was made from stays open."""
        if self._owns_session:
            self._session.close()

    def __enter__(self) -> XyDataset:
        return self

    def __exit__(self, *_: Any) -> None:
        self.close()

    def __getstate__(self) -> dict[str, Any]:
        return {k: v for k, v in self.__dict__.items() if k != "_rows"}

    def _shared_state(self) -> dict[str, Any]:
        """The state for a spawned process: the rows of a view are in shared memory, and not selected again."""
        state = self.__getstate__()
        if self._rows is not None:
            with suppress(StoreReadError):  # too little shared memory: the worker selects them again
                state["_selection"] = shared = SharedArrays({"rows": self._rows})
                self._rows = shared["rows"]
        return state

    def __setstate__(self, state: dict[str, Any]) -> None:
        if isinstance(shared := state["_selection"], SharedArrays):
            state = state | {"_selection": tuple(shared.values())}
        self.__dict__.update(state)
        self._rows = self._select()

    def __repr__(self) -> str:
        columns = self.spec.columns

        def part(names: str | tuple[str, ...] | None) -> str:
            if names is None or isinstance(names, str):
                return "None" if names is None else f"{names} {columns[names]}"
            return "[" + ", ".join(f"{name} {columns[name]}" for name in names) + "]"

        parts = [f"X={part(self.spec.X)}", f"y={part(self.spec.y)}"]
        try:
            parts.insert(0, f"{len(self):,} rows")
            if splits := ", ".join(f"{name} {count:,}" for name, count in self._split_sizes().items() if count):
                parts.append(f"splits: {splits}")
        except StoreReadError as error:  # for example, if the dataset is closed
            parts.insert(0, one_line(error))
        return (
            f"<{type(self).__name__} {self.spec.name or ''}: ".replace(" :", ":")
            + f"{'; '.join(parts)}; {self.spec.storage.backend}>"
        )


def _reduce_for_worker(dataset: XyDataset) -> tuple[Any, ...]:
    return object.__new__, (XyDataset,), dataset._shared_state()


ForkingPickler.register(XyDataset, _reduce_for_worker)
