"""The one torch Dataset: rows, splits and batches of whatever a backend stores."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray
from torch.utils.data import DataLoader, Dataset

from kinoml_data.columns import Column, Ragged, sizes_of
from kinoml_data.dataset.collate import Batch, Collater
from kinoml_data.dataset.forms import as_tensor
from kinoml_data.dataset.indexing import normalize_index
from kinoml_data.dataset.session import Session, refuse_workers
from kinoml_data.errors import SampleIndexError, SpecError, SplitError, quoted, unknown
from kinoml_data.loading import loader
from kinoml_data.observation import Identity
from kinoml_data.spec.array import Array
from kinoml_data.spec.dataset_spec import DatasetSpec

RowNumbers = NDArray[np.int64]


class XyDataset(Dataset[Any]):
    """Samples `(X, y)` as a spec describes them; made by `load_dataset`.

    `X` is one tensor where the spec names one column, and `{name: tensor}` in the spec's order where it
    names a list; the same for `y`, which is None where the spec has none. No tensor requires a gradient.

    Attributes:
        spec: the spec, with its columns.
        observation_model: from predicted dG/kT to the measured scale; the identity where the spec names none.
        collate_fn: puts together a batch of this dataset, or a list of its samples.
    """

    def __init__(
        self,
        session: Session,
        collater: Collater,
        observation_model: Callable[..., Any] | None = None,
        selection: tuple[str | RowNumbers, ...] = (),
    ) -> None:
        self._session, self.collate_fn = session, collater
        self.observation_model = observation_model or Identity()
        self._selection = selection
        self._rows: RowNumbers | None = self._select()

    @property
    def spec(self) -> DatasetSpec:
        return self._session.spec

    def __len__(self) -> int:
        return len(self._session.binding.storage) if self._rows is None else len(self._rows)

    def __getitem__(self, index: Any) -> Any:
        """`(X, y)` of one sample for an int, collated as the loader would for anything else.

        Raises:
            SampleIndexError: out of range, or nothing that selects rows.
        """
        binding = self._session.binding
        length = len(binding.storage) if self._rows is None else len(self._rows)
        if type(index) is int and -length <= index < length:
            position = index % length
        else:
            chosen, single = normalize_index(index, length)
            if not single:
                return self.collate_fn(self._read(chosen))
            position = int(chosen[0])
        row = position if self._rows is None else int(self._rows[position])
        return self.collate_fn.sample(binding.read_row(row, self.collate_fn.names))

    def __getitems__(self, indices: Sequence[int]) -> Batch:
        """Samples at several positions, read together; torch's loaders call this."""
        return self._read(normalize_index(list(indices), len(self))[0])

    def _read(self, chosen: RowNumbers) -> Batch:
        rows = chosen if self._rows is None else self._rows[chosen]
        names = self.collate_fn.names
        return Batch(self._session.binding.read(rows, names), len(rows), self.collate_fn)

    # -- views

    def split(self, name: str) -> XyDataset:
        """The rows of a named split, as a view; of a view, those of its rows that are in the split.

        Raises:
            SplitError: there is no split of that name.
        """
        if name not in self._session.splits:
            text = unknown(name, self._session.splits, "split")
            if not self._session.splits:
                text += "; the dataset has none"
                stored = [quoted(key) for key in self._session.binding.storage.arrays if key.startswith("idx_")]
                if stored:
                    text += f"; the store has {', '.join(stored[:8])}, which the spec may name under `splits`"
            raise SplitError(text)
        return self._view(name)

    def select(self, rows: Any) -> XyDataset:
        """Some rows as a view.

        Args:
            rows: positions in this dataset, as anything that indexes it but a single int.

        Raises:
            SampleIndexError: as indexing does.
        """
        chosen, single = normalize_index(rows, len(self))
        if single:
            raise SampleIndexError(f"select takes several rows, not {quoted(rows)}; index the dataset for one sample")
        return self._view(chosen)

    def with_collater(self, collater: Collater) -> XyDataset:
        """The same rows, put together by another collater."""
        return type(self)(self._session, collater, self.observation_model, self._selection)

    def _view(self, step: str | RowNumbers) -> XyDataset:
        return type(self)(self._session, self.collate_fn, self.observation_model, (*self._selection, step))

    def _select(self) -> RowNumbers | None:
        rows: RowNumbers | None = None
        for step in self._selection:
            if not isinstance(step, str):
                rows = step if rows is None else rows[step]
            elif rows is None:
                rows = self._session.splits[step]
            else:
                rows = rows[np.isin(rows, self._session.splits[step])]
        return rows

    @property
    def rows(self) -> RowNumbers:
        """int64 `(len,)`: the row number in the store of each position."""
        return np.arange(len(self), dtype=np.int64) if self._rows is None else self._rows.copy()

    @property
    def indices(self) -> dict[str, RowNumbers]:
        """The positions in this dataset of each split's rows, int64; `{}` without splits."""
        splits = self._session.splits
        if self._rows is None:
            return {name: rows.copy() for name, rows in splits.items()}
        return {name: np.flatnonzero(np.isin(self._rows, rows)) for name, rows in splits.items()}

    # -- what is in it

    def column(self, name: str) -> Any:
        """One whole column: a tensor `(rows, ...)`, the collate form of a ragged one, a list of str for strings.

        Raises:
            SpecError: the spec has no such column.
        """
        columns = self.spec.columns or {}
        if name not in columns:
            raise SpecError(unknown(name, columns, "column"))
        column = self._session.binding.read(self.rows, [name])[name]
        if isinstance(column, Ragged):
            return column.strings() if columns[name].is_string else self.collate_fn.ragged(name, column)
        return as_tensor(column)

    def stored_columns(self) -> dict[str, Array]:
        """What the store holds for each column of the spec, before any cast."""
        return {name: self._session.binding.stored(name) for name in self.spec.columns or {}}

    def read_stored(self, chosen: RowNumbers, names: Sequence[str]) -> dict[str, Column]:
        """Columns at some positions as the store holds them, as numpy; for copying."""
        return self._session.binding.read_stored(chosen if self._rows is None else self._rows[chosen], names)

    @property
    def shape_X(self) -> Any:
        """`(rows, *shape of one)`, None for a ragged axis; by column where X is several."""
        return self._shapes(self.spec.X)

    @property
    def shape_y(self) -> Any:
        """As `shape_X`, for y; None where there is no y."""
        return self._shapes(self.spec.y)

    def _shapes(self, part: str | tuple[str, ...] | None) -> Any:
        columns = self.spec.columns or {}
        if part is None:
            return None
        if isinstance(part, str):
            return (len(self), *columns[part].shape)
        return {name: (len(self), *columns[name].shape) for name in part}

    def estimate_input_size(self) -> Any:
        """The shape of one X as a tuple, that of the first sample where rows differ; by column where X is several."""
        columns, X = self.spec.columns or {}, self.spec.X
        if not any(columns[name].ragged for name in self.spec.X_names):
            return columns[X].shape if isinstance(X, str) else {name: columns[name].shape for name in self.spec.X_names}
        first = self[0][0]
        return {name: tuple(t.shape) for name, t in first.items()} if isinstance(first, dict) else tuple(first.shape)

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

        Batches are read in the process itself unless workers are asked for: that is the fastest way for every backend
        that stores features, and for one that computes them after the first epoch, as long as it remembers them.

        Args:
            collate: a form for all ragged columns, `{column: form}`, or a plugin's form for the whole batch; by
                default the dataset's own.
            seed: seeds the order of `shuffle=True`, so that a run can be repeated: another order in each epoch of
                the loader, the same ones with and without workers.
            prefetch: so many batches are read ahead, in a thread, while the model works.
            group_by_length: a ragged column; rows of similar size come in one batch, to reduce padding.
            kwargs: DataLoader's own arguments. Workers, where asked for, live as long as the loader, and one
                that hangs is an error after `timeout` seconds (300 by default).

        Raises:
            SpecError: a form that cannot hold a column; workers over data on a device; arguments that exclude
                each other; a column to group by that is not ragged.
        """
        storage = self._session.binding.storage
        if kwargs.get("num_workers"):
            refuse_workers(storage)
        collate_fn = self.collate_fn if collate is None else Collater(self.spec, collate)
        lengths = None if group_by_length is None else self._lengths(group_by_length)
        return loader.make(self, collate_fn, seed=seed, prefetch=prefetch, lengths=lengths, kwargs=kwargs)

    def _lengths(self, name: str) -> RowNumbers:
        """The number of elements of each row of a ragged column, without reading it where the store knows."""
        columns = self.spec.columns or {}
        if name not in columns or not columns[name].ragged:
            ragged = [n for n, array in columns.items() if array.ragged]
            raise SpecError(f"group_by_length: {unknown(name, ragged, 'ragged column')}")
        shapes = self._session.binding.shapes(name)
        if shapes is None:
            column = self._session.binding.read(self.rows, [name])[name]
            assert isinstance(column, Ragged)
            shapes = column.shapes
        elif self._rows is not None:
            shapes = shapes[self._rows]
        lengths: RowNumbers = sizes_of(shapes)
        return lengths

    def close(self) -> None:
        """Let go of files; a view leaves the dataset it was made from open."""
        if not self._selection:
            self._session.close()

    def __enter__(self) -> XyDataset:
        return self

    def __exit__(self, *_: Any) -> None:
        self.close()

    def __getstate__(self) -> dict[str, Any]:
        return {k: v for k, v in self.__dict__.items() if k != "_rows"}

    def __setstate__(self, state: dict[str, Any]) -> None:
        self.__dict__.update(state)
        self._rows = self._select()

    def __repr__(self) -> str:
        columns = self.spec.columns or {}

        def part(names: str | tuple[str, ...] | None) -> str:
            if names is None or isinstance(names, str):
                return "None" if names is None else f"{names} {columns[names]}"
            return "[" + ", ".join(f"{name} {columns[name]}" for name in names) + "]"

        splits = {name: len(rows) for name, rows in self.indices.items() if len(rows)}
        parts = [f"{len(self):,} rows", f"X={part(self.spec.X)}", f"y={part(self.spec.y)}"]
        if splits:
            parts.append("splits: " + ", ".join(f"{name} {count:,}" for name, count in splits.items()))
        return (
            f"<{type(self).__name__} {self.spec.name or ''}: ".replace(" :", ":")
            + f"{'; '.join(parts)}; {self.spec.storage.backend}>"
        )
